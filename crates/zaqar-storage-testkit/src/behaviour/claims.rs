//! Claims: every line of [`zaqar_core::storage::Claims`] except those on dead letters.

use zaqar_core::storage::{Claim, ClaimRequest, Deletable, Guarded, Message, Skipped};
use zaqar_core::{ClaimId, Generation, KeyId, Version};

use super::messages::{with_delay, with_ttl};
use crate::kit::{Kit, generation};
use crate::queue::{MANY, Queue, ids, message, request, request_with_keys, sealed, texts, visible};

/// `claim`: "at most `limit` free messages, in order, are held by the new claim until `now + ttl`".
pub(crate) async fn a_claim_gets_the_first_messages(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post(7).await;
    let (claim, taken) = queue.claim(3).await;
    assert_eq!(ids(&taken), p[..3]);
    assert_eq!(texts(&taken), ["0", "1", "2"]);
    assert!(
        taken.iter().all(|m| m.claim == Some(claim)),
        "the answer names the new claim: {taken:?}"
    );
    assert_eq!(queue.get(&p[..3]).await, taken);
    assert_eq!(queue.shown().await, p[3..]);
    let (_, taken) = queue.claim(100).await;
    assert_eq!(ids(&taken), p[3..], "fewer than the limit where there are no more");
}

/// `Claimed::Messages`: "Without messages no claim is made."
pub(crate) async fn a_claim_without_messages_is_not_made(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    for _ in 0..2 {
        let (claim, taken) = queue.claim(5).await;
        assert_eq!(taken, []);
        assert_eq!(queue.claim_get(claim).await, None);
        assert!(!queue.renew(claim, 100, 60).await);
        queue.release(claim).await;
        queue.post_one(with_delay(60)).await;
    }
}

/// `claim`: "No head: `Absent`."
pub(crate) async fn a_claim_without_a_head_is_absent(kit: &mut Kit) {
    let queue = kit.queue_at(kit.key("q"), generation(1));
    let request = request(1);
    assert_eq!(queue.try_claim(queue.generation, &request).await, Guarded::Absent);
    assert_eq!(queue.claim_get(request.id).await, None);
    assert_eq!(queue.head().await, None);
}

/// `claim`: "Another generation: `Stale`. Nothing is claimed."
pub(crate) async fn a_claim_with_another_generation_is_stale(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let own = Generation { version: Version::new(3), ..queue.generation };
    queue.advance(own).await;
    let queue = Queue { generation: own, ..queue };
    let p = queue.post(2).await;
    let older = Generation { version: Version::new(2), ..own };
    let newer = Generation { version: Version::new(4), ..own };
    for assumed in [older, newer, Generation { version: own.version, ..generation(1) }] {
        let request = request(5);
        assert_eq!(queue.try_claim(assumed, &request).await, Guarded::Stale(own));
        assert_eq!(queue.claim_get(request.id).await, None);
    }
    let (_, taken) = queue.claim(5).await;
    assert_eq!(ids(&taken), p);
    assert!(taken.iter().all(|message| message.claim_count == 1), "nothing was counted before");
}

/// `claim`: "A message is held by at most one live claim."
pub(crate) async fn a_message_is_held_by_one_claim(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post(6).await;
    let (first, _) = queue.claim(2).await;
    let (second, taken) = queue.claim(2).await;
    assert_eq!(ids(&taken), p[2..4]);
    let (third, taken) = queue.claim(10).await;
    assert_eq!(ids(&taken), p[4..]);
    assert_eq!(queue.claim(10).await.1, [], "all are held");
    queue.release(second).await;
    assert_eq!(ids(&queue.claim(10).await.1), p[2..4], "only the released messages");
    for (claim, held) in [(first, &p[..2]), (third, &p[4..])] {
        let live = queue.claim_get(claim).await.expect("the claim is live");
        assert_eq!(ids(&live.messages), held);
    }
}

/// `claim`: "Claimed, delayed and expired ones are skipped."
pub(crate) async fn claims_skip_messages_that_are_not_free(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue
        .post_new(vec![
            with_ttl(60),
            with_delay(90),
            message("a"),
            with_ttl(60),
            message("b"),
            with_delay(90),
        ])
        .await;
    kit.pass(60);
    let (_, taken) = queue.claim(1).await;
    assert_eq!(ids(&taken), [p[2]]);
    let (_, taken) = queue.claim(5).await;
    assert_eq!(ids(&taken), [p[4]]);
    assert_eq!(queue.ids().await, [p[1], p[2], p[4], p[5]]);
}

