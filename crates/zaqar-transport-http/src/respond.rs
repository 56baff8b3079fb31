//! Responses and their JSON. Message bodies are copied as they are stored, never parsed.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::body::Body;
use zaqar_api::json;
use zaqar_core::storage::Message;
use zaqar_core::{ClaimId, Kind, QueueName, Timestamp};
use zaqar_transport::Turns;

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

/// The response to HEAD: that to GET with its `Content-Length` and without its body. Over HTTP/2,
/// hyper does not do this.
pub(crate) fn without_body(response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    let (mut head, body) = response.into_parts();
    if head.status != StatusCode::NO_CONTENT {
        let length = body.size_hint().exact().unwrap_or_default();
        head.headers.insert(header::CONTENT_LENGTH, length.into());
    }
    Response::from_parts(head, Full::default())
}

/// Announces that the connection is closed after this response. HTTP/2 has no such header: there,
/// only the stream ends.
pub(crate) fn close<B>(response: &mut Response<B>) {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
}

/// Sets a header, unless its value is invalid in HTTP.
pub(crate) fn set(response: &mut Response<Full<Bytes>>, name: HeaderName, value: impl Into<Bytes>) {
    if let Ok(value) = HeaderValue::from_maybe_shared(value.into()) {
        response.headers_mut().insert(name, value);
    }
}

/// Takes the body out of a response, without copying it.
pub(crate) fn take_body(response: &mut Response<Full<Bytes>>) -> Bytes {
    let mut body = std::mem::take(response.body_mut());
    // A `Full` body is ready at once, and one piece.
    match Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        Poll::Ready(None) | Poll::Pending => Bytes::new(),
    }
}

/// The path of a queue or topic.
pub(crate) fn queue_path(kind: Kind, name: &QueueName) -> String {
    let collection = match kind {
        Kind::Queue => "/v2/queues/",
        Kind::Topic => "/v2/topics/",
        Kind::Internal => "/v2/internal/",
    };
    let mut path = String::with_capacity(collection.len() + name.as_str().len());
    path.push_str(collection);
    path.push_str(name.as_str());
    path
}

/// Appends a message as in lists, gets and claims.
pub(crate) fn message(out: &mut BytesMut, base: &str, message: &Message, now: Timestamp) {
    let id = message.id.encode();
    out.put_slice(b"{\"id\":\"");
    out.put_slice(&id);
    out.put_slice(b"\",\"href\":\"");
    out.put_slice(base.as_bytes());
    out.put_slice(b"/messages/");
    out.put_slice(&id);
    if let Some(claim) = message.claim {
        out.put_slice(b"?claim_id=");
        out.put_slice(&claim.encode());
    }
    out.put_u8(b'"');
    json::ttl_age_body(out, message, now);
    json::checksum(out, message);
    out.put_u8(b'}');
}

/// Bytes to reserve for messages as [`message`] shows them.
pub(crate) fn encoded_size(base: &str, list: &[Message]) -> usize {
    json::encoded_size(list, base.len() + 96)
}

/// `{"messages":[…]}` with the messages as [`message`] shows them, and what `after` appends to the
/// list. Large lists are encoded in turns.
pub(crate) async fn messages(
    turns: &Turns,
    base: &str,
    list: &[Message],
    now: Timestamp,
    after: impl FnOnce(&mut BytesMut),
) -> Bytes {
    // Enough for the links too, so that this allocates once.
    let mut out = BytesMut::with_capacity(encoded_size(base, list) + 2 * (base.len() + 256));
    out.put_slice(b"{\"messages\":[");
    turns.joined(&mut out, list, |out, one| message(out, base, one, now)).await;
    out.put_u8(b']');
    after(&mut out);
    out.put_u8(b'}');
    out.freeze()
}

/// `{"messages":[…]}` of a pop. Large lists are encoded in turns.
pub(crate) async fn popped(turns: &Turns, list: &[Message], now: Timestamp) -> Bytes {
    let mut out = BytesMut::with_capacity(json::encoded_size(list, 0) + 16);
    out.put_slice(b"{\"messages\":[");
    turns.joined(&mut out, list, |out, one| json::popped(out, one, now)).await;
    out.put_slice(b"]}");
    out.freeze()
}

/// Appends `,"links":[…]` with a link to the next page, or none.
pub(crate) fn links(out: &mut BytesMut, next: Option<String>) {
    out.put_slice(b",\"links\":[");
    if let Some(href) = next {
        out.put_slice(b"{\"rel\":\"next\",\"href\":");
        json::string(out, &href);
        out.put_u8(b'}');
    }
    out.put_u8(b']');
}

/// The path of a claim.
pub(crate) fn claim_path(base: &str, id: ClaimId) -> String {
    format!("{base}/claims/{id}")
}

#[cfg(test)]
mod tests {
    use zaqar_core::storage::Message;
    use zaqar_core::{ClientId, Incarnation, MessageId, Payload, Position};

    use super::*;

    fn list(count: u64, length: usize) -> Vec<Message> {
        let message = |number| Message {
            id: MessageId { incarnation: Incarnation::new(1), position: Position::new(number) },
            client: ClientId::new(""),
            payload: Payload::plain(Bytes::from(format!("\"{}\"", "x".repeat(length)))),
            ttl: 60,
            created: Timestamp::from_millis(0),
            claim: None,
            claim_count: 0,
        };
        (1..=count).map(message).collect()
    }

    /// While another has the turn, a small list is encoded, and the beginning of a large one.
    #[tokio::test]
    async fn large_lists_are_encoded_in_turns() {
        let (turns, now) = (Turns::new(1), Timestamp::from_millis(0));
        let small = list(10, 1000);
        let large = list(4, Turns::BYTES);
        for pops in [false, true] {
            let encode = async |list: &[Message]| match pops {
                true => popped(&turns, list, now).await,
                false => messages(&turns, "/v2/queues/q", list, now, |_| {}).await,
            };
            let other = turns.next().await;
            assert!(encode(&small).await.len() > 10_000);
            let mut encoding = Box::pin(encode(&large));
            let mut context = Context::from_waker(Waker::noop());
            for _ in 0..10 {
                assert!(encoding.as_mut().poll(&mut context).is_pending());
            }
            drop(other);
            let document: serde_json::Value = serde_json::from_slice(&encoding.await).unwrap();
            assert_eq!(document["messages"].as_array().map(Vec::len), Some(4));
        }
    }
}
