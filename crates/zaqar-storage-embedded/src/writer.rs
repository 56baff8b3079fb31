//! The one thread that writes: it takes what waits, does it in one transaction, and answers after
//! the commit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::oneshot;
use zaqar_core::storage;

use crate::announcer::Announcer;
use crate::checkpoint::{self, Checkpointer};
use crate::directory::Identity;
use crate::due::{Deadlines, Due};
use crate::error::{Sql, Trouble, refused, trouble};
use crate::health::{self, Health};
use crate::reserve::Reserve;
use crate::scheduler::{FairQueue, Slice};
use crate::schema;
use crate::sync::LogSync;
use crate::writer_state::{Start, WriterState};

/// What one transaction takes, at most: it delays what comes meanwhile.
const BATCH: Slice = Slice { items: 256, bytes: 1 << 20 };
/// Claims and delays that each transaction ends before its requests, about.
const DUE_BUDGET: usize = 256;
/// The pause between two attempts to make an unsynced log safe.
const HEAL_EVERY: Duration = Duration::from_secs(1);

/// A change that waits for the writer.
pub(crate) trait Job: Send {
    /// Does the work; called again after a rollback of what the first call did.
    fn run(&mut self, state: &mut WriterState<'_>) -> Sql<()>;

    /// Whether it needs space that is not given back soon.
    fn grows(&self) -> bool;

    /// Tells the caller.
    fn finish(self: Box<Self>, outcome: Result<(), storage::Error>);
}

/// A job that is a function, and who waits for its result.
struct Call<F, T> {
    work: F,
    result: Option<T>,
    caller: oneshot::Sender<Result<T, storage::Error>>,
    grows: bool,
}

/// Where the result arrives.
pub(crate) type Answer<T> = oneshot::Receiver<Result<T, storage::Error>>;

/// Makes a job of a function.
pub(crate) fn call<F, T>(work: F, grows: bool) -> (Box<dyn Job>, Answer<T>)
where
    F: FnMut(&mut WriterState<'_>) -> Sql<T> + Send + 'static,
    T: Send + 'static,
{
    let (caller, answer) = oneshot::channel();
    (Box::new(Call { work, result: None, caller, grows }), answer)
}

impl<F, T> Job for Call<F, T>
where
    F: FnMut(&mut WriterState<'_>) -> Sql<T> + Send,
    T: Send,
{
    fn run(&mut self, state: &mut WriterState<'_>) -> Sql<()> {
        self.result = Some((self.work)(state)?);
        Ok(())
    }

    fn grows(&self) -> bool {
        self.grows
    }

    fn finish(self: Box<Self>, outcome: Result<(), storage::Error>) {
        let Self { result, caller, .. } = *self;
        let result = outcome.and_then(|()| {
            result.ok_or_else(|| storage::Error::failed("a change was not carried out"))
        });
        // A caller that went away does not want to know.
        drop(caller.send(result));
    }
}

/// The threads that help the writer.
pub(crate) struct Helpers {
    pub(crate) checkpointer: Checkpointer,
    pub(crate) log_sync: Option<LogSync>,
}

impl Helpers {
    /// Makes what was acknowledged safe after a failed sync: in the log, and then in the file.
    fn heal(&self, state: &WriterState) -> Result<(), Box<dyn std::error::Error>> {
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

    /// Ends them.
    pub(crate) fn stop(self) {
        self.checkpointer.stop();
        if let Some(log_sync) = self.log_sync {
            log_sync.stop();
        }
    }
}

/// What the writer is given beside its connection.
pub(crate) struct WriterParts {
    pub(crate) start: Start,
    pub(crate) deadlines: Arc<Deadlines>,
    pub(crate) announcer: Arc<Announcer>,
    pub(crate) jobs: Arc<FairQueue<Box<dyn Job>>>,
    pub(crate) helpers: Helpers,
    pub(crate) health: Arc<Health>,
    /// Of the store's file.
    pub(crate) identity: Identity,
    pub(crate) reserve: Reserve,
}

impl WriterParts {
    /// Works until the store is closed or nobody can send any more; then hands back who helped.
    pub(crate) fn run(self, conn: &Connection) -> Helpers {
        let due = Due::new(Arc::clone(&self.deadlines));
        let state = WriterState::new(conn, &self.start, due);
        let mut writer = Writer { state, parts: self, healed_at: None, filled_at: None };
        writer.run();
        writer.parts.helpers
    }
}

struct Writer<'c> {
    state: WriterState<'c>,
    parts: WriterParts,
    /// When it last tried to make an unsynced log safe.
    healed_at: Option<Instant>,
    /// When it last tried to take the reserve again.
    filled_at: Option<Instant>,
}

/// What became of each job of a batch so far; `None` for one that is still to be run.
type Verdicts = Vec<Option<Result<(), storage::Error>>>;

impl Writer<'_> {
    fn run(&mut self) {
        loop {
            let batch = self.parts.jobs.take(BATCH);
            if batch.is_empty() {
                break;
            }
            self.work(batch);
        }
        if let Err(error) = self.tidy() {
            tracing::warn!(%error, "bodies of deleted messages stay until they expire");
        }
    }

    /// Leaves nothing to be done that only memory knows of.
    fn tidy(&mut self) -> Sql<()> {
        if !self.state.deleted.is_waiting() {
            return Ok(());
        }
        self.begin()?;
        self.state.drop_deleted(usize::MAX)?;
        self.state.flush()?;
        self.state.commit()
    }

    fn work(&mut self, mut batch: Vec<Box<dyn Job>>) {
        self.retake_reserve();
        match self.make_writable() {
            Ok(()) => {
                self.refuse_growth(&mut batch);
                self.run_batch(&mut batch);
            }
            Err(_) => batch.drain(..).for_each(|job| {
                // An error cannot be cloned; this one tells all of them the same.
                let refused = self.parts.health.check_writable();
                job.finish(refused);
            }),
        }
        self.parts.helpers.after_commit(&self.state);
    }

    /// Takes the reserve again after the disk was full, once a second.
    fn retake_reserve(&mut self) {
        let health = &self.parts.health;
        let is_recent = |at: Instant| at.elapsed() < HEAL_EVERY;
        if !health.is_full() || self.filled_at.is_some_and(is_recent) {
            return;
        }
        self.filled_at = Some(Instant::now());
        // Its space is used again from its beginning.
        self.parts.helpers.checkpointer.restart_log_now(&self.state.conn);
        match self.parts.reserve.take() {
            Ok(()) => health.has_space(),
            Err(error) => tracing::debug!(%error, "the reserve cannot be taken"),
        }
    }

    /// While the disk is full, what needs space is told so at once.
    fn refuse_growth(&self, batch: &mut Vec<Box<dyn Job>>) {
        if !self.parts.health.is_full() {
            return;
        }
        for job in batch.extract_if(.., |job| job.grows()) {
            job.finish(Err(health::full(schema::FILE.as_ref())));
        }
    }

    /// Gives the reserve to what does not grow; whether that happened now.
    fn use_reserve(&mut self, error: &rusqlite::Error) -> bool {
        if trouble(error) != Trouble::Full || !self.parts.reserve.is_taken() {
            return false;
        }
        self.filled_at = Some(Instant::now());
        if let Err(error) = self.parts.reserve.give_back() {
            tracing::warn!(%error, "the reserve cannot be given back");
        }
        self.undo(error);
        self.parts.helpers.checkpointer.restart_log_now(&self.state.conn);
        true
    }

    /// Makes the log safe again after a sync of it has failed, once a second.
    fn make_writable(&mut self) -> Result<(), storage::Error> {
        let health = &self.parts.health;
        health.in_place(self.parts.identity.is_in_place());
        let is_recent = |at: Instant| at.elapsed() < HEAL_EVERY;
        if health.is_unsynced() && !self.healed_at.is_some_and(is_recent) {
            self.healed_at = Some(Instant::now());
            match self.parts.helpers.heal(&self.state) {
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
                batch.drain(..).for_each(|job| job.finish(Ok(())));
            }
            // Once: then it is known to be full.
            Err(error) if self.use_reserve(&error) => {
                self.refuse_growth(batch);
                self.run_batch(batch);
            }
            // It did not begin, or SQLite has undone it.
            Err(error) if self.state.conn.is_autocommit() => self.fail_all(batch, error),
            // Rare: somebody's statement failed. With a savepoint each, it fails alone.
            Err(error) => {
                self.undo(&error);
                self.run_one_by_one(batch);
            }
        }
    }

    /// Does a whole batch without savepoints, which cost as much as a small request.
    fn run_together(&mut self, batch: &mut [Box<dyn Job>]) -> Sql<()> {
        self.begin()?;
        for job in batch {
            job.run(&mut self.state)?;
        }
        self.state.flush()
    }

    /// Does each job of a batch with a savepoint of its own. Once a transaction has met a damaged
    /// page SQLite does not commit it: then it is undone and repeated without what led there.
    fn run_one_by_one(&mut self, batch: &mut Vec<Box<dyn Job>>) {
        let mut verdicts: Verdicts = batch.iter().map(|_| None).collect();
        loop {
            match self.run_with_savepoints(batch, &mut verdicts) {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => return self.fail_all(batch, error),
            }
        }
        let outcome = self.commit();
        let verdicts = verdicts.into_iter().map(|verdict| verdict.unwrap_or(Ok(())));
        settle(batch.drain(..).zip(verdicts), outcome);
    }

    /// Whether the transaction holds all that can be done; if not, it was undone and there is less
    /// to do.
    fn run_with_savepoints(
        &mut self,
        batch: &mut [Box<dyn Job>],
        verdicts: &mut Verdicts,
    ) -> Sql<bool> {
        self.begin()?;
        // Flushed: what a failed request undoes in memory are its own changes then.
        self.state.flush()?;
        for (job, verdict) in batch.iter_mut().zip(verdicts) {
            if matches!(verdict, Some(Err(_))) {
                continue;
            }
            match self.run_with_savepoint(job.as_mut()) {
                Ok(()) => *verdict = Some(Ok(())),
                // With a full disk, say, SQLite has undone the whole transaction.
                Err(error) if self.state.conn.is_autocommit() => return Err(error),
                Err(error) => {
                    let is_damage = trouble(&error) == Trouble::Damage;
                    let is_worked_around = self.state.work_around(&error);
                    if is_worked_around || is_damage {
                        self.undo(&error);
                    }
                    if !is_worked_around {
                        *verdict = Some(Err(refused(Arc::new(error))));
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
        state.conn.statement("SAVEPOINT request")?.execute([])?;
        let outcome = job.run(state).and_then(|()| state.flush());
        // After damage nothing of the transaction can be kept.
        if matches!(&outcome, Err(error) if trouble(error) == Trouble::Damage) {
            return outcome;
        }
        if outcome.is_err() && !state.conn.is_autocommit() {
            state.conn.statement("ROLLBACK TO request")?.execute([])?;
            state.forget();
            state.posted.truncate(posted);
            state.deleted.back_to(deleted);
            state.due.unknown();
        }
        if !state.conn.is_autocommit() {
            state.conn.statement("RELEASE request")?.execute([])?;
        }
        outcome
    }

    /// Begins a transaction, and does in it some of the work that is due. Where that fails, it is
    /// left out for a while: it is nobody's request.
    fn begin(&mut self) -> Sql<()> {
        loop {
            self.state
                .begin(self.parts.deadlines.latest())
                .inspect_err(|error| self.locked(error))?;
            if self.parts.health.is_locked() {
                self.state.conn.busy_timeout(schema::BUSY)?;
                self.parts.health.unlocked();
            }
            if self.state.notice_foreign()? {
                self.parts.health.foreign_write();
            }
            self.state.is_full = self.parts.health.is_full();
            match self.state.do_due(DUE_BUDGET) {
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

    /// Once it is known that another process holds a lock, nobody waits for it long.
    fn locked(&self, error: &rusqlite::Error) {
        if trouble(error) == Trouble::Locked {
            self.parts.health.note(error);
            // It cannot fail: it only sets a number.
            let _ = self.state.conn.busy_timeout(schema::BUSY_AGAIN);
        }
    }

    fn undo(&mut self, error: &rusqlite::Error) {
        self.parts.health.note(error);
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

    /// Tells what was committed, before its callers hear of it.
    fn announce(&mut self) {
        self.state.due.publish();
        self.parts.announcer.announce(self.state.posted.drain(..));
    }

    fn fail_all(&mut self, batch: &mut Vec<Box<dyn Job>>, error: rusqlite::Error) {
        self.undo(&error);
        let error = Arc::new(error);
        for job in batch.drain(..) {
            job.finish(Err(refused(Arc::clone(&error))));
        }
    }
}

/// Tells each caller its own verdict, or the transaction's.
fn settle(
    jobs: impl Iterator<Item = (Box<dyn Job>, Result<(), storage::Error>)>,
    outcome: Result<(), Arc<rusqlite::Error>>,
) {
    for (job, verdict) in jobs {
        let committed = outcome.as_ref().map_err(|error| refused(Arc::clone(error)));
        job.finish(verdict.and(committed.copied()));
    }
}

#[cfg(test)]
mod tests {
    use zaqar_core::storage::{Claims, Heads, Messages, Upkeep};

    use crate::testing::{batch, generation, hold, key, request, store, time};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_failed_request_fails_alone() {
        let (store, _directory) = store();
        store.open(&key("q"), generation(), time(0)).await.unwrap();
        store.post(&key("q"), generation(), batch(1, 60), time(0)).await.unwrap();
        store.claim(&key("q"), generation(), &request(1, 60), time(0)).await.unwrap();
        // The claim is over when the batch begins, which so changes counters before its first
        // request.
        let now = time(60);
        let held = hold(&store);
        let failing = store.write(|state| {
            state.conn.execute("UPDATE heads SET version = version + 1000", [])?;
            state.change(1, |head| head.free += 1000);
            state.conn.execute("INSERT INTO sequence VALUES (1, 1, 1, 1)", [])
        });
        let (q, batch) = (key("q"), batch(1, 600));
        // Each is sent when it is polled first, in this order.
        let (failed, one, two, ()) = tokio::join!(
            failing,
            store.post(&q, generation(), batch.clone(), now),
            store.post(&q, generation(), batch, now),
            async { drop(held) },
        );
        failed.unwrap_err();
        one.unwrap();
        two.unwrap();
        while store.sweep(now, 100).await.unwrap().more {}
        let stats = store.stats(&key("q"), now).await.unwrap().unwrap();
        assert_eq!((stats.free, stats.claimed), (3, 0));
        assert_eq!(store.generation(&key("q")).await.unwrap(), Some(generation()));
    }
}
