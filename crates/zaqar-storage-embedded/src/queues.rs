//! Queue rows.

use async_trait::async_trait;
use rusqlite::types::Type;
use rusqlite::{OptionalExtension, Row, params};
use zaqar_core::storage::{Error, QueueRow, Queues};
use zaqar_core::{Generation, Incarnation, Kind, Metadata, ProjectId, QueueKey, QueueName};

use crate::Embedded;
use crate::error::Sql;
use crate::ledger::{Ledger, generation};
use crate::statements::Statements;

#[async_trait]
impl Queues for Embedded {
    async fn create(&self, key: &QueueKey, row: &QueueRow) -> Result<Option<QueueRow>, Error> {
        let (key, row) = (key.clone(), Columns::of(row));
        self.write_bytes(row.metadata.len(), move |ledger| create(ledger, &key, &row)).await
    }

    async fn get(&self, key: &QueueKey) -> Result<Option<QueueRow>, Error> {
        self.read(|conn| find(conn, key))
    }

    async fn replace(
        &self,
        key: &QueueKey,
        expected: Generation,
        row: &QueueRow,
    ) -> Result<bool, Error> {
        let (key, row) = (key.clone(), Columns::of(row));
        self.write_bytes(row.metadata.len(), move |ledger| replace(ledger, &key, expected, &row))
            .await
    }

    async fn remove(&self, key: &QueueKey, incarnation: Incarnation) -> Result<bool, Error> {
        let key = key.clone();
        self.write(move |ledger| remove(ledger, &key, incarnation)).await
    }

    async fn list(
        &self,
        project: &ProjectId,
        kind: Kind,
        after: Option<&QueueName>,
        limit: usize,
    ) -> Result<Vec<(QueueName, QueueRow)>, Error> {
        // No name is empty: this is before all of them.
        let after = after.map_or("", QueueName::as_str);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read(|conn| {
            conn.statement(
                "SELECT incarnation, version, metadata, name FROM queues \
                 WHERE project = ?1 AND kind = ?2 AND name > ?3 ORDER BY name LIMIT ?4",
            )?
            .query_map(params![project.as_str(), kind_number(kind), after, limit], |row| {
                Ok((name_of(row, 3)?, row_of(row)?))
            })?
            .collect()
        })
    }

    async fn count(&self, project: &ProjectId, kind: Kind) -> Result<u64, Error> {
        let count: Option<i64> = self.read(|conn| {
            conn.statement("SELECT count FROM queue_counts WHERE project = ?1 AND kind = ?2")?
                .query_row(params![project.as_str(), kind_number(kind)], |row| row.get(0))
                .optional()
        })?;
        Ok(count.unwrap_or(0).cast_unsigned())
    }
}

/// A row as it is kept.
struct Columns {
    incarnation: i64,
    version: i64,
    metadata: String,
}

impl Columns {
    fn of(row: &QueueRow) -> Self {
        Self {
            incarnation: row.generation.incarnation.get().cast_signed(),
            version: row.generation.version.get().cast_signed(),
            metadata: row.metadata.to_json(),
        }
    }
}

fn create(ledger: &Ledger<'_>, key: &QueueKey, row: &Columns) -> Sql<Option<QueueRow>> {
    if let Some(found) = find(&ledger.conn, key)? {
        return Ok(Some(found));
    }
    ledger.conn.statement("INSERT INTO queues VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(
        params![
            key.project.as_str(),
            kind_number(key.kind),
            key.name.as_str(),
            row.incarnation,
            row.version,
            row.metadata,
        ],
    )?;
    count(ledger, key, 1)?;
    Ok(None)
}

fn replace(ledger: &Ledger<'_>, key: &QueueKey, expected: Generation, row: &Columns) -> Sql<bool> {
    let changed = ledger
        .conn
        .statement(
            "UPDATE queues SET incarnation = ?6, version = ?7, metadata = ?8 \
             WHERE project = ?1 AND kind = ?2 AND name = ?3 AND incarnation = ?4 AND version = ?5",
        )?
        .execute(params![
            key.project.as_str(),
            kind_number(key.kind),
            key.name.as_str(),
            expected.incarnation.get().cast_signed(),
            expected.version.get().cast_signed(),
            row.incarnation,
            row.version,
            row.metadata,
        ])?;
    Ok(changed > 0)
}

fn remove(ledger: &Ledger<'_>, key: &QueueKey, incarnation: Incarnation) -> Sql<bool> {
    let removed = ledger
        .conn
        .statement(
            "DELETE FROM queues WHERE project = ?1 AND kind = ?2 AND name = ?3 AND incarnation = ?4",
        )?
        .execute(params![
            key.project.as_str(),
            kind_number(key.kind),
            key.name.as_str(),
            incarnation.get().cast_signed(),
        ])?;
    if removed > 0 {
        count(ledger, key, -1)?;
    }
    Ok(removed > 0)
}

fn count(ledger: &Ledger<'_>, key: &QueueKey, change: i64) -> Sql<()> {
    ledger
        .conn
        .statement(
            "INSERT INTO queue_counts VALUES (?1, ?2, ?3) \
             ON CONFLICT DO UPDATE SET count = count + excluded.count",
        )?
        .execute(params![key.project.as_str(), kind_number(key.kind), change])?;
    ledger
        .conn
        .statement("DELETE FROM queue_counts WHERE project = ?1 AND kind = ?2 AND count = 0")?
        .execute(params![key.project.as_str(), kind_number(key.kind)])?;
    Ok(())
}

fn find(conn: &Statements<'_>, key: &QueueKey) -> Sql<Option<QueueRow>> {
    conn.statement(
        "SELECT incarnation, version, metadata FROM queues \
         WHERE project = ?1 AND kind = ?2 AND name = ?3",
    )?
    .query_row(params![key.project.as_str(), kind_number(key.kind), key.name.as_str()], row_of)
    .optional()
}

fn row_of(row: &Row<'_>) -> Sql<QueueRow> {
    let metadata =
        Metadata::from_json(row.get_ref(2)?.as_bytes()?).map_err(|error| unreadable(2, error))?;
    Ok(QueueRow { generation: generation(row.get(0)?, row.get(1)?), metadata })
}

/// The number to keep of a kind.
pub(crate) const fn kind_number(kind: Kind) -> i64 {
    match kind {
        Kind::Queue => 0,
        Kind::Topic => 1,
    }
}

/// A key, from three columns that begin with `first`.
pub(crate) fn key_of(row: &Row<'_>, first: usize) -> Sql<QueueKey> {
    let project =
        ProjectId::new(row.get_ref(first)?.as_str()?).map_err(|error| unreadable(first, error))?;
    let kind = match row.get(first + 1)? {
        0i64 => Kind::Queue,
        1 => Kind::Topic,
        other => return Err(rusqlite::Error::IntegralValueOutOfRange(first + 1, other)),
    };
    Ok(QueueKey { project, kind, name: name_of(row, first + 2)? })
}

fn name_of(row: &Row<'_>, column: usize) -> Sql<QueueName> {
    QueueName::new(row.get_ref(column)?.as_str()?).map_err(|error| unreadable(column, error))
}

/// A column with something that this store does not write.
fn unreadable(
    column: usize,
    error: impl std::error::Error + Send + std::marker::Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}
