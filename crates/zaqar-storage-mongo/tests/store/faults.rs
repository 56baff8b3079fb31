//! Injects errors into each statement of each operation, once before and once after the server has
//! executed it. The operation must succeed completely, or fail with a retryable error and be done
//! completely or not at all.
//!
//! The store treats many codes alike (`error::tests` shows which), so one of each class is enough
//! here. With `ZAQAR_TEST_FAULTS=all` every code is injected, with `ZAQAR_TEST_FAULTS=post,pop`
//! every code into these operations only.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test fails on whatever it does not expect")]

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use mongodb::Database;
use mongodb::bson::{Bson, Document, doc};
use zaqar_core::storage::Error;
use zaqar_core::{ProjectId, QueueKey};
use zaqar_storage_mongo::{Mongo, Options};
use zaqar_storage_testkit::block_on;

use crate::scene::{OPERATIONS, Scene, wait_until_applied};
use crate::support::proxy::{Fault, Proxy, When, plain_address};
use crate::support::server;

/// Set to `all`, or to the names of operations, for every code.
const FAULTS: &str = "ZAQAR_TEST_FAULTS";

/// The errors of elections, restarts and conflicts. After the first six the MongoDB crate looks for
/// a new primary.
const CODES: [i32; 11] = [91, 189, 10107, 11600, 11602, 13435, 43, 112, 175, 237, 11601];
/// One of them represents all, as the store retries the command after each. The MongoDB crate also
/// looks for a new primary after a broken connection.
const REPRESENTATIVES: [i32; 1] = [112];

/// Operations that are tested concurrently: most of the time they wait for the MongoDB crate to
/// find a primary.
const AT_ONCE: usize = 8;

const COLLECTIONS: [&str; 7] = [
    "queue_rows",
    "queue_heads",
    "queue_messages",
    "queue_claims",
    "queue_subscriptions",
    "queue_outbox",
    "queue_leases",
];

/// The operations to test, and whether with every code.
fn wanted() -> (Vec<&'static str>, bool) {
    let Ok(wanted) = std::env::var(FAULTS) else { return (OPERATIONS.to_vec(), false) };
    let is_wanted = |name: &&str| wanted == "all" || wanted.split(',').any(|one| one == *name);
    (OPERATIONS.into_iter().filter(is_wanted).collect(), true)
}

fn faults(is_full: bool) -> Vec<(Fault, When)> {
    let (codes, concerns) =
        if is_full { (&CODES[..], &[91, 64][..]) } else { (&REPRESENTATIVES[..], &[64][..]) };
    let mut faults = vec![(Fault::Network, When::Before), (Fault::Network, When::After)];
    faults.extend(concerns.iter().map(|code| (Fault::Concern(*code), When::After)));
    for code in codes {
        faults.extend([(Fault::Code(*code), When::Before), (Fault::Code(*code), When::After)]);
    }
    faults
}

/// The results of one operation.
#[derive(Debug, Default)]
struct Row {
    /// Statements without a fault.
    statements: usize,
    /// Injected faults.
    faults: usize,
    /// After how many of these the operation succeeded.
    done: usize,
    /// After how many it failed with a retryable error.
    unavailable: usize,
}

#[test]
fn each_statement_of_each_operation_may_fail_before_and_after_its_execution() {
    block_on(async {
        let Some(address) = plain_address() else {
            eprintln!("skipped: {} has more than a host and a port, as a proxy needs", server::URI);
            return;
        };
        let (operations, is_full) = wanted();
        let rows = stream::iter(operations).map(|operation| {
            let address = address.clone();
            async move {
                let row = check(address, operation, faults(is_full)).await;
                let Row { statements, faults, done, unavailable } = &row;
                println!("| {operation} | {statements} | {faults} | {done} | {unavailable} |");
                assert!(*faults > 0, "no fault was injected into {operation}");
            }
        });
        println!("| operation | statements | faults | succeeded | retryable error |");
        rows.buffer_unordered(AT_ONCE).collect::<()>().await;
    });
}

