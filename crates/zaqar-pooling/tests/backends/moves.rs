//! Moves between stores of different kinds, by servers that die at any of their calls.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Map;
use zaqar_core::pools::{
    Capability, Pool, PoolName, PoolStores, Pools, QueueMoveState, QueueMoves,
};
use zaqar_core::storage::{
    Batch, Claim, ClaimRequest, Claims, Guarded, Heads, LeaseRequest, Leases, ListQuery, Message,
    MessageStore, Messages, NewMessage, NewSubscription, Outbox, OutboxEntry, Stats, Subscription,
    Subscriptions,
};
use zaqar_core::{
    ClaimId, ClientId, Generation, Incarnation, Kind, LeaseId, Payload, Position, ProjectId,
    QueueKey, QueueName, Secret, SubscriptionId, Timestamp, Version,
};
use zaqar_pooling::{Connector, Options, Pooled, Purpose, Refusal, Registry};
use zaqar_storage_embedded::Embedded;
use zaqar_storage_testkit::Memory;

use crate::dying::Dying;
use crate::stores::Places;

/// When the first scene begins. A store's time does not go back, so each scene begins after the
/// previous one.
const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const SCENE: u64 = 10_000;
pub(crate) const ASSUMED: Generation =
    Generation { incarnation: Incarnation::new(1), version: Version::new(1) };
const HELD: ClaimId = ClaimId::new(77);
const LEASE: LeaseId = LeaseId::new(5);

pub(crate) type Stores = BTreeMap<&'static str, Arc<dyn MessageStore>>;

pub(crate) async fn stores() -> Stores {
    let name = format!("moves_{:016x}", rand::random::<u64>());
    let (places, other) = (Places::new(name.clone()), Places::new(format!("{name}_2")));
    let disk = |places: &Places| {
        let options = zaqar_storage_embedded::Options::new(places.disk());
        Arc::new(Embedded::open(options).unwrap())
    };
    BTreeMap::from([
        ("redis0", Arc::new(places.redis(0).await) as Arc<dyn MessageStore>),
        ("redis1", Arc::new(places.redis(1).await)),
        ("disk0", disk(&places)),
        ("disk1", disk(&other)),
        ("mongo0", Arc::new(places.mongo().await)),
        ("mongo1", Arc::new(other.mongo().await)),
    ])
}

/// Hands out stores that are open already.
struct Shared {
    stores: Stores,
    calls_left: Arc<AtomicI64>,
}

#[async_trait]
impl Connector for Shared {
    async fn open(&self, pool: &Pool, _: Purpose) -> Result<Arc<dyn MessageStore>, Refusal> {
        let store = Arc::clone(&self.stores[pool.name.as_str()]);
        Ok(Arc::new(Dying { store, calls_left: Arc::clone(&self.calls_left) }))
    }

    fn capabilities(&self, _: &Pool) -> BTreeSet<Capability> {
        BTreeSet::from([Capability::Fifo, Capability::Claims])
    }

    fn is_same_store(&self, one: &Pool, other: &Pool) -> bool {
        one.name == other.name
    }

    fn is_configured_store(&self, _: &Pool) -> bool {
        false
    }
}

/// A deployment of two pools.
struct Scene {
    stores: Stores,
    management: Memory,
    key: QueueKey,
    server: Arc<Pooled>,
    now: Timestamp,
}

pub(crate) fn pool_name(name: &str) -> PoolName {
    PoolName::new(name).unwrap()
}

fn everything() -> ListQuery {
    let (include_claimed, include_delayed) = (true, true);
    ListQuery { after: None, limit: 1000, hide: None, include_claimed, include_delayed }
}

/// A server that dies after this many calls. The first one registers the pools so that all new
/// queues are `placed_in` one.
async fn server(
    stores: &Stores,
    management: &Memory,
    placed_in: &str,
    calls_left: &Arc<AtomicI64>,
) -> Arc<Pooled> {
    server_with(Options::default(), stores, management, placed_in, calls_left).await
}

