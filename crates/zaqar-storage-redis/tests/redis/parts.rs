//! Large posts, which are sent in parts: see `parts` in the crate.

use std::future::Future;
use std::pin::Pin;

use tokio::task::JoinHandle;
use zaqar_core::storage::{
    ContentsMark, Error, Guarded, Heads, LeaseRequest, ListQuery, Messages, MoveId, Moves,
    NewMessage, NewSubscription, Outbox, PopQuery, QueueRow, Subscriptions,
};
use zaqar_core::{
    Generation, Kind, MessageId, Metadata, Position, ProjectId, QueueKey, QueueName,
    SubscriptionId, Version, storage,
};
use zaqar_storage_redis::Redis;

use crate::gate::Gate;
use crate::servers::Server;
use crate::support::{Queue, generation, head, message, now, open, options, rand, texts};

/// Messages of three parts.
const THREE_PARTS: usize = 350;
/// Messages that one script handles at most.
const PART: usize = 128;
/// Messages of one slice of a page at most.
const SLICE: usize = 500;
/// Bytes of one request at most: of a part, its last message and the encoding.
const REQUEST: usize = (256 << 10) + (32 << 10);

fn many(count: usize) -> Vec<NewMessage> {
    (0..count).map(|n| message(&n.to_string())).collect()
}

/// A lease of so many entries, past all that a test does.
fn lease(limit: usize) -> LeaseRequest {
    LeaseRequest { until: now().plus_secs(600), limit, bytes: usize::MAX }
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|n| n.to_string()).collect()
}

type Posting = JoinHandle<Result<Vec<MessageId>, Error>>;

/// A server, a store that reaches it through a gate, and one that reaches it directly.
struct World {
    server: Server,
    gate: Gate,
    gated: Redis,
    direct: Redis,
}

impl World {
    async fn new() -> Self {
        let server = Server::start(&[]);
        let direct = open(options(&server.uri())).await;
        let gate = Gate::to(server.port).await;
        let gated = open(options(&gate.uri())).await;
        Self { server, gate, gated, direct }
    }

    async fn renew_gate(&mut self) {
        self.gate = Gate::to(self.server.port).await;
        self.gated = open(options(&self.gate.uri())).await;
    }

    async fn queue(&self) -> Queue {
        Queue::new(&self.direct, "q").await
    }

    /// Starts a post through the gate.
    fn post(&self, queue: &Queue, messages: Vec<NewMessage>) -> Posting {
        let queue = queue.by(&self.gated);
        tokio::spawn(async move { queue.try_post_new(messages).await })
    }

    /// Lets the next call of a post pass; `false` once the post is finished.
    async fn step(&self, posting: &Posting, before: impl Future<Output = ()>) -> bool {
        if !self.is_waiting(posting).await {
            return false;
        }
        before.await;
        self.gate.allow_one();
        true
    }

    /// Waits until a call of the post waits; `false` once the post is finished.
    async fn is_waiting(&self, posting: &Posting) -> bool {
        tokio::select! {
            biased;
            () = self.gate.until_waiting() => true,
            () = async { while !posting.is_finished() { tokio::task::yield_now().await } } => false,
        }
    }

    fn key_of(&self, queue: &Queue, end: &str) -> String {
        let head = head(queue);
        format!("{}{end}", &head[..head.len() - 1])
    }

    fn number(&self, command: &[&str]) -> usize {
        self.server.cli(command).parse().unwrap_or(0)
    }

    /// How many records the queue has.
    fn stored(&self, queue: &Queue) -> usize {
        let chunks = self.server.cli(&["--scan", "--pattern", &self.key_of(queue, "b:*")]);
        let chunks = chunks.lines().filter(|key| !key.is_empty());
        chunks.map(|key| self.number(&["HLEN", key])).sum()
    }

    fn has_committed(&self, queue: &Queue) -> bool {
        self.number(&["HGET", &head(queue), "p"]) > 0
    }
}

