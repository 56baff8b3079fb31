//! Leases of servers, kept in every pool, because any pool may have subscriptions that depend on
//! one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use zaqar_core::storage::{Error, Renewal};
use zaqar_core::{LeaseId, Timestamp};

use crate::member::Member;
use crate::members::Members;
use crate::place::Place;

/// Leases that are remembered, at most: a server has one at a time.
const MAX_REMEMBERED: usize = 64;

/// Where this server keeps which lease.
#[derive(Default)]
pub(crate) struct Leases(Mutex<BTreeMap<u128, Kept>>);

#[derive(Clone)]
struct Kept {
    until: Timestamp,
    places: BTreeSet<Place>,
}

impl Leases {
    /// Renews a lease in every open pool. If one pool lost it, or it expired there, subscriptions
    /// are gone, so the result is the worst of all. A new pool has not lost it.
    pub(crate) async fn keep(
        &self,
        members: &Members,
        lease: LeaseId,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Renewal, Error> {
        let answers =
            members.ask(|store| async move { store.keep_lease(lease, until, now).await }).await?;
        let mut kept = self.lock();
        let before = kept.get(&lease.get()).map(|kept| kept.places.clone()).unwrap_or_default();
        let is_lost = |(member, renewal): &(_, Renewal)| {
            *renewal == Renewal::Created && before.contains(&place(member))
        };
        let renewal = if answers.iter().any(|(_, renewal)| *renewal == Renewal::Expired) {
            Renewal::Expired
        } else if answers.iter().any(is_lost)
            || answers.iter().all(|(_, renewal)| *renewal == Renewal::Created)
        {
            Renewal::Created
        } else {
            Renewal::Continued
        };
        if kept.len() >= MAX_REMEMBERED {
            kept.retain(|_, kept| kept.until > now);
        }
        let entry =
            kept.entry(lease.get()).or_insert_with(|| Kept { until, places: BTreeSet::new() });
        entry.until = entry.until.max(until);
        entry.places.extend(answers.iter().map(|(member, _)| place(member)));
        Ok(renewal)
    }

    /// Creates the lease in the pool of a new subscription, if it is not there yet.
    pub(crate) async fn ensure(
        &self,
        member: &Member,
        lease: LeaseId,
        now: Timestamp,
    ) -> Result<(), Error> {
        let known = self.lock().get(&lease.get()).cloned();
        let Some(known) = known.filter(|known| !known.places.contains(&member.place)) else {
            return Ok(());
        };
        member.store().await?.keep_lease(lease, known.until, now).await?;
        if let Some(kept) = self.lock().get_mut(&lease.get()) {
            kept.places.insert(member.place.clone());
        }
        Ok(())
    }

    /// Ends a lease in every open pool; in the others it expires.
    pub(crate) async fn end(
        &self,
        members: &Members,
        lease: LeaseId,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.lock().remove(&lease.get());
        members.ask(|store| async move { store.end_lease(lease, now).await }).await.map(drop)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u128, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(member: &std::sync::Arc<Member>) -> Place {
    member.place.clone()
}
