//! Delays: lines of [`zaqar_core::storage::Messages`] and [`zaqar_core::storage::Claims`].

use zaqar_core::storage::NewMessage;

use super::messages::with_delay;
use crate::kit::Kit;
use crate::queue::{ids, message};

/// `NewMessage::delay`: "Seconds from `now` until it is listed and can be claimed".
pub(crate) async fn a_delayed_message_waits_until_it_is_due(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let id = queue.post_one(with_delay(60)).await;
    kit.pass_almost(60);
    assert_eq!(queue.shown().await, []);
    assert_eq!(queue.claim(1).await.1, []);
    assert_eq!(queue.pop(1).await, []);
    assert_eq!(queue.ids().await, [id], "shown on request");
    kit.pass_millis(1);
    assert_eq!(queue.shown().await, [id]);
    let (_, taken) = queue.claim(1).await;
    assert_eq!(ids(&taken), [id]);
    assert_eq!(taken[0].claim_count, 1);
}

/// `list`, `claim`, `pop`: "ordered by position": a delay does not change the position.
pub(crate) async fn a_due_message_keeps_its_position(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let mut p =
        queue.post_new(vec![message("a"), with_delay(60), message("b"), with_delay(30)]).await;
    p.extend(queue.post(1).await);
    assert_eq!(queue.ids().await, p);
    assert_eq!(queue.shown().await, [p[0], p[2], p[4]]);
    kit.pass(30);
    assert_eq!(queue.shown().await, [p[0], p[2], p[3], p[4]]);
    kit.pass(30);
    assert_eq!(queue.shown().await, p);
    assert_eq!(ids(&queue.claim(2).await.1), p[..2]);
    assert_eq!(ids(&queue.pop(5).await), p[2..]);
}

/// `Messages`: "until … `now` reaches its creation plus its ttl", delayed or not.
pub(crate) async fn a_delay_does_not_extend_the_ttl(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let never = queue.post_one(NewMessage { ttl: 60, ..with_delay(90) }).await;
    let short = queue.post_one(NewMessage { ttl: 90, ..with_delay(60) }).await;
    kit.pass_almost(60);
    assert_eq!(queue.ids().await, [never, short]);
    kit.pass_millis(1);
    assert_eq!(queue.ids().await, [short]);
    assert_eq!(queue.shown().await, [short]);
    kit.pass(30);
    assert_eq!(queue.ids().await, []);
    kit.sweep().await;
    assert_eq!(queue.pop(5).await, []);
    assert_eq!(queue.stats().await.ends, None);
}

/// `NewMessage::delay` is per message, and counts from its post.
pub(crate) async fn delays_of_one_batch_differ(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let p = queue.post_new([40, 10, 0, 30, 20].map(with_delay).into()).await;
    kit.pass(5);
    let later = queue.post_one(with_delay(10)).await;
    for (secs, due) in [(0, vec![2]), (5, vec![1, 2]), (10, vec![1, 2, 4]), (10, vec![1, 2, 3, 4])]
    {
        kit.pass(secs);
        let mut due: Vec<_> = due.into_iter().map(|n: usize| p[n]).collect();
        if secs == 10 {
            due.push(later);
        }
        assert_eq!(queue.shown().await, due);
    }
    kit.pass(10);
    assert_eq!(queue.shown().await, [p, vec![later]].concat());
}
