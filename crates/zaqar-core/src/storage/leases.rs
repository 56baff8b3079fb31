//! Leases: what goes when a server does.

use async_trait::async_trait;

use super::Error;
use crate::{LeaseId, Timestamp};

/// Leases of servers that hold connections.
///
/// A lease *lasts* from when it is first kept until it is ended or `now` reaches the latest `until`. A lease that is over never lasts
/// again.
#[async_trait]
pub trait Leases: Send + Sync {
    /// Takes a lease, or makes it last longer. Cost: one row, whatever hangs on it.
    ///
    /// # Behavior
    /// - Never kept before, or it lasts: it lasts until `until` at least; `true`.
    /// - It is over: `false`, nothing changes. (A store may forget one that nothing hangs on, and then take it as new.)
    /// - Sweeps remove subscriptions on leases that are over, and on such as were never kept, without looking at any other.
    async fn keep_lease(
        &self,
        lease: LeaseId,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<bool, Error>;

    /// Ends a lease.
    ///
    /// # Behavior
    /// - It is over from now on, and no other. One that is over or was never kept is no error.
    async fn end_lease(&self, lease: LeaseId, now: Timestamp) -> Result<(), Error>;
}
