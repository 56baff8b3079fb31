//! Following the outbox: every line of [`zaqar_core::storage::Outbox::follow`].

use zaqar_core::storage::{Deletable, FOLLOWED_FOR, NewSubscription, OutboxEntry};
use zaqar_core::{Incarnation, MessageId, Position};

use super::leases::followed;
use super::messages::{LARGE, with_delay, with_ttl};
use super::{answers, start};
use crate::kit::{Kit, generation};
use crate::queue::{Queue, message};
use crate::subscriber::{keep, on_lease, subscription};

/// Pages after which a follower is considered to be in a loop.
const MAX_STEPS: usize = 1000;

impl Queue {
    /// The entries that can be followed after a position.
    pub(crate) async fn entries(
        &self,
        incarnation: Incarnation,
        after: u64,
        limit: usize,
    ) -> Vec<OutboxEntry> {
        let after = Position::new(after);
        let shown = self.store.follow(&self.key, incarnation, after, limit, self.now()).await;
        let shown = shown.expect("follow answers");
        assert!(shown.len() <= limit, "at most the limit");
        shown
    }

    /// The first message of each entry that can be followed.
    async fn firsts(&self) -> Vec<MessageId> {
        let shown = self.entries(self.generation.incarnation, 0, 1000).await;
        shown.iter().map(|entry| entry.messages[0].id).collect()
    }
}

/// "A post to a queue with a live subscription on a lease writes one entry with all its messages in
/// the same atomic step"; it is not due.
pub(crate) async fn a_post_can_be_followed(kit: &mut Kit) {
    let queue = followed(kit, "q").await;
    assert_eq!(queue.firsts().await, []);
    let created = kit.now();
    let new = vec![message("a"), with_ttl(77), with_delay(30)];
    let posted = queue.post_new(new.clone()).await;
    let shown = queue.entries(posted[0].incarnation, 0, 10).await;
    assert_eq!(shown.len(), 1, "one entry per post");
    let entry = &shown[0];
    assert_eq!((entry.incarnation, entry.first), (posted[0].incarnation, posted[0].position));
    assert_eq!(entry.created, created);
    assert_eq!(entry.messages.len(), 3);
    for ((id, new), kept) in posted.iter().zip(&new).zip(&entry.messages) {
        assert_eq!((kept.id, kept.ttl), (*id, new.ttl));
        assert!(kept.payload == new.payload, "entries have bodies");
        assert_eq!(kept.due, created.plus_secs(new.delay));
    }
    kit.pass(1);
    assert_eq!(queue.lease().await, None, "there is no subscription with an address");
    let due = kit.store().due_queues(1000, kit.now()).await.expect("due_queues answers");
    assert!(!due.iter().any(|due| due.queue == queue.key), "the queue is not due either");
}

/// "A post … writes one entry with all its messages in the same atomic step, or several in a row if
/// they are many", for followers and for workers.
pub(crate) async fn a_large_batch_is_followed_whole(kit: &mut Kit) {
    let queue = followed(kit, "q").await;
    let address = NewSubscription { ttl: 1_000_000, ..subscription(77, "http://example.org") };
    queue.subscribe(&address).await;
    let (before, posted) = (queue.post(1).await, queue.post(LARGE).await);
    let after = queue.post(1).await;
    let expected = [before, posted, after].concat();
    let messages = |entries: &[OutboxEntry]| -> Vec<MessageId> {
        entries.iter().flat_map(|entry| entry.messages.iter().map(|it| it.id)).collect()
    };
    let shown = queue.entries(queue.generation.incarnation, 0, 1000).await;
    assert_eq!(messages(&shown), expected);
    let due = kit.store().due_queues(1000, kit.now()).await.expect("due_queues answers");
    assert!(due.iter().any(|due| due.queue == queue.key));
    let mut leased = Vec::new();
    while let Some(entry) = queue.lease().await {
        queue.settle(entry.messages[0].id).await;
        leased.extend(messages(&[entry]));
    }
    assert_eq!(leased, expected);
}

/// "A post to a queue with a live subscription on a lease writes one entry": a post to one without
/// does not.
pub(crate) async fn a_post_without_followers_cannot_be_followed(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    queue.post(1).await;
    let lease = kit.lease(1);
    assert!(keep(kit, lease, 1_000_000).await);
    queue.subscribe_new(&on_lease(lease, 1)).await;
    assert_eq!(queue.firsts().await, [], "it was posted before the subscription");
    let followed = queue.post(1).await;
    queue.unsubscribe(1).await;
    queue.post(1).await;
    assert_eq!(queue.firsts().await, followed);
}

/// "Begins with the first entry whose first message comes after `after`"; "oldest first, at most
/// `limit`; fewer only at the end".
pub(crate) async fn a_follower_continues_after_the_last_entry(kit: &mut Kit) {
    let queue = followed(kit, "q").await;
    let mut posts = Vec::new();
    for count in [1, 3, 2, 1, 4] {
        posts.push(queue.post(count).await);
    }
    let incarnation = posts[0][0].incarnation;
    let (mut after, mut seen) = (0, Vec::new());
    for expected in [2, 2, 1, 0] {
        let shown = queue.entries(incarnation, after, 2).await;
        assert_eq!(shown.len(), expected);
        for entry in shown {
            let ids: Vec<_> = entry.messages.iter().map(|message| message.id).collect();
            after = ids[ids.len() - 1].position.get();
            seen.push(ids);
        }
    }
    assert_eq!(seen, posts);
    let later = queue.post(1).await;
    assert_eq!(queue.entries(incarnation, after, 2).await[0].messages[0].id, later[0]);
}

