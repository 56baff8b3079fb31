//! Dead letters: the lines of [`zaqar_core::storage::Claims::claim`] on `max_claim_count`.

use bytes::Bytes;
use zaqar_core::storage::{
    ClaimRequest, Claimed, DeadLetters, Guarded, ListQuery, Message, NewMessage, Skipped,
};
use zaqar_core::{Checksum, ClientId, Generation, KeyId, Kind, Payload, Version};

use super::messages::with_ttl;
use crate::kit::{Kit, generation};
use crate::queue::{Queue, everything, ids, message, request, request_with_keys, sealed, texts};

/// A source queue and its dead-letter queue.
async fn pair(kit: &Kit) -> (Queue, Queue) {
    (kit.queue("source").await, kit.queue("dead").await)
}

fn with_rule(limit: usize, rule: DeadLetters) -> ClaimRequest {
    ClaimRequest { dead_letters: Some(rule), ..request(limit) }
}

/// Claims with a rule and releases the claim, which raises the claim count.
async fn claim_and_release(queue: &Queue, limit: usize, rule: &DeadLetters) -> Vec<Message> {
    let request = with_rule(limit, rule.clone());
    let taken = queue.claim_with(&request).await;
    queue.release(request.id).await;
    taken
}

/// `claim`: "A message that was claimed `max_claim_count` times is not claimed: it leaves the queue
/// and is appended to the dead-letter queue".
pub(crate) async fn a_message_at_the_maximum_claim_count_moves(kit: &mut Kit) {
    let (source, dead) = pair(kit).await;
    let rule = dead.as_target(3, None);
    let p = source.post(1).await;
    for count in 1..=3 {
        let taken = claim_and_release(&source, 1, &rule).await;
        assert_eq!(taken.iter().map(|m| m.claim_count).collect::<Vec<_>>(), [count]);
        assert_eq!(dead.ids().await, [], "claimed {count} times of 3");
    }
    assert_eq!(source.ids().await, p, "it moves instead of being claimed again");
    let claimed = source.try_claim(source.generation, &with_rule(1, rule)).await;
    let moved =
        Claimed::Messages { messages: Vec::new(), dead_letters: 1, skipped: Skipped::default() };
    assert_eq!(claimed, Guarded::Done(moved));
    assert_eq!(source.ids().await, []);
    assert_eq!(source.get(&p).await, []);
    assert_eq!(texts(&dead.all().await), ["0"]);
    assert_eq!((source.stats().await.free, dead.stats().await.free), (0, 1));
}

/// `claim`: "with the same payload and client".
pub(crate) async fn a_dead_letter_keeps_payload_and_client(kit: &mut Kit) {
    let (source, dead) = pair(kit).await;
    let rule = dead.as_target(1, None);
    let plain = message("plain").payload;
    let sealed = Payload {
        bytes: (0..=255).collect::<Bytes>(),
        sealed_with: Some(KeyId("key 2".to_owned())),
        checksum: Some(Checksum([7; 16])),
    };
    let new =
        [&plain, &sealed].map(|payload| NewMessage { payload: payload.clone(), ..with_ttl(600) });
    source.post_as("sender", new.to_vec()).await;
    claim_and_release(&source, 2, &rule).await;
    claim_and_release(&source, 2, &rule).await;
    let dead_letters = dead.all().await;
    assert_eq!(dead_letters.iter().map(|m| &m.payload).collect::<Vec<_>>(), [&plain, &sealed]);
    let hide = Some(ClientId::new("sender"));
    assert_eq!(dead.follow(ListQuery { hide, ..everything() }).await, []);
    let hide = Some(ClientId::new("another"));
    assert_eq!(dead.follow(ListQuery { hide, ..everything() }).await.len(), 2);
}

/// `claim`: "with a new id, free, with a claim count of 0, created `now`".
pub(crate) async fn a_dead_letter_is_stored_as_new(kit: &mut Kit) {
    let (source, dead) = pair(kit).await;
    let rule = dead.as_target(1, None);
    let old = dead.post(2).await;
    source.post(1).await;
    claim_and_release(&source, 1, &rule).await;
    kit.pass_millis(2500);
    let now = kit.now();
    claim_and_release(&source, 1, &rule).await;
    let listed = dead.all().await;
    assert_eq!(ids(&listed[..2]), old);
    let dead_letter = &listed[2];
    assert_eq!(dead_letter.id.incarnation, dead.generation.incarnation);
    assert!(dead_letter.id > old[1], "a dead letter is appended");
    assert_eq!((dead_letter.claim, dead_letter.claim_count, dead_letter.created), (None, 0, now));
    assert_eq!(&dead.get_one(dead_letter.id).await, dead_letter);
    let later = dead.post(1).await;
    assert!(later[0] > dead_letter.id, "its position is not reused");
    let (_, taken) = dead.claim(5).await;
    assert_eq!(taken.len(), 4, "a dead letter is claimed like any message");
    assert_eq!(taken[2].claim_count, 1);
}

