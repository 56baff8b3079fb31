//! Queue rows, in the management store.

use async_trait::async_trait;

use super::Error;
use crate::{Generation, Incarnation, Kind, Metadata, ProjectId, QueueKey, QueueName};

/// The record of a queue in the management store.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueRow {
    /// The generation that the metadata belongs to.
    pub generation: Generation,
    /// The user's document.
    pub metadata: Metadata,
}

/// Rows that the default of [`Queues::count`] reads at a time.
const COUNTED_PAGE: usize = 1000;

/// Queue rows by key.
#[async_trait]
pub trait Queues: Send + Sync {
    /// Creates a row unless one exists.
    ///
    /// # Behavior
    /// - No row: `row` is stored; `None`.
    /// - A row exists: it does not change and is returned. If two callers race, one creates the
    ///   row.
    /// - Rows of the same name in other projects, or of other kinds, are separate rows.
    async fn create(&self, key: &QueueKey, row: &QueueRow) -> Result<Option<QueueRow>, Error>;

    /// Reads a row.
    ///
    /// # Behavior
    /// - Returns the result of the last finished change, whichever process made it.
    async fn get(&self, key: &QueueKey) -> Result<Option<QueueRow>, Error>;

    /// Replaces a row if it still has the generation `expected`.
    ///
    /// # Behavior
    /// - The row has `expected`: `row` replaces it; `true`. If two callers with the same
    ///   expectation race, one succeeds.
    /// - No row, or another generation: nothing changes; `false`.
    async fn replace(
        &self,
        key: &QueueKey,
        expected: Generation,
        row: &QueueRow,
    ) -> Result<bool, Error>;

    /// Removes a row if it still belongs to `incarnation`, whatever its version.
    ///
    /// # Behavior
    /// - The row belongs to `incarnation`: it is removed; `true`.
    /// - No row, or another incarnation: nothing changes; `false`.
    async fn remove(&self, key: &QueueKey, incarnation: Incarnation) -> Result<bool, Error>;

    /// Lists rows of one project and kind by name, ascending by byte.
    ///
    /// # Behavior
    /// - Begins with the first name greater than `after`, which need not exist.
    /// - At most `limit` rows; fewer only at the end.
    /// - Cost grows with `limit`, not with the number of queues.
    async fn list(
        &self,
        project: &ProjectId,
        kind: Kind,
        after: Option<&QueueName>,
        limit: usize,
    ) -> Result<Vec<(QueueName, QueueRow)>, Error>;

    /// Counts the rows of one project and kind.
    ///
    /// # Behavior
    /// - Counts the rows that [`Queues::list`] would return over all pages.
    ///
    /// The default reads all these pages.
    async fn count(&self, project: &ProjectId, kind: Kind) -> Result<u64, Error> {
        let (mut count, mut after) = (0, None);
        loop {
            let page = self.list(project, kind, after.as_ref(), COUNTED_PAGE).await?;
            count += page.len() as u64;
            if page.len() < COUNTED_PAGE {
                return Ok(count);
            }
            after = page.into_iter().next_back().map(|(name, _)| name);
        }
    }
}
