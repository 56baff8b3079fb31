//! Moves of queues between pools, by servers that die, while others use the queue.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test fails on whatever it does not expect")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use zaqar_core::pools::{self, PoolChange, Pools, QueueMoveState, QueueMoves};
use zaqar_core::storage::{
    Batch, Claim, ClaimRequest, Claimed, Claims, DeadLetters, Deletable, Error, FrozenHead,
    Guarded, Heads, LeaseRequest, Leases, ListQuery, Message, Messages, MoveId, Moves, NewMessage,
    NewSubscription, Outbox, OutboxEntry, Queues, Subscription, Subscriptions, Upkeep,
};
use zaqar_core::{
    ClaimId, ClientId, Generation, Incarnation, Kind, LeaseId, Payload, QueueKey, SubscriptionId,
    Timestamp, Version,
};
use zaqar_pooling::{Options, Pooled};

use crate::support::{Deployment, pool, pool_name, project, queue};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
/// After the lease of every move has expired.
const LATER: Timestamp = NOW.plus_secs(31);
/// After every server has dropped the old place of a queue from its cache.
const LAST: Timestamp = LATER.plus_secs(120);
const ASSUMED: Generation =
    Generation { incarnation: Incarnation::new(1), version: Version::new(1) };
const HELD: ClaimId = ClaimId::new(77);

/// A queue in pool `a` with contents of every kind, and an empty pool `b`.
struct Scene {
    deployment: Deployment,
    key: QueueKey,
    server: Arc<Pooled>,
}

impl Scene {
    async fn new() -> Self {
        let deployment = Deployment::with_pools(&[("memory:a", 1)]).await;
        let server = deployment.server().await;
        let key = queue("q");
        server.open(&key, ASSUMED, NOW).await.unwrap();
        deployment.registry().put_pool(pool("b", "memory:b", 1)).await.unwrap();
        let scene = Self { deployment, key, server };
        scene.prefer("b").await;
        let lease = LeaseId::new(5);
        scene.server.keep_lease(lease, NOW.plus_secs(1000), NOW).await.unwrap();
        for (number, lease) in [(1, None), (2, None), (3, Some(lease))] {
            scene.subscribe(number, lease).await;
        }
        scene.post(&["a", "b", "c"], 0).await;
        scene.post(&["late"], 500).await;
        let request = ClaimRequest { grace: 60, ..ClaimRequest::new(HELD, 300, 1) };
        assert_eq!(claim(&scene.server, &scene.key, &request, NOW).await.unwrap().len(), 1);
        scene
    }

    /// Places all new queues in one pool.
    async fn prefer(&self, name: &str) {
        let registry = self.deployment.registry();
        for pool in ["a", "b"] {
            let weight = Some(u32::from(pool == name));
            let change = PoolChange { weight, ..Default::default() };
            registry.change_pool(&pool_name(pool), change).await.unwrap();
        }
        self.server.refresh().await;
    }

    async fn subscribe(&self, number: u128, lease: Option<LeaseId>) {
        let new = NewSubscription {
            id: SubscriptionId::new(number),
            subscriber: format!("http://{number}"),
            ttl: 100_000,
            options: format!(r#"{{"_secret":"{number}"}}"#),
            confirmed: number == 1,
            lease,
        };
        self.server.subscribe(&self.key, ASSUMED, &new, NOW).await.unwrap();
    }

    async fn post(&self, texts: &[&str], delay: u64) {
        post(&self.server, &self.key, texts, delay).await.unwrap();
    }

    async fn begin(&self, server: &Pooled, to: &str) -> Result<(), pools::Error> {
        server.move_queue(&self.key, &pool_name(to), NOW).await
    }

    /// Moves the queue, and waits until it has arrived.
    async fn moved(&self, to: &str) {
        self.begin(&self.server, to).await.unwrap();
        self.until_moved(to).await;
    }

    async fn until_moved(&self, to: &str) {
        let is_there = async {
            while self.state(to).await != Some(QueueMoveState::Moved) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), is_there).await.unwrap();
    }

    async fn state(&self, pool: &str) -> Option<QueueMoveState> {
        let drain = self.server.drain(&pool_name(pool)).await.unwrap();
        drain.moves.first().map(|one| one.state)
    }

    /// The queue's head in a pool's store.
    async fn head_in(&self, pool: &str) -> Option<Generation> {
        let store = self.deployment.places.memory(&format!("memory:{pool}"));
        store.generation(&self.key).await.unwrap()
    }

