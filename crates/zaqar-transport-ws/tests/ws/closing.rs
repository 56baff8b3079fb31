//! How connections are closed, and with which code and reason.

use std::time::Duration;

use futures_util::SinkExt;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use zaqar_transport_ws::Options;

use crate::support::{LONG, Setup, split};

fn text(payload: &[u8], is_final: bool) -> Message {
    Message::Frame(Frame::message(payload.to_vec(), OpCode::Data(Data::Text), is_final))
}

#[tokio::test]
async fn the_close_code_names_the_violation() {
    let setup = Setup::new(Options { max_message_size: 2000, ..Options::default() });
    let continuation = Frame::message(vec![b'x'], OpCode::Data(Data::Continue), true);
    let reserved = Frame::message(vec![b'x'], OpCode::Data(Data::Reserved(4)), true);
    for (messages, code) in [
        (vec![Message::text("x".repeat(2001))], CloseCode::Size),
        (vec![Message::text("x".repeat(8_000_000))], CloseCode::Size),
        (
            vec![text(&[b'x'; 1500], false), continuation.clone().into_message(1500)],
            CloseCode::Size,
        ),
        (vec![text(b"\xff\xfe", true)], CloseCode::Invalid),
        (vec![Message::Frame(continuation)], CloseCode::Protocol),
        (vec![text(b"a", false), text(b"b", true)], CloseCode::Protocol),
        (vec![Message::Frame(reserved)], CloseCode::Protocol),
    ] {
        let mut peer = setup.connect().await;
        assert_eq!(peer.ask("queue_list", json!({})).await.0, 200);
        for message in messages {
            peer.send_raw(message).await;
        }
        let frame = peer.closed().await.expect("a reason");
        assert_eq!(frame.code, code, "{}", frame.reason);
        assert!(!frame.reason.is_empty());
    }
}

trait IntoMessage {
    fn into_message(self, length: usize) -> Message;
}

impl IntoMessage for Frame {
    /// The same frame with a payload of another length.
    fn into_message(self, length: usize) -> Message {
        Message::Frame(Frame::message(vec![b'x'; length], self.header().opcode, true))
    }
}

#[tokio::test]
async fn a_message_of_the_maximum_size_is_read() {
    let setup = Setup::new(Options { max_message_size: 2000, ..Options::default() });
    let mut peer = setup.connect().await;
    let mut request = peer.request("queue_list", json!({})).to_string();
    request.push_str(&" ".repeat(2000 - request.len()));
    peer.send_raw(Message::text(request)).await;
    assert_eq!(split(peer.next().await).0, 200);
}

#[tokio::test]
async fn shutdown_answers_requests_and_closes_with_1001() {
    let setup = Setup::new(Options::default());
    let mut idle = setup.connect().await;
    let mut busy = setup.connect().await;
    assert_eq!(idle.ask("queue_list", json!({})).await.0, 200);
    for at in 0..10 {
        let message = json!({ "queue_name": "q", "messages": [{ "body": at }] });
        busy.send("message_post", message).await;
    }
    // Once the first is answered, the others have been read or are in the stream's buffer.
    assert_eq!(split(busy.next().await).0, 201);
    setup.shutdown.cancel();
    assert_eq!(idle.close_code().await, 1001);
    assert_eq!(busy.close_code().await, 1001);
}

#[tokio::test]
async fn a_peer_that_answers_no_pings_is_closed() {
    let options = Options {
        ping_interval: Duration::from_millis(200),
        idle_timeout: Duration::from_millis(1000),
        ..Options::default()
    };
    let setup = Setup::new(options);
    // This client answers pings only while it is read from, which happens after the timeout.
    let mut silent = setup.connect().await;
    // This one answers, and stays connected.
    let mut awake = setup.connect().await;
    let until = tokio::time::Instant::now() + Duration::from_millis(2500);
    let mut pings = 0;
    while let Ok(next) =
        tokio::time::timeout_at(until, futures_util::StreamExt::next(&mut awake.socket)).await
    {
        match next {
            Some(Ok(Message::Ping(_))) => pings += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(pings >= 2, "{pings} pings");
    assert_eq!(awake.ask("queue_list", json!({})).await.0, 200);
    assert_eq!(silent.close_code().await, 1008);
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_not_read_from_and_closed() {
    let options = Options {
        send_timeout: Duration::from_secs(1),
        ping_interval: Duration::from_millis(500),
        ..Options::default()
    };
    let setup = Setup::new(options);
    let mut peer = setup.connect().await;
    let body = "x".repeat(10_000);
    let mut sent = 0;
    // Each answer repeats its request, so unread answers soon fill the buffers.
    let refused = tokio::time::timeout(LONG, async {
        loop {
            let message = json!({ "queue_name": "q", "messages": [{ "body": body }] });
            let request = peer.request("message_post", message).to_string();
            if peer.socket.send(Message::text(request)).await.is_err() {
                return;
            }
            sent += 1;
        }
    });
    refused.await.expect("the connection is not closed");
    assert!(sent < 200, "{sent} requests were read from a peer that reads nothing");
}
