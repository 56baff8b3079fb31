//! Dead letters to a queue in another pool, while servers die and calls are cancelled.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test fails on whatever it does not expect")]

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::poll;
use tokio::task::JoinHandle;
use zaqar_core::pools::{Capability, Pool, PoolChange, Pools};
use zaqar_core::storage::{
    Batch, ClaimRequest, Claimed, Claims, DeadLetters, Error, Guarded, Heads, ListQuery, Message,
    MessageStore, Messages, NewMessage, QueueRow, Queues,
};
use zaqar_core::{
    ClaimId, ClientId, Generation, Incarnation, Kind, Metadata, Payload, QueueKey, QueueName,
    Timestamp, Version,
};
use zaqar_pooling::{Connector, Options, Pooled, Purpose, Refusal, Registry};

use crate::support::{Deployment, Places, pool_name, project, queue};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
/// After the lease of every batch has expired.
const LATER: Timestamp = NOW.plus_secs(31);
const LETTERS: usize = 3;
const ASSUMED: Generation =
    Generation { incarnation: Incarnation::new(1), version: Version::new(1) };

/// A queue and its dead-letter queue, each in a pool of its own.
struct Scene {
    deployment: Deployment,
    source: QueueKey,
    dead: QueueKey,
    server: Arc<Pooled>,
}

impl Scene {
    /// Claims at a server that dies after so many calls to stores. Returns whether it lived.
    async fn claim_within(&self, calls: i64) -> bool {
        let calls_left = Arc::new(AtomicI64::new(i64::MAX));
        let dying = self.deployment.dying_server(Arc::clone(&calls_left)).await;
        calls_left.store(calls, Ordering::Release);
        claim(&dying, &self.source, &self.request(5), NOW).await.ok();
        calls_left.load(Ordering::Acquire) >= 0
    }

    /// The source has messages of two clients, which the next claim moves.
    async fn new() -> Self {
        let deployment = Deployment::with_pools(&[("memory:a", 1)]).await;
        let server = deployment.server().await;
        let (source, dead) = (queue("source"), queue("dead"));
        server.open(&source, ASSUMED, NOW).await.unwrap();
        let registry = deployment.registry();
        registry.put_pool(crate::support::pool("b", "memory:b", 1)).await.unwrap();
        let weightless = PoolChange { weight: Some(0), ..Default::default() };
        registry.change_pool(&pool_name("a"), weightless).await.unwrap();
        server.refresh().await;
        server.open(&dead, ASSUMED, NOW).await.unwrap();
        Self { deployment, source, dead, server }.with_messages().await
    }

    /// The dead-letter queue is in the configured store, from before there were pools.
    async fn with_virtual_pool() -> Self {
        let deployment = Deployment::with_pools(&[("memory:a", 1)]).await;
        let deployment = Deployment { has_virtual_pool: true, ..deployment };
        let server = deployment.server().await;
        let (source, dead) = (queue("source"), queue("dead"));
        server.open(&source, ASSUMED, NOW).await.unwrap();
        deployment.configured.open(&dead, ASSUMED, NOW).await.unwrap();
        Self { deployment, source, dead, server }.with_messages().await
    }

    async fn with_messages(self) -> Self {
        let scene = self;
        for n in 0..LETTERS {
            let client = if n == 0 { "first" } else { "second" };
            scene.post(&format!("{n}"), client).await;
        }
        let request = scene.request(LETTERS);
        assert_eq!(
            claim(&scene.server, &scene.source, &request, NOW).await.unwrap().len(),
            LETTERS
        );
        scene.server.claim_release(&scene.source, request.id, NOW).await.unwrap();
        scene
    }

    async fn post(&self, text: &str, client: &str) {
        let payload = Payload::plain(Bytes::copy_from_slice(text.as_bytes()));
        let messages = vec![NewMessage { payload, ttl: 600, delay: 0 }];
        let client = ClientId::new(client);
        let batch = Batch { request: rand::random(), client, messages, notify: true };
        self.server.post(&self.source, ASSUMED, batch, NOW).await.unwrap();
    }

