//! Leases, and the subscriptions that depend on them.

use async_trait::async_trait;
use rusqlite::{OptionalExtension, params};
use zaqar_core::storage::{Error, Leases, Renewal};
use zaqar_core::{LeaseId, Timestamp};

use crate::Embedded;
use crate::error::Sql;
use crate::writer_state::{WriterState, millis};

#[async_trait]
impl Leases for Embedded {
    async fn keep_lease(
        &self,
        lease: LeaseId,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Renewal, Error> {
        self.effective_time(now);
        self.write(move |state| state.keep_lease(lease, until)).await
    }

    async fn end_lease(&self, lease: LeaseId, now: Timestamp) -> Result<(), Error> {
        self.effective_time(now);
        self.write(move |state| {
            state
                .conn
                .statement("UPDATE leases SET until = min(until, ?2) WHERE id = ?1")?
                .execute(params![lease.get().to_be_bytes(), millis(state.now)])?;
            state.due.lease_ends(millis(state.now));
            Ok(())
        })
        .await
    }
}

impl WriterState<'_> {
    fn keep_lease(&mut self, lease: LeaseId, until: Timestamp) -> Sql<Renewal> {
        let id = lease.get().to_be_bytes();
        let lasting: Option<i64> = self
            .conn
            .statement("SELECT until FROM leases WHERE id = ?1")?
            .query_row([id], |row| row.get(0))
            .optional()?;
        if lasting.is_some_and(|until| until <= millis(self.now)) {
            return Ok(Renewal::Expired);
        }
        let until = millis(until).max(lasting.unwrap_or(0));
        self.conn
            .statement("INSERT OR REPLACE INTO leases VALUES (?1, ?2)")?
            .execute(params![id, until])?;
        self.due.lease_ends(until);
        Ok(if lasting.is_some() { Renewal::Continued } else { Renewal::Created })
    }

    /// Creates the lease, already expired, if it does not exist, so that the next sweep removes its
    /// subscriptions.
    pub(crate) fn attach_to_lease(&mut self, lease: LeaseId) -> Sql<()> {
        let made = self
            .conn
            .statement("INSERT OR IGNORE INTO leases VALUES (?1, ?2)")?
            .execute(params![lease.get().to_be_bytes(), millis(self.now)])?;
        if made > 0 {
            self.due.lease_ends(millis(self.now));
        }
        Ok(())
    }

    /// Removes expired leases and their subscriptions, about `budget` rows. Returns how many.
    pub(crate) fn remove_leased(&mut self, budget: usize) -> Sql<usize> {
        let now = millis(self.now);
        let mut done = 0;
        while done < budget && self.due.has_leases(now) {
            let expired = self
                .conn
                .statement("SELECT id FROM leases WHERE until <= ?1 ORDER BY until LIMIT 1")?
                .query_row([now], |row| row.get(0))
                .optional()?;
            match expired {
                Some(lease) => done += self.remove_dependents(lease, budget - done)?,
                None => self.due.refresh_leases(&self.conn)?,
            }
        }
        Ok(done)
    }

    /// Removes a lease and its subscriptions, or the first `budget` of these. Returns how many
    /// rows.
    fn remove_dependents(&mut self, lease: [u8; 16], budget: usize) -> Sql<usize> {
        let left = i64::try_from(budget).unwrap_or(i64::MAX);
        let removed = self
            .conn
            .statement(
                "DELETE FROM subscriptions WHERE (audience, id) IN \
                 (SELECT audience, id FROM subscriptions WHERE lease = ?1 LIMIT ?2)",
            )?
            .execute(params![lease, left])?;
        self.forget_subscribed_until();
        if removed == budget {
            return Ok(removed);
        }
        self.conn.statement("DELETE FROM leases WHERE id = ?1")?.execute([lease])?;
        Ok(removed + 1)
    }
}
