//! The WebSocket transport: requests over one connection, and messages as they are posted.
//!
//! A task owns the connection. When it breaks, the task connects again, authenticates, and
//! subscribes again to what was subscribed.
//!
//! ```
//! # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/mod.rs")); }
//! # use support::*;
//! # block_on(async |client: zaqar_client::Client| {
//! use futures_util::StreamExt;
//! use zaqar_client::NewMessage;
//! use zaqar_client::websocket::Event;
//!
//! # let url = websocket_url();
//! let (socket, mut events) = client.websocket(&url).await?;
//! socket.subscribe("chat", 3600).await?;
//! client.queue("chat")?.post([NewMessage::new("hello").unwrap()]).await?;
//! match events.next().await {
//!     Some(Event::Message(pushed)) => assert_eq!(pushed.body.as_json(), "\"hello\""),
//!     other => panic!("{other:?}"),
//! }
//! # Ok(()) });
//! ```

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};

use crate::Error;
use crate::client::Client;
use crate::types::{Body, MessageId, NewMessage};

mod connection;
mod driver;
mod frame;

pub use crate::webhook::Notification;

/// Requests that wait to be sent, at most; more wait in the callers.
const WAITING: usize = 64;
/// Events that wait to be read, at most. While they are that many, nothing is read from the
/// connection, and a server closes a connection that takes nothing.
const EVENTS: usize = 1024;

/// What comes without being asked for.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A message was posted to a queue that is subscribed.
    Message(Notification),
    /// The connection broke and was made again. Messages that were posted meanwhile were not
    /// pushed: who needs them reads the queue.
    Reconnected,
}

/// Sends requests over a WebSocket. Clones share the connection, which closes with the last of them
/// and the [`Events`].
#[derive(Debug, Clone)]
pub struct WebSocket {
    commands: mpsc::Sender<Command>,
    timeout: Duration,
}

/// What is pushed, as a stream. It ends when the connection is closed for good.
#[derive(Debug)]
pub struct Events {
    events: mpsc::Receiver<Event>,
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.events.poll_recv(context)
    }
}

/// An answer with a status of success.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The status, as over HTTP.
    pub status: u16,
    /// The answer's body.
    pub body: Body,
}

/// A request on its way to the task.
#[derive(Debug)]
struct Command {
    action: String,
    body: Box<RawValue>,
    /// What to subscribe to again after the connection broke.
    subscribes: Option<Subscribed>,
    reply: oneshot::Sender<Result<Reply, Error>>,
}

/// A subscription of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Subscribed {
    queue: String,
    ttl: u64,
}

impl Subscribed {
    fn body(&self) -> serde_json::Value {
        json!({"queue_name": self.queue, "ttl": self.ttl})
    }
}

impl Client {
    /// Opens a WebSocket to `ws://…` or `wss://…`, and authenticates.
    ///
    /// # Errors
    /// [`Error::Connect`] where nobody takes the connection, [`Error::Refused`] for a token that
    /// the server does not take.
    pub async fn websocket(&self, url: &str) -> Result<(WebSocket, Events), Error> {
        let connection = connection::Connection::open(self, url).await?;
        let (commands, waiting) = mpsc::channel(WAITING);
        let (pushed, events) = mpsc::channel(EVENTS);
        let driver = driver::Driver::new(self.clone(), url.to_owned(), waiting, pushed);
        tokio::spawn(driver.run(connection));
        Ok((WebSocket { commands, timeout: self.timeout() }, Events { events }))
    }
}

impl WebSocket {
    /// Sends a request and waits for its answer. It is never sent twice.
    ///
    /// # Errors
    /// [`Error::Refused`] for any status but 2xx, [`Error::Interrupted`] where the connection broke
    /// first, [`Error::Timeout`], [`Error::Closed`].
    pub async fn request(&self, action: &str, body: impl Serialize) -> Result<Reply, Error> {
        self.send(action, body, None).await
    }

    async fn send(
        &self,
        action: &str,
        body: impl Serialize,
        subscribes: Option<Subscribed>,
    ) -> Result<Reply, Error> {
        let body = serde_json::value::to_raw_value(&body)
            .map_err(|error| Error::config("a body that is no JSON", error))?;
        let (reply, answered) = oneshot::channel();
        let command = Command { action: action.to_owned(), body, subscribes, reply };
        let closed = || Error::Closed { reason: "it could not be opened again".to_owned() };
        let exchange = async {
            self.commands.send(command).await.map_err(|_| closed())?;
            answered.await.map_err(|_| closed())?
        };
        tokio::time::timeout(self.timeout, exchange).await.map_err(|_| Error::Timeout {
            method: action.to_owned(),
            path: "over WebSocket".to_owned(),
            limit: self.timeout,
        })?
    }

    /// Subscribes this connection to a queue: what is posted from now on comes as [`Event`]s. The
    /// subscription lives `ttl` seconds; then the server closes the connection, which is opened
    /// and subscribed again.
    ///
    /// # Errors
    /// 409 where it is subscribed already; those of [`WebSocket::request`].
    pub async fn subscribe(&self, queue: &str, ttl: u64) -> Result<(), Error> {
        let subscribed = Subscribed { queue: queue.to_owned(), ttl };
        self.send("subscription_create", subscribed.body(), Some(subscribed.clone()))
            .await
            .map(drop)
    }

    /// Posts messages, all or none, and returns their ids in order.
    ///
    /// # Errors
    /// Those of [`WebSocket::request`].
    pub async fn post(
        &self,
        queue: &str,
        messages: impl IntoIterator<Item = NewMessage>,
    ) -> Result<Vec<MessageId>, Error> {
        #[derive(Serialize)]
        struct Post<'a> {
            queue_name: &'a str,
            messages: Vec<NewMessage>,
        }
        #[derive(serde::Deserialize)]
        struct Posted {
            message_ids: Vec<MessageId>,
        }
        let messages = messages.into_iter().collect();
        let reply = self.request("message_post", Post { queue_name: queue, messages }).await?;
        reply.body.parse::<Posted>().map(|posted| posted.message_ids).map_err(|source| {
            Error::Malformed {
                method: "message_post".to_owned(),
                path: "over WebSocket".to_owned(),
                source: source.into(),
            }
        })
    }
}
