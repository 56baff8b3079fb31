//! Subscriptions.
//!
//! A subscription's document is written first and is not active yet; an intent activates it. Such
//! intents commit only if the subscription sequence number has not changed, so the other
//! subscriptions are known. They also store in the head when the last subscription expires, on a
//! lease and without one. So the commit of a post, which is one change of the head, knows who must
//! be notified.

use async_trait::async_trait;
use mongodb::bson::{Binary, Bson, DateTime, Document, doc};
use serde::Deserialize;
use zaqar_core::storage::{
    Changed, Error, Guarded, NewSubscription, RecipientQuery, Subscribed, Subscription,
    SubscriptionChange, Subscriptions,
};
use zaqar_core::{Generation, LeaseId, QueueKey, SubscriptionId, Timestamp};

use crate::Mongo;
use crate::error::{is_duplicate, too_large, unreadable};
use crate::intents::{CommitOutcome, Sequence};
use crate::query::Query;
use crate::schema::{
    self, BY_LEASE, CommitDeadline, RECIPIENTS, date, draft_expiry, key_range, lease_bits,
    new_epoch, number, plus_secs, queue_id, random_id, subscription_key, time,
};
use crate::stored::{Action, DroppedEpoch, Head, Intent, expiry_field};
use crate::view::View;

/// A subscription as it is stored.
#[derive(Debug, Deserialize)]
pub(crate) struct StoredSubscription {
    #[serde(rename = "_id")]
    key: Binary,
    subscriber: String,
    ttl: i64,
    since: i64,
    options: String,
    confirmed: bool,
    lease: Option<Binary>,
}

impl StoredSubscription {
    /// The field of the head with the expiry of the last subscription of its kind.
    fn expiry_field(&self) -> &'static str {
        expiry_field(self.lease.is_some())
    }

    pub(crate) fn show(self) -> Result<Subscription, Error> {
        Ok(Subscription {
            id: schema::subscription_id(&self.key)
                .ok_or_else(|| unreadable("a subscription's id"))?,
            subscriber: self.subscriber,
            ttl: u64::try_from(self.ttl).unwrap_or(0),
            since: time(self.since),
            options: self.options,
            confirmed: self.confirmed,
            lease: match &self.lease {
                Some(bits) => {
                    Some(schema::lease_id(bits).ok_or_else(|| unreadable("a lease's id"))?)
                }
                None => None,
            },
        })
    }
}

/// How many subscriptions are read to find the last readable one.
const LAST: usize = 10;

#[derive(Deserialize)]
struct Expiry {
    e: DateTime,
}

/// The fields of a subscription on a lease that a server that pushes needs.
#[derive(Debug, Deserialize)]
struct Leased {
    #[serde(rename = "_id")]
    key: Binary,
    since: i64,
    ttl: i64,
}

impl Leased {
    fn show(self) -> Option<(SubscriptionId, Timestamp)> {
        let end = time(self.since).plus_secs(u64::try_from(self.ttl).unwrap_or(0));
        Some((schema::subscription_id(&self.key)?, end))
    }
}

/// The id of a subscription without a lease.
#[derive(Debug, Deserialize)]
struct Recipient {
    #[serde(rename = "_id")]
    key: Binary,
}

#[async_trait]
impl Subscriptions for Mongo {
    async fn subscribe(
        &self,
        key: &QueueKey,
        assumed: Generation,
        subscription: &NewSubscription,
        now: Timestamp,
    ) -> Result<Guarded<Subscribed>, Error> {
        self.run(async {
            too_large(
                "the subscription",
                subscription.options.len() + subscription.subscriber.len(),
            )?;
            let queue = queue_id(key);
            let _lock = self.lock_subscriptions(&queue).await;
            let (mut written, deadline) = (None, CommitDeadline::new());
            for attempt in 0..self.inner.options.max_attempts.max(1) {
                self.back_off(attempt).await;
                let view = match self.guarded_view(&queue, assumed, now).await? {
                    Guarded::Done(view) => view,
                    Guarded::Absent => {
                        self.delete_unused_subscription(written).await;
                        return Ok(Guarded::Absent);
                    }
                    Guarded::Stale(own) => {
                        self.delete_unused_subscription(written).await;
                        return Ok(Guarded::Stale(own));
                    }
                };
                let key = subscription_key(view.head.subscription_epoch, subscription.id);
                if let Some(there) = self.subscriber(&view, &subscription.subscriber).await? {
                    if there.key == key {
                        // It was created by an earlier attempt whose answer was lost.
                        let after = view.head.last_position();
                        return Ok(Guarded::Done(Subscribed::Created { after }));
                    }
                    self.delete_unused_subscription(written).await;
                    return Ok(Guarded::Done(Subscribed::Exists(there.show()?)));
                }
                // In each attempt, as a sweep may have deleted it with its lease.
                self.write_subscription(&view, &key, subscription).await?;
                written = Some(key.clone());
                let end = plus_secs(view.now, number(subscription.ttl));
                let change = doc! { "$max": { expiry_field(subscription.lease.is_some()): end } };
                if let Some(head) = self
                    .try_commit_subscription(
                        &view,
                        Action::Subscribe { key, end },
                        change,
                        Some(deadline),
                    )
                    .await?
                {
                    self.remember_subscribed(&queue, true);
                    let after = head.last_position();
                    return Ok(Guarded::Done(Subscribed::Created { after }));
                }
            }
            self.delete_unused_subscription(written).await;
            Err(Mongo::contended())
        })
        .await
    }

