//! Round trips and majority waits of each operation, compared with `docs.md`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mongodb::Database;
use mongodb::bson::{Bson, Document, doc};
use mongodb::event::EventHandler;
use mongodb::event::command::CommandEvent;
use zaqar_core::storage::{Messages, RecipientQuery, Subscriptions};
use zaqar_storage_mongo::{Mongo, Options};
use zaqar_storage_testkit::block_on;

use crate::scene::{OPERATIONS, Scene, batch, done, wait_until_applied};
use crate::support::proxy::{Fault, Proxy, When, plain_address};
use crate::support::server;

/// The commands that a store has sent, and whether each waits for a majority.
#[derive(Clone, Default)]
struct Sent(Arc<Mutex<Vec<(String, bool)>>>);

impl Sent {
    fn handler(&self) -> EventHandler<CommandEvent> {
        let sent = self.clone();
        EventHandler::callback(move |event| {
            let CommandEvent::Started(command) = event else { return };
            let is_majority =
                |concern: &Document| concern.get_str("w").is_ok_and(|w| w == "majority");
            // Reads do not wait, whatever write concern is sent with them.
            let is_write =
                matches!(&*command.command_name, "findAndModify" | "update" | "insert" | "delete");
            let waits =
                is_write && command.command.get_document("writeConcern").is_ok_and(is_majority);
            sent.0.lock().unwrap().push((command.command_name, waits));
        })
    }

    fn take(&self) -> Vec<(String, bool)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// Counts the commands of an operation, including those after its answer. Returns a row of the
/// table in `docs.md`.
async fn measure(scene: &Scene, store: &Mongo, db: &Database, sent: &Sent, what: &str) -> String {
    let (operation, _) = what.split_once(',').unwrap_or((what, ""));
    sent.take();
    scene.perform(store, operation).await.unwrap();
    wait_until_applied(db).await;
    let mut commands = sent.take();
    // Commands are recorded when they are sent, so the answer to the last one need not have
    // arrived.
    commands.retain(|(name, _)| name != "hello");
    let waits = commands.iter().filter(|(_, waits)| *waits).count();
    format!("| {what} | {} | {waits} |", commands.len())
}

#[test]
fn round_trips_are_as_documented() {
    block_on(async {
        let name = server::name();
        let sent = Sent::default();
        let options = Options {
            commands: Some(sent.handler()),
            change_streams: false,
            ..server::options(&name)
        };
        let (direct, store) = (server::open(&name).await, Mongo::open(options).await.unwrap());
        let db = server::database(&name).await;
        let mut rows = Vec::new();
        for operation in OPERATIONS.iter().filter(|operation| **operation != "sweep") {
            let scene = Scene::new(&direct).await;
            wait_until_applied(&db).await;
            if *operation != "post" {
                rows.push(measure(&scene, &store, &db, &sent, operation).await);
                continue;
            }
            for what in ["post, the first to subscribers", "post, to subscribers"] {
                rows.push(measure(&scene, &store, &db, &sent, what).await);
            }
            let scene = Scene::new(&direct).await;
            direct.unsubscribe_all(&scene.key, scene.now).await.unwrap();
            wait_until_applied(&db).await;
            rows.push(measure(&scene, &store, &db, &sent, "post, to nobody else").await);
        }
        let docs = include_str!("../../src/docs.md");
        let missing: Vec<_> = rows.iter().filter(|row| !docs.contains(row.as_str())).collect();
        assert_eq!(missing, [""; 0], "docs.md says otherwise; measured:\n{}", rows.join("\n"));
        db.drop().await.unwrap();
    });
}

/// A post to a queue with 10 000 subscriptions costs the commands of one with a few.
#[test]
fn a_post_costs_the_same_with_many_subscriptions() {
    const MANY: u32 = 10_000;
    block_on(async {
        let (name, sent) = (server::name(), Sent::default());
        let options = Options {
            commands: Some(sent.handler()),
            change_streams: false,
            ..server::options(&name)
        };
        let (direct, store) = (server::open(&name).await, Mongo::open(options).await.unwrap());
        let (db, scene) = (server::database(&name).await, Scene::new(&direct).await);
        let post = async || {
            wait_until_applied(&db).await;
            measure(&scene, &store, &db, &sent, "post, to subscribers").await
        };
        // The first one begins the queue's entries.
        post().await;
        let with_few = post().await;
        // Copies of a subscription, as that many calls take long on the compatible server.
        let all = db.collection::<Document>("queue_subscriptions");
        let with_address = doc! { "counts": true, "leased": false };
        let one = all.find_one(with_address).await.unwrap().expect("the scene has one");
        let copy = |number: u32| {
            let mut copy = one.clone();
            let Some(Bson::Binary(id)) = copy.get_mut("_id") else { panic!("{one}") };
            let end = id.bytes.len() - 4;
            id.bytes[end..].copy_from_slice(&(number + 1000).to_be_bytes());
            copy.insert("subscriber", format!("http://many/{number}"));
            copy
        };
        for from in (0..MANY).step_by(1000) {
            all.insert_many((from..from + 1000).map(copy)).await.unwrap();
        }
        let limit = MANY as usize;
        let query = RecipientQuery { after: None, limit, confirmed_only: false };
        let told = store.recipients(&scene.key, &query, scene.now).await.unwrap();
        assert_eq!(told.len(), limit, "they are subscriptions");
        assert_eq!(post().await, with_few);
        db.drop().await.unwrap();
    });
}

#[test]
fn a_post_waits_twice_and_grouped_posts_wait_less_than_once_each() {
    block_on(async {
        let Some(address) = plain_address() else {
            eprintln!("skipped: {} has more than a host and a port, as a proxy needs", server::URI);
            return;
        };
        let name = server::name();
        let direct = server::open(&name).await;
        let scene = Scene::new(&direct).await;
        direct.unsubscribe_all(&scene.key, scene.now).await.unwrap();
        let proxy = Proxy::start(address).await;
        let store = Mongo::open(Options {
            uri: zaqar_core::Secret::new(proxy.uri()),
            change_streams: false,
            ..server::options(&name)
        })
        .await
        .unwrap();
        let post = async || {
            let posted = store.post(&scene.key, scene.generation, batch(&["x"]), scene.now).await;
            done(posted.unwrap())
        };
        // The third statement of the post is never answered.
        proxy.plan(Some((2, Fault::Hold, When::Before)));
        let posted = tokio::time::timeout(Duration::from_secs(60), post());
        assert_eq!(posted.await.expect("the post does not wait for it").len(), 1);
        assert_eq!(proxy.seen().0[..2], ["insert", "findAndModify"]);
        let sent = Sent::default();
        let options = Options { commands: Some(sent.handler()), ..server::options(&name) };
        let grouped = Mongo::open(options).await.unwrap();
        sent.take();
        let posts =
            (0..9).map(|_| grouped.post(&scene.key, scene.generation, batch(&["x"]), scene.now));
        for posted in futures_util::future::join_all(posts).await {
            done(posted.unwrap());
        }
        let waits = sent.take().iter().filter(|(_, waits)| *waits).count();
        assert!(waits < 9, "{waits} waits for 9 posts");
        server::database(&name).await.drop().await.unwrap();
    });
}
