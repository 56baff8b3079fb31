//! Tests that are specific to this store: its directory, its file, and what survives.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test fails on whatever it does not expect")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::Connection;
use tempfile::tempdir;
use zaqar_core::storage::{
    Batch, Claims, Deletable, Guarded, Heads, ListQuery, Messages, NewMessage, NewSubscription,
    Subscriptions, Upkeep,
};
use zaqar_core::{
    ClaimId, ClientId, Generation, Incarnation, Kind, MessageId, Payload, ProjectId, QueueKey,
    QueueName, SubscriptionId, Timestamp, Version,
};
use zaqar_storage_embedded::{Embedded, Error, Options, Sync};

const NOW: Timestamp = Timestamp::from_millis(1_000_000_000_000);

fn key(name: &str) -> QueueKey {
    QueueKey {
        project: ProjectId::new("p").expect("a project id"),
        kind: Kind::Queue,
        name: QueueName::new(name).expect("a queue name"),
    }
}

fn generation(incarnation: u64) -> Generation {
    Generation { incarnation: Incarnation::new(incarnation), version: Version::new(1) }
}

fn batch(count: usize, bytes: usize) -> Batch {
    let payload = Payload::plain(Bytes::from(vec![b'1'; bytes]));
    let messages = vec![NewMessage { payload, ttl: 3600, delay: 0 }; count];
    Batch { request: 0, client: ClientId::new("c"), messages, notify: true }
}

fn open(path: &Path) -> Embedded {
    Embedded::open(Options::new(path)).expect("the store opens")
}

async fn post(store: &Embedded, name: &str, batch: Batch) -> Vec<MessageId> {
    match store.post(&key(name), generation(1), batch, NOW).await.expect("the store posts") {
        Guarded::Done(ids) => ids,
        other => panic!("{other:?}"),
    }
}

async fn claim(store: &Embedded, name: &str, limit: usize) {
    let request = zaqar_core::storage::ClaimRequest {
        grace: 60,
        ..zaqar_core::storage::ClaimRequest::new(ClaimId::new(5), 60, limit)
    };
    store.claim(&key(name), generation(1), &request, NOW).await.expect("the store claims");
}

async fn all(store: &Embedded, name: &str) -> Vec<MessageId> {
    let query = ListQuery {
        after: None,
        limit: 100_000,
        hide: None,
        include_claimed: true,
        include_delayed: true,
    };
    let page = Messages::list(store, &key(name), &query, NOW).await.expect("the store lists");
    page.messages.iter().map(|message| message.id).collect()
}

async fn sweep(store: &Embedded) {
    zaqar_storage_testkit::sweep(store, NOW, 1000).await;
}

fn file_bytes(path: &Path) -> u64 {
    fs::metadata(path.join("zaqar.db")).expect("the file is there").len()
}

