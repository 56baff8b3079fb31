//! The stream below hyper: time limits where hyper has none, the bytes of a head charged to the
//! memory budget, and a close that the peer can read.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use zaqar_core::{OverBudget, Permit};
use zaqar_transport::IoTimeout;

use crate::activity::Activity;

/// What a peer that speaks HTTP/2 sends first (RFC 9113, 3.4). Until it is complete, or something
/// else came, no version is chosen, and hyper sets no timeout.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes that hyper keeps of a request's head at most, and reads of a body at once.
pub(crate) const MAX_BUFFER: usize = 128 * 1024;

/// Of a head, this much is part of what every connection is charged for.
const FREE_BUFFER: usize = 8 * 1024;

/// After the end of our side: bytes of the peer that are read and discarded, and how long.
const LINGER_BYTES: usize = 4 << 20;
const LINGER_LIMIT: Duration = Duration::from_secs(2);

/// What a peer is told whose request head does not fit the memory budget.
const OVER_BUDGET: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n\
    content-length: 0\r\nconnection: close\r\n\r\n";

/// A connection's stream.
pub(crate) struct ConnectionIo<T> {
    stream: IoTimeout<T>,
    activity: Arc<Activity>,
    /// Bytes of [`PREFACE`] that have come; `None` once the version is clear.
    preface: Option<usize>,
    is_http2: bool,
    /// Bytes that came since the last request began.
    received: usize,
    /// What the bytes received occupy.
    permit: Permit,
    rejection: Option<Rejection>,
    linger: Option<Linger>,
}

/// A request head went over the memory budget: the peer is told, and the connection ends.
struct Rejection {
    over: OverBudget,
    /// What is still to be written.
    rest: &'static [u8],
}

/// The end of a connection: the peer may still be sending.
struct Linger {
    end: Pin<Box<Sleep>>,
    discarded: usize,
}

impl<T> ConnectionIo<T> {
    /// `permit` grows with what is received.
    pub(crate) fn new(
        stream: T,
        timeout: Duration,
        activity: Arc<Activity>,
        permit: Permit,
    ) -> Self {
        let mut stream = IoTimeout::new(stream, timeout);
        stream.expect_bytes(true);
        Self {
            stream,
            activity,
            preface: Some(0),
            is_http2: false,
            received: 0,
            permit,
            rejection: None,
            linger: None,
        }
    }

    fn detect_version(&mut self, came: &[u8]) {
        let Some(had) = self.preface else { return };
        self.is_http2 = came.starts_with(&PREFACE[had..]);
        let goes_on = had + came.len() < PREFACE.len() && PREFACE[had..].starts_with(came);
        self.preface = goes_on.then_some(had + came.len());
        self.stream.expect_bytes(goes_on);
    }