pub(crate) async fn server_with(
    options: Options,
    stores: &Stores,
    management: &Memory,
    placed_in: &str,
    calls_left: &Arc<AtomicI64>,
) -> Arc<Pooled> {
    let own = || Arc::new(management.connect_for(Arc::clone(calls_left)));
    let shared = Shared { stores: stores.clone(), calls_left: Arc::clone(calls_left) };
    let registry = Arc::new(Registry::new(own(), own(), Arc::new(shared)));
    for name in stores.keys() {
        if registry.pool(&pool_name(name)).await.is_err() {
            let pool = Pool {
                name: pool_name(name),
                uri: Secret::new(format!("{name}:")),
                weight: u32::from(*name == placed_in),
                flavor: None,
                options: Map::new(),
            };
            registry.put_pool(pool).await.unwrap();
        }
    }
    let pooled = Arc::new(Pooled::new(registry, options));
    pooled.refresh().await;
    while pooled.statuses().iter().any(|pool| pool.problem.is_some()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    pooled
}

pub(crate) fn unlimited_calls() -> Arc<AtomicI64> {
    Arc::new(AtomicI64::new(i64::MAX))
}

impl Scene {
    /// A queue in a pool, with contents of every kind.
    async fn new(stores: &Stores, number: u64, pool: &'static str) -> Self {
        let management = Memory::new();
        let server = server(stores, &management, pool, &unlimited_calls()).await;
        let key = QueueKey {
            project: ProjectId::new("p").unwrap(),
            kind: Kind::Queue,
            name: QueueName::new(&format!("q{number}")).unwrap(),
        };
        let now = START.plus_secs(number * SCENE);
        server.open(&key, ASSUMED, now).await.unwrap();
        let scene = Self { stores: stores.clone(), management, key, server, now };
        scene.fill().await;
        scene
    }

    /// After the lease of every move has expired.
    fn later(&self) -> Timestamp {
        self.now.plus_secs(31)
    }

    /// After every server has dropped the old place of a queue from its cache.
    fn last(&self) -> Timestamp {
        self.later().plus_secs(120)
    }

    async fn fill(&self) {
        let (server, key, now) = (&self.server, &self.key, self.now);
        server.keep_lease(LEASE, now.plus_secs(1000), now).await.unwrap();
        self.post(&["silent"], 0).await;
        for (number, lease) in [(1, None), (2, None), (3, Some(LEASE))] {
            let new = NewSubscription {
                id: SubscriptionId::new(number),
                subscriber: format!("http://{number}"),
                ttl: 100_000,
                options: format!(r#"{{"_secret":"{number}"}}"#),
                confirmed: number == 1,
                lease,
            };
            server.subscribe(key, ASSUMED, &new, now).await.unwrap();
        }
        self.post(&["a", "b", "c"], 0).await;
        self.post(&["late"], 500).await;
        // One claim that was released, and one that holds messages.
        for (id, is_released) in [(ClaimId::new(1), true), (HELD, false)] {
            let request = ClaimRequest { grace: 60, ..ClaimRequest::new(id, 300, 2) };
            server.claim(key, ASSUMED, &request, now).await.unwrap();
            if is_released {
                server.claim_release(key, id, now).await.unwrap();
            }
        }
        let silent = server.list(key, &everything(), now).await.unwrap().messages[0].id;
        server.delete(key, silent, Some(HELD), now).await.unwrap();
    }

    async fn post(&self, texts: &[&str], delay: u64) {
        let message = |text: &&str| NewMessage {
            payload: Payload::plain(Bytes::copy_from_slice(text.as_bytes())),
            ttl: 6000,
            delay,
        };
        let messages = texts.iter().map(message).collect();
        let client = ClientId::new("me");
        let batch = Batch { request: rand::random(), client, messages, notify: true };
        let posted = self.server.post(&self.key, ASSUMED, batch, self.now).await.unwrap();
        assert!(matches!(posted, Guarded::Done(_)), "{posted:?}");
    }

    /// All contents of the queue, as clients and workers see them.
    async fn contents(&self, server: &Pooled) -> Contents {
        let (key, now) = (&self.key, self.later());
        Contents {
            messages: server.list(key, &everything(), now).await.unwrap().messages,
            shown: server
                .list(key, &ListQuery { include_claimed: false, ..everything() }, now)
                .await
                .unwrap()
                .messages,
            stats: server.stats(key, now).await.unwrap(),
            held: server.claim_get(key, HELD, now).await.unwrap(),
            subscriptions: server.subscriptions(key, None, 10, now).await.unwrap(),
            entries: server
                .follow(key, ASSUMED.incarnation, Position::new(0), 10, now)
                .await
                .unwrap(),
        }
    }

    async fn state(&self, pool: &str) -> Option<QueueMoveState> {
        let drain = self.server.drain(&pool_name(pool)).await.unwrap();
        drain.moves.first().map(|one| one.state)
    }

    async fn until_moved(&self, to: &str) {
        let is_there = async {
            while self.state(to).await != Some(QueueMoveState::Moved) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), is_there).await.unwrap();
    }

    /// Which of the stores have a head of the queue.
    async fn heads(&self) -> Vec<&'static str> {
        let mut found = Vec::new();
        for (name, store) in &self.stores {
            match store.generation(&self.key).await {
                Ok(None) => {}
                Ok(Some(generation)) => {
                    assert_eq!(generation, ASSUMED);
                    found.push(*name);
                }
                Err(error) => panic!("{name}: {error}"),
            }
        }
        found
    }
}

#[derive(Debug, PartialEq)]
struct Contents {
    messages: Vec<Message>,
    shown: Vec<Message>,
    stats: Option<Stats>,
    held: Option<Claim>,
    subscriptions: Vec<Subscription>,
    entries: Vec<OutboxEntry>,
}

