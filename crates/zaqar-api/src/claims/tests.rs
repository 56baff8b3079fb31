//! Dead-letter queues, which claims create.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use zaqar_core::storage::Queues;
use zaqar_core::{QueueKey, Secret};

use crate::tests::{World, bodies, caller, claim, create, key, post, queue};
use crate::{Admission, Context, Error, Facts, Keyring, Layers, Options, Quota, ReadClaim};

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

#[tokio::test]
async fn messages_whose_key_is_missing_become_no_dead_letters() {
    let world = World::new();
    let server = |key: &str| {
        let keyring = Keyring::parse(&Secret::new(key.to_owned())).unwrap();
        world.server_with(Options { keyring: Some(Arc::new(keyring)), ..Options::default() })
    };
    let (before, after) = (server("a:0123456789abcdef"), server("b:fedcba9876543210"));
    let attributes = json!({
        "_enable_encrypt_messages": true, "_dead_letter_queue": "dead", "_max_claim_count": 1,
    });
    create(&before, "q", attributes).await;
    post(&before, "q", "1").await.unwrap();
    post(&after, "q", "2").await.unwrap();
    for count in 1..4 {
        let (_, messages) = claim(&after, "q").await.unwrap();
        assert_eq!((messages.len(), messages[0].claim_count), (1, count), "its own message");
        world.clock.advance(Duration::from_secs(60));
    }
    assert_eq!(bodies(&before, "q").await, ["1"]);
    assert!(!exists(&world, "dead").await);
    // With both keys they become dead letters as usual.
    let both = server("b:fedcba9876543210, a:0123456789abcdef");
    assert!(claim(&both, "q").await.is_none());
    assert_eq!(bodies(&both, "dead").await, ["1", "2"]);
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
