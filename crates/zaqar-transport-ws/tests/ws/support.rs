//! A service over a store in memory, and a client for it.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test fails on whatever it does not expect")]

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_util::sync::CancellationToken;
use zaqar_api::{Api, Layers};
use zaqar_core::{MemoryBudget, Secret};
use zaqar_storage_testkit::Memory;
use zaqar_transport_ws::{Options, WsService};

/// Bounds every wait; long enough for a slow machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) const CLIENT: &str = "3381af92-cb4f-4d30-8e9e-5c5cd4f5a0d1";

/// The encoding of a client's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    MessagePack,
}

pub(crate) const BOTH: [Encoding; 2] = [Encoding::Json, Encoding::MessagePack];

impl Encoding {
    pub(crate) fn message(self, document: &Value) -> Message {
        match self {
            Self::Json => Message::text(document.to_string()),
            Self::MessagePack => {
                let mut out = Vec::new();
                rmpv::encode::write_value(&mut out, &packed(document)).unwrap();
                Message::binary(out)
            }
        }
    }

    /// The document of a frame, which must be of this encoding.
    pub(crate) fn document(self, message: &Message) -> Value {
        match (self, message) {
            (Self::Json, Message::Text(text)) => serde_json::from_str(text).unwrap(),
            (Self::MessagePack, Message::Binary(bytes)) => {
                let mut rest = bytes.as_ref();
                let value = rmpv::decode::read_value(&mut rest).unwrap();
                assert!(rest.is_empty());
                unpacked(&value)
            }
            (encoding, other) => panic!("not {encoding:?}: {other:?}"),
        }
    }
}

fn packed(value: &Value) -> rmpv::Value {
    match value {
        Value::Null => rmpv::Value::Nil,
        Value::Bool(b) => (*b).into(),
        Value::Number(n) => match n.as_i64() {
            Some(n) => n.into(),
            None => n.as_f64().unwrap().into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(list) => rmpv::Value::Array(list.iter().map(packed).collect()),
        Value::Object(map) => rmpv::Value::Map(
            map.iter().map(|(name, value)| (name.as_str().into(), packed(value))).collect(),
        ),
    }
}

fn unpacked(value: &rmpv::Value) -> Value {
    match value {
        rmpv::Value::Nil => Value::Null,
        rmpv::Value::Boolean(b) => (*b).into(),
        rmpv::Value::Integer(n) => n.as_i64().unwrap().into(),
        rmpv::Value::F64(n) => (*n).into(),
        rmpv::Value::String(text) => text.as_str().unwrap().into(),
        rmpv::Value::Array(list) => list.iter().map(unpacked).collect(),
        rmpv::Value::Map(map) => map
            .iter()
            .map(|(name, value)| (name.as_str().unwrap().to_owned(), unpacked(value)))
            .collect(),
        other => panic!("not JSON: {other}"),
    }
}

/// A service and the store behind it.
pub(crate) struct Setup {
    pub(crate) service: WsService,
    pub(crate) api: Api,
    pub(crate) shutdown: CancellationToken,
}

impl Setup {
    pub(crate) fn new(options: Options) -> Self {
        Self::with(api(), options)
    }

    pub(crate) fn with(api: Api, options: Options) -> Self {
        let service = WsService::new(api.clone(), options);
        Self { service, api, shutdown: CancellationToken::new() }
    }

    pub(crate) async fn connect(&self) -> Peer {
        let (ours, theirs) = tokio::io::duplex(16 * 1024);
        let (service, shutdown) = (self.service.clone(), self.shutdown.clone());
        tokio::spawn(async move { service.serve(theirs, shutdown).await });
        let (socket, _) = tokio_tungstenite::client_async("ws://localhost/", ours).await.unwrap();
        Peer { socket, encoding: Encoding::Json, headers: default_headers() }
    }

    pub(crate) async fn connect_as(&self, encoding: Encoding) -> Peer {
        Peer { encoding, ..self.connect().await }
    }
}

pub(crate) fn default_headers() -> Value {
    json!({ "Client-ID": CLIENT, "X-Project-ID": "p" })
}

pub(crate) fn api() -> Api {
    api_with(Layers::default())
}

pub(crate) fn api_within(memory: MemoryBudget) -> Api {
    let store = Arc::new(Memory::new());
    let options = zaqar_api::Options { memory, ..zaqar_api::Options::default() };
    Api::new(store.clone(), store, options)
}

pub(crate) fn api_with(layers: Layers) -> Api {
    let store = Arc::new(Memory::new());
    let options = zaqar_api::Options {
        signing_key: Some(Secret::new("test".to_owned())),
        layers,
        ..zaqar_api::Options::default()
    };
    Api::new(store.clone(), store, options)
}

/// A client's end of a connection.
pub(crate) struct Peer {
    pub(crate) socket: WebSocketStream<DuplexStream>,
    pub(crate) encoding: Encoding,
    pub(crate) headers: Value,
}

impl Peer {
    pub(crate) fn request(&self, action: &str, body: Value) -> Value {
        json!({ "action": action, "headers": self.headers, "body": body })
    }

    pub(crate) async fn send(&mut self, action: &str, body: Value) {
        let request = self.request(action, body);
        self.send_raw(self.encoding.message(&request)).await;
    }

    pub(crate) async fn send_raw(&mut self, message: Message) {
        let sent = tokio::time::timeout(LONG, self.socket.send(message)).await;
        sent.expect("the service does not read").unwrap();
    }

    /// The next document from the service, of this peer's encoding.
    pub(crate) async fn next(&mut self) -> Value {
        let message = self.next_message().await;
        self.encoding.document(&message)
    }

    pub(crate) async fn next_message(&mut self) -> Message {
        loop {
            let next = tokio::time::timeout(LONG, self.socket.next()).await;
            let message = next.expect("no message arrives").expect("the connection ended").unwrap();
            if !matches!(message, Message::Ping(_) | Message::Pong(_)) {
                return message;
            }
        }
    }

    /// Sends a request and waits for its answer: status and body.
    pub(crate) async fn ask(&mut self, action: &str, body: Value) -> (u64, Value) {
        self.send(action, body).await;
        split(self.next().await)
    }

    /// Waits until the connection is closed and returns the reason. Other messages are dropped.
    pub(crate) async fn closed(&mut self) -> Option<CloseFrame> {
        let mut reason = None;
        let closing = async {
            while let Some(Ok(message)) = self.socket.next().await {
                if let Message::Close(frame) = message {
                    reason = frame;
                }
            }
        };
        tokio::time::timeout(LONG, closing).await.expect("the connection is not closed");
        reason
    }

    /// The close code; 0 if there is none.
    pub(crate) async fn close_code(&mut self) -> u16 {
        self.closed().await.map_or(0, |frame| frame.code.into())
    }
}

pub(crate) fn split(answer: Value) -> (u64, Value) {
    let status = answer["headers"]["status"].as_u64().expect("an answer has a status");
    (status, answer["body"].clone())
}
