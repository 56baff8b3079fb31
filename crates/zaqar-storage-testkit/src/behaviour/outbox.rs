//! The outbox: every line of [`zaqar_core::storage::Outbox`].

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use zaqar_core::storage::{
    Batch, ClaimRequest, Deletable, Guarded, LeaseRequest, NewMessage, NewSubscription, OutboxEntry,
};
use zaqar_core::{Checksum, Generation, Incarnation, KeyId, MessageId, Payload, QueueKey, Version};

use super::messages::{with_delay, with_ttl};
use super::{answers, at_once, start};
use crate::kit::{Kit, generation};
use crate::queue::{CLIENT, Queue, batch, message, request};
use crate::subscriber::subscription;

/// Leases after which a worker is considered to be in a loop.
const MAX_STEPS: usize = 1000;

/// A queue with one long-lived subscription.
pub(crate) async fn subscribed(kit: &Kit, name: &str) -> Queue {
    let queue = kit.queue(name).await;
    let long = NewSubscription { ttl: 1_000_000, ..subscription(1, "http://example.org") };
    queue.subscribe(&long).await;
    queue
}

impl Queue {
    /// Leases one entry for 60 seconds.
    pub(crate) async fn lease(&self) -> Option<OutboxEntry> {
        self.lease_many(1, usize::MAX).await.pop()
    }

    /// Leases entries for 60 seconds.
    pub(crate) async fn lease_many(&self, limit: usize, bytes: usize) -> Vec<OutboxEntry> {
        let request = LeaseRequest { until: self.now().plus_secs(60), limit, bytes };
        let leased = self.store.lease(&self.key, &request, self.now()).await;
        let leased = leased.expect("lease answers");
        assert!(leased.len() <= limit, "at most the limit");
        assert!(leased.is_sorted_by_key(|entry| entry.first), "in order: {leased:?}");
        leased
    }

    /// Leases all entries that may be leased; returns the ids of their first messages.
    async fn lease_all(&self) -> Vec<MessageId> {
        self.lease_many(100, usize::MAX).await.iter().map(|entry| entry.messages[0].id).collect()
    }

    /// Leases an entry that must be due; returns the id of its first message.
    async fn lease_first(&self) -> MessageId {
        let entry = self.lease().await.expect("an entry is due");
        assert_eq!(entry.first, entry.messages[0].id.position);
        entry.messages[0].id
    }

    pub(crate) async fn settle(&self, first: MessageId) {
        self.settle_all(&[first]).await;
    }

    /// Settles entries of one incarnation.
    async fn settle_all(&self, firsts: &[MessageId]) {
        let positions: Vec<_> = firsts.iter().map(|first| first.position).collect();
        let settled = self.store.settle(&self.key, firsts[0].incarnation, &positions).await;
        settled.expect("settle answers");
    }
}

async fn due(kit: &Kit, limit: usize) -> Vec<QueueKey> {
    let due = kit.store().due_queues(limit, kit.now()).await.expect("due_queues answers");
    assert!(due.len() <= limit, "at most the limit");
    assert!(due.is_sorted_by_key(|due| due.since), "longest first");
    due.into_iter().map(|due| due.queue).collect()
}

/// The index of a queue among those that are due.
async fn due_index(kit: &Kit, queue: &Queue) -> Option<usize> {
    due(kit, 1000).await.iter().position(|key| *key == queue.key)
}

/// `lease`: "A post to a queue with a live subscription without a lease … writes one entry with all
/// its messages in the same atomic step".
pub(crate) async fn a_post_writes_one_entry(kit: &mut Kit) {
    let queue = subscribed(kit, "q").await;
    assert_eq!(queue.lease().await, None, "nothing is posted yet");
    kit.pass_millis(7);
    let created = kit.now();
    let sealed = Payload {
        bytes: (0..=255).collect::<Bytes>(),
        sealed_with: Some(KeyId("key 1".to_owned())),
        checksum: Some(Checksum([9; 16])),
    };
    let new = vec![message("a"), NewMessage { payload: sealed, ..with_ttl(77) }, with_delay(30)];
    let posted = queue.post_new(new.clone()).await;
    kit.pass(1);
    let entry = queue.lease().await.expect("the post wrote an entry");
    assert_eq!((entry.incarnation, entry.first), (posted[0].incarnation, posted[0].position));
    assert_eq!(entry.created, created);
    assert_eq!(entry.messages.len(), 3);
    for ((id, new), kept) in posted.iter().zip(&new).zip(&entry.messages) {
        assert_eq!((kept.id, kept.ttl), (*id, new.ttl));
        assert!(kept.payload == new.payload, "entries have bodies");
        assert_eq!(kept.due, created.plus_secs(new.delay));
    }
    assert_eq!(queue.lease().await, None, "one entry per post");
}