/// "It is returned until `FOLLOWED_FOR` after its last message is due, whether it is leased or
/// settled or not."
pub(crate) async fn leasing_and_settling_do_not_hide_entries(kit: &mut Kit) {
    let queue = followed(kit, "q").await;
    queue.subscribe_new(&subscription(1, "http://a")).await;
    let posted = queue.post_new(vec![with_delay(0), with_delay(30)]).await;
    let late = queue.post(1).await;
    for first in [posted[0], late[0]] {
        assert_eq!(queue.lease().await.map(|entry| entry.messages[0].id), Some(first));
        queue.settle(first).await;
    }
    assert_eq!(queue.firsts().await, [posted[0], late[0]]);
    kit.pass_almost(FOLLOWED_FOR.as_secs());
    kit.sweep().await;
    assert_eq!(queue.firsts().await, [posted[0], late[0]]);
    kit.pass_millis(1);
    kit.sweep().await;
    assert_eq!(queue.firsts().await, [posted[0]], "its last message was due later");
    assert_eq!(queue.lease().await, None, "a settled entry is never due again");
    kit.pass(30);
    kit.sweep().await;
    assert_eq!(queue.firsts().await, []);
    let next = queue.post(1).await;
    assert_eq!(queue.firsts().await, next);
}

/// An open entry can be leased even when it can no longer be followed.
pub(crate) async fn open_entries_outlive_following(kit: &mut Kit) {
    let queue = followed(kit, "q").await;
    queue.subscribe_new(&subscription(1, "http://a")).await;
    let posted = queue.post(2).await;
    kit.pass(FOLLOWED_FOR.as_secs() * 2);
    kit.sweep().await;
    assert_eq!(queue.lease().await.map(|entry| entry.messages[0].id), Some(posted[0]));
    queue.settle(posted[0]).await;
    kit.sweep().await;
    assert_eq!(queue.firsts().await, []);
}

/// "Deleting, claiming, popping or purging messages does not change entries. No head, or another
/// incarnation: no entries."
pub(crate) async fn followed_entries_outlive_their_messages(kit: &mut Kit) {
    let queue = followed(kit, "q").await;
    let mut firsts = Vec::new();
    for _ in 0..4 {
        firsts.push(queue.post(1).await[0]);
    }
    queue.delete(firsts[0], None).await;
    queue.delete_many(&firsts[1..2], &Deletable::Any).await;
    queue.pop(1).await;
    queue.claim(1).await;
    queue.purge().await;
    kit.sweep().await;
    assert_eq!(queue.firsts().await, firsts);
    let other = Incarnation::new(firsts[0].incarnation.get() + 1);
    assert_eq!(queue.entries(other, 0, 10).await, []);
    queue.close().await;
    assert_eq!(queue.firsts().await, []);
    let next = kit.open(queue.key.clone()).await;
    assert_eq!(next.firsts().await, []);
    assert_eq!(next.entries(firsts[0].incarnation, 0, 10).await, []);
    assert_eq!(kit.queue_at(kit.key("no"), generation(1)).firsts().await, []);
}

/// `Subscribed::Created`: "Every post that is acknowledged after this answer has positions greater
/// than `after`; every post that was acknowledged before the request has positions up to `after`."
pub(crate) async fn a_subscriber_gets_its_start_position(kit: &mut Kit) {
    let queue = followed(kit, "q").await;
    let lease = kit.lease(7);
    let posters = start((0..4).map(|_| {
        let queue = queue.clone();
        async move {
            for _ in 0..15 {
                queue.post(2).await;
                tokio::task::yield_now().await;
            }
        }
    }));
    for number in 2..12 {
        let before = queue.post(1).await[0];
        let after = queue.subscribe_new(&on_lease(lease, number)).await;
        let behind = queue.post(1).await[0];
        assert!(before.position <= after, "{before} was acknowledged before");
        assert!(after < behind.position, "{behind} is posted later");
    }
    answers(posters).await;
}

/// "No new entry appears before one that was returned: a reader that continues after the last
/// message it got misses nothing."
pub(crate) async fn no_racing_post_is_missed(kit: &mut Kit) {
    let queue = followed(kit, "q").await;
    let posters = start((0..4).map(|_| {
        let queue = queue.clone();
        async move {
            let mut posted = Vec::new();
            for _ in 0..15 {
                posted.extend(queue.post(2).await);
            }
            posted
        }
    }));
    let incarnation = queue.generation.incarnation;
    let (mut after, mut seen) = (0, Vec::new());
    let mut posters = Some(posters);
    let mut posted = Vec::new();
    for step in 0.. {
        assert!(step < MAX_STEPS, "an entry was returned twice");
        let shown = queue.entries(incarnation, after, 3).await;
        if shown.is_empty() {
            let Some(posters) = posters.take() else { break };
            tokio::task::yield_now().await;
            posted = answers(posters).await.concat();
        }
        for entry in shown {
            assert_eq!(entry.messages.len(), 2, "an entry has all messages of its post");
            seen.extend(entry.messages.iter().map(|message| message.id));
            after = entry.messages[1].id.position.get();
        }
    }
    posted.sort();
    assert_eq!(seen, posted);
}
