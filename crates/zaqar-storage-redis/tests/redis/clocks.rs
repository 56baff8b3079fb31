//! Clock skew, positions after lost writes, layouts, and limits of Redis.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test fails on whatever it does not expect")]

use std::time::Duration;

use zaqar_core::storage::{
    Batch, Error, Heads, Leases, Messages, NewMessage, PopQuery, Renewal, Upkeep,
};
use zaqar_core::{ClientId, LeaseId, Timestamp};
use zaqar_storage_redis::{Options, Redis};

use crate::logs::Logs;
use crate::servers::{Cluster, Server};
use crate::support::{Queue, full_text, message, now, open, options, rand, short_retry};

/// Options as in production: the clock is compared with that of Redis.
fn strict(uri: &str) -> Options {
    Options { max_clock_skew: Some(Duration::from_secs(30)), ..options(uri) }
}

/// Posts as a server with this time.
async fn post_at(queue: &Queue, text: &str, ttl: u64, now: Timestamp) -> Result<(), Error> {
    let messages = vec![NewMessage { ttl, ..message(text) }];
    let batch = Batch { request: rand(), client: ClientId::new("me"), messages, notify: true };
    queue.store.post(&queue.key, queue.generation, batch, now).await.map(|_| ())
}

fn is_skew(error: &Error, ahead_secs: i64) -> bool {
    match error {
        Error::ClockSkew { offset_ms, bound_ms: 30_000 } => {
            (offset_ms - ahead_secs * 1000).abs() < 120_000
        }
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_clock_is_a_day_ahead_changes_nothing() {
    const DAY: u64 = 86_400;
    let server = Server::start(&[]);
    let store = open(strict(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    post_at(&queue, "a", 300, now()).await.unwrap();
    let ahead = now().plus_secs(DAY);
    let query = zaqar_core::storage::ListQuery {
        after: None,
        limit: 10,
        hide: None,
        include_claimed: false,
        include_delayed: false,
    };
    let one = PopQuery { limit: 1, after: None, keys: Vec::new() };
    let lease = LeaseId::new(rand());
    for (what, error) in [
        ("list", Messages::list(&store, &queue.key, &query, ahead).await.err()),
        ("post", post_at(&queue, "b", 300, ahead).await.err()),
        ("pop", store.pop(&queue.key, &one, ahead).await.err()),
        ("purge", store.purge(&queue.key, ahead).await.err()),
        ("stats", store.stats(&queue.key, ahead).await.err()),
        ("sweep", store.sweep(ahead, 100).await.err()),
        ("keep_lease", store.keep_lease(lease, ahead.plus_secs(9), ahead).await.err()),
        ("open", Heads::open(&store, &queue.key, queue.generation, ahead).await.err()),
    ] {
        let error = error.unwrap_or_else(|| panic!("{what} was done"));
        assert!(is_skew(&error, 86_400), "{what}: {error:?}");
        assert!(error.is_retryable(), "{what}");
    }
    let behind = Timestamp::from_millis(now().as_millis() - 1000 * DAY);
    let error = post_at(&queue, "c", 300, behind).await.unwrap_err();
    assert!(is_skew(&error, -86_400), "{error:?}");
    assert_eq!(queue.texts().await, ["a"], "nothing was done");
    store.ping().await.expect("the real clock is right");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_a_queue_is_corrected_after_a_wrong_clock() {
    let server = Server::start(&[]);
    let astray = open(options(&server.uri())).await;
    let store = open(strict(&server.uri())).await;
    let queue = Queue::new(&astray, "q").await;
    // A server whose clock is an hour ahead and not checked.
    post_at(&queue, "a", 7200, now().plus_secs(3600)).await.unwrap();
    let queue = queue.by(&store);
    let before = now();
    post_at(&queue, "b", 300, before).await.unwrap();
    let created = queue.all().await.last().expect("it is there").created;
    assert!(created < before.plus_secs(600), "time goes on from the present");
    let (_, held) = queue.try_claim(10).await.unwrap();
    assert_eq!(held.len(), 2, "what was posted by the wrong clock is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_are_higher_than_those_of_lost_writes() {
    let mut server = Server::start(&["--save", "3600 1000000"]);
    let store = open(options(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    queue.post(&["a"]).await;
    server.cli(&["SAVE"]);
    let mut lost = queue.post(&["b", "c"]).await;
    for _ in 0..50 {
        lost.extend(queue.post(&["x"; 100]).await);
    }
    let page = queue.all().await;
    server.kill();
    server.launch();
    assert_eq!(queue.texts().await, ["a"], "the snapshot is older");
    let later = queue.post(&["d"]).await;
    assert!(lost.iter().all(|id| *id < later[0]), "no position is given twice");
    let query = zaqar_core::storage::ListQuery {
        after: page.last().map(|last| last.id),
        limit: 10,
        hide: None,
        include_claimed: false,
        include_delayed: false,
    };
    let seen = Messages::list(&store, &queue.key, &query, now()).await.unwrap();
    assert_eq!(
        crate::support::texts(&seen.messages),
        ["d"],
        "a reader with a marker misses nothing"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_position_is_not_assigned_twice() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    let head = server.cli(&["--scan", "--pattern", "*}:h"]);
    server.cli(&["HSET", &head, "p", "9007199254740988"]);
    let last = queue.post(&["a", "b"]).await;
    assert_eq!(last[1].position.get(), 9_007_199_254_740_990);
    let error = queue.try_post(&["c"]).await.unwrap_err();
    assert!(full_text(&error).contains("no positions left"), "{}", full_text(&error));
    assert_eq!(queue.texts().await, ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_lease_is_created_again() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let lease = LeaseId::new(rand());
    let renew = || store.keep_lease(lease, now().plus_secs(60), now());
    assert_eq!(renew().await.unwrap(), Renewal::Created);
    assert_eq!(renew().await.unwrap(), Renewal::Continued);
    server.cli(&["FLUSHALL"]);
    assert_eq!(renew().await.unwrap(), Renewal::Created);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_layouts_are_rejected() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    assert_eq!(server.cli(&["GET", "zq1:layout"]), "3");
    Queue::new(&store, "q").await.post(&["a"]).await;
    open(options(&server.uri())).await;
    // A flush deletes the layout key as well; the next sweep writes it again.
    server.cli(&["DEL", "zq1:layout"]);
    store.sweep(now(), 10).await.unwrap();
    assert_eq!(server.cli(&["GET", "zq1:layout"]), "3");
    // Without the key the store is of a release before layouts were numbered.
    for (found, says) in [
        (Some("4"), "layout 4"),
        (Some("odd"), "layout odd"),
        (Some("1"), "layout 1"),
        (None, "layout 1"),
    ] {
        match found {
            Some(found) => server.cli(&["SET", "zq1:layout", found]),
            None => server.cli(&["DEL", "zq1:layout"]),
        };
        let before = server.cli(&["DBSIZE"]);
        let raising = format!("{}?layout=3", server.uri());
        Redis::open(short_retry(&raising)).await.expect_err("no option helps");
        let error = Redis::open(short_retry(&server.uri())).await.expect_err("it is rejected");
        let text = full_text(&error);
        let to_do = ["run the release that wrote it", "another database"];
        for part in [says, "knows layouts 2 to 3"].iter().chain(&to_do) {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(server.cli(&["DBSIZE"]), before, "nothing was changed");
    }
    // An empty database on the same server can be used.
    open(options(&format!("redis://127.0.0.1:{}?dbid=1", server.port))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_above_the_limit_of_redis_are_too_large() {
    let server = Server::start(&["--proto-max-bulk-len", "1mb"]);
    let store = open(options(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    let large = "x".repeat(2 << 20);
    let error = queue.try_post(&[&large]).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { max: 1_048_576, .. }), "{error:?}");
    queue.post(&["a"]).await;
}

/// A server that forbids the commands of the checks, and a node that would evict messages.
#[tokio::test]
async fn failed_startup_checks_are_logged() {
    let (logs, _guard) = Logs::keep();
    let cluster = Cluster::start();
    cluster.nodes[1].cli(&["ACL", "SETUSER", "default", "-info", "-config"]);
    let careless = cluster.nodes.iter().find(|it| it.port != cluster.nodes[1].port).unwrap();
    careless.cli(&["CONFIG", "SET", "maxmemory", "1gb"]);
    careless.cli(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    open(options(&cluster.uri())).await;
    let unchecked = logs.with("INFO is not allowed");
    assert_eq!(unchecked.len(), 1, "{unchecked:?}");
    let careless = careless.port.to_string();
    let lossy = logs.with("maxmemory-policy noeviction");
    assert!(lossy.len() == 1 && lossy[0].contains(&careless), "{lossy:?}");
}

#[tokio::test]
async fn a_server_that_forbids_info_is_used() {
    let (logs, _guard) = Logs::keep();
    let server = Server::start(&[]);
    server.cli(&["ACL", "SETUSER", "default", "-info", "-config"]);
    let store = open(options(&server.uri())).await;
    let unchecked = logs.with("INFO is not allowed");
    assert_eq!(unchecked.len(), 1, "{unchecked:?}");
    let queue = Queue::new(&store, "q").await;
    queue.post(&["a"]).await;
    assert_eq!(queue.texts().await, ["a"]);
    store.sweep(now(), 10).await.unwrap();
    store.ping().await.unwrap();
}

/// A listing of large bodies is read in slices, and is the same page.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_page_is_read_in_slices() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    let bodies: Vec<_> = (0..30).map(|n| format!("\"{n}{}\"", "x".repeat(200_000))).collect();
    for body in &bodies {
        queue.post(&[body]).await;
    }
    server.cli(&["CONFIG", "RESETSTAT"]);
    let query = zaqar_core::storage::ListQuery {
        after: None,
        limit: 25,
        hide: None,
        include_claimed: false,
        include_delayed: false,
    };
    let page = Messages::list(&store, &queue.key, &query, now()).await.unwrap();
    assert!(crate::support::texts(&page.messages) == bodies[..25]);
    assert_eq!(page.next, page.messages.last().map(|it| it.id));
    let stats = server.cli(&["INFO", "commandstats"]);
    // Each slice reads the clock.
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_time:calls="));
    let calls: usize = calls.unwrap().split(',').next().unwrap().parse().unwrap();
    assert!((12..=20).contains(&calls), "{calls} slices of 256 KiB, together 5 MB");
}
