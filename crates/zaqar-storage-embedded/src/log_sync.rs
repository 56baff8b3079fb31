//! Syncs the log periodically, for [`Sync::Interval`](crate::Sync::Interval).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use zaqar_core::TaskGuard;

use crate::error::Error;
use crate::health::Health;
use crate::{Options, schema};

/// Bytes of the log that are rewritten at a time.
const PIECE: usize = 1 << 20;

/// The thread that syncs.
pub(crate) struct LogSync {
    dirty: Arc<AtomicBool>,
    path: PathBuf,
    wake: SyncSender<()>,
    thread: JoinHandle<()>,
}

impl LogSync {
    /// Starts the thread. The log exists because the writer has opened the file.
    pub(crate) fn start(
        options: &Options,
        every: Duration,
        health: &Arc<Health>,
    ) -> Result<Self, Error> {
        let path = schema::log(&options.path);
        let log = File::open(&path)
            .map_err(|source| Error::Open { path: path.clone(), source: source.into() })?;
        let dirty = Arc::new(AtomicBool::new(false));
        let (wake, woken) = sync_channel(1);
        let (shared, health) = (Arc::clone(&dirty), Arc::clone(health));
        let guard = options.tasks.guard("embedded sync");
        let thread = std::thread::Builder::new()
            .name("zaqar-sync".to_owned())
            .spawn(move || sync_when_woken(&log, every, &woken, &shared, &health, guard))
            .map_err(|source| Error::Thread { source })?;
        Ok(Self { dirty, path, wake, thread })
    }

    /// Called by the writer after each commit.
    pub(crate) fn after_commit(&self) {
        if !self.dirty.swap(true, Ordering::AcqRel) {
            // If the channel is full, the thread is about to sync.
            let _ = self.wake.try_send(());
        }
    }

    /// Makes the log durable after a failed sync. The system may consider the pages of that sync to
    /// be clean, so they are written again with the same content and then synced. Nothing else may
    /// write in the meantime.
    pub(crate) fn rewrite(&self) -> io::Result<()> {
        rewrite(&self.path, u64::MAX)
    }

    /// Ends the thread.
    pub(crate) fn stop(self) {
        drop(self.wake);
        if self.thread.join().is_err() {
            tracing::error!("the sync thread panicked");
        }
    }
}

fn sync_when_woken(
    log: &File,
    every: Duration,
    woken: &Receiver<()>,
    dirty: &AtomicBool,
    health: &Health,
    guard: TaskGuard,
) {
    while woken.recv().is_ok() {
        // Nothing is sent while `dirty` is set: this waits, or returns when the store is closed.
        let is_over = woken.recv_timeout(every) == Err(RecvTimeoutError::Disconnected);
        dirty.store(false, Ordering::Release);
        if let Err(error) = log.sync_data() {
            health.sync_failed(&error);
        }
        if is_over {
            break;
        }
    }
    guard.finish();
}

/// Rewrites the first bytes of a file with the same content, and syncs it.
pub(crate) fn rewrite(path: &Path, bytes: u64) -> io::Result<()> {
    let mut log = OpenOptions::new().read(true).write(true).open(path)?;
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    loop {
        log.seek(SeekFrom::Start(at))?;
        let left = usize::try_from(bytes - at).unwrap_or(PIECE).min(PIECE);
        let length = log.read(&mut piece[..left])?;
        if length == 0 {
            return log.sync_data();
        }
        log.seek(SeekFrom::Start(at))?;
        log.write_all(&piece[..length])?;
        at += length as u64;
    }
}
