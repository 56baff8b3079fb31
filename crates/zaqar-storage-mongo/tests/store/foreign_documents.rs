//! Documents in each collection that this store has not written: they block no sweep, list or queue
//! of due work.

use futures_util::StreamExt;
use mongodb::Database;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, DateTime, Document, doc};
use zaqar_core::storage::{
    Claims, Heads, LeaseRequest, Messages, News, Outbox, PopQuery, QueueRow, Queues, Subscriptions,
    Upkeep,
};
use zaqar_core::{Kind, Metadata, QueueKey, QueueName};
use zaqar_storage_mongo::Mongo;
use zaqar_storage_testkit::block_on;

use crate::scene::{Scene, batch, done};
use crate::support::server;

const HEADS: &str = "queue_heads";
const MESSAGES: &str = "queue_messages";

/// Names and numbers of a scene.
struct Names {
    queue: String,
    /// A queue whose documents are all unreadable.
    unreadable: String,
    project: String,
    message_epoch: i64,
    subscription_epoch: i64,
    outbox_epoch: i64,
    now: i64,
    first: i64,
    past: DateTime,
    future: DateTime,
}

impl Names {
    async fn of(scene: &Scene, db: &Database) -> Self {
        let head = db.collection::<Document>(HEADS).find_one(doc! {}).await.unwrap().unwrap();
        let number = |name: &str| head.get_i64(name).unwrap();
        let project = scene.key.project.as_str();
        Self {
            queue: head.get_str("_id").unwrap().to_owned(),
            unreadable: format!("queue/lost/{project}"),
            project: project.to_owned(),
            message_epoch: number("room"),
            subscription_epoch: number("hall"),
            outbox_epoch: number("life"),
            now: i64::try_from(scene.now.as_millis()).unwrap(),
            first: scene.ids[0].position.get().cast_signed(),
            past: DateTime::from_millis(1),
            future: DateTime::from_millis(253_339_228_800_000),
        }
    }

