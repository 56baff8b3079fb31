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
mod members;
mod msgpack;
mod pipeline;
mod reply;
mod request;
mod server;
mod session;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use zaqar_api::Api;

pub use server::{Server, ServerOptions};
pub use zaqar_transport::ConnectionCounts;

/// What this wire is called in TLS (RFC 7301): it begins as HTTP/1.1.
pub const ALPN: &[&str] = &["http/1.1"];

/// How the transport behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of a message from a client, and of a frame of it, at most: 1009 past it. Leave room
    /// above `max_messages_post_size`: a post that is a little too large should get its
    /// answer.
    pub max_message_size: usize,
    /// Requests of one connection that are being served or wait for their turn; behind them
    /// nothing is read. Nor is it while they and answers that wait to be taken keep more than
    /// `max_message_size` bytes.
    pub max_in_flight: usize,
    /// Pushes that wait for one connection to take them, at most: 1013 past it.
    pub max_waiting_pushes: usize,
    /// Pages that may connect, by their origin (`https://example.org`); every page where it is
    /// empty. Who is no browser names no origin and is always let in. Where nobody is asked for a
    /// token, any page that a user visits can otherwise reach what the user can.
    pub allowed_origins: Vec<String>,
    /// How long the opening handshake may take.
    pub handshake_timeout: Duration,
    /// A peer from which nothing came for this long is asked for a sign of life.
    pub ping_interval: Duration,
    /// A peer from which nothing came for this long is gone: 1008.
    pub idle_timeout: Duration,
    /// A peer that takes less than 16 KiB of what waits for it for this long is gone. A message
    /// must arrive whole within this time: 1008.
    pub send_timeout: Duration,
    /// How long a connection may take to end when the server stops: its open requests, and its
    /// close, which has 11 s of it, at most half. Requests of a connection that ended otherwise
    /// have as long to finish.
    pub grace: Duration,
    /// Serves what is for administrators too (`admin_mode`).
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
            send_timeout: Duration::from_secs(60),
            grace: Duration::from_secs(30),
            admin: false,
        }
    }
}

/// The JSON text of a MessagePack document, as the transport reads one; `None` for what has no form
/// in this server's JSON.
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
}

impl WsService {
    /// Serves an API.
    pub fn new(api: Api, options: Options) -> Self {
        Self { inner: Arc::new(Inner { api, options }) }
    }

    /// Serves one connection from its opening handshake to its end. A `shutdown` ends it with 1001
    /// once its open requests are answered.
    pub async fn serve<S>(&self, stream: S, shutdown: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let holder = self.inner.api.memory().connection();
        connection::serve(Arc::clone(&self.inner), stream, holder, shutdown).await;
    }
}
