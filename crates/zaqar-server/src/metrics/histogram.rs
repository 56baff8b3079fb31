//! A histogram of durations that any number of threads record into without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets in microseconds: from an in-memory read to the longest wait.
const BOUNDS: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

/// A histogram of durations. Recording costs two relaxed additions.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    /// One more than there are bounds: the last bucket has the longer durations.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
}

/// The contents of a histogram at one moment.
#[derive(Debug, PartialEq)]
pub(crate) struct Snapshot {
    /// The sum of all durations in seconds.
    pub(crate) sum: f64,
    /// Their number.
    pub(crate) count: u64,
    /// Upper bound in seconds and count of each bucket, not cumulative; the last bound is
    /// [`f64::INFINITY`].
    pub(crate) buckets: Vec<(f64, u64)>,
}

impl Histogram {
    pub(crate) fn record(&self, elapsed: Duration) {
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| *bound < micros);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let counts = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        let bounds = BOUNDS.iter().map(|micros| Duration::from_micros(*micros).as_secs_f64());
        let buckets: Vec<_> = bounds.chain([f64::INFINITY]).zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_nanos(self.nanos.load(Ordering::Relaxed)).as_secs_f64();
        Snapshot { sum, count, buckets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::default();
        for micros in [0, 100, 101, 10_000_000, 10_000_001] {
            histogram.record(Duration::from_micros(micros));
        }
        let Snapshot { sum, count, buckets } = histogram.snapshot();
        assert_eq!((count, buckets.len()), (5, 17));
        assert!((sum - 20.000_202).abs() < 1e-9, "{sum}");
        let full: Vec<_> = buckets.into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(full, [(0.0001, 2), (0.00025, 1), (10.0, 1), (f64::INFINITY, 1)]);
    }
}
