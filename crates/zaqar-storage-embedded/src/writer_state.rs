//! What the writer works with: its connection and what it keeps in memory because it alone writes.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};

use rusqlite::{Connection, OptionalExtension, Row, params};
use zaqar_core::storage::{Guarded, Posted};
use zaqar_core::{Generation, Incarnation, Position, QueueKey, Timestamp, Version};

use crate::deleted::DeletedBodies;
use crate::due::{Due, Part};
use crate::error::Sql;
use crate::keys::{key_of, kind_number};
use crate::statements::Statements;

/// Heads kept in memory between transactions, at most.
const HEADS: usize = 8192;

/// Positions follow the clock up to here, the year 74 000: a wrong clock does not use them up.
const CLOCK_POSITIONS: i64 = 1 << 61;

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
    pub(crate) outbox_number: i64,
    /// When its first outbox entry is due; [`NEVER`] without one.
    pub(crate) next_due: i64,
    /// When its last subscriptions are over, once that was looked up. Known in memory only.
    pub(crate) subscribed_until: Option<SubscribedUntil>,
    /// Every free message before this position has expired, so that nobody looks at them again.
    /// Known in memory only.
    pub(crate) floor: i64,
}

/// Until when somebody hears of what is posted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SubscribedUntil {
    /// By deliveries to an address.
    pub(crate) address: i64,
    /// Over a connection.
    pub(crate) lease: i64,
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

/// The columns that [`head_of`] reads.
macro_rules! head_columns {
    () => {
        "SELECT number, incarnation, version, free, held, delayed, audience, life, next_due"
    };
}

/// The state of the one writer.
pub(crate) struct WriterState<'c> {
    pub(crate) conn: Statements<'c>,
    /// The time to act at, the same for all requests of a transaction.
    pub(crate) now: Timestamp,
    pub(crate) due: Due,
    /// What the transaction posted, in order.
    pub(crate) posted: Vec<Posted>,
    pub(crate) deleted: DeletedBodies,
    /// The work that is under way in this transaction, or that failed in it.
    pub(crate) part: Option<Part>,
    /// Bodies are left where they are: some of this transaction's are on a damaged page.
    pub(crate) leaves_bodies: bool,
    /// The message whose body could not be read in this transaction.
    pub(crate) failed_body: Cell<Option<i64>>,
    /// Parts whose unreadable rows are put off by this transaction.
    pub(crate) puts_off: Vec<Part>,
    /// The disk is full.
    pub(crate) is_full: bool,
    /// Messages whose bodies cannot be read, some of them.
    pub(crate) unreadable: BTreeSet<i64>,
    by_number: HashMap<i64, Cached>,
    by_key: HashMap<QueueKey, i64>,
    dirty: Vec<i64>,
    next_position: i64,
    next_number: i64,
    changes: u64,
    /// Changes when another connection writes.
    data_version: Option<i64>,
}

impl<'c> WriterState<'c> {
    pub(crate) fn new(conn: &'c Connection, start: &Start, due: Due) -> Self {
        Self {
            conn: Statements::new(conn),
            now: start.seen,
            due,
            posted: Vec::new(),
            deleted: DeletedBodies::default(),
            part: None,
            leaves_bodies: false,
            failed_body: Cell::new(None),
            puts_off: Vec::new(),
            is_full: false,
            unreadable: BTreeSet::new(),
            by_number: HashMap::new(),
            by_key: HashMap::new(),
            dirty: Vec::new(),
            next_position: start.next_position,
            next_number: start.next_number,
            changes: 0,
            data_version: None,
        }
    }

    /// Begins a transaction at the time `now`. It is earlier than before where that was repaired:
    /// then messages live again that had been passed over as expired.
    pub(crate) fn begin(&mut self, now: Timestamp) -> Sql<()> {
        if now < self.now {
            self.by_number.values_mut().for_each(|cached| cached.head.floor = 0);
        }
        self.now = now;
        self.part = None;
        self.failed_body.set(None);
        self.conn.statement("BEGIN IMMEDIATE")?.execute([])?;
        self.changes = self.conn.total_changes();
        Ok(())
    }

