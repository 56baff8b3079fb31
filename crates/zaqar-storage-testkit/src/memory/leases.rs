//! Leases.

use async_trait::async_trait;
use zaqar_core::storage::{Error, Leases, Renewal};
use zaqar_core::{LeaseId, Timestamp};

use super::{Fault, Memory, State};

#[async_trait]
impl Leases for Memory {
    async fn keep_lease(
        &self,
        lease: LeaseId,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Renewal, Error> {
        let mut state = self.state()?;
        let Some(expiry) = state.leases.get_mut(&lease) else {
            state.leases.insert(lease, until);
            let says_continued = self.has(Fault::LostLeaseContinues);
            return Ok(if says_continued { Renewal::Continued } else { Renewal::Created });
        };
        if *expiry <= now && !self.has(Fault::LeaseRevived) {
            return Ok(Renewal::Expired);
        }
        *expiry = until.max(*expiry);
        Ok(Renewal::Continued)
    }

    async fn end_lease(&self, lease: LeaseId, now: Timestamp) -> Result<(), Error> {
        let mut state = self.state()?;
        if self.has(Fault::LeaseNeverExpires) {
            return Ok(());
        }
        if let Some(until) = state.leases.get_mut(&lease) {
            *until = now.min(*until);
        }
        Ok(())
    }
}

impl Memory {
    /// Removes at most `budget` subscriptions on leases that are not live. Returns how many.
    pub(super) fn sweep_leases(&self, state: &mut State, now: Timestamp, budget: usize) -> usize {
        let State { leases, heads, .. } = state;
        let is_live = |lease: &LeaseId| leases.get(lease).is_some_and(|until| now < *until);
        let mut done = 0;
        for head in heads.values_mut() {
            head.subscriptions.retain(|_, one| {
                let is_over = one.lease.is_some_and(|lease| !is_live(&lease));
                let goes = is_over && done < budget && !self.has(Fault::LeaseNeverExpires);
                done += usize::from(goes);
                !goes
            });
        }
        done
    }
}
