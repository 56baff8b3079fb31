//! Deliveries in the store: a queue of rows for each subscription, and a schedule of tickets.
//!
//! Both are internal queues of the message store, so every store has them, and each promise that a
//! store makes of messages and claims holds for deliveries:
//!
//! - a row is held by at most one worker, by a claim that is its lease. A worker whose lease has
//!   expired settles nothing, as its claim is not live any more;
//! - a retry waits as a claim that lasts until the retry is due, so that a failed delivery is one
//!   step, and the number of claims says how often it was tried;
//! - a delivery costs what it returns plus a logarithm.
//!
//! A ticket says that a subscription may have rows to deliver. It is posted behind the rows and
//! deleted only by a worker that found none left after it had the ticket. A worker that looks
//! again later posts the next ticket before it deletes the one at hand. So tickets without rows
//! happen, rows without a ticket do not.
//!
//! The version of a head says whether the subscription is suspended: odd versions are. Claims and
//! posts that assume the other state are refused by the store itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zaqar_core::storage::{
    Batch, Claim, ClaimRequest, Claimed, Deletable, Error, Guarded, Heads, ListQuery, Message,
    MessageStore, NewMessage,
};
use zaqar_core::{
    ClaimId, ClientId, Generation, Incarnation, MessageId, Payload, ProjectId, QueueKey, Timestamp,
    Version,
};

use crate::row::{self, Body, Row, SHARDS, SubscriptionKey, Ticket};

/// Seconds that a row is held for one attempt; longer than an attempt takes.
pub(crate) const ROW_LEASE: u64 = 30;
/// Seconds that tickets are held; renewed while their subscriptions are served.
pub(crate) const TICKET_LEASE: u64 = 20;
/// Seconds between two looks at a subscription that has nothing to deliver.
pub(crate) const KEEPING: u64 = 86_400;
/// Seconds that a message of the schedule lives: it is deleted, never forgotten.
const FOR_EVER: u64 = 3_155_760_000;
/// How often a step is repeated whose queue was opened, closed or suspended meanwhile.
const ATTEMPTS: usize = 8;
/// Messages of a queue that holds one, at most: a crash can leave one that was replaced.
const SINGLES: usize = 10;
/// Messages of a page of a scan.
const SCAN: usize = 20;
/// Messages of a scan, about.
const SCANNED: usize = 1000;
/// Bytes of a scan's messages, about.
const SCANNED_BYTES: usize = 8 * 1024 * 1024;
/// Generations that are remembered. A wrong one costs a round trip.
const REMEMBERED: usize = 50_000;
const ACTIVE: Version = Version::new(2);

/// The deliveries of a message store. Clones share everything.
#[derive(Clone)]
pub(crate) struct Deliveries {
    store: Arc<dyn MessageStore>,
    known: Arc<Mutex<HashMap<QueueKey, Generation>>>,
}

/// A row that this worker has.
#[derive(Debug)]
pub(crate) struct HeldRow {
    queue: QueueKey,
    id: MessageId,
    claim: ClaimId,
    /// How often it was held, this time included.
    pub(crate) count: u32,
    pub(crate) row: Row,
}

/// What there is to deliver to a subscription.
#[derive(Debug)]
pub(crate) enum Taken {
    /// The first row that is due.
    Row(Box<HeldRow>),
    /// Nothing is due.
    Nothing,
    /// The subscription is suspended.
    Suspended,
}

/// A ticket that this worker has.
#[derive(Debug, Clone)]
pub(crate) struct HeldTicket {
    pub(crate) shard: usize,
    pub(crate) claim: ClaimId,
    id: MessageId,
    pub(crate) ticket: Ticket,
}

impl Deliveries {
    pub(crate) fn new(store: Arc<dyn MessageStore>) -> Self {
        Self { store, known: Arc::default() }
    }

    /// Adds rows for a subscription, each with the time from which it is due. Its ticket follows:
    /// [`Deliveries::schedule`].
    pub(crate) async fn add(
        &self,
        subscription: &SubscriptionKey,
        rows: &[(Row, Timestamp)],
        now: Timestamp,
    ) -> Result<(), Error> {
        let Some(key) = subscription.deliveries() else { return Ok(()) };
        let message = |(row, due): &(Row, Timestamp)| NewMessage {
            payload: row.encode(),
            ttl: row.expires().secs_since(now).saturating_add(ROW_LEASE),
            delay: seconds_until(*due, now),
        };
        let messages: Vec<_> = rows.iter().map(message).collect();
        let keeps = Ticket { subscription: subscription.clone(), keeps: true };
        self.post(&key, messages, Some(&keeps), now).await.map(|_| ())
    }