/// `lease`: "A post with `Batch::notify` off writes no entry, neither for workers nor for
/// followers."
pub(crate) async fn a_post_that_notifies_nobody_writes_none(kit: &mut Kit) {
    let queue = subscribed(kit, "q").await;
    let silent = Batch { notify: false, ..batch(CLIENT, vec![message("a"), with_delay(30)]) };
    let Guarded::Done(ids) = queue.try_post(queue.generation, silent).await else {
        panic!("the post is stored like any other")
    };
    assert_eq!(ids.len(), 2);
    kit.pass(60);
    assert_eq!(queue.lease().await, None, "subscribers are not notified");
    let notified = queue.post(1).await[0];
    assert_eq!(queue.lease_first().await, notified, "later posts write entries");
}

/// `lease`: "a post to a queue without one writes no entry that is ever due".
pub(crate) async fn a_post_without_subscribers_writes_none(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    queue.post(2).await;
    assert_eq!(queue.lease().await, None, "there never was a subscription");
    queue.subscribe(&subscription(1, "http://a")).await;
    assert_eq!(queue.lease().await, None, "the subscription is newer than the post");
    queue.unsubscribe(1).await;
    queue.post(2).await;
    assert_eq!(queue.lease().await, None, "the subscription was removed");
    queue.subscribe(&subscription(2, "http://a")).await;
    queue.unsubscribe_all().await;
    queue.post(2).await;
    assert_eq!(queue.lease().await, None, "all were removed");
    queue.subscribe(&subscription(3, "http://a")).await;
    kit.pass(300);
    queue.post(2).await;
    assert_eq!(queue.lease().await, None, "it has expired");
    let refused = queue.try_post(generation(1), batch(CLIENT, vec![message("x")])).await;
    assert!(matches!(refused, Guarded::Stale(_)));
    assert_eq!(queue.lease().await, None, "a rejected post writes none");
    let other = subscribed(kit, "other").await;
    queue.post(1).await;
    assert_eq!(queue.lease().await, None, "others' subscriptions do not count");
    assert_eq!(other.lease().await, None);
}

/// `subscribe`: "Posts that are acknowledged after this answer write outbox entries"; also for an
/// unconfirmed subscription.
pub(crate) async fn every_live_subscription_counts(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let new = NewSubscription { confirmed: false, ..subscription(1, "http://a") };
    queue.subscribe(&new).await;
    let first = queue.post(1).await;
    assert_eq!(queue.lease_first().await, first[0]);
    kit.pass(299);
    queue.subscribe(&subscription(2, "http://b")).await;
    kit.pass(1);
    let second = queue.post(1).await;
    queue.settle(first[0]).await;
    assert_eq!(queue.lease_first().await, second[0], "one of two has expired");
}

/// `lease`: "A dead-letter move writes none."
pub(crate) async fn a_dead_letter_writes_none(kit: &mut Kit) {
    let (source, dead) = (kit.queue("source").await, subscribed(kit, "dead").await);
    source.post(2).await;
    for _ in 0..2 {
        let rule = Some(dead.as_target(1, None));
        let request = ClaimRequest { dead_letters: rule, ..request(2) };
        source.claim_with(&request).await;
        source.release(request.id).await;
    }
    assert_eq!(dead.ids().await.len(), 2);
    assert_eq!(dead.lease().await, None);
    let posted = dead.post(1).await;
    assert_eq!(dead.lease_first().await, posted[0]);
}

