//! The writer's state: its connection, and a cache that is valid because it alone writes.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Weak;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};
use zaqar_core::storage::{Guarded, MoveEnd, MoveId, Posted};
use zaqar_core::{Generation, Incarnation, Kind, Position, QueueKey, StateLog, Timestamp, Version};

use crate::arrival::{Arrival, START};
use crate::deleted_bodies::DeletedBodies;
use crate::due::{Due, UpkeepTask};
use crate::error::{Frozen, Sql};
use crate::expiry_rows::ExpiryRows;
use crate::keys::{key_of, kind_number};
use crate::sequence::{Sequence, Start};
use crate::statements::Statements;
pub(crate) use crate::times::{after, millis, time};

/// Bound on cached heads between transactions.
const HEADS: usize = 8192;

static ROLLBACK_LOG: StateLog = StateLog::new();

/// Later than every stored time.
pub(crate) const NEVER: i64 = i64::MAX;

/// A head, as one transaction sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    /// Identifies its messages and claims. Never reused; a purge assigns a new one.
    pub(crate) number: i64,
    pub(crate) generation: Generation,
    /// No client can name the queue.
    pub(crate) is_internal: bool,
    pub(crate) free: i64,
    pub(crate) held: i64,
    pub(crate) delayed: i64,
    /// Identifies its subscriptions (`audience` in the file). Removing all of them assigns a new
    /// one.
    pub(crate) subscriptions_number: i64,
    /// Identifies its outbox entries (`life` in the file).
    pub(crate) outbox_number: i64,
    /// When its first outbox entry is due; [`NEVER`] without one.
    pub(crate) next_due: i64,
    /// When its last subscriptions expire, once queried. Kept in memory only.
    pub(crate) subscribed_until: Option<SubscribedUntil>,
    /// Every free message before this position has expired, so searches start here. Kept in memory
    /// only.
    pub(crate) floor: i64,
    /// Messages that no reader sees: see [`crate::hidden`].
    pub(crate) hidden: Positions,
    /// The move that has frozen it.
    pub(crate) frozen: Option<Frozen>,
    /// What it brought from another store.
    pub(crate) arrival: Option<Arrival>,
}

impl Head {
    /// It, unless it is frozen for a move.
    fn unless_frozen(self) -> Sql<Self> {
        self.frozen.map_or(Ok(self), |frozen| Err(frozen.into()))
    }

    /// Whether a message at this position is visible, and so counted.
    pub(crate) const fn shows(&self, position: i64) -> bool {
        !self.hidden.contains(position)
    }
}

/// Positions from one to another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Positions {
    pub(crate) start: i64,
    pub(crate) end: i64,
}

impl Positions {
    /// This many positions.
    pub(crate) fn new(start: i64, count: usize) -> Self {
        Self { start, end: start.saturating_add(i64::try_from(count).unwrap_or(i64::MAX)) }
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.start >= self.end
    }

    pub(crate) const fn contains(self, position: i64) -> bool {
        position >= self.start && position < self.end
    }
}

/// Until when a queue has live subscriptions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SubscribedUntil {
    /// Those with an address.
    pub(crate) address: i64,
    /// Those of connections, which have a lease.
    pub(crate) lease: i64,
}

struct Cached {
    head: Head,
    dirty: bool,
}

/// The columns that [`head_of`] reads.
macro_rules! head_columns {
    () => {
        "SELECT number, incarnation, version, free, held, delayed, audience, life, next_due, \
         hidden_from, hidden_until, frozen, leaves, arrival"
    };
}

