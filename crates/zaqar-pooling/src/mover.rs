//! Moves queues to other pools while they are in use: see `docs/design/pools.md`.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::{info, warn};
use zaqar_core::pools;
use zaqar_core::storage::{
    Contents, ContentsMark, Error, Exported, FrozenHead, MessageStore, MoveEnd, MoveId, Moves,
};
use zaqar_core::{LeaseId, QueueKey, StateLog, Timestamp};

use crate::catalogue::{Placement, contended};
use crate::dead_letters::DeadLetterMover;
use crate::deliveries::Moment;
use crate::drain_pauses::DrainPauses;
use crate::interval_task::IntervalTask;
use crate::member::with_source;
use crate::members::Members;
use crate::moves::{Ended, Moving, Phase, Record};
use crate::place::Place;
use crate::registry::PoolHeads;
use crate::{Registry, rows, transfers};

/// Rows of one part that is copied, about.
const PART: usize = 500;
/// Seconds for which one process alone does a move, unless it says so again.
pub(crate) const OWNED_FOR: u64 = 30;
/// How often it says so.
const HOLD_EVERY: Duration = Duration::from_secs(8);
/// Seconds for which a lease counts as live in a pool that does not know it: its server renews
/// it everywhere before.
const LEASED_FOR: u64 = 15;
/// How often dead letters on their way to a queue are looked for before it is frozen, and the pause
/// in between.
const LETTER_ROUNDS: usize = 200;
const LETTER_PAUSE: Duration = Duration::from_millis(100);
/// Moves at a time that callers began. Others are begun by [`Mover::resume`].
const MAX_MOVES: usize = 8;

/// Seconds between two looks for moves that were left half done.
const RESUME_EVERY: u64 = 2;

/// Moves queues between pools.
pub(crate) struct Mover {
    pub(crate) registry: Arc<Registry>,
    members: Arc<Members>,
    letters: Arc<DeadLetterMover>,
    /// What this process is called in rows.
    owner: u64,
    moved_for: Duration,
    /// Queues that this process moves.
    busy: Mutex<HashSet<QueueKey>>,
    permits: Arc<Semaphore>,
    /// When moves were last looked for, and the task that does.
    pub(crate) resuming: IntervalTask,
    pub(crate) drain_pauses: DrainPauses,
    pub(crate) log: StateLog,
    /// Limits logs about moves that are undone: a drain begins one for each queue.
    undone: StateLog,
}

/// The stores of a move.
struct Ends {
    source: Arc<dyn MessageStore>,
    target: Arc<dyn MessageStore>,
}

impl Ends {
    fn moves(&self) -> Result<(&dyn Moves, &dyn Moves), Error> {
        self.source.moves().zip(self.target.moves()).ok_or_else(|| Error::failed(CANNOT_MOVE))
    }
}

/// Why a store that has no [`Moves`] is no end of a move.
pub(crate) const CANNOT_MOVE: &str = "its store cannot move queues";

impl Mover {
    pub(crate) fn new(
        registry: Arc<Registry>,
        members: Arc<Members>,
        letters: Arc<DeadLetterMover>,
        moved_for: Duration,
    ) -> Self {
        Self {
            registry,
            members,
            letters,
            owner: rand::random::<u64>() >> 1,
            moved_for,
            busy: Mutex::default(),
            permits: Arc::new(Semaphore::new(MAX_MOVES)),
            resuming: IntervalTask::new(RESUME_EVERY),
            drain_pauses: DrainPauses::default(),
            log: StateLog::new(),
            undone: StateLog::new(),
        }
    }

