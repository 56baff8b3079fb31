//! Posts in parts, step by step: each step is one transaction in which the writer is stopped.

use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Waker};

use zaqar_core::storage::{
    Batch, Claimed, Claims, Error, Guarded, Heads, LeaseRequest, Leases, ListQuery, Messages,
    NewSubscription, Outbox, OutboxEntry, Stats, Subscriptions, Upkeep, Volume,
};
use zaqar_core::{LeaseId, MessageId, Position, ProjectId, QueueKey, SubscriptionId, Timestamp};

use crate::fair_queue::{Bounds, FairQueue};
use crate::testing::{batch, generation, key, request, store, time};
use crate::{Embedded, Options};

/// Messages of one part, of a body of two bytes.
const PART: usize = super::PART.div_ceil(super::ROWS + 2);
/// Messages of a part that others wait for.
const STEP: usize = super::STEP.div_ceil(super::ROWS + 2);
/// Messages of a post in five parts.
const LARGE: usize = 4 * PART + 10;

type Waiting<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Starts a request; its writer is stopped, so there is no answer yet.
fn ask<T, F: Future<Output = T> + Send + 'static>(
    store: &Embedded,
    question: impl FnOnce(Embedded) -> F,
) -> Waiting<T> {
    let mut asked: Waiting<T> = Box::pin(question(store.clone()));
    assert!(answer(&mut asked).is_none(), "the writer is stopped");
    asked
}

fn answer<T>(asked: &mut Waiting<T>) -> Option<T> {
    match asked.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

/// Stops the writer in a transaction; [`Steps::next`] lets it continue to the next one.
struct Steps {
    store: Embedded,
    release: mpsc::SyncSender<()>,
    asked: Waiting<Result<(), Error>>,
}

impl Steps {
    fn new(store: &Embedded) -> Self {
        let (steps, entered) = Self::stop(store);
        entered.recv().unwrap();
        steps
    }

    fn stop(store: &Embedded) -> (Self, mpsc::Receiver<()>) {
        let (release, held) = mpsc::sync_channel(1);
        let (enter, entered) = mpsc::sync_channel(1);
        let asked = ask(store, |store| async move {
            let work = move |_: &mut super::WriterState<'_>| {
                enter.send(()).ok();
                held.recv().ok();
                Ok(())
            };
            store.write(work).await
        });
        (Self { store: store.clone(), release, asked }, entered)
    }

    /// Ends the transaction. The writer then executes waiting requests, at most one part of each
    /// project, and stops in another transaction.
    fn next(&mut self) {
        let (next, entered) = Self::stop(&self.store);
        self.release.send(()).unwrap();
        entered.recv().unwrap();
        let mut last = std::mem::replace(self, next);
        assert!(matches!(answer(&mut last.asked), Some(Ok(()))));
    }
}

type Posting = Waiting<Result<Guarded<Vec<MessageId>>, Error>>;

fn post(store: &Embedded, key: QueueKey, batch: Batch) -> Posting {
    ask(store, move |store| async move { store.post(&key, generation(), batch, time(0)).await })
}

fn posted(answer: Result<Guarded<Vec<MessageId>>, Error>) -> Vec<MessageId> {
    match answer.unwrap() {
        Guarded::Done(ids) => ids,
        Guarded::Absent | Guarded::Stale(_) => panic!("the queue is there"),
    }
}

async fn listed(store: &Embedded, name: &str, now: Timestamp) -> Vec<MessageId> {
    let query = ListQuery {
        after: None,
        limit: 100_000,
        hide: None,
        include_claimed: true,
        include_delayed: true,
    };
    let page = store.list(&key(name), &query, now).await.unwrap();
    page.messages.into_iter().map(|message| message.id).collect()
}

async fn stats(store: &Embedded, now: Timestamp) -> Stats {
    store.stats(&key("q"), now).await.unwrap().unwrap()
}

async fn opened() -> (Embedded, tempfile::TempDir) {
    let (store, directory) = store();
    store.open(&key("q"), generation(), time(0)).await.unwrap();
    (store, directory)
}

fn subscription() -> NewSubscription {
    NewSubscription {
        id: SubscriptionId::new(1),
        subscriber: "http://example.com".to_owned(),
        ttl: 3600,
        options: "{}".to_owned(),
        confirmed: true,
        lease: None,
    }
}

