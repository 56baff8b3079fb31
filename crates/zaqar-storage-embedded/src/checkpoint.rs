//! Checkpoints: copies the log into the file, mostly outside of the writer thread.
//!
//! When the log has grown, a separate thread copies it while the writer continues. Between two
//! transactions the writer copies what was written in the meantime, and restarts the log. So the
//! log stays bounded, and its space is overwritten, which syncs faster than appending.
//!
//! A reader that holds an old snapshot (an operator's `sqlite3`, `VACUUM INTO`, litestream)
//! prevents the restart. Each attempt makes a commit wait up to [`READER_WAIT`], so the next
//! attempt is made only when the log has grown by half, or after [`RETRY_BUSY`].

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use zaqar_core::{StateLog, TaskGuard};

use crate::error::{Error, Sql};
use crate::health::Health;
use crate::{Options, schema};

/// A checkpoint starts when the log has this many pages.
const START_PAGES: u32 = 1024;
/// Pages in the log that cause a warning if it cannot be restarted: 64 MiB.
const LARGE_PAGES: u32 = 8192;
/// The writer copies up to this many remaining pages itself.
const MAX_REMAINING_PAGES: i64 = 64;
/// Bound on consecutive copies to get there.
const MAX_ROUNDS: usize = 8;
/// How long the writer waits for readers of the old log.
const READER_WAIT: Duration = Duration::from_millis(20);
/// The delay after an attempt that readers prevented, unless the log has grown by half before.
const RETRY_BUSY: Duration = Duration::from_secs(5);
/// The delay after a failed attempt.
const RETRY_FAILED: Duration = Duration::from_secs(1);

const IDLE: u8 = 0;
const COPYING: u8 = 1;
const COPIED: u8 = 2;
const FAILED: u8 = 3;

#[derive(Debug, Default)]
struct State {
    phase: AtomicU8,
}

/// The outcome of an attempt to restart the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Everything is in the file, and the next commit restarts the log.
    Restarted,
    /// Readers hold an old snapshot: the log continues to grow.
    Busy,
    /// The disk failed.
    Failed,
}

/// When the next attempt is due.
#[derive(Debug)]
struct Pacing {
    /// The next attempt starts when the log has this many pages.
    start: u32,
    /// The next attempt starts at this time with fewer pages, after one that did not restart the
    /// log.
    retry_at: Option<Instant>,
}

impl Pacing {
    const fn new() -> Self {
        Self { start: START_PAGES, retry_at: None }
    }

    fn is_due(&self, pages: u32, now: Instant) -> bool {
        pages >= self.start || (pages >= START_PAGES && self.retry_at.is_some_and(|at| at <= now))
    }

    fn ended(&mut self, outcome: Outcome, pages: u32, now: Instant) {
        *self = match outcome {
            Outcome::Restarted => Self::new(),
            Outcome::Busy => Self {
                start: pages.saturating_add(pages / 2).max(START_PAGES),
                retry_at: Some(now + RETRY_BUSY),
            },
            Outcome::Failed => Self { start: u32::MAX, retry_at: Some(now + RETRY_FAILED) },
        };
    }
}

/// The checkpoint thread and its state.
pub(crate) struct Checkpointer {
    state: Arc<State>,
    health: Arc<Health>,
    pacing: Pacing,
    /// Since when readers have prevented the restart.
    busy_since: Option<Instant>,
    busy_log: StateLog,
    wake: SyncSender<()>,
    thread: JoinHandle<()>,
}

impl Checkpointer {
    /// Starts the thread and observes the log of the writer's connection.
    pub(crate) fn start(
        options: &Options,
        writer: &mut Connection,
        health: &Arc<Health>,
    ) -> Result<Self, Error> {
        let state = Arc::new(State::default());
        let conn = open(&options.path, options, writer, health).map_err(|source| Error::Open {
            path: schema::file(&options.path),
            source: source.into(),
        })?;
        let (wake, woken) = sync_channel(1);
        let (shared, reports) = (Arc::clone(&state), Arc::clone(health));
        let guard = options.tasks.guard("embedded checkpoint");
        let thread = std::thread::Builder::new()
            .name("zaqar-checkpoint".to_owned())
            .spawn(move || copy_when_woken(&conn, &woken, &shared, &reports, guard))
            .map_err(|source| Error::Thread { source })?;
        Ok(Self {
            state,
            health: Arc::clone(health),
            pacing: Pacing::new(),
            busy_since: None,
            busy_log: StateLog::with_interval(Duration::from_secs(30)),
            wake,
            thread,
        })
    }

