//! Events about subscribers, for the queue that a subscription's option `failure_queue` names.
//!
//! | event | when |
//! |---|---|
//! | `suspended` | nothing more is sent to the subscriber until it is resumed |
//! | `resumed` | messages are sent again after a suspension |
//! | `exhausted` | a delivery ended without success; at most one event per minute and server |
//!
//! An event is posted before what it tells of is settled, so that a server which dies in between
//! repeats it instead of losing it. Where its queue cannot be posted to, it waits in an internal
//! queue, from which any server posts it; where that fails too, so does what it tells of. An event
//! that cannot be delivered itself makes no event `exhausted`, so that no circle of queues posts
//! for ever.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use zaqar_core::storage::Error;
use zaqar_core::{MessageId, ProjectId, QueueName, SubscriptionId, Timestamp, iso8601};

use crate::context::Context;
use crate::row::{SubscriptionKey, WaitingEvent};

/// The option that names the queue.
pub(crate) const OPTION: &str = "failure_queue";
/// The member that marks a body as an event.
const MEMBER: &str = "zaqar_event";
/// Waiting events that are taken at once.
const PAGE: usize = 10;
/// Seconds between two events `exhausted` of one subscription.
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
    /// What the store says: the event waits, and is posted again later.
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

/// Deliveries of a subscription that ended without success.
#[derive(Debug, Clone, Copy)]
struct Failures {
    reported_at: Timestamp,
    /// Failures since then.
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

/// Posts an event about a subscription whose options name a queue, or has it wait.
///
/// # Errors
/// What the store says; what the event tells of must not be settled then.
pub(crate) async fn tell(
    context: &Context,
    key: &SubscriptionKey,
    (subscriber, options): (&str, &Map<String, Value>),
    happened: &EventKind,
) -> Result<(), Error> {
    let (Some(sink), Some(queue)) = (&context.parts.events, queue_of(options)) else {
        return Ok(());
    };
    let now = context.parts.clock.now();
    let mut before = None;
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
            before = context.events.failures().get(&key.id).copied();
            let Some(count) = context.events.count_failure(key.id, now) else { return Ok(()) };
            body["message_id"] = message.to_string().into();
            body["reason"] = cut(why).into();
            body["count"] = count.into();
            "exhausted"
        }
    };
    body[MEMBER] = name.into();
    let project = key.queue.project.clone();
    let Err(error) = sink.post(&project, &queue, body.clone()).await else { return Ok(()) };
    context.log_failure("events about subscribers", &error);
    let waits = context.deliveries.add_event(&WaitingEvent { project, queue, body }, now).await;
    if waits.is_err() && matches!(happened, EventKind::Exhausted(..)) {
        context.events.not_told(key.id, before);
    }
    waits
}

/// Posts events that wait, of any server; what cannot be posted waits on, and holds up no other.
///
/// # Errors
/// What the store says, the last time.
pub(crate) async fn post_waiting(context: &Context) -> Result<(), Error> {
    let Some(sink) = &context.parts.events else { return Ok(()) };
    let mut outcome = Ok(());
    loop {
        let now = context.parts.clock.now();
        let (claim, waiting) = context.deliveries.take_events(PAGE, now).await?;
        let is_last = waiting.len() < PAGE;
        for (id, event) in waiting {
            match sink.post(&event.project, &event.queue, event.body).await {
                Ok(()) => {
                    let now = context.parts.clock.now();
                    context.deliveries.delete_event(id, claim, now).await?;
                }
                Err(error) => outcome = Err(error),
            }
        }
        if is_last {
            return outcome;
        }
    }
}

impl Events {
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

    /// An event could not be posted: the next failure is told.
    fn not_told(&self, id: SubscriptionId, before: Option<Failures>) {
        let mut failures = self.failures();
        match before {
            Some(before) => failures.insert(id, before),
            None => failures.remove(&id),
        };
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
