//! Each statement of each operation meets errors, once before and once after the server has done
//! it: the operation is done as a whole and answers so, or is not done, or its caller is told to
//! try again.
//!
//! The store treats many codes alike (`error::tests` shows which), so one of each class is enough
//! here. With `ZAQAR_TEST_FAULTS=all` every code is tried, with `ZAQAR_TEST_FAULTS=post,pop` only
//! on these.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test fails on whatever it does not expect")]

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use mongodb::Database;
use mongodb::bson::{Bson, Document, doc};
use zaqar_core::storage::Error;
use zaqar_core::{ProjectId, QueueKey};
use zaqar_storage_mongo::{Mongo, Options};
use zaqar_storage_testkit::block_on;

use crate::scene::{OPERATIONS, Scene, settled};
use crate::support::proxy::{Fault, Proxy, When, plain_address};
use crate::support::server;

/// Set to `all`, or to the names of operations, for every code.
const FAULTS: &str = "ZAQAR_TEST_FAULTS";

/// The errors of elections, restarts and conflicts. The MongoDB crate takes the first six for a
/// sign that the primary is gone, and looks for another.
const CODES: [i32; 11] = [91, 189, 10107, 11600, 11602, 13435, 43, 112, 175, 237, 11601];
/// One of them: the store sends a command again after each. What the MongoDB crate does after the
/// first six it does after a broken connection, too.
const REPRESENTATIVES: [i32; 1] = [112];

/// Operations at once: most of their time they wait for the MongoDB crate to look for a primary.
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

/// The operations to run, and whether with every code.
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

/// What the faults of one operation came to.
#[derive(Debug, Default)]
struct Row {
    /// Statements when nothing fails.
    statements: usize,
    /// Faults that struck.
    faults: usize,
    /// After how many of these the operation was done, and answered so.
    done: usize,
    /// After how many the caller was told to try again.
    unavailable: usize,
}

#[test]
fn each_statement_of_each_operation_may_fail_before_and_after_it_is_done() {
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
                assert!(*faults > 0, "{operation} met no fault");
            }
        });
        println!("| operation | statements | faults | done | told to try again |");
        rows.buffer_unordered(AT_ONCE).collect::<()>().await;
    });
}

/// Runs one operation with each fault at each of its statements, in a database of its own.
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
    settled(&db).await;
    let mut row = Row { statements: proxy.seen().0.len(), ..Row::default() };
    let changed = scene.state(&store).await;
    for (fault, when) in faults {
        for number in 0..row.statements {
            let scene = template.restore(&db).await;
            proxy.plan(Some((number, fault, when)));
            let outcome = scene.perform(&store, operation).await;
            // What goes on after the answer belongs to it, too.
            settled(&db).await;
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

/// A scene, and the documents that it is made of: to have it again without making it.
struct Template {
    scene: Scene,
    documents: Vec<(&'static str, Vec<Document>)>,
}

impl Template {
    async fn new(store: &Mongo, db: &Database) -> Self {
        let scene = Scene::new(store).await;
        settled(db).await;
        let mut documents = Vec::new();
        for name in COLLECTIONS {
            let all = db.collection::<Document>(name).find(doc! {}).await.unwrap();
            documents.push((name, all.try_collect().await.unwrap()));
        }
        Self { scene, documents }
    }

    /// Leaves the scene alone in its database, under another project's name, of which no store
    /// knows anything.
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
