//! The second half of a dead letter's transfer to another pool: see [`Transfer`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Mutex as AsyncMutex;
use tracing::warn;
use zaqar_core::storage::{
    Batch, ClaimRequest, Claimed, DeadLetters, Deletable, Error, Guarded, ListQuery, Message,
    MessageStore, NewMessage,
};
use zaqar_core::{ClaimId, QueueKey, StateLog, Timestamp};

use crate::catalogue::contended;
use crate::members::Members;
use crate::place::Place;
use crate::transfers::{self, LostArrival, Transfer, TransferBatch};
use crate::{Registry, rows};

/// Batches per delivery, at most: the next delivery continues.
const MAX_BATCHES: usize = 100;
/// Letters per batch, at most.
const BATCH: usize = 100;
/// Bytes per batch, at most, unless a single letter is larger.
const BATCH_BYTES: usize = 1 << 20;
/// Seconds for which one process owns a batch.
const OWNED_FOR: u64 = 30;
/// Seconds after the end of that when it still opens an arrival queue, at most. After twice as long
/// the queue is closed for the last time.
const LATE: u64 = 300;
/// The resolution of a [`Moment`] in seconds; small compared with [`OWNED_FOR`].
const TICK: u64 = 5;
/// Steps in which a store moves one batch, at most: it may move many messages in pieces.
const MOVES: usize = 32;

static DROPPED: StateLog = StateLog::new();

/// The outcome of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// The transfer has no undelivered letter, or the next delivery continues.
    Done,
    /// Another server delivers.
    Busy,
}

/// Why a delivery failed, and its transfer if that is known.
pub(crate) type Failure = (Option<Transfer>, Error);

/// Delivers letters from staging queues to dead-letter queues.
pub(crate) struct Deliverer {
    registry: Arc<Registry>,
    members: Arc<Members>,
    /// Identifies this process in rows.
    owner: u64,
    locks: Locks,
}

/// A caller's time, which advances while work is done for it.
#[derive(Clone, Copy)]
pub(crate) struct Moment {
    given: Timestamp,
    at: tokio::time::Instant,
}

impl Moment {
    pub(crate) fn new(given: Timestamp) -> Self {
        Self { given, at: tokio::time::Instant::now() }
    }

    /// The present time, at most [`TICK`] seconds late: immediate work has the caller's own time.
    pub(crate) fn now(&self) -> Timestamp {
        self.given.plus_secs(self.at.elapsed().as_secs() / TICK * TICK)
    }
}

/// A batch in transfer.
struct Leg<'a> {
    row: &'a QueueKey,
    transfer: &'a Transfer,
    source: Arc<dyn MessageStore>,
    time: Moment,
}

impl Deliverer {
    pub(crate) fn new(registry: Arc<Registry>, members: Arc<Members>) -> Self {
        Self { registry, members, owner: rand::random::<u64>() >> 1, locks: Locks::default() }
    }

    /// Delivers the letters of one transfer.
    pub(crate) async fn deliver(&self, row: &QueueKey, time: Moment) -> Result<Delivery, Failure> {
        let lock = self.locks.of(row);
        let _alone = lock.lock.lock().await;
        for _ in 0..MAX_BATCHES {
            let read = self.registry.store().get(row).await.map_err(|error| (None, error))?;
            let read = read.map(|row| (row.generation, Transfer::read(row.metadata.as_object())));
            let Some((generation, transfer)) = read else { return Ok(Delivery::Done) };
            let Some(transfer) = transfer.map_err(|error| (None, error))? else {
                return Ok(Delivery::Done);
            };
            let batch = transfer.batch.as_ref();
            if batch.is_some_and(|batch| batch.owner != self.owner && batch.until > time.now()) {
                return Ok(Delivery::Busy);
            }
            match self.close_lost(row, &transfer, time.now()).await {
                Ok(false) => {}
                Ok(true) => continue,
                Err(error) => return Err((Some(transfer), error)),
            }
            match self.step(row, &transfer, time).await {
                Ok(true) => {}
                Ok(false) => {
                    let retired = self.retire(row, generation, &transfer, time.now()).await;
                    return retired.map_err(|error| (Some(transfer), error));
                }
                Err(error) => return Err((Some(transfer), error)),
            }
        }
        Ok(Delivery::Done)
    }