/// Copies the files of an open store, as a kill leaves them, without the locks.
fn copy_as_if_killed(from: &Path, to: &Path) {
    for name in ["zaqar.db", "zaqar.db-wal"] {
        fs::copy(from.join(name), to.join(name)).expect("a file is copied");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_new_store_is_readable_only_by_its_owner() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempdir().expect("a directory");
    let path = parent.path().join("data");
    let store = open(&path);
    store.open(&key("q"), generation(1), NOW).await.expect("a head");
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    for file in ["zaqar.db", "zaqar.db-wal", "zaqar.db-shm", "lock"] {
        assert_eq!(mode(&path.join(file)), 0o600, "{file}");
    }
}

#[tokio::test]
async fn a_dropped_store_keeps_everything() {
    let directory = tempdir().unwrap();
    for sync in [Sync::Always, Sync::Interval(Duration::from_secs(3600)), Sync::Never] {
        let path = directory.path().join(format!("{sync:?}"));
        let options = Options { sync, ..Options::new(&path) };
        let store = Embedded::open(options.clone()).unwrap();
        store.open(&key("q"), generation(1), NOW).await.unwrap();
        let ids = post(&store, "q", batch(3, 100)).await;
        claim(&store, "q", 1).await;
        drop(store);
        let store = Embedded::open(options).unwrap();
        assert_eq!(all(&store, "q").await, ids);
        let stats = store.stats(&key("q"), NOW).await.unwrap().unwrap();
        assert_eq!((stats.free, stats.claimed), (2, 1));
    }
}

#[tokio::test]
async fn a_killed_process_loses_nothing_that_was_acknowledged() {
    let (one, two) = (tempdir().unwrap(), tempdir().unwrap());
    let store = open(one.path());
    store.open(&key("q"), generation(1), NOW).await.unwrap();
    let mut ids = post(&store, "q", batch(100, 1000)).await;
    store.delete_many(&key("q"), &ids[..10], &Deletable::Any, NOW).await.unwrap();
    copy_as_if_killed(one.path(), two.path());
    let after = open(two.path());
    assert_eq!(all(&after, "q").await, ids.split_off(10));
}

#[tokio::test]
async fn a_shut_down_store_is_one_file() {
    let directory = tempdir().unwrap();
    let store = open(directory.path());
    store.open(&key("q"), generation(1), NOW).await.unwrap();
    let ids = post(&store, "q", batch(10, 100)).await;
    store.shut_down().await.unwrap();
    assert!(!directory.path().join("zaqar.db-wal").exists());
    let second = open(directory.path());
    assert_eq!(all(&second, "q").await, ids, "the first store is closed but not dropped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_accepted_before_closing_are_kept() {
    let directory = tempdir().unwrap();
    let store = open(directory.path());
    store.open(&key("q"), generation(1), NOW).await.unwrap();
    let posts: Vec<_> = (0..200)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(
                async move { store.post(&key("q"), generation(1), batch(1, 100), NOW).await },
            )
        })
        .collect();
    store.shut_down().await.unwrap();
    let mut acknowledged = Vec::new();
    for post in posts {
        match post.await.unwrap() {
            Ok(Guarded::Done(ids)) => acknowledged.extend(ids),
            Err(zaqar_core::storage::Error::Closed) => {}
            other => panic!("{other:?}"),
        }
    }
    acknowledged.sort();
    assert_eq!(all(&open(directory.path()), "q").await, acknowledged);
}

#[tokio::test]
async fn positions_are_not_reused_after_everything_was_deleted() {
    let directory = tempdir().unwrap();
    let store = open(directory.path());
    store.open(&key("q"), generation(1), NOW).await.unwrap();
    let ids = post(&store, "q", batch(10, 10)).await;
    store.delete_many(&key("q"), &ids, &Deletable::Any, NOW).await.unwrap();
    store.close(&key("q"), generation(1).incarnation).await.unwrap();
    sweep(&store).await;
    drop(store);
    let store = open(directory.path());
    store.open(&key("q"), generation(1), NOW).await.unwrap();
    assert!(post(&store, "q", batch(1, 10)).await[0].position > ids[9].position);
}

