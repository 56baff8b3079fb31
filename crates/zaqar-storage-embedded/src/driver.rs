//! The store: its threads, its locks, and how a request reaches the file.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{oneshot, watch};
use zaqar_core::storage::{Batch, Broadcaster, Guarded, NewsStream};
use zaqar_core::{Generation, MessageId, ProjectId, QueueKey, TaskGuard, Timestamp, storage};

use crate::checkpoint::Checkpointer;
use crate::directory::{DirectoryLock, FileIdentity};
use crate::due::Deadlines;
use crate::error::{Error, Sql, storage_error};
use crate::fair_queue::{Bounds, Cost, FairQueue, Refusal, Tenant};
use crate::health::{Facts, Health};
use crate::log_sync::LogSync;
use crate::posting::{PostInParts, ROWS};
use crate::read_limiter::ReadLimiter;
use crate::reader::Readers;
use crate::recovery::Past;
use crate::reserve::Reserve;
use crate::sequence::Start;
use crate::statements::Statements;
use crate::writer::{Helpers, Job, JobReceiver, WriterParts, job_of};
use crate::writer_state::WriterState;
use crate::{Options, Sync, directory, expiry_rows, recovery, schema};

/// When a caller should retry after the queue of changes was full.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Claims and delays that one request of a reader makes the writer end, about, and the number of
/// such requests.
const DUE_BUDGET: usize = 1024;
const DUE_ROUNDS: usize = 8;

/// The result of closing a store.
type CloseResult = Option<Result<(), Arc<rusqlite::Error>>>;

#[doc = include_str!("docs.md")]
#[derive(Clone)]
pub struct Embedded {
    inner: Arc<Inner>,
}

struct Inner {
    deadlines: Arc<Deadlines>,
    broadcaster: Arc<Broadcaster>,
    health: Arc<Health>,
    readers: Readers,
    read_limiter: Arc<ReadLimiter>,
    closing: AtomicBool,
    jobs: Arc<FairQueue<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
    end: watch::Receiver<CloseResult>,
}

/// The file, recovered and marked as open.
struct OpenFile {
    conn: Connection,
    start: Start,
    identity: FileIdentity,
    page_size: u32,
}

impl OpenFile {
    fn open(options: &Options, owner: &mut DirectoryLock) -> Result<Self, Error> {
        let past = Past {
            is_same_boot: owner.is_same_boot,
            // Both are written once a store is open.
            was_open: owner.was_open || Reserve::new(&options.path, options.reserve).exists(),
        };
        let recovered_bytes = recovery::check(options, past)?;
        let conn = schema::open_writer(options, |conn| {
            recovery::make_durable(conn, options, recovered_bytes)
        })?;
        directory::sync(&options.path)
            .map_err(|source| Error::Create { path: options.path.clone(), source })?;
        let file = schema::file(&options.path);
        let failed =
            |source: rusqlite::Error| Error::Open { path: file.clone(), source: source.into() };
        expiry_rows::index(&conn).map_err(failed)?;
        let start = Start::read(&conn).map_err(failed)?;
        let identity = FileIdentity::of(file.clone())
            .map_err(|source| Error::Open { path: file.clone(), source: source.into() })?;
        recovery::set_mark(&conn, options.sync).map_err(failed)?;
        owner.opened().map_err(|source| Error::Lock { path: options.path.join("lock"), source })?;
        let page_size = schema::page_size(&conn).map_err(failed)?;
        Ok(Self { conn, start, identity, page_size })
    }
}

impl Embedded {
    /// Opens a store, and creates it if its directory is empty or missing. Blocks for some
    /// milliseconds or, after a crash, as long as it takes to read the log, which has at most some
    /// 100 MiB. On a full disk it uses the space of the [reserve](Options::reserve), if there is
    /// one.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(options: Options) -> Result<Self, Error> {
        let reserve = Reserve::new(&options.path, options.reserve);
        let make_room = || reserve.release_if_allocated();
        let mut owner = directory::acquire(&options.path, &schema::file(&options.path), make_room)?;
        let opened = match OpenFile::open(&options, &mut owner) {
            Err(error) if error.is_disk_full() && make_room() => {
                tracing::warn!("the disk is full: the store is opened in the space of the reserve");
                OpenFile::open(&options, &mut owner)?
            }
            opened => opened?,
        };
        let OpenFile { mut conn, start, identity, page_size } = opened;
        let deadlines = Arc::new(Deadlines::default());
        deadlines.advance(start.seen);
        let health = Arc::new(Health::new(schema::file(&options.path), page_size));
        if let Err(error) = reserve.allocate() {
            tracing::warn!(%error, "the reserve cannot be allocated");
            health.disk_full();
        }
        let helpers = start_helpers(&options, &mut conn, &health)?;
        let broadcaster = Arc::new(Broadcaster::default());
        let bounds = Bounds { items: options.pending.max(1), bytes: options.pending_bytes };
        let jobs = Arc::new(FairQueue::new(bounds));
        let (ended, end) = watch::channel(None);
        let parts = WriterParts {
            start,
            deadlines: Arc::clone(&deadlines),
            broadcaster: Arc::clone(&broadcaster),
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
                broadcaster,
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

    /// The state of the store for operators: checkpoints, the log, and problems. Reads counters in
    /// memory, never waits, and works after the store was closed.
    pub fn facts(&self) -> Facts {
        self.inner.health.facts()
    }

    /// The time at which a request acts.
    pub(crate) fn effective_time(&self, now: Timestamp) -> Timestamp {
        self.inner.deadlines.advance(now)
    }

    /// Changes the file on behalf of the server itself, at the latest time that the store has seen.
    /// Returns once the change is durable as configured.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut WriterState<'_>) -> Sql<T> + Send + 'static,
    ) -> Result<T, storage::Error> {
        Requester { store: self, tenant: None }.write(work).await
    }

