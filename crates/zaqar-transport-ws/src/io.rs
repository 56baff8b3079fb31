//! The stream below tungstenite: it counts the received bytes of an unfinished message, and writes
//! large messages without copying them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use zaqar_transport::{IoTimeout, Turn, Turns};

use crate::encoding::Encoding;

/// Bytes of a large frame that are written before other tasks run.
const WRITTEN_AT_ONCE: usize = 64 * 1024;

/// Bytes of a client's control frame besides its payload: the header and the mask.
const CONTROL_OVERHEAD: usize = 2 + 4;

/// A connection's stream.
pub(crate) struct ConnectionIo<S> {
    stream: IoTimeout<S>,
    /// Bytes received since the last complete message.
    received: usize,
    /// When the first bytes of an unfinished message arrived.
    unfinished_since: Option<Instant>,
    /// Bytes of the largest message so far.
    largest: usize,
    /// A large frame, which bypasses tungstenite: its buffer would copy the frame and stay that
    /// large.
    large: Option<LargeFrame>,
    turns: Turns,
}

struct LargeFrame {
    head: Bytes,
    payload: Bytes,
    is_begun: bool,
    /// Bytes of the current part that may still be written.
    part: usize,
    /// The wait for the turn of the next part.
    next_turn: Option<Pin<Box<dyn Future<Output = Turn> + Send>>>,
}

impl<S> ConnectionIo<S> {
    /// Writes fail when the peer reads too little for `timeout`.
    pub(crate) fn new(stream: S, timeout: Duration) -> Self {
        Self::with_turns(stream, timeout, Turns::of_process())
    }

    fn with_turns(stream: S, timeout: Duration, turns: Turns) -> Self {
        let stream = IoTimeout::new(stream, timeout);
        Self { stream, received: 0, unfinished_since: None, largest: 0, large: None, turns }
    }

    /// Bytes received of an unfinished message, and when the first ones arrived.
    pub(crate) const fn unfinished(&self) -> (usize, Option<Instant>) {
        (self.received, self.unfinished_since)
    }

    /// Bytes that tungstenite's buffer for reads occupies: it grows for each message, and is kept
    /// as it is until the connection is closed. While it grows it is up to twice as large as what
    /// is in it.
    pub(crate) fn buffered(&self) -> usize {
        self.largest.max(2 * self.received)
    }

    /// A complete message has arrived.
    pub(crate) fn finish_message(&mut self) {
        self.largest = self.largest.max(self.received);
        self.received = 0;
        self.unfinished_since = None;
    }

    /// A control frame has arrived, perhaps in the middle of a message.
    pub(crate) const fn finish_control(&mut self, payload: usize) {
        self.received = self.received.saturating_sub(payload + CONTROL_OVERHEAD);
        if self.received == 0 {
            self.unfinished_since = None;
        }
    }

    /// Writes a message at the next flush, before anything else. Everything passed to tungstenite
    /// before must have been flushed.
    pub(crate) fn write_large(&mut self, encoding: Encoding, payload: Bytes) {
        let head = frame_head(encoding, payload.len());
        let part = WRITTEN_AT_ONCE;
        self.large = Some(LargeFrame { head, payload, is_begun: false, part, next_turn: None });
    }

    /// Drops the large message that is being written. Returns whether a part of it was sent, after
    /// which the peer cannot decode any other frame.
    pub(crate) fn abandon_large(&mut self) -> bool {
        self.large.take().is_some_and(|large| large.is_begun)
    }

    /// The stream, to close the connection.
    pub(crate) fn into_inner(self) -> IoTimeout<S> {
        self.stream
    }
}

/// The header of a final, unmasked data frame (RFC 6455, 5.2).
fn frame_head(encoding: Encoding, length: usize) -> Bytes {
    const FINAL: u8 = 0x80;
    let mut head = BytesMut::with_capacity(10);
    head.put_u8(FINAL | encoding.opcode());
    if let Ok(short @ ..=125) = u8::try_from(length) {
        head.put_u8(short);
    } else if let Ok(middle) = u16::try_from(length) {
        head.put_u8(126);
        head.put_u16(middle);
    } else {
        head.put_u8(127);
        head.put_u64(length as u64);
    }
    head.freeze()
}

