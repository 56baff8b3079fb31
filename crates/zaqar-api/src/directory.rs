//! Knows the generation of each queue, and is the only place that keeps row and head consistent.
//!
//! The row (management store) and the head (message store) change one after the other, and a
//! process may die in between. The rules: a head is opened before its row is created and closed
//! before its row is deleted, and is never opened twice with one incarnation; the head's
//! incarnation decides what is in the queue, the row's version decides its metadata.
//! [`Directory::reconcile`] makes any pair of row and head match without losing a message. Any
//! number of processes may do so at once: the first to open the head decides the incarnation, and
//! the others adopt it.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use zaqar_core::metadata::Rules;
use zaqar_core::storage::{Guarded, ManagementStore, MessageStore, QueueRow};
use zaqar_core::{Generation, Incarnation, Metadata, QueueKey, Timestamp, Version};

use crate::Error;

/// How often an operation is retried when others delete, create or change its queue meanwhile: this
/// many concurrent changes all succeed.
pub(crate) const ATTEMPTS: usize = 64;

/// What is cached of a queue.
#[derive(Debug, Clone)]
pub(crate) struct CachedQueue {
    pub(crate) generation: Generation,
    pub(crate) rules: Rules,
}

impl From<&QueueRow> for CachedQueue {
    fn from(row: &QueueRow) -> Self {
        Self { generation: row.generation, rules: row.metadata.rules() }
    }
}

pub(crate) struct Directory {
    management: Arc<dyn ManagementStore>,
    messages: Arc<dyn MessageStore>,
    cache: Cache<QueueKey, Arc<CachedQueue>>,
}

impl Directory {
    pub(crate) fn new(
        management: Arc<dyn ManagementStore>,
        messages: Arc<dyn MessageStore>,
        cached_queues: u64,
        cached_for: Duration,
    ) -> Self {
        let cache = Cache::builder().max_capacity(cached_queues).time_to_live(cached_for).build();
        Self { management, messages, cache }
    }

    /// The queue, from the cache or from its row; `None` where there is no row.
    pub(crate) async fn find(&self, key: &QueueKey) -> Result<Option<Arc<CachedQueue>>, Error> {
        if let Some(known) = self.cache.get(key) {
            return Ok(Some(known));
        }
        let row = self.management.get(key).await?;
        Ok(row.map(|row| self.remember(key, &row)))
    }

    /// The generation of a queue, if it is cached.
    pub(crate) fn cached_generation(&self, key: &QueueKey) -> Option<Generation> {
        self.cache.get(key).map(|known| known.generation)
    }

    /// The queue, which is created without metadata if it does not exist.
    pub(crate) async fn find_or_create(
        &self,
        key: &QueueKey,
        now: Timestamp,
    ) -> Result<Arc<CachedQueue>, Error> {
        match self.find(key).await? {
            Some(known) => Ok(known),
            None => self.reconcile(key, now).await,
        }
    }

    /// Creates a queue unless it exists, and returns whether this call created it.
    pub(crate) async fn create(
        &self,
        key: &QueueKey,
        metadata: Metadata,
        now: Timestamp,
    ) -> Result<bool, Error> {
        if self.management.get(key).await?.is_some() {
            return Ok(false);
        }
        let generation = self.messages.open(key, new_generation(None), now).await?;
        let row = QueueRow { generation, metadata };
        if self.management.create(key, &row).await?.is_some() {
            return Ok(false);
        }
        self.remember(key, &row);
        Ok(true)
    }

    /// Makes row and head match, and creates whichever is missing. Called after a step found no
    /// head or another generation.
    pub(crate) async fn reconcile(
        &self,
        key: &QueueKey,
        now: Timestamp,
    ) -> Result<Arc<CachedQueue>, Error> {
        self.forget(key);
        for _ in 0..ATTEMPTS {
            let row = self.management.get(key).await?;
            let new = new_generation(row.as_ref().map(|row| row.generation.version));
            let head = self.messages.open(key, new, now).await?;
            if let Some(row) = self.reconcile_row(key, row, head).await? {
                return Ok(self.remember(key, &row));
            }
        }
        Err(Error::Contended)
    }

