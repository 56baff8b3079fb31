//! What deliveries are built on, broken: the tests detect each fault of a store that deliveries
//! would suffer from. And servers that die at any call.
//!
//! Deliveries are messages of internal queues, so a lease is a claim, a due time a renewal or a
//! delay, and the same faults break the store's own behaviours in `zaqar-storage-testkit`.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicI64, Ordering};

use zaqar_core::storage::{LeaseRequest, Outbox};
use zaqar_storage_testkit::Fault;

use super::*;

thread_local! {
    static FAULT: Cell<Option<Fault>> = const { Cell::new(None) };
}

/// The fault of the stores that this thread makes.
pub(super) fn fault() -> Option<Fault> {
    FAULT.get()
}

/// Whether a test fails on a store with a fault.
fn breaks(fault: Fault, test: fn()) -> bool {
    FAULT.set(Some(fault));
    let outcome = catch_unwind(AssertUnwindSafe(test));
    FAULT.set(None);
    outcome.is_err()
}

/// On a store with any of the faults each of the tests fails.
macro_rules! planted {
    ($($name:ident: [$($fault:ident),+] breaks [$($test:expr),+];)*) => {
        $(#[test]
        fn $name() {
            let tests = [$(($test as fn(), stringify!($test))),+];
            for fault in [$(Fault::$fault),+] {
                for (test, name) in tests {
                    assert!(breaks(fault, test), "{name} passes with {fault:?}");
                }
            }
        })*
    };
}

planted! {
    a_lease_that_stays_valid: [ExpiredClaimHolds, LostClaimRenews, LostClaimDeletes, DoubleClaim]
        breaks [super::a_worker_that_was_too_slow_settles_nothing];
    a_due_time_that_is_ignored: [DelayIgnored] breaks [a_delayed_message_of_a_batch_waits];
    a_retry_that_does_not_wait: [RenewIgnored] breaks [super::retries_follow_the_policy];
    attempts_that_are_not_counted: [ClaimNotCounted] breaks [super::retries_follow_the_policy];
    a_body_that_goes_with_the_first_delivery: [GetRemoves] breaks [
        a_body_stays_until_the_last_delivery_has_ended, super::every_subscriber_gets_every_message
    ];
    an_expansion_to_younger_subscriptions: [EntryCreatedWhenLeased]
        breaks [super::a_subscription_gets_what_is_posted_after_it];
    an_expansion_by_many_or_none: [EntryLeaseIgnored, EntryLeaseNeverExpires, SettleIgnored]
        breaks [an_entry_of_a_dead_worker_is_expanded_by_another];
    an_entry_that_is_not_written: [OutboxNotWritten]
        breaks [super::every_subscriber_gets_every_message];
    an_order_that_is_not_kept: [ListHidesClaimed] breaks [what_is_ordered_waits_for_one_alone];
    a_lease_that_is_overtaken: [LeaseOvertakes] breaks [what_is_ordered_waits_for_a_dead_server];
    entries_that_are_not_settled: [SettlesOne] breaks [what_is_settled_is_not_expanded_again];
    rows_that_share_a_claim: [ClaimShared] breaks [a_retry_holds_no_other_row];
    a_suspension_that_is_not_seen: [StaleClaim] breaks [a_suspension_is_seen_by_all_at_once];
    a_row_that_outlives_its_message: [ExpiredShown] breaks [a_row_ends_with_its_lease_at_last];
    an_unconfirmed_recipient: [RecipientsUnconfirmed]
        breaks [nothing_is_made_for_those_that_have_not_confirmed];
}

