//! The WebSocket: requests, pushes, and reconnects.

use std::sync::atomic::Ordering;

use futures_util::{FutureExt, SinkExt, StreamExt};
use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;
use zaqar_client::websocket::Event;
use zaqar_client::{Client, Error, NewMessage};

use crate::keystone::{client as keystone_client, keystone};
use crate::support::Server;

fn text(event: Option<Event>) -> String {
    let Some(Event::Message(pushed)) = &event else { panic!("{event:?}") };
    pushed.body.as_json().to_owned()
}

#[tokio::test]
async fn requests_are_answered_and_messages_are_pushed() {
    let server = Server::start();
    let (socket, mut events) = server.client().websocket(&server.websocket_url).await.unwrap();
    socket.subscribe("q", 3600).await.unwrap();
    let messages = [NewMessage::new(1).unwrap(), NewMessage::new(2).unwrap().ttl(60)];
    assert_eq!(socket.post("q", messages).await.unwrap().len(), 2);
    assert_eq!((text(events.next().await), text(events.next().await)), ("1".into(), "2".into()));
    let reply = socket.request("message_list", json!({"queue_name": "q", "echo": true})).await;
    let list: serde_json::Value = reply.unwrap().body.parse().unwrap();
    assert_eq!(list["messages"].as_array().unwrap().len(), 2);
    let error = socket.request("queue_create", json!({"queue_name": "a/b"})).await.unwrap_err();
    assert_eq!(error.status(), Some(400), "{error}");
    let error = socket.subscribe("q", 3600).await.unwrap_err();
    assert_eq!(error.status(), Some(409), "{error}");
    // Many at once, each with its own answer.
    let names: Vec<_> = (0..200).map(|at| format!("q{at}")).collect();
    let asked =
        names.iter().map(|name| socket.request("queue_create", json!({"queue_name": name})));
    let replies = futures_util::future::join_all(asked).await;
    assert!(replies.iter().all(|reply| reply.as_ref().unwrap().status == 201));
}

/// A proxy that cuts its connections on demand.
async fn proxy(to: String) -> (String, watch::Sender<u32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let (cut, cuts) = watch::channel(0);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (to, mut cuts) = (to.clone(), cuts.clone());
            cuts.mark_unchanged();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await.unwrap();
                tokio::select! {
                    _ = copy_bidirectional(&mut near, &mut far) => {}
                    _ = cuts.changed() => {}
                }
            });
        }
    });
    (url, cut)
}

#[tokio::test]
async fn a_broken_connection_is_reopened_and_subscribed_again() {
    let server = Server::start();
    let address = server.websocket_url.trim_start_matches("ws://").trim_end_matches('/');
    let (url, cut) = proxy(address.to_owned()).await;
    let client = server.client();
    let (socket, mut events) = client.websocket(&url).await.unwrap();
    socket.subscribe("q", 3600).await.unwrap();
    cut.send(1).unwrap();
    assert_eq!(events.next().await, Some(Event::Reconnected));
    client.queue("q").unwrap().post([NewMessage::new("again").unwrap()]).await.unwrap();
    assert_eq!(text(events.next().await), "\"again\"");
    socket.request("ping_node", json!({})).await.unwrap();
}

#[tokio::test]
async fn a_request_in_flight_is_not_sent_twice() {
    let server = Server::start();
    let address = server.websocket_url.trim_start_matches("ws://").trim_end_matches('/');
    let (url, cut) = proxy(address.to_owned()).await;
    let (socket, mut events) = server.client().websocket(&url).await.unwrap();
    cut.send(1).unwrap();
    assert_eq!(events.next().await, Some(Event::Reconnected));
    // The connection is cut while the post is in flight: it may be answered or fail, but is never
    // repeated.
    let post = socket.post("q", [NewMessage::new(1).unwrap()]);
    let (posted, _) = tokio::join!(post, async { cut.send(2).unwrap() });
    let most = match posted {
        Ok(ids) => ids.len(),
        Err(error) => {
            assert!(matches!(error, Error::Interrupted { .. }), "{error}");
            1
        }
    };
    assert_eq!(events.next().await, Some(Event::Reconnected));
    let total = server.client().queue("q").unwrap().stats().await.unwrap().total;
    assert!(total <= most as u64, "{total} messages");
}

#[tokio::test]
async fn a_refused_connection_is_an_error_at_once() {
    let server = Server::start();
    let error = server.client().websocket("ws://127.0.0.1:1/").await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
    let error = server.client().websocket("http://127.0.0.1:1/").await.unwrap_err();
    assert!(error.to_string().contains("ws://"), "{error}");
}

#[tokio::test]
async fn a_cancelled_request_is_not_sent() {
    let server = Server::start();
    let (socket, _events) = server.client().websocket(&server.websocket_url).await.unwrap();
    // The request is in the channel to the connection's task, which has not run since.
    let message = NewMessage::new(1).unwrap();
    assert!(socket.post("q", [message]).now_or_never().is_none());
    socket.request("ping_node", json!({})).await.unwrap();
    assert_eq!(server.client().queue("q").unwrap().stats().await.unwrap().total, 0);
}

/// A WebSocket server that calls a script with the number of the connection and each frame. It
/// sends the frames that the script returns, or closes the connection if there are none.
async fn scripted(
    script: impl Fn(usize, &serde_json::Value) -> Vec<serde_json::Value> + Send + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
            while let Some(Ok(Message::Text(text))) = socket.next().await {
                let frames = script(number, &serde_json::from_str(&text).unwrap());
                if frames.is_empty() {
                    break;
                }
                for frame in frames {
                    socket.send(Message::text(frame.to_string())).await.unwrap();
                }
            }
        }
    });
    url
}

fn status(status: u16) -> serde_json::Value {
    json!({"headers": {"status": status}, "body": {}})
}

#[tokio::test]
async fn pushes_of_one_subscription_are_delivered_while_the_next_is_created() {
    let url = scripted(|connection, request| {
        let queue = &request["body"]["queue_name"];
        match (connection, queue.as_str()) {
            // The connection breaks.
            (0, None) => Vec::new(),
            (1, Some("b")) => vec![
                json!({"body": "early", "ttl": 60, "queue_name": "a", "Message_Type": "Notification"}),
                status(201),
            ],
            _ => vec![status(201)],
        }
    })
    .await;
    let client = Client::new("http://127.0.0.1:1", "p").unwrap();
    let (socket, mut events) = client.websocket(&url).await.unwrap();
    for queue in ["a", "b"] {
        socket.subscribe(queue, 3600).await.unwrap();
    }
    assert!(socket.request("ping_node", json!({})).await.is_err());
    assert_eq!(events.next().await, Some(Event::Reconnected));
    assert_eq!(text(events.next().await), "\"early\"");
}

#[tokio::test]
async fn a_token_that_is_rejected_is_renewed_once() {
    let (keystone, made) = keystone("http://127.0.0.1:1", "2099-01-01T00:00:00Z").await;
    let url = scripted(|_, request| {
        vec![status(if request["headers"]["X-Auth-Token"] == "token-1" { 403 } else { 200 })]
    })
    .await;
    let (_socket, _events) = keystone_client(&keystone).websocket(&url).await.unwrap();
    assert_eq!(made.load(Ordering::SeqCst), 2);

    let url = scripted(|_, _| vec![status(403)]).await;
    let error = keystone_client(&keystone).websocket(&url).await.unwrap_err();
    assert_eq!((error.status(), made.load(Ordering::SeqCst)), (Some(403), 4));
}
