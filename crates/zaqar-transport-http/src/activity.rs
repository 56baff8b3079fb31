//! The requests and responses in progress on one connection, shared by its stream, its service and
//! the loop that supervises it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::time::Instant;
use zaqar_transport::Turns;

/// The minimum rate at which a peer must read a response, in bytes per second: in addition to the
/// timeout, a response may take as long as reading it at this rate. It is half of what a line of
/// 256 kbit/s carries.
const MIN_RATE: usize = 16 * 1024;

/// How long the peer of a connection may take to begin its first request when the server stops, or
/// another one: what it has sent meanwhile is answered. Nobody waits for long that sends nothing.
const STOP_UNUSED: Duration = Duration::from_secs(1);
const STOP_IDLE: Duration = Duration::from_millis(250);

/// The requests and responses of one connection.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    /// Requests that are being handled.
    requests: AtomicUsize,
    /// Whether there was a request.
    has_begun: AtomicBool,
    /// Whether the peer speaks HTTP/2; not before it has said so.
    is_http2: AtomicBool,
    /// Whether a request has begun or ended since [`Activity::take_boundary`].
    has_boundary: AtomicBool,
    /// Number of writes.
    writes: AtomicU64,
    stopping: AtomicBool,
    responses: Mutex<Responses>,
    /// Bytes of a body that hyper has taken and the stream has not written yet. Only over HTTP/1,
    /// which has one response at a time.
    unwritten: AtomicUsize,
    /// Wakes the body that waits for them.
    written: AtomicWaker,
    /// The connection is closed without an answer to what it still owes.
    is_aborted: AtomicBool,
    /// Those of large bodies.
    turns: Turns,
}

/// Responses that the peer has not read yet, with the deadline of each.
#[derive(Debug, Default)]
struct Responses {
    next_id: u64,
    deadlines: Vec<(u64, Instant)>,
}

/// Counts a request as being handled until it is dropped.
#[derive(Debug)]
pub(crate) struct RequestGuard(Arc<Activity>);

impl Activity {
    pub(crate) fn begin_request(self: &Arc<Self>) -> RequestGuard {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.has_begun.store(true, Ordering::Relaxed);
        self.has_boundary.store(true, Ordering::Relaxed);
        RequestGuard(Arc::clone(self))
    }

    /// Whether a request has begun or ended since the last call.
    pub(crate) fn take_boundary(&self) -> bool {
        self.has_boundary.load(Ordering::Relaxed)
            && self.has_boundary.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn wrote(&self, bytes: usize) {
        self.writes.fetch_add(1, Ordering::Relaxed);
        let unwritten = self.unwritten.load(Ordering::Relaxed);
        if unwritten > 0 {
            let left = unwritten.saturating_sub(bytes);
            self.unwritten.store(left, Ordering::Relaxed);
            if left == 0 {
                self.written.wake();
            }
        }
    }

    /// Notes that hyper has taken so many bytes of a body over HTTP/1.
    pub(crate) fn took(&self, bytes: usize) {
        self.unwritten.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Ready once what hyper took was written, but for some bytes of the head.
    pub(crate) fn poll_written(&self, context: &Context<'_>) -> Poll<()> {
        if self.unwritten.load(Ordering::Relaxed) > 0 {
            // All of this happens in the connection's task.
            self.written.register(context.waker());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    pub(crate) const fn turns(&self) -> &Turns {
        &self.turns
    }

    #[cfg(test)]
    pub(crate) fn with_turns(turns: Turns) -> Self {
        Self { turns, ..Self::default() }
    }

    /// Closes the connection at the end of the current poll.
    pub(crate) fn abort(&self) {
        self.is_aborted.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_aborted(&self) -> bool {
        self.is_aborted.load(Ordering::Relaxed)
    }

    pub(crate) fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    pub(crate) fn note_http2(&self) {
        self.is_http2.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_http2(&self) -> bool {
        self.is_http2.load(Ordering::Relaxed)
    }

    /// How long the peer may take to begin a request when the server stops.
    pub(crate) fn idle_limit(&self) -> Duration {
        if self.has_begun.load(Ordering::Relaxed) { STOP_IDLE } else { STOP_UNUSED }
    }

    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Whether a request is being handled.
    pub(crate) fn is_handling(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0
    }

    /// Whether no request is being handled and every response has been read.
    pub(crate) fn is_idle(&self) -> bool {
        !self.is_handling() && self.responses().deadlines.is_empty()
    }

    /// Whether the peer has not read a response in time.
    pub(crate) fn is_overdue(&self) -> bool {
        let now = Instant::now();
        self.responses().deadlines.iter().any(|(_, due)| now >= *due)
    }

    /// Begins to track a response's body of this length: the peer has `timeout` to read it, and
    /// more if it is long. It counts as read when what is returned is dropped.
    pub(crate) fn respond(self: &Arc<Self>, length: usize, timeout: Duration) -> UnreadBody {
        let seconds = u64::try_from(length / MIN_RATE).unwrap_or(u64::MAX);
        let due = Instant::now() + timeout + Duration::from_secs(seconds);
        let mut responses = self.responses();
        let id = responses.next_id;
        responses.next_id += 1;
        responses.deadlines.push((id, due));
        drop(responses);
        UnreadBody { id, activity: Arc::clone(self) }
    }

    /// No code panics while it holds this lock.
    fn responses(&self) -> MutexGuard<'_, Responses> {
        self.responses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
        self.0.has_boundary.store(true, Ordering::Relaxed);
    }
}

/// Tracks a response's body until it is dropped, with the last of the body's bytes.
#[derive(Debug)]
pub(crate) struct UnreadBody {
    id: u64,
    activity: Arc<Activity>,
}

impl UnreadBody {
    pub(crate) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }
}

impl Drop for UnreadBody {
    fn drop(&mut self) {
        let mut responses = self.activity.responses();
        let at = responses.deadlines.iter().position(|(id, _)| *id == self.id);
        at.map(|at| responses.deadlines.swap_remove(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_response_is_due_until_it_was_read() {
        let activity = Arc::new(Activity::default());
        let timeout = Duration::from_secs(60);
        let unread = activity.respond(10 * MIN_RATE, timeout);
        tokio::time::advance(Duration::from_secs(69)).await;
        assert!(!activity.is_overdue() && !activity.is_idle());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(activity.is_overdue());
        drop(unread);
        assert!(!activity.is_overdue() && activity.is_idle());
    }
}
