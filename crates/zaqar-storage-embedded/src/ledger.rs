//! What the writer works with: its connection and what it keeps in memory because it alone writes.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Row, params};
use zaqar_core::storage::{Guarded, Posted};
use zaqar_core::{Generation, Incarnation, Position, QueueKey, Timestamp, Version};

use crate::due::Due;
use crate::error::Sql;
use crate::loose::Loose;
use crate::queues::{key_of, kind_number};
use crate::statements::Statements;

/// Heads kept in memory between transactions, at most.
const HEADS: usize = 8192;

/// Later than every time that is kept.
pub(crate) const NEVER: i64 = i64::MAX;

/// A head, as one transaction sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    /// Which rows belong to it. Never given twice; a purge gives it a new one.
    pub(crate) number: i64,
    pub(crate) generation: Generation,
    pub(crate) free: i64,
    pub(crate) held: i64,
    pub(crate) delayed: i64,
    /// Which subscriptions belong to it. Removing all of them gives it a new one.
    pub(crate) audience: i64,
    /// Which outbox entries belong to it.
    pub(crate) life: i64,
    /// When its first outbox entry is due; [`NEVER`] without one.
    pub(crate) agenda: i64,
    /// When its last subscriptions are over, once that was looked up. Known in memory only.
    pub(crate) heard: Option<Heard>,
    /// Every free message before this position has expired, so that nobody looks at them again. Known in memory only.
    pub(crate) floor: i64,
}

/// Until when somebody hears of what is posted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heard {
    /// By deliveries to an address.
    pub(crate) delivered: i64,
    /// Over a connection.
    pub(crate) followed: i64,
}

struct Cached {
    head: Head,
    dirty: bool,
}

/// Where the writer takes up.
pub(crate) struct Start {
    next_position: i64,
    next_number: i64,
    /// The latest time that the store has acted at.
    pub(crate) seen: Timestamp,
}

impl Start {
    /// Reads what the store was left with.
    pub(crate) fn read(conn: &Connection) -> Sql<Self> {
        conn.query_row("SELECT position, number, seen FROM sequence", [], |row| {
            let (next_position, next_number) = (row.get(0)?, row.get(1)?);
            Ok(Self { next_position, next_number, seen: time(row.get(2)?) })
        })
    }
}

/// The state of the one writer.
pub(crate) struct Ledger<'c> {
    pub(crate) conn: Statements<'c>,
    /// The time to act at, the same for all requests of a transaction.
    pub(crate) now: Timestamp,
    pub(crate) due: Due,
    /// What the transaction posted, in order.
    pub(crate) posted: Vec<Posted>,
    pub(crate) loose: Loose,
    by_number: HashMap<i64, Cached>,
    by_key: HashMap<QueueKey, i64>,
    dirty: Vec<i64>,
    next_position: i64,
    next_number: i64,
    changes: u64,
}

impl<'c> Ledger<'c> {
    pub(crate) fn new(conn: &'c Connection, start: &Start, due: Due) -> Self {
        Self {
            conn: Statements::new(conn),
            now: start.seen,
            due,
            posted: Vec::new(),
            loose: Loose::default(),
            by_number: HashMap::new(),
            by_key: HashMap::new(),
            dirty: Vec::new(),
            next_position: start.next_position,
            next_number: start.next_number,
            changes: 0,
        }
    }

    /// Begins a transaction at the time `now`.
    pub(crate) fn begin(&mut self, now: Timestamp) -> Sql<()> {
        self.now = self.now.max(now);
        self.conn.statement("BEGIN IMMEDIATE")?.execute([])?;
        self.changes = self.conn.total_changes();
        Ok(())
    }

    /// Writes what the transaction changed in memory; nothing where it changed nothing at all.
    pub(crate) fn flush(&mut self) -> Sql<()> {
        let mut update = self.conn.statement(
            "UPDATE heads SET version = ?2, free = ?3, held = ?4, delayed = ?5 WHERE number = ?1",
        )?;
        for number in self.dirty.drain(..) {
            let Some(cached) = self.by_number.get_mut(&number) else { continue };
            cached.dirty = false;
            let head = &cached.head;
            let version = head.generation.version.get().cast_signed();
            update.execute(params![number, version, head.free, head.held, head.delayed])?;
        }
        if self.conn.total_changes() == self.changes {
            return Ok(());
        }
        self.conn
            .statement("UPDATE sequence SET position = ?1, number = ?2, seen = ?3")?
            .execute(params![self.next_position, self.next_number, millis(self.now)])?;
        Ok(())
    }

