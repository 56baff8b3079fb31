//! Internal queues: opened by the first post, closed with their subscription. Keeps the generations
//! that posts and claims assume.

use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};

use tracing::warn;
use zaqar_core::storage::{
    Batch, ClaimRequest, Claimed, Deletable, Error, Guarded, Heads, Message, NewMessage,
};
use zaqar_core::{
    ClaimId, ClientId, Generation, Incarnation, MessageId, QueueKey, StateLog, Timestamp, Version,
};

use super::{ATTEMPTS, Deliveries, contended};
use crate::row::Ticket;

/// Seconds after which a subscription without deliveries is checked again.
pub(crate) const IDLE_CHECK: u64 = 86_400;
/// Generations that are cached. A wrong one costs a round trip.
const REMEMBERED: usize = 50_000;
const ACTIVE: Version = Version::new(2);

static DISCARD_LOG: StateLog = StateLog::new();

impl Deliveries {
    pub(super) async fn claim(
        &self,
        key: &QueueKey,
        ttl: u64,
        limit: usize,
        now: Timestamp,
    ) -> Result<(ClaimId, Vec<Message>), Error> {
        let id = ClaimId::new(rand::random());
        for _ in 0..ATTEMPTS {
            let Some(assumed) = self.generation(key).await? else { break };
            let request = ClaimRequest::new(id, ttl, limit);
            match self.store.claim(key, assumed, &request, now).await? {
                Guarded::Done(Claimed::Messages { messages, .. }) => return Ok((id, messages)),
                Guarded::Done(Claimed::TargetChanged) => break,
                Guarded::Absent => self.forget(key),
                Guarded::Stale(found) => self.remember(key, found),
            }
        }
        Ok((id, Vec::new()))
    }

    /// Posts to an internal queue, and opens it if needed. `keeps` is the ticket that must exist
    /// before the queue does.
    pub(super) async fn post(
        &self,
        key: &QueueKey,
        messages: Vec<NewMessage>,
        keeps: Option<&Ticket>,
        now: Timestamp,
    ) -> Result<Vec<MessageId>, Error> {
        let batch = Batch {
            request: rand::random(),
            client: ClientId::new("zaqar-notify"),
            messages,
            notify: false,
        };
        for _ in 0..ATTEMPTS {
            let assumed = match self.generation(key).await? {
                Some(found) => found,
                None => self.open(key, keeps, now).await?,
            };
            match self.store.post(key, assumed, batch.clone(), now).await? {
                Guarded::Done(ids) => return Ok(ids),
                Guarded::Absent => self.forget(key),
                Guarded::Stale(found) => self.remember(key, found),
            }
        }
        Err(contended())
    }

    pub(super) async fn open(
        &self,
        key: &QueueKey,
        keeps: Option<&Ticket>,
        now: Timestamp,
    ) -> Result<Generation, Error> {
        if let Some(ticket) = keeps {
            let due = now.plus_secs(IDLE_CHECK);
            Box::pin(self.schedule(std::slice::from_ref(ticket), due, now)).await?;
        }
        let incarnation = Incarnation::new(rand::random::<u64>() >> 1);
        let opened = Generation { incarnation, version: ACTIVE };
        let found = Heads::open(&*self.store, key, opened, now).await?;
        self.remember(key, found);
        Ok(found)
    }

    /// Closes an internal queue.
    pub(super) async fn close(&self, key: &QueueKey) -> Result<(), Error> {
        self.forget(key);
        if let Some(generation) = self.store.generation(key).await? {
            Heads::close(&*self.store, key, generation.incarnation).await?;
        }
        Ok(())
    }

    /// Deletes a message of an internal queue, if the claim still holds it.
    pub(super) async fn discard(
        &self,
        key: &QueueKey,
        id: MessageId,
        claim: ClaimId,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.store.delete_many(key, &[id], &Deletable::HeldBy(vec![claim]), now).await
    }

    /// Deletes a message of an internal queue that cannot be decoded. If that fails, it is claimed
    /// again later: what was claimed with it must not wait for that.
    pub(super) async fn discard_unreadable(
        &self,
        key: &QueueKey,
        id: MessageId,
        claim: ClaimId,
        now: Timestamp,
    ) {
        if let Err(error) = self.discard(key, id, claim, now).await
            && let Some(failures) = DISCARD_LOG.failure()
        {
            let error = &error as &dyn std::error::Error;
            warn!(
                queue = %key, error, failures,
                "an unreadable message of deliveries cannot be deleted"
            );
        }
    }

    pub(super) async fn generation(&self, key: &QueueKey) -> Result<Option<Generation>, Error> {
        let known = self.known().get(key).copied();
        if known.is_some() {
            return Ok(known);
        }
        let found = self.store.generation(key).await?;
        if let Some(found) = found {
            self.remember(key, found);
        }
        Ok(found)
    }

    pub(super) fn remember(&self, key: &QueueKey, generation: Generation) {
        let mut known = self.known();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(key.clone(), generation);
    }

    pub(super) fn forget(&self, key: &QueueKey) {
        self.known().remove(key);
    }

    pub(super) fn known(&self) -> MutexGuard<'_, HashMap<QueueKey, Generation>> {
        // No method call leaves a map half changed.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
