//! The directory of a store, and the lock that says who owns it.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::Path;

use crate::error::Error;

/// Makes the directory if it is missing, and the lock in it ours until the answer is dropped.
pub(crate) fn own(path: &Path) -> Result<File, Error> {
    make(path)?;
    let lock = path.join("lock");
    let failed = |source| Error::Lock { path: lock.clone(), source };
    let mut file = private(&lock).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Error::InUse { path: path.to_path_buf(), owner: owner(&mut file) });
        }
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    file.set_len(0).map_err(failed)?;
    writeln!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(file)
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

fn owner(lock: &mut File) -> String {
    let mut text = String::new();
    match lock.read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}