/// Asserts that deletes, leases, delays, expiry and claims work as before the move.
async fn check_service(scene: &Scene, before: &Contents, what: &str) {
    let (server, key, later) = (&scene.server, &scene.key, scene.later());
    let held = &before.held.as_ref().unwrap().messages;
    let deleted = server.delete(key, held[0].id, Some(HELD), later).await.unwrap();
    assert_eq!(deleted, zaqar_core::storage::Deleted::Gone, "{what}");
    let lease = LeaseRequest { until: later.plus_secs(9), limit: 9, bytes: usize::MAX };
    let entries = server.lease(key, &lease, later).await.unwrap();
    assert_eq!(entries, before.entries[..1], "{what}");
    server.settle(key, ASSUMED.incarnation, &[entries[0].first]).await.unwrap();
    assert_eq!(server.lease(key, &lease, later).await.unwrap(), [], "{what}");
    scene.post(&["new"], 0).await;
    let now = scene.now.plus_secs(501);
    zaqar_storage_testkit::sweep(&**server, now, 100).await;
    let left = server.list(key, &everything(), now).await.unwrap().messages;
    let texts: Vec<_> = left.iter().map(|one| &one.payload.bytes[..]).collect();
    assert_eq!(texts, [&b"b"[..], b"c", b"late", b"new"], "{what}");
    assert!(left.iter().all(|one| one.claim.is_none()), "{what}: {left:?}");
    let request = ClaimRequest { grace: 60, ..ClaimRequest::new(ClaimId::new(8), 60, 9) };
    server.claim(key, ASSUMED, &request, now).await.unwrap();
    let taken = server.claim_get(key, request.id, now).await.unwrap().unwrap();
    let ids = |messages: &[Message]| messages.iter().map(|one| one.id).collect::<Vec<_>>();
    assert_eq!(ids(&taken.messages), ids(&left), "{what}");
}

/// Whichever call a server dies at, all contents are there once, the queue serves, and another
/// server continues the move.
async fn check_deaths(stores: &Stores, first: u64, from: &'static str, to: &'static str) {
    let (mut stayed, mut arrived) = (0, 0);
    for calls in 0_i64.. {
        let what = format!("{from} to {to}, {calls} calls");
        let scene = Scene::new(stores, first + calls.cast_unsigned(), from).await;
        let before = scene.contents(&scene.server).await;
        assert_eq!((before.messages.len(), before.entries.len()), (4, 2), "{what}");
        let calls_left = unlimited_calls();
        let dying = server(stores, &scene.management, from, &calls_left).await;
        calls_left.store(calls, Ordering::Release);
        let began = dying.move_queue(&scene.key, &pool_name(to), scene.now).await;
        let has_ended = async {
            while began.is_ok() && calls_left.load(Ordering::Acquire) > 0 {
                if scene.state(to).await == Some(QueueMoveState::Moved) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), has_ended).await.unwrap();
        let is_whole = calls_left.load(Ordering::Acquire) > 0;
        for now in [scene.later(), scene.later().plus_secs(1)] {
            scene.server.resume_moves(now).await.unwrap();
        }
        let fresh = server(stores, &scene.management, from, &unlimited_calls()).await;
        for server in [&scene.server, &fresh] {
            assert_eq!(scene.contents(server).await, before, "{what}");
        }
        scene.server.resume_moves(scene.last()).await.unwrap();
        let heads = scene.heads().await;
        assert!(heads == [from] || heads == [to], "{what}: {heads:?}");
        *if heads == [from] { &mut stayed } else { &mut arrived } += 1;
        check_service(&scene, &before, &what).await;
        scene.server.close(&scene.key, ASSUMED.incarnation).await.unwrap();
        if is_whole {
            break;
        }
    }
    // The queue stayed if the move had not begun; else it arrived, by this or another server.
    assert!(stayed > 3 && arrived > 10, "{from} to {to}: {stayed} stayed, {arrived} arrived");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_may_die_at_any_step_between_redis_and_disk() {
    let stores = stores().await;
    check_deaths(&stores, 0, "redis0", "disk0").await;
    check_deaths(&stores, 1000, "disk0", "redis0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_may_die_at_any_step_between_redis_and_mongodb() {
    let stores = stores().await;
    check_deaths(&stores, 0, "redis0", "mongo0").await;
    check_deaths(&stores, 1000, "mongo0", "redis0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_may_die_at_any_step_between_disks() {
    let stores = stores().await;
    check_deaths(&stores, 0, "disk0", "disk1").await;
}

/// From each kind of store to the others, with contents of every kind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_moves_through_all_stores_with_its_contents() {
    let stores = stores().await;
    let scene = Scene::new(&stores, 0, "redis0").await;
    let before = scene.contents(&scene.server).await;
    let route =
        ["disk0", "redis1", "mongo0", "disk1", "disk0", "mongo1", "mongo0", "redis0", "disk1"];
    for to in route {
        scene.server.move_queue(&scene.key, &pool_name(to), scene.now).await.unwrap();
        scene.until_moved(to).await;
        assert_eq!(scene.contents(&scene.server).await, before, "{to}");
        scene.server.resume_moves(scene.now.plus_secs(61)).await.unwrap();
        assert_eq!(scene.heads().await, [to]);
    }
    check_service(&scene, &before, "round").await;
}
