//! Entries of the outbox whose expansion failed: this server has leased them, so it expands them
//! when it tries again, and not only once their lease has expired.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use zaqar_core::storage::OutboxEntry;
use zaqar_core::{QueueKey, Timestamp};

/// Bound on queues with such entries; those of another one wait for the end of their lease.
const QUEUES: usize = 64;

/// Entries of one queue in their order, and until when they are leased.
pub(crate) type Leased = (Vec<OutboxEntry>, Timestamp);

/// By queue, entries that this server has leased.
#[derive(Debug, Default)]
pub(crate) struct Unfinished {
    entries: Mutex<HashMap<QueueKey, Leased>>,
}

impl Unfinished {
    pub(crate) fn keep(&self, key: &QueueKey, leased: Leased) {
        let mut entries = self.entries();
        if entries.len() < QUEUES {
            entries.insert(key.clone(), leased);
        }
    }

    pub(crate) fn take(&self, key: &QueueKey, now: Timestamp) -> Option<Leased> {
        let mut entries = self.entries();
        entries.remove(key).filter(|(_, until)| *until > now)
    }

    /// The queues that have such entries.
    pub(crate) fn queues(&self) -> Vec<QueueKey> {
        self.entries().keys().cloned().collect()
    }

    /// No code panics while it holds this lock.
    fn entries(&self) -> MutexGuard<'_, HashMap<QueueKey, Leased>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
