//! News between servers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use zaqar_core::storage::{News, NewsStream, Upkeep};
use zaqar_core::{MessageId, QueueKey};
use zaqar_storage_redis::{Options, Redis};

use crate::proxy::Proxy;
use crate::servers::{Cluster, PATIENCE, Server, Watched};
use crate::support::{Queue, open, options};

/// A store that never looks by itself: what it hears was told.
async fn deaf_to_polls(uri: &str) -> Redis {
    open(Options { news_poll: None, ..options(uri) }).await
}

/// Waits until a stream has named a queue up to a message.
pub(crate) async fn hears(news: &mut NewsStream, key: &QueueKey, last: MessageId) {
    let heard = async {
        loop {
            let posted = news.next().await.expect("the stream goes on");
            if posted.key == *key && posted.last >= last {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, heard).await.expect("it is heard");
}

async fn check(uri: &str) {
    let (here, there) = (deaf_to_polls(uri).await, deaf_to_polls(uri).await);
    let (mut at_home, mut abroad) =
        (here.news().await.expect("it answers"), there.news().await.expect("it answers"));
    for name in ["a", "b"] {
        let queue = Queue::new(&here, name).await;
        for _ in 0..3 {
            let ids = queue.post(&["x", "y"]).await;
            hears(&mut abroad, &queue.key, ids[1]).await;
            hears(&mut at_home, &queue.key, ids[1]).await;
        }
        let ids = queue.by(&there).post(&["z"]).await;
        hears(&mut at_home, &queue.key, ids[0]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_here_is_news_there() {
    check(&Server::start(&[]).uri()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_here_is_news_there_behind_sentinels() {
    let watched = Watched::start();
    check(&watched.uri()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_here_is_news_there_in_a_cluster() {
    let cluster = Cluster::start();
    check(&cluster.uri()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_posts_are_heard_by_a_slow_listener() {
    let server = Server::start(&[]);
    let (here, there) = (deaf_to_polls(&server.uri()).await, deaf_to_polls(&server.uri()).await);
    let mut news = there.news().await.unwrap();
    let mut last = BTreeMap::new();
    for n in 0..50 {
        let queue = Queue::new(&here, &format!("q{n}")).await;
        for _ in 0..20 {
            last.insert(queue.key.clone(), queue.post(&["x"]).await[0]);
        }
    }
    let mut heard = 0;
    while !last.is_empty() {
        let posted = tokio::time::timeout(PATIENCE, news.next()).await;
        let posted = posted.expect("all are heard").expect("the stream goes on");
        heard += 1;
        if last.get(&posted.key).is_some_and(|last| posted.last >= *last) {
            last.remove(&posted.key);
        }
    }
    assert!(heard < 500, "{heard} news of 50 queues: they come together");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missed_while_disconnected_is_heard_later() {
    let server = Server::start(&[]);
    let proxy = Proxy::to(server.port).await;
    let here = deaf_to_polls(&server.uri()).await;
    let there = deaf_to_polls(&proxy.uri()).await;
    let mut news = there.news().await.unwrap();
    let queue = Queue::new(&here, "q").await;
    let ids = queue.post(&["a"]).await;
    hears(&mut news, &queue.key, ids[0]).await;
    // The connection that listens is cut when the next news come: they are lost with it.
    proxy.cut_next_answer();
    let ids = queue.post(&["b"]).await;
    hears(&mut news, &queue.key, ids[0]).await;
    assert!(proxy.has_cut());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_leaves_a_connection_that_passes_nothing() {
    let server = Server::start(&[]);
    let proxy = Proxy::to(server.port).await;
    let here = deaf_to_polls(&server.uri()).await;
    let there = deaf_to_polls(&format!("{}?socket_timeout=3", proxy.uri())).await;
    let mut news = there.news().await.unwrap();
    proxy.be_silent();
    let queue = Queue::new(&here, "q").await;
    let ids = queue.post(&["a"]).await;
    let started = Instant::now();
    while !proxy.has_lost_an_answer() {
        assert!(started.elapsed() < PATIENCE, "something is lost");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The connection that lost it stays open, and never passes anything again.
    proxy.pass();
    hears(&mut news, &queue.key, ids[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_told_is_found_by_looking() {
    let server = Server::start(&[]);
    let here = deaf_to_polls(&server.uri()).await;
    let looking = Options { news_poll: Some(Duration::from_millis(300)), ..options(&server.uri()) };
    let there = open(looking).await;
    let mut news = there.news().await.unwrap();
    server.cli(&["ACL", "SETUSER", "default", "-publish"]);
    let queue = Queue::new(&here, "q").await;
    let ids = queue.post(&["a"]).await;
    hears(&mut news, &queue.key, ids[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_hear_nothing_of_each_other() {
    let server = Server::start(&[]);
    let (here, there) = (
        deaf_to_polls(&server.uri()).await,
        deaf_to_polls(&format!("{}?dbid=1", server.uri())).await,
    );
    let mut news = there.news().await.unwrap();
    Queue::new(&here, "q").await.post(&["a"]).await;
    let heard = tokio::time::timeout(Duration::from_millis(500), news.next()).await;
    assert!(heard.is_err(), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_with_the_store() {
    let server = Server::start(&[]);
    let (here, there) = (deaf_to_polls(&server.uri()).await, deaf_to_polls(&server.uri()).await);
    let (mut own, mut other) = (here.news().await.unwrap(), there.news().await.unwrap());
    let queue = Queue::new(&here, "q").await;
    let ids = queue.post(&["a"]).await;
    here.shut_down().await.unwrap();
    hears(&mut other, &queue.key, ids[0]).await;
    while let Some(posted) = own.next().await {
        assert_eq!(posted.key, queue.key);
    }
    assert!(here.news().await.is_err());
}
