//! WebSocket connections as subscribers.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test fails on whatever it does not expect")]

use std::time::Duration;

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use zaqar_transport_ws::Options;

use crate::support::{BOTH, Encoding, LONG, Peer, Setup, split};

fn post(queue: &str, bodies: &[Value]) -> Value {
    let messages: Vec<Value> =
        bodies.iter().map(|body| json!({ "body": body, "ttl": 100 })).collect();
    json!({ "queue_name": queue, "messages": messages })
}

fn push(queue: &str, body: &Value) -> Value {
    json!({ "ttl": 100, "body": body, "Message_Type": "Notification", "queue_name": queue })
}

async fn subscribe(peer: &mut Peer, queue: &str) -> String {
    let (status, body) = peer.ask("subscription_create", json!({ "queue_name": queue })).await;
    assert_eq!(status, 201, "{body}");
    assert_eq!(body["message"], format!("Subscription {queue} created."));
    body["subscription_id"].as_str().unwrap().to_owned()
}

async fn subscriptions(peer: &mut Peer, queue: &str) -> Vec<Value> {
    let (_, body) = peer.ask("subscription_list", json!({ "queue_name": queue })).await;
    body["subscriptions"].as_array().unwrap().clone()
}

#[tokio::test]
async fn messages_reach_the_connection_in_the_encoding_it_subscribed_in() {
    let setup = Setup::new(Options::default());
    let producer = &mut setup.connect().await;
    let bodies = [json!({ "a": [1, 2.5, null, "ä"] }), json!("two"), json!(null)];
    for encoding in BOTH {
        let mut peer = setup.connect_as(encoding).await;
        subscribe(&mut peer, "q").await;
        assert_eq!(producer.ask("message_post", post("q", &bodies)).await.0, 201);
        for body in &bodies {
            assert_eq!(peer.next().await, push("q", body));
        }
        // Posts to other queues and other projects are not pushed.
        producer.ask("message_post", post("other", &bodies)).await;
        producer.headers["X-Project-ID"] = "p2".into();
        producer.ask("message_post", post("q", &bodies)).await;
        producer.headers["X-Project-ID"] = "p".into();
        assert_eq!(peer.ask("queue_get", json!({ "queue_name": "q" })).await.0, 200);
    }
}

