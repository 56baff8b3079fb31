//! What deliveries cost: the calls to the store, counted.

use std::sync::atomic::{AtomicI64, Ordering};

use super::*;
use crate::in_service::MAX_TICKETS;
use crate::row::Ticket;

/// A scene whose workers count their calls to the store.
struct Counted {
    scene: Scene,
    calls: Arc<AtomicI64>,
}

impl Counted {
    async fn new(subscribers: usize, options: Value) -> Self {
        let mut scene = Scene::new().await;
        for at in 0..subscribers {
            scene.subscribe(&format!("http://a-{at}/"), options.clone()).await;
        }
        let calls = Arc::new(AtomicI64::new(i64::MAX));
        let store = Arc::new(scene.store.connect_for(Arc::clone(&calls)));
        let Scene { clock, script, posted, .. } = &scene;
        scene.workers = workers(&store, clock, script, posted, Options::default());
        Self { scene, calls }
    }

    /// Delivers what was posted; returns how many calls that took.
    async fn step(&self) -> i64 {
        self.calls.store(i64::MAX, Ordering::Release);
        self.scene.step().await;
        i64::MAX - self.calls.load(Ordering::Acquire)
    }

    async fn post(&self, count: usize) {
        for at in 0..count {
            self.scene.post(&at.to_string(), 3600, 0).await;
        }
    }
}

const POSTS: usize = 1000;

/// A backlog: the steps are shared by as many deliveries as a destination has in flight.
#[tokio::test]
async fn a_backlog_costs_a_fraction_of_a_call_for_each_delivery() {
    let counted = Counted::new(1, json!({})).await;
    counted.post(POSTS).await;
    let calls = counted.step().await;
    let mut bodies = counted.scene.bodies();
    bodies.sort_by_key(|body| body.parse::<usize>().unwrap());
    let expected: Vec<_> = (0..POSTS).map(|at| at.to_string()).collect();
    assert_eq!(bodies, expected);
    eprintln!("{calls} calls for {POSTS} deliveries");
    assert!(calls <= 300, "{calls} calls for {POSTS} deliveries");
}

/// The expansion to many subscriptions: one step for each of them and each group.
#[tokio::test]
async fn an_expansion_costs_a_step_for_each_subscription_and_group() {
    const SUBSCRIBERS: usize = 16;
    let counted = Counted::new(SUBSCRIBERS, json!({})).await;
    counted.post(POSTS).await;
    let calls = counted.step().await;
    let sent = counted.scene.sent();
    let mut counts = BTreeMap::<_, usize>::new();
    for one in &sent {
        *counts.entry(one.subscriber.clone()).or_default() += 1;
    }
    assert_eq!(sent.len(), SUBSCRIBERS * POSTS, "{counts:?}");
    let of_each = calls / i64::try_from(SUBSCRIBERS).unwrap();
    eprintln!("{of_each} calls for {POSTS} deliveries to one of {SUBSCRIBERS}");
    // Each has a sixteenth of what the project may have in flight: four.
    assert!(of_each <= 600, "{of_each} calls for {POSTS} deliveries to one of {SUBSCRIBERS}");
}

/// Without load a delivery has the store to itself, and takes no more steps than it needs.
#[tokio::test]
async fn a_single_delivery_costs_few_calls() {
    let counted = Counted::new(1, json!({})).await;
    counted.post(1).await;
    counted.step().await;
    for _ in 0..3 {
        counted.post(1).await;
        counted.scene.sent();
        let calls = counted.step().await;
        assert_eq!(counted.scene.bodies(), ["0"]);
        eprintln!("{calls} calls for one delivery");
        assert!(calls <= 32, "{calls} calls for one delivery");
    }
}

/// Rows that come while their subscription is served need no tickets.
#[tokio::test(start_paused = true)]
async fn a_subscription_in_service_needs_no_tickets() {
    let mut scene = Scene::new().await;
    let id = scene.subscribe("http://a/", json!({})).await;
    let key = scene.subscription(id);
    scene.script.hangs.lock().unwrap().push("\"slow\"".to_owned());
    let running = scene.run();
    scene.post("\"slow\"", 3600, 0).await;
    scene.wait_for(1).await;
    let tickets = scene.tickets().await;
    for at in 0..10 {
        // While the first request has no answer.
        scene.post(&at.to_string(), 3600, 0).await;
        scene.wait_for(1).await;
        assert_eq!(scene.tickets().await, tickets, "the service heard of the row");
    }
    assert_eq!(scene.count(&key.deliveries().unwrap()).await, 1, "the slow one is left");
    running.stop().await;
}

