//! The problems of a store, until they are resolved.
//!
//! Threads and connections report problems here. A ping returns them, each change of state is
//! logged once, and changes are rejected while they could not be made durable.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use zaqar_core::{StateLog, storage};

use crate::error::{ErrorKind, kind_of};
use crate::schema;

/// A ping fails after this many failed checkpoints in a row.
const FAILED_CHECKPOINTS: u32 = 3;

/// The state of an embedded store for operators: see [`Embedded::facts`]. Counters start with 0
/// when the store is opened.
///
/// [`Embedded::facts`]: crate::Embedded::facts
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Facts {
    /// Checkpoints that copied the whole log into the file and restarted it.
    pub checkpoints_done: u64,
    /// Checkpoints after which the log could not be restarted: a reader held an old snapshot.
    pub checkpoints_busy: u64,
    /// Checkpoints that failed because of the disk.
    pub checkpoints_failed: u64,
    /// Failed checkpoints since the last one that did not fail. From 3 on a ping fails.
    pub checkpoints_failed_in_a_row: u32,
    /// How long ago the log, or a part of it, was copied into the file; `None` before the first
    /// time. It is copied when it has grown by 4 MiB, so an idle store does not copy it.
    pub since_checkpoint: Option<Duration>,
    /// Bytes of the log after the last commit, usually below 40 MiB.
    pub log_bytes: u64,
    /// Syncs of the log between commits that failed, with `Sync::Interval`.
    pub syncs_failed: u64,
    /// How often a write by another program was detected.
    pub foreign_writes: u64,
    /// A damaged page was found: a ping fails until the store is recovered.
    pub is_damaged: bool,
    /// The disk is full: posts are rejected.
    pub is_full: bool,
    /// The log may have a hole on disk: changes are rejected.
    pub is_unsynced: bool,
    /// Another process holds a lock on the file.
    pub is_locked: bool,
    /// The file was removed or replaced: changes are rejected.
    pub is_replaced: bool,
}

/// The state of one store.
#[derive(Debug)]
pub(crate) struct Health {
    file: PathBuf,
    page_size: u32,
    opened: Instant,
    log_pages: AtomicU32,
    checkpoints_done: AtomicU64,
    checkpoints_busy: AtomicU64,
    checkpoints_failed: AtomicU64,
    /// When the last one ended that did not fail, in milliseconds since `opened`, plus one; 0 for
    /// never.
    checkpoint_at: AtomicU64,
    syncs_failed: AtomicU64,
    /// Latched, because damage does not disappear by itself.
    damage: OnceLock<String>,
    failed_checkpoints: AtomicU32,
    checkpoint_log: StateLog,
    /// A sync of the log has failed, so the log on disk may have a hole.
    is_unsynced: AtomicBool,
    sync_log: StateLog,
    /// Another process holds a lock on the file.
    is_locked: AtomicBool,
    lock_log: StateLog,
    /// The path leads to another file, or to none.
    is_replaced: AtomicBool,
    replaced_log: StateLog,
    foreign_writes: AtomicU64,
    foreign_log: StateLog,
    /// The disk is full: changes that add data are rejected.
    is_full: AtomicBool,
    full_log: StateLog,
    row_log: StateLog,
}

impl Health {
    pub(crate) fn new(file: PathBuf, page_size: u32) -> Self {
        Self {
            file,
            page_size,
            opened: Instant::now(),
            log_pages: AtomicU32::new(0),
            checkpoints_done: AtomicU64::new(0),
            checkpoints_busy: AtomicU64::new(0),
            checkpoints_failed: AtomicU64::new(0),
            checkpoint_at: AtomicU64::new(0),
            syncs_failed: AtomicU64::new(0),
            damage: OnceLock::new(),
            failed_checkpoints: AtomicU32::new(0),
            checkpoint_log: StateLog::new(),
            is_unsynced: AtomicBool::new(false),
            sync_log: StateLog::new(),
            is_locked: AtomicBool::new(false),
            lock_log: StateLog::new(),
            is_replaced: AtomicBool::new(false),
            replaced_log: StateLog::with_interval(Duration::from_secs(60)),
            foreign_writes: AtomicU64::new(0),
            foreign_log: StateLog::new(),
            is_full: AtomicBool::new(false),
            full_log: StateLog::with_interval(Duration::from_secs(60)),
            row_log: StateLog::with_interval(Duration::from_secs(60)),
        }
    }

