//! Rows of `expiry` that are not written yet.
//!
//! A new message needs a row there only when it expires. Written with the message, the row would
//! cost the transaction a page; together, in order, many of them take one. So up to [`MANY`] wait
//! in memory, and `sequence.indexed` is a position from which on messages may have no row. After a
//! crash the rows of these are made from the messages.

use std::collections::BTreeMap;

use rusqlite::Connection;

use crate::error::Sql;
use crate::statements::Statements;

/// This many rows wait at most; then the next transaction writes them.
const MANY: usize = 256;

/// Makes the missing rows from the messages. A message without a state was deleted: it expires at
/// once.
const INDEX: &str = "
BEGIN IMMEDIATE;
INSERT OR IGNORE INTO expiry
    SELECT coalesce(free.expires, held.expires, delayed.expires, 0), messages.position,
        coalesce(messages.number, 0)
    FROM messages
    LEFT JOIN free ON free.number = messages.number AND free.position = messages.position
    LEFT JOIN held ON held.number = messages.number AND held.position = messages.position
    LEFT JOIN delayed
        ON delayed.number = messages.number AND delayed.position = messages.position
    WHERE messages.position >= (SELECT indexed FROM sequence);
UPDATE sequence SET indexed = position;
COMMIT;
";

/// When the message at a position expires, and the number of its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ExpiryRow {
    pub(crate) at: i64,
    pub(crate) position: i64,
    pub(crate) number: i64,
}

/// The waiting rows.
#[derive(Debug)]
pub(crate) struct ExpiryRows {
    /// By position.
    waiting: BTreeMap<i64, ExpiryRow>,
    /// What the transaction has changed, and what was there before.
    undo: Vec<(i64, Option<ExpiryRow>)>,
    /// `sequence.indexed`, or later if its transaction was rolled back.
    indexed: i64,
    /// Some messages from `indexed` on have no row, and none is waiting: it must stay as it is.
    is_incomplete: bool,
}

/// Makes the rows that a process which died has not written. If the disk is full or damaged, that
/// is left to the next start.
pub(crate) fn index(conn: &Connection) -> Sql<()> {
    let is_missing = "SELECT EXISTS (SELECT 1 FROM messages \
                      WHERE position >= (SELECT indexed FROM sequence))";
    let outcome = conn
        .query_row(is_missing, [], |row| row.get(0))
        .and_then(|is_missing| if is_missing { conn.execute_batch(INDEX) } else { Ok(()) });
    if let Err(error) = outcome {
        tracing::warn!(%error, "some of the latest messages are not swept when they have expired");
        if !conn.is_autocommit() {
            conn.execute_batch("ROLLBACK")?;
        }
    }
    Ok(())
}

impl ExpiryRows {
    /// None waits when a store is opened: [`index`] has written those that were missing.
    pub(crate) fn new(conn: &Connection) -> Self {
        let read = conn.query_row(
            "SELECT indexed, EXISTS (SELECT 1 FROM messages WHERE position >= indexed) \
             FROM sequence",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        );
        // Unreadable: nothing waits, and the file's stays as it is.
        let (indexed, is_incomplete) = read.unwrap_or((i64::MAX, true));
        Self { waiting: BTreeMap::new(), undo: Vec::new(), indexed, is_incomplete }
    }

    /// Adds the row of a new message. Returns `false` if it cannot wait.
    pub(crate) fn add(&mut self, row: ExpiryRow) -> bool {
        if row.position < self.indexed || self.are_many() {
            return false;
        }
        self.set(row.position, Some(row));
        true
    }

    /// Changes a waiting row. Returns `false` if none waits for this position.
    pub(crate) fn change(&mut self, position: i64, at: i64) -> bool {
        let Some(row) = self.waiting.get(&position).copied() else { return false };
        self.set(position, Some(ExpiryRow { at, ..row }));
        true
    }

    /// Removes a waiting row. Returns `false` if none waits for this position.
    pub(crate) fn remove(&mut self, position: i64) -> bool {
        let is_waiting = self.waiting.contains_key(&position);
        if is_waiting {
            self.set(position, None);
        }
        is_waiting
    }

