//! Parts of the contents of a head that a queue leaves.

use rusqlite::{OptionalExtension, Row, params};
use zaqar_core::storage::{ClaimRow, Contents, ContentsMark, EntryRow, Exported, MessageRow};
use zaqar_core::{ClaimId, Position, SubscriptionId, Timestamp};

use crate::arrival::START;
use crate::error::Sql;
use crate::outbox::{Entry, SETTLED, read_entry};
use crate::rows::{Body, State, StateRow, body, columns, is_live_claim, seconds};
use crate::statements::Statements;
use crate::subscriptions::{self, subscription_columns};
use crate::writer_state::{Head, millis, time};

/// Bytes of one part, about.
const BYTES: usize = 1 << 20;

/// A part, and the mark of the last row that was examined if there may be more of the kind.
struct Part {
    contents: Contents,
    next: Option<ContentsMark>,
}

/// Reads a part: about `limit` rows and at most about 1 MiB, and at least one row.
pub(super) fn part(
    conn: &Statements<'_>,
    head: &Head,
    mark: ContentsMark,
    limit: usize,
    now: Timestamp,
) -> Sql<Exported> {
    let Part { contents, next } = match mark {
        ContentsMark::Claims(after) => claims(conn, head, after, limit, now),
        ContentsMark::Messages(after) => messages(conn, head, after, limit, now),
        ContentsMark::Subscriptions(after) => subscribed(conn, head, after, limit, now),
        ContentsMark::Entries(after) => entries(conn, head, after, limit, now),
    }?;
    Ok(Exported { contents, next: next.or(mark.next_kind()) })
}

/// An empty id is before all ids.
fn after_id(after: Option<u128>) -> Vec<u8> {
    after.map_or(Vec::new(), |id| id.to_be_bytes().to_vec())
}

fn claims(
    conn: &Statements<'_>,
    head: &Head,
    after: Option<ClaimId>,
    limit: usize,
    now: Timestamp,
) -> Sql<Part> {
    let mut statement = conn.statement(
        "SELECT id, ttl, since, expires FROM claims WHERE number = ?1 AND id > ?2 ORDER BY id",
    )?;
    let mut rows = statement.query(params![head.number, after_id(after.map(ClaimId::get))])?;
    let found = conn.readable_rows(&mut rows, limit, |row| {
        let id = ClaimId::new(u128::from_be_bytes(row.get(0)?));
        let (ttl, since) = (row.get::<_, i64>(1)?.cast_unsigned(), time(row.get(2)?));
        Ok((ClaimRow { id, ttl, since }, row.get::<_, i64>(3)?))
    })?;
    let last = found.last().filter(|_| found.len() == limit).map(|(claim, _)| claim.id);
    let live = found.into_iter().filter(|(_, expires)| *expires > millis(now));
    let claims = live.map(|(claim, _)| claim).collect();
    let contents = Contents { claims, ..Contents::default() };
    Ok(Part { contents, next: last.map(|last| ContentsMark::Claims(Some(last))) })
}

const IN_ORDER: &str = concat!(
    columns!(free),
    " WHERE number = ?1 AND position > ?2 UNION ALL ",
    columns!(held),
    " WHERE number = ?1 AND position > ?2 UNION ALL ",
    columns!(delayed),
    " WHERE number = ?1 AND position > ?2 ORDER BY position"
);

fn messages(
    conn: &Statements<'_>,
    head: &Head,
    after: Position,
    limit: usize,
    now: Timestamp,
) -> Sql<Part> {
    let after = if after.get() == 0 { START } else { head.stored(after) };
    let mut statement = conn.statement(IN_ORDER)?;
    let mut rows = statement.query([head.number, after])?;
    let (mut messages, mut bytes, mut last) = (Vec::new(), 0, None);
    let (mut examined, mut is_end) = (0, false);
    while examined < limit && bytes < BYTES {
        let Some(row) = rows.next()? else {
            is_end = true;
            break;
        };
        let Some(row) = conn.readable(StateRow::read(row))? else { continue };
        if !head.shows(row.position) {
            drop(rows);
            rows = statement.query([head.number, head.hidden.end - 1])?;
            continue;
        }
        (last, examined) = (Some(row.position), examined + 1);
        if !row.is_live(now) {
            continue;
        }
        let Some(body) = conn.readable(body(conn, row.position, None))?.flatten() else { continue };
        bytes += body.payload.bytes.len();
        messages.push(moved(conn, head, &row, body, now)?);
    }
    let next = last.filter(|_| !is_end).map(|last| ContentsMark::Messages(head.shown(last)));
    Ok(Part { contents: Contents { messages, ..Contents::default() }, next })
}

