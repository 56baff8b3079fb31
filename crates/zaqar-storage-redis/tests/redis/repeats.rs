//! Requests that are delayed so that their repeats arrive first: none may be executed twice.

#![expect(clippy::unwrap_used, reason = "test operations, which fail if a request is rejected")]

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use zaqar_core::storage::{
    Batch, ClaimRequest, Claims, DeadLetters, Deletable, Guarded, Heads, Leases, Message, Messages,
    NewMessage, NewSubscription, Outbox, PopQuery, QueueRow, Queues, SubscriptionChange,
    Subscriptions, Upkeep,
};
use zaqar_core::{
    ClaimId, Generation, LeaseId, MessageId, Metadata, Position, SubscriptionId, Version,
};
use zaqar_storage_redis::{Options, Redis};

use crate::proxy::HoldingProxy;
use crate::servers::Server;
use crate::support::{Queue, lease_for, message, now, open, options, rand, texts};

/// The objects that the operations use: everything that a queue can hold.
#[derive(Clone)]
pub(crate) struct Fixture {
    pub(crate) queue: Queue,
    pub(crate) target: Queue,
    pub(crate) ids: Vec<MessageId>,
    pub(crate) claim: ClaimId,
    claimed: MessageId,
    lease: LeaseId,
    subscription: SubscriptionId,
    on_lease: SubscriptionId,
}

type Operation = for<'a> fn(&'a Fixture) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// A list of operations: a name, and a function of the fixture.
macro_rules! operations {
    ($($name:literal: |$fixture:ident| $operation:expr;)*) => {
        &[$(($name, |$fixture| Box::pin(async move { $operation; }))),*]
    };
}

fn request(limit: usize) -> ClaimRequest {
    ClaimRequest { grace: 60, ..ClaimRequest::new(ClaimId::new(rand()), 60, limit) }
}

fn subscription(id: SubscriptionId, lease: Option<LeaseId>) -> NewSubscription {
    let subscriber = format!("http://example.org/{id}");
    NewSubscription { id, subscriber, ttl: 600, options: "{}".into(), confirmed: true, lease }
}

