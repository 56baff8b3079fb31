//! What is wrong with the server, for the log: a line when it begins, a few while it lasts, and one
//! when it is over.

use std::sync::atomic::{AtomicU64, Ordering};

use tracing::{info, warn};
use zaqar_core::StateLog;

use crate::error::Trouble;

/// The largest argument that Redis takes where its configuration does not say otherwise
/// (`proto-max-bulk-len`), in bytes.
const MAX_BULK: u64 = 512 << 20;

/// What was last seen of the server.
#[derive(Debug)]
pub(crate) struct Conditions {
    away: StateLog,
    full: StateLog,
    skewed: StateLog,
    max_bulk: AtomicU64,
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            away: StateLog::new(),
            full: StateLog::new(),
            skewed: StateLog::new(),
            max_bulk: AtomicU64::new(MAX_BULK),
        }
    }
}

impl Conditions {
    /// A request failed.
    pub(crate) fn failed(&self, trouble: &Trouble) {
        match trouble {
            Trouble::Full(error) => {
                if let Some(failures) = self.full.failure() {
                    warn!(%error, failures, "Redis is full: posts are refused until there is room");
                }
            }
            Trouble::Skew { offset_ms } => {
                if let Some(failures) = self.skewed.failure() {
                    warn!(
                        offset_ms,
                        failures, "our clock and that of Redis differ: nothing is done"
                    );
                }
            }
            Trouble::NotYet(error) | Trouble::Unknown(error) | Trouble::Down(error) => {
                if let Some(failures) = self.away.failure() {
                    warn!(%error, failures, "Redis is away");
                }
            }
            Trouble::NoScript | Trouble::Unsafe { .. } | Trouble::Refused(_) => {}
        }
    }

    /// A request was carried out, perhaps one that a full server refuses.
    pub(crate) fn served(&self, needs_memory: bool) {
        if let Some(failures) = self.away.success() {
            info!(failures, "Redis is back");
        }
        if let Some(failures) = self.skewed.success() {
            info!(failures, "our clock and that of Redis agree again");
        }
        if needs_memory && let Some(failures) = self.full.success() {
            info!(failures, "Redis takes posts again");
        }
    }

    /// The largest argument that the server takes, in bytes.
    pub(crate) fn max_bulk(&self) -> u64 {
        self.max_bulk.load(Ordering::Relaxed)
    }

    pub(crate) fn set_max_bulk(&self, bytes: u64) {
        self.max_bulk.store(bytes, Ordering::Relaxed);
    }
}
