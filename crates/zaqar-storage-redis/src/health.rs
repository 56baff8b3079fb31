//! The state of the server for the log: one line when a problem begins, a few while it lasts, and
//! one when it ends.

use std::sync::atomic::{AtomicU64, Ordering};

use tracing::{info, warn};
use zaqar_core::StateLog;

use crate::error::Failure;

/// The default for the largest argument that Redis accepts (`proto-max-bulk-len`), in bytes.
const MAX_BULK: u64 = 512 << 20;

/// The last known state of the server.
#[derive(Debug)]
pub(crate) struct Health {
    /// Where the server is, without credentials.
    address: String,
    unavailable: StateLog,
    full: StateLog,
    clock_skew: StateLog,
    max_bulk: AtomicU64,
}

impl Health {
    /// Of the server at an address.
    pub(crate) fn new(address: String) -> Self {
        Self {
            address,
            unavailable: StateLog::new(),
            full: StateLog::new(),
            clock_skew: StateLog::new(),
            max_bulk: AtomicU64::new(MAX_BULK),
        }
    }

    /// Records a failed request.
    pub(crate) fn failed(&self, failure: &Failure) {
        let address = self.address.as_str();
        match failure {
            Failure::Full(error) => {
                if let Some(failures) = self.full.failure() {
                    warn!(%error, address, failures, "Redis is full: posts are rejected until it has memory again");
                }
            }
            Failure::ClockSkew { offset_ms } => {
                if let Some(failures) = self.clock_skew.failure() {
                    warn!(
                        offset_ms,
                        address,
                        failures,
                        "our clock and that of Redis differ too much: requests are rejected"
                    );
                }
            }
            Failure::Retryable(error) | Failure::Ambiguous(error) | Failure::Unavailable(error) => {
                if let Some(failures) = self.unavailable.failure() {
                    warn!(%error, address, failures, "Redis is unavailable");
                }
            }
            Failure::NoScript | Failure::UnderReplicated { .. } | Failure::Rejected(_) => {}
        }
    }

    /// Records a successful request. `needs_memory`: a full server would have rejected it.
    pub(crate) fn succeeded(&self, needs_memory: bool) {
        let address = self.address.as_str();
        if let Some(failures) = self.unavailable.success() {
            info!(address, failures, "Redis is available again");
        }
        if let Some(failures) = self.clock_skew.success() {
            info!(address, failures, "our clock and that of Redis agree again");
        }
        if needs_memory && let Some(failures) = self.full.success() {
            info!(address, failures, "Redis accepts posts again");
        }
    }

    /// The largest argument that the server accepts, in bytes.
    pub(crate) fn max_bulk(&self) -> u64 {
        self.max_bulk.load(Ordering::Relaxed)
    }

    pub(crate) fn set_max_bulk(&self, bytes: u64) {
        self.max_bulk.store(bytes, Ordering::Relaxed);
    }
}
