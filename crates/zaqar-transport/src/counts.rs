//! How many connections a transport has and had.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Counts the connections of one transport. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct ConnectionCounts {
    shared: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    open: AtomicUsize,
    accepted: AtomicU64,
    rejected: AtomicU64,
}

/// One open connection; it is closed when this is dropped.
pub(crate) struct Open {
    counts: ConnectionCounts,
}

impl ConnectionCounts {
    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Connections that were accepted since the start.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Connections that were rejected since the start: past the limit of connections, or for want
    /// of memory.
    pub fn rejected(&self) -> u64 {
        self.shared.rejected.load(Ordering::Relaxed)
    }

    pub(crate) fn accept(&self) -> Open {
        self.shared.accepted.fetch_add(1, Ordering::Relaxed);
        self.shared.open.fetch_add(1, Ordering::Relaxed);
        Open { counts: self.clone() }
    }

    pub(crate) fn reject(&self) {
        self.shared.rejected.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.counts.shared.open.fetch_sub(1, Ordering::Relaxed);
    }
}
