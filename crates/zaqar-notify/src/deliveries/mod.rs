//! Deliveries in the store: a queue of rows for each subscription, and a schedule of tickets.
//!
//! Here are the rows; `taking` has those that a worker holds, `tickets` the schedule, `kept` what
//! is kept of a subscription beside its rows, `events` what waits to be told, and `queues` the
//! internal queues that all of it is in.
//!
//! Both are internal queues of the message store, so every store has them, and every guarantee of a
//! store for messages and claims holds for deliveries:
//!
//! - A row is held by at most one worker, through a claim that is its lease. A worker whose lease
//!   expired can settle nothing, because its claim is gone.
//! - A retry waits as a claim that lasts until the retry is due. So a failed delivery costs one
//!   step, and the number of claims counts the attempts.
//! - A delivery costs what it returns plus a logarithm.
//!
//! A ticket says that a subscription may have rows to deliver. It is posted after the rows, and
//! deleted only by a worker that found no rows left while it held the ticket. A worker that wants
//! to look again later posts the next ticket before it deletes the current one. So a ticket without
//! rows can exist, but rows without a ticket cannot.
//!
//! The version of a head says whether the subscription is suspended: odd versions mean suspended.
//! The store rejects claims and posts that assume the other state.

mod events;
mod kept;
mod queues;
mod taking;
mod tickets;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use zaqar_core::storage::{Claim, Error, ListQuery, Message, MessageStore, NewMessage};
use zaqar_core::{ClaimId, Generation, MessageId, Payload, ProjectId, QueueKey, Timestamp};

pub(crate) use self::kept::Kept;
pub(crate) use self::queues::IDLE_CHECK;
pub(crate) use self::taking::{EndedRow, HeldRow, Lease, Take, Taken};
pub(crate) use self::tickets::HeldTicket;
use crate::row::{self, Body, Content, Row, SubscriptionKey, Ticket};

/// How long a row is held for one attempt, in seconds; longer than an attempt takes.
pub(crate) const ROW_LEASE: u64 = 30;
/// The TTL of messages of the schedule: they are deleted, and never expire.
const NO_EXPIRY: u64 = 3_155_760_000;
/// How often a step is repeated when its queue is opened, closed or suspended concurrently.
const ATTEMPTS: usize = 8;

/// The deliveries of a message store. Clones share everything.
#[derive(Clone)]
pub(crate) struct Deliveries {
    store: Arc<dyn MessageStore>,
    known: Arc<Mutex<HashMap<QueueKey, Generation>>>,
}

impl Deliveries {
    pub(crate) fn new(store: Arc<dyn MessageStore>) -> Self {
        Self { store, known: Arc::default() }
    }

    /// Adds rows for a subscription, each with the time at which it becomes due. The caller then
    /// posts the ticket: [`Deliveries::schedule`].
    pub(crate) async fn add(
        &self,
        subscription: &SubscriptionKey,
        rows: &[(Row, Timestamp)],
        now: Timestamp,
    ) -> Result<(), Error> {
        let message = |(row, due): &(Row, Timestamp)| EncodedRow::new(row, *due).message(now);
        self.add_messages(subscription, rows.iter().map(message).collect(), now).await
    }

    /// As [`Deliveries::add`], in one step, for rows as messages.
    pub(crate) async fn add_messages(
        &self,
        subscription: &SubscriptionKey,
        messages: Vec<NewMessage>,
        now: Timestamp,
    ) -> Result<(), Error> {
        let Some(key) = subscription.deliveries().filter(|_| !messages.is_empty()) else {
            return Ok(());
        };
        let keeps = Ticket { subscription: subscription.clone(), keeps: true };
        self.post(&key, messages, Some(&keeps), now).await.map(|_| ())
    }

    /// Stores bodies that several rows share, each until its message expires, in one step. Returns
    /// their ids, in order.
    pub(crate) async fn add_bodies(
        &self,
        project: &ProjectId,
        bodies: Vec<(Payload, Timestamp)>,
        now: Timestamp,
    ) -> Result<Vec<MessageId>, Error> {
        let Some(key) = row::bodies(project) else { return Ok(Vec::new()) };
        let message = |(payload, expires): (Payload, Timestamp)| NewMessage {
            payload,
            ttl: expires.secs_since(now).saturating_add(ROW_LEASE),
            delay: 0,
        };
        self.post(&key, bodies.into_iter().map(message).collect(), None, now).await
    }