    fn request(&self, limit: usize) -> ClaimRequest {
        let target = self.dead.clone();
        let rule = DeadLetters { max_claim_count: 1, target, generation: ASSUMED, ttl: None };
        let id = ClaimId::new(rand::random());
        ClaimRequest { grace: 60, dead_letters: Some(rule), ..ClaimRequest::new(id, 60, limit) }
    }

    /// The contents of the source and of the dead-letter queue, read by a live server.
    async fn seen(&self, now: Timestamp) -> (Vec<Message>, Vec<Message>) {
        (all(&self.server, &self.source, now).await, all(&self.server, &self.dead, now).await)
    }

    /// Asserts that each letter is in the dead-letter queue once, in the order of the posts.
    async fn check_moved(&self, now: Timestamp, what: &str) {
        let (source, dead) = self.seen(now).await;
        assert_eq!(source, [], "{what}");
        let letters: Vec<_> = dead
            .iter()
            .map(|letter| (&letter.payload.bytes[..], letter.client.as_str(), letter.claim_count))
            .collect();
        let expected: [(&[u8], _, _); LETTERS] =
            [(b"0", "first", 0), (b"1", "second", 0), (b"2", "second", 0)];
        assert_eq!(letters, expected, "{what}");
    }

    /// The number of rows of transfers.
    async fn rows(&self) -> u64 {
        let rows = self.deployment.management.as_ref();
        Queues::count(rows, &project("zaqar.letters"), Kind::Internal).await.unwrap()
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
        limit: 10,
        hide: None,
        include_claimed: true,
        include_delayed: true,
    };
    server.list(key, &query, now).await.unwrap().messages
}

/// Waits for background tasks.
async fn wait_until<F: Future<Output = bool>>(is_so: impl Fn() -> F) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap();
}

#[tokio::test]
async fn letters_have_arrived_when_the_claim_answers() {
    let scene = Scene::new().await;
    scene.post("fresh", "third").await;
    let taken = claim(&scene.server, &scene.source, &scene.request(5), NOW).await.unwrap();
    assert_eq!(taken.iter().map(|one| &one.payload.bytes[..]).collect::<Vec<_>>(), [b"fresh"]);
    scene.server.claim_release(&scene.source, ClaimId::new(0), NOW).await.unwrap();
    let (source, dead) = scene.seen(NOW).await;
    assert_eq!((source.len(), dead.len()), (1, LETTERS));
    assert_eq!(dead.iter().map(|letter| letter.ttl).collect::<Vec<_>>(), [600; LETTERS]);
}

/// A server dies between any two calls to stores; another one continues. At no time does a letter
/// exist twice, and in the end each is there once.
#[tokio::test]
async fn a_server_that_dies_while_it_moves_letters_loses_and_duplicates_none() {
    let mut calls = 0;
    loop {
        let scene = Scene::new().await;
        let calls_left = Arc::new(AtomicI64::new(i64::MAX));
        let dying = scene.deployment.dying_server(Arc::clone(&calls_left)).await;
        calls_left.store(calls, Ordering::Release);
        let answer = claim(&dying, &scene.source, &scene.request(5), NOW).await;
        let finished = calls_left.load(Ordering::Acquire) >= 0;
        assert!(answer.is_ok() || !finished, "{answer:?}");
        let what = format!("dead after {calls} calls");

        let (source, dead) = scene.seen(NOW).await;
        assert!(
            source.len() + dead.len() <= LETTERS,
            "{what}: {source:?} and {dead:?} have a letter twice"
        );
        // The next claim continues the transfer, or finds nothing to move.
        let other = scene.deployment.server().await;
        assert_eq!(claim(&other, &scene.source, &scene.request(5), LATER).await.unwrap(), []);
        other.resume_dead_letters(LATER).await.unwrap();
        scene.check_moved(LATER, &what).await;
        if finished {
            break;
        }
        calls += 1;
        assert!(calls < 1000, "a move takes few calls");
    }
    assert!(calls > 10, "the calls of a move are counted: {calls}");
}

