//! Token buckets.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The size of a bucket, in seconds of its rate.
const BURST: f64 = 2.0;
/// The largest debt, in seconds of the rate.
const MAX_DEBT: f64 = 60.0;

/// The token bucket of a project for one rate.
#[derive(Debug)]
pub(super) struct Bucket(Mutex<State>);

#[derive(Debug)]
struct State {
    /// In seconds of the rate, so that a reload can change the rate.
    seconds: f64,
    at: Instant,
}

impl Bucket {
    pub(super) fn new(now: Instant) -> Self {
        Self(Mutex::new(State { seconds: BURST, at: now }))
    }

    /// Takes `cost` unless the project is in debt. One request may cost more than the bucket holds:
    /// later requests then wait until the debt is paid.
    ///
    /// # Errors
    /// When the next request can succeed.
    pub(super) fn take(&self, rate: u64, cost: u64, now: Instant) -> Result<(), Duration> {
        self.with(now, |state| {
            // Half a unit of tolerance for rounding errors.
            let least = 0.5 / rate as f64;
            if state.seconds < least {
                return Err(Duration::from_secs_f64((least - state.seconds).max(0.001)));
            }
            state.pay(rate, cost);
            Ok(())
        })
    }

    /// Takes `cost`, even in debt.
    pub(super) fn charge(&self, rate: u64, cost: u64, now: Instant) {
        self.with(now, |state| state.pay(rate, cost));
    }

    fn with<T>(&self, now: Instant, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = now.saturating_duration_since(state.at);
        state.seconds = (state.seconds + elapsed.as_secs_f64()).min(BURST);
        state.at = state.at.max(now);
        act(&mut state)
    }
}

impl State {
    fn pay(&mut self, rate: u64, cost: u64) {
        self.seconds = (self.seconds - cost as f64 / rate as f64).max(-MAX_DEBT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_holds_after_its_burst() {
        let start = Instant::now();
        let bucket = Bucket::new(start);
        let taken = |millis: u64| {
            let now = start + Duration::from_millis(millis);
            (0..100).take_while(|_| bucket.take(10, 1, now).is_ok()).count()
        };
        assert_eq!(taken(0), 20, "the burst");
        assert_eq!(taken(1), 0);
        assert_eq!(taken(1000), 10);
        assert_eq!(taken(1500), 5);
        assert_eq!(taken(3_600_000), 20, "no more than the burst is saved");
        assert_eq!(taken(0), 0, "a clock that goes back gives nothing");
    }

    #[test]
    fn what_costs_more_than_a_burst_is_done_once_and_paid() {
        let start = Instant::now();
        let bucket = Bucket::new(start);
        assert_eq!(bucket.take(1000, 12_000, start), Ok(()));
        let wait = bucket.take(1000, 1, start).unwrap_err();
        assert!(wait > Duration::from_secs(9) && wait < Duration::from_secs(11), "{wait:?}");
        assert_eq!(bucket.take(1000, 1, start + wait), Ok(()));
    }

    #[test]
    fn a_debt_has_a_bound() {
        let start = Instant::now();
        let bucket = Bucket::new(start);
        bucket.charge(1, u64::MAX, start);
        assert!(bucket.take(1, 1, start).unwrap_err() < Duration::from_secs(62));
    }
}