    /// The body of a row; `None` if it is gone.
    pub(crate) async fn body(
        &self,
        project: &ProjectId,
        row: &Row,
        now: Timestamp,
    ) -> Result<Option<Payload>, Error> {
        let id = match &row.body {
            Body::Here(payload) => return Ok(Some(payload.clone())),
            Body::Shared(id, _) => *id,
        };
        let Some(key) = row::bodies(project) else { return Ok(None) };
        let found = self.store.get(&key, &[id], now).await?;
        Ok(found.into_iter().next().map(|message| message.payload))
    }

    /// A page of the rows that [`Deliveries::take`] would take, after a position, and where the
    /// next page begins. A row that cannot be decoded is left out: `take` deletes it.
    pub(crate) async fn due(
        &self,
        subscription: &SubscriptionKey,
        after: Option<MessageId>,
        limit: usize,
        now: Timestamp,
    ) -> Result<(Vec<Row>, Option<MessageId>), Error> {
        let Some(key) = subscription.deliveries() else { return Ok((Vec::new(), None)) };
        let query =
            ListQuery { after, limit, hide: None, include_claimed: false, include_delayed: false };
        let page = self.store.list(&key, &query, now).await?;
        let rows = page.messages.iter().filter_map(|message| Row::decode(&message.payload));
        Ok((rows.collect(), page.next))
    }

    /// Whether the first row whose delay has passed is not held.
    pub(crate) async fn is_first_due(
        &self,
        subscription: &SubscriptionKey,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let first = self.first(subscription, now).await?;
        Ok(first.is_some_and(|message| message.claim.is_none()))
    }

    /// Whether a row is the first of those whose delay has passed. A recovery may overtake the
    /// others.
    pub(crate) async fn is_first(
        &self,
        subscription: &SubscriptionKey,
        held: &HeldRow,
        now: Timestamp,
    ) -> Result<bool, Error> {
        if held.row.content == Content::Recovery {
            return Ok(true);
        }
        let first = self.first(subscription, now).await?;
        Ok(first.is_none_or(|message| message.id == held.id))
    }

    /// The first row whose delay has passed. A recovery that is held, or that pauses between two
    /// pages, is skipped.
    async fn first(
        &self,
        subscription: &SubscriptionKey,
        now: Timestamp,
    ) -> Result<Option<Message>, Error> {
        let Some(key) = subscription.deliveries() else { return Ok(None) };
        let mut query = ListQuery {
            after: None,
            limit: 1,
            hide: None,
            include_claimed: true,
            include_delayed: false,
        };
        loop {
            let page = self.store.list(&key, &query, now).await?;
            match (page.messages.into_iter().next(), page.next) {
                (Some(message), _) if message.claim.is_some() && is_recovery(&message) => {
                    query.after = Some(message.id);
                }
                (Some(message), _) => return Ok(Some(message)),
                (None, None) => return Ok(None),
                (None, next) => query.after = next,
            }
        }
    }

    /// Whether a subscription has no rows, due or not.
    pub(crate) async fn is_empty(
        &self,
        subscription: &SubscriptionKey,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let Some(key) = subscription.deliveries() else { return Ok(true) };
        let mut query = ListQuery {
            after: None,
            limit: 1,
            hide: None,
            include_claimed: true,
            include_delayed: true,
        };
        loop {
            let page = self.store.list(&key, &query, now).await?;
            match (page.messages.is_empty(), page.next) {
                (false, _) => return Ok(false),
                (true, None) => return Ok(true),
                (true, next) => query.after = next,
            }
        }
    }

