//! The counters of the file: the next position, the next number, and the store's time.
//!
//! If their row were written with each transaction, a page would be, too. So the row is ahead of
//! the counters: it reserves [`POSITIONS`] and [`MILLIS`], and is written again once they are used
//! up. After a crash the store continues at what was reserved, so that no position is assigned
//! again. Its time continues a second before what was reserved, so that nothing is due too early:
//! it is later than that by the clock, unless the clock was set back. A store that is closed writes
//! its counters as they are.

use rusqlite::Connection;
use zaqar_core::{Position, Timestamp};

use crate::error::Sql;
use crate::statements::Statements;
use crate::times::{millis, time};

/// Positions that are reserved: as many as the clock allows in a second.
const POSITIONS: i64 = 1_000_000;
/// The time that is reserved, which is how far the store's clock may be ahead after a crash.
const MILLIS: i64 = 1000;

/// The counters with which the writer starts.
pub(crate) struct Start {
    next_position: i64,
    next_number: i64,
    /// A time at which or before which the store has acted last.
    pub(crate) seen: Timestamp,
}

impl Start {
    /// Reads the counters from the file.
    pub(crate) fn read(conn: &Connection) -> Sql<Self> {
        // Whoever died has left the mark of an open store, and a time that was reserved.
        let sql = "SELECT position, number, seen, EXISTS (SELECT 1 FROM open_mark) FROM sequence";
        conn.query_row(sql, [], |row| {
            let (next_position, next_number, seen) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let reserved = if row.get(3)? { MILLIS } else { 0 };
            Ok(Self { next_position, next_number, seen: time(i64::max(seen, reserved) - reserved) })
        })
    }
}

/// The counters of the writer.
#[derive(Debug)]
pub(crate) struct Sequence {
    next_position: i64,
    next_number: i64,
    /// The row in the file, as this transaction sees it; `None` if that is unknown.
    row: Option<Row>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    position: i64,
    number: i64,
    seen: i64,
}

impl Sequence {
    pub(crate) const fn new(start: &Start) -> Self {
        let Start { next_position, next_number, .. } = *start;
        Self { next_position, next_number, row: None }
    }

    /// The last position that was assigned.
    pub(crate) const fn last_position(&self) -> Position {
        Position::new((self.next_position - 1).cast_unsigned())
    }

    /// Allocates `count` positions and returns the first. They follow the clock, in microseconds,
    /// so that a store that has lost its last writes does not assign their positions again.
    pub(crate) fn allocate_positions(&mut self, count: usize, now: Timestamp) -> i64 {
        let first = self.next_position.max(Position::of_clock(now).get().cast_signed());
        self.next_position = first.saturating_add(i64::try_from(count).unwrap_or(i64::MAX));
        first
    }

    /// Has positions that are assigned from now on be later than this one.
    pub(crate) fn pass_position(&mut self, last: i64) {
        self.next_position = self.next_position.max(last.saturating_add(1));
    }

    /// The position after every one that was assigned.
    pub(crate) const fn next_position(&self) -> i64 {
        self.next_position
    }

