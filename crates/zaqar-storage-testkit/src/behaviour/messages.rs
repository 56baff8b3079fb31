//! Posting, expiry, reading by id and deleting: lines of [`zaqar_core::storage::Messages`].

use std::sync::Arc;

use bytes::Bytes;
use zaqar_core::storage::{Deletable, Deleted, Guarded, Message, NewMessage};
use zaqar_core::{
    Checksum, ClaimId, Generation, KeyId, ManualClock, MessageId, Payload, Position, Version,
};

use crate::kit::{Kit, generation};
use crate::queue::{CLIENT, Queue, batch, ids, message, request, texts};

pub(crate) fn with_ttl(ttl: u64) -> NewMessage {
    NewMessage { ttl, ..message("short") }
}

pub(crate) fn with_delay(delay: u64) -> NewMessage {
    NewMessage { delay, ..message("late") }
}

/// `post`: "returns the ids, in the batch's order"; "every message is stored, at consecutive
/// positions".
pub(crate) async fn a_batch_keeps_its_order(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let posted = queue.post(12).await;
    let listed = queue.all().await;
    assert_eq!(ids(&listed), posted);
    assert_eq!(texts(&listed), (0..12).map(|n| n.to_string()).collect::<Vec<_>>());
    for (id, text) in posted.iter().zip(0..) {
        assert_eq!(
            texts(&[queue.get_one(*id).await]),
            [text.to_string()],
            "an id identifies its message"
        );
        assert_eq!(id.incarnation, queue.generation.incarnation);
        assert_eq!(id.position.get(), posted[0].position.get() + text, "consecutive positions");
    }
    assert!(posted[0].position > Position::new(0), "position 0 is before every message");
}

/// `post`: "after every message stored before".
pub(crate) async fn batches_follow_each_other(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let mut posted: Vec<MessageId> = Vec::new();
    for count in [1, 3, 2, 5, 1] {
        let batch = queue.post(count).await;
        assert!(posted.last() < batch.first(), "a later batch comes after");
        posted.extend(batch);
        kit.pass(1);
    }
    assert_eq!(queue.ids().await, posted);
    let popped = queue.pop(12).await;
    assert_eq!(ids(&popped), posted);
    assert_eq!(texts(&popped), ["0", "0", "1", "2", "0", "1", "0", "1", "2", "3", "4", "0"]);
}

/// `post`: "every message is stored", also those of a batch far larger than a page.
pub(crate) async fn a_large_batch_is_stored_whole(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let posted = queue.post(1000).await;
    assert!(
        posted.windows(2).all(|two| two[0].position.next() == two[1].position),
        "consecutive positions"
    );
    assert_eq!(queue.stats().await.free, 1000);
    let listed = queue.all().await;
    assert_eq!(ids(&listed), posted);
    assert_eq!(texts(&listed[998..]), ["998", "999"]);
    queue.delete_many(&posted, &Deletable::Any).await;
    assert_eq!(queue.ids().await, []);
}

/// More messages than Redis's store writes in one step, and few enough for the slowest store.
pub(crate) const LARGE: usize = 601;

/// `post`: a batch that a store writes in parts is delayed and expires like any other.
pub(crate) async fn a_large_batch_has_delays_and_ttls(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let created = kit.now();
    let new = |n| match n % 3 {
        0 => with_ttl(100),
        1 => with_delay(50),
        _ => message("plain"),
    };
    let posted = queue.post_new((0..LARGE).map(new).collect()).await;
    let of = |kinds: &[usize]| -> Vec<MessageId> {
        let ids = posted.iter().copied().enumerate();
        ids.filter(|(n, _)| kinds.contains(&(n % 3))).map(|(_, id)| id).collect()
    };
    assert_eq!(queue.shown().await, of(&[0, 2]));
    let all = queue.all().await;
    assert_eq!(ids(&all), posted);
    assert!(all.iter().all(|message| message.created == created));
    assert_eq!(queue.stats().await.delayed, of(&[1]).len() as u64);
    kit.pass(50);
    assert_eq!(queue.shown().await, posted);
    kit.pass(50);
    assert_eq!(queue.ids().await, of(&[1, 2]));
    kit.pass(3600);
    kit.sweep().await;
    let stats = queue.stats().await;
    assert_eq!((stats.free, stats.claimed, stats.delayed), (0, 0, 0));
}

