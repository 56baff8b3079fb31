//! Operations of several steps that fail after some of them: what was taken is returned.

use std::collections::BTreeSet;
use std::time::Duration;

use mongodb::bson::{Document, doc};
use zaqar_core::ClaimId;
use zaqar_core::storage::{Claims, Error, LeaseRequest, Messages, Outbox};
use zaqar_storage_mongo::{Mongo, Options};
use zaqar_storage_testkit::block_on;

use crate::scene::{Scene, batch, done, wait_until_applied};
use crate::support::proxy::{Fault, Proxy, When, plain_address};
use crate::support::server;

/// A command that no server executes again: the store gives up at once.
const FAULT: Fault = Fault::Code(91);
/// More statements than any of the operations has.
const STATEMENTS: usize = 60;

/// A store behind a proxy that gives up at the first error, and one that finds what it left.
struct Stores {
    name: String,
    proxy: Proxy,
    failing: Mongo,
    finding: Mongo,
}

impl Stores {
    async fn open() -> Option<Self> {
        let name = server::name();
        let Some(address) = plain_address(&name) else {
            eprintln!("skipped: {} has more than a host and a port, as a proxy needs", server::URI);
            return None;
        };
        let proxy = Proxy::start(address).await;
        let pause = Duration::from_millis(1);
        let options = Options {
            uri: zaqar_core::Secret::new(proxy.uri()),
            change_streams: false,
            max_reconnect_attempts: 0,
            reconnect_sleep: pause,
            max_retry_sleep: pause,
            ..server::options(&name)
        };
        let (failing, finding) = (Mongo::open(options).await.unwrap(), server::open(&name).await);
        Some(Self { name, proxy, failing, finding })
    }

    /// Performs an operation in a new scene, where this and all later statements are not executed.
    /// Returns the scene, the outcome, and whether there was such a statement.
    async fn perform<T>(
        &self,
        statement: usize,
        operation: impl AsyncFn(&Mongo, &Scene) -> Result<T, Error>,
    ) -> (Scene, Result<T, Error>, bool) {
        // Earlier scenes list intents that nobody has removed.
        let db = server::database(&self.name).await;
        db.collection::<Document>("queue_heads").delete_many(doc! {}).await.unwrap();
        let scene = Scene::new(&self.finding).await;
        let post = self.finding.post(&scene.key, scene.generation, batch(&["e"]), scene.now);
        done(post.await.unwrap());
        wait_until_applied(&db).await;
        self.proxy.plan_many(Some((statement..usize::MAX, FAULT, When::Before)));
        let outcome = operation(&self.failing, &scene).await;
        self.proxy.idle().await;
        let (_, has_struck) = self.proxy.seen();
        self.proxy.plan(None);
        (scene, outcome, has_struck)
    }

    async fn end(self) {
        server::database(&self.name).await.drop().await.unwrap();
    }
}

#[test]
fn claims_that_were_made_are_returned_when_a_later_one_fails() {
    block_on(async {
        let Some(stores) = Stores::open().await else { return };
        let ids: Vec<_> = (30..33).map(ClaimId::new).collect();
        let mut counts = BTreeSet::new();
        for statement in 0..STATEMENTS {
            let claim_each = async |store: &Mongo, it: &Scene| {
                store.claim_each(&it.key, it.generation, &ids, 100, it.now).await.map(done)
            };
            let (scene, taken, has_struck) = stores.perform(statement, claim_each).await;
            let mut made = Vec::new();
            for id in &ids {
                let held = stores.finding.claim_get(&scene.key, *id, scene.now).await.unwrap();
                made.extend(held.into_iter().flat_map(|claim| claim.messages));
            }
            // The claim whose step failed may have been made.
            let known = taken.unwrap_or_default();
            assert!(made.starts_with(&known), "statement {statement}: {known:?} of {made:?}");
            assert!(made.len() - known.len() <= 1, "statement {statement}: {known:?} of {made:?}");
            counts.insert(known.len());
            if !has_struck {
                assert_eq!(counts, BTreeSet::from([0, 1, 2, 3]));
                return stores.end().await;
            }
        }
        panic!("it has no end");
    });
}

#[test]
fn popped_messages_are_returned_when_their_deletion_fails() {
    block_on(async {
        let Some(stores) = Stores::open().await else { return };
        for statement in 0..STATEMENTS {
            let pop = async |store: &Mongo, it: &Scene| it.pop(store, 2).await;
            let (scene, popped, has_struck) = stores.perform(statement, pop).await;
            let left = scene.pop(&stores.finding, 10).await.unwrap();
            match popped {
                Ok(popped) => assert_eq!((&*popped, &*left), ("b c", "d e"), "{statement}"),
                Err(error) => assert_eq!(left, "b c d e", "statement {statement}: {error:?}"),
            }
            if !has_struck {
                return stores.end().await;
            }
        }
        panic!("it has no end");
    });
}

#[test]
fn leased_entries_are_returned_when_the_lease_of_others_fails() {
    block_on(async {
        let Some(stores) = Stores::open().await else { return };
        let outbox = server::database(&stores.name).await.collection::<Document>("queue_outbox");
        for statement in 0..STATEMENTS {
            let lease = async |store: &Mongo, it: &Scene| {
                // An unreadable entry, which the lease sets aside.
                let own = outbox.find_one(of_queue(it)).await.unwrap().unwrap();
                let unreadable = doc! {
                    "queue": "unreadable", "life": own.get_i64("life").unwrap(), "first": 1_i64,
                    "due": 1_i64, "ends": own.get_i64("ends").unwrap(), "messages": "none",
                };
                outbox.insert_one(unreadable).await.unwrap();
                let until = it.now.plus_secs(100);
                let request = LeaseRequest { until, limit: 10, bytes: usize::MAX };
                store.lease(&it.key, &request, it.now).await
            };
            let (scene, leased, has_struck) = stores.perform(statement, lease).await;
            let mut of_queue = of_queue(&scene);
            of_queue.insert("leased_until", doc! { "$exists": true });
            let held = outbox.count_documents(of_queue).await.unwrap();
            let known = leased.map_or(0, |entries| entries.len() as u64);
            assert_eq!(known, held, "statement {statement}");
            if !has_struck {
                assert_eq!(known, 2, "two posts");
                return stores.end().await;
            }
        }
        panic!("it has no end");
    });
}

/// The outbox entries of a scene.
fn of_queue(scene: &Scene) -> Document {
    doc! { "queue": format!("queue/q/{}", scene.key.project) }
}
