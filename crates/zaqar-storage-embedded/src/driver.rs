//! The store: its threads, its lock, and how a request reaches the file.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::watch;
use zaqar_core::{Timestamp, storage};

use crate::checkpoint::Checkpointer;
use crate::due::Outlook;
use crate::error::{Error, Sql, refused, uncommitted};
use crate::ledger::{Ledger, Start};
use crate::news::{Bulletin, Listener};
use crate::reader::Readers;
use crate::room::{Room, Weight};
use crate::statements::Statements;
use crate::sync::LogSync;
use crate::writer::{Aides, Duties, Job, call};
use crate::{Options, Sync, directory, schema};

/// When a full queue of changes is worth another try.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Claims and delays that one request of a reader lets the writer end, about, and how many such requests it makes.
const TURNS: usize = 1024;
const TURN_ROUNDS: usize = 8;

/// What became of the last steps of a store.
type End = Option<Result<(), Arc<rusqlite::Error>>>;

#[doc = include_str!("docs.md")]
#[derive(Clone)]
pub struct Embedded {
    inner: Arc<Inner>,
}

struct Inner {
    outlook: Arc<Outlook>,
    bulletin: Arc<Bulletin>,
    readers: Readers,
    room: Arc<Room>,
    closing: Arc<AtomicBool>,
    /// `None` only while it is dropped.
    jobs: Option<SyncSender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
    end: watch::Receiver<End>,
}

impl Embedded {
    /// Opens a store; makes it if its directory is empty or missing. Blocks: some milliseconds, or as long as it takes to read the log
    /// that a crash left, at most some 100 MiB.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(options: Options) -> Result<Self, Error> {
        let lock = directory::own(&options.path)?;
        let mut conn = schema::open_writer(&options)?;
        directory::sync(&options.path)
            .map_err(|source| Error::Create { path: options.path.clone(), source })?;
        let start = Start::read(&conn).map_err(|source| Error::Open {
            path: schema::file(&options.path),
            source: source.into(),
        })?;
        let outlook = Arc::new(Outlook::default());
        outlook.at(start.seen);
        let aides = start_aides(&options, &mut conn)?;
        let bulletin = Arc::new(Bulletin::default());
        let closing = Arc::new(AtomicBool::new(false));
        let (jobs, waiting) = sync_channel(options.pending.max(1));
        let (ended, end) = watch::channel(None);
        let duties = Duties {
            start,
            outlook: Arc::clone(&outlook),
            bulletin: Arc::clone(&bulletin),
            jobs: waiting,
            closing: Arc::clone(&closing),
            aides,
        };
        let thread = std::thread::Builder::new()
            .name("zaqar-writer".to_owned())
            .spawn(move || write_until_closed(conn, duties, lock, &ended))
            .map_err(|source| Error::Thread { source })?;
        Ok(Self {
            inner: Arc::new(Inner {
                outlook,
                bulletin,
                readers: Readers::new(options.path),
                room: Room::new(options.pending_bytes),
                closing,
                jobs: Some(jobs),
                thread: Some(thread),
                end,
            }),
        })
    }

    /// The time to act at.
    pub(crate) fn at(&self, now: Timestamp) -> Timestamp {
        self.inner.outlook.at(now)
    }

    /// Changes the file, in the time that the store has seen last; answers once the change is safe.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut Ledger<'_>) -> Sql<T> + Send + 'static,
    ) -> Result<T, storage::Error> {
        self.carry(work, None).await
    }

    /// As [`Self::write`], for a change that brings so many bytes with it.
    pub(crate) async fn write_bytes<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnMut(&mut Ledger<'_>) -> Sql<T> + Send + 'static,
    ) -> Result<T, storage::Error> {
        let weight = self.inner.room.take(bytes);
        let weight = weight.ok_or(storage::Error::Overloaded { retry_after: RETRY_AFTER })?;
        self.carry(work, Some(weight)).await
    }

    async fn carry<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut Ledger<'_>) -> Sql<T> + Send + 'static,
        weight: Option<Weight>,
    ) -> Result<T, storage::Error> {
        let (job, answer) = call(work, weight);
        self.send(job)?;
        match answer.await {
            Ok(result) => result,
            Err(_) => Err(self.gone()),
        }
    }

    /// Reads one state of the file: the latest that was acknowledged, or later.
    pub(crate) fn read<T>(
        &self,
        work: impl FnOnce(&Statements<'_>) -> Sql<T>,
    ) -> Result<T, storage::Error> {
        if self.is_closing() {
            return Err(storage::Error::Closed);
        }
        self.inner.readers.read(work).map_err(|error| refused(Arc::new(error)))
    }

    /// Listens to what is posted from now on.
    pub(crate) fn listen(&self) -> Result<Listener, storage::Error> {
        self.inner.bulletin.listen().ok_or(storage::Error::Closed)
    }

    /// Waits until the claims and delays that are over at `now` are over in the file, too; not for more than some thousands.
    pub(crate) async fn settle_turns(&self, now: Timestamp) -> Result<(), storage::Error> {
        for _ in 0..TURN_ROUNDS {
            if !self.inner.outlook.has_turns(now) {
                break;
            }
            self.write(|ledger| ledger.take_turns(TURNS)).await?;
        }
        Ok(())
    }

    /// Waits until some of the messages that have expired at `now` are not counted any more.
    pub(crate) async fn settle_expired(&self, now: Timestamp) -> Result<(), storage::Error> {
        if self.inner.outlook.has_expired(now) {
            self.write(|ledger| ledger.remove_expired(TURNS)).await?;
        }
        Ok(())
    }

    /// Refuses what comes, finishes what is there and waits for the end.
    pub(crate) async fn shut(&self) -> Result<(), storage::Error> {
        self.inner.closing.store(true, Ordering::Release);
        self.inner.readers.clear();
        let (job, _) = call(|_| Ok(()), None);
        if let Some(jobs) = &self.inner.jobs {
            // It only wakes the writer; if there is no room it is awake, if it is gone it has ended.
            drop(jobs.try_send(job));
        }
        self.inner.bulletin.close();
        let mut end = self.inner.end.clone();
        let outcome = match end.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => return Err(storage::Error::unavailable("the writer has stopped")),
        };
        match outcome {
            Some(Err(error)) => Err(uncommitted(error)),
            Some(Ok(())) | None => Ok(()),
        }
    }

    fn send(&self, job: Box<dyn Job>) -> Result<(), storage::Error> {
        if self.is_closing() {
            return Err(storage::Error::Closed);
        }
        let Some(jobs) = &self.inner.jobs else { return Err(storage::Error::Closed) };
        jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => storage::Error::Overloaded { retry_after: RETRY_AFTER },
            TrySendError::Disconnected(_) => self.gone(),
        })
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

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded").finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.jobs = None;
        self.bulletin.close();
        self.readers.clear();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the writer panicked");
        }
    }
}