    /// Does the next step of one batch; `false` if no letter is left.
    async fn step(&self, row: &QueueKey, transfer: &Transfer, time: Moment) -> Result<bool, Error> {
        let source = self.store(&transfer.from).await?;
        let leg = Leg { row, transfer, source, time };
        let to = self.target_place(&transfer.target).await?;
        let is_leaving = self.registry.is_leaving(&transfer.target).await?;
        match &transfer.batch {
            Some(batch) if to.as_ref() != Some(&batch.to) => self.drop_batch(&leg, batch).await,
            Some(batch) if batch.is_complete => self.finish(&leg, batch).await,
            // Its letters are still in the staging queue, and go where the queue goes.
            Some(batch) if is_leaving => self.drop_batch(&leg, batch).await,
            None if is_leaving => Err(leaving()),
            before => match to {
                Some(to) => self.begin(&leg, before.as_ref(), to).await,
                None => self.drop_staged(&leg).await,
            },
        }
    }

    /// Where a dead-letter queue is; `None` if it was deleted. The configured store may have queues
    /// that the catalogue does not have, so there the head decides.
    async fn target_place(&self, target: &QueueKey) -> Result<Option<Place>, Error> {
        let found = self.registry.placement(target).await?.and_then(|found| found.place);
        if found.is_some() {
            return Ok(found);
        }
        let Some(place) = self.registry.place_of_unplaced() else { return Ok(None) };
        let head = self.store(&place).await?.generation(target).await?;
        Ok(head.map(|_| place))
    }

    /// Copies the next letters to the target pool. The copy of an earlier attempt is deleted.
    async fn begin(
        &self,
        leg: &Leg<'_>,
        before: Option<&TransferBatch>,
        to: Place,
    ) -> Result<bool, Error> {
        let letters = leg.next_letters().await?;
        let batch = (!letters.is_empty()).then_some(TransferBatch {
            arrival: transfers::new_queue()?,
            to,
            ids: letters.iter().map(|letter| letter.id).collect(),
            owner: self.owner,
            until: leg.time.now().plus_secs(OWNED_FOR),
            is_complete: false,
        });
        if batch.as_ref() != before {
            self.set_batch(leg, before, batch.as_ref()).await?;
        }
        if let Some(before) = before {
            self.close(&before.to, &before.arrival).await?;
        }
        let Some(batch) = batch else { return Ok(false) };
        // Before the batch was this process's own, another one may have delivered a whole batch,
        // after which the row looks as before. Letters that are there now stay until this one ends.
        if leg.next_letters().await?.iter().take(letters.len()).ne(&letters) {
            return Ok(true);
        }
        // The batch is in its row before this is read, and a move looks for batches after it has
        // begun: so either the move waits for this one, or this one is given up.
        if self.registry.is_leaving(&leg.transfer.target).await? {
            return Err(leaving());
        }
        let store = self.store(&batch.to).await?;
        // A process that was stopped for longer leaves the queue to whoever has taken over: nobody
        // would close it again.
        if batch.until.plus_secs(LATE) <= leg.time.now() {
            return Err(contended());
        }
        let generation = store.open(&batch.arrival, rows::new_generation(), leg.time.now()).await?;
        for run in letters.chunk_by(|one, next| one.client == next.client) {
            let Some(first) = run.first() else { continue };
            let posted = Batch {
                request: rand::random(),
                client: first.client.clone(),
                messages: run.iter().map(|letter| copied(letter, leg.time.now())).collect(),
                notify: false,
            };
            match store.post(&batch.arrival, generation, posted, leg.time.now()).await? {
                Guarded::Done(_) => {}
                // Another server has taken over.
                Guarded::Absent | Guarded::Stale(_) => return Err(contended()),
            }
        }
        let complete = TransferBatch { is_complete: true, ..batch.clone() };
        let (rows, now) = (self.registry.store(), leg.time.now());
        if !transfers::set_batch(rows, leg.row, Some(&batch), Some(&complete), now).await? {
            // Another server has taken over, perhaps before this one opened the arrival queue: then
            // nobody else closes it.
            self.close(&batch.to, &batch.arrival).await?;
            return Err(contended());
        }
        Ok(true)
    }