/// Runs one operation with each fault in each of its statements, in its own database.
async fn check(address: String, operation: &str, faults: Vec<(Fault, When)>) -> Row {
    let (name, proxy) = (server::name(), Proxy::start(address).await);
    let pause = Duration::from_millis(1);
    let options = Options {
        uri: zaqar_core::Secret::new(proxy.uri()),
        change_streams: false,
        reconnect_sleep: pause,
        max_retry_sleep: pause,
        ..server::options(&name)
    };
    let store = Mongo::open(options).await.unwrap();
    let db = server::database(&name).await;
    let template = Template::new(&store, &db).await;
    let untouched = template.restore(&db).await.state(&store).await;
    let scene = template.restore(&db).await;
    proxy.plan(None);
    let answer = scene.perform(&store, operation).await.unwrap();
    wait_until_applied(&db).await;
    let mut row = Row { statements: proxy.seen().0.len(), ..Row::default() };
    let changed = scene.state(&store).await;
    for (fault, when) in faults {
        for number in 0..row.statements {
            let scene = template.restore(&db).await;
            proxy.plan(Some((number, fault, when)));
            let outcome = scene.perform(&store, operation).await;
            // Includes what continues in the background after the answer.
            wait_until_applied(&db).await;
            let (seen, has_struck) = proxy.seen();
            proxy.plan(None);
            let what = format!("{operation}, statement {number} of {seen:?}, {fault:?} {when:?}");
            let state = scene.state(&store).await;
            row.faults += usize::from(has_struck);
            match outcome {
                Ok(own) => {
                    assert_eq!(own, answer, "{what}");
                    assert_eq!(state, changed, "{what}");
                    row.done += usize::from(has_struck);
                }
                Err(Error::Unavailable { .. } | Error::Overloaded { .. }) => {
                    assert!(state == untouched || state == changed, "{what}\n{state}");
                    row.unavailable += 1;
                }
                Err(error) => panic!("{what}: {error:?}"),
            }
        }
    }
    db.drop().await.unwrap();
    row
}

/// A scene and its documents, from which it can be restored quickly.
struct Template {
    scene: Scene,
    documents: Vec<(&'static str, Vec<Document>)>,
}

impl Template {
    async fn new(store: &Mongo, db: &Database) -> Self {
        let scene = Scene::new(store).await;
        wait_until_applied(db).await;
        let mut documents = Vec::new();
        for name in COLLECTIONS {
            let all = db.collection::<Document>(name).find(doc! {}).await.unwrap();
            documents.push((name, all.try_collect().await.unwrap()));
        }
        Self { scene, documents }
    }

    /// Replaces the contents of the database by the scene, with a new project id that is in no
    /// store's caches.
    async fn restore(&self, db: &Database) -> Scene {
        let (old, new) = (self.scene.key.project.as_str(), format!("{:x}", rand::random::<u64>()));
        let restored = self.documents.iter().map(async |(name, documents)| {
            let collection = db.collection::<Document>(name);
            collection.delete_many(doc! {}).await?;
            let renamed = documents.iter().map(|document| renamed_in(document, old, &new));
            if documents.is_empty() {
                return Ok(());
            }
            collection.insert_many(renamed).await.map(drop)
        });
        futures_util::future::try_join_all(restored).await.unwrap();
        let key = QueueKey { project: ProjectId::new(&new).unwrap(), ..self.scene.key.clone() };
        Scene { key, ..self.scene.clone() }
    }
}

fn renamed_in(document: &Document, old: &str, new: &str) -> Document {
    let renamed = |value: &Bson| match value {
        Bson::String(text) => Bson::from(text.replace(old, new)),
        other => other.clone(),
    };
    document.iter().map(|(name, value)| (name.clone(), renamed(value))).collect()
}