    /// All contents of the queue, as clients and workers see them.
    async fn contents(&self, server: &Pooled) -> Contents {
        let (key, now) = (&self.key, LATER);
        let subscriptions = server.subscriptions(key, None, 10, now).await.unwrap();
        let first = zaqar_core::Position::new(0);
        let entries = server.follow(key, ASSUMED.incarnation, first, 10, now).await.unwrap();
        let held = server.claim_get(key, HELD, now).await.unwrap();
        Contents { messages: all(server, key, now).await, held, subscriptions, entries }
    }

    /// The number of rows of moves.
    async fn records(&self) -> u64 {
        let rows = self.deployment.management.as_ref();
        Queues::count(rows, &project("zaqar.moves"), Kind::Internal).await.unwrap()
    }
}

#[derive(Debug, PartialEq)]
struct Contents {
    messages: Vec<Message>,
    held: Option<Claim>,
    subscriptions: Vec<Subscription>,
    entries: Vec<OutboxEntry>,
}

async fn post(
    server: &Pooled,
    key: &QueueKey,
    texts: &[&str],
    delay: u64,
) -> Result<Vec<zaqar_core::MessageId>, Error> {
    let message = |text: &&str| NewMessage {
        payload: Payload::plain(Bytes::copy_from_slice(text.as_bytes())),
        ttl: 6000,
        delay,
    };
    let messages = texts.iter().map(message).collect();
    let client = ClientId::new("me");
    let batch = Batch { request: rand::random(), client, messages, notify: true };
    match server.post(key, ASSUMED, batch, NOW).await? {
        Guarded::Done(ids) => Ok(ids),
        other => panic!("{other:?}"),
    }
}

async fn claim(
    server: &Pooled,
    key: &QueueKey,
    request: &ClaimRequest,
    now: Timestamp,
) -> Result<Vec<Message>, Error> {
    match server.claim(key, ASSUMED, request, now).await? {
        Guarded::Done(Claimed::Messages { messages, .. }) => Ok(messages),
        other => panic!("{other:?}"),
    }
}

async fn all(server: &Pooled, key: &QueueKey, now: Timestamp) -> Vec<Message> {
    let query = ListQuery {
        after: None,
        limit: 1000,
        hide: None,
        include_claimed: true,
        include_delayed: true,
    };
    server.list(key, &query, now).await.unwrap().messages
}

#[tokio::test]
async fn a_queue_moves_with_everything_in_it() {
    let scene = Scene::new().await;
    // This server has the old place in its cache.
    let other = scene.deployment.server().await;
    let before = scene.contents(&other).await;
    assert_eq!((before.messages.len(), before.subscriptions.len()), (4, 3));
    scene.moved("b").await;
    assert_eq!(scene.contents(&other).await, before);
    assert_eq!(scene.head_in("b").await, Some(ASSUMED));
    // Deletes under the claim, delays and outbox entries work as before.
    let id = before.held.unwrap().messages[0].id;
    other.delete(&scene.key, id, Some(HELD), LATER).await.unwrap();
    let lease = LeaseRequest { until: LATER.plus_secs(9), limit: 1, bytes: usize::MAX };
    let entry = other.lease(&scene.key, &lease, LATER).await.unwrap().remove(0);
    other.settle(&scene.key, ASSUMED.incarnation, &[entry.first]).await.unwrap();
    scene.post(&["new"], 0).await;
    let left = all(&other, &scene.key, NOW.plus_secs(501)).await;
    let left: Vec<_> = left.iter().map(|one| &one.payload.bytes[..]).collect();
    assert_eq!(left, [&b"b"[..], b"c", b"late", b"new"]);
    // The frozen head is deleted once no cache leads to it.
    assert!(matches!(scene.head_error("a").await, Some(Error::Moved { .. })));
    scene.server.resume_moves(LAST).await.unwrap();
    assert_eq!(scene.head_in("a").await, None);
    assert_eq!(scene.state("b").await, Some(QueueMoveState::Moved));
    scene.server.resume_moves(LAST.plus_secs(601)).await.unwrap();
    assert_eq!(scene.records().await, 0);
    // It moves back, too.
    scene.moved("a").await;
    assert_eq!(all(&other, &scene.key, NOW.plus_secs(501)).await.len(), 4);
}