/// A post of 20 000 messages: no call has more than a part, and another tenant's post is served
/// before each of them.
#[tokio::test(flavor = "multi_thread")]
async fn others_are_served_between_the_parts_of_a_large_post() {
    let world = World::new().await;
    let (queue, other) = (world.queue().await, world.queue().await);
    let posting = world.post(&queue, many(20_000));
    let (mut stored, mut steps) = (0, 0);
    while world
        .step(&posting, async {
            // The next call waits, so the one before has been executed.
            let before = std::mem::replace(&mut stored, world.stored(&queue));
            assert!(stored <= before + PART, "{} messages in one call", stored - before);
            other.post(&["between"]).await;
        })
        .await
    {
        steps += 1;
    }
    assert_eq!(posting.await.expect("it ends").expect("it is stored").len(), 20_000);
    assert!(steps >= 2 * 20_000 / PART, "{steps} calls");
    assert_eq!(other.all().await.len(), steps, "a post before each call");
    for call in world.gate.calls() {
        assert!(call.request <= REQUEST, "{call:?}");
    }
    assert_eq!(queue.texts().await, numbers(20_000));
}

/// Readers see nothing of it before the commit, and all of it afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_post_appears_at_once() {
    let world = World::new().await;
    let queue = world.queue().await;
    let posting = world.post(&queue, many(THREE_PARTS));
    let mut counts = Vec::new();
    loop {
        let seen = async {
            let stats = world.direct.stats(&queue.key, now()).await;
            let free = stats.expect("it answers").expect("there is a head").free;
            assert_eq!(queue.all().await.len() as u64, free);
            counts.push(free);
        };
        if !world.step(&posting, seen).await {
            break;
        }
    }
    let posted = posting.await.expect("it ends").expect("it is stored");
    let whole = THREE_PARTS as u64;
    assert!(counts.iter().all(|free| [0, whole].contains(free)), "{counts:?}");
    assert!(counts.is_sorted() && counts.contains(&0) && counts.contains(&whole), "{counts:?}");
    let all = queue.all().await;
    assert_eq!(all.iter().map(|message| message.id).collect::<Vec<_>>(), posted);
    assert!(posted.windows(2).all(|two| two[0].position.next() == two[1].position));
    assert_eq!(texts(&all), numbers(THREE_PARTS));
}

type Check =
    for<'a> fn(&'a World, &'a Queue, usize) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

macro_rules! checks {
    ($($name:literal: |$world:ident, $queue:ident, $count:ident| $check:expr;)*) => {
        &[$(($name, |$world, $queue, $count| Box::pin(async move { $check; }))),*]
    };
}