/// Every operation that changes something.
pub(crate) const OPERATIONS: &[(&str, Operation)] = operations! {
    "open": |it| {
        let new = Queue { key: crate::support::key("new"), ..it.queue.clone() };
        new.open().await.unwrap()
    };
    "advance": |it| {
        let newer = Generation { version: Version::new(2), ..it.queue.generation };
        it.queue.store.advance(&it.queue.key, newer).await.unwrap()
    };
    "post": |it| it.queue.post(&["new"]).await;
    "post of much": |it| it.queue.try_post_new(vec![message("new"); 100]).await.unwrap();
    "post in parts": |it| it.queue.try_post_new(vec![message("new"); 700]).await.unwrap();
    "claim": |it| it.queue.claim(2).await;
    "claim_each": |it| {
        let (store, key) = (&it.queue.store, &it.queue.key);
        let ids = [rand(), rand()].map(ClaimId::new);
        match store.claim_each(key, it.queue.generation, &ids, 60, now()).await.unwrap() {
            Guarded::Done(taken) => texts(&taken),
            refused @ (Guarded::Absent | Guarded::Stale(_)) => panic!("{refused:?}"),
        }
    };
    "claim_renew": |it| {
        let (store, key) = (&it.queue.store, &it.queue.key);
        assert!(store.claim_renew(key, it.claim, 100, 100, now()).await.unwrap())
    };
    "claim_release": |it| {
        it.queue.store.claim_release(&it.queue.key, it.claim, now()).await.unwrap()
    };
    "claim with dead dead_letters": |it| {
        it.queue.store.claim_release(&it.queue.key, it.claim, now()).await.unwrap();
        let (target, generation) = (it.target.key.clone(), it.target.generation);
        let rule = DeadLetters { max_claim_count: 1, target, generation, ttl: None };
        let request = ClaimRequest { dead_letters: Some(rule), ..request(5) };
        let (key, generation) = (&it.queue.key, it.queue.generation);
        it.queue.store.claim(key, generation, &request, now()).await.unwrap();
        assert_eq!(it.target.texts().await, ["0"], "moved once");
    };
    "delete": |it| {
        let (store, key) = (&it.queue.store, &it.queue.key);
        store.delete(key, it.claimed, Some(it.claim), now()).await.unwrap()
    };
    "delete_many": |it| {
        let (store, key) = (&it.queue.store, &it.queue.key);
        store.delete_many(key, &it.ids, &Deletable::Any, now()).await.unwrap()
    };
    "pop": |it| {
        let one = PopQuery { limit: 1, after: None, keys: Vec::new() };
        let popped = it.queue.store.pop(&it.queue.key, &one, now()).await.unwrap();
        assert_eq!(texts(&popped.messages), ["1"])
    };
    "purge": |it| it.queue.store.purge(&it.queue.key, now()).await.unwrap();
    "subscribe": |it| {
        let new = subscription(SubscriptionId::new(rand()), Some(it.lease));
        let (store, key) = (&it.queue.store, &it.queue.key);
        store.subscribe(key, it.queue.generation, &new, now()).await.unwrap()
    };
    "change_subscription": |it| {
        let change = SubscriptionChange { ttl: Some(900), ..SubscriptionChange::default() };
        let (store, key) = (&it.queue.store, &it.queue.key);
        store.change_subscription(key, it.on_lease, &change, now()).await.unwrap()
    };
    "unsubscribe": |it| {
        it.queue.store.unsubscribe(&it.queue.key, it.on_lease, now()).await.unwrap()
    };
    "unsubscribe_all": |it| it.queue.store.unsubscribe_all(&it.queue.key, now()).await.unwrap();
    "keep_lease": |it| {
        it.queue.store.keep_lease(it.lease, now().plus_secs(900), now()).await.unwrap()
    };
    "end_lease and sweep": |it| {
        it.queue.store.end_lease(it.lease, now()).await.unwrap();
        it.queue.store.sweep(now(), 100).await.unwrap()
    };
    "sweep": |it| it.queue.store.sweep(now().plus_secs(7200), 1000).await.unwrap();
    "due_queues": |it| it.queue.store.due_queues(10, now().plus_secs(60)).await.unwrap();
    "lease": |it| {
        let (store, key) = (&it.queue.store, &it.queue.key);
        let entries = store.lease(key, &lease_for(now().plus_secs(60)), now()).await.unwrap();
        assert_eq!(entries.len(), 1, "an entry is due");
        entries
    };
    "settle": |it| {
        let (store, key) = (&it.queue.store, &it.queue.key);
        let first: Position = it.ids[0].position;
        store.settle(key, it.queue.generation.incarnation, &[first]).await.unwrap()
    };
    "close": |it| {
        let (store, key) = (&it.queue.store, &it.queue.key);
        let closed = Heads::close(store, key, it.queue.generation.incarnation).await.unwrap();
        assert_eq!(closed, zaqar_core::storage::Guarded::Done(()))
    };
    "rows": |it| {
        let (store, key) = (&it.queue.store, &it.queue.key);
        let row = QueueRow { generation: it.queue.generation, metadata: Metadata::default() };
        assert_eq!(store.create(key, &row).await.unwrap(), None);
        let newer = Generation { version: Version::new(2), ..it.queue.generation };
        let changed = QueueRow { generation: newer, ..row };
        assert!(store.replace(key, it.queue.generation, &changed).await.unwrap());
        assert!(store.remove(key, newer.incarnation).await.unwrap())
    };
    "ping": |it| it.queue.store.ping().await.unwrap();
};

/// A queue with everything that it can hold: messages, one of them claimed and one delayed, two
/// subscriptions, and outbox entries.
pub(crate) async fn fixture(store: &Redis) -> Fixture {
    let (queue, target) = (Queue::new(store, "q").await, Queue::new(store, "dead").await);
    let lease = LeaseId::new(rand());
    store.keep_lease(lease, now().plus_secs(600), now()).await.unwrap();
    let (own, on_lease) = (SubscriptionId::new(rand()), SubscriptionId::new(rand()));
    for new in [subscription(own, None), subscription(on_lease, Some(lease))] {
        store.subscribe(&queue.key, queue.generation, &new, now()).await.unwrap();
    }
    let ids = queue.post(&["0", "1", "2", "3"]).await;
    let late = NewMessage { delay: 60, ..message("4") };
    queue.try_post_new(vec![late]).await.unwrap();
    let (claim, held) = queue.try_claim(1).await.unwrap();
    let claimed = held[0].id;
    Fixture { queue, target, ids, claim, claimed, lease, subscription: own, on_lease }
}