impl Scene {
    async fn head_error(&self, pool: &str) -> Option<Error> {
        let store = self.deployment.places.memory(&format!("memory:{pool}"));
        store.generation(&self.key).await.err()
    }
}

/// Whichever call a server dies at, all contents are there once, the queue serves, and another
/// server continues the move.
#[tokio::test]
async fn a_server_may_die_at_any_step() {
    let mut ends = BTreeMap::new();
    for calls in 0.. {
        let scene = Scene::new().await;
        let before = scene.contents(&scene.server).await;
        let calls_left = Arc::new(AtomicI64::new(i64::MAX));
        let dying = scene.deployment.dying_server(calls_left.clone()).await;
        calls_left.store(calls, Ordering::Release);
        let began = scene.begin(&dying, "b").await;
        // Its task continues until the server dies.
        let has_ended = async {
            while began.is_ok() && calls_left.load(Ordering::Acquire) > 0 {
                if scene.state("b").await == Some(QueueMoveState::Moved) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), has_ended).await.unwrap();
        let is_whole = calls_left.load(Ordering::Acquire) > 0;
        let what = format!("{calls} calls");
        for now in [LATER, LATER.plus_secs(1)] {
            scene.server.resume_moves(now).await.unwrap();
        }
        let fresh = scene.deployment.server().await;
        for server in [&scene.server, &fresh] {
            assert_eq!(scene.contents(server).await, before, "{what}");
        }
        scene.server.resume_moves(LAST).await.unwrap();
        let heads = (scene.head_in("a").await, scene.head_in("b").await);
        assert!(
            matches!(heads, (Some(ASSUMED), None) | (None, Some(ASSUMED))),
            "{what}: {heads:?}"
        );
        assert_eq!(scene.contents(&fresh).await.messages, before.messages, "{what}");
        scene.post(&["new"], 0).await;
        *ends.entry((heads.0.is_some(), began.is_ok())).or_insert(0) += 1;
        if is_whole {
            break;
        }
    }
    // The queue stayed if the move had not begun; else it arrived, by this or another server.
    assert!(ends.get(&(true, false)).is_some_and(|count| *count > 3), "{ends:?}");
    assert!(ends.get(&(false, true)).is_some_and(|count| *count > 10), "{ends:?}");
}

#[tokio::test]
async fn a_move_that_cannot_be_done_is_undone() {
    let scene = Scene::new().await;
    let before = scene.contents(&scene.server).await;
    // The target pool has an unexpected head of this queue.
    let target = scene.deployment.places.memory("memory:b");
    target.open(&scene.key, ASSUMED, NOW).await.unwrap();
    scene.begin(&scene.server, "b").await.unwrap();
    let failed = async {
        while scene.state("b").await != Some(QueueMoveState::Failed) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), failed).await.unwrap();
    let drain = scene.server.drain(&pool_name("b")).await.unwrap();
    let problem = drain.moves[0].problem.clone().unwrap();
    assert!(problem.contains("in this store already"), "{problem}");
    assert_eq!(scene.contents(&scene.server).await, before);
    target.close(&scene.key, ASSUMED.incarnation).await.unwrap();
    scene.moved("b").await;
    assert_eq!(scene.contents(&scene.server).await, before);
}

#[tokio::test]
async fn impossible_moves_are_rejected() {
    let scene = Scene::new().await;
    let begin = async |key: &QueueKey, to: &str| {
        let began = scene.server.move_queue(key, &pool_name(to), NOW).await;
        began.unwrap_err()
    };
    let refused = begin(&scene.key, "a").await;
    assert!(matches!(refused, pools::Error::CannotMove { .. }), "{refused:?}");
    let refused = begin(&scene.key, "nowhere").await;
    assert!(matches!(refused, pools::Error::PoolNotFound { .. }), "{refused:?}");
    let refused = begin(&queue("missing"), "b").await;
    assert!(matches!(refused, pools::Error::QueueNotFound { .. }), "{refused:?}");
    scene.deployment.registry().put_pool(pool("c", "immovable:", 0)).await.unwrap();
    scene.server.refresh().await;
    let refused = begin(&scene.key, "c").await;
    assert!(refused.to_string().contains("cannot move queues"), "{refused:?}");
    let refused = scene.server.set_draining(&pool_name("c"), true).await.unwrap_err();
    assert!(refused.to_string().contains("cannot move queues"), "{refused:?}");
}

