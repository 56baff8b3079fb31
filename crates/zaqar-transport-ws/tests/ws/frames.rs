//! Invalid frames: each is answered or closes its connection, and affects no other.

use futures_util::{SinkExt, StreamExt};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use zaqar_transport_ws::Options;

use crate::support::{Encoding, Setup, split};

#[tokio::test]
async fn an_invalid_request_is_400_in_its_encoding() {
    let setup = Setup::new(Options::default());
    let peer = &mut setup.connect().await;
    for (text, says) in [
        ("", "Can't decode text (JSON) request. "),
        ("{", "Can't decode text (JSON) request. "),
        ("{} {}", "Can't decode text (JSON) request. "),
        ("{\"action\": 9223372036854775808}", "integer that is too large"),
        ("[1]", "Unexpected body type. Expected dict or dict like."),
        ("\"x\"", "Unexpected body type. Expected dict or dict like."),
        ("{}", "None is not a valid action"),
        ("{\"action\":[\"x\"]}", "[\"x\"] is not a valid action"),
        ("{\"action\":\"queue_list\"}", "Schema validation failed."),
    ] {
        peer.send_raw(Message::text(text)).await;
        let answer = peer.next().await;
        let error = answer["body"]["error"].as_str().unwrap_or_default().to_owned();
        assert!(error.contains(says), "{text}: {error}");
        assert_eq!(answer["headers"]["status"], 400, "{text}");
        assert_eq!(answer["request"]["api"], "v2", "{text}");
    }
    let peer = &mut setup.connect_as(Encoding::MessagePack).await;
    for bytes in
        [&b""[..], b"\xc1", b"\x92\x01", b"\x01\x02", b"\x81\x01\x02", b"\xdf\xff\xff\xff\xff"]
    {
        peer.send_raw(Message::binary(bytes.to_vec())).await;
        let (status, body) = split(peer.next().await);
        let error = body["error"].as_str().unwrap();
        assert_eq!(status, 400);
        assert!(error.starts_with("Can't decode binary (MessagePack) request. "), "{error}");
    }
    assert_eq!(peer.ask("queue_list", json!({})).await.0, 200);
}

#[tokio::test]
async fn bodies_come_back_byte_for_byte() {
    let setup = Setup::new(Options::default());
    let peer = &mut setup.connect().await;
    // A parsed tree would lose order, repeated names, digits, escapes and spaces.
    let body = r#"{"b":1.10, "a" : [1e2,"A\u0041"],"b":12345678901234567890.5}"#;
    let request = format!(
        r#"{{"action":"message_post","headers":{},"body":{{"queue_name":"q","messages":[{{"body":{body}}}]}}}}"#,
        peer.headers
    );
    peer.send_raw(Message::text(request)).await;
    assert_eq!(split(peer.next().await).0, 201);
    peer.send("message_list", json!({ "queue_name": "q", "echo": true })).await;
    let answer = peer.next_message().await;
    assert!(answer.to_text().unwrap().contains(body), "{answer}");
}

#[tokio::test]
async fn a_request_past_a_limit_is_400_and_names_the_limit() {
    let setup = Setup::new(Options::default());
    let peer = &mut setup.connect().await;
    let messages = |count: usize| vec![json!({ "body": "x".repeat(1000) }); count];
    let (status, body) =
        peer.ask("message_post", json!({ "queue_name": "q", "messages": messages(300) })).await;
    assert_eq!(status, 400);
    assert_eq!(body["exception"], "Message collection size is too large. Max size 262144");
    for (action, body, says) in [
        ("message_post", json!({ "queue_name": "q", "messages": [] }), "No messages to enqueu."),
        ("message_post", json!({ "queue_name": "q", "messages": [3] }), "Bad request. "),
        (
            "message_post",
            json!({ "queue_name": "q", "messages": [{ "ttl": 60 }] }),
            "Missing \"body\"",
        ),
        (
            "message_post",
            json!({ "queue_name": "q", "messages": [{ "body": 1, "ttl": 1 }] }),
            "1209600",
        ),
        (
            "message_post",
            json!({ "queue_name": "a b", "messages": [{ "body": 1 }] }),
            "Queue names",
        ),
        ("queue_get", json!({ "queue_name": "x".repeat(65) }), "64 characters"),
        ("queue_list", json!({ "limit": 21 }), "20"),
        ("message_list", json!({ "queue_name": "q", "limit": 0 }), "20"),
        ("message_get_many", json!({ "queue_name": "q", "message_ids": vec!["x"; 21] }), "20"),
        ("message_delete_many", json!({ "queue_name": "q", "message_ids": vec!["x"; 21] }), "20"),
        ("message_delete_many", json!({ "queue_name": "q", "pop": 21 }), "20"),
        ("message_delete_many", json!({ "queue_name": "q" }), "\"ids\" or \"pop\""),
        (
            "message_delete_many",
            json!({ "queue_name": "q", "pop": 1, "message_ids": ["x"] }),
            "together",
        ),
        ("claim_create", json!({ "queue_name": "q", "limit": 21 }), "20"),
        ("claim_create", json!({ "queue_name": "q", "ttl": 1 }), "43200"),
        ("subscription_list", json!({ "queue_name": "q", "limit": 21 }), "20"),
        ("subscription_list", json!({ "queue_name": "q", "limit": "x" }), "limit"),
        (
            "queue_create",
            json!({ "queue_name": "q", "metadata": { "x": "y".repeat(70_000) } }),
            "65536",
        ),
        ("queue_create", json!({ "queue_name": "q", "metadata": "x" }), "object"),
    ] {
        let (status, answer) = peer.ask(action, body).await;
        let text = answer["exception"].as_str().unwrap_or_default();
        assert_eq!(status, 400, "{action}: {answer}");
        assert!(text.contains(says) && answer["error"].is_null(), "{action}: {answer}");
    }
    for (headers, says) in [
        (json!({ "Client-ID": "c", "X-Project-ID": "p" }), "badly formed hexadecimal UUID string"),
        (
            json!({ "Client-ID": "c", "X-Project-ID": "" }),
            "X-PROJECT-ID cannot be an empty string.",
        ),
        (json!({ "Client-ID": "c", "X-Project-ID": "x".repeat(257) }), "256 characters"),
    ] {
        peer.headers = headers;
        let (status, answer) = peer.ask("message_list", json!({ "queue_name": "q" })).await;
        assert_eq!(status, 400);
        assert!(answer["exception"].as_str().unwrap().contains(says), "{answer}");
    }
}

