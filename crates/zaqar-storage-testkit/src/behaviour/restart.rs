//! The contents of a store after it was shut down and opened again, if [`crate::About::keeps`] is
//! set.

use serde_json::json;
use zaqar_core::Kind;
use zaqar_core::storage::{Deletable, Guarded, Queues};

use super::messages::{with_delay, with_ttl};
use super::outbox::subscribed;
use super::queues::row;
use crate::kit::Kit;
use crate::queue::{ids, message};
use crate::subscriber::subscription;

/// `shut_down`: "makes them durable": rows and their removal.
pub(crate) async fn rows_are_kept(kit: &mut Kit) {
    if !kit.keeps() {
        return;
    }
    let (kept, removed) = (row(json!({"z": 1, "a": [2]})), row(json!({})));
    let (kept_key, removed_key) = (kit.key("kept"), kit.key("removed"));
    for (key, row) in [(&kept_key, &kept), (&removed_key, &removed)] {
        kit.rows().create(key, row).await.expect("create answers");
    }
    let gone = kit.rows().remove(&removed_key, removed.generation.incarnation).await;
    assert!(gone.expect("remove answers"));
    kit.restart().await;
    let there = Queues::get(kit.rows(), &kept_key).await.expect("get answers");
    assert_eq!(there, Some(kept.clone()));
    assert_eq!(Queues::get(kit.rows(), &removed_key).await.expect("get answers"), None);
    let listed = Queues::list(kit.rows(), &kit.project(), Kind::Queue, None, 10).await;
    assert_eq!(listed.expect("list answers"), [(kept_key.name, kept)]);
}

/// `shut_down`: "makes them durable": messages in every state, with their order, ttls, delays and
/// claim counts.
pub(crate) async fn messages_are_kept(kit: &mut Kit) {
    if !kit.keeps() {
        return;
    }
    let queue = kit.queue("q").await;
    let p = queue.post_new(vec![message("a"), with_ttl(60), with_delay(90), message("b")]).await;
    let (claim, _) = queue.claim(1).await;
    queue.release(claim).await;
    let before = (queue.all().await, queue.shown().await, queue.stats().await);
    kit.restart().await;
    let queue = kit.again(&queue);
    assert_eq!(queue.head().await, Some(queue.generation));
    assert_eq!((queue.all().await, queue.shown().await, queue.stats().await), before);
    kit.pass(60);
    assert_eq!(queue.shown().await, [p[0], p[3]]);
    kit.pass(30);
    assert_eq!(queue.shown().await, [p[0], p[2], p[3]]);
}

/// `shut_down`: "makes them durable": claims, with their expiry.
pub(crate) async fn claims_are_kept(kit: &mut Kit) {
    if !kit.keeps() {
        return;
    }
    let queue = kit.queue("q").await;
    let p = queue.post(4).await;
    let (first, _) = queue.claim(2).await;
    kit.pass(50);
    let (second, _) = queue.claim(1).await;
    let before = (queue.claim_get(first).await, queue.claim_get(second).await);
    kit.restart().await;
    let queue = kit.again(&queue);
    assert_eq!((queue.claim_get(first).await, queue.claim_get(second).await), before);
    assert_eq!(queue.shown().await, p[3..]);
    kit.pass(50);
    assert_eq!(queue.claim_get(first).await, None);
    assert_eq!(ids(&queue.claim(10).await.1), [p[0], p[1], p[3]]);
    assert!(queue.renew(second, 100, 60).await);
}

/// `shut_down`: "makes them durable": subscriptions, outbox entries and their leases.
pub(crate) async fn subscriptions_and_outbox_are_kept(kit: &mut Kit) {
    if !kit.keeps() {
        return;
    }
    let queue = subscribed(kit, "q").await;
    queue.subscribe(&subscription(2, "http://b")).await;
    queue.unsubscribe(2).await;
    let (settled, leased, open) = (queue.post(2).await, queue.post(2).await, queue.post(2).await);
    queue.settle(settled[0]).await;
    let held = queue.lease().await.expect("an entry is due");
    assert_eq!(held.first, leased[0].position);
    kit.restart().await;
    let queue = kit.again(&queue);
    assert_eq!(queue.subscribed().await, [1]);
    let due = kit.store().due_queues(1000, kit.now()).await.expect("due_queues answers");
    assert!(due.iter().any(|due| due.queue == queue.key), "a due queue is listed after a restart");
    assert_eq!(queue.lease().await, None, "the lease is still live");
    kit.pass(60);
    assert_eq!(queue.lease().await, Some(held), "the lease keeps its expiry");
    let later = queue.post(1).await;
    queue.settle(leased[0]).await;
    let firsts: Vec<_> =
        queue.lease_many(10, usize::MAX).await.iter().map(|entry| entry.first).collect();
    assert_eq!(firsts, [open[0].position, later[0].position]);
}

/// `shut_down`: "makes them durable": deletes, pops, purges and closings.
pub(crate) async fn what_was_removed_stays_removed(kit: &mut Kit) {
    if !kit.keeps() {
        return;
    }
    let queue = kit.queue("q").await;
    let purged = kit.queue("purged").await;
    let closed = kit.queue("closed").await;
    for queue in [&queue, &purged, &closed] {
        queue.post(6).await;
    }
    let p = queue.ids().await;
    queue.pop(2).await;
    queue.delete_many(&p[3..5], &Deletable::Any).await;
    let (claim, _) = purged.claim(2).await;
    purged.purge().await;
    closed.close().await;
    kit.restart().await;
    let (queue, purged, closed) = (kit.again(&queue), kit.again(&purged), kit.again(&closed));
    for _ in 0..2 {
        assert_eq!(queue.ids().await, [p[2], p[5]]);
        assert_eq!(purged.ids().await, []);
        assert_eq!(purged.claim_get(claim).await, None);
        assert_eq!(closed.head().await, None);
        assert_eq!(closed.close().await, Guarded::Absent);
        kit.sweep().await;
    }
}

/// `post`: "A position is never reused … after a restart."
pub(crate) async fn positions_are_not_reused_after_a_restart(kit: &mut Kit) {
    if !kit.keeps() {
        return;
    }
    let mut queue = kit.queue("q").await;
    let mut last = None;
    for round in 0..4 {
        let p = queue.post(3).await;
        assert!(last < Some(p[0]), "round {round}: {} is not after {last:?}", p[0]);
        last = Some(p[2]);
        match round {
            0 => drop(queue.pop(3).await),
            1 => queue.purge().await,
            _ => queue.delete_many(&p, &Deletable::Any).await,
        }
        if round % 2 == 0 {
            kit.sweep().await;
        }
        kit.restart().await;
        queue = kit.again(&queue);
    }
}
