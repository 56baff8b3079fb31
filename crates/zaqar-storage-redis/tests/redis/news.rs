//! News between servers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use zaqar_core::storage::{News, NewsStream, Upkeep};
use zaqar_core::{MessageId, QueueKey};
use zaqar_storage_redis::{Options, Redis};

use crate::proxy::Proxy;
use crate::servers::{Cluster, Server, TEST_TIMEOUT, Watched};
use crate::support::{Queue, open, options};

/// A store that never scans queues: it gets news only from publications.
async fn without_polling(uri: &str) -> Redis {
    open(Options { news_poll: None, ..options(uri) }).await
}

/// Waits for news of a message.
pub(crate) async fn wait_for_news(news: &mut NewsStream, key: &QueueKey, last: MessageId) {
    let arrived = async {
        loop {
            let posted = news.next().await.expect("the stream goes on");
            if posted.key == *key && posted.last >= last {
                return;
            }
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, arrived).await.expect("the news arrive");
}

async fn check(uri: &str) {
    let (here, there) = (without_polling(uri).await, without_polling(uri).await);
    let (mut at_home, mut abroad) =
        (here.news().await.expect("it answers"), there.news().await.expect("it answers"));
    for name in ["a", "b"] {
        let queue = Queue::new(&here, name).await;
        for _ in 0..3 {
            let ids = queue.post(&["x", "y"]).await;
            wait_for_news(&mut abroad, &queue.key, ids[1]).await;
            wait_for_news(&mut at_home, &queue.key, ids[1]).await;
        }
        let ids = queue.by(&there).post(&["z"]).await;
        wait_for_news(&mut at_home, &queue.key, ids[0]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn news_reach_another_server() {
    check(&Server::start(&[]).uri()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn news_reach_another_server_behind_sentinels() {
    let watched = Watched::start();
    check(&watched.uri()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn news_reach_another_server_in_a_cluster() {
    let cluster = Cluster::start();
    check(&cluster.uri()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_listener_gets_combined_news() {
    let server = Server::start(&[]);
    let (here, there) =
        (without_polling(&server.uri()).await, without_polling(&server.uri()).await);
    let mut news = there.news().await.unwrap();
    let mut last = BTreeMap::new();
    for n in 0..50 {
        let queue = Queue::new(&here, &format!("q{n}")).await;
        for _ in 0..20 {
            last.insert(queue.key.clone(), queue.post(&["x"]).await[0]);
        }
    }
    let mut count = 0;
    while !last.is_empty() {
        let posted = tokio::time::timeout(TEST_TIMEOUT, news.next()).await;
        let posted = posted.expect("all news arrive").expect("the stream goes on");
        count += 1;
        if last.get(&posted.key).is_some_and(|last| posted.last >= *last) {
            last.remove(&posted.key);
        }
    }
    assert!(count < 500, "{count} news of 50 queues: they must be combined");
}

#[tokio::test(flavor = "multi_thread")]
async fn news_missed_while_disconnected_arrive_later() {
    let server = Server::start(&[]);
    let proxy = Proxy::to(server.port).await;
    let here = without_polling(&server.uri()).await;
    let there = without_polling(&proxy.uri()).await;
    let mut news = there.news().await.unwrap();
    let queue = Queue::new(&here, "q").await;
    let ids = queue.post(&["a"]).await;
    wait_for_news(&mut news, &queue.key, ids[0]).await;
    // The listening connection is cut by the next news, which are lost.
    proxy.cut_next_answer();
    let ids = queue.post(&["b"]).await;
    wait_for_news(&mut news, &queue.key, ids[0]).await;
    assert!(proxy.has_cut());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_replaces_a_dead_connection() {
    let server = Server::start(&[]);
    let proxy = Proxy::to(server.port).await;
    let here = without_polling(&server.uri()).await;
    let there = without_polling(&format!("{}?socket_timeout=3", proxy.uri())).await;
    let mut news = there.news().await.unwrap();
    proxy.stop_forwarding();
    let queue = Queue::new(&here, "q").await;
    let ids = queue.post(&["a"]).await;
    let started = Instant::now();
    while !proxy.has_dropped_an_answer() {
        assert!(started.elapsed() < TEST_TIMEOUT, "something is lost");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The connection that dropped the news stays open, and never forwards again.
    proxy.pass();
    wait_for_news(&mut news, &queue.key, ids[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_news_are_found_by_a_scan() {
    let server = Server::start(&[]);
    let here = without_polling(&server.uri()).await;
    let polling = Options { news_poll: Some(Duration::from_millis(300)), ..options(&server.uri()) };
    let there = open(polling).await;
    let mut news = there.news().await.unwrap();
    server.cli(&["ACL", "SETUSER", "default", "-publish"]);
    let queue = Queue::new(&here, "q").await;
    let ids = queue.post(&["a"]).await;
    wait_for_news(&mut news, &queue.key, ids[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_share_no_news() {
    let server = Server::start(&[]);
    let (here, there) = (
        without_polling(&server.uri()).await,
        without_polling(&format!("{}?dbid=1", server.uri())).await,
    );
    let mut news = there.news().await.unwrap();
    Queue::new(&here, "q").await.post(&["a"]).await;
    let news_of_other = tokio::time::timeout(Duration::from_millis(500), news.next()).await;
    assert!(news_of_other.is_err(), "{news_of_other:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_when_the_store_is_closed() {
    let server = Server::start(&[]);
    let (here, there) =
        (without_polling(&server.uri()).await, without_polling(&server.uri()).await);
    let (mut own, mut other) = (here.news().await.unwrap(), there.news().await.unwrap());
    let queue = Queue::new(&here, "q").await;
    let ids = queue.post(&["a"]).await;
    here.shut_down().await.unwrap();
    wait_for_news(&mut other, &queue.key, ids[0]).await;
    while let Some(posted) = own.next().await {
        assert_eq!(posted.key, queue.key);
    }
    assert!(here.news().await.is_err());
}
