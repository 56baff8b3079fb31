//! Health, cleaning and the end.

use std::collections::BTreeSet;

use async_trait::async_trait;
use rusqlite::{OptionalExtension, params};
use zaqar_core::Timestamp;
use zaqar_core::storage::{Error, Swept, Upkeep};

use crate::Embedded;
use crate::claims::{ClaimRow, claim_columns};
use crate::due::Part;
use crate::error::{Sql, Trouble, trouble};
use crate::rows::{StateRow, columns, find};
use crate::writer_state::{WriterState, millis};

/// Rows that one transaction sweeps, at most: some milliseconds in which others wait.
const STEP: usize = 512;

/// Free pages that the file keeps for what comes, beside those that are fewer than the used ones:
/// 32 MiB.
const SPARE_PAGES: i64 = 4096;

/// Messages whose bodies cannot be read that are remembered, at most.
const UNREADABLE: usize = 4096;

/// Seconds that a part of the upkeep is left out after it failed.
const SUSPENSION: u64 = 60;

#[async_trait]
impl Upkeep for Embedded {
    async fn ping(&self) -> Result<(), Error> {
        self.health().check()?;
        self.write(|state| {
            state.conn.statement("SELECT seen FROM sequence")?.query_row([], |_| Ok(()))
        })
        .await?;
        self.health().check()
    }

    async fn sweep(&self, now: Timestamp, budget: usize) -> Result<Swept, Error> {
        self.at(now);
        let budget = budget.clamp(1, STEP);
        self.write(move |state| state.sweep(budget)).await
    }

    async fn shut_down(&self) -> Result<(), Error> {
        self.shut().await
    }
}

