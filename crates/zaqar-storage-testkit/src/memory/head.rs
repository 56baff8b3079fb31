//! The contents of a queue, and the state of its messages at a given time.

use std::collections::BTreeMap;

use zaqar_core::storage::{
    ClaimRow, EntryRow, Guarded, Message, MessageRow, MessageState, MoveEnd, MoveId, Subscription,
    effective_time,
};
use zaqar_core::{ClaimId, ClientId, Generation, MessageId, Position, SubscriptionId, Timestamp};

use super::Fault;

/// One queue.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) generation: Generation,
    pub(super) last: Position,
    pub(super) messages: BTreeMap<Position, MessageRow>,
    pub(super) claims: BTreeMap<ClaimId, ClaimRow>,
    pub(super) subscriptions: BTreeMap<SubscriptionId, Subscription>,
    pub(super) outbox: BTreeMap<Position, EntryRow>,
    /// The move that it is frozen for.
    pub(super) frozen: Option<(MoveId, MoveEnd)>,
    latest: Timestamp,
    fault: Option<Fault>,
}

impl Head {
    pub(super) fn new(generation: Generation, now: Timestamp, fault: Option<Fault>) -> Self {
        Self {
            fault,
            generation,
            last: Position::START,
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
        self.latest = match self.has(Fault::TimeAheadKept) {
            true => self.latest.max(now),
            false => effective_time(self.latest, now),
        };
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

    /// The position of a message that is appended at `now`, which must then be stored.
    pub(super) fn next_position(&mut self, now: Timestamp) -> Position {
        if self.has(Fault::PositionReused) {
            self.last = self.messages.keys().next_back().copied().unwrap_or(Position::START);
        }
        // Positions that follow the clock would hide the fault.
        let ignores_clock =
            self.has(Fault::PositionsIgnoreClock) || self.has(Fault::PositionReused);
        self.last = if ignores_clock { self.last.next() } else { self.last.next_at(now) };
        self.last
    }

    pub(super) fn is_live(&self, claim: ClaimId, now: Timestamp) -> bool {
        self.claims.get(&claim).is_some_and(|held| {
            held.is_live(now) || (now == held.expires() && self.has(Fault::ExpiredClaimHolds))
        })
    }

    /// `None` for an expired one.
    pub(super) fn state(&self, message: &MessageRow, now: Timestamp) -> Option<MessageState> {
        let is_shown_too_long = message.expires == now && self.has(Fault::ExpiredShown);
        let at = now.as_millis() - u64::from(is_shown_too_long);
        message.state(Timestamp::from_millis(at), |claim| self.is_live(claim, now))
    }

    /// A live message by id.
    pub(super) fn find(
        &self,
        id: MessageId,
        now: Timestamp,
    ) -> Option<(&MessageRow, MessageState)> {
        if id.incarnation != self.generation.incarnation {
            return None;
        }
        let message = self.messages.get(&id.position)?;
        self.state(message, now).map(|state| (message, state))
    }

    /// Every live message, in order.
    pub(super) fn live(&self, now: Timestamp) -> impl Iterator<Item = (&MessageRow, MessageState)> {
        let messages = self.messages.values();
        messages.filter_map(move |message| Some((message, self.state(message, now)?)))
    }

    /// Removes at most `budget` expired messages, claims, subscriptions and outbox entries. Returns
    /// how many, and how many of them are messages.
    pub(super) fn sweep(&mut self, now: Timestamp, budget: usize) -> (usize, usize) {
        if self.has(Fault::StatsStale) {
            return (0, 0);
        }
        let has_expired = |message: &MessageRow| self.state(message, now).is_none();
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
        let entries = self.outbox.iter().filter(|(_, row)| self.is_ended(row, now));
        let entries: Vec<_> = entries.map(|(first, _)| *first).take(budget - done).collect();
        self.outbox.retain(|first, _| !entries.contains(first));
        (done + entries.len(), messages.len())
    }

    pub(super) fn show(&self, (message, state): (&MessageRow, MessageState)) -> Message {
        let mut shown = message.show(self.generation.incarnation, state);
        if self.has(Fault::ClientLost) {
            shown.client = ClientId::new("");
        }
        shown
    }
}

/// Runs an operation if the head has the generation that the caller assumes.
pub(super) fn guarded<T>(
    head: Option<&mut Head>,
    assumed: impl FnOnce(Generation) -> bool,
    step: impl FnOnce(&mut Head) -> T,
) -> Guarded<T> {
    let is_any = head.as_ref().is_some_and(|head| head.has(Fault::AnyGeneration));
    Guarded::check(head, |head| head.generation, |own| assumed(own) || is_any).map(step)
}
