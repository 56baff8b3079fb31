//! Damaged files: readable data is served, and the damage is reported.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test fails on whatever it does not expect")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use bytes::Bytes;
use rusqlite::Connection;
use tempfile::{TempDir, tempdir};
use zaqar_core::storage::{
    Batch, ClaimRequest, Claimed, Claims, Deletable, Error, Guarded, Heads, ListQuery, Messages,
    NewMessage, Queues, Upkeep,
};
use zaqar_core::{
    ClaimId, ClientId, Generation, Incarnation, Kind, MessageId, Payload, ProjectId, QueueKey,
    QueueName, Timestamp, Version,
};
use zaqar_storage_embedded::{Embedded, Options};

const NOW: Timestamp = Timestamp::from_millis(1_000_000_000_000);
const GENERATION: Generation =
    Generation { incarnation: Incarnation::new(1), version: Version::new(1) };

fn key(name: &str) -> QueueKey {
    QueueKey {
        project: ProjectId::new("p").unwrap(),
        kind: Kind::Queue,
        name: QueueName::new(name).unwrap(),
    }
}

async fn post(store: &Embedded, name: &str, count: usize) -> Vec<MessageId> {
    store.open(&key(name), GENERATION, NOW).await.unwrap();
    let payload = Payload::plain(Bytes::from(vec![b'1'; 1000]));
    let messages = vec![NewMessage { payload, ttl: 3600, delay: 0 }; count];
    let batch = Batch { request: 0, client: ClientId::new("c"), messages, notify: false };
    match store.post(&key(name), GENERATION, batch, NOW).await.unwrap() {
        Guarded::Done(ids) => ids,
        other => panic!("{other:?}"),
    }
}

async fn listed(store: &Embedded, name: &str) -> Vec<MessageId> {
    let query = ListQuery {
        after: None,
        limit: 100_000,
        hide: None,
        include_claimed: true,
        include_delayed: true,
    };
    let page = Messages::list(store, &key(name), &query, NOW).await.unwrap();
    page.messages.iter().map(|message| message.id).collect()
}

/// Sweeps until nothing is due; fails if that never happens.
async fn sweep(store: &Embedded, now: Timestamp) {
    for _ in 0..1000 {
        if !store.sweep(now, 500).await.unwrap().more {
            return;
        }
    }
    panic!("there is always more to sweep");
}

fn is_damage_reported(ping: Result<(), Error>) -> bool {
    matches!(&ping, Err(Error::Unavailable { source }) if source.to_string().contains("damaged"))
}

/// A closed store with `count` messages in `q`, in which one leaf page of a table is overwritten.
async fn damaged(table: &str, count: usize) -> (TempDir, Vec<MessageId>) {
    let directory = tempdir().unwrap();
    let store = Embedded::open(Options::new(directory.path())).unwrap();
    let ids = post(&store, "q", count).await;
    store.shut_down().await.unwrap();
    overwrite_leaf(directory.path(), table);
    (directory, ids)
}

