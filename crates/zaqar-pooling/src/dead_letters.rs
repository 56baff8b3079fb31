//! Claims whose dead-letter queue is in another pool. A store moves messages only within itself, so
//! [`Transfer`] describes how they get there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rand::seq::SliceRandom;
use tokio::task::JoinHandle;
use tracing::{info, warn};
use zaqar_core::storage::{
    ClaimRequest, Claimed, DeadLetters, Error, Guarded, MessageStore, QueueRow,
};
use zaqar_core::{
    Generation, Incarnation, Kind, ProjectId, QueueKey, QueueName, StateLog, Timestamp, Version,
};

use crate::catalogue::contended;
use crate::deliveries::{Deliverer, Delivery, Moment};
use crate::interval_task::IntervalTask;
use crate::member::Member;
use crate::members::Members;
use crate::place::Place;
use crate::shares::Shares;
use crate::transfers::{self, Transfer};
use crate::{Registry, rows};

/// How often a claim is repeated if its staging queue is deleted concurrently.
const ROUNDS: usize = 4;
/// How soon a delivery is retried while another server delivers.
const BUSY_WAIT: Duration = Duration::from_millis(50);
/// Concurrent deliveries, at most: in all, to one pool, which may hang, and of one transfer, where
/// one waits for the other. Letters beyond that are delivered with others of their transfer, or by
/// [`DeadLetterMover::resume`].
const MAX_DELIVERIES: usize = 64;
const MAX_TO_POOL: usize = 16;
const MAX_OF_TRANSFER: usize = 8;
/// A delivery that fails after this time leaves the others between its pools to the next search.
const HANGS_AFTER: Duration = Duration::from_secs(1);
/// Seconds between two searches for letters that another server left undelivered.
const RESUME_EVERY: u64 = 10;
/// Rows per page.
const PAGE: usize = 100;

/// A generation that no queue ever has.
const NEVER: Generation = Generation { incarnation: Incarnation::new(0), version: Version::new(0) };

/// Who holds permits for deliveries.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Owner {
    /// The pool that letters go to.
    Pool(Place),
    /// The row of a transfer.
    Transfer(QueueKey),
}

/// Moves dead letters between pools.
pub(crate) struct DeadLetterMover {
    registry: Arc<Registry>,
    members: Arc<Members>,
    deliverer: Deliverer,
    permits: Arc<Shares<Owner>>,
    /// When undelivered letters were last searched for, and the task that delivers them.
    resuming: IntervalTask,
    /// How long a claim waits until the letters that it moved are in the dead-letter queue.
    wait: Duration,
    log: StateLog,
}

/// A claim whose dead-letter queue is in another pool.
#[derive(Clone)]
pub(crate) struct CrossingClaim {
    pub(crate) source: Arc<Member>,
    pub(crate) key: QueueKey,
    pub(crate) assumed: Generation,
    pub(crate) request: ClaimRequest,
    pub(crate) rule: DeadLetters,
    pub(crate) now: Timestamp,
}

impl CrossingClaim {
    /// Claims with another target for dead letters.
    async fn claim_into(
        &self,
        store: &dyn MessageStore,
        target: QueueKey,
        generation: Generation,
    ) -> Result<Guarded<Claimed>, Error> {
        let dead_letters = Some(DeadLetters { target, generation, ..self.rule.clone() });
        let request = ClaimRequest { dead_letters, ..self.request.clone() };
        store.claim(&self.key, self.assumed, &request, self.now).await
    }
}

impl DeadLetterMover {
    pub(crate) fn new(registry: Arc<Registry>, members: Arc<Members>, wait: Duration) -> Self {
        Self {
            deliverer: Deliverer::new(Arc::clone(&registry), Arc::clone(&members)),
            registry,
            members,
            permits: Arc::new(Shares::new(MAX_DELIVERIES)),
            resuming: IntervalTask::new(RESUME_EVERY),
            wait,
            log: StateLog::new(),
        }
    }