    /// Counters and current problems.
    pub(crate) fn facts(&self) -> Facts {
        let checkpoint = self.checkpoint_at.load(Ordering::Relaxed).checked_sub(1);
        Facts {
            checkpoints_done: self.checkpoints_done.load(Ordering::Relaxed),
            checkpoints_busy: self.checkpoints_busy.load(Ordering::Relaxed),
            checkpoints_failed: self.checkpoints_failed.load(Ordering::Relaxed),
            checkpoints_failed_in_a_row: self.failed_checkpoints.load(Ordering::Relaxed),
            since_checkpoint: checkpoint
                .map(|at| self.opened.elapsed().saturating_sub(Duration::from_millis(at))),
            log_bytes: u64::from(self.log_pages()) * schema::frame_bytes(self.page_size),
            syncs_failed: self.syncs_failed.load(Ordering::Relaxed),
            foreign_writes: self.foreign_writes.load(Ordering::Relaxed),
            is_damaged: self.damage.get().is_some(),
            is_full: self.is_full(),
            is_unsynced: self.is_unsynced(),
            is_locked: self.is_locked(),
            is_replaced: self.is_replaced.load(Ordering::Acquire),
        }
    }

    /// Bytes of a page of the file.
    pub(crate) const fn page_size(&self) -> u32 {
        self.page_size
    }

    /// Pages in the log after the last commit.
    pub(crate) fn log_pages(&self) -> u32 {
        self.log_pages.load(Ordering::Relaxed)
    }

    pub(crate) fn set_log_pages(&self, pages: u32) {
        self.log_pages.store(pages, Ordering::Relaxed);
    }

    /// The check of a ping before it asks the writer.
    pub(crate) fn check(&self) -> Result<(), storage::Error> {
        let file = self.file.display();
        if let Some(damage) = self.damage.get() {
            return Err(storage::Error::unavailable(format!("{file} is damaged: {damage}")));
        }
        if self.is_locked() {
            return Err(locked(&self.file));
        }
        if self.is_full() {
            return Err(full(&self.file));
        }
        let failed = self.failed_checkpoints.load(Ordering::Relaxed);
        if failed >= FAILED_CHECKPOINTS {
            return Err(storage::Error::unavailable(format!(
                "{failed} checkpoints of {file} failed in a row"
            )));
        }
        self.check_writable()
    }

    /// Whether changes can be made durable.
    pub(crate) fn check_writable(&self) -> Result<(), storage::Error> {
        if self.is_replaced.load(Ordering::Acquire) {
            let file = self.file.display();
            return Err(storage::Error::unavailable(format!("{file} was removed or replaced")));
        }
        if self.is_unsynced() {
            let file = self.file.display();
            return Err(storage::Error::unavailable(format!("the log of {file} cannot be synced")));
        }
        Ok(())
    }

    /// Records an error of SQLite from any thread.
    pub(crate) fn record(&self, error: &rusqlite::Error) {
        match kind_of(error) {
            ErrorKind::Damage => self.latch_damage(error),
            ErrorKind::Locked => {
                self.is_locked.store(true, Ordering::Release);
                if let Some(failures) = self.lock_log.failure() {
                    let file = self.file.display();
                    tracing::warn!(%file, failures, "another process has locked the store's file");
                }
            }
            ErrorKind::Row => {
                if let Some(failures) = self.row_log.failure() {
                    let file = self.file.display();
                    tracing::warn!(%error, %file, failures, "an unreadable row is skipped");
                }
            }
            ErrorKind::Full => self.disk_full(),
            ErrorKind::Disk | ErrorKind::Frozen | ErrorKind::Other => {}
        }
    }

    fn latch_damage(&self, error: &rusqlite::Error) {
        if self.damage.set(error.to_string()).is_ok() {
            let file = self.file.display();
            tracing::error!(
                %error, %file,
                "the store is damaged: readable data is served; stop the server, run \
                 `sqlite3 zaqar.db .recover | sqlite3 recovered.db` and replace the file with the result"
            );
        }
    }

