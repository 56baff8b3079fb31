//! Closes connections: the reason, the close frame, and waiting until the peer can have read it.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tracing::debug;
use zaqar_api::PushesEnded;
use zaqar_core::OverBudget;

/// How long a peer may take to receive a close frame, and again to answer it.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The original's close code for an expired token, and that for a signature.
const EXPIRED: u16 = 4003;

/// Why a connection is closed.
#[derive(Debug)]
pub(crate) enum Close {
    /// The peer closed the connection or disconnected.
    Peer,
    /// The peer reads nothing any more, so no close frame can be sent.
    Unresponsive,
    /// The server closes, and sends the reason.
    WithCode { code: CloseCode, reason: Utf8Bytes },
}

/// What the peer may still send after the close frame.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Remaining {
    Nothing,
    /// Its own close frame.
    Close,
    /// Anything: its frames can no longer be decoded.
    Bytes,
}

impl Close {
    const fn with_code(code: CloseCode, reason: &'static str) -> Self {
        Self::WithCode { code, reason: Utf8Bytes::from_static(reason) }
    }

    pub(crate) const fn going_away() -> Self {
        Self::with_code(CloseCode::Away, "The server is shutting down.")
    }

    pub(crate) const fn idle() -> Self {
        Self::with_code(CloseCode::Policy, "Nothing was received for too long.")
    }

    pub(crate) const fn unused() -> Self {
        Self::with_code(CloseCode::Policy, "No request came for too long.")
    }

    pub(crate) const fn expired() -> Self {
        Self::with_code(CloseCode::Library(EXPIRED), "Authentication expired.")
    }

    /// What the connection buffers exceeds the memory budget.
    pub(crate) fn over_budget(over: &OverBudget) -> Self {
        let OverBudget { scope, limit, .. } = over;
        let reason = format!("Over the memory budget of the {scope}, {limit} bytes; retry later.");
        Self::WithCode { code: CloseCode::Again, reason: reason.into() }
    }

    pub(crate) const fn message_timeout() -> Self {
        Self::with_code(CloseCode::Policy, "A message took too long to arrive.")
    }

    /// What to wait for after the close frame was sent.
    pub(crate) const fn remaining(&self) -> Remaining {
        match self {
            Self::Peer | Self::Unresponsive => Remaining::Nothing,
            Self::WithCode {
                code:
                    CloseCode::Size
                    | CloseCode::Invalid
                    | CloseCode::Protocol
                    | CloseCode::Policy
                    | CloseCode::Again,
                ..
            } => Remaining::Bytes,
            Self::WithCode { .. } => Remaining::Close,
        }
    }

    /// The reason for invalid frames and I/O errors.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "all other errors mean that the peer is gone"
    )]
    pub(crate) fn from_error(error: &Error) -> Self {
        match error {
            Error::Capacity(CapacityError::MessageTooLong { .. }) => {
                Self::with_code(CloseCode::Size, "The message is too large.")
            }
            Error::Utf8(_) => Self::with_code(CloseCode::Invalid, "The text is not UTF-8."),
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Self::Peer,
            Error::Protocol(_) => {
                Self::with_code(CloseCode::Protocol, "The frames violate the WebSocket protocol.")
            }
            Error::Io(error) if error.kind() == std::io::ErrorKind::TimedOut => Self::Unresponsive,
            _ => Self::Peer,
        }
    }

    /// The reason when pushes have ended.
    pub(crate) const fn from_pushes(why: PushesEnded) -> Self {
        match why {
            PushesEnded::Overflow => {
                Self::with_code(CloseCode::Again, "Pushes are read too slowly; subscribe again.")
            }
            PushesEnded::Lost => {
                Self::with_code(CloseCode::Restart, "The subscriptions were lost; subscribe again.")
            }
            PushesEnded::Expired => Self::expired(),
            PushesEnded::ShutDown => Self::going_away(),
        }
    }
}

/// Sends the close frame, if the peer can receive it.
pub(crate) async fn send_close<S>(socket: &mut WebSocketStream<S>, close: Close)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let sending = async {
        match close {
            Close::Unresponsive => return Ok(()),
            // The answer to the peer's close frame is already buffered. The answers to open
            // requests are not sent any more.
            Close::Peer => {
                poll_fn(|cx| Pin::new(&mut *socket).poll_flush(cx)).await?;
                return socket.get_mut().shutdown().await.map_err(Error::from);
            }
            Close::WithCode { code, reason } => {
                debug!(%code, %reason, "connection closed");
                let frame = CloseFrame { code, reason };
                poll_fn(|cx| Pin::new(&mut *socket).poll_ready(cx)).await?;
                Pin::new(&mut *socket).start_send(Message::Close(Some(frame)))?;
            }
        }
        poll_fn(|cx| Pin::new(&mut *socket).poll_flush(cx)).await
    };
    let sent: Result<Result<(), Error>, _> = timeout(CLOSE_TIMEOUT, sending).await;
    if !matches!(sent, Ok(Ok(()))) {
        debug!("the close frame was not sent");
    }
}

/// Waits for the peer's close frame, and discards everything before it.
pub(crate) async fn wait_for_close<S>(socket: &mut WebSocketStream<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(_)) = poll_fn(|cx| Pin::new(&mut *socket).poll_next(cx)).await {}
}
