//! Keys, members and fields that no store wrote, or that are damaged, neither hide nor block
//! anything else.

use zaqar_core::storage::{
    Claims, Heads, LeaseRequest, Leases, ListQuery, Messages, Outbox, PopQuery, QueueRow, Queues,
    RecipientQuery, Subscriptions, Upkeep,
};
use zaqar_core::{LeaseId, Metadata, QueueKey, QueueName, Timestamp};
use zaqar_storage_redis::{Options, Redis};

use crate::proxy::HoldingProxy;
use crate::repeats::{Fixture, fixture};
use crate::servers::Server;
use crate::support::{Queue, generation, lease_for, message, now, open, options, rand};

/// The suffixes of the keys of a queue, as `keys.rs` lists them; `*` matches one of several.
const SETS: [&str; 18] = [
    "f", "q", "c", "d", "w", "x", "e", "sx", "si", "sl", "sm", "oe", "ow", "or", "od", "ol", "of",
    "ox",
];
const HASHES: [&str; 9] = ["h", "k", "l", "s", "so", "sn", "b:*", "r:*", "t0"];
const LISTS: [&str; 2] = ["g", "o:*"];

fn base(queue: &Queue) -> String {
    format!("zq1:{{q/{}/{}}}:", queue.key.project.as_str(), queue.key.name)
}

/// The key with this suffix; for one that does not exist, `*` becomes 1.
fn key(server: &Server, queue: &Queue, end: &str) -> String {
    let pattern = format!("{}{end}", base(queue));
    let found = server.cli(&["--scan", "--pattern", &pattern]);
    let found = found.lines().next().filter(|_| end.contains('*')).map(str::to_owned);
    found.unwrap_or_else(|| pattern.replace('*', "1"))
}

/// Gives a key another type.
fn retype(server: &Server, key: &str) {
    server.cli(&["DEL", key]);
    server.cli(&["SET", key, "odd"]);
}

/// Adds a foreign member or field to a key, and overwrites its fields.
fn spoil(server: &Server, key: &str, end: &str) {
    if SETS.contains(&end) {
        server.cli(&["ZADD", key, "1", "odd"]);
        return;
    }
    if LISTS.contains(&end) {
        server.cli(&["LPUSH", key, "odd"]);
        return;
    }
    if end != "h" {
        // Request ids are random bytes, and no command line can contain a zero byte.
        let is_text = |field: &&str| !field.is_empty() && !field.contains('\0');
        for field in server.cli(&["HKEYS", key]).lines().filter(is_text) {
            server.cli(&["HSET", key, field, "odd"]);
        }
    }
    server.cli(&["HSET", key, "odd", "odd"]);
}

fn all() -> ListQuery {
    let (include_claimed, include_delayed) = (true, true);
    ListQuery { after: None, limit: 100, hide: None, include_claimed, include_delayed }
}

/// All reads, claims and leases still answer.
async fn answers(it: &Fixture, what: &str) {
    let (store, key, now) = (&it.queue.store, &it.queue.key, now().plus_secs(40));
    let incarnation = it.queue.generation.incarnation;
    let start = zaqar_core::Position::new(0);
    Messages::list(store, key, &all(), now).await.expect(what);
    store.stats(key, now).await.expect(what);
    store.subscriptions(key, None, 10, now).await.expect(what);
    let recipients = RecipientQuery { after: None, limit: 10, confirmed_only: true };
    store.recipients(key, &recipients, now).await.expect(what);
    store.due_queues(1000, now).await.expect(what);
    store.follow(key, incarnation, start, 10, now).await.expect(what);
    store.lease(key, &lease_for(now.plus_secs(60)), now).await.expect(what);
    store.claim_get(key, it.claim, now).await.expect(what);
    it.queue.try_claim(1).await.expect(what);
    let one = PopQuery { limit: 1, after: None, keys: Vec::new() };
    store.pop(key, &one, now).await.expect(what);
    it.queue.try_post(&["more"]).await.expect(what);
}

