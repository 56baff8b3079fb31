//! The outbox.
//!
//! An entry that may be leased is `ready`. One that waits for its due time, or is leased, is not;
//! each lease first makes those ready whose time has come. So the oldest ones are found without
//! scanning those that wait, and a leased one that blocks others is found among the leased.

use std::collections::BTreeSet;

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{OptionalExtension, Row, params};
use zaqar_core::storage::{
    DueQueue, Error, FOLLOWED_FOR, LeaseRequest, NewMessage, Outbox, OutboxEntry, OutboxMessage,
};
use zaqar_core::{Checksum, Incarnation, KeyId, MessageId, Payload, Position, QueueKey, Timestamp};

use crate::Embedded;
use crate::error::Sql;
use crate::first_free::Progress;
use crate::keys::key_of;
use crate::schema::entry_end;
use crate::statements::Statements;
use crate::writer_state::{
    Head, NEVER, SubscribedUntil, WriterState, after, find_head, millis, time,
};

/// The value of `ready` for a settled entry.
pub(crate) const SETTLED: i64 = 2;

/// The value of `ready` for a leased entry.
pub(crate) const LEASED: i64 = 3;

/// Messages that leased entries have, about, for the cost of reading them.
const LEASED_MESSAGES: usize = 64;
/// Due entries that one lease makes ready, at most.
const DUE_BUDGET: i64 = 1000;
/// Messages of an entry that is written to be removed, at most.
const ENDED: i64 = 512;
/// Expired entries that one transaction ends before it finds one to lease.
const MAX_EXPIRED: usize = 256;

#[async_trait]
impl Outbox for Embedded {
    async fn due_queues(&self, limit: usize, now: Timestamp) -> Result<Vec<DueQueue>, Error> {
        let now = self.effective_time(now);
        self.read(|conn| {
            let mut statement = conn.statement(
                "SELECT project, kind, name, next_due FROM heads WHERE next_due <= ?1 \
                 ORDER BY next_due",
            )?;
            let mut rows = statement.query([millis(now)])?;
            conn.readable_rows(&mut rows, limit, |row| {
                Ok(DueQueue { queue: key_of(row, 0)?, since: time(row.get(3)?) })
            })
        })
    }

    async fn lease(
        &self,
        key: &QueueKey,
        request: &LeaseRequest,
        now: Timestamp,
    ) -> Result<Vec<OutboxEntry>, Error> {
        let (key, request) = (key.clone(), *request);
        self.effective_time(now);
        self.requester(&key.project)
            .repeat(LEASED_MESSAGES, move |state| match state.head(&key)? {
                Some(head) => state.lease(&head, &request),
                None => Ok(Progress::Done(Vec::new())),
            })
            .await
    }

    async fn settle(
        &self,
        key: &QueueKey,
        incarnation: Incarnation,
        firsts: &[Position],
    ) -> Result<(), Error> {
        let key = key.clone();
        let firsts = firsts.to_vec();
        self.requester(&key.project)
            .write_rows(firsts.len(), move |state| {
                let head = state.head(&key)?;
                match head.filter(|head| head.generation.incarnation == incarnation) {
                    Some(head) => {
                        let firsts: Vec<_> =
                            firsts.iter().map(|first| head.stored_entry(*first)).collect();
                        state.settle(&head, &firsts)
                    }
                    None => Ok(()),
                }
            })
            .await
    }