    /// After a store said that a queue is frozen by a move: ends the freeze where nobody would. The
    /// head was seen before the catalogue is read, so a move that is not there is over.
    pub(crate) async fn clear_leftover(
        &self,
        key: &QueueKey,
        id: MoveId,
        end: MoveEnd,
    ) -> Result<(), Error> {
        let found = self.registry.placement(key).await?;
        let (place, moving) = found.map(|found| (found.place, found.moving)).unwrap_or_default();
        let is_over = moving.as_ref().is_none_or(|moving| moving.id != id);
        let is_thawing = moving.is_some_and(|moving| moving.phase == Phase::Thaw);
        if !is_over && !is_thawing {
            return Ok(());
        }
        let Some(place) = place.or_else(|| self.registry.place_of_unplaced()) else {
            return Ok(());
        };
        let store = self.store(&place).await?;
        let Some(moves) = store.moves() else { return Ok(()) };
        match end {
            // What had arrived by a move that did not come to an end.
            MoveEnd::Target if is_over => moves.discard(key, id).await,
            // The place is the target: its server may have died before it thawed.
            MoveEnd::Target => moves.thaw(key, id).await,
            MoveEnd::Source if is_over => moves.thaw(key, id).await,
            MoveEnd::Source => Ok(()),
        }
    }

    /// Begins a move.
    pub(crate) async fn begin(
        &self,
        key: &QueueKey,
        to: &Place,
        now: Timestamp,
    ) -> Result<(), pools::Error> {
        let refused = |reason: String| pools::Error::CannotMove { reason };
        let name = key.name.clone();
        let Some(from) = self.registry.current_place(key).await? else {
            return Err(pools::Error::QueueNotFound { name });
        };
        if from == *to {
            return Err(refused(format!("the queue is in pool {} already", to.name())));
        }
        for place in [&from, to] {
            if self.store(place).await?.moves().is_none() {
                return Err(refused(format!("pool {}: {CANNOT_MOVE}", place.name())));
            }
        }
        let store = self.store(&from).await?;
        let mut generation = store.generation(key).await;
        if let Err(Error::Moved { id, end }) = generation {
            self.clear_leftover(key, id, end).await?;
            generation = store.generation(key).await;
        }
        match generation {
            Ok(Some(_)) => {}
            Ok(None) => return Err(pools::Error::QueueNotFound { name }),
            Err(Error::Moved { .. }) => return Err(refused(BUSY.to_owned())),
            Err(error) => return Err(error.into()),
        }
        // One from before there were pools has no row yet.
        let (place, found) = self.registry.find_place(key, None).await?;
        if place != from || found.moving.is_some() {
            return Err(refused(BUSY.to_owned()));
        }
        let moving = Moving {
            id: MoveId::new(rand::random()),
            from,
            to: to.clone(),
            phase: Phase::Copy,
            owner: self.owner,
            until: now.plus_secs(OWNED_FOR),
            rows: 0,
            problem: None,
        };
        self.record(key, &moving, now).await?;
        if self.registry.set_move(key, None, Some(&moving), Some(&moving.from)).await? {
            return Ok(());
        }
        Err(refused(BUSY.to_owned()))
    }

    /// Goes on with the move of a queue, unless another task or server does.
    pub(crate) async fn drive(&self, key: &QueueKey, time: Moment) -> Result<(), Error> {
        if !self.busy().insert(key.clone()) {
            return Ok(());
        }
        let _busy = Busy { mover: self, key };
        while let Some(moving) = self.moving(key).await? {
            let is_waiting = moving.phase == Phase::Clean || moving.owner != self.owner;
            if is_waiting && moving.until > time.now() {
                return Ok(());
            }
            match moving.phase {
                Phase::Copy => self.copy_or_undo(key, moving, time).await?,
                Phase::Undo => return self.undo(key, &moving, time).await,
                Phase::Thaw => self.thaw(key, &moving, time).await?,
                Phase::Clean => return self.clean(key, &moving, time).await,
            }
        }
        Ok(())
    }

    /// Drives a move in a task of its own, if few are driven.
    pub(crate) fn spawn_drive(self: &Arc<Self>, key: QueueKey, now: Timestamp) {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else { return };
        let mover = Arc::clone(self);
        tokio::spawn(async move {
            mover.drive_logged(&key, Moment::new(now)).await;
            drop(permit);
        });
    }

    /// Drives a move; logs why it cannot go on.
    pub(crate) async fn drive_logged(&self, key: &QueueKey, time: Moment) {
        let driven = self.drive(key, time).await;
        self.log_waiting(key, driven);
    }

    fn log_waiting(&self, key: &QueueKey, outcome: Result<(), Error>) {
        if let Err(error) = outcome
            && let Some(failures) = self.log.failure()
        {
            let error = &error as &dyn std::error::Error;
            warn!(queue = %key, error, failures, "the move of a queue waits");
        }
    }

