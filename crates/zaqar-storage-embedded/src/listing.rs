//! Reads of messages: pages, messages by id, and counts.

use zaqar_core::storage::{Endpoint, ListQuery, Message, MessagePage, Stats, Volume};
use zaqar_core::{ClaimId, Kind, MessageId, Timestamp};

use crate::arrival::START;
use crate::error::Sql;
use crate::keys::kind_number;
use crate::rows::{State, StateRow, body, columns, created, find, is_live_claim, message};
use crate::statements::Statements;
use crate::writer_state::{Head, NEVER, millis, time};

/// Expired messages that a page passes over, in about half a millisecond.
const MAX_SKIPPED: usize = 4000;
/// The cost of a hidden message relative to an expired one, because its client must be read.
const HIDDEN_COST: usize = 4;
/// Bound on rows that are scanned to subtract expired messages from counts, in about 0.3 ms: all
/// rows of a queue that has no more, or the first expired ones of all queues.
const MAX_EXPIRED_SCANNED: i64 = 4096;
/// Expired messages that are passed over at each end of a queue.
const MAX_END_SCANNED: usize = 10_000;

/// Bytes of bodies after which a read ends: others' reads go between the slices of a large page.
pub(crate) const SLICE_BYTES: usize = 128 << 10;

/// A part of a page.
pub(crate) struct Slice {
    pub(crate) page: MessagePage,
    /// It ends because of its size.
    pub(crate) is_large: bool,
}

/// One page, or its first part if it is large.
pub(crate) fn list(
    conn: &Statements<'_>,
    head: &Head,
    query: &ListQuery,
    now: Timestamp,
) -> Sql<Slice> {
    let incarnation = head.generation.incarnation;
    let after = query
        .after
        .filter(|marker| marker.incarnation == incarnation)
        .map_or(START, |marker| head.stored(marker.position));
    let mut holders = Holders::new(conn, head.number, now);
    let mut page = MessagePage::default();
    let mut statement = conn.statement(page_sql(query))?;
    let mut rows = statement.query([head.number, after])?;
    let mut last = None;
    let (mut skipped, mut bytes) = (0, 0);
    while page.messages.len() < query.limit && skipped < MAX_SKIPPED && bytes < SLICE_BYTES {
        let Some(row) = rows.next()? else {
            // The end is reached: only a page with messages has a next one.
            last = last.filter(|_| !page.messages.is_empty());
            break;
        };
        let Some(row) = conn.readable(StateRow::read(row))? else {
            skipped += 1;
            continue;
        };
        if !head.shows(row.position) {
            drop(rows);
            rows = statement.query([head.number, head.hidden.end - 1])?;
            continue;
        }
        last = Some(row.position);
        if !row.is_live(now) {
            skipped += 1;
            continue;
        }
        match conn.readable(body(conn, row.position, query.hide.as_ref()))?.flatten() {
            Some(body) => {
                bytes += body.payload.bytes.len();
                page.messages.push(message(head, &row, body, holders.of(&row)?));
            }
            None => skipped += HIDDEN_COST,
        }
    }
    page.next = last.map(|position| head.id(position));
    Ok(Slice { is_large: bytes >= SLICE_BYTES && page.messages.len() < query.limit, page })
}

/// Messages by id.
pub(crate) fn get(
    conn: &Statements<'_>,
    head: &Head,
    ids: &[MessageId],
    now: Timestamp,
) -> Sql<Vec<Message>> {
    let incarnation = head.generation.incarnation;
    let mut positions: Vec<_> = ids
        .iter()
        .filter(|id| id.incarnation == incarnation)
        .map(|id| head.stored(id.position))
        .collect();
    positions.sort_unstable();
    positions.dedup();
    let mut holders = Holders::new(conn, head.number, now);
    let mut messages = Vec::with_capacity(positions.len());
    for position in positions {
        let row = conn.readable(find(conn, head.number, position))?.flatten();
        let Some(row) = row.filter(|row| row.is_live(now) && head.shows(position)) else {
            continue;
        };
        if let Some(body) = conn.readable(body(conn, position, None))?.flatten() {
            messages.push(message(head, &row, body, holders.of(&row)?));
        }
    }
    Ok(messages)
}

