//! Entries of the outbox whose expansion failed: they go first when it is tried again, so that what
//! was posted later does not come before them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use zaqar_core::storage::OutboxEntry;
use zaqar_core::{QueueKey, Timestamp};

/// Bound on queues with such an entry; an entry of another one waits for the end of its lease.
const QUEUES: usize = 64;

/// By queue, an entry that this server has leased, and until when it goes first.
#[derive(Debug, Default)]
pub(crate) struct Unfinished {
    entries: Mutex<HashMap<QueueKey, (OutboxEntry, Timestamp)>>,
}

impl Unfinished {
    pub(crate) fn keep(&self, key: &QueueKey, entry: OutboxEntry, until: Timestamp) {
        let mut entries = self.entries();
        if entries.len() < QUEUES {
            entries.insert(key.clone(), (entry, until));
        }
    }

    pub(crate) fn take(&self, key: &QueueKey, now: Timestamp) -> Option<(OutboxEntry, Timestamp)> {
        let mut entries = self.entries();
        entries.remove(key).filter(|(_, until)| *until > now)
    }

    /// The queues that have such an entry.
    pub(crate) fn queues(&self) -> Vec<QueueKey> {
        self.entries().keys().cloned().collect()
    }

    /// No code panics while it holds this lock.
    fn entries(&self) -> MutexGuard<'_, HashMap<QueueKey, (OutboxEntry, Timestamp)>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
