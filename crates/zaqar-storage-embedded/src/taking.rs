//! What claims and pops have in common: finding the first free messages, and doing so again where that takes long.

use zaqar_core::Timestamp;
use zaqar_core::storage::Error;

use crate::Embedded;
use crate::error::Sql;
use crate::ledger::Ledger;
use crate::rows::{StateRow, columns};

/// Rows of expired messages that one transaction passes over: some milliseconds.
const LOOK: usize = 20_000;
/// Messages that one transaction moves to a dead-letter queue.
const WORN: usize = 1000;
/// Claims and delays that the request ends itself when many are over.
const TURNS: usize = 1024;

/// What a step came to.
pub(crate) enum Step<T> {
    /// It is done.
    Done(T),
    /// It did its share for one transaction and found nothing yet.
    Again,
}

/// The first free messages of a head.
pub(crate) struct Found {
    /// Those to take.
    pub(crate) rows: Vec<StateRow>,
    /// Those on the way that were claimed often enough.
    pub(crate) worn: Vec<StateRow>,
    /// Every free message before this was found, or has expired.
    floor: i64,
    is_end: bool,
}

impl Embedded {
    /// Repeats a step, a transaction each, until it is done. Each takes up where the last has ended.
    pub(crate) async fn repeat<T: Send + 'static, W>(
        &self,
        now: Timestamp,
        step: W,
    ) -> Result<T, Error>
    where
        W: FnMut(&mut Ledger<'_>) -> Sql<Step<T>> + Clone + Send + 'static,
    {
        self.at(now);
        loop {
            if let Step::Done(result) = self.write(step.clone()).await? {
                return Ok(result);
            }
        }
    }
}

impl Ledger<'_> {
    /// Finds the first `limit` free messages, without those that were claimed `worn` times.
    pub(crate) fn first_free(
        &mut self,
        number: i64,
        limit: usize,
        worn: Option<u32>,
    ) -> Sql<Found> {
        // Each transaction has done some before its requests; this is for when that was not enough.
        self.take_turns(TURNS)?;
        let floor = self.head_by_number(number)?.map_or(0, |head| head.floor);
        let mut found = Found { rows: Vec::new(), worn: Vec::new(), floor, is_end: false };
        let mut statement = self.conn.statement(concat!(
            columns!(free),
            " WHERE number = ?1 AND position >= ?2 ORDER BY position"
        ))?;
        let mut rows = statement.query([number, floor])?;
        for _ in 0..LOOK {
            if found.rows.len() == limit || found.worn.len() == WORN {
                return Ok(found);
            }
            let Some(row) = rows.next()? else {
                found.is_end = true;
                return Ok(found);
            };
            let row = StateRow::read(row)?;
            found.floor = row.position + 1;
            if !row.is_live(self.now) {
                continue;
            }
            if worn.is_some_and(|most| row.claims >= most) {
                found.worn.push(row);
            } else {
                found.rows.push(row);
            }
        }
        Ok(found)
    }

    /// What was found is taken: nobody needs to look there again.
    pub(crate) fn pass(&mut self, number: i64, found: &Found) {
        self.note(number, |head| head.floor = head.floor.max(found.floor));
    }
}

impl Found {
    /// Whether nothing was found and looking on may find something.
    pub(crate) const fn is_unfinished(&self) -> bool {
        self.rows.is_empty() && !self.is_end
    }
}