/// What is done to a queue after the server that posted `count` messages, or none, has died.
const CHECKS: &[(&str, Check)] = checks! {
    "list": |_world, queue, count| assert_eq!(queue.texts().await, numbers(count));
    "list of free ones": |world, queue, count| {
        let (include_claimed, include_delayed) = (false, false);
        let query =
            ListQuery { after: None, limit: 9, hide: None, include_claimed, include_delayed };
        let page = Messages::list(&world.direct, &queue.key, &query, now()).await;
        assert_eq!(page.expect("it answers").messages.len(), count.min(9));
    };
    "stats": |world, queue, count| {
        let stats = world.direct.stats(&queue.key, now()).await;
        let stats = stats.expect("it answers").expect("there is a head");
        assert_eq!((stats.free, stats.ends.is_some()), (count as u64, count > 0));
    };
    "volume": |world, queue, count| {
        let before = world.direct.volume().await.expect("it answers").expect("it counts").free;
        world.direct.purge(&queue.key, now()).await.expect("it answers");
        let after = world.direct.volume().await.expect("it answers").expect("it counts").free;
        assert_eq!(before - after, count as u64);
    };
    "claim": |_world, queue, count| assert_eq!(queue.claim(7).await.len(), count.min(7));
    "post and claim": |_world, queue, count| {
        queue.post(&["later"]).await;
        let all = texts(&queue.claim(count + 1).await);
        assert_eq!(all[..count], numbers(count));
        assert_eq!(all[count..], ["later"]);
    };
    "pop": |world, queue, count| {
        let query = PopQuery { limit: 7, after: None, keys: Vec::new() };
        let page = world.direct.pop(&queue.key, &query, now()).await.expect("it answers");
        assert_eq!(page.messages.len(), count.min(7));
        assert_eq!(queue.all().await.len(), count - count.min(7));
    };
    "get and delete": |world, queue, count| {
        let last = world.number(&["HGET", &head(queue), "p"]) as u64;
        let position = Position::new(last);
        let id = MessageId { incarnation: queue.generation.incarnation, position };
        let found = world.direct.get(&queue.key, &[id], now()).await.expect("it answers");
        assert_eq!(found.len(), count.min(1));
        world.direct.delete(&queue.key, id, None, now()).await.expect("it answers");
        assert_eq!(queue.all().await.len(), count - count.min(1));
    };
    "delete": |world, queue, count| {
        let last = world.number(&["HGET", &head(queue), "p"]) as u64;
        let position = Position::new(last);
        let id = MessageId { incarnation: queue.generation.incarnation, position };
        world.direct.delete(&queue.key, id, None, now()).await.expect("it answers");
        assert_eq!(queue.all().await.len(), count - count.min(1));
    };
    "follow and lease": |world, queue, count| {
        let incarnation = queue.generation.incarnation;
        let (store, key) = (&world.direct, &queue.key);
        let due = store.due_queues(1000, now().plus_secs(60)).await.expect("it answers");
        assert_eq!(due.iter().any(|due| due.queue == *key), count > 0);
        let lease = lease(2);
        let mut leased = 0;
        // One that settled nothing would lease them again and again.
        for _ in 0..=count {
            let entries = store.lease(key, &lease, now().plus_secs(60)).await.expect("it answers");
            if entries.is_empty() {
                break;
            }
            assert!(entries.iter().all(|entry| entry.messages.len() <= PART));
            leased += entries.iter().map(|entry| entry.messages.len()).sum::<usize>();
            let firsts: Vec<_> = entries.iter().map(|entry| entry.first).collect();
            store.settle(key, incarnation, &firsts).await.expect("it answers");
        }
        assert_eq!(leased, count);
    };
    "sweep": |world, queue, count| {
        zaqar_storage_testkit::sweep(&world.direct, now().plus_secs(40), 100).await;
        assert_eq!(world.stored(queue), count);
    };
    "purge": |world, queue, count| {
        world.direct.purge(&queue.key, now()).await.expect("it answers");
        let [last] = queue.post(&["after"]).await[..] else { panic!("one is posted") };
        assert_eq!(queue.texts().await, ["after"], "{count}");
        assert!(last.position.get() > count as u64);
        let later = now().plus_secs(60);
        let entries = world.direct.lease(&queue.key, &lease(1000), later).await;
        let entries = entries.expect("it answers");
        let leased: usize = entries.iter().map(|entry| entry.messages.len()).sum();
        assert_eq!(leased, count + 1, "entries stay");
    };
    "close": |world, queue, _count| {
        let incarnation = queue.generation.incarnation;
        let closed = Heads::close(&world.direct, &queue.key, incarnation).await;
        assert_eq!(closed.expect("it answers"), Guarded::Done(()));
        let new = Queue { generation: generation(), ..queue.clone() };
        new.open().await.expect("it opens");
        assert_eq!(new.texts().await, [""; 0]);
        zaqar_storage_testkit::sweep(&world.direct, now().plus_secs(60), 100).await;
        let chunks = world.server.cli(&["--scan", "--pattern", &world.key_of(queue, "b:*")]);
        assert_eq!(chunks, "");
    };
    "freeze": |world, queue, count| {
        let id = MoveId::new(rand());
        let frozen = world.direct.freeze(&queue.key, id, now()).await.expect("it answers");
        assert!(frozen.is_some());
        let (mut mark, mut exported) = (Some(ContentsMark::START), 0);
        while let Some(next) = mark {
            let part = world.direct.export(&queue.key, id, next, 500, now()).await;
            let part = part.expect("it answers").expect("it is frozen");
            exported += part.contents.messages.len();
            mark = part.next;
        }
        assert_eq!(exported, count);
    };
    "another large post": |_world, queue, count| {
        queue.try_post_new(many(THREE_PARTS)).await.expect("it is stored");
        let mut expected = numbers(count);
        expected.extend(numbers(THREE_PARTS));
        assert_eq!(queue.texts().await, expected);
    };
    "a small post": |_world, queue, count| {
        let mut expected = numbers(count);
        expected.push("small".to_owned());
        queue.post(&["small"]).await;
        assert_eq!(queue.texts().await, expected);
    };
    "list on a full server": |world, queue, count| {
        world.server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
        let all = queue.texts().await;
        world.server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
        assert_eq!(all, numbers(count));
    };
};

