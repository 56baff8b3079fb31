//! Recovery after a process died: every state that a kill can leave is opened with all acknowledged
//! changes, and a store whose files are lost or damaged is rejected.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test fails on whatever it does not expect")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use rusqlite::Connection;
use tempfile::{TempDir, tempdir};
use zaqar_core::storage::{Batch, Guarded, Heads, ListQuery, Messages, NewMessage, Upkeep};
use zaqar_core::{
    ClientId, Generation, Incarnation, Kind, Payload, ProjectId, QueueKey, QueueName, Timestamp,
    Version,
};
use zaqar_storage_embedded::{Embedded, Error, Options};

const NOW: Timestamp = Timestamp::from_millis(1_000_000_000_000);
const GENERATION: Generation =
    Generation { incarnation: Incarnation::new(1), version: Version::new(1) };
/// The task of a child process, and its directory.
const TASK: &str = "ZAQAR_RECOVERY_TASK";

/// Opens a store. A process that another test starts has the lock of this one's, too, until it runs
/// its own program: so it is waited for.
#[expect(clippy::disallowed_methods, reason = "opening blocks, too")]
fn open(options: Options) -> Result<Embedded, Error> {
    for _ in 0..1000 {
        match Embedded::open(options.clone()) {
            Err(Error::InUse { .. }) => std::thread::sleep(Duration::from_millis(10)),
            other => return other,
        }
    }
    Embedded::open(options)
}

fn key() -> QueueKey {
    QueueKey {
        project: ProjectId::new("p").unwrap(),
        kind: Kind::Queue,
        name: QueueName::new("q").unwrap(),
    }
}

async fn post(store: &Embedded, bytes: usize) -> u64 {
    store.open(&key(), GENERATION, NOW).await.unwrap();
    let payload = Payload::plain(Bytes::from(vec![b'1'; bytes]));
    let messages = vec![NewMessage { payload, ttl: 3600, delay: 0 }];
    let batch = Batch { request: 0, client: ClientId::new("c"), messages, notify: false };
    match store.post(&key(), GENERATION, batch, NOW).await.unwrap() {
        Guarded::Done(ids) => ids[0].position.get(),
        other => panic!("{other:?}"),
    }
}

async fn positions(store: &Embedded) -> Vec<u64> {
    let query = ListQuery {
        after: None,
        limit: 100_000,
        hide: None,
        include_claimed: true,
        include_delayed: true,
    };
    let page = Messages::list(store, &key(), &query, NOW).await.unwrap();
    page.messages.iter().map(|message| message.id.position.get()).collect()
}

/// An action of a child before it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Post(u32),
    /// Copy everything into the file; the next change restarts the log.
    Restart,
    /// Copy everything into the file and truncate the log, as litestream does.
    Truncate,
    ShutDown,
}

impl Action {
    fn parse(text: &str) -> Self {
        match text {
            "restart" => Self::Restart,
            "truncate" => Self::Truncate,
            "shut-down" => Self::ShutDown,
            count => Self::Post(count.parse().unwrap()),
        }
    }
}

fn checkpoint(directory: &Path, mode: &str) {
    let conn = Connection::open(directory.join("zaqar.db")).unwrap();
    conn.busy_timeout(Duration::from_secs(10)).unwrap();
    let sql = format!("PRAGMA wal_checkpoint({mode})");
    // While the store itself copies the log, nobody else can, and SQLite does not wait for it.
    while conn.query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap() != 0 {
        std::thread::yield_now();
    }
}

/// Opens a store and executes the actions. Reports each acknowledged position.
#[expect(clippy::disallowed_methods, reason = "a process that waits to be killed")]
async fn execute(directory: &Path, actions: &str, mut report: impl FnMut(u64)) {
    let store = open(Options::new(directory)).unwrap();
    for action in actions.split(',').filter(|action| !action.is_empty()).map(Action::parse) {
        match action {
            Action::Post(count) => {
                for _ in 0..count {
                    report(post(&store, 1000).await);
                }
            }
            Action::Restart => checkpoint(directory, "RESTART"),
            Action::Truncate => checkpoint(directory, "TRUNCATE"),
            Action::ShutDown => store.shut_down().await.unwrap(),
        }
    }
    println!("done");
    if std::env::var(TASK).is_ok() {
        // The test kills it now.
        std::io::stdout().flush().unwrap();
        std::thread::sleep(Duration::from_secs(600));
    }
}

