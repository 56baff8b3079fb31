//! Events about subscribers, for the queue that a subscription's option `failure_queue` names.
//!
//! | event | when |
//! |---|---|
//! | `suspended` | nothing more is sent to the subscriber until it is resumed |
//! | `resumed` | messages are sent again after a suspension |
//! | `exhausted` | a delivery ended without success; at most one event per minute and server |
//!
//! `announce` posts them. An event that cannot be delivered itself makes no event `exhausted`, so
//! that no circle of queues posts for ever.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use zaqar_core::storage::Error;
use zaqar_core::{MessageId, ProjectId, QueueName, SubscriptionId, Timestamp, iso8601};

use crate::row::SubscriptionKey;

/// The option that names the queue.
pub(crate) const OPTION: &str = "failure_queue";
/// The member that marks a body as an event.
const MEMBER: &str = "zaqar_event";
/// Seconds between two events `exhausted` of one subscription.
const PAUSE: u64 = 60;
/// Subscriptions whose last event is remembered.
const REMEMBERED: usize = 10_000;
/// The longest reason, in bytes.
const MAX_REASON: usize = 1024;

/// Posts events to queues of tenants.
#[async_trait]
pub trait EventSink: Send + Sync {
    /// Posts events, at most 32, in their order and in one step, like any messages of the project.
    ///
    /// # Behavior
    /// - An event that the queue rejects is dropped and logged; the others are posted.
    ///
    /// # Errors
    /// What the store says: the events wait, and are posted again later.
    async fn post(
        &self,
        project: &ProjectId,
        queue: &QueueName,
        events: &[Value],
    ) -> Result<(), Error>;
}

/// What an event reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EventKind {
    /// Nothing more is sent; the reason.
    Suspended(&'static str),
    /// Messages are sent again.
    Resumed,
    /// A delivery ended without success: the message, and the reason.
    Exhausted(MessageId, String),
}

/// Deliveries of a subscription that ended without success.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failures {
    reported_at: Timestamp,
    /// Since then.
    count: u64,
}

/// When events `exhausted` were posted, and what they leave out.
#[derive(Debug, Default)]
pub(crate) struct Events {
    failures: Mutex<HashMap<SubscriptionId, Failures>>,
}

/// The failure queue that a subscription's options name.
pub(crate) fn queue_of(options: &Map<String, Value>) -> Option<QueueName> {
    QueueName::new(options.get(OPTION)?.as_str()?).ok()
}

/// Whether a message's body is an event.
pub(crate) fn is_event(body: &[u8]) -> bool {
    // Called rarely: only for failed deliveries.
    let body: Option<Map<String, Value>> = serde_json::from_slice(body).ok();
    body.is_some_and(|body| body.contains_key(MEMBER))
}

impl Events {
    /// What is posted about a subscription; `None` where it was told a moment ago.
    pub(crate) fn event(
        &self,
        key: &SubscriptionKey,
        subscriber: &str,
        happened: &EventKind,
        now: Timestamp,
    ) -> Option<Value> {
        let mut body = json!({
            "subscription_id": key.id.to_string(),
            "queue_name": key.queue.name.as_str(),
            "subscriber": subscriber,
            "at": iso8601::format(now),
        });
        let name = match happened {
            EventKind::Suspended(why) => {
                body["reason"] = (*why).into();
                "suspended"
            }
            EventKind::Resumed => "resumed",
            EventKind::Exhausted(message, why) => {
                let count = self.count_failure(key.id, now)?;
                body["message_id"] = message.to_string().into();
                body["reason"] = cut(why).into();
                body["count"] = count.into();
                "exhausted"
            }
        };
        body[MEMBER] = name.into();
        Some(body)
    }

    /// What was told of a subscription's failures.
    pub(crate) fn told(&self, id: SubscriptionId) -> Option<Failures> {
        self.failures().get(&id).copied()
    }

    /// An event could not be posted: what was told is as it was before.
    pub(crate) fn not_told(&self, id: SubscriptionId, before: Option<Failures>) {
        let mut failures = self.failures();
        match before {
            Some(before) => failures.insert(id, before),
            None => failures.remove(&id),
        };
    }

    /// Counts a failed delivery; how many there were since the event before, where it is time for
    /// another.
    fn count_failure(&self, id: SubscriptionId, now: Timestamp) -> Option<u64> {
        let mut failures = self.failures();
        if failures.len() >= REMEMBERED && !failures.contains_key(&id) {
            failures.retain(|_, of| now.secs_since(of.reported_at) < PAUSE);
            if failures.len() >= REMEMBERED {
                failures.clear();
            }
        }
        let Some(of) = failures.get_mut(&id) else {
            failures.insert(id, Failures { reported_at: now, count: 0 });
            return Some(1);
        };
        of.count += 1;
        if now.secs_since(of.reported_at) < PAUSE {
            return None;
        }
        let count = of.count;
        *of = Failures { reported_at: now, count: 0 };
        Some(count)
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<SubscriptionId, Failures>> {
        // A map is whole between any two calls of its methods.
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The beginning of a text.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_REASON);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_once_a_minute_with_their_number() {
        let (events, id) = (Events::default(), SubscriptionId::new(1));
        let at = |secs: u64| Timestamp::from_millis(secs * 1000);
        assert_eq!(events.count_failure(id, at(0)), Some(1));
        for second in 1..60 {
            assert_eq!(events.count_failure(id, at(second)), None);
        }
        assert_eq!(events.count_failure(SubscriptionId::new(2), at(59)), Some(1));
        assert_eq!(events.count_failure(id, at(60)), Some(60));
        assert_eq!(events.count_failure(id, at(119)), None);
        assert_eq!(events.count_failure(id, at(120)), Some(2));
        for other in 0..20_000 {
            events.count_failure(SubscriptionId::new(other), at(121));
        }
        assert!(events.failures().len() <= REMEMBERED);
    }

    #[test]
    fn an_event_is_known_by_its_member() {
        assert!(is_event(br#"{"zaqar_event": "exhausted"}"#));
        for body in [&b"{}"[..], b"[\"zaqar_event\"]", b"\"zaqar_event\"", b"", b"\xff"] {
            assert!(!is_event(body));
        }
    }

    #[test]
    fn a_reason_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"\u{fc}".repeat(600)).len(), MAX_REASON);
        assert_eq!(cut(&format!("x{}", "\u{fc}".repeat(600))).len(), MAX_REASON - 1);
    }
}