    /// Claims, and moves messages that were claimed too often. Costs one step if no letter must be
    /// moved. Otherwise the letters are in the dead-letter queue when this returns, if both pools
    /// are available.
    pub(crate) async fn claim(
        self: &Arc<Self>,
        claim: CrossingClaim,
    ) -> Result<Guarded<Claimed>, Error> {
        let store = claim.source.store().await?;
        // A store that must move letters answers that this target's generation is wrong, and does
        // nothing.
        let answer = claim.claim_into(store.as_ref(), nowhere(&claim.key)?, NEVER).await?;
        let must_move = answer == Guarded::Done(Claimed::TargetChanged);
        if !must_move {
            return Ok(answer);
        }
        let Some(to) = self.target_as_assumed(&claim.rule).await? else { return Ok(answer) };
        // A task of its own, so that a caller that gives up does not cancel it.
        let mover = Arc::clone(self);
        let moving = tokio::spawn(async move { mover.claim_and_move(store, claim, to).await });
        moving.await.map_err(Error::failed)?
    }

    /// Where the dead-letter queue is; `None` if it has not the generation that the claim assumes.
    /// If its pool is down, this is assumed: letters wait until the pool is back.
    async fn target_as_assumed(&self, rule: &DeadLetters) -> Result<Option<Place>, Error> {
        let Some(place) = self.registry.current_place(&rule.target).await? else {
            return Ok(None);
        };
        let generation =
            async { self.members.at(&place).await?.store().await?.generation(&rule.target).await };
        match generation.await {
            Ok(generation) => Ok((generation == Some(rule.generation)).then_some(place)),
            Err(error) if error.is_retryable() => Ok(Some(place)),
            Err(error) => Err(error),
        }
    }

    async fn claim_and_move(
        self: Arc<Self>,
        store: Arc<dyn MessageStore>,
        claim: CrossingClaim,
        to: Place,
    ) -> Result<Guarded<Claimed>, Error> {
        let time = Moment::new(claim.now);
        for _ in 0..ROUNDS {
            let (from, target) = (&claim.source.place, &claim.rule.target);
            let (row, transfer) =
                transfers::note(self.registry.store(), from, target, claim.now).await?;
            let staging = transfer.staging.clone();
            let generation = store.open(&staging, rows::new_generation(), claim.now).await?;
            let answer = claim.claim_into(store.as_ref(), staging, generation).await?;
            if answer == Guarded::Done(Claimed::TargetChanged) {
                continue;
            }
            if let Some(delivery) = self.spawn_delivery(row, to, time) {
                tokio::time::timeout(self.wait, delivery).await.ok();
            }
            return Ok(answer);
        }
        Err(contended())
    }

    /// Whether no letter is on its way to a queue where it is now. Those that are, are delivered.
    pub(crate) async fn have_arrived(
        &self,
        target: &QueueKey,
        place: &Place,
        time: Moment,
    ) -> Result<bool, Error> {
        let project = rows::transfers()?;
        let (mut after, mut have_arrived): (Option<QueueName>, _) = (None, true);
        loop {
            let rows = self.registry.store();
            let page = rows.list(&project, Kind::Internal, after.as_ref(), PAGE).await?;
            for (name, row) in &page {
                let transfer = Transfer::read(row.metadata.as_object())?;
                if transfer.is_some_and(|transfer| transfer.is_on_its_way(target, place)) {
                    have_arrived = false;
                    let name = name.clone();
                    let row = QueueKey { project: project.clone(), kind: Kind::Internal, name };
                    self.deliver(&row, time).await;
                }
            }
            match page.into_iter().last() {
                Some((name, _)) => after = Some(name),
                None => return Ok(have_arrived),
            }
        }
    }

    /// Delivers in a task of its own, which may take longer than the claim waits.
    fn spawn_delivery(
        self: &Arc<Self>,
        row: QueueKey,
        to: Place,
        time: Moment,
    ) -> Option<JoinHandle<()>> {
        let pool = (Owner::Pool(to), MAX_TO_POOL);
        let transfer = (Owner::Transfer(row.clone()), MAX_OF_TRANSFER);
        let permit = self.permits.try_acquire(&[pool, transfer])?;
        let mover = Arc::clone(self);
        Some(tokio::spawn(async move {
            let started = tokio::time::Instant::now();
            while mover.deliver(&row, time).await == Some(Delivery::Busy)
                && started.elapsed() < mover.wait
            {
                tokio::time::sleep(BUSY_WAIT).await;
            }
            drop(permit);
        }))
    }

