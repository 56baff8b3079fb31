//! Processes that post.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use mongodb::event::EventHandler;
use mongodb::event::command::CommandEvent;
use zaqar_core::storage::{
    Error, Guarded, Heads, LeaseRequest, Leases, Messages, NewSubscription, Outbox, Subscribed,
    Subscriptions, Upkeep,
};
use zaqar_core::{LeaseId, Position, SubscriptionId};
use zaqar_storage_testkit::block_on;

use super::{Scene, batch, done, key, request, server, texts};
use crate::posting::Insertion;
use crate::schema::CommitDeadline;
use crate::{Mongo, Options};

#[test]
fn a_writer_that_dies_before_the_commit_has_posted_nothing() {
    block_on(async {
        let mut scene = Scene::new().await;
        let draft = scene.draft(&["lost", "lost"]);
        assert_eq!(scene.store.write_messages(&draft).await.unwrap(), Insertion::New);
        assert_eq!(scene.texts().await, [""; 0]);
        scene.post(&["a"]).await;
        assert_eq!(scene.claim(&request(9, None)).await.len(), 1);
        assert_eq!(scene.count("queue_messages").await, 3);
        scene.pass(24 * 3600);
        scene.sweep().await;
        assert_eq!(scene.count("queue_messages").await, 0, "its documents expire");
        scene.end().await;
    });
}

#[test]
fn a_writer_that_dies_after_the_commit_has_posted() {
    block_on(async {
        let scene = Scene::new().await;
        let first = scene.post(&["a"]).await;
        let draft = scene.draft(&["b", "c"]);
        scene.store.write_messages(&draft).await.unwrap();
        scene.store.commit(&draft, false, None).await.unwrap().0.expect("the head takes it");
        // Another server's post comes after it, and nobody waits for the dead writer.
        let other = scene.another().await;
        let posted = other.post(&scene.key, scene.generation, batch(&["d"]), scene.now).await;
        assert_eq!(done(posted.unwrap())[0].position.get(), first[0].position.get() + 3);
        assert_eq!(scene.texts().await, ["a", "b", "c", "d"]);
        assert_eq!(texts(&scene.claim(&request(3, None)).await), ["a", "b", "c"]);
        scene.end().await;
    });
}

#[test]
fn the_sweep_applies_the_intent_of_a_dead_writer() {
    block_on(async {
        let mut scene = Scene::new().await;
        let draft = scene.draft(&["a", "b"]);
        scene.store.write_messages(&draft).await.unwrap();
        scene.store.commit(&draft, false, None).await.unwrap().0.expect("the head takes it");
        scene.pass(2);
        scene.sweep().await;
        assert_eq!(scene.head().await.intents.len(), 0, "its intent was removed");
        assert_eq!(scene.texts().await, ["a", "b"]);
        scene.end().await;
    });
}

#[test]
fn a_writer_that_stopped_before_the_commit_appends_when_it_continues() {
    block_on(async {
        let mut scene = Scene::new().await;
        let sleeper = scene.another().await;
        let draft = scene.draft(&["late", "later"]);
        sleeper.write_messages(&draft).await.unwrap();
        scene.post(&["a"]).await;
        scene.store.purge(&scene.key, scene.now).await.unwrap();
        scene.post(&["b", "c"]).await;
        scene.pass(1000);
        scene.sweep().await;
        let head = sleeper.commit(&draft, false, None).await.unwrap().0.expect("the head takes it");
        let positioned = scene.apply(&sleeper, &draft, &head).await;
        assert_eq!(scene.ids().await[2..], positioned);
        assert_eq!(scene.texts().await, ["b", "c", "late", "later"]);
        scene.end().await;
    });
}