    /// Stores a body that several rows share, until its message expires.
    pub(crate) async fn add_body(
        &self,
        project: &ProjectId,
        payload: Payload,
        expires: Timestamp,
        now: Timestamp,
    ) -> Result<Option<MessageId>, Error> {
        let Some(key) = row::bodies(project) else { return Ok(None) };
        let ttl = expires.secs_since(now).saturating_add(ROW_LEASE);
        let ids = self.post(&key, vec![NewMessage { payload, ttl, delay: 0 }], None, now).await?;
        Ok(ids.first().copied())
    }

    /// The body of a row; `None` where it is gone.
    pub(crate) async fn body(
        &self,
        project: &ProjectId,
        row: &Row,
        now: Timestamp,
    ) -> Result<Option<Payload>, Error> {
        let id = match &row.body {
            Body::Here(payload) => return Ok(Some(payload.clone())),
            Body::Shared(id) => *id,
        };
        let Some(key) = row::bodies(project) else { return Ok(None) };
        let found = self.store.get(&key, &[id], now).await?;
        Ok(found.into_iter().next().map(|message| message.payload))
    }

    /// Posts tickets: each subscription is looked at once `due` has come.
    pub(crate) async fn schedule(
        &self,
        tickets: &[Ticket],
        due: Timestamp,
        now: Timestamp,
    ) -> Result<(), Error> {
        for shard in 0..SHARDS {
            let of_shard = tickets.iter().filter(|ticket| ticket.subscription.shard() == shard);
            let delay = seconds_until(due, now);
            let message =
                |ticket: &Ticket| NewMessage { payload: ticket.encode(), ttl: FOR_EVER, delay };
            let messages: Vec<_> = of_shard.map(message).collect();
            if let (false, Some(key)) = (messages.is_empty(), row::schedule(shard)) {
                self.post(&key, messages, None, now).await?;
            }
        }
        Ok(())
    }