/// For each script of an operation: its request is held back, the repeat does the work, and the
/// original does nothing more.
#[tokio::test(flavor = "multi_thread")]
async fn an_original_after_its_repeat_does_nothing() {
    let server = Server::start(&[]);
    let proxy = HoldingProxy::to(server.port).await;
    let (store, direct) = (open(options(&proxy.uri())).await, open(options(&server.uri())).await);
    let mut scripts = BTreeSet::new();
    for (name, operation) in OPERATIONS {
        for n in 0..20 {
            let mut it = fixture(&direct).await;
            assert_ne!(it.subscription, it.on_lease);
            (it.queue, it.target) = (it.queue.by(&store), it.target.by(&store));
            proxy.hold(n);
            operation(&it).await;
            let Some(held) = proxy.take_held() else {
                assert!(n > 0, "{name} calls no script");
                break;
            };
            let all = it.queue.by(&direct).all().await;
            let answer = held.send().await;
            assert!(answer.starts_with("-ZLATE"), "{name}, script {n}: {answer}");
            assert_eq!(it.queue.by(&direct).all().await, all, "{name}, script {n}");
            scripts.insert(held.digest);
        }
    }
    assert!(scripts.len() >= 27, "{} scripts", scripts.len());
}

/// The state of a fixture as a user sees it.
pub(crate) async fn state(it: &Fixture, store: &Redis) -> String {
    let queue = it.queue.by(store);
    let seen = |message: Message| {
        let texts = texts(std::slice::from_ref(&message));
        format!("{texts:?} claimed {} times, by {:?}", message.claim_count, message.claim.is_some())
    };
    let all: Vec<_> = queue.all().await.into_iter().map(seen).collect();
    let claim = store.claim_get(&queue.key, it.claim, now()).await.unwrap();
    let ttl = claim.map(|claim| claim.ttl);
    let subscriptions = store.subscriptions(&queue.key, None, 10, now()).await.unwrap();
    let mut ttls: Vec<_> = subscriptions.iter().map(|it| it.ttl).collect();
    ttls.sort_unstable();
    let generation = store.generation(&queue.key).await.unwrap().map(|it| it.version);
    let moved = it.target.by(store).texts().await;
    format!("{all:#?} {ttl:?} {ttls:?} {generation:?} {moved:?}")
}

/// For each script of an operation: its request is executed, the answer is lost, and the repeat
/// gets the same answer and does nothing more.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_after_its_original_gets_the_same_answer() {
    let server = Server::start(&[]);
    let proxy = HoldingProxy::to(server.port).await;
    let mut scripts = BTreeSet::new();
    for (name, operation) in OPERATIONS {
        // A separate store for each, because some operations work on all queues of a store.
        let prefix = |n: usize| format!("{}-{n}", name.replace(' ', "-"));
        let with = |n, uri: &str| Options { prefix: prefix(n), ..options(uri) };
        let direct = open(with(20, &server.uri())).await;
        let once = fixture(&direct).await;
        operation(&once).await;
        let expected = state(&once, &direct).await;
        for n in 0..20 {
            let direct = open(with(n, &server.uri())).await;
            let store = open(with(n, &proxy.uri())).await;
            let mut it = fixture(&direct).await;
            (it.queue, it.target) = (it.queue.by(&store), it.target.by(&store));
            proxy.hide_answer(n);
            let result = {
                let it = it.clone();
                tokio::spawn(async move { operation(&it).await }).await
            };
            let Some(held) = proxy.take_held() else { break };
            // A pop is the only operation whose answer cannot be given again, as documented.
            assert_eq!(result.is_err(), *name == "pop", "{name}, script {n}: {result:?}");
            assert_eq!(state(&it, &direct).await, expected, "{name}, script {n}");
            scripts.insert(held.digest);
        }
    }
    assert!(scripts.len() >= 27, "{} scripts", scripts.len());
}

