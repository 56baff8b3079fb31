//! What can be set.

use std::path::PathBuf;
use std::time::Duration;

use zaqar_core::TaskMonitor;

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory that holds the store; it is created if it is missing. One process at a time
    /// owns it.
    pub path: PathBuf,
    /// When a change is safe from a power cut.
    pub sync: Sync,
    /// Changes that wait for the writer, at most. One more is refused with [`Overloaded`].
    ///
    /// [`Overloaded`]: zaqar_core::storage::Error::Overloaded
    pub pending: usize,
    /// Bytes of bodies, with 512 for each message, and of metadata that wait for the writer, at
    /// most; so nobody waits for others much longer than the writer needs for that. A single change
    /// always fits; else one more is refused like that, too.
    pub pending_bytes: usize,
    /// Bytes of the file that the writer keeps in memory, about.
    pub page_cache: usize,
    /// Bytes of the disk that are kept for deletions on a full disk.
    pub reserve: u64,
    /// Opens a store also where acknowledged changes are lost, with what is left of it.
    pub accept_loss: bool,
    /// Learns of the death of the store's threads.
    pub tasks: TaskMonitor,
}

/// When a change is safe from a power cut or a crash of the operating system. The end of the
/// process alone loses nothing in any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Before it is acknowledged.
    Always,
    /// At most this long after it was acknowledged, and the time that one write to the disk takes.
    /// What is lost are the latest changes; the file stays whole.
    Interval(Duration),
    /// Whenever the operating system gets to it. A power cut can leave a file that cannot be read:
    /// for tests and caches.
    Never,
}

impl Options {
    /// The defaults for a directory: [`Sync::Always`], 4096 pending changes with 64 MiB, 16 MiB of
    /// pages.
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