    /// Moves a complete batch into the dead-letter queue. Each step can be repeated.
    async fn finish(&self, leg: &Leg<'_>, batch: &TransferBatch) -> Result<bool, Error> {
        leg.source
            .delete_many(&leg.transfer.staging, &batch.ids, &Deletable::Any, leg.time.now())
            .await?;
        let store = self.store(&batch.to).await?;
        self.move_arrived(leg, store.as_ref(), &batch.arrival).await?;
        // Closed first: a complete batch without an arrival queue has arrived.
        self.close(&batch.to, &batch.arrival).await?;
        self.set_batch(leg, Some(batch), None).await?;
        Ok(true)
    }

    /// Lets the store move the messages of an arrival queue as dead letters.
    async fn move_arrived(
        &self,
        leg: &Leg<'_>,
        store: &dyn MessageStore,
        arrival: &QueueKey,
    ) -> Result<(), Error> {
        let request = |dead_letters| ClaimRequest {
            dead_letters,
            ..ClaimRequest::new(ClaimId::new(rand::random()), 1, BATCH)
        };
        for _ in 0..MOVES {
            let Some(own) = store.generation(arrival).await? else { return Ok(()) };
            // A message is moved once it has been claimed.
            let first = request(None);
            store.claim(arrival, own, &first, leg.time.now()).await?;
            store.claim_release(arrival, first.id, leg.time.now()).await?;
            let Some(generation) = store.generation(&leg.transfer.target).await? else {
                // They may have expired.
                if leg.is_empty(store, arrival).await? {
                    return Ok(());
                }
                return Err(Error::unavailable("the dead-letter queue is not open"));
            };
            let target = leg.transfer.target.clone();
            let rule = DeadLetters { max_claim_count: 1, target, generation, ttl: None };
            let second = request(Some(rule));
            let moved = store.claim(arrival, own, &second, leg.time.now()).await?;
            if let Guarded::Done(Claimed::Messages { messages: taken, .. }) = moved
                && !taken.is_empty()
            {
                store.claim_release(arrival, second.id, leg.time.now()).await?;
            }
            if leg.is_empty(store, arrival).await? {
                return Ok(());
            }
        }
        Err(contended())
    }

    /// Drops a batch whose target queue was deleted, and perhaps created again elsewhere: letters
    /// that have arrived were deleted with it, others are still in the staging queue.
    async fn drop_batch(&self, leg: &Leg<'_>, batch: &TransferBatch) -> Result<bool, Error> {
        if batch.is_complete {
            let (pool, letters) = (batch.to.name(), batch.ids.len());
            if let Some(batches) = DROPPED.failure() {
                warn!(
                    pool,
                    letters, batches, "the dead-letter queue was deleted while letters were moved"
                );
            }
            let staging = &leg.transfer.staging;
            leg.source.delete_many(staging, &batch.ids, &Deletable::Any, leg.time.now()).await?;
        }
        self.set_batch(leg, Some(batch), None).await?;
        self.close(&batch.to, &batch.arrival).await?;
        Ok(true)
    }

    /// Deletes staged letters whose target queue was deleted.
    async fn drop_staged(&self, leg: &Leg<'_>) -> Result<bool, Error> {
        let letters = leg.next_letters().await?;
        let ids: Vec<_> = letters.iter().map(|letter| letter.id).collect();
        leg.source
            .delete_many(&leg.transfer.staging, &ids, &Deletable::Any, leg.time.now())
            .await?;
        Ok(!ids.is_empty())
    }

    /// Closes arrival queues that were lost a while ago once more, if the process that lost one has
    /// opened it since. Returns whether there were any. In a pool that is away they wait, and
    /// nothing else waits for them.
    async fn close_lost(
        &self,
        row: &QueueKey,
        transfer: &Transfer,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let is_past = |lost: &&LostArrival| lost.closed.plus_secs(2 * LATE) <= now;
        let past: Vec<_> = transfer.lost.iter().filter(is_past).collect();
        if past.is_empty() {
            return Ok(false);
        }
        let (pools, mut has_closed) = (self.registry.read_pools().await?, false);
        for lost in past {
            let is_registered = lost.to.pool().is_none_or(|pool| pools.get(pool).is_ok());
            if is_registered && self.close(&lost.to, &lost.queue).await.is_err() {
                continue;
            }
            transfers::forget_lost(self.registry.store(), row, lost).await?;
            has_closed = true;
        }
        Ok(has_closed)
    }

