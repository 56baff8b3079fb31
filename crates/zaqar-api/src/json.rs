//! The JSON that is the same on both transports. Message bodies are copied as they are stored;
//! numbers and ids are written without allocating.

use std::fmt::Write;

use bytes::{BufMut, BytesMut};
use serde_json::{Map, Value, json};
use zaqar_core::delivery::{Delivery, Recovery, SubscriberHealth, SubscriberState};
use zaqar_core::storage::{Endpoint, Message, Stats, Subscription};
use zaqar_core::{MessageId, Timestamp, iso8601};

/// Maximum size of an encoded message in bytes, without its body and what a transport adds.
const MESSAGE_OVERHEAD: usize = 192;

/// Appends items separated by commas.
pub fn joined<T>(
    out: &mut BytesMut,
    items: impl IntoIterator<Item = T>,
    mut one: impl FnMut(&mut BytesMut, T),
) {
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            out.put_u8(b',');
        }
        one(out, item);
    }
}

/// Appends a quoted and escaped string.
pub fn string(out: &mut BytesMut, text: &str) {
    // Writing a string to memory cannot fail.
    let _written = serde_json::to_writer(out.writer(), text);
}

/// Appends a number.
pub fn number(out: &mut BytesMut, number: u64) {
    out.put_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends `,"ttl":…,"age":…,"body":…` of a message.
pub fn ttl_age_body(out: &mut BytesMut, message: &Message, now: Timestamp) {
    out.put_slice(b",\"ttl\":");
    number(out, message.ttl);
    out.put_slice(b",\"age\":");
    number(out, now.secs_since(message.created));
    out.put_slice(b",\"body\":");
    out.put_slice(&message.payload.bytes);
}

/// Appends `,"checksum":…` for a body that has one.
pub fn checksum(out: &mut BytesMut, message: &Message) {
    if let Some(checksum) = message.payload.checksum {
        // Writing to memory cannot fail.
        let _written = write!(out, ",\"checksum\":\"{checksum}\"");
    }
}

/// Appends a message as in a pop: without an address, as it no longer exists.
pub fn popped(out: &mut BytesMut, message: &Message, now: Timestamp) {
    out.put_slice(b"{\"id\":\"");
    out.put_slice(&message.id.encode());
    out.put_slice(b"\",\"age\":");
    number(out, now.secs_since(message.created));
    out.put_slice(b",\"ttl\":");
    number(out, message.ttl);
    out.put_slice(b",\"claim_count\":");
    number(out, message.claim_count.into());
    out.put_slice(b",\"body\":");
    out.put_slice(&message.payload.bytes);
    out.put_slice(b",\"claim_id\":null");
    checksum(out, message);
    out.put_u8(b'}');
}

/// Bytes to reserve so that writing messages does not allocate again; `added` is the size of what
/// the transport adds to each.
pub fn encoded_size(messages: &[Message], added: usize) -> usize {
    let bodies: usize = messages.iter().map(|one| one.payload.bytes.len()).sum();
    bodies + messages.len() * (MESSAGE_OVERHEAD + added)
}

/// Appends a subscription to the queue or topic `source`.
pub fn subscription(out: &mut BytesMut, source: &str, subscription: &Subscription, now: Timestamp) {
    out.put_slice(b"{\"id\":\"");
    out.put_slice(&subscription.id.encode());
    out.put_slice(b"\",\"source\":\"");
    // The alphabet of queue names needs no escapes.
    out.put_slice(source.as_bytes());
    out.put_slice(b"\",\"subscriber\":");
    string(out, &subscription.subscriber);
    out.put_slice(b",\"ttl\":");
    number(out, subscription.ttl);
    out.put_slice(b",\"age\":");
    number(out, now.secs_since(subscription.since));
    out.put_slice(b",\"options\":");
    out.put_slice(subscription.options.as_bytes());
    out.put_slice(match subscription.confirmed {
        true => b",\"confirmed\":true}",
        false => b",\"confirmed\":false}".as_slice(),
    });
}

/// A delivery; with its attempts, or their number alone.
pub fn delivery(delivery: &Delivery, with_attempts: bool) -> Value {
    let mut document = json!({
        "id": delivery.id.to_string(),
        "status": delivery.state.as_str(),
        "posted": iso8601::format(delivery.posted),
        "changed": iso8601::format(delivery.changed),
        "attempt_count": delivery.attempts.len(),
    });
    if with_attempts {
        let attempts = delivery.attempts.iter().map(|attempt| {
            json!({
                "at": iso8601::format(attempt.at),
                "milliseconds": attempt.millis,
                "status": attempt.status,
                "error": attempt.error,
                "answer": attempt.answer,
            })
        });
        document["attempts"] = attempts.collect();
    }
    document
}

/// The progress of a recovery.
pub fn recovery(recovery: &Recovery) -> Value {
    json!({
        "id": recovery.id.to_string(),
        "status": recovery.state.as_str(),
        "since": recovery.range.since.map(iso8601::format),
        "until": recovery.range.until.map(iso8601::format),
        "started": iso8601::format(recovery.started),
        "total": recovery.total,
        "remaining": recovery.remaining,
    })
}

/// The health of a subscriber.
pub fn subscriber_health(health: &SubscriberHealth) -> Value {
    let (state, probe) = match health.state {
        SubscriberState::Ok => ("ok", None),
        SubscriberState::Failing(probe) => ("failing", Some(probe)),
        SubscriberState::Suspended => ("suspended", None),
    };
    let mut document = Map::new();
    document.insert("state".into(), state.into());
    document.insert("next_attempt".into(), probe.map(iso8601::format).into());
    for (name, count) in [
        ("waiting", health.waiting),
        ("delivered", health.delivered),
        ("failed", health.failed),
        ("expired", health.expired),
    ] {
        document.insert(name.into(), count.into());
    }
    document.insert("last_delivered".into(), health.last_delivered.map(iso8601::format).into());
    document.insert("last_failed".into(), health.last_failed.map(iso8601::format).into());
    document.into()
}

/// The counts of a queue, with its oldest and newest message. `location` gives the name and the
/// value of the member that identifies a message.
pub fn stats(
    stats: &Stats,
    now: Timestamp,
    location: impl Fn(MessageId) -> (&'static str, String),
) -> Value {
    let free = stats.free + stats.delayed;
    let mut messages = Map::new();
    messages.insert("claimed".into(), stats.claimed.into());
    messages.insert("free".into(), free.into());
    messages.insert("total".into(), (free + stats.claimed).into());
    if let Some((oldest, newest)) = &stats.ends {
        let end = |end: &Endpoint| {
            let (name, location) = location(end.id);
            json!({
                name: location,
                "age": now.secs_since(end.created),
                "created": iso8601::format(end.created) + "Z",
            })
        };
        messages.insert("oldest".into(), end(oldest));
        messages.insert("newest".into(), end(newest));
    }
    json!({ "messages": messages })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_numbers_read_back() {
        let mut out = BytesMut::new();
        out.put_u8(b'[');
        string(&mut out, "a\"\\\n\u{e9}\u{0}");
        for one in [0, 7, u64::MAX] {
            out.put_u8(b',');
            number(&mut out, one);
        }
        out.put_u8(b']');
        let read: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(read, json!(["a\"\\\n\u{e9}\u{0}", 0, 7, u64::MAX]));
    }
}
