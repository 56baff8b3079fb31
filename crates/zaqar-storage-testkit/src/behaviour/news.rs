//! News: every line of [`zaqar_core::storage::News`].

use std::collections::BTreeMap;
use std::time::Duration;

use zaqar_core::storage::{NewsStream, Posted};
use zaqar_core::{Kind, MessageId, QueueKey};

use super::at_once;
use crate::kit::Kit;
use crate::queue::Queue;

/// How long news may take: a store may have to distribute them to its servers.
const TIMEOUT: Duration = Duration::from_secs(60);

async fn listen(kit: &Kit) -> NewsStream {
    kit.store().news().await.expect("news answers")
}

async fn next(news: &mut NewsStream) -> Option<Posted> {
    let received = std::future::poll_fn(|context| news.as_mut().poll_next(context));
    tokio::time::timeout(TIMEOUT, received).await.expect("news arrive, or the stream ends")
}

/// Waits until each queue was reported with this message or a later one.
async fn wait_for(news: &mut NewsStream, mut expected: BTreeMap<QueueKey, MessageId>) {
    while !expected.is_empty() {
        let posted = next(news).await.expect("news do not end");
        if expected.get(&posted.key).is_some_and(|last| *last <= posted.last) {
            expected.remove(&posted.key);
        }
    }
}

fn last_of(queue: &Queue, posted: &[MessageId]) -> (QueueKey, MessageId) {
    (queue.key.clone(), posted[posted.len() - 1])
}

/// `news`: "For every post that is acknowledged after this method returns, the stream yields that
/// post or a later one to the same queue."
pub(crate) async fn every_post_is_reported(kit: &mut Kit) {
    let queues = [kit.queue("q").await, kit.open(kit.key_of(Kind::Topic, "q")).await];
    let mut news = listen(kit).await;
    for queue in &queues {
        for count in [1, 5] {
            let posted = queue.post(count).await;
            wait_for(&mut news, [last_of(queue, &posted)].into()).await;
        }
    }
    let mut expected = BTreeMap::new();
    for _ in 0..3 {
        for queue in &queues {
            let posted = queue.post(2).await;
            expected.extend([last_of(queue, &posted)]);
        }
    }
    wait_for(&mut news, expected).await;
}

/// `Posted::last`: news never report a message that is not posted yet.
pub(crate) async fn news_report_only_posted_messages(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let mut news = listen(kit).await;
    let first = queue.post(3).await;
    let mut received = next(&mut news).await.expect("news do not end");
    while received.key != queue.key {
        received = next(&mut news).await.expect("news do not end");
    }
    assert!(first.contains(&received.last), "{} is not a message of this post", received.last);
}

/// `news`: every listener gets news of every post, also with concurrent posters.
pub(crate) async fn every_listener_gets_news(kit: &mut Kit) {
    let queues = [kit.queue("a").await, kit.queue("b").await, kit.queue("c").await];
    let mut listeners = Vec::new();
    for _ in 0..3 {
        listeners.push(listen(kit).await);
    }
    let posters = queues.clone().map(|queue| async move {
        let mut last = None;
        for _ in 0..10 {
            last = Some(last_of(&queue, &queue.post(2).await));
            tokio::task::yield_now().await;
        }
        last
    });
    let posters = tokio::spawn(at_once(posters));
    let expected: BTreeMap<_, _> =
        posters.await.expect("the posters end").into_iter().flatten().collect();
    assert_eq!(expected.len(), 3);
    let hearers = listeners.into_iter().map(|mut news| {
        let expected = expected.clone();
        async move { wait_for(&mut news, expected).await }
    });
    at_once(hearers).await;
}

/// `news`: "a slow listener blocks nobody: if it lags, it gets one item for each queue that was
/// posted to".
pub(crate) async fn a_slow_listener_blocks_nobody(kit: &mut Kit) {
    let mut slow = listen(kit).await;
    let mut quick = listen(kit).await;
    let (busy, quiet) = (kit.queue("busy").await, kit.queue("quiet").await);
    let mut expected = BTreeMap::from([last_of(&quiet, &quiet.post(1).await)]);
    for _ in 0..1500 {
        let posted = busy.post(1).await;
        expected.extend([last_of(&busy, &posted)]);
    }
    wait_for(&mut quick, expected.clone()).await;
    wait_for(&mut slow, expected).await;
}

/// `NewsStream`: "It ends when the store is shut down."
pub(crate) async fn news_end_with_the_store(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let mut news = listen(kit).await;
    queue.post(1).await;
    let waiting = tokio::spawn(async move { while next(&mut news).await.is_some() {} });
    tokio::task::yield_now().await;
    kit.shut_down().await;
    waiting.await.expect("news end");
}
