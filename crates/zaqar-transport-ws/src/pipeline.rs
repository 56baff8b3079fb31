//! The open requests of one connection: they run concurrently where the result is the same as in
//! sequence.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use zaqar_core::QueueName;

/// What a request accesses, which decides which requests it may overlap with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Footprint {
    /// Nothing that another request could change or observe.
    Nothing,
    /// Reads a queue.
    Reads(QueueName),
    /// Changes a queue.
    Writes(QueueName),
    /// Anything: waits for all requests before it, and all requests after it wait.
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

    /// Whether it may change something, so that a lost answer cannot be asked for again.
    const fn may_change(&self) -> bool {
        match self {
            Self::Writes(_) | Self::Everything => true,
            Self::Nothing | Self::Reads(_) => false,
        }
    }
}

enum Progress<R, T> {
    Waiting(R),
    Running,
    Done(T),
}

struct Entry<R, T> {
    footprint: Footprint,
    /// Bytes that it occupies.
    bytes: usize,
    progress: Progress<R, T>,
}

type Running<T> = Pin<Box<dyn Future<Output = (u64, T)> + Send>>;

/// Requests in the order of arrival. `R` is a request that has not started, `T` its result.
pub(crate) struct Pipeline<R, T> {
    entries: VecDeque<Entry<R, T>>,
    /// The number of the first entry.
    front: u64,
    running: FuturesUnordered<Running<T>>,
    bytes: usize,
}

impl<R, T: 'static> Pipeline<R, T> {
    pub(crate) fn new() -> Self {
        Self { entries: VecDeque::new(), front: 0, running: FuturesUnordered::new(), bytes: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes that requests and results occupy.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a request that occupies `bytes` bytes.
    pub(crate) fn push(&mut self, footprint: Footprint, bytes: usize, request: R) {
        self.bytes += bytes;
        self.entries.push_back(Entry { footprint, bytes, progress: Progress::Waiting(request) });
    }

    /// Adds a finished result that occupies `bytes` bytes.
    pub(crate) fn push_done(&mut self, bytes: usize, done: T) {
        self.bytes += bytes;
        let (footprint, progress) = (Footprint::Nothing, Progress::Done(done));
        self.entries.push_back(Entry { footprint, bytes, progress });
    }

    /// The first request that may start now. The caller must [`Pipeline::run`] it.
    pub(crate) fn next(&mut self) -> Option<(u64, R)> {
        let at = (0..self.entries.len()).find(|at| {
            let entry = &self.entries[*at];
            matches!(entry.progress, Progress::Waiting(_))
                && !self.entries.range(..at).any(|earlier| {
                    !matches!(earlier.progress, Progress::Done(_))
                        && entry.footprint.conflicts(&earlier.footprint)
                })
        })?;
        match std::mem::replace(&mut self.entries[at].progress, Progress::Running) {
            Progress::Waiting(request) => Some((self.front + at as u64, request)),
            Progress::Running | Progress::Done(_) => None,
        }
    }

    /// Runs a request that [`Pipeline::next`] returned.
    pub(crate) fn run(&self, number: u64, work: impl Future<Output = T> + Send + 'static) {
        self.running.push(Box::pin(async move { (number, work.await) }));
    }

    /// Polls the running requests; ready when one has finished. `inspect` gets its result and
    /// returns how many bytes that occupies.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        inspect: impl FnOnce(&mut T) -> usize,
    ) -> Poll<()> {
        match self.running.poll_next_unpin(cx) {
            Poll::Ready(Some((number, mut done))) => {
                let bytes = inspect(&mut done);
                let at = usize::try_from(number.wrapping_sub(self.front)).unwrap_or(usize::MAX);
                if let Some(entry) = self.entries.get_mut(at) {
                    self.bytes = self.bytes - entry.bytes + bytes;
                    (entry.bytes, entry.progress) = (bytes, Progress::Done(done));
                }
                Poll::Ready(())
            }
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    /// Whether the oldest request is done.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.entries.front(), Some(Entry { progress: Progress::Done(_), .. }))
    }

    /// Whether a request may change something or has changed it, and is still in here.
    pub(crate) fn has_changes(&self) -> bool {
        self.entries.iter().any(|entry| entry.footprint.may_change())
    }

    /// Whether the oldest request may have changed something.
    pub(crate) fn front_may_change(&self) -> bool {
        self.entries.front().is_some_and(|entry| entry.footprint.may_change())
    }

    /// Takes the oldest out if it is done.
    pub(crate) fn pop(&mut self) -> Option<T> {
        if !self.is_ready() {
            return None;
        }
        let entry = self.entries.pop_front()?;
        self.front += 1;
        self.bytes -= entry.bytes;
        if self.entries.is_empty() {
            // An idle connection must not keep the capacity of a busy one.
            self.entries.shrink_to(4);
        }
        match entry.progress {
            Progress::Done(done) => Some(done),
            Progress::Waiting(_) | Progress::Running => None,
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
    fn a_request_for_everything_waits_and_is_waited_for() {
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
        assert_eq!(pipeline.bytes(), 23);
        assert!(poll(&mut pipeline));
        assert_eq!(pipeline.bytes(), 14);
        assert_eq!(pipeline.pop(), None);
        pipeline.run(started[0].0, async { "a" });
        assert!(poll(&mut pipeline));
        let popped: Vec<_> = std::iter::from_fn(|| pipeline.pop()).collect();
        assert_eq!(popped, ["a", "b", "c"]);
        assert!(pipeline.is_empty());
        assert_eq!(pipeline.bytes(), 0);
    }
}
