//! Pools that fail, are added and are removed; queues that many servers create and delete.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test fails on whatever it does not expect")]

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::poll;
use tokio::sync::Semaphore;
use zaqar_core::pools::{Capability, Pool, PoolStores, Pools};
use zaqar_core::storage::{
    Batch, Error, Guarded, Heads, Leases, ListQuery, MessageStore, Messages, NewMessage, News,
    Outbox, Renewal, Upkeep,
};
use zaqar_core::{
    ClientId, Generation, Incarnation, LeaseId, Payload, QueueKey, Timestamp, Version,
};
use zaqar_pooling::{Connector, Options, Pooled, Purpose, Refusal, Registry};

use crate::support::{Deployment, Places, flavor, pool, pool_name, project, queue};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn generation(incarnation: u64) -> Generation {
    Generation { incarnation: Incarnation::new(incarnation), version: Version::new(1) }
}

async fn post(store: &Pooled, key: &QueueKey, assumed: Generation) -> Result<(), Error> {
    let payload = Payload::plain(Bytes::from_static(b"1"));
    let messages = vec![NewMessage { payload, ttl: 600, delay: 0 }];
    let client = ClientId::new("c");
    let batch = Batch { request: rand::random(), client, messages, notify: true };
    match store.post(key, assumed, batch, NOW).await? {
        Guarded::Done(_) => Ok(()),
        other => panic!("{other:?}"),
    }
}

/// Posts to a queue whose pool has come back, which the next ping notices.
async fn until_posted(store: &Pooled, key: &QueueKey) {
    let posting = async {
        while post(store, key, generation(1)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), posting).await.expect("it is never back");
}

async fn listed(store: &Pooled, key: &QueueKey) -> usize {
    let query = ListQuery {
        after: None,
        limit: 10,
        hide: None,
        include_claimed: true,
        include_delayed: true,
    };
    store.list(key, &query, NOW).await.unwrap().messages.len()
}

#[tokio::test]
async fn a_pool_that_is_away_fails_its_own_queues_only() {
    let deployment = Deployment::with_pools(&[("memory:a", 1)]).await;
    let pooled = deployment.server().await;
    let (lost, fine) = (queue("lost"), queue("fine"));
    pooled.open(&lost, generation(1), NOW).await.unwrap();
    // From now on all new queues are placed in pool b.
    deployment.registry().put_pool(pool("b", "memory:b", 1)).await.unwrap();
    let weightless = zaqar_core::pools::PoolChange { weight: Some(0), ..Default::default() };
    deployment.registry().change_pool(&pool_name("a"), weightless).await.unwrap();
    pooled.open(&fine, generation(1), NOW).await.unwrap();

    deployment.places.memory("memory:a").set_away(true);
    let failed = post(&pooled, &lost, generation(1)).await;
    assert!(matches!(failed, Err(Error::Unavailable { .. })), "{failed:?}");
    post(&pooled, &fine, generation(1)).await.unwrap();
    assert_eq!(listed(&pooled, &fine).await, 1);
    let lease = LeaseId::new(7);
    assert!(pooled.keep_lease(lease, NOW.plus_secs(15), NOW).await.is_ok());
    pooled.ping().await.unwrap();
    pooled.sweep(NOW, 100).await.unwrap();
    pooled.volume().await.unwrap();

    deployment.places.memory("memory:a").set_away(false);
    until_posted(&pooled, &lost).await;
    // The pool that missed the first renewal has not lost the lease.
    let renewed = pooled.keep_lease(lease, NOW.plus_secs(20), NOW).await.unwrap();
    assert_eq!(renewed, Renewal::Continued);
}

/// A pool that does not answer delays the look-ups of the others once, until that is known.
#[tokio::test(start_paused = true)]
async fn a_pool_that_does_not_answer_delays_look_ups_once() {
    let deployment = Deployment::with_pools(&[("memory:a", 1), ("memory:b", 1)]).await;
    let pooled = deployment.server().await;
    while pooled.statuses().iter().any(|status| status.problem.is_some()) {
        tokio::task::yield_now().await;
    }
    let seconds = async || {
        let start = tokio::time::Instant::now();
        pooled.due_queues(10, NOW).await.unwrap();
        start.elapsed().as_secs_f64()
    };
    assert!(seconds().await < 0.1);
    deployment.places.memory("memory:a").set_silent(true);
    assert!((5.0..5.1).contains(&seconds().await), "it is not known");
    for _ in 0..5 {
        assert!(seconds().await < 0.5, "it is known");
        let start = tokio::time::Instant::now();
        pooled.volume().await.unwrap();
        assert!(start.elapsed() < Duration::from_millis(500), "health checks are as quick");
    }
    deployment.places.memory("memory:a").set_silent(false);
    assert!(seconds().await < 0.1);
    assert!(pooled.statuses().iter().all(|status| status.problem.is_none()));
}

