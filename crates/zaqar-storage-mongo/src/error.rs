//! Why a store cannot be opened, and what the driver's errors mean for a caller.

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
    /// The URI cannot be read. It is not shown, as it may hold a password.
    #[error("the uri of the MongoDB store cannot be read")]
    Uri {
        /// What the driver says.
        #[source]
        source: Box<Driver>,
    },
    /// The URI's write concern loses acknowledged messages when a server fails.
    #[error(
        "the uri of the MongoDB store asks for {option}: what is acknowledged may be lost; leave it \
         out (writes then wait for the journals of a majority), or set [DEFAULT] unreliable (w=0 is \
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

/// Server errors after which the same command may succeed: the primary changed or is going down, a
/// conflict, a time limit.
const PASSING: &[i32] = &[
    6, 7, 43, 50, 63, 64, 89, 91, 112, 133, 134, 150, 175, 189, 202, 237, 262, 290, 317, 358, 384,
    402, 9001, 10058, 10107, 11600, 11601, 11602, 13388, 13435, 13436,
];
/// A document would be larger than the server allows.
const TOO_LARGE: &[i32] = &[10334, 17419, 17420];
/// The server has no space left on its disk.
const FULL: i32 = 14031;

/// What one of several statements, or their write concern, came to in a command that we wrote
/// ourselves.
#[derive(Debug)]
pub(crate) struct StatementFailed {
    pub(crate) code: i32,
    /// The statements acted; only the wait for other servers failed.
    pub(crate) has_acted: bool,
}

const DUPLICATE: i32 = 11000;

/// Whether the same command may succeed when it is sent again. It may have acted.
pub(crate) fn is_passing(error: &Driver) -> bool {
    if error.contains_label("RetryableWriteError")
        || error.contains_label("TransientTransactionError")
    {
        return true;
    }
    if let Some(failed) = error.get_custom::<StatementFailed>() {
        return failed.has_acted || PASSING.contains(&failed.code);
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

/// The server's code, of the first statement that it refused.
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

/// A document with something that this store does not write.
pub(crate) fn unreadable(what: &'static str) -> storage::Error {
    storage::Error::failed(format!("a stored document cannot be read: {what}"))
}

/// Refuses what a document cannot hold.
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

    /// A server's error, in every shape in which it comes.
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

    /// What a caller is told of an error.
    fn class(error: &storage::Error) -> &'static str {
        use storage::Error::{ClockSkew, Closed, Failed, Full, Overloaded, TooLarge, Unavailable};
        match error {
            Unavailable { .. } => "unavailable",
            TooLarge { .. } => "too large",
            Full { .. } => "full",
            Failed { .. } => "failed",
            Overloaded { .. } | ClockSkew { .. } | Closed => "none of the server's",
        }
    }

    #[test]
    fn every_code_has_one_class_whatever_the_command_that_met_it() {
        // Elections, restarts, conflicts and time limits. The first eleven are those that
        // `tests/store/faults.rs` lets each statement meet, or lets one stand for.
        let unavailable = [
            43, 91, 112, 175, 189, 237, 10107, 11600, 11601, 11602, 13435, 6, 7, 50, 63, 64, 89,
            133, 134, 150, 202, 262, 290, 317, 358, 384, 402, 9001, 10058, 13388, 13436,
        ];
        let too_large = [10334, 17419, 17420];
        assert_eq!((unavailable.len(), too_large.len()), (PASSING.len(), TOO_LARGE.len()));
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
                assert_eq!(is_passing(&error), expected == "unavailable", "{code} in {error:?}");
                let is_statement = error.get_custom::<StatementFailed>().is_some();
                let is_taken_for_duplicate = code == DUPLICATE && !is_statement;
                assert_eq!(is_duplicate(&error), is_taken_for_duplicate, "{code} in {error:?}");
                assert_eq!(class(&refused(error)), expected, "{code}");
            }
        }
    }

    #[test]
    fn what_may_have_been_done_can_be_sent_again() {
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
                assert!(is_passing(&error) && !is_duplicate(&error), "{error:?}");
            }
        }
    }
}
