//! Quotas and rates of projects: a layer of zaqar-api's stack.
//!
//! What a project holds is counted in the store, in the background, and cached; what this server
//! admits is added. So an operation within the limits waits for the store only if there is no count
//! yet, and an operation is rejected only by a count that is at most 1 s old, or 20 times as old as
//! counting takes. A server learns what other servers admitted when it counts again. Rates are
//! enforced by each server on its own.

mod counter;
mod limits;
mod loaded;
mod managed;
mod rate;
mod sizes;
mod store;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use moka::sync::Cache;
use serde_json::{Map, Value};
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};
use zaqar_api::{
    Admission, Amount, Authentication, Context, CreateQueue, CreateSubscription, DeleteQueue,
    Error, Facts, ManagedQuotas, Operation, Part, PostMessages, ProjectQuotas, PushMessages, Quota,
    Resource,
};
use zaqar_core::storage::{Error as StorageError, ManagementStore, MessageStore};
use zaqar_core::{Clock, Kind, ProjectId, QueueKey, StateLog};

pub use limits::{FileError, Limit, Limits, Options};

use counter::{Added, Age, Counter, Exceeded, Max};
use loaded::Loaded;
use managed::Managed;
use rate::Bucket;
use store::Stores;

/// Counts that are cached, at most.
const COUNTERS: u64 = 65_536;
/// Projects whose rates are cached, at most.
const PROJECTS: u64 = 65_536;
/// Queues that are cached as existing, at most.
const QUEUES: u64 = 65_536;
/// Entries that are not used for this long are dropped.
const IDLE: Duration = Duration::from_secs(600);
/// How long a queue is cached as existing.
const QUEUE_KNOWN: Duration = Duration::from_secs(60);
/// Counts that are taken at once.
const AT_ONCE: usize = 4;
/// How long a request waits for a count, its own or another's, including the wait for a permit.
const COUNT_TIMEOUT: Duration = Duration::from_secs(10);
/// The `Retry-After` of a request that waited that long.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// How long a start waits for the quotas that administrators have set.
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// A store that is away is away for a while.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Limits what projects have and do.
#[derive(Clone)]
pub struct Quotas {
    inner: Arc<Inner>,
}

struct Inner {
    loaded: ArcSwap<Loaded>,
    stores: Stores,
    counters: Cache<Counted, Arc<Counter>>,
    rates: Cache<ProjectId, Arc<Rates>>,
    queues: Cache<QueueKey, ()>,
    /// Queues that operations in progress are about to create: counted once for all of these.
    reserved: Mutex<HashMap<QueueKey, Weak<Added>>>,
    counting: Arc<Semaphore>,
    rejections: [AtomicU64; Limit::ALL.len()],
    is_managed: bool,
    log: StateLog,
}

/// What is counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Counted {
    Queue(QueueKey),
    Project(ProjectId),
    Queues(ProjectId),
    Subscriptions(ProjectId),
}

/// The right to count one quantity, and a share of [`AT_ONCE`].
struct CountPermit {
    _counter: OwnedMutexGuard<()>,
    _slot: OwnedSemaphorePermit,
}

/// What an operation takes of its project's quotas. Dropped, it is given back; settled, it counts
/// until the next count of the store.
#[derive(Default)]
struct Taken {
    /// Shared with other operations that may create the same queue: kept where one of them
    /// succeeds.
    queue: Option<Arc<Added>>,
    /// Of messages or subscriptions.
    of_project: Option<Added>,
    of_queue: Option<Added>,
}

