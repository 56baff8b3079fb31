//! A connection whose first request is slow: what happens to the requests after it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;
use zaqar_api::{
    AuthRequest, Authentication, Authenticator, Context, Identity, Layers, ListMessages, QueueRef,
    Remembered, TokenError,
};
use zaqar_core::{ClientId, Kind, ProjectId, QueueName, Timestamp};
use zaqar_transport_ws::{Options, Server, ServerOptions, WsService};

use crate::support::{LONG, Peer, Setup, api_with, default_headers, split};

/// Accepts any token as soon as a permit is added.
#[derive(Clone)]
struct Gate(Arc<Semaphore>);

#[async_trait]
impl Authenticator for Gate {
    async fn authenticate(&self, _: AuthRequest<'_>) -> Result<Arc<Identity>, TokenError> {
        let _permit = self.0.acquire().await.unwrap();
        let project = ProjectId::new("p").unwrap();
        Ok(Arc::new(Identity::new(project, "u", Vec::new(), Timestamp::MAX)))
    }

    fn remembered(&self, _: AuthRequest<'_>) -> Option<Remembered> {
        None
    }

    fn challenge(&self) -> String {
        "Keystone uri=\"http://keystone\"".to_owned()
    }
}

impl Gate {
    fn layers(&self) -> Layers {
        Layers { authenticator: Some(Arc::new(self.clone())), ..Layers::default() }
    }
}

/// A connection whose token is being checked; a permit of the gate ends the check.
async fn waiting(options: Options) -> (Setup, Peer, Gate) {
    let gate = Gate(Arc::new(Semaphore::new(0)));
    let setup = Setup::with(api_with(gate.layers()), options);
    let mut peer = setup.connect().await;
    let headers = json!({ "X-Auth-Token": "t", "X-Project-ID": "p" });
    let request = json!({ "action": "authenticate", "headers": headers });
    peer.send_raw(Message::text(request.to_string())).await;
    (setup, peer, gate)
}

/// Sends copies of a request until the service stops reading, and returns how many it has read.
async fn send_until_blocked(peer: &mut Peer, request: &Value, most: usize) -> usize {
    let request = request.to_string();
    for count in 0..most {
        let sending = peer.socket.send(Message::text(request.clone()));
        if tokio::time::timeout(Duration::from_millis(500), sending).await.is_err() {
            return count;
        }
    }
    most
}

#[tokio::test]
async fn requests_in_flight_are_bounded() {
    let options = Options { max_in_flight: 8, ..Options::default() };
    let (_setup, mut peer, gate) = waiting(options).await;
    let request = peer.request("queue_list", json!({ "pad": "x".repeat(2000) }));
    // Eight are read; more fit into the stream's buffers.
    let count = send_until_blocked(&mut peer, &request, 100).await;
    assert!((8..30).contains(&count), "{count}");
    gate.0.add_permits(1);
    assert_eq!(split(peer.next().await).0, 200);
    for _ in 0..count {
        assert_eq!(split(peer.next().await).0, 200);
    }
}

#[tokio::test]
async fn bytes_in_flight_are_bounded() {
    let options = Options { max_message_size: 64 * 1024, ..Options::default() };
    let (_setup, mut peer, gate) = waiting(options).await;
    let request = peer.request("queue_list", json!({ "pad": "x".repeat(30_000) }));
    let count = send_until_blocked(&mut peer, &request, 30).await;
    assert!((2..8).contains(&count), "{count}");
    gate.0.add_permits(1);
    assert_eq!(split(peer.next().await).0, 200);
    for _ in 0..count {
        assert_eq!(split(peer.next().await).0, 200);
    }
}

#[tokio::test]
async fn requests_sent_before_a_close_are_executed() {
    let (setup, mut peer, gate) = waiting(Options::default()).await;
    for at in 0..10 {
        let message = json!({ "queue_name": "q", "messages": [{ "body": at }] });
        let request = peer.request("message_post", message).to_string();
        peer.socket.feed(Message::text(request)).await.unwrap();
    }
    peer.socket.close(None).await.unwrap();
    // The answer to the close shows that everything has been read.
    peer.closed().await;
    gate.0.add_permits(1);
    let identity = gate.authenticate(AuthRequest::default()).await.unwrap();
    let context = Context::new(ProjectId::new("p").unwrap(), ClientId::new("other"))
        .authenticated(Authentication::Token(identity));
    let queue = QueueRef { kind: Kind::Queue, name: QueueName::new("q").unwrap() };
    let list = ListMessages {
        queue,
        marker: None,
        limit: Some(20),
        echo: true,
        include_claimed: false,
        include_delayed: false,
    };
    let listed = async || {
        let page = setup.api.call(&context, list.clone()).await.unwrap();
        let body = |message: &zaqar_core::storage::Message| {
            serde_json::from_slice(&message.payload.bytes).unwrap()
        };
        page.messages.iter().map(body).collect::<Vec<Value>>()
    };
    let executed = async {
        while listed().await.len() < 10 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, executed).await.expect("some requests are not executed");
    assert_eq!(listed().await, (0..10).map(Value::from).collect::<Vec<_>>());
}

#[tokio::test]
async fn shutdown_waits_for_requests_in_flight() {
    let gate = Gate(Arc::new(Semaphore::new(0)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = WsService::new(api_with(gate.layers()), Options::default());
    let options = ServerOptions::default();
    let server = Server { listener: listener.into(), service, options };
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(server.run(shutdown.clone()));
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async("ws://localhost/", stream).await.unwrap();
    let mut headers = default_headers();
    headers["X-Auth-Token"] = "t".into();
    let request = json!({ "action": "authenticate", "headers": headers });
    socket.send(Message::text(request.to_string())).await.unwrap();
    // The pong shows that the request before the ping has been read.
    socket.send(Message::Ping("x".into())).await.unwrap();
    assert!(matches!(socket.next().await, Some(Ok(Message::Pong(_)))));
    shutdown.cancel();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!serving.is_finished());
    gate.0.add_permits(1);
    let closing = async {
        let answer = socket.next().await.unwrap().unwrap();
        assert!(answer.to_text().unwrap().contains("Authentified."), "{answer}");
        assert!(matches!(socket.next().await, Some(Ok(Message::Close(Some(_))))));
        while let Some(Ok(_)) = socket.next().await {}
        serving.await.unwrap().unwrap();
    };
    tokio::time::timeout(LONG, closing).await.unwrap();
}
