//! Leases: what goes when a server does.

use async_trait::async_trait;

use super::Error;
use crate::{LeaseId, Timestamp};

/// What became of a lease that its server renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The store held it: everything that depends on it is as it was.
    Continued,
    /// The store did not know it, so it begins now. After the first renewal this means that the
    /// store lost it, and that subscriptions which depended on it may be gone.
    Created,
    /// It has expired or was ended; nothing changed.
    Expired,
}

/// Leases of servers that hold connections.
///
/// A lease *lasts* from when it is first kept until it is ended or `now` reaches the latest
/// `until`. A lease that is over never lasts again.
#[async_trait]
pub trait Leases: Send + Sync {
    /// Takes a lease, or makes it last longer. Cost: one row, whatever hangs on it.
    ///
    /// # Behavior
    /// - It lasts: it lasts until `until` at least; [`Renewal::Continued`].
    /// - Never kept before, or the store has forgotten it: it lasts until `until`;
    ///   [`Renewal::Created`].
    /// - It has expired or was ended: nothing changes; [`Renewal::Expired`]. (A store may forget
    ///   one that no subscription depends on.)
    /// - Sweeps remove subscriptions on leases that are over, and on such as were never kept,
    ///   without looking at any other.
    async fn keep_lease(
        &self,
        lease: LeaseId,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Renewal, Error>;

    /// Ends a lease.
    ///
    /// # Behavior
    /// - It is over from now on, and no other. One that is over or was never kept is no error.
    async fn end_lease(&self, lease: LeaseId, now: Timestamp) -> Result<(), Error>;
}