    /// Adapts the row to the head, or the head to the row. Returns the row, or `None` if it changed
    /// concurrently.
    async fn reconcile_row(
        &self,
        key: &QueueKey,
        row: Option<QueueRow>,
        head: Generation,
    ) -> Result<Option<QueueRow>, Error> {
        let Some(row) = row else {
            let row = QueueRow { generation: head, metadata: Metadata::default() };
            let found = self.management.create(key, &row).await?;
            return Ok(found.is_none().then_some(row));
        };
        let same_incarnation = row.generation.incarnation == head.incarnation;
        if same_incarnation && row.generation.version >= head.version {
            return self.advance(key, row, head).await;
        }
        let version = row.generation.version.next().max(head.version);
        let generation = Generation { incarnation: head.incarnation, version };
        let moved = QueueRow { generation, metadata: row.metadata };
        if !self.management.replace(key, row.generation, &moved).await? {
            return Ok(None);
        }
        self.advance(key, moved, head).await
    }

    /// Raises a head to its row's version, if it is behind.
    async fn advance(
        &self,
        key: &QueueKey,
        row: QueueRow,
        head: Generation,
    ) -> Result<Option<QueueRow>, Error> {
        if row.generation == head {
            return Ok(Some(row));
        }
        match self.messages.advance(key, row.generation).await? {
            Guarded::Done(()) => Ok(Some(row)),
            Guarded::Absent | Guarded::Stale(_) => Ok(None),
        }
    }

    /// Changes metadata: the row, then the head, then the answer.
    pub(crate) async fn update(
        &self,
        key: &QueueKey,
        change: impl Fn(&mut Metadata) -> Result<(), Error>,
    ) -> Result<Metadata, Error> {
        for _ in 0..ATTEMPTS {
            let Some(row) = self.management.get(key).await? else {
                return Err(Error::QueueNotFound { key: key.clone() });
            };
            let mut metadata = row.metadata;
            change(&mut metadata)?;
            let generation =
                Generation { version: row.generation.version.next(), ..row.generation };
            let changed = QueueRow { generation, metadata };
            if !self.management.replace(key, row.generation, &changed).await? {
                continue;
            }
            self.cache.invalidate(key);
            match self.messages.advance(key, generation).await? {
                Guarded::Done(()) => {
                    self.remember(key, &changed);
                }
                // Without a head, the next post opens one. If the head has another generation, the
                // next post reconciles it with this metadata.
                Guarded::Absent | Guarded::Stale(_) => {}
            }
            return Ok(changed.metadata);
        }
        Err(Error::Contended)
    }

    /// Deletes a queue: the head first, then the row if it still has that incarnation.
    pub(crate) async fn delete(&self, key: &QueueKey, now: Timestamp) -> Result<(), Error> {
        for _ in 0..ATTEMPTS {
            let row = self.management.get(key).await?;
            let head = match &row {
                Some(row) => Some(row.generation.incarnation),
                None => self.messages.generation(key).await?.map(|head| head.incarnation),
            };
            let Some(incarnation) = head else {
                self.cache.invalidate(key);
                return Ok(());
            };
            match self.messages.close(key, incarnation).await? {
                Guarded::Done(()) | Guarded::Absent => {
                    self.cache.invalidate(key);
                    if row.is_some() {
                        self.management.remove(key, incarnation).await?;
                    }
                    return Ok(());
                }
                Guarded::Stale(_) => {
                    self.reconcile(key, now).await?;
                }
            }
        }
        Err(Error::Contended)
    }

    /// Removes a queue from the cache, after a step found it stale.
    pub(crate) fn forget(&self, key: &QueueKey) {
        self.cache.invalidate(key);
    }

    fn remember(&self, key: &QueueKey, row: &QueueRow) -> Arc<CachedQueue> {
        let known = Arc::new(CachedQueue::from(row));
        self.cache.insert(key.clone(), Arc::clone(&known));
        known
    }
}

/// A generation that no head has had, with a higher version than the row's.
fn new_generation(row: Option<Version>) -> Generation {
    let version = row.map_or(Version::new(1), Version::next);
    Generation { incarnation: new_incarnation(), version }
}

/// Random, so that processes need no coordination; 63 bits, so that every store can represent it.
fn new_incarnation() -> Incarnation {
    Incarnation::new(rand::random_range(1..=i64::MAX as u64))
}
