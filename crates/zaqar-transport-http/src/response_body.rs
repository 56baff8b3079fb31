//! The body of a response on a connection: hyper gets it in pieces, and a large one in turns.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};
use zaqar_core::{Permit, RejectionPermit};
use zaqar_transport::Turn;

use crate::activity::UnreadBody;

/// Bytes that are passed to hyper at a time. Over HTTP/1 it copies them behind the head into a
/// buffer that the connection keeps, of 64 KiB then; over HTTP/2 into those of the stream.
pub(crate) const MAX_PIECE: usize = 56 * 1024;

/// What a stream of HTTP/2 is charged to until its response is written.
#[derive(Debug)]
pub(crate) enum StreamPermit {
    /// The budget.
    Budget(#[expect(dead_code, reason = "dropped with the response")] Permit),
    /// The bound of answers to clients that exceed the budget.
    Rejection(#[expect(dead_code, reason = "dropped with the response")] RejectionPermit),
}

/// A response's body.
pub(crate) struct ResponseBody {
    bytes: Bytes,
    owed: Owed,
    /// Over HTTP/1 the next piece waits until this one is written.
    is_http1: bool,
    has_begun: bool,
    next_turn: Option<Pin<Box<dyn Future<Output = Turn> + Send>>>,
}

/// A piece of a response's body. Pieces are written in order, so the last one ends the response.
#[derive(Debug)]
pub(crate) struct Piece {
    bytes: Bytes,
    #[expect(dead_code, reason = "dropped with the last piece")]
    owed: Owed,
}

/// What ends when the last byte was passed on.
#[derive(Debug, Default)]
pub(crate) struct Owed {
    /// Until then the peer has not read the response.
    pub(crate) unread: Option<UnreadBody>,
    #[expect(dead_code, reason = "dropped with the rest")]
    pub(crate) stream: Option<StreamPermit>,
}

impl ResponseBody {
    /// A body of these bytes, which are not empty if the peer is to read them.
    pub(crate) const fn new(bytes: Bytes, owed: Owed, is_http1: bool) -> Self {
        Self { bytes, owed, is_http1, has_begun: false, next_turn: None }
    }

    /// Waits before a piece that is not the first: until what hyper has taken is written, and then
    /// for a turn, so that the tasks of large responses are not all ready to run at once. The turn
    /// lasts until the task has taken the piece: it does not wait for the peer.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(unread) = &self.owed.unread else { return Poll::Ready(()) };
        let activity = unread.activity();
        if self.is_http1 && self.next_turn.is_none() {
            ready!(activity.poll_written(context));
        }
        let turn = self.next_turn.get_or_insert_with(|| {
            let turns = activity.turns().clone();
            Box::pin(async move { turns.next().await })
        });
        let _turn: Turn = ready!(turn.as_mut().poll(context));
        self.next_turn = None;
        Poll::Ready(())
    }
}

impl Body for ResponseBody {
    type Data = Piece;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, Infallible>>> {
        if self.bytes.is_empty() {
            return Poll::Ready(None);
        }
        if self.has_begun {
            ready!(self.poll_turn(context));
        }
        self.has_begun = true;
        // The last piece takes the buffer itself, so that the body keeps no reference to it.
        let piece = match self.bytes.len() > MAX_PIECE {
            true => {
                if self.is_http1
                    && let Some(unread) = &self.owed.unread
                {
                    unread.activity().took(MAX_PIECE);
                }
                Piece { bytes: self.bytes.split_to(MAX_PIECE), owed: Owed::default() }
            }
            false => Piece {
                bytes: std::mem::take(&mut self.bytes),
                owed: std::mem::take(&mut self.owed),
            },
        };
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Waker;
    use std::time::Duration;

    use zaqar_transport::Turns;

    use super::*;
    use crate::activity::Activity;

    fn body(length: usize, activity: &Arc<Activity>, is_http1: bool) -> ResponseBody {
        let unread = Some(activity.respond(length, Duration::from_secs(60)));
        let owed = Owed { unread, stream: None };
        ResponseBody::new(Bytes::from(vec![b'x'; length]), owed, is_http1)
    }

    /// The length of the next piece; `None` while it waits.
    fn piece(body: &mut ResponseBody) -> Option<usize> {
        let mut context = Context::from_waker(Waker::noop());
        // A turn begins after one yield.
        (0..2).find_map(|_| match Pin::new(&mut *body).poll_frame(&mut context) {
            Poll::Ready(Some(Ok(frame))) => frame.data_ref().map(Buf::remaining),
            Poll::Ready(_) => Some(0),
            Poll::Pending => None,
        })
    }

    /// Otherwise hyper would buffer 192 KiB, and the connection would keep a buffer of 256 KiB.
    #[tokio::test]
    async fn over_http1_a_piece_waits_until_the_one_before_is_written() {
        let activity = Arc::new(Activity::default());
        let mut body = body(2 * MAX_PIECE + 1, &activity, true);
        assert_eq!(piece(&mut body), Some(MAX_PIECE));
        assert_eq!(piece(&mut body), None);
        activity.wrote(MAX_PIECE - 1);
        assert_eq!(piece(&mut body), None);
        activity.wrote(1);
        assert_eq!(piece(&mut body), Some(MAX_PIECE));
        // A part of the head may have been written with it.
        activity.wrote(MAX_PIECE + 300);
        assert!(!activity.is_idle());
        assert_eq!(piece(&mut body), Some(1));
        assert!(activity.is_idle() && body.is_end_stream());
    }

    #[tokio::test]
    async fn the_wait_ends_with_the_write() {
        let activity = Arc::new(Activity::default());
        let mut body = body(2 * MAX_PIECE, &activity, true);
        assert_eq!(piece(&mut body), Some(MAX_PIECE));
        let mut next = tokio::spawn(async move {
            let next = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
            next.map(|frame| frame.unwrap().data_ref().map(Buf::remaining))
        });
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(!next.is_finished());
        activity.wrote(MAX_PIECE);
        assert_eq!((&mut next).await.unwrap(), Some(Some(MAX_PIECE)));
    }

    /// Small responses, and the beginning of large ones, wait for no other.
    #[tokio::test]
    async fn large_bodies_take_turns() {
        for is_http1 in [true, false] {
            let turns = Turns::new(1);
            let activity = Arc::new(Activity::with_turns(turns.clone()));
            let mut large = body(2 * MAX_PIECE, &activity, is_http1);
            assert_eq!(piece(&mut large), Some(MAX_PIECE));
            activity.wrote(MAX_PIECE);
            let other = turns.next().await;
            assert_eq!(piece(&mut large), None, "another has the turn");
            let mut small = body(MAX_PIECE, &activity, is_http1);
            assert_eq!(piece(&mut small), Some(MAX_PIECE));
            drop(other);
            assert_eq!(piece(&mut large), Some(MAX_PIECE));
            drop(turns.next().await);
        }
    }
}
