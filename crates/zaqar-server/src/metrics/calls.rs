//! What is counted of the calls to stores.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use zaqar_core::storage::Error;

use super::histogram::{Histogram, Snapshot};

/// The methods of both store traits.
#[derive(Debug, Clone, Copy)]
pub(super) enum Method {
    Open,
    Generation,
    Advance,
    Close,
    Post,
    List,
    Get,
    Delete,
    DeleteMany,
    Pop,
    Purge,
    Stats,
    Volume,
    Claim,
    ClaimEach,
    ClaimGet,
    ClaimRenew,
    ClaimRelease,
    Subscribe,
    Subscription,
    Subscriptions,
    LeasedSubscriptions,
    Recipients,
    ChangeSubscription,
    Unsubscribe,
    UnsubscribeAll,
    KeepLease,
    EndLease,
    DueQueues,
    Lease,
    Settle,
    Follow,
    News,
    Ping,
    Sweep,
    ShutDown,
    Create,
    Replace,
    Remove,
    Count,
}

/// Their names, in the order of [`Method`].
const METHODS: [&str; 40] = [
    "open",
    "generation",
    "advance",
    "close",
    "post",
    "list",
    "get",
    "delete",
    "delete_many",
    "pop",
    "purge",
    "stats",
    "volume",
    "claim",
    "claim_each",
    "claim_get",
    "claim_renew",
    "claim_release",
    "subscribe",
    "subscription",
    "subscriptions",
    "leased_subscriptions",
    "recipients",
    "change_subscription",
    "unsubscribe",
    "unsubscribe_all",
    "keep_lease",
    "end_lease",
    "due_queues",
    "lease",
    "settle",
    "follow",
    "news",
    "ping",
    "sweep",
    "shut_down",
    "create",
    "replace",
    "remove",
    "count",
];

const OUTCOMES: [&str; 8] =
    ["ok", "unavailable", "overloaded", "clock_skew", "full", "too_large", "closed", "failed"];

/// A counter.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

/// The calls to one store: three relaxed additions each.
#[derive(Debug)]
pub(crate) struct StoreCalls {
    /// The role of the store.
    pub(crate) role: &'static str,
    /// Rows that sweeps deleted or moved.
    pub(crate) swept: Count,
    calls: [Counts; METHODS.len()],
}

#[derive(Debug, Default)]
struct Counts {
    outcomes: [AtomicU64; OUTCOMES.len()],
    durations: Histogram,
}

/// The counts of one method.
pub(crate) struct CountedCall {
    pub(crate) call: &'static str,
    /// Outcomes that occurred, with their counts.
    pub(crate) outcomes: Vec<(&'static str, u64)>,
    pub(crate) durations: Snapshot,
}

/// Messages of clients' queues and topics; the internal queues of deliveries do not count.
#[derive(Debug, Default)]
pub(crate) struct MessageCounts {
    /// Stored by posts.
    pub(crate) posted: Count,
    /// Returned by claims, counted each time.
    pub(crate) claimed: Count,
    /// Returned by claims that were not the message's first.
    pub(crate) redelivered: Count,
    /// Returned by pops.
    pub(crate) popped: Count,
    /// Named in successful deletions, including messages that were gone before.
    pub(crate) deleted: Count,
    /// Freed by clients that released their claim.
    pub(crate) released: Count,
    /// Removed because they had expired, as sweeps of this server report.
    pub(crate) expired: Count,
    /// Moved to a dead-letter queue by claims.
    pub(crate) dead_lettered: Count,
}

impl Count {
    pub(super) fn add(&self, more: usize) {
        self.0.fetch_add(u64::try_from(more).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl StoreCalls {
    pub(crate) fn new(role: &'static str) -> Self {
        let calls = std::array::from_fn(|_| Counts::default());
        Self { role, swept: Count::default(), calls }
    }

    /// All counts that are not zero.
    pub(crate) fn counted(&self) -> Vec<CountedCall> {
        let of_call = |(call, counts): (&'static str, &Counts)| {
            let outcomes = OUTCOMES.into_iter().zip(&counts.outcomes);
            let outcomes: Vec<_> = outcomes
                .map(|(outcome, count)| (outcome, count.load(Ordering::Relaxed)))
                .filter(|(_, count)| *count > 0)
                .collect();
            let durations = counts.durations.snapshot();
            (!outcomes.is_empty()).then_some(CountedCall { call, outcomes, durations })
        };
        METHODS.into_iter().zip(&self.calls).filter_map(of_call).collect()
    }

    pub(super) async fn timed<T>(
        &self,
        method: Method,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let started = Instant::now();
        let outcome = work.await;
        let (error, elapsed) = (outcome.as_ref().err(), started.elapsed());
        self.record(method, error, elapsed);
        if let Some(span) = zaqar_api::active_span() {
            span.store_call(self.role, METHODS[method as usize], elapsed, error);
        }
        outcome
    }

    fn record(&self, method: Method, error: Option<&Error>, elapsed: Duration) {
        let counts = &self.calls[method as usize];
        counts.outcomes[outcome(error)].fetch_add(1, Ordering::Relaxed);
        counts.durations.record(elapsed);
    }
}

/// The name of an outcome.
pub(crate) const fn outcome_name(error: Option<&Error>) -> &'static str {
    OUTCOMES[outcome(error)]
}

/// The index of an outcome in [`OUTCOMES`].
const fn outcome(error: Option<&Error>) -> usize {
    match error {
        None => 0,
        Some(Error::Unavailable { .. } | Error::Moved { .. }) => 1,
        Some(Error::Overloaded { .. }) => 2,
        Some(Error::ClockSkew { .. }) => 3,
        Some(Error::Full { .. }) => 4,
        Some(Error::TooLarge { .. }) => 5,
        Some(Error::Closed) => 6,
        Some(Error::Failed { .. }) => 7,
    }
}
