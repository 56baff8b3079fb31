//! Connections are charged to the memory budget, and closed at once when they exceed it.

use futures_util::SinkExt;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use zaqar_core::{MemoryBounds, MemoryBudget};
use zaqar_transport_ws::Options;

use crate::support::{Peer, Setup, api_within};

fn bounded(connection: usize) -> MemoryBudget {
    MemoryBudget::new(MemoryBounds { connection, ..MemoryBounds::UNLIMITED })
}

/// Sends the header of a text frame of 1 MiB, and this many bytes of its payload.
async fn send_unfinished(peer: &mut Peer, bytes: usize) {
    let stream = peer.socket.get_mut();
    let mut frame = vec![0x81, 0x80 | 127, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0];
    frame.resize(frame.len() + bytes, b'x');
    // The service may have closed the connection already.
    let _ = stream.write_all(&frame).await;
}

#[tokio::test]
async fn an_unfinished_message_over_the_budget_closes_with_1013_that_says_why() {
    let memory = bounded(100 << 10);
    let setup = Setup::with(api_within(memory.clone()), Options::default());
    let mut peer = setup.connect().await;
    send_unfinished(&mut peer, 500 << 10).await;
    let frame = peer.closed().await.expect("a reason");
    assert_eq!(u16::from(frame.code), 1013);
    assert_eq!(
        frame.reason.as_str(),
        "Over the memory budget of the connection, 102400 bytes; retry later."
    );
    drop(peer);
    while memory.in_use() > 0 {
        tokio::task::yield_now().await;
    }
}

/// 100 connections send an unfinished message each.
#[tokio::test]
async fn many_unfinished_messages_stay_within_the_budget() {
    const BUDGET: usize = 4 << 20;
    let memory = MemoryBudget::new(MemoryBounds { process: BUDGET, ..MemoryBounds::UNLIMITED });
    let setup = Setup::with(api_within(memory.clone()), Options::default());
    let mut peers = Vec::new();
    for _ in 0..100 {
        let mut peer = setup.connect().await;
        send_unfinished(&mut peer, 200 << 10).await;
        assert!(memory.in_use() <= BUDGET);
        peers.push(peer);
    }
    assert!(memory.refused() > 0);
    // Afterwards, new connections are served.
    drop(peers);
    while memory.in_use() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(setup.connect().await.ask("queue_list", json!({})).await.0, 200);
}

#[tokio::test]
async fn fragments_with_pings_between_them_are_charged() {
    let setup = Setup::with(api_within(bounded(100 << 10)), Options::default());
    let mut peer = setup.connect().await;
    let first = Frame::message(vec![b'x'; 1000], OpCode::Data(Data::Text), false);
    let next = Frame::message(vec![b'x'; 1000], OpCode::Data(Data::Continue), false);
    let mut sent = peer.socket.send(Message::Frame(first)).await;
    for _ in 0..200 {
        if sent.is_err() {
            break;
        }
        sent = peer.socket.send(Message::Frame(next.clone())).await;
        let _ = peer.socket.send(Message::Ping(vec![0; 100].into())).await;
    }
    assert_eq!(peer.close_code().await, 1013);
}

#[tokio::test]
async fn unread_answers_are_charged_and_freed() {
    let memory = bounded(1 << 20);
    let setup = Setup::with(api_within(memory.clone()), Options::default());
    let mut peer = setup.connect().await;
    let body = json!({
        "queue_name": "q",
        "messages": [{ "body": "x".repeat(200_000), "ttl": 100 }],
    });
    assert_eq!(peer.ask("message_post", body).await.0, 201);
    for _ in 0..20 {
        peer.send("message_list", json!({ "queue_name": "q", "echo": true })).await;
    }
    // The client reads nothing until the answers are charged or the connection is closed.
    while memory.in_use() < 200_000 && memory.refused() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(memory.in_use() <= 1 << 20);
    drop(peer);
    while memory.in_use() > 0 {
        tokio::task::yield_now().await;
    }
}