impl WriterState<'_> {
    fn sweep(&mut self, budget: usize) -> Sql<Swept> {
        const PARTS: [Part; 9] = [
            Part::Claims,
            Part::Delays,
            Part::Expiry,
            Part::Bodies,
            Part::Subscriptions,
            Part::Leases,
            Part::Unwanted,
            Part::Entries,
            Part::Garbage,
        ];
        let mut done = 0;
        for part in PARTS {
            if done < budget {
                done += self.do_part(part, budget - done)?;
            }
        }
        if done == 0 {
            done += self.do_part(Part::Pages, 1)?;
        }
        let mut more = false;
        for part in PARTS.into_iter().chain([Part::Pages]) {
            more = more || self.has_part(part)?;
        }
        Ok(Swept { done, more })
    }

    /// Whether there is work of a part to do.
    fn has_part(&self, part: Part) -> Sql<bool> {
        let now = millis(self.now);
        if !self.due.is_active(part, now) {
            return Ok(false);
        }
        Ok(match part {
            Part::Claims => self.due.has_claims(now),
            Part::Delays => self.due.has_delays(now),
            Part::Expiry => self.due.has_expired(now),
            Part::Bodies => self.deleted.is_waiting(),
            Part::Subscriptions => self.due.has_subscriptions(now),
            Part::Leases => self.due.has_leases(now),
            Part::Unwanted => self.has_unwanted()?,
            Part::Entries => self.due.has_entries(now),
            Part::Garbage => self.has_garbage()?,
            Part::Pages => self.has_spare_pages()?,
        })
    }

    /// Does about `budget` rows of a part; how many it was. Where it fails, the part is remembered
    /// for
    /// [`Self::work_around`].
    pub(crate) fn do_part(&mut self, part: Part, budget: usize) -> Sql<usize> {
        let before = self.part.replace(part);
        if !self.has_part(part)? {
            self.part = before;
            return Ok(0);
        }
        if self.puts_off.contains(&part)
            && let Some(sql) = put_off(part)
        {
            self.conn.statement(sql)?.execute([millis(self.now)])?;
        }
        let done = match part {
            Part::Claims => self.end_claims(budget),
            Part::Delays => self.end_delays(budget),
            Part::Expiry => self.remove_expired(budget),
            Part::Bodies => self.drop_deleted(budget),
            Part::Subscriptions => self.remove_subscriptions(budget),
            Part::Leases => self.remove_leased(budget),
            Part::Unwanted => self.end_unwanted(budget),
            Part::Entries => self.remove_entries(budget),
            Part::Garbage => self.remove_garbage(budget),
            Part::Pages => self.give_back_pages(),
        }?;
        self.part = before;
        Ok(done)
    }

    /// After an error: whether the transaction can be repeated without what led to it. That is some
    /// upkeep, which is left out for a while or done without bodies, or a message whose body cannot
    /// be read.
    pub(crate) fn work_around(&mut self, error: &rusqlite::Error) -> bool {
        if !matches!(trouble(error), Trouble::Damage | Trouble::Row | Trouble::Other) {
            return false;
        }
        let Some(part) = self.part.take() else { return self.pass_over_body() };
        if trouble(error) == Trouble::Row
            && !self.puts_off.contains(&part)
            && put_off(part).is_some()
        {
            tracing::warn!(?part, %error, "rows that cannot be read are put off for ever");
            self.puts_off.push(part);
            return true;
        }
        match part {
            // They go when they expire.
            Part::Bodies => self.deleted.forget(),
            Part::Expiry | Part::Garbage if !self.leaves_bodies => self.leaves_bodies = true,
            Part::Claims
            | Part::Delays
            | Part::Expiry
            | Part::Subscriptions
            | Part::Leases
            | Part::Unwanted
            | Part::Entries
            | Part::Garbage
            | Part::Pages => {
                let until = self.now.plus_secs(SUSPENSION);
                self.due.suspend(part, millis(until));
                tracing::warn!(?part, %error, seconds = SUSPENSION, "upkeep failed and is left out");
            }
        }
        true
    }

    fn pass_over_body(&mut self) -> bool {
        let Some(position) = self.failed_body.take() else { return false };
        self.unreadable.len() < UNREADABLE && self.unreadable.insert(position)
    }

    /// Does some of the work that is due, before the requests of a transaction.
    pub(crate) fn do_due(&mut self, budget: usize) -> Sql<()> {
        self.end_due(budget)?;
        match self.deleted.too_many() {
            0 => Ok(()),
            count => self.do_part(Part::Bodies, count).map(|_| ()),
        }
    }

    /// Drops at most `budget` bodies of deleted messages; how many it was.
    pub(crate) fn drop_deleted(&mut self, budget: usize) -> Sql<usize> {
        let bodies = self.deleted.take_next(budget);
        for (position, expires) in &bodies {
            self.drop_body(*position, *expires)?;
        }
        Ok(bodies.len())
    }

    /// Ends the claims and delays that are over, about `budget` rows; how many it was.
    pub(crate) fn end_due(&mut self, budget: usize) -> Sql<usize> {
        if !self.has_due() {
            return Ok(0);
        }
        let mut done = self.do_part(Part::Claims, budget)?;
        if done < budget {
            done += self.do_part(Part::Delays, budget - done)?;
        }
        Ok(done)
    }

    /// Whether claims or delays are over that the file still has.
    pub(crate) const fn has_due(&self) -> bool {
        self.due.has_claims(millis(self.now)) || self.due.has_delays(millis(self.now))
    }

    fn end_claims(&mut self, budget: usize) -> Sql<usize> {
        let mut done = 0;
        while done < budget {
            let Some((number, claim)) = self.next_over()? else { break };
            done += 1 + self.end_claim(number, &claim, budget - done)?;
        }
        self.due.look_at_claims(&self.conn)?;
        Ok(done)
    }

    fn next_over(&self) -> Sql<Option<(i64, ClaimRow)>> {
        self.conn
            .statement(concat!(claim_columns!(), " WHERE expires <= ?1 ORDER BY expires LIMIT 1"))?
            .query_row([millis(self.now)], |row| Ok((row.get(5)?, ClaimRow::read(row)?)))
            .optional()
    }

    /// Ends a claim, or the first `budget` messages of it; how many that was.
    fn end_claim(&mut self, number: i64, claim: &ClaimRow, budget: usize) -> Sql<usize> {
        if self.head_by_number(number)?.is_none() {
            self.drop_claim(number, claim.id)?;
            return Ok(0);
        }
        let (now, later) = claim.positions.split_at(budget.min(claim.positions.len()));
        self.free_held(number, claim.id, now)?;
        if later.is_empty() {
            self.drop_claim(number, claim.id)?;
        } else {
            self.keep_positions(number, claim.id, later)?;
        }
        Ok(now.len())
    }

    fn end_delays(&mut self, budget: usize) -> Sql<usize> {
        let over = self
            .conn
            .statement(
                "SELECT position, expires, claims, NULL, due, number FROM delayed \
                 WHERE due <= ?1 ORDER BY due LIMIT ?2",
            )?
            .query_map([millis(self.now), limit(budget)], |row| {
                Ok((row.get(5)?, StateRow::read(row)?))
            })?
            .collect::<Sql<Vec<(i64, StateRow)>>>()?;
        for (number, row) in &over {
            match self.head_by_number(*number)? {
                Some(_) => self.set_free(*number, row)?,
                None => self.remove_now(*number, row)?,
            }
        }
        self.due.look_at_delays(&self.conn)?;
        Ok(over.len())
    }

    /// Removes messages that have expired, at most `budget`; how many it was.
    fn remove_expired(&mut self, budget: usize) -> Sql<usize> {
        let over = self
            .conn
            .statement(
                "SELECT number, position, at FROM expiry WHERE at <= ?1 ORDER BY at, position LIMIT ?2",
            )?
            .query_map([millis(self.now), limit(budget)], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?
            .collect::<Sql<Vec<(i64, i64, i64)>>>()?;
        for (number, position, at) in &over {
            self.head_by_number(*number)?;
            match find(&self.conn, *number, *position)? {
                Some(row) => self.remove_now(*number, &row)?,
                // Deleted, and then the process died before the body went, too.
                None => self.drop_body(*position, *at)?,
            }
        }
        self.due.look_at_expiry(&self.conn)?;
        Ok(over.len())
    }

    fn remove_subscriptions(&mut self, budget: usize) -> Sql<usize> {
        let over = self
            .conn
            .statement(
                "SELECT audience, id, lease IS NULL FROM subscriptions WHERE expires <= ?1 \
                 ORDER BY expires LIMIT ?2",
            )?
            .query_map([millis(self.now), limit(budget)], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?
            .collect::<Sql<Vec<(i64, [u8; 16], bool)>>>()?;
        for (audience, id, _) in &over {
            self.conn
                .statement("DELETE FROM subscriptions WHERE audience = ?1 AND id = ?2")?
                .execute(params![audience, id])?;
        }
        let audiences: BTreeSet<_> = over
            .iter()
            .filter(|(.., has_address)| *has_address)
            .map(|(audience, ..)| *audience)
            .collect();
        for audience in audiences {
            if let Some(head) = self.head_by_audience(audience)? {
                self.end_unwanted_entries(&head)?;
            }
        }
        self.due.look_at_subscriptions(&self.conn)?;
        Ok(over.len())
    }

    /// Whether the file has so many free pages that new messages will not need them soon.
    fn has_spare_pages(&self) -> Sql<bool> {
        let free = self.page_number("PRAGMA freelist_count")?;
        if self.is_full {
            return Ok(free > 0);
        }
        Ok(free >= SPARE_PAGES && 2 * free >= self.page_number("PRAGMA page_count")?)
    }

    fn page_number(&self, pragma: &'static str) -> Sql<i64> {
        self.conn.statement(pragma)?.query_row([], |row| row.get(0))
    }

    /// Makes the file shorter by some free pages; how many it was.
    fn give_back_pages(&self) -> Sql<usize> {
        let before = self.page_number("PRAGMA freelist_count")?;
        let mut statement = self.conn.statement("PRAGMA incremental_vacuum(64)")?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        let after = self.page_number("PRAGMA freelist_count")?;
        Ok(usize::try_from(before - after).unwrap_or(0))
    }

    fn has_garbage(&self) -> Sql<bool> {
        self.conn.statement("SELECT 1 FROM garbage LIMIT 1")?.exists([])
    }

    /// Removes rows of purged and closed heads, at most `budget`; how many it was.
    fn remove_garbage(&mut self, budget: usize) -> Sql<usize> {
        let mut done = 0;
        while done < budget {
            let number = self
                .conn
                .statement("SELECT number FROM garbage LIMIT 1")?
                .query_row([], |row| row.get(0))
                .optional()?;
            let Some(number) = number else { break };
            done += 1 + self.remove_rows_of(number, budget - done)?;
        }
        Ok(done)
    }

    /// Removes rows of one number, and the number itself once there are none.
    fn remove_rows_of(&mut self, number: i64, budget: usize) -> Sql<usize> {
        const STATES: [&str; 3] = [
            concat!(columns!(free), " WHERE number = ?1 LIMIT ?2"),
            concat!(columns!(held), " WHERE number = ?1 LIMIT ?2"),
            concat!(columns!(delayed), " WHERE number = ?1 LIMIT ?2"),
        ];
        let mut done = 0;
        for sql in STATES {
            let rows = self
                .conn
                .statement(sql)?
                .query_map([number, limit(budget - done)], StateRow::read)?
                .collect::<Sql<Vec<_>>>()?;
            for row in &rows {
                self.remove_now(number, row)?;
            }
            done += rows.len();
        }
        done += self
            .conn
            .statement(
                "DELETE FROM claims WHERE number = ?1 AND id IN \
                 (SELECT id FROM claims WHERE number = ?1 LIMIT ?2)",
            )?
            .execute([number, limit(budget - done)])?;
        done += self
            .conn
            .statement(
                "DELETE FROM subscriptions WHERE audience = ?1 AND id IN \
                 (SELECT id FROM subscriptions WHERE audience = ?1 LIMIT ?2)",
            )?
            .execute([number, limit(budget - done)])?;
        done += self.remove_entries_of(number, budget.saturating_sub(done))?;
        if done < budget {
            self.conn.statement("DELETE FROM garbage WHERE number = ?1")?.execute([number])?;
        }
        Ok(done)
    }

    fn remove_entries_of(&mut self, number: i64, budget: usize) -> Sql<usize> {
        let mut done = 0;
        while done < budget {
            let entry = self
                .conn
                .statement("SELECT first, count FROM outbox WHERE life = ?1 LIMIT 1")?
                .query_row([number], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let Some((first, count)) = entry else { break };
            self.drop_entry(first, count)?;
            done += 1 + usize::try_from(count).unwrap_or(0);
        }
        Ok(done)
    }
}

/// What puts off the due rows of a part that no store wrote, so that they stand in nobody's way;
/// they stay for whoever looks into the file. `None` where a row cannot be told by its own columns.
const fn put_off(part: Part) -> Option<&'static str> {
    match part {
        Part::Claims => Some(
            "UPDATE claims SET expires = 9223372036854775807 WHERE expires <= ?1 AND NOT \
             (typeof(number) = 'integer' AND typeof(id) = 'blob' AND length(id) = 16 \
             AND typeof(ttl) = 'integer' AND typeof(since) = 'integer' \
             AND typeof(positions) = 'blob')",
        ),
        Part::Delays => Some(
            "UPDATE delayed SET due = 9223372036854775807 WHERE due <= ?1 AND NOT \
             (typeof(number) = 'integer' AND typeof(position) = 'integer' \
             AND typeof(expires) = 'integer' AND typeof(claims) = 'integer' \
             AND claims BETWEEN 0 AND 4294967295)",
        ),
        Part::Expiry => Some(
            "UPDATE OR REPLACE expiry SET at = 9223372036854775807 WHERE at <= ?1 AND (NOT \
             (typeof(number) = 'integer' AND typeof(position) = 'integer') OR EXISTS \
             (SELECT 1 FROM held WHERE held.number = expiry.number \
             AND held.position = expiry.position \
             AND NOT (typeof(claim) = 'blob' AND length(claim) = 16)))",
        ),
        Part::Subscriptions => Some(
            "UPDATE subscriptions SET expires = 9223372036854775807 WHERE expires <= ?1 AND NOT \
             (typeof(audience) = 'integer' AND typeof(id) = 'blob' AND length(id) = 16)",
        ),
        Part::Leases => Some(
            "UPDATE leases SET until = 9223372036854775807 WHERE until <= ?1 AND NOT \
             (typeof(id) = 'blob' AND length(id) = 16)",
        ),
        Part::Bodies | Part::Unwanted | Part::Entries | Part::Garbage | Part::Pages => None,
    }
}

fn limit(budget: usize) -> i64 {
    i64::try_from(budget).unwrap_or(i64::MAX)
}