/// Clients can create and delete queues without limit: numbers have 63 bits, and no other counter
/// counts incarnations.
#[tokio::test]
async fn numbers_do_not_run_out() {
    let directory = tempdir().unwrap();
    drop(open(directory.path()));
    let used = (1i64 << 62) + 7;
    Connection::open(directory.path().join("zaqar.db"))
        .unwrap()
        .execute("UPDATE sequence SET number = ?1, position = ?1", [used])
        .unwrap();
    let store = open(directory.path());
    for _ in 0..100 {
        store.open(&key("q"), generation(1), NOW).await.unwrap();
        let ids = post(&store, "q", batch(1, 10)).await;
        assert_eq!(all(&store, "q").await, ids);
        store.close(&key("q"), generation(1).incarnation).await.unwrap();
    }
    sweep(&store).await;
    drop(store);
    let conn = Connection::open(directory.path().join("zaqar.db")).unwrap();
    for table in ["heads", "messages", "free", "expiry", "garbage"] {
        let sql = format!("SELECT count(*) FROM {table}");
        let rows: i64 = conn.query_row(&sql, [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 0, "{table}");
    }
}

#[tokio::test]
async fn space_is_reused_after_purge_and_close() {
    let directory = tempdir().unwrap();
    let options = Options { sync: Sync::Never, ..Options::new(directory.path()) };
    let store = Embedded::open(options.clone()).unwrap();
    for round in 0..4 {
        store.open(&key("q"), generation(1), NOW).await.unwrap();
        post(&store, "q", batch(5000, 1000)).await;
        claim(&store, "q", 1000).await;
        match round {
            0 | 1 => store.purge(&key("q"), NOW).await.unwrap(),
            _ => drop(store.close(&key("q"), generation(1).incarnation).await.unwrap()),
        }
        assert_eq!(all(&store, "q").await, []);
        sweep(&store).await;
    }
    store.shut_down().await.unwrap();
    let bytes = file_bytes(directory.path());
    assert!(bytes < 9_000_000, "4 times 5 MB were posted, the file has {bytes} bytes");
}

#[tokio::test]
async fn a_file_with_many_free_pages_shrinks() {
    let directory = tempdir().unwrap();
    let options = Options { sync: Sync::Never, ..Options::new(directory.path()) };
    let store = Embedded::open(options.clone()).unwrap();
    store.open(&key("large"), generation(1), NOW).await.unwrap();
    store.open(&key("kept"), generation(1), NOW).await.unwrap();
    let mut kept = Vec::new();
    for _ in 0..80 {
        post(&store, "large", batch(10, 100_000)).await;
        kept.extend(post(&store, "kept", batch(10, 1000)).await);
    }
    store.close(&key("large"), generation(1).incarnation).await.unwrap();
    sweep(&store).await;
    assert_eq!(all(&store, "kept").await, kept);
    store.shut_down().await.unwrap();
    let bytes = file_bytes(directory.path());
    assert!(bytes < 40_000_000, "of 80 MB are 1 MB left, the file has {bytes} bytes");
}

/// A deletion is acknowledged before the body is deleted; if the process dies in between, the body
/// is deleted later.
#[tokio::test]
async fn bodies_deleted_before_a_kill_are_removed_when_they_expire() {
    let (one, two) = (tempdir().unwrap(), tempdir().unwrap());
    let store = open(one.path());
    store.open(&key("q"), generation(1), NOW).await.unwrap();
    let ids = post(&store, "q", batch(100, 1000)).await;
    store.delete_many(&key("q"), &ids[1..], &Deletable::Any, NOW).await.unwrap();
    copy_as_if_killed(one.path(), two.path());
    let after = open(two.path());
    assert_eq!(all(&after, "q").await, ids[..1]);
    zaqar_storage_testkit::sweep(&after, NOW.plus_secs(3600), 10).await;
    after.shut_down().await.unwrap();
    let conn = Connection::open(two.path().join("zaqar.db")).unwrap();
    for table in ["messages", "free", "expiry"] {
        let sql = format!("SELECT count(*) FROM {table}");
        let rows: i64 = conn.query_row(&sql, [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 0, "{table}");
    }
}

/// A store that an earlier release has created keeps its pages of 8 KiB.
#[tokio::test]
async fn an_existing_store_keeps_the_size_of_its_pages() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("zaqar.db");
    let size = || -> i64 {
        let conn = Connection::open(&file).unwrap();
        conn.query_row("PRAGMA page_size", [], |row| row.get(0)).unwrap()
    };
    drop(open(directory.path()));
    assert_eq!(size(), 4096);
    Connection::open(&file)
        .unwrap()
        .execute_batch("PRAGMA journal_mode = DELETE; PRAGMA page_size = 8192; VACUUM")
        .unwrap();
    let store = open(directory.path());
    store.open(&key("q"), generation(1), NOW).await.unwrap();
    let before = store.facts().log_bytes;
    post(&store, "q", batch(20, 1000)).await;
    let written = store.facts().log_bytes - before;
    assert!(written > 0 && written.is_multiple_of(8192 + 24), "{written} bytes");
    store.shut_down().await.unwrap();
    assert_eq!(size(), 8192);
    let (copy, restored) = (directory.path().join("copy.db"), directory.path().join("restored"));
    zaqar_storage_embedded::back_up(directory.path(), &copy).unwrap();
    zaqar_storage_embedded::restore(&copy, &restored, false).unwrap();
    assert_eq!(zaqar_storage_embedded::check(&restored).unwrap().messages, 20);
    assert_eq!(open(&restored).facts().log_bytes % (8192 + 24), 0);
}

/// A log that is left where the file was lost is not applied to a restored one.
#[tokio::test]
async fn a_log_of_a_lost_file_is_put_away_by_a_restore() {
    let (one, two) = (tempdir().unwrap(), tempdir().unwrap());
    let store = open(one.path());
    store.open(&key("q"), generation(1), NOW).await.unwrap();
    let ids = post(&store, "q", batch(100, 1000)).await;
    let copy = one.path().join("copy.db");
    zaqar_storage_embedded::back_up(one.path(), &copy).unwrap();
    store.open(&key("other"), generation(1), NOW).await.unwrap();
    post(&store, "other", batch(300, 1000)).await;
    store.delete_many(&key("q"), &ids[1..], &Deletable::Any, NOW).await.unwrap();
    copy_as_if_killed(one.path(), two.path());
    fs::remove_file(two.path().join("zaqar.db")).unwrap();
    let restored = zaqar_storage_embedded::restore(&copy, two.path(), false).unwrap();
    assert_eq!(restored.messages, 100);
    assert!(two.path().join("zaqar.db-wal.replaced").exists());
    assert!(!two.path().join("zaqar.db.replaced").exists());
    let after = open(two.path());
    assert_eq!(all(&after, "q").await, ids);
    assert_eq!(after.generation(&key("other")).await.unwrap(), None);
    after.shut_down().await.unwrap();
    assert_eq!(zaqar_storage_embedded::check(two.path()).unwrap().messages, 100);
}

/// A process that dies in the middle of a restore leaves no store that seems to be new.
#[tokio::test]
async fn a_restore_that_was_interrupted_is_told() {
    let directory = tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let store = open(directory.path());
    store.open(&key("q"), generation(1), NOW).await.unwrap();
    let ids = post(&store, "q", batch(3, 1000)).await;
    store.shut_down().await.unwrap();
    drop(store);
    let copy = path("copy.db");
    zaqar_storage_embedded::back_up(directory.path(), &copy).unwrap();
    // What it leaves after it has put away the store.
    fs::copy(&copy, path("zaqar.db.partial")).unwrap();
    fs::rename(path("zaqar.db"), path("zaqar.db.replaced")).unwrap();
    let error = Embedded::open(Options::new(directory.path())).unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error:?}");
    zaqar_storage_embedded::restore(&copy, directory.path(), false).unwrap();
    assert!(!path("zaqar.db.partial").exists());
    assert_eq!(all(&open(directory.path()), "q").await, ids);
}

