//! The stores of all pools of the registry.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::warn;
use zaqar_core::storage::{Error, MessageStore};
use zaqar_core::{QueueKey, StateLog, TaskMonitor};

use crate::Registry;
use crate::member::Member;
use crate::place::Place;
use crate::reach;
use crate::registry::PoolHeads;

/// The shortest pause between reads of the registry for unknown pools.
const REFRESH_AT_MOST: Duration = Duration::from_millis(500);
/// How long work for all pools waits for one that has a problem.
const BRIEFLY: Duration = Duration::from_millis(200);

pub(crate) type MemberMap = Arc<BTreeMap<Place, Arc<Member>>>;

/// The stores of all pools.
pub(crate) struct Members {
    registry: Arc<Registry>,
    tasks: TaskMonitor,
    answer_timeout: Duration,
    map: watch::Sender<MemberMap>,
    refreshed: Mutex<Option<Instant>>,
    pinging: SyncMutex<Option<JoinHandle<()>>>,
    log: StateLog,
}

impl Members {
    pub(crate) fn new(
        registry: Arc<Registry>,
        tasks: TaskMonitor,
        answer_timeout: Duration,
    ) -> Self {
        let configured = Arc::new(Member::configured(Arc::clone(registry.configured())));
        let map = BTreeMap::from([(Place::Configured, configured)]);
        let (map, log) = (watch::channel(Arc::new(map)).0, StateLog::new());
        let (refreshed, pinging) = (Mutex::new(None), SyncMutex::new(None));
        Self { registry, tasks, answer_timeout, map, refreshed, pinging, log }
    }

    /// All of them at present.
    pub(crate) fn all(&self) -> MemberMap {
        Arc::clone(&self.map.borrow())
    }

    /// All of them, with changes.
    pub(crate) fn watch(&self) -> watch::Receiver<MemberMap> {
        self.map.subscribe()
    }

    /// The one at a place.
    ///
    /// # Errors
    /// [`Error::Unavailable`] for a pool that is not registered.
    pub(crate) async fn at(&self, place: &Place) -> Result<Arc<Member>, Error> {
        if let Some(member) = self.all().get(place) {
            return Ok(Arc::clone(member));
        }
        // Another server may just have registered it.
        self.refresh_once().await?;
        let found = self.all().get(place).cloned();
        found.ok_or_else(|| {
            let name = place.name();
            if let Some(failures) = self.log.failure() {
                warn!(pool = name, failures, "queues are placed in a pool that is not registered");
            }
            Error::unavailable(format!("pool {name} is not registered"))
        })
    }

    /// Reads the registry once for all concurrent callers, at most twice a second.
    async fn refresh_once(&self) -> Result<(), Error> {
        let asked = Instant::now();
        let mut refreshed = self.refreshed.lock().await;
        match *refreshed {
            Some(at) if at > asked => return Ok(()),
            Some(at) => tokio::time::sleep_until(at + REFRESH_AT_MOST).await,
            None => {}
        }
        self.read_registry().await?;
        *refreshed = Some(Instant::now());
        Ok(())
    }

    /// Reads the registry now.
    pub(crate) async fn refresh(&self) -> Result<(), Error> {
        let mut refreshed = self.refreshed.lock().await;
        self.read_registry().await?;
        *refreshed = Some(Instant::now());
        Ok(())
    }

    /// Opens pools that are new or whose store changed, and closes pools that are gone.
    async fn read_registry(&self) -> Result<(), Error> {
        let pools = self.registry.read_pools().await?;
        let before = self.all();
        let mut after = BTreeMap::new();
        after.extend(before.get_key_value(&Place::Configured).map(|(k, v)| (k.clone(), v.clone())));
        for pool in pools.iter() {
            let place = Place::Pool(pool.name.clone());
            let member = match before.get(&place) {
                Some(member) if member.is_of(pool) => Arc::clone(member),
                _ => {
                    let connector = self.registry.shared_connector();
                    Arc::new(Member::open(pool.clone(), connector, &self.tasks))
                }
            };
            after.insert(place, member);
        }
        let is_kept = |member: &Arc<Member>| {
            after.get(&member.place).is_some_and(|kept| Arc::ptr_eq(kept, member))
        };
        let gone: Vec<_> = before.values().filter(|member| !is_kept(member)).cloned().collect();
        let is_changed = !gone.is_empty() || after.len() != before.len();
        if is_changed {
            self.map.send_replace(Arc::new(after));
        }
        for member in gone {
            // Nobody waits for this: requests that hold the store end by themselves.
            tokio::spawn(async move { member.note(&member.close().await) });
        }
        Ok(())
    }

