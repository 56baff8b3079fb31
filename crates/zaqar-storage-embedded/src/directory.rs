//! The directory of a store, and the lock that says who owns it.

use std::fs::{File, OpenOptions, TryLockError, create_dir_all};
use std::io::{Read, Write};
use std::path::Path;

use crate::error::Error;

/// Makes the directory if it is missing, and the lock in it ours until the answer is dropped.
pub(crate) fn own(path: &Path) -> Result<File, Error> {
    make(path)?;
    let lock = path.join("lock");
    let failed = |source| Error::Lock { path: lock.clone(), source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&lock)
        .map_err(failed)?;
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

/// Makes the names in a directory safe from a power cut.
pub(crate) fn sync(path: &Path) -> std::io::Result<()> {
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
    create_dir_all(path)
        .and_then(|()| missing.iter().filter_map(|path| path.parent()).try_for_each(sync_named))
        .map_err(|source| Error::Create { path: path.to_path_buf(), source })
}

fn sync_named(path: &Path) -> std::io::Result<()> {
    sync(if path.as_os_str().is_empty() { Path::new(".") } else { path })
}

fn owner(lock: &mut File) -> String {
    let mut text = String::new();
    match lock.read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}
