//! The rows of one message: state, body and expiry, and changes of its state.

use bytes::Bytes;
use rusqlite::{OptionalExtension, Row, params};
use zaqar_core::storage::Message;
use zaqar_core::{
    Checksum, ClaimId, ClientId, Incarnation, KeyId, MessageId, Payload, Position, Timestamp,
};

use crate::error::Sql;
use crate::expiry_rows::ExpiryRow;
use crate::statements::Statements;
use crate::writer_state::{Head, WriterState, millis, time};

/// The stored state of a message; its claim or delay may be due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Free,
    Held(ClaimId),
    Delayed(i64),
}

/// The row of a message's state.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StateRow {
    pub(crate) position: i64,
    pub(crate) expires: i64,
    pub(crate) claims: u32,
    pub(crate) state: State,
}

/// The columns of a [`StateRow`] in each table. `claim` and `due` distinguish the tables.
macro_rules! columns {
    (free) => {
        "SELECT position, expires, claims, NULL AS claim, NULL AS due FROM free"
    };
    (held) => {
        "SELECT position, expires, claims, claim, NULL AS due FROM held"
    };
    (delayed) => {
        "SELECT position, expires, claims, NULL AS claim, due FROM delayed"
    };
}
pub(crate) use columns;

impl StateRow {
    /// Reads the columns of [`columns`].
    pub(crate) fn read(row: &Row<'_>) -> Sql<Self> {
        let claim: Option<[u8; 16]> = row.get(3)?;
        let due: Option<i64> = row.get(4)?;
        Ok(Self {
            position: row.get(0)?,
            expires: row.get(1)?,
            claims: row.get(2)?,
            state: match (claim, due) {
                (Some(claim), _) => State::Held(ClaimId::new(u128::from_be_bytes(claim))),
                (None, Some(due)) => State::Delayed(due),
                (None, None) => State::Free,
            },
        })
    }

    pub(crate) fn is_live(&self, now: Timestamp) -> bool {
        self.expires > millis(now)
    }
}

