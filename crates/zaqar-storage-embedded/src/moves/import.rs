//! Parts that arrive.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, params};
use zaqar_core::storage::{Contents, EntryRow, MessageRow};
use zaqar_core::{ClaimId, Payload, QueueKey};

use crate::arrival::{Arrival, Reserved};
use crate::claims::StoredClaim;
use crate::error::Sql;
use crate::outbox::{LEASED, SETTLED};
use crate::posting::ROWS;
use crate::rows::{State, StateRow, claim_end, find};
use crate::writer_state::{Head, WriterState, millis};

/// Why a part cannot be stored.
type Rejection = &'static str;

const NO_POSITIONS: Rejection =
    "the store has reserved all positions that it has for queues from other stores";
const OUT_OF_ORDER: Rejection = "the parts of the queue are not in order";
const NOT_IN_A_ROW: Rejection = "the messages of an outbox entry are not in a row";

/// What storing a part costs, in bytes.
pub(super) fn cost(part: &Contents) -> usize {
    let bodies = part.messages.iter().map(|one| one.payload.bytes.len());
    let texts = part.subscriptions.iter().map(|one| one.options.len());
    let copies = part.entries.iter().flat_map(|one| &one.entry.messages);
    let copies = copies.map(|one| ROWS + one.payload.bytes.len());
    let rows = part.claims.len() + part.messages.len() + part.subscriptions.len();
    rows * ROWS + bodies.chain(texts).chain(copies).sum::<usize>()
}