#[tokio::test]
async fn the_log_stays_bounded() {
    let directory = tempdir().unwrap();
    let options = Options { sync: Sync::Never, ..Options::new(directory.path()) };
    let store = Embedded::open(options).unwrap();
    store.open(&key("q"), generation(1), NOW).await.unwrap();
    for _ in 0..200 {
        post(&store, "q", batch(10, 100_000)).await;
    }
    let log = fs::metadata(directory.path().join("zaqar.db-wal")).unwrap().len();
    assert!(log < 128 << 20, "200 MB were posted, the log has {log} bytes");
}

/// A post to a queue with 10 000 subscriptions writes the pages that one with a single one does.
#[tokio::test]
async fn a_post_writes_the_same_with_many_subscriptions() {
    let directory = tempdir().unwrap();
    let options = Options { sync: Sync::Never, ..Options::new(directory.path()) };
    let store = Embedded::open(options).unwrap();
    store.open(&key("q"), generation(1), NOW).await.unwrap();
    let conn = Connection::open(directory.path().join("zaqar.db")).unwrap();
    let posted = async || {
        let empties_log = "PRAGMA wal_checkpoint(TRUNCATE)";
        let is_busy: i64 = conn.query_row(empties_log, [], |row| row.get(0)).unwrap();
        assert_eq!(is_busy, 0);
        post(&store, "q", batch(2, 100)).await;
        fs::metadata(directory.path().join("zaqar.db-wal")).unwrap().len()
    };
    let subscribe = async |number: u128| {
        let new = NewSubscription {
            id: SubscriptionId::new(number),
            subscriber: format!("http://example.com/{number}"),
            ttl: 3600,
            options: "{}".to_owned(),
            confirmed: false,
            lease: None,
        };
        store.subscribe(&key("q"), generation(1), &new, NOW).await.unwrap();
    };
    subscribe(1).await;
    let with_one = posted().await;
    for number in 2..=10_000 {
        subscribe(number).await;
    }
    let with_many = posted().await;
    // One more page may be written where one of the tables splits one.
    assert!(with_many <= with_one + 2 * 4120, "{with_many} bytes and {with_one}");
}

#[tokio::test]
async fn subscriptions_outlive_a_purge_and_end_with_the_queue() {
    let directory = tempdir().unwrap();
    let store = open(directory.path());
    store.open(&key("q"), generation(1), NOW).await.unwrap();
    let new = NewSubscription {
        id: SubscriptionId::new(1),
        subscriber: "http://example.com".to_owned(),
        ttl: 3600,
        options: "{}".to_owned(),
        confirmed: true,
        lease: None,
    };
    store.subscribe(&key("q"), generation(1), &new, NOW).await.unwrap();
    store.purge(&key("q"), NOW).await.unwrap();
    assert_eq!(store.subscriptions(&key("q"), None, 10, NOW).await.unwrap().len(), 1);
    store.close(&key("q"), generation(1).incarnation).await.unwrap();
    store.open(&key("q"), generation(2), NOW).await.unwrap();
    assert_eq!(store.subscriptions(&key("q"), None, 10, NOW).await.unwrap(), []);
}

