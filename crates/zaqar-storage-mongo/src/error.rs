//! Errors of opening a store, and the mapping of the driver's errors to storage errors.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "an error that the driver adds is treated like those that are not named"
)]

use std::path::PathBuf;

use mongodb::error::{Error as Driver, ErrorKind, WriteFailure};
use zaqar_core::storage;

use crate::schema::MAX_DOCUMENT;

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URI cannot be parsed. It is not shown, as it may contain a password.
    #[error("the uri of the MongoDB store cannot be read")]
    Uri {
        /// The driver's error.
        #[source]
        source: Box<Driver>,
    },
    /// The URI's write concern may lose acknowledged messages when a server fails.
    #[error(
        "the uri of the MongoDB store asks for {option}: acknowledged messages may be lost; remove \
         it (writes then wait for the journals of a majority), or set [DEFAULT] unreliable (w=0 is \
         never enough)"
    )]
    Unreliable {
        /// The option of the URI, and its value.
        option: String,
    },
    /// A collection is sharded.
    #[error(
        "collection {collection} of the MongoDB store is sharded, which it does not support: updates \
         of several documents may then miss some; keep database {database} on one shard"
    )]
    Sharded {
        /// The database.
        database: String,
        /// The collection.
        collection: String,
    },
    /// A certificate or key cannot be read.
    #[error("cannot read {}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The server cannot be reached, or rejects the connection or a command.
    #[error("the MongoDB server of database {database} cannot be used")]
    Unusable {
        /// The database.
        database: String,
        /// The driver's error.
        #[source]
        source: Box<Driver>,
    },
    /// The collections were created by another release with another format.
    #[error("database {database} has format {found}; this release reads format {supported}")]
    Newer {
        /// The database.
        database: String,
        /// Its format.
        found: i32,
        /// The format of this release.
        supported: i32,
    },
}

/// The result of commands.
pub(crate) type DriverResult<T> = Result<T, Driver>;

/// Codes of server errors after which a retry may succeed: the primary changed or is shutting down,
/// a conflict, a time limit.
const TRANSIENT: &[i32] = &[
    6, 7, 43, 50, 63, 64, 89, 91, 112, 133, 134, 150, 175, 189, 202, 237, 262, 290, 317, 358, 384,
    402, 9001, 10058, 10107, 11600, 11601, 11602, 13388, 13435, 13436,
];
/// A document would be larger than the server allows.
const TOO_LARGE: &[i32] = &[10334, 17419, 17420];
/// The server has no space left on its disk.
const FULL: i32 = 14031;

/// The failure of a statement, or of the write concern, of a command that is built by hand.
#[derive(Debug)]
pub(crate) struct StatementFailed {
    pub(crate) code: i32,
    /// The statements were executed; only the wait for replication failed.
    pub(crate) has_acted: bool,
}

const DUPLICATE: i32 = 11000;

/// Whether a retry of the command may succeed. The command may have acted.
pub(crate) fn is_transient(error: &Driver) -> bool {
    if error.contains_label("RetryableWriteError")
        || error.contains_label("TransientTransactionError")
    {
        return true;
    }
    if let Some(failed) = error.get_custom::<StatementFailed>() {
        return failed.has_acted || TRANSIENT.contains(&failed.code);
    }
    match &*error.kind {
        ErrorKind::Io(_)
        | ErrorKind::ServerSelection { .. }
        | ErrorKind::ConnectionPoolCleared { .. }
        | ErrorKind::DnsResolve { .. }
        | ErrorKind::Write(WriteFailure::WriteConcernError(_)) => true,
        ErrorKind::Command(command) => TRANSIENT.contains(&command.code),
        ErrorKind::Write(WriteFailure::WriteError(write)) => TRANSIENT.contains(&write.code),
        ErrorKind::InsertMany(many) => {
            many.write_concern_error.is_some()
                || many.write_errors.iter().flatten().any(|write| TRANSIENT.contains(&write.code))
        }
        _ => false,
    }
}

/// Whether all rejected documents were rejected because their ids exist.
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

/// The storage error for a command that failed.
pub(crate) fn storage_error(error: Driver) -> storage::Error {
    if is_transient(&error) {
        return storage::Error::unavailable(error);
    }
    match code(&error) {
        Some(code) if TOO_LARGE.contains(&code) => storage::Error::TooLarge {
            what: "a stored document",
            size: MAX_DOCUMENT as u64 + 1,
            max: MAX_DOCUMENT as u64,
        },
        Some(FULL) => storage::Error::full(error),
        _ => storage::Error::failed(error),
    }
}