    pub(crate) async fn moving(&self, key: &QueueKey) -> Result<Option<Moving>, Error> {
        Ok(self.registry.placement(key).await?.and_then(|found| found.moving))
    }

    async fn copy_or_undo(
        &self,
        key: &QueueKey,
        moving: Moving,
        time: Moment,
    ) -> Result<(), Error> {
        // An id of its own, so that nothing that an earlier attempt still does has an effect.
        let (id, until) = (MoveId::new(rand::random()), self.owned_until(time));
        let own = Moving { id, owner: self.owner, until, ..moving.clone() };
        self.set(key, &moving, Some(&own), None).await?;
        let mut copy = Copy { mover: self, key, moving: own, time, rows: 0, held: Instant::now() };
        let Err(error) = copy.run().await else { return Ok(()) };
        let problem = Some(with_source(&error));
        if let Some(moves) = self.undone.failure() {
            warn!(queue = %key, problem, moves, "the move of a queue is undone");
        }
        let undone = Moving { phase: Phase::Undo, problem, ..copy.moving.clone() };
        self.set(key, &copy.moving, Some(&undone), None).await
    }

    /// Lets the queue go on where it was.
    async fn undo(&self, key: &QueueKey, moving: &Moving, time: Moment) -> Result<(), Error> {
        if let Some(store) = self.store_if_registered(&moving.from).await?
            && let Some(moves) = store.moves()
        {
            moves.thaw(key, moving.id).await?;
        }
        self.discard(key, &moving.to, moving.id).await?;
        self.end(key, moving, time).await
    }

    async fn thaw(&self, key: &QueueKey, moving: &Moving, time: Moment) -> Result<(), Error> {
        let store = self.store(&moving.to).await?;
        store.moves().ok_or_else(|| Error::failed(CANNOT_MOVE))?.thaw(key, moving.id).await?;
        info!(
            queue = %key, from = moving.from.name(), to = moving.to.name(), rows = moving.rows,
            "queue moved"
        );
        let until = time.now().plus_secs(self.moved_for.as_secs());
        let cleaned = Moving { phase: Phase::Clean, until, ..moving.clone() };
        self.set(key, moving, Some(&cleaned), None).await
    }

    async fn clean(&self, key: &QueueKey, moving: &Moving, time: Moment) -> Result<(), Error> {
        self.discard(key, &moving.from, moving.id).await?;
        self.end(key, moving, time).await
    }

    /// Removes a move from the catalogue, and with it the queue's row if the queue was deleted
    /// meanwhile.
    async fn end(&self, key: &QueueKey, moving: &Moving, time: Moment) -> Result<(), Error> {
        let is_removed = match self.registry.placement(key).await? {
            // By a server that deleted the queue.
            None => true,
            Some(found) if found.moving.as_ref() != Some(moving) => false,
            Some(found) if self.is_gone(key, found.place.as_ref()).await? => {
                self.registry.displace(key, &found).await?
            }
            Some(_) => false,
        };
        if !is_removed {
            self.set(key, moving, None, None).await?;
        }
        self.end_record(key, moving, time.now()).await
    }

    /// Ends the move of a queue that was deleted where it had arrived. Where that fails, which is
    /// logged, [`Self::clean`] does it later.
    pub(crate) async fn clean_deleted(&self, key: &QueueKey, found: &Placement, moving: &Moving) {
        match moving.phase {
            // The end of the move is near.
            Phase::Copy | Phase::Undo => {}
            Phase::Thaw | Phase::Clean => {
                let cleaned = self.discard_and_displace(key, found, moving).await;
                self.log_waiting(key, cleaned);
            }
        }
    }

    async fn discard_and_displace(
        &self,
        key: &QueueKey,
        found: &Placement,
        moving: &Moving,
    ) -> Result<(), Error> {
        // First: a frozen head that no row names counts as a leftover, and would serve again.
        self.discard(key, &moving.from, moving.id).await?;
        if self.registry.displace(key, found).await? {
            self.end_record(key, moving, moving.until).await?;
        }
        Ok(())
    }

