//! Queue rows.

use async_trait::async_trait;
use rusqlite::{OptionalExtension, Row, params};
use zaqar_core::storage::{Error, QueueRow, Queues};
use zaqar_core::{Generation, Incarnation, Kind, Metadata, ProjectId, QueueKey, QueueName};

use crate::Embedded;
use crate::error::Sql;
use crate::keys::{kind_number, name_of, unreadable};
use crate::statements::Statements;
use crate::writer_state::{WriterState, generation};

#[async_trait]
impl Queues for Embedded {
    async fn create(&self, key: &QueueKey, row: &QueueRow) -> Result<Option<QueueRow>, Error> {
        let (key, row) = (key.clone(), Columns::of(row));
        self.requester(&key.project)
            .write_bytes(row.metadata.len(), move |state| create(state, &key, &row))
            .await
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
        self.requester(&key.project)
            .write_bytes(row.metadata.len(), move |state| replace(state, &key, expected, &row))
            .await
    }

    async fn remove(&self, key: &QueueKey, incarnation: Incarnation) -> Result<bool, Error> {
        let key = key.clone();
        self.requester(&key.project).write(move |state| remove(state, &key, incarnation)).await
    }

    async fn list(
        &self,
        project: &ProjectId,
        kind: Kind,
        after: Option<&QueueName>,
        limit: usize,
    ) -> Result<Vec<(QueueName, QueueRow)>, Error> {
        // No name is empty, so this is before all names.
        let mut after = after.map_or_else(String::new, ToString::to_string);
        let mut all = Vec::new();
        loop {
            let left = limit - all.len();
            let slice =
                self.read_many(project, |conn| list(conn, project, kind, &after, left)).await?;
            all.extend(slice.rows);
            let Some(next) = slice.next.filter(|_| all.len() < limit) else { return Ok(all) };
            after = next;
            tokio::task::yield_now().await;
        }
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

/// Bytes of metadata or options after which a read ends: others' reads go between the slices of a
/// large page.
pub(crate) const SLICE_BYTES: usize = 256 << 10;

/// A part of a page.
struct Slice {
    rows: Vec<(QueueName, QueueRow)>,
    /// If it ends because of its size, the last name in it.
    next: Option<String>,
}

fn list(
    conn: &Statements<'_>,
    project: &ProjectId,
    kind: Kind,
    after: &str,
    limit: usize,
) -> Sql<Slice> {
    let mut statement = conn.statement(
        "SELECT incarnation, version, metadata, name FROM queues \
         WHERE project = ?1 AND kind = ?2 AND name > ?3 ORDER BY name",
    )?;
    let mut rows = statement.query(params![project.as_str(), kind_number(kind), after])?;
    let (mut slice, mut bytes) = (Slice { rows: Vec::new(), next: None }, 0);
    while slice.rows.len() < limit {
        let Some(row) = rows.next()? else { break };
        let read = |row: &Row<'_>| {
            let bytes = row.get_ref(2)?.as_bytes()?.len();
            Ok((bytes, (name_of(row, 3)?, row_of(row)?)))
        };
        let Some((size, row)) = conn.readable(read(row))? else { continue };
        slice.rows.push(row);
        bytes += size;
        if bytes >= SLICE_BYTES {
            slice.next = slice.rows.last().map(|(name, _)| name.to_string());
            break;
        }
    }
    Ok(slice)
}

/// The stored columns of a row.
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

fn create(state: &WriterState<'_>, key: &QueueKey, row: &Columns) -> Sql<Option<QueueRow>> {
    if let Some(found) = find(&state.conn, key)? {
        return Ok(Some(found));
    }
    state.conn.statement("INSERT INTO queues VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(
        params![
            key.project.as_str(),
            kind_number(key.kind),
            key.name.as_str(),
            row.incarnation,
            row.version,
            row.metadata,
        ],
    )?;
    count(state, key, 1)?;
    Ok(None)
}

fn replace(
    state: &WriterState<'_>,
    key: &QueueKey,
    expected: Generation,
    row: &Columns,
) -> Sql<bool> {
    let changed = state
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

fn remove(state: &WriterState<'_>, key: &QueueKey, incarnation: Incarnation) -> Sql<bool> {
    let removed = state
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
        count(state, key, -1)?;
    }
    Ok(removed > 0)
}

fn count(state: &WriterState<'_>, key: &QueueKey, change: i64) -> Sql<()> {
    state
        .conn
        .statement(
            "INSERT INTO queue_counts VALUES (?1, ?2, ?3) \
             ON CONFLICT DO UPDATE SET count = count + excluded.count",
        )?
        .execute(params![key.project.as_str(), kind_number(key.kind), change])?;
    state
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{generation, key, store};

    #[tokio::test]
    async fn a_page_of_large_rows_is_read_in_slices() {
        let (store, _directory) = store();
        let text = format!("{{\"text\":\"{}\"}}", "x".repeat(60_000));
        let metadata = Metadata::from_json(text.as_bytes()).unwrap();
        let row = QueueRow { generation: generation(), metadata };
        for number in 0..20 {
            store.create(&key(&format!("q{number:02}")), &row).await.unwrap();
        }
        let (project, kind) = (key("q").project, Kind::Queue);
        let slice = store.read(|conn| list(conn, &project, kind, "", 100)).unwrap();
        let of_slice = SLICE_BYTES.div_ceil(text.len());
        assert_eq!(slice.rows.len(), of_slice);
        assert_eq!(slice.next, slice.rows.last().map(|(name, _)| name.to_string()));
        for (limit, expected) in [(100, 20), (20, 20), (7, 7), (of_slice, of_slice)] {
            let rows = store.list(&project, kind, None, limit).await.unwrap();
            let names: Vec<_> = rows.iter().map(|(name, _)| name.to_string()).collect();
            let all: Vec<_> = (0..expected).map(|number| format!("q{number:02}")).collect();
            assert_eq!(names, all);
        }
    }
}
