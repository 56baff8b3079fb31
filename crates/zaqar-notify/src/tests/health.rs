//! A failing destination delays no other, and health names it. No test waits on the wall clock.

use tokio_util::sync::CancellationToken;
use zaqar_core::delivery::{SubscriberHealth, SubscriberState};

use super::*;
use crate::destination::Bounds;
use crate::fairness::Limits;

impl Scene {
    async fn health(&self, id: SubscriptionId) -> SubscriberHealth {
        self.workers.handle().health(&self.key, id).await.unwrap().unwrap()
    }
}

/// Tokio's time advances only when all tasks are idle, and the workers' clock never does: so
/// whatever waits for the dead endpoint would wait for ever.
#[tokio::test(start_paused = true)]
async fn one_dead_endpoint_among_many_delays_nobody() {
    const OTHERS: usize = 99;
    const MESSAGES: usize = 25;
    let mut scene = Scene::new().await;
    // Its requests are never answered.
    scene.subscribe("http://dead/", json!({})).await;
    for at in 0..OTHERS {
        scene.subscribe(&format!("http://alive-{at}/"), json!({})).await;
    }
    let spare =
        workers(&scene.store, &scene.clock, &scene.script, &scene.posted, Options::default());
    let running = std::mem::replace(&mut scene.workers, spare);
    let handle = running.handle();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(running.run(shutdown.clone()));
    for at in 0..MESSAGES {
        scene.post(&at.to_string(), 3600, 0).await;
    }
    let mut received = BTreeMap::<String, usize>::new();
    for _ in 0..10_000 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        for sent in scene.sent() {
            *received.entry(sent.subscriber).or_default() += 1;
        }
        let others = received.iter().filter(|(subscriber, _)| !subscriber.contains("dead"));
        if others.map(|(_, count)| count).sum::<usize>() == OTHERS * MESSAGES {
            break;
        }
    }
    let dead = received.remove("http://dead/").unwrap();
    assert_eq!(received.len(), OTHERS);
    assert!(received.values().all(|count| *count == MESSAGES), "{received:?}");
    // It uses its limit in flight, and no more.
    assert_eq!((dead, handle.in_flight()), (16, 16));
    shutdown.cancel();
    running.await.unwrap();
}

/// A subscription that waits for its destination does not keep the server's last capacity.
#[tokio::test(start_paused = true)]
async fn subscriptions_of_a_slow_destination_leave_capacity_for_others() {
    let destination = Bounds { max_in_flight: 1, ..Bounds::default() };
    let limits = Limits { destination, ..Limits::default() };
    let options = Options { limits, subscriptions: 2, ..Options::default() };
    let mut scene = Scene::with(options.clone()).await;
    for at in 0..8 {
        scene.subscribe(&format!("http://dead/{at}"), json!({})).await;
    }
    scene.subscribe("http://alive/", json!({})).await;
    let spare = workers(&scene.store, &scene.clock, &scene.script, &scene.posted, options);
    let running = std::mem::replace(&mut scene.workers, spare);
    let handle = running.handle();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(running.run(shutdown.clone()));
    // The first request is never answered.
    scene.post("1", 3600, 0).await;
    let mut sent = Vec::new();
    for _ in 0..1000 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        sent.extend(scene.sent());
        if sent.len() > 1 {
            break;
        }
    }
    let is_served = sent.iter().any(|sent| sent.subscriber == "http://alive/");
    assert!(is_served && sent.len() == 2, "{sent:?}");
    assert_eq!(handle.in_flight(), 1);
    shutdown.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn health_says_that_a_destination_fails_and_when_it_is_tried() {
    let mut scene = Scene::new().await;
    let options = json!({"_retry_policy": {"retries_with_no_delay": 0, "minimum_delay": 30,
        "minimum_delay_retries": 10, "maximum_delay": 60, "maximum_delay_retries": 10,
        "retry_backoff_function": "linear"}});
    let id = scene.subscribe("http://a/", options).await;
    let other = scene.subscribe("http://b/", json!({"filter": {"body": ["no"]}})).await;
    assert_eq!(scene.health(id).await.state, SubscriberState::Ok);
    scene.answer(&[500; 5]);
    for at in 0..5 {
        scene.post(&at.to_string(), 3600, 0).await;
    }
    scene.step().await;
    let health = scene.health(id).await;
    assert_eq!(health.state, SubscriberState::Failing(START.plus_secs(5)));
    assert_eq!((health.waiting, health.delivered, health.failed), (5, 0, 0));
    assert_eq!((health.last_delivered, health.last_failed), (None, Some(START)));
    assert_eq!(scene.health(other).await.state, SubscriberState::Ok);
    // A failed probe doubles the pause; new messages wait for the next probe.
    scene.answer(&[500]);
    scene.post("5", 3600, 0).await;
    scene.pass(5).await;
    let health = scene.health(id).await;
    assert_eq!(health.state, SubscriberState::Failing(START.plus_secs(15)));
    assert_eq!(health.waiting, 6);
    // The next one succeeds.
    for _ in 0..90 {
        scene.pass(1).await;
    }
    let health = scene.health(id).await;
    assert_eq!((health.state, health.waiting, health.delivered), (SubscriberState::Ok, 0, 6));
    assert!(health.last_delivered > health.last_failed);
}

