//! Processes that read a head before it was frozen, and go on when its queue has been copied.

use zaqar_core::storage::{
    Claims, ContentsMark, DeadLetters, Deleted, EntryRow, Error, LeaseRequest, MessageRow,
    Messages, MoveId, Moves, NewSubscription, Outbox, Subscriptions,
};
use zaqar_core::{Position, SubscriptionId};
use zaqar_storage_testkit::block_on;

use super::{Scene, key, request};
use crate::holding::{Hold, HoldOutcome};
use crate::schema::CommitDeadline;
use crate::stored::state;
use crate::view::Freshness;

const ID: MoveId = MoveId::new(9);

impl Scene {
    async fn freeze(&self) {
        let frozen = self.store.freeze(&self.key, ID, self.now).await.unwrap();
        assert_eq!(frozen.map(|head| head.generation), Some(self.generation));
    }

    async fn copied(&self) -> (Vec<MessageRow>, Vec<EntryRow>) {
        let (mut messages, mut entries, mut mark) =
            (Vec::new(), Vec::new(), Some(ContentsMark::START));
        while let Some(from) = mark {
            let part = self.store.export(&self.key, ID, from, 2, self.now).await.unwrap().unwrap();
            messages.extend(part.contents.messages);
            entries.extend(part.contents.entries);
            mark = part.next;
        }
        (messages, entries)
    }

    async fn thaw(&self) {
        self.store.thaw(&self.key, ID).await.unwrap();
    }
}

fn is_moved<T>(answer: Result<T, Error>) -> bool {
    matches!(answer, Err(Error::Moved { id: ID, .. }))
}

#[test]
fn a_delete_that_comes_after_the_copy_is_told_so() {
    block_on(async {
        let scene = Scene::new().await;
        let ids = scene.post(&["a", "b", "c"]).await;
        let view = scene.store.view(&scene.queue(), scene.now).await.unwrap().unwrap();
        scene.freeze().await;
        assert_eq!(scene.copied().await.0.len(), 3);
        for freshness in [Freshness::Majority, Freshness::Latest] {
            assert!(is_moved(scene.store.delete_one(&view, freshness, ids[0], None).await));
        }
        scene.thaw().await;
        // The stamp of a move that was undone counts for nothing.
        let deleted = scene.store.delete(&scene.key, ids[0], None, scene.now).await.unwrap();
        assert_eq!(deleted, Deleted::Gone);
        assert_eq!(scene.texts().await, ["b", "c"]);
        scene.end().await;
    });
}

#[test]
fn a_worker_that_comes_after_the_copy_is_told_so() {
    block_on(async {
        let scene = Scene::new().await;
        let new = NewSubscription {
            id: SubscriptionId::new(1),
            subscriber: "http://a".to_owned(),
            ttl: 600,
            options: "{}".to_owned(),
            confirmed: true,
            lease: None,
        };
        scene.store.subscribe(&scene.key, scene.generation, &new, scene.now).await.unwrap();
        let first = scene.post(&["a"]).await[0].position;
        let head = scene.head().await;
        scene.freeze().await;
        assert_eq!(scene.copied().await.1.len(), 1);
        assert!(is_moved(scene.store.settle_entries(&head, &[first]).await));
        let due = scene.store.due_queues(9, scene.now).await.unwrap();
        assert!(due.is_empty(), "{due:?}");
        scene.thaw().await;
        scene.store.settle(&scene.key, scene.generation.incarnation, &[first]).await.unwrap();
        let lease = LeaseRequest { until: scene.now.plus_secs(60), limit: 9, bytes: 9 };
        assert_eq!(scene.store.lease(&scene.key, &lease, scene.now).await.unwrap(), []);
        scene.end().await;
    });
}

#[test]
fn a_letter_that_would_leave_after_the_copy_stays() {
    block_on(async {
        let mut scene = Scene::new().await;
        let dead = key("dead");
        scene.open(&dead).await;
        scene.post(&["a", "b"]).await;
        let first = request(2, None);
        scene.claim(&first).await;
        scene.store.claim_release(&scene.key, first.id, scene.now).await.unwrap();
        let (target, generation) = (dead.clone(), scene.generation);
        let rule = DeadLetters { max_claim_count: 1, target, generation, ttl: None };
        let view = scene.store.view(&scene.queue(), scene.now).await.unwrap().unwrap();
        let found = scene.store.first(view.of_state(state::FREE), 9).await.unwrap();
        let found: Vec<_> = found.iter().collect();
        let claim = crate::schema::random_id();
        scene.store.write_internal_claim(&view, &claim).await.unwrap();
        let hold = Hold {
            claim: &claim,
            positions: found.iter().map(|message| message.n).collect(),
            ttl: 60,
            grace: None,
            deadline: CommitDeadline::new(),
        };
        let held = scene.store.try_holding(&view, hold).await.unwrap();
        assert!(matches!(held, HoldOutcome::Committed(2)));
        scene.freeze().await;
        assert_eq!(scene.copied().await.0.len(), 2);
        let target = crate::schema::queue_id(&dead);
        let (head, intent) =
            scene.store.commit_move(&view, &rule, &target, &claim, &found).await.unwrap().unwrap();
        scene.store.apply_and_remove(&head.id, &intent).await.unwrap();
        assert_eq!(scene.texts_of(&dead).await, [""; 0], "they would be in two queues");
        scene.thaw().await;
        assert_eq!(scene.texts().await, ["a", "b"]);
        scene.pass(60);
        assert_eq!(scene.claim(&request(9, Some(rule))).await, []);
        assert_eq!(scene.texts().await, [""; 0]);
        assert_eq!(scene.texts_of(&dead).await, ["a", "b"]);
        scene.end().await;
    });
}

#[test]
fn what_was_committed_before_the_freeze_is_copied() {
    block_on(async {
        let scene = Scene::new().await;
        scene.post(&["a"]).await;
        let draft = scene.draft(&["b", "c"]);
        scene.store.write_messages(&draft).await.unwrap();
        scene.store.commit(&draft, false, None).await.unwrap().0.expect("the head takes it");
        let late = scene.draft(&["late"]);
        scene.store.write_messages(&late).await.unwrap();
        scene.freeze().await;
        let positions: Vec<_> =
            scene.copied().await.0.iter().map(|message| message.position).collect();
        assert_eq!(positions.len(), 3);
        assert!(positions.is_sorted() && positions[0] > Position::new(0));
        let refused = scene.store.commit(&late, false, None).await.unwrap().0;
        assert!(refused.is_none(), "a frozen head takes no post");
        scene.thaw().await;
        assert_eq!(scene.texts().await, ["a", "b", "c"]);
        scene.end().await;
    });
}

#[test]
fn a_sweep_leaves_the_head_of_a_queue_that_moves() {
    block_on(async {
        let scene = Scene::new().await;
        scene.post(&["a"]).await;
        scene.store.purge(&scene.key, scene.now).await.unwrap();
        scene.post(&["b"]).await;
        scene.freeze().await;
        scene.sweep().await;
        assert_eq!(scene.copied().await.0.len(), 1);
        scene.thaw().await;
        assert_eq!(scene.texts().await, ["b"]);
        scene.end().await;
    });
}