    /// Takes due tickets of a shard, all under one claim.
    pub(crate) async fn take_tickets(
        &self,
        shard: usize,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<HeldTicket>, Error> {
        let Some(key) = row::schedule(shard) else { return Ok(Vec::new()) };
        let (claim, messages) = self.claim(&key, TICKET_LEASE, limit, now).await?;
        let mut held = Vec::with_capacity(messages.len());
        for message in messages {
            match Ticket::decode(&message.payload) {
                Some(ticket) => held.push(HeldTicket { shard, claim, id: message.id, ticket }),
                None => self.discard(&key, message.id, claim, now).await?,
            }
        }
        Ok(held)
    }

    /// Keeps all tickets of a claim; whether they were still held.
    pub(crate) async fn renew_tickets(
        &self,
        shard: usize,
        claim: ClaimId,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let Some(key) = row::schedule(shard) else { return Ok(false) };
        self.store.claim_renew(&key, claim, TICKET_LEASE, 0, now).await
    }

    /// Gives back all tickets of a claim that were not deleted.
    pub(crate) async fn release_tickets(
        &self,
        shard: usize,
        claim: ClaimId,
        now: Timestamp,
    ) -> Result<(), Error> {
        let Some(key) = row::schedule(shard) else { return Ok(()) };
        self.store.claim_release(&key, claim, now).await
    }

    /// Deletes a ticket, if this worker still has it.
    pub(crate) async fn delete_ticket(
        &self,
        held: &HeldTicket,
        now: Timestamp,
    ) -> Result<(), Error> {
        let Some(key) = row::schedule(held.shard) else { return Ok(()) };
        self.discard(&key, held.id, held.claim, now).await
    }

    /// Takes the first due row of a subscription.
    pub(crate) async fn take(
        &self,
        subscription: &SubscriptionKey,
        now: Timestamp,
    ) -> Result<Taken, Error> {
        let Some(key) = subscription.deliveries() else { return Ok(Taken::Nothing) };
        for _ in 0..ATTEMPTS {
            let Some(assumed) = self.generation(&key).await? else { return Ok(Taken::Nothing) };
            if is_suspended(assumed) {
                return Ok(Taken::Suspended);
            }
            let id = ClaimId::new(rand::random());
            let ttl = ROW_LEASE;
            let request = ClaimRequest { id, ttl, grace: 0, limit: 1, dead_letters: None };
            let messages = match self.store.claim(&key, assumed, &request, now).await? {
                Guarded::Done(Claimed::Messages(messages)) => messages,
                Guarded::Done(Claimed::TargetChanged) => Vec::new(),
                Guarded::Absent => {
                    self.forget(&key);
                    continue;
                }
                Guarded::Stale(found) => {
                    self.remember(&key, found);
                    continue;
                }
            };
            let Some(message) = messages.into_iter().next() else { return Ok(Taken::Nothing) };
            match Row::decode(&message.payload) {
                Some(row) => {
                    let (queue, count) = (key, message.claim_count);
                    return Ok(Taken::Row(Box::new(HeldRow {
                        queue,
                        id: message.id,
                        claim: id,
                        count,
                        row,
                    })));
                }
                None => self.discard(&key, message.id, id, now).await?,
            }
        }
        Err(contended())
    }

    /// Ends a row, if this worker still has it.
    pub(crate) async fn finish(&self, held: &HeldRow, now: Timestamp) -> Result<(), Error> {
        self.discard(&held.queue, held.id, held.claim, now).await
    }

    /// Keeps a row for `secs` from `now`, for another attempt at once. `false` where another worker
    /// may have it.
    pub(crate) async fn hold(
        &self,
        held: &HeldRow,
        secs: u64,
        now: Timestamp,
    ) -> Result<bool, Error> {
        self.store.claim_renew(&held.queue, held.claim, secs.max(1), 0, now).await
    }

    /// Keeps a row until its retry is due, `secs` from `now`; the seconds it waits, or `None` where
    /// another worker may have it. It never waits as long as an attempt is given, so that
    /// [`Deliveries::hasten`] can tell the two.
    pub(crate) async fn wait(
        &self,
        held: &HeldRow,
        secs: u64,
        now: Timestamp,
    ) -> Result<Option<u64>, Error> {
        let secs = secs.max(1) + u64::from(secs == ROW_LEASE);
        Ok(self.hold(held, secs, now).await?.then_some(secs))
    }

    /// Gives a row back at once.
    pub(crate) async fn release(&self, held: &HeldRow, now: Timestamp) -> Result<(), Error> {
        self.store.claim_release(&held.queue, held.claim, now).await
    }

    /// Whether the first row of those whose delay is over is not held.
    pub(crate) async fn is_first_due(
        &self,
        subscription: &SubscriptionKey,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let first = self.first(subscription, now).await?;
        Ok(first.is_some_and(|message| message.claim.is_none()))
    }

    /// Whether a row is the first of those whose delay is over.
    pub(crate) async fn is_first(
        &self,
        subscription: &SubscriptionKey,
        held: &HeldRow,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let first = self.first(subscription, now).await?;
        Ok(first.is_none_or(|message| message.id == held.id))
    }

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

    /// Until when the first row that waits is held; `None` where nothing says so.
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

    /// Removes everything that belongs to a subscription, which is gone.
    pub(crate) async fn remove(&self, subscription: &SubscriptionKey) -> Result<(), Error> {
        for key in subscription.queues() {
            self.close(&key).await?;
        }
        Ok(())
    }

    /// The last message of a queue that holds one, and the claim to replace it by.
    pub(crate) async fn read_single(
        &self,
        key: &QueueKey,
        now: Timestamp,
    ) -> Result<Option<Payload>, Error> {
        let query = ListQuery {
            after: None,
            limit: SINGLES,
            hide: None,
            include_claimed: true,
            include_delayed: true,
        };
        let page = self.store.list(key, &query, now).await?;
        Ok(page.messages.into_iter().next_back().map(|message| message.payload))
    }

    /// Appends messages to a queue of a subscription, unless the subscription has ended.
    pub(crate) async fn append(
        &self,
        subscription: &SubscriptionKey,
        key: &QueueKey,
        payloads: Vec<Payload>,
        ttl: u64,
        now: Timestamp,
    ) -> Result<Vec<MessageId>, Error> {
        let Some(deliveries) = subscription.deliveries() else { return Ok(Vec::new()) };
        let message = |payload| NewMessage { payload, ttl, delay: 0 };
        let messages: Vec<_> = payloads.into_iter().map(message).collect();
        if self.store.generation(&deliveries).await?.is_none() {
            return Ok(Vec::new());
        }
        let ids = self.post(key, messages, None, now).await?;
        // Deliveries are removed before the others: whoever comes last finds that.
        if self.store.generation(&deliveries).await?.is_none() {
            self.close(key).await?;
        }
        Ok(ids)
    }

    /// Keeps the row of a delivery that failed, so that it can be delivered once more.
    pub(crate) async fn keep(
        &self,
        subscription: &SubscriptionKey,
        row: &Row,
        now: Timestamp,
    ) -> Result<Option<MessageId>, Error> {
        let Some(key) = subscription.failed().filter(|_| row.expires() > now) else {
            return Ok(None);
        };
        let ttl = row.expires().secs_since(now).saturating_add(1);
        let ids = self.append(subscription, &key, vec![row.encode()], ttl, now).await?;
        Ok(ids.first().copied())
    }

    /// Takes a row that was kept; `None` where it is gone.
    pub(crate) async fn kept(
        &self,
        subscription: &SubscriptionKey,
        id: MessageId,
        now: Timestamp,
    ) -> Result<Option<Row>, Error> {
        let Some(key) = subscription.failed() else { return Ok(None) };
        let found = self.store.get(&key, &[id], now).await?;
        Ok(found.first().and_then(|message| Row::decode(&message.payload)))
    }

    /// Forgets a row that was kept.
    pub(crate) async fn drop_kept(
        &self,
        subscription: &SubscriptionKey,
        id: MessageId,
        now: Timestamp,
    ) -> Result<(), Error> {
        let Some(key) = subscription.failed() else { return Ok(()) };
        self.store.delete_many(&key, &[id], &Deletable::Any, now).await
    }

    /// The first messages of a queue: at most [`SCANNED`], and few where they are large.
    pub(crate) async fn scan(&self, key: &QueueKey, now: Timestamp) -> Result<Vec<Message>, Error> {
        let mut query = ListQuery {
            after: None,
            limit: SCAN,
            hide: None,
            include_claimed: true,
            include_delayed: true,
        };
        let (mut found, mut bytes) = (Vec::new(), 0);
        while found.len() < SCANNED && bytes < SCANNED_BYTES {
            let page = self.store.list(key, &query, now).await?;
            bytes += page.messages.iter().map(|one| one.payload.bytes.len()).sum::<usize>();
            found.extend(page.messages);
            match page.next {
                None => break,
                next => query.after = next,
            }
        }
        Ok(found)
    }

    /// Deletes the oldest messages of a queue that has more than `kept`.
    pub(crate) async fn trim(
        &self,
        key: &QueueKey,
        kept: usize,
        now: Timestamp,
    ) -> Result<(), Error> {
        let Some(stats) = self.store.stats(key, now).await? else { return Ok(()) };
        let count = usize::try_from(stats.free).unwrap_or(usize::MAX);
        let mut surplus = count.saturating_sub(kept);
        while surplus > 0 {
            let query = ListQuery {
                after: None,
                limit: surplus.min(SCAN),
                hide: None,
                include_claimed: false,
                include_delayed: false,
            };
            let page = self.store.list(key, &query, now).await?;
            if page.messages.is_empty() {
                break;
            }
            surplus -= page.messages.len().min(surplus);
            let ids: Vec<_> = page.messages.iter().map(|message| message.id).collect();
            self.store.delete_many(key, &ids, &Deletable::Any, now).await?;
        }
        Ok(())
    }

    /// Lets a row go that waits for a retry, so that it is due; one that is on its way stays.
    pub(crate) async fn hasten(
        &self,
        subscription: &SubscriptionKey,
        claim: ClaimId,
        now: Timestamp,
    ) -> Result<(), Error> {
        let Some(key) = subscription.deliveries() else { return Ok(()) };
        match self.store.claim_get(&key, claim, now).await? {
            Some(found) if found.ttl != ROW_LEASE => {
                self.store.claim_release(&key, claim, now).await
            }
            Some(_) | None => Ok(()),
        }
    }

    /// How many rows a subscription has, and whether it is suspended.
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

    /// Closes an internal queue.
    async fn close(&self, key: &QueueKey) -> Result<(), Error> {
        self.forget(key);
        if let Some(generation) = self.store.generation(key).await? {
            Heads::close(&*self.store, key, generation.incarnation).await?;
        }
        Ok(())
    }

    /// Stores the one message of a queue that belongs to a subscription.
    pub(crate) async fn add_single(
        &self,
        subscription: &SubscriptionKey,
        key: &QueueKey,
        payload: Payload,
        now: Timestamp,
    ) -> Result<(), Error> {
        let keeps = Ticket { subscription: subscription.clone(), keeps: true };
        let message = NewMessage { payload, ttl: FOR_EVER, delay: 0 };
        self.post(key, vec![message], Some(&keeps), now).await.map(|_| ())
    }

    /// Replaces the one message of a queue by what `change` makes of it; `None` where there is
    /// none, or another caller replaces it at the moment.
    pub(crate) async fn replace_single<T>(
        &self,
        subscription: &SubscriptionKey,
        key: &QueueKey,
        change: impl FnOnce(Payload) -> Option<(Payload, T)> + Send,
        now: Timestamp,
    ) -> Result<Option<T>, Error> {
        let (claim, found) = self.claim(key, ROW_LEASE, SINGLES, now).await?;
        let ids: Vec<_> = found.iter().map(|message| message.id).collect();
        let last = found.into_iter().next_back();
        let changed = last.and_then(|message| change(message.payload));
        let Some((payload, answer)) = changed else {
            self.store.claim_release(key, claim, now).await?;
            return Ok(None);
        };
        // Whoever reads takes the last one, so that there is always one to read.
        self.add_single(subscription, key, payload, now).await?;
        self.store.delete_many(key, &ids, &Deletable::HeldBy(vec![claim]), now).await?;
        Ok(Some(answer))
    }

    /// Suspends or resumes a subscription, for all servers. Its rows stay.
    pub(crate) async fn set_suspended(
        &self,
        subscription: &SubscriptionKey,
        is_suspended: bool,
    ) -> Result<(), Error> {
        let Some(key) = subscription.deliveries() else { return Ok(()) };
        let Some(found) = self.store.generation(&key).await? else { return Ok(()) };
        if self::is_suspended(found) != is_suspended {
            let version = found.version.next();
            self.store.advance(&key, Generation { version, ..found }).await?;
        }
        self.forget(&key);
        Ok(())
    }

    async fn claim(
        &self,
        key: &QueueKey,
        ttl: u64,
        limit: usize,
        now: Timestamp,
    ) -> Result<(ClaimId, Vec<Message>), Error> {
        let id = ClaimId::new(rand::random());
        for _ in 0..ATTEMPTS {
            let Some(assumed) = self.generation(key).await? else { break };
            let request = ClaimRequest { id, ttl, grace: 0, limit, dead_letters: None };
            match self.store.claim(key, assumed, &request, now).await? {
                Guarded::Done(Claimed::Messages(messages)) => return Ok((id, messages)),
                Guarded::Done(Claimed::TargetChanged) => break,
                Guarded::Absent => self.forget(key),
                Guarded::Stale(found) => self.remember(key, found),
            }
        }
        Ok((id, Vec::new()))
    }

    /// Posts to an internal queue, which is opened where it is not there. `keeps` is the ticket
    /// that has to be there before a queue is.
    async fn post(
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

    async fn open(
        &self,
        key: &QueueKey,
        keeps: Option<&Ticket>,
        now: Timestamp,
    ) -> Result<Generation, Error> {
        if let Some(ticket) = keeps {
            let due = now.plus_secs(KEEPING);
            Box::pin(self.schedule(std::slice::from_ref(ticket), due, now)).await?;
        }
        let incarnation = Incarnation::new(rand::random::<u64>() >> 1);
        let opened = Generation { incarnation, version: ACTIVE };
        let found = Heads::open(&*self.store, key, opened, now).await?;
        self.remember(key, found);
        Ok(found)
    }

    /// Deletes a message of an internal queue, if the claim still holds it.
    async fn discard(
        &self,
        key: &QueueKey,
        id: MessageId,
        claim: ClaimId,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.store.delete_many(key, &[id], &Deletable::HeldBy(vec![claim]), now).await
    }

    async fn generation(&self, key: &QueueKey) -> Result<Option<Generation>, Error> {
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

    fn remember(&self, key: &QueueKey, generation: Generation) {
        let mut known = self.known();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(key.clone(), generation);
    }

    fn forget(&self, key: &QueueKey) {
        self.known().remove(key);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<QueueKey, Generation>> {
        // A map is whole between any two calls of its methods.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn is_suspended(generation: Generation) -> bool {
    generation.version.get() % 2 == 1
}

/// Whole seconds, rounded up: nothing is due early.
const fn seconds_until(due: Timestamp, now: Timestamp) -> u64 {
    due.as_millis().saturating_sub(now.as_millis()).div_ceil(1000)
}

fn contended() -> Error {
    Error::unavailable("an internal queue was opened and closed again and again")
}
