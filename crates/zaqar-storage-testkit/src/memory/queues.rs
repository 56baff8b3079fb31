//! Queue rows.

use std::ops::Bound;

use async_trait::async_trait;
use zaqar_core::storage::{Error, QueueRow, Queues};
use zaqar_core::{Generation, Incarnation, Kind, ProjectId, QueueKey, QueueName};

use super::{Fault, Memory};

#[async_trait]
impl Queues for Memory {
    async fn create(&self, key: &QueueKey, row: &QueueRow) -> Result<Option<QueueRow>, Error> {
        let key = self.stored_key(key);
        if self.has(Fault::RowLost) {
            return Ok(self.state()?.rows.get(&key).cloned());
        }
        if self.state()?.rows.contains_key(&key) && self.has(Fault::RowOverwritten) {
            return Ok(self.state()?.rows.insert(key, row.clone()));
        }
        if let Some(there) = self.state()?.rows.get(&key) {
            return Ok(Some(there.clone()));
        }
        if self.has(Fault::TwoCreators) {
            self.yield_between_halves().await;
            self.state()?.rows.insert(key, row.clone());
            return Ok(None);
        }
        let mut state = self.state()?;
        if let Some(there) = state.rows.get(&key) {
            return Ok(Some(there.clone()));
        }
        state.rows.insert(key, self.stored_row(row));
        Ok(None)
    }

    async fn get(&self, key: &QueueKey) -> Result<Option<QueueRow>, Error> {
        Ok(self.state()?.rows.get(&self.stored_key(key)).cloned())
    }

    async fn replace(
        &self,
        key: &QueueKey,
        expected: Generation,
        row: &QueueRow,
    ) -> Result<bool, Error> {
        let key = self.stored_key(key);
        if self.has(Fault::RacingReplaces) {
            let there = Queues::get(self, &key).await?;
            if there.is_none_or(|there| there.generation != expected) {
                return Ok(false);
            }
            self.yield_between_halves().await;
            self.state()?.rows.insert(key, row.clone());
            return Ok(true);
        }
        let any = self.has(Fault::AnyGeneration);
        let mut state = self.state()?;
        if self.has(Fault::ReplaceCreates) {
            state.rows.entry(key.clone()).or_insert_with(|| row.clone());
        }
        match state.rows.get_mut(&key) {
            Some(there) if there.generation == expected || any => {
                *there = self.stored_row(row);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    async fn remove(&self, key: &QueueKey, incarnation: Incarnation) -> Result<bool, Error> {
        let key = self.stored_key(key);
        let mut state = self.state()?;
        let any = self.has(Fault::AnyGeneration);
        let is_it = state
            .rows
            .get(&key)
            .is_some_and(|row| row.generation.incarnation == incarnation || any);
        if is_it && !self.has(Fault::RemoveIgnored) {
            state.rows.remove(&key);
        }
        Ok(is_it)
    }

    async fn list(
        &self,
        project: &ProjectId,
        kind: Kind,
        after: Option<&QueueName>,
        limit: usize,
    ) -> Result<Vec<(QueueName, QueueRow)>, Error> {
        let state = self.state()?;
        let of = |name: &QueueName| {
            self.stored_key(&QueueKey { project: project.clone(), kind, name: name.clone() })
        };
        let mut rows: Vec<_> = state
            .rows
            .range((
                after.map_or(Bound::Unbounded, |name| Bound::Excluded(of(name))),
                Bound::Unbounded,
            ))
            .filter(|(key, _)| **key == of(&key.name))
            .take(limit)
            .map(|(key, row)| (key.name.clone(), row.clone()))
            .collect();
        if self.has(Fault::RowsReversed) {
            rows.reverse();
        }
        Ok(rows)
    }

    async fn count(&self, project: &ProjectId, kind: Kind) -> Result<u64, Error> {
        let all = self.list(project, kind, None, usize::MAX).await?;
        Ok(u64::try_from(all.len()).unwrap_or(u64::MAX))
    }
}

impl Memory {
    /// A row as it is stored.
    fn stored_row(&self, row: &QueueRow) -> QueueRow {
        let mut row =
            QueueRow { generation: self.stored_generation(row.generation), ..row.clone() };
        if self.has(Fault::MetadataSorted) {
            row.metadata.as_object_mut().sort_keys();
        }
        row
    }
}