#[tokio::test]
async fn one_connection_subscribes_to_queues_in_different_encodings() {
    let setup = Setup::new(Options::default());
    let peer = &mut setup.connect().await;
    subscribe(peer, "text").await;
    peer.encoding = Encoding::MessagePack;
    subscribe(peer, "binary").await;
    let producer = &mut setup.connect().await;
    producer.ask("message_post", post("text", &[json!(1)])).await;
    let message = peer.next_message().await;
    assert_eq!(Encoding::Json.document(&message), push("text", &json!(1)));
    producer.ask("message_post", post("binary", &[json!(2)])).await;
    let message = peer.next_message().await;
    assert_eq!(Encoding::MessagePack.document(&message), push("binary", &json!(2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_answer_comes_before_the_first_push() {
    let setup = Setup::new(Options { max_waiting_pushes: 10_000, ..Options::default() });
    // A producer posts all the time, so that pushes are ready as soon as the subscription is.
    let mut producer = setup.connect().await;
    let posting = tokio::spawn(async move {
        for at in 0.. {
            producer.ask("message_post", post("q", &[json!(at)])).await;
        }
    });
    for _ in 0..200 {
        let peer = &mut setup.connect().await;
        peer.send("subscription_create", json!({ "queue_name": "q" })).await;
        assert_eq!(split(peer.next().await).0, 201);
        assert_eq!(peer.next().await["Message_Type"], "Notification");
    }
    posting.abort();
}

#[tokio::test]
async fn a_connection_subscribes_to_a_queue_once() {
    let setup = Setup::new(Options::default());
    let peer = &mut setup.connect().await;
    let q = json!({ "queue_name": "q" });
    let id = subscribe(peer, "q").await;
    let again = (409, json!("Subscription q not created."));
    assert_eq!(peer.ask("subscription_create", q.clone()).await, again);
    let empty = json!({ "queue_name": "q", "subscriber": "" });
    assert_eq!(peer.ask("subscription_create", empty).await, again);
    let shown = subscriptions(peer, "q").await;
    assert_eq!(
        (shown.len(), &shown[0]["id"], &shown[0]["confirmed"]),
        (1, &json!(id), &json!(true))
    );
    // Once it is deleted, another may be created; nothing is pushed twice.
    let named = json!({ "queue_name": "q", "subscription_id": id });
    assert_eq!(peer.ask("subscription_delete", named).await.0, 204);
    subscribe(peer, "q").await;
    // Another project's queue of that name is another queue.
    peer.headers["X-Project-ID"] = "p2".into();
    subscribe(peer, "q").await;
    peer.headers["X-Project-ID"] = "p".into();
    peer.send("message_post", post("q", &[json!(1)])).await;
    peer.send("queue_get", q).await;
    let mut pushes = 0;
    for _ in 0..3 {
        pushes += u32::from(peer.next().await.get("Message_Type").is_some());
    }
    assert_eq!(pushes, 1);
}

#[tokio::test]
async fn an_invalid_subscription_is_400_and_not_created() {
    let setup = Setup::new(Options::default());
    let peer = &mut setup.connect().await;
    for body in [
        json!({ "queue_name": "a b" }),
        json!({ "queue_name": "q", "ttl": 1 }),
        json!({ "queue_name": "q", "options": { "_retry_policy": 1 } }),
        json!({ "queue_name": "q", "options": { "filter": { "body": ["yes"] } } }),
    ] {
        assert_eq!(peer.ask("subscription_create", body).await.0, 400);
    }
    assert!(subscriptions(peer, "q").await.is_empty());
}

#[tokio::test]
async fn nothing_is_pushed_to_a_deleted_subscription() {
    let setup = Setup::new(Options::default());
    let peer = &mut setup.connect().await;
    let id = subscribe(peer, "q").await;
    let named = json!({ "queue_name": "q", "subscription_id": id });
    peer.ask("subscription_delete", named).await;
    let producer = &mut setup.connect().await;
    producer.ask("message_post", post("q", &[json!(1)])).await;
    // This push comes after any of the first post.
    subscribe(peer, "q2").await;
    producer.ask("message_post", post("q2", &[json!(2)])).await;
    assert_eq!(peer.next().await, push("q2", &json!(2)));
}

/// Waits until a queue has no subscriptions.
async fn wait_until_none(observer: &mut Peer, queue: &str) {
    let none = async {
        while !subscriptions(observer, queue).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, none).await.expect("subscriptions are left");
}

#[tokio::test]
async fn subscriptions_end_with_their_connection() {
    let setup = Setup::new(Options::default());
    let observer = &mut setup.connect().await;
    let mut closing = setup.connect().await;
    subscribe(&mut closing, "closed").await;
    let mut vanishing = setup.connect().await;
    subscribe(&mut vanishing, "vanished").await;
    let mut staying = setup.connect().await;
    subscribe(&mut staying, "stays").await;
    closing.socket.close(None).await.unwrap();
    drop(vanishing);
    wait_until_none(observer, "closed").await;
    wait_until_none(observer, "vanished").await;
    assert_eq!(subscriptions(observer, "stays").await.len(), 1);
    setup.api.stop_pushes().await;
    assert_eq!(staying.close_code().await, 1001);
}

#[tokio::test]
async fn a_connection_that_reads_too_slowly_is_closed_with_1013() {
    let options = Options { max_waiting_pushes: 4, ..Options::default() };
    let setup = Setup::new(options);
    let mut slow = setup.connect().await;
    subscribe(&mut slow, "q").await;
    let producer = &mut setup.connect().await;
    // More than the stream's buffer and `max_waiting_pushes` hold.
    let body = json!("x".repeat(4000));
    for _ in 0..20 {
        producer.ask("message_post", post("q", &vec![body.clone(); 10])).await;
    }
    wait_until_none(producer, "q").await;
    let mut pushes = 0;
    let code = loop {
        match slow.next_message().await {
            Message::Text(_) => pushes += 1,
            Message::Close(Some(frame)) => break u16::from(frame.code),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(code, 1013);
    assert!(pushes < 100, "{pushes} pushes came");
}

#[tokio::test]
async fn one_post_is_pushed_to_many_connections() {
    let setup = Setup::new(Options::default());
    let mut peers = Vec::new();
    for at in 0..100 {
        let mut peer = setup.connect_as(BOTH[at % 2]).await;
        subscribe(&mut peer, "q").await;
        peers.push(peer);
    }
    let producer = &mut setup.connect().await;
    producer.ask("message_post", post("q", &[json!({ "n": 1 })])).await;
    for peer in &mut peers {
        assert_eq!(peer.next().await, push("q", &json!({ "n": 1 })));
    }
}

/// Some clients treat the next frame after a request as its answer.
#[tokio::test]
async fn no_push_is_sent_between_reading_a_request_and_answering_it() {
    let setup = Setup::new(Options { max_waiting_pushes: 1000, ..Options::default() });
    let mut peer = setup.connect().await;
    subscribe(&mut peer, "q").await;
    let mut pushes = 0;
    for at in 0..100 {
        // Its own post is pushed, too, but never before the answer.
        let requests = [
            peer.request("message_post", post("q", &[json!(at)])),
            peer.request("queue_get", json!({ "queue_name": "q" })),
        ];
        for request in requests {
            peer.socket.feed(peer.encoding.message(&request)).await.unwrap();
        }
        // Both are sent together.
        peer.socket.flush().await.unwrap();
        let mut answers = 0;
        while answers < 2 {
            let next = peer.next().await;
            if next.get("Message_Type").is_some() {
                // A push of an earlier post.
                assert_eq!(answers, 0, "a push between the answers to two requests sent together");
                pushes += 1;
            } else {
                answers += 1;
            }
        }
    }
    while pushes < 100 {
        assert_eq!(peer.next().await["Message_Type"], "Notification");
        pushes += 1;
    }
}
