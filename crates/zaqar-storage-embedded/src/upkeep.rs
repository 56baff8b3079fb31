//! Health checks, sweeping and shutdown.

use std::collections::BTreeSet;

use async_trait::async_trait;
use rusqlite::{OptionalExtension, params};
use zaqar_core::Timestamp;
use zaqar_core::storage::{Error, Swept, Upkeep};

use crate::Embedded;
use crate::claims::{StoredClaim, claim_columns};
use crate::due::UpkeepTask;
use crate::error::{ErrorKind, Sql, kind_of};
use crate::rows::{StateRow, columns, find};
use crate::writer_state::{WriterState, millis};

/// Bound on the rows of one sweep transaction, which takes some milliseconds.
const MAX_SWEEP_ROWS: usize = 512;

/// Free bytes that the file keeps for new messages, in addition to keeping no fewer than the used
/// ones.
const SPARE: i64 = 32 << 20;

/// Bound on remembered messages with unreadable bodies.
const MAX_UNREADABLE: usize = 4096;

/// Seconds for which a task is suspended after a failure.
const SUSPEND_SECS: u64 = 60;

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
        self.effective_time(now);
        let budget = budget.clamp(1, MAX_SWEEP_ROWS);
        self.write(move |state| state.sweep(budget)).await
    }

    async fn shut_down(&self) -> Result<(), Error> {
        self.close_store().await
    }
}

