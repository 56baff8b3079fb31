//! The writer thread: it takes waiting requests, executes them in one transaction, and answers them
//! after the commit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::oneshot;
use zaqar_core::storage::{self, Broadcaster};

use crate::checkpoint::{self, Checkpointer};
use crate::directory::FileIdentity;
use crate::due::{Deadlines, Due};
use crate::error::{ErrorKind, Frozen, Sql, kind_of, storage_error};
use crate::fair_queue::{Cost, FairQueue, Slice, Tenant};
use crate::health::{self, Health};
use crate::log_sync::LogSync;
use crate::reserve::Reserve;
use crate::schema;
use crate::sequence::Start;
use crate::writer_state::WriterState;

/// Bound on one transaction, because later requests wait for it.
const BATCH: Slice = Slice { items: 256, bytes: 1 << 20 };
/// Claims and delays that each transaction ends before its requests, about.
const DUE_BUDGET: usize = 256;
/// The delay between attempts to make the log durable, or to reserve space again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// A change that waits for the writer.
pub(crate) trait Job: Send {
    /// Executes the change; called again after a rollback of the first call.
    fn run(&mut self, state: &mut WriterState<'_>) -> Sql<()>;

    /// Whether it needs space that is not released soon.
    fn grows(&self) -> bool;

    /// After a commit: for work in parts that has more to do in a later transaction, its project
    /// and the cost of the next part.
    fn next_part(&mut self) -> Option<(Tenant, Cost)>;

    /// Answers the caller.
    fn finish(self: Box<Self>, outcome: Result<(), storage::Error>);
}

/// A job that runs a function and sends its result to the caller.
struct FnJob<F, T> {
    work: F,
    result: Option<Result<T, Frozen>>,
    caller: oneshot::Sender<Result<T, storage::Error>>,
    grows: bool,
}

/// Receives the result of a job.
pub(crate) type JobReceiver<T> = oneshot::Receiver<Result<T, storage::Error>>;

/// Makes a job from a function.
pub(crate) fn job_of<F, T>(work: F, grows: bool) -> (Box<dyn Job>, JobReceiver<T>)
where
    F: FnMut(&mut WriterState<'_>) -> Sql<T> + Send + 'static,
    T: Send + 'static,
{
    let (caller, answer) = oneshot::channel();
    (Box::new(FnJob { work, result: None, caller, grows }), answer)
}

impl<F, T> Job for FnJob<F, T>
where
    F: FnMut(&mut WriterState<'_>) -> Sql<T> + Send,
    T: Send,
{
    fn run(&mut self, state: &mut WriterState<'_>) -> Sql<()> {
        self.result = Some(match (self.work)(state) {
            Ok(result) => Ok(result),
            // A request looks at heads before it changes anything, so nothing is to be undone.
            Err(error) => Err(Frozen::of(&error).ok_or(error)?),
        });
        Ok(())
    }

    fn grows(&self) -> bool {
        self.grows
    }

    fn next_part(&mut self) -> Option<(Tenant, Cost)> {
        None
    }

    fn finish(self: Box<Self>, outcome: Result<(), storage::Error>) {
        let Self { result, caller, .. } = *self;
        let result = outcome.and_then(|()| match result {
            Some(Ok(result)) => Ok(result),
            Some(Err(Frozen { id, end })) => Err(storage::Error::Moved { id, end }),
            None => Err(storage::Error::failed("a change was not executed")),
        });
        // The caller may have been dropped.
        drop(caller.send(result));
    }
}

/// The writer's helper threads.
pub(crate) struct Helpers {
    pub(crate) checkpointer: Checkpointer,
    pub(crate) log_sync: Option<LogSync>,
}

impl Helpers {
    /// Makes acknowledged changes durable after a failed sync: in the log, and then in the file.
    fn recover(&self, state: &WriterState) -> Result<(), Box<dyn std::error::Error>> {
        if let Some(log_sync) = &self.log_sync {
            log_sync.rewrite()?;
        }
        checkpoint::copy_safely(&state.conn)?;
        Ok(())
    }

    fn after_commit(&mut self, state: &WriterState) {
        self.checkpointer.after_commit(&state.conn);
        if let Some(log_sync) = &self.log_sync {
            log_sync.after_commit();
        }
    }

    /// Ends the threads.
    pub(crate) fn stop(self) {
        self.checkpointer.stop();
        if let Some(log_sync) = self.log_sync {
            log_sync.stop();
        }
    }
}

/// Everything that the writer owns besides its connection.
pub(crate) struct WriterParts {
    pub(crate) start: Start,
    pub(crate) deadlines: Arc<Deadlines>,
    pub(crate) broadcaster: Arc<Broadcaster>,
    pub(crate) jobs: Arc<FairQueue<Box<dyn Job>>>,
    pub(crate) helpers: Helpers,
    pub(crate) health: Arc<Health>,
    /// The identity of the store's file.
    pub(crate) identity: FileIdentity,
    pub(crate) reserve: Reserve,
}

impl WriterParts {
    /// Runs until the queue of jobs is closed and empty. Returns the helper threads.
    pub(crate) fn run(self, conn: &Connection) -> Helpers {
        let due = Due::new(Arc::clone(&self.deadlines));
        let state = WriterState::new(conn, &self.start, due);
        let mut writer = Writer { state, parts: self, recovered_at: None, reserve_tried_at: None };
        writer.run();
        writer.parts.helpers
    }
}

struct Writer<'c> {
    state: WriterState<'c>,
    parts: WriterParts,
    /// When it last tried to make the log durable.
    recovered_at: Option<Instant>,
    /// When it last tried to reserve space again.
    reserve_tried_at: Option<Instant>,
}

/// The result of each job of a batch so far; `None` for one that was not run yet.
type JobResults = Vec<Option<Result<(), storage::Error>>>;

impl Writer<'_> {
    fn run(&mut self) {
        loop {
            let batch = self.parts.jobs.take(BATCH);
            if batch.is_empty() {
                break;
            }
            self.process(batch);
        }
        if let Err(error) = self.finish() {
            self.undo(&error);
            tracing::warn!(%error, "bodies of deleted messages are kept until they expire");
        }
    }

    /// Writes what only memory knows.
    fn finish(&mut self) -> Sql<()> {
        self.begin()?;
        self.state.drop_deleted(usize::MAX)?;
        self.state.write_expiry()?;
        self.state.flush()?;
        self.state.give_back_reserved()?;
        self.state.commit()
    }

    fn process(&mut self, mut batch: Vec<Box<dyn Job>>) {
        self.retake_reserve();
        match self.make_writable() {
            Ok(()) => {
                self.refuse_growth(&mut batch);
                self.run_batch(&mut batch);
            }
            Err(_) => batch.drain(..).for_each(|job| {
                // Errors cannot be cloned; this creates the same one for each job.
                let refused = self.parts.health.check_writable();
                job.finish(refused);
            }),
        }
        self.parts.helpers.after_commit(&self.state);
    }

    /// Reserves space again after the disk was full, once a second.
    fn retake_reserve(&mut self) {
        let health = &self.parts.health;
        let is_recent = |at: Instant| at.elapsed() < RETRY_INTERVAL;
        if !health.is_full() || self.reserve_tried_at.is_some_and(is_recent) {
            return;
        }
        self.reserve_tried_at = Some(Instant::now());
        // What was deleted meanwhile has left its space to the log.
        self.parts.helpers.checkpointer.truncate_log_now(&self.state.conn);
        match self.parts.reserve.allocate() {
            Ok(()) => health.disk_recovered(),
            Err(error) => tracing::debug!(%error, "the reserve cannot be allocated"),
        }
    }

    /// Rejects jobs that need space while the disk is full.
    fn refuse_growth(&self, batch: &mut Vec<Box<dyn Job>>) {
        if !self.parts.health.is_full() {
            return;
        }
        for job in batch.extract_if(.., |job| job.grows()) {
            job.finish(Err(health::full(schema::FILE.as_ref())));
        }
    }

    /// Releases the reserve when the disk is full. Returns whether it did so now.
    fn release_reserve(&mut self, error: &rusqlite::Error) -> bool {
        if kind_of(error) != ErrorKind::Full || !self.parts.reserve.is_allocated() {
            return false;
        }
        self.reserve_tried_at = Some(Instant::now());
        if !self.parts.reserve.release_logged() {
            return false;
        }
        self.undo(error);
        self.parts.helpers.checkpointer.truncate_log_now(&self.state.conn);
        true
    }

    /// Makes the log durable after a failed sync, once a second.
    fn make_writable(&mut self) -> Result<(), storage::Error> {
        let health = &self.parts.health;
        health.set_in_place(self.parts.identity.is_in_place());
        let is_recent = |at: Instant| at.elapsed() < RETRY_INTERVAL;
        if health.is_unsynced() && !self.recovered_at.is_some_and(is_recent) {
            self.recovered_at = Some(Instant::now());
            match self.parts.helpers.recover(&self.state) {
                Ok(()) => health.synced(),
                Err(error) => health.sync_failed(error.as_ref()),
            }
        }
        health.check_writable()
    }

    fn run_batch(&mut self, batch: &mut Vec<Box<dyn Job>>) {
        match self.run_together(batch).and_then(|()| self.state.commit()) {
            Ok(()) => {
                self.announce();
                batch.drain(..).for_each(|job| self.complete(job, Ok(())));
            }
            // At most once: afterwards the disk is known to be full.
            Err(error) if self.release_reserve(&error) => {
                self.refuse_growth(batch);
                self.run_batch(batch);
            }
            // The transaction did not begin, or SQLite has rolled it back.
            Err(error) if self.state.conn.is_autocommit() => self.fail_all(batch, error),
            // Rare: a statement of a request failed. With savepoints only that request fails.
            Err(error) => {
                self.undo(&error);
                self.run_one_by_one(batch);
            }
        }
    }

    /// Runs a batch without savepoints, each of which costs as much as a small request.
    fn run_together(&mut self, batch: &mut [Box<dyn Job>]) -> Sql<()> {
        self.begin()?;
        for job in batch {
            job.run(&mut self.state)?;
        }
        self.state.flush()
    }

    /// Runs each job of a batch with a savepoint. SQLite does not commit a transaction that has met
    /// a damaged page; it is rolled back and repeated without the cause.
    fn run_one_by_one(&mut self, batch: &mut Vec<Box<dyn Job>>) {
        let mut results: JobResults = batch.iter().map(|_| None).collect();
        loop {
            match self.run_with_savepoints(batch, &mut results) {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => return self.fail_all(batch, error),
            }
        }
        let outcome = self.commit();
        let results = results.into_iter().map(|result| result.unwrap_or(Ok(())));
        for (job, result) in batch.drain(..).zip(results) {
            let committed = outcome.as_ref().map_err(|error| storage_error(Arc::clone(error)));
            self.complete(job, result.and(committed.copied()));
        }
    }

    /// Answers a job with its own error or the transaction's, or puts it back for its next part.
    fn complete(&self, mut job: Box<dyn Job>, outcome: Result<(), storage::Error>) {
        match outcome.is_ok().then(|| job.next_part()).flatten() {
            Some((tenant, cost)) => self.parts.jobs.put_back(&tenant, cost, job),
            None => job.finish(outcome),
        }
    }

    /// Returns `true` if the transaction is complete; `false` if it was rolled back and must be
    /// repeated with fewer jobs or tasks.
    fn run_with_savepoints(
        &mut self,
        batch: &mut [Box<dyn Job>],
        results: &mut JobResults,
    ) -> Sql<bool> {
        self.begin()?;
        // Flush first, so that undoing a failed request in memory undoes only its own changes.
        self.state.flush()?;
        for (job, result) in batch.iter_mut().zip(results) {
            if matches!(result, Some(Err(_))) {
                continue;
            }
            match self.run_with_savepoint(job.as_mut()) {
                Ok(()) => *result = Some(Ok(())),
                // SQLite has rolled back the whole transaction, for example because the disk is
                // full.
                Err(error) if self.state.conn.is_autocommit() => return Err(error),
                Err(error) => {
                    let is_damage = kind_of(&error) == ErrorKind::Damage;
                    let is_worked_around = self.state.work_around(&error);
                    if is_worked_around || is_damage {
                        self.undo(&error);
                    }
                    if !is_worked_around {
                        *result = Some(Err(storage_error(Arc::new(error))));
                    }
                    if is_worked_around || is_damage {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    fn run_with_savepoint(&mut self, job: &mut dyn Job) -> Sql<()> {
        let state = &mut self.state;
        let (posted, deleted) = (state.posted.len(), state.deleted.mark());
        let expiry = state.expiry.mark();
        state.conn.statement("SAVEPOINT request")?.execute([])?;
        let outcome = job.run(state).and_then(|()| state.flush());
        // After damage nothing of the transaction can be kept.
        if matches!(&outcome, Err(error) if kind_of(error) == ErrorKind::Damage) {
            return outcome;
        }
        if outcome.is_err() && !state.conn.is_autocommit() {
            state.conn.statement("ROLLBACK TO request")?.execute([])?;
            state.clear_cache();
            state.posted.truncate(posted);
            state.deleted.back_to(deleted);
            state.expiry.back_to(expiry);
            state.due.reset();
        }
        if !state.conn.is_autocommit() {
            state.conn.statement("RELEASE request")?.execute([])?;
        }
        outcome
    }

    /// Begins a transaction and runs some due work in it. A task that fails is suspended, because
    /// it does not belong to a request.
    fn begin(&mut self) -> Sql<()> {
        loop {
            self.state
                .begin(self.parts.deadlines.latest())
                .inspect_err(|error| self.locked(error))?;
            if self.parts.health.is_locked() {
                self.state.conn.busy_timeout(schema::BUSY)?;
                self.parts.health.unlocked();
            }
            if self.state.detect_foreign_write()? {
                self.parts.health.foreign_write();
            }
            self.state.is_full = self.parts.health.is_full();
            match self.state.run_due(DUE_BUDGET) {
                Ok(()) => return Ok(()),
                Err(error) if self.state.conn.is_autocommit() => return Err(error),
                Err(error) => {
                    let is_worked_around = self.state.work_around(&error);
                    self.undo(&error);
                    if !is_worked_around {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Shortens waits for a lock once another process is known to hold it.
    fn locked(&self, error: &rusqlite::Error) {
        if kind_of(error) == ErrorKind::Locked {
            self.parts.health.record(error);
            // This cannot fail: it only sets a number.
            let _ = self.state.conn.busy_timeout(schema::BUSY_AGAIN);
        }
    }

    fn undo(&mut self, error: &rusqlite::Error) {
        self.parts.health.record(error);
        self.state.roll_back();
    }

    fn commit(&mut self) -> Result<(), Arc<rusqlite::Error>> {
        let outcome = self.state.commit();
        if let Err(error) = &outcome {
            self.undo(error);
        }
        self.announce();
        outcome.map_err(Arc::new)
    }

    /// Announces committed posts before their callers are answered.
    fn announce(&mut self) {
        self.state.due.publish();
        self.parts.broadcaster.announce(self.state.posted.drain(..));
    }

    fn fail_all(&mut self, batch: &mut Vec<Box<dyn Job>>, error: rusqlite::Error) {
        self.undo(&error);
        let error = Arc::new(error);
        for job in batch.drain(..) {
            job.finish(Err(storage_error(Arc::clone(&error))));
        }
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Error::SqliteFailure;
    use rusqlite::ffi;
    use zaqar_core::storage::{Claims, Heads, Messages};

    use crate::testing::{batch, generation, hold, key, request, store, time};
    use crate::{Embedded, Options};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_failed_request_fails_alone() {
        let (store, _directory) = store();
        store.open(&key("q"), generation(), time(0)).await.unwrap();
        store.post(&key("q"), generation(), batch(1, 60), time(0)).await.unwrap();
        store.claim(&key("q"), generation(), &request(1, 60), time(0)).await.unwrap();
        // The claim is due when the batch begins, so counters change before its first request.
        let now = time(60);
        let held = hold(&store);
        let failing = store.write(|state| {
            state.conn.execute("UPDATE heads SET version = version + 1000", [])?;
            state.change(1, |head| head.free += 1000);
            state.conn.execute("INSERT INTO sequence VALUES (1, 1, 1, 1)", [])
        });
        let (q, batch) = (key("q"), batch(1, 600));
        // Each is sent when it is first polled, in this order.
        let (failed, one, two, ()) = tokio::join!(
            failing,
            store.post(&q, generation(), batch.clone(), now),
            store.post(&q, generation(), batch, now),
            async { drop(held) },
        );
        failed.unwrap_err();
        one.unwrap();
        two.unwrap();
        zaqar_storage_testkit::sweep(&store, now, 100).await;
        let stats = store.stats(&key("q"), now).await.unwrap().unwrap();
        assert_eq!((stats.free, stats.claimed), (3, 0));
        assert_eq!(store.generation(&key("q")).await.unwrap(), Some(generation()));
    }

    /// On some file systems a full disk does not even let a file be truncated.
    #[tokio::test]
    async fn a_reserve_that_cannot_be_released_fails_only_the_change() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("reserve");
        // A directory of the same length cannot be opened for writing, not even by the superuser.
        std::fs::create_dir(&path).unwrap();
        let reserve = path.metadata().unwrap().len();
        std::fs::remove_dir(&path).unwrap();
        let store = Embedded::open(Options { reserve, ..Options::new(directory.path()) }).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let full = || SqliteFailure(ffi::Error::new(ffi::SQLITE_FULL), None);
        store.write(move |_| Err::<(), _>(full())).await.unwrap_err();
        store.write(|_| Ok(())).await.unwrap();
    }
}