/// `claim`: "Claims the first free messages", "regardless of how many messages before the claimed
/// ones are claimed, delayed or expired".
pub(crate) async fn a_claim_is_filled_past_skipped_messages(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    queue.post(150).await;
    queue.claim(150).await;
    queue.post_new((0..150).map(|_| with_ttl(60)).collect()).await;
    queue.post_new((0..150).map(|_| with_delay(600)).collect()).await;
    kit.pass(60);
    let p = queue.post(5).await;
    assert_eq!(ids(&queue.claim(3).await.1), p[..3]);
    assert_eq!(ids(&queue.pop(3).await), p[3..]);
}

/// `claim`: "The claim count of each claimed message grows by one, and the answer shows the new
/// count."
pub(crate) async fn claims_are_counted(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post(2).await;
    for count in 1..=3 {
        let (claim, taken) = queue.claim(1).await;
        assert_eq!(ids(&taken), p[..1]);
        assert_eq!(taken[0].claim_count, count);
        assert_eq!(queue.get_one(p[0]).await.claim_count, count);
        assert!(queue.renew(claim, 100, 60).await);
        assert_eq!(queue.get_one(p[0]).await.claim_count, count, "a renewal does not count");
        if count == 2 {
            kit.pass(100);
        } else {
            queue.release(claim).await;
        }
        assert_eq!(
            queue.get_one(p[0]).await.claim_count,
            count,
            "a released message keeps its count"
        );
    }
    assert_eq!(queue.get_one(p[1]).await.claim_count, 0, "only claimed messages count");
}

/// `claim`: "A message that would expire before `now + ttl + grace` expires then instead: its ttl
/// grows".
pub(crate) async fn a_claim_extends_ttls(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let id = queue.post_one(with_ttl(70)).await;
    kit.pass(50);
    let (claim, taken) = queue.claim_for(1, 100, 60).await;
    assert_eq!(taken[0].ttl, 50 + 100 + 60);
    assert_eq!(queue.get_one(id).await, taken[0]);
    let held = queue.claim_get(claim).await.expect("the claim is live").messages;
    assert_eq!(held, taken);
    kit.pass(99);
    assert_eq!(queue.ids().await, [id]);
    assert_eq!(queue.shown().await, []);
    kit.pass(1);
    assert_eq!(queue.shown().await, [id], "the claim has expired, the grace has not");
    kit.pass_almost(60);
    assert_eq!(queue.shown().await, [id]);
    kit.pass_millis(1);
    assert_eq!(queue.ids().await, []);
}

/// `claim`: only "a message that would expire before".
pub(crate) async fn a_claim_never_shortens_ttls(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post_new(vec![with_ttl(1000), with_ttl(160), with_ttl(159)]).await;
    let (claim, taken) = queue.claim_for(3, 100, 60).await;
    assert_eq!(taken.iter().map(|m| m.ttl).collect::<Vec<_>>(), [1000, 160, 160]);
    assert!(queue.renew(claim, 1, 1).await);
    kit.pass_almost(160);
    assert_eq!(queue.shown().await, p);
    kit.pass_millis(1);
    assert_eq!(queue.shown().await, p[..1]);
}

/// `claim`: "its ttl grows, shown rounded to the nearest second".
pub(crate) async fn an_extended_ttl_is_rounded_to_seconds(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    for (millis, shown) in [(10_001, 170), (10_499, 170), (10_501, 171), (10_999, 171)] {
        let id = queue.post_one(with_ttl(60)).await;
        kit.pass_millis(millis);
        let (_, taken) = queue.claim_for(1, 100, 60).await;
        assert_eq!(taken[0].ttl, shown, "from {millis} + 160 000 milliseconds");
        assert_eq!(queue.get_one(id).await.ttl, shown);
        kit.pass_almost(160);
        assert_eq!(queue.shown().await, [id], "it expires exactly then");
        kit.pass_millis(1);
        assert_eq!(queue.ids().await, []);
    }
}

/// `claim`: an extended ttl stays when the claim is released.
pub(crate) async fn an_extended_ttl_stays_after_the_claim(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let id = queue.post_one(with_ttl(60)).await;
    let (claim, _) = queue.claim_for(1, 100, 60).await;
    queue.release(claim).await;
    assert_eq!(queue.get_one(id).await.ttl, 160);
    kit.pass_almost(160);
    assert_eq!(queue.shown().await, [id]);
}

