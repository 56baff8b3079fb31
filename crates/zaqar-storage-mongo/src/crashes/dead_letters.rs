//! Processes that move dead letters.

use zaqar_core::storage::{Claims, DeadLetters};
use zaqar_storage_testkit::block_on;

use super::{Scene, key, request};
use crate::holding::{Hold, HoldOutcome};
use crate::schema::{CommitDeadline, queue_id};
use crate::stored::{Action, Intent, state};

/// A queue with two messages that were claimed once, and the rule that moves them.
async fn exhausted(scene: &Scene) -> DeadLetters {
    let dead = key("dead");
    scene.open(&dead).await;
    scene.post(&["a", "b"]).await;
    let first = request(2, None);
    scene.claim(&first).await;
    scene.store.claim_release(&scene.key, first.id, scene.now).await.unwrap();
    DeadLetters { max_claim_count: 1, target: dead, generation: scene.generation, ttl: None }
}

#[test]
fn a_process_that_dies_before_the_move_is_committed_moves_nothing() {
    block_on(async {
        let mut scene = Scene::new().await;
        let rule = exhausted(&scene).await;
        let view = scene.store.view(&scene.queue(), scene.now).await.unwrap().unwrap();
        let claim = crate::schema::random_id();
        scene.store.write_internal_claim(&view, &claim).await.unwrap();
        let hold = Hold {
            claim: &claim,
            positions: scene.positions().await,
            ttl: 60,
            grace: None,
            deadline: CommitDeadline::new(),
        };
        assert!(matches!(
            scene.store.try_holding(&view, hold).await.unwrap(),
            HoldOutcome::Committed(2)
        ));
        assert_eq!(scene.claim(&request(9, Some(rule.clone()))).await, []);
        assert_eq!(scene.texts().await, ["a", "b"]);
        scene.pass(60);
        assert_eq!(scene.claim(&request(9, Some(rule.clone()))).await, []);
        assert_eq!(scene.texts().await, [""; 0]);
        assert_eq!(scene.texts_of(&rule.target).await, ["a", "b"]);
        scene.end().await;
    });
}

#[test]
fn a_process_that_dies_after_the_move_is_committed_has_moved_each_message_once() {
    block_on(async {
        let mut scene = Scene::new().await;
        let rule = exhausted(&scene).await;
        let view = scene.store.view(&scene.queue(), scene.now).await.unwrap().unwrap();
        let found = scene.store.first(view.of_state(state::FREE), 9).await.unwrap();
        let claim = crate::schema::random_id();
        scene.store.write_internal_claim(&view, &claim).await.unwrap();
        let hold = Hold {
            claim: &claim,
            positions: scene.positions().await,
            ttl: 60,
            grace: None,
            deadline: CommitDeadline::new(),
        };
        scene.store.try_holding(&view, hold).await.unwrap();
        let exhausted: Vec<_> = found.iter().collect();
        let target = queue_id(&rule.target);
        let committed =
            scene.store.commit_move(&view, &rule, &target, &claim, &exhausted).await.unwrap();
        let (_, intent) = committed.expect("the target has the assumed generation");
        // Only the first of them is moved.
        let Action::DeadLetters { first, source, claim, dead_letters } = &intent.action else {
            panic!("not a move of dead letters")
        };
        let half = Action::DeadLetters {
            first: *first,
            source: *source,
            claim: claim.clone(),
            dead_letters: dead_letters[..1].to_vec(),
        };
        scene.store.apply(&target, &Intent { action: half, ..intent.clone() }).await.unwrap();
        assert_eq!(scene.texts_of(&rule.target).await, ["a", "b"], "readers see both");
        assert_eq!(scene.texts().await, [""; 0]);
        scene.pop(&rule.target, 1).await;
        scene.pass(60);
        // Another process that had stopped, and the claim that expires.
        scene.store.apply(&target, &intent).await.unwrap();
        assert_eq!(scene.claim(&request(9, Some(rule.clone()))).await, []);
        assert_eq!(scene.texts_of(&rule.target).await, ["b"]);
        assert_eq!(scene.texts().await, [""; 0]);
        scene.end().await;
    });
}
