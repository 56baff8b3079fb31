//! What claims and pops have in common: finding the first free messages, and doing so again where
//! that takes long.

use zaqar_core::KeyId;
use zaqar_core::storage::{Error, PopQuery};

use crate::driver::Requester;
use crate::error::Sql;
use crate::rows::{Body, StateRow, columns};
use crate::writer_state::WriterState;

/// Rows of expired messages that one transaction passes over: some milliseconds.
const LOOK: usize = 20_000;
/// Messages that one transaction moves to a dead-letter queue.
const EXHAUSTED: usize = 1000;
/// Claims and delays that the request ends itself when many are over.
const DUE_BUDGET: usize = 1024;

/// Messages that its caller cannot open and a pop passes over in one slice.
const UNREADABLE: usize = 1000;

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
    pub(crate) exhausted: Vec<StateRow>,
    /// Every free message before this was found, or has expired.
    pub(crate) floor: i64,
    is_end: bool,
}

/// The first messages that a pop can take.
#[derive(Default)]
pub(crate) struct Readable {
    pub(crate) rows: Vec<(StateRow, Body)>,
    /// The last position looked at, where the search ended before the queue and the limit did.
    pub(crate) next: Option<i64>,
    is_unfinished: bool,
}

impl Readable {
    /// Whether nothing was found, only expired messages, and looking on may find something.
    pub(crate) const fn is_unfinished(&self) -> bool {
        self.is_unfinished
    }
}

impl Requester<'_> {
    /// Repeats a step, a transaction each, until it is done. Each takes up where the last has
    /// ended.
    pub(crate) async fn repeat<T: Send + 'static, W>(&self, step: W) -> Result<T, Error>
    where
        W: FnMut(&mut WriterState<'_>) -> Sql<Step<T>> + Clone + Send + 'static,
    {
        loop {
            if let Step::Done(result) = self.write(step.clone()).await? {
                return Ok(result);
            }
        }
    }
}

impl WriterState<'_> {
    /// Finds the first `limit` free messages, without those that were claimed `exhausted` times.
    pub(crate) fn first_free(
        &mut self,
        number: i64,
        limit: usize,
        exhausted: Option<u32>,
    ) -> Sql<Found> {
        // Each transaction has done some before its requests; this is for when that was not enough.
        self.end_due(DUE_BUDGET)?;
        let floor = self.head_by_number(number)?.map_or(0, |head| head.floor);
        let mut found = Found { rows: Vec::new(), exhausted: Vec::new(), floor, is_end: false };
        let mut statement = self.conn.statement(concat!(
            columns!(free),
            " WHERE number = ?1 AND position >= ?2 ORDER BY position"
        ))?;
        let mut rows = statement.query([number, floor])?;
        for _ in 0..LOOK {
            if found.rows.len() == limit || found.exhausted.len() == EXHAUSTED {
                return Ok(found);
            }
            let Some(row) = rows.next()? else {
                found.is_end = true;
                return Ok(found);
            };
            let row = StateRow::read(row)?;
            found.floor = row.position + 1;
            if !row.is_live(self.now) || self.unreadable.contains(&row.position) {
                continue;
            }
            if exhausted.is_some_and(|most| row.claims >= most) {
                found.exhausted.push(row);
            } else {
                found.rows.push(row);
            }
        }
        Ok(found)
    }

    /// Finds the first free messages that a pop can open.
    pub(crate) fn first_readable(&mut self, number: i64, query: &PopQuery) -> Sql<Readable> {
        self.end_due(DUE_BUDGET)?;
        let floor = self.head_by_number(number)?.map_or(0, |head| head.floor);
        let after = query.after.map_or(0, |after| after.get().cast_signed().saturating_add(1));
        let mut found = Readable::default();
        let (mut looked, mut unreadable, mut last) = (0, 0, None);
        // Every free message before this has expired or is taken.
        let mut passed = floor;
        {
            let mut statement = self.conn.statement(concat!(
                columns!(free),
                " WHERE number = ?1 AND position >= ?2 ORDER BY position"
            ))?;
            let mut rows = statement.query([number, floor.max(after)])?;
            while found.rows.len() < query.limit {
                if looked == LOOK || unreadable == UNREADABLE {
                    found.next = last;
                    break;
                }
                let Some(row) = rows.next()? else { break };
                let row = StateRow::read(row)?;
                looked += 1;
                last = Some(row.position);
                if row.is_live(self.now) {
                    // Every state row has a body: both are written and removed in one transaction.
                    match self.body(row.position)? {
                        Some(body) if is_readable(&body, &query.keys) => {
                            found.rows.push((row, body))
                        }
                        Some(_) => unreadable += 1,
                        None => {}
                    }
                }
                if unreadable == 0 {
                    passed = row.position + 1;
                }
            }
        }
        if after <= floor {
            self.advance_floor(number, passed);
        }
        found.is_unfinished =
            found.rows.is_empty() && unreadable == 0 && found.next.is_some() && after <= floor;
        Ok(found)
    }

    /// What was found is taken: nobody needs to look there again.
    pub(crate) fn advance_floor(&mut self, number: i64, floor: i64) {
        self.note(number, |head| head.floor = head.floor.max(floor));
    }
}

impl Found {
    /// Whether nothing was found and looking on may find something.
    pub(crate) const fn is_unfinished(&self) -> bool {
        self.rows.is_empty() && !self.is_end
    }
}

fn is_readable(body: &Body, keys: &[KeyId]) -> bool {
    body.payload.sealed_with.as_ref().is_none_or(|key| keys.contains(key))
}