/// `Claims`: "live from its creation until … `now` reaches its expiry".
pub(crate) async fn a_claim_expires_with_its_ttl(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post(2).await;
    let (claim, _) = queue.claim_for(1, 100, 60).await;
    kit.pass_almost(100);
    assert!(queue.claim_get(claim).await.is_some(), "the claim is live until its ttl ends");
    assert_eq!(queue.shown().await, p[1..]);
    kit.pass_millis(1);
    assert_eq!(queue.claim_get(claim).await, None);
    assert_eq!(queue.shown().await, p);
    assert_eq!(queue.get_one(p[0]).await.claim, None);
    assert!(!queue.renew(claim, 100, 60).await, "an expired claim is not renewed");
    assert_eq!(ids(&queue.claim(1).await.1), p[..1]);
}

/// `claim`: "Claims the first free messages": messages of an expired claim are free at their old
/// positions, swept or not.
pub(crate) async fn an_expired_claim_frees_messages_in_place(kit: &mut Kit) {
    for (name, is_swept) in [("swept", true), ("unswept", false)] {
        let queue = kit.queue(name).await;
        let p = queue.post(6).await;
        queue.claim_for(2, 100, 60).await;
        queue.claim_for(2, 200, 60).await;
        kit.pass(100);
        if is_swept {
            kit.sweep().await;
        }
        assert_eq!(queue.shown().await, [p[0], p[1], p[4], p[5]]);
        assert_eq!(ids(&queue.claim(3).await.1), [p[0], p[1], p[4]]);
        kit.pass(100);
        assert_eq!(ids(&queue.pop(10).await), p, "all claims have expired");
    }
}

/// `claim_get`: ttl, since, and "the live messages it holds, in order".
pub(crate) async fn claim_get_returns_the_held_messages(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    queue.post(5).await;
    kit.pass_millis(1234);
    let since = kit.now();
    let (claim, messages) = queue.claim_for(3, 100, 60).await;
    kit.pass(10);
    let live = queue.claim_get(claim).await;
    assert_eq!(live, Some(Claim { ttl: 100, since, messages }));
    let (other, messages) = queue.claim_for(3, 70, 60).await;
    assert_eq!(queue.claim_get(other).await, Some(Claim { ttl: 70, since: kit.now(), messages }));
}

/// `claim_get`: "`None` for a claim that is unknown, expired, released".
pub(crate) async fn claim_get_without_a_live_claim(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    queue.post(3).await;
    assert_eq!(queue.claim_get(ClaimId::new(7)).await, None);
    let (released, _) = queue.claim(1).await;
    queue.release(released).await;
    assert_eq!(queue.claim_get(released).await, None);
    let (over, _) = queue.claim(1).await;
    kit.pass(100);
    assert_eq!(queue.claim_get(over).await, None);
    kit.sweep().await;
    assert_eq!(queue.claim_get(over).await, None);
    assert_eq!(kit.queue_at(kit.key("closed"), generation(1)).claim_get(over).await, None);
}

/// `Claims`: a claim is live "even if its messages are deleted before".
pub(crate) async fn a_claim_outlives_its_messages(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post(1).await;
    let (claim, _) = queue.claim_for(1, 100, 60).await;
    queue.delete(p[0], Some(claim)).await;
    kit.pass(50);
    kit.sweep().await;
    assert_eq!(queue.claim_get(claim).await.expect("the claim is live").messages, []);
    assert!(queue.renew(claim, 100, 60).await);
    kit.pass_almost(100);
    assert!(queue.claim_get(claim).await.is_some(), "the claim is live until its ttl ends");
    kit.pass_millis(1);
    assert_eq!(queue.claim_get(claim).await, None);
}

/// `claim_renew`: "A live claim holds its messages until `now + ttl`; … `true`".
pub(crate) async fn renew_restarts_the_ttl(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post(3).await;
    let (claim, _) = queue.claim_for(2, 100, 60).await;
    kit.pass_almost(100);
    let since = kit.now();
    assert!(queue.renew(claim, 150, 60).await);
    let live = queue.claim_get(claim).await.expect("the claim is live");
    assert_eq!((live.ttl, live.since), (150, since));
    assert_eq!(ids(&live.messages), p[..2]);
    kit.pass_millis(1);
    kit.sweep().await;
    assert_eq!(queue.shown().await, p[2..], "its first ttl does not count any more");
    kit.pass_millis(149_998);
    assert!(queue.claim_get(claim).await.is_some(), "the claim is live until its ttl ends");
    assert_eq!(queue.shown().await, p[2..]);
    kit.pass_millis(1);
    assert_eq!(queue.claim_get(claim).await, None);
    assert_eq!(queue.shown().await, p);
}

