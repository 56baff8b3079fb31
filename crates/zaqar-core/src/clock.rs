//! Time. Callers pass it to stores; stores do not read a clock themselves.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Milliseconds since 1970, UTC. At most `i64::MAX`, so that every store can store it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The latest time: additions saturate here.
    pub const MAX: Self = Self(i64::MAX as u64);

    /// From milliseconds; saturates at [`Timestamp::MAX`].
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

    /// Seconds from `earlier` to this, rounded to the nearest; 0 if `earlier` is later.
    pub const fn rounded_secs_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0).saturating_add(500) / 1000
    }
}

/// The source of `now`.
pub trait Clock: Send + Sync {
    /// The current time. Never earlier than a time it returned before; see [`crate::SystemClock`]
    /// for the one exception.
    fn now(&self) -> Timestamp;

    /// Compares it with the machine's wall clock.
    fn status(&self) -> ClockStatus;
}

/// The difference between a clock and the machine's wall clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClockStatus {
    /// Milliseconds that the wall clock is ahead of it; negative when it is behind.
    pub offset_ms: i64,
    /// How long the wall clock has shown an unexpected time that is not adopted yet; `None` while
    /// the clock follows it.
    pub unsteady_for: Option<Duration>,
}

impl ClockStatus {
    /// Whether the clock follows the wall clock.
    pub const fn is_steady(self) -> bool {
        self.unsteady_for.is_none()
    }
}

impl fmt::Display for ClockStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ms, side) =
            (self.offset_ms.unsigned_abs(), if self.offset_ms < 0 { "behind" } else { "ahead" });
        write!(f, "the wall clock is {ms} ms {side} of the time that this server uses")?;
        match self.unsteady_for {
            Some(since) => write!(f, ", for {} s", since.as_secs()),
            None => Ok(()),
        }
    }
}

/// A clock for tests, which stands still until it is advanced.
#[derive(Debug)]
pub struct ManualClock {
    now: AtomicU64,
}

impl ManualClock {
    /// A clock that shows `now`.
    pub const fn new(now: Timestamp) -> Self {
        Self { now: AtomicU64::new(now.0) }
    }

    /// Advances the clock.
    pub fn advance(&self, by: Duration) {
        let millis = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.now.fetch_add(millis, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now.load(Ordering::Relaxed))
    }

    fn status(&self) -> ClockStatus {
        ClockStatus::default()
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
        let rounded = |millis| Timestamp::from_millis(millis).rounded_secs_since(Timestamp(1000));
        assert_eq!([0, 1499, 1500, 2499, 2500].map(rounded), [0, 0, 1, 1, 2]);
    }

    #[test]
    fn a_status_says_which_clock_is_ahead() {
        let status = |offset_ms, secs: Option<u64>| {
            let unsteady_for = secs.map(Duration::from_secs);
            ClockStatus { offset_ms, unsteady_for }.to_string()
        };
        let of = "of the time that this server uses";
        assert_eq!(status(-1500, None), format!("the wall clock is 1500 ms behind {of}"));
        assert_eq!(status(2, Some(3)), format!("the wall clock is 2 ms ahead {of}, for 3 s"));
    }
}
