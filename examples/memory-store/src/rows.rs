//! Rows of queues: the management role.

use async_trait::async_trait;
use zaqar_core::storage::{Error, QueueRow, Queues};
use zaqar_core::{Generation, Incarnation, Kind, ProjectId, QueueKey, QueueName};

use crate::store::MemoryStore;

#[async_trait]
impl Queues for MemoryStore {
    async fn create(&self, key: &QueueKey, row: &QueueRow) -> Result<Option<QueueRow>, Error> {
        let mut state = self.state()?;
        let exists = state.rows.get(key).cloned();
        state.rows.entry(key.clone()).or_insert_with(|| row.clone());
        Ok(exists)
    }

    async fn get(&self, key: &QueueKey) -> Result<Option<QueueRow>, Error> {
        Ok(self.state()?.rows.get(key).cloned())
    }

    async fn replace(
        &self,
        key: &QueueKey,
        expected: Generation,
        row: &QueueRow,
    ) -> Result<bool, Error> {
        let mut state = self.state()?;
        let found = state.rows.get_mut(key).filter(|own| own.generation == expected);
        Ok(found.map(|own| *own = row.clone()).is_some())
    }

    async fn remove(&self, key: &QueueKey, incarnation: Incarnation) -> Result<bool, Error> {
        let mut state = self.state()?;
        let found = state.rows.get(key).filter(|row| row.generation.incarnation == incarnation);
        let is_found = found.is_some();
        if is_found {
            state.rows.remove(key);
        }
        Ok(is_found)
    }

    async fn list(
        &self,
        project: &ProjectId,
        kind: Kind,
        after: Option<&QueueName>,
        limit: usize,
    ) -> Result<Vec<(QueueName, QueueRow)>, Error> {
        let state = self.state()?;
        let rows = state.rows.iter().filter(|(key, _)| key.project == *project && key.kind == kind);
        let rows = rows.filter(|(key, _)| after.is_none_or(|after| key.name > *after)).take(limit);
        Ok(rows.map(|(key, row)| (key.name.clone(), row.clone())).collect())
    }
}
