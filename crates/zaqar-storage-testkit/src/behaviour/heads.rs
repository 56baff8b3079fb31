//! Heads: every line of [`zaqar_core::storage::Heads`].

use zaqar_core::storage::{Deletable, Deleted, Guarded, Stats};
use zaqar_core::{Generation, Incarnation, MessageId, Version};

use super::at_once;
use crate::kit::{Kit, generation};
use crate::queue::{Queue, batch, everything, message, request};

/// A handle of the same queue that assumes another generation.
fn assuming(queue: &Queue, generation: Generation) -> Queue {
    Queue { generation, ..queue.clone() }
}

/// `open`: "No head: an empty one with `generation` is created, and `generation` is returned."
pub(crate) async fn open_creates_an_empty_head(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    assert_eq!(queue.head().await, Some(queue.generation));
    assert!(queue.all().await.is_empty());
    assert_eq!(queue.stats().await, Stats::default());
    assert_eq!(queue.claim(5).await.1, []);
}

/// `open`: "A head exists: it does not change, and its own generation is returned."
pub(crate) async fn open_does_not_change_an_existing_head(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let ids = queue.post(3).await;
    let newer = Generation { version: Version::new(5), ..queue.generation };
    for other in [generation(1), generation(9), newer, queue.generation] {
        assert_eq!(assuming(&queue, other).open().await, queue.generation);
    }
    assert_eq!(queue.head().await, Some(queue.generation));
    assert_eq!(queue.ids().await, ids);
}

/// `open` is one atomic step: all concurrent callers get the same generation.
pub(crate) async fn one_of_many_openers_opens(kit: &mut Kit) {
    for round in 0..5 {
        let key = kit.key(&format!("q{round}"));
        let openers = (0..8).map(|n| {
            let queue = kit.queue_at(key.clone(), generation(n));
            async move { queue.open().await }
        });
        let answers = at_once(openers).await;
        assert!(answers.iter().all(|own| *own == answers[0]), "all openers get one generation");
        assert_eq!(kit.queue_at(key, answers[0]).head().await, Some(answers[0]));
    }
}

/// `generation`: "`None` for a queue without a head."
pub(crate) async fn generation_without_a_head_is_none(kit: &mut Kit) {
    assert_eq!(kit.queue_at(kit.key("q"), generation(1)).head().await, None);
}

/// `generation`: numbers up to `i64::MAX` are lossless, also inside ids.
pub(crate) async fn generations_of_any_size_round_trip(kit: &mut Kit) {
    for (n, number) in [0, 1, (1 << 53) + 1, i64::MAX as u64].into_iter().enumerate() {
        let generation =
            Generation { incarnation: Incarnation::new(number), version: Version::new(number) };
        let queue = kit.queue_at(kit.key(&format!("q{n}")), generation);
        assert_eq!(queue.open().await, generation);
        assert_eq!(queue.head().await, Some(generation));
        let ids = queue.post(2).await;
        assert!(ids.iter().all(|id| id.incarnation == generation.incarnation));
        assert_eq!(queue.ids().await, ids);
        assert_eq!(queue.close().await, Guarded::Done(()));
    }
}

/// `advance`: "its version becomes the greater"; "from now on posts and claims that assume an older
/// one are rejected".
pub(crate) async fn advance_raises_the_version(kit: &mut Kit) {
    let old = kit.queue("q").await;
    let ids = old.post(2).await;
    let new = assuming(&old, Generation { version: Version::new(4), ..old.generation });
    assert_eq!(old.advance(new.generation).await, Guarded::Done(()));
    assert_eq!(old.head().await, Some(new.generation));
    let refused = old.try_post(old.generation, batch("c", vec![message("x")])).await;
    assert_eq!(refused, Guarded::Stale(new.generation));
    let refused = old.try_claim(old.generation, &request(1)).await;
    assert_eq!(refused, Guarded::Stale(new.generation));
    assert_eq!(old.shown().await, ids, "existing messages do not change");
    let more = new.post(1).await;
    assert_eq!(new.ids().await, [ids, more].concat());
    assert_eq!(new.claim(5).await.1.len(), 3);
}

/// `advance`: "the greater of its own and `generation.version`".
pub(crate) async fn advance_never_lowers_the_version(kit: &mut Kit) {
    let queue = kit.open(kit.key("q")).await;
    let at = |version| Generation { version: Version::new(version), ..queue.generation };
    assert_eq!(queue.advance(at(7)).await, Guarded::Done(()));
    for lower in [0, 6, 7] {
        assert_eq!(queue.advance(at(lower)).await, Guarded::Done(()));
        assert_eq!(queue.head().await, Some(at(7)));
    }
    let raisers = [9, 12, 10, 8].map(|version| {
        let (queue, to) = (queue.clone(), at(version));
        async move { queue.advance(to).await }
    });
    assert!(
        at_once(raisers).await.iter().all(|answer| *answer == Guarded::Done(())),
        "a lower version is not an error"
    );
    assert_eq!(queue.head().await, Some(at(12)), "the greatest of many concurrent ones");
}

