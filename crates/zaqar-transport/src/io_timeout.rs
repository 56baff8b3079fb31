//! Time limits of reads and writes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// A peer must read this many of the bytes that wait for it, or all of them, within the timeout: a
/// peer that reads a byte now and then occupies as much memory as one that reads nothing.
const MIN_PROGRESS: usize = 16 * 1024;

/// A stream whose writes fail with [`io::ErrorKind::TimedOut`] when they wait for the peer longer
/// than the timeout. So do reads, while [`IoTimeout::expect_bytes`] is on.
#[derive(Debug)]
pub struct IoTimeout<T> {
    stream: T,
    timeout: Duration,
    expects_bytes: bool,
    reading: Wait,
    writing: Wait,
    /// Bytes written since the current wait for the peer began.
    progress: usize,
}

impl<T> IoTimeout<T> {
    /// Bounds the writes of a stream. A timer exists only while a call waits for the peer.
    pub const fn new(stream: T, timeout: Duration) -> Self {
        let (reading, writing) = (Wait(None), Wait(None));
        Self { stream, timeout, expects_bytes: false, reading, writing, progress: 0 }
    }

    /// Switches the timeout of reads on or off.
    pub fn expect_bytes(&mut self, expects_bytes: bool) {
        self.expects_bytes = expects_bytes;
        if !expects_bytes {
            self.reading.0 = None;
        }
    }

    /// The stream.
    pub const fn get_ref(&self) -> &T {
        &self.stream
    }

    /// The stream.
    pub const fn get_mut(&mut self) -> &mut T {
        &mut self.stream
    }

    fn written(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match polled {
            Poll::Pending => self.writing.poll(cx, self.timeout).map(Err),
            Poll::Ready(Ok(bytes)) if self.writing.is_on() => {
                self.progress += bytes;
                if self.progress >= MIN_PROGRESS {
                    self.stop_waiting();
                }
                Poll::Ready(Ok(bytes))
            }
            ready @ Poll::Ready(_) => ready,
        }
    }

    fn stop_waiting(&mut self) {
        self.writing.0 = None;
        self.progress = 0;
    }
}

/// The deadline of a wait in progress.
#[derive(Debug)]
struct Wait(Option<Pin<Box<Sleep>>>);

impl Wait {
    const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Ready with an error once `timeout` has passed since the first poll.
    fn poll(&mut self, cx: &mut Context<'_>, timeout: Duration) -> Poll<io::Error> {
        let end = self.0.get_or_insert_with(|| Box::pin(sleep(timeout)));
        end.as_mut().poll(cx).map(|()| io::ErrorKind::TimedOut.into())
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for IoTimeout<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if this.expects_bytes && polled.is_pending() {
            return this.reading.poll(cx, this.timeout).map(Err);
        }
        this.reading.0 = None;
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for IoTimeout<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.written(cx, polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.written(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Completes when everything was written, which ends the wait for the peer.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.stream).poll_flush(cx))?;
        this.stop_waiting();
        Poll::Ready(Ok(()))
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

    const TIMEOUT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn reads_are_bounded_while_bytes_are_expected() {
        let (mut peer, stream) = duplex(64);
        let mut stream = IoTimeout::new(stream, TIMEOUT);
        let late = async {
            tokio::time::sleep(2 * TIMEOUT).await;
            peer.write_all(b"x").await.unwrap();
        };
        let (read, ()) = tokio::join!(stream.read_u8(), late);
        assert_eq!(read.unwrap(), b'x');
        stream.expect_bytes(true);
        let start = Instant::now();
        let error = stream.read_u8().await.unwrap_err();
        assert_eq!((error.kind(), start.elapsed()), (io::ErrorKind::TimedOut, TIMEOUT));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_a_byte_now_and_then_times_out() {
        let (mut peer, stream) = duplex(8);
        let mut stream = IoTimeout::new(stream, TIMEOUT);
        let trickle = async {
            loop {
                tokio::time::sleep(TIMEOUT / 4).await;
                peer.read_u8().await.unwrap();
            }
        };
        let start = Instant::now();
        let writing = stream.write_all(&[0; 1024]);
        let written = tokio::select! { written = writing => written, () = trickle => Ok(()) };
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() <= 2 * TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_peer_that_makes_progress_gets_everything() {
        let (mut peer, stream) = duplex(MIN_PROGRESS);
        let mut stream = IoTimeout::new(stream, TIMEOUT);
        let slow = async {
            for _ in 0..8 {
                tokio::time::sleep(TIMEOUT / 2).await;
                peer.read_exact(&mut [0; MIN_PROGRESS]).await.unwrap();
            }
        };
        let writing = async {
            stream.write_all(&[0; 8 * MIN_PROGRESS]).await?;
            stream.flush().await
        };
        let (written, ()) = tokio::join!(writing, slow);
        written.unwrap();
    }
}
