//! Queue rows, in the management store.

use async_trait::async_trait;

use super::Error;
use crate::{Generation, Incarnation, Kind, Metadata, ProjectId, QueueKey, QueueName};

/// What the management store keeps of a queue.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueRow {
    /// The generation that the metadata belongs to.
    pub generation: Generation,
    /// The user's document.
    pub metadata: Metadata,
}

/// Queue rows by key.
#[async_trait]
pub trait Queues: Send + Sync {
    /// Creates a row unless there is one.
    ///
    /// # Behavior
    /// - No row: `row` is kept; `None`.
    /// - A row is there: it stays as it is and is returned; of two callers at once one creates.
    /// - A row of the same name in another project, or of the other kind, is another row.
    async fn create(&self, key: &QueueKey, row: &QueueRow) -> Result<Option<QueueRow>, Error>;

    /// Reads a row.
    ///
    /// # Behavior
    /// - Shows what the last finished change left, whichever process made it.
    async fn get(&self, key: &QueueKey) -> Result<Option<QueueRow>, Error>;

    /// Replaces a row if it still has the generation `expected`.
    ///
    /// # Behavior
    /// - The row has `expected`: `row` takes its place; `true`. Of two callers with one expectation
    ///   one succeeds.
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
    /// - The row belongs to `incarnation`: it is gone; `true`.
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
    /// - Counts what [`Queues::list`] would show in all.
    async fn count(&self, project: &ProjectId, kind: Kind) -> Result<u64, Error>;
}