    /// Until when the first waiting row is held; `None` if that is not known.
    pub(crate) async fn first_due(
        &self,
        subscription: &SubscriptionKey,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, Error> {
        let Some(key) = subscription.deliveries() else { return Ok(None) };
        let query = ListQuery {
            after: None,
            limit: 1,
            hide: None,
            include_claimed: true,
            include_delayed: true,
        };
        let page = self.store.list(&key, &query, now).await?;
        let Some(claim) = page.messages.first().and_then(|message| message.claim) else {
            return Ok(None);
        };
        let found: Option<Claim> = self.store.claim_get(&key, claim, now).await?;
        Ok(found.map(|claim| claim.since.plus_secs(claim.ttl)))
    }

    /// Deletes everything of a subscription that is gone.
    pub(crate) async fn remove(&self, subscription: &SubscriptionKey) -> Result<(), Error> {
        for key in subscription.queues() {
            self.close(&key).await?;
        }
        Ok(())
    }

    /// Releases a row that waits for a retry, so that it is due; one whose attempt is in progress
    /// stays held.
    pub(crate) async fn hasten(
        &self,
        subscription: &SubscriptionKey,
        claim: ClaimId,
        now: Timestamp,
    ) -> Result<(), Error> {
        let Some(key) = subscription.deliveries() else { return Ok(()) };
        match self.store.claim_get(&key, claim, now).await? {
            Some(found) if found.ttl != ROW_LEASE => {
                self.store.claim_release(&key, claim, now).await.map(drop)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The number of rows of a subscription, and whether it is suspended.
    pub(crate) async fn waiting(
        &self,
        subscription: &SubscriptionKey,
        now: Timestamp,
    ) -> Result<(u64, bool), Error> {
        let Some(key) = subscription.deliveries() else { return Ok((0, false)) };
        let Some(found) = self.store.generation(&key).await? else { return Ok((0, false)) };
        let stats = self.store.stats(&key, now).await?.unwrap_or_default();
        Ok((stats.free + stats.claimed + stats.delayed, is_suspended(found)))
    }

    /// Whether a subscription is suspended.
    pub(crate) async fn is_suspended(&self, subscription: &SubscriptionKey) -> Result<bool, Error> {
        let Some(key) = subscription.deliveries() else { return Ok(false) };
        Ok(self.store.generation(&key).await?.is_some_and(is_suspended))
    }

    /// Suspends or resumes a subscription, for all servers; whether it was not so before. Its rows
    /// stay.
    pub(crate) async fn set_suspended(
        &self,
        subscription: &SubscriptionKey,
        is_suspended: bool,
    ) -> Result<bool, Error> {
        let Some(key) = subscription.deliveries() else { return Ok(false) };
        let Some(found) = self.store.generation(&key).await? else { return Ok(false) };
        let changes = self::is_suspended(found) != is_suspended;
        if changes {
            let version = found.version.next();
            self.store.advance(&key, Generation { version, ..found }).await?;
        }
        self.forget(&key);
        Ok(changes)
    }
}

/// A row, encoded, that several subscriptions may get.
#[derive(Debug, Clone)]
pub(crate) struct EncodedRow {
    payload: Payload,
    expires: Timestamp,
    due: Timestamp,
}

impl EncodedRow {
    pub(crate) fn new(row: &Row, due: Timestamp) -> Self {
        Self { payload: row.encode(), expires: row.expires(), due }
    }

    /// Whole seconds until it is due, from `now`.
    pub(crate) const fn delay(&self, now: Timestamp) -> u64 {
        seconds_until(self.due, now)
    }

    /// It as a message of a subscription's queue.
    pub(crate) fn message(&self, now: Timestamp) -> NewMessage {
        NewMessage {
            payload: self.payload.clone(),
            ttl: self.expires.secs_since(now).saturating_add(ROW_LEASE),
            delay: self.delay(now),
        }
    }
}

fn is_recovery(message: &Message) -> bool {
    Row::decode(&message.payload).is_some_and(|row| row.content == Content::Recovery)
}

const fn is_suspended(generation: Generation) -> bool {
    generation.version.get() % 2 == 1
}

/// Whole seconds, rounded up, so that nothing is due early.
const fn seconds_until(due: Timestamp, now: Timestamp) -> u64 {
    due.as_millis().saturating_sub(now.as_millis()).div_ceil(1000)
}

fn contended() -> Error {
    Error::unavailable("an internal queue is opened and closed too often")
}
