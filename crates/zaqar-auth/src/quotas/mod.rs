//! Quotas and rates of projects: a layer of zaqar-api's stack.
//!
//! What a project holds is counted in the store, in the background, and remembered; what this
//! server admits is added to that. So an operation within the limits waits for the store only where
//! nothing is known yet, and an operation is rejected only by a count that is a second old at most,
//! or twenty times as old as it takes to count. With several servers each knows of what the others
//! admitted once it counts again; a rate holds for each server.

mod counter;
mod limits;
mod rate;
mod sizes;
mod store;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use moka::sync::Cache;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tracing::{debug, info};
use zaqar_api::{
    Amount, Authentication, Context, CreateQueue, CreateSubscription, DeleteQueue, Error, Facts,
    Operation, PostMessages, PushMessages, Quota, Resource,
};
use zaqar_core::storage::{Error as StorageError, ManagementStore, MessageStore};
use zaqar_core::{Clock, Kind, ProjectId, QueueKey};

pub use limits::{FileError, Limit, Limits, Options};

use counter::{Age, Counter, Max, Over};
use limits::Loaded;
use rate::Bucket;
use store::Stores;

/// Counts that are remembered, at most.
const COUNTERS: u64 = 65_536;
/// Projects whose rates are remembered, at most.
const PROJECTS: u64 = 65_536;
/// Queues that are known to be there, at most.
const QUEUES: u64 = 65_536;
/// What nobody asked for this long is forgotten.
const IDLE: Duration = Duration::from_secs(600);
/// How long a queue is known to be there.
const QUEUE_KNOWN: Duration = Duration::from_secs(60);
/// How long a queue that was admitted, and is not there yet, is not counted again.
const QUEUE_ADMITTED: Duration = Duration::from_secs(1);
/// Counts that are taken at once.
const AT_ONCE: usize = 4;
/// How long a request waits for a count, its own or another's, and for its turn to count.
const PATIENCE: Duration = Duration::from_secs(10);
/// When a client is to come again whose request waited that long.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Limits what projects have and do.
#[derive(Clone)]
pub struct Quotas {
    inner: Arc<Inner>,
}

struct Inner {
    loaded: ArcSwap<Loaded>,
    stores: Stores,
    counters: Cache<What, Arc<Counter>>,
    rates: Cache<ProjectId, Arc<Rates>>,
    queues: Cache<QueueKey, ()>,
    /// Queues that are about to be created, if their operations succeed.
    admitted: Cache<QueueKey, ()>,
    counting: Arc<Semaphore>,
    rejections: [AtomicU64; Limit::ALL.len()],
}

/// What is counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum What {
    Queue(QueueKey),
    Project(ProjectId),
    Queues(ProjectId),
    Subscriptions(ProjectId),
}

/// The turn to count one thing, among those that are counted.
struct Turn {
    _counter: OwnedMutexGuard<()>,
    _place: OwnedSemaphorePermit,
}

struct Rates {
    requests: Bucket,
    bytes: Bucket,
}

impl fmt::Debug for Quotas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quotas").field("loaded", &self.inner.loaded).finish_non_exhaustive()
    }
}

