//! Turns for large work: small requests wait for little of it, however many large ones there are.

use std::sync::{Arc, LazyLock};
use std::thread::available_parallelism;

use bytes::{BufMut, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::yield_now;

/// Hands out turns to tasks with large work, such as encoding or writing an answer of several MB.
/// Such a task takes a turn for each part of its work. Tasks that wait for a turn are not in the
/// runtime's queues, so that a request that arrives waits there for few parts, instead of one of
/// every large answer. Clones share the turns.
#[derive(Debug, Clone)]
pub struct Turns(Arc<Semaphore>);

/// A part of large work may be done until this is dropped.
#[derive(Debug)]
pub struct Turn(
    #[expect(dead_code, reason = "ends when it is dropped")] Option<OwnedSemaphorePermit>,
);

impl Turns {
    /// Bytes that are encoded in one turn: 64 KiB.
    pub const BYTES: usize = 64 * 1024;

    /// The turns of the process: as many at a time as there are processors.
    pub fn of_process() -> Self {
        static TURNS: LazyLock<Turns> =
            LazyLock::new(|| Turns::new(available_parallelism().map_or(1, usize::from)));
        TURNS.clone()
    }

    /// Up to so many turns at a time, at least one.
    pub fn new(at_a_time: usize) -> Self {
        Self(Arc::new(Semaphore::new(at_a_time.max(1))))
    }

    /// Waits for the next turn. Turns are given in the order in which they were asked for. Other
    /// tasks run before it begins, and the thread looks for events.
    ///
    /// What is done in a turn waits for nothing, neither for a peer nor for a store: others wait
    /// for its end.
    pub async fn next(&self) -> Turn {
        // The semaphore is never closed.
        let permit = Arc::clone(&self.0).acquire_owned().await.ok();
        yield_now().await;
        Turn(permit)
    }

    /// Waits for a turn for work on so many bytes, if they are more than [`Turns::BYTES`].
    pub async fn for_bytes(&self, bytes: usize) -> Option<Turn> {
        if bytes > Self::BYTES { Some(self.next().await) } else { None }
    }

    /// Appends items to a document, separated by commas; after each [`Turns::BYTES`] it waits for a
    /// turn.
    pub async fn joined<T>(
        &self,
        out: &mut BytesMut,
        items: impl IntoIterator<Item = T>,
        mut one: impl FnMut(&mut BytesMut, T),
    ) {
        let (mut turn, mut end) = (None, out.len() + Self::BYTES);
        for (at, item) in items.into_iter().enumerate() {
            if out.len() >= end {
                drop(turn.take());
                turn = Some(self.next().await);
                end = out.len() + Self::BYTES;
            }
            if at > 0 {
                out.put_u8(b',');
            }
            one(out, item);
        }
    }
}

impl Default for Turns {
    /// [`Turns::of_process`].
    fn default() -> Self {
        Self::of_process()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// Polls up to the turn, through the yield before it.
    fn turn(next: std::pin::Pin<&mut impl Future<Output = Turn>>) -> Option<Turn> {
        let mut next = next;
        let mut context = Context::from_waker(Waker::noop());
        (0..2).find_map(|_| match next.as_mut().poll(&mut context) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        })
    }

    #[test]
    fn few_tasks_have_a_turn_at_a_time_in_the_order_of_asking() {
        let turns = Turns::new(2);
        let mut context = Context::from_waker(Waker::noop());
        let mut first = pin!(turns.next());
        assert!(first.as_mut().poll(&mut context).is_pending(), "others run before it");
        let first = turn(first);
        assert!(first.is_some());
        let second = turn(pin!(turns.next()));
        assert!(second.is_some());
        let (mut third, mut fourth) = (pin!(turns.next()), pin!(turns.next()));
        assert!(turn(third.as_mut()).is_none() && turn(fourth.as_mut()).is_none());
        drop(first);
        assert!(turn(fourth.as_mut()).is_none(), "the third has waited longer");
        let third = turn(third);
        assert!(third.is_some());
        drop((second, third));
        assert!(turn(fourth).is_some());
    }
}
