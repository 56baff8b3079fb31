//! Processes that claim messages.

use futures_util::TryStreamExt;
use mongodb::bson::{DateTime, Document, doc};
use zaqar_core::ClaimId;
use zaqar_core::storage::{Claims, Messages};
use zaqar_storage_testkit::block_on;

use super::{Scene, request, server, texts};
use crate::holding::{Hold, HoldOutcome};
use crate::intents::Sequence;
use crate::schema::{CommitDeadline, claim_bits, number};
use crate::stored::{Action, Intent, state};

/// Commits a claim without applying it. Returns its intent.
async fn commit_claim(scene: &Scene, id: ClaimId, limit: usize) -> Intent {
    let view = scene.store.view(&scene.queue(), scene.now).await.unwrap().unwrap();
    let found = scene.store.first(view.of_state(state::FREE), limit).await.unwrap();
    let claim = claim_bits(id);
    scene.store.write_internal_claim(&view, &claim).await.unwrap();
    let until = number(scene.now.plus_secs(100).as_millis());
    let intent = Intent {
        op: crate::schema::random_id(),
        at: view.now,
        message_epoch: view.head.message_epoch,
        action: Action::Claim {
            claim_seq: view.head.claim_seq + 1,
            claim,
            positions: found.iter().map(|message| message.n).collect(),
            ttl: 100,
            until,
            extend_to: until,
            counts: 1,
        },
    };
    let change = doc! { "$min": { "over": until } };
    scene.store.try_commit(&view.head, Sequence::Claims, &intent, change, None).await.unwrap();
    intent
}

#[test]
fn a_claim_whose_process_dies_after_the_commit_is_live_until_it_expires() {
    block_on(async {
        let mut scene = Scene::new().await;
        scene.post(&["a", "b", "c"]).await;
        let id = ClaimId::new(7);
        commit_claim(&scene, id, 2).await;
        assert_eq!(texts(&scene.claim(&request(9, None)).await), ["c"]);
        let held = scene.store.claim_get(&scene.key, id, scene.now).await.unwrap();
        assert_eq!(texts(&held.expect("it is live").messages), ["a", "b"]);
        scene.pass(100);
        assert_eq!(texts(&scene.claim(&request(2, None)).await), ["a", "b"]);
        scene.end().await;
    });
}

#[test]
fn a_claim_that_is_applied_late_changes_nothing() {
    block_on(async {
        let mut scene = Scene::new().await;
        scene.post(&["a", "b"]).await;
        let id = ClaimId::new(7);
        let intent = commit_claim(&scene, id, 2).await;
        scene.store.claim_release(&scene.key, id, scene.now).await.unwrap();
        // Another process that had stopped.
        scene.another().await.apply_and_remove(&scene.queue(), &intent).await.unwrap();
        assert_eq!(scene.store.claim_get(&scene.key, id, scene.now).await.unwrap(), None);
        let taken = scene.claim(&request(1, None)).await;
        assert_eq!((taken[0].claim_count, texts(&taken)), (2, vec!["a".to_owned()]));
        scene.another().await.apply_and_remove(&scene.queue(), &intent).await.unwrap();
        let shown = scene.store.get(&scene.key, &[taken[0].id], scene.now).await.unwrap();
        assert_eq!(shown, taken);
        scene.pass(100);
        assert_eq!(scene.claim(&request(9, None)).await.len(), 2);
        scene.end().await;
    });
}

#[test]
fn a_process_that_dies_before_the_commit_claims_nothing() {
    block_on(async {
        let mut scene = Scene::new().await;
        scene.post(&["a"]).await;
        let view = scene.store.view(&scene.queue(), scene.now).await.unwrap().unwrap();
        let id = ClaimId::new(7);
        scene.store.write_internal_claim(&view, &claim_bits(id)).await.unwrap();
        assert_eq!(scene.store.claim_get(&scene.key, id, scene.now).await.unwrap(), None);
        assert_eq!(scene.claim(&request(9, None)).await.len(), 1);
        // A process that stopped at the same point claims nothing either: the sequence number has
        // changed.
        let claim = claim_bits(id);
        let hold = Hold {
            claim: &claim,
            positions: scene.positions().await,
            ttl: 100,
            grace: Some(60),
            deadline: CommitDeadline::new(),
        };
        let held = scene.store.try_holding(&view, hold).await.unwrap();
        assert!(matches!(held, HoldOutcome::Conflict));
        scene.pass(100);
        assert_eq!(scene.claim(&request(9, None)).await.len(), 1);
        scene.end().await;
    });
}