    /// Whether a queue has no head where it is. In a pool that is not registered any more it may
    /// have one.
    async fn is_gone(&self, key: &QueueKey, place: Option<&Place>) -> Result<bool, Error> {
        let Some(place) = place else { return Ok(false) };
        match self.store_if_registered(place).await? {
            Some(_) => self.members.has_no_head(place, key).await,
            None => Ok(false),
        }
    }

    /// Discards one end of a move. A pool that is not registered any more is left as it is.
    async fn discard(&self, key: &QueueKey, place: &Place, id: MoveId) -> Result<(), Error> {
        match self.store_if_registered(place).await? {
            Some(store) => match store.moves() {
                Some(moves) => moves.discard(key, id).await,
                None => Ok(()),
            },
            None => Ok(()),
        }
    }

    async fn set(
        &self,
        key: &QueueKey,
        before: &Moving,
        after: Option<&Moving>,
        place: Option<&Place>,
    ) -> Result<(), Error> {
        match self.registry.set_move(key, Some(before), after, place).await? {
            true => Ok(()),
            // Another server has taken over.
            false => Err(contended()),
        }
    }

    fn owned_until(&self, time: Moment) -> Timestamp {
        time.now().plus_secs(OWNED_FOR)
    }

    pub(crate) async fn store(&self, place: &Place) -> Result<Arc<dyn MessageStore>, Error> {
        self.members.at(place).await?.store().await
    }

    async fn store_if_registered(
        &self,
        place: &Place,
    ) -> Result<Option<Arc<dyn MessageStore>>, Error> {
        if let Some(pool) = place.pool()
            && self.registry.read_pools().await?.get(pool).is_err()
        {
            return Ok(None);
        }
        self.store(place).await.map(Some)
    }

    fn busy(&self) -> MutexGuard<'_, HashSet<QueueKey>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn record(
        &self,
        key: &QueueKey,
        moving: &Moving,
        now: Timestamp,
    ) -> Result<(), pools::Error> {
        let record = Record {
            queue: key.clone(),
            from: moving.from.clone(),
            to: moving.to.clone(),
            began: now,
            ended: None,
        };
        Ok(self.change_record(key, |_| Some(record.clone())).await?)
    }

    /// Notes in the record of a queue's move how it ended.
    async fn end_record(
        &self,
        key: &QueueKey,
        moving: &Moving,
        at: Timestamp,
    ) -> Result<(), Error> {
        let (rows, problem) = (moving.rows, moving.problem.clone());
        let ended = Some(Ended { at, rows, problem });
        self.change_record(key, |before| {
            // Another server may have begun to begin one.
            let began = before.map_or(at, |before| before.began);
            let (from, to) = (moving.from.clone(), moving.to.clone());
            let (queue, ended) = (key.clone(), ended.clone());
            Some(Record { queue, from, to, began, ended })
        })
        .await
    }

    pub(crate) async fn change_record(
        &self,
        key: &QueueKey,
        change: impl Fn(Option<Record>) -> Option<Record>,
    ) -> Result<(), Error> {
        let row = rows::record_of(key)?;
        let changed = rows::change(self.registry.store(), &row, |object| {
            Ok((change(Record::read(object)?).map(|record| record.write()), ()))
        });
        changed.await.map_err(transfers::as_storage)
    }
}

/// Why a queue that is being moved is not moved elsewhere.
const BUSY: &str = "the queue is being moved";

/// A queue that this process moves, until it is dropped.
struct Busy<'a> {
    mover: &'a Mover,
    key: &'a QueueKey,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.mover.busy().remove(self.key);
    }
}

/// One attempt to copy a queue. What an earlier one has copied is discarded: the freeze may have
/// been lost in between, and the queue may have changed.
struct Copy<'a> {
    mover: &'a Mover,
    key: &'a QueueKey,
    /// As it is in the catalogue.
    moving: Moving,
    time: Moment,
    rows: u64,
    held: Instant,
}

