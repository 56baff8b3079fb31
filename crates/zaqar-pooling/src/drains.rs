//! Drains of pools: all queues of a pool move to the others of its flavor.

use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;
use zaqar_core::pools::{self, FlavorName, Pool, PoolDrain, PoolName, QueueMove, QueueMoveState};
use zaqar_core::storage::Error;
use zaqar_core::{QueueKey, QueueName};

use crate::deliveries::Moment;
use crate::mover::{CANNOT_MOVE, Mover};
use crate::moves::{Phase, Record};
use crate::place::Place;
use crate::rows;

/// Heads of a pool that are read at a time.
const PAGE: usize = 256;
/// Queues and moves that a drain's progress names or counts, at most.
const SHOWN: usize = 100;
/// How long its queues are looked for, at most: a store may have millions of other keys between
/// them.
const COUNTED_FOR: Duration = Duration::from_secs(5);
/// Seconds after which a queue that could not be moved is tried again.
const AGAIN_AFTER: u64 = 60;

/// A queue of a pool that is drained.
enum Stay {
    /// It is not in the pool.
    NotThere,
    /// It is being moved, perhaps by another server.
    Moves,
    /// It could not be moved just now.
    Waits,
    /// It is to be moved.
    Leaves,
}

impl Mover {
    /// Moves the queues of all pools that are drained, one after the other. Pools in which the last
    /// passes found nothing to move are looked through less often.
    pub(crate) async fn drain_all(&self, time: Moment) -> Result<(), Error> {
        let pools = self.registry.read_pools().await?;
        self.drain_pauses.keep(pools.draining());
        for pool in pools.draining() {
            if !self.drain_pauses.is_due(pool, time.now()) {
                continue;
            }
            match self.drain_pool(pool, time).await {
                Ok(true) => self.drain_pauses.end(pool),
                Ok(false) => self.drain_pauses.lengthen(pool, time.now()),
                Err(error) => {
                    if let Some(failures) = self.log.failure() {
                        let error = &error as &dyn std::error::Error;
                        warn!(pool = pool.as_str(), error, failures, "the pool cannot be drained");
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns whether it found a queue that moves, or moved one.
    async fn drain_pool(&self, pool: &PoolName, time: Moment) -> Result<bool, pools::Error> {
        let place = Place::Pool(pool.clone());
        let store = self.store(&place).await?;
        let Some(moves) = store.moves() else { return Ok(false) };
        let (mut cursor, mut has_moves) = (None, false);
        loop {
            let (queues, next) = moves.heads(cursor, PAGE).await?;
            for key in queues {
                let pools = self.registry.read_pools().await?;
                if !pools.draining().contains(pool) {
                    return Ok(has_moves);
                }
                let flavor = pools.get(pool)?.flavor.clone();
                match self.stay(&key, &place, time).await? {
                    Stay::Leaves => {
                        let to = pools.choose(&key, flavor.as_ref());
                        let to = to.ok_or_else(|| nowhere_to_go(pool, flavor.as_ref()))?;
                        has_moves = true;
                        self.leave(&key, Place::Pool(to.name.clone()), time).await?;
                    }
                    Stay::Moves => has_moves = true,
                    Stay::NotThere | Stay::Waits => {}
                }
            }
            match next {
                Some(next) => cursor = Some(next),
                None => return Ok(has_moves),
            }
        }
    }

    async fn leave(&self, key: &QueueKey, to: Place, time: Moment) -> Result<(), pools::Error> {
        match self.begin(key, &to, time.now()).await {
            Ok(()) => {
                self.drive_logged(key, time).await;
                Ok(())
            }
            // Deleted meanwhile, or another server moves it.
            Err(pools::Error::QueueNotFound { .. } | pools::Error::CannotMove { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What is to be done with a queue that a pool which is drained may have.
    async fn stay(&self, key: &QueueKey, place: &Place, time: Moment) -> Result<Stay, Error> {
        let found = self.registry.placement(key).await?;
        let Some(found) = found.filter(|found| found.place.as_ref() == Some(place)) else {
            return Ok(Stay::NotThere);
        };
        if found.moving.is_some() {
            return Ok(Stay::Moves);
        }
        let row = self.registry.store().get(&rows::record_of(key)?).await?;
        let record = match row {
            Some(row) => Record::read(row.metadata.as_object())?,
            None => None,
        };
        let failed = record.and_then(|record| record.ended).filter(|end| end.problem.is_some());
        let waits = failed.is_some_and(|ended| ended.at.plus_secs(AGAIN_AFTER) > time.now());
        Ok(if waits { Stay::Waits } else { Stay::Leaves })
    }

    /// Whether the queues of a pool can be listed and moved.
    pub(crate) async fn check_drain(&self, pool: &PoolName) -> Result<(), pools::Error> {
        let pools = self.registry.read_pools().await?;
        let flavor = pools.get(pool)?.flavor.as_ref();
        let takes = |other: &&Pool| {
            other.name != *pool && other.weight > 0 && !pools.draining().contains(&other.name)
        };
        if !pools.of_flavor(flavor).any(|other| takes(&other)) {
            return Err(nowhere_to_go(pool, flavor));
        }
        let store = self.store(&Place::Pool(pool.clone())).await?;
        let refused = |reason: String| pools::Error::CannotMove { reason };
        let moves = store.moves().ok_or_else(|| refused(format!("pool {pool}: {CANNOT_MOVE}")))?;
        match moves.heads(None, 1).await {
            Err(Error::Failed { source }) => Err(refused(format!("pool {pool}: {source}"))),
            listed => Ok(listed.map(drop)?),
        }
    }

    /// What a drain has come to.
    pub(crate) async fn progress(&self, pool: &PoolName) -> Result<PoolDrain, pools::Error> {
        let pools = self.registry.read_pools().await?;
        pools.get(pool)?;
        let (queues_left, has_more) = self.queues_of(pool).await?;
        let is_draining = pools.draining().contains(pool);
        let moves = self.moves_of(pool).await?;
        Ok(PoolDrain { is_draining, queues_left, has_more, moves })
    }

    /// Counts the queues of a pool, and whether there may be more.
    async fn queues_of(&self, pool: &PoolName) -> Result<(u64, bool), Error> {
        let place = Place::Pool(pool.clone());
        let store = self.store(&place).await?;
        let Some(moves) = store.moves() else { return Ok((0, true)) };
        let (mut count, mut cursor, began) = (0, None, Instant::now());
        while began.elapsed() < COUNTED_FOR {
            let (queues, next) = moves.heads(cursor, PAGE).await?;
            for key in queues {
                let found = self.registry.placement(&key).await?;
                count += u64::from(found.is_some_and(|found| found.place.as_ref() == Some(&place)));
                if count >= SHOWN as u64 {
                    return Ok((count, true));
                }
            }
            match next {
                Some(next) => cursor = Some(next),
                None => return Ok((count, false)),
            }
        }
        Ok((count, true))
    }

    /// Moves from a pool and to it.
    async fn moves_of(&self, pool: &PoolName) -> Result<Vec<QueueMove>, Error> {
        let (mut moves, mut after): (Vec<QueueMove>, Option<QueueName>) = (Vec::new(), None);
        loop {
            let page = self.records(after.as_ref()).await?;
            for (_, record) in &page {
                if moves.len() == SHOWN {
                    return Ok(moves);
                }
                if record.is_of(pool) {
                    moves.push(self.shown(record).await?);
                }
            }
            match page.into_iter().last() {
                Some((name, _)) => after = Some(name),
                None => return Ok(moves),
            }
        }
    }

    async fn shown(&self, record: &Record) -> Result<QueueMove, Error> {
        let found = self.registry.placement(&record.queue).await?;
        let moving = found.and_then(|found| found.moving);
        let (state, rows, problem) = match (moving, &record.ended) {
            (Some(moving), _) => {
                let state = match moving.phase {
                    Phase::Copy | Phase::Thaw => QueueMoveState::Copying,
                    Phase::Clean => QueueMoveState::Moved,
                    Phase::Undo => QueueMoveState::Undoing,
                };
                (state, moving.rows, moving.problem)
            }
            (None, Some(ended)) if ended.problem.is_some() => {
                (QueueMoveState::Failed, ended.rows, ended.problem.clone())
            }
            (None, Some(ended)) => (QueueMoveState::Moved, ended.rows, None),
            // About to begin.
            (None, None) => (QueueMoveState::Copying, 0, None),
        };
        Ok(QueueMove {
            queue: record.queue.clone(),
            from: record.from.pool().cloned(),
            to: record.to.pool().cloned(),
            state,
            rows,
            began: record.began,
            problem,
        })
    }
}

fn nowhere_to_go(pool: &PoolName, flavor: Option<&FlavorName>) -> pools::Error {
    let others = flavor.map_or_else(
        || "no other pool without a flavor".to_owned(),
        |flavor| format!("no other pool of flavor {flavor}"),
    );
    let reason =
        format!("pool {pool}: {others} takes queues (weight above 0, and not drained itself)");
    pools::Error::CannotMove { reason }
}