/// Does to a store what a suspended server may do long after its move.
async fn frozen_late(scene: &Scene, pool: &str, is_source: bool) {
    let store = scene.deployment.places.memory(&format!("memory:{pool}"));
    let id = MoveId::new(99);
    if is_source {
        store.freeze(&scene.key, id, NOW).await.unwrap();
    } else {
        let last = zaqar_core::Position::new(0);
        let head = FrozenHead { generation: ASSUMED, last, time: NOW };
        store.receive(&scene.key, id, head, NOW).await.unwrap();
    }
}

#[tokio::test]
async fn a_head_that_a_suspended_server_freezes_late_is_thawed() {
    let scene = Scene::new().await;
    let before = scene.contents(&scene.server).await;
    frozen_late(&scene, "a", true).await;
    assert_eq!(scene.contents(&scene.server).await, before);
    frozen_late(&scene, "a", true).await;
    frozen_late(&scene, "b", false).await;
    scene.moved("b").await;
    assert_eq!(scene.contents(&scene.server).await, before);
    scene.server.resume_moves(LAST).await.unwrap();
    // In the pool where the queue is created again.
    scene.server.close(&scene.key, ASSUMED.incarnation).await.unwrap();
    frozen_late(&scene, "b", false).await;
    let next = Generation { incarnation: Incarnation::new(2), ..ASSUMED };
    assert_eq!(scene.server.open(&scene.key, next, LAST).await.unwrap(), next);
}

#[tokio::test]
async fn a_queue_that_is_deleted_after_its_move_does_not_come_back() {
    let scene = Scene::new().await;
    scene.moved("b").await;
    scene.server.close(&scene.key, ASSUMED.incarnation).await.unwrap();
    scene.prefer("a").await;
    let next = Generation { incarnation: Incarnation::new(2), ..ASSUMED };
    assert_eq!(scene.server.open(&scene.key, next, LATER).await.unwrap(), next);
    scene.server.close(&scene.key, next.incarnation).await.unwrap();
    scene.server.resume_moves(LAST).await.unwrap();
    assert_eq!((scene.head_in("a").await, scene.head_in("b").await), (None, None));
    let last = Generation { incarnation: Incarnation::new(3), ..ASSUMED };
    assert_eq!(scene.server.open(&scene.key, last, LAST).await.unwrap(), last);
    assert_eq!(all(&scene.server, &scene.key, LAST).await, []);
}

#[tokio::test]
async fn a_call_that_waits_too_long_for_a_move_is_rejected_as_retryable() {
    let scene = Scene::new().await;
    scene.begin(&scene.server, "b").await.unwrap();
    // The queue is frozen by a move whose server died.
    let options = Options { move_wait: Duration::from_millis(20), ..Options::default() };
    let impatient = scene.deployment.server_with(options).await;
    scene.until_moved("b").await;
    scene.server.resume_moves(LAST).await.unwrap();
    let calls_left = Arc::new(AtomicI64::new(i64::MAX));
    let dying = scene.deployment.dying_server(calls_left.clone()).await;
    let source = scene.deployment.places.memory("memory:b");
    dying.move_queue(&scene.key, &pool_name("a"), LAST).await.unwrap();
    while !matches!(source.generation(&scene.key).await, Err(Error::Moved { .. })) {
        tokio::task::yield_now().await;
    }
    calls_left.store(0, Ordering::Release);
    if scene.state("a").await == Some(QueueMoveState::Copying) {
        let answer = post(&impatient, &scene.key, &["x"], 0).await;
        assert!(matches!(answer, Err(Error::Overloaded { .. }) | Ok(_)), "{answer:?}");
    }
    scene.server.resume_moves(LAST.plus_secs(31)).await.unwrap();
    scene.server.resume_moves(LAST.plus_secs(32)).await.unwrap();
    post(&impatient, &scene.key, &["x"], 0).await.unwrap();
}

