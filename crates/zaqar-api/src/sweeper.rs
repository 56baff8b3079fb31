//! The task that cleans stores while a server runs.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::warn;
use zaqar_core::Clock;
use zaqar_core::storage::Upkeep;

/// Sweeps one store, a bounded piece at a time.
pub struct Sweeper {
    /// The store to sweep.
    pub store: Arc<dyn Upkeep>,
    /// Where `now` comes from.
    pub clock: Arc<dyn Clock>,
    /// Rows of one piece.
    pub budget: usize,
    /// The pause when nothing is due.
    pub idle: Duration,
    /// The pause between two pieces of more work, so that requests come in between.
    pub busy: Duration,
}

impl Sweeper {
    /// A sweeper of a store with a clock: pieces of 500 rows, every second, and every 10 ms while there is work.
    pub fn new(store: Arc<dyn Upkeep>, clock: Arc<dyn Clock>) -> Self {
        let (idle, busy) = (Duration::from_secs(1), Duration::from_millis(10));
        Self { store, clock, budget: 500, idle, busy }
    }

    /// Sweeps until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        loop {
            let pause = match self.store.sweep(self.clock.now(), self.budget).await {
                Ok(swept) if swept.more => self.busy,
                Ok(_) => self.idle,
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "sweep failed");
                    self.idle
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}
