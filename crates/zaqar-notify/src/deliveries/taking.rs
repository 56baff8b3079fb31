//! Rows that this worker takes, and how it settles them.

use zaqar_core::storage::{
    ClaimRequest, Claimed, Deletable, Error, Guarded, Message, MessageStore,
};
use zaqar_core::{ClaimId, Generation, MessageId, QueueKey, Timestamp};

use super::{ATTEMPTS, Deliveries, ROW_LEASE, contended, is_suspended};
use crate::row::{Row, SubscriptionKey};

/// The claim by which this worker holds rows; all rows of a batch share it.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(super) queue: QueueKey,
    pub(super) claim: ClaimId,
}

/// A row that this worker holds.
#[derive(Debug)]
pub(crate) struct HeldRow {
    pub(super) id: MessageId,
    /// How often it was claimed, including this time.
    pub(crate) count: u32,
    pub(crate) row: Row,
}

/// A row that has ended and is to be deleted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EndedRow {
    id: MessageId,
    claim: ClaimId,
}

/// How many of the first due rows are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Take {
    /// At most so many under one lease, to be sent and settled together.
    Together(usize),
    /// At most so many, each under a lease of its own.
    Each(usize),
}

/// The result of [`Deliveries::take`].
#[derive(Debug)]
pub(crate) enum Taken {
    /// The first rows that are due, at least one, by lease.
    Rows(Vec<(Lease, Vec<HeldRow>)>),
    /// Nothing is due.
    Nothing,
    /// The subscription is suspended.
    Suspended,
}

impl HeldRow {
    /// The row as one that has ended.
    pub(crate) const fn ended(&self, lease: &Lease) -> EndedRow {
        EndedRow { id: self.id, claim: lease.claim }
    }
}

impl Deliveries {
    /// Takes the first due rows of a subscription.
    pub(crate) async fn take(
        &self,
        subscription: &SubscriptionKey,
        take: Take,
        now: Timestamp,
    ) -> Result<Taken, Error> {
        let Some(key) = subscription.deliveries() else { return Ok(Taken::Nothing) };
        for _ in 0..ATTEMPTS {
            let Some(assumed) = self.generation(&key).await? else { return Ok(Taken::Nothing) };
            if is_suspended(assumed) {
                return Ok(Taken::Suspended);
            }
            let messages = match self.claim_rows(&key, assumed, take, now).await? {
                Guarded::Done(messages) => messages,
                Guarded::Absent => {
                    self.forget(&key);
                    continue;
                }
                Guarded::Stale(found) => {
                    self.remember(&key, found);
                    continue;
                }
            };
            if messages.is_empty() {
                return Ok(Taken::Nothing);
            }
            let rows = self.rows_of(&key, messages, now).await;
            if !rows.is_empty() {
                return Ok(Taken::Rows(rows));
            }
        }
        Err(contended())
    }

    async fn claim_rows(
        &self,
        key: &QueueKey,
        assumed: Generation,
        take: Take,
        now: Timestamp,
    ) -> Result<Guarded<Vec<Message>>, Error> {
        let store: &dyn MessageStore = &*self.store;
        match take {
            Take::Each(count) => {
                let ids: Vec<_> = (0..count).map(|_| ClaimId::new(rand::random())).collect();
                store.claim_each(key, assumed, &ids, ROW_LEASE, now).await
            }
            Take::Together(limit) => {
                let (id, ttl) = (ClaimId::new(rand::random()), ROW_LEASE);
                let request = ClaimRequest::new(id, ttl, limit);
                let claimed = store.claim(key, assumed, &request, now).await?;
                Ok(claimed.map(|claimed| match claimed {
                    Claimed::Messages { messages, .. } => messages,
                    Claimed::TargetChanged => Vec::new(),
                }))
            }
        }
    }

    /// Claimed messages as rows, by claim. One that cannot be decoded is deleted.
    async fn rows_of(
        &self,
        key: &QueueKey,
        messages: Vec<Message>,
        now: Timestamp,
    ) -> Vec<(Lease, Vec<HeldRow>)> {
        let mut taken: Vec<(Lease, Vec<HeldRow>)> = Vec::new();
        for message in messages {
            let Some(claim) = message.claim else { continue };
            let (id, count) = (message.id, message.claim_count);
            let Some(row) = Row::decode(&message.payload) else {
                self.discard_unreadable(key, id, claim, now).await;
                continue;
            };
            let held = HeldRow { id, count, row };
            match taken.last_mut() {
                Some((lease, rows)) if lease.claim == claim => rows.push(held),
                Some(_) | None => taken.push((Lease { queue: key.clone(), claim }, vec![held])),
            }
        }
        taken
    }

    /// Deletes rows, if this worker still holds them.
    pub(crate) async fn finish(
        &self,
        lease: &Lease,
        rows: &[HeldRow],
        now: Timestamp,
    ) -> Result<(), Error> {
        let ids: Vec<_> = rows.iter().map(|held| held.id).collect();
        let held = Deletable::HeldBy(vec![lease.claim]);
        self.store.delete_many(&lease.queue, &ids, &held, now).await
    }

    /// Deletes rows of one subscription in one step, as far as this worker still holds them.
    pub(crate) async fn finish_all(
        &self,
        subscription: &SubscriptionKey,
        rows: &[EndedRow],
        now: Timestamp,
    ) -> Result<(), Error> {
        let Some(key) = subscription.deliveries() else { return Ok(()) };
        let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
        let mut claims: Vec<_> = rows.iter().map(|row| row.claim).collect();
        // The rows of a batch are next to each other.
        claims.dedup();
        self.store.delete_many(&key, &ids, &Deletable::HeldBy(claims), now).await
    }

    /// Holds rows for `secs` from `now`, for another immediate attempt. `false` if another worker
    /// may hold them.
    pub(crate) async fn hold(
        &self,
        lease: &Lease,
        secs: u64,
        now: Timestamp,
    ) -> Result<bool, Error> {
        self.store.claim_renew(&lease.queue, lease.claim, secs.max(1), 0, now).await
    }

    /// Holds rows until their retry is due, `secs` from `now`. Returns the seconds they wait, or
    /// `None` if another worker may hold them. The wait always differs from the lease of an
    /// attempt, so that [`Deliveries::hasten`] can tell the two apart.
    pub(crate) async fn wait(
        &self,
        lease: &Lease,
        secs: u64,
        now: Timestamp,
    ) -> Result<Option<u64>, Error> {
        let secs = secs.max(1) + u64::from(secs == ROW_LEASE);
        Ok(self.hold(lease, secs, now).await?.then_some(secs))
    }

    /// Releases rows at once.
    pub(crate) async fn release(&self, lease: &Lease, now: Timestamp) -> Result<(), Error> {
        self.store.claim_release(&lease.queue, lease.claim, now).await.map(drop)
    }
}