#[test]
fn a_process_that_continues_after_the_deadline_claims_nothing() {
    block_on(async {
        let scene = Scene::new().await;
        scene.post(&["a"]).await;
        let view = scene.store.view(&scene.queue(), scene.now).await.unwrap().unwrap();
        let claim = claim_bits(ClaimId::new(7));
        scene.store.write_internal_claim(&view, &claim).await.unwrap();
        let deadline = CommitDeadline::past();
        let hold = Hold {
            claim: &claim,
            positions: scene.positions().await,
            ttl: 100,
            grace: Some(60),
            deadline,
        };
        let held = scene.store.try_holding(&view, hold).await.unwrap();
        assert!(matches!(held, HoldOutcome::Conflict));
        assert_eq!(scene.claim(&request(9, None)).await.len(), 1);
        scene.end().await;
    });
}

#[test]
fn the_ttl_index_deletes_only_claims_that_were_not_made() {
    block_on(async {
        let scene = Scene::new().await;
        scene.post(&["a"]).await;
        scene.claim(&request(1, None)).await;
        let view = scene.store.view(&scene.queue(), scene.now).await.unwrap().unwrap();
        scene.store.write_internal_claim(&view, &claim_bits(ClaimId::new(7))).await.unwrap();
        let claims = server::database(&scene.name).await.collection::<Document>("queue_claims");
        let mut indexes = claims.list_indexes().await.unwrap();
        let mut collected = Vec::new();
        while let Some(index) = indexes.try_next().await.unwrap() {
            if index.options.is_some_and(|options| options.expire_after.is_some()) {
                collected.extend(index.keys.keys().cloned());
            }
        }
        assert_eq!(collected, ["x"]);
        for (live, is_collected) in [(true, 0), (false, 1)] {
            let found = doc! { "live": live, "x": { "$exists": true } };
            assert_eq!(claims.count_documents(found).await.unwrap(), is_collected, "{live}");
        }
        scene.end().await;
    });
}

#[test]
fn more_claims_than_one_intent_releases_can_expire_together() {
    block_on(async {
        let mut scene = Scene::new().await;
        let texts: Vec<_> = (0..120).map(|n| n.to_string()).collect();
        let posted = scene.post(&texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let message_epoch = scene.head().await.message_epoch;
        let first = posted[0].position.get().cast_signed() - 1;
        // The state after 120 claims, without the time that they take.
        let db = server::database(&scene.name).await;
        let until = number(scene.now.plus_secs(100).as_millis());
        let claim = |n: i64| claim_bits(ClaimId::new(u128::try_from(n).unwrap()));
        let records = (1..=120).map(|n| {
            doc! {
                "_id": crate::schema::claim_key(message_epoch, &claim(n)), "h": message_epoch, "queue": scene.queue(),
                "live": true, "e": DateTime::from_millis(until), "places": [first + n], "ttl": 100_i64,
                "since": 0_i64, "turn": 0_i64,
            }
        });
        db.collection::<Document>("queue_claims").insert_many(records).await.unwrap();
        for n in 1..=120 {
            let held = doc! { "$set": { "s": state::CLAIMED, "c": claim(n) } };
            let messages = db.collection::<Document>("queue_messages");
            messages.update_one(doc! { "h": message_epoch, "n": first + n }, held).await.unwrap();
        }
        let over = doc! { "$set": { "over": until } };
        let heads = db.collection::<Document>("queue_heads");
        heads.update_one(doc! { "_id": scene.queue() }, over).await.unwrap();
        assert_eq!(scene.claim(&request(200, None)).await.len(), 0);
        scene.pass(100);
        assert_eq!(scene.claim(&request(200, None)).await.len(), posted.len());
        scene.end().await;
    });
}
