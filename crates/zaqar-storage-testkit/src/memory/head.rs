//! The contents of a queue, and the state of its messages at a given time.

use std::collections::BTreeMap;

use zaqar_core::storage::{Guarded, MAX_CLOCK_SKEW, Message, MoveEnd, MoveId, Subscription};
use zaqar_core::{
    ClaimId, ClientId, Generation, MessageId, Payload, Position, SubscriptionId, Timestamp,
};

use super::Fault;
use super::entry::StoredEntry;

/// One queue.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) generation: Generation,
    pub(super) last: Position,
    pub(super) messages: BTreeMap<Position, StoredMessage>,
    pub(super) claims: BTreeMap<ClaimId, StoredClaim>,
    pub(super) subscriptions: BTreeMap<SubscriptionId, Subscription>,
    pub(super) outbox: BTreeMap<Position, StoredEntry>,
    /// The move that it is frozen for.
    pub(super) frozen: Option<(MoveId, MoveEnd)>,
    latest: Timestamp,
    fault: Option<Fault>,
}

/// One message.
#[derive(Debug, Clone)]
pub(super) struct StoredMessage {
    pub(super) client: ClientId,
    pub(super) payload: Payload,
    pub(super) ttl: u64,
    pub(super) created: Timestamp,
    pub(super) end: Timestamp,
    pub(super) shown_from: Timestamp,
    pub(super) claim: Option<ClaimId>,
    pub(super) claim_count: u32,
}

/// One claim.
#[derive(Debug, Clone, Copy)]
pub(super) struct StoredClaim {
    pub(super) ttl: u64,
    pub(super) since: Timestamp,
}

/// The state of a live message at a given time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Free,
    Delayed,
    Claimed(ClaimId),
}

impl Head {
    pub(super) fn new(generation: Generation, now: Timestamp, fault: Option<Fault>) -> Self {
        Self {
            fault,
            generation,
            last: Position::new(0),
            messages: BTreeMap::new(),
            claims: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            outbox: BTreeMap::new(),
            frozen: None,
            latest: now,
        }
    }

    /// The effective time: `now`, or the latest time that this queue has seen, unless that is so
    /// far ahead that it must be wrong.
    pub(super) fn effective_time(&mut self, now: Timestamp) -> Timestamp {
        let is_wrong = now.plus_secs(MAX_CLOCK_SKEW.as_secs()) < self.latest;
        if is_wrong && !self.has(Fault::TimeAheadKept) {
            self.latest = now;
        }
        self.latest = self.latest.max(now);
        if self.has(Fault::TimeRounded) {
            return Timestamp::from_millis(self.latest.as_secs() * 1000);
        }
        self.latest
    }

    /// The latest time that this queue has seen.
    pub(super) fn latest(&self) -> Timestamp {
        self.latest
    }

    pub(super) fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    pub(super) fn id(&self, position: Position) -> MessageId {
        MessageId { incarnation: self.generation.incarnation, position }
    }

    /// Appends a message.
    pub(super) fn push(&mut self, message: StoredMessage) -> MessageId {
        if self.has(Fault::PositionReused) {
            self.last = self.messages.keys().next_back().copied().unwrap_or(Position::new(0));
        }
        self.last = self.last.next();
        // Positions that follow the clock would hide the fault.
        if !self.has(Fault::PositionsIgnoreClock) && !self.has(Fault::PositionReused) {
            self.last = self.last.max(Position::new(message.created.as_millis() * 1000));
        }
        self.messages.insert(self.last, message);
        self.id(self.last)
    }

    pub(super) fn is_live(&self, claim: ClaimId, now: Timestamp) -> bool {
        self.claims.get(&claim).is_some_and(|held| {
            let end = held.since.plus_secs(held.ttl);
            now < end || (now == end && self.has(Fault::ExpiredClaimHolds))
        })
    }

    /// `None` for an expired one.
    pub(super) fn status(&self, message: &StoredMessage, now: Timestamp) -> Option<Status> {
        let end = message.end;
        if end < now || (end == now && !self.has(Fault::ExpiredShown)) {
            return None;
        }
        match message.claim {
            Some(claim) if self.is_live(claim, now) => Some(Status::Claimed(claim)),
            _ if message.shown_from > now => Some(Status::Delayed),
            _ => Some(Status::Free),
        }
    }