/// `lease`: "the due entries of a queue that were posted first, in the order of their posts";
/// `settle`: "The entries are never due again".
pub(crate) async fn entries_are_leased_oldest_first(kit: &mut Kit) {
    let queue = subscribed(kit, "q").await;
    let mut firsts = Vec::new();
    for _ in 0..4 {
        firsts.push(queue.post(2).await[0]);
        kit.pass(1);
    }
    let settled = queue.lease_first().await;
    assert_eq!(settled, firsts[0]);
    queue.settle(settled).await;
    assert_eq!(queue.lease_all().await, firsts[1..], "each once until its lease expires");
    assert_eq!(queue.lease().await, None);
    kit.pass(60);
    for first in &firsts[1..] {
        assert_eq!(queue.lease_first().await, *first, "all but the settled one are due again");
        queue.settle(*first).await;
    }
    kit.pass(60);
    kit.sweep().await;
    assert_eq!(queue.lease().await, None);
    let late = queue.post_one(with_delay(30)).await;
    kit.pass(10);
    let prompt = queue.post(1).await[0];
    kit.pass(20);
    assert_eq!(queue.lease_first().await, late, "it was posted first, though it was due later");
    queue.settle(late).await;
    assert_eq!(queue.lease_first().await, prompt);
}

/// `lease`: "At most `request.limit` entries, with about `request.bytes` of bodies; at least one".
pub(crate) async fn a_lease_is_bounded(kit: &mut Kit) {
    let queue = subscribed(kit, "q").await;
    let large = "x".repeat(10_000);
    let mut firsts = Vec::new();
    for _ in 0..7 {
        firsts.push(queue.post_new(vec![message(&large), message(&large)]).await[0]);
    }
    let mut rest = &firsts[..];
    for (limit, bytes, count) in [(2, usize::MAX, 2), (100, 45_000, 2), (100, 5000, 1)] {
        let leased = queue.lease_many(limit, bytes).await;
        let leased: Vec<_> = leased.iter().map(|entry| entry.messages[0].id).collect();
        assert_eq!(leased, rest[..count], "{limit} entries, {bytes} bytes");
        queue.settle_all(&leased).await;
        rest = &rest[count..];
    }
    assert_eq!(queue.lease_all().await, rest, "the others are still due");
}

/// `lease`: "A leased entry blocks those after it", and "An older entry that was not due yet blocks
/// none."
pub(crate) async fn a_leased_entry_blocks_those_after_it(kit: &mut Kit) {
    let queue = subscribed(kit, "q").await;
    let late = queue.post_one(with_delay(30)).await;
    let mut firsts = Vec::new();
    for _ in 0..5 {
        firsts.push(queue.post(1).await[0]);
    }
    let leased = queue.lease_many(2, usize::MAX).await;
    assert_eq!(leased[1].first, firsts[1].position);
    assert_eq!(queue.lease_all().await, [], "the third waits for the first two");
    queue.settle(firsts[0]).await;
    assert_eq!(queue.lease_all().await, [], "and for the second alone");
    kit.pass(30);
    assert_eq!(queue.lease_all().await, [late], "an older one was not due");
    queue.settle_all(&[firsts[1], late]).await;
    assert_eq!(queue.lease_first().await, firsts[2]);
    kit.pass(60);
    assert_eq!(queue.lease_all().await, firsts[2..], "in order when its worker has died");
}

/// `settle`: "Settles entries": all of them, and "The entries … block no others".
pub(crate) async fn entries_are_settled_together(kit: &mut Kit) {
    let queue = subscribed(kit, "q").await;
    let mut firsts = Vec::new();
    for _ in 0..4 {
        firsts.push(queue.post(2).await[0]);
    }
    assert_eq!(queue.lease_many(3, usize::MAX).await.len(), 3);
    queue.settle_all(&firsts[..3]).await;
    assert_eq!(queue.lease_all().await, firsts[3..]);
    queue.settle_all(&firsts).await;
    kit.pass(60);
    assert_eq!(queue.lease_all().await, []);
}

/// `lease`: "An expired lease is ignored, so another worker takes the entry over".
pub(crate) async fn a_lease_holds_until_it_expires(kit: &mut Kit) {
    let queue = subscribed(kit, "q").await;
    queue.post(3).await;
    let entry = queue.lease().await;
    kit.pass_almost(60);
    assert_eq!(queue.lease().await, None);
    kit.pass_millis(1);
    for _ in 0..3 {
        assert_eq!(queue.lease().await, entry, "the same entry each time");
        kit.pass(60);
    }
}

