//! A queue with contents, and every operation on it.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test fails on whatever it does not expect")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use mongodb::Database;
use mongodb::bson::{Document, doc};
use zaqar_core::storage::{
    Batch, ClaimRequest, Claimed, Claims, Deletable, Error, Guarded, Heads, LeaseRequest, Leases,
    ListQuery, Message, Messages, NewMessage, NewSubscription, Outbox, PopQuery, QueueRow, Queues,
    Subscribed, SubscriptionChange, Subscriptions, Upkeep,
};
use zaqar_core::{
    ClaimId, ClientId, Clock, Generation, Incarnation, Kind, LeaseId, MessageId, Metadata, Payload,
    ProjectId, QueueKey, QueueName, SubscriptionId, SystemClock, Timestamp, Version,
};
use zaqar_storage_mongo::Mongo;

/// The operations of [`Scene::perform`].
pub(crate) const OPERATIONS: [&str; 24] = [
    "post",
    "list",
    "get",
    "delete",
    "delete claimed",
    "delete many",
    "pop",
    "purge",
    "stats",
    "claim",
    "claim each",
    "claim get",
    "renew",
    "release",
    "subscribe",
    "change",
    "unsubscribe",
    "unsubscribe all",
    "lease",
    "settle",
    "keep lease",
    "close",
    "replace row",
    "sweep",
];

/// Operations whose callers repeat the request once, as it was, if its outcome is unknown.
pub(crate) const REPEATED: [&str; 2] = ["post, repeated", "claim, repeated"];

/// A queue with four messages, the first of them claimed, two subscriptions and an outbox entry.
#[derive(Clone)]
pub(crate) struct Scene {
    pub(crate) key: QueueKey,
    pub(crate) generation: Generation,
    pub(crate) now: Timestamp,
    pub(crate) ids: Vec<MessageId>,
    pub(crate) claim: ClaimId,
    pub(crate) lease: LeaseId,
    /// What `post` was told of the ids of its messages.
    pub(crate) posted: Arc<Mutex<Vec<MessageId>>>,
}

pub(crate) fn new_message(text: &str) -> NewMessage {
    let payload = Payload::plain(Bytes::from(text.to_owned()));
    NewMessage { payload, ttl: 3600, delay: 0 }
}

pub(crate) fn batch(texts: &[&str]) -> Batch {
    Batch {
        request: rand::random(),
        client: ClientId::new("c"),
        messages: texts.iter().map(|text| new_message(text)).collect(),
        notify: true,
    }
}

pub(crate) fn subscription(number: u128) -> NewSubscription {
    NewSubscription {
        id: SubscriptionId::new(number),
        subscriber: format!("http://{number}"),
        ttl: 3600,
        options: "{}".to_owned(),
        confirmed: true,
        lease: None,
    }
}

fn row(version: u64, incarnation: Incarnation) -> QueueRow {
    let generation = Generation { incarnation, version: Version::new(version) };
    QueueRow { generation, metadata: Metadata::from_json(b"{}").unwrap() }
}

pub(crate) fn done<T: std::fmt::Debug>(guarded: Guarded<T>) -> T {
    match guarded {
        Guarded::Done(done) => done,
        refused => panic!("{refused:?}"),
    }
}

impl Scene {
    pub(crate) async fn new(store: &Mongo) -> Self {
        let random: u64 = rand::random();
        let incarnation = Incarnation::new(random >> 1);
        let generation = Generation { incarnation, version: Version::new(1) };
        let key = QueueKey {
            project: ProjectId::new(&format!("{random:x}")).unwrap(),
            kind: Kind::Queue,
            name: QueueName::new("q").unwrap(),
        };
        let now = SystemClock.now();
        Queues::create(store, &key, &row(1, incarnation)).await.unwrap();
        Heads::open(store, &key, generation, now).await.unwrap();
        let (claim, lease) = (ClaimId::new(rand::random()), LeaseId::new(rand::random()));
        let (ids, posted) = (Vec::new(), Arc::default());
        let mut scene = Self { key, generation, now, ids, claim, lease, posted };
        store.keep_lease(lease, now.plus_secs(1000), now).await.unwrap();
        for number in [1, 2] {
            let new = subscription(number);
            done(store.subscribe(&scene.key, generation, &new, now).await.unwrap());
        }
        let posted = store.post(&scene.key, generation, batch(&["a", "b", "c", "d"]), now).await;
        scene.ids = done(posted.unwrap());
        scene.take(store, claim, 1).await.unwrap();
        scene
    }