async fn subscribe(store: &Embedded) {
    store.subscribe(&key("q"), generation(), &subscription(), time(0)).await.unwrap();
}

/// Messages, visible or not, that committed transactions have written.
fn messages_in_file(directory: &Path) -> i64 {
    let conn = crate::schema::open_reader(directory).unwrap();
    conn.query_row("SELECT count(*) FROM messages", [], |row| row.get(0)).unwrap()
}

/// Rows of messages in all tables.
async fn rows(store: &Embedded) -> i64 {
    const COUNT: &str = "SELECT (SELECT count(*) FROM messages) + (SELECT count(*) FROM free) \
        + (SELECT count(*) FROM delayed) + (SELECT count(*) FROM expiry) \
        + (SELECT count(*) FROM outbox_messages) + (SELECT count(*) FROM outbox)";
    store.write(|state| state.conn.query_row(COUNT, [], |row| row.get(0))).await.unwrap()
}

#[tokio::test]
async fn transactions_of_a_large_post_are_bounded_in_rows() {
    let (store, _directory) = opened().await;
    subscribe(&store).await;
    let before = posted(store.post(&key("q"), generation(), batch(1, 60), time(0)).await);
    store.write(|state| Ok(std::mem::take(&mut state.transactions))).await.unwrap();
    let ids = posted(store.post(&key("q"), generation(), batch(LARGE, 60), time(0)).await);
    let after = posted(store.post(&key("q"), generation(), batch(1, 60), time(0)).await);
    let changed = store.write(|state| Ok(state.transactions.clone())).await.unwrap();
    // A message has rows in `messages`, `free`, `expiry` and `outbox_messages`; one transaction
    // writes up to 256 rows of `expiry` that have waited.
    let bound = 4 * PART as u64 + 256 + 20;
    assert!(changed.iter().all(|rows| *rows <= bound), "{changed:?}");
    assert_eq!(changed.iter().filter(|rows| **rows > bound / 2).count(), 4, "{changed:?}");
    assert_eq!(ids.len(), LARGE);
    assert!(ids.windows(2).all(|two| two[0].position.get() + 1 == two[1].position.get()));
    assert_eq!(listed(&store, "q", time(0)).await, [before, ids, after].concat());
    assert_eq!(stats(&store, time(0)).await.free, LARGE as u64 + 2);

    let mut sizes = Vec::new();
    while let Some(entry) = lease(&store).await {
        sizes.push(entry.messages.len());
        store.settle(&key("q"), generation().incarnation, &[entry.first]).await.unwrap();
    }
    assert_eq!(sizes, [1, PART, PART, PART, PART, 10, 1], "no entry is large either");
}

#[tokio::test]
async fn a_post_is_invisible_before_its_last_part_and_delays_others_by_one_step() {
    let (store, directory) = opened().await;
    let other = QueueKey { project: ProjectId::new("other").unwrap(), ..key("q") };
    store.open(&other, generation(), time(0)).await.unwrap();
    let mut steps = Steps::new(&store);
    let mut large = post(&store, key("q"), batch(LARGE, 60));
    let mut later = post(&store, key("q"), batch(1, 60));
    let mut claim = ask(&store, |store| async move {
        store.claim(&key("q"), generation(), &request(1, 60), time(0)).await
    });
    let (mut between, mut news) = (0, store.listen().unwrap());
    let (mut earlier, mut written) = (None, 0);
    let ids = loop {
        let others = post(&store, other.clone(), batch(1, 60));
        steps.next();
        let before = std::mem::replace(&mut written, messages_in_file(directory.path()));
        assert!(written - before <= STEP as i64 + 1, "{before} to {written}");
        // It is committed with what stops the writer, and acknowledged in the next step.
        if let Some(mut earlier) = earlier.replace(others) {
            posted(answer(&mut earlier).expect("another project waits for one step at most"));
            between += 1;
        }
        if let Some(ids) = answer(&mut large) {
            break posted(ids);
        }
        assert_eq!(listed(&store, "q", time(0)).await, []);
        assert_eq!(stats(&store, time(0)).await, Stats::default());
        let volume = store.volume().await.unwrap();
        assert_eq!(volume, Some(Volume { claimed: 0, free: between }));
        assert!(answer(&mut later).is_none() && answer(&mut claim).is_none(), "after the post");
    };
    assert!(between >= 5, "{between}");
    drop(steps);
    let later = posted(later.await);
    let Guarded::Done(Claimed::Messages { messages: claimed, .. }) = claim.await.unwrap() else {
        panic!()
    };
    let claimed: Vec<_> = claimed.into_iter().map(|message| message.id).collect();
    assert_eq!(claimed, ids[..claimed.len()]);
    assert_eq!(listed(&store, "q", time(0)).await, [ids, later].concat());
    let mut told = std::iter::from_fn(|| {
        let mut context = Context::from_waker(Waker::noop());
        match futures_core::Stream::poll_next(Pin::new(&mut news), &mut context) {
            Poll::Ready(posted) => posted,
            Poll::Pending => None,
        }
    });
    assert!(told.any(|posted| posted.key == key("q")));
}

