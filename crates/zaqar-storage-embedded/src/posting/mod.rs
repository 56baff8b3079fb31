//! Posts. A large one is written in parts, in a transaction each, so that other projects do not
//! wait for all of it.
//!
//! The rows of the parts are hidden (see [`crate::hidden`]) until the last one is written. The
//! writer runs no other change of the project in between, so that positions and order are those of
//! a post that is written at once.

use std::sync::Arc;

use rusqlite::params;
use tokio::sync::oneshot;
use zaqar_core::storage::{Batch, Error, Guarded, NewMessage, Posted};
use zaqar_core::{Generation, MessageId, QueueKey};

use crate::error::Sql;
use crate::fair_queue::{Cost, FairQueue, Tenant};
use crate::rows::id;
use crate::writer::Job;
use crate::writer_state::{Head, Positions, SubscribedUntil, WriterState, after, millis};

/// The cost of writing a message's rows besides its body, in bytes: it takes as long as writing
/// these.
pub(crate) const ROWS: usize = 512;

/// A post that costs more than this is written in parts.
const MAX_WHOLE: usize = 512 << 10;

/// The cost of one part, about.
const PART: usize = 256 << 10;

/// The cost of a part that others wait for, about, and of what is written between two looks at
/// whether they do.
const STEP: usize = 64 << 10;

/// What messages occupy in memory.
fn occupied(messages: &[NewMessage]) -> usize {
    messages.iter().map(|new| new.payload.bytes.len() + size_of::<NewMessage>()).sum()
}

/// The cost of writing messages.
fn cost(messages: &[NewMessage]) -> usize {
    messages.iter().map(|new| new.payload.bytes.len() + ROWS).sum()
}

/// The cost of a post that is written at once; `None` for one that is written in parts.
pub(crate) fn cost_of_whole(messages: &[NewMessage]) -> Option<usize> {
    let cost = cost(messages);
    (cost <= MAX_WHOLE || messages.len() == 1).then_some(cost)
}

type Answer = Guarded<Vec<MessageId>>;

/// A post that is written in parts.
pub(crate) struct PostInParts {
    key: QueueKey,
    assumed: Generation,
    batch: Batch,
    /// What all of it occupies, to the end.
    bytes: usize,
    /// What committed transactions have written.
    written: Option<Written>,
    /// What the transaction has written that is not committed yet.
    attempt: Attempt,
    /// Tells the sweep that the hidden messages belong to a post that goes on.
    alive: Arc<()>,
    /// Where others wait.
    jobs: Arc<FairQueue<Box<dyn Job>>>,
    caller: oneshot::Sender<Result<Answer, Error>>,
}

/// The part of a post that is written.
#[derive(Debug, Clone, Copy)]
struct Written {
    /// The number of the head when the post began.
    number: i64,
    /// The position of the first message.
    first: i64,
    /// How many messages.
    count: usize,
    created: i64,
    /// For the subscribers at this time.
    subscribed_until: SubscribedUntil,
}

/// What one transaction came to.
enum Attempt {
    /// It removed some of what an earlier post had left, or there was no transaction.
    Nothing,
    Part(Written),
    Done(Answer),
}

impl PostInParts {
    pub(crate) fn new(
        key: QueueKey,
        assumed: Generation,
        batch: Batch,
        jobs: Arc<FairQueue<Box<dyn Job>>>,
        caller: oneshot::Sender<Result<Answer, Error>>,
    ) -> Self {
        let (written, attempt, alive) = (None, Attempt::Nothing, Arc::default());
        let bytes = occupied(&batch.messages);
        Self { key, assumed, batch, bytes, written, attempt, alive, jobs, caller }
    }

    /// What the next part costs if others wait, and what is kept.
    pub(crate) fn cost(&self) -> Cost {
        let rest = &self.batch.messages[self.written.map_or(0, |written| written.count)..];
        Cost { bytes: self.bytes, turn: cost(&rest[..part(rest, STEP)]), returns: true }
    }

    fn write(&self, state: &mut WriterState<'_>) -> Sql<Attempt> {
        let guarded = state.guarded(
            &self.key,
            |head| head == self.assumed,
            |state, head| self.write_part(state, head),
        )?;
        Ok(match guarded {
            Guarded::Done(attempt) => attempt,
            Guarded::Absent => Attempt::Done(Guarded::Absent),
            Guarded::Stale(generation) => Attempt::Done(Guarded::Stale(generation)),
        })
    }

    fn write_part(&self, state: &mut WriterState<'_>, head: Head) -> Sql<Attempt> {
        let total = self.batch.messages.len();
        // Another program can have replaced the queue or the file: the post starts over.
        let written = self.written.filter(|written| {
            head.number == written.number && head.hidden == Positions::new(written.first, total)
        });
        let mut written = match written {
            Some(written) => written,
            None if !head.hidden.is_empty() => {
                state.make_room(&head, PART / ROWS)?;
                return Ok(Attempt::Nothing);
            }
            None => Written {
                number: head.number,
                first: state.hide_next(&head, total, &self.alive)?,
                count: 0,
                created: millis(state.now),
                subscribed_until: state.subscribed_until(&head)?,
            },
        };
        let is_notified = self.batch.notify && written.is_subscribed();
        let rest = &self.batch.messages[written.count..];
        let mut part = &rest[..part(rest, PART)];
        let tenant = Some(self.key.project.clone());
        while !part.is_empty() {
            let (step, later) = part.split_at(self::part(part, STEP));
            self.insert_step(state, &head, &written, step)?;
            written.count += step.len();
            part = if self.jobs.others_wait(&tenant) { &[] } else { later };
        }
        if written.count < total {
            return Ok(Attempt::Part(written));
        }
        state.show_hidden(head.number)?;
        if is_notified {
            // Without a subscription meanwhile, nothing would end the entries.
            if state.subscribed_until(&head)?.address <= millis(state.now) {
                written.subscribed_until.address = 0;
            }
            self.insert_entries(state, &head, &written)?;
        }
        let ids = ids(head.generation, written.first, total);
        state.posted.extend(ids.last().map(|last| Posted { key: self.key.clone(), last: *last }));
        Ok(Attempt::Done(Guarded::Done(ids)))
    }