#[test]
fn a_writer_that_continues_after_the_deadline_is_rejected_and_leaves_no_documents() {
    block_on(async {
        let scene = Scene::new().await;
        let sleeper = scene.another().await;
        let mut draft = scene.draft(&["late", "later"]);
        sleeper.write_messages(&draft).await.unwrap();
        // As if half a day had passed.
        draft.deadline = CommitDeadline::past();
        let refused = sleeper.post_group(draft).await;
        assert!(matches!(refused[..], [Err(Error::Unavailable { .. })]), "{refused:?}");
        assert_eq!(scene.texts().await, [""; 0]);
        assert_eq!(scene.count("queue_messages").await, 0);
        scene.end().await;
    });
}

#[test]
fn a_writer_that_continues_after_its_queue_was_closed_leaves_no_documents() {
    block_on(async {
        let scene = Scene::new().await;
        let sleeper = scene.another().await;
        let late = batch(&["late", "later"]);
        let draft = scene.draft_of(&late);
        sleeper.write_messages(&draft).await.unwrap();
        Heads::close(&scene.store, &scene.key, scene.generation.incarnation).await.unwrap();
        scene.sweep().await;
        assert_eq!(scene.count("queue_heads").await, 0);
        let refused = sleeper.post(&scene.key, scene.generation, late, scene.now).await.unwrap();
        assert_eq!(refused, Guarded::Absent);
        assert_eq!(scene.count("queue_messages").await, 0);
        scene.end().await;
    });
}

#[test]
fn a_writer_that_continues_after_its_messages_were_consumed_leaves_no_documents() {
    block_on(async {
        let mut scene = Scene::new().await;
        let sleeper = scene.another().await;
        let draft = scene.draft(&["a", "b", "c"]);
        sleeper.write_messages(&draft).await.unwrap();
        let head = sleeper.commit(&draft, false, None).await.unwrap().0.expect("the head takes it");
        let popped = scene.pop(&scene.key, 2).await;
        assert_eq!(texts(&popped), ["a", "b"]);
        scene.pass(60);
        scene.sweep().await;
        let positioned = scene.apply(&sleeper, &draft, &head).await;
        assert_eq!(
            scene.ids().await,
            positioned[2..],
            "it gets the positions that its messages have"
        );
        assert_eq!(scene.texts().await, ["c"]);
        scene.store.purge(&scene.key, scene.now).await.unwrap();
        scene.sweep().await;
        scene.apply(&scene.another().await, &draft, &head).await;
        assert_eq!(scene.count("queue_messages").await, 0);
        scene.end().await;
    });
}

#[test]
fn a_retried_request_is_posted_once() {
    block_on(async {
        let scene = Scene::new().await;
        let batch = batch(&["a", "b"]);
        let post = || scene.store.post(&scene.key, scene.generation, batch.clone(), scene.now);
        let first = done(post().await.unwrap());
        scene.post(&["c"]).await;
        assert_eq!(done(post().await.unwrap()), first);
        assert_eq!(scene.texts().await, ["a", "b", "c"]);
        scene.pop(&scene.key, 1).await;
        assert_eq!(done(post().await.unwrap()), first, "also if some messages are consumed");
        assert_eq!(scene.texts().await, ["b", "c"]);
        scene.end().await;
    });
}

#[test]
fn a_request_is_repeated_that_was_committed_and_not_applied() {
    block_on(async {
        let scene = Scene::new().await;
        subscribe(&scene, 5, None).await;
        let batch = batch(&["a", "b"]);
        let draft = scene.draft_of(&batch);
        scene.store.write_messages(&draft).await.unwrap();
        scene.store.write_entries(&draft).await.unwrap();
        scene.store.commit(&draft, true, None).await.unwrap().0.expect("the head takes it");
        // Its process has died, and its client asks another one.
        let other = scene.another().await;
        let posted = other.post(&scene.key, scene.generation, batch, scene.now).await;
        assert_eq!(scene.ids().await, done(posted.unwrap()));
        assert_eq!(scene.texts().await, ["a", "b"]);
        let request = LeaseRequest { until: scene.now.plus_secs(60), limit: 9, bytes: 9 };
        let lease = || scene.store.lease(&scene.key, &request, scene.now);
        let entries = lease().await.unwrap();
        let ids: Vec<_> = entries[0].messages.iter().map(|message| message.id).collect();
        assert_eq!(ids, scene.ids().await);
        assert_eq!(lease().await.unwrap(), []);
        scene.end().await;
    });
}

