//! How connections end: why, what the peer is told, and that it comes to read it.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tracing::debug;
use zaqar_api::PushesEnded;

/// How long a peer may take over the end of its connection.
pub(crate) const FAREWELL: Duration = Duration::from_secs(5);

/// The code of the original for a token that has expired.
const EXPIRED: u16 = 4003;

/// Why a connection ends.
#[derive(Debug)]
pub(crate) enum End {
    /// The peer has gone or says that it goes.
    Peer,
    /// The peer takes nothing any more.
    Stuck,
    /// We say why.
    Close { code: CloseCode, reason: &'static str },
}

/// What a peer that was told may yet send.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rest {
    Nothing,
    /// Its own close.
    Close,
    /// Anything: its frames can no longer be read.
    Bytes,
}

impl End {
    const fn close(code: CloseCode, reason: &'static str) -> Self {
        Self::Close { code, reason }
    }

    pub(crate) const fn going_away() -> Self {
        Self::close(CloseCode::Away, "The server stops.")
    }

    pub(crate) const fn silent() -> Self {
        Self::close(CloseCode::Policy, "No sign of life for too long.")
    }

    pub(crate) const fn expired() -> Self {
        Self::close(CloseCode::Library(EXPIRED), "Authentication expired.")
    }

    /// What there is to wait for once the peer has been told.
    pub(crate) const fn rest(&self) -> Rest {
        match self {
            Self::Peer | Self::Stuck => Rest::Nothing,
            Self::Close {
                code: CloseCode::Size | CloseCode::Invalid | CloseCode::Protocol,
                ..
            } => Rest::Bytes,
            Self::Close { .. } => Rest::Close,
        }
    }

    /// What the peer is told about frames that cannot be.
    pub(crate) const fn of_error(error: &Error) -> Self {
        match error {
            Error::Capacity(CapacityError::MessageTooLong { .. }) => {
                Self::close(CloseCode::Size, "The message is too large.")
            }
            Error::Utf8(_) => Self::close(CloseCode::Invalid, "The text is not UTF-8."),
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Self::Peer,
            Error::Protocol(_) => {
                Self::close(CloseCode::Protocol, "The frames break the protocol.")
            }
            _ => Self::Peer,
        }
    }

    /// What the peer is told when no more pushes come.
    pub(crate) const fn of_pushes(why: PushesEnded) -> Self {
        match why {
            PushesEnded::Overflow => Self::close(CloseCode::Again, "Messages are read too slowly."),
            PushesEnded::Lost => {
                Self::close(CloseCode::Restart, "The subscriptions were lost; connect again.")
            }
            PushesEnded::ShutDown => Self::going_away(),
        }
    }
}

/// Tells the peer, as far as it listens.
pub(crate) async fn tell<S>(socket: &mut WebSocketStream<S>, end: End)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let telling = async {
        match end {
            End::Stuck => return Ok(()),
            // The answer to the peer's own close lies ready. Open requests are none of its business any more.
            End::Peer => {
                poll_fn(|cx| Pin::new(&mut *socket).poll_flush(cx)).await?;
                return socket.get_mut().shutdown().await.map_err(Error::from);
            }
            End::Close { code, reason } => {
                debug!(%code, reason, "connection closed");
                let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
                poll_fn(|cx| Pin::new(&mut *socket).poll_ready(cx)).await?;
                Pin::new(&mut *socket).start_send(Message::Close(Some(frame)))?;
            }
        }
        poll_fn(|cx| Pin::new(&mut *socket).poll_flush(cx)).await
    };
    let told: Result<Result<(), Error>, _> = timeout(FAREWELL, telling).await;
    if !matches!(told, Ok(Ok(()))) {
        debug!("the peer was not told that its connection ends");
    }
}

/// Waits for the peer's own close. What comes before it is thrown away.
pub(crate) async fn until_closed<S>(socket: &mut WebSocketStream<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(_)) = poll_fn(|cx| Pin::new(&mut *socket).poll_next(cx)).await {}
}

/// Closes our side and reads on until the peer has closed its own, whatever it goes on to send: a reset would take our last words from
/// it. The caller bounds the time.
pub(crate) async fn leave<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut thrown_away = vec![0; 16 * 1024];
    while let Ok(1..) = stream.read(&mut thrown_away).await {}
}
