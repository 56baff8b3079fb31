//! When the next work comes due, kept in memory so that nobody has to look when nothing is.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use zaqar_core::Timestamp;

use crate::error::Sql;
use crate::statements::Statements;

/// What readers know of the writer's time and of its work.
#[derive(Debug, Default)]
pub(crate) struct Outlook {
    seen: AtomicU64,
    /// No claim and no delay ends before this.
    turn: AtomicI64,
    /// No message expires before this.
    expiry: AtomicI64,
}

impl Outlook {
    /// The time to act at: `now`, or the latest that anybody has told.
    pub(crate) fn at(&self, now: Timestamp) -> Timestamp {
        let seen = self.seen.fetch_max(now.as_millis(), Ordering::AcqRel);
        Timestamp::from_millis(seen.max(now.as_millis()))
    }

    /// The latest time that anybody has told.
    pub(crate) fn latest(&self) -> Timestamp {
        Timestamp::from_millis(self.seen.load(Ordering::Acquire))
    }

    /// Whether a claim or a delay may be over that the file still shows.
    pub(crate) fn has_turns(&self, now: Timestamp) -> bool {
        self.turn.load(Ordering::Acquire) <= now.as_millis().cast_signed()
    }

    /// Whether a message may be over that is still counted.
    pub(crate) fn has_expired(&self, now: Timestamp) -> bool {
        self.expiry.load(Ordering::Acquire) <= now.as_millis().cast_signed()
    }
}

/// Lower bounds of when the next work of each sort comes due.
#[derive(Debug)]
pub(crate) struct Due {
    claims: i64,
    delays: i64,
    expiry: i64,
    subscriptions: i64,
    leases: i64,
    followed: i64,
    outlook: Arc<Outlook>,
}

impl Due {
    /// Knows nothing: the first look tells.
    pub(crate) fn new(outlook: Arc<Outlook>) -> Self {
        let [claims, delays, expiry, subscriptions, leases, followed] = [0; 6];
        Self { claims, delays, expiry, subscriptions, leases, followed, outlook }
    }

    /// After a rollback: what was looked at may not be so.
    pub(crate) fn unknown(&mut self) {
        *self = Self::new(Arc::clone(&self.outlook));
        self.publish();
    }

    pub(crate) fn claim_ends(&mut self, at: i64) {
        self.claims = self.claims.min(at);
        self.outlook.turn.fetch_min(at, Ordering::AcqRel);
    }

    pub(crate) fn delay_ends(&mut self, at: i64) {
        self.delays = self.delays.min(at);
        self.outlook.turn.fetch_min(at, Ordering::AcqRel);
    }

    pub(crate) fn message_expires(&mut self, at: i64) {
        if at < self.expiry {
            self.expiry = at;
            self.outlook.expiry.fetch_min(at, Ordering::AcqRel);
        }
    }

    pub(crate) fn subscription_ends(&mut self, at: i64) {
        self.subscriptions = self.subscriptions.min(at);
    }

    pub(crate) fn lease_ends(&mut self, at: i64) {
        self.leases = self.leases.min(at);
    }

    /// A settled entry can be followed until then.
    pub(crate) fn entry_ends(&mut self, at: i64) {
        self.followed = self.followed.min(at);
    }

    pub(crate) const fn has_claims(&self, now: i64) -> bool {
        self.claims <= now
    }

    pub(crate) const fn has_delays(&self, now: i64) -> bool {
        self.delays <= now
    }

    pub(crate) const fn has_expired(&self, now: i64) -> bool {
        self.expiry <= now
    }

    pub(crate) const fn has_subscriptions(&self, now: i64) -> bool {
        self.subscriptions <= now
    }

    pub(crate) const fn has_leases(&self, now: i64) -> bool {
        self.leases <= now
    }

    pub(crate) const fn has_entries(&self, now: i64) -> bool {
        self.followed <= now
    }

    /// Looks when the next lease is over.
    pub(crate) fn look_at_leases(&mut self, conn: &Statements<'_>) -> Sql<()> {
        self.leases = next(conn, "SELECT min(until) FROM leases")?;
        Ok(())
    }

    /// Looks when the next settled entry can no longer be followed.
    pub(crate) fn look_at_entries(&mut self, conn: &Statements<'_>) -> Sql<()> {
        self.followed = next(conn, "SELECT min(followed) FROM outbox WHERE ready = 2")?;
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

    /// Tells the readers. Only after a commit: before it they would believe work to be done that they cannot see done.
    pub(crate) fn publish(&self) {
        self.outlook.turn.store(self.claims.min(self.delays), Ordering::Release);
        self.outlook.expiry.store(self.expiry, Ordering::Release);
    }
}

fn next(conn: &Statements<'_>, sql: &'static str) -> Sql<i64> {
    let earliest: Option<i64> = conn.statement(sql)?.query_row([], |row| row.get(0))?;
    Ok(earliest.unwrap_or(i64::MAX))
}