/// The state of the writer.
pub(crate) struct WriterState<'c> {
    pub(crate) conn: Statements<'c>,
    /// The time at which all requests of a transaction act.
    pub(crate) now: Timestamp,
    pub(crate) due: Due,
    /// The posts of the transaction, in order.
    pub(crate) posted: Vec<Posted>,
    pub(crate) deleted: DeletedBodies,
    pub(crate) expiry: ExpiryRows,
    /// The task that is running in this transaction, or that failed in it.
    pub(crate) task: Option<UpkeepTask>,
    /// Bodies are not deleted: some of this transaction's are on a damaged page.
    pub(crate) skips_bodies: bool,
    /// The message whose body could not be read in this transaction.
    pub(crate) failed_body: Cell<Option<i64>>,
    /// Tasks whose unreadable rows this transaction defers.
    pub(crate) deferred: Vec<UpkeepTask>,
    /// Messages of clients that the current sweep removed because they had expired.
    pub(crate) expired: usize,
    /// The disk is full.
    pub(crate) is_full: bool,
    /// Some of the messages whose bodies cannot be read.
    pub(crate) unreadable: BTreeSet<i64>,
    /// By the number of their heads, the posts that have written some of their parts.
    pub(crate) posts_in_parts: HashMap<i64, Weak<()>>,
    /// The head whose hidden messages are being removed in this transaction, or that failed.
    pub(crate) removing: Option<i64>,
    /// Some of the heads whose hidden messages cannot be removed.
    pub(crate) unremovable: BTreeSet<i64>,
    /// How many rows each transaction has changed.
    #[cfg(test)]
    pub(crate) transactions: Vec<u64>,
    by_number: HashMap<i64, Cached>,
    by_key: HashMap<QueueKey, i64>,
    dirty: Vec<i64>,
    sequence: Sequence,
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
            expiry: ExpiryRows::new(conn),
            task: None,
            skips_bodies: false,
            failed_body: Cell::new(None),
            deferred: Vec::new(),
            expired: 0,
            is_full: false,
            unreadable: BTreeSet::new(),
            posts_in_parts: HashMap::new(),
            removing: None,
            unremovable: BTreeSet::new(),
            #[cfg(test)]
            transactions: Vec::new(),
            by_number: HashMap::new(),
            by_key: HashMap::new(),
            dirty: Vec::new(),
            sequence: Sequence::new(start),
            changes: 0,
            data_version: None,
        }
    }

    /// Begins a transaction at the time `now`. If a wrong time was corrected, it is earlier than
    /// before, and messages that had been skipped as expired are live again.
    pub(crate) fn begin(&mut self, now: Timestamp) -> Sql<()> {
        if now < self.now {
            self.by_number.values_mut().for_each(|cached| cached.head.floor = START);
        }
        self.now = now;
        self.task = None;
        self.removing = None;
        self.failed_body.set(None);
        self.conn.statement("BEGIN IMMEDIATE")?.execute([])?;
        self.changes = self.conn.total_changes();
        Ok(())
    }

    /// Returns whether another program has written to the file since the last transaction. If so,
    /// clears the cache. Must be called in a transaction.
    pub(crate) fn detect_foreign_write(&mut self) -> Sql<bool> {
        let version: i64 =
            self.conn.statement("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
        if self.data_version.replace(version).is_none_or(|before| before == version) {
            return Ok(false);
        }
        self.clear_cache();
        self.due.reset();
        self.sequence.raise(&Start::read(&self.conn)?);
        Ok(true)
    }

    /// Writes the cached changes; nothing if the transaction changed nothing.
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
        self.sequence.reserve(&self.conn, self.now)
    }

    /// Writes the rows of `expiry` that wait.
    pub(crate) fn write_expiry(&mut self) -> Sql<()> {
        self.expiry.write(&self.conn, self.sequence.next_position())
    }

    /// Gives back reserved positions and time, as the last change before the store is closed.
    pub(crate) fn give_back_reserved(&mut self) -> Sql<()> {
        self.sequence.give_back(&self.conn, self.now)
    }

    pub(crate) fn commit(&mut self) -> Sql<()> {
        self.conn.statement("COMMIT")?.execute([])?;
        #[cfg(test)]
        self.transactions.push(self.conn.total_changes() - self.changes);
        self.deleted.committed();
        self.expiry.committed();
        self.skips_bodies = false;
        self.deferred.clear();
        if self.by_number.len() > HEADS {
            self.clear_cache();
        }
        Ok(())
    }

    /// Rolls the transaction back, if SQLite has not done so itself.
    pub(crate) fn roll_back(&mut self) {
        self.clear_cache();
        self.posted.clear();
        self.deleted.rolled_back();
        self.expiry.back_to(0);
        self.due.reset();
        if self.conn.is_autocommit() {
            return;
        }
        if let Err(error) = self.conn.execute_batch("ROLLBACK")
            && let Some(failures) = ROLLBACK_LOG.failure()
        {
            tracing::error!(%error, failures, "a transaction cannot be rolled back");
        }
    }

    /// Clears the cache, because the file is newer. Positions and numbers continue, so that none is
    /// reused.
    pub(crate) fn clear_cache(&mut self) {
        self.sequence.forget_row();
        self.by_number.clear();
        self.by_key.clear();
        self.dirty.clear();
    }

    /// The last position that was assigned.
    pub(crate) const fn last_position(&self) -> Position {
        self.sequence.last_position()
    }

    /// Allocates `count` positions and returns the first.
    pub(crate) fn allocate_positions(&mut self, count: usize) -> i64 {
        self.sequence.allocate_positions(count, self.now)
    }

    const fn allocate_number(&mut self) -> i64 {
        self.sequence.allocate_number()
    }

    /// Has positions that are assigned from now on be later than this one.
    pub(crate) fn pass_position(&mut self, last: i64) {
        self.sequence.pass_position(last);
    }

    /// The head of a queue; an error if it is frozen.
    pub(crate) fn head(&mut self, key: &QueueKey) -> Sql<Option<Head>> {
        self.any_head(key)?.map(Head::unless_frozen).transpose()
    }

    /// The head of a queue, frozen or not.
    pub(crate) fn any_head(&mut self, key: &QueueKey) -> Sql<Option<Head>> {
        if let Some(cached) = self.by_key.get(key).and_then(|number| self.by_number.get(number)) {
            return Ok(Some(cached.head));
        }
        let found = find_any_head(&self.conn, key)?;
        if let Some(head) = found {
            self.cache(key.clone(), head);
        }
        Ok(found)
    }

    /// The head that rows with a number belong to; `None` if they are garbage.
    pub(crate) fn head_by_number(&mut self, number: i64) -> Sql<Option<Head>> {
        if let Some(cached) = self.by_number.get(&number) {
            return Ok(Some(cached.head));
        }
        self.find_keyed(
            concat!(head_columns!(), ", project, kind, name FROM heads WHERE number = ?1"),
            number,
        )
    }

    /// The head of subscriptions with this number (`audience` in the file).
    pub(crate) fn head_by_subscriptions_number(
        &mut self,
        subscriptions_number: i64,
    ) -> Sql<Option<Head>> {
        self.find_keyed(
            concat!(head_columns!(), ", project, kind, name FROM heads WHERE audience = ?1"),
            subscriptions_number,
        )
    }

    /// The head of outbox entries with this number (`life` in the file).
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
            .query_row([number], |row| {
                let key = key_of(row, 14)?;
                Ok((head_of(row, key.kind)?, key))
            })
            .optional()?;
        let Some((head, key)) = found else { return Ok(None) };
        // The cached head is newer: it is written at the end of the transaction.
        if let Some(cached) = self.by_number.get(&head.number) {
            return Ok(Some(cached.head));
        }
        self.cache(key, head);
        Ok(Some(head))
    }

    /// Changes a cached head that [`Self::head`] or [`Self::head_by_number`] returned in this
    /// transaction.
    pub(crate) fn change(&mut self, number: i64, change: impl FnOnce(&mut Head)) {
        let Some(cached) = self.by_number.get_mut(&number) else { return };
        change(&mut cached.head);
        if !cached.dirty {
            cached.dirty = true;
            self.dirty.push(number);
        }
    }

    /// Changes fields of a head that are kept in memory only.
    pub(crate) fn change_in_memory(&mut self, number: i64, note: impl FnOnce(&mut Head)) {
        if let Some(cached) = self.by_number.get_mut(&number) {
            note(&mut cached.head);
        }
    }

    /// Forgets the expiry of subscriptions of all heads.
    pub(crate) fn forget_subscribed_until(&mut self) {
        for cached in self.by_number.values_mut() {
            cached.head.subscribed_until = None;
        }
    }

    /// Creates a head.
    pub(crate) fn open_head(&mut self, key: &QueueKey, generation: Generation) -> Sql<()> {
        let head = Head {
            number: self.allocate_number(),
            generation,
            is_internal: key.kind == Kind::Internal,
            free: 0,
            held: 0,
            delayed: 0,
            subscriptions_number: self.allocate_number(),
            outbox_number: self.allocate_number(),
            next_due: NEVER,
            subscribed_until: None,
            floor: START,
            hidden: Positions::default(),
            frozen: None,
            arrival: None,
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
                head.subscriptions_number,
                head.outbox_number,
            ])?;
        self.cache(key.clone(), head);
        Ok(())
    }

    /// Assigns a new number to a head, and leaves the rows of the old one to the sweep.
    pub(crate) fn empty_head(&mut self, key: &QueueKey, head: Head) -> Sql<()> {
        let number = self.allocate_number();
        self.conn
            .statement(
                "UPDATE heads SET number = ?2, version = ?3, free = 0, held = 0, delayed = 0, \
                 hidden_from = NULL, hidden_until = NULL WHERE number = ?1",
            )?
            .execute(params![head.number, number, head.generation.version.get().cast_signed()])?;
        self.drop_hidden_outbox(&head)?;
        self.discard(head.number)?;
        self.by_number.remove(&head.number);
        let hidden = Positions::default();
        let empty = Head { number, free: 0, held: 0, delayed: 0, floor: START, hidden, ..head };
        self.cache(key.clone(), empty);
        Ok(())
    }

    /// Assigns a new subscriptions number to a head, and leaves the rows of the old one to the
    /// sweep.
    pub(crate) fn remove_subscriptions_of(&mut self, head: &Head) -> Sql<()> {
        let subscriptions_number = self.allocate_number();
        self.conn
            .statement("UPDATE heads SET audience = ?2 WHERE number = ?1")?
            .execute([head.number, subscriptions_number])?;
        self.change(head.number, |head| {
            head.subscriptions_number = subscriptions_number;
            head.subscribed_until = None;
        });
        self.discard(head.subscriptions_number)
    }

    /// Deletes a head, and leaves its rows to the sweep.
    pub(crate) fn close_head(&mut self, key: &QueueKey, head: &Head) -> Sql<()> {
        self.conn.statement("DELETE FROM heads WHERE number = ?1")?.execute([head.number])?;
        self.drop_hidden_outbox(head)?;
        self.by_number.remove(&head.number);
        self.by_key.remove(key);
        [head.number, head.subscriptions_number, head.outbox_number]
            .into_iter()
            .try_for_each(|it| self.discard(it))
    }

    fn discard(&self, number: i64) -> Sql<()> {
        self.conn.statement("INSERT INTO garbage VALUES (?1)")?.execute([number])?;
        Ok(())
    }

    fn cache(&mut self, key: QueueKey, head: Head) {
        self.by_key.insert(key, head.number);
        self.by_number.insert(head.number, Cached { head, dirty: false });
    }

    /// Runs an operation if the head has the generation that the caller assumes.
    pub(crate) fn guarded<T>(
        &mut self,
        key: &QueueKey,
        assumed: impl FnOnce(Generation) -> bool,
        operation: impl FnOnce(&mut Self, Head) -> Sql<T>,
    ) -> Sql<Guarded<T>> {
        Guarded::check(self.head(key)?, |head| head.generation, assumed)
            .try_map(|head| operation(self, head))
    }
}

