//! The directory of a store, and the lock that says who owns it.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Holds the locks of a directory until it is dropped.
///
/// There are two locks, as a file can be removed while it is locked: of `lock`, which tells who the
/// owner is, and of the store's file itself. SQLite's own locks are of another kind, and lost when
/// any descriptor of the file is closed: this one must be dropped after SQLite's connections.
#[derive(Debug)]
pub(crate) struct Owner {
    /// The system was not restarted since the last owner: what that one left in shared memory is
    /// as it left it.
    pub(crate) is_same_boot: bool,
    lock: File,
    _file: File,
}

/// Makes the directory if it is missing, and makes it ours. `file` is the store's; it is made if it
/// is missing, empty.
pub(crate) fn own(path: &Path, file: &Path) -> Result<Owner, Error> {
    make(path)?;
    let lock = path.join("lock");
    let in_use = |owner| Error::InUse { path: path.to_path_buf(), owner };
    let (mut locked, is_ours) = try_lock(&lock)?;
    if !is_ours {
        return Err(in_use(owner(&mut locked)));
    }
    let (held, is_ours) = try_lock(file)?;
    if !is_ours {
        // Somebody has removed or replaced the owner's lock.
        return Err(in_use("unknown".to_owned()));
    }
    let failed = |source| Error::Lock { path: lock.clone(), source };
    let mut said = String::new();
    // What nobody can read tells nothing.
    let _ = locked.read_to_string(&mut said);
    let last_boot = said.lines().nth(1);
    let is_same_boot = last_boot == boot().as_deref();
    write_lock(&mut locked, last_boot).map_err(failed)?;
    Ok(Owner { is_same_boot, lock: locked, _file: held })
}

impl Owner {
    /// The store is open: what is in shared memory is of this boot from now on.
    pub(crate) fn opened(&mut self) -> io::Result<()> {
        write_lock(&mut self.lock, boot().as_deref())
    }
}

/// Writes our process id, and in which boot the store was open last.
fn write_lock(lock: &mut File, boot: Option<&str>) -> io::Result<()> {
    let boot = boot.map_or_else(String::new, |boot| format!("{boot}\n"));
    lock.set_len(0)?;
    lock.rewind()?;
    write!(lock, "{}\n{boot}", std::process::id())
}

/// Opens a file and locks it; whether that is ours now.
fn try_lock(path: &Path) -> Result<(File, bool), Error> {
    let failed = |source| Error::Lock { path: path.to_path_buf(), source };
    let file = private(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok((file, true)),
        Err(TryLockError::WouldBlock) => Ok((file, false)),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// A file, whatever its name is later.
#[derive(Debug)]
pub(crate) struct Identity {
    path: PathBuf,
    id: (u64, u64),
}

impl Identity {
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

/// Elsewhere an open file cannot be removed.
#[cfg(not(unix))]
fn id(path: &Path) -> io::Result<(u64, u64)> {
    path.metadata().map(|_| (0, 0))
}

/// Opens a file for reading and writing; makes it if it is missing, for its owner alone.
pub(crate) fn private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Makes the names in a directory safe from a power cut.
pub(crate) fn sync(path: &Path) -> io::Result<()> {
    // Only Unix opens directories as files; elsewhere the file system sees to it.
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

fn make(path: &Path) -> Result<(), Error> {
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

/// What tells one run of the operating system from the next; `None` where there is no such thing.
fn boot() -> Option<String> {
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