/// Counts and ends. `has_expired`: messages of some queue have expired and were not swept yet.
/// Writes nothing. Only a bounded number of these messages is subtracted; if there are more, the
/// counts are too high.
pub(crate) fn stats(
    conn: &Statements<'_>,
    head: &Head,
    has_expired: bool,
    now: Timestamp,
) -> Sql<Stats> {
    let oldest = end(conn, head, End::Oldest, now)?;
    let newest = end(conn, head, End::Newest, now)?;
    let gone = if has_expired { expired(conn, head, now)? } else { Expired::default() };
    Ok(Stats {
        free: (head.free - gone.free).max(0).cast_unsigned(),
        claimed: (head.held - gone.held).max(0).cast_unsigned(),
        delayed: (head.delayed - gone.delayed).max(0).cast_unsigned(),
        ends: oldest.zip(newest),
    })
}

/// Expired messages of a head that are still counted.
#[derive(Debug, Default)]
struct Expired {
    free: i64,
    held: i64,
    delayed: i64,
}

fn expired(conn: &Statements<'_>, head: &Head, now: Timestamp) -> Sql<Expired> {
    if head.free + head.held + head.delayed <= MAX_EXPIRED_SCANNED {
        return count_expired(conn, head, now);
    }
    let mut gone = Expired::default();
    let mut statement = conn.statement(
        "SELECT number, position FROM expiry WHERE at <= ?1 ORDER BY at, position LIMIT ?2",
    )?;
    let mut rows = statement.query([millis(now), MAX_EXPIRED_SCANNED])?;
    while let Some(row) = rows.next()? {
        if row.get::<_, i64>(0).ok() != Some(head.number) {
            continue;
        }
        // Without a state it was deleted and is not counted.
        let row = find(conn, head.number, row.get(1)?)?;
        let Some(row) = row.filter(|row| head.shows(row.position)) else { continue };
        match row.state {
            State::Free => gone.free += 1,
            State::Held(_) => gone.held += 1,
            State::Delayed(_) => gone.delayed += 1,
        }
    }
    Ok(gone)
}

/// Scans every visible message of a head.
fn count_expired(conn: &Statements<'_>, head: &Head, now: Timestamp) -> Sql<Expired> {
    let count = |sql| -> Sql<i64> {
        let parameters = [head.number, millis(now), head.hidden.start, head.hidden.end];
        conn.statement(sql)?.query_row(parameters, |row| row.get(0))
    };
    macro_rules! expired {
        ($table:literal) => {
            concat!(
                "SELECT (SELECT count(*) FROM ",
                $table,
                " WHERE number = ?1 AND expires <= ?2 AND position < ?3) + (SELECT count(*) FROM ",
                $table,
                " WHERE number = ?1 AND expires <= ?2 AND position >= ?4)"
            )
        };
    }
    Ok(Expired {
        free: count(expired!("free"))?,
        held: count(expired!("held"))?,
        delayed: count(expired!("delayed"))?,
    })
}

/// Totals over all queues except internal ones. Reads every head.
pub(crate) fn volume(conn: &Statements<'_>) -> Sql<Volume> {
    conn.statement(
        "SELECT coalesce(sum(held), 0), coalesce(sum(free + delayed), 0) FROM heads WHERE kind != ?1",
    )?
    .query_row([kind_number(Kind::Internal)], |row| {
        Ok(Volume {
            claimed: row.get::<_, i64>(0)?.cast_unsigned(),
            free: row.get::<_, i64>(1)?.cast_unsigned(),
        })
    })
}

/// An end of a queue.
#[derive(Clone, Copy)]
enum End {
    Oldest,
    Newest,
}

/// Messages in each state between two positions, in this order.
macro_rules! in_order {
    ($order:literal) => {
        [in_order!(free, $order), in_order!(held, $order), in_order!(delayed, $order)]
    };
    ($table:ident, $order:literal) => {
        concat!(columns!($table), " WHERE number = ?1 AND position > ?2 AND position < ?3", $order)
    };
}

const OLDEST: [&str; 3] = in_order!(" ORDER BY position");
const NEWEST: [&str; 3] = in_order!(" ORDER BY position DESC");

fn end(conn: &Statements<'_>, head: &Head, end: End, now: Timestamp) -> Sql<Option<Endpoint>> {
    let (tables, better): (_, fn(i64, i64) -> i64) = match end {
        End::Oldest => (OLDEST, i64::min),
        End::Newest => (NEWEST, i64::max),
    };
    let mut best = None;
    for sql in tables {
        if let Some(position) = first_live(conn, sql, head, end, now)? {
            best = Some(best.map_or(position, |it| better(it, position)));
        }
    }
    let Some(position) = best else { return Ok(None) };
    Ok(Some(Endpoint {
        id: head.id(position),
        created: time(conn.readable(created(conn, position))?.unwrap_or(0)),
    }))
}

