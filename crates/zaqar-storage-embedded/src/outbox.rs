//! The outbox.
//!
//! An entry that may be leased is `ready`. One that waits for its time, or is leased, is not; whoever leases next looks first for those
//! whose time has come. So the oldest is found without passing over those that wait.

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{OptionalExtension, Row, params};
use zaqar_core::storage::{Batch, Error, FOLLOWED_FOR, Outbox, OutboxEntry, OutboxMessage};
use zaqar_core::{Checksum, Incarnation, KeyId, Payload, Position, QueueKey, Timestamp};

use crate::Embedded;
use crate::error::Sql;
use crate::ledger::{Head, Heard, Ledger, NEVER, find_head, millis, time};
use crate::queues::key_of;
use crate::rows::id;
use crate::statements::Statements;

/// What `ready` is for an entry that is never due again.
const SETTLED: i64 = 2;

/// Entries whose time has come that one lease makes ready, at most.
const TURNS: i64 = 1000;

#[async_trait]
impl Outbox for Embedded {
    async fn due_queues(&self, limit: usize, now: Timestamp) -> Result<Vec<QueueKey>, Error> {
        let now = self.at(now);
        self.read(|conn| {
            conn.statement(
                "SELECT project, kind, name FROM heads WHERE agenda <= ?1 ORDER BY agenda LIMIT ?2",
            )?
            .query_map([millis(now), i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
                key_of(row, 0)
            })?
            .collect()
        })
    }

