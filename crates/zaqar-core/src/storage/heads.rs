//! Heads: a queue's presence in the message store.

use async_trait::async_trait;

use super::Error;
use crate::{Generation, Incarnation, QueueKey, Timestamp};

/// The answer of an operation that assumes a generation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Guarded<T> {
    /// The assumption was right; the operation was done.
    Done(T),
    /// The queue has no head; nothing was done.
    #[default]
    Absent,
    /// The head has this generation instead; nothing was done.
    Stale(Generation),
}

impl<T> Guarded<T> {
    /// The head, if there is one and its generation is as the caller assumes.
    pub fn check(
        head: Option<T>,
        generation: impl FnOnce(&T) -> Generation,
        is_assumed: impl FnOnce(Generation) -> bool,
    ) -> Self {
        let Some(head) = head else { return Self::Absent };
        let generation = generation(&head);
        if is_assumed(generation) { Self::Done(head) } else { Self::Stale(generation) }
    }

    /// Applies `step` to what was done.
    pub fn map<U>(self, step: impl FnOnce(T) -> U) -> Guarded<U> {
        match self {
            Self::Done(done) => Guarded::Done(step(done)),
            Self::Absent => Guarded::Absent,
            Self::Stale(generation) => Guarded::Stale(generation),
        }
    }

    /// Applies `step`, which can fail, to what was done.
    ///
    /// # Errors
    /// Those of `step`.
    pub fn try_map<U, E>(self, step: impl FnOnce(T) -> Result<U, E>) -> Result<Guarded<U>, E> {
        match self.map(step) {
            Guarded::Done(done) => done.map(Guarded::Done),
            Guarded::Absent => Ok(Guarded::Absent),
            Guarded::Stale(generation) => Ok(Guarded::Stale(generation)),
        }
    }
}

/// Heads by key. Callers open a head with an incarnation that the queue never had before.
#[async_trait]
pub trait Heads: Send + Sync {
    /// Opens a head unless one exists, and returns the generation that the head has afterwards.
    ///
    /// # Behavior
    /// - No head: an empty one with `generation` is created, and `generation` is returned.
    /// - A head exists: it does not change, and its own generation is returned.
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

    /// Raises a head's version: from now on posts and claims that assume an older one are rejected.
    ///
    /// # Behavior
    /// - The head has the incarnation: its version becomes the greater of its own and
    ///   `generation.version`.
    /// - No head: `Absent`. Another incarnation: `Stale`.
    async fn advance(&self, key: &QueueKey, generation: Generation) -> Result<Guarded<()>, Error>;

    /// Closes a head and discards everything in it.
    ///
    /// # Behavior
    /// - The head has the incarnation: from now on none of its messages, claims, subscriptions and
    ///   outbox entries is found.
    /// - No head: `Absent`. Another incarnation: `Stale`.
    /// - Takes constant time, whatever the queue holds; [`super::Upkeep::sweep`] frees the space.
    async fn close(&self, key: &QueueKey, incarnation: Incarnation) -> Result<Guarded<()>, Error>;
}