/// `settle`: "The entries are never due again, leased or not": by a worker whose lease has expired,
/// too.
pub(crate) async fn a_settled_entry_is_never_due_again(kit: &mut Kit) {
    let queue = subscribed(kit, "q").await;
    for late in [false, true] {
        let p = queue.post(2).await;
        assert_eq!(queue.lease_first().await, p[0]);
        if late {
            kit.pass(60);
            assert_eq!(queue.lease_first().await, p[0], "another worker has it");
        }
        queue.settle(p[0]).await;
        kit.pass(60);
        assert_eq!(queue.lease().await, None);
    }
}

/// `lease`: "If two workers race, one gets the entries; the other gets none until these are
/// settled."
pub(crate) async fn concurrent_leases_are_disjoint(kit: &mut Kit) {
    let queue = subscribed(kit, "q").await;
    let mut posted = Vec::new();
    for _ in 0..24 {
        posted.push(queue.post(1).await[0]);
    }
    let leased = Arc::new(Mutex::new(Vec::<MessageId>::new()));
    let workers = (0..4).map(|_| {
        let (queue, leased, count) = (queue.clone(), Arc::clone(&leased), posted.len());
        async move {
            for _ in 0..MAX_STEPS {
                let entries = queue.lease_many(3, usize::MAX).await;
                let ids: Vec<_> = entries.iter().map(|entry| entry.messages[0].id).collect();
                leased.lock().expect("no panic under the lock").extend(&ids);
                if ids.is_empty() {
                    // Another worker has them, and may not be running.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                } else {
                    tokio::task::yield_now().await;
                    queue.settle_all(&ids).await;
                }
                if leased.lock().expect("no panic under the lock").len() >= count {
                    return;
                }
            }
            panic!("after {MAX_STEPS} leases there are still more");
        }
    });
    at_once(workers).await;
    let leased = std::mem::take(&mut *leased.lock().expect("no panic under the lock"));
    assert_eq!(leased, posted, "each entry was leased by one worker, in their order");
}

/// `Outbox`: due when "`now` has reached the earliest `due` of its messages".
pub(crate) async fn an_entry_is_due_with_its_first_message(kit: &mut Kit) {
    let queue = subscribed(kit, "q").await;
    let late = queue.post_new([90, 60, 120].map(with_delay).into()).await;
    assert_eq!(queue.lease().await, None);
    let mixed = queue.post_new([900, 0].map(with_delay).into()).await;
    assert_eq!(queue.lease_first().await, mixed[0], "an older entry that is not due blocks nobody");
    queue.settle(mixed[0]).await;
    kit.pass_almost(60);
    assert_eq!(queue.lease().await, None);
    kit.pass_millis(1);
    assert!(due_index(kit, &queue).await.is_some(), "the queue is listed when the entry is due");
    assert_eq!(queue.lease_first().await, late[0]);
}

/// `lease`: "Deleting, claiming, popping or purging messages does not change entries".
pub(crate) async fn entries_outlive_messages(kit: &mut Kit) {
    let queue = subscribed(kit, "q").await;
    let mut firsts = Vec::new();
    for _ in 0..5 {
        firsts.push(queue.post_new(vec![with_ttl(60), with_ttl(60)]).await);
    }
    queue.delete(firsts[0][0], None).await;
    queue.delete_many(&firsts[1], &Deletable::Any).await;
    queue.pop(1).await;
    queue.claim(2).await;
    queue.purge().await;
    let newer = Generation { version: Version::new(2), ..queue.generation };
    queue.advance(newer).await;
    kit.pass(59);
    kit.sweep().await;
    for posted in firsts {
        let entry = queue.lease().await.expect("it is open until it is settled");
        assert_eq!(entry.messages.iter().map(|m| m.id).collect::<Vec<_>>(), posted);
        assert_eq!(entry.messages[1].payload, with_ttl(60).payload);
        queue.settle(posted[0]).await;
    }
}

/// `lease`: "An entry whose messages have all expired … is not due any more; sweeps remove it."
pub(crate) async fn entries_expire_with_their_messages(kit: &mut Kit) {
    let queue = subscribed(kit, "q").await;
    let long = NewSubscription { ttl: 10_000, ..subscription(77, "http://long") };
    queue.subscribe_new(&long).await;
    queue.post_new(vec![with_ttl(60)]).await;
    let mixed = queue.post_new(vec![with_ttl(60), with_ttl(90)]).await;
    kit.pass(60);
    assert_eq!(queue.lease_first().await, mixed[0], "one of its messages is live");
    assert_eq!(queue.lease().await, None, "all messages of the first entry have expired");
    kit.pass(60);
    assert_eq!(queue.lease().await, None, "the lease expired after the last message");
    kit.sweep().await;
    let due = kit.store().due_queues(1000, kit.now()).await.expect("due_queues answers");
    assert!(!due.iter().any(|due| due.queue == queue.key), "no entry is due");
}

