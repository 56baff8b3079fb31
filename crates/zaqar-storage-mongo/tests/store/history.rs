//! Several processes that use one database concurrently, each with its own store: their answers
//! must be consistent.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test fails on whatever it does not expect")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use zaqar_core::storage::{
    Batch, ClaimRequest, Claimed, Claims, Deleted, Guarded, Heads, ListQuery, Message, Messages,
    NewMessage, PopQuery, Upkeep,
};
use zaqar_core::{
    ClaimId, ClientId, Clock, Generation, Incarnation, Kind, ManualClock, MessageId, Payload,
    ProjectId, QueueKey, QueueName, SystemClock, Timestamp, Version,
};
use zaqar_storage_mongo::Mongo;
use zaqar_storage_testkit::block_on;

use crate::support::server;

/// Stores, one per simulated process.
const STORES: usize = 4;
const POSTERS: usize = 4;
const BATCHES: usize = 10;
const CONSUMERS: usize = 6;
const MESSAGES: usize = POSTERS * BATCHES * 3;
/// How long a consumer or a reader may see nothing new before the test fails.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

struct Scene {
    name: String,
    stores: Vec<Mongo>,
    next: AtomicUsize,
    key: QueueKey,
    generation: Generation,
    clock: ManualClock,
}

impl Scene {
    async fn new() -> Arc<Self> {
        let name = server::name();
        let mut stores = Vec::new();
        for _ in 0..STORES {
            stores.push(server::open(&name).await);
        }
        let key = QueueKey {
            project: ProjectId::new("p").unwrap(),
            kind: Kind::Queue,
            name: QueueName::new("q").unwrap(),
        };
        let incarnation = Incarnation::new(rand::random::<u64>() >> 1);
        let generation = Generation { incarnation, version: Version::new(1) };
        let clock = ManualClock::new(SystemClock.now());
        let scene = Self { name, stores, next: AtomicUsize::new(0), key, generation, clock };
        Heads::open(scene.store(), &scene.key, generation, scene.now()).await.unwrap();
        Arc::new(scene)
    }

    /// A different store each time.
    fn store(&self) -> &Mongo {
        &self.stores[self.next.fetch_add(1, Ordering::Relaxed) % STORES]
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn post(&self, poster: usize, number: usize) -> Vec<MessageId> {
        let message = |n| NewMessage {
            payload: Payload::plain(Bytes::from(format!("{poster} {number} {n}"))),
            ttl: 100_000,
            delay: 0,
        };
        let batch = Batch {
            request: rand::random(),
            client: ClientId::new("c"),
            messages: (0..3).map(message).collect(),
            notify: true,
        };
        match self.store().post(&self.key, self.generation, batch, self.now()).await.unwrap() {
            Guarded::Done(ids) => ids,
            refused => panic!("{refused:?}"),
        }
    }

    async fn page(&self, after: Option<MessageId>) -> (Vec<MessageId>, Option<MessageId>) {
        let query =
            ListQuery { after, limit: 7, hide: None, include_claimed: true, include_delayed: true };
        let page = Messages::list(self.store(), &self.key, &query, self.now()).await.unwrap();
        (page.messages.iter().map(|message| message.id).collect(), page.next)
    }

    async fn pop(&self, limit: usize) -> Vec<Message> {
        let query = PopQuery { limit, after: None, keys: Vec::new() };
        self.store().pop(&self.key, &query, self.now()).await.unwrap().messages
    }

    async fn end(&self) {
        server::database(&self.name).await.drop().await.unwrap();
    }
}

/// Starts posters. Each returns what it has posted.
fn start_posters(scene: &Arc<Scene>) -> Vec<tokio::task::JoinHandle<Vec<MessageId>>> {
    let posters = (0..POSTERS).map(|poster| {
        let scene = scene.clone();
        tokio::spawn(async move {
            let mut posted: Vec<MessageId> = Vec::new();
            for number in 0..BATCHES {
                let ids = scene.post(poster, number).await;
                assert!(posted.last() < ids.first(), "a later post comes after an earlier one");
                assert!(ids.windows(2).all(|two| two[0].position.next() == two[1].position));
                posted.extend(ids);
            }
            posted
        })
    });
    posters.collect()
}

#[test]
fn readers_on_other_servers_see_each_message_once_in_order() {
    block_on(async {
        let scene = Scene::new().await;
        let posters = start_posters(&scene);
        let readers = (0..2).map(|_| {
            let scene = scene.clone();
            tokio::spawn(async move {
                let (mut seen, mut after) = (Vec::new(), None);
                let mut last_progress = Instant::now();
                while seen.len() < MESSAGES && last_progress.elapsed() < TIMEOUT {
                    let (ids, next) = scene.page(after).await;
                    if !ids.is_empty() {
                        last_progress = Instant::now();
                    }
                    seen.extend(ids);
                    after = next.or(after);
                }
                seen
            })
        });
        let readers: Vec<_> = readers.collect();
        let mut posted: Vec<_> =
            join_all(posters).await.into_iter().flat_map(Result::unwrap).collect();
        posted.sort();
        for seen in join_all(readers).await {
            assert_eq!(seen.unwrap(), posted);
        }
        scene.end().await;
    });
}

/// Which consumer holds which message: no message may be given to two consumers.
#[derive(Default)]
pub(crate) struct ClaimTracker {
    held: Mutex<BTreeMap<MessageId, u64>>,
    consumed: Mutex<BTreeSet<MessageId>>,
    consumers: AtomicU64,
    bodies: Mutex<BTreeMap<MessageId, String>>,
}

impl ClaimTracker {
    pub(crate) fn take(&self, consumer: u64, ids: &[MessageId]) {
        let mut held = self.held.lock().unwrap();
        for id in ids {
            let other = held.insert(*id, consumer);
            assert_eq!(other, None, "{id} is in two live claims");
        }
        let consumed = self.consumed.lock().unwrap();
        assert!(ids.iter().all(|id| !consumed.contains(id)), "a deleted message is claimed");
    }

