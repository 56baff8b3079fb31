//! Claims whose dead-letter queue is in another pool. A store moves messages only within itself, so
//! [`Transfer`] describes how they get there.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tracing::{info, warn};
use zaqar_core::storage::{ClaimRequest, Claimed, DeadLetters, Error, Guarded, MessageStore};
use zaqar_core::{
    Generation, Incarnation, Kind, QueueKey, QueueName, StateLog, Timestamp, Version,
};

use crate::catalogue::contended;
use crate::deliveries::{Deliverer, Delivery, Moment};
use crate::member::Member;
use crate::members::Members;
use crate::place::Place;
use crate::transfers::{self, Transfer};
use crate::{Registry, rows};

/// How often a claim is repeated if its staging queue is deleted concurrently.
const ROUNDS: usize = 4;
/// How soon a delivery is retried while another server delivers.
const BUSY_WAIT: Duration = Duration::from_millis(50);
/// Concurrent deliveries, at most. Letters beyond that are delivered by
/// [`DeadLetterMover::resume`].
const MAX_DELIVERIES: usize = 64;
/// Seconds between two searches for letters that another server left undelivered.
const RESUME_EVERY: u64 = 10;
/// Rows per page.
const PAGE: usize = 100;

/// A generation that no queue ever has.
const NEVER: Generation = Generation { incarnation: Incarnation::new(0), version: Version::new(0) };

/// Moves dead letters between pools.
pub(crate) struct DeadLetterMover {
    registry: Arc<Registry>,
    members: Arc<Members>,
    deliverer: Deliverer,
    permits: Arc<Semaphore>,
    /// When undelivered letters were last searched for, and the task that delivers them.
    resumed: Mutex<(Timestamp, Option<JoinHandle<()>>)>,
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
            permits: Arc::new(Semaphore::new(MAX_DELIVERIES)),
            resumed: Mutex::new((Timestamp::from_millis(0), None)),
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
        if !must_move || !self.is_target_as_assumed(&claim.rule).await? {
            return Ok(answer);
        }
        // A task of its own, so that a caller that gives up does not cancel it.
        let mover = Arc::clone(self);
        let moving = tokio::spawn(async move { mover.claim_and_move(store, claim).await });
        moving.await.map_err(Error::failed)?
    }

    /// Whether the dead-letter queue has the generation that the claim assumes. If its pool is
    /// down, this is assumed: letters wait until the pool is back.
    async fn is_target_as_assumed(&self, rule: &DeadLetters) -> Result<bool, Error> {
        let Some(place) = self.registry.current_place(&rule.target).await? else {
            return Ok(false);
        };
        let generation =
            async { self.members.at(&place).await?.store().await?.generation(&rule.target).await };
        match generation.await {
            Ok(generation) => Ok(generation == Some(rule.generation)),
            Err(error) if error.is_retryable() => Ok(true),
            Err(error) => Err(error),
        }
    }

    async fn claim_and_move(
        self: Arc<Self>,
        store: Arc<dyn MessageStore>,
        claim: CrossingClaim,
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
            if let Some(delivery) = self.spawn_delivery(row, time) {
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
    fn spawn_delivery(self: &Arc<Self>, row: QueueKey, time: Moment) -> Option<JoinHandle<()>> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
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
        let mut resumed = self.resumed.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, task) = &mut *resumed;
        let is_early = *at <= now && at.plus_secs(RESUME_EVERY) > now;
        if is_early || task.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let mover = Arc::clone(self);
        let resume = async move {
            if let Err(error) = mover.resume(now).await {
                let error = &error as &dyn std::error::Error;
                warn!(error, "dead letters on their way to other pools cannot be listed");
            }
        };
        *resumed = (now, Some(tokio::spawn(resume)));
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
            for (name, _) in &page {
                let name = name.clone();
                let row = QueueKey { project: project.clone(), kind: Kind::Internal, name };
                has_failed |= self.deliver(&row, time).await.is_none();
            }
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
