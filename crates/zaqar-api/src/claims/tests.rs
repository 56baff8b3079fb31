//! Dead-letter queues, which claims create, and messages that claims leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use zaqar_core::storage::{Messages, Queues};
use zaqar_core::{QueueKey, Secret};

use crate::tests::{World, bodies, caller, claim, create, key, post, queue};
use crate::{
    Admission, Context, Error, Facts, Keyring, Layers, Options, PostMessages, PostedMessage, Quota,
    ReadClaim,
};

/// Admits everything but queues that operations create beside their own.
#[derive(Clone, Default)]
struct NoMoreQueues(Arc<AtomicBool>);

#[async_trait]
impl Quota for NoMoreQueues {
    async fn admit(&self, _: &Context, _: &Facts<'_>) -> Result<Option<Box<dyn Admission>>, Error> {
        Ok(None)
    }

    async fn admit_new_queue(&self, _: &QueueKey) -> Result<Option<Box<dyn Admission>>, Error> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(Error::OverQuota { reason: "no more".to_owned() }),
            false => Ok(None),
        }
    }
}

async fn exists(world: &World, name: &str) -> bool {
    Queues::get(&*world.store, &key(name)).await.unwrap().is_some()
}

/// Claims a message once and releases it.
async fn claim_once(api: &crate::Api) -> u32 {
    let (id, messages) = claim(api, "q").await.unwrap();
    let released = ReadClaim { queue: queue("q"), id: id.to_string() };
    api.release_claim(&caller(), released).await.unwrap();
    messages[0].claim_count
}

#[tokio::test]
async fn only_a_dead_letter_creates_its_queue() {
    let world = World::new();
    let api = world.server();
    create(&api, "q", json!({"_dead_letter_queue": "dead", "_max_claim_count": 1})).await;
    assert!(claim(&api, "q").await.is_none());
    assert!(!exists(&world, "dead").await, "nothing was claimed");
    post(&api, "q", "1").await.unwrap();
    claim_once(&api).await;
    assert!(!exists(&world, "dead").await, "nothing was moved");
    assert!(claim(&api, "q").await.is_none());
    assert_eq!(bodies(&api, "dead").await, ["1"]);
    // Another server does not know the queue yet.
    post(&api, "q", "2").await.unwrap();
    claim_once(&api).await;
    assert!(claim(&world.server(), "q").await.is_none());
    assert_eq!(bodies(&api, "dead").await, ["1", "2"]);
}

#[tokio::test]
async fn dead_letters_stay_where_they_are_while_their_queue_exceeds_a_quota() {
    let (world, quota) = (World::new(), NoMoreQueues::default());
    let layers = Layers { quota: Some(Arc::new(quota.clone())), ..Layers::default() };
    let api = world.server_with(Options { layers, ..Options::default() });
    create(&api, "q", json!({"_dead_letter_queue": "dead", "_max_claim_count": 1})).await;
    post(&api, "q", "1").await.unwrap();
    quota.0.store(true, Ordering::Relaxed);
    for count in 1..4 {
        assert_eq!(claim_once(&api).await, count);
    }
    assert_eq!(bodies(&api, "q").await, ["1"]);
    assert!(!exists(&world, "dead").await);
    quota.0.store(false, Ordering::Relaxed);
    assert!(claim(&api, "q").await.is_none());
    assert_eq!(bodies(&api, "dead").await, ["1"]);
}

/// A server with the keys of this `message_encryption_key`.
fn server_with_keys(world: &World, keys: &str) -> crate::Api {
    let keyring = Keyring::parse(&Secret::new(keys.to_owned())).unwrap();
    world.server_with(Options { keyring: Some(Arc::new(keyring)), ..Options::default() })
}

#[tokio::test]
async fn claims_leave_messages_whose_key_is_missing() {
    let world = World::new();
    let before = server_with_keys(&world, "a:0123456789abcdef");
    let after = server_with_keys(&world, "b:fedcba9876543210");
    let attributes = json!({
        "_enable_encrypt_messages": true, "_dead_letter_queue": "dead", "_max_claim_count": 1,
    });
    create(&before, "q", attributes).await;
    post(&before, "q", "1").await.unwrap();
    post(&after, "q", "2").await.unwrap();
    let (_, messages) = claim(&after, "q").await.unwrap();
    assert_eq!((messages.len(), messages[0].claim_count), (1, 1), "its own message");
    let stats = Messages::stats(&*world.store, &key("q"), world.now()).await.unwrap().unwrap();
    assert_eq!((stats.free, stats.claimed), (1, 1), "the other one is not held");
    world.clock.advance(Duration::from_secs(60));
    assert!(claim(&after, "q").await.is_none());
    assert_eq!(bodies(&after, "dead").await, ["2"], "its own message has become a dead letter");
    // With both keys the other one has never been claimed, and becomes a dead letter as usual.
    let both = server_with_keys(&world, "b:fedcba9876543210, a:0123456789abcdef");
    let (_, messages) = claim(&both, "q").await.unwrap();
    assert_eq!((&messages[0].payload.bytes[..], messages[0].claim_count), (&b"1"[..], 1));
    world.clock.advance(Duration::from_secs(60));
    assert!(claim(&after, "q").await.is_none());
    assert_eq!(bodies(&both, "q").await, ["1"], "claimed once, but not readable there");
    assert!(claim(&both, "q").await.is_none());
    assert_eq!(bodies(&both, "dead").await, ["2", "1"]);
}

#[tokio::test]
async fn a_claim_finds_a_message_after_many_whose_key_is_missing() {
    let world = World::new();
    let before = server_with_keys(&world, "a:0123456789abcdef");
    let after = server_with_keys(&world, "b:fedcba9876543210");
    create(&before, "q", json!({"_enable_encrypt_messages": true})).await;
    let message = PostedMessage { body: "1".into(), ttl: None, delay: None };
    let messages = vec![message; 2100];
    let many = PostMessages { queue: queue("q"), size: 100, messages, notify: false };
    before.call(&caller(), many).await.unwrap();
    assert!(claim(&after, "q").await.is_none());
    post(&after, "q", "2").await.unwrap();
    let (_, messages) = claim(&after, "q").await.unwrap();
    assert_eq!((messages.len(), &messages[0].payload.bytes[..]), (1, &b"2"[..]));
}

#[tokio::test]
async fn a_post_without_a_key_waits_for_one() {
    let world = World::new();
    let keyring = Keyring::parse(&Secret::new("0123456789abcdef".to_owned())).unwrap();
    let options = Options { keyring: Some(Arc::new(keyring)), ..Options::default() };
    create(&world.server_with(options), "q", json!({"_enable_encrypt_messages": true})).await;
    let error = post(&world.server(), "q", "1").await.unwrap_err();
    assert!(error.retry_after().is_some(), "{error}");
    assert!(error.to_string().contains("message_encryption_key"), "{error}");
}
