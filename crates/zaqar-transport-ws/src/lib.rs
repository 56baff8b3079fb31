#![doc = include_str!("../README.md")]

mod action;
mod actions;
mod answer;
mod close;
mod connection;
mod encoding;
mod error;
mod handshake;
mod inbox;
mod io;
mod members;
mod msgpack;
mod pipeline;
mod reply;
mod request;
mod server;
mod session;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use zaqar_api::Api;
use zaqar_transport::Turns;

pub use server::{Server, ServerOptions};
pub use zaqar_transport::ConnectionCounts;

/// The protocols to offer through ALPN (RFC 7301): WebSocket begins as HTTP/1.1.
pub const ALPN: &[&str] = &["http/1.1"];

/// Options of the transport.
#[derive(Debug, Clone)]
pub struct Options {
    /// Maximum size of a message or frame from a client, in bytes; a larger one closes the
    /// connection with 1009. It should exceed `max_messages_post_size`, so that a post that is
    /// slightly too large is answered instead.
    pub max_message_size: usize,
    /// Maximum number of requests of one connection that are in progress or waiting; the server
    /// reads no more until one is answered. It also stops reading while requests and unread answers
    /// occupy more than `max_message_size` bytes.
    pub max_in_flight: usize,
    /// Maximum number of pushes that wait for one connection; one more closes it with 1013.
    pub max_waiting_pushes: usize,
    /// Origins of web pages that may connect (`https://example.org`); empty allows all. Clients
    /// other than browsers send no `Origin` and are always accepted. Without authentication, an
    /// empty list lets any page that a user visits access everything that the user can reach.
    pub allowed_origins: Vec<String>,
    /// How long the opening handshake may take.
    pub handshake_timeout: Duration,
    /// A ping is sent when nothing was received for this long.
    pub ping_interval: Duration,
    /// The connection is closed with 1008 when nothing was received for this long.
    pub idle_timeout: Duration,
    /// The connection is closed with 1008 when it made no request for this long, has no identity
    /// and subscribes to nothing: pings alone keep no connection.
    pub unused_timeout: Duration,
    /// The connection is closed when the peer reads less than 16 KiB of what waits for it in this
    /// time, and with 1008 when a message does not arrive completely in this time.
    pub send_timeout: Duration,
    /// How long a connection may take to close when the server stops. Closing has 11 s of it, but
    /// at most half; open requests have the rest. Open requests of a connection that closes for
    /// another reason have this long to finish.
    pub grace: Duration,
    /// Serves the operations for administrators too (`admin_mode`).
    pub admin: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_message_size: 1024 * 1024,
            max_in_flight: 32,
            max_waiting_pushes: 64,
            allowed_origins: Vec::new(),
            handshake_timeout: Duration::from_secs(10),
            ping_interval: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(300),
            unused_timeout: Duration::from_secs(600),
            send_timeout: Duration::from_secs(60),
            grace: Duration::from_secs(30),
            admin: false,
        }
    }
}

/// Converts a MessagePack document to JSON text, as the transport does; `None` for what this
/// server's JSON cannot represent.
pub fn msgpack_to_json(document: &[u8]) -> Option<String> {
    msgpack::to_json(document).ok()
}

/// Zaqar over WebSocket. Clones are cheap and share everything.
#[derive(Clone)]
pub struct WsService {
    inner: Arc<Inner>,
}

impl fmt::Debug for WsService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WsService").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

struct Inner {
    api: Api,
    options: Options,
    turns: Turns,
}

impl WsService {
    /// Serves an API.
    pub fn new(api: Api, options: Options) -> Self {
        Self { inner: Arc::new(Inner { api, options, turns: Turns::of_process() }) }
    }

    /// Serves one connection, from the opening handshake on. `shutdown` closes it with 1001 once
    /// its open requests are answered.
    pub async fn serve<S>(&self, stream: S, shutdown: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let holder = self.inner.api.memory().connection();
        connection::serve(Arc::clone(&self.inner), stream, holder, shutdown).await;
    }
}