/// `DeadLetters::ttl`: "Its ttl there, in seconds from `now`."
pub(crate) async fn a_dead_letter_has_the_ttl_of_the_rule(kit: &mut Kit) {
    let (source, dead) = pair(kit).await;
    source.post_new(vec![with_ttl(300), with_ttl(100_000)]).await;
    let rule = dead.as_target(1, Some(500));
    claim_and_release(&source, 2, &rule).await;
    kit.pass(200);
    claim_and_release(&source, 2, &rule).await;
    let dead_letters = dead.all().await;
    assert_eq!(dead_letters.iter().map(|m| m.ttl).collect::<Vec<_>>(), [500, 500]);
    kit.pass_almost(500);
    assert_eq!(dead.ids().await.len(), 2);
    kit.pass_millis(1);
    assert_eq!(dead.ids().await, []);
}

/// `DeadLetters::ttl`: "`None` keeps its expiry".
pub(crate) async fn a_dead_letter_without_a_ttl_keeps_its_expiry(kit: &mut Kit) {
    let (source, dead) = pair(kit).await;
    source.post_new(vec![with_ttl(300), with_ttl(1000)]).await;
    let rule = dead.as_target(1, None);
    claim_and_release(&source, 2, &rule).await;
    kit.pass(200);
    claim_and_release(&source, 2, &rule).await;
    let dead_letters = dead.all().await;
    assert_eq!(dead_letters.iter().map(|m| m.ttl).collect::<Vec<_>>(), [100, 800]);
    kit.pass_almost(100);
    assert_eq!(dead.ids().await.len(), 2);
    kit.pass_millis(1);
    assert_eq!(ids(&dead.all().await), [dead_letters[1].id]);
    kit.pass(700);
    assert_eq!(dead.ids().await, []);
}