/// Reads a head from the file; an error if it is frozen.
pub(crate) fn find_head(conn: &Statements<'_>, key: &QueueKey) -> Sql<Option<Head>> {
    find_any_head(conn, key)?.map(Head::unless_frozen).transpose()
}

/// Reads a head from the file, frozen or not.
pub(crate) fn find_any_head(conn: &Statements<'_>, key: &QueueKey) -> Sql<Option<Head>> {
    conn.statement(concat!(
        head_columns!(),
        " FROM heads WHERE project = ?1 AND kind = ?2 AND name = ?3"
    ))?
    .query_row(params![key.project.as_str(), kind_number(key.kind), key.name.as_str()], |row| {
        head_of(row, key.kind)
    })
    .optional()
}

fn head_of(row: &Row<'_>, kind: Kind) -> Sql<Head> {
    Ok(Head {
        number: row.get(0)?,
        generation: generation(row.get(1)?, row.get(2)?),
        is_internal: kind == Kind::Internal,
        free: row.get(3)?,
        held: row.get(4)?,
        delayed: row.get(5)?,
        subscriptions_number: row.get(6)?,
        outbox_number: row.get(7)?,
        next_due: row.get::<_, Option<i64>>(8)?.unwrap_or(NEVER),
        subscribed_until: None,
        floor: START,
        hidden: Positions {
            start: row.get::<_, Option<i64>>(9)?.unwrap_or(0),
            end: row.get::<_, Option<i64>>(10)?.unwrap_or(0),
        },
        frozen: frozen(row.get(11)?, row.get(12)?),
        arrival: arrival(row.get_ref(13)?.as_blob_or_null()?)?,
    })
}

fn frozen(id: Option<i64>, leaves: Option<bool>) -> Option<Frozen> {
    let end = if leaves? { MoveEnd::Source } else { MoveEnd::Target };
    Some(Frozen { id: MoveId::new(id?.cast_unsigned()), end })
}

fn arrival(bytes: Option<&[u8]>) -> Sql<Option<Arrival>> {
    let damaged = || rusqlite::Error::InvalidColumnType(13, "arrival".to_owned(), Type::Blob);
    bytes.map(|bytes| Arrival::read(bytes).ok_or_else(damaged)).transpose()
}

/// A generation from its two stored numbers.
pub(crate) const fn generation(incarnation: i64, version: i64) -> Generation {
    Generation {
        incarnation: Incarnation::new(incarnation.cast_unsigned()),
        version: Version::new(version.cast_unsigned()),
    }
}
