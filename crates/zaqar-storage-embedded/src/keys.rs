//! Queue keys in the encoding of the file.

use rusqlite::Row;
use rusqlite::types::Type;
use zaqar_core::{Kind, ProjectId, QueueKey, QueueName};

use crate::error::Sql;

/// The stored number of a kind.
pub(crate) const fn kind_number(kind: Kind) -> i64 {
    match kind {
        Kind::Queue => 0,
        Kind::Topic => 1,
        Kind::Internal => 2,
    }
}

/// Reads a key from three columns that begin with `first`.
pub(crate) fn key_of(row: &Row<'_>, first: usize) -> Sql<QueueKey> {
    let project =
        ProjectId::new(row.get_ref(first)?.as_str()?).map_err(|error| unreadable(first, error))?;
    let kind = match row.get(first + 1)? {
        0i64 => Kind::Queue,
        1 => Kind::Topic,
        2 => Kind::Internal,
        other => return Err(rusqlite::Error::IntegralValueOutOfRange(first + 1, other)),
    };
    Ok(QueueKey { project, kind, name: name_of(row, first + 2)? })
}

/// Reads a queue's name from a column.
pub(crate) fn name_of(row: &Row<'_>, column: usize) -> Sql<QueueName> {
    QueueName::new(row.get_ref(column)?.as_str()?).map_err(|error| unreadable(column, error))
}

/// The error of a column with a value that this store does not write.
pub(crate) fn unreadable(
    column: usize,
    error: impl std::error::Error + Send + std::marker::Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}
