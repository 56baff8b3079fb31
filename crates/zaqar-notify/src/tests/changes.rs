//! A subscription that another server changes: its messages go to the new address, whatever the old
//! one answers, and it is not suspended for that.

use super::*;

impl Scene {
    /// A change of the subscriber, which this server does not know of.
    fn change(&self, id: SubscriptionId, subscriber: &str) -> Change {
        let subscriber = Some(subscriber.to_owned());
        let change = SubscriptionChange { subscriber, ..SubscriptionChange::default() };
        Change { store: Arc::clone(&self.store), subscription: self.subscription(id), change }
    }

    /// Runs the workers, and checks that the last of what they send is `body` to the new address.
    async fn expect_at_the_new_address(&mut self, id: SubscriptionId, body: &str, case: &str) {
        self.step().await;
        let last = self.sent().pop().unwrap();
        assert_eq!((last.subscriber.as_str(), last.body.as_str()), ("http://new/", body), "{case}");
        let counts = self.workers.handle().counts();
        assert_eq!((counts.failed, counts.suspended), (0, 0), "{case}");
        let deliveries = Deliveries::new(Arc::clone(&self.store) as _);
        assert!(!deliveries.is_suspended(&self.subscription(id)).await.unwrap(), "{case}");
    }
}

/// Each status ends the delivery, the last ones because the retries are used up.
#[tokio::test]
async fn what_the_old_address_answers_ends_nothing() {
    let once = json!({"retries_with_no_delay": 0, "minimum_delay_retries": 0,
        "minimum_delay": 5, "maximum_delay": 5, "maximum_delay_retries": 0});
    for (status, options, body) in [
        (404, json!({}), "2"),
        (404, json!({"ordered": true}), "2"),
        (404, json!({"batch": 10}), "[2]"),
        (410, json!({}), "2"),
        (500, json!({"_retry_policy": once}), "2"),
        (500, json!({"_retry_policy": once, "batch": 10}), "[2]"),
    ] {
        let case = format!("{status} {options}");
        let mut scene = Scene::new().await;
        let id = scene.subscribe("http://old/", options).await;
        scene.post("1", 3600, 0).await;
        scene.step().await;
        assert_eq!(scene.sent().len(), 1);
        scene.change(id, "http://new/").make().await;
        scene.answer(&[status]);
        scene.post("2", 3600, 0).await;
        scene.expect_at_the_new_address(id, body, &case).await;
    }
}

#[tokio::test]
async fn an_answer_after_the_change_ends_nothing() {
    for status in [404, 410] {
        let mut scene = Scene::new().await;
        let id = scene.subscribe("http://old/", json!({})).await;
        *scene.script.change.lock().unwrap() = Some(scene.change(id, "http://new/"));
        scene.answer(&[status]);
        scene.post("1", 3600, 0).await;
        scene.expect_at_the_new_address(id, "1", &status.to_string()).await;
    }
}

/// The message that was rejected has failed before the change.
#[tokio::test]
async fn a_change_during_a_suspension_ends_it() {
    let mut scene = Scene::new().await;
    let id = scene.subscribe("http://old/", json!({"failure_queue": "alerts"})).await;
    scene.answer(&[410]);
    scene.post("1", 3600, 0).await;
    scene.step().await;
    scene.workers.handle().resume(&scene.key, id).await.unwrap();
    scene.posted.events.lock().unwrap().clear();
    scene.answer(&[410]);
    // Less than a minute after the first it is not told that a message failed, only of the
    // suspension.
    scene.post("2", 3600, 0).await;
    *scene.posted.change.lock().unwrap() = Some(scene.change(id, "http://new/"));
    scene.step().await;
    let told = std::mem::take(&mut *scene.posted.events.lock().unwrap());
    let told: Vec<_> = told.into_iter().map(|(_, event)| event["zaqar_event"].clone()).collect();
    assert_eq!(told, ["suspended", "resumed"]);
    scene.sent();
    scene.post("3", 3600, 0).await;
    scene.step().await;
    let sent: Vec<_> = scene.sent().into_iter().map(|sent| sent.subscriber + &sent.body).collect();
    assert_eq!(sent, ["http://new/3"]);
}