impl Admission for Taken {
    fn settle(self: Box<Self>) {
        let all = [self.queue.as_deref(), self.of_project.as_ref(), self.of_queue.as_ref()];
        all.into_iter().flatten().for_each(Added::keep);
    }
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
        let loaded = Loaded::read(options)?;
        info!(projects_with_their_own = loaded.projects(), "quotas are enforced");
        let idle = |max| Cache::builder().max_capacity(max).time_to_idle(IDLE);
        let inner = Inner {
            loaded: ArcSwap::from_pointee(loaded),
            stores: Stores { management, messages, clock },
            counters: idle(COUNTERS).build(),
            rates: Cache::builder().max_capacity(PROJECTS).time_to_idle(IDLE).build(),
            queues: Cache::builder().max_capacity(QUEUES).time_to_live(QUEUE_KNOWN).build(),
            reserved: Mutex::default(),
            counting: Arc::new(Semaphore::new(AT_ONCE)),
            rejections: Default::default(),
            is_managed: options.is_managed,
            log: StateLog::with_interval(LOG_INTERVAL),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Replaces the limits and reads the file again. This blocks on file I/O.
    ///
    /// # Errors
    /// [`FileError`]: the previous limits stay in force.
    pub fn reload(&self, options: &Options) -> Result<(), FileError> {
        let loaded = Loaded::read(options)?;
        info!(projects_with_their_own = loaded.projects(), "quotas read");
        self.inner.loaded.rcu(|before| loaded.with_managed(Arc::clone(before.managed())));
        Ok(())
    }

    /// Whether administrators set quotas of single projects (`[quotas] managed`).
    pub fn is_managed(&self) -> bool {
        self.inner.is_managed
    }

    /// Reads what administrators have set, for as long as a start may wait for it. Where it cannot
    /// be read, the configuration and the file hold until [`Quotas::watch`] can.
    pub async fn begin(&self) {
        let read = timeout(START_TIMEOUT, self.take_over()).await;
        match read {
            Ok(taken) => self.log(taken),
            Err(elapsed) => self.log(Err(StorageError::failed(elapsed))),
        }
    }

    /// Takes over every 2 s what administrators have set, here or elsewhere, until `stop`. While it
    /// cannot be read, what was set before stays in force.
    pub async fn watch(self, stop: CancellationToken) {
        loop {
            let taken = self.take_over().await;
            self.log(taken);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(managed::INTERVAL) => {}
            }
        }
    }

    fn log(&self, taken: Result<(), StorageError>) {
        match taken {
            Ok(()) => {
                if let Some(failures) = self.inner.log.success() {
                    info!(failures, "quotas of single projects can be read again");
                }
            }
            Err(error) => {
                if let Some(failures) = self.inner.log.failure() {
                    error!(%error, failures, "quotas of single projects cannot be read");
                }
            }
        }
    }

    async fn take_over(&self) -> Result<(), StorageError> {
        let known = Arc::clone(self.inner.loaded.load().managed());
        let store = self.inner.stores.management.as_ref();
        if let Some(managed) = managed::load(store, known.generation()).await? {
            self.put(managed, Some(&known));
        }
        Ok(())
    }

