//! When the next work comes due, kept in memory so that nothing is queried while nothing is due.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use zaqar_core::Timestamp;
use zaqar_core::storage::effective_time;

use crate::error::Sql;
use crate::schema::entry_end;
use crate::statements::Statements;

/// The writer's time and due times, as readers see them.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    seen: AtomicU64,
    /// No claim and no delay ends before this.
    next_end: AtomicI64,
    /// No message expires before this.
    expiry: AtomicI64,
}

impl Deadlines {
    /// Returns the time at which a request acts: `now`, or the latest time of any request. If that
    /// one is ahead of `now` by more than the bound on clock skew, it was wrong, and is corrected
    /// to `now`.
    pub(crate) fn advance(&self, now: Timestamp) -> Timestamp {
        let advanced = |seen: u64| effective_time(Timestamp::from_millis(seen), now);
        let seen = self
            .seen
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |seen| {
                Some(advanced(seen).as_millis())
            })
            .unwrap_or_else(|seen| seen);
        advanced(seen)
    }

    /// The latest time of any request.
    pub(crate) fn latest(&self) -> Timestamp {
        Timestamp::from_millis(self.seen.load(Ordering::Acquire))
    }

    /// Whether a claim or a delay may be due that the writer has not ended yet.
    pub(crate) fn has_due(&self, now: Timestamp) -> bool {
        self.next_end.load(Ordering::Acquire) <= now.as_millis().cast_signed()
    }

    /// Whether a message may have expired that is still counted.
    pub(crate) fn has_expired(&self, now: Timestamp) -> bool {
        self.expiry.load(Ordering::Acquire) <= now.as_millis().cast_signed()
    }
}

/// The kinds of background work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UpkeepTask {
    /// Claims that have expired.
    Claims,
    /// Delays that have ended.
    Delays,
    /// Messages that have expired.
    Expiry,
    /// Messages of which nothing says yet when they expire.
    Index,
    /// Bodies of deleted messages.
    Bodies,
    /// Subscriptions that have expired.
    Subscriptions,
    /// Leases that have expired, with their subscriptions.
    Leases,
    /// Outbox entries without a subscription.
    Unwanted,
    /// Outbox entries that have ended.
    Entries,
    /// What failed posts have left.
    Abandoned,
    /// Rows of purged and closed queues.
    Garbage,
    /// Free pages of the file.
    Pages,
}

impl UpkeepTask {
    const COUNT: usize = Self::Pages as usize + 1;
}

/// Lower bounds of when the next work of each kind comes due.
#[derive(Debug)]
pub(crate) struct Due {
    claims: i64,
    delays: i64,
    expiry: i64,
    subscriptions: i64,
    leases: i64,
    entries: i64,
    /// Until when each task is suspended after a failure.
    suspended: [i64; UpkeepTask::COUNT],
    deadlines: Arc<Deadlines>,
}

impl Due {
    /// Starts without knowledge: the first query fills it in.
    pub(crate) fn new(deadlines: Arc<Deadlines>) -> Self {
        let [claims, delays, expiry, subscriptions, leases, entries] = [0; 6];
        let suspended = [0; UpkeepTask::COUNT];
        Self { claims, delays, expiry, subscriptions, leases, entries, suspended, deadlines }
    }

    /// After a rollback: what was queried may be wrong.
    pub(crate) fn reset(&mut self) {
        let suspended = self.suspended;
        *self = Self { suspended, ..Self::new(Arc::clone(&self.deadlines)) };
        self.publish();
    }

    /// Suspends a task.
    pub(crate) const fn suspend(&mut self, task: UpkeepTask, until: i64) {
        self.suspended[task as usize] = until;
    }

    /// Whether a task is not suspended.
    pub(crate) const fn is_active(&self, task: UpkeepTask, now: i64) -> bool {
        self.suspended[task as usize] <= now
    }

    fn not_before(&self, task: UpkeepTask, at: i64) -> i64 {
        at.max(self.suspended[task as usize])
    }

    pub(crate) fn claim_ends(&mut self, at: i64) {
        self.claims = self.claims.min(at);
        let at = self.not_before(UpkeepTask::Claims, at);
        self.deadlines.next_end.fetch_min(at, Ordering::AcqRel);
    }