    /// Deletes a row that was not used for long, and its staging queue.
    async fn retire(
        &self,
        row: &QueueKey,
        generation: zaqar_core::Generation,
        transfer: &Transfer,
        now: Timestamp,
    ) -> Result<Delivery, Error> {
        let is_idle = transfer.is_idle(now) && transfer.lost.is_empty();
        if is_idle && rows::remove(self.registry.store(), row, generation).await? {
            // The row first: a claim that finds it gone creates one with another staging queue.
            self.close(&transfer.from, &transfer.staging).await?;
        }
        Ok(Delivery::Done)
    }

    async fn set_batch(
        &self,
        leg: &Leg<'_>,
        before: Option<&TransferBatch>,
        after: Option<&TransferBatch>,
    ) -> Result<(), Error> {
        let (rows, now) = (self.registry.store(), leg.time.now());
        match transfers::set_batch(rows, leg.row, before, after, now).await? {
            true => Ok(()),
            false => Err(contended()),
        }
    }

    async fn close(&self, place: &Place, queue: &QueueKey) -> Result<(), Error> {
        let store = self.store(place).await?;
        if let Some(generation) = store.generation(queue).await? {
            store.close(queue, generation.incarnation).await?;
        }
        Ok(())
    }

    async fn store(&self, place: &Place) -> Result<Arc<dyn MessageStore>, Error> {
        self.members.at(place).await?.store().await
    }
}

impl Leg<'_> {
    async fn is_empty(&self, store: &dyn MessageStore, queue: &QueueKey) -> Result<bool, Error> {
        let rest = store.list(queue, &everything(1), self.time.now()).await?;
        Ok(rest.messages.is_empty() && rest.next.is_none())
    }

    /// The first letters of the staging queue: at most one batch.
    async fn next_letters(&self) -> Result<Vec<Message>, Error> {
        let (mut query, mut letters, mut bytes) = (everything(BATCH), Vec::new(), 0);
        loop {
            let page = self.source.list(&self.transfer.staging, &query, self.time.now()).await?;
            for letter in page.messages {
                bytes += letter.payload.bytes.len();
                if letters.len() == BATCH || (bytes > BATCH_BYTES && !letters.is_empty()) {
                    return Ok(letters);
                }
                letters.push(letter);
            }
            match page.next {
                Some(next) if letters.is_empty() => query.after = Some(next),
                Some(_) | None => return Ok(letters),
            }
        }
    }
}

fn leaving() -> Error {
    Error::unavailable("the dead-letter queue is being moved")
}

/// A letter as it is posted to an arrival queue, with the rest of its ttl.
fn copied(letter: &Message, now: Timestamp) -> NewMessage {
    let left = letter.ttl.saturating_sub(now.secs_since(letter.created)).max(1);
    NewMessage { payload: letter.payload.clone(), ttl: left, delay: 0 }
}

fn everything(limit: usize) -> ListQuery {
    ListQuery { after: None, limit, hide: None, include_claimed: true, include_delayed: true }
}

/// One lock for each transfer that this process delivers.
#[derive(Default)]
struct Locks(Mutex<HashMap<QueueKey, Arc<AsyncMutex<()>>>>);

impl Locks {
    fn map(&self) -> MutexGuard<'_, HashMap<QueueKey, Arc<AsyncMutex<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, row: &QueueKey) -> RowLock<'_> {
        let lock = Arc::clone(self.map().entry(row.clone()).or_default());
        RowLock { locks: self, row: row.clone(), lock }
    }
}

/// A row's lock; it is dropped from the map with its last user.
struct RowLock<'a> {
    locks: &'a Locks,
    row: QueueKey,
    lock: Arc<AsyncMutex<()>>,
}

impl Drop for RowLock<'_> {
    fn drop(&mut self) {
        let mut map = self.locks.map();
        // One reference is the map's, the other is this one.
        if Arc::strong_count(&self.lock) == 2 {
            map.remove(&self.row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_moment_advances_in_ticks() {
        let given = Timestamp::from_millis(1_234);
        let time = Moment::new(given);
        tokio::time::advance(Duration::from_millis(4_900)).await;
        assert_eq!(time.now(), given);
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(time.now(), given.plus_secs(10));
    }
}
