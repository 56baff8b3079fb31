//! Subscriptions.
//!
//! A subscription's document is written first, without counting; a step of the head makes it count.
//! Such steps are tried on the roster's count, so each knows who else subscribes, and keep in the
//! head until when anybody does, on a lease and without one: a post knows by its own one change of
//! the head who must hear of it.

use async_trait::async_trait;
use mongodb::bson::{Binary, Bson, DateTime, Document, doc};
use serde::Deserialize;
use zaqar_core::storage::{
    Changed, Error, Guarded, NewSubscription, Subscribed, Subscription, SubscriptionChange,
    Subscriptions,
};
use zaqar_core::{Generation, LeaseId, QueueKey, SubscriptionId, Timestamp};

use crate::Mongo;
use crate::error::{is_duplicate, too_large, unreadable};
use crate::query::Query;
use crate::schema::{
    self, BY_LEASE, Fence, bounds, date, draft_end, fresh, fresh_op, later, lease_bits, number,
    queue_id, subscription_key, time,
};
use crate::steps::{Counter, Tried};
use crate::stored::{Act, Gone, Head, Step, horizon};
use crate::view::View;

/// A subscription as it is kept.
#[derive(Debug, Deserialize)]
struct StoredSubscription {
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
    /// What of the head says when the last of its sort is over.
    fn horizon(&self) -> &'static str {
        horizon(self.lease.is_some())
    }

    fn show(self) -> Result<Subscription, Error> {
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

/// Subscriptions among which the last that can be read is looked for.
const LAST: usize = 10;

#[derive(Deserialize)]
struct Ending {
    e: DateTime,
}

/// What a server that pushes needs of a subscription on its lease.
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

#[async_trait]
impl Subscriptions for Mongo {
    async fn subscribe(
        &self,
        key: &QueueKey,
        assumed: Generation,
        subscription: &NewSubscription,
        now: Timestamp,
    ) -> Result<Guarded<Subscribed>, Error> {
        self.act(async {
            too_large(
                "the subscription",
                subscription.options.len() + subscription.subscriber.len(),
            )?;
            let queue = queue_id(key);
            let _gate = self.roster_gate(&queue).await;
            let (mut written, fence) = (None, Fence::new());
            for attempt in 0..self.inner.options.max_attempts.max(1) {
                self.back_off(attempt).await;
                let view = match self.guarded_view(&queue, assumed, now).await? {
                    Guarded::Done(view) => view,
                    Guarded::Absent => {
                        self.forget_subscription(written).await;
                        return Ok(Guarded::Absent);
                    }
                    Guarded::Stale(own) => {
                        self.forget_subscription(written).await;
                        return Ok(Guarded::Stale(own));
                    }
                };
                let key = subscription_key(view.head.hall, subscription.id);
                if let Some(there) = self.subscriber(&view, &subscription.subscriber).await? {
                    if there.key == key {
                        // Ours: the answer to the step was lost.
                        let after = view.head.last_position();
                        return Ok(Guarded::Done(Subscribed::Created { after }));
                    }
                    self.forget_subscription(written).await;
                    return Ok(Guarded::Done(Subscribed::Exists(there.show()?)));
                }
                // Each time: who ended the lease may have removed it.
                self.write_subscription(&view, &key, subscription).await?;
                written = Some(key.clone());
                let end = later(view.now, number(subscription.ttl));
                let change = doc! { "$max": { horizon(subscription.lease.is_some()): end } };
                if let Some(head) =
                    self.try_roster(&view, Act::Join { key, end }, change, Some(fence)).await?
                {
                    self.remember_subscribed(&queue, true);
                    let after = head.last_position();
                    return Ok(Guarded::Done(Subscribed::Created { after }));
                }
            }
            self.forget_subscription(written).await;
            Err(Mongo::overtaken())
        })
        .await
    }

    async fn subscription(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        now: Timestamp,
    ) -> Result<Option<Subscription>, Error> {
        self.act(async {
            let Some(view) = self.view(&queue_id(key), now).await? else { return Ok(None) };
            self.kept(&view, id).await?.map(StoredSubscription::show).transpose()
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
        self.act(async {
            let Some(view) = self.view(&queue_id(key), now).await? else { return Ok(Vec::new()) };
            let behind = doc! { "_id": ids_after(view.head.hall, after) };
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
        self.act(async {
            let Some(view) = self.view(&queue_id(key), now).await? else { return Ok(Vec::new()) };
            let filter =
                doc! { "lease": lease_bits(lease), "_id": ids_after(view.head.hall, after) };
            // The index has every field that is asked for: the document, which may be large, is
            // never read.
            let query = Query::new(live(&view, filter))
                .sorted(doc! { "_id": 1 })
                .limited(limit)
                .of(doc! { "_id": 1, "since": 1, "ttl": 1 })
                .by(BY_LEASE);
            let read = |raw: &_| self.read(raw).and_then(Leased::show);
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
        self.act(async {
            let queue = queue_id(key);
            let _gate = self.roster_gate(&queue).await;
            for attempt in 0..self.inner.options.max_attempts.max(1) {
                self.back_off(attempt).await;
                let Some(view) = self.view(&queue, now).await? else { return Ok(Changed::Absent) };
                let Some(there) = self.kept(&view, id).await? else { return Ok(Changed::Absent) };
                if let Some(subscriber) = &change.subscriber
                    && let Some(other) = self.subscriber(&view, subscriber).await?
                    && other.key != there.key
                {
                    return Ok(Changed::Duplicate);
                }
                let mut head = doc! {};
                if let Some(ttl) = change.ttl {
                    let (key, horizon) = (std::slice::from_ref(&there.key), there.horizon());
                    let others = self.last_end(&view, key, horizon).await?;
                    let end = others.max(later(view.now, number(ttl)));
                    head.insert("$set", doc! { horizon: end });
                }
                let set = fields(change, view.now);
                let act = Act::Change { key: there.key, roster: view.head.roster + 1, set };
                if self.try_roster(&view, act, head, None).await?.is_some() {
                    return Ok(Changed::Done);
                }
            }
            Err(Mongo::overtaken())
        })
        .await
    }

    async fn unsubscribe(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.act(async {
            let queue = queue_id(key);
            let _gate = self.roster_gate(&queue).await;
            for attempt in 0..self.inner.options.max_attempts.max(1) {
                self.back_off(attempt).await;
                let Some(view) = self.view(&queue, now).await? else { return Ok(()) };
                let Some(there) = self.kept(&view, id).await? else { return Ok(()) };
                let horizon = there.horizon();
                if self.try_unsubscribing(&view, vec![there.key], horizon).await? {
                    return Ok(());
                }
            }
            Err(Mongo::overtaken())
        })
        .await
    }

    async fn unsubscribe_all(&self, key: &QueueKey, now: Timestamp) -> Result<(), Error> {
        self.act(async {
            let (queue, asked_at, now) = (queue_id(key), schema::millis(now), self.at(now));
            let mut sent_about = None;
            for attempt in 0..self.inner.options.max_attempts.max(1) {
                self.back_off(attempt).await;
                let Some(head) = self.head(&queue).await? else { return Ok(()) };
                if sent_about.is_some_and(|hall| hall != head.hall) {
                    // The answer to the command that left the hall behind was lost.
                    return Ok(());
                }
                self.check_clock(head.clock, asked_at)?;
                // All of them are in the hall: it is left behind.
                let mut filter = doc! { "_id": &queue, "open": true, "hall": head.hall };
                self.guard(&mut filter, asked_at, None);
                let subscribed = head.left_behind(horizon(false));
                let change = doc! {
                    "$set": {
                        "hall": fresh(), "subscribed": subscribed, "followed": 0_i64,
                        "garbage": true,
                    },
                    "$max": { "at": now },
                    "$push": { "gone": Gone::Hall(head.hall).to_bson() },
                };
                let heads = &self.inner.heads;
                let (left, was_sent) =
                    self.send_noting(|| heads.update_one(filter.clone(), change.clone())).await?;
                if left.matched_count > 0 {
                    return Ok(());
                }
                sent_about = was_sent.then_some(head.hall);
            }
            Err(Mongo::overtaken())
        })
        .await
    }
}

impl Mongo {
    /// Tries a step on the roster; the head with it, or `None` where another came first.
    async fn try_roster(
        &self,
        view: &View,
        act: Act,
        change: Document,
        fence: Option<Fence>,
    ) -> Result<Option<Box<Head>>, Error> {
        let step = Step { op: fresh_op(), at: view.now, room: view.head.room, act };
        match self.try_step(&view.head, Counter::Roster, &step, change, fence).await? {
            Tried::Done(head) => self.finish(&head.id, &step).await.map(|_| Some(head)),
            // Where it was decided after all, the next look finds what it did.
            Tried::Overtaken | Tried::Unknown => Ok(None),
        }
    }

    /// Tries to remove subscriptions of one sort; whether no other step came first.
    pub(crate) async fn try_unsubscribing(
        &self,
        view: &View,
        keys: Vec<Binary>,
        horizon: &str,
    ) -> Result<bool, Error> {
        let end = self.last_end(view, &keys, horizon).await?;
        let head = doc! { "$set": { horizon: end.max(view.head.left_behind(horizon)) } };
        Ok(self.try_roster(view, Act::Leave { keys }, head, None).await?.is_some())
    }

    pub(crate) async fn delete_subscriptions(&self, keys: &[Binary]) -> Result<u64, Error> {
        let filter = doc! { "_id": { "$in": keys } };
        let gone = self.send(|| self.inner.subscriptions.delete_many(filter.clone())).await?;
        Ok(gone.deleted_count)
    }

    /// A live subscription.
    async fn kept(
        &self,
        view: &View,
        id: SubscriptionId,
    ) -> Result<Option<StoredSubscription>, Error> {
        let filter = live(view, doc! { "_id": subscription_key(view.head.hall, id) });
        let kept = self.inner.subscriptions.clone_with_type::<StoredSubscription>();
        self.send(|| kept.find_one(filter.clone())).await
    }

    /// The live subscription of a subscriber.
    async fn subscriber(
        &self,
        view: &View,
        subscriber: &str,
    ) -> Result<Option<StoredSubscription>, Error> {
        let filter = live(view, doc! { "hall": view.head.hall, "subscriber": subscriber });
        let kept = self.inner.subscriptions.clone_with_type::<StoredSubscription>();
        self.send(|| kept.find_one(filter.clone())).await
    }

    /// When the last of the other subscriptions of a sort is over; 0 without one.
    async fn last_end(&self, view: &View, but: &[Binary], sort: &str) -> Result<i64, Error> {
        let others = doc! {
            "hall": view.head.hall, "leased": sort == horizon(true), "counts": true,
            "_id": { "$nin": but },
        };
        // More than one: what cannot be read may come first.
        let query = Query::new(others).sorted(doc! { "e": -1 }).limited(LAST).of(doc! { "e": 1 });
        let last: Vec<Ending> = self.find(&self.inner.subscriptions, &query).await?;
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
            "hall": view.head.hall,
            "leased": new.lease.is_some(),
            "counts": false,
            "roster": 0_i64,
            "subscriber": &new.subscriber,
            "ttl": number(new.ttl),
            "since": view.now,
            // Should it never count, it is over then.
            "e": date(later(view.now, number(new.ttl))).min(draft_end(view.now)),
            "options": &new.options,
            "confirmed": new.confirmed,
        };
        if let Some(lease) = new.lease {
            // A sweep finds it by these.
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
            Some(lease) => self.count_on_lease(lease).await,
            None => Ok(()),
        }
    }

    /// Removes the document of a subscription that was not made. Where that fails the collector
    /// does.
    async fn forget_subscription(&self, written: Option<Binary>) {
        let Some(key) = written else { return };
        let filter = doc! { "_id": key, "counts": false };
        if let Err(error) = self.send(|| self.inner.subscriptions.delete_one(filter.clone())).await
        {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "an unused subscription is left to expire"
            );
        }
    }
}

/// The ids of a hall's subscriptions behind one of them.
fn ids_after(hall: i64, after: Option<SubscriptionId>) -> Document {
    let (first, last) = bounds(hall);
    match after {
        Some(after) => doc! { "$gt": subscription_key(hall, after), "$lt": last },
        None => doc! { "$gte": first, "$lt": last },
    }
}

/// A filter for live subscriptions.
fn live(view: &View, mut filter: Document) -> Document {
    filter.insert("counts", true);
    filter.insert("e", doc! { "$gt": date(view.now) });
    filter
}

/// What a change sets.
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
        put("e", Some(date(later(now, ttl)).into()));
    }
    set
}