    /// In a transaction: whether another program has written to the file since the last one. Then
    /// what is in memory is forgotten.
    pub(crate) fn notice_foreign(&mut self) -> Sql<bool> {
        let version: i64 =
            self.conn.statement("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
        if self.data_version.replace(version).is_none_or(|before| before == version) {
            return Ok(false);
        }
        self.forget();
        self.due.unknown();
        let start = Start::read(&self.conn)?;
        self.next_position = self.next_position.max(start.next_position);
        self.next_number = self.next_number.max(start.next_number);
        Ok(true)
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
        self.deleted.committed();
        self.leaves_bodies = false;
        self.puts_off.clear();
        if self.by_number.len() > HEADS {
            self.forget();
        }
        Ok(())
    }

    /// Undoes the transaction, if SQLite has not done so by itself.
    pub(crate) fn roll_back(&mut self) {
        self.forget();
        self.posted.clear();
        self.deleted.rolled_back();
        self.due.unknown();
        if self.conn.is_autocommit() {
            return;
        }
        if let Err(error) = self.conn.execute_batch("ROLLBACK") {
            tracing::error!(%error, "a transaction cannot be rolled back");
        }
    }

    /// Forgets what is in memory: the file knows better. Positions and numbers go on, so that none
    /// comes twice.
    pub(crate) fn forget(&mut self) {
        self.by_number.clear();
        self.by_key.clear();
        self.dirty.clear();
    }

    /// The position that was given last.
    pub(crate) const fn last_position(&self) -> Position {
        Position::new((self.next_position - 1).cast_unsigned())
    }

    /// The next `count` positions; the first of them. They follow the clock, in microseconds, so
    /// that a store that came back without its last writes does not give their positions again.
    pub(crate) fn take_positions(&mut self, count: usize) -> i64 {
        let clock = millis(self.now).saturating_mul(1000).min(CLOCK_POSITIONS);
        let first = self.next_position.max(clock);
        self.next_position = first.saturating_add(i64::try_from(count).unwrap_or(i64::MAX));
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
        self.find_keyed(
            concat!(head_columns!(), ", project, kind, name FROM heads WHERE number = ?1"),
            number,
        )
    }

    /// The head whose subscriptions have this audience.
    pub(crate) fn head_by_audience(&mut self, audience: i64) -> Sql<Option<Head>> {
        self.find_keyed(
            concat!(head_columns!(), ", project, kind, name FROM heads WHERE audience = ?1"),
            audience,
        )
    }

    /// The head whose outbox entries have this number (`life` in the file).
    pub(crate) fn head_by_outbox_number(&mut self, number: i64) -> Sql<Option<Head>> {
        self.find_keyed(
            concat!(head_columns!(), ", project, kind, name FROM heads WHERE life = ?1"),
            number,
        )
    }

    fn find_keyed(&mut self, sql: &'static str, number: i64) -> Sql<Option<Head>> {
        let found = self
            .conn
            .statement(sql)?
            .query_row([number], |row| Ok((head_of(row)?, key_of(row, 9)?)))
            .optional()?;
        let Some((head, key)) = found else { return Ok(None) };
        // What memory has is newer: the file gets it with the transaction's last statement.
        if let Some(cached) = self.by_number.get(&head.number) {
            return Ok(Some(cached.head));
        }
        self.keep(key, head);
        Ok(Some(head))
    }

    /// Changes what is kept of a head that [`Self::head`] or [`Self::head_by_number`] found in this
    /// transaction.
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
    pub(crate) fn forget_subscribed(&mut self) {
        for cached in self.by_number.values_mut() {
            cached.head.subscribed_until = None;
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
            outbox_number: self.take_number(),
            next_due: NEVER,
            subscribed_until: None,
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
                head.outbox_number,
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
    pub(crate) fn remove_subscriptions_of(&mut self, head: &Head) -> Sql<()> {
        let audience = self.take_number();
        self.conn
            .statement("UPDATE heads SET audience = ?2 WHERE number = ?1")?
            .execute([head.number, audience])?;
        self.change(head.number, |head| {
            head.audience = audience;
            head.subscribed_until = None;
        });
        self.discard(head.audience)
    }

    /// Removes a head, and leaves its rows to the sweep.
    pub(crate) fn close_head(&mut self, key: &QueueKey, head: &Head) -> Sql<()> {
        self.conn.statement("DELETE FROM heads WHERE number = ?1")?.execute([head.number])?;
        self.by_number.remove(&head.number);
        self.by_key.remove(key);
        [head.number, head.audience, head.outbox_number]
            .into_iter()
            .try_for_each(|it| self.discard(it))
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
    conn.statement(concat!(
        head_columns!(),
        " FROM heads WHERE project = ?1 AND kind = ?2 AND name = ?3"
    ))?
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
        outbox_number: row.get(7)?,
        next_due: row.get::<_, Option<i64>>(8)?.unwrap_or(NEVER),
        subscribed_until: None,
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