#[tokio::test]
async fn a_pool_is_drained_to_the_others() {
    let deployment = Deployment::with_pools(&[("memory:a", 1)]).await;
    let server = deployment.server().await;
    let keys: Vec<_> = (0..20).map(|number| queue(&format!("q{number}"))).collect();
    for key in &keys {
        server.open(key, ASSUMED, NOW).await.unwrap();
        post(&server, key, &[key.name.as_str()], 0).await.unwrap();
    }
    let refused = server.set_draining(&pool_name("a"), true).await.unwrap_err();
    assert!(refused.to_string().contains("no other pool without a flavor"), "{refused}");
    let deployment = deployment.and_pools(&[("memory:b", 1), ("memory:c", 1)]).await;
    server.refresh().await;
    let progress = async || server.drain(&pool_name("a")).await.unwrap();
    assert_eq!((progress().await.is_draining, progress().await.queues_left), (false, 20));
    server.set_draining(&pool_name("a"), true).await.unwrap();
    // A pool that is drained gets no new queues.
    let late: Vec<_> = (0..20).map(|number| queue(&format!("late{number}"))).collect();
    for key in &late {
        server.open(key, ASSUMED, NOW).await.unwrap();
    }
    assert_eq!(progress().await.queues_left, 20);
    server.resume_moves(NOW).await.unwrap();
    let ended = progress().await;
    assert_eq!((ended.is_draining, ended.queues_left, ended.moves.len()), (true, 0, 20));
    let other = deployment.server().await;
    for key in &keys {
        let messages = all(&other, key, NOW).await;
        assert_eq!(messages.len(), 1);
        assert_eq!(messages[0].payload.bytes, key.name.as_str());
    }
    server.resume_moves(LAST).await.unwrap();
    let (left, _) = deployment.places.memory("memory:a").heads(None, 100).await.unwrap();
    assert_eq!(left, []);
    server.set_draining(&pool_name("a"), false).await.unwrap();
    assert!(!progress().await.is_draining);
}

#[tokio::test]
async fn an_empty_pool_that_is_drained_is_looked_through_less_often() {
    let deployment = Deployment::with_pools(&[("memory:a", 1), ("memory:b", 1)]).await;
    let (server, other) = (deployment.server().await, deployment.server().await);
    let a = pool_name("a");
    let left = async || server.drain(&a).await.unwrap().queues_left;
    // Places queues in the pool as a server does that has not seen yet that it is drained.
    let place = async |name: &str| {
        other.set_draining(&a, false).await.unwrap();
        for number in 0..20 {
            other.open(&queue(&format!("{name}{number}")), ASSUMED, NOW).await.unwrap();
        }
        other.set_draining(&a, true).await.unwrap();
        assert!(left().await > 0, "some are in it");
    };
    server.set_draining(&a, true).await.unwrap();
    // Passes that find nothing, with pauses of 2, 4 and 8 s after them.
    for at in [0, 2, 6] {
        server.resume_moves(NOW.plus_secs(at)).await.unwrap();
    }
    place("early").await;
    server.resume_moves(NOW.plus_secs(13)).await.unwrap();
    assert!(left().await > 0, "the pause has not ended");
    server.resume_moves(NOW.plus_secs(14)).await.unwrap();
    assert_eq!(left().await, 0);
    // What moved has ended the pause: the next one is the first again.
    server.resume_moves(NOW.plus_secs(15)).await.unwrap();
    place("next").await;
    server.resume_moves(NOW.plus_secs(16)).await.unwrap();
    assert!(left().await > 0, "the pause has not ended");
    server.resume_moves(NOW.plus_secs(17)).await.unwrap();
    assert_eq!(left().await, 0);
    // A drain that begins anew does not wait for one.
    server.resume_moves(NOW.plus_secs(18)).await.unwrap();
    place("late").await;
    server.resume_moves(NOW.plus_secs(19)).await.unwrap();
    assert!(left().await > 0, "the pause has not ended");
    server.set_draining(&a, true).await.unwrap();
    server.resume_moves(NOW.plus_secs(19)).await.unwrap();
    assert_eq!(left().await, 0);
}

