//! Shared by claims and pops: finding the first free messages, in several transactions if it takes
//! long.

use zaqar_core::storage::{Error, PopQuery};

use crate::arrival::START;
use crate::driver::Requester;
use crate::error::Sql;
use crate::rows::{Body, StateRow, columns};
use crate::writer_state::{Positions, WriterState};

/// Rows of expired messages that one transaction passes over, in some milliseconds.
const MAX_SCANNED: usize = 20_000;
/// Messages that one transaction moves to a dead-letter queue, and bytes of their bodies, about.
const MAX_EXHAUSTED: usize = 256;
const MAX_EXHAUSTED_BYTES: usize = 1 << 20;
/// Claims and delays that the request itself ends if many are due.
const DUE_BUDGET: usize = 1024;

/// Messages that the caller cannot decrypt and that one slice of a pop passes over.
const MAX_UNREADABLE: usize = 1000;

/// The result of one transaction of an operation.
pub(crate) enum Progress<T> {
    /// The operation is done.
    Done(T),
    /// The transaction has done its share and found nothing yet.
    Unfinished,
}

/// The first free messages of a head.
pub(crate) struct Found {
    /// The messages to take.
    pub(crate) rows: Vec<StateRow>,
    /// Messages before those that were claimed too often.
    pub(crate) exhausted: Vec<StateRow>,
    /// Every free message before this position was found or has expired.
    pub(crate) floor: i64,
    is_end: bool,
}

/// The first messages that a pop can take.
#[derive(Default)]
pub(crate) struct Readable {
    pub(crate) rows: Vec<(StateRow, Body)>,
    /// The last position that was scanned, if the search ended before the queue and the limit did.
    pub(crate) next: Option<i64>,
    is_unfinished: bool,
}

impl Readable {
    /// Whether only expired messages were found, and the search must be continued.
    pub(crate) const fn is_unfinished(&self) -> bool {
        self.is_unfinished
    }
}

