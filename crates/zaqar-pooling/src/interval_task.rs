//! A background task that begins at most once in an interval.

use std::sync::{Mutex, PoisonError};

use tokio::task::JoinHandle;
use zaqar_core::Timestamp;

/// Starts tasks one after the other, in intervals by the caller's clock.
#[derive(Debug)]
pub(crate) struct IntervalTask {
    /// Seconds between two starts, at least.
    interval: u64,
    last: Mutex<(Timestamp, Option<JoinHandle<()>>)>,
}

impl IntervalTask {
    pub(crate) const fn new(interval: u64) -> Self {
        Self { interval, last: Mutex::new((Timestamp::from_millis(0), None)) }
    }

    /// Starts a task, unless one is running or was started less than an interval before `now`.
    pub(crate) fn start(&self, now: Timestamp, task: impl Future<Output = ()> + Send + 'static) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, running) = &*last;
        let is_early = *at <= now && at.plus_secs(self.interval) > now;
        if is_early || running.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        *last = (now, Some(tokio::spawn(task)));
    }
}
