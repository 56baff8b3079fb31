//! Claimers that move dead letters.

use zaqar_core::storage::{Claims, DeadLetters};
use zaqar_storage_testkit::block_on;

use super::{Scene, key, request};
use crate::holding::{Hold, HoldOutcome};
use crate::schema::{Fence, queue_id};
use crate::stored::{Act, Step, state};

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
fn a_claimer_that_dies_holding_worn_messages_leaves_them_where_they_are() {
    block_on(async {
        let mut scene = Scene::new().await;
        let rule = exhausted(&scene).await;
        let view = scene.store.view(&scene.queue(), scene.now).await.unwrap().unwrap();
        let claim = crate::schema::fresh_op();
        scene.store.write_own_claim(&view, &claim).await.unwrap();
        let hold = Hold {
            claim: &claim,
            places: scene.positions().await,
            ttl: 60,
            grace: None,
            fence: Fence::new(),
        };
        assert!(matches!(
            scene.store.try_holding(&view, hold).await.unwrap(),
            HoldOutcome::Done(2)
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
fn a_claimer_that_dies_when_the_move_is_decided_has_moved_each_letter_once() {
    block_on(async {
        let mut scene = Scene::new().await;
        let rule = exhausted(&scene).await;
        let view = scene.store.view(&scene.queue(), scene.now).await.unwrap().unwrap();
        let found = scene.store.first(view.of_state(state::FREE), 9).await.unwrap();
        let claim = crate::schema::fresh_op();
        scene.store.write_own_claim(&view, &claim).await.unwrap();
        let hold = Hold {
            claim: &claim,
            places: scene.positions().await,
            ttl: 60,
            grace: None,
            fence: Fence::new(),
        };
        scene.store.try_holding(&view, hold).await.unwrap();
        let exhausted: Vec<_> = found.iter().collect();
        let target = queue_id(&rule.target);
        let decided =
            scene.store.decide_move(&view, &rule, &target, &claim, &exhausted).await.unwrap();
        let (_, step) = decided.expect("the target is as assumed");
        // Only the first of them is carried out.
        let Act::DeadLetters { first, source, claim, letters } = &step.act else {
            panic!("letters")
        };
        let half = Act::DeadLetters {
            first: *first,
            source: *source,
            claim: claim.clone(),
            letters: letters[..1].to_vec(),
        };
        scene.store.carry_out(&target, &Step { act: half, ..step.clone() }).await.unwrap();
        assert_eq!(scene.texts_of(&rule.target).await, ["a", "b"], "whoever looks sees both");
        assert_eq!(scene.texts().await, [""; 0]);
        scene.pop(&rule.target, 1).await;
        scene.pass(60);
        // A helper that had stopped, and the claim that runs out.
        scene.store.carry_out(&target, &step).await.unwrap();
        assert_eq!(scene.claim(&request(9, Some(rule.clone()))).await, []);
        assert_eq!(scene.texts_of(&rule.target).await, ["b"]);
        assert_eq!(scene.texts().await, [""; 0]);
        scene.end().await;
    });
}