/// Delays that end and messages that expire during the post are counted once.
#[tokio::test]
async fn a_slow_post_is_counted_correctly() {
    let (store, directory) = opened().await;
    let mut messages = batch(LARGE, 600);
    for (number, message) in messages.messages.iter_mut().enumerate() {
        message.delay = [0, 10, 100][number % 3];
        message.ttl = if number % 7 == 0 { 30 } else { 600 };
    }
    let mut steps = Steps::new(&store);
    let mut large = post(&store, key("q"), messages.clone());
    while messages_in_file(directory.path()) == 0 {
        steps.next();
    }
    let mut asked = Vec::new();
    let ids = loop {
        asked.push(ask(&store, |store| async move { store.sweep(time(40), 500).await }));
        steps.next();
        if let Some(ids) = answer(&mut large) {
            break posted(ids);
        }
    };
    drop(steps);
    for swept in asked {
        swept.await.unwrap();
    }
    zaqar_storage_testkit::sweep(&store, time(40), 500).await;
    let counts = stats(&store, time(40)).await;
    let of = |delays: &[u64]| {
        let live = |new: &&zaqar_core::storage::NewMessage| new.ttl == 600;
        let found = messages.messages.iter().filter(live).filter(|new| delays.contains(&new.delay));
        found.count() as u64
    };
    assert_eq!((counts.free, counts.delayed), (of(&[0, 10]), of(&[100])));
    let live = ids.iter().enumerate().filter(|(number, _)| number % 7 != 0).map(|(_, id)| *id);
    assert_eq!(listed(&store, "q", time(40)).await, live.collect::<Vec<_>>());
}

#[test]
fn a_post_in_parts_is_charged_as_a_whole_until_it_is_done() {
    let (caller, _answer) = tokio::sync::oneshot::channel();
    let jobs = Arc::new(FairQueue::new(Bounds { items: 1, bytes: 1 }));
    let mut post = super::PostInParts::new(key("q"), generation(), batch(LARGE, 60), jobs, caller);
    let whole = super::occupied(&batch(LARGE, 60).messages);
    let step = super::cost(&batch(STEP, 60).messages);
    let costs = |post: &super::PostInParts| (post.cost().bytes, post.cost().turn);
    assert_eq!(costs(&post), (whole, step));
    let subscribed_until = super::SubscribedUntil { address: 0, lease: 0 };
    post.written =
        Some(super::Written { number: 1, first: 1, count: 4 * PART, created: 1, subscribed_until });
    assert_eq!(costs(&post), (whole, super::cost(&batch(10, 60).messages)));
}

