//! Which pool has which queue: a row for each queue.

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
    /// In the message store that is configured, which is the virtual pool.
    Configured,
}

impl Place {
    /// Its name in logs.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Pool(name) => name.as_str(),
            Self::Configured => "(configured)",
        }
    }

    /// As rows have it.
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
        // The project too, as the row's key has a digest of it only.
        [("pool", self.to_value()), ("project", key.project.as_str().into())]
            .map(|(name, value)| (name.to_owned(), value))
            .into_iter()
            .collect()
    }
}

/// A queue's row in the catalogue, as it was read.
#[derive(Debug, Clone)]
pub(crate) struct Placement {
    row: QueueRow,
    /// `None`: the queue was deleted, and its row is about to go.
    pub(crate) place: Option<Place>,
}

impl Registry {
    /// What the catalogue says of a queue.
    pub(crate) async fn placement(
        &self,
        key: &QueueKey,
    ) -> Result<Option<Placement>, storage::Error> {
        let Some(row) = self.store().get(&rows::placement(key)?).await? else { return Ok(None) };
        let place = Place::read(row.metadata.as_object())?;
        Ok(Some(Placement { row, place }))
    }

    /// Places a queue that has no place; of several at once one decides.
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

    /// Says that a head was opened where the catalogue says. Whoever read the row before that does
    /// not remove it any more; `false` where the row is another one by now.
    pub(crate) async fn confirm(
        &self,
        key: &QueueKey,
        found: &Placement,
    ) -> Result<bool, storage::Error> {
        let after = rows::next(&found.row, found.row.metadata.as_object().clone());
        self.store().replace(&rows::placement(key)?, found.row.generation, &after).await
    }

    /// Removes the row of a queue whose head was closed after `found` was read, unless one was
    /// opened since.
    pub(crate) async fn displace(
        &self,
        key: &QueueKey,
        found: &Placement,
    ) -> Result<(), storage::Error> {
        rows::remove(self.store(), &rows::placement(key)?, found.row.generation).await.map(drop)
    }

    /// Where a queue is; `None` for one that has no place.
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

    /// Where a queue may be that the catalogue does not have: it may be from before there were
    /// pools.
    pub(crate) fn place_of_unplaced(&self) -> Option<Place> {
        self.has_virtual_pool().then_some(Place::Configured)
    }

    /// Where a queue goes that has no place.
    async fn choose(
        &self,
        key: &QueueKey,
        flavor: Option<&FlavorName>,
    ) -> Result<Place, storage::Error> {
        // What was there before there were pools stays there.
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

    /// A queue's place, and its row then. One that has none is placed.
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
    storage::Error::unavailable("the place of the queue changes too fast")
}