#[test]
fn a_second_owner_is_rejected() {
    let directory = tempdir().unwrap();
    let store = open(directory.path());
    let error = Embedded::open(Options::new(directory.path())).unwrap_err();
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    assert!(matches!(error, Error::InUse { .. }));
    drop(store);
    open(directory.path());
}

/// The file of an earlier release, with pages of 8 KiB.
#[tokio::test]
async fn a_file_of_format_4_is_migrated() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("zaqar.db");
    Connection::open(&file).unwrap().execute_batch(include_str!("format-4.sql")).unwrap();
    assert_eq!(zaqar_storage_embedded::check(directory.path()).unwrap().format, 4);
    let store = open(directory.path());
    let now = Timestamp::from_millis(1_700_000_000_000);
    let queue = |name: &str| QueueKey { project: ProjectId::new("soak").unwrap(), ..key(name) };
    let mut total = (0, 0);
    for name in ["q0", "q1", "q2"] {
        let stats = store.stats(&queue(name), now).await.unwrap().unwrap();
        total = (total.0 + stats.free, total.1 + stats.claimed);
    }
    assert_eq!(total, (32, 3));
    let posted = store.post(&queue("q0"), generation(1), batch(300, 10), now).await.unwrap();
    let Guarded::Done(ids) = posted else { panic!("{posted:?}") };
    let page = Messages::get(&store, &queue("q0"), &ids[299..], now).await.unwrap();
    assert_eq!(page[0].payload.bytes.len(), 10);
    assert_eq!(zaqar_storage_embedded::check(directory.path()).unwrap().messages, 335);
    let copy = tempdir().unwrap();
    copy_as_if_killed(directory.path(), copy.path());
    for (directory, store) in [(directory.path(), store.clone()), (copy.path(), open(copy.path()))]
    {
        let later = now.plus_secs(100_000);
        zaqar_storage_testkit::sweep(&store, later, 1000).await;
        assert_eq!(zaqar_storage_embedded::check(directory).unwrap().messages, 0);
        let conn = Connection::open(directory.join("zaqar.db")).unwrap();
        let count = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(count("SELECT count(*) FROM messages"), 0);
        assert_eq!(count("SELECT count(*) FROM expiry"), 0);
        assert_eq!((count("PRAGMA page_size"), count("PRAGMA user_version")), (8192, 6));
    }
}

#[test]
fn a_newer_format_is_rejected() {
    let directory = tempdir().unwrap();
    drop(open(directory.path()));
    let conn = Connection::open(directory.path().join("zaqar.db")).unwrap();
    conn.execute_batch("PRAGMA user_version = 1000").unwrap();
    drop(conn);
    let error = Embedded::open(Options::new(directory.path())).unwrap_err();
    assert!(matches!(error, Error::Newer { found: 1000, .. }), "{error}");
}

#[test]
fn the_database_of_another_program_is_rejected_unchanged() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("zaqar.db");
    Connection::open(&file).unwrap().execute_batch("CREATE TABLE theirs (a)").unwrap();
    let before = fs::read(&file).unwrap();
    let error = Embedded::open(Options::new(directory.path())).unwrap_err();
    assert!(matches!(error, Error::Foreign { .. }), "{error}");
    assert_eq!(fs::read(&file).unwrap(), before);
}

#[test]
fn a_damaged_file_is_rejected() {
    let directory = tempdir().unwrap();
    fs::write(directory.path().join("zaqar.db"), "no database, but longer than nothing").unwrap();
    let error = Embedded::open(Options::new(directory.path())).unwrap_err();
    assert!(matches!(error, Error::Open { .. }), "{error}");
}

#[test]
fn a_file_instead_of_a_directory_is_rejected() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "").unwrap();
    let error = Embedded::open(Options::new(&path)).unwrap_err();
    assert!(matches!(error, Error::NotADirectory { .. }), "{error}");
    let error = Embedded::open(Options::new(path.join("below"))).unwrap_err();
    assert!(matches!(error, Error::Create { .. }), "{error}");
}

#[test]
fn missing_directories_are_created() {
    let directory = tempdir().unwrap();
    drop(open(&directory.path().join("a/b/c")));
    assert!(directory.path().join("a/b/c/zaqar.db").exists());
}
