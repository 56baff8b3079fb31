//! Heads: a queue's presence in the message store.

use async_trait::async_trait;

use super::Error;
use crate::{Generation, Incarnation, QueueKey, Timestamp};

/// The answer of a step that assumes a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guarded<T> {
    /// The assumption held; the step was done.
    Done(T),
    /// The queue has no head; nothing was done.
    Absent,
    /// The head has this generation instead; nothing was done.
    Stale(Generation),
}

/// Heads by key. Callers open a head with an incarnation that the queue never had before.
#[async_trait]
pub trait Heads: Send + Sync {
    /// Opens a head unless there is one, and answers the generation that the head has then.
    ///
    /// # Behavior
    /// - No head: an empty one with `generation`, which is the answer.
    /// - A head is there: it stays as it is; the answer is its own generation.
    async fn open(
        &self,
        key: &QueueKey,
        generation: Generation,
        now: Timestamp,
    ) -> Result<Generation, Error>;

    /// The generation of a head.
    ///
    /// # Behavior
    /// - `None` for a queue without a head.
    async fn generation(&self, key: &QueueKey) -> Result<Option<Generation>, Error>;

    /// Raises a head's version: posts and claims that assume an older one are refused from now on.
    ///
    /// # Behavior
    /// - The head has the incarnation: its version becomes the greater of its own and
    ///   `generation.version`.
    /// - No head: `Absent`. Another incarnation: `Stale`.
    async fn advance(&self, key: &QueueKey, generation: Generation) -> Result<Guarded<()>, Error>;

    /// Closes a head with everything in it.
    ///
    /// # Behavior
    /// - The head has the incarnation: from now on nothing of it is found: no message, no claim, no
    ///   subscription, no outbox entry.
    /// - No head: `Absent`. Another incarnation: `Stale`.
    /// - Answers in the same time whatever the queue holds; the space comes back through
    ///   [`super::Upkeep::sweep`].
    async fn close(&self, key: &QueueKey, incarnation: Incarnation) -> Result<Guarded<()>, Error>;
}