    /// The same contents in another queue.
    pub(crate) fn with_key(&self, key: QueueKey) -> Self {
        Self { key, posted: Arc::default(), ..self.clone() }
    }

    pub(crate) async fn take(
        &self,
        store: &Mongo,
        id: ClaimId,
        limit: usize,
    ) -> Result<String, Error> {
        let request = ClaimRequest { grace: 60, ..ClaimRequest::new(id, 100, limit) };
        let claimed = store.claim(&self.key, self.generation, &request, self.now).await?;
        let Claimed::Messages { messages, .. } = done(claimed) else { panic!("no dead letters") };
        Ok(texts(messages.iter().map(|message| &message.payload)))
    }

    pub(crate) async fn pop(&self, store: &Mongo, limit: usize) -> Result<String, Error> {
        let query = PopQuery { limit, after: None, keys: Vec::new() };
        let page = store.pop(&self.key, &query, self.now).await?;
        Ok(texts(page.messages.iter().map(|message| &message.payload)))
    }

    /// Performs an operation. Returns the part of its answer that is the same in every scene.
    pub(crate) async fn perform(&self, store: &Mongo, operation: &str) -> Result<String, Error> {
        let (key, generation, now, ids) = (&self.key, self.generation, self.now, &self.ids);
        let debug = |answer: &dyn std::fmt::Debug| format!("{answer:?}");
        Ok(match operation {
            "post" | "post, repeated" => {
                let batch = batch(&["x", "y"]);
                let post = || store.post(key, generation, batch.clone(), now);
                let posted = match post().await {
                    Err(Error::Unavailable { .. }) if operation != "post" => post().await,
                    posted => posted,
                };
                let posted = done(posted?);
                assert!(posted[0] > ids[3], "it comes after earlier messages");
                posted.clone_into(&mut self.posted.lock().unwrap());
                format!("{} posted", posted.len())
            }
            "list" => texts(self.list(store).await?.iter().map(|m| &m.payload)),
            "get" => debug(&Messages::get(store, key, &ids[1..], now).await?.len()),
            "delete" => debug(&store.delete(key, ids[1], None, now).await?),
            "delete claimed" => debug(&store.delete(key, ids[0], Some(self.claim), now).await?),
            "delete many" => {
                debug(&store.delete_many(key, &ids[1..3], &Deletable::Any, now).await?)
            }
            "pop" => self.pop(store, 2).await?,
            "purge" => debug(&store.purge(key, now).await?),
            "stats" => {
                debug(&store.stats(key, now).await?.map(|stats| (stats.free, stats.claimed)))
            }
            "claim" | "claim, repeated" => {
                let id = ClaimId::new(rand::random());
                match self.take(store, id, 2).await {
                    Err(Error::Unavailable { .. }) if operation != "claim" => {
                        self.take(store, id, 2).await?
                    }
                    taken => taken?,
                }
            }
            "claim get" => {
                let claim = store.claim_get(key, self.claim, now).await?;
                debug(&claim.map(|claim| (claim.ttl, claim.messages.len())))
            }
            "renew" => debug(&store.claim_renew(key, self.claim, 500, 60, now).await?),
            "claim each" => {
                // Of several, some may have been made if it fails.
                let ids = [ClaimId::new(21)];
                let taken = done(store.claim_each(key, generation, &ids, 100, now).await?);
                debug(&taken.iter().map(|message| message.id).collect::<Vec<_>>())
            }
            // How many it freed is lower if an answer was lost and the release repeated.
            "release" => debug(&store.claim_release(key, self.claim, now).await.map(drop)?),
            "subscribe" => {
                let made = store.subscribe(key, generation, &subscription(3), now).await?;
                debug(&matches!(done(made), Subscribed::Created { .. }))
            }
            "change" => {
                let change = SubscriptionChange { ttl: Some(500), ..SubscriptionChange::default() };
                let id = SubscriptionId::new(1);
                debug(&store.change_subscription(key, id, &change, now).await?)
            }
            "unsubscribe" => debug(&store.unsubscribe(key, SubscriptionId::new(1), now).await?),
            "unsubscribe all" => debug(&store.unsubscribe_all(key, now).await?),
            "lease" => {
                let lease =
                    LeaseRequest { until: now.plus_secs(100), limit: 10, bytes: usize::MAX };
                let entries = Outbox::lease(store, key, &lease, now).await?;
                debug(&entries.iter().map(|entry| entry.messages.len()).collect::<Vec<_>>())
            }
            "settle" => {
                debug(&store.settle(key, generation.incarnation, &[ids[0].position]).await?)
            }
            "keep lease" => debug(&store.keep_lease(self.lease, now.plus_secs(2000), now).await?),
            "close" => debug(&Heads::close(store, key, generation.incarnation).await?),
            "replace row" => {
                debug(&store.replace(key, generation, &row(2, generation.incarnation)).await?)
            }
            "sweep" => {
                store.sweep(now, 10).await?;
                String::new()
            }
            other => panic!("no operation {other}"),
        })
    }

