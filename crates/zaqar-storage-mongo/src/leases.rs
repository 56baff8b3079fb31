//! Leases.
//!
//! A lease's document says until when it lasts, and counts what was hung on it. A subscription is written before it is counted; a sweep
//! that finds nothing on a lease lets go of the lease only if the count is still the one that it has read first. So nothing hangs on a
//! lease that no sweep looks at.

use std::collections::HashMap;

use async_trait::async_trait;
use mongodb::bson::{Binary, Document, doc};
use mongodb::options::UpdateModifications;
use serde::Deserialize;
use zaqar_core::storage::{Error, Leases, Swept};
use zaqar_core::{LeaseId, Timestamp};

use crate::Mongo;
use crate::driver::Mongo as Driver;
use crate::error::is_duplicate;
use crate::query::Query;
use crate::schema::{date, lease_bits, millis, time};
use crate::subscriptions::horizon;

/// A lease that a sweep looks at.
#[derive(Deserialize)]
struct Over {
    #[serde(rename = "_id")]
    id: Binary,
    /// Whether it has ever lasted.
    kept: bool,
    /// How often something was hung on it.
    joins: i64,
}

/// A subscription on a lease.
#[derive(Deserialize)]
struct Hanger {
    #[serde(rename = "_id")]
    key: Binary,
    hall: i64,
    queue: String,
}

#[async_trait]
impl Leases for Mongo {
    async fn keep_lease(
        &self,
        lease: LeaseId,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<bool, Error> {
        self.act(async {
            let key = lease_bits(lease);
            let lasts = doc! { "until": { "$gt": self.at(now) } };
            let filter = doc! { "_id": &key, "$or": [lasts, { "kept": false }] };
            let change = doc! { "$max": { "until": millis(until) }, "$set": { "kept": true } };
            if self.change_lease(filter.clone(), change.clone()).await? > 0 {
                return Ok(true);
            }
            let new = doc! { "_id": key, "until": millis(until), "kept": true, "joins": 0_i64 };
            if self.insert_lease(&new).await? {
                return Ok(true);
            }
            // It is over, or somebody made it just now.
            Ok(self.change_lease(filter, change).await? > 0)
        })
        .await
    }

    async fn end_lease(&self, lease: LeaseId, _now: Timestamp) -> Result<(), Error> {
        self.act(async {
            let filter = doc! { "_id": lease_bits(lease), "until": { "$gt": 0_i64 } };
            self.change_lease(filter, doc! { "$set": { "until": 0_i64 } }).await?;
            Ok(())
        })
        .await
    }
}

impl Mongo {
    /// Notes that a subscription that is written hangs on a lease: one that was never kept, or that nothing hung on any more, is looked
    /// at by the next sweep.
    pub(crate) async fn hang_on(&self, lease: LeaseId) -> Result<(), Error> {
        let change = vec![
            doc! { "$set": {
                "until": { "$ifNull": ["$until", 0_i64] }, "joins": { "$add": ["$joins", 1_i64] },
            } },
            doc! { "$unset": "x" },
        ];
        let filter = doc! { "_id": lease_bits(lease) };
        let new = doc! { "_id": lease_bits(lease), "until": 0_i64, "kept": false, "joins": 1_i64 };
        // Again where others make it, or let go of it, in between.
        while self.change_lease(filter.clone(), change.clone()).await? == 0 {
            if self.insert_lease(&new).await? {
                break;
            }
        }
        Ok(())
    }

    /// Makes a lease; whether there was none.
    async fn insert_lease(&self, lease: &Document) -> Result<bool, Error> {
        self.send(|| {
            let insert = self.inner.leases.insert_one(lease);
            async {
                match insert.await {
                    Ok(_) => Ok(true),
                    Err(error) if is_duplicate(&error) => Ok(false),
                    Err(error) => Err(error),
                }
            }
        })
        .await
    }

