//! Leases: every line of [`zaqar_core::storage::Leases`], and the subscriptions that depend on
//! them.

use zaqar_core::LeaseId;
use zaqar_core::storage::{NewSubscription, Renewal, SubscriptionChange};

use crate::kit::{Kit, sweep};
use crate::queue::Queue;
use crate::subscriber::{keep, on_lease, renew, subscription};

/// A queue with a subscription on a long lease.
pub(crate) async fn followed(kit: &Kit, name: &str) -> Queue {
    let queue = kit.queue(name).await;
    let lease = kit.lease(7);
    assert!(keep(kit, lease, 1_000_000).await);
    queue.subscribe_new(&on_lease(lease, 1000)).await;
    queue
}

async fn end(kit: &Kit, lease: LeaseId) {
    kit.store().end_lease(lease, kit.now()).await.expect("end_lease answers");
}

/// `keep_lease`: "it is live until `until`", and the subscriptions on it are then removed; a sweep
/// removes no other subscription.
pub(crate) async fn subscriptions_are_removed_with_their_lease(kit: &mut Kit) {
    let (queue, other) = (kit.queue("q").await, kit.queue("other").await);
    let (short, long) = (kit.lease(1), kit.lease(2));
    assert!(keep(kit, short, 20).await);
    assert!(keep(kit, long, 1000).await);
    queue.subscribe_new(&on_lease(short, 1)).await;
    queue.subscribe_new(&on_lease(long, 2)).await;
    queue.subscribe_new(&subscription(3, "http://a")).await;
    other.subscribe_new(&on_lease(short, 4)).await;
    kit.pass_almost(20);
    kit.sweep().await;
    assert_eq!(queue.subscribed().await, [1, 2, 3]);
    kit.pass_millis(1);
    kit.sweep().await;
    assert_eq!(queue.subscribed().await, [2, 3]);
    assert_eq!(other.subscribed().await, []);
    other.subscribe_new(&NewSubscription { lease: None, ..on_lease(short, 5) }).await;
    kit.sweep().await;
    assert_eq!(other.subscribed().await, [5]);
}

/// `keep_lease`: "it stays live until `until` at least".
pub(crate) async fn a_lease_can_be_extended(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let lease = kit.lease(1);
    assert!(keep(kit, lease, 20).await);
    queue.subscribe_new(&on_lease(lease, 1)).await;
    for _ in 0..3 {
        kit.pass(15);
        assert!(keep(kit, lease, 20).await);
        assert!(keep(kit, lease, 5).await, "a renewal never shortens it");
        kit.sweep().await;
        assert_eq!(queue.subscribed().await, [1]);
    }
    kit.pass(20);
    kit.sweep().await;
    assert_eq!(queue.subscribed().await, []);
}

/// `keep_lease`: "It was never created … `Created`", "The lease is live: … `Continued`", "It has
/// expired or was ended: … `Expired`".
pub(crate) async fn a_renewal_reports_the_state_of_the_lease(kit: &mut Kit) {
    let (kept, ended) = (kit.lease(1), kit.lease(2));
    for lease in [kept, ended] {
        assert_eq!(renew(kit, lease, 20).await, Renewal::Created);
        assert_eq!(renew(kit, lease, 20).await, Renewal::Continued);
    }
    let queue = kit.queue("q").await;
    queue.subscribe_new(&on_lease(kept, 1)).await;
    queue.subscribe_new(&on_lease(ended, 2)).await;
    end(kit, ended).await;
    assert_eq!(renew(kit, ended, 20).await, Renewal::Expired);
    kit.pass(20);
    assert_eq!(renew(kit, kept, 20).await, Renewal::Expired);
}

/// `keep_lease`: "It has expired or was ended: nothing changes."
pub(crate) async fn an_expired_lease_stays_expired(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let (late, ended) = (kit.lease(1), kit.lease(2));
    for (number, lease) in [(1, late), (2, ended)] {
        assert!(keep(kit, lease, 20).await);
        queue.subscribe_new(&on_lease(lease, number)).await;
    }
    end(kit, ended).await;
    assert!(!keep(kit, ended, 1000).await);
    kit.pass(20);
    assert!(!keep(kit, late, 1000).await);
    kit.sweep().await;
    assert_eq!(queue.subscribed().await, []);
}

/// `end_lease`: "this lease, and no other, is no longer live"; "Ending one that has expired or was
/// never created is not an error."
pub(crate) async fn ending_a_lease_removes_only_its_subscriptions(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let (first, second) = (kit.lease(1), kit.lease(2));
    for (number, lease) in [(1, first), (2, second)] {
        assert!(keep(kit, lease, 1000).await);
        queue.subscribe_new(&on_lease(lease, number)).await;
    }
    end(kit, kit.lease(3)).await;
    end(kit, first).await;
    end(kit, first).await;
    kit.sweep().await;
    assert_eq!(queue.subscribed().await, [2]);
    end(kit, first).await;
    assert!(keep(kit, second, 1000).await);
}

/// `keep_lease`: "Sweeps remove the subscriptions that depend on … never created leases"; a changed
/// subscription still depends on its lease.
pub(crate) async fn subscriptions_on_an_unknown_lease_are_removed(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let lease = kit.lease(1);
    queue.subscribe_new(&on_lease(lease, 1)).await;
    queue.subscribe_new(&on_lease(lease, 2)).await;
    let change = SubscriptionChange { ttl: Some(600), ..SubscriptionChange::default() };
    let changed =
        queue.store.change_subscription(&queue.key, on_lease(lease, 2).id, &change, kit.now());
    changed.await.expect("change_subscription answers");
    kit.sweep().await;
    assert_eq!(queue.subscribed().await, []);
    let posted = queue.post(1).await;
    assert_eq!(queue.entries(posted[0].incarnation, 0, 10).await, [], "there are no subscriptions");
}

/// `keep_lease`: many subscriptions are removed in bounded batches.
pub(crate) async fn a_lease_with_many_subscriptions_is_swept_in_batches(kit: &mut Kit) {
    let queues = [kit.queue("a").await, kit.queue("b").await];
    let lease = kit.lease(1);
    assert!(keep(kit, lease, 60).await);
    for number in 0..40 {
        queues[number % 2].subscribe_new(&on_lease(lease, number as u128)).await;
    }
    kit.pass(60);
    let swept = kit.store().sweep(kit.now(), 10).await.expect("the store sweeps");
    assert!(swept.done <= 20, "a budget of 10 is observed approximately: {swept:?}");
    assert!(swept.more, "a sweep of about 10 leaves some of 40 for the next: {swept:?}");
    sweep(kit.store(), kit.now(), 10).await;
    for queue in queues {
        assert_eq!(queue.subscribed().await, []);
    }
}