    async fn follow(
        &self,
        key: &QueueKey,
        incarnation: Incarnation,
        after: Position,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<OutboxEntry>, Error> {
        let now = self.effective_time(now);
        self.read(|conn| {
            let head = find_head(conn, key)?;
            match head.filter(|head| head.generation.incarnation == incarnation) {
                Some(head) => follow(conn, &head, after, limit, now),
                None => Ok(Vec::new()),
            }
        })
    }
}

/// The row of an entry.
pub(crate) struct Entry {
    pub(crate) first: i64,
    count: i64,
    pub(crate) created: i64,
    pub(crate) followed: i64,
    pub(crate) expires: i64,
    /// `life` in the file: the head that it belongs to.
    outbox_number: i64,
}

/// The columns of an [`Entry`].
macro_rules! entry_columns {
    () => {
        "SELECT first, count, created, followed, expires, life FROM outbox"
    };
}

impl Entry {
    pub(crate) fn read(row: &Row<'_>) -> Sql<Self> {
        Ok(Self {
            first: row.get(0)?,
            count: row.get(1)?,
            created: row.get(2)?,
            followed: row.get(3)?,
            expires: row.get(4)?,
            outbox_number: row.get(5)?,
        })
    }
}

impl WriterState<'_> {
    /// Writes messages of an outbox entry, which do not exist without it.
    pub(crate) fn insert_outbox_messages(
        &mut self,
        first: i64,
        messages: &[NewMessage],
        created: i64,
    ) -> Sql<()> {
        for (new, position) in messages.iter().zip(first..) {
            let payload = &new.payload;
            self.conn
                .statement("INSERT INTO outbox_messages VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
                .execute(params![
                    position,
                    new.ttl.cast_signed(),
                    after(created, new.delay),
                    payload.sealed_with.as_ref().map(|key| key.0.as_str()),
                    payload.checksum.as_ref().map(|sum| sum.0),
                    payload.bytes.as_ref(),
                ])?;
        }
        Ok(())
    }

    /// Writes an outbox entry, whose messages are written.
    pub(crate) fn insert_entry(
        &mut self,
        head: &Head,
        first: i64,
        messages: &[NewMessage],
        created: i64,
        subscribed_until: SubscribedUntil,
    ) -> Sql<()> {
        let (mut earliest, mut latest, mut expires) = (NEVER, 0, 0);
        for new in messages {
            let due = after(created, new.delay);
            (earliest, latest) = (earliest.min(due), latest.max(due));
            expires = expires.max(after(created, new.ttl));
        }
        let count = i64::try_from(messages.len()).unwrap_or(i64::MAX);
        let ready = match subscribed_until.address > created {
            true => i64::from(earliest <= created),
            false => SETTLED,
        };
        // A post in parts is shown later than it was made.
        let shown = latest.max(millis(self.now));
        let followed = match subscribed_until.lease > created {
            true => after(shown, FOLLOWED_FOR.as_secs()),
            false => 0,
        };
        self.conn
            .statement("INSERT INTO outbox VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?
            .execute(params![
                first,
                head.outbox_number,
                count,
                created,
                earliest,
                ready,
                followed,
                expires
            ])?;
        if ready == SETTLED {
            self.due.entry_ends(followed);
            return Ok(());
        }
        self.due.entry_ends(expires);
        self.set_next_due(head, head.next_due.min(earliest))
    }

    /// Writes entries that have ended, with the messages from one position to another.
    pub(crate) fn insert_ended_entries(&mut self, head: &Head, from: i64, until: i64) -> Sql<()> {
        let mut first = from;
        while first < until {
            let count = ENDED.min(until - first);
            self.conn
                .statement("INSERT INTO outbox VALUES (?1, ?2, ?3, 0, 0, ?4, 0, 0)")?
                .execute([first, head.outbox_number, count, SETTLED])?;
            first += count;
        }
        self.due.entry_ends(0);
        Ok(())
    }

    fn lease(&mut self, head: &Head, request: &LeaseRequest) -> Sql<Progress<Vec<OutboxEntry>>> {
        let now = millis(self.now);
        if self.subscribed_until(head)?.address <= now {
            self.end_unwanted_entries(head)?;
            return Ok(Progress::Done(Vec::new()));
        }
        for waiting in [LEASED, 0] {
            self.conn
                .statement(
                    "UPDATE outbox SET ready = 1 WHERE first IN (SELECT first FROM outbox \
                     WHERE life = ?1 AND ready = ?4 AND due <= ?2 ORDER BY due LIMIT ?3)",
                )?
                .execute([head.outbox_number, now, DUE_BUDGET, waiting])?;
        }
        let before = self.first_leased(head)?.unwrap_or(i64::MAX);
        let (mut leased, mut bytes, mut after) = (Vec::new(), 0_usize, i64::MIN);
        for _ in 0..MAX_EXPIRED {
            let oldest = match leased.len() < request.limit {
                true => self.first_ready(head, after, before)?,
                false => None,
            };
            let Some(oldest) = oldest else {
                self.update_next_due(head)?;
                return Ok(Progress::Done(leased));
            };
            after = oldest.first;
            if oldest.expires <= now {
                self.end_entry(&oldest)?;
                continue;
            }
            let entry = read_entry(&self.conn, head, &oldest)?;
            let size: usize = entry.messages.iter().map(|one| one.payload.bytes.len()).sum();
            bytes = bytes.saturating_add(size);
            if bytes > request.bytes && !leased.is_empty() {
                self.update_next_due(head)?;
                return Ok(Progress::Done(leased));
            }
            self.conn
                .statement("UPDATE outbox SET ready = ?3, due = ?2 WHERE first = ?1")?
                .execute([oldest.first, millis(request.until), LEASED])?;
            leased.push(entry);
        }
        self.update_next_due(head)?;
        match leased.is_empty() {
            true => Ok(Progress::Unfinished),
            false => Ok(Progress::Done(leased)),
        }
    }

    /// The first entry with a live lease, which blocks those after it.
    fn first_leased(&self, head: &Head) -> Sql<Option<i64>> {
        // There are only as many as a lease takes, so they need no index by position.
        self.conn
            .statement(
                "SELECT min(first) FROM outbox INDEXED BY outbox_due \
                 WHERE life = ?1 AND ready = 3 AND due > ?2 AND expires > ?2",
            )?
            .query_row([head.outbox_number, millis(self.now)], |row| row.get(0))
    }

    fn first_ready(&self, head: &Head, after: i64, before: i64) -> Sql<Option<Entry>> {
        self.conn
            .statement(concat!(
                entry_columns!(),
                " WHERE life = ?1 AND ready = 1 AND first > ?2 AND first < ?3 ORDER BY first LIMIT 1"
            ))?
            .query_row([head.outbox_number, after, before], Entry::read)
            .optional()
    }

    fn settle(&mut self, head: &Head, firsts: &[i64]) -> Sql<()> {
        let mut is_changed = false;
        for first in firsts {
            let entry = self
                .conn
                .statement(concat!(entry_columns!(), " WHERE first = ?1 AND life = ?2"))?
                .query_row([*first, head.outbox_number], Entry::read)
                .optional()?;
            if let Some(entry) = entry {
                self.end_entry(&entry)?;
                is_changed = true;
            }
        }
        if is_changed { self.update_next_due(head) } else { Ok(()) }
    }

    /// Ends an entry for workers. It is kept as long as it can be followed.
    fn end_entry(&mut self, entry: &Entry) -> Sql<()> {
        if entry.followed <= millis(self.now) {
            return self.drop_entry(entry.first, entry.count);
        }
        self.conn
            .statement("UPDATE outbox SET ready = 2 WHERE first = ?1")?
            .execute([entry.first])?;
        self.due.entry_ends(entry.followed);
        Ok(())
    }

    /// Removes ended entries, about `budget` rows. Returns how many.
    pub(crate) fn remove_entries(&mut self, budget: usize) -> Sql<usize> {
        let now = millis(self.now);
        let mut done = 0;
        let mut numbers = BTreeSet::new();
        while done < budget && self.due.has_entries(now) {
            let ended = self
                .conn
                .statement(concat!(
                    entry_columns!(),
                    " WHERE ",
                    entry_end!(),
                    " <= ?1 ORDER BY ",
                    entry_end!(),
                    " LIMIT 1"
                ))?
                .query_row([now], Entry::read)
                .optional()?;
            match ended {
                Some(entry) => {
                    self.end_entry(&entry)?;
                    done += 1 + usize::try_from(entry.count).unwrap_or(0);
                    numbers.insert(entry.outbox_number);
                }
                None => self.due.refresh_entries(&self.conn)?,
            }
        }
        for number in numbers {
            if let Some(head) = self.head_by_outbox_number(number)? {
                self.update_next_due(&head)?;
            }
        }
        Ok(done)
    }

    /// Schedules a head's entries for removal if no subscription with an address is left.
    pub(crate) fn end_unwanted_entries(&mut self, head: &Head) -> Sql<()> {
        if head.next_due == NEVER || self.subscribed_until(head)?.address > millis(self.now) {
            return Ok(());
        }
        let before = self.last_position().get().cast_signed() + 1;
        self.conn
            .statement("INSERT OR REPLACE INTO unwanted VALUES (?1, ?2)")?
            .execute([head.outbox_number, before])?;
        Ok(())
    }

    /// Whether there are entries without a subscription.
    pub(crate) fn has_unwanted(&self) -> Sql<bool> {
        self.conn.statement("SELECT 1 FROM unwanted LIMIT 1")?.exists([])
    }

    /// Ends entries without a subscription, about `budget` rows. Returns how many.
    pub(crate) fn end_unwanted(&mut self, budget: usize) -> Sql<usize> {
        let mut done = 0;
        while done < budget {
            let unwanted = self
                .conn
                .statement("SELECT life, before FROM unwanted LIMIT 1")?
                .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let Some((number, before)) = unwanted else { break };
            done += 1 + self.end_entries_before(number, before, budget - done)?;
        }
        Ok(done)
    }

    fn end_entries_before(&mut self, number: i64, before: i64, budget: usize) -> Sql<usize> {
        let entries = self
            .conn
            .statement(concat!(
                entry_columns!(),
                " WHERE life = ?1 AND ready IN (0, 1, 3) AND first < ?2 LIMIT ?3"
            ))?
            .query_map(
                params![number, before, i64::try_from(budget).unwrap_or(i64::MAX)],
                Entry::read,
            )?
            .collect::<Sql<Vec<_>>>()?;
        let mut done = 0;
        for entry in &entries {
            self.end_entry(entry)?;
            done += usize::try_from(entry.count).unwrap_or(0);
            if done >= budget {
                break;
            }
        }
        if let Some(head) = self.head_by_outbox_number(number)? {
            self.update_next_due(&head)?;
        }
        if entries.is_empty() {
            self.conn.statement("DELETE FROM unwanted WHERE life = ?1")?.execute([number])?;
        }
        Ok(done)
    }

    /// Deletes an entry with its messages.
    pub(crate) fn drop_entry(&self, first: i64, count: i64) -> Sql<()> {
        self.conn.statement("DELETE FROM outbox WHERE first = ?1")?.execute([first])?;
        self.conn
            .statement("DELETE FROM outbox_messages WHERE position >= ?1 AND position < ?2")?
            .execute([first, first + count])?;
        Ok(())
    }

    pub(crate) fn update_next_due(&mut self, head: &Head) -> Sql<()> {
        let next = |ready: i64| -> Sql<i64> {
            let due: Option<i64> = self
                .conn
                .statement("SELECT min(due) FROM outbox WHERE life = ?1 AND ready = ?2")?
                .query_row([head.outbox_number, ready], |row| row.get(0))?;
            Ok(due.unwrap_or(NEVER))
        };
        let next_due = next(0)?.min(next(1)?).min(next(LEASED)?);
        self.set_next_due(head, next_due)
    }

    fn set_next_due(&mut self, head: &Head, next_due: i64) -> Sql<()> {
        if next_due == head.next_due {
            return Ok(());
        }
        self.conn
            .statement("UPDATE heads SET next_due = ?2 WHERE number = ?1")?
            .execute(params![head.number, (next_due != NEVER).then_some(next_due)])?;
        self.change(head.number, |head| head.next_due = next_due);
        Ok(())
    }
}

/// The entries after a position that can be followed.
fn follow(
    conn: &Statements<'_>,
    head: &Head,
    after: Position,
    limit: usize,
    now: Timestamp,
) -> Sql<Vec<OutboxEntry>> {
    let after = head.stored_entry(after);
    let mut statement = conn.statement(concat!(
        entry_columns!(),
        " WHERE life = ?1 AND first > ?2 AND followed > ?3 ORDER BY first"
    ))?;
    let mut rows = statement.query([head.outbox_number, after, millis(now)])?;
    conn.readable_rows(&mut rows, limit, |row| read_entry(conn, head, &Entry::read(row)?))
}

pub(crate) fn read_entry(conn: &Statements<'_>, head: &Head, entry: &Entry) -> Sql<OutboxEntry> {
    let messages = conn
        .statement(
            "SELECT position, ttl, due, sealed, checksum, body FROM outbox_messages \
             WHERE position >= ?1 AND position < ?2 ORDER BY position",
        )?
        .query_map([entry.first, entry.first + entry.count], |row| read_message(row, head))?
        .collect::<Sql<_>>()?;
    Ok(OutboxEntry {
        incarnation: head.generation.incarnation,
        first: head.shown_entry(entry.first),
        messages,
        created: time(entry.created),
    })
}

fn read_message(row: &Row<'_>, head: &Head) -> Sql<OutboxMessage> {
    let incarnation = head.generation.incarnation;
    let sealed: Option<String> = row.get(3)?;
    let checksum: Option<[u8; 16]> = row.get(4)?;
    Ok(OutboxMessage {
        id: MessageId { incarnation, position: head.shown_entry(row.get(0)?) },
        ttl: row.get::<_, i64>(1)?.cast_unsigned(),
        due: time(row.get(2)?),
        payload: Payload {
            bytes: Bytes::copy_from_slice(row.get_ref(5)?.as_blob()?),
            sealed_with: sealed.map(KeyId),
            checksum: checksum.map(Checksum),
        },
    })
}