#[tokio::test]
async fn a_delayed_message_of_a_batch_waits() {
    let mut scene = Scene::new().await;
    scene.subscribe("http://a/", json!({})).await;
    let message = |(body, delay): (&'static str, u64)| {
        let payload = Payload::plain(Bytes::from_static(body.as_bytes()));
        NewMessage { payload, ttl: 3600, delay }
    };
    let messages = [("1", 0), ("2", 30)].map(message).to_vec();
    let client = ClientId::new("c");
    let batch = Batch { request: rand::random(), client, messages, notify: true };
    Messages::post(&*scene.store, &scene.key, GENERATION, batch, START).await.unwrap();
    scene.step().await;
    scene.pass(28).await;
    assert_eq!(scene.bodies(), ["1"]);
    scene.pass(2).await;
    scene.pass(1).await;
    assert_eq!(scene.bodies(), ["2"]);
}

#[tokio::test]
async fn what_is_ordered_waits_for_one_alone() {
    let mut scene = Scene::new().await;
    let policy = json!({"retries_with_no_delay": 0, "minimum_delay_retries": 50});
    scene.subscribe("http://a/", json!({"ordered": true, "_retry_policy": policy})).await;
    scene.answer(&[500]);
    for body in ["1", "2"] {
        scene.post(body, 3600, 0).await;
        scene.step().await;
    }
    assert_eq!(scene.bodies(), ["1"]);
    for _ in 0..20 {
        scene.pass(1).await;
    }
    assert_eq!(scene.bodies(), ["1", "2"]);
}

#[tokio::test]
async fn a_body_stays_until_the_last_delivery_has_ended() {
    let mut scene = Scene::new().await;
    for host in ["a", "b"] {
        scene.subscribe(&format!("http://{host}/"), json!({})).await;
    }
    // One of them fails four times, and once more; whichever is sent to first.
    scene.answer(&[500; 5]);
    let body = format!("\"{}\"", "x".repeat(5000));
    let id = scene.post(&body, 3600, 0).await;
    scene.step().await;
    scene.store.delete(&scene.key, id, None, scene.clock.now()).await.unwrap();
    for _ in 0..30 {
        scene.pass(1).await;
    }
    let mut counts = BTreeMap::<_, usize>::new();
    for sent in scene.sent() {
        assert_eq!(sent.body, body);
        *counts.entry(sent.subscriber).or_default() += 1;
    }
    assert_eq!(counts.values().sum::<usize>(), 7, "{counts:?}");
    assert_eq!(counts.len(), 2);
    assert_eq!(scene.workers.handle().counts().delivered, 2);
}

#[tokio::test]
async fn an_entry_of_a_dead_worker_is_expanded_by_another() {
    let mut scene = Scene::new().await;
    scene.subscribe("http://a/", json!({})).await;
    scene.post("1", 3600, 0).await;
    let lease = LeaseRequest { until: START.plus_secs(60), limit: 1, bytes: 1 };
    let leased = scene.store.lease(&scene.key, &lease, START).await.unwrap();
    assert_eq!(leased.len(), 1, "its worker dies with it");
    scene.step().await;
    scene.pass(59).await;
    assert_eq!(scene.bodies().len(), 0);
    scene.pass(1).await;
    assert_eq!(scene.bodies(), ["1"]);
    for _ in 0..5 {
        scene.pass(60).await;
    }
    assert_eq!(scene.bodies().len(), 0, "once");
}

/// A server dies with the lease of the second post. Others wait for its end before they expand what
/// was posted later.
#[tokio::test]
async fn what_is_ordered_waits_for_a_dead_server() {
    let mut scene = Scene::new().await;
    scene.subscribe("http://a/", json!({"ordered": true})).await;
    scene.post("1", 3600, 0).await;
    scene.step().await;
    scene.post("2", 3600, 0).await;
    let lease = LeaseRequest { until: START.plus_secs(60), limit: 1, bytes: 1 };
    let leased = scene.store.lease(&scene.key, &lease, START).await.unwrap();
    assert_eq!(leased.len(), 1, "its worker dies with it");
    scene.post("3", 3600, 0).await;
    for _ in 0..59 {
        scene.pass(1).await;
    }
    assert_eq!(scene.bodies(), ["1"]);
    scene.pass(1).await;
    assert_eq!(scene.bodies(), ["2", "3"]);
}

