//! Checkpoints: copies the log into the file, mostly outside of the writer thread.
//!
//! Each time when the log has grown by [`PIECE`], a separate thread copies that part while the
//! writer continues: a sync of the file is short then, and so is the time that the writer's own
//! syncs wait for it. When the log has [`RESTART`], the writer copies what was written in the
//! meantime between two transactions, and restarts the log. So the log stays bounded, and its space
//! is overwritten, which syncs faster than appending. If the separate thread has copied everything,
//! SQLite restarts the log with the next transaction.
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

/// Bytes that the log grows by between two copies.
const PIECE: u32 = 4 << 20;
/// Bytes of the log from which on it is restarted.
const RESTART: u32 = 32 << 20;
/// Bytes of the log that cause a warning if it cannot be restarted.
const LARGE: u32 = 64 << 20;
/// The writer copies up to this many remaining bytes itself.
const MAX_REMAINING: u32 = 512 << 10;
/// Bound on consecutive copies to get there.
const MAX_ROUNDS: usize = 8;
/// How long the writer waits for readers of the old log.
const READER_WAIT: Duration = Duration::from_millis(20);
/// The delay after an attempt that readers prevented, unless the log has grown by half before.
const RETRY_BUSY: Duration = Duration::from_secs(5);
/// The delay after a failed attempt.
const RETRY_FAILED: Duration = Duration::from_secs(1);

const TRUNCATE: &str = "PRAGMA wal_checkpoint(TRUNCATE)";

const IDLE: u8 = 0;
const COPYING: u8 = 1;
const COPIED: u8 = 2;
const FAILED: u8 = 3;

#[derive(Debug, Default)]
struct State {
    phase: AtomicU8,
}

/// How often the thread copies what was written during the last copy.
type Rounds = usize;

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

/// When the next copy and the next restart are due.
#[derive(Debug)]
struct Pacing {
    page_size: u32,
    /// Pages of the log when its last copy started; 0 since it was restarted.
    seen: u32,
    /// The next copy starts when the log has this many pages.
    copy_at: u32,
    /// The next restart is tried when the log has this many pages.
    restart_at: u32,
    /// Readers have prevented the last restart: the next is tried at this time with fewer pages.
    busy_until: Option<Instant>,
    /// The last attempt has failed: the next is made at this time.
    failed_until: Option<Instant>,
}

impl Pacing {
    const fn new(page_size: u32) -> Self {
        let (copy_at, restart_at) = (PIECE / page_size, RESTART / page_size);
        Self { page_size, seen: 0, copy_at, restart_at, busy_until: None, failed_until: None }
    }

    /// Pages below which nothing is due.
    const fn piece(&self) -> u32 {
        PIECE / self.page_size
    }

    fn is_copy_due(&self, pages: u32, now: Instant) -> bool {
        match self.failed_until {
            Some(at) => pages >= self.piece() && at <= now,
            None => pages >= self.copy_at || self.is_restart_due(pages, now),
        }
    }

    fn is_restart_due(&self, pages: u32, now: Instant) -> bool {
        pages >= self.restart_at || self.busy_until.is_some_and(|at| at <= now)
    }

    /// Whether SQLite has restarted the log since the last copy.
    const fn is_shorter(&self, pages: u32) -> bool {
        pages < self.seen
    }

    /// After a copy that no restart follows.
    const fn copied(&mut self, pages: u32) {
        self.seen = pages;
        self.copy_at = pages.saturating_add(self.piece());
        self.failed_until = None;
    }

