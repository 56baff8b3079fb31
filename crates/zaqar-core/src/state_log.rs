//! Rate limiting for the logging of repeated failures.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Decides which failures of one component are logged: the first one, then at most one line every
/// few seconds with the number of failures it represents, and one line on recovery.
///
/// It does not log itself, so that the caller's line has the caller's fields:
///
/// ```
/// # let log = zaqar_core::StateLog::new();
/// # let (sweep, warn) = (Err::<(), &str>("disk full"), |_: &str, _: u64| ());
/// match sweep {
///     Ok(()) => {
///         if let Some(_failures) = log.success() { /* info!(failures, "sweeping works again") */ }
///     }
///     Err(error) => {
///         if let Some(failures) = log.failure() { warn(error, failures) }
///     }
/// }
/// ```
///
/// It can be a `static`. A success while nothing is wrong costs one relaxed load.
#[derive(Debug)]
pub struct StateLog {
    every: Duration,
    /// A failure was logged, and no recovery since.
    is_failing: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When a failure was last logged.
    logged: Option<Instant>,
    /// Failures since then.
    unlogged: u64,
    /// Failures since the last recovery.
    total: u64,
}

impl StateLog {
    /// The default minimum interval between two lines about failures.
    pub const EVERY: Duration = Duration::from_secs(5);

    /// With [`StateLog::EVERY`].
    pub const fn new() -> Self {
        Self::with_interval(Self::EVERY)
    }

    /// With at most one line about failures in `every`.
    pub const fn with_interval(every: Duration) -> Self {
        let state = State { logged: None, unlogged: 0, total: 0 };
        Self { every, is_failing: AtomicBool::new(false), state: Mutex::new(state) }
    }

    /// Records a failure. `Some` if it is to be logged: the number of failures that the line
    /// represents, 1 for the first.
    pub fn failure(&self) -> Option<u64> {
        self.failure_at(Instant::now())
    }

    /// Records a success. `Some` if a recovery is to be logged: the number of failures since the
    /// first.
    pub fn success(&self) -> Option<u64> {
        if !self.is_failing.load(Ordering::Relaxed) {
            return None;
        }
        let mut state = self.lock();
        if !self.is_failing.swap(false, Ordering::Relaxed) {
            return None;
        }
        state.unlogged = 0;
        Some(std::mem::take(&mut state.total))
    }

    fn failure_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.lock();
        state.unlogged += 1;
        state.total += 1;
        // Also right after a success: alternating failures and successes must not log each time.
        if state.logged.is_some_and(|logged| now.saturating_duration_since(logged) < self.every) {
            return None;
        }
        state.logged = Some(now);
        self.is_failing.store(true, Ordering::Relaxed);
        Some(std::mem::take(&mut state.unlogged))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for StateLog {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn failures_are_logged_once_per_interval_with_their_number() {
        let (log, start) = (StateLog::with_interval(Duration::from_secs(5)), Instant::now());
        assert_eq!(log.success(), None);
        assert_eq!(log.failure_at(start), Some(1));
        for millis in 1..=40 {
            assert_eq!(log.failure_at(at(start, millis)), None);
        }
        assert_eq!(log.failure_at(at(start, 5000)), Some(41));
        assert_eq!(log.success(), Some(42));
        assert_eq!(log.success(), None);
        assert_eq!(log.failure_at(at(start, 10_000)), Some(1));
        assert_eq!(log.success(), Some(1));
    }

    #[test]
    fn alternating_failures_and_successes_are_not_logged_each_time() {
        let (log, start) = (StateLog::with_interval(Duration::from_secs(5)), Instant::now());
        let mut lines = 0;
        for turn in 0..1000 {
            lines += u64::from(log.failure_at(at(start, turn * 10)).is_some());
            lines += u64::from(log.success().is_some());
        }
        // Ten seconds: two failures and two recoveries.
        assert_eq!(lines, 4);
    }
}
