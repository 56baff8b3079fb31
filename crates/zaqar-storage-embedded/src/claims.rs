//! Claims and dead letters.
//!
//! A claim's row lists the positions that it took. The table `held` says which of them it still
//! holds, so deleting a message does not update the row of its claim.

use async_trait::async_trait;
use rusqlite::{OptionalExtension, Row, params};
use zaqar_core::storage::{
    Claim, ClaimRequest, Claimed, Claims, DeadLetters, Error, Guarded, Message,
};
use zaqar_core::{ClaimId, Generation, QueueKey, Timestamp};

use crate::Embedded;
use crate::error::Sql;
use crate::first_free::{Progress, Search};
use crate::rows::{Body, State, StateRow, body, find_held, message};
use crate::statements::Statements;
use crate::writer_state::{Head, WriterState, find_head, millis, time};

/// The columns of a [`StoredClaim`], followed by `number`.
macro_rules! claim_columns {
    () => {
        "SELECT id, ttl, since, expires, positions, number FROM claims"
    };
}
pub(crate) use claim_columns;

#[async_trait]
impl Claims for Embedded {
    async fn claim(
        &self,
        key: &QueueKey,
        assumed: Generation,
        request: &ClaimRequest,
        now: Timestamp,
    ) -> Result<Guarded<Claimed>, Error> {
        let requester = self.requester(&key.project);
        let (key, request) = (key.clone(), request.clone());
        let limit = request.limit;
        self.effective_time(now);
        let step = move |state: &mut WriterState<'_>| {
            state.guarded(&key, |head| head == assumed, |state, head| state.claim(head, &request))
        };
        let mut dead_letters = 0;
        loop {
            let (moved, progress) = match requester.write_rows(limit, step.clone()).await? {
                Guarded::Done(done) => done,
                Guarded::Absent => return Ok(Guarded::Absent),
                Guarded::Stale(generation) => return Ok(Guarded::Stale(generation)),
            };
            dead_letters += moved;
            return Ok(Guarded::Done(match progress {
                Progress::Done(Claimed::Messages { messages, skipped, .. }) => {
                    Claimed::Messages { messages, dead_letters, skipped }
                }
                Progress::Done(Claimed::TargetChanged) => Claimed::TargetChanged,
                Progress::Unfinished => continue,
            }));
        }
    }

    async fn claim_each(
        &self,
        key: &QueueKey,
        assumed: Generation,
        ids: &[ClaimId],
        ttl: u64,
        now: Timestamp,
    ) -> Result<Guarded<Vec<Message>>, Error> {
        self.effective_time(now);
        let (key, ids, count) = (key.clone(), ids.to_vec(), ids.len());
        let requester = self.requester(&key.project);
        let step = move |state: &mut WriterState<'_>| {
            let claim_all = |state: &mut WriterState<'_>, head| state.claim_each(head, &ids, ttl);
            state.guarded(&key, |head| head == assumed, claim_all)
        };
        loop {
            match requester.write_rows(count, step.clone()).await? {
                Guarded::Done(Progress::Done(messages)) => return Ok(Guarded::Done(messages)),
                Guarded::Done(Progress::Unfinished) => {}
                Guarded::Absent => return Ok(Guarded::Absent),
                Guarded::Stale(generation) => return Ok(Guarded::Stale(generation)),
            }
        }
    }

    async fn claim_get(
        &self,
        key: &QueueKey,
        id: ClaimId,
        now: Timestamp,
    ) -> Result<Option<Claim>, Error> {
        let now = self.effective_time(now);
        self.read(|conn| {
            let Some(head) = find_head(conn, key)? else { return Ok(None) };
            let Some(claim) = StoredClaim::find(conn, head.number, id, now)? else {
                return Ok(None);
            };
            let mut messages = Vec::with_capacity(claim.positions.len());
            for position in &claim.positions {
                let row = conn.readable(find_held(conn, head.number, *position))?.flatten();
                let Some(row) = row.filter(|row| claim.holds(row) && row.is_live(now)) else {
                    continue;
                };
                let body = conn.readable(body(conn, row.position, None))?.flatten();
                messages.extend(body.map(|body| message(&head, &row, body, Some(id))));
            }
            Ok(Some(Claim { ttl: claim.ttl.cast_unsigned(), since: time(claim.since), messages }))
        })
    }

    async fn claim_renew(
        &self,
        key: &QueueKey,
        id: ClaimId,
        ttl: u64,
        grace: u64,
        now: Timestamp,
    ) -> Result<bool, Error> {
        self.effective_time(now);
        let key = key.clone();
        self.requester(&key.project).write(move |state| state.renew(&key, id, ttl, grace)).await
    }

    async fn claim_release(
        &self,
        key: &QueueKey,
        id: ClaimId,
        now: Timestamp,
    ) -> Result<usize, Error> {
        self.effective_time(now);
        let key = key.clone();
        self.requester(&key.project)
            .write(move |state| {
                let Some(head) = state.head(&key)? else { return Ok(0) };
                let Some(claim) = StoredClaim::find(&state.conn, head.number, id, state.now)?
                else {
                    return Ok(0);
                };
                let freed = state.free_held(head.number, id, &claim.positions)?;
                state.drop_claim(head.number, id)?;
                Ok(freed)
            })
            .await
    }
}

