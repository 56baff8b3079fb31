//! The outbox: entries in the slot of their queue, and the schedule of queues that have due
//! entries.

use async_trait::async_trait;
use zaqar_core::storage::{DueQueue, Error, LeaseRequest, Outbox, OutboxEntry, OutboxMessage};
use zaqar_core::{Generation, Incarnation, MessageId, Position, QueueKey, Timestamp, Version};

use crate::Redis;
use crate::driver::{FIRST_OWN, HeadCall, VERSION, arguments, number, time};
use crate::error::{Malformed, RECHECK_SECS, report_unfinished, report_unreadable, skip_failed};
use crate::keys::{self, Schedule};
use crate::messages::bounded;
use crate::peer::Lane;
use crate::record::{self, seconds};
use crate::reply::{Outcome, Reply};
use crate::schedule::Entry;
use crate::scripts;
use crate::server::Mode;

/// Bound on reads of the schedule for one answer; each read removes wrong entries.
const MAX_ROUNDS: usize = 20;
/// Bound on unreadable entries that one lease removes.
const MAX_UNREADABLE: usize = 100;

#[async_trait]
impl Outbox for Redis {
    async fn due_queues(&self, limit: usize, now: Timestamp) -> Result<Vec<DueQueue>, Error> {
        for round in 1..=MAX_ROUNDS {
            let mut entries =
                self.server().due_entries(Schedule::Deliveries, 0, limit, now).await?;
            entries.sort_by(|a, b| a.at().total_cmp(&b.at()));
            let (mut queues, mut is_right) = (Vec::new(), true);
            for entry in entries {
                if queues.len() == limit {
                    break;
                }
                match self.due_queue(&entry, now).await? {
                    Some(queue) => {
                        queues.push(DueQueue { queue, since: entry.time() });
                    }
                    None => is_right = false,
                }
            }
            if is_right || round == MAX_ROUNDS {
                return Ok(queues);
            }
        }
        Ok(Vec::new())
    }

    async fn lease(
        &self,
        key: &QueueKey,
        request: &LeaseRequest,
        now: Timestamp,
    ) -> Result<Vec<OutboxEntry>, Error> {
        let script = &scripts::LEASE_ENTRY;
        for _ in 0..MAX_UNREADABLE {
            // If the caller never gets the answer, the lease expires; another lease takes the
            // entries then.
            let own = [
                time(request.until),
                number(bounded(request.limit)),
                number(bounded(request.bytes)),
            ];
            let leased = self.update_head(key, now, script, own).await?;
            let Some(("done", mut reply)) = leased else { break };
            let incarnation = reply.incarnation()?;
            let (mut entries, mut unreadable) = (Vec::new(), Vec::new());
            while !reply.is_empty() {
                let (first, parts) = (reply.number()?, reply.number()?);
                match readable(key, incarnation, first, reply.take(parts)?) {
                    Some(entry) => entries.push(entry),
                    None => unreadable.push(Position::new(first)),
                }
            }
            if !unreadable.is_empty() {
                // They must not block the others.
                match self.settle(key, incarnation, &unreadable).await {
                    Err(error) if entries.is_empty() => return Err(error),
                    Err(error) => {
                        report_unfinished("unreadable outbox entries block others", key, &error);
                    }
                    Ok(()) => {}
                }
            }
            if !entries.is_empty() {
                return Ok(entries);
            }
        }
        Ok(Vec::new())
    }

    async fn settle(
        &self,
        key: &QueueKey,
        incarnation: Incarnation,
        firsts: &[Position],
    ) -> Result<(), Error> {
        let assumed = Generation { incarnation, version: Version::new(0) };
        let mut arguments = arguments(Some(assumed));
        arguments[VERSION].clear();
        arguments.extend(firsts.iter().map(|first| number(first.get())));
        self.call_head(key, HeadCall::new(&scripts::SETTLE_ENTRY, Mode::Write, None, arguments))
            .await?;
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
            let call = HeadCall::new(&scripts::FOLLOW, Mode::Read, Some(now), arguments.clone());
            let call = HeadCall { lane: Lane::Large, ..call };
            let Outcome::Answer(_, mut reply) = self.call_head(key, call).await? else { break };
            let (incarnation, is_slice) = (reply.incarnation()?, reply.some_number()?.is_some());
            let mut last = None;
            while !reply.is_empty() {
                let (first, parts) = (reply.number()?, reply.number()?);
                last = Some(first);
                entries.extend(readable(key, incarnation, first, reply.take(parts)?));
            }
            let Some(last) = last.filter(|_| is_slice && entries.len() < limit) else { break };
            arguments[FIRST_OWN] = number(last);
            arguments[FIRST_OWN + 1] = number(bounded(limit - entries.len()));
        }
        Ok(entries)
    }
}

impl Redis {
    /// The queue of a schedule entry if it has had something due since the entry's time; otherwise
    /// the entry is moved to the next due time.
    async fn due_queue(&self, entry: &Entry, now: Timestamp) -> Result<Option<QueueKey>, Error> {
        let Some(key) = keys::queue(&entry.tag) else {
            self.server().reschedule(entry, None).await?;
            return Ok(None);
        };
        let call = self.head_call(&scripts::NEXT_ENTRY, Mode::Background, now, []);
        let answer = self.call_head(&key, call).await;
        if matches!(answer, Err(Error::Moved { .. })) {
            // Its entries are due where it moves to, or here again soon.
            self.server().reschedule(entry, Some(now.plus_secs(1).as_millis())).await?;
            return Ok(None);
        }
        let found = skip_failed(answer, "a queue with due entries cannot be read")?;
        let next = match found.map(Outcome::found).transpose()? {
            Some(Some((status, mut reply))) => {
                let next = reply.some_number()?;
                if status == "now" && next.is_some_and(|next| entry.is_at(next)) {
                    return Ok(Some(key));
                }
                next
            }
            Some(None) => None,
            // A queue that cannot be read must not block the others.
            None => Some(now.plus_secs(RECHECK_SECS).as_millis()),
        };
        self.server().reschedule(entry, next).await?;
        Ok(None)
    }
}

/// Decodes an entry. A damaged one is skipped, so that it does not hide the others.
fn readable(
    key: &QueueKey,
    incarnation: Incarnation,
    first: u64,
    parts: Reply,
) -> Option<OutboxEntry> {
    let entry = read(incarnation, first, parts).ok();
    if entry.is_none() {
        report_unreadable("an outbox entry", format_args!("{key}, {first}"));
    }
    entry
}

/// Reads the fields of an entry: its creation time; then record, ttl and delay of each message.
pub(crate) fn read(
    incarnation: Incarnation,
    first: u64,
    mut reply: Reply,
) -> Result<OutboxEntry, Malformed> {
    let created = reply.number()?;
    let mut messages = Vec::new();
    for at in 0..reply.len() / 3 {
        let (record, ttl, delay) = (reply.bytes()?, reply.number()?, reply.number()?);
        let position = Position::new(first + at);
        messages.push(OutboxMessage {
            id: MessageId { incarnation, position },
            payload: record::decode(record)?.payload,
            ttl: seconds(ttl),
            due: Timestamp::from_millis(created.saturating_add(delay)),
        });
    }
    let created = Timestamp::from_millis(created);
    Ok(OutboxEntry { incarnation, first: Position::new(first), messages, created })
}