    /// Starts to ping every pool, unless a ping is in progress.
    pub(crate) fn ping_in_background(self: &Arc<Self>) {
        let mut pinging = self.pinging.lock().unwrap_or_else(PoisonError::into_inner);
        if pinging.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let members = Arc::clone(self);
        *pinging = Some(tokio::spawn(async move {
            // Failures are recorded with each pool.
            members.ask(|store| async move { store.ping().await }).await.ok();
        }));
    }

    /// Asks every open pool at once, and returns the answers that came in time, so that a hanging
    /// pool delays the others little. Failures are logged with the pool's name. The configured
    /// store has no timeout.
    ///
    /// # Errors
    /// The first error, if no pool answered.
    pub(crate) async fn ask<T, F>(
        &self,
        ask: impl Fn(Arc<dyn MessageStore>) -> F,
    ) -> Result<Vec<(Arc<Member>, T)>, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.ask_within(ask, |_| self.answer_timeout).await
    }

    /// Like [`Self::ask`], but waits only briefly for a pool that has a problem, so that it does
    /// not delay what is done again and again. Pings find out when it answers again.
    pub(crate) async fn ask_briefly<T, F>(
        &self,
        ask: impl Fn(Arc<dyn MessageStore>) -> F,
    ) -> Result<Vec<(Arc<Member>, T)>, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let limit = |member: &Member| {
            let limit = self.answer_timeout;
            if member.has_problem() { limit.min(BRIEFLY) } else { limit }
        };
        self.ask_within(ask, limit).await
    }

    async fn ask_within<T, F>(
        &self,
        ask: impl Fn(Arc<dyn MessageStore>) -> F,
        limit: impl Fn(&Member) -> Duration,
    ) -> Result<Vec<(Arc<Member>, T)>, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let members = self.all();
        let open: Vec<_> = members
            .values()
            .filter_map(|member| Some((Arc::clone(member), ask(member.if_open()?))))
            .collect();
        self.answers(open, limit).await
    }

    /// Like [`Self::ask`], but waits for pools that are being opened.
    pub(crate) async fn ask_opening<T, F>(
        &self,
        ask: impl Fn(Arc<dyn MessageStore>) -> F,
    ) -> Result<Vec<(Arc<Member>, T)>, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let (members, ask) = (self.all(), &ask);
        let asking = members.values().map(|member| {
            let answer = async move { ask(member.store().await?).await };
            (Arc::clone(member), answer)
        });
        self.answers(asking.collect(), |_| self.answer_timeout).await
    }

    async fn answers<T, F>(
        &self,
        asking: Vec<(Arc<Member>, F)>,
        limit: impl Fn(&Member) -> Duration,
    ) -> Result<Vec<(Arc<Member>, T)>, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let limit = &limit;
        let asking = asking.into_iter().map(|(member, answer)| async move {
            if member.place == Place::Configured {
                return (member, answer.await);
            }
            let limit = limit(&member);
            let late = || Error::unavailable(format!("no answer in {} ms", limit.as_millis()));
            let answer = tokio::time::timeout(limit, answer).await;
            (member, answer.unwrap_or_else(|_| Err(late())))
        });
        let (mut answers, mut failure) = (Vec::new(), None);
        for (member, outcome) in join_all(asking).await {
            member.note(&outcome);
            reach::judge(&member, &outcome);
            match outcome {
                Ok(answer) => answers.push((member, answer)),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        match failure {
            Some(error) if answers.is_empty() => Err(error),
            Some(_) | None => Ok(answers),
        }
    }
}

#[async_trait]
impl PoolHeads for Members {
    async fn has_no_head(&self, place: &Place, key: &QueueKey) -> Result<bool, Error> {
        match self.at(place).await?.store().await?.generation(key).await {
            Ok(head) => Ok(head.is_none()),
            Err(Error::Moved { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