    /// Makes changes on behalf of a project. Projects are served in turn.
    pub(crate) fn requester(&self, project: &ProjectId) -> Requester<'_> {
        Requester { store: self, tenant: Some(project.clone()) }
    }

    /// Posts in several transactions, with changes of other projects between them.
    pub(crate) async fn post_in_parts(
        &self,
        key: QueueKey,
        assumed: Generation,
        batch: Batch,
    ) -> Result<Guarded<Vec<MessageId>>, storage::Error> {
        let requester = self.requester(&key.project);
        let (caller, answer) = oneshot::channel();
        let post = PostInParts::new(key, assumed, batch, Arc::clone(&self.inner.jobs), caller);
        requester.push(post.cost(), Box::new(post), answer).await
    }

    /// Reads one snapshot of the file, which contains all acknowledged changes.
    pub(crate) fn read<T>(
        &self,
        work: impl FnOnce(&Statements<'_>) -> Sql<T>,
    ) -> Result<T, storage::Error> {
        if self.is_closing() {
            return Err(storage::Error::Closed);
        }
        self.inner.readers.read(work).map_err(|error| {
            self.inner.health.record(&error);
            storage_error(Arc::new(error))
        })
    }

    /// As [`Self::read`], for a read of many rows, limited with fairness between projects.
    pub(crate) async fn read_many<T>(
        &self,
        project: &ProjectId,
        work: impl FnOnce(&Statements<'_>) -> Sql<T>,
    ) -> Result<T, storage::Error> {
        let permit = self.inner.read_limiter.acquire(project).await.map_err(rejection)?;
        let result = self.read(work);
        drop(permit);
        result
    }

    /// The health of the store.
    pub(crate) fn health(&self) -> &Health {
        &self.inner.health
    }

    /// Listens to posts from now on.
    pub(crate) fn listen(&self) -> Result<NewsStream, storage::Error> {
        self.inner.broadcaster.listen()
    }

    /// Waits until the writer has ended the claims and delays that are due at `now`, up to some
    /// thousands.
    pub(crate) async fn apply_due(&self, now: Timestamp) -> Result<(), storage::Error> {
        for _ in 0..DUE_ROUNDS {
            if !self.inner.deadlines.has_due(now) {
                break;
            }
            self.write(|state| state.end_due(DUE_BUDGET)).await?;
        }
        Ok(())
    }

    /// Whether messages of any queue have expired at `now` that are still counted.
    pub(crate) fn has_expired(&self, now: Timestamp) -> bool {
        self.inner.deadlines.has_expired(now)
    }

    /// Rejects new requests, finishes waiting ones and closes the file.
    pub(crate) async fn close_store(&self) -> Result<(), storage::Error> {
        self.inner.closing.store(true, Ordering::Release);
        self.inner.readers.clear();
        self.inner.jobs.close();
        self.inner.broadcaster.close();
        let mut end = self.inner.end.clone();
        let outcome = match end.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => return Err(storage::Error::unavailable("the writer has stopped")),
        };
        match outcome {
            Some(Err(error)) => Err(storage_error(error)),
            Some(Ok(())) | None => Ok(()),
        }
    }

    fn is_closing(&self) -> bool {
        self.inner.closing.load(Ordering::Acquire)
    }

    /// The error of a request if the writer is gone.
    fn writer_error(&self) -> storage::Error {
        if self.is_closing() {
            return storage::Error::Closed;
        }
        storage::Error::unavailable("the writer has stopped")
    }
}

/// A project, or the server itself, on whose behalf changes are made.
pub(crate) struct Requester<'s> {
    store: &'s Embedded,
    tenant: Tenant,
}

