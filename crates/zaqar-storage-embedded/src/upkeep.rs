//! Health, cleaning and the end.

use async_trait::async_trait;
use rusqlite::{OptionalExtension, params};
use zaqar_core::Timestamp;
use zaqar_core::storage::{Error, Swept, Upkeep};

use crate::Embedded;
use crate::claims::{ClaimRow, claim_columns};
use crate::error::Sql;
use crate::ledger::{Ledger, millis};
use crate::rows::{StateRow, columns, find};

/// Rows that one transaction sweeps, at most: some milliseconds in which others wait.
const STEP: usize = 512;

/// Free pages that the file keeps for what comes, beside those that are fewer than the used ones: 32 MiB.
const SPARE_PAGES: i64 = 4096;

#[async_trait]
impl Upkeep for Embedded {
    async fn ping(&self) -> Result<(), Error> {
        self.write(|ledger| {
            ledger.conn.statement("SELECT seen FROM sequence")?.query_row([], |_| Ok(()))
        })
        .await
    }

    async fn sweep(&self, now: Timestamp, budget: usize) -> Result<Swept, Error> {
        self.at(now);
        let budget = budget.clamp(1, STEP);
        self.write(move |ledger| ledger.sweep(budget)).await
    }

    async fn shut_down(&self) -> Result<(), Error> {
        self.shut().await
    }
}

impl Ledger<'_> {
    fn sweep(&mut self, budget: usize) -> Sql<Swept> {
        let mut done = self.take_turns(budget)?;
        if done < budget {
            done += self.remove_expired(budget - done)?;
        }
        if done < budget {
            done += self.drop_loose(budget - done)?;
        }
        if done < budget {
            done += self.remove_subscriptions(budget - done)?;
        }
        if done < budget {
            done += self.remove_leased(budget - done)?;
        }
        if done < budget {
            done += self.remove_entries(budget - done)?;
        }
        if done < budget {
            done += self.remove_garbage(budget - done)?;
        }
        if done == 0 && self.has_room_to_spare()? {
            done += self.give_back_pages()?;
        }
        let more = self.has_turns()
            || self.has_expired()
            || self.loose.is_waiting()
            || self.due.has_subscriptions(millis(self.now))
            || self.due.has_leases(millis(self.now))
            || self.due.has_entries(millis(self.now))
            || self.has_garbage()?
            || self.has_room_to_spare()?;
        Ok(Swept { done, more })
    }

    /// Ends the claims and delays that are over, about `budget` rows; how many it was.
    pub(crate) fn take_turns(&mut self, budget: usize) -> Sql<usize> {
        if !self.has_turns() {
            return Ok(0);
        }
        let mut done = self.end_claims(budget)?;
        if done < budget {
            done += self.end_delays(budget - done)?;
        }
        Ok(done)
    }

    /// Whether claims or delays are over that the file still has.
    pub(crate) const fn has_turns(&self) -> bool {
        self.due.has_claims(millis(self.now)) || self.due.has_delays(millis(self.now))
    }

    const fn has_expired(&self) -> bool {
        self.due.has_expired(millis(self.now))
    }

    fn end_claims(&mut self, budget: usize) -> Sql<usize> {
        if !self.due.has_claims(millis(self.now)) {
            return Ok(0);
        }
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
        if !self.due.has_delays(millis(self.now)) {
            return Ok(0);
        }
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
    pub(crate) fn remove_expired(&mut self, budget: usize) -> Sql<usize> {
        if !self.has_expired() {
            return Ok(0);
        }
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
        if !self.due.has_subscriptions(millis(self.now)) {
            return Ok(0);
        }
        let over = self
            .conn
            .statement(
                "SELECT audience, id FROM subscriptions WHERE expires <= ?1 ORDER BY expires LIMIT ?2",
            )?
            .query_map([millis(self.now), limit(budget)], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Sql<Vec<(i64, [u8; 16])>>>()?;
        for (audience, id) in &over {
            self.conn
                .statement("DELETE FROM subscriptions WHERE audience = ?1 AND id = ?2")?
                .execute(params![audience, id])?;
        }
        self.due.look_at_subscriptions(&self.conn)?;
        Ok(over.len())
    }

    /// Whether the file has so many free pages that new messages will not need them soon.
    fn has_room_to_spare(&self) -> Sql<bool> {
        let free = self.page_number("PRAGMA freelist_count")?;
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

    fn remove_entries_of(&mut self, life: i64, budget: usize) -> Sql<usize> {
        let mut done = 0;
        while done < budget {
            let entry = self
                .conn
                .statement("SELECT first, count FROM outbox WHERE life = ?1 LIMIT 1")?
                .query_row([life], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let Some((first, count)) = entry else { break };
            self.drop_entry(first, count)?;
            done += 1 + usize::try_from(count).unwrap_or(0);
        }
        Ok(done)
    }
}

fn limit(budget: usize) -> i64 {
    i64::try_from(budget).unwrap_or(i64::MAX)
}