    pub(crate) fn commit(&mut self) -> Sql<()> {
        self.conn.statement("COMMIT")?.execute([])?;
        self.loose.committed();
        if self.by_number.len() > HEADS {
            self.forget();
        }
        Ok(())
    }

    /// Undoes the transaction, if SQLite has not done so by itself.
    pub(crate) fn roll_back(&mut self) {
        self.forget();
        self.posted.clear();
        self.loose.rolled_back();
        self.due.unknown();
        if self.conn.is_autocommit() {
            return;
        }
        if let Err(error) = self.conn.execute_batch("ROLLBACK") {
            tracing::error!(%error, "a transaction cannot be rolled back");
        }
    }

    /// Forgets what is in memory: the file knows better. Positions and numbers go on, so that none comes twice.
    pub(crate) fn forget(&mut self) {
        self.by_number.clear();
        self.by_key.clear();
        self.dirty.clear();
    }

    /// The position that was given last.
    pub(crate) const fn last_position(&self) -> Position {
        Position::new((self.next_position - 1).cast_unsigned())
    }

    /// The next `count` positions; the first of them.
    pub(crate) fn take_positions(&mut self, count: usize) -> i64 {
        let first = self.next_position;
        self.next_position += i64::try_from(count).unwrap_or(i64::MAX);
        first
    }