/// Finds a message of a head in any state, beginning with claimed ones, which are looked up most.
pub(crate) fn find(conn: &Statements<'_>, number: i64, position: i64) -> Sql<Option<StateRow>> {
    const WHERE: [&str; 3] = [
        concat!(columns!(held), " WHERE number = ?1 AND position = ?2"),
        concat!(columns!(free), " WHERE number = ?1 AND position = ?2"),
        concat!(columns!(delayed), " WHERE number = ?1 AND position = ?2"),
    ];
    for sql in WHERE {
        let found =
            conn.statement(sql)?.query_row([number, position], StateRow::read).optional()?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Finds a message of a head that is or was held by a claim.
pub(crate) fn find_held(
    conn: &Statements<'_>,
    number: i64,
    position: i64,
) -> Sql<Option<StateRow>> {
    conn.statement(concat!(columns!(held), " WHERE number = ?1 AND position = ?2"))?
        .query_row([number, position], StateRow::read)
        .optional()
}

/// When a claim of a head expires or expired.
pub(crate) fn claim_end(conn: &Statements<'_>, number: i64, id: ClaimId) -> Sql<Option<i64>> {
    conn.statement("SELECT expires FROM claims WHERE number = ?1 AND id = ?2")?
        .query_row(params![number, id.get().to_be_bytes()], |row| row.get(0))
        .optional()
}

/// Whether a claim of a head is live.
pub(crate) fn is_live_claim(
    conn: &Statements<'_>,
    number: i64,
    id: ClaimId,
    now: Timestamp,
) -> Sql<bool> {
    Ok(claim_end(conn, number, id)?.is_some_and(|end| end > millis(now)))
}

/// The immutable part of a message.
pub(crate) struct Body {
    pub(crate) created: i64,
    pub(crate) client: ClientId,
    pub(crate) payload: Payload,
}

const BODY: &str =
    "SELECT created, client, sealed, checksum, body FROM messages WHERE position = ?1";

/// Reads a body; `None` if the client `hide` posted it.
pub(crate) fn body(
    conn: &Statements<'_>,
    position: i64,
    hide: Option<&ClientId>,
) -> Sql<Option<Body>> {
    conn.statement(BODY)?.query_row([position], |row| {
        let client = row.get_ref(1)?.as_str()?;
        if hide.is_some_and(|hidden| hidden.as_str() == client) {
            return Ok(None);
        }
        read_body(row).map(Some)
    })
}

/// Reads the columns of [`BODY`].
fn read_body(row: &Row<'_>) -> Sql<Body> {
    let sealed: Option<String> = row.get(2)?;
    let checksum: Option<[u8; 16]> = row.get(3)?;
    let payload = Payload {
        bytes: Bytes::copy_from_slice(row.get_ref(4)?.as_blob()?),
        sealed_with: sealed.map(KeyId),
        checksum: checksum.map(Checksum),
    };
    let client = ClientId::new(row.get_ref(1)?.as_str()?);
    Ok(Body { created: row.get(0)?, client, payload })
}

/// The key that sealed a message, if it is not one of these.
fn missing_key(row: &Row<'_>, column: usize, keys: Option<&[KeyId]>) -> Sql<Option<KeyId>> {
    let (Some(keys), Some(sealed)) = (keys, row.get_ref(column)?.as_str_or_null()?) else {
        return Ok(None);
    };
    Ok((!keys.iter().any(|key| key.0 == sealed)).then(|| KeyId(sealed.to_owned())))
}

/// When a message was created.
pub(crate) fn created(conn: &Statements<'_>, position: i64) -> Sql<i64> {
    conn.statement("SELECT created FROM messages WHERE position = ?1")?
        .query_row([position], |row| row.get(0))
}

/// Builds the message for the caller.
pub(crate) fn message(head: &Head, row: &StateRow, body: Body, claim: Option<ClaimId>) -> Message {
    Message {
        id: head.id(row.position),
        ttl: seconds(row.expires.saturating_sub(body.created)),
        client: body.client,
        payload: body.payload,
        created: time(body.created),
        claim,
        claim_count: row.claims,
    }
}

/// Rounds to whole seconds: a claim can extend a life to a time between two seconds.
pub(crate) fn seconds(millis: i64) -> u64 {
    u64::try_from(millis).unwrap_or(0).saturating_add(500) / 1000
}

impl Head {
    /// The id of a stored message.
    pub(crate) fn id(&self, stored: i64) -> MessageId {
        let incarnation = self.generation.incarnation;
        MessageId { incarnation, position: self.shown(stored) }
    }
}

/// The id of a message at a position that this store has assigned.
pub(crate) const fn id(incarnation: Incarnation, position: i64) -> MessageId {
    MessageId { incarnation, position: Position::new(position.cast_unsigned()) }
}

impl WriterState<'_> {
    /// Reads a body for a caller with these keys, `None` for any; an error is the key that it does
    /// not have. `None` if the body is known to be unreadable.
    pub(crate) fn body(
        &self,
        position: i64,
        keys: Option<&[KeyId]>,
    ) -> Sql<Option<Result<Body, KeyId>>> {
        self.read_body(BODY, position, |row| {
            Ok(match missing_key(row, 2, keys)? {
                Some(key) => Err(key),
                None => Ok(read_body(row)?),
            })
        })
    }

    /// The length of a body, which is not read; otherwise as [`Self::body`].
    pub(crate) fn body_length(
        &self,
        position: i64,
        keys: Option<&[KeyId]>,
    ) -> Sql<Option<Result<usize, KeyId>>> {
        const LENGTH: &str = "SELECT sealed, length(body) FROM messages WHERE position = ?1";
        self.read_body(LENGTH, position, |row| {
            let length: i64 = row.get(1)?;
            let length = usize::try_from(length).unwrap_or(0);
            Ok(missing_key(row, 0, keys)?.map_or(Ok(length), Err))
        })
    }

    /// Reads the row of a body. If that fails, the position is recorded for
    /// [`Self::work_around`](WriterState::work_around).
    fn read_body<T>(
        &self,
        sql: &'static str,
        position: i64,
        read: impl FnOnce(&Row<'_>) -> Sql<T>,
    ) -> Sql<Option<T>> {
        if self.unreadable.contains(&position) {
            return Ok(None);
        }
        let found = self
            .conn
            .statement(sql)
            .and_then(|mut statement| statement.query_row([position], read).optional());
        found.inspect_err(|_| self.failed_body.set(Some(position)))
    }

    /// Inserts a free message into a head.
    pub(crate) fn insert_free(&mut self, number: i64, position: i64, expires: i64) -> Sql<()> {
        self.conn
            .statement("INSERT INTO free VALUES (?1, ?2, ?3, 0)")?
            .execute([number, position, expires])?;
        self.change(number, |head| head.free += i64::from(head.shows(position)));
        self.expires(number, position, expires)
    }

    /// Inserts a message that becomes visible at `due`.
    pub(crate) fn insert_delayed(
        &mut self,
        number: i64,
        position: i64,
        expires: i64,
        due: i64,
    ) -> Sql<()> {
        self.conn
            .statement("INSERT INTO delayed VALUES (?1, ?2, ?3, 0, ?4)")?
            .execute([number, position, expires, due])?;
        self.change(number, |head| head.delayed += i64::from(head.shows(position)));
        self.due.delay_ends(due);
        self.expires(number, position, expires)
    }

    /// Frees a message, keeping its position.
    pub(crate) fn set_free(&mut self, number: i64, row: &StateRow) -> Sql<()> {
        self.drop_state(number, row)?;
        self.conn.statement("INSERT INTO free VALUES (?1, ?2, ?3, ?4)")?.execute(params![
            number,
            row.position,
            row.expires,
            row.claims
        ])?;
        self.change(number, |head| {
            head.free += i64::from(head.shows(row.position));
            head.floor = head.floor.min(row.position);
        });
        Ok(())
    }

    /// Assigns a free message to a claim, and extends its life to `expires`.
    pub(crate) fn hold(
        &mut self,
        number: i64,
        row: &StateRow,
        claim: ClaimId,
        expires: i64,
    ) -> Sql<()> {
        self.drop_state(number, row)?;
        self.conn.statement("INSERT INTO held VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
            number,
            row.position,
            expires,
            row.claims.saturating_add(1),
            claim.get().to_be_bytes()
        ])?;
        self.change(number, |head| head.held += 1);
        self.move_expiry(number, row, expires)
    }

    /// Extends the life of a held message to `expires`.
    pub(crate) fn extend_life(&mut self, number: i64, row: &StateRow, expires: i64) -> Sql<()> {
        if expires == row.expires {
            return Ok(());
        }
        self.conn
            .statement("UPDATE held SET expires = ?3 WHERE number = ?1 AND position = ?2")?
            .execute(params![number, row.position, expires])?;
        self.move_expiry(number, row, expires)
    }

    /// Removes a message of a head. Its body is deleted later: see
    /// [`DeletedBodies`](crate::deleted_bodies::DeletedBodies).
    pub(crate) fn remove(&mut self, number: i64, row: &StateRow) -> Sql<()> {
        self.drop_state(number, row)?;
        self.deleted.stage(row.position, row.expires);
        Ok(())
    }

    /// Removes a message with all its rows at once.
    pub(crate) fn remove_now(&mut self, number: i64, row: &StateRow) -> Sql<()> {
        self.drop_state(number, row)?;
        self.drop_body(row.position, row.expires)
    }

    /// Deletes the remaining rows of a message without a state.
    pub(crate) fn drop_body(&mut self, position: i64, expires: i64) -> Sql<()> {
        self.drop_expiry(position, expires)?;
        if !self.skips_bodies {
            self.conn.statement("DELETE FROM messages WHERE position = ?1")?.execute([position])?;
        }
        Ok(())
    }

    fn drop_expiry(&mut self, position: i64, expires: i64) -> Sql<()> {
        if self.expiry.remove(position) {
            return Ok(());
        }
        self.conn
            .statement("DELETE FROM expiry WHERE at = ?1 AND position = ?2")?
            .execute([expires, position])?;
        Ok(())
    }

    /// Records when a new message expires.
    fn expires(&mut self, number: i64, position: i64, at: i64) -> Sql<()> {
        self.due.message_expires(at);
        if self.expiry.add(ExpiryRow { at, position, number }) {
            return Ok(());
        }
        self.insert_expiry(number, position, at)
    }

    fn insert_expiry(&self, number: i64, position: i64, at: i64) -> Sql<()> {
        self.conn
            .statement("INSERT INTO expiry VALUES (?1, ?2, ?3)")?
            .execute([at, position, number])?;
        Ok(())
    }

    fn move_expiry(&mut self, number: i64, row: &StateRow, expires: i64) -> Sql<()> {
        if expires == row.expires {
            return Ok(());
        }
        self.due.message_expires(expires);
        if self.expiry.change(row.position, expires) {
            return Ok(());
        }
        self.drop_expiry(row.position, row.expires)?;
        self.insert_expiry(number, row.position, expires)
    }

    /// Deletes the row of a message's state, and updates the count.
    fn drop_state(&mut self, number: i64, row: &StateRow) -> Sql<()> {
        let (sql, count): (_, fn(&mut Head) -> &mut i64) = match row.state {
            State::Free => {
                ("DELETE FROM free WHERE number = ?1 AND position = ?2", |head| &mut head.free)
            }
            State::Held(_) => {
                ("DELETE FROM held WHERE number = ?1 AND position = ?2", |head| &mut head.held)
            }
            State::Delayed(_) => {
                ("DELETE FROM delayed WHERE number = ?1 AND position = ?2", |head| {
                    &mut head.delayed
                })
            }
        };
        self.conn.statement(sql)?.execute([number, row.position])?;
        self.change(number, |head| *count(head) -= i64::from(head.shows(row.position)));
        Ok(())
    }
}