fn first_live(
    conn: &Statements<'_>,
    sql: &'static str,
    head: &Head,
    end: End,
    now: Timestamp,
) -> Sql<Option<i64>> {
    let mut statement = conn.statement(sql)?;
    let mut rows = statement.query([head.number, START, NEVER])?;
    for _ in 0..MAX_END_SCANNED {
        let Some(row) = rows.next()? else { return Ok(None) };
        let row = StateRow::read(row)?;
        if !head.shows(row.position) {
            drop(rows);
            rows = match end {
                End::Oldest => statement.query([head.number, head.hidden.end - 1, NEVER])?,
                End::Newest => statement.query([head.number, START, head.hidden.start])?,
            };
            continue;
        }
        if row.is_live(now) {
            return Ok(Some(row.position));
        }
    }
    Ok(None)
}

const fn page_sql(query: &ListQuery) -> &'static str {
    macro_rules! merged {
        ($first:ident $(, $more:ident)*) => {
            concat!(
                columns!($first),
                " WHERE number = ?1 AND position > ?2",
                $(" UNION ALL ", columns!($more), " WHERE number = ?1 AND position > ?2",)*
                " ORDER BY position"
            )
        };
    }
    match (query.include_claimed, query.include_delayed) {
        (false, false) => merged!(free),
        (true, false) => merged!(free, held),
        (false, true) => merged!(free, delayed),
        (true, true) => merged!(free, held, delayed),
    }
}

/// Looks up the live claims that hold messages. Adjacent messages mostly have the same claim, so
/// the last result is kept.
struct Holders<'a, 'c> {
    conn: &'a Statements<'c>,
    number: i64,
    now: Timestamp,
    last: Option<(ClaimId, bool)>,
}

impl<'a, 'c> Holders<'a, 'c> {
    const fn new(conn: &'a Statements<'c>, number: i64, now: Timestamp) -> Self {
        Self { conn, number, now, last: None }
    }

    fn of(&mut self, row: &StateRow) -> Sql<Option<ClaimId>> {
        let State::Held(claim) = row.state else { return Ok(None) };
        let is_live = match self.last {
            Some((id, is_live)) if id == claim => is_live,
            _ => is_live_claim(self.conn, self.number, claim, self.now)?,
        };
        self.last = Some((claim, is_live));
        Ok(is_live.then_some(claim))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use zaqar_core::Payload;
    use zaqar_core::storage::{Heads, Messages};

    use super::*;
    use crate::testing::{batch, generation, key, store, time};
    use crate::writer_state::find_head;

    #[tokio::test]
    async fn a_large_page_is_read_in_slices() {
        let (store, _directory) = store();
        store.open(&key("q"), generation(), time(0)).await.unwrap();
        let body = Bytes::from(format!("\"{}\"", "x".repeat(100_000)));
        let length = body.len();
        let mut posted = batch(20, 60);
        for new in &mut posted.messages {
            new.payload = Payload::plain(body.clone());
        }
        store.post(&key("q"), generation(), posted, time(0)).await.unwrap();
        let mut query = ListQuery {
            after: None,
            limit: 25,
            hide: None,
            include_claimed: true,
            include_delayed: true,
        };
        let slice = |query: &ListQuery| {
            let read = |conn: &Statements<'_>| {
                let head = find_head(conn, &key("q"))?.expect("it is there");
                list(conn, &head, query, time(0))
            };
            let slice = store.read(read).unwrap();
            (slice.page.messages.len(), slice.is_large)
        };
        let of_slice = SLICE_BYTES.div_ceil(length);
        assert_eq!(slice(&query), (of_slice, true));
        let all = store.list(&key("q"), &query, time(0)).await.unwrap();
        assert_eq!(all.messages.len(), 20);
        assert!(all.messages.is_sorted_by_key(|message| message.id));
        assert_eq!(all.next, all.messages.last().map(|message| message.id));
        // The end is the end of a slice.
        query.limit = of_slice;
        assert_eq!(slice(&query), (of_slice, false));
        query.after = Some(all.messages[19 - of_slice].id);
        query.limit = 25;
        let rest = store.list(&key("q"), &query, time(0)).await.unwrap();
        assert_eq!((rest.messages.len(), rest.next), (of_slice, all.next));
        query.after = all.next;
        let end = store.list(&key("q"), &query, time(0)).await.unwrap();
        assert_eq!((end.messages.len(), end.next), (0, None));
    }
}
