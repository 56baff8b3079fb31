//! What one connection is busy with: shared by its stream, its service and its supervisor.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

/// A peer must take a response at this rate at least, in bytes a second, beside the timeout that
/// every response has. Half of what a line of 256 kbit/s carries.
const LEAST_RATE: usize = 16 * 1024;

/// One connection's requests and responses.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    /// Requests whose responses are being made.
    requests: AtomicUsize,
    /// A request began since somebody last asked.
    request_began: AtomicBool,
    /// Counts writes.
    writes: AtomicU64,
    stopping: AtomicBool,
    responses: Mutex<Responses>,
}

/// Responses that the peer has not taken yet, with the time until which it must have.
#[derive(Debug, Default)]
struct Responses {
    next: u64,
    due: Vec<(u64, Instant)>,
}

/// Until it is dropped, a request is being answered.
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

    /// Whether a request is being answered.
    pub(crate) fn is_answering(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0
    }

    /// Whether no request is being answered and every response has been taken.
    pub(crate) fn is_idle(&self) -> bool {
        !self.is_answering() && self.responses().due.is_empty()
    }

    /// Whether the peer has not taken a response in time.
    pub(crate) fn is_overdue(&self) -> bool {
        let now = Instant::now();
        self.responses().due.iter().any(|(_, due)| now >= *due)
    }

    /// A response's body: from now on the peer has `timeout` to take it, and more if it is long.
    /// It is taken when the last slice of it is dropped.
    pub(crate) fn respond(self: &Arc<Self>, body: Bytes, timeout: Duration) -> Bytes {
        if body.is_empty() {
            return body;
        }
        let seconds = u64::try_from(body.len() / LEAST_RATE).unwrap_or(u64::MAX);
        let due = Instant::now() + timeout + Duration::from_secs(seconds);
        let mut responses = self.responses();
        let id = responses.next;
        responses.next += 1;
        responses.due.push((id, due));
        drop(responses);
        Bytes::from_owner(Untaken { body, id, activity: Arc::clone(self) })
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

struct Untaken {
    body: Bytes,
    id: u64,
    activity: Arc<Activity>,
}

impl AsRef<[u8]> for Untaken {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Drop for Untaken {
    fn drop(&mut self) {
        let mut responses = self.activity.responses();
        let at = responses.due.iter().position(|(id, _)| *id == self.id);
        at.map(|at| responses.due.swap_remove(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_response_is_due_until_its_last_slice_is_gone() {
        let activity = Arc::new(Activity::default());
        let timeout = Duration::from_secs(60);
        let mut body = activity.respond(Bytes::from(vec![0; 10 * LEAST_RATE]), timeout);
        let slice = body.split_to(10);
        drop(body);
        tokio::time::advance(Duration::from_secs(69)).await;
        assert!(!activity.is_overdue() && !activity.is_idle());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(activity.is_overdue());
        drop(slice);
        assert!(!activity.is_overdue() && activity.is_idle());
    }
}