/// An answer to a change is sent whatever its size, since the client cannot ask for it again.
#[tokio::test]
async fn popped_and_claimed_messages_are_answered_over_the_budget() {
    let memory = bounded(1 << 20);
    let setup = Setup::with(api_within(memory.clone()), Options::default());
    let mut peer = setup.connect().await;
    let post = json!({
        "queue_name": "q",
        "messages": [{ "body": "x".repeat(200_000), "ttl": 100 }],
    });
    for action in ["claim_create", "message_delete_many"] {
        for _ in 0..8 {
            assert_eq!(peer.ask("message_post", post.clone()).await.0, 201);
        }
        let take = match action {
            "claim_create" => json!({ "queue_name": "q", "limit": 8, "ttl": 100, "grace": 100 }),
            _ => json!({ "queue_name": "q", "pop": 8 }),
        };
        // The next request waits; it is small enough for the stream's buffer.
        peer.send(action, take).await;
        let small = json!({ "queue_name": "q", "messages": [{ "body": 1, "ttl": 100 }] });
        peer.send("message_post", small).await;
        let answer = peer.next().await;
        assert_eq!(answer["body"]["messages"].as_array().map(Vec::len), Some(8), "{action}");
        let status = peer.next().await["headers"]["status"].as_u64();
        assert!(matches!(status, Some(201 | 503)), "{status:?}");
        assert_eq!(peer.ask("queue_delete", json!({ "queue_name": "q" })).await.0, 204);
    }
    assert!(memory.refused() > 0);
    drop(peer);
    while memory.in_use() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn no_request_is_executed_while_an_answer_exceeds_the_budget() {
    const BUDGET: usize = 1 << 20;
    let memory = bounded(BUDGET);
    let one_at_a_time = Options { max_in_flight: 1, ..Options::default() };
    let setup = Setup::with(api_within(memory.clone()), one_at_a_time);
    let (mut peer, mut other) = (setup.connect().await, setup.connect().await);
    let post = json!({
        "queue_name": "q",
        "messages": [{ "body": "x".repeat(200_000), "ttl": 100 }],
    });
    for _ in 0..8 {
        assert_eq!(peer.ask("message_post", post.clone()).await.0, 201);
    }
    peer.send("message_delete_many", json!({ "queue_name": "q", "pop": 8 })).await;
    // This one is read before the answer exists; the later ones wake the connection.
    peer.send("queue_create", json!({ "queue_name": "one" })).await;
    while memory.in_use() <= BUDGET {
        tokio::task::yield_now().await;
    }
    for name in ["two", "three"] {
        peer.send("queue_create", json!({ "queue_name": name })).await;
        let (_, listed) = other.ask("queue_list", json!({})).await;
        assert_eq!(listed["queues"].as_array().map(Vec::len), Some(1), "{name}: {listed}");
    }
    assert_eq!(peer.next().await["body"]["messages"].as_array().map(Vec::len), Some(8));
    for _ in ["one", "two", "three"] {
        assert_eq!(peer.next().await["headers"]["status"], 201);
    }
}

/// Pages of subscriptions and queues may be as large as those of messages.
#[tokio::test]
async fn memory_for_a_page_is_reserved_before_it_is_read() {
    let memory = MemoryBudget::new(MemoryBounds { process: 400_000, ..MemoryBounds::UNLIMITED });
    let setup = Setup::with(api_within(memory), Options::default());
    let peer = &mut setup.connect().await;
    assert_eq!(peer.ask("queue_create", json!({ "queue_name": "q" })).await.0, 201);
    for action in ["subscription_list", "queue_list", "message_list"] {
        assert_eq!(peer.ask(action, json!({ "queue_name": "q" })).await.0, 503, "{action}");
    }
}

/// The stream's buffer stays as large as the largest message.
#[tokio::test]
async fn a_connection_is_charged_for_its_largest_message_until_it_is_closed() {
    let memory = bounded(1 << 20);
    let setup = Setup::with(api_within(memory.clone()), Options::default());
    let mut peer = setup.connect().await;
    assert_eq!(peer.ask("queue_list", json!({})).await.0, 200);
    assert_eq!(memory.in_use(), 0);
    let large = json!({
        "queue_name": "q",
        "messages": [{ "body": "x".repeat(200_000), "ttl": 100 }],
    });
    assert_eq!(peer.ask("message_post", large).await.0, 201);
    assert_eq!(peer.ask("queue_list", json!({})).await.0, 200);
    let charged = memory.in_use();
    assert!((200_000..220_000).contains(&charged), "{charged}");
    drop(peer);
    while memory.in_use() > 0 {
        tokio::task::yield_now().await;
    }
}
