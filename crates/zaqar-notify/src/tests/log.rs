//! The log of deliveries, and redelivery.

use super::*;

impl Scene {
    /// Known deliveries with their states and numbers of attempts.
    pub(super) async fn known(&self, id: SubscriptionId) -> Vec<(MessageId, DeliveryState, usize)> {
        let query = DeliveryQuery { state: None, since: None, after: None, limit: 10_000 };
        let found = self.workers.handle().deliveries(&self.key, id, &query).await.unwrap();
        found.iter().map(|one| (one.id, one.state, one.attempts.len())).collect()
    }
}

#[tokio::test]
async fn the_log_says_what_became_of_each_message() {
    let mut scene = Scene::new().await;
    let id = scene.subscribe("http://a/", json!({"filter": {"body.x": [1]}})).await;
    scene.answer(&[204, 404, 500, 500, 500, 500]);
    let mut posted = Vec::new();
    for x in ["1", "1", "2", "1"] {
        posted.push(scene.post(&format!("{{\"x\": {x}}}"), 3600, 0).await);
        scene.step().await;
    }
    use DeliveryState::{Delivered, Failed, Pending};
    let expected = [(posted[0], Delivered, 1), (posted[1], Failed, 1), (posted[3], Pending, 4)];
    assert_eq!(scene.known(id).await, expected, "filtered messages are not logged");
    // Another server reads the same.
    scene.other_server();
    assert_eq!(scene.known(id).await, expected);
    scene.pass(6).await;
    assert_eq!(scene.known(id).await[2], (posted[3], Delivered, 5));
    let handle = scene.workers.handle();
    let found = handle.delivery(&scene.key, id, posted[1]).await.unwrap().unwrap();
    assert_eq!((found.attempts[0].status, found.attempts[0].error.as_deref()), (Some(404), None));
    let query = DeliveryQuery {
        state: Some(Delivered),
        since: Some(START.plus_secs(1)),
        after: Some(posted[1]),
        limit: 1,
    };
    let shown = handle.deliveries(&scene.key, id, &query).await.unwrap();
    assert_eq!(shown.iter().map(|one| one.id).collect::<Vec<_>>(), [posted[3]]);
}

#[tokio::test]
async fn what_failed_can_be_delivered_once_more_and_what_waits_now() {
    let mut scene = Scene::new().await;
    let id = scene.subscribe("http://a/", json!({})).await;
    let handle = scene.workers.handle();
    scene.answer(&[400, 500, 500, 500, 500]);
    let failed = scene.post("\"failed\"", 3600, 0).await;
    scene.step().await;
    let waits = scene.post("\"waits\"", 3600, 0).await;
    scene.step().await;
    scene.sent();
    for message in [failed, waits] {
        let asked = handle.redeliver(&scene.key, id, message).await.unwrap();
        assert_eq!(asked, Redelivery::Scheduled);
        scene.step().await;
    }
    assert_eq!(scene.bodies(), ["\"failed\"", "\"waits\""], "without any time passing");
    use DeliveryState::{Delivered, Expired};
    assert_eq!(scene.known(id).await, [(failed, Delivered, 2), (waits, Delivered, 5)]);
    let again = handle.redeliver(&scene.key, id, failed).await.unwrap();
    assert_eq!(again, Redelivery::Ended(Delivered));
    let other = MessageId { incarnation: Incarnation::new(1), ..failed };
    assert_eq!(handle.redeliver(&scene.key, id, other).await.unwrap(), Redelivery::Unknown);
    scene.answer(&[500; 4]);
    let expires = scene.post("1", 2, 0).await;
    scene.step().await;
    for _ in 0..40 {
        scene.pass(1).await;
    }
    let ended = handle.redeliver(&scene.key, id, expires).await.unwrap();
    assert_eq!(ended, Redelivery::Ended(Expired));
}

#[tokio::test]
async fn a_test_takes_the_way_of_all_messages() {
    let mut scene = Scene::new().await;
    let id = scene.subscribe("http://a/", json!({"filter": {"body": ["x"]}})).await;
    scene.answer(&[503; 4]);
    let body = Payload::plain(Bytes::from_static(b"{\"test\":true}"));
    let test = scene.workers.handle().test(&scene.key, id, body).await.unwrap();
    scene.step().await;
    assert_eq!(scene.known(id).await, [(test, DeliveryState::Pending, 4)]);
    scene.pass(10).await;
    assert_eq!(scene.bodies(), ["{\"test\":true}"; 5]);
    assert_eq!(scene.known(id).await, [(test, DeliveryState::Delivered, 5)]);
}

#[tokio::test]
async fn the_log_is_bounded_and_ends_with_the_subscription() {
    let options = Options { log: 16, log_time: 1000, ..Options::default() };
    let mut scene = Scene::with(options).await;
    let id = scene.subscribe("http://a/", json!({})).await;
    let key = scene.subscription(id);
    let queues = [key.log().unwrap(), key.failed().unwrap()];
    for at in 0..100 {
        scene.answer(&[400]);
        scene.post(&at.to_string(), 5000, 0).await;
        scene.step().await;
    }
    for queue in &queues {
        let kept = scene.count(queue).await;
        assert!((16..=19).contains(&kept), "{kept} in {queue:?}");
    }
    scene.pass(1001).await;
    assert_eq!(scene.known(id).await, []);
    scene.workers.handle().remove(&scene.key, id).await.unwrap();
    for queue in &queues {
        assert_eq!(Heads::generation(&*scene.store, queue).await.unwrap(), None);
    }
    // Late entries leave nothing behind.
    let deliveries = Deliveries::new(Arc::clone(&scene.store) as _);
    let payload = vec![Payload::plain(Bytes::from_static(b"{}"))];
    let now = scene.clock.now();
    let ids = deliveries.append(&key, &queues[0], payload, 60, now).await.unwrap();
    assert_eq!(ids, []);
    assert_eq!(Heads::generation(&*scene.store, &queues[0]).await.unwrap(), None);
}

#[tokio::test]
async fn without_a_log_nothing_is_kept() {
    let mut scene = Scene::with(Options { log: 0, ..Options::default() }).await;
    let id = scene.subscribe("http://a/", json!({})).await;
    scene.answer(&[400]);
    scene.post("1", 5000, 0).await;
    scene.step().await;
    assert_eq!(scene.known(id).await, []);
    let key = scene.subscription(id);
    for queue in [key.log().unwrap(), key.failed().unwrap()] {
        assert_eq!(Heads::generation(&*scene.store, &queue).await.unwrap(), None);
    }
}