/// `claim`, `pop`: the first messages of a large batch come first, and later posts after it.
pub(crate) async fn a_large_batch_is_claimed_and_popped_in_order(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let mut posted = queue.post(3).await;
    posted.extend(queue.post(LARGE).await);
    posted.extend(queue.post(3).await);
    let (claim, held) = queue.claim(10).await;
    assert_eq!(ids(&held), posted[..10]);
    assert_eq!(ids(&queue.pop(10).await), posted[10..20]);
    queue.release(claim).await;
    posted.drain(10..20);
    assert_eq!(queue.ids().await, posted);
    let last = posted[posted.len() - 4];
    assert_eq!(queue.delete(last, None).await, Deleted::Gone);
    posted.remove(posted.len() - 4);
    assert_eq!(queue.shown().await, posted);
}

/// `Message`: body, ttl and "who posted it" as posted, "when it was posted", free, not claimed yet.
pub(crate) async fn messages_round_trip(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    kit.pass_millis(123);
    let created = kit.now();
    let new = NewMessage { ttl: 1_209_600, delay: 0, ..message("a") };
    let client = "0123456789abcdef0123456789abcdef";
    let [id] = queue.post_as(client, vec![new.clone()]).await[..] else { panic!("one message") };
    kit.pass(1000);
    let shown = queue.get_one(id).await;
    assert_eq!((&shown.payload, shown.client.as_str()), (&new.payload, client));
    assert_eq!((shown.ttl, shown.created), (1_209_600, created));
    assert_eq!((shown.claim, shown.claim_count), (None, 0));
    assert_eq!(queue.all().await.first(), Some(&shown), "list returns the same");
    let ends = queue.stats().await.ends.expect("the queue is not empty");
    assert_eq!((ends.0.created, ends.1.id), (created, id));
    let (claim, taken) = queue.claim(1).await;
    assert_eq!(taken[0].client.as_str(), client, "claim returns who posted it");
    queue.release(claim).await;
    let popped = queue.pop(1).await;
    assert_eq!(popped, [Message { claim_count: 1, ..shown }], "pop returns the same");
}

/// `Payload`: "A store treats all of it as opaque."
pub(crate) async fn payloads_of_any_bytes_round_trip(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let every_byte: Bytes = (0..=255).collect();
    let plain = [
        Bytes::from_static(b"null"),
        Bytes::from_static(b" { \"a\" : 1.0, \"a\": 10E2 }\n"),
        Bytes::from("\"ünïcødé ☃ 🦀 \\u0000\""),
        Bytes::from(format!("\"{}\"", "x".repeat(262_142))),
    ];
    let mut payloads: Vec<_> = plain.map(Payload::plain).into();
    let (key, digest) = (Some(KeyId("key ☃ 1".to_owned())), Some(Checksum([0xf0; 16])));
    payloads.push(Payload {
        bytes: every_byte.clone(),
        sealed_with: key.clone(),
        checksum: digest,
    });
    payloads.push(Payload { bytes: every_byte, sealed_with: key, checksum: None });
    payloads.push(Payload { checksum: digest, ..Payload::plain(Bytes::from_static(b"{}")) });
    let new =
        payloads.iter().map(|payload| NewMessage { payload: payload.clone(), ..with_ttl(600) });
    let posted = queue.post_new(new.collect()).await;
    let (_, claimed) = queue.claim(2).await;
    let mut seen: Vec<_> = claimed.into_iter().map(|message| message.payload).collect();
    seen.extend(queue.get(&posted[2..4]).await.into_iter().map(|message| message.payload));
    let keys = [KeyId("key ☃ 1".to_owned())];
    let popped = queue.pop_readable(10, None, &keys).await.messages;
    seen.extend(popped.into_iter().skip(2).map(|message| message.payload));
    assert!(seen == payloads, "claimed, read and popped payloads equal the posted ones");
}

/// `post`: "No head: `Absent`. … Nothing is stored."
pub(crate) async fn a_post_without_a_head_is_absent(kit: &mut Kit) {
    let queue = kit.queue_at(kit.key("q"), generation(1));
    let post = queue.try_post(queue.generation, batch(CLIENT, vec![message("a")])).await;
    assert_eq!(post, Guarded::Absent);
    assert_eq!(queue.ids().await, []);
    queue.open().await;
    assert_eq!(queue.ids().await, [], "nothing was stored for later");
    assert_eq!(queue.stats().await.ends, None);
}

