//! A count of what a queue or a project holds: the last result of the store, and what this server
//! added since.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use zaqar_api::Amount;

use super::sizes::Sizes;

/// A count is not repeated sooner than this.
const MIN_AGE: Duration = Duration::from_secs(1);
/// Counting takes at most one part in this many of the time.
const MIN_AGE_FACTOR: u32 = 20;

/// Counts one quantity; queues and subscriptions are counted as messages without bytes.
#[derive(Debug, Default)]
pub(super) struct Counter {
    state: Mutex<State>,
    /// Held by the task that counts.
    pub(super) counting: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct State {
    found: Option<LastCount>,
    /// Admitted since the last count began.
    added: Amount,
    sizes: Sizes,
}

#[derive(Debug, Clone, Copy)]
struct LastCount {
    held: Amount,
    at: Instant,
    took: Duration,
}

/// How old the last count is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    /// There is no count yet.
    Unknown,
    /// It is time to count again.
    Old,
    /// The last count is recent enough.
    Fresh,
}

/// The limits of a count.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Max {
    pub(super) messages: Option<u64>,
    pub(super) bytes: Option<u64>,
}

/// A limit that would be exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exceeded {
    /// Whether it limits bytes rather than messages.
    pub(super) is_bytes: bool,
    /// What the count would become.
    pub(super) would_be: u64,
    pub(super) max: u64,
}

/// A count in progress.
#[derive(Debug)]
pub(super) struct Count {
    began: Instant,
    added: Amount,
}

impl Counter {
    pub(super) fn age(&self, now: Instant) -> Age {
        match self.lock().found {
            None => Age::Unknown,
            Some(LastCount { at, took, .. }) => {
                let lasts = MIN_AGE.max(took.saturating_mul(MIN_AGE_FACTOR));
                let is_fresh = now.saturating_duration_since(at) < lasts;
                if is_fresh { Age::Fresh } else { Age::Old }
            }
        }
    }

    /// Adds an amount that is about to be stored, if it is within the limits.
    pub(super) fn try_add(&self, more: Amount, max: Max) -> Result<(), Exceeded> {
        let mut state = self.lock();
        let held = state.found.map(|found| found.held).unwrap_or_default();
        let sum = |held: u64, added: u64, more| held.saturating_add(added).saturating_add(more);
        let messages = sum(held.messages, state.added.messages, more.messages);
        let bytes = sum(held.bytes, state.added.bytes, more.bytes);
        for (is_bytes, would_be, max) in [(false, messages, max.messages), (true, bytes, max.bytes)]
        {
            if let Some(max) = max.filter(|max| would_be > *max) {
                return Err(Exceeded { is_bytes, would_be, max });
            }
        }
        state.added.messages = state.added.messages.saturating_add(more.messages);
        state.added.bytes = state.added.bytes.saturating_add(more.bytes);
        state.sizes.posted(more);
        Ok(())
    }

    /// Subtracts an amount that was added and is not stored.
    pub(super) fn take_back(&self, less: Amount) {
        let mut state = self.lock();
        state.added.messages = state.added.messages.saturating_sub(less.messages);
        state.added.bytes = state.added.bytes.saturating_sub(less.bytes);
    }

    /// Begins a count.
    pub(super) fn begin(&self, now: Instant) -> Count {
        Count { began: now, added: self.lock().added }
    }

    /// Stores the result of a count. What was admitted during the count may be in the result, and
    /// is added to it nevertheless until the next count.
    pub(super) fn end(&self, count: &Count, held: Amount, now: Instant) {
        let mut state = self.lock();
        state.added.messages = state.added.messages.saturating_sub(count.added.messages);
        state.added.bytes = state.added.bytes.saturating_sub(count.added.bytes);
        let took = now.saturating_duration_since(count.began);
        state.found = Some(LastCount { held, at: now, took });
    }

    pub(super) fn needs_sample(&self, messages: u64) -> bool {
        self.lock().sizes.needs_sample(messages)
    }

    pub(super) fn sampled(&self, mean: u64) {
        self.lock().sizes.sampled(mean);
    }

    /// The bytes of this many messages of the queue.
    pub(super) fn bytes_of(&self, messages: u64) -> u64 {
        self.lock().sizes.bytes_of(messages)
    }

    /// No code panics while it holds this lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(messages: u64) -> Amount {
        Amount { messages, bytes: 10 * messages }
    }

    #[test]
    fn what_is_admitted_while_a_count_goes_on_stays_counted() {
        let (counter, now) = (Counter::default(), Instant::now());
        let max = Max { messages: Some(10), bytes: None };
        assert_eq!(counter.age(now), Age::Unknown);
        counter.try_add(messages(3), max).unwrap();
        let count = counter.begin(now);
        counter.try_add(messages(4), max).unwrap();
        counter.end(&count, messages(3), now);
        assert_eq!(counter.age(now), Age::Fresh);
        let over = Exceeded { is_bytes: false, would_be: 11, max: 10 };
        assert_eq!(counter.try_add(messages(4), max), Err(over));
        counter.try_add(messages(3), max).unwrap();
    }

    #[test]
    fn a_count_that_takes_long_lasts_long() {
        let (counter, now) = (Counter::default(), Instant::now());
        let count = counter.begin(now);
        let end = now + Duration::from_secs(1);
        counter.end(&count, Amount::default(), end);
        assert_eq!(counter.age(end + Duration::from_secs(19)), Age::Fresh);
        assert_eq!(counter.age(end + Duration::from_secs(20)), Age::Old);
    }

    #[test]
    fn bytes_have_a_limit_of_their_own() {
        let counter = Counter::default();
        let max = Max { messages: None, bytes: Some(25) };
        counter.try_add(messages(2), max).unwrap();
        let over = Exceeded { is_bytes: true, would_be: 30, max: 25 };
        assert_eq!(counter.try_add(messages(1), max), Err(over));
    }
}