    /// Documents that each index finds, where possible before the scene's own ones.
    fn foreign_documents(&self) -> [(&'static str, Vec<Document>); 7] {
        [
            (HEADS, self.heads()),
            (MESSAGES, self.messages()),
            ("queue_claims", self.claims()),
            ("queue_subscriptions", self.subscriptions()),
            ("queue_outbox", self.entries()),
            ("queue_leases", leases()),
            ("queue_rows", self.rows()),
        ]
    }

    fn heads(&self) -> Vec<Document> {
        vec![
            doc! {
                "_id": &self.unreadable, "open": true, "todo": [{ "at": 1_i64, "op": "none" }],
                "posted": DateTime::now(), "garbage": true, "subscribed": 5_i64, "life": "none",
            },
            doc! { "_id": 5, "todo": "none", "garbage": [], "posted": DateTime::now() },
        ]
    }

    fn messages(&self) -> Vec<Document> {
        let at_position = |n: Bson, s: Bson| {
            doc! {
                "h": self.message_epoch, "n": n, "s": s, "x": self.future, "q": "none", "u": 7,
                "unknown": {},
            }
        };
        let between = Bson::Double(self.first as f64 + 0.5);
        vec![
            at_position(1_i64.into(), 0.into()),
            at_position(between, 0.into()),
            at_position((self.first - 1).into(), "free".into()),
            at_position((self.first - 2).into(), 1.into()),
            doc! { "h": self.message_epoch, "t": 1_i64, "s": 2 },
            doc! { "x": self.past, "h": [1, 2] },
            doc! { "b": "none" },
        ]
    }

    fn claims(&self) -> Vec<Document> {
        vec![
            doc! { "_id": 1, "h": self.message_epoch, "live": true, "e": self.past },
            doc! { "_id": 2, "h": 1_i64, "queue": &self.unreadable, "live": true, "e": self.past },
            doc! { "_id": 3, "h": 1_i64, "queue": 5, "live": true, "e": self.past },
        ]
    }

    fn subscriptions(&self) -> Vec<Document> {
        // A key of this epoch, before all others.
        let bytes = [self.subscription_epoch.to_be_bytes().as_slice(), &[0; 16]].concat();
        let first = Binary { subtype: BinarySubtype::Generic, bytes };
        vec![
            doc! {
                "_id": first, "hall": self.subscription_epoch, "leased": false, "counts": true,
                "e": self.future, "subscriber": 7,
            },
            doc! { "_id": 1, "hall": self.subscription_epoch, "leased": false, "counts": true, "e": true },
            doc! { "_id": 2, "lease": 1, "queue": &self.unreadable, "e": self.past },
        ]
    }

    fn entries(&self) -> Vec<Document> {
        let entry = |queue: Bson, outbox_epoch: i64, first: Bson| {
            doc! {
                "queue": queue, "life": outbox_epoch, "first": first, "due": 1_i64,
                "ends": self.now + 1_000_000, "messages": "none",
            }
        };
        vec![
            entry(self.queue.as_str().into(), self.outbox_epoch, 1_i64.into()),
            entry(self.queue.as_str().into(), self.outbox_epoch, "first".into()),
            entry(self.unreadable.as_str().into(), 1, 1_i64.into()),
            entry(5.into(), self.outbox_epoch, 1_i64.into()),
            doc! { "due": 1_i64, "ends": 1_i64, "until": [] },
        ]
    }

    fn rows(&self) -> Vec<Document> {
        let named = |id: i32, name: Bson| {
            doc! { "_id": id, "project": &self.project, "kind": "queue", "name": name }
        };
        let mut unreadable = named(2, "b".into());
        unreadable.extend(doc! { "incarnation": 1_i64, "version": 1_i64, "metadata": "{" });
        vec![named(1, "a".into()), unreadable, named(3, 5.into())]
    }
}

fn leases() -> Vec<Document> {
    vec![
        doc! { "_id": 1, "until": 0_i64 },
        doc! { "_id": 2, "until": 0_i64, "kept": true, "joins": "none" },
    ]
}

#[test]
fn foreign_documents_block_no_list_due_work_or_sweep() {
    block_on(async {
        let name = server::name();
        let (maker, db) = (server::open(&name).await, server::database(&name).await);
        let scene = Scene::new(&maker).await;
        crate::scene::wait_until_applied(&db).await;
        for (collection, documents) in Names::of(&scene, &db).await.foreign_documents() {
            db.collection(collection).insert_many(documents).await.unwrap();
        }
        // A new store has no caches.
        let store = server::open(&name).await;
        lists_are_whole(&scene, &store).await;
        schedules_go_on(&scene, &store).await;
        consumers_go_on(&scene, &store).await;
        sweeps_reach_what_is_ours(&scene, &store, &db).await;
        db.drop().await.unwrap();
    });
}

async fn lists_are_whole(scene: &Scene, store: &Mongo) {
    let (key, now) = (&scene.key, scene.now);
    let listed: Vec<_> = scene.list(store).await.unwrap().iter().map(|one| one.id).collect();
    assert_eq!(listed, scene.ids);
    // One message per page: foreign documents do not fill pages.
    let (mut after, mut walked) = (None, Vec::new());
    loop {
        let query = zaqar_core::storage::ListQuery {
            after,
            limit: 1,
            hide: Some(zaqar_core::ClientId::new("nobody")),
            include_claimed: true,
            include_delayed: true,
        };
        let page = Messages::list(store, key, &query, now).await.unwrap();
        walked.extend(page.messages.iter().map(|one| one.id));
        after = page.next;
        if page.messages.is_empty() && page.next.is_none() {
            break;
        }
    }
    assert_eq!(walked, scene.ids);
    let rows = Queues::list(store, &key.project, Kind::Queue, None, 1).await.unwrap();
    assert_eq!(rows.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["q"]);
    let subscriptions = store.subscriptions(key, None, 1, now).await.unwrap();
    assert_eq!(subscriptions.iter().map(|one| one.id.get()).collect::<Vec<_>>(), [1]);
    let stats = store.stats(key, now).await.unwrap().unwrap();
    let (first, last) = stats.ends.unwrap();
    assert_eq!((first.id, last.id), (scene.ids[0], scene.ids[3]));
    assert!(store.volume().await.unwrap().is_some());
}

async fn schedules_go_on(scene: &Scene, store: &Mongo) {
    let (key, now) = (&scene.key, scene.now);
    let mut news = store.news().await.unwrap();
    let posted = store.post(key, scene.generation, batch(&["e"]), now).await.unwrap();
    assert_eq!(done(posted).len(), 1);
    let received = async {
        loop {
            if news.next().await.unwrap().key == *key {
                return;
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), received).await.expect("news arrive");
    let due = store.due_queues(100, now.plus_secs(1)).await.unwrap();
    let due: Vec<_> = due.iter().map(|due| &due.queue).collect();
    assert_eq!(due, [key], "no other queue is due");
    let lease = LeaseRequest { until: now.plus_secs(500), limit: 10, bytes: usize::MAX };
    let leased = Outbox::lease(store, key, &lease, now.plus_secs(1)).await.unwrap();
    assert_eq!(leased.iter().map(|entry| entry.messages.len()).collect::<Vec<_>>(), [4, 1]);
    let firsts: Vec<_> = leased.iter().map(|entry| entry.first).collect();
    store.settle(key, scene.generation.incarnation, &firsts).await.unwrap();
}

async fn consumers_go_on(scene: &Scene, store: &Mongo) {
    let (key, now) = (&scene.key, scene.now);
    assert_eq!(scene.take(store, zaqar_core::ClaimId::new(7), 1).await.unwrap(), "b");
    let held = store.claim_get(key, scene.claim, now).await.unwrap().unwrap();
    assert_eq!(held.messages.len(), 1);
    let query = PopQuery { limit: 1, after: None, keys: Vec::new() };
    let popped = store.pop(key, &query, now).await.unwrap();
    assert_eq!(popped.messages.iter().map(|one| one.id).collect::<Vec<_>>(), [scene.ids[2]]);
    // The remaining subscription must still get entries.
    store.unsubscribe(key, zaqar_core::SubscriptionId::new(1), now).await.unwrap();
    let later = now.plus_secs(1);
    let posted = store.post(key, scene.generation, batch(&["f"]), later).await.unwrap();
    assert_eq!(done(posted).len(), 1);
    let lease = LeaseRequest { until: now.plus_secs(500), limit: 10, bytes: usize::MAX };
    let leased = Outbox::lease(store, key, &lease, later).await.unwrap();
    assert_eq!(leased.iter().map(|entry| entry.messages.len()).collect::<Vec<_>>(), [1]);
}

async fn sweeps_reach_what_is_ours(scene: &Scene, store: &Mongo, db: &Database) {
    let closed = QueueKey { name: QueueName::new("z").unwrap(), ..scene.key.clone() };
    let generation = scene.generation;
    let row = QueueRow { generation, metadata: Metadata::from_json(b"{}").unwrap() };
    Queues::create(store, &closed, &row).await.unwrap();
    Heads::open(store, &closed, generation, scene.now).await.unwrap();
    let posted = store.post(&closed, generation, batch(&["x"]), scene.now).await.unwrap();
    assert_eq!(done(posted).len(), 1);
    Heads::close(store, &closed, generation.incarnation).await.unwrap();
    // Claims and leases have expired by then, messages have not.
    let then = scene.now.plus_secs(2000);
    for _ in 0..20 {
        store.sweep(then, 100).await.unwrap();
    }
    let heads = db.collection::<Document>(HEADS);
    let id = format!("queue/z/{}", scene.key.project);
    assert_eq!(heads.count_documents(doc! { "_id": id }).await.unwrap(), 0, "it was cleared");
    let claims = db.collection::<Document>("queue_claims");
    let own = claims.count_documents(doc! { "places": { "$exists": true } }).await.unwrap();
    assert_eq!(own, 0, "claims have ended");
}
