//! A queue: its messages in order, the claims that hold them, its subscriptions and its outbox.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use zaqar_core::storage::{
    Batch, ClaimRequest, Endpoint, FOLLOWED_FOR, MAX_CLOCK_SKEW, Message, NewMessage, OutboxEntry,
    OutboxMessage, Stats, Subscription,
};
use zaqar_core::{
    ClaimId, ClientId, Generation, LeaseId, MessageId, Position, SubscriptionId, Timestamp,
};

/// Before every message.
pub(crate) const START: Position = Position::new(0);

#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) generation: Generation,
    pub(crate) messages: BTreeMap<Position, Stored>,
    /// The ttl of each claim, and since when it counts.
    pub(crate) claims: BTreeMap<ClaimId, (u64, Timestamp)>,
    pub(crate) subscriptions: BTreeMap<SubscriptionId, Subscription>,
    pub(crate) outbox: BTreeMap<Position, Entry>,
    /// The last position that was assigned.
    pub(crate) last: Position,
    /// The latest time that the queue has seen.
    pub(crate) latest: Timestamp,
}

#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) message: Message,
    pub(crate) due: Timestamp,
    pub(crate) expires: Timestamp,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) entry: OutboxEntry,
    pub(crate) leased_until: Timestamp,
    /// No worker needs it any more.
    pub(crate) is_settled: bool,
}

impl Head {
    pub(crate) fn new(generation: Generation, now: Timestamp) -> Self {
        Self {
            generation,
            messages: BTreeMap::new(),
            claims: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            outbox: BTreeMap::new(),
            last: START,
            latest: now,
        }
    }

    /// The queue's time at `now`. It deletes nothing, as `now` may be wrong: what has expired by
    /// then is hidden until a sweep deletes it.
    pub(crate) fn time(&mut self, now: Timestamp) -> Timestamp {
        if self.latest > now.plus_secs(MAX_CLOCK_SKEW.as_secs()) {
            self.latest = now;
        }
        self.latest = self.latest.max(now);
        self.latest
    }

    /// Deletes about `budget` things that have expired, or depend on a lease that is not live;
    /// returns how many.
    pub(crate) fn sweep(
        &mut self,
        now: Timestamp,
        budget: usize,
        is_leased: impl Fn(LeaseId) -> bool,
    ) -> usize {
        let now = self.time(now);
        let mut done = delete(&mut self.messages, budget, |one| one.expires <= now);
        done +=
            delete(&mut self.claims, budget - done, |(ttl, since)| since.plus_secs(*ttl) <= now);
        done += delete(&mut self.subscriptions, budget - done, |one| {
            one.since.plus_secs(one.ttl) <= now || one.lease.is_some_and(|lease| !is_leased(lease))
        });
        if !self.has_address(now) {
            // For good: a later subscription gets later posts only.
            self.outbox.values_mut().for_each(|one| one.is_settled = true);
        }
        done + delete(&mut self.outbox, budget - done, |one| {
            !one.is_open(now) && one.followed_until() <= Some(now)
        })
    }

    pub(crate) fn post(&mut self, batch: Batch, now: Timestamp) -> Vec<MessageId> {
        let now = self.time(now);
        let mut ids = Vec::with_capacity(batch.messages.len());
        let mut messages = Vec::with_capacity(batch.messages.len());
        for new in batch.messages {
            let (payload, ttl, due) = (new.payload.clone(), new.ttl, now.plus_secs(new.delay));
            let id = self.push(batch.client.clone(), new, now.plus_secs(ttl), now);
            ids.push(id);
            messages.push(OutboxMessage { id, payload, ttl, due });
        }
        let has_subscribers = self.subscribed(None, now).next().is_some();
        if let (true, Some(first)) = (batch.notify && has_subscribers, ids.first()) {
            let (incarnation, first) = (first.incarnation, first.position);
            let entry = OutboxEntry { incarnation, first, messages, created: now };
            let (leased_until, is_settled) = (Timestamp::from_millis(0), !self.has_address(now));
            self.outbox.insert(first, Entry { entry, leased_until, is_settled });
        }
        ids
    }

    /// Appends a message.
    pub(crate) fn push(
        &mut self,
        client: ClientId,
        new: NewMessage,
        expires: Timestamp,
        now: Timestamp,
    ) -> MessageId {
        // A thousand positions for each millisecond: more than a queue is ever posted.
        self.last = self.last.next().max(Position::new(now.as_millis() * 1000));
        let id = MessageId { incarnation: self.generation.incarnation, position: self.last };
        let NewMessage { payload, ttl, delay } = new;
        let message =
            Message { id, client, payload, ttl, created: now, claim: None, claim_count: 0 };
        self.messages.insert(self.last, Stored { message, due: now.plus_secs(delay), expires });
        id
    }

    /// The live messages behind a position, in order.
    pub(crate) fn live(&self, after: Position, now: Timestamp) -> impl Iterator<Item = &Stored> {
        let behind = self.messages.range((Excluded(after), Unbounded)).map(|(_, stored)| stored);
        behind.filter(move |stored| stored.expires > now)
    }