impl Copy<'_> {
    /// Copies the queue and switches the catalogue.
    async fn run(&mut self) -> Result<(), Error> {
        let ends = Ends {
            source: self.mover.store(&self.moving.from).await?,
            target: self.mover.store(&self.moving.to).await?,
        };
        let (source, target) = ends.moves()?;
        self.wait_for_letters().await?;
        let head = self.freeze(source).await?;
        let head = head.ok_or_else(|| Error::failed("the queue was deleted"))?;
        self.receive(target, head).await?;
        let mut mark = Some(ContentsMark::START);
        while let Some(from) = mark {
            let part = self.export(source, from, PART).await?;
            self.keep_leases(ends.target.as_ref(), &part.contents).await?;
            let rows = size(&part.contents);
            if rows > 0 && !self.import(target, &part.contents).await? {
                return Err(Error::unavailable("the copy was lost"));
            }
            self.rows += rows;
            mark = part.next;
            if self.held.elapsed() >= HOLD_EVERY {
                self.hold().await?;
            }
        }
        // The source is still as it was copied.
        self.export(source, ContentsMark::START, 1).await?;
        let until = self.mover.owned_until(self.time);
        let moved = Moving { phase: Phase::Thaw, until, rows: self.rows, ..self.moving.clone() };
        let place = Some(&self.moving.to);
        self.mover.set(self.key, &self.moving, Some(&moved), place).await
    }

    /// Dead letters on their way to the queue arrive first: they are bound for this pool.
    async fn wait_for_letters(&mut self) -> Result<(), Error> {
        for _ in 0..LETTER_ROUNDS {
            let place = &self.moving.from;
            if self.mover.letters.have_arrived(self.key, place, self.time).await? {
                return Ok(());
            }
            tokio::time::sleep(LETTER_PAUSE).await;
        }
        Err(Error::unavailable("dead letters are on their way to the queue"))
    }

    async fn freeze(&mut self, source: &dyn Moves) -> Result<Option<FrozenHead>, Error> {
        let (key, own) = (self.key, self.moving.id);
        let frozen = source.freeze(key, own, self.time.now()).await;
        let Err(Error::Moved { id, .. }) = frozen else { return frozen };
        if id != own {
            // A leftover, as the catalogue still has this move.
            self.hold().await?;
            source.thaw(key, id).await?;
        }
        source.freeze(key, own, self.time.now()).await
    }

    async fn receive(&mut self, target: &dyn Moves, head: FrozenHead) -> Result<(), Error> {
        let (key, own) = (self.key, self.moving.id);
        let received = target.receive(key, own, head, self.time.now()).await;
        let Err(Error::Moved { id, .. }) = received else { return received };
        if id != own {
            self.hold().await?;
            target.discard(key, id).await?;
        }
        target.receive(key, own, head, self.time.now()).await
    }

    async fn export(
        &self,
        source: &dyn Moves,
        from: ContentsMark,
        limit: usize,
    ) -> Result<Exported, Error> {
        let part = source.export(self.key, self.moving.id, from, limit, self.time.now()).await?;
        part.ok_or_else(|| Error::unavailable("the freeze of the queue was lost"))
    }

    async fn import(&self, target: &dyn Moves, part: &Contents) -> Result<bool, Error> {
        target.import(self.key, self.moving.id, part, self.time.now()).await
    }

    /// Leases of servers that have not kept them in the target yet.
    async fn keep_leases(&self, target: &dyn MessageStore, part: &Contents) -> Result<(), Error> {
        let leases: HashSet<LeaseId> =
            part.subscriptions.iter().filter_map(|one| one.lease).collect();
        let now = self.time.now();
        for lease in leases {
            target.keep_lease(lease, now.plus_secs(LEASED_FOR), now).await?;
        }
        Ok(())
    }

    /// Says that this process is still at it.
    ///
    /// # Errors
    /// Another one is.
    async fn hold(&mut self) -> Result<(), Error> {
        let until = self.mover.owned_until(self.time);
        let held = Moving { until, rows: self.rows, ..self.moving.clone() };
        self.mover.set(self.key, &self.moving, Some(&held), None).await?;
        (self.moving, self.held) = (held, Instant::now());
        Ok(())
    }
}

fn size(part: &Contents) -> u64 {
    let Contents { claims, messages, subscriptions, entries } = part;
    (claims.len() + messages.len() + subscriptions.len() + entries.len()) as u64
}