/// During the post subscriptions may expire, and so may the time for which its messages can be
/// followed.
#[tokio::test]
async fn a_slow_post_notifies_the_subscribers_at_its_end() {
    let (store, directory) = opened().await;
    let lease = LeaseId::new(1);
    store.keep_lease(lease, time(20_000), time(0)).await.unwrap();
    subscribe(&store).await;
    let connection = NewSubscription {
        id: SubscriptionId::new(2),
        subscriber: "connection".to_owned(),
        ttl: 20_000,
        lease: Some(lease),
        ..subscription()
    };
    store.subscribe(&key("q"), generation(), &connection, time(0)).await.unwrap();
    let mut steps = Steps::new(&store);
    let mut large = post(&store, key("q"), batch(LARGE, 10_000));
    while messages_in_file(directory.path()) == 0 {
        steps.next();
    }
    let now = time(4000);
    let swept = ask(&store, |store| async move { store.sweep(time(4000), 500).await });
    while answer(&mut large).is_none() {
        steps.next();
    }
    drop(steps);
    swept.await.unwrap();
    assert_eq!(store.due_queues(10, now).await.unwrap(), [], "its subscription has expired");
    let incarnation = generation().incarnation;
    let entries = store.follow(&key("q"), incarnation, Position::new(0), 10, now).await.unwrap();
    assert_eq!(entries.len(), 5, "the connection is still subscribed");
    zaqar_storage_testkit::sweep(&store, time(5000), 500).await;
    let outbox = |state: &mut super::WriterState<'_>| {
        state.conn.query_row("SELECT count(*) FROM outbox_messages", [], |row| row.get::<_, i64>(0))
    };
    assert_eq!(store.write(outbox).await.unwrap(), 0);
}

fn copy_as_if_killed(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for name in ["zaqar.db", "zaqar.db-wal"] {
        std::fs::copy(from.join(name), to.path().join(name)).unwrap();
    }
    to
}

#[tokio::test]
async fn the_parts_of_a_post_that_a_killed_process_left_stay_invisible_and_are_removed() {
    let (store, directory) = opened().await;
    subscribe(&store).await;
    let mut steps = Steps::new(&store);
    let large = post(&store, key("q"), batch(LARGE, 60));
    while messages_in_file(directory.path()) == 0 {
        steps.next();
    }
    assert_eq!(messages_in_file(directory.path()), STEP as i64, "the next step waits");
    for (name, large_first) in [("swept", false), ("posted to", true)] {
        let copy = copy_as_if_killed(directory.path());
        let store = Embedded::open(Options::new(copy.path())).unwrap();
        assert_eq!(listed(&store, "q", time(0)).await, [], "{name}");
        let small = posted(store.post(&key("q"), generation(), batch(1, 60), time(0)).await);
        let mut expected = small;
        if large_first {
            let post = store.post(&key("q"), generation(), batch(LARGE, 60), time(0)).await;
            expected.extend(posted(post));
        }
        assert_eq!(listed(&store, "q", time(0)).await, expected);
        zaqar_storage_testkit::sweep(&store, time(0), 500).await;
        assert_eq!(listed(&store, "q", time(0)).await, expected);
        assert_eq!(stats(&store, time(0)).await.free, expected.len() as u64);
        while lease(&store).await.is_some() {}
        store.purge(&key("q"), time(0)).await.unwrap();
        store.close(&key("q"), generation().incarnation).await.unwrap();
        zaqar_storage_testkit::sweep(&store, time(0), 500).await;
        assert_eq!(rows(&store).await, 0, "{name}");
    }
    drop((steps, large));
}

/// The parts that were written before are removed by the sweep, also after a purge.
#[tokio::test]
async fn a_post_that_fails_in_a_later_part_is_never_visible() {
    let (store, _directory) = opened().await;
    subscribe(&store).await;
    for purges in [false, true] {
        let last = store.write(|state| Ok(state.last_position().get())).await.unwrap();
        let fails = format!(
            "CREATE TRIGGER fails BEFORE INSERT ON free WHEN (SELECT count(*) FROM free) > {} \
             BEGIN SELECT RAISE(ABORT, 'no more'); END",
            2 * PART + 5
        );
        store.write(move |state| state.conn.execute_batch(&fails)).await.unwrap();
        store.post(&key("q"), generation(), batch(LARGE, 60), time(0)).await.unwrap_err();
        assert!(rows(&store).await >= 2 * PART as i64);
        assert_eq!(listed(&store, "q", time(0)).await, []);
        assert_eq!(stats(&store, time(0)).await, Stats::default());
        store.write(|state| state.conn.execute_batch("DROP TRIGGER fails")).await.unwrap();
        store.write(|state| Ok(std::mem::take(&mut state.transactions))).await.unwrap();
        if purges {
            store.purge(&key("q"), time(0)).await.unwrap();
            let changed = store.write(|state| Ok(state.transactions.clone())).await.unwrap();
            assert!(
                changed.iter().all(|rows| *rows < 50),
                "the sweep removes the parts: {changed:?}"
            );
        }
        zaqar_storage_testkit::sweep(&store, time(0), 500).await;
        assert_eq!(rows(&store).await, 0);
        let next = posted(store.post(&key("q"), generation(), batch(1, 60), time(0)).await);
        assert!(next[0].position.get() > last);
        assert_eq!(listed(&store, "q", time(0)).await, next);
        store.delete(&key("q"), next[0], None, time(0)).await.unwrap();
        let settled = lease(&store).await.unwrap();
        store.settle(&key("q"), generation().incarnation, &[settled.first]).await.unwrap();
        zaqar_storage_testkit::sweep(&store, time(0), 500).await;
    }
}

