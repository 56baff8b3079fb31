//! Makes the log safe now and then, for [`Sync::Interval`](crate::Sync::Interval).

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::Error;
use crate::schema;

/// The thread that syncs.
pub(crate) struct LogSync {
    dirty: Arc<AtomicBool>,
    wake: SyncSender<()>,
    thread: JoinHandle<()>,
}

impl LogSync {
    /// Starts the thread. The log is there: the writer has opened the file.
    pub(crate) fn start(directory: &Path, every: Duration) -> Result<Self, Error> {
        let path = schema::log(directory);
        let log =
            File::open(&path).map_err(|source| Error::Open { path, source: source.into() })?;
        let dirty = Arc::new(AtomicBool::new(false));
        let (wake, woken) = sync_channel(1);
        let shared = Arc::clone(&dirty);
        let thread = std::thread::Builder::new()
            .name("zaqar-sync".to_owned())
            .spawn(move || sync_when_woken(&log, every, &woken, &shared))
            .map_err(|source| Error::Thread { source })?;
        Ok(Self { dirty, wake, thread })
    }

    /// The writer's part, after a commit.
    pub(crate) fn after_commit(&self) {
        if !self.dirty.swap(true, Ordering::AcqRel) {
            // Full means that the thread is about to look.
            let _ = self.wake.try_send(());
        }
    }

    /// Ends the thread.
    pub(crate) fn stop(self) {
        drop(self.wake);
        if self.thread.join().is_err() {
            tracing::error!("the sync thread panicked");
        }
    }
}

fn sync_when_woken(log: &File, every: Duration, woken: &Receiver<()>, dirty: &AtomicBool) {
    while woken.recv().is_ok() {
        // Nobody sends while `dirty` is set: this waits, or ends with the store.
        let is_over = woken.recv_timeout(every) == Err(RecvTimeoutError::Disconnected);
        dirty.store(false, Ordering::Release);
        if let Err(error) = log.sync_data() {
            tracing::error!(%error, "the log cannot be synced");
        }
        if is_over {
            return;
        }
    }
}
