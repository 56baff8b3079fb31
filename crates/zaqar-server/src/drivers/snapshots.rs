//! Snapshots of the embedded store that the server creates (`snapshot_interval`).

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use zaqar_core::{Clock, Timestamp};
use zaqar_storage_embedded::back_up;

use crate::error::with_causes;

/// A failed snapshot is retried after this, or after the interval if that is shorter.
const RETRY: Duration = Duration::from_secs(600);
/// How long the snapshots of a store that was just closed, and is open again, may keep the lock,
/// and the pause between attempts to get it.
const CLOSING: Duration = Duration::from_secs(5);
const AGAIN_AFTER: Duration = Duration::from_millis(250);
/// The longest sleep, so that changes of the clock are noticed.
const MAX_SLEEP: Duration = Duration::from_secs(60);
const PREFIX: &str = "snapshot-";
const SUFFIX: &str = ".db";
const PARTIAL: &str = ".db.partial";

/// Whoever has it locked creates snapshots in the directory, and deletes old ones.
const LOCK: &str = "snapshots.lock";

/// Creates snapshots of one store.
pub(crate) struct Snapshots {
    pub(crate) store: PathBuf,
    /// Where they are stored.
    pub(crate) directory: PathBuf,
    pub(crate) interval: Duration,
    /// How many are kept.
    pub(crate) keep: usize,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Snapshots {
    /// Creates a snapshot whenever the last one is old enough, until `stop`, which cancels one in
    /// progress.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let retry = RETRY.min(self.interval).max(Duration::from_secs(1));
        // Held until the end: another store's snapshots would be taken for this one's.
        let closed = tokio::time::Instant::now() + CLOSING;
        let _lock = loop {
            let problem = match lock(&self.directory) {
                Ok(Some(lock)) => break lock,
                Ok(None) if tokio::time::Instant::now() < closed => None,
                Ok(None) => Some("another store has its snapshots there".to_owned()),
                Err(error) => Some(error.to_string()),
            };
            if let Some(error) = &problem {
                error!(
                    error,
                    directory = %self.directory.display(),
                    store = %self.store.display(),
                    "snapshots cannot be created"
                );
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(if problem.is_some() { retry } else { AGAIN_AFTER }) => {}
            }
        };
        let mut not_before = Timestamp::from_millis(0);
        loop {
            let now = self.clock.now();
            let due = self.due(now).max(not_before);
            if due <= now {
                tokio::select! {
                    () = stop.cancelled() => return,
                    made = self.make(now) => if !made {
                        not_before = now.plus_secs(retry.as_secs());
                    },
                }
                continue;
            }
            let wait = Duration::from_millis(due.as_millis() - now.as_millis());
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait.min(MAX_SLEEP)) => {}
            }
        }
    }

    /// When the next one is due. One from the future was made while the clock was ahead.
    fn due(&self, now: Timestamp) -> Timestamp {
        let last = snapshots(&self.directory, now).ok().and_then(|all| all.last().map(|it| it.0));
        let last = last.filter(|at| *at <= now.as_secs());
        let next = |last: u64| Timestamp::from_millis(0).plus_secs(last + self.interval.as_secs());
        last.map_or(Timestamp::from_millis(0), next)
    }

    /// Creates one and deletes superfluous ones. Returns whether it was created.
    async fn make(&self, now: Timestamp) -> bool {
        let target = self.directory.join(format!("{PREFIX}{:012}{SUFFIX}", now.as_secs()));
        let (store, directory, keep) = (self.store.clone(), self.directory.clone(), self.keep);
        let (done, made) = oneshot::channel();
        // In a thread of its own, so that stopping the process does not wait for it.
        std::thread::spawn(move || {
            let copied = back_up(&store, &target).map_err(|error| with_causes(&error));
            let copied = copied.map(|checked| (target, checked.bytes));
            let _ = prune(&directory, keep, now);
            let _ = done.send(copied);
        });
        match made.await {
            Ok(Ok((file, bytes))) => {
                info!(file = %file.display(), bytes, "snapshot created");
                true
            }
            Ok(Err(error)) => {
                error!(error, store = %self.store.display(), "the snapshot failed");
                false
            }
            Err(_) => false,
        }
    }
}

