//! The outbox.

use async_trait::async_trait;
use zaqar_core::storage::{
    DueQueue, Error, FOLLOWED_FOR, LeaseRequest, Outbox, OutboxEntry, OutboxMessage,
};
use zaqar_core::{Incarnation, Position, QueueKey, Timestamp};

use super::entry::StoredEntry;
use super::head::{Head, StoredMessage};
use super::{Fault, Memory};

#[async_trait]
impl Outbox for Memory {
    async fn due_queues(&self, limit: usize, now: Timestamp) -> Result<Vec<DueQueue>, Error> {
        self.answer().await;
        let state = self.state()?;
        let heads = state.heads.iter().filter(|(_, head)| head.frozen.is_none());
        let due = heads.filter_map(|(key, head)| {
            let due = head.outbox.values().filter_map(|entry| entry.due).min()?;
            (due <= now || self.has(Fault::DueQueuesStuck)).then(|| (due, key.clone()))
        });
        let mut due: Vec<_> = due.collect();
        // With the fault, sorted by name alone, queues with leased entries come before due ones.
        due.sort_by_key(|(due, key)| {
            (if self.has(Fault::DueQueuesStuck) { now } else { *due }, key.clone())
        });
        Ok(due.into_iter().take(limit).map(|(since, queue)| DueQueue { queue, since }).collect())
    }

    async fn lease(
        &self,
        key: &QueueKey,
        request: &LeaseRequest,
        now: Timestamp,
    ) -> Result<Vec<OutboxEntry>, Error> {
        self.answer_of(key).await;
        let mut state = self.state_of(key)?;
        let Some(head) = state.heads.get_mut(&self.stored_key(key)) else { return Ok(Vec::new()) };
        let now = head.effective_time(now);
        let until = match self.fault {
            Some(Fault::EntryLeaseIgnored) => now,
            Some(Fault::EntryLeaseNeverExpires) => Timestamp::MAX,
            _ => request.until,
        };
        head.end_unneeded_entries(now);
        let overtakes = self.has(Fault::LeaseOvertakes);
        let is_unbounded = self.has(Fault::LeaseUnbounded);
        let reachable =
            head.outbox.values_mut().take_while(|entry| overtakes || !entry.is_leased(now));
        let due = reachable.filter(|entry| entry.due.is_some_and(|due| due <= now));
        let (mut leased, mut bytes) = (Vec::new(), 0_usize);
        for entry in due {
            bytes = bytes.saturating_add(entry.bytes());
            let is_full = leased.len() == request.limit || bytes > request.bytes;
            if is_full && !leased.is_empty() && !is_unbounded {
                break;
            }
            entry.due = Some(until);
            let mut shown = entry.shown.clone();
            if self.has(Fault::EntryCreatedWhenLeased) {
                shown.created = now;
            }
            leased.push(shown);
        }
        Ok(leased)
    }

    async fn settle(
        &self,
        key: &QueueKey,
        incarnation: Incarnation,
        firsts: &[Position],
    ) -> Result<(), Error> {
        let mut state = self.state_of(key)?;
        if let Some(head) = state.heads.get_mut(&self.stored_key(key))
            && head.generation.incarnation == incarnation
            && !self.has(Fault::SettleIgnored)
        {
            let count = if self.has(Fault::SettlesOne) { 1 } else { firsts.len() };
            for first in firsts.iter().take(count) {
                if let Some(entry) = head.outbox.get_mut(first) {
                    entry.due = None;
                }
            }
            let latest = head.latest();
            let hides = head.has(Fault::SettledHidden);
            head.outbox
                .retain(|_, entry| !(entry.is_ended(latest) || hides && entry.due.is_none()));
        }
        Ok(())
    }

    async fn follow(
        &self,
        key: &QueueKey,
        incarnation: Incarnation,
        after: Position,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<OutboxEntry>, Error> {
        let mut state = self.state_of(key)?;
        let Some(head) = state.heads.get_mut(&self.stored_key(key)) else { return Ok(Vec::new()) };
        let now = head.effective_time(now);
        if head.generation.incarnation != incarnation && !self.has(Fault::AnyGeneration) {
            return Ok(Vec::new());
        }
        let after = if self.has(Fault::FollowRestarts) { Position::new(0) } else { after };
        let shown = head.outbox.range(after.next()..).filter(|(_, entry)| !entry.is_ended(now));
        Ok(shown.take(limit).map(|(_, entry)| entry.shown.clone()).collect())
    }
}

impl Head {
    /// Ends entries for workers if their messages have all expired, and all of them if no
    /// subscription with an address is left.
    pub(super) fn end_unneeded_entries(&mut self, now: Timestamp) {
        if self.has(Fault::EntriesOutliveReaders) {
            return;
        }
        let is_needed = self.subscribed(now).any(|one| one.lease.is_none())
            || self.has(Fault::OutboxAlwaysWritten)
            || self.has(Fault::FollowedIsDue);
        for entry in self.outbox.values_mut() {
            if !is_needed || entry.expires <= now {
                entry.due = None;
            }
        }
    }

    /// Writes one entry for the messages from `first` on, if there are subscriptions.
    pub(super) fn write_entry(&mut self, first: Position, created: Timestamp) {
        let is_due_for_workers = self.subscribed(created).any(|one| one.lease.is_none())
            || self.has(Fault::OutboxAlwaysWritten);
        let is_followed = self.subscribed(created).any(|one| one.lease.is_some());
        if !(is_due_for_workers || is_followed) || self.has(Fault::OutboxNotWritten) {
            return;
        }
        let to_outbox = |(position, message): (&Position, &StoredMessage)| OutboxMessage {
            id: self.id(*position),
            payload: message.payload.clone(),
            ttl: message.ttl,
            due: message.shown_from,
        };
        let messages: Vec<_> = self.messages.range(first..).map(to_outbox).collect();
        let dues = || messages.iter().map(|message| message.due);
        let due = dues().min().unwrap_or(created);
        let due = if self.has(Fault::OutboxDueEarly) { created } else { due };
        let due = (is_due_for_workers || self.has(Fault::FollowedIsDue)).then_some(due);
        let mut followed = Timestamp::from_millis(0);
        if is_followed && !self.has(Fault::FollowersIgnored) {
            followed = dues().max().unwrap_or(created).plus_secs(FOLLOWED_FOR.as_secs());
        }
        let ends = messages.iter().map(|message| created.plus_secs(message.ttl));
        let expires = ends.max().unwrap_or(created);
        let incarnation = self.generation.incarnation;
        let shown = OutboxEntry { incarnation, first, messages, created };
        self.outbox.insert(first, StoredEntry { shown, due, followed, expires });
    }
}