/// As above, but the second server dies, too, after any number of calls; the third continues.
#[tokio::test]
async fn a_server_that_dies_while_it_takes_over_loses_and_duplicates_none() {
    for calls in (5..40).step_by(3) {
        for more in (0..40).step_by(3) {
            let scene = Scene::new().await;
            let left = Arc::new(AtomicI64::new(i64::MAX));
            let first = scene.deployment.dying_server(Arc::clone(&left)).await;
            left.store(calls, Ordering::Release);
            claim(&first, &scene.source, &scene.request(5), NOW).await.ok();
            let left = Arc::new(AtomicI64::new(i64::MAX));
            let second = scene.deployment.dying_server(Arc::clone(&left)).await;
            left.store(more, Ordering::Release);
            second.resume_dead_letters(LATER).await.ok();

            let end = LATER.plus_secs(31);
            let third = scene.deployment.server().await;
            claim(&third, &scene.source, &scene.request(5), end).await.unwrap();
            third.resume_dead_letters(end).await.unwrap();
            scene.check_moved(end, &format!("dead after {calls} and {more} calls")).await;
        }
    }
}

/// A claim that is cancelled after any number of polls does not interrupt the move.
#[tokio::test]
async fn a_cancelled_claim_moves_all_letters() {
    let mut polls = 0;
    loop {
        let scene = Scene::new().await;
        let request = scene.request(5);
        let is_done = {
            let mut claiming = pin!(claim(&scene.server, &scene.source, &request, NOW));
            let mut is_done = false;
            for _ in 0..=polls {
                is_done = matches!(poll!(claiming.as_mut()), Poll::Ready(_));
                if is_done {
                    break;
                }
                tokio::task::yield_now().await;
            }
            is_done
        };
        let is_moved = async || {
            let (source, dead) = scene.seen(NOW).await;
            assert!(source.len() + dead.len() <= LETTERS, "{source:?} {dead:?}");
            source.is_empty() && dead.len() == LETTERS
        };
        wait_until(is_moved).await;
        scene.check_moved(NOW, &format!("cancelled after {polls} polls")).await;
        if is_done {
            break;
        }
        polls += 1;
        assert!(polls < 1000, "a claim ends");
    }
    assert!(polls > 0, "a claim that moves letters waits for a task");
}

#[tokio::test]
async fn letters_wait_for_a_pool_that_is_down() {
    let scene = Scene::new().await;
    scene.post("fresh", "third").await;
    let pool = scene.deployment.places.memory("memory:b");
    pool.set_away(true);
    let taken = claim(&scene.server, &scene.source, &scene.request(5), NOW).await.unwrap();
    assert_eq!(taken.len(), 1, "the pool of the claimed queue is up");
    scene.server.resume_dead_letters(LATER).await.unwrap();
    pool.set_away(false);
    scene.server.resume_dead_letters(LATER).await.unwrap();
    let dead = all(&scene.server, &scene.dead, LATER).await;
    assert_eq!(dead.len(), LETTERS);
    assert_eq!(dead[0].ttl, 600 - 31, "the time in transfer counts");
}

