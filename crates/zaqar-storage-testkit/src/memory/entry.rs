//! An entry of the outbox as it is stored.

use zaqar_core::Timestamp;
use zaqar_core::storage::OutboxEntry;

/// An entry and until when it has readers.
#[derive(Debug, Clone)]
pub(super) struct StoredEntry {
    pub(super) shown: OutboxEntry,
    /// Since when a worker may lease it: by its messages, or by the end of its last lease. `None`
    /// once it is settled.
    pub(super) due: Option<Timestamp>,
    /// Until when it can be followed.
    pub(super) followed: Timestamp,
    /// When the last of its messages expires.
    pub(super) expires: Timestamp,
}

impl StoredEntry {
    /// Whether nobody reads it any more.
    pub(super) fn is_ended(&self, now: Timestamp) -> bool {
        self.due.is_none() && self.followed <= now
    }
}
