//! News from other processes, with change streams and without.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test fails on whatever it does not expect")]

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use mongodb::bson::doc;
use zaqar_core::storage::{Batch, Guarded, Heads, Messages, NewMessage, News, NewsStream, Upkeep};
use zaqar_core::{
    ClientId, Clock, Generation, Incarnation, Kind, MessageId, Payload, ProjectId, QueueKey,
    QueueName, SystemClock, Version,
};
use zaqar_storage_mongo::{Mongo, Options};
use zaqar_storage_testkit::block_on;

use crate::support::change_stream::Scripted::{Break, Error, Nothing, Post};
use crate::support::proxy::{Proxy, plain_address};
use crate::support::server;

/// Longer than news take on a slow machine, and much shorter than the poll interval that disables
/// polling.
const TIMEOUT: Duration = Duration::from_secs(60);

fn key(name: &str) -> QueueKey {
    let project = ProjectId::new("p").unwrap();
    QueueKey { project, kind: Kind::Topic, name: QueueName::new(name).unwrap() }
}

async fn post(store: &Mongo, key: &QueueKey) -> MessageId {
    let generation = Generation { incarnation: Incarnation::new(5), version: Version::new(1) };
    let now = SystemClock.now();
    Heads::open(store, key, generation, now).await.unwrap();
    let payload = Payload::plain(Bytes::from_static(b"1"));
    let batch = Batch {
        request: rand::random(),
        client: ClientId::new("c"),
        messages: vec![NewMessage { payload, ttl: 60, delay: 0 }],
        notify: true,
    };
    match store.post(key, generation, batch, now).await.unwrap() {
        Guarded::Done(ids) => ids[0],
        refused => panic!("{refused:?}"),
    }
}

async fn wait_for_news(news: &mut NewsStream, key: &QueueKey, last: MessageId) {
    let received = async {
        while let Some(posted) = news.next().await {
            if posted.key == *key && posted.last >= last {
                return;
            }
        }
        panic!("the news have ended");
    };
    tokio::time::timeout(TIMEOUT, received).await.expect("news arrive in time");
}

/// A listener with these options gets news of another process's posts.
async fn gets_news_of_another_process(options: impl Fn(Options) -> Options) {
    let name = server::name();
    let listener = Mongo::open(options(server::options(&name))).await.unwrap();
    let poster = server::open(&name).await;
    let mut news = listener.news().await.unwrap();
    for _ in 0..5 {
        for name in ["a", "b"] {
            let last = post(&poster, &key(name)).await;
            wait_for_news(&mut news, &key(name), last).await;
        }
        let mut late = listener.news().await.unwrap();
        let last = post(&poster, &key("a")).await;
        wait_for_news(&mut late, &key("a"), last).await;
        wait_for_news(&mut news, &key("a"), last).await;
    }
    listener.shut_down().await.unwrap();
    assert!(
        tokio::time::timeout(TIMEOUT, async { while news.next().await.is_some() {} }).await.is_ok()
    );
    server::database(&name).await.drop().await.unwrap();
}

#[test]
fn news_of_other_processes_are_polled_without_change_streams() {
    block_on(gets_news_of_another_process(|options| Options {
        change_streams: false,
        poll: Duration::from_millis(200),
        ..options
    }));
}

#[test]
fn news_of_other_processes_arrive_by_change_stream() {
    block_on(async {
        let hello = server::database("any").await.run_command(doc! { "hello": 1 }).await.unwrap();
        if !hello.contains_key("setName") && hello.get_str("msg").ok() != Some("isdbgrid") {
            eprintln!("skipped: a standalone server has no change streams");
            return;
        }
        // Polls are too rare to find them in time.
        let poll = Duration::from_secs(3600);
        gets_news_of_another_process(|options| Options { poll, ..options }).await;
    });
}

/// The position of the post that is reported next, for a topic.
async fn next_post(news: &mut NewsStream, topic: &str) -> u64 {
    let received = tokio::time::timeout(TIMEOUT, news.next()).await.expect("news arrive in time");
    let posted = received.expect("the news go on");
    assert_eq!(posted.key, key(topic));
    posted.last.position.get()
}

/// By MongoDB's documentation: the driver resumes once after an error with a label, or of the
/// connection; after others the application continues after its last token, and if that is too old
/// (286) or invalid (260, 280), with a new stream.
#[test]
fn change_streams_resume_after_errors() {
    block_on(async {
        let name = server::name();
        let Some(address) = plain_address(&name) else {
            eprintln!("skipped: {} has more than a host and a port, as a proxy needs", server::URI);
            return;
        };
        let proxy = Proxy::start(address).await;
        let listener = Mongo::open(Options {
            uri: zaqar_core::Secret::new(proxy.uri()),
            // Only when a stream has ended.
            poll: Duration::from_secs(3600),
            ..server::options(&name)
        })
        .await
        .unwrap();
        proxy.change_stream.play([
            Nothing(1),
            Post("a", 2),
            // The driver resumes.
            Error(10107, true),
            Post("a", 3),
            Break,
            Post("a", 4),
            // It does not after this one, and then there is no primary for a while.
            Error(11601, false),
            Error(13435, false),
            Error(13435, false),
            Error(13435, false),
            Post("b", 5),
            // The oplog is too short.
            Error(43, false),
            Error(286, false),
            Error(286, false),
            Nothing(70),
            Post("a", 71),
        ]);
        let mut news = listener.news().await.unwrap();
        for number in [2, 3, 4] {
            assert_eq!(next_post(&mut news, "a").await, number);
        }
        assert_eq!(next_post(&mut news, "b").await, 5);
        assert_eq!(next_post(&mut news, "a").await, 71);
        let resumed_after = [2, 3, 4, 4, 4, 4, 5, 5].map(Some);
        let opened = [&[None], &resumed_after[..], &[None]].concat();
        assert_eq!(proxy.change_stream.opened(), opened);
        server::database(&name).await.drop().await.unwrap();
    });
}
