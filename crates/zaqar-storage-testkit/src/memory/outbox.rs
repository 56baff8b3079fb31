//! The outbox.

use async_trait::async_trait;
use zaqar_core::storage::{DueQueue, EntryRow, Error, LeaseRequest, Outbox, OutboxEntry};
use zaqar_core::{Incarnation, Position, QueueKey, Timestamp};

use super::head::Head;
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
        let mut request = LeaseRequest { until, ..*request };
        if self.has(Fault::LeaseUnbounded) {
            (request.limit, request.bytes) = (usize::MAX, usize::MAX);
        }
        if self.has(Fault::EntriesOutliveReaders) {
            return Ok(head.lease_any(&request, now));
        }
        let rows = head.outbox.values_mut().filter(|row| !(overtakes && row.is_leased(now)));
        let mut leased = request.lease(rows, now);
        if self.has(Fault::EntryCreatedWhenLeased) {
            leased.iter_mut().for_each(|entry| entry.created = now);
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
        let after = if self.has(Fault::FollowRestarts) { Position::START } else { after };
        let shown = head.outbox.range(after.next()..).filter(|(_, entry)| !entry.is_ended(now));
        Ok(shown.take(limit).map(|(_, row)| row.entry.clone()).collect())
    }
}

impl Head {
    /// Whether an entry has no reader left.
    pub(super) fn is_ended(&self, row: &EntryRow, now: Timestamp) -> bool {
        let is_kept = row.due.is_some() && self.has(Fault::EntriesOutliveReaders);
        row.is_ended(now) && !is_kept
    }

    /// Leases entries, also expired ones.
    fn lease_any(&mut self, request: &LeaseRequest, now: Timestamp) -> Vec<OutboxEntry> {
        let unblocked = self.outbox.values_mut().take_while(|row| !row.is_leased(now));
        let due = unblocked.filter(|row| row.due.is_some_and(|due| due <= now));
        let leased = due.take(request.limit).map(|row| {
            row.due = Some(request.until);
            row.entry.clone()
        });
        leased.collect()
    }

    /// Ends entries for workers if their messages have all expired, and all of them if no
    /// subscription with an address is left.
    pub(super) fn end_unneeded_entries(&mut self, now: Timestamp) {
        if self.has(Fault::EntriesOutliveReaders) {
            return;
        }
        let is_needed = self.subscribed(now).any(|one| one.lease.is_none())
            || self.has(Fault::OutboxAlwaysWritten)
            || self.has(Fault::FollowedIsDue);
        for row in self.outbox.values_mut() {
            if !is_needed || row.entry.expires() <= now {
                row.due = None;
            }
        }
    }

    /// Writes one entry for the messages from `first` on, if there are subscriptions.
    pub(super) fn write_entry(&mut self, first: Position, created: Timestamp) {
        if self.has(Fault::OutboxNotWritten) {
            return;
        }
        let messages = self.messages.range(first..).map(|(_, message)| message);
        let entry = OutboxEntry::of_post(self.generation.incarnation, first, messages, created);
        let row = EntryRow::of_post(entry.clone(), self.subscribed(created));
        let is_forced = self.has(Fault::OutboxAlwaysWritten);
        let unread = EntryRow { entry, due: None, followed: Timestamp::from_millis(0) };
        let Some(mut row) = row.or_else(|| is_forced.then_some(unread)) else { return };
        if is_forced || self.has(Fault::FollowedIsDue) {
            row.due = Some(row.entry.due());
        }
        if self.has(Fault::OutboxDueEarly) {
            row.due = row.due.map(|_| created);
        }
        if self.has(Fault::FollowersIgnored) {
            row.followed = Timestamp::from_millis(0);
        }
        self.outbox.insert(first, row);
    }
}
