//! The stream below hyper: it has timeouts where hyper has none, charges the bytes of a request's
//! head to the memory budget, and closes so that the peer can read the last response.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use zaqar_core::{OverBudget, Permit};
use zaqar_transport::IoTimeout;

use crate::activity::Activity;

/// The preface that an HTTP/2 client sends first (RFC 9113, 3.4). Until it is complete, or other
/// bytes arrive, hyper has not chosen a version and has no timeout.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Maximum size of a request's head in hyper's buffer.
pub(crate) const MAX_BUFFER: usize = 128 * 1024;

/// Bytes of one read. hyper doubles its buffer when a read fills it, and keeps it until the
/// connection is closed: it grows to 16 KiB, and beyond that only for a head that is larger.
const READ_AT_ONCE: u64 = 16 * 1024 - 1;

/// The fixed charge of every connection covers buffers of this size for reads and for writes.
const FREE_BUFFER: usize = 8 * 1024;

/// What hyper's buffer for reads occupies once a body has filled the first one: its next part is
/// read into another while the one before is in use.
const BODY_BUFFER: usize = 32 * 1024;

/// What a connection of HTTP/2 occupies beyond the fixed charge: 27.4 KiB were measured.
const HTTP2_BYTES: usize = 4 * 1024;

/// Bytes that are written before other tasks run: copying a large answer takes a while.
const WRITTEN_AT_ONCE: usize = 64 * 1024;

/// After our side is closed: how many bytes of the peer are discarded, and for how long.
const LINGER_BYTES: usize = 4 << 20;
const LINGER_LIMIT: Duration = Duration::from_secs(2);

/// The response when a request's head exceeds the memory budget.
const OVER_BUDGET: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n\
    content-length: 0\r\nconnection: close\r\n\r\n";

/// What a peer is told over HTTP/2: GOAWAY (RFC 9113, 6.8) with ENHANCE_YOUR_CALM and a reason.
/// Which streams were served is not known here, so that it names the last one possible: a client
/// must not take it that they were not.
const GO_AWAY: &[u8] = b"\0\0\x34\x07\0\0\0\0\0\x7f\xff\xff\xff\0\0\0\x0b\
    The server is over its memory budget; retry.";

/// A connection's stream.
pub(crate) struct ConnectionIo<T> {
    stream: IoTimeout<T>,
    activity: Arc<Activity>,
    /// Bytes of [`PREFACE`] received so far; `None` once the version is known.
    preface: Option<usize>,
    is_http2: bool,
    /// Everything written was flushed: nothing of a response, or of a frame of HTTP/2, is left.
    is_flushed: bool,
    /// Bytes written since other tasks ran.
    written: usize,
    /// Bytes that came since a request last began or ended.
    received: usize,
    /// Bytes that hyper's buffers for reads and writes keep until the connection is closed, beyond
    /// the fixed charge.
    kept: (usize, usize),
    /// Memory that the received bytes and the buffers occupy.
    permit: Permit,
    rejection: Option<Rejection>,
    linger: Option<Linger>,
}

/// A request's head exceeded the memory budget: the peer is answered, and the connection closed.
struct Rejection {
    over: OverBudget,
    /// The part of the answer that is still to be written.
    rest: &'static [u8],
}

/// What a buffer occupies beyond the fixed charge when it has grown for so many bytes.
const fn grown(bytes: usize) -> usize {
    if bytes <= FREE_BUFFER { 0 } else { bytes.next_power_of_two() }
}