/// A server dies after each of the calls of a post. The queue has all of the post or nothing,
/// whatever is done first, and everything else expires.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_leaves_all_of_a_large_post_or_nothing() {
    for (name, check) in CHECKS {
        let mut world = World::new().await;
        let mut committed = Vec::new();
        for calls in 0.. {
            // A call that waits at the earlier gate never passes.
            world.renew_gate().await;
            let queue = world.queue().await;
            subscribe(&queue).await;
            let posting = world.post(&queue, many(THREE_PARTS));
            for _ in 0..calls {
                world.step(&posting, async {}).await;
            }
            if !world.is_waiting(&posting).await {
                posting.await.expect("it ends").expect("it is stored");
                break;
            }
            posting.abort();
            let has_committed = world.has_committed(&queue);
            println!("{name} after {calls} calls, committed: {has_committed}");
            check(&world, &queue, if has_committed { THREE_PARTS } else { 0 }).await;
            for kind in ["u:*", "v:*"] {
                let left = world.server.cli(&["--scan", "--pattern", &world.key_of(&queue, kind)]);
                let left: Vec<_> = left.lines().filter(|key| !key.is_empty()).collect();
                let ttls = left.iter().map(|key| world.number(&["PTTL", key]));
                assert!(kind == "u:*" || left.is_empty(), "{left:?}");
                assert!(ttls.into_iter().all(|ttl| ttl > 0), "{left:?}");
            }
            committed.push(has_committed);
        }
        assert!(committed.contains(&false) && committed.contains(&true), "{committed:?}");
        assert!(committed.is_sorted(), "{committed:?}");
    }
}

async fn subscribe(queue: &Queue) {
    let id = SubscriptionId::new(rand());
    let subscriber = format!("http://example.org/{id}");
    let options = "{}".to_owned();
    let new = NewSubscription { id, subscriber, ttl: 600, options, confirmed: true, lease: None };
    let made = queue.store.subscribe(&queue.key, queue.generation, &new, now()).await;
    made.expect("it subscribes");
}

/// Steps a post until it has sent this many parts.
async fn sent(world: &World, queue: &Queue, parts: usize) -> Posting {
    let posting = world.post(queue, many(THREE_PARTS));
    let staged = world.key_of(queue, "u:*");
    loop {
        world.gate.until_waiting().await;
        let list = world.server.cli(&["--scan", "--pattern", &staged]);
        if !list.is_empty() && world.number(&["LLEN", list.trim()]) == parts {
            return posting;
        }
        assert!(world.step(&posting, async {}).await, "it goes on");
    }
}

/// Parts can be lost by a failover.
#[tokio::test(flavor = "multi_thread")]
async fn a_post_whose_parts_are_lost_begins_anew() {
    // Before the last part, and before the commit.
    for parts in [2, 3] {
        let world = World::new().await;
        let queue = world.queue().await;
        let posting = sent(&world, &queue, parts).await;
        let list = world.server.cli(&["--scan", "--pattern", &world.key_of(&queue, "u:*")]);
        world.server.cli(&["DEL", list.trim()]);
        world.gate.open();
        let posted = posting.await.expect("it ends").expect("it is stored");
        let all = queue.all().await;
        assert_eq!(all.iter().map(|message| message.id).collect::<Vec<_>>(), posted);
        assert_eq!(texts(&all), numbers(THREE_PARTS));
    }
}

