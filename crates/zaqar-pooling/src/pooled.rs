//! A message store composed of message stores.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use moka::sync::Cache;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use zaqar_core::storage::{
    Batch, Changed, Claim, ClaimRequest, Claimed, Claims, Deletable, Deleted, Error, Guarded,
    Heads, Leases as LeaseStore, ListQuery, Message, MessagePage, MessageStore, Messages,
    NewSubscription, News, NewsStream, Outbox, OutboxEntry, PopPage, PopQuery, RecipientQuery,
    Renewal, Stats, Subscribed, Subscription, SubscriptionChange, Subscriptions, Swept, Upkeep,
    Volume,
};
use zaqar_core::{
    ClaimId, Generation, Incarnation, Kind, LeaseId, MessageId, Position, QueueKey, StateLog,
    SubscriptionId, TaskMonitor, Timestamp,
};

use crate::catalogue::{Place, contended};
use crate::dead_letters::{CrossingClaim, DeadLetterMover};
use crate::leases::Leases;
use crate::member::Member;
use crate::members::Members;
use crate::{Registry, news, rows};

/// How often the registry is read for changes of pools.
const REFRESH_EVERY: Duration = Duration::from_secs(2);

/// Options of the store.
#[derive(Debug, Clone)]
pub struct Options {
    /// Queues whose pool is cached, at most.
    pub cached_queues: u64,
    /// How long that is cached. A queue that another server deleted and created in another pool may
    /// be looked for in the old pool for this long.
    pub cached_for: Duration,
    /// The timeout of a pool for requests to all pools, such as a ping or a sweep.
    pub answer_timeout: Duration,
    /// How long a claim waits, at most, for the dead letters that it moved to another pool. After
    /// that it returns, and they arrive later.
    pub dead_letter_wait: Duration,
    /// Is notified when a task dies.
    pub tasks: TaskMonitor,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cached_queues: 100_000,
            cached_for: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(5),
            dead_letter_wait: Duration::from_secs(5),
            tasks: TaskMonitor::default(),
        }
    }
}

/// A message store composed of the stores of all pools. Each queue is in one of them, by the
/// catalogue; the server's own queues are in the configured store. Cost: that of the queue's store,
/// plus one round trip to the management store if the queue is not cached, and two more if it is
/// created.
pub struct Pooled {
    registry: Arc<Registry>,
    pub(crate) members: Arc<Members>,
    places: Cache<QueueKey, Place>,
    leases: Leases,
    dead_letters: Arc<DeadLetterMover>,
    refreshing: StateLog,
}

impl fmt::Debug for Pooled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pooled").finish_non_exhaustive()
    }
}

impl Pooled {
    /// Opens the stores of a registry's pools. Must be called on a tokio runtime, because they are
    /// opened in the background.
    pub fn new(registry: Arc<Registry>, options: Options) -> Self {
        let Options { cached_queues, cached_for, answer_timeout, dead_letter_wait, tasks } =
            options;
        let places = Cache::builder().max_capacity(cached_queues).time_to_live(cached_for).build();
        let members = Arc::new(Members::new(Arc::clone(&registry), tasks, answer_timeout));
        let mover =
            DeadLetterMover::new(Arc::clone(&registry), Arc::clone(&members), dead_letter_wait);
        let (leases, dead_letters) = (Leases::default(), Arc::new(mover));
        Self { registry, members, places, leases, dead_letters, refreshing: StateLog::new() }
    }