/// A dead-letter queue moves while a dead server's letters are on their way to it.
#[tokio::test]
async fn letters_in_transfer_arrive_at_a_queue_that_moves() {
    for calls in (0..60).step_by(2) {
        let scene = Scene::new().await;
        let source = queue("source");
        scene.prefer("b").await;
        scene.server.open(&source, ASSUMED, NOW).await.unwrap();
        post(&scene.server, &source, &["letter"], 0).await.unwrap();
        let target = scene.key.clone();
        let rule = DeadLetters { max_claim_count: 1, target, generation: ASSUMED, ttl: None };
        let request = || ClaimRequest {
            grace: 60,
            dead_letters: Some(rule.clone()),
            ..ClaimRequest::new(ClaimId::new(rand::random()), 10, 5)
        };
        let first = request();
        assert_eq!(claim(&scene.server, &source, &first, NOW).await.unwrap().len(), 1);
        scene.server.claim_release(&source, first.id, NOW).await.unwrap();
        let calls_left = Arc::new(AtomicI64::new(i64::MAX));
        let dying = scene.deployment.dying_server(calls_left.clone()).await;
        calls_left.store(calls, Ordering::Release);
        claim(&dying, &source, &request(), NOW).await.ok();
        // By now the dead server's lease of the letters has expired.
        scene.server.move_queue(&scene.key, &pool_name("b"), LATER).await.unwrap();
        scene.until_moved("b").await;
        for now in [LATER.plus_secs(31), LATER.plus_secs(62)] {
            claim(&scene.server, &source, &request(), now).await.unwrap();
            scene.server.resume_dead_letters(now).await.unwrap();
        }
        let found = all(&scene.server, &scene.key, LATER.plus_secs(62)).await;
        let letters = found.iter().filter(|one| one.payload.bytes == "letter").count();
        assert_eq!(letters, 1, "{calls} calls");
        assert_eq!(found.len(), 5, "{calls} calls");
    }
}

/// While the queue moves, producers post and consumers claim and delete: each message is consumed
/// exactly once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_moves_back_and_forth_loses_nothing() {
    const PRODUCERS: usize = 4;
    const POSTS: usize = 60;
    let scene = Arc::new(Scene::new().await);
    let cleared = all(&scene.server, &scene.key, NOW).await;
    let ids: Vec<_> = cleared.iter().map(|one| one.id).collect();
    scene.server.delete_many(&scene.key, &ids, &Deletable::Any, NOW).await.unwrap();
    let cached_for = Duration::from_millis(30);
    let quick = || Options { cached_for, moved_for: Duration::from_secs(1), ..Options::default() };
    let mover = scene.deployment.server_with(quick()).await;
    let servers =
        [scene.deployment.server_with(quick()).await, scene.deployment.server_with(quick()).await];
    let produce = |number: usize| {
        let (server, key) = (servers[number % 2].clone(), scene.key.clone());
        tokio::spawn(async move {
            for count in 0..POSTS {
                let text = format!("{number} {count}");
                post(&server, &key, &[&text], 0).await.unwrap();
            }
        })
    };
    let producers: Vec<_> = (0..PRODUCERS).map(produce).collect();
    let consume = |number: usize| {
        let (server, key) = (servers[number % 2].clone(), scene.key.clone());
        tokio::spawn(async move {
            let (mut taken, mut empty) = (Vec::new(), 0);
            while empty < 200 {
                let id = ClaimId::new(rand::random());
                let request = ClaimRequest { grace: 60, ..ClaimRequest::new(id, 100, 3) };
                let got = claim(&server, &key, &request, NOW).await.unwrap();
                if got.is_empty() {
                    empty += 1;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                // The claim is held while the queue moves.
                tokio::time::sleep(Duration::from_millis(3)).await;
                for message in got {
                    empty = 0;
                    let done = server.delete(&key, message.id, Some(id), NOW).await.unwrap();
                    assert_eq!(done, zaqar_core::storage::Deleted::Gone);
                    taken.push(String::from_utf8(message.payload.bytes.to_vec()).unwrap());
                }
            }
            taken
        })
    };
    let consumers: Vec<_> = (0..PRODUCERS).map(consume).collect();
    let mut moves = 0;
    let mut now = NOW;
    while producers.iter().any(|producer| !producer.is_finished()) || moves < 4 {
        let to = pool_name(if moves % 2 == 0 { "b" } else { "a" });
        mover.move_queue(&scene.key, &to, now).await.unwrap();
        scene.until_moved(to.as_str()).await;
        // No cache leads to the old place any more.
        tokio::time::sleep(2 * cached_for).await;
        now = now.plus_secs(1);
        mover.resume_moves(now).await.unwrap();
        moves += 1;
    }
    for producer in producers {
        producer.await.unwrap();
    }
    let mut taken = Vec::new();
    for consumer in consumers {
        taken.extend(consumer.await.unwrap());
    }
    taken.sort();
    let mut posted: Vec<_> = (0..PRODUCERS)
        .flat_map(|producer| (0..POSTS).map(move |count| format!("{producer} {count}")))
        .collect();
    posted.sort();
    assert_eq!(taken, posted, "{moves} moves");
    scene.server.sweep(NOW, 100).await.unwrap();
}
