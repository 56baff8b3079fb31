//! The directory of a store, and the locks of its owner.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, is_disk_full};

/// Holds the locks of a directory until it is dropped.
///
/// There are two locks, because a file can be removed while it is locked: one on `lock`, which
/// names the owner, and one on the store's file. SQLite's own locks are of another kind, and are
/// released when any descriptor of the file is closed, so this must be dropped after SQLite's
/// connections.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    /// The system was not restarted since the last owner, so the shared memory is as that one left
    /// it.
    pub(crate) is_same_boot: bool,
    /// There was an open store in the directory before, so it is not that of a new one. Not known
    /// on systems whose boots have no id.
    pub(crate) was_open: bool,
    lock: File,
    _file: File,
}

/// Creates the directory if it does not exist, and locks it. `file` is the store's; it is created
/// empty if it does not exist. `make_room` is called on a full disk, once the directory is locked,
/// and returns whether it made room.
pub(crate) fn acquire(
    path: &Path,
    file: &Path,
    make_room: impl FnOnce() -> bool,
) -> Result<DirectoryLock, Error> {
    create(path)?;
    let lock = path.join("lock");
    let in_use = |owner| Error::InUse { path: path.to_path_buf(), owner };
    let (mut locked, is_ours) = try_lock(&lock)?;
    if !is_ours {
        return Err(in_use(owner(&mut locked)));
    }
    let (held, is_ours) = try_lock(file)?;
    if !is_ours {
        // The lock file of the owner was removed or replaced.
        return Err(in_use("unknown".to_owned()));
    }
    let failed = |source| Error::Lock { path: lock.clone(), source };
    let mut text = String::new();
    // An unreadable lock file counts as empty.
    let _ = locked.read_to_string(&mut text);
    let last_boot = text.lines().nth(1);
    let is_same_boot = last_boot == boot_id().as_deref();
    let was_open = last_boot.is_some();
    let written = match write_lock(&mut locked, last_boot) {
        Err(error) if is_disk_full(&error) && make_room() => write_lock(&mut locked, last_boot),
        written => written,
    };
    written.map_err(failed)?;
    Ok(DirectoryLock { is_same_boot, was_open, lock: locked, _file: held })
}

impl DirectoryLock {
    /// Records that the store is open: from now on its shared memory is of this boot.
    pub(crate) fn opened(&mut self) -> io::Result<()> {
        write_lock(&mut self.lock, boot_id().as_deref())
    }
}

/// Writes our process id and the boot in which the store was last open.
fn write_lock(lock: &mut File, boot: Option<&str>) -> io::Result<()> {
    let boot = boot.map_or_else(String::new, |boot| format!("{boot}\n"));
    lock.set_len(0)?;
    lock.rewind()?;
    write!(lock, "{}\n{boot}", std::process::id())
}

/// Opens a file and locks it. Returns whether we have the lock.
fn try_lock(path: &Path) -> Result<(File, bool), Error> {
    let failed = |source| Error::Lock { path: path.to_path_buf(), source };
    let file = private(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok((file, true)),
        Err(TryLockError::WouldBlock) => Ok((file, false)),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// The identity of a file, independent of its name.
#[derive(Debug)]
pub(crate) struct FileIdentity {
    path: PathBuf,
    id: (u64, u64),
}

impl FileIdentity {
    pub(crate) fn of(path: PathBuf) -> io::Result<Self> {
        let id = id(&path)?;
        Ok(Self { path, id })
    }

    /// Whether the path still leads to this file.
    pub(crate) fn is_in_place(&self) -> bool {
        id(&self.path).is_ok_and(|id| id == self.id)
    }
}

#[cfg(unix)]
fn id(path: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    path.metadata().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// On other systems an open file cannot be removed.
#[cfg(not(unix))]
fn id(path: &Path) -> io::Result<(u64, u64)> {
    path.metadata().map(|_| (0, 0))
}

/// Opens a file for reading and writing; creates it if it does not exist, readable only by its
/// owner.
pub(crate) fn private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Makes the entries of a directory safe from a power cut.
pub(crate) fn sync(path: &Path) -> io::Result<()> {
    // Only Unix can open and sync directories; other systems need no sync.
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

fn create(path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    if path.exists() {
        return Err(Error::NotADirectory { path: path.to_path_buf() });
    }
    let missing: Vec<_> = path.ancestors().take_while(|path| !path.exists()).collect();
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(path)
        .and_then(|()| missing.iter().filter_map(|path| path.parent()).try_for_each(sync_named))
        .map_err(|source| Error::Create { path: path.to_path_buf(), source })
}

fn sync_named(path: &Path) -> io::Result<()> {
    sync(if path.as_os_str().is_empty() { Path::new(".") } else { path })
}

/// The id of the current boot of the operating system; `None` on systems without one.
fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

/// The process id in a lock file.
fn owner(lock: &mut File) -> String {
    let mut text = String::new();
    let read = lock.read_to_string(&mut text);
    let id = text.lines().next().filter(|line| read.is_ok() && !line.trim().is_empty());
    id.map_or_else(|| "unknown".to_owned(), |id| id.trim().to_owned())
}
