//! Counts the connections of a transport.

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

/// Counts one connection as open until it is dropped.
pub(crate) struct OpenConnection {
    counts: ConnectionCounts,
}

impl ConnectionCounts {
    /// Open connections.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Connections accepted since the start.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Connections rejected since the start because of the limit of connections or of memory.
    pub fn rejected(&self) -> u64 {
        self.shared.rejected.load(Ordering::Relaxed)
    }

    pub(crate) fn accept(&self) -> OpenConnection {
        self.shared.accepted.fetch_add(1, Ordering::Relaxed);
        self.shared.open.fetch_add(1, Ordering::Relaxed);
        OpenConnection { counts: self.clone() }
    }

    pub(crate) fn reject(&self) {
        self.shared.rejected.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.counts.shared.open.fetch_sub(1, Ordering::Relaxed);
    }
}
