//! Health checks, sweeps and shutdown: lines of [`zaqar_core::storage::Upkeep`].

use serde_json::json;
use zaqar_core::storage::{
    Claims, Deleted, Error, Heads, LeaseRequest, Messages, NewMessage, PopQuery, Queues,
    RecipientQuery, Stats, SubscriptionChange, Swept,
};
use zaqar_core::{Kind, Timestamp};

use super::messages::{with_delay, with_ttl};
use super::queues::row;
use crate::kit::{Kit, sweep};
use crate::queue::{batch, everything, message, request};
use crate::subscriber::subscription;

/// `ping`: "`Ok` only if the store would serve an operation now."
pub(crate) async fn ping_answers(kit: &mut Kit) {
    kit.store().ping().await.expect("the message store answers");
    kit.rows().ping().await.expect("the management store answers");
    kit.shut_down().await;
    assert!(kit.store().ping().await.is_err(), "it is shut down");
    assert!(kit.rows().ping().await.is_err(), "it is shut down");
}

/// `shut_down`: "rejects new ones with `Error::Closed`".
pub(crate) async fn a_store_that_is_shut_down_rejects_calls(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let id = queue.post(1).await[0];
    let row = row(json!({}));
    kit.shut_down().await;
    let (rows, store, key, now) = (kit.rows(), kit.store(), &queue.key, kit.now());
    let (generation, id_of_claim) = (queue.generation, request(1).id);
    let batch = batch("c", vec![message("late")]);
    let (subscriber, change) = (subscription(1, "http://a"), SubscriptionChange::default());
    let (lease, first) = (kit.lease(1), id.position);
    let entries = LeaseRequest { until: now, limit: 1, bytes: 1 };
    let claims = [id_of_claim];
    let pop = PopQuery { limit: 1, after: None, keys: Vec::new() };
    let recipients = RecipientQuery { after: None, limit: 1, confirmed_only: false };
    // Without an answer it is a store that never counts.
    let volume = store.volume().await.and_then(|volume| volume.ok_or(Error::Closed));
    for (method, error) in [
        ("create", rows.create(key, &row).await.err()),
        ("get row", Queues::get(rows, key).await.err()),
        ("replace", rows.replace(key, generation, &row).await.err()),
        ("remove", rows.remove(key, generation.incarnation).await.err()),
        ("list rows", Queues::list(rows, &key.project, Kind::Queue, None, 1).await.err()),
        ("count", rows.count(&key.project, Kind::Queue).await.err()),
        ("open", Heads::open(store, key, generation, now).await.err()),
        ("generation", store.generation(key).await.err()),
        ("advance", store.advance(key, generation).await.err()),
        ("close", Heads::close(store, key, generation.incarnation).await.err()),
        ("post", store.post(key, generation, batch, now).await.err()),
        ("list", Messages::list(store, key, &everything(), now).await.err()),
        ("get", Messages::get(store, key, &[id], now).await.err()),
        ("delete", store.delete(key, id, None, now).await.err()),
        ("pop", store.pop(key, &pop, now).await.err()),
        ("purge", store.purge(key, now).await.err()),
        ("stats", store.stats(key, now).await.err()),
        ("claim", Claims::claim(store, key, generation, &request(1), now).await.err()),
        ("claim_each", store.claim_each(key, generation, &claims, 60, now).await.err()),
        ("claim_get", store.claim_get(key, id_of_claim, now).await.err()),
        ("claim_renew", store.claim_renew(key, id_of_claim, 60, 60, now).await.err()),
        ("claim_release", store.claim_release(key, id_of_claim, now).await.err()),
        ("volume", volume.err()),
        ("subscribe", store.subscribe(key, generation, &subscriber, now).await.err()),
        ("subscription", store.subscription(key, subscriber.id, now).await.err()),
        ("subscriptions", store.subscriptions(key, None, 1, now).await.err()),
        ("leased", store.leased_subscriptions(key, lease, None, 1, now).await.err()),
        ("recipients", store.recipients(key, &recipients, now).await.err()),
        ("follow", store.follow(key, generation.incarnation, first, 1, now).await.err()),
        ("keep_lease", store.keep_lease(lease, now, now).await.err()),
        ("end_lease", store.end_lease(lease, now).await.err()),
        ("change", store.change_subscription(key, subscriber.id, &change, now).await.err()),
        ("unsubscribe", store.unsubscribe(key, subscriber.id, now).await.err()),
        ("unsubscribe_all", store.unsubscribe_all(key, now).await.err()),
        ("due_queues", store.due_queues(1, now).await.err()),
        ("lease", store.lease(key, &entries, now).await.err()),
        ("settle", store.settle(key, generation.incarnation, &[id.position]).await.err()),
        ("news", store.news().await.err()),
        ("sweep", store.sweep(now, 10).await.err()),
    ] {
        assert!(matches!(error, Some(Error::Closed)), "{method} after shutdown: {error:?}");
    }
}