    /// Follows changes of pools by any server, every 2 s until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            self.refresh().await;
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(REFRESH_EVERY) => {}
            }
        }
    }

    /// Reads the registry now, and starts to open new pools. On an error, which is logged, the
    /// pools stay as they are.
    pub async fn refresh(&self) {
        match self.members.refresh().await {
            Ok(()) => {
                self.refreshing.success();
            }
            Err(error) => {
                if let Some(failures) = self.refreshing.failure() {
                    let error = &error as &dyn std::error::Error;
                    warn!(error, failures, "the pools cannot be read");
                }
            }
        }
    }

    /// Delivers dead letters that another server left on their way to another pool.
    /// [`Upkeep::sweep`] does so in the background.
    ///
    /// # Errors
    /// The management store is unavailable. Unavailable pools are logged, and their letters wait.
    pub async fn resume_dead_letters(&self, now: Timestamp) -> Result<(), Error> {
        self.dead_letters.resume(now).await
    }

    /// Where a queue is; `None` if it is not placed.
    async fn place(&self, key: &QueueKey) -> Result<Option<Place>, Error> {
        if key.kind == Kind::Internal {
            return Ok(Some(Place::Configured));
        }
        if let Some(place) = self.places.get(key) {
            return Ok(Some(place));
        }
        let found = self.registry.placement(key).await?.and_then(|found| found.place);
        match found {
            Some(place) => {
                self.places.insert(key.clone(), place.clone());
                Ok(Some(place))
            }
            // Not cached: another server may place it at any time.
            None => Ok(self.registry.place_of_unplaced()),
        }
    }

    async fn member(&self, key: &QueueKey) -> Result<Option<Arc<Member>>, Error> {
        match self.place(key).await? {
            Some(place) => self.members.at(&place).await.map(Some),
            None => Ok(None),
        }
    }

    /// The store that has a queue; `None` if the queue is not placed, and so has no head.
    async fn store(&self, key: &QueueKey) -> Result<Option<Arc<dyn MessageStore>>, Error> {
        match self.member(key).await? {
            Some(member) => member.store().await.map(Some),
            None => Ok(None),
        }
    }
}

#[async_trait]
impl Heads for Pooled {
    async fn open(
        &self,
        key: &QueueKey,
        generation: Generation,
        now: Timestamp,
    ) -> Result<Generation, Error> {
        if key.kind == Kind::Internal {
            return self.registry.configured().open(key, generation, now).await;
        }
        for _ in 0..rows::ATTEMPTS {
            // Always reads the catalogue: the cache may be from before the queue was deleted.
            let (place, found) = self.registry.find_place(key, None).await?;
            let store = self.members.at(&place).await?.store().await?;
            let opened = store.open(key, generation, now).await?;
            if self.registry.confirm(key, &found).await? {
                self.places.insert(key.clone(), place);
                return Ok(opened);
            }
            // Another server opened or deleted it. A head that is not where the catalogue says
            // would never be found.
            let again = self.registry.placement(key).await?.and_then(|again| again.place);
            if again != Some(place) && opened == generation {
                store.close(key, generation.incarnation).await?;
            }
        }
        Err(contended())
    }

    async fn generation(&self, key: &QueueKey) -> Result<Option<Generation>, Error> {
        match self.store(key).await? {
            Some(store) => store.generation(key).await,
            None => Ok(None),
        }
    }

    async fn advance(&self, key: &QueueKey, generation: Generation) -> Result<Guarded<()>, Error> {
        match self.store(key).await? {
            Some(store) => store.advance(key, generation).await,
            None => Ok(Guarded::Absent),
        }
    }

    async fn close(&self, key: &QueueKey, incarnation: Incarnation) -> Result<Guarded<()>, Error> {
        if key.kind == Kind::Internal {
            return self.registry.configured().close(key, incarnation).await;
        }
        let found = self.registry.placement(key).await?;
        self.places.invalidate(key);
        let closed = match self.store(key).await? {
            Some(store) => store.close(key, incarnation).await?,
            None => Guarded::Absent,
        };
        let is_gone = matches!(closed, Guarded::Done(()) | Guarded::Absent);
        if let Some(found) = found.filter(|_| is_gone) {
            self.registry.displace(key, &found).await?;
            self.places.invalidate(key);
        }
        Ok(closed)
    }
}

#[async_trait]
impl Claims for Pooled {
    async fn claim(
        &self,
        key: &QueueKey,
        assumed: Generation,
        request: &ClaimRequest,
        now: Timestamp,
    ) -> Result<Guarded<Claimed>, Error> {
        let Some(source) = self.member(key).await? else { return Ok(Guarded::Absent) };
        let store = source.store().await?;
        let Some(rule) = &request.dead_letters else {
            return store.claim(key, assumed, request, now).await;
        };
        let target = self.member(&rule.target).await?;
        if target.is_some_and(|target| target.place == source.place) {
            return store.claim(key, assumed, request, now).await;
        }
        let (key, rule, request) = (key.clone(), rule.clone(), request.clone());
        let crossing = CrossingClaim { source, key, assumed, request, rule, now };
        self.dead_letters.claim(crossing).await
    }

    async fn claim_get(
        &self,
        key: &QueueKey,
        id: ClaimId,
        now: Timestamp,
    ) -> Result<Option<Claim>, Error> {
        match self.store(key).await? {
            Some(store) => store.claim_get(key, id, now).await,
            None => Ok(None),
        }
    }