impl WriterState<'_> {
    fn sweep(&mut self, budget: usize) -> Sql<Swept> {
        const TASKS: [UpkeepTask; 10] = [
            UpkeepTask::Claims,
            UpkeepTask::Delays,
            UpkeepTask::Expiry,
            UpkeepTask::Bodies,
            UpkeepTask::Subscriptions,
            UpkeepTask::Leases,
            UpkeepTask::Unwanted,
            UpkeepTask::Entries,
            UpkeepTask::Abandoned,
            UpkeepTask::Garbage,
        ];
        let mut done = 0;
        self.expired = 0;
        for task in TASKS {
            if done < budget {
                done += self.run_task(task, budget - done)?;
            }
        }
        if done == 0 {
            done += self.run_task(UpkeepTask::Pages, 1)?;
        }
        let mut more = false;
        for task in TASKS.into_iter().chain([UpkeepTask::Pages]) {
            more = more || self.has_work(task)?;
        }
        Ok(Swept { done, more, expired: self.expired })
    }

    /// Whether a task has work to do.
    fn has_work(&self, task: UpkeepTask) -> Sql<bool> {
        let now = millis(self.now);
        if !self.due.is_active(task, now) {
            return Ok(false);
        }
        Ok(match task {
            UpkeepTask::Claims => self.due.has_claims(now),
            UpkeepTask::Delays => self.due.has_delays(now),
            UpkeepTask::Expiry => self.due.has_expired(now),
            UpkeepTask::Index => !self.expiry.is_empty(),
            UpkeepTask::Bodies => self.deleted.is_waiting(),
            UpkeepTask::Subscriptions => self.due.has_subscriptions(now),
            UpkeepTask::Leases => self.due.has_leases(now),
            UpkeepTask::Unwanted => self.has_unwanted()?,
            UpkeepTask::Entries => self.due.has_entries(now),
            UpkeepTask::Abandoned => self.has_abandoned()?,
            UpkeepTask::Garbage => self.has_garbage()?,
            UpkeepTask::Pages => self.has_spare_pages()?,
        })
    }

    /// Runs a task for about `budget` rows. Returns how many. If it fails, the task is recorded for
    /// [`Self::work_around`].
    pub(crate) fn run_task(&mut self, task: UpkeepTask, budget: usize) -> Sql<usize> {
        let before = self.task.replace(task);
        if !self.has_work(task)? {
            self.task = before;
            return Ok(0);
        }
        if self.deferred.contains(&task)
            && let Some(sql) = defer_sql(task)
        {
            self.conn.statement(sql)?.execute([millis(self.now)])?;
        }
        let done = match task {
            UpkeepTask::Claims => self.end_claims(budget),
            UpkeepTask::Delays => self.end_delays(budget),
            UpkeepTask::Expiry => self.remove_expired(budget),
            UpkeepTask::Index => self.write_expiry().map(|()| budget),
            UpkeepTask::Bodies => self.drop_deleted(budget),
            UpkeepTask::Subscriptions => self.remove_subscriptions(budget),
            UpkeepTask::Leases => self.remove_leased(budget),
            UpkeepTask::Unwanted => self.end_unwanted(budget),
            UpkeepTask::Entries => self.remove_entries(budget),
            UpkeepTask::Abandoned => self.remove_abandoned(budget),
            UpkeepTask::Garbage => self.remove_garbage(budget),
            UpkeepTask::Pages => self.give_back_pages(),
        }?;
        self.task = before;
        Ok(done)
    }

    /// After an error: whether the transaction can be repeated without its cause. The cause is an
    /// upkeep task, which is suspended or run without deleting bodies, or a message with an
    /// unreadable body.
    pub(crate) fn work_around(&mut self, error: &rusqlite::Error) -> bool {
        if !matches!(kind_of(error), ErrorKind::Damage | ErrorKind::Row | ErrorKind::Other) {
            return false;
        }
        let Some(task) = self.task.take() else { return self.pass_over_body() };
        if kind_of(error) == ErrorKind::Row
            && !self.deferred.contains(&task)
            && defer_sql(task).is_some()
        {
            tracing::warn!(?task, %error, "unreadable rows are deferred forever");
            self.deferred.push(task);
            return true;
        }
        match task {
            // The next start makes the rows again.
            UpkeepTask::Index => self.expiry.forget(),
            // They are deleted when they expire.
            UpkeepTask::Bodies => self.deleted.forget(),
            UpkeepTask::Expiry | UpkeepTask::Abandoned | UpkeepTask::Garbage
                if !self.skips_bodies =>
            {
                self.skips_bodies = true
            }
            UpkeepTask::Abandoned if self.pass_over_hidden() => {
                tracing::warn!(%error, "what a failed post has left in a queue stays there");
            }
            UpkeepTask::Claims
            | UpkeepTask::Delays
            | UpkeepTask::Expiry
            | UpkeepTask::Subscriptions
            | UpkeepTask::Leases
            | UpkeepTask::Unwanted
            | UpkeepTask::Entries
            | UpkeepTask::Abandoned
            | UpkeepTask::Garbage
            | UpkeepTask::Pages => {
                let until = self.now.plus_secs(SUSPEND_SECS);
                self.due.suspend(task, millis(until));
                tracing::warn!(?task, %error, seconds = SUSPEND_SECS, "an upkeep task failed and is suspended");
            }
        }
        true
    }

    fn pass_over_body(&mut self) -> bool {
        let Some(position) = self.failed_body.take() else { return false };
        self.unreadable.len() < MAX_UNREADABLE && self.unreadable.insert(position)
    }

    /// Runs some of the due work before the requests of a transaction.
    pub(crate) fn run_due(&mut self, budget: usize) -> Sql<()> {
        self.end_due(budget)?;
        if self.expiry.are_many() {
            self.run_task(UpkeepTask::Index, budget)?;
        }
        match self.deleted.too_many() {
            0 => Ok(()),
            count => self.run_task(UpkeepTask::Bodies, count).map(|_| ()),
        }
    }

    /// Deletes at most `budget` bodies of deleted messages. Returns how many.
    pub(crate) fn drop_deleted(&mut self, budget: usize) -> Sql<usize> {
        let bodies = self.deleted.take_next(budget);
        for (position, expires) in &bodies {
            self.drop_body(*position, *expires)?;
        }
        Ok(bodies.len())
    }

    /// Ends due claims and delays, about `budget` rows. Returns how many.
    pub(crate) fn end_due(&mut self, budget: usize) -> Sql<usize> {
        if !self.has_due() {
            return Ok(0);
        }
        let mut done = self.run_task(UpkeepTask::Claims, budget)?;
        if done < budget {
            done += self.run_task(UpkeepTask::Delays, budget - done)?;
        }
        Ok(done)
    }

    /// Whether claims or delays are due.
    pub(crate) const fn has_due(&self) -> bool {
        self.due.has_claims(millis(self.now)) || self.due.has_delays(millis(self.now))
    }

    fn end_claims(&mut self, budget: usize) -> Sql<usize> {
        let mut done = 0;
        while done < budget {
            let Some((number, claim)) = self.next_due_claim()? else { break };
            done += 1 + self.end_claim(number, &claim, budget - done)?;
        }
        self.due.refresh_claims(&self.conn)?;
        Ok(done)
    }

    fn next_due_claim(&self) -> Sql<Option<(i64, StoredClaim)>> {
        self.conn
            .statement(concat!(claim_columns!(), " WHERE expires <= ?1 ORDER BY expires LIMIT 1"))?
            .query_row([millis(self.now)], |row| Ok((row.get(5)?, StoredClaim::read(row)?)))
            .optional()
    }

    /// Ends a claim, or only its first `budget` messages. Returns how many messages.
    fn end_claim(&mut self, number: i64, claim: &StoredClaim, budget: usize) -> Sql<usize> {
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
        let due_rows = self
            .conn
            .statement(
                "SELECT position, expires, claims, NULL, due, number FROM delayed \
                 WHERE due <= ?1 ORDER BY due LIMIT ?2",
            )?
            .query_map([millis(self.now), limit(budget)], |row| {
                Ok((row.get(5)?, StateRow::read(row)?))
            })?
            .collect::<Sql<Vec<(i64, StateRow)>>>()?;
        for (number, row) in &due_rows {
            match self.head_by_number(*number)? {
                Some(_) => self.set_free(*number, row)?,
                None => self.remove_now(*number, row)?,
            }
        }
        self.due.refresh_delays(&self.conn)?;
        Ok(due_rows.len())
    }

    /// Deletes at most `budget` expired messages. Returns how many.
    fn remove_expired(&mut self, budget: usize) -> Sql<usize> {
        if !self.expiry.is_empty() {
            self.write_expiry()?;
        }
        let due_rows = self
            .conn
            .statement(
                "SELECT number, position, at FROM expiry WHERE at <= ?1 ORDER BY at, position LIMIT ?2",
            )?
            .query_map([millis(self.now), limit(budget)], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?
            .collect::<Sql<Vec<(i64, i64, i64)>>>()?;
        for (number, position, at) in &due_rows {
            let head = self.head_by_number(*number)?;
            match find(&self.conn, *number, *position)? {
                Some(row) => {
                    self.remove_now(*number, &row)?;
                    self.expired += usize::from(head.is_some_and(|head| !head.is_internal));
                }
                // The message was deleted, but the process died before the body was.
                None => self.drop_body(*position, *at)?,
            }
        }
        self.due.refresh_expiry(&self.conn)?;
        Ok(due_rows.len())
    }

    fn remove_subscriptions(&mut self, budget: usize) -> Sql<usize> {
        let due_rows = self
            .conn
            .statement(
                "SELECT audience, id, lease IS NULL FROM subscriptions WHERE expires <= ?1 \
                 ORDER BY expires LIMIT ?2",
            )?
            .query_map([millis(self.now), limit(budget)], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?
            .collect::<Sql<Vec<(i64, [u8; 16], bool)>>>()?;
        for (number, id, _) in &due_rows {
            self.conn
                .statement("DELETE FROM subscriptions WHERE audience = ?1 AND id = ?2")?
                .execute(params![number, id])?;
        }
        let numbers: BTreeSet<_> = due_rows
            .iter()
            .filter(|(.., has_address)| *has_address)
            .map(|(number, ..)| *number)
            .collect();
        for number in numbers {
            if let Some(head) = self.head_by_subscriptions_number(number)? {
                self.end_unwanted_entries(&head)?;
            }
        }
        self.due.refresh_subscriptions(&self.conn)?;
        Ok(due_rows.len())
    }

    /// Whether the file has many more free pages than new messages will need soon.
    fn has_spare_pages(&self) -> Sql<bool> {
        let free = self.page_number("PRAGMA freelist_count")?;
        if self.is_full {
            return Ok(free > 0);
        }
        Ok(free >= SPARE / self.page_number("PRAGMA page_size")?
            && 2 * free >= self.page_number("PRAGMA page_count")?)
    }

    fn page_number(&self, pragma: &'static str) -> Sql<i64> {
        self.conn.statement(pragma)?.query_row([], |row| row.get(0))
    }

    /// Truncates the file by some free pages. Returns how many.
    fn give_back_pages(&self) -> Sql<usize> {
        let before = self.page_number("PRAGMA freelist_count")?;
        let mut statement = self.conn.statement("PRAGMA incremental_vacuum(128)")?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        let after = self.page_number("PRAGMA freelist_count")?;
        Ok(usize::try_from(before - after).unwrap_or(0))
    }

    fn has_garbage(&self) -> Sql<bool> {
        self.conn.statement("SELECT 1 FROM garbage LIMIT 1")?.exists([])
    }

    /// Deletes at most `budget` rows of purged and closed heads. Returns how many.
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

    /// Deletes the rows of one number, and the number itself once there are none.
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

/// The statement that defers due rows which this store did not write, so that they do not block
/// others; they stay in the file for examination. `None` if such rows cannot be recognised by their
/// columns.
const fn defer_sql(task: UpkeepTask) -> Option<&'static str> {
    match task {
        UpkeepTask::Claims => Some(
            "UPDATE claims SET expires = 9223372036854775807 WHERE expires <= ?1 AND NOT \
             (typeof(number) = 'integer' AND typeof(id) = 'blob' AND length(id) = 16 \
             AND typeof(ttl) = 'integer' AND typeof(since) = 'integer' \
             AND typeof(positions) = 'blob')",
        ),
        UpkeepTask::Delays => Some(
            "UPDATE delayed SET due = 9223372036854775807 WHERE due <= ?1 AND NOT \
             (typeof(number) = 'integer' AND typeof(position) = 'integer' \
             AND typeof(expires) = 'integer' AND typeof(claims) = 'integer' \
             AND claims BETWEEN 0 AND 4294967295)",
        ),
        UpkeepTask::Expiry => Some(
            "UPDATE OR REPLACE expiry SET at = 9223372036854775807 WHERE at <= ?1 AND (NOT \
             (typeof(number) = 'integer' AND typeof(position) = 'integer') OR EXISTS \
             (SELECT 1 FROM held WHERE held.number = expiry.number \
             AND held.position = expiry.position \
             AND NOT (typeof(claim) = 'blob' AND length(claim) = 16)))",
        ),
        UpkeepTask::Subscriptions => Some(
            "UPDATE subscriptions SET expires = 9223372036854775807 WHERE expires <= ?1 AND NOT \
             (typeof(audience) = 'integer' AND typeof(id) = 'blob' AND length(id) = 16)",
        ),
        UpkeepTask::Leases => Some(
            "UPDATE leases SET until = 9223372036854775807 WHERE until <= ?1 AND NOT \
             (typeof(id) = 'blob' AND length(id) = 16)",
        ),
        UpkeepTask::Index
        | UpkeepTask::Bodies
        | UpkeepTask::Unwanted
        | UpkeepTask::Entries
        | UpkeepTask::Abandoned
        | UpkeepTask::Garbage
        | UpkeepTask::Pages => None,
    }
}

fn limit(budget: usize) -> i64 {
    i64::try_from(budget).unwrap_or(i64::MAX)
}