impl<S: AsyncWrite + Unpin> ConnectionIo<S> {
    /// Writes the frame that [`ConnectionIo::write_large`] was given, in parts: each but the first
    /// waits for a turn, so that the tasks of large frames are not all ready to run at once.
    fn poll_large(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(large) = &mut self.large {
            let rest = if large.head.is_empty() { &mut large.payload } else { &mut large.head };
            if rest.is_empty() {
                self.large = None;
                return Poll::Ready(Ok(()));
            }
            if large.part == 0 {
                let turns = &self.turns;
                let turn = large.next_turn.get_or_insert_with(|| {
                    let turns = turns.clone();
                    Box::pin(async move { turns.next().await })
                });
                // It ends at once: a turn does not wait for the peer.
                let _turn: Turn = ready!(turn.as_mut().poll(cx));
                (large.next_turn, large.part) = (None, WRITTEN_AT_ONCE);
            }
            let part = &rest[..rest.len().min(large.part)];
            match ready!(Pin::new(&mut self.stream).poll_write(cx, part))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => {
                    rest.advance(written);
                    large.part -= written;
                    large.is_begun = true;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ConnectionIo<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        this.received += buffer.filled().len() - before;
        this.unfinished_since.get_or_insert_with(Instant::now);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ConnectionIo<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_large(cx))?;
        Pin::new(&mut this.stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_large(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn a_large_frame_is_sent_whole_and_before_later_writes() {
        for (length, head) in [
            (125, vec![0x81, 125]),
            (126, vec![0x81, 126, 0, 126]),
            (65_535, vec![0x81, 126, 255, 255]),
            (65_536, vec![0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let (mut peer, stream) = duplex(1000);
            let mut wire = ConnectionIo::new(stream, Duration::from_secs(60));
            wire.write_large(Encoding::Json, Bytes::from(vec![b'x'; length]));
            let writing = async {
                wire.write_all(b"after").await.unwrap();
                wire.flush().await.unwrap();
            };
            let mut got = vec![0; head.len() + length + 5];
            let (_, read) = tokio::join!(writing, peer.read_exact(&mut got));
            read.unwrap();
            assert_eq!(got[..head.len()], head);
            assert!(got[head.len()..].ends_with(b"xafter"));
        }
    }

    /// A small frame waits for no turn, nor does the first part of a large one.
    #[tokio::test]
    async fn a_large_frame_is_written_in_turns() {
        let (mut peer, stream) = duplex(4 * WRITTEN_AT_ONCE);
        let turns = Turns::new(1);
        let mut wire = ConnectionIo::with_turns(stream, Duration::from_secs(60), turns.clone());
        wire.write_large(Encoding::Json, Bytes::from(vec![b'x'; 3 * WRITTEN_AT_ONCE]));
        let other = turns.next().await;
        let mut context = Context::from_waker(std::task::Waker::noop());
        for _ in 0..10 {
            assert!(Pin::new(&mut wire).poll_flush(&mut context).is_pending());
        }
        peer.read_exact(&mut vec![0; WRITTEN_AT_ONCE]).await.unwrap();
        let mut byte = [0];
        let mut more = Box::pin(peer.read_exact(&mut byte));
        assert!(more.as_mut().poll(&mut context).is_pending(), "another has the turn");
        drop((more, other));
        wire.flush().await.unwrap();
        peer.read_exact(&mut vec![0; 2 * WRITTEN_AT_ONCE + 10]).await.unwrap();
    }

    #[tokio::test]
    async fn pings_in_the_middle_of_a_message_do_not_hide_it() {
        let (mut peer, stream) = duplex(1000);
        let mut wire = ConnectionIo::new(stream, Duration::from_secs(60));
        peer.write_all(&[0; 500]).await.unwrap();
        wire.read_exact(&mut [0; 500]).await.unwrap();
        for _ in 0..100 {
            peer.write_all(&[0; 16]).await.unwrap();
            wire.read_exact(&mut [0; 16]).await.unwrap();
            wire.finish_control(10);
        }
        assert_eq!(wire.unfinished().0, 500);
        assert_eq!(wire.buffered(), 1000);
        wire.finish_message();
        assert_eq!(wire.unfinished(), (0, None));
        assert_eq!(wire.buffered(), 500, "the buffer remains");
    }
}
