//! Messages that wait until they are due.

use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::warn;
use zaqar_core::{MessageId, QueueKey, Timestamp};

use super::Push;

/// Bytes of bodies that wait, at most: what comes when they are reached is not pushed.
const MAX_BYTES: usize = 64 << 20;

/// A message to push.
pub(super) struct Coming {
    pub(super) id: MessageId,
    pub(super) due: Timestamp,
    pub(super) push: Arc<Push>,
}

/// Delayed messages of every queue, by when they are due.
#[derive(Default)]
pub(super) struct Delayed {
    waiting: BTreeMap<(Timestamp, MessageId, QueueKey), Arc<Push>>,
    bytes: usize,
}

impl Delayed {
    pub(super) fn contains(&self, key: &QueueKey, message: &Coming) -> bool {
        !self.waiting.is_empty()
            && self.waiting.contains_key(&(message.due, message.id, key.clone()))
    }

    /// Keeps a message; one that waits already waits once.
    pub(super) fn insert(&mut self, key: &QueueKey, message: Coming) {
        let bytes = message.push.body.len();
        if self.bytes + bytes > MAX_BYTES {
            warn!(queue = key.name.as_str(), "too many delayed messages wait to be pushed");
            return;
        }
        let place = (message.due, message.id, key.clone());
        if self.waiting.insert(place, message.push).is_none() {
            self.bytes += bytes;
        }
    }

    /// Takes the first that is due.
    pub(super) fn take(&mut self, now: Timestamp) -> Option<(QueueKey, Coming)> {
        if self.next()? > now {
            return None;
        }
        let ((due, id, key), push) = self.waiting.pop_first()?;
        self.bytes -= push.body.len();
        Some((key, Coming { id, due, push }))
    }

    /// When the first is due.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.waiting.first_key_value().map(|((due, ..), _)| *due)
    }
}