/// `advance`: "No head: `Absent`. Another incarnation: `Stale`."
pub(crate) async fn advance_needs_the_incarnation(kit: &mut Kit) {
    let queue = kit.queue_at(kit.key("q"), generation(1));
    assert_eq!(queue.advance(generation(3)).await, Guarded::Absent);
    assert_eq!(queue.head().await, None, "an advance opens nothing");
    queue.open().await;
    assert_eq!(queue.advance(generation(3)).await, Guarded::Stale(queue.generation));
    assert_eq!(queue.head().await, Some(queue.generation));
}

/// `close`: "from now on none of its messages, claims, subscriptions and outbox entries is found".
pub(crate) async fn close_hides_everything(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let ids = queue.post(4).await;
    let (claim, _) = queue.claim(2).await;
    assert_eq!(queue.close().await, Guarded::Done(()));
    check_closed(&queue, &ids, claim).await;
    kit.sweep().await;
    check_closed(&queue, &ids, claim).await;
    assert_eq!(queue.close().await, Guarded::Absent, "it is closed already");
}

async fn check_closed(queue: &Queue, ids: &[MessageId], claim: zaqar_core::ClaimId) {
    assert_eq!(queue.head().await, None);
    assert_eq!(queue.try_stats().await, None);
    assert_eq!(queue.ids().await, []);
    assert_eq!(queue.get(ids).await, []);
    assert_eq!(queue.pop(5).await, []);
    assert_eq!(queue.claim_get(claim).await, None);
    assert!(!queue.renew(claim, 100, 60).await);
    queue.release(claim).await;
    for named in [None, Some(claim)] {
        assert_eq!(queue.delete(ids[0], named).await, Deleted::Gone);
    }
    queue.delete_many(ids, &Deletable::Any).await;
    queue.purge().await;
    let post = queue.try_post(queue.generation, batch("c", vec![message("x")])).await;
    assert_eq!(post, Guarded::Absent);
    assert_eq!(queue.try_claim(queue.generation, &request(1)).await, Guarded::Absent);
    assert_eq!(queue.head().await, None, "only open opens a head");
}

/// `close`: "No head: `Absent`. Another incarnation: `Stale`."
pub(crate) async fn close_needs_the_incarnation(kit: &mut Kit) {
    let queue = kit.queue_at(kit.key("q"), generation(1));
    assert_eq!(queue.close().await, Guarded::Absent);
    queue.open().await;
    let ids = queue.post(2).await;
    let (claim, _) = queue.claim(1).await;
    let stale = assuming(&queue, generation(1)).close().await;
    assert_eq!(stale, Guarded::Stale(queue.generation));
    assert_eq!(queue.ids().await, ids);
    assert!(queue.claim_get(claim).await.is_some());
}

/// `close`: "The head has the incarnation": its version does not matter.
pub(crate) async fn close_ignores_the_version(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let newer = Generation { version: Version::new(8), ..queue.generation };
    queue.advance(newer).await;
    assert_eq!(queue.close().await, Guarded::Done(()));
    assert_eq!(queue.head().await, None);
}

/// `close`, then `open` with another incarnation: the old contents are not found, swept or not.
pub(crate) async fn a_new_incarnation_shows_nothing_of_the_old(kit: &mut Kit) {
    for (name, is_swept) in [("swept", true), ("unswept", false)] {
        let old = kit.queue(name).await;
        let old_ids = old.post(6).await;
        let (claim, _) = old.claim(2).await;
        old.close().await;
        if is_swept {
            kit.sweep().await;
        }
        let new = kit.open(old.key.clone()).await;
        assert_eq!(new.stats().await, Stats::default());
        assert_eq!(new.ids().await, []);
        let new_ids = new.post(3).await;
        assert_eq!(new.ids().await, new_ids);
        assert_eq!(new.get(&old_ids).await, [], "old ids find nothing");
        assert_eq!(new.claim_get(claim).await, None);
        assert!(!new.renew(claim, 100, 60).await);
        new.release(claim).await;
        for id in &old_ids {
            assert_eq!(new.delete(*id, None).await, Deleted::Gone);
        }
        new.delete_many(&old_ids, &Deletable::Any).await;
        let mut from_old = everything();
        from_old.after = old_ids.last().copied();
        assert_eq!(crate::queue::ids(&new.follow(from_old).await), new_ids);
        assert_eq!(new.close().await, Guarded::Done(()));
        assert_eq!(old.close().await, Guarded::Absent);
        let stale = kit.open(old.key.clone()).await;
        assert_eq!(old.close().await, Guarded::Stale(stale.generation), "a late close");
        let late = old.try_post(old.generation, batch("c", vec![message("x")])).await;
        assert_eq!(late, Guarded::Stale(stale.generation), "a late post");
        kit.sweep().await;
        assert_eq!(stale.ids().await, []);
    }
}