/// `post`: "Another generation: `Stale`. Nothing is stored."; "a batch that fails stores nothing".
pub(crate) async fn a_post_with_another_generation_is_stale(kit: &mut Kit) {
    let key = kit.key("q");
    let queue = kit.open(key).await;
    let own = Generation { version: Version::new(3), ..queue.generation };
    queue.advance(own).await;
    let queue = Queue { generation: own, ..queue };
    let ids = queue.post(2).await;
    let older = Generation { version: Version::new(2), ..own };
    let newer = Generation { version: Version::new(4), ..own };
    let other = Generation { version: own.version, ..generation(1) };
    for assumed in [older, newer, other] {
        let messages = (0..5).map(|_| message("lost")).collect();
        let post = queue.try_post(assumed, batch(CLIENT, messages)).await;
        assert_eq!(post, Guarded::Stale(own));
        assert_eq!(queue.ids().await, ids);
        assert_eq!(queue.stats().await.free, 2);
    }
}

/// Posts, and checks that the positions are greater than that of `last`.
async fn post_after(queue: &Queue, last: MessageId) -> Vec<MessageId> {
    let posted = queue.post(3).await;
    assert!(posted[0] > last, "{} is not after {last}", posted[0]);
    posted
}

/// `post`: "A position is never reused, even after all messages were deleted".
pub(crate) async fn positions_are_not_reused_after_deletes(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let first = queue.post(3).await;
    queue.delete_many(&first, &Deletable::Any).await;
    let second = post_after(&queue, first[2]).await;
    queue.delete(second[2], None).await;
    let third = post_after(&queue, second[2]).await;
    queue.pop(10).await;
    kit.sweep().await;
    post_after(&queue, third[2]).await;
}

/// `post`: "A position is never reused, even after all messages were … purged"; `purge`: "later
/// messages get later positions".
pub(crate) async fn positions_are_not_reused_after_a_purge(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let first = queue.post(3).await;
    queue.purge().await;
    let second = post_after(&queue, first[2]).await;
    queue.purge().await;
    kit.sweep().await;
    post_after(&queue, second[2]).await;
}

/// `post`: "A position is never reused, even after all messages were … expired".
pub(crate) async fn positions_are_not_reused_after_expiry(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let first = queue.post_new(vec![with_ttl(60), with_ttl(60)]).await;
    kit.pass(60);
    let second = queue.post_new(vec![with_ttl(60)]).await;
    assert!(second[0] > first[1], "{} is not after {}", second[0], first[1]);
    kit.pass(60);
    kit.sweep().await;
    post_after(&queue, second[0]).await;
}

/// `post`: "positions follow the clock where it is ahead of the last assigned position".
pub(crate) async fn positions_follow_the_clock(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let first = queue.post_new(vec![with_ttl(60); 10]).await;
    kit.pass(60);
    // As many positions as a store may have assigned within that time and then lost.
    let later = queue.post_one(with_ttl(60)).await;
    let gap = later.position.get() - first[9].position.get();
    assert!(gap > 10_000, "{gap} positions in a minute");
    assert_eq!(queue.post_one(with_ttl(60)).await.incarnation, later.incarnation);
}

/// `Messages`: "live from its post until … `now` reaches its creation plus its ttl. No method
/// returns a message that is not live."
pub(crate) async fn a_message_expires_with_its_ttl(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let id = queue.post_one(with_ttl(60)).await;
    kit.pass_almost(60);
    assert_eq!(queue.ids().await, [id]);
    assert_eq!(queue.get_one(id).await.id, id);
    kit.pass_millis(1);
    assert_eq!(queue.ids().await, []);
    assert_eq!(queue.get(&[id]).await, []);
    assert_eq!(queue.pop(1).await, []);
    assert_eq!(queue.claim(1).await.1, []);
    assert_eq!(queue.delete(id, None).await, Deleted::Gone);
    assert_eq!(queue.delete(id, Some(ClaimId::new(1))).await, Deleted::Gone);
    kit.sweep().await;
    assert_eq!(queue.ids().await, []);
}

