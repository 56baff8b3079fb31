//! The outbox.

use async_trait::async_trait;
use zaqar_core::storage::{Error, FOLLOWED_FOR, Outbox, OutboxEntry, OutboxMessage};
use zaqar_core::{Incarnation, Position, QueueKey, Timestamp};

use super::head::{Head, Stored};
use super::{Fault, Memory};

/// An entry.
#[derive(Debug, Clone)]
pub(super) struct Letter {
    entry: OutboxEntry,
    /// Since when it is due: by its messages, or by the end of its last lease. `None` once it is settled.
    due: Option<Timestamp>,
    /// Until when it can be followed.
    followed: Timestamp,
}

impl Letter {
    /// Whether nobody reads it any more.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.due.is_none() && self.followed <= now
    }
}

#[async_trait]
impl Outbox for Memory {
    async fn due_queues(&self, limit: usize, now: Timestamp) -> Result<Vec<QueueKey>, Error> {
        let state = self.state()?;
        let due = state.heads.iter().filter_map(|(key, head)| {
            let due = head.outbox.values().filter_map(|letter| letter.due).min()?;
            (due <= now || self.has(Fault::DueQueuesStuck)).then(|| (due, key.clone()))
        });
        let mut due: Vec<_> = due.collect();
        // By name alone, a queue whose leases last comes before one that is due.
        due.sort_by_key(|(due, key)| {
            (if self.has(Fault::DueQueuesStuck) { now } else { *due }, key.clone())
        });
        Ok(due.into_iter().take(limit).map(|(_, key)| key).collect())
    }

    async fn lease(
        &self,
        key: &QueueKey,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Option<OutboxEntry>, Error> {
        let mut state = self.state()?;
        let Some(head) = state.heads.get_mut(&self.place(key)) else { return Ok(None) };
        let now = head.at(now);
        let lease = match self.fault {
            Some(Fault::LeasedTwice) => now,
            Some(Fault::LeasedForever) => Timestamp::MAX,
            _ => until,
        };
        let is_due = |letter: &&mut Letter| letter.due.is_some_and(|due| due <= now);
        let due = head.outbox.values_mut().find(is_due);
        Ok(due.map(|letter| {
            letter.due = Some(lease);
            letter.entry.clone()
        }))
    }

    async fn settle(
        &self,
        key: &QueueKey,
        incarnation: Incarnation,
        first: Position,
    ) -> Result<(), Error> {
        let mut state = self.state()?;
        if let Some(head) = state.heads.get_mut(&self.place(key))
            && head.generation.incarnation == incarnation
        {
            if let Some(letter) = head.outbox.get_mut(&first) {
                letter.due = None;
            }
            let latest = head.latest();
            let hides = head.has(Fault::SettledHidden);
            head.outbox
                .retain(|_, letter| !(letter.is_over(latest) || hides && letter.due.is_none()));
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
        let mut state = self.state()?;
        let Some(head) = state.heads.get_mut(&self.place(key)) else { return Ok(Vec::new()) };
        let now = head.at(now);
        if head.generation.incarnation != incarnation && !self.has(Fault::AnyGeneration) {
            return Ok(Vec::new());
        }
        let after = if self.has(Fault::FollowRestarts) { Position::new(0) } else { after };
        let shown = head.outbox.range(after.next()..).filter(|(_, letter)| !letter.is_over(now));
        Ok(shown.take(limit).map(|(_, letter)| letter.entry.clone()).collect())
    }
}

impl Head {
    /// Writes one entry for the messages from `first` on, if anybody is to hear of them.
    pub(super) fn write_letter(&mut self, first: Position, created: Timestamp) {
        let is_heard = self.subscribed(created).any(|one| one.lease.is_none())
            || self.has(Fault::OutboxAlways);
        let is_followed = self.subscribed(created).any(|one| one.lease.is_some());
        if !(is_heard || is_followed) || self.has(Fault::OutboxForgotten) {
            return;
        }
        let to_outbox = |(position, message): (&Position, &Stored)| OutboxMessage {
            id: self.id(*position),
            payload: message.payload.clone(),
            ttl: message.ttl,
            due: message.shown_from,
        };
        let messages: Vec<_> = self.messages.range(first..).map(to_outbox).collect();
        let dues = || messages.iter().map(|message| message.due);
        let due = dues().min().unwrap_or(created);
        let due = if self.has(Fault::OutboxHasty) { created } else { due };
        let due = (is_heard || self.has(Fault::FollowedIsDue)).then_some(due);
        let mut followed = Timestamp::from_millis(0);
        if is_followed && !self.has(Fault::FollowForgotten) {
            followed = dues().max().unwrap_or(created).plus_secs(FOLLOWED_FOR.as_secs());
        }
        let incarnation = self.generation.incarnation;
        let entry = OutboxEntry { incarnation, first, messages, created };
        self.outbox.insert(first, Letter { entry, due, followed });
    }
}
