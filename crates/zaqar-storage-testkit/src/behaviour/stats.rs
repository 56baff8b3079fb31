//! `stats`: lines of [`zaqar_core::storage::Messages::stats`].

use std::time::Duration;

use zaqar_core::storage::{Stats, Volume};
use zaqar_core::{Kind, QueueKey};

use super::messages::{with_delay, with_ttl};
use crate::kit::{Kit, generation};
use crate::queue::{Queue, message};

async fn counts(queue: &Queue) -> (u64, u64, u64) {
    let stats = queue.stats().await;
    (stats.free, stats.claimed, stats.delayed)
}

async fn swept_counts(kit: &Kit, queue: &Queue) -> (u64, u64, u64) {
    kit.sweep().await;
    counts(queue).await
}

/// `Stats`: free, claimed and delayed.
pub(crate) async fn stats_count_by_state(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    assert_eq!(queue.stats().await, Stats::default());
    queue.post(5).await;
    queue.post_new(vec![with_delay(30), with_delay(60)]).await;
    assert_eq!(counts(&queue).await, (5, 0, 2));
    queue.claim(3).await;
    assert_eq!(counts(&queue).await, (2, 3, 2));
    kit.pass(30);
    assert_eq!(swept_counts(kit, &queue).await, (3, 3, 1));
    kit.pass(70);
    assert_eq!(
        swept_counts(kit, &queue).await,
        (7, 0, 0),
        "delays have ended and the claim has expired"
    );
}

/// `Stats::ends`: "The first and the last message of any state; `None` for an empty queue."
pub(crate) async fn stats_include_the_first_and_the_last(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    assert_eq!(queue.stats().await.ends, None);
    let (start, first) = (kit.now(), queue.post_one(message("a")).await);
    queue.claim(1).await;
    kit.pass_millis(1500);
    let (middle, p) = (kit.now(), queue.post(2).await);
    kit.pass(5);
    let (end, last) = (kit.now(), queue.post_one(with_delay(600)).await);
    let ends = queue.stats().await.ends.expect("the queue is not empty");
    assert_eq!((ends.0.id, ends.0.created), (first, start), "the oldest is claimed");
    assert_eq!((ends.1.id, ends.1.created), (last, end), "the newest is delayed");
    queue.delete(last, None).await;
    queue.delete_many(&[first], &zaqar_core::storage::Deletable::Any).await;
    let ends = queue.stats().await.ends.expect("the queue is not empty");
    assert_eq!((ends.0.id, ends.1.id), (p[0], p[1]));
    assert_eq!((ends.0.created, ends.1.created), (middle, middle));
    queue.pop(2).await;
    assert_eq!(queue.stats().await.ends, None);
}

/// `stats`: "Exact once `sweep` has nothing left to do": immediately if nothing is due.
pub(crate) async fn stats_follow_every_change(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post(10).await;
    let (claim, _) = queue.claim(4).await;
    assert_eq!(counts(&queue).await, (6, 4, 0));
    queue.delete(p[0], Some(claim)).await;
    assert_eq!(counts(&queue).await, (6, 3, 0));
    queue.delete(p[0], Some(claim)).await;
    queue.delete(p[1], None).await;
    assert_eq!(counts(&queue).await, (6, 3, 0), "calls without effect do not change the counts");
    queue.delete_many(&[p[1], p[9], p[9], p[0]], &zaqar_core::storage::Deletable::Any).await;
    assert_eq!(counts(&queue).await, (5, 2, 0));
    queue.pop(2).await;
    assert_eq!(counts(&queue).await, (3, 2, 0));
    assert!(queue.renew(claim, 100, 60).await);
    assert_eq!(counts(&queue).await, (3, 2, 0));
    queue.release(claim).await;
    assert_eq!(counts(&queue).await, (5, 0, 0));
    queue.release(claim).await;
    assert_eq!(counts(&queue).await, (5, 0, 0));
    let late = queue.post_one(with_delay(50)).await;
    assert_eq!(counts(&queue).await, (5, 0, 1));
    queue.delete(late, None).await;
    assert_eq!(counts(&queue).await, (5, 0, 0));
    queue.post_one(with_delay(50)).await;
    queue.purge().await;
    assert_eq!(swept_counts(kit, &queue).await, (0, 0, 0));
    queue.post(2).await;
    assert_eq!(counts(&queue).await, (2, 0, 0));
}