/// `Messages`: each message has its own ttl.
pub(crate) async fn messages_expire_individually(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let posted =
        queue.post_new(vec![with_ttl(90), with_ttl(60), with_ttl(180), with_ttl(120)]).await;
    for (secs, live) in [
        (59, vec![0, 1, 2, 3]),
        (1, vec![0, 2, 3]),
        (30, vec![2, 3]),
        (30, vec![2]),
        (59, vec![2]),
        (1, vec![]),
    ] {
        kit.pass(secs);
        let live: Vec<_> = live.into_iter().map(|n: usize| posted[n]).collect();
        assert_eq!(queue.ids().await, live);
        assert_eq!(ids(&queue.get(&posted).await), live);
    }
}

/// `storage`: "a store that gets an earlier `now` than before uses the later one".
pub(crate) async fn time_does_not_go_back(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let late = Queue { clock: Arc::new(ManualClock::new(kit.now())), ..queue.clone() };
    let first = queue.post_one(with_ttl(20)).await;
    kit.pass(20);
    let second = queue.post_one(with_ttl(60)).await;
    let created = kit.now();
    assert_eq!(
        late.ids().await,
        [second],
        "the first has expired, also for a server whose clock is behind"
    );
    assert_eq!(late.get(&[first]).await, []);
    let third = late.post_one(with_ttl(60)).await;
    assert_eq!(late.get_one(third).await.created, created);
    let (claim, taken) = late.claim(1).await;
    assert_eq!(ids(&taken), [second]);
    kit.pass(99);
    assert!(
        queue.claim_get(claim).await.is_some(),
        "the claim's 100 seconds count from the later time"
    );
    kit.pass(1);
    assert_eq!(queue.claim_get(claim).await, None);
}

/// `storage`: "unless that is further ahead of real time than clocks may differ": "the stored time
/// is reset to `now`".
pub(crate) async fn a_time_far_ahead_is_reset(kit: &mut Kit) {
    if !kit.repairs_time() {
        eprintln!("skipped: this store has its own clock, which its driver's tests set");
        return;
    }
    let queue = kit.queue("q").await;
    let posted = queue.post(2).await;
    let ahead =
        Queue { clock: Arc::new(ManualClock::new(kit.now().plus_secs(86_400))), ..queue.clone() };
    ahead.ids().await;
    let wrong = ahead.post_one(message("wrong")).await;
    assert_eq!(queue.ids().await, [posted[0], posted[1], wrong], "nothing was deleted");
    let later = queue.post_one(message("later")).await;
    assert!(later > wrong, "its position is greater");
    assert_eq!(queue.get_one(later).await.created, kit.now());
    let (claim, taken) = queue.claim(1).await;
    assert_eq!(ids(&taken), posted[..1]);
    let delayed = queue.post_one(with_delay(30)).await;
    kit.pass(30);
    assert!(queue.shown().await.contains(&delayed), "delays end");
    kit.pass(70);
    assert_eq!(queue.claim_get(claim).await, None, "claims end");
    kit.pass(3600);
    assert!(!queue.ids().await.contains(&later), "messages expire");
}

/// `get`: "ordered by position, each once".
pub(crate) async fn get_is_in_order_and_once(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post(6).await;
    let found = queue.get(&[p[4], p[1], p[4], p[0], p[1], p[5]]).await;
    assert_eq!(ids(&found), [p[0], p[1], p[4], p[5]]);
    assert_eq!(texts(&found), ["0", "1", "4", "5"]);
    assert_eq!(queue.get(&[]).await, []);
}

/// `get`: "Includes claimed and delayed messages."
pub(crate) async fn get_includes_claimed_and_delayed(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let posted = queue.post_new(vec![message("a"), with_delay(30), message("b")]).await;
    let (claim, taken) = queue.claim(1).await;
    let found = queue.get(&posted).await;
    assert_eq!(ids(&found), posted);
    assert_eq!(found[0], taken[0]);
    assert_eq!(found.iter().map(|m| m.claim).collect::<Vec<_>>(), [Some(claim), None, None]);
    assert_eq!(found.iter().map(|m| m.claim_count).collect::<Vec<_>>(), [1, 0, 0]);
}

/// `get`: a message can be read as often as it is live.
pub(crate) async fn get_removes_nothing(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post(2).await;
    for _ in 0..3 {
        assert_eq!(ids(&queue.get(&p).await), p);
    }
    assert_eq!(queue.shown().await, p);
}