/// While a claim's answer is lost, more claims and delays come due than one call ends. The repeat
/// must not be told to call again, because another call would not be recognised as a repeat.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_is_answered_before_due_work() {
    let server = Server::start(&[]);
    let proxy = HoldingProxy::to(server.port).await;
    let queue = Queue::new(&open(options(&proxy.uri())).await, "q").await;
    queue.post(&["a", "b"]).await;
    let delayed = NewMessage { delay: 60, ..message("delayed") };
    queue.try_post_new(vec![delayed; 1001]).await.unwrap();
    proxy.copy(0);
    assert_eq!(texts(&queue.claim(1).await), ["a"]);
    let claim = proxy.take_held().expect("the claim was copied");
    // The queue's time advances, and nothing ends the delays.
    let batch = Batch {
        request: rand(),
        client: zaqar_core::ClientId::new("me"),
        messages: vec![message("c")],
        notify: true,
    };
    let later = now().plus_secs(70);
    queue.store.post(&queue.key, queue.generation, batch, later).await.unwrap();
    let answer = claim.repeat().send().await;
    assert!(answer.contains("\r\ndone\r\n"), "{answer}");
    let held = queue.all().await.into_iter().filter(|it| it.claim.is_some());
    assert_eq!(texts(&held.collect::<Vec<_>>()), ["a"], "it took nothing else");
}

/// How often each command was executed, including those within scripts.
fn commands(server: &Server) -> BTreeMap<String, u64> {
    let stats = server.cli(&["INFO", "commandstats"]);
    let read = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
    };
    stats.lines().filter_map(read).filter(|(name, _)| !name.contains("info")).collect()
}

/// Recognising a repeat or a late original takes a few commands of constant cost, however many
/// requests are remembered.
#[tokio::test(flavor = "multi_thread")]
async fn recognising_a_repeat_has_constant_cost() {
    const CONSTANT: [&str; 8] =
        ["evalsha", "time", "hexists", "hget", "hset", "hmget", "pexpire", "del"];
    let server = Server::start(&[]);
    let proxy = HoldingProxy::to(server.port).await;
    let queue = Queue::new(&open(options(&proxy.uri())).await, "q").await;
    // The first post also uploads the script and updates the schedule.
    queue.post(&["first"]).await;
    proxy.copy(0);
    let posted = queue.post(&["a"]).await;
    let original = proxy.take_held().expect("the post was copied");
    let repeat = original.clone().repeat();
    let remembered = server.cli(&["--scan", "--pattern", "*:r:*"]);
    let fill = "for n = 1, 100000 do redis.call('HSET', KEYS[1], 'request ' .. n, n) end";
    let mut costs = Vec::new();
    for is_filled in [false, true] {
        for key in remembered.lines().filter(|_| is_filled) {
            server.cli(&["EVAL", fill, "1", key]);
        }
        server.cli(&["CONFIG", "RESETSTAT"]);
        let answer = repeat.send().await;
        assert!(answer.contains(&posted[0].position.get().to_string()), "{answer}");
        assert!(original.send().await.starts_with("-ZLATE"));
        let cost: BTreeMap<_, _> =
            commands(&server).into_iter().filter(|(name, _)| !name.contains("config")).collect();
        let others: Vec<_> = cost.keys().filter(|it| !CONSTANT.contains(&it.as_str())).collect();
        assert!(others.is_empty(), "{others:?}");
        costs.push(cost);
    }
    assert_eq!(costs[0], costs[1]);
    assert_eq!(queue.texts().await, ["first", "a"]);
}

