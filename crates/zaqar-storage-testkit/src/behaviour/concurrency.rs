//! Many concurrent tasks on one queue: every method "is one atomic step", [`zaqar_core::storage`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use zaqar_core::MessageId;
use zaqar_core::storage::{ClaimRequest, Deleted, Guarded, ListQuery};

use super::messages::LARGE;
use super::{answers, at_once, start};
use crate::kit::{Kit, generation, sweep};
use crate::queue::{CLIENT, Queue, batch, everything, ids, message, request, texts, visible};

/// Concurrent consumers, producers or readers.
const TASKS: usize = 4;

/// Rounds after which a consumer is considered to get the same messages again and again.
const MAX_ROUNDS: usize = 200;

/// Checks that the answers together contain each message once, and that each answer is in order.
fn check_shared_out(answers: Vec<Vec<MessageId>>, posted: &[MessageId]) {
    assert!(answers.iter().all(|answer| answer.is_sorted()), "each answer is in order");
    let mut all = answers.concat();
    all.sort();
    let count = all.len();
    all.dedup();
    assert_eq!(count, all.len(), "no message is in two answers");
    assert_eq!(all, posted, "every message is in one");
}

/// Claims until nothing is left; returns the messages of each claim.
async fn claim_all(queue: Queue, limit: usize) -> Vec<Vec<MessageId>> {
    let mut answers = Vec::new();
    for _ in 0..MAX_ROUNDS {
        let (_, taken) = queue.claim(limit).await;
        if taken.is_empty() {
            return answers;
        }
        answers.push(ids(&taken));
    }
    panic!("after {MAX_ROUNDS} rounds the queue is not empty");
}

/// Pops until nothing is left; returns the messages of each pop.
async fn pop_all(queue: Queue, limit: usize) -> Vec<Vec<MessageId>> {
    let mut answers = Vec::new();
    for _ in 0..MAX_ROUNDS {
        let taken = queue.pop(limit).await;
        if taken.is_empty() {
            return answers;
        }
        answers.push(ids(&taken));
    }
    panic!("after {MAX_ROUNDS} rounds the queue is not empty");
}

/// `claim`: "A message is held by at most one live claim", also with concurrent claims.
pub(crate) async fn concurrent_claims_are_disjoint(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let posted = queue.post(60).await;
    let answers = at_once((0..TASKS).map(|n| claim_all(queue.clone(), 2 + n))).await;
    check_shared_out(answers.concat(), &posted);
    assert_eq!(queue.stats().await.claimed, 60);
    assert!(queue.all().await.iter().all(|m| m.claim_count == 1), "each was claimed once");
}

/// `pop`: "A message is returned by at most one pop."
pub(crate) async fn concurrent_pops_are_disjoint(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let posted = queue.post(60).await;
    let answers = at_once((0..TASKS).map(|n| pop_all(queue.clone(), 2 + n))).await;
    check_shared_out(answers.concat(), &posted);
    assert_eq!(queue.ids().await, []);
}

/// `claim`, `pop`: a message is claimed or popped, not both.
pub(crate) async fn concurrent_claims_and_pops_are_disjoint(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let posted = queue.post(60).await;
    let consumers = (0..TASKS).map(|n| {
        let queue = queue.clone();
        async move { if n % 2 == 0 { claim_all(queue, 3).await } else { pop_all(queue, 3).await } }
    });
    check_shared_out(at_once(consumers).await.concat(), &posted);
}

/// `delete`: "If a delete without a claim races a claim, exactly one of them gets the message."
pub(crate) async fn a_claim_or_a_delete_gets_a_message(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let posted = queue.post(60).await;
    let claimers = start((0..TASKS).map(|_| claim_all(queue.clone(), 2)));
    let deleters = start((0..TASKS).map(|n| {
        let queue = queue.clone();
        let own: Vec<_> = posted.iter().copied().skip(n).step_by(TASKS).collect();
        async move {
            let mut deleted = Vec::new();
            for id in own {
                let answer = queue.delete(id, None).await;
                if answer == Deleted::Gone {
                    deleted.push(id);
                } else {
                    assert_eq!(answer, Deleted::Claimed);
                }
            }
            deleted
        }
    }));
    let mut taken = answers(claimers).await.concat();
    taken.extend(answers(deleters).await);
    check_shared_out(taken, &posted);
}

