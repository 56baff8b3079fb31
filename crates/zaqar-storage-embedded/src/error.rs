//! Why a store cannot be opened, and what SQLite's errors mean for a caller.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

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

/// What a failed statement means for the caller; nothing of its request was done.
pub(crate) fn refused(error: Arc<rusqlite::Error>) -> storage::Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            storage::Error::Overloaded { retry_after: Duration::from_secs(1) }
        }
        _ => storage::Error::failed(error),
    }
}

/// What a failed commit means for the caller. The disk failed in the middle: a restart may find the change or not.
pub(crate) fn uncommitted(error: Arc<rusqlite::Error>) -> storage::Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::SystemIoFailure) => storage::Error::unavailable(error),
        _ => refused(error),
    }
}
