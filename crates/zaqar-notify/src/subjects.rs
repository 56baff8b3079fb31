//! Subscriptions that were read recently, so that a busy one is not read for each delivery.
//!
//! A subscription that is read here may have changed since, for as long as [`MAX_AGE`]. That may
//! decide how a message is sent, but never that one is dropped: whoever would drop a message reads
//! the subscription once more, as it may have been changed before the message was posted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zaqar_core::Timestamp;
use zaqar_core::storage::Error;

use crate::context::Context;
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
}

impl Subjects {
    /// The present moment: everything that begins after this call is later.
    pub(crate) fn moment(&self) -> Moment {
        Moment(self.moments.fetch_add(1, Ordering::AcqRel))
    }

    /// A subscription that is current, from the cache if it has it; `None` if it is gone.
    pub(crate) async fn current(
        context: &Context,
        key: &SubscriptionKey,
    ) -> Result<Option<Read>, Error> {
        let now = context.parts.clock.now();
        let cached = context.subjects.state().read.get(key).cloned();
        match cached.filter(|read| now.secs_since(read.at) < MAX_AGE && read.at <= now) {
            Some(read) => Ok(Some(read)),
            None => Self::read(context, key).await,
        }
    }

    /// A subscription as it is after a moment; `None` if it is gone.
    pub(crate) async fn after(
        context: &Context,
        key: &SubscriptionKey,
        moment: Moment,
    ) -> Result<Option<Read>, Error> {
        let cached = context.subjects.state().read.get(key).cloned();
        match cached.filter(|read| read.moment > moment) {
            Some(read) => Ok(Some(read)),
            None => Self::read(context, key).await,
        }
    }

    async fn read(context: &Context, key: &SubscriptionKey) -> Result<Option<Read>, Error> {
        let (moment, at) = (context.subjects.moment(), context.parts.clock.now());
        let Some(subject) = Subject::read(context, key).await? else {
            context.subjects.forget(key);
            return Ok(None);
        };
        let read = Read { subject: Arc::new(subject), moment, at };
        context.subjects.state().add(key, read.clone());
        Ok(Some(read))
    }

    /// Forgets a subscription that has changed.
    pub(crate) fn forget(&self, key: &SubscriptionKey) {
        self.state().remove(key);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No critical section leaves the state inconsistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, key: &SubscriptionKey, read: Read) {
        self.remove(key);
        let bytes = size(&read);
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
            self.bytes -= size(&read).min(self.bytes);
        }
    }
}

fn size(read: &Read) -> usize {
    let subscription = &read.subject.subscription;
    subscription.options.len() + subscription.subscriber.len()
}