    async fn claim_renew(
        &self,
        key: &QueueKey,
        id: ClaimId,
        ttl: u64,
        grace: u64,
        now: Timestamp,
    ) -> Result<bool, Error> {
        match self.store(key).await? {
            Some(store) => store.claim_renew(key, id, ttl, grace, now).await,
            None => Ok(false),
        }
    }

    async fn claim_release(
        &self,
        key: &QueueKey,
        id: ClaimId,
        now: Timestamp,
    ) -> Result<(), Error> {
        match self.store(key).await? {
            Some(store) => store.claim_release(key, id, now).await,
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Messages for Pooled {
    async fn post(
        &self,
        key: &QueueKey,
        assumed: Generation,
        batch: Batch,
        now: Timestamp,
    ) -> Result<Guarded<Vec<MessageId>>, Error> {
        match self.store(key).await? {
            Some(store) => store.post(key, assumed, batch, now).await,
            None => Ok(Guarded::Absent),
        }
    }

    async fn list(
        &self,
        key: &QueueKey,
        query: &ListQuery,
        now: Timestamp,
    ) -> Result<MessagePage, Error> {
        match self.store(key).await? {
            Some(store) => store.list(key, query, now).await,
            None => Ok(MessagePage::default()),
        }
    }

    async fn get(
        &self,
        key: &QueueKey,
        ids: &[MessageId],
        now: Timestamp,
    ) -> Result<Vec<Message>, Error> {
        match self.store(key).await? {
            Some(store) => store.get(key, ids, now).await,
            None => Ok(Vec::new()),
        }
    }

    async fn delete(
        &self,
        key: &QueueKey,
        id: MessageId,
        claim: Option<ClaimId>,
        now: Timestamp,
    ) -> Result<Deleted, Error> {
        match self.store(key).await? {
            Some(store) => store.delete(key, id, claim, now).await,
            None => Ok(Deleted::Gone),
        }
    }

    async fn delete_many(
        &self,
        key: &QueueKey,
        ids: &[MessageId],
        which: &Deletable,
        now: Timestamp,
    ) -> Result<(), Error> {
        match self.store(key).await? {
            Some(store) => store.delete_many(key, ids, which, now).await,
            None => Ok(()),
        }
    }

    async fn pop(
        &self,
        key: &QueueKey,
        query: &PopQuery,
        now: Timestamp,
    ) -> Result<PopPage, Error> {
        match self.store(key).await? {
            Some(store) => store.pop(key, query, now).await,
            None => Ok(PopPage::default()),
        }
    }

    async fn purge(&self, key: &QueueKey, now: Timestamp) -> Result<(), Error> {
        match self.store(key).await? {
            Some(store) => store.purge(key, now).await,
            None => Ok(()),
        }
    }

    async fn stats(&self, key: &QueueKey, now: Timestamp) -> Result<Option<Stats>, Error> {
        match self.store(key).await? {
            Some(store) => store.stats(key, now).await,
            None => Ok(None),
        }
    }

    async fn volume(&self) -> Result<Option<Volume>, Error> {
        let volumes = self.members.ask(|store| async move { store.volume().await }).await?;
        let known = volumes.into_iter().filter_map(|(_, volume)| volume);
        Ok(known.reduce(|all, one| Volume {
            claimed: all.claimed + one.claimed,
            free: all.free + one.free,
        }))
    }
}

#[async_trait]
impl Subscriptions for Pooled {
    async fn subscribe(
        &self,
        key: &QueueKey,
        assumed: Generation,
        subscription: &NewSubscription,
        now: Timestamp,
    ) -> Result<Guarded<Subscribed>, Error> {
        let Some(member) = self.member(key).await? else { return Ok(Guarded::Absent) };
        if let Some(lease) = subscription.lease {
            self.leases.ensure(&member, lease, now).await?;
        }
        member.store().await?.subscribe(key, assumed, subscription, now).await
    }

    async fn subscription(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        now: Timestamp,
    ) -> Result<Option<Subscription>, Error> {
        match self.store(key).await? {
            Some(store) => store.subscription(key, id, now).await,
            None => Ok(None),
        }
    }

    async fn subscriptions(
        &self,
        key: &QueueKey,
        after: Option<SubscriptionId>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Subscription>, Error> {
        match self.store(key).await? {
            Some(store) => store.subscriptions(key, after, limit, now).await,
            None => Ok(Vec::new()),
        }
    }

    async fn leased_subscriptions(
        &self,
        key: &QueueKey,
        lease: LeaseId,
        after: Option<SubscriptionId>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<(SubscriptionId, Timestamp)>, Error> {
        match self.store(key).await? {
            Some(store) => store.leased_subscriptions(key, lease, after, limit, now).await,
            None => Ok(Vec::new()),
        }
    }

    async fn recipients(
        &self,
        key: &QueueKey,
        query: &RecipientQuery,
        now: Timestamp,
    ) -> Result<Vec<SubscriptionId>, Error> {
        match self.store(key).await? {
            Some(store) => store.recipients(key, query, now).await,
            None => Ok(Vec::new()),
        }
    }

    async fn change_subscription(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        change: &SubscriptionChange,
        now: Timestamp,
    ) -> Result<Changed, Error> {
        match self.store(key).await? {
            Some(store) => store.change_subscription(key, id, change, now).await,
            None => Ok(Changed::Absent),
        }
    }

    async fn unsubscribe(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        now: Timestamp,
    ) -> Result<(), Error> {
        match self.store(key).await? {
            Some(store) => store.unsubscribe(key, id, now).await,
            None => Ok(()),
        }
    }

    async fn unsubscribe_all(&self, key: &QueueKey, now: Timestamp) -> Result<(), Error> {
        match self.store(key).await? {
            Some(store) => store.unsubscribe_all(key, now).await,
            None => Ok(()),
        }
    }
}

#[async_trait]
impl LeaseStore for Pooled {
    async fn keep_lease(
        &self,
        lease: LeaseId,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Renewal, Error> {
        self.leases.keep(&self.members, lease, until, now).await
    }

    async fn end_lease(&self, lease: LeaseId, now: Timestamp) -> Result<(), Error> {
        self.leases.end(&self.members, lease, now).await
    }
}

#[async_trait]
impl Outbox for Pooled {
    /// Takes queues from each pool in turn, so that no pool's backlog hides another's.
    async fn due_queues(&self, limit: usize, now: Timestamp) -> Result<Vec<QueueKey>, Error> {
        let due =
            self.members.ask(|store| async move { store.due_queues(limit, now).await }).await?;
        let mut pools: Vec<_> = due.into_iter().map(|(_, queues)| queues.into_iter()).collect();
        let mut merged = Vec::new();
        while merged.len() < limit {
            let before = merged.len();
            merged.extend(pools.iter_mut().filter_map(Iterator::next));
            if merged.len() == before {
                break;
            }
        }
        merged.truncate(limit);
        Ok(merged)
    }

    async fn lease(
        &self,
        key: &QueueKey,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Option<OutboxEntry>, Error> {
        match self.store(key).await? {
            Some(store) => store.lease(key, until, now).await,
            None => Ok(None),
        }
    }

    async fn settle(
        &self,
        key: &QueueKey,
        incarnation: Incarnation,
        first: Position,
    ) -> Result<(), Error> {
        match self.store(key).await? {
            Some(store) => store.settle(key, incarnation, first).await,
            None => Ok(()),
        }
    }

    async fn follow(
        &self,
        key: &QueueKey,
        incarnation: Incarnation,
        after: Position,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<OutboxEntry>, Error> {
        match self.store(key).await? {
            Some(store) => store.follow(key, incarnation, after, limit, now).await,
            None => Ok(Vec::new()),
        }
    }
}

#[async_trait]
impl News for Pooled {
    async fn news(&self) -> Result<NewsStream, Error> {
        news::listen(&self.members).await
    }
}

#[async_trait]
impl Upkeep for Pooled {
    /// Pings the configured store. Pools are pinged in the background: an unavailable one is
    /// logged, and fails only its own queues.
    async fn ping(&self) -> Result<(), Error> {
        self.members.ping_in_background();
        self.registry.configured().ping().await
    }

    async fn sweep(&self, now: Timestamp, budget: usize) -> Result<Swept, Error> {
        self.dead_letters.resume_in_background(now);
        // The budget is shared by all pools.
        let share = budget.div_ceil(self.members.all().len().max(1));
        let swept = self.members.ask(|store| async move { store.sweep(now, share).await }).await?;
        Ok(swept.into_iter().fold(Swept::default(), |all, (_, one)| Swept {
            done: all.done + one.done,
            more: all.more || one.more,
        }))
    }

    async fn shut_down(&self) -> Result<(), Error> {
        let members = self.members.all();
        let mut outcome = Ok(());
        for member in members.values() {
            let closed = member.close().await;
            outcome = outcome.and(closed);
        }
        outcome
    }
}
