//! How connections end: why, what the peer is told, and that it comes to read it.

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

/// How long a peer may take over the end of its connection.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The code of the original for a token that has expired.
const EXPIRED: u16 = 4003;

/// Why a connection ends.
#[derive(Debug)]
pub(crate) enum Close {
    /// The peer has gone or says that it goes.
    Peer,
    /// The peer takes nothing any more.
    Stuck,
    /// We say why.
    Tell { code: CloseCode, reason: Utf8Bytes },
}

/// What a peer that was told may yet send.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Remaining {
    Nothing,
    /// Its own close.
    Close,
    /// Anything: its frames can no longer be read.
    Bytes,
}

impl Close {
    const fn tell(code: CloseCode, reason: &'static str) -> Self {
        Self::Tell { code, reason: Utf8Bytes::from_static(reason) }
    }

    pub(crate) const fn going_away() -> Self {
        Self::tell(CloseCode::Away, "The server stops.")
    }

    pub(crate) const fn silent() -> Self {
        Self::tell(CloseCode::Policy, "No sign of life for too long.")
    }

    pub(crate) const fn expired() -> Self {
        Self::tell(CloseCode::Library(EXPIRED), "Authentication expired.")
    }

    /// The memory budget does not allow what this connection keeps.
    pub(crate) fn over_budget(over: &OverBudget) -> Self {
        let OverBudget { scope, limit, .. } = over;
        let reason = format!("Over the memory budget of the {scope}, {limit} bytes; retry later.");
        Self::Tell { code: CloseCode::Again, reason: reason.into() }
    }

    pub(crate) const fn unfinished() -> Self {
        Self::tell(CloseCode::Policy, "A message took too long to arrive.")
    }

    /// What there is to wait for once the peer has been told.
    pub(crate) const fn rest(&self) -> Remaining {
        match self {
            Self::Peer | Self::Stuck => Remaining::Nothing,
            Self::Tell {
                code:
                    CloseCode::Size
                    | CloseCode::Invalid
                    | CloseCode::Protocol
                    | CloseCode::Policy
                    | CloseCode::Again,
                ..
            } => Remaining::Bytes,
            Self::Tell { .. } => Remaining::Close,
        }
    }

    /// What the peer is told about frames that cannot be.
    #[expect(clippy::wildcard_enum_match_arm, reason = "all other errors mean that it is gone")]
    pub(crate) fn of_error(error: &Error) -> Self {
        match error {
            Error::Capacity(CapacityError::MessageTooLong { .. }) => {
                Self::tell(CloseCode::Size, "The message is too large.")
            }
            Error::Utf8(_) => Self::tell(CloseCode::Invalid, "The text is not UTF-8."),
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Self::Peer,
            Error::Protocol(_) => Self::tell(CloseCode::Protocol, "The frames break the protocol."),
            Error::Io(error) if error.kind() == std::io::ErrorKind::TimedOut => Self::Stuck,
            _ => Self::Peer,
        }
    }

    /// What the peer is told when no more pushes come.
    pub(crate) const fn of_pushes(why: PushesEnded) -> Self {
        match why {
            PushesEnded::Overflow => {
                Self::tell(CloseCode::Again, "Pushes are read too slowly; subscribe again.")
            }
            PushesEnded::Lost => {
                Self::tell(CloseCode::Restart, "The subscriptions were lost; subscribe again.")
            }
            PushesEnded::ShutDown => Self::going_away(),
        }
    }
}

/// Tells the peer, as far as it listens.
pub(crate) async fn tell<S>(socket: &mut WebSocketStream<S>, end: Close)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let telling = async {
        match end {
            Close::Stuck => return Ok(()),
            // The answer to the peer's own close lies ready. Open requests are none of its business
            // any more.
            Close::Peer => {
                poll_fn(|cx| Pin::new(&mut *socket).poll_flush(cx)).await?;
                return socket.get_mut().shutdown().await.map_err(Error::from);
            }
            Close::Tell { code, reason } => {
                debug!(%code, %reason, "connection closed");
                let frame = CloseFrame { code, reason };
                poll_fn(|cx| Pin::new(&mut *socket).poll_ready(cx)).await?;
                Pin::new(&mut *socket).start_send(Message::Close(Some(frame)))?;
            }
        }
        poll_fn(|cx| Pin::new(&mut *socket).poll_flush(cx)).await
    };
    let told: Result<Result<(), Error>, _> = timeout(CLOSE_TIMEOUT, telling).await;
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
