//! Time, which callers pass to stores instead of stores asking for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970, UTC. At most `i64::MAX`, so that every store can keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The end of time: further additions stay here.
    pub const MAX: Self = Self(i64::MAX as u64);

    /// From milliseconds; more than [`Timestamp::MAX`] becomes that.
    pub const fn from_millis(millis: u64) -> Self {
        if millis > Self::MAX.0 { Self::MAX } else { Self(millis) }
    }

    /// Milliseconds since 1970.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since 1970.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// This many seconds later, at most [`Timestamp::MAX`].
    #[must_use]
    pub const fn plus_secs(self, secs: u64) -> Self {
        Self::from_millis(self.0.saturating_add(secs.saturating_mul(1000)))
    }

    /// Whole seconds from `earlier` to this; 0 if `earlier` is later.
    pub const fn secs_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0) / 1000
    }
}

/// Where `now` comes from.
pub trait Clock: Send + Sync {
    /// The present. Never earlier than an answer it gave before.
    fn now(&self) -> Timestamp;
}

/// The machine's clock, held back where it is set back, so that it never runs backwards.
#[derive(Debug, Default)]
pub struct SystemClock {
    latest: AtomicU64,
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let latest = self.latest.fetch_max(millis, Ordering::Relaxed);
        Timestamp::from_millis(millis.max(latest))
    }
}

/// A clock that stands still until it is moved: for tests.
#[derive(Debug)]
pub struct ManualClock {
    now: AtomicU64,
}

impl ManualClock {
    /// A clock that shows `now`.
    pub const fn new(now: Timestamp) -> Self {
        Self { now: AtomicU64::new(now.0) }
    }

    /// Moves it forward.
    pub fn advance(&self, by: Duration) {
        let millis = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.now.fetch_add(millis, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_saturates_instead_of_wrapping() {
        assert_eq!(Timestamp::from_millis(u64::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::from_millis(5).plus_secs(u64::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::from_millis(5).secs_since(Timestamp::MAX), 0);
        assert_eq!(Timestamp::from_millis(2999).secs_since(Timestamp::from_millis(1000)), 1);
    }

    #[test]
    fn the_system_clock_never_runs_backwards() {
        let clock = SystemClock::default();
        clock.latest.store(Timestamp::MAX.as_millis(), Ordering::Relaxed);
        assert_eq!(clock.now(), Timestamp::MAX);
    }
}