    async fn lease(
        &self,
        key: &QueueKey,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Option<OutboxEntry>, Error> {
        self.at(now);
        let key = key.clone();
        self.write(move |ledger| match ledger.head(&key)? {
            Some(head) => ledger.lease(&head, until),
            None => Ok(None),
        })
        .await
    }

    async fn settle(
        &self,
        key: &QueueKey,
        incarnation: Incarnation,
        first: Position,
    ) -> Result<(), Error> {
        let key = key.clone();
        self.write(move |ledger| {
            let head = ledger.head(&key)?;
            match head.filter(|head| head.generation.incarnation == incarnation) {
                Some(head) => ledger.settle(&head, first.get().cast_signed()),
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
        let now = self.at(now);
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
struct Entry {
    first: i64,
    count: i64,
    created: i64,
}

impl Entry {
    fn read(row: &Row<'_>) -> Sql<Self> {
        Ok(Self { first: row.get(0)?, count: row.get(1)?, created: row.get(2)? })
    }
}

impl Ledger<'_> {
    /// Writes the entry of a post.
    pub(crate) fn write_outbox(
        &mut self,
        head: &Head,
        first: i64,
        batch: &Batch,
        heard: Heard,
    ) -> Sql<()> {
        let (mut earliest, mut latest) = (NEVER, 0);
        for (new, position) in batch.messages.iter().zip(first..) {
            let due = millis(self.now.plus_secs(new.delay));
            (earliest, latest) = (earliest.min(due), latest.max(due));
            let payload = &new.payload;
            self.conn
                .statement("INSERT INTO outbox_messages VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
                .execute(params![
                    position,
                    new.ttl.cast_signed(),
                    due,
                    payload.sealed_with.as_ref().map(|key| key.0.as_str()),
                    payload.checksum.as_ref().map(|sum| sum.0),
                    payload.bytes.as_ref(),
                ])?;
        }
        let count = i64::try_from(batch.messages.len()).unwrap_or(i64::MAX);
        let now = millis(self.now);
        let ready = match heard.delivered > now {
            true => i64::from(earliest <= now),
            false => SETTLED,
        };
        let followed = match heard.followed > now {
            true => millis(time(latest).plus_secs(FOLLOWED_FOR.as_secs())),
            false => 0,
        };
        self.conn
            .statement("INSERT INTO outbox VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
            .execute(params![first, head.life, count, now, earliest, ready, followed])?;
        if ready == SETTLED {
            self.due.entry_ends(followed);
            return Ok(());
        }
        self.set_agenda(head, head.agenda.min(earliest))
    }

    fn lease(&mut self, head: &Head, until: Timestamp) -> Sql<Option<OutboxEntry>> {
        self.conn
            .statement(
                "UPDATE outbox SET ready = 1 WHERE first IN (SELECT first FROM outbox \
                 WHERE life = ?1 AND ready = 0 AND due <= ?2 ORDER BY due LIMIT ?3)",
            )?
            .execute([head.life, millis(self.now), TURNS])?;
        let oldest = self
            .conn
            .statement(
                "SELECT first, count, created FROM outbox \
                 WHERE life = ?1 AND ready = 1 ORDER BY first LIMIT 1",
            )?
            .query_row([head.life], Entry::read)
            .optional()?;
        let Some(oldest) = oldest else { return Ok(None) };
        self.conn
            .statement("UPDATE outbox SET ready = 0, due = ?2 WHERE first = ?1")?
            .execute([oldest.first, millis(until)])?;
        self.look_at_agenda(head)?;
        read_entry(&self.conn, head, &oldest).map(Some)
    }

    fn settle(&mut self, head: &Head, first: i64) -> Sql<()> {
        let entry = self
            .conn
            .statement("SELECT count, followed FROM outbox WHERE first = ?1 AND life = ?2")?
            .query_row([first, head.life], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((count, followed)) = entry else { return Ok(()) };
        if followed > millis(self.now) {
            self.conn
                .statement("UPDATE outbox SET ready = 2 WHERE first = ?1")?
                .execute([first])?;
            self.due.entry_ends(followed);
        } else {
            self.drop_entry(first, count)?;
        }
        self.look_at_agenda(head)
    }

    /// Removes settled entries that can no longer be followed, about `budget` rows; how many it was.
    pub(crate) fn remove_entries(&mut self, budget: usize) -> Sql<usize> {
        let now = millis(self.now);
        let mut done = 0;
        while done < budget && self.due.has_entries(now) {
            let over = self
                .conn
                .statement(
                    "SELECT first, count FROM outbox WHERE ready = 2 AND followed <= ?1 \
                     ORDER BY followed LIMIT 1",
                )?
                .query_row([now], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            match over {
                Some((first, count)) => {
                    self.drop_entry(first, count)?;
                    done += usize::try_from(count).unwrap_or(0);
                }
                None => self.due.look_at_entries(&self.conn)?,
            }
        }
        Ok(done)
    }

    /// Removes an entry with its messages.
    pub(crate) fn drop_entry(&self, first: i64, count: i64) -> Sql<()> {
        self.conn.statement("DELETE FROM outbox WHERE first = ?1")?.execute([first])?;
        self.conn
            .statement("DELETE FROM outbox_messages WHERE position >= ?1 AND position < ?2")?
            .execute([first, first + count])?;
        Ok(())
    }

    fn look_at_agenda(&mut self, head: &Head) -> Sql<()> {
        let next = |ready: i64| -> Sql<i64> {
            let due: Option<i64> = self
                .conn
                .statement("SELECT min(due) FROM outbox WHERE life = ?1 AND ready = ?2")?
                .query_row([head.life, ready], |row| row.get(0))?;
            Ok(due.unwrap_or(NEVER))
        };
        let agenda = next(0)?.min(next(1)?);
        self.set_agenda(head, agenda)
    }

    fn set_agenda(&mut self, head: &Head, agenda: i64) -> Sql<()> {
        if agenda == head.agenda {
            return Ok(());
        }
        self.conn
            .statement("UPDATE heads SET agenda = ?2 WHERE number = ?1")?
            .execute(params![head.number, (agenda != NEVER).then_some(agenda)])?;
        self.change(head.number, |head| head.agenda = agenda);
        Ok(())
    }
}

/// What can be followed behind a position.
fn follow(
    conn: &Statements<'_>,
    head: &Head,
    after: Position,
    limit: usize,
    now: Timestamp,
) -> Sql<Vec<OutboxEntry>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let after = after.get().cast_signed();
    conn.statement(
        "SELECT first, count, created FROM outbox WHERE life = ?1 AND first > ?2 AND followed > ?3 \
         ORDER BY first LIMIT ?4",
    )?
    .query_map([head.life, after, millis(now), limit], Entry::read)?
    .map(|entry| read_entry(conn, head, &entry?))
    .collect()
}

fn read_entry(conn: &Statements<'_>, head: &Head, entry: &Entry) -> Sql<OutboxEntry> {
    let incarnation = head.generation.incarnation;
    let messages = conn
        .statement(
            "SELECT position, ttl, due, sealed, checksum, body FROM outbox_messages \
             WHERE position >= ?1 AND position < ?2 ORDER BY position",
        )?
        .query_map([entry.first, entry.first + entry.count], |row| read_message(row, incarnation))?
        .collect::<Sql<_>>()?;
    Ok(OutboxEntry {
        incarnation,
        first: Position::new(entry.first.cast_unsigned()),
        messages,
        created: time(entry.created),
    })
}

fn read_message(row: &Row<'_>, incarnation: Incarnation) -> Sql<OutboxMessage> {
    let sealed: Option<String> = row.get(3)?;
    let checksum: Option<[u8; 16]> = row.get(4)?;
    Ok(OutboxMessage {
        id: id(incarnation, row.get(0)?),
        ttl: row.get::<_, i64>(1)?.cast_unsigned(),
        due: time(row.get(2)?),
        payload: Payload {
            bytes: Bytes::copy_from_slice(row.get_ref(5)?.as_blob()?),
            sealed_with: sealed.map(KeyId),
            checksum: checksum.map(Checksum),
        },
    })
}
