//! Injects errors into each statement of each operation, once before and once after the server has
//! executed it. The operation must succeed completely, or fail with a retryable error and be done
//! completely or not at all. A store that gives up at the first error is judged by what another
//! store then finds in the database.
//!
//! Every code is injected, but into each statement only some of them, as the store treats them
//! alike (`error::tests` shows which). With `ZAQAR_TEST_FAULTS=all` each is injected into each
//! statement, with `ZAQAR_TEST_FAULTS=post,pop` into those of these operations only.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test fails on whatever it does not expect")]

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use mongodb::Database;
use mongodb::bson::{Bson, Document, doc};
use zaqar_core::storage::Error;
use zaqar_core::{ProjectId, QueueKey};
use zaqar_storage_mongo::{Mongo, Options};
use zaqar_storage_testkit::block_on;

use crate::scene::{OPERATIONS, REPEATED, Scene, wait_until_applied};
use crate::support::proxy::{Fault, Proxy, When, plain_address};
use crate::support::server;

/// Set to `all`, or to the names of operations, for every code in every statement.
const FAULTS: &str = "ZAQAR_TEST_FAULTS";

/// The errors of elections, restarts and conflicts. After the first six the MongoDB crate looks for
/// a new primary, as after a broken connection.
const CODES: [i32; 11] = [91, 189, 10107, 11600, 11602, 13435, 43, 112, 175, 237, 11601];
/// Errors of a write concern, after the execution.
const CONCERNS: [i32; 2] = [91, 64];

/// Operations that are tested concurrently: often they wait for the MongoDB crate to find a
/// primary, which it looks for at most twice per second.
const AT_ONCE: usize = 16;
/// How many parts the faults of an operation are split into, each with its own database.
const PARTS: usize = 4;

const COLLECTIONS: [&str; 7] = [
    "queue_rows",
    "queue_heads",
    "queue_messages",
    "queue_claims",
    "queue_subscriptions",
    "queue_outbox",
    "queue_leases",
];

/// What the store does after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// It repeats the command.
    Retry,
    /// It gives up, as after too many attempts. Its caller gets the error, unless the command was
    /// none that it waits for.
    GiveUp,
}

/// One injection into a statement.
type Injection = (Fault, When, Mode);

/// The operations to test, and whether with every code in every statement.
fn wanted() -> (Vec<&'static str>, bool) {
    let operations = OPERATIONS.into_iter().chain(REPEATED);
    let Ok(wanted) = std::env::var(FAULTS) else { return (operations.collect(), false) };
    let is_wanted = |name: &&str| wanted == "all" || wanted.split(',').any(|one| one == *name);
    (operations.filter(is_wanted).collect(), true)
}

/// All injections into one statement.
fn all_injections() -> Vec<Injection> {
    let codes = CODES.iter().map(|code| Fault::Code(*code)).chain([Fault::Network]);
    let mut faults: Vec<_> =
        codes.flat_map(|fault| [(fault, When::Before), (fault, When::After)]).collect();
    faults.extend(CONCERNS.iter().map(|code| (Fault::Concern(*code), When::After)));
    let modes = |(fault, when)| [(fault, when, Mode::Retry), (fault, when, Mode::GiveUp)];
    faults.into_iter().flat_map(modes).collect()
}

/// Some injections into a statement, others for each `number`: at every moment one of each kind.
fn some_injections(number: usize) -> Vec<Injection> {
    let code = |from: usize| Fault::Code(CODES[(from + number) % CODES.len()]);
    vec![
        (Fault::Network, When::Before, Mode::Retry),
        (Fault::Network, When::After, Mode::Retry),
        (code(0), When::Before, Mode::Retry),
        (code(3), When::After, Mode::Retry),
        (code(6), When::Before, Mode::GiveUp),
        (code(9), When::After, Mode::GiveUp),
        (Fault::Concern(CONCERNS[number % CONCERNS.len()]), When::After, Mode::GiveUp),
    ]
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
    /// After how many it failed with a retryable error, and was done or not at all.
    failed_done: usize,
    failed_undone: usize,
}

impl AddAssign for Row {
    fn add_assign(&mut self, other: Self) {
        self.statements = other.statements;
        self.faults += other.faults;
        self.done += other.done;
        self.failed_done += other.failed_done;
        self.failed_undone += other.failed_undone;
    }
}