impl Requester<'_> {
    /// Repeats an operation, in one transaction each, until it is done. Each continues where the
    /// last has ended. Each takes so many messages, about.
    pub(crate) async fn repeat<T: Send + 'static, W>(
        &self,
        messages: usize,
        operation: W,
    ) -> Result<T, Error>
    where
        W: FnMut(&mut WriterState<'_>) -> Sql<Progress<T>> + Clone + Send + 'static,
    {
        loop {
            if let Progress::Done(result) = self.write_rows(messages, operation.clone()).await? {
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
        // Each transaction has ended some before its requests; this is for a backlog.
        self.end_due(DUE_BUDGET)?;
        let head = self.head_by_number(number)?;
        let floor = head.map_or(START, |head| head.floor);
        let hidden = head.map_or_else(Positions::default, |head| head.hidden);
        let mut found = Found { rows: Vec::new(), exhausted: Vec::new(), floor, is_end: false };
        let mut exhausted_bytes = 0;
        let mut statement = self.conn.statement(concat!(
            columns!(free),
            " WHERE number = ?1 AND position >= ?2 ORDER BY position"
        ))?;
        let mut rows = statement.query([number, floor])?;
        for _ in 0..MAX_SCANNED {
            if found.rows.len() == limit
                || found.exhausted.len() == MAX_EXHAUSTED
                || exhausted_bytes >= MAX_EXHAUSTED_BYTES
            {
                return Ok(found);
            }
            let Some(row) = rows.next()? else {
                found.is_end = true;
                return Ok(found);
            };
            let row = StateRow::read(row)?;
            if hidden.contains(row.position) {
                drop(rows);
                rows = statement.query([number, hidden.end])?;
                continue;
            }
            found.floor = row.position + 1;
            if !row.is_live(self.now) || self.unreadable.contains(&row.position) {
                continue;
            }
            if exhausted.is_some_and(|most| row.claims >= most) {
                exhausted_bytes += self.body_length(row.position)?;
                found.exhausted.push(row);
            } else {
                found.rows.push(row);
            }
        }
        Ok(found)
    }

    /// Finds the first free messages that the caller of a pop can decrypt.
    pub(crate) fn first_readable(&mut self, number: i64, query: &PopQuery) -> Sql<Readable> {
        self.end_due(DUE_BUDGET)?;
        let head = self.head_by_number(number)?;
        let floor = head.map_or(START, |head| head.floor);
        let hidden = head.map_or_else(Positions::default, |head| head.hidden);
        let after = query.after.zip(head);
        let after = after.map_or(START, |(after, head)| head.stored(after).saturating_add(1));
        let mut found = Readable::default();
        let (mut scanned, mut unreadable, mut last) = (0, 0, None);
        // Every free message before this position has expired or is taken.
        let mut passed = floor;
        {
            let mut statement = self.conn.statement(concat!(
                columns!(free),
                " WHERE number = ?1 AND position >= ?2 ORDER BY position"
            ))?;
            let mut rows = statement.query([number, floor.max(after)])?;
            while found.rows.len() < query.limit {
                if scanned == MAX_SCANNED || unreadable == MAX_UNREADABLE {
                    found.next = last;
                    break;
                }
                let Some(row) = rows.next()? else { break };
                let row = StateRow::read(row)?;
                if hidden.contains(row.position) {
                    drop(rows);
                    rows = statement.query([number, hidden.end])?;
                    continue;
                }
                scanned += 1;
                last = Some(row.position);
                if row.is_live(self.now) {
                    // Every state row has a body: both are written and removed in one transaction.
                    match self.body(row.position)? {
                        Some(body) if query.can_open(&body.payload) => found.rows.push((row, body)),
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

    /// Records that every free message before a position is taken or has expired.
    pub(crate) fn advance_floor(&mut self, number: i64, floor: i64) {
        self.change_in_memory(number, |head| head.floor = head.floor.max(floor));
    }
}

impl Found {
    /// Whether nothing was found, and the search must be continued.
    pub(crate) const fn is_unfinished(&self) -> bool {
        self.rows.is_empty() && !self.is_end
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use zaqar_core::Payload;
    use zaqar_core::storage::{Claimed, Claims, DeadLetters, Guarded, Heads, Messages};

    use crate::testing::{batch, generation, key, request, store, time};

    #[tokio::test]
    async fn transactions_that_move_dead_letters_are_bounded_in_bytes() {
        let (store, _directory) = store();
        for name in ["q", "dead"] {
            store.open(&key(name), generation(), time(0)).await.unwrap();
        }
        let mut large = batch(1, 600);
        large.messages[0].payload = Payload::plain(Bytes::from(vec![b'1'; 300 << 10]));
        for _ in 0..12 {
            store.post(&key("q"), generation(), large.clone(), time(0)).await.unwrap();
        }
        store.claim(&key("q"), generation(), &request(1, 60), time(0)).await.unwrap();
        store.claim_release(&key("q"), zaqar_core::ClaimId::new(1), time(0)).await.unwrap();
        store.write(|state| Ok(std::mem::take(&mut state.transactions))).await.unwrap();
        let (target, generation) = (key("dead"), generation());
        let rule = DeadLetters { target, generation, max_claim_count: 1, ttl: None };
        let mut next = request(2, 60);
        next.dead_letters = Some(rule);
        let claimed = store.claim(&key("q"), generation, &next, time(0)).await.unwrap();
        assert_eq!(
            claimed,
            Guarded::Done(Claimed::Messages { messages: Vec::new(), dead_letters: 12 })
        );
        let changed = store.write(|state| Ok(state.transactions.clone())).await.unwrap();
        let moves = changed.iter().filter(|rows| **rows > 0).count();
        assert!(moves >= 3, "four messages of 300 KiB each time: {changed:?}");
        let moved = store.stats(&key("dead"), time(0)).await.unwrap().unwrap();
        assert_eq!(moved.free, 12);
    }
}