fn start_aides(options: &Options, writer: &mut Connection) -> Result<Aides, Error> {
    let checkpointer = Checkpointer::start(options, writer)?;
    let log_sync = match options.sync {
        Sync::Interval(every) => Some(LogSync::start(&options.path, every)?),
        Sync::Always | Sync::Never => None,
    };
    Ok(Aides { checkpointer, log_sync })
}

fn write_until_closed(conn: Connection, duties: Duties, lock: File, ended: &watch::Sender<End>) {
    duties.run(&conn).stop();
    let outcome = finish(conn);
    if let Err(error) = &outcome {
        tracing::warn!(%error, "the log stays beside the file and is read at the next start");
    }
    drop(lock);
    ended.send_replace(Some(outcome.map_err(Arc::new)));
}

/// Leaves the whole store in the file, safe from a power cut in every mode.
fn finish(conn: Connection) -> Sql<()> {
    conn.execute_batch("PRAGMA synchronous = FULL")?;
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    conn.close().map_err(|(_, error)| error)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rusqlite::Connection;
    use zaqar_core::storage::{self, Heads, Messages};

    use crate::testing::{batch, generation, hold, key, store, time};
    use crate::{Embedded, Options, Sync};

    async fn setting(store: &Embedded, sql: &'static str) -> i64 {
        let read = move |conn: &Connection| conn.query_row(sql, [], |row| row.get(0));
        store.write(move |ledger| read(&ledger.conn)).await.unwrap()
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
