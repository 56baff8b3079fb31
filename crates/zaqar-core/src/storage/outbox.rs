//! The outbox: posts that subscribers have not been notified of yet.

use std::time::Duration;

use async_trait::async_trait;

use super::Error;
use crate::{Incarnation, MessageId, Payload, Position, QueueKey, Timestamp};

/// One post to a queue that has subscriptions, or a part of a large one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxEntry {
    /// The incarnation of the queue that it belongs to.
    pub incarnation: Incarnation,
    /// Identifies the entry within that incarnation: the position of its first message.
    pub first: Position,
    /// Its messages, in order, with copies of the bodies, which stay when consumers
    /// delete the messages.
    pub messages: Vec<OutboxMessage>,
    /// When it was posted.
    pub created: Timestamp,
}

/// A message in the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxMessage {
    /// The message's id.
    pub id: MessageId,
    /// Its body.
    pub payload: Payload,
    /// Seconds from the entry's creation until it expires.
    pub ttl: u64,
    /// When it may be delivered: later than the entry's creation for a delayed message.
    pub due: Timestamp,
}

/// The entries that a worker leases in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseRequest {
    /// When the lease expires.
    pub until: Timestamp,
    /// Entries to lease at most; at least 1.
    pub limit: usize,
    /// Bytes of their bodies at most, about; an entry that is larger is leased alone.
    pub bytes: usize,
}

/// A queue that has due entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueQueue {
    /// The queue.
    pub queue: QueueKey,
    /// Since when it is due; earlier than that for one that may not be.
    pub since: Timestamp,
}

/// How long an entry can be followed after its last message is due.
pub const FOLLOWED_FOR: Duration = Duration::from_secs(60);

/// Outbox entries by queue.
///
/// Entries have two kinds of readers. Workers deliver to addresses: for them an entry is *open*
/// from its post until it is settled, and *due* while it is open, not leased, and `now` has reached
/// the earliest `due` of its messages. Servers push to their connections (subscriptions that depend
/// on a lease): they can *follow* an entry, whatever workers do, until [`FOLLOWED_FOR`] after its
/// last message is due.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// Queues that have due entries, of every project.
    ///
    /// # Behavior
    /// - Includes a queue whose due entries cannot be leased yet, because an older one is leased.
    /// - At most `limit`, those due longest first: an entry whose lease expired is due since then.
    ///   They say since when, so that those of several stores can be merged.
    ///   Every queue with a due entry appears once everything before it is settled or leased.
    /// - May include a queue that has no due entry left; never omits one that has.
    async fn due_queues(&self, limit: usize, now: Timestamp) -> Result<Vec<DueQueue>, Error>;

    /// Leases the due entries of a queue that were posted first, in the order of their posts.
    ///
    /// # Behavior
    /// - A post to a queue with a live subscription without a lease, confirmed or not, writes one
    ///   entry with all its messages in the same atomic step, or several in a row if they are many;
    ///   a post to a queue without one writes no entry that is ever due. A dead-letter move writes
    ///   none.
    /// - A post with [`super::Batch::notify`] off writes no entry, neither for workers nor for
    ///   followers.
    /// - At most `request.limit` entries, with about `request.bytes` of bodies; at least one, if
    ///   one may be leased. All are leased in one atomic step.
    /// - A leased entry blocks those after it: an entry is leased only while no older one is
    ///   leased. So all entries of a queue are settled, or leased again, in their order, whatever
    ///   worker dies. An older entry that was not due yet blocks none.
    /// - If two workers race, one gets the entries; the other gets none until these are settled.
    /// - An expired lease is ignored, so another worker takes the entries over when one dies.
    /// - Deleting, claiming, popping or purging messages does not change entries; closing the head
    ///   discards them.
    /// - An entry whose messages have all expired (by their own ttl, from the entry's creation) is
    ///   not due any more; sweeps remove it.
    /// - While the queue has no live subscription without a lease, none of its entries is due. The
    ///   next sweep ends them for workers: a later subscriber does not receive them.
    async fn lease(
        &self,
        key: &QueueKey,
        request: &LeaseRequest,
        now: Timestamp,
    ) -> Result<Vec<OutboxEntry>, Error>;

    /// Settles entries, each named by the position of its first message, in one atomic step: every
    /// subscriber has received them or has deliveries of its own.
    ///
    /// # Behavior
    /// - The entries are never due again, leased or not, and block no others; their space is freed
    ///   once they cannot be followed. Missing entries are ignored.
    async fn settle(
        &self,
        key: &QueueKey,
        incarnation: Incarnation,
        firsts: &[Position],
    ) -> Result<(), Error>;

    /// Returns the entries after a position, oldest first, at most `limit`; fewer only at the end.
    ///
    /// # Behavior
    /// - A post to a queue with a live subscription on a lease writes one entry with all its
    ///   messages in the same atomic step, or several in a row if they are many. Each is returned
    ///   until [`FOLLOWED_FOR`] after its last message is due, whether it is leased or settled or
    ///   not.
    /// - Begins with the first entry whose first message comes after `after`. No new entry appears
    ///   before one that was returned: a reader that continues after the last message it got misses
    ///   nothing.
    /// - Deleting, claiming, popping or purging messages does not change entries. No head, or
    ///   another incarnation: no entries.
    /// - Other entries may be returned as long as they are stored.
    async fn follow(
        &self,
        key: &QueueKey,
        incarnation: Incarnation,
        after: Position,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<OutboxEntry>, Error>;
}
