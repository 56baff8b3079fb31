//! The index of expiry: messages of one life share an entry for each chunk.

use zaqar_core::storage::{Batch, ContentsMark, Deletable, Messages, MoveId, Moves, NewMessage};
use zaqar_core::{ClientId, Timestamp};
use zaqar_storage_redis::{Options, Redis};

use crate::servers::Server;
use crate::support::{Queue, head, message, now, open, options, rand};

fn key_of(queue: &Queue, end: &str) -> String {
    let head = head(queue);
    format!("{}{end}", &head[..head.len() - 1])
}

fn entries(server: &Server, queue: &Queue) -> usize {
    server.cli(&["ZCARD", &key_of(queue, "x")]).parse().expect("a number")
}

fn chunks(server: &Server, queue: &Queue) -> usize {
    let all = server.cli(&["--scan", "--pattern", &key_of(queue, "b:*")]);
    all.lines().filter(|key| !key.is_empty()).count()
}

fn lives(ttl: u64) -> NewMessage {
    NewMessage { ttl, ..message("x") }
}

async fn free(store: &Redis, queue: &Queue, at: Timestamp) -> u64 {
    store.stats(&queue.key, at).await.expect("it answers").expect("there is a head").free
}

async fn post_at(queue: &Queue, ttl: u64, at: Timestamp) {
    let (client, messages) = (ClientId::new("me"), vec![lives(ttl)]);
    let batch = Batch { request: rand(), client, messages, notify: true };
    let posted = queue.store.post(&queue.key, queue.generation, batch, at).await;
    posted.expect("it is stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_one_life_share_an_entry() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    for _ in 0..50 {
        queue.post(&["x"]).await;
    }
    for count in [7, 200, 700] {
        queue.try_post_new(vec![lives(3600); count]).await.unwrap();
    }
    assert_eq!(entries(&server, &queue), chunks(&server, &queue));
    queue.try_post_new(vec![lives(3600), lives(60), lives(3600), lives(70)]).await.unwrap();
    assert_eq!(entries(&server, &queue), chunks(&server, &queue) + 2, "others have their own");
}

/// However many messages were there: only the chunk that is open keeps its entry.
#[tokio::test(flavor = "multi_thread")]
async fn empty_chunks_have_no_entries() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let queue = Queue::new(&store, "q").await;
    for round in 0..8 {
        queue.try_post_new(vec![lives(3600); 100]).await.unwrap();
        let (claim, taken) = queue.try_claim(100).await.unwrap();
        let ids: Vec<_> = taken.iter().map(|message| message.id).collect();
        if round % 2 == 0 {
            for id in &ids {
                store.delete(&queue.key, *id, Some(claim), now()).await.unwrap();
            }
        } else {
            store.delete_many(&queue.key, &ids, &Deletable::Any, now()).await.unwrap();
        }
        assert_eq!((chunks(&server, &queue), entries(&server, &queue)), (0, 1));
    }
    // Its entry goes when it comes due, and the next message gets one.
    let later = now().plus_secs(3700);
    zaqar_storage_testkit::sweep(&store, later, 100).await;
    assert_eq!(entries(&server, &queue), 0);
    post_at(&queue, 60, later).await;
    assert_eq!(free(&store, &queue, later.plus_secs(59)).await, 1);
    assert_eq!(free(&store, &queue, later.plus_secs(60)).await, 0);
}

/// Records read by Redis, in commands.
fn reads(server: &Server) -> u64 {
    let stats = server.cli(&["INFO", "commandstats"]);
    let calls = |line: &str| line.split("calls=").nth(1)?.split(',').next()?.parse::<u64>().ok();
    let is_read =
        |line: &&str| line.starts_with("cmdstat_hmget") || line.starts_with("cmdstat_hget:");
    stats.lines().filter(is_read).filter_map(calls).sum()
}

/// A chunk is searched for what has expired, so few of its bodies are read.
#[tokio::test(flavor = "multi_thread")]
async fn expiry_reads_few_records() {
    let server = Server::start(&[]);
    let store = open(options(&server.uri())).await;
    let (queue, start) = (Queue::new(&store, "q").await, now());
    for n in 0..200 {
        post_at(&queue, 60, Timestamp::from_millis(start.as_millis() + n)).await;
    }
    for (millis, left) in [(150, 49), (199, 0)] {
        let at = Timestamp::from_millis(start.plus_secs(60).as_millis() + millis);
        let before = reads(&server);
        assert_eq!(free(&store, &queue, at).await, left);
        assert!(reads(&server) - before < 60, "{} reads", reads(&server) - before);
    }
}

/// A message that is posted after a queue's time was corrected expires before those with the wrong
/// time, which are earlier in its chunk.
#[tokio::test(flavor = "multi_thread")]
async fn messages_expire_in_time_after_a_wrong_clock() {
    let server = Server::start(&[]);
    let astray = open(options(&server.uri())).await;
    let skew = Some(std::time::Duration::from_secs(30));
    let strict = open(Options { max_clock_skew: skew, ..options(&server.uri()) }).await;
    let queue = Queue::new(&astray, "q").await;
    post_at(&queue, 60, now().plus_secs(3600)).await;
    let right = queue.by(&strict);
    let at = now();
    for _ in 0..3 {
        post_at(&right, 60, at).await;
    }
    assert_eq!(chunks(&server, &queue), 1);
    assert_eq!(free(&astray, &queue, at.plus_secs(50)).await, 4);
    assert_eq!(free(&astray, &queue, at.plus_secs(100)).await, 1);
    assert_eq!(free(&astray, &queue, at.plus_secs(3700)).await, 0);
}

/// A queue that moves takes what it has as before, in either layout.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_moves_keeps_its_entries() {
    let (from, to) = (Server::start(&[]), Server::start(&[]));
    let source = open(options(&from.uri())).await;
    let queue = Queue::new(&source, "q").await;
    queue.try_post_new(vec![lives(3600); 300]).await.unwrap();
    queue.try_post_new(vec![lives(60), lives(3600), lives(60)]).await.unwrap();
    queue.post(&["x"]).await;
    for (layout, own) in [(3, 2), (2, 304)] {
        let uri = format!("{}?dbid={layout}&layout={layout}", to.uri());
        let target = open(options(&uri)).await;
        let id = MoveId::new(rand());
        let head = source.freeze(&queue.key, id, now()).await.unwrap().expect("it is there");
        target.receive(&queue.key, id, head, now()).await.unwrap();
        let mut mark = Some(ContentsMark::START);
        while let Some(next) = mark {
            let part = source.export(&queue.key, id, next, 1000, now()).await.unwrap().unwrap();
            // The second call repeats the first.
            for _ in 0..2 {
                assert!(target.import(&queue.key, id, &part.contents, now()).await.unwrap());
            }
            mark = part.next;
        }
        source.thaw(&queue.key, id).await.unwrap();
        target.thaw(&queue.key, id).await.unwrap();
        let moved = queue.by(&target);
        let members = ["-n", &layout.to_string(), "ZRANGE", &key_of(&queue, "x"), "0", "-1"];
        let members = to.cli(&members);
        let positions = members.lines().filter(|member| member.parse::<u64>().is_ok());
        assert_eq!(positions.count(), own, "layout {layout}");
        assert_eq!(moved.all().await, queue.all().await);
        moved.post(&["later"]).await;
        for (secs, left) in [(50, 305), (70, 303), (3590, 303), (3700, 0)] {
            assert_eq!(free(&target, &moved, now().plus_secs(secs)).await, left, "{secs} s");
        }
    }
}
