//! The outbox: deliveries beside their queue, and the schedule that says which queues have some.

use async_trait::async_trait;
use zaqar_core::storage::{Error, Outbox, OutboxEntry, OutboxMessage};
use zaqar_core::{Generation, Incarnation, MessageId, Position, QueueKey, Timestamp, Version};

use crate::Redis;
use crate::driver::{OWN, Step, VERSION, arguments, number, time};
use crate::error::{AGAIN_SECS, Garbled, unless_failed};
use crate::keys::{self, Schedule};
use crate::messages::bounded;
use crate::peer::Lane;
use crate::record;
use crate::reply::{Outcome, Reply, seconds};
use crate::schedule::Entry;
use crate::scripts;
use crate::server::Mode;

/// Looks at the schedule for one answer, at most: each makes it shorter.
const LOOKS: usize = 20;
/// Entries that cannot be read and that one lease removes, at most.
const UNREADABLE: usize = 100;

#[async_trait]
impl Outbox for Redis {
    async fn due_queues(&self, limit: usize, now: Timestamp) -> Result<Vec<QueueKey>, Error> {
        for look in 1..=LOOKS {
            let mut entries = self.server().look(Schedule::Deliveries, 0, limit, now).await?;
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
        for _ in 0..UNREADABLE {
            // A lease that nobody knows of runs out; a second one takes another entry.
            let leased = self.change_head_of(key, now, script, [time(until)]).await?;
            let Some(("done", mut reply)) = leased else { break };
            let (incarnation, first) = (reply.incarnation()?, reply.number()?);
            if let Some(entry) = readable(key, incarnation, first, reply) {
                return Ok(Some(entry));
            }
            // The next one is as old as this or younger: nothing is delivered out of order.
            self.settle(key, incarnation, Position::new(first)).await?;
        }
        Ok(None)
    }

    async fn settle(
        &self,
        key: &QueueKey,
        incarnation: Incarnation,
        first: Position,
    ) -> Result<(), Error> {
        let assumed = Generation { incarnation, version: Version::new(0) };
        let mut arguments = arguments(Some(assumed));
        arguments[VERSION].clear();
        arguments.push(number(first.get()));
        self.step(key, Step::new(&scripts::SETTLE_ENTRY, Mode::Write, None, arguments)).await?;
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
        let mut arguments = arguments(Some(assumed));
        arguments[VERSION].clear();
        arguments.extend([number(after.get()), number(bounded(limit))]);
        let mut entries: Vec<OutboxEntry> = Vec::new();
        loop {
            let step = Step::new(&scripts::FOLLOW, Mode::Read, Some(now), arguments.clone());
            let step = Step { lane: Lane::Large, ..step };
            let Outcome::Said(_, mut reply) = self.step(key, step).await? else { break };
            let (incarnation, is_slice) = (reply.incarnation()?, reply.some_number()?.is_some());
            let mut last = None;
            while !reply.is_empty() {
                let (first, parts) = (reply.number()?, reply.number()?);
                last = Some(first);
                entries.extend(readable(key, incarnation, first, reply.take(parts)?));
            }
            let Some(last) = last.filter(|_| is_slice && entries.len() < limit) else { break };
            arguments[OWN] = number(last);
            arguments[OWN + 1] = number(bounded(limit - entries.len()));
        }
        Ok(entries)
    }
}

impl Redis {
    /// The queue of an entry of the schedule, if it has something due for as long as the entry
    /// says; else the entry goes to when it has.
    async fn due_queue(&self, entry: &Entry, now: Timestamp) -> Result<Option<QueueKey>, Error> {
        let Some(key) = keys::queue(&entry.tag) else {
            self.server().settle(entry, None).await?;
            return Ok(None);
        };
        let step = self.step_of(&scripts::NEXT_ENTRY, Mode::Background, now, []);
        let found = unless_failed(self.step(&key, step).await, "a queue cannot be looked at")?;
        let next = match found.map(Outcome::found).transpose()? {
            Some(Some((said, mut reply))) => {
                let next = reply.some_number()?;
                if said == "now" && next.is_some_and(|next| entry.is_at(next)) {
                    return Ok(Some(key));
                }
                next
            }
            Some(None) => None,
            // It must not stand in the way of the others.
            None => Some(now.plus_secs(AGAIN_SECS).as_millis()),
        };
        self.server().settle(entry, next).await?;
        Ok(None)
    }
}

/// An entry by its parts. One that is damaged is passed over: it must not hide the others.
fn readable(
    key: &QueueKey,
    incarnation: Incarnation,
    first: u64,
    parts: Reply,
) -> Option<OutboxEntry> {
    let entry = read(incarnation, first, parts).ok();
    if entry.is_none() {
        tracing::warn!(queue = %key, position = first, "an outbox entry cannot be read");
    }
    entry
}

/// Reads the parts of an entry: when it was posted; then record, life and delay of each message.
fn read(incarnation: Incarnation, first: u64, mut reply: Reply) -> Result<OutboxEntry, Garbled> {
    let created = reply.number()?;
    let mut messages = Vec::new();
    for at in 0..reply.len() / 3 {
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