#[test]
fn a_commit_that_is_sent_twice_is_idempotent() {
    block_on(async {
        let scene = Scene::new().await;
        let draft = scene.draft(&["a", "b"]);
        scene.store.write_messages(&draft).await.unwrap();
        scene.store.commit(&draft, false, None).await.unwrap().0.expect("the head takes it");
        let (again, _) = scene.store.commit(&draft, false, None).await.unwrap();
        assert!(again.is_none(), "it is listed already");
        let positioned = scene.apply(&scene.store, &draft, &scene.head().await).await;
        assert_eq!(scene.ids().await, positioned);
        assert_eq!(scene.texts().await, ["a", "b"]);
        assert_eq!(scene.head().await.intents.len(), 0);
        scene.end().await;
    });
}

/// Subscribes; returns the start position.
async fn subscribe(scene: &Scene, number: u128, lease: Option<LeaseId>) -> u64 {
    let subscription = NewSubscription {
        id: SubscriptionId::new(number),
        subscriber: format!("http://{number}"),
        ttl: 3600,
        options: "{}".to_owned(),
        confirmed: true,
        lease,
    };
    let subscribed =
        scene.store.subscribe(&scene.key, scene.generation, &subscription, scene.now).await;
    match done(subscribed.unwrap()) {
        Subscribed::Created { after } => after.get(),
        Subscribed::Exists(there) => panic!("{there:?}"),
    }
}

#[test]
fn followers_apply_the_posts_of_dead_writers() {
    block_on(async {
        let scene = Scene::new().await;
        let lease = LeaseId::new(1);
        scene.store.keep_lease(lease, scene.now.plus_secs(100), scene.now).await.unwrap();
        subscribe(&scene, 5, Some(lease)).await;
        let draft = scene.draft(&["a", "b"]);
        scene.store.write_messages(&draft).await.unwrap();
        scene.store.write_entries(&draft).await.unwrap();
        scene.store.commit(&draft, true, None).await.unwrap().0.expect("the head takes it");
        scene.post(&["c"]).await;
        let incarnation = scene.generation.incarnation;
        let after = Position::new(0);
        let follower = scene.another().await;
        let shown = follower.follow(&scene.key, incarnation, after, 9, scene.now).await.unwrap();
        let firsts: Vec<_> = shown.iter().map(|entry| entry.first).collect();
        let ids = scene.ids().await;
        assert_eq!(firsts, [ids[0].position, ids[2].position]);
        assert_eq!(shown[0].messages.len(), 2);
        scene.end().await;
    });
}

#[test]
fn a_new_subscription_starts_between_committed_and_uncommitted_posts() {
    block_on(async {
        let scene = Scene::new().await;
        scene.post(&["a"]).await;
        let (committed, late) = (scene.draft(&["b", "c"]), scene.draft(&["d"]));
        scene.store.write_messages(&committed).await.unwrap();
        scene.store.write_messages(&late).await.unwrap();
        scene.store.commit(&committed, false, None).await.unwrap().0.expect("the head takes it");
        let after = subscribe(&scene, 5, None).await;
        assert_eq!(after, scene.ids().await[2].position.get());
        let posted = scene.store.post_group(late).await.pop().unwrap();
        let posted = done(posted.unwrap());
        assert!(posted[0].position.get() > after);
        let lease = LeaseRequest { until: scene.now.plus_secs(60), limit: 1, bytes: 1 };
        let entries = scene.store.lease(&scene.key, &lease, scene.now).await.unwrap();
        assert_eq!(entries[0].messages[0].id, posted[0]);
        scene.end().await;
    });
}