    /// Called before a message is released or deleted.
    pub(crate) fn release(&self, ids: &[MessageId]) {
        let mut held = self.held.lock().unwrap();
        for id in ids {
            held.remove(id);
        }
    }

    pub(crate) fn consume(&self, ids: &[MessageId]) {
        self.consumed.lock().unwrap().extend(ids);
    }

    /// Remembers the body of a consumed message.
    pub(crate) fn read(&self, id: MessageId, body: String) {
        self.bodies.lock().unwrap().insert(id, body);
    }

    /// The bodies of the consumed messages.
    pub(crate) fn bodies(&self) -> BTreeMap<MessageId, String> {
        self.bodies.lock().unwrap().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.consumed.lock().unwrap().len()
    }
}

/// Claims and deletes, releases, abandons or pops until everything is consumed.
async fn consume(scene: Arc<Scene>, tracker: Arc<ClaimTracker>) {
    let me = tracker.consumers.fetch_add(1, Ordering::Relaxed);
    let start = Instant::now();
    while tracker.count() < MESSAGES && start.elapsed() < 2 * TIMEOUT {
        match rand::random::<u8>() {
            0..40 => {
                let popped = scene.pop(2).await;
                let ids: Vec<_> = popped.iter().map(|message| message.id).collect();
                tracker.take(me, &ids);
                tracker.consume(&ids);
                tracker.release(&ids);
            }
            choice => claim_once(&scene, &tracker, me, choice).await,
        }
    }
}

async fn claim_once(scene: &Scene, tracker: &ClaimTracker, me: u64, choice: u8) {
    let request = ClaimRequest {
        grace: 60,
        ..ClaimRequest::new(ClaimId::new(rand::random()), 1000, 1 + usize::from(choice % 5))
    };
    let claimed =
        scene.store().claim(&scene.key, scene.generation, &request, scene.now()).await.unwrap();
    let Guarded::Done(Claimed::Messages { messages, .. }) = claimed else { panic!("{claimed:?}") };
    let ids: Vec<_> = messages.iter().map(|message| message.id).collect();
    assert!(ids.is_sorted(), "a claim is in order");
    if ids.is_empty() {
        return;
    }
    tracker.take(me, &ids);
    if choice >= 230 {
        tracker.release(&ids);
        scene.store().claim_release(&scene.key, request.id, scene.now()).await.unwrap();
        return;
    }
    for id in ids {
        let store = scene.store();
        if choice.is_multiple_of(2) {
            let unheld = store.delete(&scene.key, id, None, scene.now()).await.unwrap();
            assert_eq!(unheld, Deleted::Claimed, "it is held");
        }
        tracker.consume(&[id]);
        let deleted = store.delete(&scene.key, id, Some(request.id), scene.now()).await.unwrap();
        assert_eq!(deleted, Deleted::Gone);
        tracker.release(&[id]);
    }
}

#[test]
fn consumers_on_many_servers_get_each_message_once() {
    block_on(async {
        let scene = Scene::new().await;
        let posters = start_posters(&scene);
        let tracker = Arc::new(ClaimTracker::default());
        let consumers: Vec<_> =
            (0..CONSUMERS).map(|_| tokio::spawn(consume(scene.clone(), tracker.clone()))).collect();
        let sweeper = {
            let (scene, tracker) = (scene.clone(), tracker.clone());
            tokio::spawn(async move {
                while tracker.count() < MESSAGES {
                    scene.store().sweep(scene.now(), 50).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            })
        };
        let posted: BTreeSet<_> =
            join_all(posters).await.into_iter().flat_map(Result::unwrap).collect();
        for consumer in join_all(consumers).await {
            consumer.unwrap();
        }
        assert_eq!(*tracker.consumed.lock().unwrap(), posted);
        sweeper.await.unwrap();
        assert_eq!(scene.page(None).await, (Vec::new(), None));
        scene.end().await;
    });
}

#[test]
fn operations_of_cancelled_tasks_are_done_completely_or_not_at_all() {
    block_on(async {
        let scene = Scene::new().await;
        let acknowledged = Arc::new(AtomicUsize::new(0));
        // Tasks that are aborted at any point, as by a kill. With a slow store, more of them run
        // for longer.
        for round in 0.. {
            if round >= 30 && acknowledged.load(Ordering::Relaxed) > 10 {
                break;
            }
            assert!(round < 600, "nothing is ever posted");
            let cut = |work: usize| {
                let (scene, acknowledged) = (scene.clone(), acknowledged.clone());
                tokio::spawn(async move {
                    for number in 0..100 {
                        if work == 0 {
                            scene.post(round, number).await;
                            acknowledged.fetch_add(1, Ordering::Relaxed);
                        } else {
                            let request = ClaimRequest {
                                grace: 60,
                                ..ClaimRequest::new(ClaimId::new(rand::random()), 100, 2)
                            };
                            let now = scene.now();
                            let key = &scene.key;
                            scene
                                .store()
                                .claim(key, scene.generation, &request, now)
                                .await
                                .unwrap();
                        }
                    }
                })
            };
            let tasks: Vec<_> = (0..4).map(|n| cut(n % 2)).collect();
            let longest = 120 + 10 * round as u64;
            tokio::time::sleep(Duration::from_millis(rand::random_range(1..longest))).await;
            tasks.iter().for_each(tokio::task::JoinHandle::abort);
        }
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let (ids, next) = scene.page(after).await;
            if ids.is_empty() {
                break;
            }
            seen.extend(ids);
            after = next;
        }
        let least = 3 * acknowledged.load(Ordering::Relaxed);
        assert!(seen.len() >= least, "{} of {least} messages exist", seen.len());
        assert_eq!(seen.len() % 3, 0, "whole batches of 3");
        // All claims expire: every message is delivered.
        scene.clock.advance(Duration::from_secs(100));
        let mut delivered = Vec::new();
        while delivered.len() < seen.len() {
            let popped = scene.pop(50).await;
            assert!(
                !popped.is_empty(),
                "{} of {} messages are stuck",
                seen.len() - delivered.len(),
                seen.len()
            );
            delivered.extend(popped.iter().map(|message| message.id));
        }
        assert_eq!(delivered, seen);
        scene.end().await;
    });
}
