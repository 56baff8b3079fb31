//! The store: its threads, its lock, and how a request reaches the file.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::watch;
use zaqar_core::{ProjectId, TaskGuard, Timestamp, storage};

use crate::announcer::{Announcer, Listener};
use crate::checkpoint::Checkpointer;
use crate::directory::{Identity, Owner};
use crate::due::Deadlines;
use crate::error::{Error, Sql, refused};
use crate::health::{Facts, Health};
use crate::read_limiter::ReadLimiter;
use crate::reader::Readers;
use crate::reserve::Reserve;
use crate::scheduler::{Bounds, FairQueue, Refusal, Tenant};
use crate::statements::Statements;
use crate::sync::LogSync;
use crate::writer::{Helpers, Job, WriterParts, call};
use crate::writer_state::{Start, WriterState};
use crate::{Options, Sync, directory, recovery, schema};

/// When a full queue of changes is worth another try.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Claims and delays that one request of a reader lets the writer end, about, and how many such
/// requests it makes.
const DUE_BUDGET: usize = 1024;
const DUE_ROUNDS: usize = 8;

/// What became of the last steps of a store.
type End = Option<Result<(), Arc<rusqlite::Error>>>;

#[doc = include_str!("docs.md")]
#[derive(Clone)]
pub struct Embedded {
    inner: Arc<Inner>,
}

struct Inner {
    deadlines: Arc<Deadlines>,
    announcer: Arc<Announcer>,
    health: Arc<Health>,
    readers: Readers,
    read_limiter: Arc<ReadLimiter>,
    closing: AtomicBool,
    jobs: Arc<FairQueue<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
    end: watch::Receiver<End>,
}