    pub(crate) fn has_claim(&self, id: ClaimId, now: Timestamp) -> bool {
        self.claims.get(&id).is_some_and(|(ttl, since)| since.plus_secs(*ttl) > now)
    }

    /// The live claim that holds a message.
    pub(crate) fn claim_of(&self, stored: &Stored, now: Timestamp) -> Option<ClaimId> {
        stored.message.claim.filter(|id| self.has_claim(*id, now))
    }

    /// The message as it is now.
    pub(crate) fn show(&self, stored: &Stored, now: Timestamp) -> Message {
        Message { claim: self.claim_of(stored, now), ..stored.message.clone() }
    }

    /// The messages behind a position that a claim or a pop may take, in order.
    pub(crate) fn free(&self, after: Position, now: Timestamp) -> impl Iterator<Item = &Stored> {
        let due = self.live(after, now).filter(move |one| one.due <= now);
        due.filter(move |one| self.claim_of(one, now).is_none())
    }

    /// The live messages that a live claim holds, in order.
    pub(crate) fn held(&self, claim: ClaimId, now: Timestamp) -> Vec<Message> {
        let live = self.live(START, now).map(|one| self.show(one, now));
        live.filter(|message| message.claim == Some(claim)).collect()
    }

    /// The live subscriptions behind an id, ascending.
    pub(crate) fn subscribed(
        &self,
        after: Option<SubscriptionId>,
        now: Timestamp,
    ) -> impl Iterator<Item = &Subscription> {
        let behind = self.subscriptions.values().filter(move |one| Some(one.id) > after);
        behind.filter(move |one| one.since.plus_secs(one.ttl) > now)
    }

    /// Whether anybody is to be delivered to.
    pub(crate) fn has_address(&self, now: Timestamp) -> bool {
        self.subscribed(None, now).any(|one| one.lease.is_none())
    }

    /// What a claim takes, and before it the messages that it must move to the dead letters.
    pub(crate) fn choose(
        &mut self,
        request: &ClaimRequest,
        now: Timestamp,
    ) -> (Vec<Position>, Vec<Position>) {
        let now = self.time(now);
        let max = request.dead_letters.as_ref().map_or(u32::MAX, |rule| rule.max_claim_count);
        let (mut dead, mut taken) = (Vec::new(), Vec::new());
        for Stored { message, .. } in self.free(START, now) {
            if taken.len() == request.limit {
                break;
            }
            let is_dead = message.claim_count >= max;
            if is_dead { &mut dead } else { &mut taken }.push(message.id.position);
        }
        (dead, taken)
    }

    /// Lets a message live until `end` at least.
    pub(crate) fn extend(&mut self, position: Position, end: Timestamp) {
        if let Some(stored) = self.messages.get_mut(&position).filter(|one| one.expires < end) {
            stored.expires = end;
            stored.message.ttl = rounded_secs(stored.message.created, end);
        }
    }

    pub(crate) fn stats(&self, now: Timestamp) -> Stats {
        let live: Vec<_> = self.live(START, now).collect();
        let claimed = live.iter().filter(|one| self.claim_of(one, now).is_some()).count() as u64;
        let free = self.free(START, now).count() as u64;
        let end = |one: &&Stored| Endpoint { id: one.message.id, created: one.message.created };
        Stats {
            free,
            claimed,
            delayed: live.len() as u64 - claimed - free,
            ends: live.first().map(end).zip(live.last().map(end)),
        }
    }
}

impl Entry {
    /// Whether a worker has yet to settle it, and a message of it lives.
    pub(crate) fn is_open(&self, now: Timestamp) -> bool {
        let mut messages = self.entry.messages.iter();
        !self.is_settled && messages.any(|one| self.entry.created.plus_secs(one.ttl) > now)
    }

    /// When a worker may take it.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        self.entry.messages.iter().map(|one| one.due.max(self.leased_until)).min()
    }

    pub(crate) fn followed_until(&self) -> Option<Timestamp> {
        let messages = self.entry.messages.iter();
        messages.map(|one| one.due.plus_secs(FOLLOWED_FOR.as_secs())).max()
    }
}

/// Deletes what is due, at most `budget`; returns how many.
fn delete<K: Ord + Copy, V>(
    map: &mut BTreeMap<K, V>,
    budget: usize,
    is_due: impl Fn(&V) -> bool,
) -> usize {
    let due: Vec<K> =
        map.iter().filter(|(_, one)| is_due(one)).map(|(key, _)| *key).take(budget).collect();
    map.retain(|key, _| due.binary_search(key).is_err());
    due.len()
}

/// Seconds from one time to another, to the nearest.
pub(crate) fn rounded_secs(from: Timestamp, to: Timestamp) -> u64 {
    to.as_millis().saturating_sub(from.as_millis()).saturating_add(500) / 1000
}