#[tokio::test]
async fn a_damaged_row_keeps_no_other_letters_waiting() {
    let scene = Scene::new().await;
    let metadata = Metadata::from_json(br#"{"from": "nowhere"}"#).unwrap();
    let (project, kind) = (project("zaqar.letters"), Kind::Internal);
    let name = QueueName::new("damaged").unwrap();
    let damaged = QueueRow { generation: ASSUMED, metadata };
    let key = QueueKey { project, kind, name };
    scene.deployment.management.create(&key, &damaged).await.unwrap();
    let pool = scene.deployment.places.memory("memory:b");
    pool.set_away(true);
    claim(&scene.server, &scene.source, &scene.request(5), NOW).await.unwrap();
    pool.set_away(false);
    scene.server.resume_dead_letters(LATER).await.unwrap();
    assert_eq!(all(&scene.server, &scene.dead, LATER).await.len(), LETTERS);
}

#[tokio::test]
async fn letters_to_a_deleted_queue_are_deleted() {
    let scene = Scene::new().await;
    scene.deployment.places.memory("memory:b").set_away(true);
    claim(&scene.server, &scene.source, &scene.request(5), NOW).await.unwrap();
    scene.deployment.places.memory("memory:b").set_away(false);
    scene.server.close(&scene.dead, ASSUMED.incarnation).await.unwrap();
    scene.server.resume_dead_letters(LATER).await.unwrap();
    let again = Generation { incarnation: Incarnation::new(2), ..ASSUMED };
    scene.server.open(&scene.dead, again, LATER).await.unwrap();
    scene.server.resume_dead_letters(LATER).await.unwrap();
    assert_eq!(scene.seen(LATER).await, (vec![], vec![]));
}

/// The catalogue has no row of it, whether it is there or not. A server dies between any two calls
/// to stores, the queue is deleted, and another server continues.
#[tokio::test]
async fn letters_to_a_deleted_queue_of_the_virtual_pool_are_deleted() {
    for calls in 0..1000 {
        let scene = Scene::with_virtual_pool().await;
        let is_finished = scene.claim_within(calls).await;
        scene.server.close(&scene.dead, ASSUMED.incarnation).await.unwrap();
        scene.server.resume_dead_letters(LATER).await.unwrap();
        let again = Generation { incarnation: Incarnation::new(2), ..ASSUMED };
        // Where it was, before its letters have expired.
        scene.deployment.configured.open(&scene.dead, again, LATER).await.unwrap();
        let end = LATER.plus_secs(60);
        scene.server.resume_dead_letters(end).await.unwrap();
        let what = format!("dead after {calls} calls");
        assert_eq!(all(&scene.server, &scene.dead, end).await, [], "{what}");
        for later in [700, 1400] {
            scene.server.resume_dead_letters(LATER.plus_secs(later)).await.unwrap();
        }
        assert_eq!(scene.rows().await, 0, "{what}");
        if is_finished {
            assert!(calls > 10, "the calls of a move are counted: {calls}");
            return;
        }
    }
    panic!("a move takes few calls");
}

/// The catalogue of a queue whose deletion was interrupted still has it.
#[tokio::test]
async fn letters_that_expired_need_no_dead_letter_queue() {
    for calls in 0..60 {
        let scene = Scene::new().await;
        scene.claim_within(calls).await;
        let store = scene.deployment.places.memory("memory:b");
        store.close(&scene.dead, ASSUMED.incarnation).await.unwrap();
        for later in [1300, 2000] {
            scene.server.resume_dead_letters(NOW.plus_secs(later)).await.unwrap();
        }
        assert_eq!(scene.rows().await, 0, "dead after {calls} calls");
    }
}

#[tokio::test]
async fn a_target_of_another_incarnation_is_reported_and_nothing_moves() {
    let scene = Scene::new().await;
    let mut request = scene.request(5);
    let other = Generation { incarnation: Incarnation::new(9), ..ASSUMED };
    request.dead_letters.as_mut().unwrap().generation = other;
    let answer = scene.server.claim(&scene.source, ASSUMED, &request, NOW).await.unwrap();
    assert_eq!(answer, Guarded::Done(Claimed::TargetChanged));
    let (source, dead) = scene.seen(NOW).await;
    assert_eq!((source.len(), dead.len()), (LETTERS, 0));
}

#[tokio::test]
async fn the_row_of_a_finished_transfer_is_deleted_later() {
    let scene = Scene::new().await;
    claim(&scene.server, &scene.source, &scene.request(5), NOW).await.unwrap();
    assert_eq!(scene.rows().await, 1);
    scene.server.resume_dead_letters(NOW.plus_secs(500)).await.unwrap();
    assert_eq!(scene.rows().await, 1, "a claim may still use it");
    scene.server.resume_dead_letters(NOW.plus_secs(601)).await.unwrap();
    assert_eq!(scene.rows().await, 0);
    // A later claim starts another transfer.
    scene.post("late", "third").await;
    let request = scene.request(5);
    assert_eq!(claim(&scene.server, &scene.source, &request, NOW).await.unwrap().len(), 1);
    scene.server.claim_release(&scene.source, request.id, NOW).await.unwrap();
    assert_eq!(claim(&scene.server, &scene.source, &scene.request(5), NOW).await.unwrap(), []);
    assert_eq!(all(&scene.server, &scene.dead, NOW).await.len(), LETTERS + 1);
}

/// Several servers move the letters of one queue concurrently.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_servers_deliver_each_letter_once() {
    for _ in 0..20 {
        let scene = Arc::new(Scene::new().await);
        let mut claiming = Vec::new();
        for _ in 0..4 {
            let (scene, server) = (Arc::clone(&scene), scene.deployment.server().await);
            claiming.push(tokio::spawn(async move {
                claim(&server, &scene.source, &scene.request(1), NOW).await.unwrap()
            }));
        }
        for one in claiming {
            assert_eq!(one.await.unwrap(), []);
        }
        scene.check_moved(NOW, "by four servers").await;
    }
}

