//! `pop`: lines of [`zaqar_core::storage::Messages::pop`].

use super::messages::{lives, waits};
use crate::kit::{Kit, generation};
use crate::queue::{ids, message, texts};

/// `pop`: "At most `limit`, in order."
pub(crate) async fn pop_takes_the_first(kit: &mut Kit) {
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

/// `pop`: "claimed and delayed ones stay".
pub(crate) async fn pop_passes_over_what_is_not_free(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let first = queue.post(2).await;
    let (claim, _) = queue.claim(2).await;
    let p = queue
        .post_new(vec![waits(90), lives(60), message("a"), waits(90), message("b"), message("c")])
        .await;
    kit.pass(60);
    assert_eq!(ids(&queue.pop(2).await), [p[2], p[4]], "filled from behind what it passes over");
    assert_eq!(queue.ids().await, [first[0], first[1], p[0], p[3], p[5]]);
    let held = queue.claim_get(claim).await.expect("the claim lives").messages;
    assert_eq!(ids(&held), first);
}

/// `pop`: what a claim left is free, and shows how often it was claimed.
pub(crate) async fn pop_takes_what_a_claim_left(kit: &mut Kit) {
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

/// `pop`: "At most `limit`": none of an empty queue, or of one without a head.
pub(crate) async fn pop_of_nothing(kit: &mut Kit) {
    assert_eq!(kit.queue("q").await.pop(5).await, []);
    assert_eq!(kit.queue_at(kit.key("closed"), generation(1)).pop(5).await, []);
}