    /// Puts a state in force, unless it is before the one that is. That one may be later only if it
    /// came after the read: in front of the state that was `known` then, the store has gone back,
    /// as after a restore.
    fn put(&self, managed: Managed, known: Option<&Arc<Managed>>) {
        let managed = Arc::new(managed);
        self.inner.loaded.rcu(|before| {
            let held = before.managed();
            let is_known = known.is_some_and(|known| Arc::ptr_eq(known, held));
            if !is_known && managed.is_before(held) {
                Arc::clone(before)
            } else {
                Arc::new(before.with_managed(Arc::clone(&managed)))
            }
        });
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

    fn counter(&self, what: &Counted) -> Arc<Counter> {
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

    /// Pushes carry messages that were accepted before: they are charged, but never delayed.
    fn charge_pushes(&self, context: &Context, amount: Amount) {
        let limits = *self.inner.loaded.load().of(&context.project);
        if let Some(rate) = limits.get(Limit::ByteRate) {
            self.rates(&context.project).bytes.charge(rate, amount.bytes, Instant::now());
        }
    }

    /// A queue that a post or a subscription would create counts, as one that is created does.
    async fn admit_queue(&self, limits: &Limits, key: &QueueKey) -> Result<Taken, Error> {
        let nothing = Taken::default();
        let Some(max) = limits.get(Limit::Queues) else { return Ok(nothing) };
        if self.inner.queues.contains_key(key) {
            return Ok(nothing);
        }
        if self.inner.stores.has_queue(key).await? {
            self.inner.queues.insert(key.clone(), ());
            return Ok(nothing);
        }
        if let Some(reserved) = self.reserved(key, None) {
            return Ok(Taken { queue: Some(reserved), ..nothing });
        }
        let what = Counted::Queues(key.project.clone());
        let max = Max { messages: Some(max), bytes: None };
        let added = self.admit_count(&what, limits, number(1), max).await?;
        Ok(Taken { queue: self.reserved(key, Some(added)), ..nothing })
    }

    /// What another operation in progress has added for a queue, else what this one has.
    fn reserved(&self, key: &QueueKey, added: Option<Added>) -> Option<Arc<Added>> {
        let mut reserved = self.inner.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = reserved.get(key).and_then(Weak::upgrade) {
            return Some(found);
        }
        let added = Arc::new(added?);
        reserved.retain(|_, other| other.strong_count() > 0);
        reserved.insert(key.clone(), Arc::downgrade(&added));
        Some(added)
    }

    async fn admit_messages(
        &self,
        limits: &Limits,
        key: QueueKey,
        amount: Amount,
        taken: &mut Taken,
    ) -> Result<(), Error> {
        let max =
            |messages, bytes| Max { messages: limits.get(messages), bytes: limits.get(bytes) };
        let of_queue = max(Limit::QueueMessages, Limit::QueueBytes);
        let of_project = max(Limit::Messages, Limit::Bytes);
        if of_project.is_some() {
            let project = Counted::Project(key.project.clone());
            taken.of_project = Some(self.admit_count(&project, limits, amount, of_project).await?);
        }
        // The sizes of what is posted here also tell the bytes of a project.
        if of_queue.is_some() || of_project.bytes.is_some() {
            let queue = Counted::Queue(key);
            taken.of_queue = Some(self.admit_count(&queue, limits, amount, of_queue).await?);
        }
        Ok(())
    }

    /// Adds to a count if the result is within its limits.
    async fn admit_count(
        &self,
        what: &Counted,
        limits: &Limits,
        more: Amount,
        max: Max,
    ) -> Result<Added, Error> {
        let counter = self.counter(what);
        match counter.age(Instant::now()) {
            Age::Unknown => self.count(what, &counter, *limits).await?,
            Age::Old => self.count_later(what, &counter, *limits),
            Age::Fresh => {}
        }
        let over = match counter.try_add(more, max) {
            Ok(added) => return Ok(added),
            Err(over) => over,
        };
        if counter.age(Instant::now()) == Age::Fresh {
            return Err(self.over_quota(what, over));
        }
        self.count(what, &counter, *limits).await?;
        counter.try_add(more, max).map_err(|over| self.over_quota(what, over))
    }

    /// Counts now. Concurrent callers share one count, which continues if its caller gives up, so
    /// the next caller finds the result.
    async fn count(
        &self,
        what: &Counted,
        counter: &Arc<Counter>,
        limits: Limits,
    ) -> Result<(), Error> {
        let counted = async {
            let counter_guard = Arc::clone(&counter.counting).lock_owned().await;
            if counter.age(Instant::now()) == Age::Fresh {
                return Ok(());
            }
            // The semaphore is never closed.
            let slot = Arc::clone(&self.inner.counting).acquire_owned().await;
            let permit =
                CountPermit { _counter: counter_guard, _slot: slot.map_err(StorageError::failed)? };
            let (quotas, what) = (self.clone(), what.clone());
            let counting = quotas.take_count(permit, what, Arc::clone(counter), limits);
            tokio::spawn(counting).await.map_err(StorageError::failed)?
        };
        match timeout(COUNT_TIMEOUT, counted).await {
            Ok(counted) => Ok(counted?),
            Err(_) => Err(Error::Overloaded { retry_after: RETRY_AFTER }),
        }
    }

    async fn take_count(
        self,
        _permit: CountPermit,
        what: Counted,
        counter: Arc<Counter>,
        limits: Limits,
    ) -> Result<(), StorageError> {
        let count = counter.begin(Instant::now());
        let stores = &self.inner.stores;
        let with_bytes =
            [Limit::QueueBytes, Limit::Bytes].iter().any(|one| limits.get(*one).is_some());
        let held = match &what {
            Counted::Queue(key) => stores.queue(key, &counter, with_bytes).await?,
            Counted::Project(project) => {
                let counter_of = |key: &QueueKey| self.counter(&Counted::Queue(key.clone()));
                stores.project(project, with_bytes, counter_of).await?
            }
            Counted::Queues(project) => number(stores.queues(project).await?),
            Counted::Subscriptions(project) => {
                let max = limits.get(Limit::Subscriptions).unwrap_or_default();
                number(stores.subscriptions(project, max.saturating_add(1)).await?)
            }
        };
        counter.end(&count, held, Instant::now());
        Ok(())
    }

    /// Counts in a task of its own, unless that is in progress already or too many counts are.
    fn count_later(&self, what: &Counted, counter: &Arc<Counter>, limits: Limits) {
        let Ok(counter_guard) = Arc::clone(&counter.counting).try_lock_owned() else { return };
        let Ok(slot) = Arc::clone(&self.inner.counting).try_acquire_owned() else { return };
        let permit = CountPermit { _counter: counter_guard, _slot: slot };
        let (quotas, what, counter) = (self.clone(), what.clone(), Arc::clone(counter));
        tokio::spawn(async move {
            if let Err(error) = quotas.take_count(permit, what.clone(), counter, limits).await {
                debug!(%error, ?what, "counting failed");
            }
        });
    }

    fn over_quota(&self, what: &Counted, over: Exceeded) -> Error {
        let (limit, whose) = match (what, over.is_bytes) {
            (Counted::Queue(key), is_bytes) => {
                let kind = if key.kind == Kind::Topic { "topic" } else { "queue" };
                let limit = if is_bytes { Limit::QueueBytes } else { Limit::QueueMessages };
                (limit, kind)
            }
            (Counted::Project(_), true) => (Limit::Bytes, "project"),
            (Counted::Project(_), false) => (Limit::Messages, "project"),
            (Counted::Queues(_), _) => (Limit::Queues, "project"),
            (Counted::Subscriptions(_), _) => (Limit::Subscriptions, "project"),
        };
        self.inner.rejections[limit as usize].fetch_add(1, Ordering::Relaxed);
        let Exceeded { would_be, max, .. } = over;
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
    async fn admit(
        &self,
        context: &Context,
        facts: &Facts<'_>,
    ) -> Result<Option<Box<dyn Admission>>, Error> {
        let name = facts.declaration.name;
        if name == PushMessages::DECLARATION.name {
            self.charge_pushes(context, facts.amount);
            return Ok(None);
        }
        if facts.resource() == Resource::Service {
            return Ok(None);
        }
        let limits = *self.inner.loaded.load().of(&context.project);
        if matches!(context.authentication, Authentication::Server) {
            // What the server posts by itself is not limited, but for the queues that it creates.
            let posts = name == PostMessages::DECLARATION.name;
            let Some(queue) = facts.queue.filter(|_| posts) else { return Ok(None) };
            let (project, name) = (context.project.clone(), queue.clone());
            let key = QueueKey { project, kind: facts.kind, name };
            return self.admit_new_queue(&key).await;
        }
        self.admit_rates(context, &limits, facts.amount)?;
        let Some(queue) = facts.queue else { return Ok(None) };
        let key =
            || QueueKey { project: context.project.clone(), kind: facts.kind, name: queue.clone() };
        if name == DeleteQueue::DECLARATION.name {
            self.inner.queues.invalidate(&key());
        }
        let posts = name == PostMessages::DECLARATION.name;
        let subscribes = name == CreateSubscription::DECLARATION.name;
        if !posts && !subscribes && name != CreateQueue::DECLARATION.name {
            return Ok(None);
        }
        let key = key();
        let mut taken = self.admit_queue(&limits, &key).await?;
        if posts {
            self.admit_messages(&limits, key, facts.amount, &mut taken).await?;
        } else if subscribes && let Some(max) = limits.get(Limit::Subscriptions) {
            let max = Max { messages: Some(max), bytes: None };
            let what = Counted::Subscriptions(context.project.clone());
            taken.of_project = Some(self.admit_count(&what, &limits, number(1), max).await?);
        }
        Ok(Some(Box::new(taken)))
    }

    async fn admit_new_queue(&self, key: &QueueKey) -> Result<Option<Box<dyn Admission>>, Error> {
        let limits = *self.inner.loaded.load().of(&key.project);
        Ok(Some(Box::new(self.admit_queue(&limits, key).await?)))
    }
}

#[async_trait]
impl ProjectQuotas for Quotas {
    async fn list_quotas(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ManagedQuotas>, Error> {
        self.take_over().await?;
        Ok(self.inner.loaded.load().managed().page(after, limit))
    }

    async fn quotas(&self, project: &ProjectId) -> Result<Map<String, Value>, Error> {
        self.take_over().await?;
        Ok(limits::document(self.inner.loaded.load().of(project)))
    }

    async fn set_quotas(
        &self,
        project: &ProjectId,
        quotas: &Map<String, Value>,
    ) -> Result<Map<String, Value>, Error> {
        let wrong = |reason| Error::Invalid { part: Part::Body, reason: format!("{reason}.") };
        limits::read_document(quotas).map_err(wrong)?;
        let store = self.inner.stores.management.as_ref();
        self.put(managed::change(store, project, Some(quotas)).await?, None);
        Ok(limits::document(self.inner.loaded.load().of(project)))
    }

    async fn unset_quotas(&self, project: &ProjectId) -> Result<(), Error> {
        let store = self.inner.stores.management.as_ref();
        self.put(managed::change(store, project, None).await?, None);
        Ok(())
    }
}