    /// Called by the writer after each commit.
    pub(crate) fn after_commit(&mut self, writer: &Connection) {
        let phase = self.state.phase.load(Ordering::Acquire);
        if phase == COPYING {
            return;
        }
        let pages = self.health.log_pages();
        if phase == IDLE {
            // Read the clock only if the result depends on it.
            if pages >= START_PAGES && self.pacing.is_due(pages, Instant::now()) {
                self.state.phase.store(COPYING, Ordering::Release);
                // The channel is empty: the thread is idle.
                let _ = self.wake.try_send(());
            }
            return;
        }
        let outcome = if phase == COPIED { self.restart_log(writer) } else { Outcome::Failed };
        self.ended(outcome, pages);
        self.state.phase.store(IDLE, Ordering::Release);
    }

    /// Restarts the log if possible, so that its space is reused.
    pub(crate) fn restart_log_now(&mut self, writer: &Connection) {
        if self.state.phase.load(Ordering::Acquire) == IDLE {
            let pages = self.health.log_pages();
            let outcome = self.restart_log(writer);
            self.ended(outcome, pages);
        }
    }

    fn restart_log(&self, writer: &Connection) -> Outcome {
        match restart_log(writer) {
            Ok(is_restarted) => {
                self.health.checkpoint_succeeded(is_restarted);
                if is_restarted { Outcome::Restarted } else { Outcome::Busy }
            }
            Err(error) => {
                self.health.checkpoint_failed(&error);
                Outcome::Failed
            }
        }
    }

    fn ended(&mut self, outcome: Outcome, pages: u32) {
        let now = Instant::now();
        self.pacing.ended(outcome, pages, now);
        if outcome == Outcome::Restarted {
            self.busy_since = None;
            if self.busy_log.success().is_some() {
                tracing::info!(pages, "the log is restarted");
            }
            return;
        }
        let since = *self.busy_since.get_or_insert(now);
        if pages >= LARGE_PAGES && outcome == Outcome::Busy && self.busy_log.failure().is_some() {
            let bytes = u64::from(pages) * u64::from(schema::PAGE_SIZE);
            let seconds = now.duration_since(since).as_secs();
            tracing::warn!(
                pages,
                bytes,
                seconds,
                "the log grows: a reader, such as sqlite3 or a backup, holds an old snapshot"
            );
        }
    }

    /// Ends the thread.
    pub(crate) fn stop(self) {
        drop(self.wake);
        if self.thread.join().is_err() {
            tracing::error!("the checkpoint thread panicked");
        }
    }
}

fn open(
    path: &Path,
    options: &Options,
    writer: &mut Connection,
    health: &Arc<Health>,
) -> Sql<Connection> {
    let health = Arc::clone(health);
    writer.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages| {
        health.set_log_pages(u32::try_from(pages).unwrap_or(0));
        Ok(())
    }))?;
    schema::open_checkpointer(path, options.sync)
}

fn copy_when_woken(
    conn: &Connection,
    woken: &Receiver<()>,
    state: &State,
    health: &Health,
    guard: TaskGuard,
) {
    while woken.recv().is_ok() {
        let phase = match copy(conn) {
            Ok(()) => COPIED,
            Err(error) => {
                health.checkpoint_failed(&error);
                FAILED
            }
        };
        state.phase.store(phase, Ordering::Release);
    }
    guard.finish();
}

/// Copies until few pages are left.
fn copy(conn: &Connection) -> Sql<()> {
    for _ in 0..MAX_ROUNDS {
        let (_, pages, copied) = checkpoint(conn, "PRAGMA wal_checkpoint(PASSIVE)")?;
        if pages - copied <= MAX_REMAINING_PAGES {
            break;
        }
    }
    Ok(())
}

/// Copies the log into the file, as far as readers allow, and syncs both in every mode.
pub(crate) fn copy_safely(writer: &Connection) -> Sql<()> {
    let mode: i64 = writer.query_row("PRAGMA synchronous", [], |row| row.get(0))?;
    writer.execute_batch("PRAGMA synchronous = FULL")?;
    let outcome = restart_log(writer);
    writer.pragma_update(None, "synchronous", mode)?;
    outcome.map(|_| ())
}

/// Copies the remaining pages and restarts the log. Returns whether readers allowed it.
///
/// Where litestream replicates the file, the log is truncated instead. A litestream that was killed
/// continues after one restart of the log as if it had copied everything before it, so its copies
/// would lack pages; after a truncation it copies the whole file.
fn restart_log(writer: &Connection) -> Sql<bool> {
    let sql = if is_replicated(writer)? {
        "PRAGMA wal_checkpoint(TRUNCATE)"
    } else {
        "PRAGMA wal_checkpoint(RESTART)"
    };
    writer.busy_timeout(READER_WAIT)?;
    let outcome = checkpoint(writer, sql);
    writer.busy_timeout(schema::BUSY)?;
    outcome.map(|(busy, ..)| busy == 0)
}

