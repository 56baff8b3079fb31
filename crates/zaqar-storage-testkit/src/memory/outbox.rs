//! The outbox.

use async_trait::async_trait;
use zaqar_core::storage::{Error, Outbox, OutboxEntry, OutboxMessage};
use zaqar_core::{Incarnation, Position, QueueKey, Timestamp};

use super::head::{Head, Stored};
use super::{Fault, Memory};

/// An entry, and since when it is due: by its messages, or by the end of its last lease.
#[derive(Debug, Clone)]
pub(super) struct Letter {
    entry: OutboxEntry,
    due: Timestamp,
}

#[async_trait]
impl Outbox for Memory {
    async fn due_queues(&self, limit: usize, now: Timestamp) -> Result<Vec<QueueKey>, Error> {
        let state = self.state()?;
        let due = state.heads.iter().filter_map(|(key, head)| {
            let due = head.outbox.values().map(|letter| letter.due).min()?;
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
        let due = head.outbox.values_mut().find(|letter| letter.due <= now);
        Ok(due.map(|letter| {
            letter.due = lease;
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
            head.outbox.remove(&first);
        }
        Ok(())
    }
}

impl Head {
    /// Writes one entry for the messages from `first` on, if anybody is to hear of them.
    pub(super) fn write_letter(&mut self, first: Position, created: Timestamp) {
        let is_heard = self.subscribed(created).next().is_some() || self.has(Fault::OutboxAlways);
        if !is_heard || self.has(Fault::OutboxForgotten) {
            return;
        }
        let to_outbox = |(position, message): (&Position, &Stored)| OutboxMessage {
            id: self.id(*position),
            payload: message.payload.clone(),
            ttl: message.ttl,
            due: message.shown_from,
        };
        let messages: Vec<_> = self.messages.range(first..).map(to_outbox).collect();
        let due = messages.iter().map(|message| message.due).min().unwrap_or(created);
        let due = if self.has(Fault::OutboxHasty) { created } else { due };
        let incarnation = self.generation.incarnation;
        let entry = OutboxEntry { incarnation, first, messages, created };
        self.outbox.insert(first, Letter { entry, due });
    }
}
