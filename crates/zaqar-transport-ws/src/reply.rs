//! Replies and their JSON. Message bodies are copied as they are stored, never parsed.

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value;
use zaqar_api::{ListedQueue, json};
use zaqar_core::storage::{Message, Subscription};
use zaqar_core::{ClaimId, QueueName, Timestamp};
use zaqar_transport::Turns;

/// The result of an action.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// JSON text.
    pub(crate) body: Bytes,
    /// Seconds after which the client should retry.
    pub(crate) retry_after: Option<u64>,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Bytes>) -> Self {
        Self { status, body: body.into(), retry_after: None }
    }

    pub(crate) fn json(status: u16, body: Value) -> Self {
        Self::new(status, body.to_string())
    }

    /// The original's answer without content.
    pub(crate) fn no_content() -> Self {
        Self::new(204, Bytes::from_static(b"{}"))
    }
}

/// Appends a message as in lists, gets and claims; `claim` is the claim that was read or created.
pub(crate) fn message(
    out: &mut BytesMut,
    message: &Message,
    claim: Option<ClaimId>,
    now: Timestamp,
) {
    out.put_slice(b"{\"id\":\"");
    out.put_slice(&message.id.encode());
    match claim {
        None => out.put_slice(b"\",\"claim_id\":null"),
        Some(claim) => {
            out.put_slice(b"\",\"claim_id\":\"");
            out.put_slice(&claim.encode());
            out.put_u8(b'"');
        }
    }
    json::ttl_age_body(out, message, now);
    out.put_u8(b'}');
}

/// Appends `"messages":[…]`. A large list is encoded in turns.
pub(crate) async fn messages(
    turns: &Turns,
    out: &mut BytesMut,
    list: &[Message],
    claim: Option<ClaimId>,
    now: Timestamp,
) {
    out.reserve(json::encoded_size(list, 0) + 16);
    out.put_slice(b"\"messages\":[");
    turns.joined(out, list, |out, one| message(out, one, claim, now)).await;
    out.put_u8(b']');
}

/// `{"messages":[…]}` of a pop. A large list is encoded in turns.
pub(crate) async fn popped(turns: &Turns, list: &[Message], now: Timestamp) -> Bytes {
    let mut out = BytesMut::with_capacity(json::encoded_size(list, 0) + 16);
    out.put_slice(b"{\"messages\":[");
    turns.joined(&mut out, list, |out, one| json::popped(out, one, now)).await;
    out.put_slice(b"]}");
    out.freeze()
}

/// `{"subscriptions":[…]}` of the queue `source`. A large list is encoded in turns.
pub(crate) async fn subscriptions(
    turns: &Turns,
    source: &QueueName,
    list: &[Subscription],
    now: Timestamp,
) -> Bytes {
    let mut out = BytesMut::new();
    out.put_slice(b"{\"subscriptions\":[");
    let one = |out: &mut BytesMut, one| json::subscription(out, source.as_str(), one, now);
    turns.joined(&mut out, list, one).await;
    out.put_slice(b"]}");
    out.freeze()
}

/// `{"queues":[…]}`. A large list is encoded in turns.
pub(crate) async fn queues(turns: &Turns, list: Vec<ListedQueue>) -> Bytes {
    let mut out = BytesMut::new();
    out.put_slice(b"{\"queues\":[");
    let one = |out: &mut BytesMut, queue: ListedQueue| {
        out.put_slice(b"{\"name\":\"");
        out.put_slice(queue.name.as_str().as_bytes());
        out.put_u8(b'"');
        if let Some(metadata) = queue.metadata {
            out.put_slice(b",\"metadata\":");
            out.put_slice(metadata.to_json().as_bytes());
        }
        out.put_slice(b"}");
    };
    turns.joined(&mut out, list, one).await;
    out.put_slice(b"]}");
    out.freeze()
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use serde_json::Value;
    use zaqar_core::{
        ClientId, Incarnation, MessageId, Metadata, Payload, Position, SubscriptionId,
    };

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
        let encode = async |what, count: u64, length: usize| match what {
            "pop" => popped(&turns, &list(count, length), now).await,
            "subscriptions" => {
                let options = format!("{{\"x\":\"{}\"}}", "x".repeat(length));
                let one = Subscription {
                    id: SubscriptionId::new(1),
                    subscriber: "http://h".to_owned(),
                    ttl: 60,
                    options,
                    confirmed: true,
                    since: now,
                    lease: None,
                };
                let list = vec![one; usize::try_from(count).unwrap()];
                subscriptions(&turns, &QueueName::new("q").unwrap(), &list, now).await
            }
            "queues" => {
                let text = format!("{{\"x\":\"{}\"}}", "x".repeat(length));
                let metadata = Metadata::from_json(text.as_bytes()).unwrap();
                let name = QueueName::new("q").unwrap();
                let one = ListedQueue { name, metadata: Some(metadata) };
                queues(&turns, vec![one; usize::try_from(count).unwrap()]).await
            }
            _ => {
                let mut out = BytesMut::from("{");
                messages(&turns, &mut out, &list(count, length), None, now).await;
                out.put_u8(b'}');
                out.freeze()
            }
        };
        for what in ["messages", "pop", "subscriptions", "queues"] {
            let other = turns.next().await;
            assert!(encode(what, 10, 1000).await.len() > 10_000);
            let mut encoding = Box::pin(encode(what, 4, Turns::BYTES));
            let mut context = Context::from_waker(Waker::noop());
            for _ in 0..10 {
                assert!(encoding.as_mut().poll(&mut context).is_pending());
            }
            drop(other);
            let document: Value = serde_json::from_slice(&encoding.await).unwrap();
            let name = if what == "pop" { "messages" } else { what };
            assert_eq!(document[name].as_array().map(Vec::len), Some(4), "{what}");
        }
    }
}