/// Opens stores in memory, each when there is a permit. They count the calls that they get, down
/// from a number; from 0 on they are away.
struct Watched {
    places: Arc<Places>,
    permits: Semaphore,
    calls: Arc<AtomicI64>,
}

impl Watched {
    fn new(places: &Arc<Places>, permits: usize) -> Arc<Self> {
        let (permits, calls) = (Semaphore::new(permits), Arc::new(AtomicI64::new(i64::MAX)));
        Arc::new(Self { places: Arc::clone(places), permits, calls })
    }
}

#[async_trait]
impl Connector for Watched {
    async fn open(&self, pool: &Pool, _: Purpose) -> Result<Arc<dyn MessageStore>, Refusal> {
        let _opened = self.permits.acquire().await;
        let store = self.places.memory(pool.uri.expose());
        Ok(Arc::new(store.connect_for(Arc::clone(&self.calls))))
    }

    fn capabilities(&self, pool: &Pool) -> BTreeSet<Capability> {
        self.places.capabilities(pool)
    }

    fn is_same_store(&self, one: &Pool, other: &Pool) -> bool {
        self.places.is_same_store(one, other)
    }

    fn is_configured_store(&self, pool: &Pool) -> bool {
        self.places.is_configured_store(pool)
    }
}

/// Its driver would let each request wait for it.
#[tokio::test(start_paused = true)]
async fn a_pool_that_is_known_to_be_away_is_not_asked() {
    let deployment = Deployment::with_pools(&[("memory:a", 1)]).await;
    let watched = Watched::new(&deployment.places, 1);
    let calls = Arc::clone(&watched.calls);
    let (management, configured) = (deployment.management.clone(), deployment.configured.clone());
    let registry = Registry::new(management, configured, watched);
    let pooled = Pooled::new(Arc::new(registry), Options::default());
    pooled.refresh().await;
    let key = queue("q");
    pooled.open(&key, generation(1), NOW).await.unwrap();
    post(&pooled, &key, generation(1)).await.unwrap();

    calls.store(0, Ordering::Release);
    post(&pooled, &key, generation(1)).await.unwrap_err();
    // Waits for the ping that confirms it.
    post(&pooled, &key, generation(1)).await.unwrap_err();
    let (asked, began) = (calls.load(Ordering::Acquire), tokio::time::Instant::now());
    for _ in 0..100 {
        let failed = post(&pooled, &key, generation(1)).await;
        assert!(matches!(failed, Err(Error::Unavailable { .. })), "{failed:?}");
        let failed = pooled.close(&key, Incarnation::new(1)).await;
        assert!(matches!(failed, Err(Error::Unavailable { .. })), "{failed:?}");
    }
    assert_eq!(calls.load(Ordering::Acquire), asked, "calls of the pool that is away");
    assert_eq!(began.elapsed(), Duration::ZERO);

    calls.store(i64::MAX, Ordering::Release);
    until_posted(&pooled, &key).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn the_status_of_each_pool_says_whether_it_serves() {
    let deployment = Deployment::with_pools(&[("memory:a", 1), ("memory:b", 1)]).await;
    let pooled = deployment.server().await;
    let problems = || -> Vec<_> {
        let statuses = pooled.statuses().into_iter();
        statuses.map(|status| (status.name.to_string(), status.problem)).collect()
    };
    // Each is opened in the background.
    while problems().iter().any(|(_, problem)| problem.is_some()) {
        tokio::task::yield_now().await;
    }
    deployment.places.memory("memory:b").set_away(true);
    pooled.sweep(NOW, 100).await.unwrap();
    let away = Some("the store cannot be reached: the store is set to unavailable".to_owned());
    assert_eq!(problems(), [("a".to_owned(), None), ("b".to_owned(), away)]);
    deployment.places.memory("memory:b").set_away(false);
    while problems().iter().any(|(_, problem)| problem.is_some()) {
        pooled.ping().await.unwrap();
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_queue_is_not_created_without_a_pool_for_it() {
    let deployment = Deployment::new();
    let pooled = deployment.server().await;
    let refused = pooled.open(&queue("q"), generation(1), NOW).await;
    assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
    assert_eq!(listed(&pooled, &queue("q")).await, 0, "reading a queue without a pool is no error");
}

#[tokio::test]
async fn the_virtual_pool_gets_queues_that_no_pool_accepts_and_keeps_its_own() {
    let deployment = Deployment::new();
    let registry = deployment.registry().with_virtual_pool();
    let pooled = Pooled::new(Arc::new(registry), Default::default());
    let old = queue("old");
    // Created before pooling was enabled.
    Heads::open(deployment.configured.as_ref(), &old, generation(5), NOW).await.unwrap();
    post(&pooled, &old, generation(5)).await.unwrap();
    pooled.open(&queue("virtual"), generation(1), NOW).await.unwrap();
    let there = Heads::generation(deployment.configured.as_ref(), &queue("virtual")).await;
    assert!(there.unwrap().is_some());

    deployment.registry().put_pool(pool("a", "memory:a", 1)).await.unwrap();
    assert_eq!(pooled.open(&old, generation(6), NOW).await.unwrap(), generation(5));
    assert_eq!(listed(&pooled, &old).await, 1);
    pooled.open(&queue("new"), generation(1), NOW).await.unwrap();
    let pool = deployment.places.memory("memory:a");
    assert!(Heads::generation(pool.as_ref(), &queue("new")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_queue_goes_to_the_pools_of_its_flavor() {
    let deployment = Deployment::with_pools(&[("memory:a", 100), ("memory:g", 1)]).await;
    let (registry, gold) = (deployment.registry(), flavor("gold"));
    registry.put_flavor(&project("p"), &gold, &[pool_name("g")]).await.unwrap();
    let pooled = deployment.server().await;
    let memory = deployment.places.memory("memory:g");
    for n in 0..20 {
        let key = queue(&format!("gold{n}"));
        registry.place(&key, Some(&gold)).await.unwrap();
        pooled.open(&key, generation(1), NOW).await.unwrap();
        assert!(Heads::generation(memory.as_ref(), &key).await.unwrap().is_some());
    }
    let unknown = registry.place(&queue("q"), Some(&flavor("silver"))).await.unwrap_err();
    assert_eq!(unknown.to_string(), "Flavor silver does not exist");
}

#[tokio::test]
async fn a_pool_registered_by_another_server_is_found_at_once_and_sends_news() {
    let deployment = Deployment::with_pools(&[("memory:a", 1)]).await;
    let (one, other) = (deployment.server().await, deployment.server().await);
    let mut news = other.news().await.unwrap();
    deployment.registry().put_pool(pool("b", "memory:b", u32::MAX)).await.unwrap();
    let key = queue("q");
    one.open(&key, generation(1), NOW).await.unwrap();
    assert_eq!(listed(&other, &key).await, 0, "it is in a pool that was not known");
    let received = async {
        let next = std::future::poll_fn(|context| news.as_mut().poll_next(context));
        next.await.unwrap().key
    };
    let posting = async {
        loop {
            post(&one, &key, generation(1)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let received = tokio::time::timeout(Duration::from_secs(60), async {
        tokio::select! { key = received => key, never = posting => never }
    });
    assert_eq!(received.await.unwrap(), key);
}

#[tokio::test]
async fn news_of_a_pool_that_is_being_opened_are_not_missed() {
    let deployment = Deployment::with_pools(&[("memory:a", 1)]).await;
    let key = queue("q");
    deployment.server().await.open(&key, generation(1), NOW).await.unwrap();
    let watched = Watched::new(&deployment.places, 0);
    let (management, configured) = (deployment.management.clone(), deployment.configured.clone());
    let registry = Registry::new(management, configured, watched.clone());
    let pooled = Pooled::new(Arc::new(registry), Options::default());
    pooled.refresh().await;
    let mut listening = pin!(pooled.news());
    for _ in 0..10 {
        assert!(poll!(listening.as_mut()).is_pending(), "the pool is not open yet");
        tokio::task::yield_now().await;
    }
    watched.permits.add_permits(1);
    let mut news = listening.await.unwrap();
    post(&pooled, &key, generation(1)).await.unwrap();
    let received = std::future::poll_fn(|context| news.as_mut().poll_next(context));
    let received = tokio::time::timeout(Duration::from_secs(60), received).await.unwrap();
    assert_eq!(received.unwrap().key, key);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_servers_create_and_delete_one_queue_and_lose_no_head() {
    let deployment =
        Deployment::with_pools(&[("memory:a", 1), ("memory:b", 1), ("memory:c", 1)]).await;
    let key = queue("q");
    let mut racing = Vec::new();
    for n in 0..4_u64 {
        let (server, key) = (deployment.server().await, key.clone());
        racing.push(tokio::spawn(async move {
            for round in 0..50 {
                let mine = generation(1 + n * 1000 + round);
                match server.open(&key, mine, NOW).await {
                    Ok(opened) if (round + n) % 3 == 0 => {
                        server.close(&key, opened.incarnation).await.map(drop).unwrap();
                    }
                    Ok(_) | Err(Error::Unavailable { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        }));
    }
    for one in racing {
        one.await.unwrap();
    }
    // One more server opens it; then the head that the catalogue names is the only one.
    let last = deployment.server().await;
    let opened = last.open(&key, generation(999_999), NOW).await.unwrap();
    let mut heads = Vec::new();
    for uri in ["memory:a", "memory:b", "memory:c"] {
        let store = deployment.places.memory(uri);
        heads.extend(Heads::generation(store.as_ref(), &key).await.unwrap());
    }
    assert_eq!(heads, [opened]);
}
