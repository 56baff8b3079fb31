//! Round trips and majority waits of each operation, compared with `docs.md`.

#![expect(clippy::wildcard_enum_match_arm, reason = "other events of commands are not counted")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{join, join_all};
use futures_util::poll;
use mongodb::Database;
use mongodb::bson::{Bson, Document, doc};
use mongodb::event::EventHandler;
use mongodb::event::command::CommandEvent;
use zaqar_core::storage::{Claims, LeaseRequest, Messages, Outbox, RecipientQuery, Subscriptions};
use zaqar_core::{ClaimId, MessageId};
use zaqar_storage_mongo::{Mongo, Options};
use zaqar_storage_testkit::block_on;

use crate::scene::{OPERATIONS, Scene, batch, done, wait_until_applied};
use crate::support::proxy::{Fault, Proxy, When, plain_address};
use crate::support::server;

/// The commands that a store has sent, and whether each waits for a majority.
#[derive(Clone, Default)]
struct Sent {
    commands: Arc<Mutex<Vec<(String, bool)>>>,
    /// The most intents that a head listed which a command has returned.
    longest_head: Arc<AtomicUsize>,
}

impl Sent {
    fn handler(&self) -> EventHandler<CommandEvent> {
        let sent = self.clone();
        EventHandler::callback(move |event| {
            let command = match event {
                CommandEvent::Started(command) => command,
                CommandEvent::Succeeded(done) => {
                    let head = done.reply.get_document("value");
                    let listed = head.and_then(|head| head.get_array("todo")).map_or(0, Vec::len);
                    sent.longest_head.fetch_max(listed, Ordering::Relaxed);
                    return;
                }
                _ => return,
            };
            let is_majority =
                |concern: &Document| concern.get_str("w").is_ok_and(|w| w == "majority");
            // Reads do not wait, whatever write concern is sent with them.
            let is_write =
                matches!(&*command.command_name, "findAndModify" | "update" | "insert" | "delete");
            let waits =
                is_write && command.command.get_document("writeConcern").is_ok_and(is_majority);
            if command.command_name != "hello" {
                sent.commands.lock().unwrap().push((command.command_name, waits));
            }
        })
    }

    fn take(&self) -> Vec<(String, bool)> {
        std::mem::take(&mut self.commands.lock().unwrap())
    }
}

