//! The task that cleans stores while a server runs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use zaqar_core::storage::Upkeep;
use zaqar_core::{Clock, ClockStatus, StateLog};

/// Of the one wall clock that all sweepers ask.
static CLOCK: StateLog = StateLog::with_interval(Duration::from_secs(30));

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
    /// A sweeper of a store with a clock: pieces of 500 rows, every second, and every 10 ms while
    /// there is work.
    pub fn new(store: Arc<dyn Upkeep>, clock: Arc<dyn Clock>) -> Self {
        let (idle, busy) = (Duration::from_secs(1), Duration::from_millis(10));
        Self { store, clock, budget: 500, idle, busy }
    }

    /// Sweeps until `shutdown`, which also ends a sweep that is under way: a store has to bear
    /// that, as it bears the death of the process.
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
                        info!(failures, "sweeping works again");
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
            warn!(offset_ms, "the wall clock was set: it is followed once it keeps its time");
        }
    } else if CLOCK.success().is_some() {
        info!("the wall clock is followed again");
    }
}