impl WriterState<'_> {
    /// Stores a part, or nothing of it.
    pub(super) fn import(
        &mut self,
        key: &QueueKey,
        head: &Head,
        part: &Contents,
    ) -> Sql<Result<(), Rejection>> {
        let arrival = match self.reserve_for(head, part)? {
            Ok(arrival) => arrival,
            Err(rejection) => return Ok(Err(rejection)),
        };
        for claim in &part.claims {
            let expires = millis(claim.expires());
            self.conn
                .statement("INSERT OR IGNORE INTO claims VALUES (?1, ?2, ?3, ?4, ?5, x'')")?
                .execute(params![
                head.number,
                claim.id.get().to_be_bytes(),
                claim.ttl.cast_signed(),
                millis(claim.since),
                expires,
            ])?;
            self.due.claim_ends(expires);
        }
        if let Some(reserved) = arrival.messages {
            self.import_messages(head, reserved, &part.messages)?;
        }
        for one in &part.subscriptions {
            self.drop_subscription(head.subscriptions_number, one.id)?;
            self.insert_subscription(head, one)?;
            if let Some(lease) = one.lease {
                self.attach_to_lease(lease)?;
            }
        }
        if let Some(reserved) = arrival.entries {
            for moved in &part.entries {
                self.import_entry(head, reserved, moved)?;
            }
            if let Some(head) = self.any_head(key)? {
                self.update_next_due(&head)?;
            }
        }
        Ok(Ok(()))
    }

    /// Reserves positions with the first messages and entries that arrive: parts are in order, so
    /// none comes before them. Checks that all of a part's are in what is reserved.
    fn reserve_for(&mut self, head: &Head, part: &Contents) -> Sql<Result<Arrival, Rejection>> {
        let Some(before) = head.arrival else { return Ok(Err(OUT_OF_ORDER)) };
        let positions = part.messages.iter().map(|one| one.position.get());
        let messages = self.reserved(before.messages, before.last, positions)?;
        let are_in_a_row = part.entries.iter().all(|moved| {
            let positions = (moved.entry.first.get()..).take(moved.entry.messages.len());
            moved.entry.messages.iter().map(|one| one.id.position.get()).eq(positions)
        });
        if !are_in_a_row {
            return Ok(Err(NOT_IN_A_ROW));
        }
        let of_entry = |moved: &EntryRow| {
            let first = moved.entry.first.get();
            [first, first + (moved.entry.messages.len() as u64).saturating_sub(1)]
        };
        let positions = part.entries.iter().flat_map(of_entry);
        let entries = self.reserved(before.entries, before.last, positions)?;
        let (messages, entries) = match (messages, entries) {
            (Ok(messages), Ok(entries)) => (messages, entries),
            (Err(rejection), _) | (_, Err(rejection)) => return Ok(Err(rejection)),
        };
        let arrival = Arrival { messages, entries, ..before };
        if arrival != before {
            self.set_arrival(head, arrival)?;
        }
        Ok(Ok(arrival))
    }

    fn reserved(
        &self,
        before: Option<Reserved>,
        last: i64,
        positions: impl Iterator<Item = u64>,
    ) -> Sql<Result<Option<Reserved>, Rejection>> {
        let mut reserved = before;
        for position in positions {
            let position = i64::try_from(position).unwrap_or(i64::MAX);
            if position > last || reserved.is_some_and(|own| position < own.first) {
                return Ok(Err(OUT_OF_ORDER));
            }
            if reserved.is_none() {
                reserved = self.reserve_positions(position, last)?;
                if reserved.is_none() {
                    return Ok(Err(NO_POSITIONS));
                }
            }
        }
        Ok(Ok(reserved))
    }

    fn import_messages(
        &mut self,
        head: &Head,
        reserved: Reserved,
        messages: &[MessageRow],
    ) -> Sql<()> {
        let mut held: BTreeMap<ClaimId, Vec<i64>> = BTreeMap::new();
        for moved in messages {
            let position = reserved.stored(moved.position.get().cast_signed());
            if find(&self.conn, head.number, position)?.is_some() {
                continue;
            }
            let Payload { bytes, sealed_with, checksum } = &moved.payload;
            self.conn
                .statement(
                    "INSERT OR REPLACE INTO messages \
                     (position, created, client, sealed, checksum, body) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .execute(params![
                    position,
                    millis(moved.created),
                    moved.client.as_str(),
                    sealed_with.as_ref().map(|key| key.0.as_str()),
                    checksum.as_ref().map(|sum| sum.0),
                    bytes.as_ref(),
                ])?;
            if let Some(claim) = self.import_state(head, position, moved)? {
                held.entry(claim).or_default().push(position);
            }
        }
        for (claim, positions) in held {
            let before = self.positions_of(head.number, claim)?;
            self.keep_positions(head.number, claim, &[before, positions].concat())?;
        }
        Ok(())
    }

    /// Stores the state of a message; the claim that holds it, if one does.
    fn import_state(
        &mut self,
        head: &Head,
        position: i64,
        moved: &MessageRow,
    ) -> Sql<Option<ClaimId>> {
        let (number, expires, count) = (head.number, millis(moved.expires), moved.claim_count);
        // One whose claim has been swept here is free.
        if let Some(claim) = moved.claim
            && claim_end(&self.conn, number, claim)?.is_some()
        {
            self.insert_free(number, position, expires)?;
            let claims = count.saturating_sub(1);
            let row = StateRow { position, expires, claims, state: State::Free };
            self.hold(number, &row, claim, expires)?;
            return Ok(Some(claim));
        }
        let is_delayed = moved.visible > self.now;
        let count_sql = match is_delayed {
            true => "UPDATE delayed SET claims = ?3 WHERE number = ?1 AND position = ?2",
            false => "UPDATE free SET claims = ?3 WHERE number = ?1 AND position = ?2",
        };
        match is_delayed {
            true => self.insert_delayed(number, position, expires, millis(moved.visible))?,
            false => self.insert_free(number, position, expires)?,
        }
        if count > 0 {
            self.conn.statement(count_sql)?.execute(params![number, position, count])?;
        }
        Ok(None)
    }

    fn positions_of(&self, number: i64, claim: ClaimId) -> Sql<Vec<i64>> {
        let found = self
            .conn
            .statement(
                "SELECT id, ttl, since, expires, positions FROM claims WHERE number = ?1 AND id = ?2",
            )?
            .query_row(params![number, claim.get().to_be_bytes()], StoredClaim::read)
            .optional()?;
        Ok(found.map(|claim| claim.positions).unwrap_or_default())
    }

    fn import_entry(&mut self, head: &Head, reserved: Reserved, moved: &EntryRow) -> Sql<()> {
        let EntryRow { entry, due, followed } = moved;
        let first = reserved.stored(entry.first.get().cast_signed());
        if self.conn.statement("SELECT 1 FROM outbox WHERE first = ?1")?.exists([first])? {
            return Ok(());
        }
        let created = millis(entry.created);
        for (message, position) in entry.messages.iter().zip(first..) {
            let payload = &message.payload;
            self.conn
                .statement(
                    "INSERT OR REPLACE INTO outbox_messages VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .execute(params![
                    position,
                    message.ttl.cast_signed(),
                    millis(message.due),
                    payload.sealed_with.as_ref().map(|key| key.0.as_str()),
                    payload.checksum.as_ref().map(|sum| sum.0),
                    payload.bytes.as_ref(),
                ])?;
        }
        let count = i64::try_from(entry.messages.len()).unwrap_or(i64::MAX);
        let expires = millis(entry.expires());
        let ready = match due {
            None => SETTLED,
            // It is leased if it is due later than its first message.
            Some(due) if *due > entry.due() => LEASED,
            Some(_) => 0,
        };
        self.conn
            .statement("INSERT INTO outbox VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?
            .execute(params![
                first,
                head.outbox_number,
                count,
                created,
                due.map_or(0, millis),
                ready,
                millis(*followed),
                expires,
            ])?;
        self.due.entry_ends(if due.is_some() { expires } else { millis(*followed) });
        Ok(())
    }
}