    pub(crate) async fn list(&self, store: &Mongo) -> Result<Vec<Message>, Error> {
        let query = ListQuery {
            after: None,
            limit: 100,
            hide: None,
            include_claimed: true,
            include_delayed: true,
        };
        Ok(Messages::list(store, &self.key, &query, self.now).await?.messages)
    }

    /// The observable state of the queue. Consumes its messages.
    pub(crate) async fn state(&self, store: &Mongo) -> String {
        let mut seen = Vec::new();
        let listed = self.list(store).await.unwrap();
        let posted = std::mem::take(&mut *self.posted.lock().unwrap());
        if !posted.is_empty() {
            let last = listed.iter().skip(listed.len().saturating_sub(posted.len()));
            assert_eq!(last.map(|message| message.id).collect::<Vec<_>>(), posted);
        }
        for message in listed {
            let text = texts(std::iter::once(&message.payload));
            seen.push(format!("{text} {} {}", message.claim.is_some(), message.claim_count));
        }
        let claim = store.claim_get(&self.key, self.claim, self.now).await.unwrap();
        seen.push(format!("{:?}", claim.map(|claim| (claim.ttl, claim.messages.len()))));
        let subscriptions = store.subscriptions(&self.key, None, 100, self.now).await.unwrap();
        let subscriptions = subscriptions.iter().map(|one| (one.id.get(), one.ttl));
        seen.push(format!("{:?}", subscriptions.collect::<Vec<_>>()));
        let stats = store.stats(&self.key, self.now).await.unwrap();
        seen.push(format!("{:?}", stats.map(|stats| (stats.free, stats.claimed))));
        let row = Queues::get(store, &self.key).await.unwrap();
        seen.push(format!("{:?}", row.map(|row| row.generation.version)));
        let lease = LeaseRequest { until: self.now.plus_secs(1000), limit: 100, bytes: usize::MAX };
        for entry in Outbox::lease(store, &self.key, &lease, self.now).await.unwrap() {
            seen.push(texts(entry.messages.iter().map(|message| &message.payload)));
        }
        seen.push(self.pop(store, 100).await.unwrap());
        let renewed = store.keep_lease(self.lease, self.now.plus_secs(3000), self.now).await;
        seen.push(format!("{:?}", renewed.unwrap()));
        seen.join("\n")
    }
}

/// Waits until all intents are applied and removed.
pub(crate) async fn wait_until_applied(db: &Database) {
    let pending = doc! { "todo": { "$ne": [] } };
    let heads = db.collection::<Document>("queue_heads");
    for _ in 0..10_000 {
        if heads.find_one(pending.clone()).await.unwrap().is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("an intent stays listed: {:?}", heads.find_one(pending).await);
}

fn texts<'a>(payloads: impl Iterator<Item = &'a Payload>) -> String {
    let texts = payloads.map(|payload| String::from_utf8_lossy(&payload.bytes).into_owned());
    texts.collect::<Vec<_>>().join(" ")
}