/// Counts the commands of an operation, including those after its answer. Returns a row of the
/// table in `docs.md`.
async fn measure(scene: &Scene, store: &Mongo, db: &Database, sent: &Sent, what: &str) -> String {
    let (operation, _) = what.split_once(',').unwrap_or((what, ""));
    sent.take();
    scene.perform(store, operation).await.unwrap();
    wait_until_applied(db).await;
    // Commands are recorded when they are sent, so the answer to the last one need not have
    // arrived.
    let commands = sent.take();
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

/// A queue with or without subscribers, a store behind a proxy, and the commands that it sends.
struct Posting {
    name: String,
    scene: Scene,
    proxy: Proxy,
    store: Mongo,
    sent: Sent,
}

impl Posting {
    /// `None` if a proxy cannot be used.
    async fn new(has_subscribers: bool) -> Option<Self> {
        let name = server::name();
        let Some(address) = plain_address(&name) else {
            eprintln!("skipped: {} has more than a host and a port, as a proxy needs", server::URI);
            return None;
        };
        let (proxy, sent) = (Proxy::start(address).await, Sent::default());
        let direct = server::open(&name).await;
        let scene = Scene::new(&direct).await;
        if !has_subscribers {
            direct.unsubscribe_all(&scene.key, scene.now).await.unwrap();
        }
        let store = Mongo::open(Options {
            uri: zaqar_core::Secret::new(proxy.uri()),
            change_streams: false,
            commands: Some(sent.handler()),
            ..server::options(&name)
        })
        .await
        .unwrap();
        let posting = Self { name, scene, proxy, store, sent };
        // The first post finds out whether there are subscribers.
        posting.post().await;
        posting.applied().await;
        Some(posting)
    }

    async fn post(&self) -> Vec<MessageId> {
        let Scene { key, generation, now, .. } = &self.scene;
        done(self.store.post(key, *generation, batch(&["x"]), *now).await.unwrap())
    }

    async fn applied(&self) {
        wait_until_applied(&server::database(&self.name).await).await;
    }

    async fn until_seen(&self, count: usize) -> Vec<String> {
        for _ in 0..60_000 {
            let (seen, _) = self.proxy.seen();
            if seen.len() >= count {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("{count} commands are never seen: {:?}", self.proxy.seen());
    }

    async fn end(&self) {
        server::database(&self.name).await.drop().await.unwrap();
    }
}

#[test]
fn a_post_is_answered_after_two_majority_waits() {
    block_on(async {
        let Some(posting) = Posting::new(false).await else { return };
        // The third statement is never answered.
        posting.proxy.plan(Some((2, Fault::Hold, When::Before)));
        assert_eq!(posting.post().await.len(), 1);
        assert_eq!(posting.until_seen(3).await, ["insert", "findAndModify", "update"]);
        posting.end().await;
    });
}

#[test]
fn a_post_to_subscribers_is_answered_after_two_majority_waits() {
    block_on(async {
        let Some(posting) = Posting::new(true).await else { return };
        // The first one is not answered yet, and the second is sent: they are one wait.
        posting.proxy.plan(Some((0, Fault::Hold, When::Before)));
        let waiting = posting.post();
        tokio::pin!(waiting);
        let seen = tokio::select! {
            _ = &mut waiting => panic!("it is posted before its messages are written"),
            seen = posting.until_seen(2) => seen,
        };
        assert_eq!(seen, ["insert", "insert"]);
        posting.proxy.release();
        waiting.await;
        posting.applied().await;
        // The statements after the commit are never answered. Another process finds the entry.
        posting.proxy.plan(Some((3, Fault::Hold, When::Before)));
        let posted = posting.post().await;
        assert_eq!(posting.until_seen(4).await[..3], ["insert", "insert", "findAndModify"]);
        let other = server::open(&posting.name).await;
        let Scene { key, now, .. } = &posting.scene;
        let due = other.due_queues(9, *now).await.unwrap();
        assert_eq!(due.iter().map(|due| &due.queue).collect::<Vec<_>>(), [key]);
        let lease = LeaseRequest { until: now.plus_secs(100), limit: 100, bytes: usize::MAX };
        let entries = Outbox::lease(&other, key, &lease, *now).await.unwrap();
        let last = entries.last().and_then(|entry| entry.messages.last());
        let last = last.map(|message| message.id);
        assert_eq!(last, posted.last().copied());
        posting.end().await;
    });
}

#[test]
fn a_group_of_eight_posts_waits_less_than_once_for_each() {
    block_on(async {
        for (has_subscribers, waits_of_group) in [(false, 3), (true, 5)] {
            let Some(posting) = Posting::new(has_subscribers).await else { return };
            posting.sent.take();
            // While one post is in progress, eight others arrive.
            posting.proxy.plan(Some((0, Fault::Hold, When::Before)));
            let (first, others) = (posting.post(), join_all((0..8).map(|_| posting.post())));
            tokio::pin!(first, others);
            tokio::select! {
                _ = &mut first => panic!("it is posted before its messages are written"),
                _ = posting.until_seen(1) => {}
            }
            assert!(poll!(&mut others).is_pending());
            posting.proxy.release();
            join(first, others).await;
            posting.applied().await;
            let waits = posting.sent.take().iter().filter(|(_, waits)| *waits).count();
            assert_eq!(waits, 2 * waits_of_group, "of one post, and of eight");
            assert!(waits_of_group < 8);
            posting.end().await;
        }
    });
}

/// Posters on one queue, and at most how many commands and majority waits there are for each post.
/// `docs.md` lists them.
const POSTERS: [(usize, f64, f64); 4] =
    [(1, 4.0, 3.0), (8, 1.2, 0.9), (32, 0.4, 0.3), (128, 0.15, 0.12)];
/// How often each of them posts.
const POSTS: usize = 8;

#[test]
fn posts_of_more_posters_need_fewer_statements() {
    block_on(async {
        let docs = include_str!("../../src/docs.md");
        for (posters, most_commands, most_waits) in POSTERS {
            let row = format!("| {posters} | {most_commands} | {most_waits} |");
            assert!(docs.contains(&row), "docs.md lists {row}");
            let Some(posting) = Posting::new(false).await else { return };
            posting.sent.take();
            posting.sent.longest_head.store(0, Ordering::Relaxed);
            join_all((0..posters).map(async |_| {
                for _ in 0..POSTS {
                    posting.post().await;
                }
            }))
            .await;
            posting.applied().await;
            let sent = posting.sent.take();
            let waits = sent.iter().filter(|(_, waits)| *waits).count();
            let of_each = |count: usize| count as f64 / (posters * POSTS) as f64;
            let (commands, waits) = (of_each(sent.len()), of_each(waits));
            let longest = posting.sent.longest_head.load(Ordering::Relaxed);
            println!(
                "{posters} posters: {commands:.3} commands and {waits:.3} majority waits per post; \
                 a head listed {longest} intents"
            );
            assert!(commands <= most_commands, "{commands} commands per post of {posters}");
            assert!(waits <= most_waits, "{waits} waits per post of {posters}");
            assert!(longest <= 2, "a head listed {longest} intents");
            posting.end().await;
        }
    });
}

#[test]
fn a_large_post_is_written_in_chunks() {
    block_on(async {
        let Some(posting) = Posting::new(true).await else { return };
        let texts: Vec<_> = (0..3000).map(|number| number.to_string()).collect();
        let texts: Vec<_> = texts.iter().map(String::as_str).collect();
        posting.sent.take();
        let Scene { key, generation, now, .. } = &posting.scene;
        let posted = posting.store.post(key, *generation, batch(&texts), *now).await.unwrap();
        assert_eq!(done(posted).len(), 3000);
        posting.applied().await;
        let sent = posting.sent.take();
        let count = |wanted| sent.iter().filter(|(name, _)| name == wanted).count();
        // Three of each for the messages, one for the outbox; the removal of the intent.
        assert_eq!((count("insert"), count("findAndModify"), count("update")), (4, 1, 5));
        posting.end().await;
    });
}

#[test]
fn renewals_and_releases_of_one_process_do_not_conflict() {
    block_on(async {
        let (name, sent) = (server::name(), Sent::default());
        let options = Options {
            commands: Some(sent.handler()),
            change_streams: false,
            ..server::options(&name)
        };
        let store = Mongo::open(options).await.unwrap();
        let scene = Scene::new(&store).await;
        let claims: Vec<_> = (0..3).map(|_| ClaimId::new(rand::random())).collect();
        for claim in &claims {
            scene.take(&store, *claim, 1).await.unwrap();
        }
        wait_until_applied(&server::database(&name).await).await;
        sent.take();
        let (key, now) = (&scene.key, scene.now);
        let renewed = claims.iter().map(|claim| store.claim_renew(key, *claim, 500, 60, now));
        assert!(join_all(renewed).await.into_iter().all(Result::unwrap));
        let released = claims.iter().map(|claim| store.claim_release(key, *claim, now));
        assert!(join_all(released).await.into_iter().all(|freed| freed.unwrap() == 1));
        // A conflict would need another commit.
        let commits = sent.take().iter().filter(|(name, _)| name == "findAndModify").count();
        assert_eq!(commits, 2 * claims.len());
        server::database(&name).await.drop().await.unwrap();
    });
}
