//! Servers that are full, unavailable, restarting or hanging, or that lose their connections.

use std::time::{Duration, Instant};

use zaqar_core::LeaseId;
use zaqar_core::storage::{
    Claims, Deletable, Error, Heads, Leases, Messages, PopQuery, Queues, Renewal, Upkeep,
};
use zaqar_storage_redis::{Options, Redis};

use crate::proxy::{HoldingProxy, Proxy};
use crate::servers::{MAJOR, Server, TEST_TIMEOUT, wait_until};
use crate::support::{Queue, full_text, long_retry, now, open, options, rand, short_retry, texts};

/// More than a store with a short retry waits, on any machine.
const BOUND: Duration = Duration::from_secs(90);

/// Asserts that a request fails as retryable within a bounded time.
async fn assert_retryable<T: std::fmt::Debug>(
    what: &str,
    operation: impl Future<Output = Result<T, Error>>,
) {
    let started = Instant::now();
    let error = operation.await.expect_err(what);
    assert!(error.is_retryable(), "{what}: {error:?}");
    let took = started.elapsed();
    assert!(took < BOUND, "{what}: a bounded wait, not {took:?}");
}

/// Waits until requests succeed again without intervention.
async fn wait_until_recovered(queue: &Queue) {
    let deadline = Instant::now() + TEST_TIMEOUT;
    while let Err(error) = queue.try_post(&["back"]).await {
        assert!(Instant::now() < deadline, "it stays unavailable: {}", full_text(&error));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_survive_a_flush_and_a_restart() {
    let mut server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    queue.post(&["a"]).await;
    server.cli(&["SCRIPT", "FLUSH"]);
    queue.post(&["b"]).await;
    assert_eq!(texts(&queue.claim(2).await), ["a", "b"]);
    server.kill();
    server.launch();
    assert_eq!(store.generation(&queue.key).await.unwrap(), None, "it kept nothing on disk");
    queue.open().await.unwrap();
    queue.post(&["c"]).await;
    assert_eq!(queue.texts().await, ["c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn persisted_data_survives_a_restart() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let store = open(options(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    let ids = queue.post(&["a", "b", "c"]).await;
    let (claim, _) = queue.try_claim(1).await.unwrap();
    queue.store.delete(&queue.key, ids[1], None, now()).await.unwrap();
    server.kill();
    server.launch();
    assert_eq!(queue.texts().await, ["a", "c"]);
    let held = store.claim_get(&queue.key, claim, now()).await.unwrap().unwrap();
    assert_eq!(texts(&held.messages), ["a"]);
    assert!(queue.post(&["d"]).await[0] > ids[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_continue_on_a_full_server() {
    let server = Server::start(&[]);
    let store = open(short_retry(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    let ids = queue.post(&["a", "b", "c", "d", "e"]).await;
    let lease = LeaseId::new(rand());
    let renew = |secs| store.keep_lease(lease, now().plus_secs(secs), now());
    assert_eq!(renew(10).await.unwrap(), Renewal::Created);
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let error = queue.try_post(&["more"]).await.unwrap_err();
    assert!(matches!(error, Error::Full { .. }), "{error:?}");
    assert_retryable(
        "a new queue",
        Queue { key: crate::support::key("q2"), ..queue.clone() }.open(),
    )
    .await;
    assert_retryable("ping", store.ping()).await;
    let (claim, taken) = queue.try_claim(2).await.unwrap();
    assert_eq!(texts(&taken), ["a", "b"]);
    store.delete(&queue.key, ids[0], Some(claim), now()).await.unwrap();
    store.claim_release(&queue.key, claim, now()).await.unwrap();
    let one = PopQuery { limit: 1, after: None, keys: Vec::new() };
    let popped = store.pop(&queue.key, &one, now()).await.unwrap();
    assert_eq!(texts(&popped.messages), ["b"]);
    store.delete_many(&queue.key, &ids[2..3], &Deletable::Any, now()).await.unwrap();
    assert_eq!(queue.texts().await, ["d", "e"], "nothing of what was refused");
    store.purge(&queue.key, now()).await.unwrap();
    assert_eq!(renew(20).await.unwrap(), Renewal::Continued);
    store.sweep(now().plus_secs(40), 100).await.unwrap();
    server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    wait_until_recovered(&queue).await;
    assert_eq!(queue.texts().await, ["back"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_rejects_writes() {
    let server = Server::start(&[]);
    let store = open(short_retry(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    queue.post(&["a"]).await;
    server.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    assert_retryable("post", queue.try_post(&["b"])).await;
    assert_retryable("claim", queue.try_claim(1)).await;
    assert_retryable("ping", store.ping()).await;
    server.cli(&["REPLICAOF", "NO", "ONE"]);
    wait_until_recovered(&queue).await;
    assert_eq!(queue.texts().await, ["a", "back"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_write_to_its_disk_is_unavailable() {
    let server = Server::start(&["--save", "3600 1"]);
    let store = open(short_retry(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    std::fs::create_dir(server.dir().join("dump.rdb")).expect("a directory in the file's place");
    server.cli(&["BGSAVE"]);
    wait_until("saving fails", || server.info("rdb_last_bgsave_status") == "err");
    // Redis 6.2 lets scripts write nevertheless.
    if *MAJOR >= 7 {
        assert_retryable("post", queue.try_post(&["a"])).await;
    }
    server.cli(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]);
    wait_until_recovered(&queue).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_for_a_server_that_loads_its_data() {
    let mut server = Server::start(&[]);
    let store = open(short_retry(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    queue.post(&["a"]).await;
    let fill = "for n = 1, 1000 do redis.call('SET', 'other' .. n, string.rep('x', 4096)) end";
    server.cli(&["EVAL", fill, "0"]);
    server.cli(&["SAVE"]);
    server.kill();
    // A tenth of a second per key: it loads until the option is changed.
    server.add_options(&["--key-load-delay", "100000"]);
    if *MAJOR >= 7 {
        server.add_options(&["--loading-process-events-interval-bytes", "1024"]);
    }
    server.launch();
    assert_retryable("post", queue.try_post(&["b"])).await;
    server.cli(&["CONFIG", "SET", "key-load-delay", "0"]);
    wait_until_recovered(&queue).await;
    assert_eq!(queue.texts().await, ["a", "back"]);
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "a process is stopped for this time")]
async fn requests_wait_for_a_server_that_starts_later() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let store = open(short_retry(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    server.kill();
    assert_retryable("post", queue.try_post(&["a"])).await;
    let uri = server.uri();
    let launched = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        server.launch();
        server
    });
    let long_retry = open(long_retry(&uri)).await;
    queue.by(&long_retry).post(&["b"]).await;
    wait_until_recovered(&queue).await;
    assert_eq!(queue.texts().await, ["b", "back"]);
    drop(launched.join());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_server_blocks_no_request_for_long() {
    let server = Server::start(&[]);
    let uri = format!("{}?socket_timeout=3", server.uri());
    let store = open(short_retry(&uri)).await;
    let queue = Queue::new(&store, "q").await;
    queue.post(&["a"]).await;
    server.signal("STOP");
    let many = (0..100).map(|_| assert_retryable("post", queue.try_post(&["b"])));
    tokio::join!(
        futures_util::future::join_all(many),
        assert_retryable("claim", queue.try_claim(1)),
        assert_retryable("ping", store.ping()),
    );
    server.signal("CONT");
    wait_until_recovered(&queue).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_the_limit_are_rejected_at_once() {
    let server = Server::start(&[]);
    let uri = format!("{}?socket_timeout=3", server.uri());
    let store = open(Options { pending: 4, ..short_retry(&uri) }).await;
    let queue = Queue::new(&store, "q").await;
    server.signal("STOP");
    let started = Instant::now();
    let many = (0..20).map(|_| async {
        let error = queue.try_post(&["a"]).await.expect_err("the server is stopped");
        println!("{error:?}");
        (matches!(error, Error::Overloaded { .. }), started.elapsed())
    });
    let answers = futures_util::future::join_all(many).await;
    let (refused, given_up): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|(is_overloaded, _)| *is_overloaded);
    assert_eq!((refused.len(), given_up.len()), (16, 4));
    let (_, last) = refused.into_iter().max().expect("there are some");
    assert!(given_up.iter().all(|(_, took)| *took > last), "{last:?}: while others wait");
    server.signal("CONT");
    wait_until_recovered(&queue).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_whose_answer_is_lost_is_stored_once() {
    let server = Server::start(&[]);
    let proxy = Proxy::to(server.port).await;
    let store = open(options(&proxy.uri())).await;
    let queue = Queue::new(&store, "q").await;
    let first = queue.post(&["a"]).await;
    proxy.cut_next_answer();
    let ids = queue.post(&["b", "c"]).await;
    assert!(proxy.has_cut());
    assert_eq!(
        queue.texts().await,
        ["a", "b", "c"],
        "stored by the first attempt, not by the second"
    );
    let all: Vec<_> = queue.all().await.iter().map(|message| message.id).collect();
    assert_eq!(all, [first, ids].concat(), "with the ids that were answered");
    proxy.cut_next_request();
    queue.post(&["d"]).await;
    assert!(proxy.has_cut());
    assert_eq!(queue.texts().await, ["a", "b", "c", "d"]);
    // Also if consumers have taken the message, and the queue's rules were changed, in the
    // meantime.
    proxy.cut_next_answer();
    let posted = queue.post(&["e"]).await;
    store.delete(&queue.key, posted[0], None, now()).await.unwrap();
    assert_eq!(queue.texts().await, ["a", "b", "c", "d"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_answer_is_lost_is_executed_once() {
    let server = Server::start(&[]);
    let proxy = Proxy::to(server.port).await;
    let store = open(options(&proxy.uri())).await;
    let queue = Queue::new(&store, "q").await;
    queue.post(&["a", "b", "c", "d"]).await;
    queue.claim(1).await;
    proxy.cut_next_answer();
    let (claim, taken) = queue.try_claim(2).await.unwrap();
    assert!(proxy.has_cut());
    assert_eq!(texts(&taken), ["b", "c"]);
    assert!(taken.iter().all(|it| it.claim_count == 1 && it.claim == Some(claim)), "{taken:?}");
    let held = store.claim_get(&queue.key, claim, now()).await.unwrap().unwrap();
    assert_eq!(held.messages, taken);
    assert_eq!(texts(&queue.claim(9).await), ["d"]);
}

/// The answer of a claim is lost, and the queue's metadata change before the repeat.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_recognised_although_the_queue_was_changed() {
    let server = Server::start(&[]);
    let proxy = Proxy::to(server.port).await;
    let store = open(long_retry(&format!("{}?socket_timeout=2", proxy.uri()))).await;
    let direct = open(options(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    queue.post(&["a", "b"]).await;
    queue.claim(1).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    proxy.cut_next_answer();
    let claiming = {
        let queue = queue.clone();
        tokio::spawn(async move { queue.try_claim(1).await })
    };
    let started = Instant::now();
    while !proxy.has_cut() {
        assert!(started.elapsed() < TEST_TIMEOUT, "the answer comes");
        tokio::task::yield_now().await;
    }
    // The repeat must not arrive before the change.
    proxy.stop_forwarding();
    let version = zaqar_core::Version::new(2);
    let newer = zaqar_core::Generation { version, ..queue.generation };
    direct.advance(&queue.key, newer).await.unwrap();
    proxy.pass();
    let (claim, taken) = claiming.await.unwrap().unwrap();
    assert_eq!(texts(&taken), ["b"]);
    let held = direct.claim_get(&queue.key, claim, now()).await.unwrap().unwrap();
    assert_eq!(held.messages, taken);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pop_whose_answer_is_lost_takes_no_more() {
    let server = Server::start(&[]);
    let proxy = HoldingProxy::to(server.port).await;
    // A store that posts has other answers at any time: of the news of its posts.
    let (store, direct) = (open(options(&proxy.uri())).await, open(options(&server.uri())).await);
    let queue = Queue::new(&direct, "q").await;
    queue.post(&["a", "b", "c", "d"]).await;
    // The server must know the script; otherwise the answer that is lost says that it does not.
    let one = PopQuery { limit: 1, after: None, keys: Vec::new() };
    let popped = store.pop(&queue.key, &one, now()).await.unwrap();
    assert_eq!(texts(&popped.messages), ["a"]);
    proxy.hide_answer(0);
    assert_retryable("pop", store.pop(&queue.key, &one, now())).await;
    assert!(proxy.take_held().is_some(), "its answer was lost");
    assert_eq!(queue.texts().await, ["c", "d"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_written_once_although_answers_are_lost() {
    use zaqar_core::{Generation, Metadata, Version};
    let server = Server::start(&[]);
    let proxy = Proxy::to(server.port).await;
    let store = open(options(&proxy.uri())).await;
    let (key, generation) = (crate::support::key("q"), crate::support::generation());
    let row = zaqar_core::storage::QueueRow { generation, metadata: Metadata::default() };
    Queues::get(&store, &key).await.unwrap();
    proxy.cut_next_answer();
    assert_eq!(store.create(&key, &row).await.unwrap(), None, "it was made, by us");
    assert_eq!(store.create(&key, &row).await.unwrap().as_ref(), Some(&row), "not a second time");
    assert_eq!(store.create(&key, &row_of(&row, 7)).await.unwrap().as_ref(), Some(&row));
    let next = Generation { version: Version::new(2), ..generation };
    let changed = zaqar_core::storage::QueueRow { generation: next, ..row.clone() };
    proxy.cut_next_answer();
    assert!(store.replace(&key, generation, &changed).await.unwrap(), "it was changed, by us");
    assert!(!store.replace(&key, generation, &changed).await.unwrap(), "not from that");
    assert!(!store.remove(&key, crate::support::generation().incarnation).await.unwrap());
    proxy.cut_next_answer();
    assert!(store.remove(&key, generation.incarnation).await.unwrap(), "it was removed, by us");
    assert!(!store.remove(&key, generation.incarnation).await.unwrap(), "not a second time");
    assert_eq!(Queues::get(&store, &key).await.unwrap(), None);
    assert!(proxy.has_cut());
}

fn row_of(row: &zaqar_core::storage::QueueRow, version: u64) -> zaqar_core::storage::QueueRow {
    let version = zaqar_core::Version::new(version);
    let generation = zaqar_core::Generation { version, ..row.generation };
    zaqar_core::storage::QueueRow { generation, ..row.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_connection_is_replaced() {
    let server = Server::start(&[]);
    let proxy = Proxy::to(server.port).await;
    let uri = format!("{}?socket_timeout=3", proxy.uri());
    let store = open(Options { connections: 1, ..short_retry(&uri) }).await;
    let queue = Queue::new(&store, "q").await;
    queue.post(&["a"]).await;
    proxy.stop_forwarding();
    assert_retryable("post", queue.try_post(&["b"])).await;
    proxy.pass();
    wait_until_recovered(&queue).await;
    let all = queue.texts().await;
    let (first, rest) = all.split_first().expect("it is stored");
    assert_eq!(first, "a");
    // On a slow machine a post may be stored although its answer comes too late.
    assert!(rest.iter().all(|text| text == "back"), "what never arrived is not stored: {all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_replicas_are_reported() {
    let server = Server::start(&[]);
    let waiting = |options| Options { wait_replicas: 1, ..options };
    let brief = format!("{}?socket_timeout=1", server.uri());
    let store = open(waiting(short_retry(&brief))).await;
    let key = crate::support::key("q");
    let error = Heads::open(&store, &key, crate::support::generation(), now()).await.unwrap_err();
    assert!(error.is_retryable());
    assert!(full_text(&error).contains("0 replicas"), "{}", full_text(&error));
    let replica = Server::start(&["--replicaof", "127.0.0.1", &server.port.to_string()]);
    wait_until("the replica is in operation", || replica.info("master_link_status") == "up");
    let queue = Queue::new(&open(waiting(options(&server.uri()))).await, "q").await;
    for _ in 0..20 {
        queue.post(&["a"]).await;
    }
    let queue = queue.by(&store);
    replica.signal("STOP");
    assert_retryable("post", queue.try_post(&["b"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_passwords_and_databases_are_used() {
    let server = Server::start(&[]);
    let rules = ["on", ">s%40cret", "resetchannels", "~zq1:*", "&zq1:*", "+@all"];
    server.cli(&[&["ACL", "SETUSER", "worker"], &rules[..]].concat());
    let at = |user: &str| format!("redis://{user}@127.0.0.1:{}?dbid=3", server.port);
    let store = open(options(&at("worker:s%40cret"))).await;
    let queue = Queue::new(&store, "q").await;
    queue.post(&["a"]).await;
    assert_eq!(server.cli(&["-n", "0", "DBSIZE"]), "0");
    assert_ne!(server.cli(&["-n", "3", "DBSIZE"]), "0");
    let error = Redis::open(short_retry(&at("worker:secret"))).await.expect_err("another password");
    let text = full_text(&error);
    assert!(text.contains("uthenticat") && !text.contains("secret"), "{text}");
}