impl Embedded {
    /// Opens a store; makes it if its directory is empty or missing. Blocks: some milliseconds, or
    /// as long as it takes to read the log that a crash left, at most some 100 MiB.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(options: Options) -> Result<Self, Error> {
        let mut owner = directory::own(&options.path, &schema::file(&options.path))?;
        let recovered_bytes = recovery::check(&options, owner.is_same_boot)?;
        let mut conn = schema::open_writer(&options, |conn| {
            recovery::make_durable(conn, &options, recovered_bytes)
        })?;
        directory::sync(&options.path)
            .map_err(|source| Error::Create { path: options.path.clone(), source })?;
        let failed = |source: rusqlite::Error| Error::Open {
            path: schema::file(&options.path),
            source: source.into(),
        };
        let start = Start::read(&conn).map_err(failed)?;
        let identity = Identity::of(schema::file(&options.path)).map_err(|source| Error::Open {
            path: schema::file(&options.path),
            source: source.into(),
        })?;
        recovery::set_mark(&conn, options.sync).map_err(failed)?;
        owner.opened().map_err(|source| Error::Lock { path: options.path.join("lock"), source })?;
        let deadlines = Arc::new(Deadlines::default());
        deadlines.at(start.seen);
        let health = Arc::new(Health::new(schema::file(&options.path)));
        let reserve = Reserve::new(&options.path, options.reserve);
        if let Err(error) = reserve.take() {
            tracing::warn!(%error, "the reserve cannot be taken");
            health.filled();
        }
        let helpers = start_helpers(&options, &mut conn, &health)?;
        let announcer = Arc::new(Announcer::default());
        let bounds = Bounds { items: options.pending.max(1), bytes: options.pending_bytes };
        let jobs = Arc::new(FairQueue::new(bounds));
        let (ended, end) = watch::channel(None);
        let parts = WriterParts {
            start,
            deadlines: Arc::clone(&deadlines),
            announcer: Arc::clone(&announcer),
            jobs: Arc::clone(&jobs),
            helpers,
            health: Arc::clone(&health),
            identity,
            reserve,
        };
        let guard = options.tasks.guard("embedded writer");
        let thread = std::thread::Builder::new()
            .name("zaqar-writer".to_owned())
            .spawn(move || write_until_closed(conn, parts, owner, &ended, guard))
            .map_err(|source| Error::Thread { source })?;
        Ok(Self {
            inner: Arc::new(Inner {
                deadlines,
                announcer,
                readers: Readers::new(options.path, Arc::clone(&health)),
                health,
                read_limiter: ReadLimiter::new(),
                closing: AtomicBool::new(false),
                jobs,
                thread: Some(thread),
                end,
            }),
        })
    }

    /// What an operator watches: checkpoints, the log, and what is wrong. Reads some numbers in
    /// memory; it never waits, and answers after the store was closed, too.
    pub fn facts(&self) -> Facts {
        self.inner.health.facts()
    }

    /// The time to act at.
    pub(crate) fn at(&self, now: Timestamp) -> Timestamp {
        self.inner.deadlines.at(now)
    }

    /// Changes the file for the server itself, in the time that the store has seen last; answers
    /// once the change is safe.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut WriterState<'_>) -> Sql<T> + Send + 'static,
    ) -> Result<T, storage::Error> {
        Requester { store: self, tenant: None }.write(work).await
    }

    /// For the requests of a project, which is served in turn with the others.
    pub(crate) fn of(&self, project: &ProjectId) -> Requester<'_> {
        Requester { store: self, tenant: Some(project.clone()) }
    }

    /// Reads one state of the file: the latest that was acknowledged, or later.
    pub(crate) fn read<T>(
        &self,
        work: impl FnOnce(&Statements<'_>) -> Sql<T>,
    ) -> Result<T, storage::Error> {
        if self.is_closing() {
            return Err(storage::Error::Closed);
        }
        self.inner.readers.read(work).map_err(|error| {
            self.inner.health.note(&error);
            refused(Arc::new(error))
        })
    }

    /// As [`Self::read`], for a read of many rows: projects are let in by turns.
    pub(crate) async fn read_many<T>(
        &self,
        project: &ProjectId,
        work: impl FnOnce(&Statements<'_>) -> Sql<T>,
    ) -> Result<T, storage::Error> {
        let permit = self.inner.read_limiter.acquire(project).await.map_err(refusal)?;
        let result = self.read(work);
        drop(permit);
        result
    }

    /// What is wrong with the store.
    pub(crate) fn health(&self) -> &Health {
        &self.inner.health
    }

    /// Listens to what is posted from now on.
    pub(crate) fn listen(&self) -> Result<Listener, storage::Error> {
        self.inner.announcer.listen().ok_or(storage::Error::Closed)
    }

    /// Waits until the claims and delays that are over at `now` are over in the file, too; not for
    /// more than some thousands.
    pub(crate) async fn settle_due(&self, now: Timestamp) -> Result<(), storage::Error> {
        for _ in 0..DUE_ROUNDS {
            if !self.inner.deadlines.has_due(now) {
                break;
            }
            self.write(|state| state.end_due(DUE_BUDGET)).await?;
        }
        Ok(())
    }

    /// Whether messages have expired at `now` that are still counted, of whatever queue.
    pub(crate) fn has_expired(&self, now: Timestamp) -> bool {
        self.inner.deadlines.has_expired(now)
    }

    /// Refuses what comes, finishes what is there and waits for the end.
    pub(crate) async fn shut(&self) -> Result<(), storage::Error> {
        self.inner.closing.store(true, Ordering::Release);
        self.inner.readers.clear();
        self.inner.jobs.close();
        self.inner.announcer.close();
        let mut end = self.inner.end.clone();
        let outcome = match end.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => return Err(storage::Error::unavailable("the writer has stopped")),
        };
        match outcome {
            Some(Err(error)) => Err(refused(error)),
            Some(Ok(())) | None => Ok(()),
        }
    }

    fn is_closing(&self) -> bool {
        self.inner.closing.load(Ordering::Acquire)
    }

    /// Why there is no writer.
    fn gone(&self) -> storage::Error {
        if self.is_closing() {
            return storage::Error::Closed;
        }
        storage::Error::unavailable("the writer has stopped")
    }
}

/// A project, or the server itself, that asks for changes.
pub(crate) struct Requester<'s> {
    store: &'s Embedded,
    tenant: Tenant,
}

impl Requester<'_> {
    /// Changes the file, in the time that the store has seen last; answers once the change is safe.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut WriterState<'_>) -> Sql<T> + Send + 'static,
    ) -> Result<T, storage::Error> {
        self.carry(work, Size::default()).await
    }

    /// As [`Self::write`], for a change that brings so many bytes, or rows that stay.
    pub(crate) async fn write_bytes<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnMut(&mut WriterState<'_>) -> Sql<T> + Send + 'static,
    ) -> Result<T, storage::Error> {
        self.carry(work, Size { bytes, grows: true }).await
    }

    async fn carry<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut WriterState<'_>) -> Sql<T> + Send + 'static,
        size: Size,
    ) -> Result<T, storage::Error> {
        if self.store.is_closing() {
            return Err(storage::Error::Closed);
        }
        let (job, answer) = call(work, size.grows);
        self.store.inner.jobs.put(&self.tenant, size.bytes, job).map_err(refusal)?;
        match answer.await {
            Ok(result) => result,
            Err(_) => Err(self.store.gone()),
        }
    }
}

const fn refusal(refusal: Refusal) -> storage::Error {
    match refusal {
        Refusal::Full => storage::Error::Overloaded { retry_after: RETRY_AFTER },
        // Without a writer nothing works again: the server ends.
        Refusal::Closed => storage::Error::Closed,
    }
}