    fn insert_step(
        &self,
        state: &mut WriterState<'_>,
        head: &Head,
        written: &Written,
        messages: &[NewMessage],
    ) -> Sql<()> {
        let first = written.first + to_i64(written.count);
        let insertion = Insertion { created: written.created, client: self.batch.client.as_str() };
        state.insert_messages(head.number, first, messages, &insertion)?;
        if self.batch.notify && written.is_subscribed() {
            state.insert_outbox_messages(first, messages, written.created)?;
        }
        Ok(())
    }

    /// Several entries, so that none of them is large.
    fn insert_entries(
        &self,
        state: &mut WriterState<'_>,
        head: &Head,
        written: &Written,
    ) -> Sql<()> {
        let (mut rest, mut first) = (self.batch.messages.as_slice(), written.first);
        while !rest.is_empty() {
            let (messages, later) = rest.split_at(part(rest, PART));
            let head = state.head_by_number(head.number)?.unwrap_or(*head);
            state.insert_entry(
                &head,
                first,
                messages,
                written.created,
                written.subscribed_until,
            )?;
            (rest, first) = (later, first + to_i64(messages.len()));
        }
        Ok(())
    }
}

impl Written {
    fn is_subscribed(&self) -> bool {
        self.subscribed_until.address > self.created || self.subscribed_until.lease > self.created
    }
}

impl Job for PostInParts {
    fn run(&mut self, state: &mut WriterState<'_>) -> Sql<()> {
        self.attempt = Attempt::Nothing;
        self.attempt = self.write(state)?;
        Ok(())
    }

    fn grows(&self) -> bool {
        true
    }

    fn next_part(&mut self) -> Option<(Tenant, Cost)> {
        match self.attempt {
            Attempt::Done(_) => return None,
            Attempt::Nothing => self.written = None,
            Attempt::Part(written) => self.written = Some(written),
        }
        Some((Some(self.key.project.clone()), self.cost()))
    }

    fn finish(self: Box<Self>, outcome: Result<(), Error>) {
        let Self { attempt, caller, alive, .. } = *self;
        drop(alive);
        let result = outcome.and_then(|()| match attempt {
            Attempt::Done(answer) => Ok(answer),
            Attempt::Nothing | Attempt::Part(_) => Err(Error::failed("a post was not finished")),
        });
        // The caller may have been dropped.
        drop(caller.send(result));
    }
}

/// How many of these messages a part of this cost has, at least one.
fn part(messages: &[NewMessage], cost: usize) -> usize {
    let mut left = cost;
    let fits = |new: &&NewMessage| {
        let fits = left > 0;
        left = left.saturating_sub(new.payload.bytes.len() + ROWS);
        fits
    };
    messages.iter().take_while(fits).count()
}

fn to_i64(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn ids(generation: Generation, first: i64, count: usize) -> Vec<MessageId> {
    (first..).take(count).map(|position| id(generation.incarnation, position)).collect()
}

/// What the messages of a post have in common.
struct Insertion<'a> {
    created: i64,
    client: &'a str,
}

impl WriterState<'_> {
    /// Writes a post at once.
    pub(crate) fn post(
        &mut self,
        key: &QueueKey,
        head: Head,
        batch: &Batch,
    ) -> Sql<Vec<MessageId>> {
        let first = self.allocate_positions(batch.messages.len());
        let created = millis(self.now);
        let insertion = Insertion { created, client: batch.client.as_str() };
        self.insert_messages(head.number, first, &batch.messages, &insertion)?;
        let subscribed_until = self.subscribed_until(&head)?;
        let has_subscribers =
            subscribed_until.address > created || subscribed_until.lease > created;
        if batch.notify && has_subscribers {
            self.insert_outbox_messages(first, &batch.messages, created)?;
            self.insert_entry(&head, first, &batch.messages, created, subscribed_until)?;
        }
        let ids = ids(head.generation, first, batch.messages.len());
        self.posted.extend(ids.last().map(|last| Posted { key: key.clone(), last: *last }));
        Ok(ids)
    }

    fn insert_messages(
        &mut self,
        number: i64,
        first: i64,
        messages: &[NewMessage],
        insertion: &Insertion<'_>,
    ) -> Sql<()> {
        for (new, position) in messages.iter().zip(first..) {
            let payload = &new.payload;
            self.conn.statement("INSERT INTO messages (position, created, number, client, sealed, checksum, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?.execute(
                params![
                    position,
                    insertion.created,
                    number,
                    insertion.client,
                    payload.sealed_with.as_ref().map(|key| key.0.as_str()),
                    payload.checksum.as_ref().map(|sum| sum.0),
                    payload.bytes.as_ref(),
                ],
            )?;
            let expires = after(insertion.created, new.ttl);
            if new.delay == 0 {
                self.insert_free(number, position, expires)?;
            } else {
                self.insert_delayed(
                    number,
                    position,
                    expires,
                    after(insertion.created, new.delay),
                )?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