/// A server dies at any call; later posts are expanded by another. What is ordered comes in its
/// order, but for what comes twice.
#[tokio::test]
async fn a_server_that_dies_at_any_call_changes_no_order() {
    for calls in 0..1000 {
        let mut scene = Scene::new().await;
        scene.subscribe("http://a/", json!({"ordered": true})).await;
        for body in ["1", "2", "3"] {
            scene.post(body, 3600, 0).await;
        }
        let left = Arc::new(AtomicI64::new(calls));
        let dying = Arc::new(scene.store.connect_for(Arc::clone(&left)));
        let Scene { clock, script, posted, .. } = &scene;
        let killed = workers(&dying, clock, script, posted, Options::default());
        let was_killed = killed.step().await.is_err() || left.load(Ordering::Acquire) <= 0;
        drop(killed);
        for body in ["4", "5"] {
            scene.post(body, 3600, 0).await;
            scene.step().await;
        }
        for _ in 0..30 {
            scene.pass(5).await;
        }
        assert_eq!(first_times(&scene.bodies()), ["1", "2", "3", "4", "5"], "after {calls} calls");
        if !was_killed {
            assert!(calls > 10, "{calls} calls are few");
            return;
        }
    }
    panic!("it has no end");
}

/// Bodies in the order in which each came first.
fn first_times(bodies: &[String]) -> Vec<String> {
    let mut seen = Vec::new();
    for body in bodies {
        if !seen.contains(body) {
            seen.push(body.clone());
        }
    }
    seen
}

#[tokio::test]
async fn what_is_settled_is_not_expanded_again() {
    let mut scene = Scene::new().await;
    scene.subscribe("http://a/", json!({})).await;
    for body in ["1", "2", "3"] {
        scene.post(body, 3600, 0).await;
    }
    for _ in 0..5 {
        scene.step().await;
        scene.clock.advance(Duration::from_secs(60));
    }
    assert_eq!(scene.bodies().len(), 3);
}

/// Rows that were taken together end, and wait, each on its own.
#[tokio::test]
async fn a_retry_holds_no_other_row() {
    let mut scene = Scene::new().await;
    let policy = json!({"retries_with_no_delay": 0, "minimum_delay_retries": 2, "minimum_delay": 5,
        "maximum_delay": 5, "maximum_delay_retries": 0, "retry_backoff_function": "linear"});
    let id = scene.subscribe("http://a/", json!({"_retry_policy": policy})).await;
    for body in ["1", "2", "3", "4"] {
        scene.post(body, 3600, 0).await;
    }
    scene.answer(&[204, 500, 400]);
    scene.step().await;
    assert_eq!(scene.bodies().len(), 4);
    let rows = scene.subscription(id).deliveries().unwrap();
    assert_eq!(scene.count(&rows).await, 1, "one waits for its retry");
    for _ in 0..10 {
        scene.pass(1).await;
    }
    assert_eq!(scene.bodies().len(), 1);
    assert_eq!(scene.count(&rows).await, 0);
}

#[tokio::test]
async fn a_suspension_is_seen_by_all_at_once() {
    let mut scene = Scene::new().await;
    let id = scene.subscribe("http://a/", json!({})).await;
    scene.answer(&[500; 4]);
    scene.post("1", 3600, 0).await;
    scene.step().await;
    let key = scene.subscription(id);
    let later = START.plus_secs(60);
    let [ours, theirs] = [0; 2].map(|_| Deliveries::new(Arc::clone(&scene.store) as _));
    assert!(matches!(ours.take(&key, Take::Each(1), START).await.unwrap(), Taken::Nothing));
    assert!(theirs.set_suspended(&key, true).await.unwrap());
    let taken = ours.take(&key, Take::Each(1), later).await.unwrap();
    assert!(matches!(taken, Taken::Suspended), "{taken:?}");
}

