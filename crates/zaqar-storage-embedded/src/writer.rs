//! The one thread that writes: it takes what waits, does it in one transaction, and answers after the commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;

use rusqlite::Connection;
use tokio::sync::oneshot;
use zaqar_core::storage;

use crate::checkpoint::Checkpointer;
use crate::due::{Due, Outlook};
use crate::error::{Sql, refused, uncommitted};
use crate::ledger::{Ledger, Start};
use crate::news::Bulletin;
use crate::room::Weight;
use crate::sync::LogSync;

/// Requests in one transaction, at most.
const BATCH: usize = 256;
/// Claims and delays that each transaction ends before its requests, about.
const TURNS: usize = 256;

/// A change that waits for its turn.
pub(crate) trait Job: Send {
    /// Does the work; called again after a rollback of what the first call did.
    fn run(&mut self, ledger: &mut Ledger<'_>) -> Sql<()>;

    /// Tells the caller.
    fn finish(self: Box<Self>, outcome: Result<(), storage::Error>);
}

/// A job that is a function, and who waits for its result.
struct Call<F, T> {
    work: F,
    result: Option<T>,
    caller: oneshot::Sender<Result<T, storage::Error>>,
    /// Of what the function holds.
    weight: Option<Weight>,
}

/// Where the result arrives.
pub(crate) type Answer<T> = oneshot::Receiver<Result<T, storage::Error>>;

/// Makes a job of a function.
pub(crate) fn call<F, T>(work: F, weight: Option<Weight>) -> (Box<dyn Job>, Answer<T>)
where
    F: FnMut(&mut Ledger<'_>) -> Sql<T> + Send + 'static,
    T: Send + 'static,
{
    let (caller, answer) = oneshot::channel();
    (Box::new(Call { work, result: None, caller, weight }), answer)
}

impl<F, T> Job for Call<F, T>
where
    F: FnMut(&mut Ledger<'_>) -> Sql<T> + Send,
    T: Send,
{
    fn run(&mut self, ledger: &mut Ledger<'_>) -> Sql<()> {
        self.result = Some((self.work)(ledger)?);
        Ok(())
    }

    fn finish(self: Box<Self>, outcome: Result<(), storage::Error>) {
        let Self { work, result, caller, weight } = *self;
        // Whoever has the answer finds the room free again.
        drop((work, weight));
        let result = outcome.and_then(|()| {
            result.ok_or_else(|| storage::Error::failed("a change was not carried out"))
        });
        // A caller that went away does not want to know.
        drop(caller.send(result));
    }
}

/// The threads that help the writer.
pub(crate) struct Aides {
    pub(crate) checkpointer: Checkpointer,
    pub(crate) log_sync: Option<LogSync>,
}

impl Aides {
    fn after_commit(&self, ledger: &Ledger) {
        self.checkpointer.after_commit(&ledger.conn);
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
pub(crate) struct Duties {
    pub(crate) start: Start,
    pub(crate) outlook: Arc<Outlook>,
    pub(crate) bulletin: Arc<Bulletin>,
    pub(crate) jobs: Receiver<Box<dyn Job>>,
    pub(crate) closing: Arc<AtomicBool>,
    pub(crate) aides: Aides,
}

impl Duties {
    /// Works until the store is closed or nobody can send any more; then hands back who helped.
    pub(crate) fn run(self, conn: &Connection) -> Aides {
        let due = Due::new(Arc::clone(&self.outlook));
        let ledger = Ledger::new(conn, &self.start, due);
        let mut writer = Writer { ledger, duties: self, batch: Vec::with_capacity(BATCH) };
        writer.run();
        writer.duties.aides
    }
}

struct Writer<'c> {
    ledger: Ledger<'c>,
    duties: Duties,
    batch: Vec<Box<dyn Job>>,
}

impl Writer<'_> {
    fn run(&mut self) {
        while let Ok(job) = self.duties.jobs.recv() {
            self.batch.push(job);
            self.take_waiting();
            self.work();
            if self.duties.closing.load(Ordering::Acquire) {
                self.finish_waiting();
                break;
            }
        }
        if let Err(error) = self.tidy() {
            tracing::warn!(%error, "bodies of deleted messages stay until they expire");
        }
    }

    /// Leaves nothing to be done that only memory knows of.
    fn tidy(&mut self) -> Sql<()> {
        if !self.ledger.loose.is_waiting() {
            return Ok(());
        }
        self.begin()?;
        self.ledger.drop_loose(usize::MAX)?;
        self.ledger.flush()?;
        self.ledger.commit()
    }

    /// What is waiting when the store is closed was accepted.
    fn finish_waiting(&mut self) {
        loop {
            self.take_waiting();
            if self.batch.is_empty() {
                return;
            }
            self.work();
        }
    }

    fn take_waiting(&mut self) {
        let room = BATCH - self.batch.len();
        self.batch.extend(self.duties.jobs.try_iter().take(room));
    }

    fn work(&mut self) {
        let mut batch = std::mem::take(&mut self.batch);
        match self.attempt(&mut batch) {
            Ok(()) => {
                let outcome = self.commit();
                settle(batch.drain(..).map(|job| (job, Ok(()))), outcome);
            }
            // It did not begin, or SQLite has undone it, as with a full disk.
            Err(error) if self.ledger.conn.is_autocommit() => self.give_up(&mut batch, error),
            // Rare: somebody's statement failed. With a savepoint each, it fails alone.
            Err(_) => {
                self.ledger.roll_back();
                self.work_apart(&mut batch);
            }
        }
        self.duties.aides.after_commit(&self.ledger);
        self.batch = batch;
    }

    /// Does a whole batch without savepoints, which cost as much as a small request.
    fn attempt(&mut self, batch: &mut [Box<dyn Job>]) -> Sql<()> {
        self.begin()?;
        for job in batch {
            job.run(&mut self.ledger)?;
        }
        self.ledger.flush()
    }

    fn work_apart(&mut self, batch: &mut Vec<Box<dyn Job>>) {
        let mut verdicts = Vec::with_capacity(batch.len());
        // Flushed: what a failed request undoes in memory are its own changes then.
        if let Err(error) = self.begin().and_then(|()| self.ledger.flush()) {
            return self.give_up(batch, error);
        }
        for job in batch.iter_mut() {
            match self.attempt_apart(job.as_mut()) {
                // With a full disk, say, SQLite has undone the whole transaction.
                Err(error) if self.ledger.conn.is_autocommit() => {
                    return self.give_up(batch, error);
                }
                verdict => verdicts.push(verdict.map_err(|error| refused(Arc::new(error)))),
            }
        }
        let outcome = self.commit();
        settle(batch.drain(..).zip(verdicts), outcome);
    }

    fn attempt_apart(&mut self, job: &mut dyn Job) -> Sql<()> {
        let ledger = &mut self.ledger;
        let (posted, loose) = (ledger.posted.len(), ledger.loose.mark());
        ledger.conn.statement("SAVEPOINT request")?.execute([])?;
        let outcome = job.run(ledger).and_then(|()| ledger.flush());
        if outcome.is_err() && !ledger.conn.is_autocommit() {
            ledger.conn.statement("ROLLBACK TO request")?.execute([])?;
            ledger.forget();
            ledger.posted.truncate(posted);
            ledger.loose.back_to(loose);
            ledger.due.unknown();
        }
        if !ledger.conn.is_autocommit() {
            ledger.conn.statement("RELEASE request")?.execute([])?;
        }
        outcome
    }

    fn begin(&mut self) -> Sql<()> {
        self.ledger.begin(self.duties.outlook.latest())?;
        self.ledger.take_turns(TURNS)?;
        self.ledger.thin_loose()
    }

    fn commit(&mut self) -> Result<(), Arc<rusqlite::Error>> {
        let outcome = self.ledger.commit();
        if outcome.is_err() {
            self.ledger.roll_back();
        }
        self.ledger.due.publish();
        self.duties.bulletin.announce(self.ledger.posted.drain(..));
        outcome.map_err(Arc::new)
    }

    fn give_up(&mut self, batch: &mut Vec<Box<dyn Job>>, error: rusqlite::Error) {
        self.ledger.roll_back();
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
        let committed = outcome.as_ref().map_err(|error| uncommitted(Arc::clone(error)));
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
        // The claim is over when the batch begins, which so changes counters before its first request.
        let now = time(60);
        let held = hold(&store);
        let failing = store.write(|ledger| {
            ledger.conn.execute("UPDATE heads SET version = version + 1000", [])?;
            ledger.change(1, |head| head.free += 1000);
            ledger.conn.execute("INSERT INTO sequence VALUES (1, 1, 1, 1)", [])
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