/// A duplicate of an answered request has no further effect.
#[tokio::test(flavor = "multi_thread")]
async fn a_duplicated_request_is_executed_once() {
    let server = Server::start(&[]);
    let proxy = HoldingProxy::to(server.port).await;
    let (store, direct) = (open(options(&proxy.uri())).await, open(options(&server.uri())).await);
    for (name, operation) in OPERATIONS {
        if !["post", "claim", "pop", "purge", "claim with dead dead_letters"].contains(name) {
            continue;
        }
        for n in 0..20 {
            let mut it = fixture(&direct).await;
            (it.queue, it.target) = (it.queue.by(&store), it.target.by(&store));
            proxy.copy(n);
            operation(&it).await;
            let Some(copied) = proxy.take_held() else { break };
            let (all, moved) =
                (it.queue.by(&direct).all().await, it.target.by(&direct).all().await);
            copied.send().await;
            assert_eq!(it.queue.by(&direct).all().await, all, "{name}, script {n}");
            assert_eq!(it.target.by(&direct).all().await, moved, "{name}, script {n}");
        }
    }
}

/// A request that arrives after its deadline does nothing, even if it was never repeated: its
/// caller was told that it failed.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_after_its_deadline_does_nothing() {
    let server = Server::start(&[]);
    let proxy = HoldingProxy::to(server.port).await;
    let mut late = Vec::new();
    for (name, operation) in OPERATIONS {
        for n in 0..20 {
            // A separate store for each, because some operations work on all queues of a store.
            let prefix = format!("late-{}-{n}", late.len());
            let with = |uri: &str| Options { prefix: prefix.clone(), ..options(uri) };
            let direct = open(with(&server.uri())).await;
            let mut it = fixture(&direct).await;
            let uri = format!("{}?socket_timeout=3", proxy.uri());
            let once = open(Options { max_reconnect_attempts: 0, ..with(&uri) }).await;
            (it.queue, it.target) = (it.queue.by(&once), it.target.by(&once));
            let (queue, target) = (it.queue.by(&direct), it.target.by(&direct));
            proxy.hold(n);
            // It panics if its request fails.
            drop(tokio::spawn(async move { operation(&it).await }).await);
            let Some(held) = proxy.take_held() else { break };
            late.push((*name, queue, target, held));
        }
    }
    let scripts: BTreeSet<_> = late.iter().map(|(.., held)| held.digest.clone()).collect();
    assert!(scripts.len() >= 27, "{} scripts", scripts.len());
    let last = late.iter().map(|(.., held)| held.deadline()).max().expect("there are some");
    while now().as_millis() <= last {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for (name, queue, target, held) in late {
        if queue.open().await.is_ok_and(|there| there == queue.generation) {
            queue.post(&["posted after the deadline"]).await;
        }
        let (all, moved) = (queue.all().await, target.all().await);
        let answer = held.send().await;
        assert!(answer.starts_with("-ZLATE"), "{name}: {answer}");
        assert_eq!(queue.all().await, all, "{name}");
        assert_eq!(target.all().await, moved, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_purge_keeps_later_posts() {
    let server = Server::start(&[]);
    let proxy = HoldingProxy::to(server.port).await;
    let queue = Queue::new(&open(options(&proxy.uri())).await, "q").await;
    queue.post(&["a"]).await;
    proxy.hold(0);
    queue.store.purge(&queue.key, now()).await.unwrap();
    let held = proxy.take_held().expect("the purge was held up");
    queue.post(&["b"]).await;
    assert!(held.send().await.starts_with("-ZLATE"));
    assert_eq!(queue.texts().await, ["b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_claim_holds_nothing() {
    let server = Server::start(&[]);
    let proxy = HoldingProxy::to(server.port).await;
    let queue = Queue::new(&open(options(&proxy.uri())).await, "q").await;
    queue.post(&["a", "b", "c", "d"]).await;
    proxy.hold(0);
    let (claim, taken) = queue.try_claim(2).await.unwrap();
    assert_eq!(texts(&taken), ["a", "b"]);
    let held = proxy.take_held().expect("the claim was held up");
    // The same applies after the claim has ended.
    queue.store.claim_release(&queue.key, claim, now()).await.unwrap();
    assert!(held.send().await.starts_with("-ZLATE"));
    assert!(queue.store.claim_get(&queue.key, claim, now()).await.unwrap().is_none());
    assert_eq!(texts(&queue.claim(9).await), ["a", "b", "c", "d"], "nobody holds any of them");
}