/// `get`: "Ids that are unknown, not live or of another incarnation are ignored."
pub(crate) async fn get_ignores_missing_ids(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post_new(vec![message("a"), with_ttl(60), message("b")]).await;
    queue.delete(p[2], None).await;
    kit.pass(60);
    let unknown = MessageId { position: Position::new(p[2].position.get() + 1000), ..p[0] };
    let before = MessageId { position: Position::new(0), ..p[0] };
    let other = MessageId { incarnation: generation(1).incarnation, ..p[0] };
    assert_eq!(ids(&queue.get(&[before, p[1], other, p[0], p[2], unknown]).await), [p[0]]);
    let closed = kit.queue_at(kit.key("closed"), generation(1));
    assert_eq!(closed.get(&p).await, [], "a queue without a head has no messages");
}

/// `delete`: "No claim named: deletes a free … message".
pub(crate) async fn delete_removes_a_free_one(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post(3).await;
    assert_eq!(queue.delete(p[1], None).await, Deleted::Gone);
    assert_eq!(queue.ids().await, [p[0], p[2]]);
    assert_eq!(queue.get(&p).await.len(), 2);
    assert_eq!(ids(&queue.claim(5).await.1), [p[0], p[2]]);
}

/// `delete`: "No claim named: deletes a … delayed message"; a claim named: "No live claim holds it:
/// `NotClaimed`."
pub(crate) async fn delete_removes_a_delayed_one(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let id = queue.post_one(with_delay(60)).await;
    assert_eq!(queue.delete(id, Some(ClaimId::new(3))).await, Deleted::NotClaimed);
    assert_eq!(queue.ids().await, [id]);
    assert_eq!(queue.delete(id, None).await, Deleted::Gone);
    kit.pass(60);
    kit.sweep().await;
    assert_eq!(queue.ids().await, []);
}

/// `delete`: "does not delete a claimed one: `Claimed`".
pub(crate) async fn delete_without_a_claim_keeps_a_claimed_one(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post(2).await;
    let (claim, _) = queue.claim(1).await;
    assert_eq!(queue.delete(p[0], None).await, Deleted::Claimed);
    assert_eq!(queue.ids().await, p);
    assert_eq!(queue.claim_get(claim).await.expect("the claim is live").messages.len(), 1);
    kit.pass(100);
    assert_eq!(queue.delete(p[0], None).await, Deleted::Gone, "the claim has expired");
    assert_eq!(queue.ids().await, [p[1]]);
}

/// `delete`: "A claim named: deletes the message if that claim is live and holds it."
pub(crate) async fn delete_with_its_claim(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post(3).await;
    let (claim, _) = queue.claim(2).await;
    assert_eq!(queue.delete(p[0], Some(claim)).await, Deleted::Gone);
    assert_eq!(queue.ids().await, p[1..]);
    let held = queue.claim_get(claim).await.expect("the claim is live").messages;
    assert_eq!(ids(&held), [p[1]]);
    kit.pass(100);
    assert_eq!(queue.delete(p[1], Some(claim)).await, Deleted::NotClaimed, "the claim has expired");
    assert_eq!(queue.ids().await, p[1..]);
    assert_eq!(ids(&queue.claim(5).await.1), p[1..], "what was deleted does not come back");
}

/// `delete`: "No live claim holds it: `NotClaimed`."
pub(crate) async fn delete_of_an_unclaimed_one_with_a_claim(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post(2).await;
    assert_eq!(queue.delete(p[0], Some(ClaimId::new(7))).await, Deleted::NotClaimed);
    let (claim, _) = queue.claim(1).await;
    assert_eq!(
        queue.delete(p[1], Some(claim)).await,
        Deleted::NotClaimed,
        "it holds another message"
    );
    queue.release(claim).await;
    assert_eq!(queue.delete(p[0], Some(claim)).await, Deleted::NotClaimed, "it was released");
    assert_eq!(queue.shown().await, p);
}

/// `delete`: "Another live claim holds it: `WrongClaim`."
pub(crate) async fn delete_with_the_wrong_claim(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post(3).await;
    let (first, _) = queue.claim(1).await;
    let (second, _) = queue.claim(1).await;
    for wrong in [second, ClaimId::new(7)] {
        assert_eq!(queue.delete(p[0], Some(wrong)).await, Deleted::WrongClaim);
    }
    assert_eq!(queue.delete(p[1], Some(first)).await, Deleted::WrongClaim);
    assert_eq!(queue.ids().await, p);
    kit.pass(100);
    let (third, _) = queue.claim(1).await;
    assert_eq!(
        queue.delete(p[0], Some(first)).await,
        Deleted::WrongClaim,
        "another claim holds it now"
    );
    assert_eq!(queue.delete(p[0], Some(third)).await, Deleted::Gone);
}