/// Creates the directory, and locks it for snapshots of one store as long as the file is open;
/// `None` if it is locked.
fn lock(directory: &Path) -> io::Result<Option<File>> {
    fs::create_dir_all(directory)?;
    let file = File::create(directory.join(LOCK))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The snapshots in a directory, oldest first: seconds since 1970, and the file. Those from the
/// future are before the others, so that they do not take the place of what is made now.
fn snapshots(directory: &Path, now: Timestamp) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if let Some(at) = time_of(&path, SUFFIX) {
            found.push((at, path));
        }
    }
    found.sort_by_key(|(at, _)| (*at <= now.as_secs(), *at));
    Ok(found)
}

/// The time in a snapshot's file name; `None` for other files.
fn time_of(path: &Path, suffix: &str) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    let digits = name.strip_prefix(PREFIX)?.strip_suffix(suffix)?;
    let is_ours = digits.len() == 12 && digits.bytes().all(|digit| digit.is_ascii_digit());
    is_ours.then(|| digits.parse().ok()).flatten()
}

/// Deletes all but the newest snapshots, and partial copies.
fn prune(directory: &Path, keep: usize, now: Timestamp) -> io::Result<()> {
    let all = snapshots(directory, now)?;
    for (_, path) in &all[..all.len().saturating_sub(keep)] {
        fs::remove_file(path)?;
    }
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if time_of(&path, PARTIAL).is_some() {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use zaqar_core::ManualClock;
    use zaqar_storage_embedded::{Embedded, Options};

    use super::*;

    #[test]
    fn a_directory_has_the_snapshots_of_one_store() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("snapshots");
        let first = lock(&directory).unwrap().unwrap();
        assert!(lock(&directory).unwrap().is_none());
        drop(first);
        assert!(lock(&directory).unwrap().is_some());
    }

    /// A pool whose options changed is opened while its snapshots with the old ones are stopped.
    #[tokio::test(start_paused = true)]
    async fn a_lock_that_is_about_to_be_released_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("snapshots");
        let before = lock(&directory).unwrap();
        let snapshots = Snapshots {
            store: dir.path().join("store"),
            directory: directory.clone(),
            interval: Duration::from_secs(3600),
            keep: 2,
            clock: Arc::new(ManualClock::new(Timestamp::from_millis(1))),
        };
        let stop = CancellationToken::new();
        let running = tokio::spawn(snapshots.run(stop.clone()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(before);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(lock(&directory).unwrap().is_none(), "the lock is taken");
        stop.cancel();
        running.await.unwrap();
    }

    #[tokio::test]
    async fn snapshots_are_made_when_due_and_the_newest_stay() {
        let dir = tempfile::tempdir().unwrap();
        let (store, directory) = (dir.path().join("store"), dir.path().join("snapshots"));
        let _open = Embedded::open(Options::new(&store)).unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_000_000)));
        let snapshots = Snapshots {
            store,
            directory: directory.clone(),
            interval: Duration::from_secs(60),
            keep: 2,
            clock: clock.clone(),
        };
        fs::create_dir(&directory).unwrap();
        for name in ["snapshot-000000000001.db.partial", "snapshot-1.db", "other.db"] {
            fs::write(directory.join(name), "").unwrap();
        }
        let names = || {
            let entries = fs::read_dir(&directory).unwrap();
            let mut names: Vec<_> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let snapshots = &snapshots;
        let make = async |secs: u64| {
            let now = Timestamp::from_millis(secs * 1000);
            assert!(snapshots.due(now) <= now, "{secs}");
            assert!(snapshots.make(now).await);
            assert!(snapshots.due(now) > now, "{secs}");
        };
        for secs in [1000, 1060, 1120] {
            make(secs).await;
        }
        assert_eq!(
            names(),
            ["other.db", "snapshot-000000001060.db", "snapshot-000000001120.db", "snapshot-1.db"]
        );
        // They go on after a clock that was ahead.
        assert!(snapshots.make(Timestamp::from_millis(9_000_000_000)).await);
        for secs in [1180, 1240] {
            make(secs).await;
        }
        assert_eq!(
            names(),
            ["other.db", "snapshot-000000001180.db", "snapshot-000000001240.db", "snapshot-1.db"]
        );
        // A snapshot is a store.
        let restored = dir.path().join("restored");
        let copy = directory.join("snapshot-000000001240.db");
        zaqar_storage_embedded::restore(&copy, &restored, false).unwrap();
        assert!(Embedded::open(Options::new(&restored)).is_ok());
    }
}
