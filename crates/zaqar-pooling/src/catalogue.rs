//! The catalogue: one row per queue, which says which pool has it.

use zaqar_core::pools::FlavorName;
use zaqar_core::storage::{self, QueueRow};
use zaqar_core::{Kind, QueueKey};

use crate::moves::{Moving, Phase};
use crate::place::Place;
use crate::{Registry, rows};

/// The member of a row whose queue has had no head yet.
const NEW: &str = "new";

/// A queue's row in the catalogue, as it was read.
#[derive(Debug, Clone)]
pub(crate) struct Placement {
    row: QueueRow,
    /// `None`: the queue was deleted, and its row is about to be deleted.
    pub(crate) place: Option<Place>,
    /// The move that is under way.
    pub(crate) moving: Option<Moving>,
    /// Whether the queue has had no head yet.
    is_new: bool,
}

impl Registry {
    /// Reads a queue's row.
    pub(crate) async fn placement(
        &self,
        key: &QueueKey,
    ) -> Result<Option<Placement>, storage::Error> {
        let Some(row) = self.store().get(&rows::placement(key)?).await? else { return Ok(None) };
        let place = Place::read(row.metadata.as_object())?;
        let moving = Moving::read(row.metadata.as_object())?;
        let is_new = row.metadata.as_object().contains_key(NEW);
        Ok(Some(Placement { row, place, moving, is_new }))
    }

    /// Places a queue that is in no pool, in the place of the row that was found. If several
    /// servers do so at once, one of them decides.
    pub(crate) async fn place_at(
        &self,
        key: &QueueKey,
        found: Option<&Placement>,
        place: &Place,
    ) -> Result<bool, storage::Error> {
        let mut object = place.write(key);
        object.insert(NEW.to_owned(), true.into());
        let row = rows::row(rows::new_generation(), object);
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
        let mut object = found.row.metadata.as_object().clone();
        object.remove(NEW);
        let after = rows::next(&found.row, object);
        self.store().replace(&rows::placement(key)?, found.row.generation, &after).await
    }

    /// Replaces the move of a row if it still is `before`, and with it the place of the queue if
    /// there is one; `false` where it is another by now. Others may confirm the row meanwhile.
    pub(crate) async fn set_move(
        &self,
        key: &QueueKey,
        before: Option<&Moving>,
        after: Option<&Moving>,
        place: Option<&Place>,
    ) -> Result<bool, storage::Error> {
        for _ in 0..rows::ATTEMPTS {
            let Some(found) = self.placement(key).await? else { return Ok(false) };
            let is_there = found.moving.as_ref() == after
                && place.is_none_or(|place| found.place.as_ref() == Some(place));
            if is_there {
                // An earlier attempt of ours did it, and its answer was lost.
                return Ok(true);
            }
            if found.moving.as_ref() != before || found.place.is_none() {
                return Ok(false);
            }
            let mut object = found.row.metadata.as_object().clone();
            Moving::write(after, &mut object);
            if let Some(place) = place {
                place.write_to(&mut object);
            }
            let next = rows::next(&found.row, object);
            if self.store().replace(&rows::placement(key)?, found.row.generation, &next).await? {
                return Ok(true);
            }
        }
        Err(contended())
    }

    /// Removes the row of a queue that had no head at some time after `found` was read; `false` if
    /// one was opened since.
    pub(crate) async fn displace(
        &self,
        key: &QueueKey,
        found: &Placement,
    ) -> Result<bool, storage::Error> {
        rows::remove(self.store(), &rows::placement(key)?, found.row.generation).await
    }

    /// Removes the row of a queue that was deleted, if one was left; `false` if there is none.
    pub(crate) async fn forget_deleted(&self, key: &QueueKey) -> Result<bool, storage::Error> {
        match self.placement(key).await? {
            Some(found) if self.is_left(key, &found).await? => self.displace(key, &found).await,
            Some(_) | None => Ok(false),
        }
    }

    /// Whether a row was left by a queue that was deleted. Such a queue has no row of its own and
    /// no head; where its pool is not registered any more, its head does not count. A queue that is
    /// just being created has neither, too, but its place is new.
    async fn is_left(&self, key: &QueueKey, found: &Placement) -> Result<bool, storage::Error> {
        let Some(place) = found.place.as_ref().filter(|_| found.moving.is_none()) else {
            return Ok(false);
        };
        let is_registered = match place.pool() {
            Some(pool) => self.read_pools().await?.get(pool).is_ok(),
            None => true,
        };
        if is_registered && found.is_new || self.store().get(key).await?.is_some() {
            return Ok(false);
        }
        match self.members().filter(|_| is_registered) {
            Some(members) => members.has_no_head(place, key).await,
            None => Ok(!is_registered),
        }
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

    /// Whether a move of a queue has begun that may still take it elsewhere.
    pub(crate) async fn is_leaving(&self, key: &QueueKey) -> Result<bool, storage::Error> {
        let moving = self.placement(key).await?.and_then(|found| found.moving);
        Ok(moving.is_some_and(|moving| matches!(moving.phase, Phase::Copy | Phase::Undo)))
    }

    /// Where a queue may be that the catalogue does not have: it may be from before there were
    /// pools.
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
                && !self.is_left(key, found).await?
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