/// `claim_renew`: "until `now + ttl`", even if that is earlier than before.
pub(crate) async fn renew_can_shorten_a_claim(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post(1).await;
    let (claim, _) = queue.claim_for(1, 1000, 60).await;
    assert!(queue.renew(claim, 60, 60).await);
    kit.pass_almost(60);
    assert_eq!(queue.shown().await, []);
    kit.pass_millis(1);
    assert_eq!(queue.shown().await, p);
    assert_eq!(queue.claim_get(claim).await, None);
    assert_eq!(ids(&queue.claim(1).await.1), p);
}

/// `claim_renew`: "their expiry is extended as by `claim`".
pub(crate) async fn renew_extends_ttls(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post_new(vec![with_ttl(60), with_ttl(1000), with_ttl(60)]).await;
    let (claim, _) = queue.claim_for(2, 100, 60).await;
    kit.pass_millis(59_500);
    assert!(queue.renew(claim, 200, 100).await);
    let held = queue.claim_get(claim).await.expect("the claim is live").messages;
    assert_eq!(held.iter().map(|m| m.ttl).collect::<Vec<_>>(), [360, 1000]);
    kit.pass_millis(500);
    assert_eq!(queue.ids().await, p[..2], "messages that it does not hold are not extended");
    kit.pass(299);
    assert_eq!(queue.ids().await, p[..2]);
    kit.pass(1);
    assert_eq!(queue.ids().await, p[1..2]);
}

/// `claim_renew`: "Unknown or expired: nothing changes; `false`."
pub(crate) async fn renew_without_a_live_claim(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post_new(vec![with_ttl(160), with_ttl(160)]).await;
    assert!(!queue.renew(ClaimId::new(7), 100, 60).await);
    assert_eq!(queue.claim_get(ClaimId::new(7)).await, None);
    let (over, _) = queue.claim_for(1, 60, 60).await;
    kit.pass(60);
    assert!(!queue.renew(over, 1000, 1000).await);
    assert_eq!(queue.shown().await, p);
    assert_eq!(queue.get_one(p[0]).await.ttl, 160);
    let (released, _) = queue.claim_for(1, 60, 40).await;
    queue.release(released).await;
    assert!(!queue.renew(released, 1000, 1000).await);
    assert_eq!(queue.shown().await, p);
    kit.pass(100);
    assert_eq!(queue.ids().await, [], "no ttl was extended");
    let closed = kit.queue_at(kit.key("closed"), generation(1));
    assert!(!closed.renew(over, 100, 60).await);
}

/// `claim_release`: "Its messages are free again, at their old positions." "Returns how many
/// messages it frees."
pub(crate) async fn release_frees_messages_in_place(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let mut p = queue.post(5).await;
    let (first, _) = queue.claim(2).await;
    let (second, _) = queue.claim(2).await;
    p.extend(queue.post(1).await);
    assert_eq!(queue.release(first).await, 2);
    assert_eq!(queue.claim_get(first).await, None);
    assert_eq!(queue.shown().await, [p[0], p[1], p[4], p[5]]);
    let stats = queue.stats().await;
    assert_eq!((stats.free, stats.claimed), (4, 2));
    let (_, taken) = queue.claim(3).await;
    assert_eq!(ids(&taken), [p[0], p[1], p[4]]);
    assert_eq!(taken.iter().map(|m| m.claim_count).collect::<Vec<_>>(), [2, 2, 1]);
    queue.delete(p[2], Some(second)).await;
    assert_eq!(queue.release(second).await, 1, "one was deleted");
    assert_eq!(ids(&queue.pop(5).await), [p[3], p[5]]);
}

