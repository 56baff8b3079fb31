//! The store, names and time of one test.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use zaqar_core::storage::{ManagementStore, MessageStore, Swept, Upkeep};
use zaqar_core::{
    Clock, Generation, Incarnation, Kind, LeaseId, ManualClock, ProjectId, QueueKey, QueueName,
    SystemClock, Timestamp, Version,
};

use crate::factory::{Factory, Stores};
use crate::queue::Queue;

/// The latest time that any test on a shared store has used.
static SHARED: Mutex<Timestamp> = Mutex::const_new(Timestamp::from_millis(0));

/// Sweeps after which a test fails if there is still more to do.
const MAX_SWEEPS: usize = 10_000;

pub(crate) struct Kit {
    factory: Arc<dyn Factory>,
    name: String,
    stores: Stores,
    /// 32 random digits: part of every project id, so that tests on one store do not interfere.
    pub(crate) tag: String,
    pub(crate) clock: Arc<ManualClock>,
    shared: Option<MutexGuard<'static, Timestamp>>,
}

impl Kit {
    pub(crate) async fn new(factory: Arc<dyn Factory>) -> Self {
        let tag = format!("{:032x}", rand::random::<u128>());
        let name = format!("kit_{tag}");
        let shared = if factory.about().shared { Some(SHARED.lock().await) } else { None };
        let stores = factory.open(&name).await;
        let latest = shared.as_ref().map_or(Timestamp::from_millis(0), |latest| **latest);
        // Never in the past: a store may delete what has long expired by its own clock.
        let start = Timestamp::from_millis(SystemClock.now().as_secs() * 1000);
        let clock = Arc::new(ManualClock::new(start.max(latest.plus_secs(1))));
        Self { factory, name, stores, tag, clock, shared }
    }

    /// Cleans up after a test that has passed.
    pub(crate) async fn finish(self) {
        self.factory.discard(&self.name).await;
    }

    pub(crate) fn rows(&self) -> &dyn ManagementStore {
        self.stores.management.as_ref()
    }

    pub(crate) fn rows_for_task(&self) -> Arc<dyn ManagementStore> {
        self.stores.management.clone()
    }

    pub(crate) fn store(&self) -> &dyn MessageStore {
        self.stores.messages.as_ref()
    }

    pub(crate) fn keeps(&self) -> bool {
        self.factory.about().keeps
    }

    pub(crate) fn repairs_time(&self) -> bool {
        self.factory.about().repairs_time
    }

    /// Shuts the stores down and opens them again.
    pub(crate) async fn restart(&mut self) {
        self.shut_down().await;
        self.stores = self.factory.open(&self.name).await;
    }

    pub(crate) async fn shut_down(&self) {
        Upkeep::shut_down(self.store()).await.expect("the message store shuts down");
        Upkeep::shut_down(self.rows()).await.expect("the management store shuts down");
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Advances the clock by seconds.
    pub(crate) fn pass(&self, secs: u64) {
        self.clock.advance(Duration::from_secs(secs));
    }

    /// Advances the clock by milliseconds.
    pub(crate) fn pass_millis(&self, millis: u64) {
        self.clock.advance(Duration::from_millis(millis));
    }

    /// Advances the clock by this many seconds minus one millisecond.
    pub(crate) fn pass_almost(&self, secs: u64) {
        self.pass_millis(secs * 1000 - 1);
    }

    /// Sweeps the message store until nothing is due.
    pub(crate) async fn sweep(&self) {
        sweep(self.store(), self.now(), 100).await;
    }

    /// The id of a lease that only this test uses.
    pub(crate) fn lease(&self, number: u128) -> LeaseId {
        let tag = u128::from_str_radix(&self.tag, 16).expect("a tag is a number");
        LeaseId::new(tag ^ number)
    }

    pub(crate) fn project(&self) -> ProjectId {
        ProjectId::new(&self.tag).expect("a tag is a project id")
    }

    pub(crate) fn key(&self, name: &str) -> QueueKey {
        self.key_of(Kind::Queue, name)
    }

    pub(crate) fn key_of(&self, kind: Kind, name: &str) -> QueueKey {
        key(self.project(), kind, name)
    }

    /// Opens a new queue of this name.
    pub(crate) async fn queue(&self, name: &str) -> Queue {
        self.open(self.key(name)).await
    }

    /// Opens a new queue with this key.
    pub(crate) async fn open(&self, key: QueueKey) -> Queue {
        let queue = self.queue_at(key, generation(1));
        assert_eq!(
            queue.open().await,
            queue.generation,
            "a new head has the generation it is given"
        );
        queue
    }

    /// A queue with this key and generation, open or not.
    pub(crate) fn queue_at(&self, key: QueueKey, generation: Generation) -> Queue {
        Queue { store: self.stores.messages.clone(), key, generation, clock: self.clock.clone() }
    }

    /// The same queue after a restart.
    pub(crate) fn again(&self, queue: &Queue) -> Queue {
        self.queue_at(queue.key.clone(), queue.generation)
    }
}

impl Drop for Kit {
    fn drop(&mut self) {
        let now = self.now();
        if let Some(latest) = &mut self.shared {
            **latest = now;
        }
    }
}

pub(crate) fn key(project: ProjectId, kind: Kind, name: &str) -> QueueKey {
    QueueKey { project, kind, name: QueueName::new(name).expect("a test uses valid queue names") }
}

/// A generation with a new incarnation and this version.
pub(crate) fn generation(version: u64) -> Generation {
    let incarnation = Incarnation::new(rand::random::<u64>() >> 1);
    Generation { incarnation, version: Version::new(version) }
}

/// Sweeps until nothing is due; returns the number of rows that all sweeps processed.
///
/// # Panics
/// A sweep fails, or after 10 000 of them there is still more to do.
pub async fn sweep<S: Upkeep + ?Sized>(store: &S, now: Timestamp, budget: usize) -> usize {
    let mut done = 0;
    for _ in 0..MAX_SWEEPS {
        let swept: Swept = store.sweep(now, budget).await.expect("the store sweeps");
        done += swept.done;
        if !swept.more {
            return done;
        }
    }
    panic!("after {MAX_SWEEPS} sweeps without time passing there is still more to do");
}