    /// Delivers the letters of one transfer; logs a failure.
    async fn deliver(&self, row: &QueueKey, time: Moment) -> Option<Delivery> {
        match self.deliverer.deliver(row, time).await {
            Ok(delivery) => Some(delivery),
            Err((transfer, error)) => {
                if let Some(failures) = self.log.failure() {
                    let (from, to) = transfer.as_ref().map(pools_of).unwrap_or_default();
                    let error = &error as &dyn std::error::Error;
                    warn!(from, to, error, failures, "dead letters wait for another pool");
                }
                None
            }
        }
    }

    /// Starts to deliver letters that other servers left, unless that was done recently.
    pub(crate) fn resume_in_background(self: &Arc<Self>, now: Timestamp) {
        let mover = Arc::clone(self);
        self.resuming.start(now, async move {
            if let Err(error) = mover.resume(now).await {
                let error = &error as &dyn std::error::Error;
                warn!(error, "dead letters on their way to other pools cannot be listed");
            }
        });
    }

    /// Delivers letters that other servers left.
    pub(crate) async fn resume(&self, now: Timestamp) -> Result<(), Error> {
        let time = Moment::new(now);
        let project = rows::transfers()?;
        let mut after: Option<QueueName> = None;
        let mut has_failed = false;
        loop {
            let rows = self.registry.store();
            let page = rows.list(&project, Kind::Internal, after.as_ref(), PAGE).await?;
            // Concurrently, as pools that do not answer take long to fail.
            let groups = self.by_pools(&project, &page).await;
            let delivered = groups.into_iter().map(|rows| self.deliver_all(rows, time));
            has_failed |= join_all(delivered).await.contains(&false);
            match page.into_iter().last() {
                Some((name, _)) => after = Some(name),
                None => break,
            }
        }
        // Not after each row, because other rows may fail at the same time.
        if !has_failed && let Some(failures) = self.log.success() {
            info!(failures, "dead letters reach other pools again");
        }
        Ok(())
    }

    /// Rows of transfers by the pools they are between, each group in a random order. Those that
    /// cannot be read are a group, whose delivery says why.
    async fn by_pools(
        &self,
        project: &ProjectId,
        page: &[(QueueName, QueueRow)],
    ) -> Vec<Vec<QueueKey>> {
        let mut groups = HashMap::<_, Vec<QueueKey>>::new();
        for (name, row) in page {
            let pools = match Transfer::read(row.metadata.as_object()) {
                Ok(Some(transfer)) => {
                    let to = self.registry.current_place(&transfer.target).await.ok().flatten();
                    Some((transfer.from, to, transfer.batch.map(|batch| batch.to)))
                }
                Ok(None) | Err(_) => None,
            };
            let (project, name) = (project.clone(), name.clone());
            groups.entry(pools).or_default().push(QueueKey { project, kind: Kind::Internal, name });
        }
        let mut groups: Vec<_> = groups.into_values().collect();
        groups.iter_mut().for_each(|rows| rows.shuffle(&mut rand::rng()));
        groups
    }

    /// Delivers the letters of transfers between the same pools, until one hangs. Returns whether
    /// all were delivered.
    async fn deliver_all(&self, rows: Vec<QueueKey>, time: Moment) -> bool {
        let mut are_delivered = true;
        for row in rows {
            let began = tokio::time::Instant::now();
            if self.deliver(&row, time).await.is_none() {
                are_delivered = false;
                if began.elapsed() >= HANGS_AFTER {
                    break;
                }
            }
        }
        are_delivered
    }
}

/// The names of a transfer's pools, for logs.
fn pools_of(transfer: &Transfer) -> (String, String) {
    let to = transfer.batch.as_ref().map(|batch| batch.to.name().to_owned());
    (transfer.from.name().to_owned(), to.unwrap_or_default())
}

/// A queue that is never opened. It is in the claimed queue's project, so that a store keeps it in
/// the same place.
fn nowhere(source: &QueueKey) -> Result<QueueKey, Error> {
    let name = QueueName::new("zaqar.nowhere").map_err(Error::failed)?;
    Ok(QueueKey { project: source.project.clone(), kind: Kind::Internal, name })
}
