//! Why a store cannot be opened, and what SQLite's errors mean for a caller.

use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::ErrorCode;
use zaqar_core::storage;

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory is not there and cannot be made.
    #[error("cannot create the directory {}", path.display())]
    Create {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// Something else has the directory's name.
    #[error("{} is not a directory", path.display())]
    NotADirectory {
        /// The path given.
        path: PathBuf,
    },
    /// The lock file cannot be made or locked.
    #[error("cannot lock {}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// Another process, or another store of this one, has it open.
    #[error(
        "{} is in use by process {owner}: an embedded store belongs to one process, which can serve several transports",
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process id of the owner, where the lock file tells it; else `unknown`.
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
        /// The latest format that is known here.
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
    /// A file is there that would be written over.
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
        /// What SQLite says of them.
        problems: String,
    },
    /// A copy cannot be written or put in its place.
    #[error("cannot write {}", path.display())]
    Copy {
        /// The file.
        path: PathBuf,
        /// What SQLite or the system says.
        #[source]
        source: Box<dyn std::error::Error + Send + std::marker::Sync>,
    },
    /// SQLite cannot open or read the file: no permission, no space, damaged.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        #[source]
        source: Box<dyn std::error::Error + Send + std::marker::Sync>,
    },
    /// The system starts no more threads.
    #[error("cannot start a thread")]
    Thread {
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
}

/// The result of statements.
pub(crate) type Sql<T> = rusqlite::Result<T>;

/// What an error of SQLite is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The file's structure is damaged.
    Damage,
    /// Another process holds a lock.
    Locked,
    /// The disk is full.
    Full,
    /// The disk failed.
    Disk,
    /// A row holds what this store does not write.
    Row,
    /// Anything else.
    Other,
}

/// What an error is about.
pub(crate) fn trouble(error: &rusqlite::Error) -> Trouble {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Trouble::Damage,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Trouble::Locked,
        Some(ErrorCode::DiskFull) => Trouble::Full,
        Some(ErrorCode::SystemIoFailure) => Trouble::Disk,
        Some(_) => Trouble::Other,
        None => row_trouble(error),
    }
}

fn row_trouble(error: &rusqlite::Error) -> Trouble {
    use rusqlite::Error;
    if matches!(
        error,
        Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::InvalidColumnType(..)
            | Error::Utf8Error(..)
    ) {
        return Trouble::Row;
    }
    Trouble::Other
}

/// What a failed statement or commit means for the caller. Nothing of its request was done, unless
/// the disk failed during the commit: then a restart may find the change or not.
pub(crate) fn refused(error: Arc<rusqlite::Error>) -> storage::Error {
    match trouble(&error) {
        Trouble::Locked => {
            storage::Error::unavailable(format!("another process has locked the file: {error}"))
        }
        Trouble::Full => storage::Error::full(error),
        Trouble::Disk => storage::Error::unavailable(error),
        Trouble::Damage | Trouble::Row | Trouble::Other => storage::Error::failed(error),
    }
}