/// What happens to a queue between the parts of a post decides about the post.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_post_meets_the_queue_of_its_commit() {
    for what in ["advance", "close", "freeze", "purge"] {
        let world = World::new().await;
        let queue = world.queue().await;
        let posting = sent(&world, &queue, 2).await;
        let (store, key, old) = (&world.direct, &queue.key, queue.generation);
        let newer = Generation { version: Version::new(2), ..old };
        let id = MoveId::new(rand());
        match what {
            "advance" => drop(store.advance(key, newer).await.expect("it answers")),
            "close" => drop(Heads::close(store, key, old.incarnation).await.expect("it answers")),
            "freeze" => drop(store.freeze(key, id, now()).await.expect("it answers")),
            _ => store.purge(key, now()).await.expect("it answers"),
        }
        world.gate.open();
        let result = posting.await;
        match what {
            "freeze" => {
                let error = result.expect("it ends").expect_err("the queue is frozen");
                assert!(matches!(error, Error::Moved { id: of, .. } if of == id), "{error:?}");
                store.thaw(key, id).await.expect("it answers");
            }
            "purge" => assert_eq!(result.expect("it ends").expect("done").len(), THREE_PARTS),
            _ => assert!(result.is_err(), "the test panics as the post is refused: {what}"),
        }
        let count = if what == "purge" { THREE_PARTS } else { 0 };
        assert_eq!(queue.all().await.len(), count, "{what}");
    }
}

/// A page of 5 MB is read in slices.
#[tokio::test(flavor = "multi_thread")]
async fn large_pages_are_read_in_slices() {
    let world = World::new().await;
    let queue = world.queue().await;
    let body = "x".repeat(250 << 10);
    let posted = queue.try_post_new(vec![message(&body); 20]).await.expect("it is stored");
    world.gate.open();
    let gated = queue.by(&world.gated);
    let (include_claimed, include_delayed) = (false, false);
    let mut query =
        ListQuery { after: None, limit: 20, hide: None, include_claimed, include_delayed };
    let page = Messages::list(&gated.store, &queue.key, &query, now()).await.expect("it answers");
    assert_eq!(page.messages.len(), 20);
    for call in world.gate.calls() {
        assert!(call.answer <= 2 * (256 << 10), "{call:?}");
    }
    let got = gated.store.get(&queue.key, &posted, now()).await.expect("it answers");
    assert_eq!(got.len(), 20);
    let calls = world.gate.calls();
    assert!(calls.iter().filter(|call| call.answer > 200 << 10).count() >= 8, "{calls:?}");
    for call in &calls {
        assert!(call.answer <= 9 * (256 << 10), "{call:?}");
    }

    let tiny = world.queue().await;
    tiny.try_post_new(many(2000)).await.expect("it is stored");
    let before = world.gate.calls().len();
    query.limit = 2000;
    let page = Messages::list(&world.gated, &tiny.key, &query, now()).await.expect("it answers");
    assert_eq!(texts(&page.messages), numbers(2000));
    assert!(world.gate.calls().len() - before >= 2000 / SLICE, "slices of {SLICE} messages");
}

/// A page of queues with 60 kB of metadata each is read in slices, whatever the sizes before.
#[tokio::test(flavor = "multi_thread")]
async fn large_rows_of_queues_are_read_in_slices() {
    let world = World::new().await;
    let project = ProjectId::new("rows").expect("it is valid");
    let large = Metadata::from_json(format!("{{\"text\":\"{}\"}}", "x".repeat(60_000)).as_bytes());
    let large = large.expect("it is an object");
    for number in 0..40 {
        let name = QueueName::new(&format!("q{number:02}")).expect("it is valid");
        let key = QueueKey { project: project.clone(), kind: Kind::Queue, name };
        let metadata = if number == 0 { Metadata::default() } else { large.clone() };
        let row = QueueRow { generation: generation(), metadata };
        storage::Queues::create(&world.direct, &key, &row).await.expect("it is created");
    }
    world.gate.open();
    let rows = storage::Queues::list(&world.gated, &project, Kind::Queue, None, 40).await;
    let rows = rows.expect("it answers");
    let names: Vec<_> = rows.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names, (0..40).map(|number| format!("q{number:02}")).collect::<Vec<_>>());
    let calls = world.gate.calls();
    assert!(calls.iter().filter(|call| call.answer > 200_000).count() >= 8, "{calls:?}");
    for call in calls {
        assert!(call.answer <= (256 << 10) + 62_000, "{call:?}");
    }
}
