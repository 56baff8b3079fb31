//! The catalogue: one row per queue, which says which pool has it.

use serde_json::{Map, Value};
use zaqar_core::pools::{FlavorName, PoolName};
use zaqar_core::storage::{self, QueueRow};
use zaqar_core::{Kind, QueueKey};

use crate::{Registry, rows};

/// Where the contents of a queue are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Place {
    /// In a pool.
    Pool(PoolName),
    /// In the configured message store, which is the virtual pool.
    Configured,
}

impl Place {
    /// The name for logs.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Pool(name) => name.as_str(),
            Self::Configured => "(configured)",
        }
    }

    /// The stored form.
    pub(crate) fn to_value(&self) -> Value {
        match self {
            Self::Pool(name) => name.as_str().into(),
            Self::Configured => Value::Null,
        }
    }

    /// Reads what [`Place::to_value`] wrote.
    pub(crate) fn of_value(value: &Value) -> Option<Self> {
        match value {
            Value::Null => Some(Self::Configured),
            Value::String(name) => PoolName::new(name).ok().map(Self::Pool),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
        }
    }

    fn read(object: &Map<String, Value>) -> Result<Option<Self>, storage::Error> {
        let damaged = || storage::Error::failed("a row of the catalogue is damaged");
        object.get("pool").map(|pool| Self::of_value(pool).ok_or_else(damaged)).transpose()
    }

    fn write(&self, key: &QueueKey) -> Map<String, Value> {
        // Stores the project too, because the row's key only has its digest.
        [("pool", self.to_value()), ("project", key.project.as_str().into())]
            .map(|(name, value)| (name.to_owned(), value))
            .into_iter()
            .collect()
    }
}

/// A queue's row in the catalogue.
#[derive(Debug, Clone)]
pub(crate) struct Placement {
    row: QueueRow,
    /// `None`: the queue was deleted, and its row is about to be deleted.
    pub(crate) place: Option<Place>,
}

impl Registry {
    /// Reads a queue's row.
    pub(crate) async fn placement(
        &self,
        key: &QueueKey,
    ) -> Result<Option<Placement>, storage::Error> {
        let Some(row) = self.store().get(&rows::placement(key)?).await? else { return Ok(None) };
        let place = Place::read(row.metadata.as_object())?;
        Ok(Some(Placement { row, place }))
    }

    /// Places a queue that is in no pool. If several servers do so at once, one of them decides.
    pub(crate) async fn place_at(
        &self,
        key: &QueueKey,
        found: Option<&Placement>,
        place: &Place,
    ) -> Result<bool, storage::Error> {
        let row = rows::row(rows::new_generation(), place.write(key));
        let key = rows::placement(key)?;
        match found {
            None => Ok(self.store().create(&key, &row).await?.is_none()),
            Some(found) => self.store().replace(&key, found.row.generation, &row).await,
        }
    }

    /// Confirms that a head was opened where the row says. Whoever read the row before does not
    /// delete it any more; `false` if the row has changed.
    pub(crate) async fn confirm(
        &self,
        key: &QueueKey,
        found: &Placement,
    ) -> Result<bool, storage::Error> {
        let after = rows::next(&found.row, found.row.metadata.as_object().clone());
        self.store().replace(&rows::placement(key)?, found.row.generation, &after).await
    }

    /// Deletes the row of a queue whose head was closed after `found` was read, unless a head was
    /// opened since.
    pub(crate) async fn displace(
        &self,
        key: &QueueKey,
        found: &Placement,
    ) -> Result<(), storage::Error> {
        rows::remove(self.store(), &rows::placement(key)?, found.row.generation).await.map(drop)
    }

    /// Where a queue is; `None` if it is not placed.
    pub(crate) async fn current_place(
        &self,
        key: &QueueKey,
    ) -> Result<Option<Place>, storage::Error> {
        if key.kind == Kind::Internal {
            return Ok(Some(Place::Configured));
        }
        let found = self.placement(key).await?.and_then(|found| found.place);
        Ok(found.or_else(|| self.place_of_unplaced()))
    }

    /// Where a queue without a row may be: it may have been created before pooling was enabled.
    pub(crate) fn place_of_unplaced(&self) -> Option<Place> {
        self.has_virtual_pool().then_some(Place::Configured)
    }

    /// Chooses where to place a queue.
    async fn choose(
        &self,
        key: &QueueKey,
        flavor: Option<&FlavorName>,
    ) -> Result<Place, storage::Error> {
        // A queue that existed before pooling was enabled stays where it is.
        if self.has_virtual_pool() && self.configured().generation(key).await?.is_some() {
            return Ok(Place::Configured);
        }
        let pools = self.read_pools().await?;
        match (pools.choose(key, flavor), flavor) {
            (Some(pool), _) => Ok(Place::Pool(pool.name.clone())),
            (None, None) if self.has_virtual_pool() => Ok(Place::Configured),
            (None, None) => Err(storage::Error::unavailable(
                "no pool takes queues without a flavor: register one with a weight above 0 and \
                 without a flavor, or set [pooling:catalog] enable_virtual_pool",
            )),
            (None, Some(flavor)) => Err(storage::Error::unavailable(format!(
                "no pool of flavor {flavor} has a weight above 0"
            ))),
        }
    }

    /// Where a queue is, and its row at that time. Places the queue if it is not placed.
    pub(crate) async fn find_place(
        &self,
        key: &QueueKey,
        flavor: Option<&FlavorName>,
    ) -> Result<(Place, Placement), storage::Error> {
        for _ in 0..rows::ATTEMPTS {
            let found = self.placement(key).await?;
            if let Some(found) = &found
                && let Some(place) = &found.place
            {
                return Ok((place.clone(), found.clone()));
            }
            let place = self.choose(key, flavor).await?;
            self.place_at(key, found.as_ref(), &place).await?;
        }
        Err(contended())
    }
}

pub(crate) fn contended() -> storage::Error {
    storage::Error::unavailable("too many concurrent changes of the queue's placement")
}