    pub(crate) const fn allocate_number(&mut self) -> i64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }

    /// Continues at what another program has written, if that is further.
    pub(crate) fn raise(&mut self, start: &Start) {
        self.next_position = self.next_position.max(start.next_position);
        self.next_number = self.next_number.max(start.next_number);
        self.row = None;
    }

    /// Forgets what the file says: after a rollback, or when the file is newer.
    pub(crate) const fn forget_row(&mut self) {
        self.row = None;
    }

    /// Writes the row if it does not cover what this transaction has used.
    pub(crate) fn reserve(&mut self, conn: &Statements<'_>, now: Timestamp) -> Sql<()> {
        if self.row.is_some_and(|row| self.is_covered_by(row, millis(now))) {
            return Ok(());
        }
        self.write(
            conn,
            Row {
                position: self.next_position.saturating_add(POSITIONS),
                number: self.next_number,
                seen: millis(now).saturating_add(MILLIS),
            },
        )
    }

    const fn is_covered_by(&self, row: Row, now: i64) -> bool {
        self.next_position <= row.position
            && self.next_number == row.number
            && now <= row.seen
            // The clock was ahead, and was corrected.
            && row.seen - now <= MILLIS
    }

    /// Gives back what is reserved, as the last change before the store is closed.
    pub(crate) fn give_back(&mut self, conn: &Statements<'_>, now: Timestamp) -> Sql<()> {
        let (position, number) = (self.next_position, self.next_number);
        self.write(conn, Row { position, number, seen: millis(now) })
    }

    fn write(&mut self, conn: &Statements<'_>, row: Row) -> Sql<()> {
        conn.statement("UPDATE sequence SET position = ?1, number = ?2, seen = ?3")?.execute([
            row.position,
            row.number,
            row.seen,
        ])?;
        self.row = Some(row);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rusqlite::Connection;
    use tempfile::tempdir;
    use zaqar_core::storage::{Guarded, Heads, Messages, Upkeep};
    use zaqar_core::{MessageId, Timestamp};

    use crate::testing::{batch, generation, key, store, time};
    use crate::{Embedded, Options};

    const LATER: Timestamp = Timestamp::from_millis(time(0).as_millis() + 900);

    async fn post(store: &Embedded, now: Timestamp) -> MessageId {
        let posted = store.post(&key("q"), generation(), batch(1, 60), now).await.unwrap();
        let Guarded::Done(ids) = posted else { panic!("{posted:?}") };
        ids[0]
    }

    fn row(directory: &std::path::Path) -> (u64, u64) {
        let conn = Connection::open(directory.join("zaqar.db")).unwrap();
        conn.query_row("SELECT position, seen FROM sequence", [], |row| {
            Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, i64>(1)?.cast_unsigned()))
        })
        .unwrap()
    }

    #[tokio::test]
    async fn after_a_crash_positions_and_time_continue() {
        let (store, directory) = store();
        store.open(&key("q"), generation(), time(0)).await.unwrap();
        // Ahead of the clock, so that only the row keeps them from being assigned again.
        store.write(|state| Ok(state.allocate_positions(10_000_000))).await.unwrap();
        post(&store, time(0)).await;
        let reserved = row(directory.path());
        let last = post(&store, LATER).await;
        assert_eq!(row(directory.path()), reserved, "the second post has not written the row");
        // What a kill leaves.
        let copy = tempdir().unwrap();
        for name in ["zaqar.db", "zaqar.db-wal"] {
            fs::copy(directory.path().join(name), copy.path().join(name)).unwrap();
        }
        let restarted = Embedded::open(Options::new(copy.path())).unwrap();
        let next = post(&restarted, LATER).await;
        assert!(next.position > last.position);
        let messages = Messages::get(&restarted, &key("q"), &[next], LATER).await.unwrap();
        assert_eq!(messages[0].created, LATER, "nothing is due too early");
    }

    #[tokio::test]
    async fn a_closed_store_returns_its_reservation() {
        let (store, directory) = store();
        store.open(&key("q"), generation(), time(0)).await.unwrap();
        let last = post(&store, LATER).await;
        store.shut_down().await.unwrap();
        assert_eq!(row(directory.path()), (last.position.get() + 1, LATER.as_millis()));
    }

    /// A reservation that was rolled back, alone or with its transaction, is not relied on.
    #[tokio::test]
    async fn a_reservation_that_was_rolled_back_is_made_again() {
        let (store, directory) = store();
        store.open(&key("q"), generation(), time(0)).await.unwrap();
        for _ in 0..3 {
            store
                .write(|state| {
                    state.allocate_positions(2_000_000);
                    state.conn.execute("UPDATE heads SET version = version", [])?;
                    state.flush()?;
                    state.conn.execute("nonsense", [])
                })
                .await
                .unwrap_err();
            let last = post(&store, time(0)).await;
            assert!(last.position.get() < row(directory.path()).0);
        }
    }

    /// A clock that was ahead leaves the reserved time behind once it is corrected.
    #[tokio::test]
    async fn the_reserved_time_follows_a_corrected_clock() {
        let (store, directory) = store();
        store.open(&key("q"), generation(), time(1000)).await.unwrap();
        post(&store, time(1000)).await;
        post(&store, time(0)).await;
        assert_eq!(row(directory.path()).1, time(1).as_millis());
    }
}
