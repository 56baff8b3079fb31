//! A stored outbox entry.

use zaqar_core::Timestamp;
use zaqar_core::storage::OutboxEntry;

/// An entry, and until when it is needed.
#[derive(Debug, Clone)]
pub(super) struct StoredEntry {
    pub(super) shown: OutboxEntry,
    /// From when a worker can lease it: when its first message is due, or when its last lease
    /// expires. `None` once it is settled.
    pub(super) due: Option<Timestamp>,
    /// Until when it can be followed.
    pub(super) followed: Timestamp,
    /// When the last of its messages expires.
    pub(super) expires: Timestamp,
}

impl StoredEntry {
    /// Whether it is no longer needed.
    pub(super) fn is_ended(&self, now: Timestamp) -> bool {
        self.due.is_none() && self.followed <= now
    }
}