impl Quotas {
    /// Reads the file of projects.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn load(
        options: &Options,
        management: Arc<dyn ManagementStore>,
        messages: Arc<dyn MessageStore>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, FileError> {
        let loaded = options.load()?;
        info!(projects_with_their_own = loaded.projects(), "quotas are enforced");
        let idle = |max| Cache::builder().max_capacity(max).time_to_idle(IDLE);
        let inner = Inner {
            loaded: ArcSwap::from_pointee(loaded),
            stores: Stores { management, messages, clock },
            counters: idle(COUNTERS).build(),
            rates: Cache::builder().max_capacity(PROJECTS).time_to_idle(IDLE).build(),
            queues: Cache::builder().max_capacity(QUEUES).time_to_live(QUEUE_KNOWN).build(),
            admitted: Cache::builder().max_capacity(QUEUES).time_to_live(QUEUE_ADMITTED).build(),
            counting: Arc::new(Semaphore::new(AT_ONCE)),
            rejections: Default::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Takes over other limits, the file read again. Reads it; do not call it where nothing may
    /// block.
    ///
    /// # Errors
    /// [`FileError`]: the limits before stay in force.
    pub fn reload(&self, options: &Options) -> Result<(), FileError> {
        let loaded = options.load()?;
        info!(projects_with_their_own = loaded.projects(), "quotas read");
        self.inner.loaded.store(Arc::new(loaded));
        Ok(())
    }

    /// How often each limit rejected an operation since the start.
    pub fn rejections(&self) -> [(Limit, u64); Limit::ALL.len()] {
        let count = |limit: Limit| self.inner.rejections[limit as usize].load(Ordering::Relaxed);
        Limit::ALL.map(|limit| (limit, count(limit)))
    }

    fn rates(&self, project: &ProjectId) -> Arc<Rates> {
        self.inner.rates.get(project).unwrap_or_else(|| {
            let now = Instant::now();
            let (requests, bytes) = (Bucket::new(now), Bucket::new(now));
            let rates = || Arc::new(Rates { requests, bytes });
            self.inner.rates.get_with_by_ref(project, rates)
        })
    }

    fn counter(&self, what: &What) -> Arc<Counter> {
        let found = self.inner.counters.get(what);
        found.unwrap_or_else(|| self.inner.counters.get_with_by_ref(what, Arc::default))
    }

    fn admit_rates(&self, context: &Context, limits: &Limits, amount: Amount) -> Result<(), Error> {
        let (requests, bytes) = (limits.get(Limit::RequestRate), limits.get(Limit::ByteRate));
        if requests.is_none() && bytes.is_none() {
            return Ok(());
        }
        let (rates, now) = (self.rates(&context.project), Instant::now());
        if let Some(rate) = requests {
            let taken = rates.requests.take(rate, 1, now);
            taken.map_err(|wait| self.over_rate(Limit::RequestRate, rate, wait))?;
        }
        if let Some(rate) = bytes.filter(|_| amount.bytes > 0) {
            let taken = rates.bytes.take(rate, amount.bytes, now);
            taken.map_err(|wait| self.over_rate(Limit::ByteRate, rate, wait))?;
        }
        Ok(())
    }

    /// Pushes were posted before: they are paid for, and never held back.
    fn charge_pushes(&self, context: &Context, amount: Amount) {
        let limits = *self.inner.loaded.load().of(&context.project);
        if let Some(rate) = limits.get(Limit::ByteRate) {
            self.rates(&context.project).bytes.charge(rate, amount.bytes, Instant::now());
        }
    }

    /// A queue that a post or a subscription would create counts, as one that is created does.
    async fn admit_queue(&self, limits: &Limits, key: &QueueKey) -> Result<(), Error> {
        let Some(max) = limits.get(Limit::Queues) else { return Ok(()) };
        if self.inner.queues.contains_key(key) {
            return Ok(());
        }
        if self.inner.stores.has_queue(key).await? {
            self.inner.queues.insert(key.clone(), ());
            return Ok(());
        }
        if self.inner.admitted.contains_key(key) {
            return Ok(());
        }
        let what = What::Queues(key.project.clone());
        let max = Max { messages: Some(max), bytes: None };
        self.admit_count(&what, limits, number(1), max).await?;
        self.inner.admitted.insert(key.clone(), ());
        Ok(())
    }

    async fn admit_messages(
        &self,
        limits: &Limits,
        key: QueueKey,
        amount: Amount,
    ) -> Result<(), Error> {
        let max =
            |messages, bytes| Max { messages: limits.get(messages), bytes: limits.get(bytes) };
        let of_queue = max(Limit::QueueMessages, Limit::QueueBytes);
        let of_project = max(Limit::Messages, Limit::Bytes);
        let project = What::Project(key.project.clone());
        if of_project.is_some() {
            self.admit_count(&project, limits, amount, of_project).await?;
        }
        // The sizes of what is posted here also tell the bytes of a project: last, so that what the
        // project may not post leaves none.
        if of_queue.is_some() || of_project.bytes.is_some() {
            let admitted = self.admit_count(&What::Queue(key), limits, amount, of_queue).await;
            if admitted.is_err() && of_project.is_some() {
                self.counter(&project).take_back(amount);
            }
            admitted?;
        }
        Ok(())
    }

    /// Adds to a count, if that is within its limits.
    async fn admit_count(
        &self,
        what: &What,
        limits: &Limits,
        more: Amount,
        max: Max,
    ) -> Result<(), Error> {
        let counter = self.counter(what);
        match counter.age(Instant::now()) {
            Age::Unknown => self.count(what, &counter, *limits).await?,
            Age::Old => self.count_later(what, &counter, *limits),
            Age::Fresh => {}
        }
        let Err(over) = counter.try_add(more, max) else { return Ok(()) };
        if counter.age(Instant::now()) == Age::Fresh {
            return Err(self.over_quota(what, over));
        }
        self.count(what, &counter, *limits).await?;
        counter.try_add(more, max).map_err(|over| self.over_quota(what, over))
    }

    /// Counts now; of several that ask at once, one counts. That goes on where its caller gives up,
    /// so that the next one finds it done.
    async fn count(
        &self,
        what: &What,
        counter: &Arc<Counter>,
        limits: Limits,
    ) -> Result<(), Error> {
        let counted = async {
            let turn = Arc::clone(&counter.counting).lock_owned().await;
            if counter.age(Instant::now()) == Age::Fresh {
                return Ok(());
            }
            // The semaphore is never closed.
            let place = Arc::clone(&self.inner.counting).acquire_owned().await;
            let turn = Turn { _counter: turn, _place: place.map_err(StorageError::failed)? };
            let (quotas, what) = (self.clone(), what.clone());
            let counting = quotas.take_count(turn, what, Arc::clone(counter), limits);
            tokio::spawn(counting).await.map_err(StorageError::failed)?
        };
        match timeout(PATIENCE, counted).await {
            Ok(counted) => Ok(counted?),
            Err(_) => Err(Error::Overloaded { retry_after: RETRY_AFTER }),
        }
    }

    async fn take_count(
        self,
        _turn: Turn,
        what: What,
        counter: Arc<Counter>,
        limits: Limits,
    ) -> Result<(), StorageError> {
        let count = counter.begin(Instant::now());
        let stores = &self.inner.stores;
        let with_bytes =
            [Limit::QueueBytes, Limit::Bytes].iter().any(|one| limits.get(*one).is_some());
        let held = match &what {
            What::Queue(key) => stores.queue(key, &counter, with_bytes).await?,
            What::Project(project) => {
                let counter_of = |key: &QueueKey| self.counter(&What::Queue(key.clone()));
                stores.project(project, with_bytes, counter_of).await?
            }
            What::Queues(project) => number(stores.queues(project).await?),
            What::Subscriptions(project) => {
                let max = limits.get(Limit::Subscriptions).unwrap_or_default();
                number(stores.subscriptions(project, max.saturating_add(1)).await?)
            }
        };
        counter.end(&count, held, Instant::now());
        Ok(())
    }

    /// Counts in a task of its own, unless that is done already or too many counts are taken.
    fn count_later(&self, what: &What, counter: &Arc<Counter>, limits: Limits) {
        let Ok(turn) = Arc::clone(&counter.counting).try_lock_owned() else { return };
        let Ok(place) = Arc::clone(&self.inner.counting).try_acquire_owned() else { return };
        let turn = Turn { _counter: turn, _place: place };
        let (quotas, what, counter) = (self.clone(), what.clone(), Arc::clone(counter));
        tokio::spawn(async move {
            if let Err(error) = quotas.take_count(turn, what.clone(), counter, limits).await {
                debug!(%error, ?what, "not counted");
            }
        });
    }

    fn over_quota(&self, what: &What, over: Over) -> Error {
        let (limit, whose) = match (what, over.is_bytes) {
            (What::Queue(key), is_bytes) => {
                let kind = if key.kind == Kind::Topic { "topic" } else { "queue" };
                let limit = if is_bytes { Limit::QueueBytes } else { Limit::QueueMessages };
                (limit, kind)
            }
            (What::Project(_), true) => (Limit::Bytes, "project"),
            (What::Project(_), false) => (Limit::Messages, "project"),
            (What::Queues(_), _) => (Limit::Queues, "project"),
            (What::Subscriptions(_), _) => (Limit::Subscriptions, "project"),
        };
        self.inner.rejections[limit as usize].fetch_add(1, Ordering::Relaxed);
        let Over { would_be, max, .. } = over;
        let (unit, option) = (limit.unit(), limit.option());
        Error::OverQuota {
            reason: format!(
                "A {whose} may have at most {max} {unit}, and would have {would_be} ([quotas] \
                 {option})."
            ),
        }
    }

    fn over_rate(&self, limit: Limit, rate: u64, retry_after: Duration) -> Error {
        self.inner.rejections[limit as usize].fetch_add(1, Ordering::Relaxed);
        let (unit, option) = (limit.unit(), limit.option());
        let reason = format!("A project may have at most {rate} {unit} ([quotas] {option}).");
        Error::OverRate { reason, retry_after }
    }
}

impl Max {
    const fn is_some(&self) -> bool {
        self.messages.is_some() || self.bytes.is_some()
    }
}

const fn number(messages: u64) -> Amount {
    Amount { messages, bytes: 0 }
}

#[async_trait]
impl Quota for Quotas {
    async fn admit(&self, context: &Context, facts: &Facts<'_>) -> Result<(), Error> {
        let name = facts.declaration.name;
        if name == PushMessages::DECLARATION.name {
            self.charge_pushes(context, facts.amount);
            return Ok(());
        }
        // The server's own operations, and questions about the server.
        if matches!(context.authentication, Authentication::Server)
            || facts.resource() == Resource::Service
        {
            return Ok(());
        }
        let limits = *self.inner.loaded.load().of(&context.project);
        self.admit_rates(context, &limits, facts.amount)?;
        let Some(queue) = facts.queue else { return Ok(()) };
        let key =
            || QueueKey { project: context.project.clone(), kind: facts.kind, name: queue.clone() };
        if name == PostMessages::DECLARATION.name {
            let key = key();
            self.admit_queue(&limits, &key).await?;
            self.admit_messages(&limits, key, facts.amount).await
        } else if name == CreateSubscription::DECLARATION.name {
            self.admit_queue(&limits, &key()).await?;
            let Some(max) = limits.get(Limit::Subscriptions) else { return Ok(()) };
            let max = Max { messages: Some(max), bytes: None };
            let what = What::Subscriptions(context.project.clone());
            self.admit_count(&what, &limits, number(1), max).await
        } else if name == CreateQueue::DECLARATION.name {
            self.admit_queue(&limits, &key()).await
        } else {
            if name == DeleteQueue::DECLARATION.name {
                let key = key();
                self.inner.queues.invalidate(&key);
                self.inner.admitted.invalidate(&key);
            }
            Ok(())
        }
    }
}
