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
    /// Whether a worker has leased it: its due time is then later than that of its messages.
    pub(super) fn is_leased(&self, now: Timestamp) -> bool {
        let first_due = self.shown.messages.iter().map(|message| message.due).min();
        self.due.is_some_and(|due| due > now && Some(due) > first_due)
    }

    /// The bytes of its bodies.
    pub(super) fn bytes(&self) -> usize {
        self.shown.messages.iter().map(|message| message.payload.bytes.len()).sum()
    }

    /// Whether it is no longer needed.
    pub(super) fn is_ended(&self, now: Timestamp) -> bool {
        self.due.is_none() && self.followed <= now
    }
}