/// The child process of the tests below; without their variable it executes some actions without a
/// kill.
#[tokio::test]
async fn actions_of_a_child() {
    if let Ok(task) = std::env::var(TASK) {
        let (actions, directory) = task.split_once(':').unwrap();
        return execute(Path::new(directory), actions, |position| println!("at {position}")).await;
    }
    let directory = tempdir().unwrap();
    let mut acknowledged = Vec::new();
    execute(directory.path(), "3,restart,2,truncate,1", |position| acknowledged.push(position))
        .await;
    assert_eq!(positions(&open(Options::new(directory.path())).unwrap()).await, acknowledged);
}

/// Runs a child and kills it, once it is done or after a delay. Returns the positions that it
/// acknowledged.
#[expect(clippy::disallowed_methods, reason = "time passes outside of a runtime")]
fn run_and_kill(directory: &Path, actions: &str, after: Option<Duration>) -> Vec<u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "actions_of_a_child", "--nocapture"])
        .env(TASK, format!("{actions}:{}", directory.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut acknowledged = String::new();
    match after {
        Some(after) => std::thread::sleep(after),
        None => {
            while !acknowledged.ends_with("done\n") {
                assert_ne!(
                    output.read_line(&mut acknowledged).unwrap(),
                    0,
                    "it ended: {acknowledged}"
                );
            }
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    output.read_to_string(&mut acknowledged).unwrap();
    acknowledged
        .lines()
        .filter_map(|line| line.split_once("at "))
        .map(|(_, at)| at.parse().unwrap())
        .collect()
}

#[tokio::test]
async fn every_state_that_a_kill_leaves_is_opened_with_all_that_was_acknowledged() {
    for actions in [
        "",
        "1",
        "300",
        "restart",
        "truncate",
        "300,restart",
        "300,truncate",
        "300,restart,1",
        "300,truncate,1",
        "1,restart,300,restart,20",
        "700",
        "700,restart,3",
        "shut-down",
        "300,shut-down",
        "300,truncate,shut-down",
    ] {
        let directory = tempdir().unwrap();
        let mut acknowledged = Vec::new();
        // Twice: the second round begins with the state that the first has left.
        for _ in 0..2 {
            acknowledged.extend(run_and_kill(directory.path(), actions, None));
            let store = open(Options::new(directory.path())).expect(actions);
            assert_eq!(positions(&store).await, acknowledged, "{actions}");
            // Dropped, not shut down, before the second round.
        }
    }
}

#[tokio::test]
async fn a_store_can_be_opened_after_a_kill_at_any_moment() {
    let directory = tempdir().unwrap();
    let mut acknowledged = Vec::new();
    // On a slow machine more rounds, until enough was posted.
    for round in 0..500u64 {
        if round >= 30 && acknowledged.len() > 100 {
            break;
        }
        // Also while the store is being opened or shut down.
        let actions = if round % 3 == 0 { "20,shut-down" } else { "100000" };
        let after = Duration::from_millis(round * 37 % 211);
        acknowledged.extend(run_and_kill(directory.path(), actions, Some(after)));
        let store = open(Options::new(directory.path())).unwrap();
        let found = positions(&store).await;
        let missing: Vec<_> = acknowledged.iter().filter(|at| !found.contains(at)).collect();
        assert!(missing.is_empty(), "round {round}: {missing:?}");
        // Positions that were not reported were in flight.
        acknowledged = found;
    }
    assert!(acknowledged.len() > 100, "only {} were posted", acknowledged.len());
}

#[tokio::test]
async fn a_log_that_another_program_checkpointed_is_no_loss() {
    let directory = tempdir().unwrap();
    let acknowledged = run_and_kill(directory.path(), "50", None);
    let conn = Connection::open(directory.path().join("zaqar.db")).unwrap();
    let count: i64 = conn.query_row("SELECT count(*) FROM messages", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 50);
    drop(conn);
    assert!(!directory.path().join("zaqar.db-wal").exists(), "the last connection removes the log");
    assert_eq!(positions(&open(Options::new(directory.path())).unwrap()).await, acknowledged);
}

#[tokio::test]
async fn a_copy_of_an_open_store_is_opened() {
    let (directory, copy) = (tempdir().unwrap(), tempdir().unwrap());
    let store = open(Options::new(directory.path())).unwrap();
    let acknowledged = vec![post(&store, 10).await, post(&store, 10).await];
    let conn = Connection::open(directory.path().join("zaqar.db")).unwrap();
    let target = copy.path().join("zaqar.db");
    conn.execute("VACUUM INTO ?1", [target.to_str().unwrap()]).unwrap();
    assert_eq!(positions(&open(Options::new(copy.path())).unwrap()).await, acknowledged);
}

#[tokio::test]
async fn stores_of_earlier_formats_are_migrated() {
    const FROM_6: &str = "ALTER TABLE sequence DROP COLUMN indexed; \
        ALTER TABLE messages DROP COLUMN number;";
    const FROM_5: &str = "DROP TABLE arrivals; ALTER TABLE heads DROP COLUMN frozen; \
        ALTER TABLE heads DROP COLUMN leaves; ALTER TABLE heads DROP COLUMN arrival;";
    const FROM_4: &str = "DROP INDEX heads_hidden; \
        ALTER TABLE heads DROP COLUMN hidden_from; ALTER TABLE heads DROP COLUMN hidden_until;";
    const FROM_3: &str = "DROP TABLE open_mark;";
    let back = [FROM_6, FROM_5, FROM_4, FROM_3];
    for format in [5, 4, 3, 2] {
        let steps = back[..6 - format].concat();
        let directory = tempdir().unwrap();
        drop(open(Options::new(directory.path())).unwrap());
        let conn = Connection::open(directory.path().join("zaqar.db")).unwrap();
        conn.execute_batch(&format!("{steps} PRAGMA user_version = {format}")).unwrap();
        drop(conn);
        let acknowledged = run_and_kill(directory.path(), "2", None);
        let store = open(Options::new(directory.path())).unwrap();
        assert_eq!(positions(&store).await, acknowledged, "{format}");
    }
}

fn remove(path: &Path) {
    fs::remove_file(path).unwrap();
}

fn cut(path: &Path, bytes: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(bytes).unwrap();
}

fn overwrite(path: &Path, at: u64, with: &[u8]) {
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(with).unwrap();
}

/// A directory as a kill of a store with 100 messages leaves it: too few for a checkpoint, so the
/// whole log is of one round.
fn killed() -> TempDir {
    let directory = tempdir().unwrap();
    assert_eq!(run_and_kill(directory.path(), "100", None).len(), 100);
    directory
}

/// The disk may have any earlier state of the index when the system goes down.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_index_of_the_log_is_used_only_within_one_boot() {
    let directory = killed();
    let (log, lock) = (directory.path().join("zaqar.db-wal"), directory.path().join("lock"));
    cut(&log, log.metadata().unwrap().len() / 2);
    let error = open(Options::new(directory.path())).unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error}");
    let said = fs::read_to_string(&lock).unwrap();
    assert_eq!(said.lines().count(), 2, "{said}");
    fs::write(&lock, "1\nan earlier boot\n").unwrap();
    let store = open(Options::new(directory.path())).unwrap();
    let found = positions(&store).await.len();
    assert!((1..100).contains(&found), "{found}");
}

/// Afterwards the frames of an earlier process, damaged or not, are of another round.
#[tokio::test]
async fn an_accepted_loss_is_accepted_once() {
    let directory = killed();
    flip(&directory.path().join("zaqar.db-wal"));
    let options = Options { accept_loss: true, ..Options::new(directory.path()) };
    // A copy of the state that a kill right after the start leaves.
    let copy = tempdir().unwrap();
    let store = open(options).unwrap();
    for name in ["zaqar.db", "zaqar.db-wal"] {
        fs::copy(directory.path().join(name), copy.path().join(name)).unwrap();
    }
    let left = positions(&store).await;
    assert_eq!(positions(&open(Options::new(copy.path())).unwrap()).await, left);
}

fn flip(path: &Path) {
    let bytes = fs::read(path).unwrap();
    let at = bytes.len() / 2;
    overwrite(path, at as u64, &[!bytes[at]]);
}

#[tokio::test]
async fn lost_and_damaged_files_are_rejected_unless_the_loss_is_accepted() {
    type Damage = fn(&Path, &Path, &Path);
    let damages: [(&str, Damage); 10] = [
        ("no file", |file, _, _| remove(file)),
        ("an empty file", |file, _, _| cut(file, 0)),
        ("no log", |_, log, _| remove(log)),
        ("an empty log", |_, log, _| cut(log, 0)),
        ("a log without its end", |_, log, _| cut(log, log.metadata().unwrap().len() / 2)),
        ("a zeroed header", |_, log, _| overwrite(log, 0, &[0; 32])),
        ("a flipped bit", |_, log, _| flip(log)),
        ("a zeroed header after a power cut", |_, log, index| {
            overwrite(log, 0, &[0; 32]);
            remove(index);
        }),
        ("a flipped bit after a power cut", |_, log, index| {
            flip(log);
            overwrite(index, 0, &[0x55; 4096]);
        }),
        ("a zeroed piece after a power cut", |_, log, index| {
            overwrite(log, log.metadata().unwrap().len() / 2, &[0; 4096]);
            remove(index);
        }),
    ];
    for (what, damage) in damages {
        let directory = killed();
        let path = |name: &str| directory.path().join(name);
        damage(&path("zaqar.db"), &path("zaqar.db-wal"), &path("zaqar.db-shm"));
        let error = open(Options::new(directory.path())).expect_err(what);
        assert!(matches!(error, Error::Lost { .. }), "{what}: {error}");
        // It is rejected again, and was not changed.
        open(Options::new(directory.path())).expect_err(what);
        let options = Options { accept_loss: true, ..Options::new(directory.path()) };
        let store = open(options).expect(what);
        assert!(positions(&store).await.len() < 100, "{what}");
        post(&store, 10).await;
        let left = positions(&store).await;
        store.shut_down().await.unwrap();
        assert_eq!(positions(&open(Options::new(directory.path())).unwrap()).await, left);
    }
}

/// A store that was closed leaves its lock and its reserve.
#[tokio::test]
async fn a_store_that_was_open_is_not_replaced_by_an_empty_one() {
    type Removal = fn(&Path, &Path, &Path);
    let removals: [(&str, Removal); 4] = [
        ("no file", |_, _, file| remove(file)),
        ("an empty file", |_, _, file| cut(file, 0)),
        ("only the reserve", |lock, _, file| [lock, file].into_iter().for_each(remove)),
        ("only the lock", |_, reserve, file| [reserve, file].into_iter().for_each(remove)),
    ];
    for (what, removal) in removals {
        // Only Linux says which boot it is.
        if what == "only the lock" && !cfg!(target_os = "linux") {
            continue;
        }
        let directory = tempdir().unwrap();
        let store = open(Options::new(directory.path())).unwrap();
        post(&store, 10).await;
        store.shut_down().await.unwrap();
        drop(store);
        let path = |name: &str| directory.path().join(name);
        removal(&path("lock"), &path("reserve"), &path("zaqar.db"));
        for _ in 0..2 {
            let error = open(Options::new(directory.path())).expect_err(what);
            assert!(matches!(error, Error::Lost { .. }), "{what}: {error}");
        }
        let options = Options { accept_loss: true, ..Options::new(directory.path()) };
        let store = open(options).expect(what);
        post(&store, 10).await;
        store.shut_down().await.unwrap();
        drop(store);
        let store = open(Options::new(directory.path())).expect(what);
        assert_eq!(positions(&store).await.len(), 1, "{what}");
    }
}

/// What a kill can leave before a store was open for the first time.
#[tokio::test]
async fn a_store_that_was_never_open_is_created() {
    for files in [&[][..], &[("lock", "")], &[("lock", "123\n"), ("zaqar.db", "")]] {
        let directory = tempdir().unwrap();
        for (name, content) in files {
            fs::write(directory.path().join(name), content).unwrap();
        }
        let store = open(Options::new(directory.path())).unwrap();
        post(&store, 10).await;
    }
}
