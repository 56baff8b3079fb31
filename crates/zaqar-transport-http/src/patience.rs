//! A stream that does not wait for ever for its peer where hyper would: before it is clear which HTTP the peer speaks, and while the
//! peer takes none of its answers. Elsewhere hyper and the handlers have their own bounds.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// What a peer begins with that speaks HTTP/2 (RFC 9113, 3.4). Until it is complete, or something else came, no version is chosen.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Fails with [`io::ErrorKind::TimedOut`] when the peer makes it wait for longer than its patience.
pub(crate) struct Patient<T> {
    stream: T,
    patience: Duration,
    /// Bytes of [`PREFACE`] that have come; `None` once the version is clear.
    prefix: Option<usize>,
    reading: Wait,
    writing: Wait,
}

impl<T> Patient<T> {
    pub(crate) const fn new(stream: T, patience: Duration) -> Self {
        Self { stream, patience, prefix: Some(0), reading: Wait(None), writing: Wait(None) }
    }
}

/// The end of a wait that is going on.
struct Wait(Option<Pin<Box<Sleep>>>);

impl Wait {
    /// Bounds a wait that goes on, and forgets one that is over. Its time counts from its first poll.
    fn bound<R>(
        &mut self,
        cx: &mut Context<'_>,
        patience: Duration,
        polled: Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        if polled.is_ready() {
            self.0 = None;
            return polled;
        }
        let end = self.0.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(end.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Patient<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(had) = this.prefix else {
            return Pin::new(&mut this.stream).poll_read(cx, buffer);
        };
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buffer);
        ready!(this.reading.bound(cx, this.patience, polled))?;
        let came = &buffer.filled()[before..];
        let goes_on = had + came.len() < PREFACE.len() && PREFACE[had..].starts_with(came);
        this.prefix = goes_on.then_some(had + came.len());
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Patient<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.writing.bound(cx, this.patience, polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.writing.bound(cx, this.patience, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::Instant;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// What comes of reading once more after a peer has sent this and goes on listening.
    async fn read_after(sent: &[u8]) -> (io::Result<usize>, Duration) {
        let (mut peer, stream) = duplex(1024);
        let mut stream = Patient::new(stream, PATIENCE);
        let mut buffer = [0; 64];
        for byte in sent {
            peer.write_all(&[*byte]).await.unwrap();
            assert_eq!(stream.read(&mut buffer).await.unwrap(), 1);
        }
        let start = Instant::now();
        let late = async {
            tokio::time::sleep(2 * PATIENCE).await;
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
            assert_eq!(took, PATIENCE);
        }
        for clear in [&b"G"[..], b"PU", PREFACE] {
            assert_eq!(read_after(clear).await.0.unwrap(), 1, "{clear:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_must_take_what_it_asked_for() {
        let (mut peer, stream) = duplex(8);
        let mut stream = Patient::new(stream, PATIENCE);
        let slow = async {
            for _ in 0..4 {
                tokio::time::sleep(PATIENCE / 2).await;
                peer.read_exact(&mut [0; 4]).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(stream.write_all(&[0; 24]), slow);
        written.unwrap();
        let start = Instant::now();
        let error = stream.write_all(&[0; 24]).await.unwrap_err();
        assert_eq!((error.kind(), start.elapsed()), (io::ErrorKind::TimedOut, PATIENCE));
    }
}
