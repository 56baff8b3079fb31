//! Maintenance of a store: health checks, sweeps, shutdown.

use async_trait::async_trait;

use super::Error;
use crate::Timestamp;

/// The result of a sweep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Rows removed or moved.
    pub done: usize,
    /// More is due: sweep again soon.
    pub more: bool,
    /// Messages of queues and topics that were removed because they had expired: those among
    /// `done`, and those that other calls removed since the last sweep. Internal queues do not
    /// count.
    pub expired: usize,
}

/// Health checks, sweeps and shutdown of a store.
#[async_trait]
pub trait Upkeep: Send + Sync {
    /// Checks whether the store can serve requests: one round trip to it.
    ///
    /// # Behavior
    /// - `Ok` only if the store would serve an operation now.
    /// - [`Error::Closed`] is permanent: after [`Upkeep::shut_down`], or once a task that the store
    ///   depends on has died. The server then exits with an error.
    async fn ping(&self) -> Result<(), Error>;

    /// Removes what has expired, was purged or was closed, frees the messages of expired claims,
    /// and makes delayed messages available, as of `now`.
    ///
    /// # Behavior
    /// - Examines about `budget` rows at most, so that no other request waits long.
    /// - Repeated until `more` is false, it leaves nothing that is due.
    /// - The sweeps of all servers together report each message that expired once, unless an answer
    ///   is lost. Those of a queue that is purged or closed need not be reported.
    /// - A call that is cancelled half-way, when the server stops, does no harm: the next one
    ///   continues.
    async fn sweep(&self, now: Timestamp, budget: usize) -> Result<Swept, Error>;

    /// Shuts the store down for this process.
    ///
    /// # Behavior
    /// - Finishes accepted operations, makes them durable and rejects new ones with
    ///   [`Error::Closed`]; [`super::News`] streams end.
    /// - A second call does nothing.
    async fn shut_down(&self) -> Result<(), Error>;
}
