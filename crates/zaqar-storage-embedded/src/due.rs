//! When the next work comes due, kept in memory so that nobody has to look when nothing is.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use zaqar_core::Timestamp;
use zaqar_core::storage::MAX_CLOCK_SKEW;

use crate::error::Sql;
use crate::schema::entry_end;
use crate::statements::Statements;

/// What readers know of the writer's time and of its work.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    seen: AtomicU64,
    /// No claim and no delay ends before this.
    next_end: AtomicI64,
    /// No message expires before this.
    expiry: AtomicI64,
}

impl Deadlines {
    /// The time to act at: `now`, or the latest that anybody has told. One that lies further ahead
    /// than clocks may differ was wrong, and is repaired to `now`.
    pub(crate) fn at(&self, now: Timestamp) -> Timestamp {
        let bound = now.plus_secs(MAX_CLOCK_SKEW.as_secs()).as_millis();
        let step =
            |seen: u64| if seen > bound { now.as_millis() } else { seen.max(now.as_millis()) };
        let seen = self
            .seen
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |seen| Some(step(seen)))
            .unwrap_or_else(|seen| seen);
        Timestamp::from_millis(step(seen))
    }

    /// The latest time that anybody has told.
    pub(crate) fn latest(&self) -> Timestamp {
        Timestamp::from_millis(self.seen.load(Ordering::Acquire))
    }

    /// Whether a claim or a delay may be over that the file still shows.
    pub(crate) fn has_due(&self, now: Timestamp) -> bool {
        self.next_end.load(Ordering::Acquire) <= now.as_millis().cast_signed()
    }

    /// Whether a message may be over that is still counted.
    pub(crate) fn has_expired(&self, now: Timestamp) -> bool {
        self.expiry.load(Ordering::Acquire) <= now.as_millis().cast_signed()
    }
}

/// The sorts of work that nobody asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Claims that have expired.
    Claims,
    /// Delays that are over.
    Delays,
    /// Messages that have expired.
    Expiry,
    /// Bodies of deleted messages.
    Bodies,
    /// Subscriptions that have expired.
    Subscriptions,
    /// Leases that have expired, with their subscriptions.
    Leases,
    /// Outbox entries that no subscription wants.
    Unwanted,
    /// Outbox entries that have ended.
    Entries,
    /// Rows of purged and closed queues.
    Garbage,
    /// Free pages.
    Pages,
}

impl Part {
    const COUNT: usize = Self::Pages as usize + 1;
}

/// Lower bounds of when the next work of each sort comes due.
#[derive(Debug)]
pub(crate) struct Due {
    claims: i64,
    delays: i64,
    expiry: i64,
    subscriptions: i64,
    leases: i64,
    entries: i64,
    /// Until when each part is left alone, as it failed.
    suspended: [i64; Part::COUNT],
    deadlines: Arc<Deadlines>,
}

impl Due {
    /// Knows nothing: the first look tells.
    pub(crate) fn new(deadlines: Arc<Deadlines>) -> Self {
        let [claims, delays, expiry, subscriptions, leases, entries] = [0; 6];
        let suspended = [0; Part::COUNT];
        Self { claims, delays, expiry, subscriptions, leases, entries, suspended, deadlines }
    }

    /// After a rollback: what was looked at may not be so.
    pub(crate) fn unknown(&mut self) {
        let suspended = self.suspended;
        *self = Self { suspended, ..Self::new(Arc::clone(&self.deadlines)) };
        self.publish();
    }

    /// Leaves a part alone until then.
    pub(crate) const fn suspend(&mut self, part: Part, until: i64) {
        self.suspended[part as usize] = until;
    }

    /// Whether a part may be worked on.
    pub(crate) const fn is_active(&self, part: Part, now: i64) -> bool {
        self.suspended[part as usize] <= now
    }

    fn not_before(&self, part: Part, at: i64) -> i64 {
        at.max(self.suspended[part as usize])
    }

    pub(crate) fn claim_ends(&mut self, at: i64) {
        self.claims = self.claims.min(at);
        let at = self.not_before(Part::Claims, at);
        self.deadlines.next_end.fetch_min(at, Ordering::AcqRel);
    }

