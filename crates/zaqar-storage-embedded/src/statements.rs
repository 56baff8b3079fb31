//! A cache of prepared statements.
//!
//! The cache of rusqlite finds a statement by its text and inserts it again after each use, which
//! costs as much as running a small statement. This one finds it by the address of its text in the
//! program, and keeps it out of that cache as long as this lives: for one request of a reader, or
//! for the whole life of the writer.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use rusqlite::{CachedStatement, Connection, Row, Rows, Statement};

use crate::error::{ErrorKind, Sql, kind_of};

/// A connection and the statements that it has run, at most one per text in the program and
/// concurrent use.
pub(crate) struct Statements<'c> {
    conn: &'c Connection,
    /// The most recently used is last, where the search begins.
    idle: RefCell<Vec<(&'static str, CachedStatement<'c>)>>,
    /// The error of the last row that was skipped.
    skipped: RefCell<Option<rusqlite::Error>>,
}

impl<'c> Statements<'c> {
    pub(crate) const fn new(conn: &'c Connection) -> Self {
        Self { conn, idle: RefCell::new(Vec::new()), skipped: RefCell::new(None) }
    }

    /// Returns a statement; prepares it if it is new.
    pub(crate) fn statement(&self, sql: &'static str) -> Sql<InUse<'_, 'c>> {
        let idle = self.take_idle(sql);
        let statement = match idle {
            Some(statement) => statement,
            None => self.conn.prepare_cached(sql)?,
        };
        Ok(InUse { home: self, sql, statement: Some(statement) })
    }

    /// Skips what cannot be read: a damaged page, or a row that this store does not write. Only for
    /// reads, because a transaction that met damage cannot be committed.
    pub(crate) fn readable<T>(&self, result: Sql<T>) -> Sql<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if matches!(kind_of(&error), ErrorKind::Damage | ErrorKind::Row) => {
                self.skipped.replace(Some(error));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads up to `limit` rows, and skips unreadable ones.
    pub(crate) fn readable_rows<T>(
        &self,
        rows: &mut Rows<'_>,
        limit: usize,
        read: impl Fn(&Row<'_>) -> Sql<T>,
    ) -> Sql<Vec<T>> {
        let mut found = Vec::new();
        while found.len() < limit {
            let Some(row) = rows.next()? else { break };
            found.extend(self.readable(read(row))?);
        }
        Ok(found)
    }

    /// The error of what was skipped since the last call.
    pub(crate) fn take_skipped(&self) -> Option<rusqlite::Error> {
        self.skipped.take()
    }

    fn take_idle(&self, sql: &'static str) -> Option<CachedStatement<'c>> {
        let mut idle = self.idle.borrow_mut();
        let at = idle.iter().rposition(|(text, _)| std::ptr::eq(*text, sql))?;
        Some(idle.swap_remove(at).1)
    }
}

impl Deref for Statements<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.conn
    }
}

/// A statement in use. When it is dropped, it returns to the cache.
pub(crate) struct InUse<'s, 'c> {
    home: &'s Statements<'c>,
    sql: &'static str,
    /// `None` only during the drop.
    statement: Option<CachedStatement<'c>>,
}

impl<'c> Deref for InUse<'_, 'c> {
    type Target = Statement<'c>;

    fn deref(&self) -> &Statement<'c> {
        let Some(statement) = &self.statement else { unreachable!("it is being dropped") };
        statement
    }
}

impl<'c> DerefMut for InUse<'_, 'c> {
    fn deref_mut(&mut self) -> &mut Statement<'c> {
        let Some(statement) = &mut self.statement else { unreachable!("it is being dropped") };
        statement
    }
}

impl Drop for InUse<'_, '_> {
    fn drop(&mut self) {
        if let Some(statement) = self.statement.take() {
            self.home.idle.borrow_mut().push((self.sql, statement));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_prepared_once_and_used_by_one_at_a_time() {
        const ONE: &str = "SELECT 1 + ?1";
        let conn = Connection::open_in_memory().unwrap();
        let statements = Statements::new(&conn);
        let run = |outer: i64| -> i64 {
            statements.statement(ONE).unwrap().query_row([outer], |row| row.get(0)).unwrap()
        };
        assert_eq!((run(1), run(2)), (2, 3));
        assert_eq!(statements.idle.borrow().len(), 1);
        // Two concurrent uses need two statements.
        let mut outer = statements.statement(ONE).unwrap();
        let mut rows = outer.query([5]).unwrap();
        assert_eq!(run(7), 8);
        assert_eq!(rows.next().unwrap().unwrap().get::<_, i64>(0).unwrap(), 6);
        drop(rows);
        drop(outer);
        assert_eq!(statements.idle.borrow().len(), 2);
        assert_eq!(statements.total_changes(), 0);
    }
}
