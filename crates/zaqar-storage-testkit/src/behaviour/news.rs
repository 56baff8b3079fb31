//! News: every line of [`zaqar_core::storage::News`].

use std::collections::BTreeMap;
use std::time::Duration;

use zaqar_core::storage::{NewsStream, Posted};
use zaqar_core::{Kind, MessageId, QueueKey};

use super::at_once;
use crate::kit::Kit;
use crate::queue::Queue;

/// How long news may take: a store may send them round its servers.
const PATIENCE: Duration = Duration::from_secs(60);

async fn listen(kit: &Kit) -> NewsStream {
    kit.store().news().await.expect("news answers")
}

async fn next(news: &mut NewsStream) -> Option<Posted> {
    let heard = std::future::poll_fn(|context| news.as_mut().poll_next(context));
    tokio::time::timeout(PATIENCE, heard).await.expect("news come, or end")
}

/// Listens until each queue was named with this message or a later one.
async fn hear(news: &mut NewsStream, mut expected: BTreeMap<QueueKey, MessageId>) {
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

/// `news`: "Every post acknowledged after this answer is named, or a later post to the same queue
/// is."
pub(crate) async fn every_post_is_named(kit: &mut Kit) {
    let queues = [kit.queue("q").await, kit.open(kit.key_of(Kind::Topic, "q")).await];
    let mut news = listen(kit).await;
    for queue in &queues {
        for count in [1, 5] {
            let posted = queue.post(count).await;
            hear(&mut news, [last_of(queue, &posted)].into()).await;
        }
    }
    let mut expected = BTreeMap::new();
    for _ in 0..3 {
        for queue in &queues {
            let posted = queue.post(2).await;
            expected.extend([last_of(queue, &posted)]);
        }
    }
    hear(&mut news, expected).await;
}

/// `Posted::last`: news never name a message that is not posted yet.
pub(crate) async fn news_name_what_is_posted(kit: &mut Kit) {
    let queue = kit.queue("q").await;
    let mut news = listen(kit).await;
    let first = queue.post(3).await;
    let mut heard = next(&mut news).await.expect("news do not end");
    while heard.key != queue.key {
        heard = next(&mut news).await.expect("news do not end");
    }
    assert!(first.contains(&heard.last), "{} is none of this post", heard.last);
}

/// `news`: every listener hears of every post, whoever posts at the same time.
pub(crate) async fn every_listener_hears(kit: &mut Kit) {
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
        async move { hear(&mut news, expected).await }
    });
    at_once(hearers).await;
}

/// `news`: "a slow listener holds up nobody: what it misses is made good by naming each queue that
/// was posted to".
pub(crate) async fn a_slow_listener_holds_up_nobody(kit: &mut Kit) {
    let mut slow = listen(kit).await;
    let mut quick = listen(kit).await;
    let (busy, quiet) = (kit.queue("busy").await, kit.queue("quiet").await);
    let mut expected = BTreeMap::from([last_of(&quiet, &quiet.post(1).await)]);
    for _ in 0..1500 {
        let posted = busy.post(1).await;
        expected.extend([last_of(&busy, &posted)]);
    }
    hear(&mut quick, expected.clone()).await;
    hear(&mut slow, expected).await;
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