    /// After an attempt to restart the log, or a failed copy.
    fn ended(&mut self, outcome: Outcome, pages: u32, now: Instant) {
        match outcome {
            Outcome::Restarted => *self = Self::new(self.page_size),
            Outcome::Busy => {
                self.copied(pages);
                let by_half = pages.saturating_add(pages / 2);
                self.restart_at = by_half.max(RESTART / self.page_size);
                self.busy_until = Some(now + RETRY_BUSY);
            }
            Outcome::Failed => self.failed_until = Some(now + RETRY_FAILED),
        }
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
    wake: SyncSender<Rounds>,
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
        let page_size = health.page_size();
        let thread = std::thread::Builder::new()
            .name("zaqar-checkpoint".to_owned())
            .spawn(move || copy_when_woken(&conn, &woken, &shared, &reports, guard))
            .map_err(|source| Error::Thread { source })?;
        Ok(Self {
            state,
            health: Arc::clone(health),
            pacing: Pacing::new(page_size),
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
            if self.pacing.is_shorter(pages) {
                self.log_was_restarted(writer, pages);
            } else if pages >= self.pacing.piece() {
                self.start_copy(pages);
            }
            return;
        }
        if self.pacing.is_shorter(pages) {
            self.log_was_restarted(writer, pages);
        } else if phase == FAILED {
            self.ended(Outcome::Failed, pages);
        } else if self.pacing.is_restart_due(pages, Instant::now()) {
            let outcome = self.restart_log(writer);
            self.ended(outcome, pages);
        } else {
            self.health.copied();
            self.pacing.copied(pages);
        }
        self.state.phase.store(IDLE, Ordering::Release);
    }

    fn start_copy(&mut self, pages: u32) {
        let now = Instant::now();
        if !self.pacing.is_copy_due(pages, now) {
            return;
        }
        // Before a restart the writer must have little left to copy.
        let rounds = if self.pacing.is_restart_due(pages, now) { MAX_ROUNDS } else { 1 };
        self.pacing.seen = pages;
        self.state.phase.store(COPYING, Ordering::Release);
        // The channel is empty: the thread is idle.
        let _ = self.wake.try_send(rounds);
    }

    /// SQLite has restarted the log itself, because all of it was in the file. For litestream it is
    /// truncated: see [`restart_log`].
    fn log_was_restarted(&mut self, writer: &Connection, pages: u32) {
        let outcome = match is_replicated(writer) {
            Ok(false) => {
                self.health.checkpoint_succeeded(true);
                Outcome::Restarted
            }
            Ok(true) | Err(_) => self.restart_log(writer),
        };
        self.ended(outcome, pages);
    }

    /// Truncates the log if possible, so that a full disk gets its space back.
    pub(crate) fn truncate_log_now(&mut self, writer: &Connection) {
        if self.state.phase.load(Ordering::Acquire) == IDLE {
            let pages = self.health.log_pages();
            let outcome = self.outcome(end_log(writer, TRUNCATE));
            self.ended(outcome, pages);
        }
    }

    fn restart_log(&self, writer: &Connection) -> Outcome {
        self.outcome(restart_log(writer))
    }

    fn outcome(&self, restarted: Sql<bool>) -> Outcome {
        match restarted {
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
        let bytes = u64::from(pages) * u64::from(self.pacing.page_size);
        let is_large = bytes >= u64::from(LARGE);
        if is_large && outcome == Outcome::Busy && self.busy_log.failure().is_some() {
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
    woken: &Receiver<Rounds>,
    state: &State,
    health: &Health,
    guard: TaskGuard,
) {
    let remaining = i64::from(MAX_REMAINING / health.page_size());
    while let Ok(rounds) = woken.recv() {
        let phase = match copy(conn, rounds, remaining) {
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

/// Copies until few pages are left, in at most so many rounds.
fn copy(conn: &Connection, rounds: Rounds, remaining: i64) -> Sql<()> {
    for _ in 0..rounds {
        let (_, pages, copied) = checkpoint(conn, "PRAGMA wal_checkpoint(PASSIVE)")?;
        if pages - copied <= remaining {
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
    let sql = if is_replicated(writer)? { TRUNCATE } else { "PRAGMA wal_checkpoint(RESTART)" };
    end_log(writer, sql)
}

fn end_log(writer: &Connection, sql: &str) -> Sql<bool> {
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

    const PAGE: u32 = 4096;

    /// The sizes of a growing log at which it is copied, up to a restart with this outcome.
    fn copies(pacing: &mut Pacing, from: u32, outcome: Outcome, now: Instant) -> Vec<u32> {
        let mut copies = Vec::new();
        for pages in from.. {
            if pacing.is_copy_due(pages, now) {
                copies.push(pages);
                if pacing.is_restart_due(pages, now) {
                    pacing.ended(outcome, pages, now);
                    break;
                }
                pacing.copied(pages);
            }
        }
        copies
    }

    #[test]
    fn the_log_is_copied_in_pieces_and_restarted_when_it_is_large() {
        let (mut pacing, now) = (Pacing::new(PAGE), Instant::now());
        for _ in 0..2 {
            let copies = copies(&mut pacing, 0, Outcome::Restarted, now);
            assert_eq!(copies, [1024, 2048, 3072, 4096, 5120, 6144, 7168, 8192]);
        }
        // A file with larger pages has as many bytes in its log.
        let copies = copies(&mut Pacing::new(2 * PAGE), 0, Outcome::Restarted, now);
        assert_eq!(copies, [512, 1024, 1536, 2048, 2560, 3072, 3584, 4096]);
    }

    #[test]
    fn after_a_busy_attempt_the_next_one_waits_for_half_more_log() {
        let (mut pacing, start) = (Pacing::new(PAGE), Instant::now());
        let mut attempts = vec![0];
        for _ in 0..5 {
            let from = attempts.last().unwrap() + 1;
            attempts.extend(copies(&mut pacing, from, Outcome::Busy, start).last());
        }
        assert_eq!(attempts, [0, 8192, 12_288, 18_432, 27_648, 41_472]);
        assert!(!pacing.is_restart_due(41_473, start + RETRY_BUSY - Duration::from_millis(1)));
        assert!(pacing.is_copy_due(41_473, start + RETRY_BUSY), "the reader may have ended");
        assert!(pacing.is_restart_due(41_473, start + RETRY_BUSY));
        pacing.ended(Outcome::Restarted, 41_473, start);
        assert!(pacing.is_copy_due(1024, start) && !pacing.is_copy_due(1023, start));
    }

    #[test]
    fn failed_attempts_are_repeated_once_a_second() {
        let (mut pacing, start) = (Pacing::new(PAGE), Instant::now());
        pacing.ended(Outcome::Failed, 1024, start);
        assert!(!pacing.is_copy_due(u32::MAX - 1, start));
        assert!(pacing.is_copy_due(1024, start + RETRY_FAILED));
        pacing.copied(1024);
        assert!(!pacing.is_copy_due(1025, start + RETRY_FAILED), "it has succeeded");
    }

    /// SQLite restarts a log that was copied whole with the next transaction.
    #[test]
    fn a_restart_by_sqlite_is_noticed() {
        let (mut pacing, now) = (Pacing::new(PAGE), Instant::now());
        assert!(!pacing.is_shorter(0) && !pacing.is_shorter(1024));
        pacing.copied(1024);
        assert!(!pacing.is_shorter(1024) && pacing.is_shorter(5));
        pacing.ended(Outcome::Restarted, 5, now);
        assert!(!pacing.is_shorter(5) && !pacing.is_shorter(0));
    }

    fn wait_for_copy(checkpointer: &Checkpointer) {
        while checkpointer.state.phase.load(Ordering::Acquire) == COPYING {
            std::thread::yield_now();
        }
    }

    fn insert(writer: &Connection) {
        let sql = "INSERT INTO messages (created, client, body) VALUES (0, '', zeroblob(600000))";
        writer.execute(sql, []).unwrap();
    }

    /// Each attempt while a reader holds a snapshot makes a commit wait for 20 ms.
    #[test]
    fn a_held_snapshot_delays_few_commits() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options { sync: crate::Sync::Never, ..Options::new(directory.path()) };
        let mut writer = schema::open_writer(&options, |_| Ok(())).unwrap();
        let page_size = schema::page_size(&writer).unwrap();
        let health = Arc::new(Health::new(schema::file(&options.path), page_size));
        let mut checkpointer = Checkpointer::start(&options, &mut writer, &health).unwrap();
        let reader = Connection::open(schema::file(&options.path)).unwrap();
        reader.execute_batch("BEGIN; SELECT count(*) FROM sequence").unwrap();
        while checkpointer.health.log_pages() < 4 * RESTART / page_size {
            insert(&writer);
            wait_for_copy(&checkpointer);
            checkpointer.after_commit(&writer);
        }
        // At 32, 48, 72 and 108 MiB; more only on a very slow machine.
        let facts = health.facts();
        assert!((4..40).contains(&facts.checkpoints_busy), "{facts:?}");
        assert_eq!(facts.checkpoints_done, 0);
        assert!(facts.log_bytes > 4 * u64::from(RESTART), "{facts:?}");
        assert!(facts.since_checkpoint.is_some());
        drop(reader);
        checkpointer.pacing = Pacing::new(page_size);
        for _ in 0..3 {
            insert(&writer);
            checkpointer.after_commit(&writer);
            wait_for_copy(&checkpointer);
        }
        let facts = health.facts();
        assert!(facts.log_bytes < u64::from(PIECE), "it was restarted: {facts:?}");
        assert_eq!((facts.checkpoints_done, facts.checkpoints_failed), (1, 0), "{facts:?}");
        checkpointer.stop();
    }

    #[test]
    fn a_full_disk_gets_the_space_of_the_log_back() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options { sync: crate::Sync::Never, ..Options::new(directory.path()) };
        let mut writer = schema::open_writer(&options, |_| Ok(())).unwrap();
        let page_size = schema::page_size(&writer).unwrap();
        let health = Arc::new(Health::new(schema::file(&options.path), page_size));
        let mut checkpointer = Checkpointer::start(&options, &mut writer, &health).unwrap();
        insert(&writer);
        let log = schema::log(&options.path);
        assert!(log.metadata().unwrap().len() > 600_000);
        checkpointer.truncate_log_now(&writer);
        assert_eq!(log.metadata().unwrap().len(), 0);
        checkpointer.stop();
    }

    /// If the thread copies everything, the log starts again long before it is large.
    #[test]
    fn a_log_that_is_copied_whole_is_restarted_by_sqlite() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options { sync: crate::Sync::Never, ..Options::new(directory.path()) };
        let mut writer = schema::open_writer(&options, |_| Ok(())).unwrap();
        let page_size = schema::page_size(&writer).unwrap();
        let health = Arc::new(Health::new(schema::file(&options.path), page_size));
        let mut checkpointer = Checkpointer::start(&options, &mut writer, &health).unwrap();
        let mut largest = 0;
        for _ in 0..40 {
            insert(&writer);
            checkpointer.after_commit(&writer);
            wait_for_copy(&checkpointer);
            largest = largest.max(health.facts().log_bytes);
        }
        let facts = health.facts();
        assert!(largest < u64::from(2 * PIECE), "{largest} bytes of 24 MB");
        assert!((3..10).contains(&facts.checkpoints_done), "{facts:?}");
        assert_eq!(facts.checkpoints_busy, 0);
        checkpointer.stop();
    }
}