/// Truncates the log of a replicated file before the first change, if no reader prevents it: see
/// [`restart_log`]. Everything in it has been copied into the file.
pub(crate) fn begin_log(writer: &Connection) -> Sql<()> {
    if is_replicated(writer)? { restart_log(writer).map(|_| ()) } else { Ok(()) }
}

/// Whether litestream has written to the file.
fn is_replicated(conn: &Connection) -> Sql<bool> {
    conn.prepare_cached("SELECT 1 FROM sqlite_schema WHERE name = '_litestream_seq'")?.exists([])
}

/// Returns whether readers prevented it, the pages in the log, and those copied into the file.
fn checkpoint(conn: &Connection, sql: &str) -> Sql<(i64, i64, i64)> {
    conn.prepare_cached(sql)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_busy_attempt_the_next_one_waits_for_half_more_log() {
        let (mut pacing, start) = (Pacing::new(), Instant::now());
        let mut attempts = Vec::new();
        for pages in 0..100_000 {
            if pacing.is_due(pages, start) {
                attempts.push(pages);
                pacing.ended(Outcome::Busy, pages, start);
            }
        }
        assert_eq!(attempts[..5], [1024, 1536, 2304, 3456, 5184]);
        assert_eq!(attempts.len(), 12, "{attempts:?}");
        assert!(!pacing.is_due(100_000, start + RETRY_BUSY - Duration::from_millis(1)));
        assert!(pacing.is_due(100_000, start + RETRY_BUSY), "the reader may have ended");
        pacing.ended(Outcome::Restarted, 100_000, start);
        assert!(pacing.is_due(START_PAGES, start) && !pacing.is_due(START_PAGES - 1, start));
    }

    #[test]
    fn failed_attempts_are_repeated_once_a_second() {
        let (mut pacing, start) = (Pacing::new(), Instant::now());
        pacing.ended(Outcome::Failed, START_PAGES, start);
        assert!(!pacing.is_due(u32::MAX - 1, start));
        assert!(pacing.is_due(START_PAGES, start + RETRY_FAILED));
    }

    /// Each attempt while a reader holds a snapshot makes a commit wait for 20 ms.
    #[test]
    fn a_held_snapshot_delays_few_commits() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options { sync: crate::Sync::Never, ..Options::new(directory.path()) };
        let mut writer = schema::open_writer(&options, |_| Ok(())).unwrap();
        let health = Arc::new(Health::new(schema::file(&options.path)));
        let mut checkpointer = Checkpointer::start(&options, &mut writer, &health).unwrap();
        let reader = Connection::open(schema::file(&options.path)).unwrap();
        reader.execute_batch("BEGIN; SELECT count(*) FROM sequence").unwrap();
        let (mut waits, mut pages) = (0, 0);
        while pages < 6000 {
            writer
                .execute(
                    "INSERT INTO messages VALUES (NULL, 0, '', NULL, NULL, zeroblob(60000))",
                    [],
                )
                .unwrap();
            pages = checkpointer.health.log_pages();
            while checkpointer.state.phase.load(Ordering::Acquire) == COPYING {
                std::thread::yield_now();
            }
            waits += u32::from(checkpointer.state.phase.load(Ordering::Acquire) == COPIED);
            checkpointer.after_commit(&writer);
        }
        // At 1024, 1536, 2304, 3456 and 5184 pages; more only on a very slow machine.
        assert!((5..100).contains(&waits), "{waits} of some 600 commits waited");
        let facts = health.facts();
        assert_eq!((facts.checkpoints_done, facts.checkpoints_busy), (0, u64::from(waits)));
        assert!(facts.log_bytes > 6000 * u64::from(schema::PAGE_SIZE), "{facts:?}");
        assert!(facts.since_checkpoint.is_some());
        drop(reader);
        checkpointer.pacing = Pacing::new();
        for _ in 0..3 {
            writer.execute("UPDATE sequence SET seen = seen + 1", []).unwrap();
            checkpointer.after_commit(&writer);
            while checkpointer.state.phase.load(Ordering::Acquire) == COPYING {
                std::thread::yield_now();
            }
        }
        assert!(checkpointer.health.log_pages() < START_PAGES, "it was restarted");
        let facts = health.facts();
        assert_eq!((facts.checkpoints_done, facts.checkpoints_failed), (1, 0));
        assert!(facts.log_bytes < u64::from(START_PAGES * schema::PAGE_SIZE), "{facts:?}");
        checkpointer.stop();
    }
}