/// `claim_release`: "Unknown or expired: nothing happens."
pub(crate) async fn release_without_a_live_claim(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post(2).await;
    let (over, _) = queue.claim_for(1, 60, 60).await;
    kit.pass(60);
    let (claim, _) = queue.claim_for(2, 100, 60).await;
    for id in [over, ClaimId::new(7), over] {
        assert_eq!(queue.release(id).await, 0);
        assert_eq!(queue.shown().await, [], "another claim holds its own messages");
    }
    assert_eq!(ids(&queue.claim_get(claim).await.expect("the claim is live").messages), p);
    assert_eq!(queue.release(claim).await, 2);
    assert_eq!(queue.release(claim).await, 0);
    assert_eq!(queue.shown().await, p);
    kit.queue_at(kit.key("closed"), generation(1)).release(claim).await;
}

impl Queue {
    async fn claim_for(
        &self,
        limit: usize,
        ttl: u64,
        grace: u64,
    ) -> (ClaimId, Vec<zaqar_core::storage::Message>) {
        let request = ClaimRequest { ttl, grace, ..request(limit) };
        (request.id, self.claim_with(&request).await)
    }
}

/// `claim`: "A message sealed with a key that is not in `request.keys` stays free: it is neither
/// held nor counted nor moved, and messages after it are claimed."
pub(crate) async fn claims_skip_messages_that_the_caller_cannot_open(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let posted = ["lost", "kept", "", "last", "other", ""].map(|key| sealed("text", key));
    let p = queue.post_new(posted.to_vec()).await;
    let claim = |limit| request_with_keys(limit, &["other", "kept"]);
    let skipped = Skipped { key: Some(KeyId("lost".to_owned())), next: None };
    let first = claim(3);
    let taken = queue.claim_readable(&first).await;
    assert_eq!((ids(&taken.0), &taken.1), (vec![p[1], p[2], p[4]], &skipped));
    let held = queue.claim_get(first.id).await.expect("it is live").messages;
    assert_eq!(ids(&held), [p[1], p[2], p[4]]);
    let taken = queue.claim_readable(&claim(3)).await;
    assert_eq!((ids(&taken.0), &taken.1), (vec![p[5]], &skipped));
    assert_eq!(queue.claim_readable(&claim(3)).await, (Vec::new(), skipped.clone()));
    let stats = queue.stats().await;
    assert_eq!((stats.free, stats.claimed), (2, 4));
    assert!(queue.get(&[p[0], p[3]]).await.iter().all(|one| one.claim_count == 0));
    queue.release(first.id).await;
    assert_eq!(ids(&queue.claim_with(&claim(1)).await), p[1..2], "it is free in its place");
    let (taken, skipped) = queue.claim_readable(&request_with_keys(4, &["last", "lost"])).await;
    assert_eq!(ids(&taken), [p[0], p[2], p[3]], "with its key it can be claimed");
    assert!(taken[0].claim_count == 1 && taken[2].claim_count == 1);
    assert_eq!(skipped.key.map(|key| key.0).as_deref(), Some("other"));
    assert_eq!(ids(&queue.claim(9).await.1), [p[4]], "without keys, whatever its key");
}

/// `claim`: as above, with messages that no claim has passed yet and others among them.
pub(crate) async fn skipped_messages_stay_free_among_others(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    for number in 0..4 {
        let key = |at| if (at + number) % 3 == 0 { "lost" } else { "" };
        queue.post_new((0..5).map(|at| sealed("text", key(at))).collect()).await;
        let (claim, taken) = (request_with_keys(2, &[]), number % 2);
        queue.claim_with(&claim).await;
        if taken == 1 {
            queue.release(claim.id).await;
        }
    }
    let is_sealed = |message: &Message| message.payload.sealed_with.is_some();
    let all = queue.all().await;
    let lost: Vec<_> = all.iter().filter(|one| is_sealed(one)).map(|one| one.id).collect();
    let taken = queue.claim_with(&request_with_keys(20, &[])).await;
    assert!(taken.is_sorted_by_key(|message| message.id) && !taken.iter().any(is_sealed));
    let stats = queue.stats().await;
    assert_eq!((stats.free, stats.claimed), (lost.len() as u64, (all.len() - lost.len()) as u64));
    assert_eq!(ids(&queue.follow(visible()).await), lost);
    let taken = queue.claim_with(&request_with_keys(20, &["lost"])).await;
    assert_eq!(ids(&taken), lost);
    assert!(taken.iter().all(|message| message.claim_count == 1));
}

