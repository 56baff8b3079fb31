//! The outbox: posts that subscribers are yet to hear of.

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
    /// The messages of the post, in order, with their own bodies: whatever consumers delete, these stay.
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

/// Outbox entries by queue.
///
/// An entry is *open* from its post until it is settled. It is *due* when it is open, no lease on it lasts, and `now` has reached the
/// `due` of its first message to be delivered.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// Queues that have due entries, of every project.
    ///
    /// # Behavior
    /// - At most `limit`, the longest due first. A queue with a due entry appears, once everything before it was settled or leased.
    /// - May name a queue that has none left; never keeps silent about one that has.
    async fn due_queues(&self, limit: usize, now: Timestamp) -> Result<Vec<QueueKey>, Error>;

    /// Leases the oldest due entry of a queue until `until`.
    ///
    /// # Behavior
    /// - A post to a queue with a live subscription has written one entry, whole, in the same step; a post to one without has not.
    ///   A dead-letter move writes none.
    /// - Of two workers one gets the entry; the other gets the next one or `None`.
    /// - A lease that has run out is as none: the entry is handed out again, so that nothing is lost with a worker.
    /// - Deleting, claiming, popping or purging messages leaves entries as they are; closing the head ends them.
    async fn lease(
        &self,
        key: &QueueKey,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Option<OutboxEntry>, Error>;

    /// Ends an entry: every subscriber has heard of it, or has deliveries of its own.
    ///
    /// # Behavior
    /// - It is gone and its space comes back. One that is not there is no error.
    async fn settle(
        &self,
        key: &QueueKey,
        incarnation: Incarnation,
        first: Position,
    ) -> Result<(), Error>;
}