/// A server is suspended before it opens an arrival queue, and opens it after another one has taken
/// the transfer over.
#[tokio::test]
async fn an_arrival_queue_that_is_opened_too_late_is_closed_again() {
    let mut lost = None;
    for calls in 0..60 {
        let scene = Scene::new().await;
        scene.claim_within(calls).await;
        scene.server.resume_dead_letters(LATER).await.unwrap();
        let rows = scene.deployment.management.as_ref();
        let letters = project("zaqar.letters");
        let found = Queues::list(rows, &letters, Kind::Internal, None, 9).await.unwrap();
        let arrival = found.iter().find_map(|(_, row)| {
            let lost = row.metadata.as_object().get("lost")?.as_array()?.first()?;
            lost.get("arrival")?.as_str().map(str::to_owned)
        });
        let Some(arrival) = arrival else { continue };
        scene.check_moved(LATER, "after the second attempt").await;
        let name = zaqar_core::QueueName::new(&arrival).unwrap();
        let arrival = QueueKey { project: letters, kind: Kind::Internal, name };
        let store = scene.deployment.places.memory("memory:b");
        store.open(&arrival, ASSUMED, LATER).await.unwrap();
        let soon = LATER.plus_secs(599);
        scene.server.resume_dead_letters(soon).await.unwrap();
        assert_eq!(store.generation(&arrival).await.unwrap(), Some(ASSUMED));
        scene.server.resume_dead_letters(LATER.plus_secs(605)).await.unwrap();
        assert_eq!(store.generation(&arrival).await.unwrap(), None);
        assert_eq!(scene.rows().await, 0, "the row is deleted, too");
        lost = Some(calls);
        break;
    }
    assert!(lost.is_some(), "no number of calls leaves a lost attempt");
}

/// Queues whose dead letters go to a pool that hangs.
const HANGING: usize = 80;

/// Opens stores in memory, but for `memory:hangs`.
struct Hanging(Arc<Places>);

#[async_trait]
impl Connector for Hanging {
    async fn open(&self, pool: &Pool, purpose: Purpose) -> Result<Arc<dyn MessageStore>, Refusal> {
        if pool.uri.expose() == "memory:hangs" {
            std::future::pending::<()>().await;
        }
        self.0.open(pool, purpose).await
    }