    pub(crate) fn delay_ends(&mut self, at: i64) {
        self.delays = self.delays.min(at);
        let at = self.not_before(Part::Delays, at);
        self.deadlines.next_end.fetch_min(at, Ordering::AcqRel);
    }

    pub(crate) fn message_expires(&mut self, at: i64) {
        if at < self.expiry {
            self.expiry = at;
            let at = self.not_before(Part::Expiry, at);
            self.deadlines.expiry.fetch_min(at, Ordering::AcqRel);
        }
    }

    pub(crate) fn subscription_ends(&mut self, at: i64) {
        self.subscriptions = self.subscriptions.min(at);
    }

    pub(crate) fn lease_ends(&mut self, at: i64) {
        self.leases = self.leases.min(at);
    }

    /// An outbox entry ends then.
    pub(crate) fn entry_ends(&mut self, at: i64) {
        self.entries = self.entries.min(at);
    }

    pub(crate) const fn has_claims(&self, now: i64) -> bool {
        self.claims <= now && self.is_active(Part::Claims, now)
    }

    pub(crate) const fn has_delays(&self, now: i64) -> bool {
        self.delays <= now && self.is_active(Part::Delays, now)
    }

    pub(crate) const fn has_expired(&self, now: i64) -> bool {
        self.expiry <= now && self.is_active(Part::Expiry, now)
    }

    pub(crate) const fn has_subscriptions(&self, now: i64) -> bool {
        self.subscriptions <= now && self.is_active(Part::Subscriptions, now)
    }

    pub(crate) const fn has_leases(&self, now: i64) -> bool {
        self.leases <= now && self.is_active(Part::Leases, now)
    }

    pub(crate) const fn has_entries(&self, now: i64) -> bool {
        self.entries <= now && self.is_active(Part::Entries, now)
    }

    /// Looks when the next lease is over.
    pub(crate) fn look_at_leases(&mut self, conn: &Statements<'_>) -> Sql<()> {
        self.leases = next(conn, "SELECT min(until) FROM leases")?;
        Ok(())
    }

    /// Looks when the next outbox entry ends.
    pub(crate) fn look_at_entries(&mut self, conn: &Statements<'_>) -> Sql<()> {
        self.entries = next(conn, concat!("SELECT min(", entry_end!(), ") FROM outbox"))?;
        Ok(())
    }

    /// Looks when the next subscription is over.
    pub(crate) fn look_at_subscriptions(&mut self, conn: &Statements<'_>) -> Sql<()> {
        self.subscriptions = next(conn, "SELECT min(expires) FROM subscriptions")?;
        Ok(())
    }

    /// Looks when the next claim ends.
    pub(crate) fn look_at_claims(&mut self, conn: &Statements<'_>) -> Sql<()> {
        self.claims = next(conn, "SELECT min(expires) FROM claims")?;
        Ok(())
    }

    /// Looks when the next delay ends.
    pub(crate) fn look_at_delays(&mut self, conn: &Statements<'_>) -> Sql<()> {
        self.delays = next(conn, "SELECT min(due) FROM delayed")?;
        Ok(())
    }

    /// Looks when the next message expires.
    pub(crate) fn look_at_expiry(&mut self, conn: &Statements<'_>) -> Sql<()> {
        self.expiry = next(conn, "SELECT min(at) FROM expiry")?;
        Ok(())
    }

    /// Tells the readers. Only after a commit: before it they would believe work to be done that
    /// they cannot see done.
    pub(crate) fn publish(&self) {
        let claims = self.not_before(Part::Claims, self.claims);
        let delays = self.not_before(Part::Delays, self.delays);
        let expiry = self.not_before(Part::Expiry, self.expiry);
        self.deadlines.next_end.store(claims.min(delays), Ordering::Release);
        self.deadlines.expiry.store(expiry, Ordering::Release);
    }
}

fn next(conn: &Statements<'_>, sql: &'static str) -> Sql<i64> {
    let earliest: Option<i64> = conn.statement(sql)?.query_row([], |row| row.get(0))?;
    Ok(earliest.unwrap_or(i64::MAX))
}