/// A row lives for a lease longer than its message, so that a delivery in progress can end it.
#[tokio::test]
async fn a_row_ends_with_its_lease_at_last() {
    let mut scene = Scene::new().await;
    let id = scene.subscribe("http://a/", json!({})).await;
    scene.answer(&[410]);
    for body in ["1", "2"] {
        scene.post(body, 60, 0).await;
        scene.step().await;
    }
    let rows = scene.subscription(id).deliveries().unwrap();
    assert_eq!(scene.count(&rows).await, 1, "it is suspended");
    scene.clock.advance(Duration::from_secs(60 + ROW_LEASE));
    assert_eq!(scene.count(&rows).await, 0);
}

#[tokio::test]
async fn nothing_is_made_for_those_that_have_not_confirmed() {
    let options = Options { require_confirmation: true, ..Options::default() };
    let mut scene = Scene::with(options).await;
    let id = scene.subscribe("http://a/", json!({})).await;
    scene.post("1", 3600, 0).await;
    scene.step().await;
    let rows = scene.subscription(id).deliveries().unwrap();
    assert_eq!(scene.store.generation(&rows).await.unwrap(), None);
    assert_eq!(scene.tickets().await, 0);
}

/// The server dies after any number of calls to its store. Whatever it had begun, others deliver
/// every message, and tell of every subscriber that rejects one.
#[tokio::test]
async fn a_server_that_dies_at_any_call_loses_nothing() {
    let large = format!("\"{}\"", "x".repeat(5000));
    for calls in 0..1000 {
        let mut scene = Scene::new().await;
        for host in ["a", "b"] {
            scene.subscribe(&format!("http://{host}/"), json!({})).await;
        }
        scene.subscribe("http://rejects/", json!({"failure_queue": "alerts"})).await;
        for body in ["1", &large] {
            scene.post(body, 3600, 0).await;
        }
        let left = Arc::new(AtomicI64::new(calls));
        let dying = Arc::new(scene.store.connect_for(Arc::clone(&left)));
        let Scene { clock, script, posted, .. } = &scene;
        let killed = workers(&dying, clock, script, posted, Options::default());
        let was_killed = killed.step().await.is_err() || left.load(Ordering::Acquire) <= 0;
        drop(killed);
        for _ in 0..10 {
            scene.pass(10).await;
        }
        let sent = scene.sent();
        for host in ["a", "b", "rejects"] {
            for body in ["1", &large] {
                let subscriber = format!("http://{host}/");
                let is_sent =
                    sent.iter().any(|sent| sent.subscriber == subscriber && sent.body == body);
                assert!(is_sent, "{host} lacks a message after {calls} calls");
            }
        }
        let events = scene.posted.events.lock().unwrap().len();
        assert!((1..=2).contains(&events), "{events} events after {calls} calls");
        if !was_killed {
            assert!(calls > 30, "{calls} calls are few");
            return;
        }
    }
    panic!("it has no end");
}

/// The store fails at any call, and works again. What is ordered comes in its order.
#[tokio::test]
async fn a_store_that_fails_at_any_call_changes_no_order() {
    for calls in 0..1000 {
        let mut scene = Scene::new().await;
        scene.subscribe("http://a/", json!({"ordered": true})).await;
        for body in ["1", "2", "3"] {
            scene.post(body, 3600, 0).await;
        }
        let left = Arc::new(AtomicI64::new(calls));
        let failing = Arc::new(scene.store.connect_for(Arc::clone(&left)));
        let Scene { clock, script, posted, .. } = &scene;
        let workers = workers(&failing, clock, script, posted, Options::default());
        let has_failed = workers.step().await.is_err() || left.load(Ordering::Acquire) <= 0;
        left.store(i64::MAX, Ordering::Release);
        for _ in 0..10 {
            workers.step().await.unwrap();
            clock.advance(Duration::from_secs(10));
        }
        assert_eq!(first_times(&scene.bodies()), ["1", "2", "3"], "after {calls} calls");
        if !has_failed {
            assert!(calls > 10, "{calls} calls are few");
            return;
        }
    }
    panic!("it has no end");
}
