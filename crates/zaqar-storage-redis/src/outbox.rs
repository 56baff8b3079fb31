//! The outbox: deliveries beside their queue, and the agenda that says which queues have some.

use async_trait::async_trait;
use zaqar_core::storage::{Error, Outbox, OutboxEntry, OutboxMessage};
use zaqar_core::{Generation, Incarnation, MessageId, Position, QueueKey, Timestamp, Version};

use crate::Redis;
use crate::agenda::Entry;
use crate::driver::{Repeat, Step, VERSION, arguments, number, time};
use crate::error::Garbled;
use crate::keys::{self, Agenda};
use crate::messages::bounded;
use crate::record;
use crate::reply::{Outcome, Reply, seconds};
use crate::scripts;

/// Looks at the agenda for one answer, at most: each makes it shorter.
const LOOKS: usize = 20;

#[async_trait]
impl Outbox for Redis {
    async fn due_queues(&self, limit: usize, now: Timestamp) -> Result<Vec<QueueKey>, Error> {
        let now = self.at(now);
        for look in 1..=LOOKS {
            let mut entries = self.server().look(Agenda::Deliveries, 0, limit, now).await?;
            entries.sort_by(|a, b| a.at().total_cmp(&b.at()));
            let (mut queues, mut is_right) = (Vec::new(), true);
            for entry in entries {
                if queues.len() == limit {
                    break;
                }
                match self.due_queue(&entry, now).await? {
                    Some(key) => queues.push(key),
                    None => is_right = false,
                }
            }
            if is_right || look == LOOKS {
                return Ok(queues);
            }
        }
        Ok(Vec::new())
    }

    async fn lease(
        &self,
        key: &QueueKey,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Option<OutboxEntry>, Error> {
        let script = &scripts::LEASE;
        // A lease that nobody knows of runs out; a second one takes another entry.
        let leased = self.change_head_of(key, now, script, [time(until)], Repeat::Harmless).await?;
        let Some(("done", mut reply)) = leased else { return Ok(None) };
        let (incarnation, first) = (reply.incarnation()?, reply.number()?);
        let parts = reply.len();
        Ok(Some(read(incarnation, first, &mut reply, parts)?))
    }

    async fn settle(
        &self,
        key: &QueueKey,
        incarnation: Incarnation,
        first: Position,
    ) -> Result<(), Error> {
        let assumed = Generation { incarnation, version: Version::new(0) };
        let mut arguments = arguments(Some(assumed), Timestamp::from_millis(0));
        arguments[VERSION].clear();
        arguments.push(number(first.get()));
        let (script, repeat) = (&scripts::SETTLE_ENTRY, Repeat::Harmless);
        self.step(key, Step { script, repeat, is_write: true, arguments }).await?;
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
        let assumed = Generation { incarnation, version: Version::new(0) };
        let mut arguments = arguments(Some(assumed), self.at(now));
        arguments[VERSION].clear();
        arguments.extend([number(after.get()), number(bounded(limit))]);
        let (script, repeat) = (&scripts::FOLLOW, Repeat::Harmless);
        let step = Step { script, repeat, is_write: false, arguments };
        let Outcome::Said(_, mut reply) = self.step(key, step).await? else {
            return Ok(Vec::new());
        };
        let incarnation = reply.incarnation()?;
        let mut entries = Vec::new();
        while !reply.is_empty() {
            let (first, parts) = (reply.number()?, reply.number()?);
            entries.push(read(incarnation, first, &mut reply, parts)?);
        }
        Ok(entries)
    }
}

impl Redis {
    /// The queue of an entry of the agenda, if it has something due for as long as the entry says; else the entry goes to when it has.
    async fn due_queue(&self, entry: &Entry, now: Timestamp) -> Result<Option<QueueKey>, Error> {
        let Some(key) = keys::queue(&entry.tag) else {
            self.server().settle(entry, None).await?;
            return Ok(None);
        };
        let next = match self.on_head(&key, now, &scripts::NEXT_ENTRY, []).await? {
            Some((said, mut reply)) => {
                let next = reply.some_number()?;
                if said == "now" && next.is_some_and(|next| entry.is_at(next)) {
                    return Ok(Some(key));
                }
                next
            }
            None => None,
        };
        self.server().settle(entry, next).await?;
        Ok(None)
    }
}

/// Reads the parts of an entry: when it was posted; then record, life and delay of each message.
fn read(
    incarnation: Incarnation,
    first: u64,
    reply: &mut Reply,
    parts: u64,
) -> Result<OutboxEntry, Garbled> {
    let created = reply.number()?;
    let mut messages = Vec::new();
    for at in 0..parts.saturating_sub(1) / 3 {
        let (record, life, delay) = (reply.bytes()?, reply.number()?, reply.number()?);
        let position = Position::new(first + at);
        messages.push(OutboxMessage {
            id: MessageId { incarnation, position },
            payload: record::decode(record)?.payload,
            ttl: seconds(life),
            due: Timestamp::from_millis(created.saturating_add(delay)),
        });
    }
    let created = Timestamp::from_millis(created);
    Ok(OutboxEntry { incarnation, first: Position::new(first), messages, created })
}
