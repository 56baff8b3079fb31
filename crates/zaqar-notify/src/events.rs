//! Events about subscribers, for the queue that a subscription's option `failure_queue` names.
//!
//! | event | when |
//! |---|---|
//! | `suspended` | nothing more is sent to the subscriber until it is resumed |
//! | `resumed` | messages are sent again after a suspension |
//! | `exhausted` | a delivery ended without success; at most one event per minute and server |
//!
//! Events are collected in memory and posted every half second, so that a delivery does not wait
//! for them; a server that dies loses those of that time. A failed delivery of an event creates no
//! `exhausted` event, so that events cannot loop.

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
/// Events that wait to be posted, at most; further ones are dropped.
const MAX_WAITING: usize = 1000;
/// How often posting an event is attempted while the store fails.
const ATTEMPTS: u32 = 20;
/// Seconds between two `exhausted` events of one subscription.
const PAUSE: u64 = 60;
/// Subscriptions whose last event is remembered.
const REMEMBERED: usize = 10_000;
/// The longest reason, in bytes.
const MAX_REASON: usize = 1024;

/// Posts events to queues of tenants.
#[async_trait]
pub trait EventSink: Send + Sync {
    /// Posts an event, which is JSON text, like any message of the project.
    ///
    /// # Behavior
    /// - An event that the queue rejects is dropped and logged.
    ///
    /// # Errors
    /// Errors of the store: the event is posted again later.
    async fn post(&self, project: &ProjectId, queue: &QueueName, event: Value)
    -> Result<(), Error>;
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

#[derive(Debug)]
struct Event {
    project: ProjectId,
    queue: QueueName,
    body: Value,
    posted: u32,
}

/// Deliveries of a subscription that ended without success.
#[derive(Debug, Clone, Copy)]
struct Failures {
    reported_at: Timestamp,
    /// Failures since then.
    count: u64,
}

/// Events that wait to be posted.
#[derive(Debug, Default)]
pub(crate) struct Events {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Event>,
    lost: u64,
    failures: HashMap<SubscriptionId, Failures>,
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
    /// Adds an event about a subscription whose options name a failure queue.
    pub(crate) fn add(
        &self,
        key: &SubscriptionKey,
        (subscriber, options): (&str, &Map<String, Value>),
        kind: &EventKind,
        now: Timestamp,
    ) {
        let Some(queue) = queue_of(options) else { return };
        let mut body = json!({
            "subscription_id": key.id.to_string(),
            "queue_name": key.queue.name.as_str(),
            "subscriber": subscriber,
            "at": iso8601::format(now),
        });
        let mut state = self.state();
        let name = match kind {
            EventKind::Suspended(why) => {
                body["reason"] = (*why).into();
                "suspended"
            }
            EventKind::Resumed => "resumed",
            EventKind::Exhausted(message, why) => {
                let Some(count) = state.count_failure(key.id, now) else { return };
                body["message_id"] = message.to_string().into();
                body["reason"] = cut(why).into();
                body["count"] = count.into();
                "exhausted"
            }
        };
        body[MEMBER] = name.into();
        if state.waiting.len() >= MAX_WAITING {
            state.lost += 1;
            return;
        }
        let project = key.queue.project.clone();
        state.waiting.push(Event { project, queue, body, posted: 0 });
    }

    fn take(&self) -> (Vec<Event>, u64) {
        let mut state = self.state();
        (std::mem::take(&mut state.waiting), std::mem::take(&mut state.lost))
    }

    fn give_back(&self, events: impl Iterator<Item = Event>) {
        let mut state = self.state();
        for event in events {
            if event.posted < ATTEMPTS && state.waiting.len() < MAX_WAITING {
                state.waiting.push(event);
            } else {
                state.lost += 1;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No critical section leaves the state inconsistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Counts a failed delivery. Returns the number of failures since the last event if another
    /// event is due.
    fn count_failure(&mut self, id: SubscriptionId, now: Timestamp) -> Option<u64> {
        if self.failures.len() >= REMEMBERED && !self.failures.contains_key(&id) {
            self.failures.retain(|_, of| now.secs_since(of.reported_at) < PAUSE);
            if self.failures.len() >= REMEMBERED {
                self.failures.clear();
            }
        }
        let Some(of) = self.failures.get_mut(&id) else {
            self.failures.insert(id, Failures { reported_at: now, count: 0 });
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
}

/// Posts the waiting events. Those that the store does not accept are kept for the next call.
///
/// # Errors
/// Errors of the store.
pub(crate) async fn flush(events: &Events, sink: &dyn EventSink) -> Result<(), Error> {
    let (waiting, lost) = events.take();
    if lost > 0 {
        tracing::warn!(lost, "events about subscribers were dropped: the store is too slow");
    }
    let mut left = waiting.into_iter();
    while let Some(mut event) = left.next() {
        event.posted += 1;
        let posted = sink.post(&event.project, &event.queue, event.body.clone()).await;
        if let Err(error) = posted {
            events.give_back(std::iter::once(event).chain(left));
            return Err(error);
        }
    }
    Ok(())
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
    fn failures_make_one_event_a_minute_with_their_number() {
        let (mut state, id) = (State::default(), SubscriptionId::new(1));
        let at = |secs: u64| Timestamp::from_millis(secs * 1000);
        assert_eq!(state.count_failure(id, at(0)), Some(1));
        for second in 1..60 {
            assert_eq!(state.count_failure(id, at(second)), None);
        }
        assert_eq!(state.count_failure(SubscriptionId::new(2), at(59)), Some(1));
        assert_eq!(state.count_failure(id, at(60)), Some(60));
        assert_eq!(state.count_failure(id, at(119)), None);
        assert_eq!(state.count_failure(id, at(120)), Some(2));
        for other in 0..20_000 {
            state.count_failure(SubscriptionId::new(other), at(121));
        }
        assert!(state.failures.len() <= REMEMBERED);
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