/// `claim`: "Only free messages before the last claimed one are moved, in their order", each once.
pub(crate) async fn dead_letters_keep_their_order(kit: &mut Kit) {
    let (source, dead) = pair(kit).await;
    let rule = dead.as_target(1, None);
    source.post(12).await;
    claim_and_release(&source, 12, &rule).await;
    let (held, _) = source.claim(1).await;
    assert_eq!(source.claim_with(&with_rule(20, rule.clone())).await, []);
    assert_eq!(texts(&dead.all().await), (1..12).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(texts(&source.all().await), ["0"], "a message that another claim holds stays");
    source.release(held).await;
    assert_eq!(source.claim_with(&with_rule(20, rule)).await, []);
    assert_eq!(texts(&dead.all().await)[10..], ["11", "0"]);
    assert_eq!(source.ids().await, []);
}

/// `claim`: "at most `limit` free messages" after those that move are claimed by the same claim.
pub(crate) async fn a_claim_is_filled_past_dead_letters(kit: &mut Kit) {
    let (source, dead) = pair(kit).await;
    let rule = dead.as_target(1, None);
    source.post(5).await;
    claim_and_release(&source, 5, &rule).await;
    let fresh = source.post(3).await;
    let request = with_rule(2, rule);
    let taken = source.claim_with(&request).await;
    assert_eq!(ids(&taken), fresh[..2]);
    assert_eq!(ids(&source.claim_get(request.id).await.expect("it is live").messages), fresh[..2]);
    assert_eq!(dead.all().await.len(), 5);
    assert_eq!(source.ids().await, fresh);
}

/// `claim`: "A store may move many in several steps and then return fewer than `limit` messages,
/// but not none while a message could be claimed."
pub(crate) async fn many_dead_letters_do_not_hide_the_rest(kit: &mut Kit) {
    let (source, dead) = pair(kit).await;
    let rule = dead.as_target(1, None);
    source.post(150).await;
    claim_and_release(&source, 150, &rule).await;
    let fresh = source.post(2).await;
    let taken = source.claim_with(&with_rule(1, rule)).await;
    assert_eq!(ids(&taken), fresh[..1]);
    assert_eq!(texts(&dead.all().await), (0..150).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(source.ids().await, fresh);
}

/// `claim`: "A message sealed with a key that is not in `request.keys` … is neither held nor
/// counted nor moved, and messages after it are claimed."
pub(crate) async fn messages_that_the_caller_cannot_open_do_not_move(kit: &mut Kit) {
    let (source, dead) = pair(kit).await;
    let rule = dead.as_target(1, None);
    let posted = ["lost", "kept", "lost", ""].map(|key| sealed(key, key));
    let p = source.post_new(posted.to_vec()).await;
    claim_and_release(&source, 4, &rule).await;
    let fresh = source.post(1).await;
    let request = |keys: &[&str]| ClaimRequest {
        dead_letters: Some(rule.clone()),
        ..request_with_keys(5, keys)
    };
    let (taken, skipped) = source.claim_readable(&request(&["kept"])).await;
    assert_eq!((ids(&taken), skipped.next), (fresh.clone(), None));
    assert_eq!(skipped.key, posted[0].payload.sealed_with);
    assert_eq!(texts(&dead.all().await), ["kept", ""]);
    assert_eq!(source.ids().await, [p[0], p[2], fresh[0]]);
    let left = source.get(&p).await;
    assert!(left.iter().all(|one| one.claim.is_none() && one.claim_count == 1));
    // Only these must be moved now, so that their target does not matter without their key.
    let wrong = DeadLetters { generation: generation(1), ..rule.clone() };
    let wrong = ClaimRequest { dead_letters: Some(wrong), ..request(&["kept"]) };
    assert_eq!(source.claim_with(&wrong).await, []);
    assert_eq!(source.claim_with(&request(&["lost"])).await, []);
    assert_eq!(texts(&dead.all().await), ["kept", "", "lost", "lost"]);
    assert_eq!(source.ids().await, fresh);
}

/// `claim`: without a rule nothing moves, and with one only messages that have reached its claim
/// count.
pub(crate) async fn only_claims_with_a_rule_move_messages(kit: &mut Kit) {
    let (source, dead) = pair(kit).await;
    let p = source.post(1).await;
    for _ in 0..3 {
        let (claim, taken) = source.claim(1).await;
        assert_eq!(ids(&taken), p);
        source.release(claim).await;
    }
    let taken = claim_and_release(&source, 1, &dead.as_target(5, None)).await;
    assert_eq!(taken.iter().map(|m| m.claim_count).collect::<Vec<_>>(), [4]);
    assert_eq!(dead.ids().await, []);
    assert_eq!(
        claim_and_release(&source, 1, &dead.as_target(2, None)).await,
        [],
        "claimed more often than the maximum"
    );
    assert_eq!(dead.ids().await.len(), 1);
}

/// `Claimed::TargetChanged`: "Messages must be moved, but the dead-letter queue has another
/// generation than assumed. Nothing was done."
pub(crate) async fn a_changed_target_stops_the_claim(kit: &mut Kit) {
    let (source, dead) = pair(kit).await;
    let rule = dead.as_target(1, None);
    source.post(1).await;
    claim_and_release(&source, 1, &rule).await;
    source.post(2).await;
    let before = source.all().await;
    let version = Version::new(9);
    let (own, closed) = (dead.generation, kit.key("closed"));
    for wrong in [
        DeadLetters { generation: generation(1), ..rule.clone() },
        DeadLetters { generation: Generation { version, ..own }, ..rule.clone() },
        DeadLetters { target: closed, ..rule.clone() },
        DeadLetters { target: kit.key_of(Kind::Topic, "dead"), ..rule.clone() },
    ] {
        let request = with_rule(3, wrong);
        let answer = source.try_claim(source.generation, &request).await;
        assert_eq!(answer, Guarded::Done(Claimed::TargetChanged));
        assert_eq!(source.all().await, before, "nothing was claimed, counted or moved");
        assert_eq!(source.claim_get(request.id).await, None);
        assert_eq!(dead.ids().await, []);
    }
    dead.advance(Generation { version, ..own }).await;
    let answer = source.try_claim(source.generation, &with_rule(3, rule.clone())).await;
    assert_eq!(answer, Guarded::Done(Claimed::TargetChanged), "its version was raised");
    let rule = DeadLetters { generation: Generation { version, ..own }, ..rule };
    assert_eq!(source.claim_with(&with_rule(3, rule)).await.len(), 2);
    assert_eq!(dead.ids().await.len(), 1);
}

/// `Claimed::TargetChanged`: only if "messages must be moved".
pub(crate) async fn a_changed_target_matters_only_to_dead_letters(kit: &mut Kit) {
    let source = kit.queue("source").await;
    let p = source.post(2).await;
    let nowhere = kit.queue_at(kit.key("closed"), generation(1)).as_target(1, None);
    let taken = source.claim_with(&with_rule(2, nowhere.clone())).await;
    assert_eq!(ids(&taken), p);
    assert_eq!(source.claim_with(&with_rule(2, nowhere)).await, [], "claimed ones need not move");
}

/// `claim`: "it leaves the queue and is appended to the dead-letter queue", also if both are the
/// same queue.
pub(crate) async fn a_queue_can_be_its_own_target(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let rule = queue.as_target(1, None);
    let p = queue.post(2).await;
    claim_and_release(&queue, 1, &rule).await;
    queue.claim_with(&with_rule(1, rule)).await;
    let listed = queue.all().await;
    assert_eq!(texts(&listed), ["1", "0"]);
    assert_eq!(listed[0].id, p[1]);
    assert!(listed[1].id > p[1], "a dead letter gets a new position");
}
