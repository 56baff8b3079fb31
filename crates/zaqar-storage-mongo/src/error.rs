//! Why a store cannot be opened, and what the driver's errors mean for a caller.

use std::path::PathBuf;

use mongodb::error::{Error as Driver, ErrorKind, WriteFailure};
use zaqar_core::storage;

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URI cannot be read. It is not shown, as it may hold a password.
    #[error("the uri of the MongoDB store cannot be read")]
    Uri {
        /// What the driver says.
        #[source]
        source: Box<Driver>,
    },
    /// The URI's write concern loses acknowledged messages when a server fails.
    #[error(
        "the uri of the MongoDB store asks for w={w}: what is acknowledged may be lost; leave w out, or set \
         [DEFAULT] unreliable (w=0 is never enough)"
    )]
    Unreliable {
        /// The write concern.
        w: String,
    },
    /// A certificate or key cannot be read.
    #[error("cannot read {}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The server cannot be reached, or refuses.
    #[error("the MongoDB server of database {database} cannot be used")]
    Unusable {
        /// The database.
        database: String,
        /// What the driver says.
        #[source]
        source: Box<Driver>,
    },
    /// A later release made the collections.
    #[error("database {database} has format {found}; this release reads format {supported}")]
    Newer {
        /// The database.
        database: String,
        /// Its format.
        found: i32,
        /// The format that is known here.
        supported: i32,
    },
}

/// The result of commands.
pub(crate) type Sent<T> = Result<T, Driver>;

/// Server errors after which the same command may succeed: the primary changed or is going down, a conflict, a time limit.
const PASSING: &[i32] = &[
    6, 7, 50, 63, 64, 89, 91, 112, 133, 134, 150, 189, 202, 262, 290, 317, 358, 384, 402, 9001,
    10107, 11600, 11602, 13388, 13435, 13436,
];

const DUPLICATE: i32 = 11000;

/// Whether the same command may succeed when it is sent again. It may have acted.
pub(crate) fn is_passing(error: &Driver) -> bool {
    if error.contains_label("RetryableWriteError")
        || error.contains_label("TransientTransactionError")
    {
        return true;
    }
    match &*error.kind {
        ErrorKind::Io(_)
        | ErrorKind::ServerSelection { .. }
        | ErrorKind::ConnectionPoolCleared { .. }
        | ErrorKind::DnsResolve { .. }
        | ErrorKind::Write(WriteFailure::WriteConcernError(_)) => true,
        ErrorKind::Command(command) => PASSING.contains(&command.code),
        ErrorKind::Write(WriteFailure::WriteError(write)) => PASSING.contains(&write.code),
        ErrorKind::InsertMany(many) => {
            many.write_concern_error.is_some()
                || many.write_errors.iter().flatten().any(|write| PASSING.contains(&write.code))
        }
        _ => false,
    }
}

/// Whether every document that was refused was refused because there is one with its id.
pub(crate) fn is_duplicate(error: &Driver) -> bool {
    match &*error.kind {
        ErrorKind::Command(command) => command.code == DUPLICATE,
        ErrorKind::Write(WriteFailure::WriteError(write)) => write.code == DUPLICATE,
        ErrorKind::InsertMany(many) => {
            let mut refused = many.write_errors.iter().flatten().peekable();
            many.write_concern_error.is_none()
                && refused.peek().is_some()
                && refused.all(|write| write.code == DUPLICATE)
        }
        _ => false,
    }
}

/// What a command that failed for good means for the caller.
pub(crate) fn refused(error: Driver) -> storage::Error {
    if is_passing(&error) {
        storage::Error::unavailable(error)
    } else {
        storage::Error::failed(error)
    }
}

/// A document with something that this store does not write.
pub(crate) fn unreadable(what: &'static str) -> storage::Error {
    storage::Error::failed(format!("a stored document cannot be read: {what}"))
}