/// `lease`: "While the queue has no live subscription without a lease, none of its entries is due."
pub(crate) async fn entries_end_with_the_last_subscription(kit: &mut Kit) {
    let (left, expired) = (kit.queue("left").await, kit.queue("expired").await);
    for queue in [&left, &expired] {
        queue.subscribe_new(&NewSubscription { ttl: 60, ..subscription(1, "http://a") }).await;
        queue.post(2).await;
    }
    left.unsubscribe_all().await;
    check_that_entries_ended(kit, &left).await;
    kit.pass(60);
    check_that_entries_ended(kit, &expired).await;
}

async fn check_that_entries_ended(kit: &Kit, queue: &Queue) {
    assert_eq!(queue.lease().await, None, "no subscription is left");
    kit.sweep().await;
    queue.subscribe_new(&NewSubscription { ttl: 600, ..subscription(2, "http://b") }).await;
    assert_eq!(queue.lease().await, None, "the sweep has removed the entry");
    let posted = queue.post(1).await;
    assert_eq!(queue.lease_first().await, posted[0], "later posts are delivered");
}

/// `lease`: "closing the head discards them".
pub(crate) async fn closing_discards_entries(kit: &mut Kit) {
    let queue = subscribed(kit, "q").await;
    let old = queue.post(1).await;
    queue.lease().await;
    queue.post(1).await;
    queue.close().await;
    assert_eq!(queue.lease().await, None);
    queue.settle(old[0]).await;
    let next = subscribed(kit, "q").await;
    assert_eq!(next.lease().await, None);
    let new = next.post(1).await;
    next.settle(MessageId { position: new[0].position, ..old[0] }).await;
    kit.sweep().await;
    assert_eq!(
        next.lease_first().await,
        new[0],
        "settling an entry of the old incarnation does not affect the new one"
    );
    kit.pass(60);
    assert_eq!(next.lease_first().await, new[0]);
    assert_eq!(next.lease().await, None);
}

/// `settle`: "Missing entries are ignored", and only the given entries are settled.
pub(crate) async fn settling_a_missing_entry_is_not_an_error(kit: &mut Kit) {
    let (queue, other) = (subscribed(kit, "q").await, subscribed(kit, "other").await);
    let (p, theirs) = (queue.post(3).await, other.post(3).await);
    queue.settle(p[1]).await;
    queue.settle(theirs[0]).await;
    queue.settle(MessageId { incarnation: Incarnation::new(5), ..p[0] }).await;
    kit.queue_at(kit.key("closed"), generation(1)).settle(p[0]).await;
    assert_eq!(queue.lease_first().await, p[0]);
    assert_eq!(other.lease_first().await, theirs[0]);
    queue.settle(p[0]).await;
    queue.settle(p[0]).await;
    kit.pass(60);
    assert_eq!(queue.lease().await, None);
    assert_eq!(other.lease_first().await, theirs[0]);
}

/// `due_queues`: "of every project", "those due longest first"; queues without due entries may be
/// omitted.
pub(crate) async fn due_queues_come_longest_due_first(kit: &mut Kit) {
    let mut queues = Vec::new();
    for name in ["c", "a", "d", "b"] {
        let queue = subscribed(kit, name).await;
        queue.post(1).await;
        queues.push(queue);
        kit.pass(1);
    }
    let project = zaqar_core::ProjectId::new(&format!("}}{}", kit.tag)).expect("a project id");
    let topic = kit.open(crate::kit::key(project, zaqar_core::Kind::Topic, "a")).await;
    topic.subscribe(&subscription(1, "http://a")).await;
    topic.post(1).await;
    queues.push(topic);
    let listed = kit.store().due_queues(1000, kit.now()).await.expect("due_queues answers");
    for pair in queues.windows(2) {
        let since = |queue: &Queue| {
            let due = listed.iter().find(|due| due.queue == queue.key).map(|due| due.since);
            due.expect("it is due")
        };
        let apart = since(&pair[1]).as_millis() - since(&pair[0]).as_millis();
        // A store may round the time by less than a millisecond.
        assert!((999..=1001).contains(&apart), "they say since when: {apart} ms apart");
    }
    let named = due(kit, 1000).await;
    let named: Vec<_> = named.iter().filter(|key| queues.iter().any(|q| q.key == **key)).collect();
    assert_eq!(named, queues.iter().map(|queue| &queue.key).collect::<Vec<_>>());
    queues[0].lease().await;
    kit.pass(60);
    assert!(
        due_index(kit, &queues[0]).await > due_index(kit, &queues[4]).await,
        "due since its lease expired"
    );
}

