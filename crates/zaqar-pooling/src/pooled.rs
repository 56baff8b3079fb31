//! A message store composed of message stores.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use moka::sync::Cache;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use zaqar_core::storage::{
    Claim, ClaimRequest, Claimed, Claims, Error, Guarded, Heads, Message, MessageStore, Movable,
    Moves, News, NewsStream, Swept, Upkeep,
};
use zaqar_core::{
    ClaimId, Generation, Incarnation, Kind, QueueKey, StateLog, TaskMonitor, Timestamp,
};

use crate::catalogue::{Placement, contended};
use crate::dead_letters::{CrossingClaim, DeadLetterMover};
use crate::deliveries::Moment;
use crate::leases::Leases;
use crate::member::Member;
use crate::members::Members;
use crate::mover::Mover;
use crate::openings::Openings;
use crate::place::Place;
use crate::reach::serve;
use crate::registry::PoolHeads;
use crate::{Registry, news, rows};

/// How often the registry is read for changes of pools.
const REFRESH_EVERY: Duration = Duration::from_secs(2);

/// How soon an operation looks for a queue again that is being moved: soon at first, less often
/// then.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// When a caller should retry whose queue is still being moved.
const RETRY_MOVED_AFTER: Duration = Duration::from_secs(1);

/// How the store of stores behaves.
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
    /// How long an operation waits for a queue that is being moved, at most.
    pub move_wait: Duration,
    /// How long the pool that a queue has left says so to servers that look for it there, before
    /// its copy is deleted. Far longer than `cached_for`, and than a store repeats a call.
    pub moved_for: Duration,
    /// Learns of the death of tasks.
    pub tasks: TaskMonitor,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cached_queues: 100_000,
            cached_for: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(5),
            dead_letter_wait: Duration::from_secs(5),
            move_wait: Duration::from_secs(2),
            moved_for: Duration::from_secs(60),
            tasks: TaskMonitor::default(),
        }
    }
}

/// A message store composed of the stores of all pools. Each queue is in one of them, by the
/// catalogue; the server's own queues are in the configured store. Cost: that of the queue's store,
/// plus one round trip to the management store if the queue is not cached, and two more if it is
/// created.
pub struct Pooled {
    pub(crate) registry: Arc<Registry>,
    pub(crate) members: Arc<Members>,
    places: Cache<QueueKey, Place>,
    openings: Openings,
    pub(crate) leases: Leases,
    dead_letters: Arc<DeadLetterMover>,
    pub(crate) mover: Arc<Mover>,
    move_wait: Duration,
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
        let Options { cached_queues, cached_for, answer_timeout, dead_letter_wait, .. } = options;
        let places = Cache::builder().max_capacity(cached_queues).time_to_live(cached_for).build();
        let members = Arc::new(Members::new(Arc::clone(&registry), options.tasks, answer_timeout));
        let heads: Arc<dyn PoolHeads> = Arc::clone(&members) as _;
        registry.set_members(Arc::downgrade(&heads));
        let letters =
            DeadLetterMover::new(Arc::clone(&registry), Arc::clone(&members), dead_letter_wait);
        let dead_letters = Arc::new(letters);
        let mover = Mover::new(
            Arc::clone(&registry),
            Arc::clone(&members),
            Arc::clone(&dead_letters),
            options.moved_for,
        );
        Self {
            registry,
            members,
            places,
            openings: Openings::default(),
            leases: Leases::default(),
            dead_letters,
            mover: Arc::new(mover),
            move_wait: options.move_wait,
            refreshing: StateLog::new(),
        }
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

    /// Goes on with the moves of queues that another server left half done, and with the drains of
    /// pools, and waits until nothing is left to do now. [`Upkeep::sweep`] does so in the
    /// background.
    ///
    /// # Errors
    /// The management store does not answer. Of pools that do not, it is logged.
    pub async fn resume_moves(&self, now: Timestamp) -> Result<(), Error> {
        self.mover.resume(now).await
    }

    /// Goes on with the move of a queue until it pauses or ends, unless another task or server
    /// does.
    ///
    /// # Errors
    /// Those of the stores: the move waits, and the next call goes on.
    pub async fn resume_move(&self, key: &QueueKey, now: Timestamp) -> Result<(), Error> {
        self.mover.drive(key, Moment::new(now)).await
    }