/// The server's error code, of the first rejected statement.
fn code(error: &Driver) -> Option<i32> {
    if let Some(failed) = error.get_custom::<StatementFailed>() {
        return Some(failed.code);
    }
    match &*error.kind {
        ErrorKind::Command(command) => Some(command.code),
        ErrorKind::Write(WriteFailure::WriteError(write)) => Some(write.code),
        ErrorKind::InsertMany(many) => many.write_errors.iter().flatten().next().map(|w| w.code),
        _ => None,
    }
}

/// The error for a document that this store cannot have written.
pub(crate) fn unreadable(what: &'static str) -> storage::Error {
    storage::Error::failed(format!("a stored document cannot be read: {what}"))
}

/// Rejects data that does not fit into a document.
pub(crate) fn too_large(what: &'static str, size: usize) -> Result<(), storage::Error> {
    if size <= MAX_DOCUMENT {
        return Ok(());
    }
    Err(storage::Error::TooLarge { what, size: size as u64, max: MAX_DOCUMENT as u64 })
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{Document, deserialize_from_document, doc};
    use mongodb::error::{CommandError, InsertManyError, WriteConcernError, WriteError};

    use super::*;

    fn read<T: serde::de::DeserializeOwned>(document: Document) -> T {
        deserialize_from_document(document).unwrap()
    }

    /// A server error in every form in which the driver reports it.
    fn shapes(code: i32) -> [Driver; 4] {
        let command: CommandError =
            read(doc! { "code": code, "codeName": "Planned", "errmsg": "planned" });
        let write: WriteError = read(doc! { "code": code, "errmsg": "planned" });
        let many: InsertManyError =
            read(doc! { "writeErrors": [{ "index": 0, "code": code, "errmsg": "planned" }] });
        [
            ErrorKind::Command(command).into(),
            ErrorKind::Write(WriteFailure::WriteError(write)).into(),
            ErrorKind::InsertMany(many).into(),
            Driver::custom(StatementFailed { code, has_acted: false }),
        ]
    }

    /// The class of a storage error.
    fn class(error: &storage::Error) -> &'static str {
        use storage::Error::{
            ClockSkew, Closed, Failed, Full, Moved, Overloaded, TooLarge, Unavailable,
        };
        match error {
            Unavailable { .. } => "unavailable",
            TooLarge { .. } => "too large",
            Full { .. } => "full",
            Failed { .. } => "failed",
            Overloaded { .. } | ClockSkew { .. } | Moved { .. } | Closed => "not a server error",
        }
    }

    #[test]
    fn every_code_has_one_class_for_all_commands() {
        // Elections, restarts, conflicts and time limits. `tests/store/faults.rs` injects the first
        // eleven, or one that represents them.
        let unavailable = [
            43, 91, 112, 175, 189, 237, 10107, 11600, 11601, 11602, 13435, 6, 7, 50, 63, 64, 89,
            133, 134, 150, 202, 262, 290, 317, 358, 384, 402, 9001, 10058, 13388, 13436,
        ];
        let too_large = [10334, 17419, 17420];
        assert_eq!((unavailable.len(), too_large.len()), (TRANSIENT.len(), TOO_LARGE.len()));
        // Bad value, unauthorized, not authenticated, not found, unknown command, unsupported,
        // invalid.
        let failed = [2, 13, 18, 26, 59, 115, 121, DUPLICATE];
        let table = [
            (&unavailable[..], "unavailable"),
            (&too_large, "too large"),
            (&[FULL], "full"),
            (&failed, "failed"),
        ];
        for (codes, expected) in table {
            for (code, error) in codes.iter().flat_map(|code| shapes(*code).map(|e| (*code, e))) {
                assert_eq!(is_transient(&error), expected == "unavailable", "{code} in {error:?}");
                let is_statement = error.get_custom::<StatementFailed>().is_some();
                let is_taken_for_duplicate = code == DUPLICATE && !is_statement;
                assert_eq!(is_duplicate(&error), is_taken_for_duplicate, "{code} in {error:?}");
                assert_eq!(class(&storage_error(error)), expected, "{code}");
            }
        }
    }

    #[test]
    fn commands_that_may_have_acted_can_be_retried() {
        for code in [64, 91] {
            let concern = || doc! { "code": code, "codeName": "Planned", "errmsg": "planned" };
            let alone: WriteConcernError = read(concern());
            let many: InsertManyError = read(doc! { "writeConcernError": concern() });
            for error in [
                ErrorKind::Write(WriteFailure::WriteConcernError(alone)).into(),
                ErrorKind::InsertMany(many).into(),
                Driver::custom(StatementFailed { code, has_acted: true }),
                std::io::Error::from(std::io::ErrorKind::ConnectionReset).into(),
            ] {
                assert!(is_transient(&error) && !is_duplicate(&error), "{error:?}");
            }
        }
    }
}