/// Sweeps until nothing is left.
async fn sweep(store: &Redis, at: Timestamp) {
    let mut sweeps = 0;
    while store.sweep(at, 1000).await.expect("the sweep goes on").more {
        sweeps += 1;
        assert!(sweeps < 200, "it comes to an end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_keys_of_queues_block_nothing_else() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    for end in SETS.iter().chain(&HASHES).chain(&LISTS) {
        let spoiled = fixture(&store).await;
        spoil(&server, &key(&server, &spoiled.queue, end), end);
        answers(&spoiled, end).await;
        // Requests for a queue whose index has another type may fail, but no others.
        let retyped = fixture(&store).await;
        retype(&server, &key(&server, &retyped.queue, end));
    }
    let good = fixture(&store).await;
    let short = zaqar_core::storage::NewMessage { ttl: 60, ..message("short") };
    good.queue.try_post_new(vec![short]).await.expect("it is stored");
    answers(&good, "the good queue").await;
    let due = store.due_queues(1000, now().plus_secs(60)).await.expect("the schedule goes on");
    assert!(due.iter().any(|due| due.queue == good.queue.key), "{due:?}");
    assert!(store.volume().await.expect("it counts").is_some());
    // Claims have extended the lives of some messages by hours.
    let later = now().plus_secs(50_000);
    sweep(&store, later).await;
    let stats = store.stats(&good.queue.key, later).await.expect("it answers").expect("its head");
    assert_eq!((stats.free, stats.claimed, stats.delayed), (0, 0, 0));
    let left = server.cli(&["--scan", "--pattern", &format!("{}[xfcd]", base(&good.queue))]);
    assert_eq!(left, "", "the good queue was swept");
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_keys_of_schedules_and_leases_block_nothing_else() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    // Shard 0 has keys of other types; the other shards have foreign members.
    for end in ["s", "o", "l", "lx", "lh"] {
        retype(&server, &format!("zq1:{{a/0}}:{end}"));
    }
    for shard in 1..16 {
        for (end, member) in [("s", "odd"), ("o", "q/\u{fffd}/"), ("l", "odd"), ("lx", "odd")] {
            server.cli(&["ZADD", &format!("zq1:{{a/{shard}}}:{end}"), "1", member]);
        }
        server.cli(&["HSET", &format!("zq1:{{a/{shard}}}:lh"), "odd", "odd"]);
    }
    let lease = LeaseId::new(16 * u128::from(rand::<u64>()) + 3);
    let spoiled = LeaseId::new(16 * u128::from(rand::<u64>()) + 4);
    for (lease, key) in [(lease, "member"), (spoiled, "type")] {
        store.keep_lease(lease, now().plus_secs(60), now()).await.expect("it answers");
        let index = format!("zq1:{{a/{}}}:li:{lease}", lease.get() % 16);
        if key == "type" {
            server.cli(&["SET", &index, "odd"]);
        } else {
            server.cli(&["ZADD", &index, "1", "odd"]);
        }
    }
    let good = queue_outside_of_shard_0(&server, &store).await;
    let subscription = zaqar_core::SubscriptionId::new(rand());
    let new = zaqar_core::storage::NewSubscription {
        id: subscription,
        subscriber: "http://example.org".into(),
        ttl: 600,
        options: "{}".into(),
        confirmed: true,
        lease: Some(lease),
    };
    store.subscribe(&good.key, good.generation, &new, now()).await.expect("it answers");
    let short = zaqar_core::storage::NewMessage { ttl: 60, ..message("short") };
    good.try_post_new(vec![short]).await.expect("it is stored");
    let later = now().plus_secs(120);
    sweep(&store, later).await;
    let left = store.subscription(&good.key, subscription, later).await.expect("it answers");
    assert!(left.is_none(), "its lease is over");
    assert_eq!(store.stats(&good.key, later).await.unwrap().unwrap().free, 0);
    store.due_queues(10, later).await.expect("the schedule goes on");
    assert!(store.volume().await.expect("it counts").is_some());
}

/// A queue whose schedule is not in shard 0.
async fn queue_outside_of_shard_0(server: &Server, store: &Redis) -> Queue {
    for n in 0..100 {
        let queue = Queue::new(store, &format!("q{n}")).await;
        if queue.try_post(&["x"]).await.is_ok() {
            store.purge(&queue.key, now()).await.expect("it answers");
            return queue;
        }
        // Its schedule has another type.
        Heads::close(store, &queue.key, queue.generation.incarnation).await.ok();
    }
    panic!("no queue can be posted to: {}", server.cli(&["DBSIZE"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_rows_do_not_hide_others() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let project = crate::support::key("x").project;
    let named = |name: &str| QueueKey {
        name: QueueName::new(name).expect("a name"),
        ..crate::support::key_of(project.as_str(), "x")
    };
    for name in ["a", "b", "c"] {
        let row = QueueRow { generation: generation(), metadata: Metadata::default() };
        assert!(store.create(&named(name), &row).await.expect("it answers").is_none());
    }
    let rows = format!("zq1:{{n/q/{}}}:r", project.as_str());
    let names = format!("zq1:{{n/q/{}}}:n", project.as_str());
    server.cli(&["HSET", &rows, "b", "odd", "odd", "odd"]);
    server.cli(&["ZADD", &names, "0", "no row", "0", "odd", "0", "not/a name"]);
    let listed = Queues::list(&store, &project, named("a").kind, None, 100).await;
    let listed: Vec<_> = listed.expect("it answers").into_iter().map(|(name, _)| name).collect();
    assert_eq!(listed, [named("a").name, named("c").name]);
}

/// An unreadable entry that cannot be settled does not keep those that were leased with it.
#[tokio::test(flavor = "multi_thread")]
async fn readable_entries_are_returned_although_an_unreadable_one_stays() {
    let server = Server::start(&[]);
    let proxy = HoldingProxy::to(server.port).await;
    let direct = open(options(&server.uri())).await;
    let once = Options { max_reconnect_attempts: 0, ..options(&proxy.uri()) };
    let store = open(once).await;
    let Fixture { queue, ids, .. } = fixture(&direct).await;
    // Of its two entries, the one that is due.
    let entry = format!("{}o:{}", base(&queue), ids[0].position.get());
    assert_eq!(
        server.cli(&["LPUSHX", &entry, "odd"]).parse::<usize>().map(|rows| rows > 1),
        Ok(true)
    );
    queue.post(&["readable"]).await;
    // The lease is executed, and the end of the unreadable entry is not.
    proxy.hold(1);
    let request = LeaseRequest { limit: 10, ..lease_for(now().plus_secs(100)) };
    let leased = store.lease(&queue.key, &request, now()).await.expect("it answers");
    assert!(proxy.take_held().is_some(), "the second call was not executed");
    let texts: Vec<_> = leased.iter().flat_map(|entry| &entry.messages).collect();
    assert!(texts.iter().any(|message| message.payload.bytes == "readable"), "{texts:?}");
}