    async fn subscription(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        now: Timestamp,
    ) -> Result<Option<Subscription>, Error> {
        self.run(async {
            let Some(view) = self.view(&queue_id(key), now).await? else { return Ok(None) };
            self.live_subscription(&view, id).await?.map(StoredSubscription::show).transpose()
        })
        .await
    }

    async fn subscriptions(
        &self,
        key: &QueueKey,
        after: Option<SubscriptionId>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Subscription>, Error> {
        self.run(async {
            let Some(view) = self.view(&queue_id(key), now).await? else { return Ok(Vec::new()) };
            let behind = doc! { "_id": ids_after(view.head.subscription_epoch, after) };
            let query = Query::new(live(&view, behind)).sorted(doc! { "_id": 1 }).limited(limit);
            let read =
                |raw: &_| self.read::<StoredSubscription>(raw).and_then(|kept| kept.show().ok());
            self.find_in_order(&self.inner.subscriptions, query, "_id", read).await
        })
        .await
    }

    async fn leased_subscriptions(
        &self,
        key: &QueueKey,
        lease: LeaseId,
        after: Option<SubscriptionId>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<(SubscriptionId, Timestamp)>, Error> {
        self.run(async {
            let Some(view) = self.view(&queue_id(key), now).await? else { return Ok(Vec::new()) };
            let filter =
                doc! { "lease": lease_bits(lease), "_id": ids_after(view.head.subscription_epoch, after) };
            // The index covers the query, so the documents, which may be large, are not read.
            let query = Query::new(live(&view, filter))
                .sorted(doc! { "_id": 1 })
                .limited(limit)
                .fields(doc! { "_id": 1, "since": 1, "ttl": 1 })
                .hint(BY_LEASE);
            let read = |raw: &_| self.read(raw).and_then(Leased::show);
            self.find_in_order(&self.inner.subscriptions, query, "_id", read).await
        })
        .await
    }

    async fn recipients(
        &self,
        key: &QueueKey,
        query: &RecipientQuery,
        now: Timestamp,
    ) -> Result<Vec<SubscriptionId>, Error> {
        self.run(async {
            let Some(view) = self.view(&queue_id(key), now).await? else { return Ok(Vec::new()) };
            let epoch = view.head.subscription_epoch;
            let mut filter =
                doc! { "hall": epoch, "leased": false, "_id": ids_after(epoch, query.after) };
            if query.confirmed_only {
                filter.insert("confirmed", true);
            }
            // The index covers the query, so the documents, which may be large, are not read.
            let query = Query::new(live(&view, filter))
                .sorted(doc! { "_id": 1 })
                .limited(query.limit)
                .fields(doc! { "_id": 1 })
                .hint(RECIPIENTS);
            let read = |raw: &_| schema::subscription_id(&self.read::<Recipient>(raw)?.key);
            self.find_in_order(&self.inner.subscriptions, query, "_id", read).await
        })
        .await
    }

    async fn change_subscription(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        change: &SubscriptionChange,
        now: Timestamp,
    ) -> Result<Changed, Error> {
        self.run(async {
            let queue = queue_id(key);
            let _lock = self.lock_subscriptions(&queue).await;
            for attempt in 0..self.inner.options.max_attempts.max(1) {
                self.back_off(attempt).await;
                let Some(view) = self.view(&queue, now).await? else { return Ok(Changed::Absent) };
                let Some(there) = self.live_subscription(&view, id).await? else {
                    return Ok(Changed::Absent);
                };
                if let Some(subscriber) = &change.subscriber
                    && let Some(other) = self.subscriber(&view, subscriber).await?
                    && other.key != there.key
                {
                    return Ok(Changed::Duplicate);
                }
                let mut head = doc! {};
                if let Some(ttl) = change.ttl {
                    let (key, expiry_field) =
                        (std::slice::from_ref(&there.key), there.expiry_field());
                    let others = self.last_end(&view, key, expiry_field).await?;
                    let end = others.max(plus_secs(view.now, number(ttl)));
                    head.insert("$set", doc! { expiry_field: end });
                }
                let set = fields(change, view.now);
                let action = Action::ChangeSubscription {
                    key: there.key,
                    subscription_seq: view.head.subscription_seq + 1,
                    set,
                };
                if self.try_commit_subscription(&view, action, head, None).await?.is_some() {
                    return Ok(Changed::Done);
                }
            }
            Err(Mongo::contended())
        })
        .await
    }

    async fn unsubscribe(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.run(async {
            let queue = queue_id(key);
            let _lock = self.lock_subscriptions(&queue).await;
            for attempt in 0..self.inner.options.max_attempts.max(1) {
                self.back_off(attempt).await;
                let Some(view) = self.view(&queue, now).await? else { return Ok(()) };
                let Some(there) = self.live_subscription(&view, id).await? else { return Ok(()) };
                let expiry_field = there.expiry_field();
                if self.try_unsubscribing(&view, vec![there.key], expiry_field).await? {
                    return Ok(());
                }
            }
            Err(Mongo::contended())
        })
        .await
    }

    async fn unsubscribe_all(&self, key: &QueueKey, now: Timestamp) -> Result<(), Error> {
        self.run(async {
            let (queue, caller_time, now) = (queue_id(key), schema::millis(now), self.effective_time(now));
            let mut retried_epoch = None;
            for attempt in 0..self.inner.options.max_attempts.max(1) {
                self.back_off(attempt).await;
                let Some(head) = self.head(&queue).await? else { return Ok(()) };
                if retried_epoch.is_some_and(|subscription_epoch| subscription_epoch != head.subscription_epoch) {
                    // The answer to the command that changed the epoch was lost.
                    return Ok(());
                }
                self.check_clock(head.clock, caller_time)?;
                // A new epoch drops all subscriptions.
                let mut filter = doc! { "_id": &queue, "open": true, "hall": head.subscription_epoch };
                self.guard(&mut filter, caller_time, None);
                let subscribed = head.expiry_when_empty(expiry_field(false));
                let change = doc! {
                    "$set": {
                        "hall": new_epoch(), "subscribed": subscribed, "followed": 0_i64,
                        "garbage": true,
                    },
                    "$max": { "at": now },
                    "$push": { "gone": DroppedEpoch::Subscriptions(head.subscription_epoch).to_bson() },
                };
                let heads = &self.inner.heads;
                let (left, was_retried) =
                    self.send_reporting_retry(|| heads.update_one(filter.clone(), change.clone())).await?;
                if left.matched_count > 0 {
                    return Ok(());
                }
                retried_epoch = was_retried.then_some(head.subscription_epoch);
            }
            Err(Mongo::contended())
        })
        .await
    }
}

impl Mongo {
    /// Tries to commit a change of subscriptions. Returns the head afterwards, or `None` after a
    /// conflict.
    async fn try_commit_subscription(
        &self,
        view: &View,
        action: Action,
        change: Document,
        deadline: Option<CommitDeadline>,
    ) -> Result<Option<Box<Head>>, Error> {
        let intent = Intent {
            op: random_id(),
            at: view.now,
            message_epoch: view.head.message_epoch,
            action,
        };
        match self
            .try_commit(&view.head, Sequence::Subscriptions, &intent, change, deadline)
            .await?
        {
            CommitOutcome::Committed(head) => {
                self.apply_and_remove(&head.id, &intent).await.map(|_| Some(head))
            }
            // If it was committed after all, the next attempt finds its effect.
            CommitOutcome::Conflict | CommitOutcome::Unknown => Ok(None),
        }
    }

    /// Tries to remove subscriptions of one kind; `false` after a conflict.
    pub(crate) async fn try_unsubscribing(
        &self,
        view: &View,
        keys: Vec<Binary>,
        expiry_field: &str,
    ) -> Result<bool, Error> {
        let end = self.last_end(view, &keys, expiry_field).await?;
        let head =
            doc! { "$set": { expiry_field: end.max(view.head.expiry_when_empty(expiry_field)) } };
        Ok(self
            .try_commit_subscription(view, Action::Unsubscribe { keys }, head, None)
            .await?
            .is_some())
    }

    pub(crate) async fn delete_subscriptions(&self, keys: &[Binary]) -> Result<u64, Error> {
        let filter = doc! { "_id": { "$in": keys } };
        let gone = self.send(|| self.inner.subscriptions.delete_many(filter.clone())).await?;
        Ok(gone.deleted_count)
    }

    /// A live subscription.
    async fn live_subscription(
        &self,
        view: &View,
        id: SubscriptionId,
    ) -> Result<Option<StoredSubscription>, Error> {
        let filter = live(view, doc! { "_id": subscription_key(view.head.subscription_epoch, id) });
        let kept = self.inner.subscriptions.clone_with_type::<StoredSubscription>();
        self.send(|| kept.find_one(filter.clone())).await
    }

    /// The live subscription of a subscriber.
    async fn subscriber(
        &self,
        view: &View,
        subscriber: &str,
    ) -> Result<Option<StoredSubscription>, Error> {
        let filter =
            live(view, doc! { "hall": view.head.subscription_epoch, "subscriber": subscriber });
        let kept = self.inner.subscriptions.clone_with_type::<StoredSubscription>();
        self.send(|| kept.find_one(filter.clone())).await
    }

    /// When the last of the other subscriptions of a kind expires; 0 without one.
    async fn last_end(&self, view: &View, but: &[Binary], sort: &str) -> Result<i64, Error> {
        let others = doc! {
            "hall": view.head.subscription_epoch, "leased": sort == expiry_field(true), "counts": true,
            "_id": { "$nin": but },
        };
        // More than one, as the first may be unreadable.
        let query =
            Query::new(others).sorted(doc! { "e": -1 }).limited(LAST).fields(doc! { "e": 1 });
        let last: Vec<Expiry> = self.find(&self.inner.subscriptions, &query).await?;
        Ok(last.first().map_or(0, |last| last.e.timestamp_millis()))
    }

    async fn write_subscription(
        &self,
        view: &View,
        key: &Binary,
        new: &NewSubscription,
    ) -> Result<(), Error> {
        let mut document = doc! {
            "_id": key,
            "hall": view.head.subscription_epoch,
            "leased": new.lease.is_some(),
            "counts": false,
            "roster": 0_i64,
            "subscriber": &new.subscriber,
            "ttl": number(new.ttl),
            "since": view.now,
            // If it is never activated, it expires then.
            "e": date(plus_secs(view.now, number(new.ttl))).min(draft_expiry(view.now)),
            "options": &new.options,
            "confirmed": new.confirmed,
        };
        if let Some(lease) = new.lease {
            // A sweep finds it by these fields.
            document.extend(doc! { "lease": lease_bits(lease), "queue": &view.head.id });
        }
        self.send(|| {
            let insert = self.inner.subscriptions.insert_one(&document);
            async {
                match insert.await {
                    Err(error) if !is_duplicate(&error) => Err(error),
                    _ => Ok(()),
                }
            }
        })
        .await?;
        match new.lease {
            Some(lease) => self.attach_to_lease(lease).await,
            None => Ok(()),
        }
    }

    /// Deletes the document of a subscription that was not created. If that fails, the TTL index
    /// deletes it.
    async fn delete_unused_subscription(&self, written: Option<Binary>) {
        let Some(key) = written else { return };
        let filter = doc! { "_id": key, "counts": false };
        if let Err(error) = self.send(|| self.inner.subscriptions.delete_one(filter.clone())).await
        {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the document of an unused subscription is left to expire"
            );
        }
    }
}

/// A filter for the keys of an epoch's subscriptions after one of them.
pub(crate) fn ids_after(subscription_epoch: i64, after: Option<SubscriptionId>) -> Document {
    let (first, last) = key_range(subscription_epoch);
    match after {
        Some(after) => doc! { "$gt": subscription_key(subscription_epoch, after), "$lt": last },
        None => doc! { "$gte": first, "$lt": last },
    }
}

/// A filter for live subscriptions.
fn live(view: &View, mut filter: Document) -> Document {
    filter.insert("counts", true);
    filter.insert("e", doc! { "$gt": date(view.now) });
    filter
}

/// The fields that a change sets.
fn fields(change: &SubscriptionChange, now: i64) -> Document {
    let mut set = doc! {};
    let mut put = |name: &str, value: Option<Bson>| {
        if let Some(value) = value {
            set.insert(name, value);
        }
    };
    put("subscriber", change.subscriber.as_deref().map(Bson::from));
    put("options", change.options.as_deref().map(Bson::from));
    put("confirmed", change.confirmed.map(Bson::from));
    if let Some(ttl) = change.ttl.map(number) {
        put("ttl", Some(ttl.into()));
        put("since", Some(now.into()));
        put("e", Some(date(plus_secs(now, ttl)).into()));
    }
    set
}
