//! Requests of one connection on their way: several at once where that cannot be told from one
//! after the other.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use zaqar_core::QueueName;

/// What a request touches: decides what it may overlap with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Footprint {
    /// Nothing that another request could see.
    Nothing,
    /// Looks at a queue.
    Reads(QueueName),
    /// Changes a queue.
    Writes(QueueName),
    /// Anything: waits for all before it, and all behind it wait.
    Everything,
}

impl Footprint {
    fn conflicts(&self, earlier: &Self) -> bool {
        match (self, earlier) {
            (Self::Everything, _) | (_, Self::Everything) => true,
            (Self::Nothing, _) | (_, Self::Nothing) | (Self::Reads(_), Self::Reads(_)) => false,
            (Self::Reads(one) | Self::Writes(one), Self::Reads(other) | Self::Writes(other)) => {
                one == other
            }
        }
    }
}

enum Stage<R, T> {
    Waiting(R),
    Running,
    Done(T),
}

struct Entry<R, T> {
    footprint: Footprint,
    /// Bytes that it keeps.
    weight: usize,
    stage: Stage<R, T>,
}

type Running<T> = Pin<Box<dyn Future<Output = (u64, T)> + Send>>;

/// Requests in the order they came. `R` is a request that has not begun, `T` what it comes to.
pub(crate) struct Pipeline<R, T> {
    entries: VecDeque<Entry<R, T>>,
    /// The number of the entry in front.
    front: u64,
    running: FuturesUnordered<Running<T>>,
    weight: usize,
}

impl<R, T: 'static> Pipeline<R, T> {
    pub(crate) fn new() -> Self {
        Self { entries: VecDeque::new(), front: 0, running: FuturesUnordered::new(), weight: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes that requests and what came of them keep.
    pub(crate) fn weight(&self) -> usize {
        self.weight
    }

    /// Adds a request that keeps `weight` bytes.
    pub(crate) fn push(&mut self, footprint: Footprint, weight: usize, request: R) {
        self.weight += weight;
        self.entries.push_back(Entry { footprint, weight, stage: Stage::Waiting(request) });
    }

    /// Adds what needs no work and keeps `weight` bytes.
    pub(crate) fn push_done(&mut self, weight: usize, done: T) {
        self.weight += weight;
        let (footprint, stage) = (Footprint::Nothing, Stage::Done(done));
        self.entries.push_back(Entry { footprint, weight, stage });
    }

    /// The first request that may begin now. The caller must [`Pipeline::run`] it.
    pub(crate) fn next(&mut self) -> Option<(u64, R)> {
        let at = (0..self.entries.len()).find(|at| {
            let entry = &self.entries[*at];
            matches!(entry.stage, Stage::Waiting(_))
                && !self.entries.range(..at).any(|earlier| {
                    !matches!(earlier.stage, Stage::Done(_))
                        && entry.footprint.conflicts(&earlier.footprint)
                })
        })?;
        match std::mem::replace(&mut self.entries[at].stage, Stage::Running) {
            Stage::Waiting(request) => Some((self.front + at as u64, request)),
            Stage::Running | Stage::Done(_) => None,
        }
    }

    /// Runs a request that [`Pipeline::next`] gave.
    pub(crate) fn run(&self, number: u64, work: impl Future<Output = T> + Send + 'static) {
        self.running.push(Box::pin(async move { (number, work.await) }));
    }

    /// Goes on with what runs; ready when something was done, after `inspect` has seen it and has
    /// said how many bytes it keeps.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        inspect: impl FnOnce(&mut T) -> usize,
    ) -> Poll<()> {
        match self.running.poll_next_unpin(cx) {
            Poll::Ready(Some((number, mut done))) => {
                let weight = inspect(&mut done);
                let at = usize::try_from(number.wrapping_sub(self.front)).unwrap_or(usize::MAX);
                if let Some(entry) = self.entries.get_mut(at) {
                    self.weight = self.weight - entry.weight + weight;
                    (entry.weight, entry.stage) = (weight, Stage::Done(done));
                }
                Poll::Ready(())
            }
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    /// Whether the oldest is done.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.entries.front(), Some(Entry { stage: Stage::Done(_), .. }))
    }

    /// Takes the oldest out if it is done.
    pub(crate) fn pop(&mut self) -> Option<T> {
        if !self.is_ready() {
            return None;
        }
        let entry = self.entries.pop_front()?;
        self.front += 1;
        self.weight -= entry.weight;
        if self.entries.is_empty() {
            // An idle connection keeps no memory of a busy hour.
            self.entries.shrink_to(4);
        }
        match entry.stage {
            Stage::Done(done) => Some(done),
            Stage::Waiting(_) | Stage::Running => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn name(name: &str) -> QueueName {
        QueueName::new(name).unwrap()
    }

    fn poll(pipeline: &mut Pipeline<&'static str, &'static str>) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        pipeline.poll(&mut cx, |done| done.len()).is_ready()
    }

    fn startable(pipeline: &mut Pipeline<&'static str, &'static str>) -> Vec<(u64, &'static str)> {
        std::iter::from_fn(|| pipeline.next()).collect()
    }

    #[test]
    fn only_reads_overlap_on_one_queue() {
        let mut pipeline = Pipeline::new();
        pipeline.push(Footprint::Reads(name("a")), 10, "r1");
        pipeline.push(Footprint::Reads(name("a")), 10, "r2");
        pipeline.push(Footprint::Writes(name("a")), 10, "w1");
        pipeline.push(Footprint::Reads(name("a")), 10, "r3");
        pipeline.push(Footprint::Writes(name("b")), 10, "w2");
        pipeline.push(Footprint::Nothing, 10, "n");
        let started = startable(&mut pipeline);
        assert_eq!(started.iter().map(|(_, r)| *r).collect::<Vec<_>>(), ["r1", "r2", "w2", "n"]);
        for (number, request) in started {
            pipeline.run(number, async move { request });
            assert!(poll(&mut pipeline));
        }
        assert_eq!(startable(&mut pipeline), [(2, "w1")]);
    }

    #[test]
    fn what_touches_everything_waits_and_is_waited_for() {
        let mut pipeline = Pipeline::new();
        pipeline.push(Footprint::Writes(name("a")), 10, "w1");
        pipeline.push(Footprint::Everything, 10, "all");
        pipeline.push(Footprint::Writes(name("b")), 10, "w2");
        for expected in ["w1", "all", "w2"] {
            let started = startable(&mut pipeline);
            assert_eq!(started.len(), 1);
            assert_eq!(started[0].1, expected);
            pipeline.run(started[0].0, async move { expected });
            assert!(poll(&mut pipeline));
        }
    }

    #[test]
    fn answers_leave_in_order() {
        let mut pipeline = Pipeline::new();
        pipeline.push(Footprint::Writes(name("a")), 10, "a");
        pipeline.push(Footprint::Writes(name("b")), 10, "b");
        pipeline.push_done(3, "c");
        let started = startable(&mut pipeline);
        pipeline.run(started[1].0, async { "b" });
        assert_eq!(pipeline.weight(), 23);
        assert!(poll(&mut pipeline));
        assert_eq!(pipeline.weight(), 14);
        assert_eq!(pipeline.pop(), None);
        pipeline.run(started[0].0, async { "a" });
        assert!(poll(&mut pipeline));
        let popped: Vec<_> = std::iter::from_fn(|| pipeline.pop()).collect();
        assert_eq!(popped, ["a", "b", "c"]);
        assert!(pipeline.is_empty());
        assert_eq!(pipeline.weight(), 0);
    }
}
