//! Leases.
//!
//! A lease's document has its expiry and counts the subscriptions that were attached to it. A
//! subscription is written before it is counted. A sweep that finds no subscription on a lease
//! drops the lease only if the count is still the one that it read first. So every subscription on
//! a lease is found by a sweep.

use std::collections::HashMap;

use async_trait::async_trait;
use mongodb::bson::{Binary, Bson, Document, doc};
use mongodb::options::{ReturnDocument, UpdateModifications};
use serde::Deserialize;
use zaqar_core::storage::{Error, Leases, Renewal, Swept};
use zaqar_core::{LeaseId, Timestamp};

use crate::Mongo;
use crate::error::is_duplicate;
use crate::query::Query;
use crate::schema::{date, lease_bits, millis, random_id, time};
use crate::stored::expiry_field;
use crate::view::Freshness;

/// An expired, ended or never created lease.
#[derive(Deserialize)]
struct ExpiredLease {
    #[serde(rename = "_id")]
    id: Binary,
    /// Whether it was ever live.
    #[serde(rename = "kept")]
    was_live: bool,
    /// How many subscriptions were attached to it.
    #[serde(rename = "joins")]
    attached: i64,
}

/// A subscription on a lease.
#[derive(Deserialize)]
struct LeasedSubscription {
    #[serde(rename = "_id")]
    key: Binary,
    #[serde(rename = "hall")]
    subscription_epoch: i64,
    queue: String,
}

#[async_trait]
impl Leases for Mongo {
    async fn keep_lease(
        &self,
        lease: LeaseId,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Renewal, Error> {
        self.run(async {
            let (caller_time, now, until) = (millis(now), self.effective_time(now), millis(until));
            // Identifies this call in the document that it creates: if the answer is lost, the next
            // attempt recognizes it.
            let call = random_id();
            for _ in 0..2 {
                if let Some(renewal) =
                    self.renew_lease(lease, &call, until, (caller_time, now)).await?
                {
                    return Ok(renewal);
                }
                self.check_clock(Some(self.server_time().await?), caller_time)?;
                if self.create_lease(lease, &call, until).await? {
                    return Ok(Renewal::Created);
                }
                // It has expired, or another call has just created it.
            }
            Ok(Renewal::Expired)
        })
        .await
    }

    async fn end_lease(&self, lease: LeaseId, _now: Timestamp) -> Result<(), Error> {
        self.run(async {
            let filter = doc! { "_id": lease_bits(lease), "until": { "$gt": 0_i64 } };
            self.change_lease(filter, doc! { "$set": { "until": 0_i64 } }).await?;
            Ok(())
        })
        .await
    }
}

impl Mongo {
    /// Renews a live lease; `None` if there is none.
    async fn renew_lease(
        &self,
        lease: LeaseId,
        call: &Binary,
        until: i64,
        (caller_time, now): (i64, i64),
    ) -> Result<Option<Renewal>, Error> {
        let mut lasting = doc! { "_id": lease_bits(lease), "kept": true, "until": { "$gt": now } };
        self.guard(&mut lasting, caller_time, None);
        let change = doc! { "$max": { "until": until } };
        let found = self
            .send(|| {
                self.inner
                    .leases
                    .find_one_and_update(lasting.clone(), change.clone())
                    .return_document(ReturnDocument::After)
                    .projection(doc! { "call": 1 })
            })
            .await?;
        let is_ours =
            |found: Document| matches!(found.get("call"), Some(Bson::Binary(by)) if by == call);
        Ok(found.map(|found| if is_ours(found) { Renewal::Created } else { Renewal::Continued }))
    }

    /// Creates a lease, or starts one that has only subscriptions so far. Returns whether this call
    /// did.
    async fn create_lease(&self, lease: LeaseId, call: &Binary, until: i64) -> Result<bool, Error> {
        let key = lease_bits(lease);
        let begun = doc! { "$set": { "kept": true, "until": until, "call": call } };
        if self.change_lease(doc! { "_id": &key, "kept": false }, begun).await? > 0 {
            return Ok(true);
        }
        let new = doc! {
            "_id": key, "until": until, "kept": true, "joins": 0_i64, "call": call,
        };
        self.insert_lease(&new).await
    }