/// `shut_down`: "A second call does nothing."
pub(crate) async fn shutting_down_twice_is_harmless(kit: &mut Kit) {
    kit.shut_down().await;
    kit.shut_down().await;
}

/// Fills a queue with messages in every state: 30 with a ttl of 60 s, 10 of them claimed for 100 s
/// and so extended to 160 s, 10 delayed by 30 s, and 5 long-lived ones.
async fn fill(kit: &Kit, name: &str) -> crate::queue::Queue {
    let queue = kit.queue(name).await;
    queue.post_new((0..30).map(|_| with_ttl(60)).collect()).await;
    queue.claim(10).await;
    queue.post_new((0..10).map(|_| NewMessage { ttl: 60, ..with_delay(30) }).collect()).await;
    queue.post(5).await;
    queue
}

/// `sweep`: "Repeated until `more` is false, it leaves nothing that is due", whatever the budget.
pub(crate) async fn repeated_sweeps_end_and_leave_nothing(kit: &mut Kit) {
    for budget in [1, 7, 1000] {
        let queue = fill(kit, &format!("q{budget}")).await;
        for (secs, stats) in
            [(30, (35, 10, 0)), (30, (5, 10, 0)), (40, (15, 0, 0)), (60, (5, 0, 0))]
        {
            kit.pass(secs);
            sweep(kit.store(), kit.now(), budget).await;
            let swept = kit.store().sweep(kit.now(), budget).await.expect("the store sweeps");
            assert_eq!(swept, Swept::default(), "nothing is left, budget {budget}");
            let Stats { free, claimed, delayed, .. } = queue.stats().await;
            assert_eq!((free, claimed, delayed), stats, "after {secs} more seconds");
        }
        queue.purge().await;
        queue.post_new((0..20).map(|_| with_ttl(60)).collect()).await;
        queue.close().await;
        sweep(kit.store(), kit.now(), budget).await;
        let swept = kit.store().sweep(kit.now(), budget).await.expect("the store sweeps");
        assert_eq!(swept, Swept::default(), "nothing of a closed queue is left");
    }
}

/// `sweep`: "The sweeps of all servers together report each message that expired once", whatever
/// finds it first.
pub(crate) async fn sweeps_count_messages_that_expired(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let internal = kit.open(kit.key_of(Kind::Internal, "q")).await;
    let expired = || async {
        let mut expired = 0;
        for _ in 0..100 {
            let swept = kit.store().sweep(kit.now(), 5).await.expect("the store sweeps");
            expired += swept.expired;
            if !swept.more {
                break;
            }
        }
        expired
    };
    // What other tests have left in a store that they share.
    sweep(kit.store(), kit.now(), 1000).await;
    for (ttl, uses) in [(60, false), (60, true)] {
        for queue in [&queue, &internal] {
            queue.post_new((0..12).map(|_| with_ttl(ttl)).collect()).await;
            queue.claim(2).await;
            queue.post(1).await;
            let deleted = queue.post_new(vec![with_ttl(ttl)]).await[0];
            queue.delete(deleted, None).await;
        }
        assert_eq!(expired().await, 0);
        kit.pass(60);
        if uses {
            queue.stats().await;
            assert_eq!(queue.pop(3).await.len(), 1, "the rest has expired");
            queue.claim(1).await;
        }
        assert_eq!(expired().await, 10, "two are claimed for longer");
        kit.pass(100);
        assert_eq!(expired().await, 2);
        assert_eq!(expired().await, 0);
        for queue in [&queue, &internal] {
            queue.pop(5).await;
        }
    }
}

/// `sweep`: "Examines about `budget` rows at most".
pub(crate) async fn a_sweep_is_bounded(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    queue.post_new((0..500).map(|_| with_ttl(60)).collect()).await;
    kit.pass(60);
    let swept = kit.store().sweep(kit.now(), 10).await.expect("the store sweeps");
    assert!(swept.done <= 100, "a budget of 10 is about 10 rows, not {}", swept.done);
    assert!(swept.more || swept.done == 0, "500 rows are due");
    kit.sweep().await;
    assert_eq!(queue.stats().await, Stats::default());
}

/// `sweep`: "Removes what has expired …, frees the messages of expired claims, and makes delayed
/// messages available, as of `now`", and nothing else.
pub(crate) async fn a_sweep_keeps_what_is_not_due(kit: &mut Kit) {
    let queue = fill(kit, "q").await;
    let (claim, _) = queue.claim(3).await;
    for (secs, live) in [(0, 45), (29, 45), (1, 45), (29, 45), (1, 18), (39, 18)] {
        kit.pass(secs);
        let (all, shown) = (queue.all().await, queue.shown().await);
        let held = queue.claim_get(claim).await;
        assert_eq!(all.len(), live, "after {secs} more seconds");
        kit.sweep().await;
        assert_eq!(queue.all().await, all);
        assert_eq!(queue.shown().await, shown);
        assert_eq!(queue.claim_get(claim).await, held);
        assert_eq!(queue.head().await, Some(queue.generation));
    }
    let past = Timestamp::from_millis(0);
    let swept = kit.store().sweep(past, 100).await.expect("the store sweeps");
    assert_eq!(swept, Swept::default(), "nothing was due in 1970");
}