fn moved(
    conn: &Statements<'_>,
    head: &Head,
    row: &StateRow,
    body: Body,
    now: Timestamp,
) -> Sql<MessageRow> {
    let claim = match row.state {
        State::Held(claim) => is_live_claim(conn, head.number, claim, now)?.then_some(claim),
        State::Free | State::Delayed(_) => None,
    };
    let visible = match row.state {
        State::Delayed(due) => due,
        State::Free | State::Held(_) => body.created,
    };
    Ok(MessageRow {
        position: head.shown(row.position),
        client: body.client,
        payload: body.payload,
        created: time(body.created),
        ttl: seconds(row.expires.saturating_sub(body.created)),
        expires: time(row.expires),
        visible: time(visible),
        claim,
        claim_count: row.claims,
    })
}

fn subscribed(
    conn: &Statements<'_>,
    head: &Head,
    after: Option<SubscriptionId>,
    limit: usize,
    now: Timestamp,
) -> Sql<Part> {
    let mut statement = conn.statement(concat!(
        subscription_columns!(),
        " WHERE audience = ?1 AND id > ?2 ORDER BY id"
    ))?;
    let after = after_id(after.map(SubscriptionId::get));
    let mut rows = statement.query(params![head.subscriptions_number, after])?;
    let (mut found, mut bytes, mut last) = (Vec::new(), 0, None);
    let (mut examined, mut is_end) = (0, false);
    while examined < limit && bytes < BYTES {
        let Some(row) = rows.next()? else {
            is_end = true;
            break;
        };
        let Some(one) = conn.readable(subscriptions::read(row))? else { continue };
        (last, examined) = (Some(one.id), examined + 1);
        if one.is_live(now) {
            bytes += one.options.len() + one.subscriber.len();
            found.push(one);
        }
    }
    let next = last.filter(|_| !is_end).map(|last| ContentsMark::Subscriptions(Some(last)));
    Ok(Part { contents: Contents { subscriptions: found, ..Contents::default() }, next })
}

fn entries(
    conn: &Statements<'_>,
    head: &Head,
    after: Position,
    limit: usize,
    now: Timestamp,
) -> Sql<Part> {
    // Those before this have lost their last subscriber with an address.
    let unwanted: Option<i64> = conn
        .statement("SELECT before FROM unwanted WHERE life = ?1")?
        .query_row([head.outbox_number], |row| row.get(0))
        .optional()?;
    let after = if after.get() == 0 { START } else { head.stored_entry(after) };
    let mut statement = conn.statement(
        "SELECT first, count, created, followed, expires, life, due, ready FROM outbox \
         WHERE life = ?1 AND first > ?2 ORDER BY first",
    )?;
    let mut rows = statement.query([head.outbox_number, after])?;
    let (mut entries, mut bytes, mut last) = (Vec::new(), 0, None);
    let (mut examined, mut is_end) = (0, false);
    while examined < limit && bytes < BYTES {
        let Some(row) = rows.next()? else {
            is_end = true;
            break;
        };
        let Some((entry, due, ready)) = conn.readable(read_row(row))? else { continue };
        (last, examined) = (Some(entry.first), examined + 1);
        let is_for_workers = ready != SETTLED
            && entry.expires > millis(now)
            && unwanted.is_none_or(|before| entry.first >= before);
        if !is_for_workers && entry.followed <= millis(now) {
            continue;
        }
        let Some(read) = conn.readable(read_entry(conn, head, &entry))? else { continue };
        bytes += read.messages.iter().map(|one| one.payload.bytes.len()).sum::<usize>();
        let due = is_for_workers.then(|| time(due));
        entries.push(EntryRow { entry: read, due, followed: time(entry.followed) });
    }
    let next = last.filter(|_| !is_end).map(|last| ContentsMark::Entries(head.shown_entry(last)));
    Ok(Part { contents: Contents { entries, ..Contents::default() }, next })
}

/// An entry, when it is due, and its `ready`.
fn read_row(row: &Row<'_>) -> Sql<(Entry, i64, i64)> {
    Ok((Entry::read(row)?, row.get(6)?, row.get(7)?))
}