    pub(crate) fn delay_ends(&mut self, at: i64) {
        self.delays = self.delays.min(at);
        let at = self.not_before(UpkeepTask::Delays, at);
        self.deadlines.next_end.fetch_min(at, Ordering::AcqRel);
    }

    pub(crate) fn message_expires(&mut self, at: i64) {
        if at < self.expiry {
            self.expiry = at;
            let at = self.not_before(UpkeepTask::Expiry, at);
            self.deadlines.expiry.fetch_min(at, Ordering::AcqRel);
        }
    }

    pub(crate) fn subscription_ends(&mut self, at: i64) {
        self.subscriptions = self.subscriptions.min(at);
    }

    pub(crate) fn lease_ends(&mut self, at: i64) {
        self.leases = self.leases.min(at);
    }

    /// Records when an outbox entry ends.
    pub(crate) fn entry_ends(&mut self, at: i64) {
        self.entries = self.entries.min(at);
    }

    pub(crate) const fn has_claims(&self, now: i64) -> bool {
        self.claims <= now && self.is_active(UpkeepTask::Claims, now)
    }

    pub(crate) const fn has_delays(&self, now: i64) -> bool {
        self.delays <= now && self.is_active(UpkeepTask::Delays, now)
    }

    pub(crate) const fn has_expired(&self, now: i64) -> bool {
        self.expiry <= now && self.is_active(UpkeepTask::Expiry, now)
    }

    pub(crate) const fn has_subscriptions(&self, now: i64) -> bool {
        self.subscriptions <= now && self.is_active(UpkeepTask::Subscriptions, now)
    }

    pub(crate) const fn has_leases(&self, now: i64) -> bool {
        self.leases <= now && self.is_active(UpkeepTask::Leases, now)
    }

    pub(crate) const fn has_entries(&self, now: i64) -> bool {
        self.entries <= now && self.is_active(UpkeepTask::Entries, now)
    }

    /// Queries when the next lease expires.
    pub(crate) fn refresh_leases(&mut self, conn: &Statements<'_>) -> Sql<()> {
        self.leases = next(conn, "SELECT min(until) FROM leases")?;
        Ok(())
    }

    /// Queries when the next outbox entry ends.
    pub(crate) fn refresh_entries(&mut self, conn: &Statements<'_>) -> Sql<()> {
        self.entries = next(conn, concat!("SELECT min(", entry_end!(), ") FROM outbox"))?;
        Ok(())
    }

    /// Queries when the next subscription expires.
    pub(crate) fn refresh_subscriptions(&mut self, conn: &Statements<'_>) -> Sql<()> {
        self.subscriptions = next(conn, "SELECT min(expires) FROM subscriptions")?;
        Ok(())
    }

    /// Queries when the next claim expires.
    pub(crate) fn refresh_claims(&mut self, conn: &Statements<'_>) -> Sql<()> {
        self.claims = next(conn, "SELECT min(expires) FROM claims")?;
        Ok(())
    }

    /// Queries when the next delay ends.
    pub(crate) fn refresh_delays(&mut self, conn: &Statements<'_>) -> Sql<()> {
        self.delays = next(conn, "SELECT min(due) FROM delayed")?;
        Ok(())
    }

    /// Queries when the next message expires.
    pub(crate) fn refresh_expiry(&mut self, conn: &Statements<'_>) -> Sql<()> {
        self.expiry = next(conn, "SELECT min(at) FROM expiry")?;
        Ok(())
    }

    /// Publishes the due times to readers, after a commit only: earlier, readers would skip work
    /// whose result they cannot see yet.
    pub(crate) fn publish(&self) {
        let claims = self.not_before(UpkeepTask::Claims, self.claims);
        let delays = self.not_before(UpkeepTask::Delays, self.delays);
        let expiry = self.not_before(UpkeepTask::Expiry, self.expiry);
        self.deadlines.next_end.store(claims.min(delays), Ordering::Release);
        self.deadlines.expiry.store(expiry, Ordering::Release);
    }
}

fn next(conn: &Statements<'_>, sql: &'static str) -> Sql<i64> {
    let earliest: Option<i64> = conn.statement(sql)?.query_row([], |row| row.get(0))?;
    Ok(earliest.unwrap_or(i64::MAX))
}
