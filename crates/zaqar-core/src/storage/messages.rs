//! Messages of a queue.

use async_trait::async_trait;

use super::{Error, Guarded};
use crate::{
    ClaimId, ClientId, Generation, KeyId, MessageId, Payload, Position, QueueKey, Timestamp,
};

/// A message to store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// Its body.
    pub payload: Payload,
    /// Seconds it lives, from `now`.
    pub ttl: u64,
    /// Seconds from `now` until it is shown and may be claimed; 0 for at once.
    pub delay: u64,
}

/// Messages of one post, all by one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Drawn at random for this post: a store may use it to make a repeat harmless.
    pub request: u128,
    /// Who posts.
    pub client: ClientId,
    /// At least one message, in the order they are to have.
    pub messages: Vec<NewMessage>,
    /// Subscribers are told of the post: it writes an outbox entry, where somebody is subscribed.
    pub notify: bool,
}

/// A stored message, as it is at the time of the question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its id.
    pub id: MessageId,
    /// Who posted it.
    pub client: ClientId,
    /// Its body.
    pub payload: Payload,
    /// Seconds it lives, from its creation. A claim can make it longer: see
    /// [`super::Claims::claim`].
    pub ttl: u64,
    /// When it was posted.
    pub created: Timestamp,
    /// The live claim that holds it.
    pub claim: Option<ClaimId>,
    /// How often it was claimed.
    pub claim_count: u32,
}

/// Which messages a page shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListQuery {
    /// Begin behind this one; at the head where it is `None` or of another incarnation.
    pub after: Option<MessageId>,
    /// Messages on the page, at least 1.
    pub limit: usize,
    /// Whose messages to leave out (`echo=false`).
    pub hide: Option<ClientId>,
    /// Show messages that a live claim holds.
    pub include_claimed: bool,
    /// Show messages whose delay is not over.
    pub include_delayed: bool,
}

/// One page of messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MessagePage {
    /// The messages, in order.
    pub messages: Vec<Message>,
    /// Where the next page begins: the last message looked at. `None` when nothing was shown and
    /// nothing is left to look at.
    pub next: Option<MessageId>,
}

/// Which messages a pop takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PopQuery {
    /// Messages to take, at least 1.
    pub limit: usize,
    /// Begin behind this position: where an earlier slice of the same pop stopped. `None` begins
    /// at the head.
    pub after: Option<Position>,
    /// The keys whose sealed payloads the caller can open. A message sealed with another key stays
    /// where it is.
    pub keys: Vec<KeyId>,
}

/// What a pop took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PopPage {
    /// The messages, in order. They are out of the queue.
    pub messages: Vec<Message>,
    /// Where the next slice begins, when the store stopped early because it had passed over a
    /// bounded number of messages that the caller cannot open. `None` when `limit` was reached
    /// or no free message is left.
    pub next: Option<Position>,
}

/// The oldest or newest message of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// Its id.
    pub id: MessageId,
    /// When it was posted.
    pub created: Timestamp,
}

/// What is in a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages that a claim would take.
    pub free: u64,
    /// Messages that live claims hold.
    pub claimed: u64,
    /// Messages whose delay is not over.
    pub delayed: u64,
    /// The first and the last message of any state; `None` for an empty queue.
    pub ends: Option<(Endpoint, Endpoint)>,
}

/// What a whole store holds for its tenants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Volume {
    /// Messages that live claims hold.
    pub claimed: u64,
    /// All other messages.
    pub free: u64,
}

/// The answer to the deletion of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// It is gone, or was before.
    Gone,
    /// A live claim holds it and none was named; it stays.
    Claimed,
    /// A claim was named, but no live claim holds the message; it stays.
    NotClaimed,
    /// A live claim holds it, but not the one named; it stays.
    WrongClaim,
}

/// Which of the messages named may be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deletable {
    /// Claimed or not.
    Any,
    /// Only those that one of these live claims holds.
    HeldBy(Vec<ClaimId>),
}

