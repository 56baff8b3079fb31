//! Connections for reads.
//!
//! A read runs on the calling task. It reads a bounded number of rows, waits for no writer and no
//! lock, and costs less than a switch to another thread. It waits for the disk only if pages are
//! not in memory.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use crate::error::{Frozen, Sql};
use crate::health::Health;
use crate::schema;
use crate::statements::Statements;

/// Idle connections that are kept. More are opened for concurrent reads, and closed afterwards.
const IDLE: usize = 8;

pub(crate) struct Readers {
    directory: PathBuf,
    health: Arc<Health>,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(crate) const fn new(directory: PathBuf, health: Arc<Health>) -> Self {
        Self { directory, health, idle: Mutex::new(Vec::new()) }
    }

    /// Reads from one snapshot of the file.
    pub(crate) fn read<T>(&self, work: impl FnOnce(&Statements<'_>) -> Sql<T>) -> Sql<T> {
        let waiting = self.idle().pop();
        let conn = match waiting {
            Some(conn) => conn,
            None => schema::open_reader(&self.directory)?,
        };
        let statements = Statements::new(&conn);
        statements.statement("BEGIN")?.execute([])?;
        let result = match work(&statements) {
            Err(error) if Frozen::of(&error).is_none() => return Err(error),
            result => result,
        };
        if let Some(error) = statements.take_skipped() {
            // The connection is dropped, because its state is unknown.
            self.health.record(&error);
            return result;
        }
        statements.statement("COMMIT")?.execute([])?;
        drop(statements);
        // After an error the connection is dropped instead, which ends its transaction.
        let mut idle = self.idle();
        if idle.len() < IDLE {
            idle.push(conn);
        }
        result
    }

    /// Closes idle connections.
    pub(crate) fn clear(&self) {
        self.idle().clear();
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
