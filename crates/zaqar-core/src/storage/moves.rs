//! Moves: a queue leaves one store and arrives in another, with everything that is in it.

use async_trait::async_trait;

use super::{ClaimRow, EntryRow, Error, MessageRow, MoveId, Subscription};
use crate::{ClaimId, Generation, Position, QueueKey, SubscriptionId, Timestamp};

/// A head that is frozen for a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrozenHead {
    /// Its generation.
    pub generation: Generation,
    /// The last position that it assigned.
    pub last: Position,
    /// The latest time that it has seen.
    pub time: Timestamp,
}

/// A part of the contents of a queue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// Live claims.
    pub claims: Vec<ClaimRow>,
    /// Live messages, by position.
    pub messages: Vec<MessageRow>,
    /// Live subscriptions.
    pub subscriptions: Vec<Subscription>,
    /// Outbox entries that still have a reader.
    pub entries: Vec<EntryRow>,
}

/// Where the next part of a queue's contents begins. Parts come in the order of these: a claim is
/// copied before the messages that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentsMark {
    /// With the claims after this one, or with the first.
    Claims(Option<ClaimId>),
    /// With the messages after this position.
    Messages(Position),
    /// With the subscriptions after this one, or with the first.
    Subscriptions(Option<SubscriptionId>),
    /// With the outbox entries after this position.
    Entries(Position),
}

impl ContentsMark {
    /// Where the contents begin.
    pub const START: Self = Self::Claims(None);

    /// Where the kind of contents begins that comes after this; `None` after the last.
    #[must_use]
    pub const fn next_kind(self) -> Option<Self> {
        match self {
            Self::Claims(_) => Some(Self::Messages(Position::new(0))),
            Self::Messages(_) => Some(Self::Subscriptions(None)),
            Self::Subscriptions(_) => Some(Self::Entries(Position::new(0))),
            Self::Entries(_) => None,
        }
    }
}

/// A part of a queue's contents, and where the next one begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exported {
    /// The part.
    pub contents: Contents,
    /// Where the next begins; `None` after the last.
    pub next: Option<ContentsMark>,
}

/// Whether a store can move queues. Every message store says so.
pub trait Movable: Send + Sync {
    /// What moves queues of this store to others and from them; `None` for a store that cannot.
    fn moves(&self) -> Option<&dyn Moves> {
        None
    }
}

/// What a store does for a move of a queue between stores, one of which may be of another kind.
///
/// A *frozen* head rejects every call of the other traits with [`Error::Moved`], which does nothing
/// then. Only [`super::Upkeep::sweep`], the calls for all queues at once (which may include it) and
/// the calls here treat it as before. Each call here names its move, and does nothing to a head
/// that another one froze.
#[async_trait]
pub trait Moves: Send + Sync {
    /// Freezes a head that a queue leaves.
    ///
    /// # Behavior
    /// - No head: `None`. Else it is frozen from now on, and its state is returned.
    /// - Frozen by this move already: nothing changes. By another: [`Error::Moved`].
    /// - A call that was acknowledged before is part of what [`Moves::export`] returns.
    async fn freeze(
        &self,
        key: &QueueKey,
        id: MoveId,
        now: Timestamp,
    ) -> Result<Option<FrozenHead>, Error>;

    /// Opens a frozen head that a queue arrives in, without contents.
    ///
    /// # Behavior
    /// - No head: one with this state is opened. New positions will be greater than `head.last`.
    /// - One that this move opened: it does not change.
    /// - Any other head: [`Error::Moved`] for a frozen one, else [`Error::Failed`].
    async fn receive(
        &self,
        key: &QueueKey,
        id: MoveId,
        head: FrozenHead,
        now: Timestamp,
    ) -> Result<(), Error>;

    /// Reads a part of the contents of a head that this move froze: about `limit` rows, and about
    /// 1 MiB at most.
    ///
    /// # Behavior
    /// - Parts from [`ContentsMark::START`] on, each from where the one before says, have
    ///   everything that is live once: messages with their positions, ages, expiry, delays, claims
    ///   and claim counts; claims; subscriptions; outbox entries with a reader.
    /// - `None` for a head that this move did not freeze, or none.
    async fn export(
        &self,
        key: &QueueKey,
        id: MoveId,
        mark: ContentsMark,
        limit: usize,
        now: Timestamp,
    ) -> Result<Option<Exported>, Error>;

    /// Adds a part to a head that this move opened.
    ///
    /// # Behavior
    /// - It is stored as it was: once the head thaws, every read returns what the source would
    ///   have. A repeat changes nothing.
    /// - `false`, and nothing changes, for a head that this move did not open, or none.
    async fn import(
        &self,
        key: &QueueKey,
        id: MoveId,
        part: &Contents,
        now: Timestamp,
    ) -> Result<bool, Error>;

    /// Ends the freeze of a head, which serves from now on.
    ///
    /// # Behavior
    /// - A head that this move did not freeze, or none: nothing changes.
    async fn thaw(&self, key: &QueueKey, id: MoveId) -> Result<(), Error>;

    /// Closes a head that this move froze, as [`super::Heads::close`] does.
    ///
    /// # Behavior
    /// - A head that this move did not freeze, or none: nothing changes.
    async fn discard(&self, key: &QueueKey, id: MoveId) -> Result<(), Error>;

    /// Queues and topics that have heads, in any order, about `limit`, and a cursor for the next
    /// ones, which is `None` after the last.
    ///
    /// # Behavior
    /// - A head that exists all the while is returned at least once by the calls from the one
    ///   without a cursor to the one that returns none. A store of several servers may miss one
    ///   that is on its way between two of them.
    ///
    /// # Errors
    /// [`Error::Failed`] from a store that cannot list its queues: it cannot be drained.
    async fn heads(
        &self,
        cursor: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<QueueKey>, Option<u64>), Error>;
}
