//! The background task that deletes expired data.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use zaqar_core::storage::Upkeep;
use zaqar_core::{Clock, ClockStatus, StateLog};

/// Shared by all sweepers, as they share one wall clock.
static CLOCK: StateLog = StateLog::with_interval(Duration::from_secs(30));

/// Sweeps one store in bounded steps.
pub struct Sweeper {
    /// The store to sweep.
    pub store: Arc<dyn Upkeep>,
    /// The source of `now`.
    pub clock: Arc<dyn Clock>,
    /// Maximum number of rows per step.
    pub budget: usize,
    /// The pause when nothing is left to sweep.
    pub idle: Duration,
    /// The pause between two steps while there is more work, so that requests are served in
    /// between.
    pub busy: Duration,
}

impl fmt::Debug for Sweeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sweeper")
            .field("budget", &self.budget)
            .field("idle", &self.idle)
            .field("busy", &self.busy)
            .finish_non_exhaustive()
    }
}

impl Sweeper {
    /// A sweeper of a store: steps of 500 rows, every second, and every 10 ms while there is more
    /// work.
    pub fn new(store: Arc<dyn Upkeep>, clock: Arc<dyn Clock>) -> Self {
        let (idle, busy) = (Duration::from_secs(1), Duration::from_millis(10));
        Self { store, clock, budget: 500, idle, busy }
    }

    /// Sweeps until `shutdown`, which also cancels a sweep in progress: a store must tolerate that
    /// as it tolerates a crash.
    pub async fn run(self, shutdown: CancellationToken) {
        let log = StateLog::new();
        loop {
            log_clock(self.clock.status());
            let swept = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                swept = self.store.sweep(self.clock.now(), self.budget) => swept,
            };
            let pause = match swept {
                Ok(swept) => {
                    if let Some(failures) = log.success() {
                        info!(failures, "sweeping again");
                    }
                    if swept.more { self.busy } else { self.idle }
                }
                Err(error) => {
                    if let Some(failures) = log.failure() {
                        let error = &error as &dyn std::error::Error;
                        warn!(error, failures, "sweep failed");
                    }
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

/// Logs that the wall clock shows an unexpected time, and that it is followed again.
fn log_clock(status: ClockStatus) {
    let offset_ms = status.offset_ms;
    if !status.is_steady() {
        if CLOCK.failure().is_some() {
            warn!(offset_ms, "the wall clock was set, it is followed again once it is steady");
        }
    } else if CLOCK.success().is_some() {
        info!("the wall clock is followed again");
    }
}