/// A subscription whose destination has failed for longer than allowed, and so is suspended.
async fn one_of_a_dead_destination() -> (Scene, SubscriptionId) {
    let mut options = Options::default();
    options.limits.destination.suspend_after = Duration::from_secs(60);
    let mut scene = Scene::with(options).await;
    let policy = json!({"retries_with_no_delay": 0, "minimum_delay": 5,
        "minimum_delay_retries": 1000});
    let id = scene.subscribe("http://a/x", json!({ "_retry_policy": policy })).await;
    scene.answer(&[500; 1000]);
    scene.post("1", 3600, 0).await;
    for _ in 0..120 {
        scene.pass(1).await;
    }
    assert_eq!(scene.health(id).await.state, SubscriberState::Suspended);
    assert_eq!(scene.workers.handle().counts().suspended, 1);
    scene.script.statuses.lock().unwrap().clear();
    scene.sent();
    (scene, id)
}

#[tokio::test]
async fn a_new_subscription_to_a_dead_destination_is_tried() {
    let (mut scene, _) = one_of_a_dead_destination().await;
    let id = scene.subscribe("http://a/y", json!({})).await;
    scene.post("2", 3600, 0).await;
    for _ in 0..30 {
        scene.pass(1).await;
    }
    let sent: Vec<_> = scene.sent().into_iter().map(|sent| sent.subscriber + &sent.body).collect();
    assert_eq!(sent, ["http://a/y2"]);
    assert_eq!(scene.health(id).await.state, SubscriberState::Ok);
}

#[tokio::test]
async fn a_subscription_that_was_resumed_on_another_server_is_tried() {
    let (scene, id) = one_of_a_dead_destination().await;
    let Scene { store, clock, script, posted, .. } = &scene;
    let other = workers(store, clock, script, posted, Options::default());
    other.handle().resume(&scene.key, id).await.unwrap();
    for _ in 0..30 {
        scene.pass(1).await;
    }
    assert_eq!(scene.bodies(), ["1"]);
    assert_eq!(scene.health(id).await.state, SubscriberState::Ok);
}

#[tokio::test]
async fn no_message_ends_for_want_of_memory() {
    let mut scene = Scene::new().await;
    let never = json!({"retries_with_no_delay": 0, "minimum_delay_retries": 0,
        "minimum_delay": 5, "maximum_delay": 5, "maximum_delay_retries": 0});
    scene.subscribe("http://a/", json!({"_retry_policy": never})).await;
    scene.answer(&[NO_MEMORY; 10]);
    scene.post("1", 3600, 0).await;
    scene.step().await;
    for _ in 0..10 {
        assert_eq!(scene.sent().len(), 1, "tried once in 5 seconds");
        scene.pass(5).await;
    }
    assert_eq!(scene.bodies(), ["1"]);
    let counts = scene.workers.handle().counts();
    assert_eq!((counts.failed, counts.delivered), (0, 1));
}