/// What a change brings.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    bytes: usize,
    grows: bool,
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded").finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.jobs.close();
        self.announcer.close();
        self.readers.clear();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the writer panicked");
        }
    }
}

fn start_helpers(
    options: &Options,
    writer: &mut Connection,
    health: &Arc<Health>,
) -> Result<Helpers, Error> {
    let checkpointer = Checkpointer::start(options, writer, health)?;
    let log_sync = match options.sync {
        Sync::Interval(every) => Some(LogSync::start(options, every, health)?),
        Sync::Always | Sync::Never => None,
    };
    Ok(Helpers { checkpointer, log_sync })
}

fn write_until_closed(
    conn: Connection,
    parts: WriterParts,
    owner: Owner,
    ended: &watch::Sender<End>,
    guard: TaskGuard,
) {
    // Also when it panics: then nobody answers what waits.
    let abandon = Abandon(Arc::clone(&parts.jobs));
    parts.run(&conn).stop();
    drop(abandon);
    let outcome = finish(conn);
    if let Err(error) = &outcome {
        tracing::warn!(%error, "the log stays beside the file and is read at the next start");
    }
    drop(owner);
    ended.send_replace(Some(outcome.map_err(Arc::new)));
    guard.finish();
}

/// Drops what waits for a writer that is gone.
struct Abandon(Arc<FairQueue<Box<dyn Job>>>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// Leaves the whole store in the file, safe from a power cut in every mode.
fn finish(conn: Connection) -> Sql<()> {
    conn.execute_batch("PRAGMA synchronous = FULL")?;
    recovery::clear_mark(&conn)?;
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    conn.close().map_err(|(_, error)| error)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rusqlite::Connection;
    use zaqar_core::storage::{self, Claims, Heads, Messages, Upkeep};

    use crate::testing::{batch, generation, hold, key, request, store, time};
    use crate::{Embedded, Options, Sync};

    async fn setting(store: &Embedded, sql: &'static str) -> i64 {
        let read = move |conn: &Connection| conn.query_row(sql, [], |row| row.get(0));
        store.write(move |state| read(&state.conn)).await.unwrap()
    }

    #[tokio::test]
    async fn each_mode_syncs_as_it_says() {
        let modes =
            [(Sync::Always, 2), (Sync::Interval(Duration::from_secs(1)), 1), (Sync::Never, 0)];
        for (sync, level) in modes {
            let directory = tempfile::tempdir().unwrap();
            let options = Options { sync, ..Options::new(directory.path()) };
            let store = Embedded::open(options).unwrap();
            assert_eq!(setting(&store, "PRAGMA synchronous").await, level, "{sync:?}");
            assert_eq!(setting(&store, "PRAGMA wal_autocheckpoint").await, 0);
            let is_wal = "SELECT journal_mode = 'wal' FROM pragma_journal_mode";
            assert_eq!(setting(&store, is_wal).await, 1);
        }
    }

    /// Before 3.51.3 a checkpoint that met a new log could leave the file damaged.
    #[test]
    fn sqlite_is_recent_and_syncs_data_only() {
        assert!(rusqlite::version_number() >= 3_051_003);
        let flags = option_env!("LIBSQLITE3_FLAGS").unwrap_or_default();
        assert!(flags.contains("-DHAVE_FDATASYNC=1"), "{flags}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_full_queue_of_changes_refuses_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options { pending: 2, ..Options::new(directory.path()) };
        let store = Embedded::open(options).unwrap();
        store.open(&key("q"), generation(), time(0)).await.unwrap();
        let held = hold(&store);
        let q = key("q");
        let post = || store.post(&q, generation(), batch(1, 60), time(0));
        let (one, two, three, ()) = tokio::join!(post(), post(), post(), async { drop(held) });
        one.unwrap();
        two.unwrap();
        assert!(matches!(three, Err(storage::Error::Overloaded { .. })), "{three:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn too_many_waiting_bytes_are_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options { pending_bytes: 1000, ..Options::new(directory.path()) };
        let store = Embedded::open(options).unwrap();
        store.open(&key("q"), generation(), time(0)).await.unwrap();
        let held = hold(&store);
        let q = key("q");
        let post = |count| store.post(&q, generation(), batch(count, 60), time(0));
        let (one, two, ()) = tokio::join!(post(1), post(1), async { drop(held) });
        one.unwrap();
        assert!(matches!(two, Err(storage::Error::Overloaded { .. })), "{two:?}");
        post(9).await.unwrap();
    }

    #[tokio::test]
    async fn a_foreign_writer_is_noticed_and_our_own_work_is_not() {
        let (store, directory) = store();
        store.open(&key("q"), generation(), time(0)).await.unwrap();
        for _ in 0..300 {
            store.post(&key("q"), generation(), batch(100, 60), time(0)).await.unwrap();
            store.write(|state| state.conn.execute("nonsense", [])).await.unwrap_err();
        }
        store.sweep(time(100), 500).await.unwrap();
        assert_eq!(store.facts().foreign_writes, 0);
        let other = Connection::open(directory.path().join("zaqar.db")).unwrap();
        other.execute("UPDATE sequence SET position = position + 1000000000", []).unwrap();
        other.execute("UPDATE heads SET version = version + 1", []).unwrap();
        let position: i64 =
            other.query_row("SELECT position FROM sequence", [], |row| row.get(0)).unwrap();
        let now = generation();
        let version = zaqar_core::Version::new(now.version.get() + 1);
        let now = zaqar_core::Generation { version, ..now };
        let posted = store.post(&key("q"), now, batch(1, 60), time(0)).await.unwrap();
        let storage::Guarded::Done(ids) = posted else { panic!("{posted:?}") };
        assert!(ids[0].position.get() >= position.cast_unsigned());
        assert_eq!(store.facts().foreign_writes, 1);
    }

    /// A second owner cannot come in where the lock was removed, and the owner notices that its
    /// file is gone.
    #[tokio::test]
    async fn a_directory_that_is_taken_away_is_noticed() {
        let (store, directory) = store();
        std::fs::remove_file(directory.path().join("lock")).unwrap();
        let error = Embedded::open(Options::new(directory.path())).unwrap_err();
        assert!(matches!(error, crate::Error::InUse { .. }), "{error}");
        store.open(&key("q"), generation(), time(0)).await.unwrap();
        let away = directory.path().join("away");
        let file = directory.path().join("zaqar.db");
        std::fs::rename(&file, &away).unwrap();
        let posted = store.post(&key("q"), generation(), batch(1, 60), time(0)).await;
        assert!(matches!(posted, Err(storage::Error::Unavailable { .. })), "{posted:?}");
        store.ping().await.unwrap_err();
        std::fs::rename(&away, &file).unwrap();
        store.post(&key("q"), generation(), batch(1, 60), time(0)).await.unwrap();
        store.ping().await.unwrap();
    }

    /// The low findings of a review: each of these was a write of up to 1024 rows and a sync.
    #[tokio::test]
    async fn stats_write_nothing_while_messages_wait_to_be_swept() {
        let (store, _directory) = store();
        for name in ["small", "large", "other"] {
            store.open(&key(name), generation(), time(0)).await.unwrap();
            store.post(&key(name), generation(), batch(40, 60), time(0)).await.unwrap();
        }
        store.post(&key("small"), generation(), batch(3, 600), time(0)).await.unwrap();
        store.post(&key("large"), generation(), batch(5000, 600), time(0)).await.unwrap();
        store.claim(&key("small"), generation(), &request(1, 300), time(0)).await.unwrap();
        store.claim_release(&key("small"), zaqar_core::ClaimId::new(1), time(0)).await.unwrap();
        let before = setting(&store, "SELECT total_changes()").await;
        let small = store.stats(&key("small"), time(400)).await.unwrap().unwrap();
        let large = store.stats(&key("large"), time(400)).await.unwrap().unwrap();
        assert_eq!((small.free, small.claimed), (3, 0), "the claimed ones have lived longer");
        assert_eq!((large.free, large.claimed), (5000, 0));
        assert_eq!(setting(&store, "SELECT total_changes()").await, before);
        while store.sweep(time(400), 500).await.unwrap().more {}
        assert_eq!(store.stats(&key("small"), time(400)).await.unwrap().unwrap().free, 3);
        assert_eq!(store.stats(&key("large"), time(400)).await.unwrap().unwrap().free, 5000);
        assert_eq!(store.stats(&key("other"), time(400)).await.unwrap().unwrap().free, 0);
    }

    #[tokio::test]
    async fn purge_and_close_cost_the_same_whatever_a_queue_holds() {
        let (store, _directory) = store();
        let mut changes = Vec::new();
        for count in [1, 10_000] {
            store.open(&key("q"), generation(), time(0)).await.unwrap();
            for is_close in [false, true] {
                store.post(&key("q"), generation(), batch(count, 60), time(0)).await.unwrap();
                let before = setting(&store, "SELECT total_changes()").await;
                if is_close {
                    store.close(&key("q"), generation().incarnation).await.unwrap();
                } else {
                    store.purge(&key("q"), time(0)).await.unwrap();
                }
                changes.push(setting(&store, "SELECT total_changes()").await - before);
            }
        }
        assert_eq!(changes[..2], changes[2..]);
    }
}