/// A closing connection whose peer may still be sending.
struct Linger {
    deadline: Pin<Box<Sleep>>,
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
            is_flushed: true,
            written: 0,
            received: 0,
            kept: (0, 0),
            permit,
            rejection: None,
            linger: None,
        }
    }

    fn detect_version(&mut self, received: &[u8]) {
        let Some(had) = self.preface else { return };
        self.is_http2 = received.starts_with(&PREFACE[had..]);
        let continues =
            had + received.len() < PREFACE.len() && PREFACE[had..].starts_with(received);
        self.preface = continues.then_some(had + received.len());
        if self.is_http2 {
            self.activity.note_http2();
        }
        self.stream.expect_bytes(continues);
    }

    /// Charges received bytes. A head over budget is an error, unless a response is on its way,
    /// which may tell of popped messages: then it is charged past the bounds. The body of a request
    /// that has begun is neither: its reader has the same budget, and answers 503.
    fn charge(&mut self, bytes: usize) -> Result<(), OverBudget> {
        let is_body = self.activity.is_handling();
        if self.activity.take_boundary() {
            self.received = 0;
        }
        self.received = self.received.saturating_add(bytes);
        // Over HTTP/2 the bodies of several streams wait in the connection's windows.
        let most = if is_body && !self.is_http2 { BODY_BUFFER } else { MAX_BUFFER };
        let charged = grown(self.received.min(most));
        let Err(over) = self.permit.resize(self.occupied(charged)) else {
            self.kept.0 = self.kept.0.max(if is_body { charged.min(BODY_BUFFER) } else { charged });
            return Ok(());
        };
        if is_body {
            return Ok(());
        }
        // What hyper has copied into its buffer counts as read, but is not flushed.
        if self.activity.is_idle() && self.is_flushed {
            return Err(over);
        }
        self.kept.0 = self.kept.0.max(charged);
        self.permit.resize_past_bounds(self.occupied(charged));
        Ok(())
    }

    /// What is charged while received bytes occupy this much.
    fn occupied(&self, received: usize) -> usize {
        let version = if self.is_http2 { HTTP2_BYTES } else { 0 };
        received.max(self.kept.0) + self.kept.1 + version
    }

    /// Charges the buffer that hyper writes from, and keeps: over HTTP/1 it copies a response into
    /// it. The response exists already, so it is charged past the bounds.
    fn charge_written(&mut self, buffered: usize) {
        let grown = grown(buffered.min(2 * WRITTEN_AT_ONCE));
        if grown > self.kept.1 && !self.is_http2 {
            let more = grown - self.kept.1;
            self.kept.1 = grown;
            self.permit.resize_past_bounds(self.permit.bytes() + more);
        }
    }

    /// Answers in the middle of a head: no response is on its way, and over HTTP/2 no frame.
    fn reject(&self, over: OverBudget) -> Rejection {
        Rejection { over, rest: if self.is_http2 { GO_AWAY } else { OVER_BUDGET } }
    }
}

