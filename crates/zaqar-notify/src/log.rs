//! The log of deliveries in memory: recent results of each subscription, before `log_store` writes
//! them.
//!
//! Entries are messages of an internal queue, one for each time a row is served. They are collected
//! in memory and written every half second, many at once, so that a delivery does not wait for
//! them; a server that dies loses the entries of that time, but no delivery.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use zaqar_core::delivery::{DeliveryAttempt, DeliveryState};
use zaqar_core::{MessageId, Payload, Timestamp};

use crate::outcome::Attempt;
use crate::row::SubscriptionKey;

/// Bytes of entries that wait to be written, at most; further entries are dropped.
const MAX_WAITING: usize = 8 * 1024 * 1024;
/// Attempts of an entry whose answers are kept.
const ANSWERS: usize = 4;
/// Estimated bytes of an entry without its attempts.
const ENTRY: usize = 200;
/// Subscriptions whose entries since the last trim are counted.
const REMEMBERED: usize = 10_000;

/// The result of serving a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) message: MessageId,
    pub(crate) state: DeliveryState,
    /// When the message was posted.
    pub(crate) posted: Timestamp,
    /// When serving it ended.
    pub(crate) at: Timestamp,
    pub(crate) attempts: Vec<DeliveryAttempt>,
    /// The id of the kept row, for redelivery.
    pub(crate) kept: Option<MessageId>,
}

/// Entries that wait to be written.
#[derive(Debug, Default)]
pub(crate) struct Log {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<SubscriptionKey, Vec<Entry>>,
    bytes: usize,
    lost: u64,
    /// Entries of each subscription that were written since its log was trimmed.
    untrimmed: HashMap<SubscriptionKey, usize>,
}

impl Log {
    /// Adds an entry, to be written soon.
    pub(crate) fn add(&self, subscription: &SubscriptionKey, mut entry: Entry) {
        let answers = entry.attempts.len().saturating_sub(ANSWERS);
        for attempt in &mut entry.attempts[..answers] {
            attempt.answer.clear();
        }
        let bytes = entry.bytes();
        let mut state = self.state();
        if state.bytes + bytes > MAX_WAITING {
            state.lost += 1;
            return;
        }
        state.bytes += bytes;
        state.waiting.entry(subscription.clone()).or_default().push(entry);
    }

    /// Removes all waiting entries. Returns them, and the number that was dropped before.
    pub(crate) fn take(&self) -> (HashMap<SubscriptionKey, Vec<Entry>>, u64) {
        let mut state = self.state();
        state.bytes = 0;
        (std::mem::take(&mut state.waiting), std::mem::take(&mut state.lost))
    }

    /// Removes the waiting entries of one subscription.
    pub(crate) fn take_one(&self, key: &SubscriptionKey) -> Vec<Entry> {
        let mut state = self.state();
        let entries = state.waiting.remove(key).unwrap_or_default();
        state.bytes -= entries.iter().map(Entry::bytes).sum::<usize>().min(state.bytes);
        entries
    }

    /// Counts written entries of a subscription. Returns whether its log should be trimmed to
    /// `kept` now.
    pub(crate) fn note_written(&self, key: &SubscriptionKey, count: usize, kept: usize) -> bool {
        let mut state = self.state();
        if state.untrimmed.len() >= REMEMBERED && !state.untrimmed.contains_key(key) {
            state.untrimmed.clear();
        }
        // The first write of this process trims, because the number of older entries is not known.
        let untrimmed = state.untrimmed.entry(key.clone()).or_insert(kept);
        *untrimmed += count;
        let is_full = *untrimmed > kept / 8;
        if is_full {
            *untrimmed = 0;
        }
        is_full
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No critical section leaves the state inconsistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An attempt as the log stores it.
pub(crate) fn attempt(attempt: &Attempt, at: Timestamp, millis: u64) -> DeliveryAttempt {
    let (status, error, answer) = match attempt {
        Attempt::Answered(answer) => {
            let body = String::from_utf8_lossy(&answer.body).into_owned();
            (Some(answer.status), None, body)
        }
        Attempt::Failed(failure) => (None, Some(failure.to_string()), String::new()),
    };
    DeliveryAttempt { at, millis, status, error, answer }
}

impl Entry {
    fn bytes(&self) -> usize {
        let of = |one: &DeliveryAttempt| {
            one.answer.len() + one.error.as_ref().map_or(0, String::len) + ENTRY
        };
        ENTRY + self.attempts.iter().map(of).sum::<usize>()
    }

    pub(crate) fn encode(&self) -> Payload {
        let attempt = |one: &DeliveryAttempt| {
            json!({
                "at": one.at.as_millis(),
                "ms": one.millis,
                "status": one.status,
                "error": one.error,
                "answer": one.answer,
            })
        };
        let text = json!({
            "id": self.message.to_string(),
            "state": self.state.as_str(),
            "posted": self.posted.as_millis(),
            "at": self.at.as_millis(),
            "attempts": self.attempts.iter().map(attempt).collect::<Vec<_>>(),
            "kept": self.kept.map(|id| id.to_string()),
        });
        Payload::plain(text.to_string().into())
    }

    /// Reads what [`Entry::encode`] wrote; `None` for anything else.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let text: Value = serde_json::from_slice(bytes).ok()?;
        let time = |value: &Value| Some(Timestamp::from_millis(value.as_u64()?));
        let attempt = |one: &Value| {
            Some(DeliveryAttempt {
                at: time(&one["at"])?,
                millis: one["ms"].as_u64()?,
                status: one["status"].as_u64().and_then(|status| u16::try_from(status).ok()),
                error: one["error"].as_str().map(str::to_owned),
                answer: one["answer"].as_str()?.to_owned(),
            })
        };
        Some(Self {
            message: text["id"].as_str()?.parse().ok()?,
            state: DeliveryState::parse(text["state"].as_str()?)?,
            posted: time(&text["posted"])?,
            at: time(&text["at"])?,
            attempts: text["attempts"].as_array()?.iter().map(attempt).collect::<Option<_>>()?,
            kept: text["kept"].as_str().and_then(|id| id.parse().ok()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zaqar_core::{Incarnation, Position};

    #[test]
    fn entries_read_back() {
        let id = |at| MessageId { incarnation: Incarnation::new(1), position: Position::new(at) };
        let answered = DeliveryAttempt {
            at: Timestamp::from_millis(7),
            millis: 12,
            status: Some(500),
            error: None,
            answer: "\"no\"\n\u{fffd}".to_owned(),
        };
        let failed = DeliveryAttempt {
            status: None,
            error: Some("no connection".to_owned()),
            answer: String::new(),
            ..answered.clone()
        };
        let entry = Entry {
            message: id(3),
            state: DeliveryState::Failed,
            posted: Timestamp::from_millis(5),
            at: Timestamp::from_millis(9),
            attempts: vec![answered, failed],
            kept: Some(id(4)),
        };
        assert_eq!(Entry::decode(&entry.encode().bytes), Some(entry.clone()));
        let plain = Entry { kept: None, attempts: Vec::new(), ..entry };
        assert_eq!(Entry::decode(&plain.encode().bytes), Some(plain));
        for text in ["", "{}", "[]"] {
            assert_eq!(Entry::decode(text.as_bytes()), None, "{text}");
        }
    }
}
