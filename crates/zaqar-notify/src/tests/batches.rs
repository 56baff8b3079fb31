//! Several messages in one request, and how one answer settles them.

use super::*;

async fn scene(options: Value) -> (Scene, SubscriptionId) {
    let mut scene = Scene::new().await;
    let id = scene.subscribe("http://a/", options).await;
    (scene, id)
}

impl Scene {
    async fn posts(&self, bodies: std::ops::Range<usize>) -> Vec<MessageId> {
        let mut ids = Vec::new();
        for body in bodies {
            ids.push(self.post(&body.to_string(), 3600, 0).await);
        }
        ids
    }

    async fn states(&self, id: SubscriptionId) -> Vec<(DeliveryState, usize)> {
        self.known(id).await.into_iter().map(|(_, state, attempts)| (state, attempts)).collect()
    }
}

#[tokio::test]
async fn messages_that_are_due_together_are_sent_together() {
    let (scene, id) = scene(json!({"batch": 4})).await;
    scene.posts(0..9).await;
    scene.step().await;
    let mut sent = scene.bodies();
    sent.sort();
    assert_eq!(sent, ["[0,1,2,3]", "[4,5,6,7]", "[8]"]);
    assert_eq!(scene.states(id).await, [(DeliveryState::Delivered, 1); 9]);
}

#[tokio::test]
async fn one_answer_settles_all() {
    use DeliveryState::{Delivered, Failed, Pending};
    // Four immediate attempts, by the policy; then all wait, and are sent together again.
    let (scene, id) = scene(json!({"batch": 10})).await;
    scene.answer(&[500; 4]);
    scene.posts(0..3).await;
    scene.step().await;
    assert_eq!(scene.bodies(), ["[0,1,2]"; 4]);
    assert_eq!(scene.states(id).await, [(Pending, 4); 3]);
    scene.pass(10).await;
    assert_eq!(scene.bodies(), ["[0,1,2]"]);
    assert_eq!(scene.states(id).await, [(Delivered, 5); 3]);
    // All are rejected together, and each can be redelivered.
    scene.answer(&[400]);
    let ids = scene.posts(3..5).await;
    scene.step().await;
    assert_eq!(scene.bodies(), ["[3,4]"]);
    assert_eq!(scene.states(id).await[3..], [(Failed, 1); 2]);
    let handle = scene.workers.handle();
    let again = handle.redeliver(&scene.key, id, ids[1]).await.unwrap();
    assert_eq!(again, Redelivery::Scheduled);
    scene.step().await;
    assert_eq!(scene.bodies(), ["[4]"]);
    assert_eq!(scene.states(id).await[3..], [(Failed, 1), (Delivered, 2)]);
}

#[tokio::test]
async fn each_message_has_its_own_retries() {
    use DeliveryState::{Delivered, Failed};
    let policy = json!({"retries_with_no_delay": 0, "minimum_delay_retries": 1, "minimum_delay": 5,
        "maximum_delay": 5, "maximum_delay_retries": 0, "retry_backoff_function": "linear"});
    let (scene, id) = scene(json!({"batch": 10, "_retry_policy": policy, "ordered": true})).await;
    scene.answer(&[500; 2]);
    scene.posts(0..1).await;
    scene.step().await;
    scene.posts(1..2).await;
    for _ in 0..20 {
        scene.pass(1).await;
    }
    // The first message's retries end with its second attempt, which is the other message's first.
    assert_eq!(scene.bodies(), ["[0]", "[0,1]", "[1]"]);
    assert_eq!(scene.states(id).await, [(Failed, 2), (Delivered, 2)]);
}

#[tokio::test]
async fn a_filter_and_an_expiry_leave_messages_out() {
    let (scene, id) = scene(json!({"batch": 10, "filter": {"body": [1, 3]}})).await;
    scene.posts(0..5).await;
    scene.step().await;
    assert_eq!(scene.bodies(), ["[1,3]"]);
    assert_eq!(scene.states(id).await, [(DeliveryState::Delivered, 1); 2]);
}

#[tokio::test]
async fn a_batch_is_bounded_in_bytes() {
    let (scene, _) = scene(json!({"batch": 100})).await;
    let large = format!("\"{}\"", "x".repeat(200 * 1024));
    for _ in 0..12 {
        scene.post(&large, 3600, 0).await;
    }
    scene.step().await;
    let sizes: Vec<_> = scene.bodies().iter().map(String::len).collect();
    assert_eq!(sizes.iter().sum::<usize>() / (200 * 1024), 12, "{sizes:?}");
    assert!(sizes.iter().all(|size| *size <= 1024 * 1024 + 100), "{sizes:?}");
    for at in 0..100 {
        scene.post(&at.to_string(), 3600, 0).await;
    }
    scene.step().await;
    assert!(scene.bodies().len() < 12, "small ones are many");
}

/// A row that does not fit is not taken: taking it and giving it back would count as an attempt.
#[tokio::test]
async fn what_does_not_fit_keeps_its_retries() {
    let policy = json!({"retries_with_no_delay": 0, "minimum_delay_retries": 1, "minimum_delay": 5,
        "maximum_delay": 5, "maximum_delay_retries": 0, "retry_backoff_function": "linear"});
    let options = json!({"batch": 100, "max_in_flight": 1, "_retry_policy": policy});
    let (scene, id) = scene(options).await;
    let large = format!("\"{}\"", "x".repeat(200 * 1024));
    for _ in 0..8 {
        scene.post(&large, 3600, 0).await;
    }
    // Each batch fails once, and its retry succeeds.
    scene.answer(&[500; 2]);
    for _ in 0..20 {
        scene.pass(1).await;
    }
    assert_eq!(scene.states(id).await, [(DeliveryState::Delivered, 2); 8]);
}

/// A body that several subscriptions share is stored apart from their rows.
#[tokio::test]
async fn a_batch_of_shared_bodies_is_bounded_in_bytes() {
    let (mut scene, _) = scene(json!({"batch": 100})).await;
    scene.subscribe("http://b/", json!({"batch": 100})).await;
    let large = format!("\"{}\"", "x".repeat(200 * 1024));
    for _ in 0..12 {
        scene.post(&large, 3600, 0).await;
    }
    scene.step().await;
    let sizes: Vec<_> = scene.bodies().iter().map(String::len).collect();
    assert_eq!(sizes.iter().sum::<usize>() / (200 * 1024), 24, "{sizes:?}");
    assert!(sizes.iter().all(|size| *size <= 1024 * 1024 + 100), "{sizes:?}");
}

#[tokio::test]
async fn a_gone_receiver_suspends_and_the_rest_waits() {
    let (scene, id) = scene(json!({"batch": 2, "max_in_flight": 1})).await;
    scene.answer(&[410]);
    scene.posts(0..4).await;
    scene.step().await;
    assert_eq!(scene.bodies(), ["[0,1]"]);
    scene.workers.handle().resume(&scene.key, id).await.unwrap();
    scene.step().await;
    assert_eq!(scene.bodies(), ["[2,3]"]);
}
