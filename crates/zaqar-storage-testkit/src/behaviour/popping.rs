//! `pop`: lines of [`zaqar_core::storage::Messages::pop`].

use zaqar_core::KeyId;
use zaqar_core::storage::Skipped;

use super::messages::{with_delay, with_ttl};
use crate::kit::{Kit, generation};
use crate::queue::{MANY, ids, message, sealed, texts};

/// `pop`: "At most `query.limit`, in order".
pub(crate) async fn pop_removes_the_first(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post(7).await;
    let popped = queue.pop(3).await;
    assert_eq!(ids(&popped), p[..3]);
    assert_eq!(texts(&popped), ["0", "1", "2"]);
    assert!(popped.iter().all(|message| message.claim.is_none() && message.claim_count == 0));
    assert_eq!(queue.ids().await, p[3..]);
    assert_eq!(queue.get(&p).await.len(), 4, "what was popped is gone");
    assert_eq!(ids(&queue.pop(1).await), p[3..4]);
    assert_eq!(ids(&queue.pop(100).await), p[4..]);
    assert_eq!(queue.pop(1).await, []);
}

/// `pop`: "claimed and delayed messages stay".
pub(crate) async fn pop_skips_messages_that_are_not_free(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let first = queue.post(2).await;
    let (claim, _) = queue.claim(2).await;
    let p = queue
        .post_new(vec![
            with_delay(90),
            with_ttl(60),
            message("a"),
            with_delay(90),
            message("b"),
            message("c"),
        ])
        .await;
    kit.pass(60);
    assert_eq!(ids(&queue.pop(2).await), [p[2], p[4]], "filled past skipped messages");
    assert_eq!(queue.ids().await, [first[0], first[1], p[0], p[3], p[5]]);
    let held = queue.claim_get(claim).await.expect("the claim is live").messages;
    assert_eq!(ids(&held), first);
}

/// `pop`: a released message is free and has its claim count.
pub(crate) async fn pop_removes_released_messages(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post(3).await;
    let (released, _) = queue.claim(1).await;
    let (over, _) = queue.claim(1).await;
    queue.release(released).await;
    assert_eq!(ids(&queue.pop(1).await), p[..1]);
    kit.pass(100);
    let popped = queue.pop(5).await;
    assert_eq!(ids(&popped), p[1..]);
    assert_eq!(popped.iter().map(|m| m.claim_count).collect::<Vec<_>>(), [1, 0]);
    assert!(popped.iter().all(|message| message.claim.is_none()), "not {over} any more");
}

/// `pop`: an empty queue, or one without a head, gives nothing.
pub(crate) async fn pop_of_an_empty_queue(kit: &mut Kit) {
    assert_eq!(kit.queue("q").await.pop(5).await, []);
    assert_eq!(kit.queue_at(kit.key("closed"), generation(1)).pop(5).await, []);
}

/// `pop`: "A message sealed with a key that is not in `query.keys` stays free, its claim count
/// unchanged, and messages after it are removed."
pub(crate) async fn pop_skips_messages_that_the_caller_cannot_open(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let posted = ["lost", "kept", "", "last", "other", ""].map(|key| sealed("text", key));
    let p = queue.post_new(posted.to_vec()).await;
    let keys = ["other", "kept"].map(|key| KeyId(key.to_owned()));
    let skipped = Skipped { key: Some(KeyId("lost".to_owned())), next: None };
    let page = queue.pop_readable(3, None, &keys).await;
    assert_eq!((ids(&page.messages), &page.skipped), (vec![p[1], p[2], p[4]], &skipped));
    let page = queue.pop_readable(3, None, &keys).await;
    assert_eq!((ids(&page.messages), &page.skipped), (vec![p[5]], &skipped));
    assert_eq!(queue.ids().await, [p[0], p[3]]);
    let keys = ["last", "lost"].map(|key| KeyId(key.to_owned()));
    let page = queue.pop_readable(3, None, &keys).await;
    assert_eq!(page.skipped, Skipped::default());
    assert_eq!(ids(&page.messages), [p[0], p[3]], "with its key it can be popped");
    assert!(page.messages.iter().all(|one| one.claim.is_none() && one.claim_count == 0));
}

/// `pop`: "Skipping more than a bounded number of these … ends the slice early": the next slice
/// continues there.
pub(crate) async fn a_pop_continues_after_many_unreadable_messages(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let last = queue.post_after_many_sealed().await;
    let (mut after, mut found) = (None, Vec::new());
    for _ in 0..100 {
        let page = queue.pop_readable(2, after, &[]).await;
        found.extend(ids(&page.messages));
        let Some(next) = page.skipped.next else { break };
        assert!(Some(next) > after, "a slice continues after the previous one");
        after = Some(next);
    }
    assert_eq!(found, [last]);
    assert_eq!(queue.stats().await.free, MANY as u64);
}
