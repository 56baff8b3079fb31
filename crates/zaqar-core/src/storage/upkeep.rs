//! What a server does for a store while it runs.

use async_trait::async_trait;

use super::Error;
use crate::Timestamp;

/// What a sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Rows removed or moved.
    pub done: usize,
    /// More is due: sweep again soon.
    pub more: bool,
}

/// Health, cleaning and the end of a store.
#[async_trait]
pub trait Upkeep: Send + Sync {
    /// Answers whether the store can serve: one round trip to it.
    ///
    /// # Behavior
    /// - `Ok` only if the store would answer an operation now.
    /// - [`Error::Closed`] only for good: after [`Upkeep::shut_down`], or once a task that the
    ///   store cannot work without has died. The server then ends with an error.
    async fn ping(&self) -> Result<(), Error>;

    /// Removes what has expired, was purged or closed, frees what expired claims held and shows
    /// what was delayed, as of `now`.
    ///
    /// # Behavior
    /// - Looks at no more than about `budget` rows, so that no other request waits long.
    /// - Repeated until `more` is false it leaves nothing that is due.
    /// - A call that is dropped half-way, when the server stops, does no harm: the next one goes
    ///   on.
    async fn sweep(&self, now: Timestamp, budget: usize) -> Result<Swept, Error>;

    /// Ends the store for this process.
    ///
    /// # Behavior
    /// - Finishes what was accepted, makes it durable and refuses the rest with [`Error::Closed`];
    ///   [`super::News`] end.
    /// - A second call does nothing.
    async fn shut_down(&self) -> Result<(), Error>;
}
