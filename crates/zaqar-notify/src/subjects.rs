//! Subscriptions that were read recently, so that a busy one is not read for each delivery.
//!
//! A subscription that is read here may have changed since, for as long as [`MAX_AGE`]. That may
//! decide how a message is sent, but never that one is dropped: whoever would drop a message, end
//! it without success or suspend the subscription reads the subscription once more, as it may have
//! been changed before the message was posted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zaqar_core::Timestamp;

use crate::row::SubscriptionKey;
use crate::subject::Subject;

/// How long a subscription that was read is considered current, in seconds.
const MAX_AGE: u64 = 5;
/// Subscriptions that are cached, and bytes of their options.
const REMEMBERED: usize = 2000;
const REMEMBERED_BYTES: usize = 16 * 1024 * 1024;

/// A moment in the order of reads and claims of this server: later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

/// A subscription that was read.
#[derive(Debug, Clone)]
pub(crate) struct Read {
    pub(crate) subject: Arc<Subject>,
    /// Before it was read.
    moment: Moment,
    at: Timestamp,
}

/// The cache of one server.
#[derive(Debug, Default)]
pub(crate) struct Subjects {
    moments: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    read: HashMap<SubscriptionKey, Read>,
    bytes: usize,
    /// When a subscription was forgotten last, whichever.
    forgotten: Option<Moment>,
}

impl Subjects {
    /// The present moment: everything that begins after this call is later.
    pub(crate) fn moment(&self) -> Moment {
        Moment(self.moments.fetch_add(1, Ordering::AcqRel))
    }

    /// A subscription of the cache that is current.
    pub(crate) fn current(&self, key: &SubscriptionKey, now: Timestamp) -> Option<Read> {
        let cached = self.state().read.get(key).cloned();
        cached.filter(|read| now.secs_since(read.at) < MAX_AGE && read.at <= now)
    }

    /// A subscription of the cache as it is after a moment.
    pub(crate) fn after(&self, key: &SubscriptionKey, moment: Moment) -> Option<Read> {
        let cached = self.state().read.get(key).cloned();
        cached.filter(|read| read.moment > moment)
    }

    /// Adds one that was read at a time, after a moment, unless it may have changed since.
    pub(crate) fn add(&self, subject: Subject, moment: Moment, at: Timestamp) -> Read {
        let key = subject.key.clone();
        let read = Read { subject: Arc::new(subject), moment, at };
        self.state().add(&key, read.clone());
        read
    }

    /// Forgets a subscription that has changed.
    pub(crate) fn forget(&self, key: &SubscriptionKey) {
        let now = self.moment();
        let mut state = self.state();
        state.forgotten = state.forgotten.max(Some(now));
        state.remove(key);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No critical section leaves the state inconsistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, key: &SubscriptionKey, read: Read) {
        if self.read.get(key).is_some_and(|cached| cached.moment > read.moment) {
            return;
        }
        // What is cached is older than what was read, which may itself be outdated.
        self.remove(key);
        if self.forgotten > Some(read.moment) {
            return;
        }
        let bytes = read.subject.size();
        if self.read.len() >= REMEMBERED || self.bytes + bytes > REMEMBERED_BYTES {
            self.read.clear();
            self.bytes = 0;
        }
        if bytes <= REMEMBERED_BYTES {
            self.bytes += bytes;
            self.read.insert(key.clone(), read);
        }
    }

    fn remove(&mut self, key: &SubscriptionKey) {
        if let Some(read) = self.read.remove(key) {
            self.bytes -= read.subject.size().min(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;
    use zaqar_core::storage::Subscription;
    use zaqar_core::{Kind, ProjectId, QueueKey, QueueName, SubscriptionId};

    use super::*;
    use crate::retry::{RetryPolicy, Schedule};
    use crate::target::Origin;

    fn subject(subscriber: &str) -> Subject {
        let name = QueueName::new("q").unwrap();
        let queue = QueueKey { project: ProjectId::new("p").unwrap(), kind: Kind::Queue, name };
        let id = SubscriptionId::new(1);
        let subscription = Subscription {
            id,
            subscriber: subscriber.to_owned(),
            since: Timestamp::from_millis(0),
            ttl: 60,
            options: String::new(),
            confirmed: true,
            lease: None,
        };
        Subject {
            key: SubscriptionKey { queue, id },
            subscription,
            options: Map::new(),
            schedule: Schedule { policy: RetryPolicy::default(), tail: None },
            filter: None,
            delivery: Default::default(),
            keys: None,
            takes_batches: false,
            origin: Ok(Origin::mail()),
        }
    }

    /// A read that began before a change is not cached after it, nor instead of a later one.
    #[test]
    fn an_older_read_replaces_nothing() {
        let (subjects, at) = (Subjects::default(), Timestamp::from_millis(0));
        let key = subject("").key;
        let cached = || Some(subjects.current(&key, at)?.subject.subscription.subscriber.clone());
        let [first, second] = [0; 2].map(|_| subjects.moment());
        subjects.forget(&key);
        subjects.add(subject("old"), first, at);
        assert_eq!(cached(), None);
        let [third, fourth] = [0; 2].map(|_| subjects.moment());
        subjects.add(subject("new"), fourth, at);
        for before in [second, third] {
            subjects.add(subject("old"), before, at);
        }
        assert_eq!(cached().as_deref(), Some("new"));
        // Another subscription is forgotten while this one is read.
        let fifth = subjects.moment();
        let other = SubscriptionKey { id: SubscriptionId::new(99), ..key.clone() };
        subjects.forget(&other);
        subjects.add(subject("newer"), fifth, at);
        assert_eq!(cached(), None, "neither what was read nor what is older");
    }
}
