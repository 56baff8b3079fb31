//! Shared by claims and pops: finding the first free messages, in several transactions if it takes
//! long.

use zaqar_core::storage::{Error, Skipped, Skipping};
use zaqar_core::{KeyId, Position};

use crate::arrival::START;
use crate::driver::Requester;
use crate::error::Sql;
use crate::rows::{Body, StateRow, columns};
use crate::writer_state::WriterState;

/// Rows of expired messages that one transaction passes over, in some milliseconds.
const MAX_SCANNED: usize = 20_000;
/// Messages that one transaction moves to a dead-letter queue, and bytes of their bodies, about.
const MAX_EXHAUSTED: usize = 256;
const MAX_EXHAUSTED_BYTES: usize = 1 << 20;
/// Claims and delays that the request itself ends if many are due.
const DUE_BUDGET: usize = 1024;

/// The result of one transaction of an operation.
pub(crate) enum Progress<T> {
    /// The operation is done.
    Done(T),
    /// The transaction has done its share and found nothing yet.
    Unfinished,
}

/// Which free messages an operation takes.
pub(crate) struct Search<'a> {
    /// At most so many.
    pub(crate) limit: usize,
    /// Begins after this position.
    pub(crate) after: Option<Position>,
    /// The keys that the caller has; `None` for any.
    pub(crate) keys: Option<&'a [KeyId]>,
    /// Those that were claimed so often are not taken.
    pub(crate) exhausted: Option<u32>,
}

/// The first free messages of a head.
#[derive(Default)]
pub(crate) struct Found {
    /// The messages to take.
    pub(crate) rows: Vec<(StateRow, Body)>,
    /// Messages before those that were claimed too often.
    pub(crate) exhausted: Vec<StateRow>,
    pub(crate) skipped: Skipped,
    /// Every free message before this position was found or has expired.
    pub(crate) floor: i64,
    /// Nothing was found, and the search must be continued.
    pub(crate) is_unfinished: bool,
}

/// A live free message of a search.
enum Candidate {
    Free(Body),
    /// It was claimed too often; the length of its body.
    Exhausted(usize),
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
    /// Finds the first free messages of a head.
    pub(crate) fn first_free(&mut self, number: i64, search: &Search<'_>) -> Sql<Found> {
        // Each transaction has ended some before its requests; this is for a backlog.
        self.end_due(DUE_BUDGET)?;
        let Some(head) = self.head_by_number(number)? else { return Ok(Found::default()) };
        let after = search.after.map_or(START, |after| head.stored(after).saturating_add(1));
        let mut found = Found { floor: head.floor, ..Found::default() };
        let (mut skipping, mut exhausted_bytes) = (Skipping::default(), 0);
        let (mut scanned, mut last) = (0, head.floor);
        let (begins_at_floor, mut is_end) = (after <= head.floor, false);
        let mut statement = self.conn.statement(concat!(
            columns!(free),
            " WHERE number = ?1 AND position >= ?2 ORDER BY position"
        ))?;
        let mut rows = statement.query([number, head.floor.max(after)])?;
        while found.rows.len() < search.limit
            && found.exhausted.len() < MAX_EXHAUSTED
            && exhausted_bytes < MAX_EXHAUSTED_BYTES
            && scanned < MAX_SCANNED
        {
            let Some(row) = rows.next()? else {
                is_end = true;
                break;
            };
            let row = StateRow::read(row)?;
            if head.hidden.contains(row.position) {
                drop(rows);
                rows = statement.query([number, head.hidden.end])?;
                continue;
            }
            scanned += 1;
            last = row.position;
            match self.candidate(&row, search)? {
                None => {}
                Some(Ok(Candidate::Free(body))) => found.rows.push((row, body)),
                Some(Ok(Candidate::Exhausted(bytes))) => {
                    exhausted_bytes += bytes;
                    found.exhausted.push(row);
                }
                Some(Err(key)) => {
                    let is_full = skipping.skip(Some(&key), head.shown(row.position));
                    if is_full {
                        break;
                    }
                }
            }
            if begins_at_floor && skipping.is_empty() {
                found.floor = row.position + 1;
            }
        }
        found.skipped = skipping.skipped;
        // The floor does not say where to continue after messages that stay free.
        let is_cut = scanned == MAX_SCANNED && found.rows.len() < search.limit;
        if is_cut && (!found.rows.is_empty() || found.floor <= last) {
            found.skipped.next.get_or_insert(head.shown(last));
        }
        found.is_unfinished = found.rows.is_empty() && !is_end && found.skipped.next.is_none();
        Ok(found)
    }

    /// What a search does with a free message: `None` if it has expired or its body is damaged; an
    /// error is the key that the caller does not have.
    fn candidate(
        &self,
        row: &StateRow,
        search: &Search<'_>,
    ) -> Sql<Option<Result<Candidate, KeyId>>> {
        if !row.is_live(self.now) {
            return Ok(None);
        }
        let (position, keys) = (row.position, search.keys);
        Ok(if search.exhausted.is_some_and(|most| row.claims >= most) {
            self.body_length(position, keys)?.map(|length| length.map(Candidate::Exhausted))
        } else {
            self.body(position, keys)?.map(|body| body.map(Candidate::Free))
        })
    }

    /// Records that every free message before a position is taken or has expired.
    pub(crate) fn advance_floor(&mut self, number: i64, floor: i64) {
        self.change_in_memory(number, |head| head.floor = head.floor.max(floor));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use zaqar_core::Payload;
    use zaqar_core::storage::{Claimed, Claims, DeadLetters, Guarded, Heads, Messages, Skipped};

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
            Guarded::Done(Claimed::Messages {
                messages: Vec::new(),
                dead_letters: 12,
                skipped: Skipped::default(),
            })
        );
        let changed = store.write(|state| Ok(state.transactions.clone())).await.unwrap();
        let moves = changed.iter().filter(|rows| **rows > 0).count();
        assert!(moves >= 3, "four messages of 300 KiB each time: {changed:?}");
        let moved = store.stats(&key("dead"), time(0)).await.unwrap().unwrap();
        assert_eq!(moved.free, 12);
    }
}