/// Messages by queue.
///
/// A message is *live* from its post until it is deleted or `now` reaches its creation plus its
/// ttl. No method shows one that is not live.
#[async_trait]
pub trait Messages: Send + Sync {
    /// Stores a batch and answers the ids, in the batch's order.
    ///
    /// # Behavior
    /// - The head has `assumed`: every message is stored, at consecutive places behind every
    ///   message stored before.
    /// - No head: `Absent`. Another generation: `Stale`. Nothing is stored.
    /// - Readers see the whole batch or nothing of it; a batch that fails leaves nothing.
    /// - A position is never given twice, also after all messages were deleted, purged or expired,
    ///   and after a restart.
    /// - After a store came back without its last writes (an older snapshot, a fail-over, a
    ///   backup), later positions still lie behind every position given before: positions follow
    ///   the clock where it is ahead of the last one given.
    /// - A reader that follows [`MessagePage::next`] never meets a message before a place it has
    ///   passed.
    async fn post(
        &self,
        key: &QueueKey,
        assumed: Generation,
        batch: Batch,
        now: Timestamp,
    ) -> Result<Guarded<Vec<MessageId>>, Error>;

    /// Lists messages in order.
    ///
    /// # Behavior
    /// - Begins with the first message behind `query.after`, which need not exist any more.
    /// - Shows at most `query.limit` messages, all that the query does not hide, in the order of
    ///   their places.
    /// - A page looks at a bounded number of messages; where that ends it early, `next` says where
    ///   to go on.
    /// - `next` is `None` only if the page is empty because the queue ends there.
    /// - A queue without a head: an empty page.
    async fn list(
        &self,
        key: &QueueKey,
        query: &ListQuery,
        now: Timestamp,
    ) -> Result<MessagePage, Error>;

    /// Reads messages by id, in the order of their places, each once.
    ///
    /// # Behavior
    /// - Claimed and delayed ones too. Ids that are unknown, not live or of another incarnation are
    ///   left out.
    async fn get(
        &self,
        key: &QueueKey,
        ids: &[MessageId],
        now: Timestamp,
    ) -> Result<Vec<Message>, Error>;

    /// Deletes one message.
    ///
    /// # Behavior
    /// - Of a deletion without a claim and a claim at once, one gets the message.
    /// - Not live, unknown or of another incarnation: `Gone`, whatever claim is named.
    /// - No claim named: deletes a free or delayed one; a claimed one stays: `Claimed`.
    /// - A claim named: deletes if that claim is live and holds it. No live claim holds it:
    ///   `NotClaimed`. Another live claim holds it: `WrongClaim`.
    async fn delete(
        &self,
        key: &QueueKey,
        id: MessageId,
        claim: Option<ClaimId>,
        now: Timestamp,
    ) -> Result<Deleted, Error>;

    /// Deletes messages by id, all in one step.
    ///
    /// # Behavior
    /// - [`Deletable::Any`]: every live one, claimed ones included. [`Deletable::HeldBy`]: those
    ///   that a named live claim holds.
    /// - Ids of nothing are passed over.
    async fn delete_many(
        &self,
        key: &QueueKey,
        ids: &[MessageId],
        which: &Deletable,
        now: Timestamp,
    ) -> Result<(), Error>;

    /// Takes the first free messages out of the queue and answers them.
    ///
    /// # Behavior
    /// - At most `query.limit`, in order; claimed and delayed ones stay. A message is in one answer
    ///   only.
    /// - It is shown as it was: a pop is no claim and counts for none.
    /// - A message sealed with a key that is not in `query.keys` stays, unclaimed and uncounted,
    ///   and those behind it are taken. Passing over more than a bounded number of these (about 1
    ///   000) ends the slice early: see [`PopPage::next`].
    async fn pop(&self, key: &QueueKey, query: &PopQuery, now: Timestamp)
    -> Result<PopPage, Error>;

    /// Removes every message, claimed and delayed ones included, and every claim.
    ///
    /// # Behavior
    /// - Subscriptions and outbox entries stay.
    /// - Markers stay valid; later messages get later places.
    /// - Answers in the same time whatever the queue holds; the space comes back through
    ///   [`super::Upkeep::sweep`].
    async fn purge(&self, key: &QueueKey, now: Timestamp) -> Result<(), Error>;

    /// Counts what is in a queue.
    ///
    /// # Behavior
    /// - Exact once [`super::Upkeep::sweep`] has nothing left to do at `now`; never off by more
    ///   than what waits to be swept.
    /// - `None` for a queue without a head.
    async fn stats(&self, key: &QueueKey, now: Timestamp) -> Result<Option<Stats>, Error>;

    /// Counts what the whole store holds, for an administrator.
    ///
    /// # Behavior
    /// - The sum of [`Messages::stats`] over all queues and topics; what the server keeps in queues
    ///   of its own ([`crate::Kind::Internal`]) is not counted. It may lag behind by what was
    ///   changed in the last seconds.
    /// - `None` where the store cannot tell at a cost that is bounded by the number of queues.
    async fn volume(&self) -> Result<Option<Volume>, Error>;
}
