//! Leases: subscriptions that depend on one are removed when their server dies.

use async_trait::async_trait;

use super::Error;
use crate::{LeaseId, Timestamp};

/// The result of renewing a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The lease was live: everything that depends on it is unchanged.
    Continued,
    /// The store did not know the lease and created it. After the first renewal this means that the
    /// store lost it, and subscriptions that depended on it may be lost as well.
    Created,
    /// The lease has expired or was ended; nothing changed.
    Expired,
}

/// Leases of servers that hold connections.
///
/// A lease is *live* from its first renewal until it is ended or `now` reaches the latest `until`.
/// An expired or ended lease never becomes live again.
#[async_trait]
pub trait Leases: Send + Sync {
    /// Creates or extends a lease. Cost: one row, however many subscriptions depend on it.
    ///
    /// # Behavior
    /// - The lease is live: it stays live until `until` at least; [`Renewal::Continued`].
    /// - It was never created, or the store has forgotten it: it is live until `until`;
    ///   [`Renewal::Created`].
    /// - It has expired or was ended: nothing changes; [`Renewal::Expired`]. (A store may forget a
    ///   lease that no subscription depends on.)
    /// - Sweeps remove the subscriptions that depend on expired, ended or never created leases,
    ///   without reading any other subscription.
    async fn keep_lease(
        &self,
        lease: LeaseId,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Renewal, Error>;

    /// Ends a lease.
    ///
    /// # Behavior
    /// - From now on this lease, and no other, is no longer live. Ending one that has expired or
    ///   was never created is not an error.
    async fn end_lease(&self, lease: LeaseId, now: Timestamp) -> Result<(), Error>;
}