/// `sweep`: removes what "was purged or was closed", and keeps later messages and those of other
/// queues.
pub(crate) async fn a_sweep_after_purge_and_close_keeps_the_rest(kit: &mut Kit) {
    let (purged, closed, beside) =
        (fill(kit, "purged").await, fill(kit, "closed").await, fill(kit, "beside").await);
    purged.purge().await;
    let later = purged.post(5).await;
    let (claim, _) = purged.claim(2).await;
    closed.close().await;
    let reopened = kit.open(closed.key.clone()).await;
    let new = reopened.post(5).await;
    let untouched = beside.all().await;
    kit.sweep().await;
    assert_eq!(purged.ids().await, later);
    assert_eq!(purged.claim_get(claim).await.expect("the claim is live").messages.len(), 2);
    assert_eq!(reopened.shown().await, new);
    assert_eq!(beside.all().await, untouched);
    for (queue, free, claimed) in [(&purged, 3, 2), (&reopened, 5, 0), (&beside, 25, 10)] {
        let stats = queue.stats().await;
        assert_eq!((stats.free, stats.claimed), (free, claimed), "{}", queue.key);
    }
}

/// `sweep` of a management store: repeated sweeps end, and rows do not expire.
pub(crate) async fn management_sweeps_end(kit: &mut Kit) {
    let (key, row) = (kit.key("q"), row(json!({"a": 1})));
    kit.rows().create(&key, &row).await.expect("create answers");
    for _ in 0..2 {
        kit.pass(100_000_000);
        sweep(kit.rows(), kit.now(), 10).await;
        assert_eq!(Queues::get(kit.rows(), &key).await.expect("get answers").as_ref(), Some(&row));
    }
}

/// `post`, `claim`: messages expire at their own times, whatever the lives of those beside them;
/// those that a claim has extended, later.
pub(crate) async fn messages_of_mixed_lives_expire_in_time(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let (mut all, mut ends, mut at) = (Vec::new(), Vec::new(), 0);
    for ttl in [60, 60, 200, 60, 90, 60].into_iter().cycle().take(24) {
        let new = if at % 5 == 4 { NewMessage { ttl, ..with_delay(30) } } else { with_ttl(ttl) };
        all.push(queue.post_one(new).await);
        ends.push(at + ttl);
        kit.pass(1);
        at += 1;
    }
    // Extended to 60 s after the claim's end.
    let (claim, held) = queue.claim(3).await;
    for (end, id) in ends.iter_mut().zip(&all) {
        if held.iter().any(|held| held.id == *id) {
            *end = (*end).max(at + 160);
        }
    }
    let mut claim = Some(claim);
    // One of each end and one within is gone before its time.
    for gone in [5, 12, 23] {
        assert_eq!(queue.delete(all[gone], None).await, Deleted::Gone);
        ends[gone] = 0;
    }
    let mut times = ends.clone();
    times.sort_unstable();
    times.dedup();
    let posted_by = at;
    for end in times.into_iter().filter(|end| *end > posted_by) {
        for (secs, is_swept) in [(end - at - 1, false), (1, end % 3 == 0)] {
            kit.pass(secs);
            at += secs;
            if at >= 62
                && let Some(claim) = claim.take()
            {
                assert_eq!(queue.release(claim).await, 3);
            }
            let live = all.iter().zip(&ends).filter(|(_, end)| **end > at);
            let live: Vec<_> = live.map(|(id, _)| *id).collect();
            assert_eq!(queue.ids().await, live, "after {at} seconds");
            let found: Vec<_> = queue.get(&all).await.iter().map(|message| message.id).collect();
            assert_eq!(found, live, "after {at} seconds");
            if is_swept {
                kit.sweep().await;
                let Stats { free, claimed, delayed, .. } = queue.stats().await;
                assert_eq!(free + claimed + delayed, live.len() as u64, "after {at} seconds");
                assert_eq!(queue.ids().await, live, "after {at} seconds and a sweep");
            }
        }
    }
    assert_eq!(queue.ids().await, []);
    // What comes later is not mistaken for them.
    let next = queue.post_one(with_ttl(60)).await;
    kit.pass(59);
    assert_eq!(queue.ids().await, [next]);
    kit.pass(1);
    kit.sweep().await;
    assert_eq!(queue.stats().await, Stats::default());
}