/// The stored row of a claim.
pub(crate) struct StoredClaim {
    pub(crate) id: ClaimId,
    pub(crate) ttl: i64,
    pub(crate) since: i64,
    pub(crate) expires: i64,
    /// The positions of the messages that it took, ascending.
    pub(crate) positions: Vec<i64>,
}

impl StoredClaim {
    /// Reads the columns of [`claim_columns`].
    pub(crate) fn read(row: &Row<'_>) -> Sql<Self> {
        Ok(Self {
            id: ClaimId::new(u128::from_be_bytes(row.get(0)?)),
            ttl: row.get(1)?,
            since: row.get(2)?,
            expires: row.get(3)?,
            positions: read_positions(row.get_ref(4)?.as_blob()?),
        })
    }

    /// Finds a live claim.
    fn find(conn: &Statements<'_>, number: i64, id: ClaimId, now: Timestamp) -> Sql<Option<Self>> {
        let found = conn
            .statement(concat!(claim_columns!(), " WHERE number = ?1 AND id = ?2"))?
            .query_row(params![number, id.get().to_be_bytes()], Self::read)
            .optional()?;
        Ok(found.filter(|claim| claim.expires > millis(now)))
    }

    /// Whether this claim holds the message of a row.
    pub(crate) fn holds(&self, row: &StateRow) -> bool {
        row.state == State::Held(self.id)
    }
}