async fn lease(store: &Embedded) -> Option<OutboxEntry> {
    let request = LeaseRequest { until: time(30), limit: 1, bytes: usize::MAX };
    store.lease(&key("q"), &request, time(0)).await.unwrap().pop()
}

/// Queues with hidden messages.
async fn hiding(store: &Embedded) -> i64 {
    const COUNT: &str = "SELECT count(*) FROM heads WHERE hidden_from IS NOT NULL";
    store.write(|state| state.conn.query_row(COUNT, [], |row| row.get(0))).await.unwrap()
}

async fn execute(store: &Embedded, sql: &'static str) {
    store.write(move |state| state.conn.execute_batch(sql)).await.unwrap();
}

/// Damaged leftovers of one queue block neither the other queue nor later posts.
#[tokio::test]
async fn leftovers_that_cannot_be_removed_block_no_others() {
    const BODY: &str = "CREATE TRIGGER stays BEFORE DELETE ON messages \
        BEGIN SELECT RAISE(ABORT, 'damaged'); END";
    const ROW: &str = "CREATE TRIGGER stays BEFORE DELETE ON free \
        WHEN old.position = (SELECT min(hidden_from) FROM heads) \
        BEGIN SELECT RAISE(ABORT, 'damaged'); END";
    for (stays, sweeps, left) in [(BODY, true, 0), (BODY, false, 1), (ROW, true, 1)] {
        let (store, _directory) = opened().await;
        store.open(&key("r"), generation(), time(0)).await.unwrap();
        let mut all = posted(store.post(&key("q"), generation(), batch(1, 60), time(0)).await);
        let fails = "CREATE TRIGGER fails BEFORE INSERT ON free \
            WHEN (SELECT count(*) FROM free WHERE number = new.number) > 600 \
            BEGIN SELECT RAISE(ABORT, 'no more'); END";
        execute(&store, fails).await;
        for name in ["q", "r"] {
            let post = store.post(&key(name), generation(), batch(LARGE, 60), time(0)).await;
            post.unwrap_err();
        }
        execute(&store, "DROP TRIGGER fails").await;
        execute(&store, stays).await;
        assert_eq!(hiding(&store).await, 2);
        if sweeps {
            zaqar_storage_testkit::sweep(&store, time(0), 500).await;
        } else {
            let post = store.post(&key("q"), generation(), batch(LARGE, 60), time(0)).await;
            all.extend(posted(post));
        }
        assert_eq!(hiding(&store).await, left, "{stays}, {sweeps}");
        posted(store.post(&key("r"), generation(), batch(LARGE, 60), time(0)).await);
        // Hidden messages have positions between the visible ones.
        all.extend(posted(store.post(&key("q"), generation(), batch(1, 60), time(0)).await));
        assert_eq!(listed(&store, "q", time(0)).await, all);
        let ends = stats(&store, time(0)).await.ends.unwrap();
        assert_eq!([ends.0.id, ends.1.id], [all[0], all[all.len() - 1]]);
        let claim = store.claim(&key("q"), generation(), &request(1, 60), time(0)).await.unwrap();
        let Guarded::Done(Claimed::Messages { messages: claimed, .. }) = claim else { panic!() };
        assert_eq!(claimed.len(), all.len().min(1000));
    }
}