    /// Records that the disk is full.
    pub(crate) fn disk_full(&self) {
        self.is_full.store(true, Ordering::Release);
        if let Some(failures) = self.full_log.failure() {
            let file = self.file.display();
            tracing::error!(
                %file, failures,
                "the disk is full: posts are rejected, deletions use the reserve"
            );
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Acquire)
    }

    /// Records that the disk has space again and the reserve is complete.
    pub(crate) fn disk_recovered(&self) {
        self.is_full.store(false, Ordering::Release);
        if let Some(failures) = self.full_log.success() {
            tracing::info!(failures, "the disk has space again: posts are accepted");
        }
    }

    /// Whether another process held a lock when the last transaction began.
    pub(crate) fn is_locked(&self) -> bool {
        self.is_locked.load(Ordering::Acquire)
    }

    /// Records that the writer has its lock again.
    pub(crate) fn unlocked(&self) {
        self.is_locked.store(false, Ordering::Release);
        if let Some(failures) = self.lock_log.success() {
            tracing::info!(failures, "the store's file is no longer locked by another process");
        }
    }

    /// Records whether the file is still at its path. If not, data that are written to it are lost
    /// with the process.
    pub(crate) fn set_in_place(&self, is_in_place: bool) {
        self.is_replaced.store(!is_in_place, Ordering::Release);
        let file = self.file.display();
        if !is_in_place {
            if let Some(failures) = self.replaced_log.failure() {
                tracing::error!(
                    %file, failures,
                    "the store's file was removed or replaced: changes are rejected until it is back"
                );
            }
        } else if self.replaced_log.success().is_some() {
            tracing::info!(%file, "the store's file is back: changes are accepted");
        }
    }

    /// Records that another process has written to the file.
    pub(crate) fn foreign_write(&self) {
        self.foreign_writes.fetch_add(1, Ordering::Relaxed);
        if let Some(times) = self.foreign_log.failure() {
            let file = self.file.display();
            tracing::warn!(%file, times, "another program has written to the store's file");
        }
    }

    pub(crate) fn checkpoint_failed(&self, error: &rusqlite::Error) {
        self.record(error);
        self.checkpoints_failed.fetch_add(1, Ordering::Relaxed);
        let in_a_row = self.failed_checkpoints.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if let Some(failures) = self.checkpoint_log.failure() {
            tracing::warn!(%error, failures, in_a_row, "the log cannot be copied into the file");
        }
    }

    /// Records that a part of the log was copied.
    pub(crate) fn copied(&self) {
        let at = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.checkpoint_at.store(at + 1, Ordering::Relaxed);
        self.failed_checkpoints.store(0, Ordering::Relaxed);
        if let Some(failures) = self.checkpoint_log.success() {
            tracing::info!(failures, "the log can be copied into the file again");
        }
    }

    /// Records that the log was copied, and whether it could be restarted, too.
    pub(crate) fn checkpoint_succeeded(&self, is_restarted: bool) {
        let count = if is_restarted { &self.checkpoints_done } else { &self.checkpoints_busy };
        count.fetch_add(1, Ordering::Relaxed);
        self.copied();
    }

    /// Records a failed sync of the log: no change is acknowledged until the log is durable again.
    pub(crate) fn sync_failed(&self, error: &dyn std::error::Error) {
        self.is_unsynced.store(true, Ordering::Release);
        self.syncs_failed.fetch_add(1, Ordering::Relaxed);
        if let Some(failures) = self.sync_log.failure() {
            tracing::error!(%error, failures, "the log cannot be synced: changes are rejected");
        }
    }

    pub(crate) fn is_unsynced(&self) -> bool {
        self.is_unsynced.load(Ordering::Acquire)
    }

    /// Records that all acknowledged changes are durable again.
    pub(crate) fn synced(&self) {
        self.is_unsynced.store(false, Ordering::Release);
        if let Some(failures) = self.sync_log.success() {
            tracing::info!(failures, "the log is synced again: changes are accepted");
        }
    }
}

/// The error of a full disk.
pub(crate) fn full(file: &Path) -> storage::Error {
    storage::Error::full(format!("the disk of {} is full", file.display()))
}

/// The error of a file that another process has locked.
pub(crate) fn locked(file: &Path) -> storage::Error {
    storage::Error::unavailable(format!("another process has locked {}", file.display()))
}
