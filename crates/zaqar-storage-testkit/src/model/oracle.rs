//! The expected answers of a store, written for clarity: plain lists, and every message has an
//! explicit state.
//!
//! Unlike [`crate::Memory`], which computes states on each call, the oracle changes them as time
//! passes.

mod subscribers;

use zaqar_core::storage::{Claim, Deleted, Endpoint, Message, Skipped, Stats};
use zaqar_core::{ClaimId, ClientId, KeyId, MessageId, Payload, Timestamp};

use subscribers::Subscribers;

/// The expected contents of a queue in one incarnation.
#[derive(Debug, Default)]
pub(super) struct QueueModel {
    messages: Vec<Row>,
    claims: Vec<LiveClaim>,
    pub(super) subscribers: Subscribers,
    /// When messages were last posted.
    pub(super) posted: Option<Timestamp>,
}

#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) id: MessageId,
    pub(super) client: ClientId,
    pub(super) payload: Payload,
    pub(super) ttl: u64,
    pub(super) created: Timestamp,
    pub(super) end: Timestamp,
    pub(super) state: State,
    pub(super) count: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Free,
    Delayed(Timestamp),
    Held(ClaimId),
}

#[derive(Debug)]
struct LiveClaim {
    id: ClaimId,
    ttl: u64,
    since: Timestamp,
}

/// The parameters of a claim.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClaimInput<'a> {
    pub(super) id: ClaimId,
    pub(super) limit: usize,
    pub(super) ttl: u64,
    pub(super) grace: u64,
    pub(super) keys: Option<&'a [KeyId]>,
    pub(super) max_claim_count: Option<u32>,
}

impl Row {
    fn is_free(&self, keys: Option<&[KeyId]>) -> bool {
        self.state == State::Free && keys.is_none_or(|keys| self.payload.opens_with(keys))
    }

    fn show(&self) -> Message {
        Message {
            id: self.id,
            client: self.client.clone(),
            payload: self.payload.clone(),
            ttl: self.ttl,
            created: self.created,
            claim: match self.state {
                State::Held(claim) => Some(claim),
                State::Free | State::Delayed(_) => None,
            },
            claim_count: self.count,
        }
    }

    fn extend(&mut self, end: Timestamp) {
        if end > self.end {
            self.end = end;
            self.ttl = nearest_secs(self.created, end);
        }
    }
}

/// Seconds between two times, to the nearest; the operations produce no ties.
pub(super) fn nearest_secs(from: Timestamp, to: Timestamp) -> u64 {
    (to.as_millis() - from.as_millis() + 500) / 1000
}

impl QueueModel {
    /// Advances time to `now`: messages and claims expire, delays end.
    pub(super) fn pass(&mut self, now: Timestamp) {
        self.subscribers.pass(now);
        self.messages.retain(|row| row.end > now);
        self.claims.retain(|claim| claim.since.plus_secs(claim.ttl) > now);
        let claims = &self.claims;
        for row in &mut self.messages {
            row.state = match row.state {
                State::Held(id) if !claims.iter().any(|claim| claim.id == id) => State::Free,
                State::Delayed(until) if until <= now => State::Free,
                state @ (State::Free | State::Held(_) | State::Delayed(_)) => state,
            };
        }
    }

    pub(super) fn append(&mut self, row: Row) {
        assert!(self.messages.last().is_none_or(|last| last.id < row.id), "new ids are greater");
        self.messages.push(row);
    }

    pub(super) fn listed(&self, is_shown: impl Fn(&Row) -> bool) -> Vec<Message> {
        self.messages.iter().filter(|row| is_shown(row)).map(Row::show).collect()
    }

    pub(super) fn stats(&self) -> Stats {
        let count =
            |is: fn(State) -> bool| self.messages.iter().filter(|row| is(row.state)).count() as u64;
        let end = |row: &Row| Endpoint { id: row.id, created: row.created };
        Stats {
            free: count(|state| state == State::Free),
            claimed: count(|state| matches!(state, State::Held(_))),
            delayed: count(|state| matches!(state, State::Delayed(_))),
            ends: self.messages.first().map(end).zip(self.messages.last().map(end)),
        }
    }

