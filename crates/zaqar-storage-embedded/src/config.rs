//! Options.

use std::path::PathBuf;
use std::time::Duration;

use zaqar_core::TaskMonitor;

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory of the store; it is created if it does not exist. One process at a time owns
    /// it.
    pub path: PathBuf,
    /// When a change is safe from a power cut.
    pub sync: Sync,
    /// Changes that wait for the writer, at most. Further ones are rejected with [`Overloaded`].
    ///
    /// [`Overloaded`]: zaqar_core::storage::Error::Overloaded
    pub pending: usize,
    /// Bytes that wait for the writer, at most: bodies, with 512 bytes for each message, and
    /// metadata. This bounds how long a request waits for others. A single change always fits if no
    /// other bytes wait; otherwise further ones are rejected with the same error.
    pub pending_bytes: usize,
    /// Size of the writer's page cache in bytes, about.
    pub page_cache: usize,
    /// Bytes of disk space that are reserved for deletions on a full disk.
    pub reserve: u64,
    /// Opens a store even if acknowledged changes are lost, with the remaining data.
    pub accept_loss: bool,
    /// Is notified when one of the store's threads dies.
    pub tasks: TaskMonitor,
}

/// When a change is safe from a power cut or a crash of the operating system. In every mode, the
/// death of the process alone loses nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Before it is acknowledged.
    Always,
    /// At most this long after it was acknowledged, plus the time of one write to the disk. A power
    /// cut loses the latest changes; the file stays intact.
    Interval(Duration),
    /// Whenever the operating system writes it. A power cut can leave an unreadable file: for tests
    /// and caches.
    Never,
}

impl Options {
    /// The defaults for a directory: [`Sync::Always`], 4096 pending changes with 64 MiB, 16 MiB of
    /// page cache.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            sync: Sync::Always,
            pending: 4096,
            pending_bytes: 64 << 20,
            page_cache: 16 << 20,
            reserve: 4 << 20,
            accept_loss: false,
            tasks: TaskMonitor::default(),
        }
    }
}