    fn capabilities(&self, pool: &Pool) -> BTreeSet<Capability> {
        self.0.capabilities(pool)
    }

    fn is_same_store(&self, one: &Pool, other: &Pool) -> bool {
        self.0.is_same_store(one, other)
    }

    fn is_configured_store(&self, pool: &Pool) -> bool {
        self.0.is_configured_store(pool)
    }
}

/// A server for which the pool of many dead-letter queues does not answer, and many claims that
/// move letters there.
async fn hanging() -> (Scene, Vec<JoinHandle<()>>) {
    let mut scene = Scene::new().await;
    let registry = scene.deployment.registry();
    registry.put_pool(crate::support::pool("hangs", "memory:hangs", 1)).await.unwrap();
    let weight = |weight| PoolChange { weight: Some(weight), ..Default::default() };
    registry.change_pool(&pool_name("b"), weight(0)).await.unwrap();
    scene.server.refresh().await;
    let queues = (0..HANGING).map(|at| queue(&format!("dead-{at}"))).collect::<Vec<_>>();
    for key in &queues {
        scene.server.open(key, ASSUMED, NOW).await.unwrap();
    }
    registry.change_pool(&pool_name("a"), weight(1)).await.unwrap();
    registry.change_pool(&pool_name("hangs"), weight(0)).await.unwrap();
    scene.server.refresh().await;
    let Deployment { management, configured, places, .. } = scene.deployment.clone();
    let registry = Registry::new(management, configured, Arc::new(Hanging(places)));
    let hanging = Arc::new(Pooled::new(Arc::new(registry), Options::default()));
    hanging.refresh().await;
    let mut claiming = Vec::new();
    for (at, dead) in queues.into_iter().enumerate() {
        let source = queue(&format!("source-{at}"));
        scene.server.open(&source, ASSUMED, NOW).await.unwrap();
        let payload = Payload::plain(Bytes::from_static(b"1"));
        let messages = vec![NewMessage { payload, ttl: 600, delay: 0 }];
        let client = ClientId::new("c");
        let batch = Batch { request: rand::random(), client, messages, notify: true };
        scene.server.post(&source, ASSUMED, batch, NOW).await.unwrap();
        let mut request = scene.request(1);
        request.dead_letters.as_mut().unwrap().target = dead;
        claim(&scene.server, &source, &request, NOW).await.unwrap();
        scene.server.claim_release(&source, request.id, NOW).await.unwrap();
        request.id = ClaimId::new(rand::random());
        let server = Arc::clone(&hanging);
        claiming.push(tokio::spawn(async move {
            assert_eq!(claim(&server, &source, &request, NOW).await.unwrap(), []);
        }));
    }
    scene.server = hanging;
    (scene, claiming)
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_hangs_leaves_deliveries_to_others() {
    let (scene, claiming) = hanging().await;
    // The generations of their dead-letter queues are read first, for five seconds.
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert!(claiming.iter().any(|one| !one.is_finished()), "deliveries are in progress");
    claim(&scene.server, &scene.source, &scene.request(5), NOW).await.unwrap();
    scene.check_moved(NOW, "while others hang").await;
}

/// The search for letters that were left finds those to a pool that answers.
#[tokio::test(start_paused = true)]
async fn a_pool_that_hangs_holds_up_no_letters_that_were_left() {
    let (scene, claiming) = hanging().await;
    for one in claiming {
        one.await.unwrap();
    }
    let pool = scene.deployment.places.memory("memory:b");
    pool.set_away(true);
    claim(&scene.server, &scene.source, &scene.request(5), NOW).await.unwrap();
    pool.set_away(false);
    let server = Arc::clone(&scene.server);
    let searching = tokio::spawn(async move { server.resume_dead_letters(LATER).await });
    tokio::time::sleep(Duration::from_secs(2)).await;
    scene.check_moved(LATER, "while others hang").await;
    searching.await.unwrap().unwrap();
}