    /// Where a queue is; `None` for one that has no place.
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
        let Some(place) = self.place(key).await? else { return Ok(None) };
        let found = self.members.at(&place).await;
        if found.is_err() && self.registry.forget_deleted(key).await? {
            self.places.invalidate(key);
            let place = self.registry.place_of_unplaced();
            return Ok(match place {
                Some(place) => Some(self.members.at(&place).await?),
                None => None,
            });
        }
        found.map(Some)
    }

    /// Asks the store that has a queue; `None` for a queue that has no place, and so no head.
    pub(crate) async fn ask<T, F>(
        &self,
        key: &QueueKey,
        ask: impl Fn(Arc<dyn MessageStore>) -> F,
    ) -> Result<Option<T>, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let ask = &ask;
        self.ask_member(key, |member| async move { serve(&member, key, ask).await }).await
    }

    /// As [`Self::ask`], for what needs more of the pool than its store.
    pub(crate) async fn ask_member<T, F>(
        &self,
        key: &QueueKey,
        ask: impl Fn(Arc<Member>) -> F,
    ) -> Result<Option<T>, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let ask = &ask;
        self.follow([key], || async move {
            match self.member(key).await? {
                Some(member) => ask(member).await.map(Some),
                None => Ok(None),
            }
        })
        .await
    }

    /// Does something with queues, again where one of them moves to another pool meanwhile. It
    /// waits for the end of a move, but not for long.
    async fn follow<T, F, const N: usize>(
        &self,
        keys: [&QueueKey; N],
        step: impl Fn() -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut answer = step().await;
        let deadline = tokio::time::Instant::now() + self.move_wait;
        let mut pause = Duration::ZERO;
        while let Err(Error::Moved { id, end }) = answer {
            for key in keys {
                self.places.invalidate(key);
                self.mover.clear_leftover(key, id, end).await?;
            }
            if tokio::time::Instant::now() + pause > deadline {
                return Err(Error::Overloaded { retry_after: RETRY_MOVED_AFTER });
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            answer = step().await;
        }
        answer
    }

    async fn open_once(
        &self,
        key: &QueueKey,
        generation: Generation,
        now: Timestamp,
    ) -> Result<Generation, Error> {
        for _ in 0..rows::ATTEMPTS {
            // Always reads the catalogue: the cache may be from before the queue was deleted.
            let (place, found) = self.registry.find_place(key, None).await?;
            let member = self.members.at(&place).await?;
            let open = |store: Arc<dyn MessageStore>| async move {
                store.open(key, generation, now).await
            };
            let opened = serve(&member, key, open).await?;
            if self.registry.confirm(key, &found).await? {
                self.places.insert(key.clone(), place);
                return Ok(opened);
            }
            // Somebody opened it too, or deleted or moved it. A head of ours in a place that is not
            // the queue's any more would be found by nobody; one that moves is frozen.
            let again = self.registry.placement(key).await?.and_then(|again| again.place);
            if again != Some(place) && opened == generation {
                member.store().await?.close(key, generation.incarnation).await?;
            }
        }
        Err(contended())
    }

    async fn close_once(
        &self,
        key: &QueueKey,
        incarnation: Incarnation,
    ) -> Result<Guarded<()>, Error> {
        let found = self.registry.placement(key).await?;
        self.places.invalidate(key);
        let closed = match self.member(key).await? {
            Some(member) => {
                let close = |store: Arc<dyn MessageStore>| async move {
                    store.close(key, incarnation).await
                };
                serve(&member, key, close).await?
            }
            None => Guarded::Absent,
        };
        let is_gone = matches!(closed, Guarded::Done(()) | Guarded::Absent);
        if let Some(found) = found.filter(|_| is_gone) {
            self.displace(key, &found).await?;
            self.places.invalidate(key);
        }
        Ok(closed)
    }

    /// Removes the row of a queue that was deleted. The row of one that is being moved says what is
    /// still to be discarded, and so the end of the move removes it.
    async fn displace(&self, key: &QueueKey, found: &Placement) -> Result<(), Error> {
        match &found.moving {
            None => self.registry.displace(key, found).await.map(drop),
            Some(moving) => {
                self.mover.clean_deleted(key, found, moving).await;
                Ok(())
            }
        }
    }

    async fn claim_once(
        &self,
        key: &QueueKey,
        assumed: Generation,
        request: &ClaimRequest,
        now: Timestamp,
    ) -> Result<Guarded<Claimed>, Error> {
        let Some(source) = self.member(key).await? else { return Ok(Guarded::Absent) };
        let target = match &request.dead_letters {
            Some(rule) => self.member(&rule.target).await?,
            None => None,
        };
        match &request.dead_letters {
            Some(rule) if target.is_none_or(|target| target.place != source.place) => {
                let (own, rule, request) = (key.clone(), rule.clone(), request.clone());
                let at = Arc::clone(&source);
                let crossing = CrossingClaim { source: at, key: own, assumed, request, rule, now };
                serve(&source, key, |_| self.dead_letters.claim(crossing)).await
            }
            Some(_) | None => {
                let claim = |store: Arc<dyn MessageStore>| async move {
                    store.claim(key, assumed, request, now).await
                };
                serve(&source, key, claim).await
            }
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
        let open = || self.openings.open(key, self.open_once(key, generation, now));
        self.follow([key], open).await
    }

    async fn generation(&self, key: &QueueKey) -> Result<Option<Generation>, Error> {
        Ok(self.ask(key, |store| async move { store.generation(key).await }).await?.flatten())
    }

    async fn advance(&self, key: &QueueKey, generation: Generation) -> Result<Guarded<()>, Error> {
        Ok(self
            .ask(key, |store| async move { store.advance(key, generation).await })
            .await?
            .unwrap_or(Guarded::Absent))
    }

    async fn close(&self, key: &QueueKey, incarnation: Incarnation) -> Result<Guarded<()>, Error> {
        if key.kind == Kind::Internal {
            return self.registry.configured().close(key, incarnation).await;
        }
        self.follow([key], || self.close_once(key, incarnation)).await
    }
}

impl Movable for Pooled {
    /// It moves queues between the pools by itself.
    fn moves(&self) -> Option<&dyn Moves> {
        None
    }
}

#[warn(clippy::missing_trait_methods, reason = "a default would bypass the store behind it")]
#[async_trait]
impl Claims for Pooled {
    async fn claim(
        &self,
        key: &QueueKey,
        assumed: Generation,
        request: &ClaimRequest,
        now: Timestamp,
    ) -> Result<Guarded<Claimed>, Error> {
        let step = || self.claim_once(key, assumed, request, now);
        match &request.dead_letters {
            Some(rule) => self.follow([key, &rule.target], step).await,
            None => self.follow([key], step).await,
        }
    }

    async fn claim_each(
        &self,
        key: &QueueKey,
        assumed: Generation,
        ids: &[ClaimId],
        ttl: u64,
        now: Timestamp,
    ) -> Result<Guarded<Vec<Message>>, Error> {
        Ok(self
            .ask(key, |store| async move { store.claim_each(key, assumed, ids, ttl, now).await })
            .await?
            .unwrap_or(Guarded::Absent))
    }

    async fn claim_get(
        &self,
        key: &QueueKey,
        id: ClaimId,
        now: Timestamp,
    ) -> Result<Option<Claim>, Error> {
        Ok(self
            .ask(key, |store| async move { store.claim_get(key, id, now).await })
            .await?
            .flatten())
    }

    async fn claim_renew(
        &self,
        key: &QueueKey,
        id: ClaimId,
        ttl: u64,
        grace: u64,
        now: Timestamp,
    ) -> Result<bool, Error> {
        Ok(self
            .ask(key, |store| async move { store.claim_renew(key, id, ttl, grace, now).await })
            .await?
            .unwrap_or(false))
    }

    async fn claim_release(
        &self,
        key: &QueueKey,
        id: ClaimId,
        now: Timestamp,
    ) -> Result<usize, Error> {
        let released =
            self.ask(key, |store| async move { store.claim_release(key, id, now).await }).await?;
        Ok(released.unwrap_or(0))
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
        self.mover.resume_in_background(now);
        // The budget is of all pools together.
        let share = budget.div_ceil(self.members.all().len().max(1));
        let swept =
            self.members.ask_briefly(|store| async move { store.sweep(now, share).await }).await?;
        Ok(swept.into_iter().fold(Swept::default(), |all, (_, one)| Swept {
            done: all.done + one.done,
            more: all.more || one.more,
            expired: all.expired + one.expired,
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
