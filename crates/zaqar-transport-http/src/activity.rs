//! The requests and responses in progress on one connection, shared by its stream, its service and
//! the loop that supervises it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The minimum rate at which a peer must read a response, in bytes per second: in addition to the
/// timeout, a response may take as long as reading it at this rate. It is half of what a line of
/// 256 kbit/s carries.
const MIN_RATE: usize = 16 * 1024;

/// The requests and responses of one connection.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    /// Requests that are being handled.
    requests: AtomicUsize,
    /// Whether a request has begun since [`Activity::take_request_began`].
    request_began: AtomicBool,
    /// Number of writes.
    writes: AtomicU64,
    stopping: AtomicBool,
    responses: Mutex<Responses>,
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
        self.request_began.store(true, Ordering::Relaxed);
        RequestGuard(Arc::clone(self))
    }

    pub(crate) fn take_request_began(&self) -> bool {
        self.request_began.load(Ordering::Relaxed)
            && self.request_began.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn wrote(&self) {
        self.writes.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
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
    }
}

/// Tracks a response's body until it is dropped, with the last of the body's bytes.
#[derive(Debug)]
pub(crate) struct UnreadBody {
    id: u64,
    activity: Arc<Activity>,
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