    /// Removes what hangs on leases that are over or were never kept.
    pub(crate) async fn sweep_leases(
        &self,
        now: i64,
        budget: usize,
        swept: &mut Swept,
    ) -> Result<(), Error> {
        let query = Query::new(doc! { "until": { "$lte": now } })
            .sorted(doc! { "until": 1 })
            .limited(budget + 1)
            .of(doc! { "_id": 1, "kept": 1, "joins": 1 });
        let found: Vec<Over> = self.find(&self.inner.leases, &query).await?;
        let end = swept.done.saturating_add(budget);
        for lease in &found {
            let left = end.saturating_sub(swept.done);
            if left == 0 {
                swept.more = true;
                return Ok(());
            }
            self.clear_lease(lease, now, left, swept).await?;
        }
        Ok(())
    }

    async fn clear_lease(
        &self,
        lease: &Over,
        now: i64,
        budget: usize,
        swept: &mut Swept,
    ) -> Result<(), Error> {
        // From here on it does not last again, whatever the clock says of who keeps it.
        let over = doc! { "_id": &lease.id, "until": { "$lte": now } };
        if self.change_lease(over, doc! { "$set": { "until": 0_i64 } }).await? == 0 {
            return Ok(());
        }
        let query = Query::new(doc! { "lease": &lease.id }).limited(budget + 1);
        let query = query.of(doc! { "_id": 1, "hall": 1, "queue": 1 });
        let mut hangers: Vec<Hanger> = self.find(&self.inner.subscriptions, &query).await?;
        let is_all = hangers.len() <= budget;
        hangers.truncate(budget);
        swept.more |= !is_all;
        swept.done += hangers.len();
        let mut by_queue: HashMap<&str, Vec<&Hanger>> = HashMap::new();
        for hanger in &hangers {
            by_queue.entry(&hanger.queue).or_default().push(hanger);
        }
        for (queue, hangers) in by_queue {
            self.let_go(queue, &hangers, now).await?;
        }
        if is_all {
            self.forget_lease(lease, now).await?;
        }
        Ok(())
    }

    /// Removes subscriptions on a lease from their queue.
    async fn let_go(&self, queue: &str, hangers: &[&Hanger], now: i64) -> Result<(), Error> {
        for attempt in 0..self.inner.options.max_attempts.max(1) {
            self.back_off(attempt).await;
            let view = self.view(queue, time(now)).await?;
            let hall = view.as_ref().map(|view| view.head.hall);
            let (own, lost): (Vec<_>, Vec<_>) =
                hangers.iter().partition(|hanger| Some(hanger.hall) == hall);
            let keys = |hangers: Vec<&&Hanger>| -> Vec<Binary> {
                hangers.into_iter().map(|hanger| hanger.key.clone()).collect()
            };
            if !lost.is_empty() {
                // Of a hall that is to be cleared.
                self.delete_subscriptions(&keys(lost)).await?;
            }
            let Some(view) = view.filter(|_| !own.is_empty()) else { return Ok(()) };
            if self.try_leaving(&view, keys(own), horizon(true)).await? {
                return Ok(());
            }
        }
        Err(Driver::overtaken())
    }

    /// Lets go of a lease on which nothing hangs, unless something was hung on it meanwhile. One that has lasted is known to be over
    /// until the collector comes.
    async fn forget_lease(&self, lease: &Over, now: i64) -> Result<(), Error> {
        let same = doc! { "_id": &lease.id, "until": 0_i64, "joins": lease.joins };
        if lease.kept {
            let change = doc! { "$unset": { "until": "" }, "$set": { "x": date(now) } };
            self.change_lease(same, change).await?;
            return Ok(());
        }
        self.send(|| self.inner.leases.delete_one(same.clone())).await?;
        Ok(())
    }

    async fn change_lease(
        &self,
        filter: Document,
        change: impl Into<UpdateModifications>,
    ) -> Result<u64, Error> {
        let change = change.into();
        let changed =
            self.send(|| self.inner.leases.update_one(filter.clone(), change.clone())).await?;
        Ok(changed.matched_count)
    }
}
