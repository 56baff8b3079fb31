//! Responses and the JSON in them. Message bodies are copied as they are stored, never parsed.

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use zaqar_core::storage::Message;
use zaqar_core::{ClaimId, Kind, QueueName, Timestamp};

/// A JSON response.
pub(crate) fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A response without a body.
pub(crate) fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

/// Sets a header; a value that HTTP cannot carry is left out.
pub(crate) fn set(response: &mut Response<Full<Bytes>>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// The path of a queue or topic.
pub(crate) fn queue_path(kind: Kind, name: &QueueName) -> String {
    let collection = match kind {
        Kind::Queue => "queues",
        Kind::Topic => "topics",
    };
    format!("/v2/{collection}/{name}")
}

/// Appends a message as lists, gets and claims show it.
pub(crate) fn message(out: &mut BytesMut, base: &str, message: &Message, now: Timestamp) {
    let id = message.id.encode();
    out.extend_from_slice(b"{\"id\":\"");
    out.extend_from_slice(&id);
    out.extend_from_slice(b"\",\"href\":\"");
    out.extend_from_slice(base.as_bytes());
    out.extend_from_slice(b"/messages/");
    out.extend_from_slice(&id);
    if let Some(claim) = message.claim {
        out.extend_from_slice(b"?claim_id=");
        out.extend_from_slice(&claim.encode());
    }
    out.extend_from_slice(b"\",\"ttl\":");
    number(out, message.ttl);
    out.extend_from_slice(b",\"age\":");
    number(out, now.secs_since(message.created));
    out.extend_from_slice(b",\"body\":");
    out.extend_from_slice(&message.payload.bytes);
    checksum(out, message);
    out.extend_from_slice(b"}");
}

/// Appends the checksum of a body that has one.
fn checksum(out: &mut BytesMut, message: &Message) {
    if let Some(checksum) = message.payload.checksum {
        out.extend_from_slice(format!(",\"checksum\":\"{checksum}\"").as_bytes());
    }
}

/// Appends a message as a pop shows it: it has no place any more, so no href.
pub(crate) fn popped(out: &mut BytesMut, message: &Message, now: Timestamp) {
    out.reserve(message.payload.bytes.len() + 160);
    out.extend_from_slice(b"{\"id\":\"");
    out.extend_from_slice(&message.id.encode());
    out.extend_from_slice(b"\",\"age\":");
    number(out, now.secs_since(message.created));
    out.extend_from_slice(b",\"ttl\":");
    number(out, message.ttl);
    out.extend_from_slice(b",\"claim_count\":");
    number(out, u64::from(message.claim_count));
    out.extend_from_slice(b",\"body\":");
    out.extend_from_slice(&message.payload.bytes);
    out.extend_from_slice(b",\"claim_id\":null");
    checksum(out, message);
    out.extend_from_slice(b"}");
}

/// Appends things with commas between them.
pub(crate) fn joined<T>(
    out: &mut BytesMut,
    items: impl IntoIterator<Item = T>,
    mut one: impl FnMut(&mut BytesMut, T),
) {
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            out.extend_from_slice(b",");
        }
        one(out, item);
    }
}

/// `{"messages":[…]}` with the messages as [`message`] shows them, and what `after` adds behind the list.
pub(crate) fn messages(
    base: &str,
    list: &[Message],
    now: Timestamp,
    after: impl FnOnce(&mut BytesMut),
) -> Bytes {
    let bodies: usize = list.iter().map(|one| one.payload.bytes.len()).sum();
    // One allocation: a message's other members and the links take less than this.
    let mut out = BytesMut::with_capacity(bodies + (list.len() + 2) * (base.len() + 256));
    out.extend_from_slice(b"{\"messages\":[");
    joined(&mut out, list, |out, one| message(out, base, one, now));
    out.extend_from_slice(b"]");
    after(&mut out);
    out.extend_from_slice(b"}");
    out.freeze()
}

/// Appends `,"links":[…]` with a link to the next page, or none.
pub(crate) fn links(out: &mut BytesMut, next: Option<String>) {
    out.extend_from_slice(b",\"links\":[");
    if let Some(href) = next {
        out.extend_from_slice(b"{\"rel\":\"next\",\"href\":");
        string(out, &href);
        out.extend_from_slice(b"}");
    }
    out.extend_from_slice(b"]");
}

/// Appends a JSON string.
pub(crate) fn string(out: &mut BytesMut, text: &str) {
    out.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
}

/// Appends a number.
pub(crate) fn number(out: &mut BytesMut, number: u64) {
    out.extend_from_slice(number.to_string().as_bytes());
}

/// The path of a claim.
pub(crate) fn claim_path(base: &str, id: ClaimId) -> String {
    format!("{base}/claims/{id}")
}
