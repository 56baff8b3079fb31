//! Subscribers that must confirm before they get messages.

use bytes::Bytes;
use serde_json::{Value, json};
use zaqar_core::storage::{SubscriptionChange, Subscriptions};
use zaqar_core::{Clock, Payload, Secret, SubscriptionId};

use super::Scene;
use crate::Options;

fn required() -> Options {
    let signing_key = Some(Secret::new("k".to_owned()));
    Options { require_confirmation: true, signing_key, ..Options::default() }
}

async fn change(scene: &Scene, id: SubscriptionId, change: SubscriptionChange) {
    let now = scene.clock.now();
    scene.store.change_subscription(&scene.key, id, &change, now).await.unwrap();
}

/// The subscribers of the requests since the last call, and what they were sent.
fn sent(scene: &Scene) -> Vec<(String, Value)> {
    let sent = std::mem::take(&mut *scene.script.sent.lock().unwrap());
    let read = |one: super::Sent| (one.subscriber, serde_json::from_str(&one.body).unwrap());
    sent.into_iter().map(read).collect()
}

#[tokio::test]
async fn an_unconfirmed_subscriber_waits_where_that_is_asked_for() {
    let signing_key = Some(Secret::new("k".to_owned()));
    let options = Options { require_confirmation: true, signing_key, ..Options::default() };
    let mut scene = Scene::with(options).await;
    let id = scene.subscribe("http://a/", json!({"filter": {"body.x": [1]}})).await;
    scene.post("1", 3600, 0).await;
    scene.workers.handle().confirm(&scene.key, id, 60, false).await.unwrap();
    scene.step().await;
    let asked = scene.bodies();
    assert_eq!(asked.len(), 1);
    let asked: Value = serde_json::from_str(&asked[0]).unwrap();
    assert_eq!(asked["Message_Type"], "SubscriptionConfirmation");
    let path = format!("/v2/queues/q/subscriptions/{id}/confirm?for=");
    assert!(asked["URL-Paths"].as_str().unwrap().starts_with(&path), "{asked}");
    let confirmed = SubscriptionChange { confirmed: Some(true), ..Default::default() };
    let now = scene.clock.now();
    scene.store.change_subscription(&scene.key, id, &confirmed, now).await.unwrap();
    scene.post("{\"x\": 1}", 3600, 0).await;
    scene.step().await;
    assert_eq!(scene.bodies(), ["{\"x\": 1}"]);
}

/// Another server has changed the subscriber: this one remembers the one before, which failed and
/// for which messages wait.
#[tokio::test]
async fn another_subscriber_gets_a_request_and_nothing_else() {
    let mut scene = Scene::with(required()).await;
    let policy = json!({"retries_with_no_delay": 0, "minimum_delay_retries": 50});
    let id = scene.subscribe("http://a/", json!({"_retry_policy": policy})).await;
    let confirmed = SubscriptionChange { confirmed: Some(true), ..Default::default() };
    change(&scene, id, confirmed).await;
    scene.answer(&[500, 500]);
    scene.post("1", 3600, 0).await;
    let body = Payload::plain(Bytes::from_static(b"2"));
    scene.workers.handle().test(&scene.key, id, body).await.unwrap();
    scene.step().await;
    assert_eq!(sent(&scene).len(), 2);
    // Made for the subscriber before.
    scene.workers.handle().confirm(&scene.key, id, 600, false).await.unwrap();
    let subscriber = Some("http://b/".to_owned());
    let other = SubscriptionChange { subscriber, confirmed: Some(false), ..Default::default() };
    change(&scene, id, other).await;
    scene.workers.handle().confirm(&scene.key, id, 600, false).await.unwrap();
    for _ in 0..20 {
        scene.pass(1).await;
    }
    let requests = sent(&scene);
    assert_eq!(requests.len(), 1, "{requests:?}");
    let (subscriber, request) = &requests[0];
    assert_eq!(subscriber, "http://b/");
    assert_eq!(request["Message_Type"], "SubscriptionConfirmation");
    let digest = zaqar_core::signing::path_for("", "http://b/");
    assert!(request["URL-Paths"].as_str().unwrap().ends_with(&digest), "{request}");
}