impl Requester<'_> {
    /// Changes the file at the latest time that the store has seen. Returns once the change is
    /// durable as configured.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut WriterState<'_>) -> Sql<T> + Send + 'static,
    ) -> Result<T, storage::Error> {
        self.submit(work, Cost::bytes(0), false).await
    }

    /// As [`Self::write`], for a change of so many rows of messages.
    pub(crate) async fn write_rows<T: Send + 'static>(
        &self,
        rows: usize,
        work: impl FnMut(&mut WriterState<'_>) -> Sql<T> + Send + 'static,
    ) -> Result<T, storage::Error> {
        let cost = Cost { turn: rows.saturating_mul(ROWS), ..Cost::bytes(0) };
        self.submit(work, cost, false).await
    }

    /// As [`Self::write`], for a change that adds so many bytes, or rows that stay.
    pub(crate) async fn write_bytes<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnMut(&mut WriterState<'_>) -> Sql<T> + Send + 'static,
    ) -> Result<T, storage::Error> {
        self.submit(work, Cost::bytes(bytes), true).await
    }

    async fn submit<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut WriterState<'_>) -> Sql<T> + Send + 'static,
        cost: Cost,
        grows: bool,
    ) -> Result<T, storage::Error> {
        let (job, answer) = job_of(work, grows);
        self.push(cost, job, answer).await
    }

    async fn push<T>(
        &self,
        cost: Cost,
        job: Box<dyn Job>,
        answer: JobReceiver<T>,
    ) -> Result<T, storage::Error> {
        if self.store.is_closing() {
            return Err(storage::Error::Closed);
        }
        self.store.inner.jobs.push(&self.tenant, cost, job).map_err(rejection)?;
        match answer.await {
            Ok(result) => result,
            Err(_) => Err(self.store.writer_error()),
        }
    }
}

const fn rejection(refusal: Refusal) -> storage::Error {
    match refusal {
        Refusal::Full => storage::Error::Overloaded { retry_after: RETRY_AFTER },
        // Without a writer no request can succeed any more, and the server ends.
        Refusal::Closed => storage::Error::Closed,
    }
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded").finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.jobs.close();
        self.broadcaster.close();
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
    owner: DirectoryLock,
    ended: &watch::Sender<CloseResult>,
    guard: TaskGuard,
) {
    // Also after a panic: then nothing else answers the waiting jobs.
    let abandon = AbandonOnDrop(Arc::clone(&parts.jobs));
    parts.run(&conn).stop();
    drop(abandon);
    let outcome = finish(conn);
    if let Err(error) = &outcome {
        tracing::warn!(%error, "the log cannot be copied into the file: it is recovered at the next start");
    }
    drop(owner);
    ended.send_replace(Some(outcome.map_err(Arc::new)));
    guard.finish();
}

/// Drops the waiting jobs of a writer that is gone.
struct AbandonOnDrop(Arc<FairQueue<Box<dyn Job>>>);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// Copies the whole log into the file, safe from a power cut in every mode.
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
    async fn each_mode_sets_its_sync_level() {
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

    /// Before 3.51.3, a checkpoint that raced a log restart could damage the file.
    #[test]
    fn sqlite_is_recent_and_syncs_data_only() {
        assert!(rusqlite::version_number() >= 3_051_003);
        let flags = option_env!("LIBSQLITE3_FLAGS").unwrap_or_default();
        assert!(flags.contains("-DHAVE_FDATASYNC=1"), "{flags}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_full_queue_of_changes_rejects_at_once() {
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
    async fn too_many_waiting_bytes_are_rejected_at_once() {
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
    async fn only_foreign_writes_are_detected() {
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

    /// A second owner is rejected although the lock file was removed, and the owner notices that
    /// its file is gone.
    #[tokio::test]
    async fn a_removed_file_is_noticed() {
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

    /// Reading statistics must not delete expired messages.
    #[tokio::test]
    async fn stats_write_nothing_before_expired_messages_are_swept() {
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
        assert_eq!((small.free, small.claimed), (3, 0), "claimed messages live longer");
        assert_eq!((large.free, large.claimed), (5000, 0));
        assert_eq!(setting(&store, "SELECT total_changes()").await, before);
        zaqar_storage_testkit::sweep(&store, time(400), 500).await;
        assert_eq!(store.stats(&key("small"), time(400)).await.unwrap().unwrap().free, 3);
        assert_eq!(store.stats(&key("large"), time(400)).await.unwrap().unwrap().free, 5000);
        assert_eq!(store.stats(&key("other"), time(400)).await.unwrap().unwrap().free, 0);
    }

    #[tokio::test]
    async fn purge_and_close_have_constant_cost() {
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
