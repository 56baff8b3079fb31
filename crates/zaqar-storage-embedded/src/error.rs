//! Errors of opening a store, and the meaning of SQLite's errors for callers.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::ErrorCode;
use zaqar_core::storage::{self, MoveEnd, MoveId};

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory does not exist and cannot be created.
    #[error("cannot create the directory {}", path.display())]
    Create {
        /// The directory.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// The path of the directory is not a directory.
    #[error("{} is not a directory", path.display())]
    NotADirectory {
        /// The path given.
        path: PathBuf,
    },
    /// The lock file cannot be created or locked.
    #[error("cannot lock {}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// Another process, or another store in this process, has it open.
    #[error(
        "{} is in use by process {owner}: an embedded store belongs to one process, which can serve several transports",
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process id of the owner from the lock file, or `unknown`.
        owner: String,
    },
    /// The file is a database, but not of this project.
    #[error("{} is not a store of zaqar-server", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A later release wrote the file.
    #[error(
        "{} has format {found}; this release reads formats up to {supported}",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i32,
        /// The latest format that this release supports.
        supported: i32,
    },
    /// Acknowledged changes are lost: the file or its log is missing or damaged after a crash.
    #[error(
        "{}: {what}. Acknowledged changes are lost if this is opened; put the files back, or set \
         accept_loss to go on with what is left",
        path.display()
    )]
    Lost {
        /// The file.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
    },
    /// The target file exists.
    #[error("{} exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Pages of a file are damaged.
    #[error("{} is damaged: {problems}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The problems that SQLite reports.
        problems: String,
    },
    /// A copy cannot be written or moved to its place.
    #[error("cannot write {}", path.display())]
    Copy {
        /// The file.
        path: PathBuf,
        /// The error of SQLite or of the operating system.
        #[source]
        source: Box<dyn std::error::Error + Send + std::marker::Sync>,
    },
    /// SQLite cannot open or read the file: no permission, no space, or damage.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The error of SQLite.
        #[source]
        source: Box<dyn std::error::Error + Send + std::marker::Sync>,
    },
    /// The operating system cannot start a thread.
    #[error("cannot start a thread")]
    Thread {
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// Whether there was no space for what had to be written.
    pub(crate) fn is_disk_full(&self) -> bool {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if error.downcast_ref().is_some_and(is_disk_full)
                || error.downcast_ref().is_some_and(is_no_space)
            {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

/// Whether an error of the operating system says that the disk, or its owner's share, is full.
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether SQLite had no space for the file or the log, or for the log's index, of which it says
/// only that it cannot be made larger.
fn is_no_space(error: &rusqlite::Error) -> bool {
    let extended = error.sqlite_error().map(|error| error.extended_code);
    kind_of(error) == ErrorKind::Full || extended == Some(rusqlite::ffi::SQLITE_IOERR_SHMSIZE)
}

/// The result of statements.
pub(crate) type Sql<T> = rusqlite::Result<T>;

/// A head is frozen for a move. It passes through statements as an error of theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the queue is being moved")]
pub(crate) struct Frozen {
    pub(crate) id: MoveId,
    pub(crate) end: MoveEnd,
}

impl From<Frozen> for rusqlite::Error {
    fn from(frozen: Frozen) -> Self {
        Self::ToSqlConversionFailure(Box::new(frozen))
    }
}

impl Frozen {
    /// What an error says of a frozen head, if it does.
    pub(crate) fn of(error: &rusqlite::Error) -> Option<Self> {
        let rusqlite::Error::ToSqlConversionFailure(source) = error else { return None };
        source.downcast_ref().copied()
    }
}

/// The kind of an error of SQLite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    /// The file's structure is damaged.
    Damage,
    /// Another process holds a lock.
    Locked,
    /// The disk is full.
    Full,
    /// The disk failed.
    Disk,
    /// A row holds a value that this store does not write.
    Row,
    /// None: a head is frozen.
    Frozen,
    /// Anything else.
    Other,
}

/// The kind of an error.
pub(crate) fn kind_of(error: &rusqlite::Error) -> ErrorKind {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => ErrorKind::Damage,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => ErrorKind::Locked,
        Some(ErrorCode::DiskFull) => ErrorKind::Full,
        Some(ErrorCode::SystemIoFailure) => ErrorKind::Disk,
        Some(_) => ErrorKind::Other,
        None => kind_of_row_error(error),
    }
}

fn kind_of_row_error(error: &rusqlite::Error) -> ErrorKind {
    use rusqlite::Error;
    if matches!(
        error,
        Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::InvalidColumnType(..)
            | Error::Utf8Error(..)
    ) {
        return ErrorKind::Row;
    }
    if Frozen::of(error).is_some() {
        return ErrorKind::Frozen;
    }
    ErrorKind::Other
}

/// The error of a failed statement or commit for the caller. Nothing of its request was done,
/// unless the disk failed during the commit: then a restart may or may not find the change.
pub(crate) fn storage_error(error: Arc<rusqlite::Error>) -> storage::Error {
    if let Some(Frozen { id, end }) = Frozen::of(&error) {
        return storage::Error::Moved { id, end };
    }
    match kind_of(&error) {
        ErrorKind::Locked => {
            storage::Error::unavailable(format!("another process has locked the file: {error}"))
        }
        ErrorKind::Full => storage::Error::full(error),
        ErrorKind::Disk => storage::Error::unavailable(error),
        ErrorKind::Damage | ErrorKind::Row | ErrorKind::Frozen | ErrorKind::Other => {
            storage::Error::failed(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_known_by_any_error_of_it() {
        let open = |source| Error::Open { path: PathBuf::new(), source };
        let sqlite = |code| {
            let error = rusqlite::ffi::Error::new(code);
            open(rusqlite::Error::SqliteFailure(error, None).into())
        };
        let system = |kind| open(io::Error::from(kind).into());
        for (error, is_full) in [
            (sqlite(rusqlite::ffi::SQLITE_FULL), true),
            (sqlite(rusqlite::ffi::SQLITE_IOERR_SHMSIZE), true),
            (sqlite(rusqlite::ffi::SQLITE_IOERR_WRITE), false),
            (system(io::ErrorKind::StorageFull), true),
            (system(io::ErrorKind::QuotaExceeded), true),
            (system(io::ErrorKind::PermissionDenied), false),
        ] {
            assert_eq!(error.is_disk_full(), is_full, "{error:?}");
        }
    }
}