    /// Charges what came. Over budget a head cannot go on. The body of a request that has begun
    /// does: whoever reads it is held to the same bounds, and answers 503.
    fn charge(&mut self, bytes: usize) -> Result<(), OverBudget> {
        if self.activity.take_request_began() {
            self.received = 0;
        }
        self.received = self.received.saturating_add(bytes);
        let occupied = self.received.min(MAX_BUFFER);
        let charged = if occupied <= FREE_BUFFER { 0 } else { occupied.next_power_of_two() };
        match self.permit.resize(charged) {
            Err(over) if !self.activity.is_answering() => Err(over),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// What a peer can be told in the middle of a head: over HTTP/1, and if no response is on its
    /// way.
    fn reject(&self, over: OverBudget) -> Rejection {
        let can_be_told = !self.is_http2 && self.activity.is_idle();
        Rejection { over, rest: if can_be_told { OVER_BUDGET } else { &[] } }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> ConnectionIo<T> {
    /// Tells the peer why the connection ends, and ends it.
    fn poll_rejection(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(rejection) = &mut self.rejection else { return Poll::Ready(Ok(())) };
        let over = rejection.over;
        while !rejection.rest.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, rejection.rest))?;
            rejection.rest = &rejection.rest[written..];
        }
        ready!(self.poll_close(cx))?;
        Poll::Ready(Err(io::Error::other(over)))
    }

    /// Closes our side, then discards what the peer still sends, within bounds: with bytes unread
    /// the connection would be reset, and the peer would lose our last response.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        if self.activity.is_stopping() {
            return Poll::Ready(Ok(()));
        }
        let linger = self
            .linger
            .get_or_insert_with(|| Linger { end: Box::pin(sleep(LINGER_LIMIT)), discarded: 0 });
        while linger.discarded < LINGER_BYTES && linger.end.as_mut().poll(cx).is_pending() {
            let mut bytes = [0; 4096];
            let mut buffer = ReadBuf::new(&mut bytes);
            let read = Pin::new(self.stream.get_mut()).poll_read(cx, &mut buffer);
            if ready!(read).is_err() || buffer.filled().is_empty() {
                break;
            }
            linger.discarded += buffer.filled().len();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for ConnectionIo<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.rejection.is_some() {
            return this.poll_rejection(cx);
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        let came = &buffer.filled()[before..];
        this.detect_version(came);
        if let Err(over) = this.charge(came.len()) {
            buffer.set_filled(before);
            this.rejection = Some(this.reject(over));
            return this.poll_rejection(cx);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ConnectionIo<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, bytes))?;
        this.activity.wrote();
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, slices))?;
        this.activity.wrote();
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::Instant;
    use zaqar_core::{MemoryBounds, MemoryBudget};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn io<T>(stream: T, budget: &MemoryBudget) -> ConnectionIo<T> {
        let permit = budget.connection().try_acquire(0).unwrap();
        ConnectionIo::new(stream, TIMEOUT, Arc::default(), permit)
    }

    /// What comes of reading once more after a peer has sent this and sends nothing for long.
    async fn read_after(sent: &[u8]) -> (io::Result<usize>, Duration) {
        let (mut peer, stream) = duplex(1024);
        let mut stream = io(stream, &MemoryBudget::default());
        let mut buffer = [0; 64];
        for byte in sent {
            peer.write_all(&[*byte]).await.unwrap();
            assert_eq!(stream.read(&mut buffer).await.unwrap(), 1);
        }
        let start = Instant::now();
        let late = async {
            tokio::time::sleep(2 * TIMEOUT).await;
            peer.write_all(b"x").await.unwrap();
        };
        let (read, _) = tokio::join!(
            async {
                let read = stream.read(&mut buffer).await;
                (read, start.elapsed())
            },
            late
        );
        read
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_must_say_which_http_it_speaks() {
        for silent in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
            let (read, took) = read_after(silent).await;
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut, "{silent:?}");
            assert_eq!(took, TIMEOUT);
        }
        for clear in [&b"G"[..], b"PU", PREFACE] {
            assert_eq!(read_after(clear).await.0.unwrap(), 1, "{clear:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_unfinished_head_is_charged_and_ends_over_budget() {
        let bounds = MemoryBounds { process: 100 << 10, ..MemoryBounds::UNLIMITED };
        let budget = MemoryBudget::new(bounds);
        let (mut peer, stream) = duplex(256 << 10);
        let mut stream = io(stream, &budget);
        peer.write_all(&vec![b'x'; 200 << 10]).await.unwrap();
        let mut buffer = [0; 10_000];
        let error = loop {
            if let Err(error) = stream.read_exact(&mut buffer).await {
                break error;
            }
        };
        assert!(error.to_string().contains("memory budget of the server"), "{error}");
        assert_eq!(budget.in_use(), 64 << 10);
        drop(stream);
        assert_eq!(budget.in_use(), 0);
        let mut told = String::new();
        peer.read_to_string(&mut told).await.unwrap();
        assert!(told.starts_with("HTTP/1.1 503 ") && told.ends_with("\r\n\r\n"), "{told}");
    }

    /// Whoever reads the body is refused, and answers.
    #[tokio::test]
    async fn the_body_of_a_request_goes_on_over_budget() {
        let bounds = MemoryBounds { process: 100 << 10, ..MemoryBounds::UNLIMITED };
        let budget = MemoryBudget::new(bounds);
        let (mut peer, stream) = duplex(256 << 10);
        let mut stream = io(stream, &budget);
        let _request = stream.activity.begin_request();
        peer.write_all(&vec![b'x'; 200 << 10]).await.unwrap();
        stream.read_exact(&mut vec![0; 200 << 10]).await.unwrap();
        assert!(budget.in_use() <= 100 << 10 && budget.refused() > 0);
    }

    #[tokio::test]
    async fn a_new_request_is_charged_anew() {
        let budget = MemoryBudget::default();
        let (mut peer, stream) = duplex(256 << 10);
        let mut stream = io(stream, &budget);
        peer.write_all(&[b'x'; 30_000]).await.unwrap();
        stream.read_exact(&mut [0; 30_000]).await.unwrap();
        assert_eq!(budget.in_use(), 32 << 10);
        drop(stream.activity.begin_request());
        peer.write_all(b"x").await.unwrap();
        stream.read_u8().await.unwrap();
        assert_eq!(budget.in_use(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_still_sends_can_read_our_last_words() {
        let (mut peer, stream) = duplex(1024);
        let mut stream = io(stream, &MemoryBudget::default());
        let sending = tokio::spawn(async move {
            peer.write_all(&[0; 100_000]).await.unwrap();
            let mut words = String::new();
            peer.read_to_string(&mut words).await.unwrap();
            words
        });
        stream.write_all(b"bye").await.unwrap();
        stream.shutdown().await.unwrap();
        drop(stream);
        assert_eq!(sending.await.unwrap(), "bye");
    }
}
