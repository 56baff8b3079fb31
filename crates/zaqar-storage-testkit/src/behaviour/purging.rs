//! `purge`: lines of [`zaqar_core::storage::Messages::purge`].

use zaqar_core::storage::{Deletable, Deleted, ListQuery, Stats};

use super::messages::{with_delay, with_ttl};
use crate::kit::{Kit, generation};
use crate::queue::{everything, ids, message};

/// `purge`: "Removes every message, claimed and delayed ones included."
pub(crate) async fn purge_removes_everything(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue
        .post_new(vec![message("claimed"), message("free"), with_delay(30), with_ttl(60)])
        .await;
    queue.claim(1).await;
    queue.purge().await;
    for secs in [0, 30, 100] {
        kit.pass(secs);
        assert_eq!(queue.ids().await, []);
        assert_eq!(queue.get(&p).await, []);
        assert_eq!(queue.pop(5).await, []);
        assert_eq!(queue.claim(5).await.1, []);
        assert_eq!(queue.delete(p[1], None).await, Deleted::Gone);
        kit.sweep().await;
        assert_eq!(queue.stats().await, Stats::default());
    }
}

/// `purge`: "and every claim".
pub(crate) async fn purge_ends_claims(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post(3).await;
    let (claim, _) = queue.claim(2).await;
    queue.purge().await;
    assert_eq!(queue.claim_get(claim).await, None);
    assert!(!queue.renew(claim, 100, 60).await);
    queue.release(claim).await;
    assert_eq!(queue.delete(p[0], Some(claim)).await, Deleted::Gone);
    let new = queue.post(2).await;
    assert_eq!(queue.delete(new[0], Some(claim)).await, Deleted::NotClaimed);
    queue.delete_many(&new, &Deletable::HeldBy(vec![claim])).await;
    kit.sweep().await;
    assert_eq!(queue.shown().await, new);
}

/// `purge`: "Markers stay valid; later messages get later positions."
pub(crate) async fn markers_stay_valid_after_a_purge(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let old = queue.post(3).await;
    queue.purge().await;
    let new = queue.post(3).await;
    for marker in old {
        let query = ListQuery { after: Some(marker), ..everything() };
        assert_eq!(
            ids(&queue.follow(query).await),
            new,
            "after a purged marker come later messages"
        );
    }
}

/// `purge` affects only existing messages: later ones are listed, counted and claimed as usual,
/// swept or not.
pub(crate) async fn a_purged_queue_can_be_used(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    for is_swept in [false, true, false] {
        queue.post(3).await;
        queue.claim(1).await;
        queue.purge().await;
        let p = queue.post_new(vec![message("a"), with_delay(10), message("b")]).await;
        if is_swept {
            kit.sweep().await;
        }
        assert_eq!(queue.ids().await, p);
        let (claim, taken) = queue.claim(5).await;
        assert_eq!(ids(&taken), [p[0], p[2]]);
        kit.pass(10);
        kit.sweep().await;
        let stats = queue.stats().await;
        assert_eq!((stats.free, stats.claimed, stats.delayed), (1, 2, 0));
        assert_eq!(queue.head().await, Some(queue.generation), "the head stays");
        queue.release(claim).await;
        assert_eq!(ids(&queue.pop(5).await), p);
    }
}

/// `purge` of an empty queue, and of one without a head, does nothing.
pub(crate) async fn purge_of_an_empty_queue(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    queue.purge().await;
    let p = queue.post(1).await;
    assert_eq!(queue.ids().await, p);
    let closed = kit.queue_at(kit.key("closed"), generation(1));
    closed.purge().await;
    assert_eq!(closed.head().await, None);
}