#[tokio::test]
async fn fragments_are_one_message() {
    let setup = Setup::new(Options::default());
    let peer = &mut setup.connect().await;
    let request =
        peer.request("queue_create", json!({ "queue_name": "q", "metadata": { "a": "äöü" } }));
    let bytes = request.to_string().into_bytes();
    let count = bytes.len();
    for (at, byte) in bytes.into_iter().enumerate() {
        let data = if at == 0 { Data::Text } else { Data::Continue };
        let frame = Frame::message(vec![byte], OpCode::Data(data), at + 1 == count);
        peer.send_raw(Message::Frame(frame)).await;
        if at == count / 2 {
            peer.send_raw(Message::Ping("between".into())).await;
        }
    }
    assert_eq!(split(peer.next().await).0, 201);
}

/// Frames of a hostile peer.
fn hostile() -> impl Strategy<Value = Vec<Message>> {
    let frame = |kind: OpCode, is_final: bool, payload: Vec<u8>| {
        Message::Frame(Frame::message(payload, kind, is_final))
    };
    let bytes = || prop::collection::vec(any::<u8>(), 0..200);
    let nested = |open: &'static str, depth: usize| Message::text(open.repeat(depth));
    let request = "\\{\"action\":\"[a-z_]{0,14}\",\"headers\":\\{\"Client-ID\":.{0,9},\"X-Project-ID\":\"p\"\\},\"body\":\\PC{0,30}\\}";
    let one = prop_oneof![
        any::<String>().prop_map(Message::text),
        request.prop_map(Message::text),
        bytes().prop_map(Message::binary),
        // Text that is not UTF-8.
        bytes().prop_map(move |bytes| frame(OpCode::Data(Data::Text), true, bytes)),
        // Continuations without a start, and messages that never end.
        (any::<bool>(), bytes()).prop_map(move |(is_final, bytes)| {
            frame(OpCode::Data(Data::Continue), is_final, bytes)
        }),
        bytes().prop_map(move |bytes| frame(OpCode::Data(Data::Text), false, bytes)),
        bytes().prop_map(move |bytes| frame(OpCode::Data(Data::Reserved(5)), true, bytes)),
        // Larger than allowed.
        Just(Message::binary(vec![0x91; 70_000])),
        Just(Message::text("x".repeat(70_000))),
        // Deeply nested.
        Just(nested("[", 10_000)),
        Just(nested("{\"a\":", 10_000)),
        Just(Message::binary(vec![0x91; 10_000])),
        Just(Message::binary([0x81, 0xa1, b'a'].repeat(10_000))),
        bytes().prop_map(|mut bytes| {
            bytes.truncate(120);
            Message::Ping(bytes.into())
        }),
    ];
    prop::collection::vec(one, 1..8)
}

#[tokio::test]
async fn hostile_frames_affect_no_other_connection() {
    let options = Options { max_message_size: 64 * 1024, ..Options::default() };
    let setup = Setup::new(options);
    let mut other = setup.connect().await;
    let mut runner = TestRunner::default();
    for _ in 0..150 {
        let messages = hostile().new_tree(&mut runner).unwrap().current();
        let peer = setup.connect().await;
        let (mut sink, mut stream) = peer.socket.split();
        let sending = async {
            for message in messages.clone() {
                // The service may have closed the connection because of an earlier frame.
                if sink.send(message).await.is_err() {
                    return;
                }
            }
            let _ = sink.close().await;
        };
        let reading = async { while let Some(Ok(_)) = stream.next().await {} };
        let both = async { tokio::join!(sending, reading) };
        tokio::time::timeout(crate::support::LONG, both)
            .await
            .unwrap_or_else(|_| panic!("a connection does not end: {messages:?}"));
        assert_eq!(other.ask("queue_list", json!({})).await.0, 200, "{messages:?}");
    }
}