    /// Counts a written subscription on its lease. A lease that was never created, or that was
    /// dropped, is then found by the next sweep.
    pub(crate) async fn attach_to_lease(&self, lease: LeaseId) -> Result<(), Error> {
        let change = vec![
            doc! { "$set": {
                "until": { "$ifNull": ["$until", 0_i64] }, "joins": { "$add": ["$joins", 1_i64] },
            } },
            doc! { "$unset": "x" },
        ];
        let filter = doc! { "_id": lease_bits(lease) };
        let new = doc! { "_id": lease_bits(lease), "until": 0_i64, "kept": false, "joins": 1_i64 };
        // Retried if another process creates or drops the lease in between.
        while self.change_lease(filter.clone(), change.clone()).await? == 0 {
            if self.insert_lease(&new).await? {
                break;
            }
        }
        Ok(())
    }

    /// Inserts a lease. Returns whether there was none.
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

    /// Removes the subscriptions on expired, ended and never created leases.
    pub(crate) async fn sweep_leases(
        &self,
        now: i64,
        budget: usize,
        swept: &mut Swept,
    ) -> Result<(), Error> {
        let query = Query::new(doc! { "until": { "$lte": now } })
            .sorted(doc! { "until": 1 })
            .limited(budget + 1)
            .fields(doc! { "_id": 1, "kept": 1, "joins": 1 });
        let found: Vec<ExpiredLease> = self.find(&self.inner.leases, &query).await?;
        let end = swept.done.saturating_add(budget);
        for lease in &found {
            let left = end.saturating_sub(swept.done);
            if left == 0 {
                swept.more = true;
                return Ok(());
            }
            let cleared = self.clear_lease(lease, now, left, swept).await;
            self.skip_failed("an expired lease", cleared)?;
        }
        Ok(())
    }

    async fn clear_lease(
        &self,
        lease: &ExpiredLease,
        now: i64,
        budget: usize,
        swept: &mut Swept,
    ) -> Result<(), Error> {
        // From here on it cannot be renewed, whatever the clock of its server says.
        let over = doc! { "_id": &lease.id, "until": { "$lte": now } };
        if self.change_lease(over, doc! { "$set": { "until": 0_i64 } }).await? == 0 {
            return Ok(());
        }
        let query = Query::new(doc! { "lease": &lease.id }).limited(budget + 1);
        let query = query.fields(doc! { "_id": 1, "hall": 1, "queue": 1 });
        let mut leased: Vec<LeasedSubscription> =
            self.find(&self.inner.subscriptions, &query).await?;
        let is_all = leased.len() <= budget;
        leased.truncate(budget);
        swept.more |= !is_all;
        swept.done += leased.len();
        let mut by_queue: HashMap<&str, Vec<&LeasedSubscription>> = HashMap::new();
        for one in &leased {
            by_queue.entry(&one.queue).or_default().push(one);
        }
        for (queue, leased) in by_queue {
            self.remove_leased(queue, &leased, now).await?;
        }
        if is_all {
            self.forget_lease(lease, now).await?;
        }
        Ok(())
    }

    /// Removes subscriptions on a lease from their queue.
    async fn remove_leased(
        &self,
        queue: &str,
        leased: &[&LeasedSubscription],
        now: i64,
    ) -> Result<(), Error> {
        for attempt in 0..self.inner.options.max_attempts.max(1) {
            self.back_off(attempt).await;
            // Only the latest view can tell which subscriptions are orphaned.
            let view = self.view_by(Freshness::Latest, queue, time(now)).await?;
            let subscription_epoch = view.as_ref().map(|view| view.head.subscription_epoch);
            let (own, lost): (Vec<_>, Vec<_>) =
                leased.iter().partition(|one| Some(one.subscription_epoch) == subscription_epoch);
            let keys = |leased: Vec<&&LeasedSubscription>| -> Vec<Binary> {
                leased.into_iter().map(|one| one.key.clone()).collect()
            };
            if !lost.is_empty() {
                // They belong to a dropped epoch.
                self.delete_subscriptions(&keys(lost)).await?;
            }
            let Some(view) = view.filter(|_| !own.is_empty()) else { return Ok(()) };
            if self.try_unsubscribing(&view, keys(own), expiry_field(true)).await? {
                return Ok(());
            }
        }
        Err(Mongo::contended())
    }

    /// Drops a lease without subscriptions, unless one was attached in the meantime. A lease that
    /// was live is remembered as ended until the TTL index deletes it.
    async fn forget_lease(&self, lease: &ExpiredLease, now: i64) -> Result<(), Error> {
        let same = doc! { "_id": &lease.id, "until": 0_i64, "joins": lease.attached };
        if lease.was_live {
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