impl WriterState<'_> {
    /// Does one transaction of a claim. Returns how many messages it moved to the dead-letter
    /// queue, and its result.
    fn claim(&mut self, head: Head, request: &ClaimRequest) -> Sql<(usize, Progress<Claimed>)> {
        let rule = request.dead_letters.as_ref();
        let search = Search {
            limit: request.limit,
            after: request.after,
            keys: request.keys.as_deref(),
            exhausted: rule.map(|rule| rule.max_claim_count),
        };
        let found = self.first_free(head.number, &search)?;
        if let Some(rule) = rule
            && !found.exhausted.is_empty()
            && !self.dead_letter(head, rule, &found.exhausted)?
        {
            return Ok((0, Progress::Done(Claimed::TargetChanged)));
        }
        self.advance_floor(head.number, found.floor);
        let moved = found.exhausted.len();
        if found.is_unfinished {
            return Ok((moved, Progress::Unfinished));
        }
        let messages = self.take(head, request, found.rows)?;
        let skipped = found.skipped;
        let claimed = Claimed::Messages { messages, dead_letters: moved, skipped };
        Ok((moved, Progress::Done(claimed)))
    }

    /// Does one transaction of claims with a message each.
    fn claim_each(&mut self, head: Head, ids: &[ClaimId], ttl: u64) -> Sql<Progress<Vec<Message>>> {
        let search = Search { limit: ids.len(), after: None, keys: None, exhausted: None };
        let found = self.first_free(head.number, &search)?;
        self.advance_floor(head.number, found.floor);
        if found.is_unfinished {
            return Ok(Progress::Unfinished);
        }
        let mut messages = Vec::with_capacity(found.rows.len());
        for (row, id) in found.rows.into_iter().zip(ids) {
            messages.extend(self.take(head, &ClaimRequest::new(*id, ttl, 1), vec![row])?);
        }
        Ok(Progress::Done(messages))
    }

    fn take(
        &mut self,
        head: Head,
        request: &ClaimRequest,
        rows: Vec<(StateRow, Body)>,
    ) -> Sql<Vec<Message>> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let until = millis(self.now.plus_secs(request.ttl).plus_secs(request.grace));
        let positions: Vec<_> = rows.iter().map(|(row, _)| row.position).collect();
        self.insert_claim(head.number, request, &positions)?;
        let mut messages = Vec::with_capacity(rows.len());
        for (row, body) in rows {
            let held = StateRow {
                claims: row.claims.saturating_add(1),
                expires: row.expires.max(until),
                ..row
            };
            self.hold(head.number, &row, request.id, held.expires)?;
            messages.push(message(&head, &held, body, Some(request.id)));
        }
        Ok(messages)
    }

    fn insert_claim(&mut self, number: i64, request: &ClaimRequest, positions: &[i64]) -> Sql<()> {
        let expires = millis(self.now.plus_secs(request.ttl));
        self.conn.statement("INSERT INTO claims VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(
            params![
                number,
                request.id.get().to_be_bytes(),
                request.ttl.cast_signed(),
                millis(self.now),
                expires,
                write_positions(positions),
            ],
        )?;
        self.due.claim_ends(expires);
        Ok(())
    }

    /// Moves exhausted messages to the dead-letter queue. Returns `false` if the target's
    /// generation is not the assumed one.
    fn dead_letter(
        &mut self,
        source: Head,
        rule: &DeadLetters,
        exhausted: &[StateRow],
    ) -> Sql<bool> {
        let target = self.head(&rule.target)?;
        let Some(target) = target.filter(|head| head.generation == rule.generation) else {
            return Ok(false);
        };
        let first = self.allocate_positions(exhausted.len());
        let now = millis(self.now);
        for (row, position) in exhausted.iter().zip(first..) {
            let expires = match rule.ttl {
                Some(ttl) => millis(self.now.plus_secs(ttl)),
                None => row.expires,
            };
            self.conn
                .statement(
                    "INSERT INTO messages \
                     (position, created, number, client, sealed, checksum, body) \
                     SELECT ?2, ?3, ?4, client, sealed, checksum, body \
                     FROM messages WHERE position = ?1",
                )?
                .execute([row.position, position, now, target.number])?;
            self.insert_free(target.number, position, expires)?;
            self.remove(source.number, row)?;
        }
        Ok(true)
    }

    fn renew(&mut self, key: &QueueKey, id: ClaimId, ttl: u64, grace: u64) -> Sql<bool> {
        let Some(head) = self.head(key)? else { return Ok(false) };
        let Some(claim) = StoredClaim::find(&self.conn, head.number, id, self.now)? else {
            return Ok(false);
        };
        let expires = millis(self.now.plus_secs(ttl));
        self.conn
            .statement(
                "UPDATE claims SET ttl = ?3, since = ?4, expires = ?5 WHERE number = ?1 AND id = ?2",
            )?
            .execute(params![
                head.number,
                id.get().to_be_bytes(),
                ttl.cast_signed(),
                millis(self.now),
                expires,
            ])?;
        self.due.claim_ends(expires);
        let until = millis(self.now.plus_secs(ttl).plus_secs(grace));
        for position in &claim.positions {
            let row = find_held(&self.conn, head.number, *position)?;
            let Some(row) = row.filter(|row| claim.holds(row) && row.is_live(self.now)) else {
                continue;
            };
            self.extend_life(head.number, &row, row.expires.max(until))?;
        }
        Ok(true)
    }

    /// Frees the messages of a claim that it still holds. Returns how many.
    pub(crate) fn free_held(&mut self, number: i64, id: ClaimId, positions: &[i64]) -> Sql<usize> {
        let mut freed = 0;
        for position in positions {
            let row = find_held(&self.conn, number, *position)?;
            if let Some(row) = row.filter(|row| row.state == State::Held(id)) {
                self.set_free(number, &row)?;
                freed += 1;
            }
        }
        Ok(freed)
    }

    pub(crate) fn drop_claim(&self, number: i64, id: ClaimId) -> Sql<()> {
        self.conn
            .statement("DELETE FROM claims WHERE number = ?1 AND id = ?2")?
            .execute(params![number, id.get().to_be_bytes()])?;
        Ok(())
    }

    /// Replaces the positions in the row of a claim.
    pub(crate) fn keep_positions(&self, number: i64, id: ClaimId, positions: &[i64]) -> Sql<()> {
        self.conn
            .statement("UPDATE claims SET positions = ?3 WHERE number = ?1 AND id = ?2")?
            .execute(params![number, id.get().to_be_bytes(), write_positions(positions)])?;
        Ok(())
    }
}

fn write_positions(positions: &[i64]) -> Vec<u8> {
    positions.iter().flat_map(|position| position.to_be_bytes()).collect()
}

fn read_positions(bytes: &[u8]) -> Vec<i64> {
    bytes.as_chunks().0.iter().map(|chunk| i64::from_be_bytes(*chunk)).collect()
}