    fn set(&mut self, position: i64, row: Option<ExpiryRow>) {
        let before = match row {
            Some(row) => self.waiting.insert(position, row),
            None => self.waiting.remove(&position),
        };
        self.undo.push((position, before));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether the next transaction must write them.
    pub(crate) fn are_many(&self) -> bool {
        self.waiting.len() >= MANY
    }

    /// Writes the waiting rows, in order. Every message has a position before `next_position`.
    pub(crate) fn write(&mut self, conn: &Statements<'_>, next_position: i64) -> Sql<()> {
        let mut rows: Vec<_> = std::mem::take(&mut self.waiting).into_values().collect();
        self.undo.extend(rows.iter().map(|row| (row.position, Some(*row))));
        rows.sort_unstable();
        let mut insert = conn.statement("INSERT OR IGNORE INTO expiry VALUES (?1, ?2, ?3)")?;
        for row in rows {
            insert.execute([row.at, row.position, row.number])?;
        }
        if self.is_incomplete {
            return Ok(());
        }
        conn.statement("UPDATE sequence SET indexed = ?1")?.execute([next_position])?;
        self.indexed = self.indexed.max(next_position);
        Ok(())
    }

    /// The transaction was committed.
    pub(crate) fn committed(&mut self) {
        self.undo.clear();
    }

    /// The current state, for [`Self::back_to`].
    pub(crate) const fn mark(&self) -> usize {
        self.undo.len()
    }

    /// Undoes what was done since a mark; 0 is the beginning of the transaction.
    pub(crate) fn back_to(&mut self, mark: usize) {
        for (position, before) in self.undo.drain(mark.min(self.undo.len())..).rev() {
            match before {
                Some(row) => self.waiting.insert(position, row),
                None => self.waiting.remove(&position),
            };
        }
    }

    /// Forgets all of them, because they cannot be written: the next start makes them again.
    pub(crate) fn forget(&mut self) {
        self.waiting.clear();
        self.undo.clear();
        self.is_incomplete = true;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use rusqlite::Connection;
    use tempfile::{TempDir, tempdir};
    use zaqar_core::storage::{Claims, Guarded, Heads, Messages, Upkeep};

    use super::*;
    use crate::testing::{batch, generation, key, request, store, time};
    use crate::{Embedded, Options};

    fn row(position: i64) -> ExpiryRow {
        ExpiryRow { at: 100 - position, position, number: 1 }
    }

    fn count(directory: &Path, sql: &str) -> i64 {
        let conn = Connection::open(directory.join("zaqar.db")).unwrap();
        conn.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    const ROWS: &str = "SELECT count(*) FROM expiry";
    const MESSAGES: &str = "SELECT count(*) FROM messages";
    /// Messages whose row is missing or wrong.
    const UNINDEXED: &str = "SELECT count(*) FROM (SELECT * FROM free UNION ALL \
        SELECT number, position, expires, claims FROM held UNION ALL \
        SELECT number, position, expires, claims FROM delayed) AS state WHERE NOT EXISTS \
        (SELECT 1 FROM expiry WHERE at = state.expires AND expiry.position = state.position \
        AND expiry.number = state.number)";

    /// What a kill leaves.
    fn killed(directory: &Path) -> TempDir {
        let copy = tempdir().unwrap();
        for name in ["zaqar.db", "zaqar.db-wal"] {
            fs::copy(directory.join(name), copy.path().join(name)).unwrap();
        }
        copy
    }

    #[test]
    fn changes_are_undone_with_their_transaction() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(
            "CREATE TABLE sequence (indexed); INSERT INTO sequence VALUES (1); \
             CREATE TABLE messages (position); CREATE TABLE expiry (at, position, number)",
        )
        .unwrap();
        let mut rows = ExpiryRows::new(&conn);
        assert!(rows.add(row(1)) && rows.add(row(2)) && !rows.add(row(0)));
        rows.committed();
        assert!(rows.change(1, 500) && rows.remove(2) && rows.add(row(3)));
        let mark = rows.mark();
        assert!(rows.remove(1) && rows.add(row(4)) && !rows.change(2, 7));
        rows.back_to(mark);
        let waiting: Vec<_> = rows.waiting.values().copied().collect();
        assert_eq!(waiting, [ExpiryRow { at: 500, ..row(1) }, row(3)]);
        rows.write(&Statements::new(&conn), 10).unwrap();
        assert!(rows.is_empty() && !rows.add(row(9)), "the file says that 9 is indexed");
        rows.back_to(0);
        let waiting: Vec<_> = rows.waiting.values().copied().collect();
        assert_eq!(waiting, [row(1), row(2)]);
        let written: i64 = conn.query_row(ROWS, [], |row| row.get(0)).unwrap();
        assert_eq!(written, 2);
    }

    /// Posts, claims, deletes and moves messages in each state of their rows, and then compares.
    #[tokio::test]
    async fn after_a_crash_every_message_has_its_row() {
        let (store, directory) = store();
        store.open(&key("q"), generation(), time(0)).await.unwrap();
        let post = async |count, ttl, delay| {
            let mut batch = batch(count, ttl);
            batch.messages.iter_mut().for_each(|new| new.delay = delay);
            let posted = store.post(&key("q"), generation(), batch, time(0)).await.unwrap();
            let Guarded::Done(ids) = posted else { panic!("{posted:?}") };
            ids
        };
        post(MANY - 3, 60, 0).await;
        let ids = post(20, 600, 0).await;
        post(2, 300, 50).await;
        // Longer than the messages live.
        store.claim(&key("q"), generation(), &request(1, 5000), time(0)).await.unwrap();
        for id in &ids[..5] {
            let claim = Some(zaqar_core::ClaimId::new(1));
            store.delete(&key("q"), *id, claim, time(0)).await.unwrap();
        }
        post(7, 60, 0).await;
        assert!(count(directory.path(), UNINDEXED) > 0, "all rows are written, nothing is tested");
        let copy = killed(directory.path());
        let restarted = Embedded::open(Options::new(copy.path())).unwrap();
        assert_eq!(count(copy.path(), UNINDEXED), 0);
        // Everything expires, bodies of deleted messages too.
        zaqar_storage_testkit::sweep(&restarted, time(10_000), 500).await;
        assert_eq!((count(copy.path(), MESSAGES), count(copy.path(), ROWS)), (0, 0));
        zaqar_storage_testkit::sweep(&store, time(10_000), 500).await;
        assert_eq!((count(directory.path(), MESSAGES), count(directory.path(), ROWS)), (0, 0));
    }

    #[tokio::test]
    async fn a_closed_store_has_all_rows() {
        let (store, directory) = store();
        store.open(&key("q"), generation(), time(0)).await.unwrap();
        store.post(&key("q"), generation(), batch(5, 60), time(0)).await.unwrap();
        assert_eq!(count(directory.path(), ROWS), 0);
        store.shut_down().await.unwrap();
        assert_eq!((count(directory.path(), ROWS), count(directory.path(), UNINDEXED)), (5, 0));
    }

    /// Rows that cannot be written stop no change, and the next start makes them again.
    #[tokio::test]
    async fn rows_that_cannot_be_written_are_left_to_the_next_start() {
        const FAILS: &str = "CREATE TRIGGER fails BEFORE INSERT ON expiry \
            WHEN new.number = 1 BEGIN SELECT raise(FAIL, 'planted'); END";
        let (store, directory) = store();
        for name in ["q", "other"] {
            store.open(&key(name), generation(), time(0)).await.unwrap();
        }
        let post = async |name, count| {
            store.post(&key(name), generation(), batch(count, 60), time(0)).await.unwrap();
        };
        post("q", 3).await;
        store.write(|state| state.conn.execute_batch(FAILS)).await.unwrap();
        for _ in 0..3 * MANY {
            post("other", 1).await;
        }
        store.write(|state| state.conn.execute_batch("DROP TRIGGER fails")).await.unwrap();
        post("other", 1).await;
        let copy = killed(directory.path());
        Embedded::open(Options::new(copy.path())).unwrap();
        assert_eq!(count(copy.path(), UNINDEXED), 0);
    }
}
