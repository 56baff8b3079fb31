//! Latencies and counts, by kind of request.

use std::error::Error;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;

/// The longest latency that is told apart, in microseconds: an hour.
const LONGEST: u64 = 3_600_000_000;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A post; in an open loop from when it was due.
    Post,
    /// A claim that got messages.
    Claim,
    /// The deletion of what a claim got.
    Delete,
    /// A page of a reader.
    List,
    /// From when a message was due to be posted until a consumer got it.
    EndToEnd,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] =
        [Self::Post, Self::Claim, Self::Delete, Self::List, Self::EndToEnd];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Post => "post",
            Self::Claim => "claim",
            Self::Delete => "delete",
            Self::List => "list",
            Self::EndToEnd => "end to end",
        }
    }

    const fn index(self) -> usize {
        self as usize
    }
}

/// What one kind of request did.
#[derive(Debug)]
pub(crate) struct Measured {
    latencies: Mutex<Histogram<u64>>,
    messages: AtomicU64,
    errors: AtomicU64,
}

/// All kinds, and the first error.
#[derive(Debug)]
pub(crate) struct Stats {
    kinds: [Measured; 5],
    /// Claims that found nothing.
    pub(crate) empty: AtomicU64,
    first_error: Mutex<Option<String>>,
}

/// Three digits of each latency.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, 3)
        .unwrap_or_else(|error| unreachable!("constant bounds: {error}"))
}

/// An error with everything below it, in one line.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

impl Stats {
    pub(crate) fn new() -> Self {
        let measured = || Measured {
            latencies: Mutex::new(histogram()),
            messages: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        };
        Self {
            kinds: std::array::from_fn(|_| measured()),
            empty: AtomicU64::new(0),
            first_error: Mutex::new(None),
        }
    }

    /// A request that succeeded.
    pub(crate) fn record(&self, kind: Kind, latency: Duration, messages: usize) {
        let measured = &self.kinds[kind.index()];
        measured.messages.fetch_add(messages as u64, Ordering::Relaxed);
        let micros = u64::try_from(latency.as_micros()).unwrap_or(LONGEST).max(1);
        lock(&measured.latencies).saturating_record(micros);
    }

    /// A request that failed.
    pub(crate) fn error(&self, kind: Kind, error: &dyn Error) {
        self.kinds[kind.index()].errors.fetch_add(1, Ordering::Relaxed);
        lock(&self.first_error).get_or_insert_with(|| with_causes(error));
    }

    pub(crate) fn messages(&self, kind: Kind) -> u64 {
        self.kinds[kind.index()].messages.load(Ordering::Relaxed)
    }

    pub(crate) fn errors(&self, kind: Kind) -> u64 {
        self.kinds[kind.index()].errors.load(Ordering::Relaxed)
    }

    pub(crate) fn all_errors(&self) -> u64 {
        Kind::ALL.iter().map(|&kind| self.errors(kind)).sum()
    }

    pub(crate) fn first_error(&self) -> Option<String> {
        lock(&self.first_error).clone()
    }

    /// The latencies so far.
    pub(crate) fn latencies(&self, kind: Kind) -> Histogram<u64> {
        lock(&self.kinds[kind.index()].latencies).clone()
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