impl<T> ConnectionIo<T> {
    /// Lets other tasks run once after [`WRITTEN_AT_ONCE`] bytes.
    fn poll_turn(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.written < WRITTEN_AT_ONCE {
            return Poll::Ready(());
        }
        self.written = 0;
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
        self.activity.wrote(bytes);
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> ConnectionIo<T> {
    /// Answers the peer, and closes the connection.
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

    /// Closes our side, then discards what the peer still sends, within limits: closing with unread
    /// bytes would reset the connection, and the peer would lose the last response.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        if self.activity.is_stopping() {
            return Poll::Ready(Ok(()));
        }
        let linger = self.linger.get_or_insert_with(|| Linger {
            deadline: Box::pin(sleep(LINGER_LIMIT)),
            discarded: 0,
        });
        while linger.discarded < LINGER_BYTES && linger.deadline.as_mut().poll(cx).is_pending() {
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
        ready!(this.poll_rejection(cx))?;
        let before = buffer.filled().len();
        let mut stream = (&mut this.stream).take(READ_AT_ONCE);
        ready!(Pin::new(&mut stream).poll_read(cx, buffer))?;
        let received = &buffer.filled()[before..];
        this.detect_version(received);
        if let Err(over) = this.charge(received.len()) {
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
        // What hyper writes must not come between: it waits, and fails.
        ready!(this.poll_rejection(cx))?;
        ready!(this.poll_turn(cx));
        this.is_flushed = false;
        this.charge_written(bytes.len());
        let bytes = &bytes[..bytes.len().min(WRITTEN_AT_ONCE)];
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, bytes))?;
        this.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // What hyper writes must not come between: it waits, and fails.
        ready!(this.poll_rejection(cx))?;
        ready!(this.poll_turn(cx));
        this.is_flushed = false;
        let mut left = WRITTEN_AT_ONCE;
        let fits = |slice: &&IoSlice<'_>| {
            let rest = left.checked_sub(slice.len());
            left = rest.unwrap_or(0);
            rest.is_some()
        };
        let stream = Pin::new(&mut this.stream);
        let written = ready!(match (slices.iter().take_while(fits).count(), slices.first()) {
            (0, Some(large)) => stream.poll_write(cx, &large[..WRITTEN_AT_ONCE]),
            (count, _) => stream.poll_write_vectored(cx, &slices[..count]),
        })?;
        this.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.stream).poll_flush(cx))?;
        // Whoever writes asks for a flush once its own buffer is empty.
        this.is_flushed = true;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::{Instant, timeout};
    use zaqar_core::{MemoryBounds, MemoryBudget};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn io<T>(stream: T, budget: &MemoryBudget) -> ConnectionIo<T> {
        let permit = budget.connection().try_acquire(0).unwrap();
        ConnectionIo::new(stream, TIMEOUT, Arc::default(), permit)
    }

    /// The result of another read after a peer has sent these bytes and then nothing for a long
    /// time.
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
    async fn a_peer_must_select_a_version_in_time() {
        for incomplete in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
            let (read, took) = read_after(incomplete).await;
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut, "{incomplete:?}");
            assert_eq!(took, TIMEOUT);
        }
        for complete in [&b"G"[..], b"PU", PREFACE] {
            assert_eq!(read_after(complete).await.0.unwrap(), 1, "{complete:?}");
        }
    }

    /// However much the peer takes.
    #[tokio::test]
    async fn a_large_answer_is_written_in_parts() {
        let (_peer, stream) = duplex(4 * WRITTEN_AT_ONCE);
        let mut stream = io(stream, &MemoryBudget::default());
        let large = vec![b'x'; 2 * WRITTEN_AT_ONCE];
        let slices = [IoSlice::new(b"head"), IoSlice::new(&large)];
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut write = |slices: &[IoSlice<'_>]| match Pin::new(&mut stream)
            .poll_write_vectored(&mut cx, slices)
        {
            Poll::Ready(written) => Some(written.unwrap()),
            Poll::Pending => None,
        };
        assert!(write(&slices).unwrap() <= WRITTEN_AT_ONCE);
        assert_eq!(write(&slices[1..]), Some(WRITTEN_AT_ONCE));
        assert_eq!(write(&slices[1..]), None, "others' turn");
        assert_eq!(write(&slices[1..]), Some(WRITTEN_AT_ONCE));
        let written = Pin::new(&mut stream).poll_write(&mut cx, &large);
        assert!(written.is_pending());
        let written = Pin::new(&mut stream).poll_write(&mut cx, &large);
        assert!(matches!(written, Poll::Ready(Ok(WRITTEN_AT_ONCE))));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unfinished_head_is_charged_and_rejected_over_budget() {
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
        let mut answer = String::new();
        peer.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("\r\n\r\n"), "{answer}");
    }

    fn assert_go_away(frame: &[u8]) {
        let (length, kind) = (usize::from(frame[2]), frame[3]);
        assert_eq!((length, kind, frame[16]), (frame.len() - 9, 7, 11), "GOAWAY, be calm");
        assert!(frame[17..].starts_with(b"The server is over its memory budget"));
    }

    /// A peer of HTTP/2 reads why, however much it still sends; not in the middle of a frame.
    #[tokio::test(start_paused = true)]
    async fn a_peer_of_http2_is_told_to_go_away() {
        for in_a_frame in [false, true] {
            let bounds = MemoryBounds { process: 10 << 10, ..MemoryBounds::UNLIMITED };
            let budget = MemoryBudget::new(bounds);
            let (mut peer, stream) = duplex(256 << 10);
            let mut stream = io(stream, &budget);
            stream.write_all(b"whole").await.unwrap();
            stream.flush().await.unwrap();
            peer.write_all(PREFACE).await.unwrap();
            peer.write_all(&vec![0; 200 << 10]).await.unwrap();
            if in_a_frame {
                stream.write_all(b"half").await.unwrap();
                stream.read_exact(&mut [0; 20 << 10]).await.unwrap();
                assert_eq!(budget.in_use(), (32 << 10) + HTTP2_BYTES, "past the bounds");
                stream.flush().await.unwrap();
            }
            let start = Instant::now();
            while stream.read(&mut [0; 10_000]).await.is_ok() {}
            assert!(start.elapsed() < 2 * LINGER_LIMIT);
            drop(stream);
            let mut told = Vec::new();
            peer.read_to_end(&mut told).await.unwrap();
            let before: &[u8] = if in_a_frame { b"wholehalf" } else { b"whole" };
            assert_go_away(told.strip_prefix(before).unwrap());
        }
    }

    /// hyper copies a small response into its buffer, from which it goes out later.
    #[tokio::test(start_paused = true)]
    async fn a_response_on_its_way_is_not_broken_by_a_head_over_budget() {
        for is_copied in [true, false] {
            let bounds = MemoryBounds { process: 10 << 10, ..MemoryBounds::UNLIMITED };
            let (mut peer, stream) = duplex(64 << 10);
            let mut stream = io(stream, &MemoryBudget::new(bounds));
            let unread = stream.activity.respond(b"popped".len(), TIMEOUT);
            let rest = (!is_copied).then_some(unread);
            if is_copied {
                stream.write_all(b"pop").await.unwrap();
            }
            peer.write_all(&[b'x'; 40_000]).await.unwrap();
            stream.read_exact(&mut [0; 20_000]).await.unwrap();
            let left: &[u8] = if is_copied { b"ped" } else { b"popped" };
            stream.write_all(left).await.unwrap();
            stream.flush().await.unwrap();
            drop(rest);
            while stream.read(&mut [0; 10_000]).await.is_ok() {}
            drop(stream);
            let mut told = String::new();
            peer.read_to_string(&mut told).await.unwrap();
            assert!(told.starts_with("poppedHTTP/1.1 503 "), "{is_copied}: {told}");
        }
    }

    /// Nothing comes into the middle of the answer.
    #[tokio::test(start_paused = true)]
    async fn nothing_else_is_written_once_a_peer_is_rejected() {
        const SECOND: Duration = Duration::from_secs(1);
        let bounds = MemoryBounds { process: 10 << 10, ..MemoryBounds::UNLIMITED };
        let (peer, stream) = duplex(1024);
        let mut stream = io(stream, &MemoryBudget::new(bounds));
        stream.write_all(&[b'w'; 1020]).await.unwrap();
        stream.flush().await.unwrap();
        let (mut answers, mut requests) = tokio::io::split(peer);
        let sending = tokio::spawn(async move {
            requests.write_all(PREFACE).await.unwrap();
            requests.write_all(&[0; 20_000]).await.unwrap();
        });
        let reading = async { while stream.read(&mut [0; 10_000]).await.is_ok() {} };
        timeout(SECOND, reading).await.unwrap_err();
        timeout(SECOND, stream.write_all(b"more")).await.unwrap_err();
        let told = tokio::spawn(async move {
            let mut told = Vec::new();
            answers.read_to_end(&mut told).await.unwrap();
            told
        });
        stream.write_all(b"more").await.unwrap_err();
        drop(stream);
        assert_go_away(told.await.unwrap().strip_prefix(&[b'w'; 1020]).unwrap());
        sending.await.unwrap();
    }

    /// Whoever reads the body is refused, and answers.
    #[tokio::test]
    async fn the_body_of_a_request_may_exceed_the_budget() {
        let bounds = MemoryBounds { process: 20 << 10, ..MemoryBounds::UNLIMITED };
        let budget = MemoryBudget::new(bounds);
        let (mut peer, stream) = duplex(256 << 10);
        let mut stream = io(stream, &budget);
        let _request = stream.activity.begin_request();
        peer.write_all(&vec![b'x'; 200 << 10]).await.unwrap();
        stream.read_exact(&mut vec![0; 200 << 10]).await.unwrap();
        assert!(budget.in_use() <= 20 << 10 && budget.refused() > 0);
    }

    /// Sends bytes and reads them at the other end.
    async fn pass(
        peer: &mut (impl AsyncWrite + Unpin),
        stream: &mut (impl AsyncRead + Unpin),
        bytes: usize,
    ) {
        peer.write_all(&vec![b'x'; bytes]).await.unwrap();
        stream.read_exact(&mut vec![0; bytes]).await.unwrap();
    }

    /// hyper keeps its buffers for as long as the connection is open.
    #[tokio::test]
    async fn grown_buffers_are_charged_until_the_connection_is_closed() {
        let budget = MemoryBudget::default();
        let (mut peer, stream) = duplex(512 << 10);
        let mut stream = io(stream, &budget);
        for _ in 0..3 {
            pass(&mut peer, &mut stream, 200).await;
            drop(stream.activity.begin_request());
        }
        assert_eq!(budget.in_use(), 0, "the fixed charge covers small requests");
        for _ in 0..3 {
            pass(&mut peer, &mut stream, 200).await;
            let request = stream.activity.begin_request();
            pass(&mut peer, &mut stream, 200_000).await;
            drop(request);
            assert_eq!(budget.in_use(), BODY_BUFFER);
            pass(&mut peer, &mut stream, 200).await;
            assert_eq!(budget.in_use(), BODY_BUFFER);
            drop(stream.activity.begin_request());
        }
        pass(&mut peer, &mut stream, 50_000).await;
        assert_eq!(budget.in_use(), 64 << 10);
        drop(stream.activity.begin_request());
        pass(&mut peer, &mut stream, 200).await;
        assert_eq!(budget.in_use(), 64 << 10, "of a large head");
        for answer in [8 << 10, 57 << 10, 300] {
            stream.write_all(&vec![b'x'; answer]).await.unwrap();
        }
        assert_eq!(budget.in_use(), (64 << 10) + (64 << 10));
        drop(stream);
        assert_eq!(budget.in_use(), 0);
    }

    /// A read that fills hyper's buffer doubles it.
    #[tokio::test]
    async fn reads_are_bounded() {
        let (mut peer, stream) = duplex(256 << 10);
        let mut stream = io(stream, &MemoryBudget::default());
        peer.write_all(&[b'x'; 100_000]).await.unwrap();
        let read = stream.read(&mut [0; 100_000]).await.unwrap();
        assert!(read < 16 << 10, "{read}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_still_sends_can_read_the_last_response() {
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