    pub(super) fn delete(&mut self, id: MessageId, claim: Option<ClaimId>) -> Deleted {
        let Some(row) = self.messages.iter().find(|row| row.id == id) else {
            return Deleted::Gone;
        };
        match (row.state, claim) {
            (State::Held(_), None) => return Deleted::Claimed,
            (State::Held(own), Some(named)) if own != named => return Deleted::WrongClaim,
            (State::Free | State::Delayed(_), Some(_)) => return Deleted::NotClaimed,
            (State::Held(_), Some(_)) | (State::Free | State::Delayed(_), None) => {}
        }
        self.messages.retain(|row| row.id != id);
        Deleted::Gone
    }

    pub(super) fn delete_many(&mut self, ids: &[MessageId], claims: Option<&[ClaimId]>) {
        self.messages.retain(|row| {
            let is_held =
                |claims: &[ClaimId]| claims.iter().any(|id| row.state == State::Held(*id));
            !(ids.contains(&row.id) && claims.is_none_or(is_held))
        });
    }

    pub(super) fn pop(&mut self, limit: usize, keys: &[KeyId]) -> Vec<Message> {
        let mut popped = self.listed(|row| row.is_free(Some(keys)));
        popped.truncate(limit);
        self.messages.retain(|row| !popped.iter().any(|message| message.id == row.id));
        popped
    }

    /// What a pop or claim of `limit` messages skips, given which messages it takes or moves.
    pub(super) fn skipped(&self, limit: usize, keys: &[KeyId], max: Option<u32>) -> Skipped {
        let mut taken = 0;
        for row in self.messages.iter().filter(|row| row.state == State::Free) {
            if taken == limit {
                break;
            }
            if !row.is_free(Some(keys)) {
                return Skipped { key: row.payload.sealed_with.clone(), next: None };
            }
            taken += usize::from(max.is_none_or(|max| row.count < max));
        }
        Skipped::default()
    }

    /// Removes the messages that a claim must move to the dead-letter queue.
    pub(super) fn exhausted(&mut self, request: ClaimInput<'_>) -> Vec<Row> {
        let mut taken = 0;
        let (exhausted, rest) = self.messages.drain(..).partition(|row| {
            let is_met = row.is_free(request.keys) && taken < request.limit;
            let is_exhausted =
                is_met && request.max_claim_count.is_some_and(|max| row.count >= max);
            taken += usize::from(is_met && !is_exhausted);
            is_exhausted
        });
        self.messages = rest;
        exhausted
    }

    /// Puts back messages that could not be moved.
    pub(super) fn put_back(&mut self, rows: Vec<Row>) {
        self.messages.extend(rows);
        self.messages.sort_by_key(|row| row.id);
    }

    pub(super) fn claim(&mut self, request: ClaimInput<'_>, now: Timestamp) -> Vec<Message> {
        let free = self.messages.iter_mut().filter(|row| row.is_free(request.keys));
        let taken: Vec<_> = free
            .take(request.limit)
            .map(|row| {
                row.state = State::Held(request.id);
                row.count += 1;
                row.extend(now.plus_secs(request.ttl).plus_secs(request.grace));
                row.show()
            })
            .collect();
        if !taken.is_empty() {
            self.claims.push(LiveClaim { id: request.id, ttl: request.ttl, since: now });
        }
        taken
    }

    pub(super) fn claim_get(&self, id: ClaimId) -> Option<Claim> {
        let claim = self.claims.iter().find(|claim| claim.id == id)?;
        let messages = self.listed(|row| row.state == State::Held(id));
        Some(Claim { ttl: claim.ttl, since: claim.since, messages })
    }

    pub(super) fn renew(&mut self, id: ClaimId, ttl: u64, grace: u64, now: Timestamp) -> bool {
        let Some(claim) = self.claims.iter_mut().find(|claim| claim.id == id) else {
            return false;
        };
        (claim.ttl, claim.since) = (ttl, now);
        let held = self.messages.iter_mut().filter(|row| row.state == State::Held(id));
        held.for_each(|row| row.extend(now.plus_secs(ttl).plus_secs(grace)));
        true
    }

    pub(super) fn release(&mut self, id: ClaimId) {
        self.claims.retain(|claim| claim.id != id);
        let held = self.messages.iter_mut().filter(|row| row.state == State::Held(id));
        held.for_each(|row| row.state = State::Free);
    }

    pub(super) fn purge(&mut self) {
        self.messages.clear();
        self.claims.clear();
    }
}