/// `claim`: "Skipping more than a bounded number of these … ends the slice early": the next slice
/// continues there.
pub(crate) async fn a_claim_continues_after_many_unreadable_messages(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let last = queue.post_after_many_sealed().await;
    let (mut after, mut found) = (None, Vec::new());
    for _ in 0..100 {
        let request = ClaimRequest { after, ..request_with_keys(2, &[]) };
        let (taken, skipped) = queue.claim_readable(&request).await;
        found.extend(ids(&taken));
        let Some(next) = skipped.next else { break };
        assert!(Some(next) > after, "a slice continues after the previous one");
        after = Some(next);
    }
    assert_eq!(found, [last]);
    let stats = queue.stats().await;
    assert_eq!((stats.free, stats.claimed), (MANY as u64, 1));
    let skipped = queue.claim_with(&request_with_keys(2000, &["lost"])).await;
    assert!(skipped.is_sorted_by_key(|message| message.id));
    assert_eq!(skipped.len(), MANY, "they can be claimed with their key");
}

/// `claim_each`: "Does what `claim` does with `ClaimRequest::new`": messages are taken whatever
/// their key.
pub(crate) async fn claims_of_their_own_take_messages_of_any_key(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post_new(["lost", ""].map(|key| sealed("text", key)).to_vec()).await;
    let Guarded::Done(taken) = queue.claim_each(&new_claims(3)).await else {
        panic!("the queue has the generation that is assumed");
    };
    assert_eq!(ids(&taken), p);
}

fn new_claims(count: usize) -> Vec<ClaimId> {
    (0..count).map(|_| ClaimId::new(rand::random())).collect()
}

/// `claim_each`: "Does what `Claims::claim` does, for each id in turn, with a limit of 1": "each
/// with the claim that holds it: the first message has the first id".
pub(crate) async fn each_message_has_a_claim_of_its_own(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    assert_eq!(queue.claim_each(&new_claims(2)).await, Guarded::Done(vec![]), "there is nothing");
    let p = queue.post_new(vec![message("0"), with_delay(60), message("2"), message("3")]).await;
    let claims = new_claims(5);
    let Guarded::Done(taken) = queue.claim_each(&claims[..2]).await else {
        panic!("it has a head")
    };
    assert_eq!(ids(&taken), [p[0], p[2]], "in order, and none that is not free");
    assert_eq!(queue.get(&[p[0], p[2]]).await, taken);
    for (message, claim) in taken.iter().zip(&claims) {
        assert_eq!((message.claim, message.claim_count), (Some(*claim), 1));
        let found = queue.claim_get(*claim).await.expect("it is live");
        assert_eq!((found.ttl, found.messages), (100, vec![message.clone()]));
    }
    let Guarded::Done(rest) = queue.claim_each(&claims[2..]).await else { panic!("it has a head") };
    assert_eq!(ids(&rest), [p[3]], "fewer than asked for where there are no more");
    assert_eq!(queue.claim_get(claims[3]).await, None, "without messages no claim is made");
    // Each ends apart from the others.
    queue.release(claims[0]).await;
    assert!(queue.renew(claims[1], 500, 0).await);
    let held = Deletable::HeldBy(claims.clone());
    queue.delete_many(&[p[0], p[2], p[3]], &held).await;
    assert_eq!(queue.ids().await, [p[0], p[1]], "the first one's claim was released");
    let later = queue.post(2).await;
    let (one, again) = (new_claims(1), new_claims(3));
    assert!(matches!(queue.claim_each(&one).await, Guarded::Done(taken) if taken.len() == 1));
    kit.pass(60);
    queue.claim_each(&again).await;
    kit.pass(40);
    let claimed = queue.claim(10).await.1;
    assert_eq!(ids(&claimed), [p[0]], "the first claim has expired");
    assert_eq!(claimed[0].claim_count, 3);
    assert_eq!(
        queue.claim_get(again[2]).await.map(|claim| ids(&claim.messages)),
        Some(vec![later[1]])
    );
}

/// `claim_each`: "No head: `Absent`. Another generation: `Stale`. Nothing is claimed."
pub(crate) async fn claims_of_their_own_need_the_generation(kit: &mut Kit) {
    let absent = kit.queue_at(kit.key("absent"), generation(1));
    assert_eq!(absent.claim_each(&new_claims(2)).await, Guarded::Absent);
    let queue = kit.queue("q").await;
    queue.post(2).await;
    let own = Generation { version: Version::new(3), ..queue.generation };
    queue.advance(own).await;
    assert_eq!(queue.claim_each(&new_claims(2)).await, Guarded::Stale(own));
    assert_eq!(queue.shown().await.len(), 2, "nothing is claimed");
}