    fn take_number(&mut self) -> i64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }

    /// The head of a queue.
    pub(crate) fn head(&mut self, key: &QueueKey) -> Sql<Option<Head>> {
        if let Some(cached) = self.by_key.get(key).and_then(|number| self.by_number.get(number)) {
            return Ok(Some(cached.head));
        }
        let found = find_head(&self.conn, key)?;
        if let Some(head) = found {
            self.keep(key.clone(), head);
        }
        Ok(found)
    }

    /// The head that rows with a number belong to; `None` where they are garbage.
    pub(crate) fn head_by_number(&mut self, number: i64) -> Sql<Option<Head>> {
        if let Some(cached) = self.by_number.get(&number) {
            return Ok(Some(cached.head));
        }
        let found = self
            .conn
            .statement(
                "SELECT number, incarnation, version, free, held, delayed, audience, life, agenda, \
                 project, kind, name FROM heads WHERE number = ?1",
            )?
            .query_row([number], |row| Ok((head_of(row)?, key_of(row, 9)?)))
            .optional()?;
        let Some((head, key)) = found else { return Ok(None) };
        self.keep(key, head);
        Ok(Some(head))
    }

    /// Changes what is kept of a head that [`Self::head`] or [`Self::head_by_number`] found in this transaction.
    pub(crate) fn change(&mut self, number: i64, change: impl FnOnce(&mut Head)) {
        let Some(cached) = self.by_number.get_mut(&number) else { return };
        change(&mut cached.head);
        if !cached.dirty {
            cached.dirty = true;
            self.dirty.push(number);
        }
    }

    /// Changes what only memory knows of a head.
    pub(crate) fn note(&mut self, number: i64, note: impl FnOnce(&mut Head)) {
        if let Some(cached) = self.by_number.get_mut(&number) {
            note(&mut cached.head);
        }
    }

    /// Forgets who hears of what is posted, of every head.
    pub(crate) fn forget_hearers(&mut self) {
        for cached in self.by_number.values_mut() {
            cached.head.heard = None;
        }
    }

    /// Makes a head.
    pub(crate) fn open_head(&mut self, key: &QueueKey, generation: Generation) -> Sql<()> {
        let head = Head {
            number: self.take_number(),
            generation,
            free: 0,
            held: 0,
            delayed: 0,
            audience: self.take_number(),
            life: self.take_number(),
            agenda: NEVER,
            heard: None,
            floor: 0,
        };
        self.conn
            .statement(
                "INSERT INTO heads (number, project, kind, name, incarnation, version, audience, life) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                head.number,
                key.project.as_str(),
                kind_number(key.kind),
                key.name.as_str(),
                generation.incarnation.get().cast_signed(),
                generation.version.get().cast_signed(),
                head.audience,
                head.life,
            ])?;
        self.keep(key.clone(), head);
        Ok(())
    }

    /// Gives a head a new number, and the rows of the old one to the sweep.
    pub(crate) fn empty_head(&mut self, key: &QueueKey, head: Head) -> Sql<()> {
        let number = self.take_number();
        self.conn
            .statement(
                "UPDATE heads SET number = ?2, version = ?3, free = 0, held = 0, delayed = 0 \
                 WHERE number = ?1",
            )?
            .execute(params![head.number, number, head.generation.version.get().cast_signed()])?;
        self.discard(head.number)?;
        self.by_number.remove(&head.number);
        self.keep(key.clone(), Head { number, free: 0, held: 0, delayed: 0, floor: 0, ..head });
        Ok(())
    }

    /// Gives a head a new audience, and the rows of the old one to the sweep.
    pub(crate) fn empty_audience(&mut self, head: &Head) -> Sql<()> {
        let audience = self.take_number();
        self.conn
            .statement("UPDATE heads SET audience = ?2 WHERE number = ?1")?
            .execute([head.number, audience])?;
        self.change(head.number, |head| {
            head.audience = audience;
            head.heard = None;
        });
        self.discard(head.audience)
    }

    /// Removes a head, and leaves its rows to the sweep.
    pub(crate) fn close_head(&mut self, key: &QueueKey, head: &Head) -> Sql<()> {
        self.conn.statement("DELETE FROM heads WHERE number = ?1")?.execute([head.number])?;
        self.by_number.remove(&head.number);
        self.by_key.remove(key);
        [head.number, head.audience, head.life].into_iter().try_for_each(|it| self.discard(it))
    }

    fn discard(&self, number: i64) -> Sql<()> {
        self.conn.statement("INSERT INTO garbage VALUES (?1)")?.execute([number])?;
        Ok(())
    }

    fn keep(&mut self, key: QueueKey, head: Head) {
        self.by_key.insert(key, head.number);
        self.by_number.insert(head.number, Cached { head, dirty: false });
    }

    /// Does a step if the head has the generation that its caller assumes.
    pub(crate) fn guarded<T>(
        &mut self,
        key: &QueueKey,
        assumed: impl FnOnce(Generation) -> bool,
        step: impl FnOnce(&mut Self, Head) -> Sql<T>,
    ) -> Sql<Guarded<T>> {
        match self.head(key)? {
            None => Ok(Guarded::Absent),
            Some(head) if assumed(head.generation) => step(self, head).map(Guarded::Done),
            Some(head) => Ok(Guarded::Stale(head.generation)),
        }
    }
}

/// Reads a head from the file.
pub(crate) fn find_head(conn: &Statements<'_>, key: &QueueKey) -> Sql<Option<Head>> {
    conn.statement(
        "SELECT number, incarnation, version, free, held, delayed, audience, life, agenda \
         FROM heads WHERE project = ?1 AND kind = ?2 AND name = ?3",
    )?
    .query_row(params![key.project.as_str(), kind_number(key.kind), key.name.as_str()], head_of)
    .optional()
}

fn head_of(row: &Row<'_>) -> Sql<Head> {
    Ok(Head {
        number: row.get(0)?,
        generation: generation(row.get(1)?, row.get(2)?),
        free: row.get(3)?,
        held: row.get(4)?,
        delayed: row.get(5)?,
        audience: row.get(6)?,
        life: row.get(7)?,
        agenda: row.get::<_, Option<i64>>(8)?.unwrap_or(NEVER),
        heard: None,
        floor: 0,
    })
}

/// A generation, from the two numbers kept.
pub(crate) const fn generation(incarnation: i64, version: i64) -> Generation {
    Generation {
        incarnation: Incarnation::new(incarnation.cast_unsigned()),
        version: Version::new(version.cast_unsigned()),
    }
}

/// A time, from the number kept.
pub(crate) fn time(millis: i64) -> Timestamp {
    Timestamp::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// The number to keep of a time.
pub(crate) const fn millis(time: Timestamp) -> i64 {
    time.as_millis().cast_signed()
}
