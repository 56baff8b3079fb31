//! A queue: its messages in order, the claims on them, its subscriptions and its outbox.

use std::collections::BTreeMap;

use zaqar_core::storage::{
    Batch, ClaimRow, EntryRow, Message, MessageRow, MessageState, OutboxEntry, Subscription,
    effective_time,
};
use zaqar_core::{ClaimId, Generation, LeaseId, MessageId, Position, SubscriptionId, Timestamp};

#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) generation: Generation,
    pub(crate) messages: BTreeMap<Position, MessageRow>,
    pub(crate) claims: BTreeMap<ClaimId, ClaimRow>,
    pub(crate) subscriptions: BTreeMap<SubscriptionId, Subscription>,
    pub(crate) outbox: BTreeMap<Position, EntryRow>,
    /// The last position that was assigned.
    pub(crate) last: Position,
    latest: Timestamp,
}

impl Queue {
    pub(crate) fn new(generation: Generation, now: Timestamp) -> Self {
        Self {
            generation,
            messages: BTreeMap::new(),
            claims: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            outbox: BTreeMap::new(),
            last: Position::START,
            latest: now,
        }
    }

    /// The queue's time at `now`. It deletes nothing, as `now` may be wrong: what has expired by
    /// then is hidden until a sweep deletes it.
    pub(crate) fn time(&mut self, now: Timestamp) -> Timestamp {
        self.latest = effective_time(self.latest, now);
        self.latest
    }

    /// Stores a post, with an outbox entry if there are subscriptions.
    pub(crate) fn post(&mut self, batch: Batch, now: Timestamp) -> Vec<MessageId> {
        let (incarnation, first) = (self.generation.incarnation, self.last.next_at(now));
        let is_notified = batch.notify;
        self.append(MessageRow::of_post(batch, first, now));
        let rows = || self.messages.range(first..).map(|(_, row)| row);
        let ids = rows().map(|row| row.id(incarnation)).collect();
        if is_notified {
            let entry = OutboxEntry::of_post(incarnation, first, rows(), now);
            let row = EntryRow::of_post(entry, self.subscribed(None, now));
            self.outbox.extend(row.map(|row| (first, row)));
        }
        ids
    }

    pub(crate) fn append(&mut self, rows: impl Iterator<Item = MessageRow>) {
        for row in rows {
            self.last = row.position;
            self.messages.insert(row.position, row);
        }
    }

    pub(crate) fn live_claim(&self, id: ClaimId, now: Timestamp) -> Option<&ClaimRow> {
        self.claims.get(&id).filter(|claim| claim.is_live(now))
    }

    /// A live message by id, with its state.
    pub(crate) fn find(
        &self,
        id: MessageId,
        now: Timestamp,
    ) -> Option<(&MessageRow, MessageState)> {
        let found = self.live(Position::new(id.position.get().checked_sub(1)?), now).next();
        found.filter(|(row, _)| row.id(self.generation.incarnation) == id)
    }

    /// The live messages after a position, in order.
    pub(crate) fn live(
        &self,
        after: Position,
        now: Timestamp,
    ) -> impl Iterator<Item = (&MessageRow, MessageState)> {
        let is_live = move |claim| self.live_claim(claim, now).is_some();
        let rows = self.messages.range(after.next()..).map(|(_, row)| row);
        rows.filter_map(move |row| Some((row, row.state(now, is_live)?)))
    }

    /// The messages after a position that a claim or a pop can take, in order.
    pub(crate) fn free(
        &self,
        after: Position,
        now: Timestamp,
    ) -> impl Iterator<Item = &MessageRow> {
        let free = self.live(after, now).filter(|(_, state)| *state == MessageState::Free);
        free.map(|(row, _)| row)
    }

    /// The messages that a live claim holds, in order.
    pub(crate) fn held(&self, claim: ClaimId, now: Timestamp) -> Vec<Position> {
        let held = self.live(Position::START, now);
        let held = held.filter(|(_, state)| *state == MessageState::Claimed(claim));
        held.map(|(row, _)| row.position).collect()
    }

    /// Makes a claim on the messages that it takes.
    pub(crate) fn hold(&mut self, claim: ClaimRow, grace: u64, taken: &[Position]) -> Vec<Message> {
        if !taken.is_empty() {
            self.claims.insert(claim.id, claim);
        }
        let (incarnation, state) = (self.generation.incarnation, MessageState::Claimed(claim.id));
        let held = taken.iter().filter_map(|position| {
            let row = self.messages.get_mut(position)?;
            row.take(&claim, grace);
            Some(row.show(incarnation, state))
        });
        held.collect()
    }

    /// The live subscriptions after an id, ascending.
    pub(crate) fn subscribed(
        &self,
        after: Option<SubscriptionId>,
        now: Timestamp,
    ) -> impl Iterator<Item = &Subscription> {
        self.subscriptions.values().filter(move |one| Some(one.id) > after && one.is_live(now))
    }

    /// The entries that workers deliver, in order: none while no subscriber has an address.
    pub(crate) fn entries(&mut self, now: Timestamp) -> impl Iterator<Item = &mut EntryRow> {
        let has_address = self.subscribed(None, now).any(|one| one.lease.is_none());
        self.outbox.values_mut().filter(move |_| has_address)
    }

    /// Deletes at most `left` rows that have expired or whose lease has, and subtracts them.
    /// Returns how many of them were messages.
    pub(crate) fn sweep(
        &mut self,
        now: Timestamp,
        left: &mut usize,
        is_leased: impl Fn(LeaseId) -> bool,
    ) -> usize {
        let now = self.time(now);
        let expired = delete(&mut self.messages, left, |row| row.expires <= now);
        delete(&mut self.claims, left, |claim| !claim.is_live(now));
        delete(&mut self.subscriptions, left, |one| {
            !one.is_live(now) || one.lease.is_some_and(|lease| !is_leased(lease))
        });
        if self.entries(now).next().is_none() {
            // For good: a later subscriber gets later posts only.
            self.outbox.values_mut().for_each(|row| row.due = None);
        }
        delete(&mut self.outbox, left, |row| row.is_ended(now));
        expired
    }
}

/// Deletes at most `left` rows that are due, and subtracts them. Returns how many.
fn delete<K: Ord, V>(
    rows: &mut BTreeMap<K, V>,
    left: &mut usize,
    is_due: impl Fn(&V) -> bool,
) -> usize {
    let before = rows.len();
    rows.retain(|_, row| {
        let stays = *left == 0 || !is_due(row);
        *left -= usize::from(!stays);
        stays
    });
    before - rows.len()
}