/// `due_queues`: "Every queue with a due entry appears once everything before it is settled or
/// leased."
pub(crate) async fn every_due_queue_appears(kit: &mut Kit) {
    let mut waiting = Vec::new();
    for n in 0..12 {
        let queue = subscribed(kit, &format!("q{n}")).await;
        for _ in 0..=n % 3 {
            queue.post(1).await;
        }
        waiting.push(queue);
    }
    for step in 0..MAX_STEPS {
        let limit = 1 + step % 2;
        let named = due(kit, limit).await;
        if named.is_empty() {
            break;
        }
        for key in named {
            let queue = kit.queue_at(key, generation(1));
            let leased = queue.lease_all().await;
            if step % 3 == 0 && !leased.is_empty() {
                queue.settle_all(&leased).await;
            }
        }
    }
    for queue in waiting {
        assert_eq!(queue.lease().await, None, "{} was never listed", queue.key);
    }
}

/// `due_queues`: "never omits one that has": also after its lease expired, after more posts and
/// after a sweep; "Includes a queue whose due entries cannot be leased yet".
pub(crate) async fn a_due_queue_is_listed_until_settled(kit: &mut Kit) {
    let queue = subscribed(kit, "q").await;
    let first = queue.post(1).await;
    assert!(due_index(kit, &queue).await.is_some());
    queue.lease().await;
    let second = queue.post(1).await;
    assert!(due_index(kit, &queue).await.is_some(), "the second is due");
    assert_eq!(queue.lease().await, None, "but waits for the first");
    kit.pass(60);
    kit.sweep().await;
    assert!(due_index(kit, &queue).await.is_some(), "the first one's lease has expired");
    assert_eq!(queue.lease_first().await, first[0]);
    queue.settle(first[0]).await;
    assert!(due_index(kit, &queue).await.is_some(), "the second is still due");
    assert_eq!(queue.lease_first().await, second[0]);
    queue.settle(second[0]).await;
    let late = queue.post_one(with_delay(30)).await;
    kit.pass(30);
    assert!(due_index(kit, &queue).await.is_some(), "its delay has ended");
    assert_eq!(queue.lease_first().await, late);
    queue.settle(late).await;
    kit.pass(100);
    for _ in 0..MAX_STEPS {
        if due_index(kit, &queue).await.is_none() {
            return;
        }
        assert_eq!(queue.lease().await, None, "all are settled");
    }
    panic!("a queue without entries stays listed");
}

/// `lease`: entries of concurrent posts are each leased once.
pub(crate) async fn no_racing_post_is_missed(kit: &mut Kit) {
    let queue = subscribed(kit, "q").await;
    let posters = start((0..4).map(|_| {
        let queue = queue.clone();
        async move {
            let mut firsts = Vec::new();
            for _ in 0..10 {
                firsts.push(queue.post(2).await[0]);
            }
            firsts
        }
    }));
    let mut leased = Vec::new();
    for _ in 0..20 {
        if let Some(entry) = queue.lease().await {
            assert_eq!(entry.messages.len(), 2, "an entry has all messages of its post");
            leased.push(entry.messages[0].id);
            queue.settle(entry.messages[0].id).await;
        }
        tokio::task::yield_now().await;
    }
    let mut posted = answers(posters).await.concat();
    while let Some(entry) = queue.lease().await {
        assert!(leased.len() < posted.len(), "an entry is leased once");
        leased.push(entry.messages[0].id);
        queue.settle(entry.messages[0].id).await;
    }
    posted.sort();
    leased.sort();
    assert_eq!(leased, posted);
}
