//! The outbox: posts that subscribers are yet to hear of.

use std::time::Duration;

use async_trait::async_trait;

use super::Error;
use crate::{Incarnation, MessageId, Payload, Position, QueueKey, Timestamp};

/// One post to a queue that has subscriptions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxEntry {
    /// The life of the queue that it belongs to.
    pub incarnation: Incarnation,
    /// Names the entry within that life: the position of its first message.
    pub first: Position,
    /// The messages of the post, in order, with their own bodies: whatever consumers delete, these
    /// stay.
    pub messages: Vec<OutboxMessage>,
    /// When it was posted.
    pub created: Timestamp,
}

/// A message as the outbox keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxMessage {
    /// The message's id.
    pub id: MessageId,
    /// Its body.
    pub payload: Payload,
    /// Seconds it lives, from the entry's creation.
    pub ttl: u64,
    /// When it may be delivered: later than the entry's creation for a delayed message.
    pub due: Timestamp,
}

/// How long an entry can be followed after the last of its messages is due.
pub const FOLLOWED_FOR: Duration = Duration::from_secs(60);

/// Outbox entries by queue.
///
/// Two kinds of readers need them. Workers deliver to addresses: for them an entry is *open* from
/// its post until it is settled, and *due* when it is open, no lease on it lasts, and `now` has
/// reached the `due` of its first message to be delivered. Servers push to the connections that
/// they hold (subscriptions on a lease): for them an entry can be *followed*, whatever workers do,
/// until [`FOLLOWED_FOR`] after the last of its messages is due.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// Queues that have due entries, of every project.
    ///
    /// # Behavior
    /// - At most `limit`, the longest due first. A queue with a due entry appears, once everything
    ///   before it was settled or leased.
    /// - May name a queue that has none left; never keeps silent about one that has.
    async fn due_queues(&self, limit: usize, now: Timestamp) -> Result<Vec<QueueKey>, Error>;

    /// Leases the oldest due entry of a queue until `until`: of those that are due the one that was
    /// posted first.
    ///
    /// # Behavior
    /// - A post to a queue with a live subscription without a lease, confirmed or not, has written
    ///   one entry, whole, in the same step; a post to one without has written none that is ever
    ///   due. A dead-letter move writes none.
    /// - A post with [`super::Batch::notify`] off has written none, neither due nor to be followed.
    /// - Of two workers one gets the entry; the other gets the next one or `None`.
    /// - A lease that has run out is as none: the entry is handed out again, so that nothing is
    ///   lost with a worker.
    /// - Deleting, claiming, popping or purging messages leaves entries as they are; closing the
    ///   head ends them.
    /// - An entry whose messages have all expired (their own ttl, from the entry's creation) is not
    ///   due any more; sweeps remove it.
    /// - While the queue has no live subscription without a lease, none of its entries is due.
    ///   Sweeps remove them, and they need not come back with the next subscriber.
    async fn lease(
        &self,
        key: &QueueKey,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Option<OutboxEntry>, Error>;

    /// Ends an entry: every subscriber has heard of it, or has deliveries of its own.
    ///
    /// # Behavior
    /// - It is never due again, leased or not, and its space comes back once it cannot be followed.
    ///   One that is not there is no error.
    async fn settle(
        &self,
        key: &QueueKey,
        incarnation: Incarnation,
        first: Position,
    ) -> Result<(), Error>;

    /// Shows the entries behind a position, oldest first, at most `limit`; fewer only at the end.
    ///
    /// # Behavior
    /// - A post to a queue with a live subscription on a lease has written one entry, whole, in the
    ///   same step: it is shown until [`FOLLOWED_FOR`] after the last of its messages is due.
    ///   Leasing and settling do not hide it.
    /// - Begins with the first entry whose first message lies behind `after`. What is shown once is
    ///   never preceded by something new: a reader that goes on behind the last message shown
    ///   misses nothing.
    /// - Deleting, claiming, popping or purging messages leaves entries as they are. No head, or
    ///   another incarnation: none.
    /// - Other entries may be shown as long as they are there.
    async fn follow(
        &self,
        key: &QueueKey,
        incarnation: Incarnation,
        after: Position,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<OutboxEntry>, Error>;
}
