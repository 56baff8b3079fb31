//! One WebSocket connection, open and authenticated.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::Uri;
use rustls::pki_types::ServerName;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::frame::{self, Received, Request};
use crate::Error;
use crate::client::Client;
use crate::tls;
use crate::webhook::Notification;

/// The header of a token.
const TOKEN: &str = "X-Auth-Token";
/// The longest frame that is read: twenty messages of the largest size fit.
const MAX_FRAME: usize = 16 * 1024 * 1024;
/// How long the other side may take nothing of what is sent.
const WRITE: Duration = Duration::from_secs(30);
/// Pushes that are kept while a connection subscribes, at most. Later ones are dropped: they were
/// posted before [`Event::Reconnected`](super::Event), after which a reader lists the queue.
const EARLY: usize = 1024;

trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

pub(super) struct Connection {
    socket: WebSocketStream<Box<dyn Transport>>,
    /// The headers of each request. A token is sent once, to authenticate.
    headers: Map<String, Value>,
    /// What came while [`Self::ask`] waited.
    early: Vec<Notification>,
}

impl Connection {
    /// Connects and authenticates, within the client's time-out. A token that the server rejects
    /// is renewed once, where the client makes its tokens.
    pub(super) async fn open(client: &Client, url: &str) -> Result<Self, Error> {
        let headers = identity(client).await?;
        let opened = Self::open_as(client, url, headers.clone()).await;
        let is_rejected =
            matches!(&opened, Err(error) if matches!(error.status(), Some(401 | 403)));
        if is_rejected
            && let Some(token) = headers.get(TOKEN).and_then(Value::as_str)
            && client.forget_token(token)
        {
            // A server closes the connection whose token it rejects.
            return Self::open_as(client, url, identity(client).await?).await;
        }
        opened
    }

    async fn open_as(
        client: &Client,
        url: &str,
        mut headers: Map<String, Value>,
    ) -> Result<Self, Error> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Connect {
            url: url.to_owned(),
            source,
        };
        let opening = async {
            let stream = connect(client, url).await?;
            let config = WebSocketConfig::default()
                .max_message_size(Some(MAX_FRAME))
                .max_frame_size(Some(MAX_FRAME));
            let opened =
                tokio_tungstenite::client_async_with_config(url, stream, Some(config)).await;
            let (socket, _) = opened.map_err(|error| failed(error.into()))?;
            let mut connection = Self { socket, headers: headers.clone(), early: Vec::new() };
            if headers.remove(TOKEN).is_some() {
                let body = raw(&Value::Object(Map::new()))?;
                connection.ask("authenticate", &body).await?;
                connection.headers = headers;
            }
            Ok(connection)
        };
        tokio::time::timeout(client.timeout(), opening)
            .await
            .unwrap_or_else(|elapsed| Err(failed(elapsed.into())))
    }

    /// Sends a request.
    pub(super) async fn send(&mut self, action: &str, body: &RawValue) -> Result<(), Error> {
        let request = Request { action, headers: &self.headers, body };
        let text = serde_json::to_string(&request)
            .map_err(|error| Error::config("a body that is no JSON", error))?;
        self.write(action, Message::text(text)).await
    }

    async fn write(&mut self, what: &str, message: Message) -> Result<(), Error> {
        let sent = tokio::time::timeout(WRITE, self.socket.send(message)).await;
        sent.map_err(|elapsed| broken(what, elapsed))?.map_err(|error| broken(what, error))
    }

    /// Asks whether the other side is there.
    pub(super) async fn ping(&mut self) -> Result<(), Error> {
        self.write("ping", Message::Ping(Vec::new().into())).await
    }

    /// The next frame that says something, or `None` for one that shows a living connection only.
    pub(super) async fn next(&mut self) -> Result<Option<Received>, Error> {
        match self.socket.next().await {
            Some(Ok(Message::Text(text))) => {
                frame::read(text.as_str()).map(Some).map_err(|error| broken("a frame", error))
            }
            Some(Ok(Message::Close(reason))) => {
                let reason = reason.map_or_else(
                    || "it was closed".to_owned(),
                    |frame| format!("it was closed with {} {}", frame.code, frame.reason),
                );
                Err(broken("a frame", reason))
            }
            None => Err(broken("a frame", "it ended")),
            Some(Ok(_)) => Ok(None),
            Some(Err(error)) => Err(broken("a frame", error)),
        }
    }

    /// Sends a request and waits for its answer, where no other is on its way. Pushes of earlier
    /// subscriptions are kept for [`Self::take_early`].
    pub(super) async fn ask(&mut self, action: &str, body: &RawValue) -> Result<(), Error> {
        self.send(action, body).await?;
        loop {
            match self.next().await? {
                Some(Received::Answer(status, body)) => {
                    return frame::outcome(action, status, body).map(drop);
                }
                Some(Received::Push(push)) if self.early.len() < EARLY => self.early.push(push),
                Some(Received::Push(_)) | None => {}
            }
        }
    }

    /// The pushes that came while [`Self::ask`] waited, in their order.
    pub(super) fn take_early(&mut self) -> Vec<Notification> {
        std::mem::take(&mut self.early)
    }

    /// Closes it in order, without waiting for the other side.
    pub(super) async fn close(&mut self) {
        // One that is broken already is closed.
        let _ = tokio::time::timeout(WRITE, self.socket.close(None)).await;
    }
}

/// The headers that say who asks. Keystone has a time-out of its own.
async fn identity(client: &Client) -> Result<Map<String, Value>, Error> {
    let headers = client.identity_headers().await?.into_iter();
    Ok(headers.map(|(name, value)| (name.to_owned(), value.into())).collect())
}

pub(super) fn raw(body: &Value) -> Result<Box<RawValue>, Error> {
    serde_json::value::to_raw_value(body)
        .map_err(|error| Error::config("a body that is no JSON", error))
}

fn broken(method: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Interrupted {
        method: method.to_owned(),
        path: "over WebSocket".to_owned(),
        source: source.into(),
    }
}

async fn connect(client: &Client, url: &str) -> Result<Box<dyn Transport>, Error> {
    let wrong = |reason| Error::config(format!("url {url}"), reason);
    let uri: Uri = url.parse().map_err(|_| wrong("this is no URL"))?;
    let host = uri.host().ok_or_else(|| wrong("it names no host"))?;
    let host = host.trim_matches(['[', ']']);
    let (is_tls, port) = match uri.scheme_str() {
        Some("ws") => (false, 80),
        Some("wss") => (true, 443),
        _ => return Err(wrong("it must be ws://HOST or wss://HOST")),
    };
    let failed =
        |source: std::io::Error| Error::Connect { url: url.to_owned(), source: source.into() };
    let address = (host, uri.port_u16().unwrap_or(port));
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    if !is_tls {
        return Ok(Box::new(stream));
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|_| wrong("its host is no name"))?;
    let connector = TlsConnector::from(Arc::new(tls::config(client.tls())?));
    Ok(Box::new(connector.connect(name, stream).await.map_err(failed)?))
}