fn overwrite_leaf(directory: &Path, table: &str) {
    let file = directory.join("zaqar.db");
    let conn = Connection::open(&file).unwrap();
    let leaves: Vec<u32> = conn
        .prepare("SELECT pageno FROM dbstat WHERE name = ?1 AND pagetype = 'leaf' ORDER BY path")
        .unwrap()
        .query_map([table], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert!(leaves.len() > 2, "{table} has {} leaves", leaves.len());
    let page_size: u32 = conn.query_row("PRAGMA page_size", [], |row| row.get(0)).unwrap();
    drop(conn);
    let mut file = OpenOptions::new().write(true).open(file).unwrap();
    file.seek(SeekFrom::Start(u64::from(leaves[1] - 1) * u64::from(page_size))).unwrap();
    file.write_all(&vec![0xa5; usize::try_from(page_size).unwrap()]).unwrap();
}

#[tokio::test]
async fn a_damaged_body_blocks_no_other_request() {
    let (directory, ids) = damaged("messages", 2000).await;
    let store = Embedded::open(Options::new(directory.path())).unwrap();
    store.ping().await.unwrap();
    // Their bodies are deleted by a later transaction, which meets the damage.
    store.delete_many(&key("q"), &ids[..1560], &Deletable::Any, NOW).await.unwrap();
    for round in 0..3 {
        post(&store, &format!("other-{round}"), 1).await;
    }
    assert!(is_damage_reported(store.ping().await));
    sweep(&store, NOW).await;
    sweep(&store, NOW.plus_secs(4000)).await;
    let posted = post(&store, "late", 3).await;
    assert_eq!(posted.len(), 3);
    store.shut_down().await.unwrap();
    let conn = Connection::open(directory.path().join("zaqar.db")).unwrap();
    let left: i64 = conn
        .query_row("SELECT count(*) FROM expiry WHERE number = 1", [], |row| row.get(0))
        .unwrap();
    assert_eq!(left, 0, "no row is swept again and again");
}

#[tokio::test]
async fn messages_behind_a_damaged_body_are_listed_and_claimed() {
    let (directory, ids) = damaged("messages", 100).await;
    let store = Embedded::open(Options::new(directory.path())).unwrap();
    let readable = listed(&store, "q").await;
    assert!((80..100).contains(&readable.len()), "one leaf of {} is lost", readable.len());
    assert!(is_damage_reported(store.ping().await));
    let request = ClaimRequest { grace: 60, ..ClaimRequest::new(ClaimId::new(5), 60, 90) };
    let Guarded::Done(Claimed::Messages { messages: claimed, .. }) =
        store.claim(&key("q"), GENERATION, &request, NOW).await.unwrap()
    else {
        panic!("no claim")
    };
    let claimed: Vec<_> = claimed.iter().map(|message| message.id).collect();
    assert_eq!(claimed, readable[..90.min(readable.len())]);
    let missing = ids.iter().find(|id| !readable.contains(id)).unwrap();
    store.delete(&key("q"), *missing, None, NOW).await.unwrap();
}

#[tokio::test]
async fn a_purge_skips_damaged_bodies() {
    let (directory, _) = damaged("messages", 2000).await;
    let store = Embedded::open(Options::new(directory.path())).unwrap();
    store.purge(&key("q"), NOW).await.unwrap();
    sweep(&store, NOW).await;
    assert!(is_damage_reported(store.ping().await));
    assert_eq!(listed(&store, "q").await, []);
    assert_eq!(post(&store, "q", 2).await, listed(&store, "q").await);
}

/// If the index of expiry is damaged nothing expires, but everything else works.
#[tokio::test]
async fn damaged_upkeep_is_suspended() {
    let (directory, ids) = damaged("expiry", 3000).await;
    let store = Embedded::open(Options::new(directory.path())).unwrap();
    let later = NOW.plus_secs(4000);
    sweep(&store, later).await;
    assert!(is_damage_reported(store.ping().await));
    assert_eq!(Messages::get(&store, &key("q"), &ids[..1], later).await.unwrap(), []);
    let row =
        zaqar_core::storage::QueueRow { generation: GENERATION, metadata: Default::default() };
    assert_eq!(Queues::create(&store, &key("new"), &row).await.unwrap(), None);
    assert_eq!(Queues::count(&store, &key("new").project, Kind::Queue).await.unwrap(), 1);
}

/// An unexpected row blocks no sweep, list or schedule.
#[tokio::test]
async fn foreign_rows_block_nothing() {
    let directory = tempdir().unwrap();
    let store = Embedded::open(Options::new(directory.path())).unwrap();
    let row =
        zaqar_core::storage::QueueRow { generation: GENERATION, metadata: Default::default() };
    for name in ["a", "b", "c"] {
        Queues::create(&store, &key(name), &row).await.unwrap();
    }
    let ids = post(&store, "q", 20).await;
    let request = ClaimRequest { grace: 60, ..ClaimRequest::new(ClaimId::new(5), 60, 5) };
    store.claim(&key("q"), GENERATION, &request, NOW).await.unwrap();
    store.shut_down().await.unwrap();
    let conn = Connection::open(directory.path().join("zaqar.db")).unwrap();
    conn.execute_batch(&format!(
        "UPDATE queues SET metadata = 'no JSON' WHERE name = 'b';
         UPDATE messages SET checksum = x'01' WHERE position = {};
         INSERT INTO claims VALUES (1, x'0102', 1, 1, 1, x'');
         INSERT INTO expiry VALUES (1, 1, 'text');
         INSERT INTO subscriptions VALUES (1, x'01', 'mailto:a', 60, 1, 1, 1, '{{}}', NULL);
         INSERT INTO leases VALUES (x'01', 1);",
        ids[7].position.get()
    ))
    .unwrap();
    drop(conn);
    let store = Embedded::open(Options::new(directory.path())).unwrap();
    let listed_queues =
        Queues::list(&store, &key("a").project, Kind::Queue, None, 2).await.unwrap();
    let names: Vec<_> = listed_queues.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a", "c"]);
    assert_eq!(listed(&store, "q").await.len(), 19);
    store.ping().await.unwrap();
    let later = NOW.plus_secs(61);
    sweep(&store, later).await;
    let stats = store.stats(&key("q"), later).await.unwrap().unwrap();
    assert_eq!((stats.free, stats.claimed), (20, 0), "the other claim has ended");
    let request = ClaimRequest { id: ClaimId::new(6), limit: 100, ..request };
    let claimed = store.claim(&key("q"), GENERATION, &request, later).await.unwrap();
    let Guarded::Done(Claimed::Messages { messages: claimed, .. }) = claimed else {
        panic!("no claim")
    };
    assert_eq!(claimed.len(), 19, "all but the unreadable one");
    sweep(&store, NOW.plus_secs(4000)).await;
    assert_eq!(post(&store, "q", 1).await.len(), 1);
}
