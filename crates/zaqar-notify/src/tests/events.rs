//! Events about subscribers.

use super::*;

/// Retries are used up by the first attempt.
const ONCE: fn() -> Value = || {
    json!({"retries_with_no_delay": 0, "minimum_delay_retries": 0, "maximum_delay_retries": 0,
        "minimum_delay": 1, "maximum_delay": 1, "retry_backoff_function": "linear"})
};

impl Scene {
    /// Names of the posted events, each with its queue.
    fn told(&self) -> Vec<(String, String)> {
        let events = self.events().into_iter();
        events
            .map(|(queue, event)| (queue, event["zaqar_event"].as_str().unwrap().into()))
            .collect()
    }

    fn events(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut *self.posted.events.lock().unwrap())
    }

    async fn fails(&self, body: &str) -> MessageId {
        self.answer(&[400]);
        let id = self.post(body, 3600, 0).await;
        self.step().await;
        id
    }
}

#[tokio::test]
async fn a_failed_delivery_makes_one_event_a_minute() {
    let mut scene = Scene::new().await;
    let id = scene.subscribe("http://a/", json!({"failure_queue": "alerts"})).await;
    scene.post("0", 3600, 0).await;
    scene.step().await;
    assert_eq!(scene.told(), [], "a success creates no event");
    let first = scene.fails("1").await;
    let [(queue, event)] = scene.events().try_into().unwrap();
    assert_eq!(queue, "alerts");
    let expected = json!({
        "zaqar_event": "exhausted",
        "subscription_id": id.to_string(),
        "queue_name": "q",
        "subscriber": "http://a/",
        "message_id": first.to_string(),
        "reason": "the receiver answered 400",
        "count": 1,
        "at": event["at"],
    });
    assert_eq!(event, expected);
    for _ in 0..5 {
        scene.fails("2").await;
    }
    assert_eq!(scene.told(), []);
    scene.clock.advance(Duration::from_secs(60));
    scene.fails("3").await;
    let [(_, event)] = scene.events().try_into().unwrap();
    assert_eq!(event["count"], 6);
}

#[tokio::test]
async fn used_up_retries_make_an_event_and_a_retry_does_not() {
    let mut scene = Scene::new().await;
    let options = json!({"failure_queue": "alerts", "_retry_policy": ONCE()});
    scene.subscribe("http://a/", options).await;
    scene.subscribe("http://b/", json!({})).await;
    scene.answer(&[500; 100]);
    scene.post("1", 3600, 0).await;
    for _ in 0..20 {
        scene.pass(1).await;
    }
    assert_eq!(scene.told(), [("alerts".to_owned(), "exhausted".to_owned())]);
}

#[tokio::test]
async fn a_suspension_and_its_end_make_one_event_each() {
    let mut scene = Scene::new().await;
    let id = scene.subscribe("http://a/", json!({"failure_queue": "alerts"})).await;
    let handle = scene.workers.handle();
    handle.resume(&scene.key, id).await.unwrap();
    scene.answer(&[410]);
    scene.post("1", 3600, 0).await;
    scene.step().await;
    let expected = ["exhausted", "suspended"].map(|name| ("alerts".to_owned(), name.to_owned()));
    assert_eq!(scene.told(), expected);
    scene.post("2", 3600, 0).await;
    scene.step().await;
    handle.resume(&scene.key, id).await.unwrap();
    handle.resume(&scene.key, id).await.unwrap();
    scene.step().await;
    assert_eq!(scene.told(), [("alerts".to_owned(), "resumed".to_owned())]);
}

#[tokio::test]
async fn an_event_that_fails_makes_no_other() {
    let mut scene = Scene::new().await;
    // The queue of the events is the one whose subscriber fails.
    scene.subscribe("http://a/", json!({"failure_queue": "q"})).await;
    scene.fails("1").await;
    let [(_, event)] = scene.events().try_into().unwrap();
    scene.clock.advance(Duration::from_secs(600));
    scene.fails(&event.to_string()).await;
    assert_eq!(scene.told(), []);
    scene.fails("2").await;
    assert_eq!(scene.told().len(), 1);
}

/// An event whose queue cannot be posted to waits in the store: any server posts it, once.
#[tokio::test]
async fn an_event_waits_in_the_store_for_its_queue() {
    let mut scene = Scene::new().await;
    scene.subscribe("http://a/", json!({"failure_queue": "alerts"})).await;
    *scene.posted.failures.lock().unwrap() = 2;
    scene.fails("1").await;
    assert_eq!(scene.told(), []);
    // Its worker is killed; another tries once its claim has expired.
    scene.other_server();
    scene.step().await;
    assert_eq!(scene.told(), []);
    scene.pass(ROW_LEASE).await;
    assert_eq!(scene.told(), [("alerts".to_owned(), "exhausted".to_owned())]);
    scene.pass(ROW_LEASE).await;
    assert_eq!(scene.told(), []);
}

/// Events that wait are posted together, those of each queue, at most 32 at a time.
#[tokio::test]
async fn events_that_wait_for_one_queue_are_posted_together() {
    let mut scene = Scene::new().await;
    for at in 0..40 {
        let queue = if at < 5 { "few" } else { "many" };
        let subscriber = format!("http://a-{at}/");
        scene.subscribe(&subscriber, json!({"failure_queue": queue})).await;
    }
    *scene.posted.failures.lock().unwrap() = u32::MAX;
    scene.answer(&[400; 40]);
    scene.post("1", 3600, 0).await;
    scene.step().await;
    assert_eq!(scene.told(), []);
    *scene.posted.failures.lock().unwrap() = 0;
    scene.pass(ROW_LEASE).await;
    let posts = std::mem::take(&mut *scene.posted.posts.lock().unwrap());
    assert!(posts.len() <= 4, "two of each of two pages: {posts:?}");
    let count =
        |queue: &str| posts.iter().filter(|one| one.0 == queue).map(|one| one.1).sum::<usize>();
    assert_eq!([count("few"), count("many")], [5, 35]);
    assert_eq!(scene.told().len(), 40);
    scene.pass(ROW_LEASE).await;
    assert_eq!(scene.told(), [], "once");
}

/// The event comes before the end of the delivery: a server that dies in between repeats both.
#[tokio::test]
async fn an_event_is_posted_before_its_delivery_is_settled() {
    let mut scene = Scene::new().await;
    let id = scene.subscribe("http://a/", json!({"failure_queue": "alerts"})).await;
    let rows = scene.subscription(id).deliveries().unwrap();
    scene.answer(&[410]);
    scene.post("1", 3600, 0).await;
    scene.step().await;
    // Rows and the state of the subscription, as each event found them.
    let found = std::mem::take(&mut *scene.posted.found.lock().unwrap());
    assert_eq!(found, [(1, false), (0, false)], "exhausted, then suspended");
    assert_eq!(scene.told().len(), 2);
    scene.workers.handle().resume(&scene.key, id).await.unwrap();
    let found = std::mem::take(&mut *scene.posted.found.lock().unwrap());
    assert_eq!(found, [(0, true)]);
    assert_eq!(scene.count(&rows).await, 0);
}
