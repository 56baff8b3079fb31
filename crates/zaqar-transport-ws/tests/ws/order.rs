//! Many requests at once: answers and effects are in the order of the requests.

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use zaqar_transport_ws::Options;

use crate::support::{BOTH, Encoding, Setup};

#[tokio::test]
async fn answers_come_in_the_order_of_the_requests() {
    for encoding in BOTH {
        let peer = &mut Setup::new(Options::default()).connect_as(encoding).await;
        // More than may be in flight; requests for different queues may overlap.
        let names: Vec<String> = (0..100).map(|at| format!("q{}", at % 7)).collect();
        let requests: Vec<_> = names
            .iter()
            .map(|name| {
                let body = json!({ "queue_name": name, "messages": [{ "body": 1 }] });
                encoding.message(&peer.request("message_post", body))
            })
            .collect();
        let (mut sink, mut stream) = futures_util::StreamExt::split(&mut peer.socket);
        let sending = async {
            for request in requests {
                sink.send(request).await.unwrap();
            }
        };
        let reading = async {
            for name in &names {
                let message = futures_util::StreamExt::next(&mut stream).await.unwrap().unwrap();
                let answer = encoding.document(&message);
                assert_eq!(answer["request"]["body"]["queue_name"], **name);
                assert_eq!(answer["headers"]["status"], 201);
            }
        };
        let both = async { tokio::join!(sending, reading) };
        tokio::time::timeout(crate::support::LONG, both).await.unwrap();
    }
}

#[tokio::test]
async fn requests_for_one_queue_take_effect_in_order() {
    let setup = Setup::new(Options::default());
    let peer = &mut setup.connect().await;
    for round in 0..20 {
        let queue = format!("q{round}");
        let named = json!({ "queue_name": queue });
        let list = json!({ "queue_name": queue, "echo": true });
        let post = |body: u64| json!({ "queue_name": queue, "messages": [{ "body": body }] });
        for (action, body) in [
            ("queue_get_stats", named.clone()),
            ("message_post", post(1)),
            ("message_list", list.clone()),
            ("message_post", post(2)),
            ("message_list", list.clone()),
            ("queue_list", json!({ "limit": 20, "marker": format!("q{round}!") })),
            ("queue_delete", named.clone()),
            ("queue_get_stats", named.clone()),
        ] {
            let request = peer.request(action, body).to_string();
            peer.socket.feed(Message::text(request)).await.unwrap();
        }
        peer.socket.flush().await.unwrap();
        let mut answers = Vec::new();
        for _ in 0..8 {
            answers.push(peer.next().await);
        }
        let bodies = |answer: &Value| -> Vec<Value> {
            let messages = answer["body"]["messages"].as_array().unwrap();
            messages.iter().map(|message| message["body"].clone()).collect()
        };
        assert_eq!(answers[0]["headers"]["status"], 404);
        assert_eq!(bodies(&answers[2]), [json!(1)]);
        assert_eq!(bodies(&answers[4]), [json!(1), json!(2)]);
        assert!(
            answers[5]["body"]["queues"].as_array().unwrap().iter().any(|q| q["name"] == *queue)
        );
        assert_eq!(answers[7]["headers"]["status"], 404);
    }
}

#[tokio::test]
async fn each_answer_is_in_the_encoding_of_its_request() {
    let setup = Setup::new(Options::default());
    let peer = &mut setup.connect().await;
    let request = peer.request("queue_list", json!({}));
    let order = [Encoding::Json, Encoding::MessagePack, Encoding::MessagePack, Encoding::Json];
    for encoding in order {
        peer.socket.feed(encoding.message(&request)).await.unwrap();
    }
    peer.socket.flush().await.unwrap();
    for encoding in order {
        let message = peer.next_message().await;
        assert_eq!(encoding.document(&message)["headers"]["status"], 200);
    }
}