/// `stats`: "Exact once `sweep` has nothing left to do at `now`", also after messages expired in
/// any state.
pub(crate) async fn stats_are_exact_after_a_sweep(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    queue.post_new(vec![with_ttl(60), with_ttl(400), message("c")]).await;
    queue.claim(2).await;
    queue.post_new(vec![with_ttl(60), message("d")]).await;
    let late = queue.post_one(zaqar_core::storage::NewMessage { ttl: 70, ..with_delay(80) }).await;
    kit.pass(60);
    assert_eq!(swept_counts(kit, &queue).await, (2, 2, 1), "the claim extended its messages");
    assert_eq!(queue.stats().await.ends.expect("not empty").1.id, late);
    kit.pass(10);
    assert_eq!(swept_counts(kit, &queue).await, (2, 2, 0));
    kit.pass(30);
    assert_eq!(swept_counts(kit, &queue).await, (4, 0, 0), "the claim has expired");
    kit.pass(60);
    assert_eq!(swept_counts(kit, &queue).await, (3, 0, 0), "its grace has ended");
    kit.pass(3600);
    assert_eq!(swept_counts(kit, &queue).await, (0, 0, 0));
    assert_eq!(queue.stats().await, Stats::default());
}

/// `stats`: "never off by more than what still has to be swept".
pub(crate) async fn stats_are_off_by_unswept_messages_at_most(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    queue.post(4).await;
    queue.post_new(vec![with_ttl(60), with_ttl(60), with_delay(60)]).await;
    queue.claim(1).await;
    kit.pass(60);
    let (free, claimed, delayed) = counts(&queue).await;
    assert!((3..=6).contains(&free), "three, the two that expired and the one that came due");
    assert_eq!(claimed, 1);
    assert!(delayed <= 1);
    assert!((5..=7).contains(&(free + delayed + claimed)));
}

/// `stats`: "`None` for a queue without a head."
pub(crate) async fn stats_without_a_head_are_none(kit: &mut Kit) {
    let queue = kit.queue_at(kit.key("q"), generation(1));
    assert_eq!(queue.try_stats().await, None);
    queue.open().await;
    assert_eq!(queue.try_stats().await, Some(Stats::default()));
    queue.close().await;
    assert_eq!(queue.try_stats().await, None);
}

/// How often a lagging volume is polled, and the interval.
const POLLS: (u32, Duration) = (100, Duration::from_millis(100));

/// `volume`: "The sum of `stats` over all queues and topics, without internal queues …. It may lag
/// a few seconds behind", or `None`.
pub(crate) async fn volume_is_the_sum_of_all(kit: &mut Kit) {
    kit.sweep().await;
    let Some(before) = volume(kit).await else { return };
    let (queue, other) = (kit.queue("q").await, kit.queue("other").await);
    queue.post(5).await;
    queue.post_one(with_delay(60)).await;
    queue.claim(2).await;
    other.post(3).await;
    other.claim(1).await;
    other.pop(1).await;
    let internal = QueueKey { kind: Kind::Internal, ..kit.key("q") };
    let internal = kit.open(internal).await;
    internal.post(11).await;
    internal.claim(4).await;
    let closed = kit.queue("closed").await;
    closed.post(7).await;
    closed.close().await;
    kit.sweep().await;
    let expected = Volume { claimed: before.claimed + 3, free: before.free + 5 };
    for _ in 0..POLLS.0 {
        if volume(kit).await == Some(expected) {
            return;
        }
        tokio::time::sleep(POLLS.1).await;
    }
    assert_eq!(volume(kit).await, Some(expected), "long after the last change");
}

async fn volume(kit: &Kit) -> Option<Volume> {
    kit.store().volume().await.expect("volume answers")
}