/// Other servers post tickets for rows that they add; a service that never ends keeps few of them.
#[tokio::test(start_paused = true)]
async fn a_service_that_does_not_end_keeps_few_tickets() {
    const POSTED: usize = 300;
    let mut scene = Scene::new().await;
    let id = scene.subscribe("http://a/", json!({})).await;
    scene.script.hangs.lock().unwrap().push("\"slow\"".to_owned());
    let running = scene.run();
    scene.post("\"slow\"", 3600, 0).await;
    scene.wait_for(1).await;
    let others = Deliveries::new(Arc::clone(&scene.store) as _);
    for _ in 0..POSTED {
        let (now, subscription) = (scene.clock.now(), scene.subscription(id));
        let ticket = Ticket { subscription, keeps: false };
        others.schedule(&[ticket], now, now).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (tickets, most) = (scene.tickets().await, 2 + MAX_TICKETS);
    assert!((2..=most).contains(&tickets), "{tickets} tickets of {POSTED}");
    running.stop().await;
}

/// A server that was stopped for long may have lost its tickets: another one has served the
/// subscription and deleted them. Rows that it adds then need one, lest it dies.
#[tokio::test(start_paused = true)]
async fn a_service_whose_tickets_may_be_lost_is_not_relied_on() {
    let mut scene = Scene::new().await;
    let id = scene.subscribe("http://a/", json!({})).await;
    let shard = scene.subscription(id).shard();
    scene.script.hangs.lock().unwrap().push("\"slow\"".to_owned());
    let running = scene.run();
    scene.post("\"slow\"", 3600, 0).await;
    scene.wait_for(1).await;
    assert_eq!(scene.tickets().await, 2, "one keeps the subscription, and one is held");
    scene.clock.advance(Duration::from_secs(25));
    let (other, now) = (Deliveries::new(Arc::clone(&scene.store) as _), scene.clock.now());
    let lost = other.take_tickets(shard, 10, now).await.unwrap();
    assert_eq!(lost.len(), 1);
    other.delete_tickets(&lost, now).await.unwrap();
    scene.post("1", 3600, 0).await;
    scene.wait_for(1).await;
    assert_eq!(scene.tickets().await, 2, "the new row has a ticket");
    running.stop().await;
}

/// Look-ups of due queues wait for the slowest pool. A queue that is known to have subscribers does
/// not.
#[tokio::test(start_paused = true)]
async fn news_of_a_known_queue_waits_for_no_look_up() {
    let mut scene = Scene::new().await;
    scene.subscribe("http://a/", json!({})).await;
    let running = scene.run();
    scene.post("0", 3600, 0).await;
    scene.wait_for(1).await;
    scene.store.set_silent(true);
    tokio::time::sleep(Duration::from_secs(5)).await;
    for at in 1..5 {
        scene.post(&at.to_string(), 3600, 0).await;
        scene.wait_for(1).await;
    }
    scene.store.set_silent(false);
    running.stop().await;
}

/// A message that the filter excludes is dropped only by what the filter says after its post.
#[tokio::test]
async fn a_change_of_the_filter_counts_for_what_is_posted_after_it() {
    let mut scene = Scene::new().await;
    let id = scene.subscribe("http://a/", json!({"filter": {"body": ["no"]}})).await;
    scene.post("\"yes\"", 3600, 0).await;
    scene.step().await;
    assert_eq!(scene.bodies().len(), 0);
    let options = Some(json!({"filter": {"body": ["yes"]}}).to_string());
    let change = zaqar_core::storage::SubscriptionChange { options, ..Default::default() };
    scene.store.change_subscription(&scene.key, id, &change, scene.clock.now()).await.unwrap();
    scene.post("\"yes\"", 3600, 0).await;
    scene.step().await;
    assert_eq!(scene.bodies(), ["\"yes\""]);
}