#[test]
fn each_statement_of_each_operation_may_fail_before_and_after_its_execution() {
    block_on(async {
        if plain_address("").is_none() {
            eprintln!("skipped: {} has more than a host and a port, as a proxy needs", server::URI);
            return;
        }
        let (operations, is_full) = wanted();
        let parts = (0..PARTS).flat_map(|part| operations.iter().map(move |name| (*name, part)));
        let rows = stream::iter(parts)
            .map(async |(operation, part)| (operation, check(operation, part, is_full).await));
        let mut table = BTreeMap::<_, Row>::new();
        let mut rows = rows.buffer_unordered(AT_ONCE);
        while let Some((operation, row)) = rows.next().await {
            *table.entry(operation).or_default() += row;
        }
        if !is_full {
            println!("some codes in each statement; all in all: {FAULTS}=all");
        }
        println!(
            "| operation | statements | faults | succeeded | failed, done | failed, not done |"
        );
        for (operation, row) in table {
            let Row { statements, faults, done, failed_done, failed_undone } = row;
            println!(
                "| {operation} | {statements} | {faults} | {done} | {failed_done} | {failed_undone} |"
            );
            assert_eq!(faults, done + failed_done + failed_undone);
            assert!(faults > 0, "no fault was injected into {operation}");
        }
    });
}

/// The stores of one part of the test, all in the same database: one retries, one gives up, and one
/// finds what they left.
struct Stores {
    proxy: Proxy,
    retrying: Mongo,
    giving_up: Mongo,
    finding: Mongo,
}

impl Stores {
    async fn open(name: &str, proxy: Proxy) -> Self {
        let pause = Duration::from_millis(1);
        let options = |max_reconnect_attempts| Options {
            uri: zaqar_core::Secret::new(proxy.uri()),
            change_streams: false,
            max_reconnect_attempts,
            reconnect_sleep: pause,
            max_retry_sleep: pause,
            ..server::options(name)
        };
        let retrying = Mongo::open(options(10)).await.unwrap();
        let giving_up = Mongo::open(options(0)).await.unwrap();
        Self { retrying, giving_up, finding: server::open(name).await, proxy }
    }

    const fn of(&self, mode: Mode) -> &Mongo {
        match mode {
            Mode::Retry => &self.retrying,
            Mode::GiveUp => &self.giving_up,
        }
    }
}

/// Runs one operation with a part of the faults in each of its statements, in its own database.
async fn check(operation: &str, part: usize, is_full: bool) -> Row {
    let name = server::name();
    let address = plain_address(&name).expect("it was checked");
    let proxy = Proxy::start(address).await;
    let stores = Stores::open(&name, proxy).await;
    let db = server::database(&name).await;
    let template = Template::new(&stores.retrying, &db).await;
    let untouched = template.restore(&db).await.state(&stores.finding).await;
    let scene = template.restore(&db).await;
    stores.proxy.plan(None);
    let answer = scene.perform(&stores.retrying, operation).await.unwrap();
    wait_until_applied(&db).await;
    let mut row = Row { statements: stores.proxy.seen().0.len(), ..Row::default() };
    let changed = scene.state(&stores.finding).await;
    for number in 0..row.statements {
        let injections = if is_full { all_injections() } else { some_injections(number) };
        for (fault, when, mode) in injections.into_iter().skip(part).step_by(PARTS) {
            let scene = template.restore(&db).await;
            let store = stores.of(mode);
            stores.proxy.plan(Some((number, fault, when)));
            let outcome = scene.perform(store, operation).await;
            let mut judge = &stores.finding;
            if mode == Mode::Retry {
                // Includes what continues in the background after the answer.
                wait_until_applied(&db).await;
                judge = store;
            }
            let (seen, has_struck) = stores.proxy.seen();
            stores.proxy.plan(None);
            let what = format!("{operation}, statement {number} of {seen:?}, {fault:?} {when:?}");
            let state = scene.state(judge).await;
            stores.proxy.idle().await;
            let struck = usize::from(has_struck);
            row.faults += struck;
            match outcome {
                Ok(own) => {
                    assert_eq!(own, answer, "{what} {mode:?}");
                    assert_eq!(state, changed, "{what} {mode:?}");
                    row.done += struck;
                }
                Err(Error::Unavailable { .. } | Error::Overloaded { .. }) if state == changed => {
                    row.failed_done += struck;
                }
                Err(Error::Unavailable { .. } | Error::Overloaded { .. }) => {
                    assert_eq!(state, untouched, "{what} {mode:?}");
                    row.failed_undone += struck;
                }
                Err(error) => panic!("{what} {mode:?}: {error:?}"),
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
        self.scene.with_key(key)
    }
}

fn renamed_in(document: &Document, old: &str, new: &str) -> Document {
    let renamed = |value: &Bson| match value {
        Bson::String(text) => Bson::from(text.replace(old, new)),
        other => other.clone(),
    };
    document.iter().map(|(name, value)| (name.clone(), renamed(value))).collect()
}
