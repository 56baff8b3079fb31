//! Entries of the outbox whose expansion failed: this server has leased them, so it expands them
//! when it tries again, and not only once their lease has expired. What was done of them is not
//! repeated: a subscriber would get it again at each try.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use zaqar_core::storage::OutboxEntry;
use zaqar_core::{Position, QueueKey, SubscriptionId, Timestamp};

/// Bound on queues with such entries; those of another one wait for the end of their lease.
const QUEUES: usize = 64;

/// Entries of one queue, in their order.
#[derive(Debug)]
pub(crate) struct Leased {
    pub(crate) entries: Vec<OutboxEntry>,
    pub(crate) until: Timestamp,
    /// Of the first of them, which are expanded in one step.
    pub(crate) progress: Progress,
}

const NONE: Leased = Leased {
    entries: Vec::new(),
    until: Timestamp::from_millis(0),
    progress: Progress { firsts: Vec::new(), after: None, size: 0, added: BTreeSet::new() },
};

/// What was done of an expansion of some entries.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The first positions of the entries.
    firsts: Vec<Position>,
    /// The subscriptions up to this one have rows and tickets.
    pub(crate) after: Option<SubscriptionId>,
    /// How many these are.
    pub(crate) size: usize,
    /// Those after it that have rows. Two pages, at most.
    pub(crate) added: BTreeSet<SubscriptionId>,
}

impl Progress {
    pub(crate) fn of(entries: &[OutboxEntry]) -> Self {
        Self { firsts: entries.iter().map(|entry| entry.first).collect(), ..Self::default() }
    }

    /// Whether nothing was done.
    fn is_none(&self) -> bool {
        self.after.is_none() && self.added.is_empty()
    }

    /// How many of these entries it is of: some that they begin with, or none.
    pub(crate) fn entries(&self, entries: &[OutboxEntry]) -> Option<usize> {
        let count = self.firsts.len();
        let begin = entries.get(..count)?.iter().map(|entry| entry.first);
        (count > 0 && begin.eq(self.firsts.iter().copied())).then_some(count)
    }
}

/// By queue, entries that this server has leased.
#[derive(Debug, Default)]
pub(crate) struct Unfinished {
    entries: Mutex<HashMap<QueueKey, Leased>>,
}

impl Unfinished {
    pub(crate) fn keep(&self, key: &QueueKey, leased: Leased) {
        let is_empty = leased.entries.is_empty() && leased.progress.is_none();
        let mut entries = self.entries();
        if !is_empty && entries.len() < QUEUES {
            entries.insert(key.clone(), leased);
        }
    }

    /// What was kept; no entries if their lease has expired.
    pub(crate) fn take(&self, key: &QueueKey, now: Timestamp) -> Leased {
        let Leased { entries, until, progress } = self.entries().remove(key).unwrap_or(NONE);
        let entries = if until > now { entries } else { Vec::new() };
        Leased { entries, until, progress }
    }

    /// The queues that have such entries.
    pub(crate) fn queues(&self) -> Vec<QueueKey> {
        self.entries().keys().cloned().collect()
    }

    /// No code panics while it holds this lock.
    fn entries(&self) -> MutexGuard<'_, HashMap<QueueKey, Leased>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