#[test]
fn a_post_whose_writer_died_is_due_in_the_outbox() {
    block_on(async {
        let mut scene = Scene::new().await;
        subscribe(&scene, 5, None).await;
        let draft = scene.draft(&["a", "b"]);
        scene.store.write_messages(&draft).await.unwrap();
        let (head, _) = scene.store.commit(&draft, false, None).await.unwrap();
        assert!(
            head.is_none(),
            "a post without an entry is rejected while there are subscriptions"
        );
        scene.store.write_entries(&draft).await.unwrap();
        scene.store.commit(&draft, true, None).await.unwrap().0.expect("the head takes it");
        scene.pass(2);
        let due = scene.another().await.due_queues(9, scene.now).await.unwrap();
        assert_eq!(due.iter().map(|due| &due.queue).collect::<Vec<_>>(), [&scene.key]);
        let lease = LeaseRequest { until: scene.now.plus_secs(60), limit: 1, bytes: 1 };
        let entries = scene.store.lease(&scene.key, &lease, scene.now).await.unwrap();
        assert_eq!(entries[0].messages.len(), 2);
        scene.end().await;
    });
}

#[test]
fn concurrent_readers_of_one_process_apply_a_dead_writers_post_once() {
    block_on(async {
        let scene = Scene::new().await;
        let draft = scene.draft(&["a", "b"]);
        scene.store.write_messages(&draft).await.unwrap();
        scene.store.commit(&draft, false, None).await.unwrap().0.expect("the head takes it");
        let updates = Arc::new(AtomicUsize::new(0));
        let count = {
            let updates = Arc::clone(&updates);
            EventHandler::callback(move |event| {
                if let CommandEvent::Started(command) = event
                    && command.command.get_str("update").is_ok_and(|name| name == "queue_messages")
                {
                    updates.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let options = Options { commands: Some(count), ..server::options(&scene.name) };
        let readers = Mongo::open(options).await.unwrap();
        let stats = || readers.stats(&scene.key, scene.now);
        for stats in join_all((0..8).map(|_| stats())).await {
            assert_eq!(stats.unwrap().map(|stats| stats.free), Some(2));
        }
        assert_eq!(updates.load(Ordering::Relaxed), 1);
        scene.end().await;
    });
}

#[test]
fn a_queue_whose_intents_cannot_be_applied_does_not_stop_the_others() {
    block_on(async {
        let mut scene = Scene::new().await;
        let mut posts = Vec::new();
        for name in ["blocked", "other"] {
            let key = key(name);
            scene.open(&key).await;
            scene.key = key;
            subscribe(&scene, 5, None).await;
            let draft = scene.draft(&["a"]);
            scene.store.write_messages(&draft).await.unwrap();
            scene.store.write_entries(&draft).await.unwrap();
            scene.store.commit(&draft, true, None).await.unwrap().0.expect("the head takes it");
            posts.push(draft);
        }
        scene.pass(2);
        let store = scene.another().await;
        // As if an attempt had taken so long.
        store.inner.applied.delay(&posts[0].op, Duration::from_secs(3600));
        let due = store.due_queues(9, scene.now).await.unwrap();
        assert_eq!(due.len(), 2, "{due:?}");
        store.sweep(scene.now, 100).await.unwrap();
        let lease = LeaseRequest { until: scene.now.plus_secs(60), limit: 9, bytes: 9 };
        let entries = store.lease(&key("other"), &lease, scene.now).await.unwrap();
        assert_eq!(entries.iter().map(|entry| entry.messages.len()).collect::<Vec<_>>(), [1]);
        let failed = store.stats(&key("blocked"), scene.now).await.unwrap_err();
        assert!(matches!(failed, Error::Unavailable { .. }), "{failed:?}");
        // Another process can apply it.
        assert_eq!(scene.texts_of(&key("blocked")).await, ["a"]);
        scene.end().await;
    });
}