/// `claim`: each message of an expired claim is claimed by exactly one of the next claims.
pub(crate) async fn concurrent_claims_after_an_expired_one_are_disjoint(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let posted = queue.post(30).await;
    queue.claim(15).await;
    queue.claim(15).await;
    kit.pass(100);
    let answers = at_once((0..TASKS).map(|_| claim_all(queue.clone(), 4))).await;
    check_shared_out(answers.concat(), &posted);
    assert!(queue.all().await.iter().all(|m| m.claim_count == 2), "each was claimed twice");
}

/// `claim`: a message "leaves the queue and is appended to the dead-letter queue" once, also with
/// concurrent claims.
pub(crate) async fn concurrent_claims_move_each_dead_letter_once(kit: &mut Kit) {
    let (source, dead) = (kit.queue("source").await, kit.queue("dead").await);
    source.post(20).await;
    let (claim, _) = source.claim(20).await;
    source.release(claim).await;
    let fresh = source.post(8).await;
    let rule = dead.as_target(1, None);
    let claimers = (0..TASKS).map(|_| {
        let (source, rule) = (source.clone(), rule.clone());
        async move {
            let request = ClaimRequest { dead_letters: Some(rule), ..request(2) };
            ids(&source.claim_with(&request).await)
        }
    });
    check_shared_out(at_once(claimers).await, &fresh);
    let mut letters = texts(&dead.all().await);
    letters.sort_by_key(|text| text.parse::<u32>().ok());
    assert_eq!(letters, (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(source.ids().await, fresh);
}

/// Posts batches of three; text `b.n` is message `n` of this poster's batch `b`.
async fn post_batches(queue: Queue, poster: usize, batches: usize) -> Vec<MessageId> {
    let mut posted = Vec::new();
    for b in 0..batches {
        let texts = (0..3).map(|n| message(&format!("{poster} {b}.{n}"))).collect();
        let ids = queue.post_new(texts).await;
        assert!(posted.last() < ids.first(), "a poster's later batch comes after its earlier ones");
        posted.extend(ids);
    }
    posted
}

/// `post`: "consecutive positions after every message stored before", with many concurrent posters.
pub(crate) async fn concurrent_posts_keep_their_order(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let posters = (0..TASKS).map(|n| post_batches(queue.clone(), n, 8));
    let mut posted = at_once(posters).await.concat();
    posted.sort();
    let count = posted.len();
    posted.dedup();
    assert_eq!(posted.len(), count, "no position is assigned twice");
    let listed = queue.all().await;
    assert_eq!(ids(&listed), posted);
    for three in listed.chunks(3) {
        let first = &texts(three)[0];
        let batch = first.trim_end_matches(".0");
        let expected = [0, 1, 2].map(|n| format!("{batch}.{n}"));
        assert_eq!(texts(three), expected, "a batch is consecutive");
    }
}

/// `post`: "For a reader that follows `next`, no message ever appears before a position that it has
/// passed": it sees each message once, in order.
pub(crate) async fn readers_see_each_message_once(kit: &mut Kit) {
    const BATCHES: usize = 10;
    let queue = kit.queue("q").await;
    let posters = start((0..TASKS).map(|n| post_batches(queue.clone(), n, BATCHES)));
    let readers = (0..2).map(|n| {
        let queue = queue.clone();
        async move { read_until(&queue, TASKS * BATCHES * 3, 2 + 3 * n).await }
    });
    let seen = at_once(readers).await;
    answers(posters).await;
    let posted = queue.ids().await;
    for seen in seen {
        assert_eq!(seen, posted, "a reader sees each message once, in order");
    }
}

/// Follows `next` from the start of the queue until this many messages are seen.
async fn read_until(queue: &Queue, count: usize, limit: usize) -> Vec<MessageId> {
    let mut query = ListQuery { limit, ..everything() };
    let mut seen: Vec<MessageId> = Vec::new();
    // A reader that has missed a message never sees it: the posters end, and it stays at the end of
    // the queue.
    let mut idle = 0;
    while seen.len() < count && idle < 1000 {
        let page = queue.page(&query).await;
        idle = if page.messages.is_empty() { idle + 1 } else { 0 };
        seen.extend(ids(&page.messages));
        query.after = page.next.or(query.after);
        if page.messages.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }
    seen
}

/// Posts batches of four to one queue after another while `look` reads the current one and returns
/// how many messages it saw.
async fn check_whole_batches<L, F>(kit: &Kit, name: &str, look: L)
where
    L: Fn(Queue) -> F + Send + Sync + Copy + 'static,
    F: Future<Output = usize> + Send,
{
    for round in 0..4 {
        let queue = kit.queue(&format!("{name}{round}")).await;
        let is_done = Arc::new(AtomicBool::new(false));
        let lookers = (0..2).map(|_| {
            let (queue, is_done) = (queue.clone(), is_done.clone());
            async move {
                while !is_done.load(Ordering::Acquire) {
                    let count = look(queue.clone()).await;
                    assert_eq!(count % 4, 0, "whole batches of 4, or nothing of them");
                    tokio::task::yield_now().await;
                }
            }
        });
        let lookers = start(lookers);
        for _ in 0..5 {
            queue.post(4).await;
        }
        is_done.store(true, Ordering::Release);
        answers(lookers).await;
    }
}

/// `post`: "Readers see the whole batch or nothing of it", on a page and in the statistics.
pub(crate) async fn readers_see_whole_batches(kit: &mut Kit) {
    check_whole_batches(kit, "listed", |queue| async move {
        queue.page(&ListQuery { limit: 20, ..visible() }).await.messages.len()
    })
    .await;
    let counted = |queue: Queue| async move {
        usize::try_from(queue.stats().await.free).expect("a small count")
    };
    check_whole_batches(kit, "counted", counted).await;
}

/// `post`: "Readers see the whole batch or nothing of it": so do consumers.
pub(crate) async fn claims_and_pops_see_whole_batches(kit: &mut Kit) {
    let claimed = |queue: Queue| async move { queue.claim(100).await.1.len() };
    check_whole_batches(kit, "claimed", claimed).await;
    check_whole_batches(kit, "popped", |queue| async move { queue.pop(100).await.len() }).await;
}

/// `post`: "Readers see the whole batch or nothing of it", however many messages it has.
pub(crate) async fn readers_see_large_batches_whole(kit: &mut Kit) {
    const BATCHES: usize = 2;
    let queue = kit.queue("q").await;
    let is_done = Arc::new(AtomicBool::new(false));
    let lookers = (0..2).map(|n| {
        let (queue, is_done) = (queue.clone(), is_done.clone());
        async move {
            while !is_done.load(Ordering::Acquire) {
                let count = if n == 0 {
                    usize::try_from(queue.stats().await.free).expect("a small count")
                } else {
                    queue.page(&ListQuery { limit: 100 * LARGE, ..visible() }).await.messages.len()
                };
                assert_eq!(count % LARGE, 0, "whole batches, or nothing of them");
                tokio::task::yield_now().await;
            }
        }
    });
    let lookers = start(lookers);
    let mut posted = Vec::new();
    for _ in 0..BATCHES {
        posted.extend(queue.post(LARGE).await);
    }
    is_done.store(true, Ordering::Release);
    answers(lookers).await;
    assert_eq!(queue.ids().await, posted);
}

/// `post`: "consecutive positions after every message stored before", and "no message ever appears
/// before a position that" a reader "has passed", with large and small posts at once.
pub(crate) async fn large_batches_keep_their_order(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let large = (0..2).map(|_| {
        let queue = queue.clone();
        async move { vec![queue.post(LARGE).await] }
    });
    let small = (0..2).map(|n| {
        let queue = queue.clone();
        async move { vec![post_batches(queue, n, 8).await] }
    });
    let (large, small) = (start(large), start(small));
    let count = 2 * LARGE + 2 * 8 * 3;
    let seen = read_until(&queue, count, 50).await;
    let large = answers(large).await.concat();
    for batch in &large {
        let is_next = |two: &[MessageId]| two[0].position.next() == two[1].position;
        assert!(batch.windows(2).all(is_next), "a batch is consecutive");
    }
    let mut posted = large.concat();
    posted.extend(answers(small).await.concat().concat());
    posted.sort();
    assert_eq!(seen, posted, "a reader sees each message once, in order");
    assert_eq!(queue.ids().await, posted);
}

/// `close`: "from now on none of its messages … is found", also of a large post that races it.
pub(crate) async fn a_close_discards_a_racing_large_batch(kit: &mut Kit) {
    for round in 0..4 {
        let queue = kit.queue(&format!("q{round}")).await;
        let poster = queue.clone();
        let poster = start([async move {
            let messages = (0..LARGE).map(|n| message(&n.to_string())).collect();
            poster.try_post(poster.generation, batch(CLIENT, messages)).await
        }]);
        for _ in 0..4 * round {
            tokio::task::yield_now().await;
            queue.stats().await;
        }
        assert_eq!(queue.close().await, Guarded::Done(()));
        let next = kit.queue_at(queue.key.clone(), generation(1));
        assert_eq!(next.open().await, next.generation);
        for posted in answers(poster).await {
            match posted {
                Guarded::Done(posted) => assert_eq!(next.get(&posted[..9]).await, []),
                Guarded::Absent | Guarded::Stale(_) => {}
            }
        }
        kit.sweep().await;
        assert_eq!(next.ids().await, []);
        assert_eq!(next.claim(10).await.1, []);
    }
}

/// `purge`: a large post that races it is purged, or it comes later; either as a whole.
pub(crate) async fn a_purge_of_a_racing_large_batch_is_whole(kit: &mut Kit) {
    for round in 0..3 {
        let queue = kit.queue(&format!("q{round}")).await;
        let poster = queue.clone();
        let poster = start([async move { poster.post(LARGE).await }]);
        for _ in 0..4 * round {
            tokio::task::yield_now().await;
            queue.stats().await;
        }
        queue.purge().await;
        let posted = answers(poster).await.concat();
        kit.sweep().await;
        let left = queue.ids().await;
        assert!(left.is_empty() || left == posted, "{} are left", left.len());
        assert_eq!(queue.post(1).await, queue.ids().await[left.len()..], "after all others");
    }
}

/// `close`: "from now on none of its messages … is found", also with racing posts.
pub(crate) async fn a_close_discards_racing_posts(kit: &mut Kit) {
    for round in 0..5 {
        let queue = kit.queue(&format!("q{round}")).await;
        let posters = (0..TASKS).map(|_| {
            let queue = queue.clone();
            async move {
                let mut posted = Vec::new();
                for _ in 0..50 {
                    let messages = vec![message("a"), message("b")];
                    match queue.try_post(queue.generation, batch(CLIENT, messages)).await {
                        Guarded::Done(ids) => posted.extend(ids),
                        Guarded::Absent => return posted,
                        Guarded::Stale(other) => {
                            panic!("there is no other incarnation yet: {other:?}")
                        }
                    }
                }
                posted
            }
        });
        let posters = start(posters);
        queue.post(1).await;
        tokio::task::yield_now().await;
        assert_eq!(queue.close().await, Guarded::Done(()));
        let posted = answers(posters).await.concat();
        let next = kit.queue_at(queue.key.clone(), generation(1));
        assert_eq!(next.open().await, next.generation);
        kit.sweep().await;
        assert_eq!(next.ids().await, []);
        assert_eq!(next.get(&posted).await, []);
        assert_eq!(next.claim(10).await.1, []);
    }
}

/// A concurrent `sweep` does not change the answers of claims, pops and posts.
pub(crate) async fn a_sweep_does_not_disturb_claims(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let posted = queue.post(40).await;
    queue.claim(20).await;
    kit.pass(100);
    let is_done = Arc::new(AtomicBool::new(false));
    let (store, now, until) = (queue.store.clone(), kit.now(), is_done.clone());
    let sweeper = start([async move {
        while !until.load(Ordering::Acquire) {
            sweep(&*store, now, 3).await;
            tokio::task::yield_now().await;
        }
    }]);
    let taken = at_once((0..TASKS).map(|_| claim_all(queue.clone(), 3))).await;
    is_done.store(true, Ordering::Release);
    answers(sweeper).await;
    check_shared_out(taken.concat(), &posted);
    kit.sweep().await;
    assert_eq!(queue.stats().await.claimed, 40);
}