    /// A live message by id.
    pub(super) fn find(&self, id: MessageId, now: Timestamp) -> Option<(&StoredMessage, Status)> {
        if id.incarnation != self.generation.incarnation {
            return None;
        }
        let message = self.messages.get(&id.position)?;
        self.status(message, now).map(|status| (message, status))
    }

    /// Every live message, in order.
    pub(super) fn live(
        &self,
        now: Timestamp,
    ) -> impl Iterator<Item = (Position, &StoredMessage, Status)> {
        self.messages.iter().filter_map(move |(position, message)| {
            self.status(message, now).map(|status| (*position, message, status))
        })
    }

    /// The first free messages.
    pub(super) fn free(&self, now: Timestamp) -> impl Iterator<Item = (Position, &StoredMessage)> {
        self.live(now)
            .filter(|(_, _, status)| *status == Status::Free)
            .map(|(position, message, _)| (position, message))
    }

    /// Removes at most `budget` expired messages, claims, subscriptions and outbox entries. Returns
    /// how many, and how many of them are messages.
    pub(super) fn sweep(&mut self, now: Timestamp, budget: usize) -> (usize, usize) {
        if self.has(Fault::StatsStale) {
            return (0, 0);
        }
        let has_expired = |message: &StoredMessage| self.status(message, now).is_none();
        let messages: Vec<_> = self
            .messages
            .iter()
            .filter(|(_, m)| has_expired(m))
            .map(|(p, _)| *p)
            .take(budget)
            .collect();
        let claims = self.claims.keys().filter(|id| !self.is_live(**id, now)).copied();
        let claims: Vec<_> = claims.take(budget - messages.len()).collect();
        self.messages.retain(|position, _| !messages.contains(position));
        self.claims.retain(|id, _| !claims.contains(id));
        let done = messages.len() + claims.len();
        let live: Vec<_> = self.subscribed(now).map(|one| one.id).collect();
        let expired = self.subscriptions.keys().filter(|id| !live.contains(id)).copied();
        let expired: Vec<_> = expired.take(budget - done).collect();
        self.subscriptions.retain(|id, _| !expired.contains(id));
        let done = done + expired.len();
        self.end_unneeded_entries(now);
        let entries = self.outbox.iter().filter(|(_, entry)| entry.is_ended(now));
        let entries: Vec<_> = entries.map(|(first, _)| *first).take(budget - done).collect();
        self.outbox.retain(|first, _| !entries.contains(first));
        (done + entries.len(), messages.len())
    }

    pub(super) fn show(
        &self,
        (position, message, status): (Position, &StoredMessage, Status),
    ) -> Message {
        Message {
            id: self.id(position),
            client: match self.has(Fault::ClientLost) {
                true => ClientId::new(""),
                false => message.client.clone(),
            },
            payload: message.payload.clone(),
            ttl: message.ttl,
            created: message.created,
            claim: match status {
                Status::Claimed(claim) => Some(claim),
                Status::Free | Status::Delayed => None,
            },
            claim_count: message.claim_count,
        }
    }
}

impl StoredMessage {
    /// Extends its life to `end` at least.
    pub(super) fn extend_until(&mut self, end: Timestamp) {
        if end > self.end {
            self.end = end;
            self.ttl = rounded_secs(self.created, end);
        }
    }
}

/// Seconds from one time to another, to the nearest.
pub(super) fn rounded_secs(from: Timestamp, to: Timestamp) -> u64 {
    to.as_millis().saturating_sub(from.as_millis()).saturating_add(500) / 1000
}

/// Runs an operation if the head has the generation that the caller assumes.
pub(super) fn guarded<T>(
    head: Option<&mut Head>,
    assumed: impl FnOnce(Generation) -> bool,
    step: impl FnOnce(&mut Head) -> T,
) -> Guarded<T> {
    match head {
        None => Guarded::Absent,
        Some(head) if assumed(head.generation) || head.has(Fault::AnyGeneration) => {
            Guarded::Done(step(head))
        }
        Some(head) => Guarded::Stale(head.generation),
    }
}