/// `delete`: "Not live, unknown or of another incarnation: `Gone`, whatever claim is named."
pub(crate) async fn delete_of_a_missing_message(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post_new(vec![message("a"), message("b"), with_ttl(60)]).await;
    let (claim, _) = queue.claim(1).await;
    queue.delete(p[1], None).await;
    kit.pass(60);
    let unknown = MessageId { position: Position::new(p[2].position.get() + 1000), ..p[0] };
    let other = MessageId { incarnation: generation(1).incarnation, ..p[0] };
    for id in [p[1], p[2], unknown, other] {
        for named in [None, Some(claim), Some(ClaimId::new(7))] {
            assert_eq!(queue.delete(id, named).await, Deleted::Gone);
        }
    }
    assert_eq!(queue.ids().await, [p[0]], "other messages are not deleted");
    let closed = kit.queue_at(kit.key("closed"), generation(1));
    assert_eq!(closed.delete(p[0], None).await, Deleted::Gone);
    assert_eq!(closed.delete(p[0], Some(claim)).await, Deleted::Gone);
}

/// `delete_many`: "`Any`: every live message, claimed ones included."; "Ids without a message are
/// ignored."
pub(crate) async fn delete_many_of_any(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue
        .post_new(vec![
            message("claimed"),
            message("held"),
            message("free"),
            with_delay(30),
            with_ttl(60),
        ])
        .await;
    let (claim, _) = queue.claim(2).await;
    let unknown = MessageId { position: Position::new(p[4].position.get() + 1000), ..p[0] };
    let other = MessageId { incarnation: generation(1).incarnation, ..p[1] };
    queue.delete_many(&[p[3], unknown, p[0], other, p[0], p[2]], &Deletable::Any).await;
    assert_eq!(queue.ids().await, [p[1], p[4]]);
    let held = queue.claim_get(claim).await.expect("the claim is live").messages;
    assert_eq!(ids(&held), [p[1]]);
    kit.pass(200);
    assert_eq!(queue.shown().await, [p[1]], "what was deleted does not come back");
}

/// `delete_many`: "`HeldBy`: those that a named live claim holds."
pub(crate) async fn delete_many_of_claimed_ones(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post(8).await;
    let (first, _) = queue.claim(2).await;
    let (second, _) = queue.claim(2).await;
    let (third, _) = queue.claim(2).await;
    let all_but_one = [&p[..1], &p[2..]].concat();
    queue.delete_many(&all_but_one, &Deletable::HeldBy(vec![first, third])).await;
    assert_eq!(queue.ids().await, [p[1], p[2], p[3], p[6], p[7]]);
    queue.delete_many(&p, &Deletable::HeldBy(vec![second, ClaimId::new(7)])).await;
    assert_eq!(queue.ids().await, [p[1], p[6], p[7]]);
    assert_eq!(queue.claim_get(second).await.expect("it is live without messages").messages, []);
}

/// `delete_many`: "those that a named live claim holds": none if no claim is named or it has
/// expired.
pub(crate) async fn delete_many_needs_live_claims(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post(4).await;
    let (over, _) = queue.claim(2).await;
    queue.delete_many(&p, &Deletable::HeldBy(vec![])).await;
    assert_eq!(queue.ids().await, p);
    kit.pass(100);
    let (_, _) = queue.claim(1).await;
    let (released, _) = queue.claim(2).await;
    queue.release(released).await;
    queue.delete_many(&p, &Deletable::HeldBy(vec![over, released])).await;
    assert_eq!(queue.ids().await, p);
}

/// `delete_many`: "Ids without a message are ignored."
pub(crate) async fn delete_many_ignores_missing_ids(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post(2).await;
    queue.delete_many(&[], &Deletable::Any).await;
    let other = MessageId { incarnation: generation(1).incarnation, ..p[0] };
    queue.delete_many(&[other], &Deletable::Any).await;
    assert_eq!(queue.ids().await, p);
    let closed = kit.queue_at(kit.key("closed"), generation(1));
    closed.delete_many(&p, &Deletable::Any).await;
    assert_eq!(queue.ids().await, p);
    assert_eq!(closed.head().await, None);
    assert_eq!(queue.claim_with(&request(5)).await.len(), 2);
}
