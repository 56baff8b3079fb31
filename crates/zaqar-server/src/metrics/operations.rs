//! The layer that counts operations.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use zaqar_api::{Context, DECLARATIONS, Declaration, Error, Metrics, PoolsRule, Wire};
use zaqar_core::{Kind, storage};

use super::histogram::{Histogram, Snapshot};

/// The possible outcomes of an operation.
const OUTCOMES: [&str; 9] = [
    "ok",
    "invalid",
    "not_found",
    "conflict",
    "denied",
    "overloaded",
    "deadline",
    "unavailable",
    "failed",
];

const WIRES: [&str; 3] = ["none", "http", "websocket"];

/// Counts and times operations by name, wire and outcome: three relaxed additions and a look-up in
/// an immutable map.
#[derive(Debug)]
pub(crate) struct Operations {
    by_name: HashMap<&'static str, [Counts; WIRES.len()]>,
}

#[derive(Debug, Default)]
struct Counts {
    outcomes: [AtomicU64; OUTCOMES.len()],
    durations: Histogram,
}

/// The counts of one operation over one wire.
pub(crate) struct Counted {
    pub(crate) operation: &'static str,
    pub(crate) wire: &'static str,
    /// Outcomes that occurred, with their counts.
    pub(crate) outcomes: Vec<(&'static str, u64)>,
    pub(crate) durations: Snapshot,
}

impl Default for Operations {
    fn default() -> Self {
        let fresh = |one: &&Declaration| (one.name, std::array::from_fn(|_| Counts::default()));
        Self { by_name: DECLARATIONS.iter().map(fresh).collect() }
    }
}

impl Operations {
    /// All counts that are not zero, sorted by operation.
    pub(crate) fn counted(&self) -> Vec<Counted> {
        let mut counted = Vec::new();
        for (operation, by_wire) in &self.by_name {
            for (wire, counts) in WIRES.into_iter().zip(by_wire) {
                let outcomes = OUTCOMES.into_iter().zip(&counts.outcomes);
                let outcomes: Vec<_> = outcomes
                    .map(|(outcome, count)| (outcome, count.load(Ordering::Relaxed)))
                    .filter(|(_, count)| *count > 0)
                    .collect();
                if !outcomes.is_empty() {
                    let durations = counts.durations.snapshot();
                    counted.push(Counted { operation, wire, outcomes, durations });
                }
            }
        }
        counted.sort_by_key(|one| (one.operation, one.wire));
        counted
    }
}

impl Metrics for Operations {
    fn record(
        &self,
        context: &Context,
        declaration: &'static Declaration,
        _: Kind,
        error: Option<&Error>,
        elapsed: Duration,
    ) {
        let Some(by_wire) = self.by_name.get(declaration.name) else { return };
        let counts = &by_wire[wire(context.wire)];
        counts.outcomes[outcome(error)].fetch_add(1, Ordering::Relaxed);
        counts.durations.record(elapsed);
    }
}

/// The index of a wire in [`WIRES`].
const fn wire(wire: Wire) -> usize {
    match wire {
        Wire::InProcess => 0,
        Wire::Http => 1,
        Wire::WebSocket => 2,
    }
}

/// The name of an error's outcome.
pub(crate) const fn error_name(error: &Error) -> &'static str {
    OUTCOMES[outcome(Some(error))]
}

/// The index of an outcome in [`OUTCOMES`].
const fn outcome(error: Option<&Error>) -> usize {
    let Some(error) = error else { return 0 };
    match error {
        Error::Invalid { .. } | Error::Rejected(_) => 1,
        Error::QueueNotFound { .. }
        | Error::ClaimNotFound { .. }
        | Error::SubscriptionNotFound { .. }
        | Error::DeliveryNotFound { .. }
        | Error::RecoveryNotFound { .. } => 2,
        Error::Conflict { .. }
        | Error::MessageClaimed
        | Error::MessageNotClaimed
        | Error::WrongClaim
        | Error::SubscriptionExists
        | Error::SubscriptionTaken
        | Error::SubscriptionUnchanged { .. }
        | Error::Contended => 3,
        Error::Forbidden
        | Error::OverQuota { .. }
        | Error::NotAuthenticated
        | Error::NoProject
        | Error::NotGranted => 4,
        Error::NoPools | Error::NoProjectQuotas => 2,
        Error::Pools(rule) => match rule {
            PoolsRule::Unable { .. } => 1,
            PoolsRule::PoolNotFound { .. }
            | PoolsRule::FlavorNotFound { .. }
            | PoolsRule::QueueNotFound { .. } => 2,
            PoolsRule::UriInUse
            | PoolsRule::UriOfMessageStore
            | PoolsRule::LastOfFlavor { .. }
            | PoolsRule::CannotMove { .. } => 3,
        },
        Error::Overloaded { .. } | Error::OverRate { .. } => 5,
        Error::DeadlineExceeded => 6,
        Error::AuthenticationUnavailable { .. } | Error::TaskFailed { .. } | Error::CannotSeal => 7,
        Error::Storage(error) => match error {
            storage::Error::Overloaded { .. } => 5,
            storage::Error::Unavailable { .. }
            | storage::Error::ClockSkew { .. }
            | storage::Error::Full { .. }
            | storage::Error::Moved { .. }
            | storage::Error::Closed => 7,
            storage::Error::TooLarge { .. } => 1,
            storage::Error::Failed { .. } => 8,
        },
    }
}

#[cfg(test)]
mod tests {
    use zaqar_api::{Operation, Ping};
    use zaqar_core::{ClientId, ProjectId};

    use super::*;

    #[test]
    fn operations_are_counted_by_wire_and_outcome() {
        let operations = Operations::default();
        let context = Context::new(ProjectId::new("p").unwrap(), ClientId::new("c"));
        let over_http = Context { wire: Wire::Http, ..context.clone() };
        let overloaded = Error::Overloaded { retry_after: Duration::ZERO };
        for (context, error) in [
            (&context, None),
            (&over_http, None),
            (&over_http, None),
            (&over_http, Some(&overloaded)),
        ] {
            let took = Duration::from_millis(2);
            operations.record(context, Ping::DECLARATION, Kind::Queue, error, took);
        }
        let seen = operations.counted();
        let seen: Vec<_> = seen
            .iter()
            .map(|one| (one.operation, one.wire, one.outcomes.as_slice(), one.durations.count))
            .collect();
        let http: &[_] = &[("ok", 2), ("overloaded", 1)];
        let none: &[_] = &[("ok", 1)];
        assert_eq!(seen, [("ping", "http", http, 3), ("ping", "none", none, 1)]);
    }
}
