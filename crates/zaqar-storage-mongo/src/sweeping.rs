//! Sweeps, by kind of document.

use std::collections::HashMap;

use futures_util::{StreamExt, stream};
use mongodb::Collection;
use mongodb::bson::{Binary, Bson, Document, doc};
use serde::Deserialize;
use zaqar_core::storage::{Error, Swept};

use crate::Mongo;
use crate::intents::ABANDONED;
use crate::query::Query;
use crate::schema::{INTERNAL, date, key_range, time};
use crate::stored::{DroppedEpoch, Head, state};
use crate::view::Freshness;

/// How many queues with abandoned intents are finished concurrently.
const AT_ONCE: usize = 8;

#[derive(Deserialize)]
struct Id {
    #[serde(rename = "_id")]
    id: Bson,
}

#[derive(Deserialize)]
struct ExpiredMessage {
    #[serde(rename = "_id")]
    id: Bson,
    /// Its epoch; none in a draft that was never committed.
    h: Option<i64>,
    #[serde(rename = "own", default)]
    is_internal: bool,
}

/// The queue and message epoch of a claim.
#[derive(Deserialize)]
struct Owner {
    #[serde(rename = "_id")]
    id: Binary,
    h: i64,
    queue: String,
}

impl Mongo {
    pub(crate) async fn sweep_all(&self, now: i64, budget: usize) -> Result<Swept, Error> {
        let budget = budget.max(1);
        let mut swept = Swept::default();
        swept.more |= self.finish_abandoned(now, budget).await?;
        let left = |swept: &Swept| budget.saturating_sub(swept.done);
        self.remove_expired_messages(now, left(&swept), &mut swept).await?;
        self.show_all_due(now, left(&swept), &mut swept).await?;
        self.end_all_claims(now, left(&swept), &mut swept).await?;
        let over = doc! { "e": { "$lte": date(now) } };
        self.remove(&self.inner.subscriptions, over, left(&swept), &mut swept).await?;
        self.sweep_leases(now, left(&swept), &mut swept).await?;
        self.end_outbox(now, left(&swept), &mut swept).await?;
        let unread = doc! { "x": { "$lte": date(now) } };
        self.remove(&self.inner.outbox, unread, left(&swept), &mut swept).await?;
        self.clear_dropped_epochs(now, budget, &mut swept).await?;
        Ok(swept)
    }

    /// Applies intents of writers that died. Returns whether there may be more.
    pub(crate) async fn finish_abandoned(&self, now: i64, limit: usize) -> Result<bool, Error> {
        let old = doc! { "todo.at": { "$lte": now.saturating_sub(ABANDONED) } };
        let query = Query::new(old).limited(limit);
        let heads: Vec<Head> = self.find(&self.heads(), &query).await?;
        let is_full = heads.len() >= limit;
        self.finish_heads(heads.iter().collect(), now).await;
        Ok(is_full)
    }

    /// Applies the intents of heads. Returns the heads where that failed: they do not stop the
    /// others.
    pub(crate) async fn finish_heads<'a>(&self, heads: Vec<&'a Head>, now: i64) -> Vec<&'a Head> {
        let mut finishing = Vec::new();
        for head in heads {
            finishing.push(self.finish_head(head, now));
        }
        let failed: Vec<_> = stream::iter(finishing).buffer_unordered(AT_ONCE).collect().await;
        failed.into_iter().flatten().collect()
    }

    /// Applies the intents of a head. Returns it if that failed.
    async fn finish_head<'a>(&self, head: &'a Head, now: i64) -> Option<&'a Head> {
        let error = self.apply_intents(head, now).await.err()?;
        self.report_skipped("an abandoned intent", &error);
        Some(head)
    }

    async fn remove_expired_messages(
        &self,
        now: i64,
        budget: usize,
        swept: &mut Swept,
    ) -> Result<(), Error> {
        let expired = doc! { "x": { "$lte": date(now) } };
        let query = Query::new(expired.clone())
            .fields(doc! { "_id": 1, "h": 1, INTERNAL: 1 })
            .limited(budget + 1);
        let mut found: Vec<ExpiredMessage> = self.find(&self.inner.messages, &query).await?;
        swept.more |= found.len() > budget;
        found.truncate(budget);
        let others = found.iter().filter(|one| one.is_internal || one.h.is_none()).count();
        let ids = found.into_iter().map(|found| found.id).collect();
        let removed = self.remove_by_id(&self.inner.messages, ids, expired).await?;
        swept.done += removed;
        // If another server deletes some of these documents meanwhile, this is at most too low.
        swept.expired += removed.saturating_sub(others);
        Ok(())
    }

    /// Deletes at most `budget` documents that match a filter.
    async fn remove(
        &self,
        from: &Collection<Document>,
        filter: Document,
        budget: usize,
        swept: &mut Swept,
    ) -> Result<(), Error> {
        let query = Query::new(filter.clone()).fields(doc! { "_id": 1 }).limited(budget + 1);
        let mut found: Vec<Id> = self.find(from, &query).await?;
        swept.more |= found.len() > budget;
        found.truncate(budget);
        let ids = found.into_iter().map(|found| found.id).collect();
        swept.done += self.remove_by_id(from, ids, filter).await?;
        Ok(())
    }

    /// Deletes those of these documents that still match a filter. Returns how many.
    async fn remove_by_id(
        &self,
        from: &Collection<Document>,
        ids: Vec<Bson>,
        mut filter: Document,
    ) -> Result<usize, Error> {
        if ids.is_empty() {
            return Ok(0);
        }
        filter.insert("_id", doc! { "$in": ids });
        let removed = self.send(|| from.delete_many(filter.clone())).await?.deleted_count;
        Ok(usize::try_from(removed).unwrap_or(usize::MAX))
    }

    async fn show_all_due(&self, now: i64, budget: usize, swept: &mut Swept) -> Result<(), Error> {
        let due = doc! { "t": { "$lte": now } };
        let query = Query::new(due.clone()).fields(doc! { "_id": 1 }).limited(budget + 1);
        let mut found: Vec<Id> = self.find(&self.inner.messages, &query).await?;
        swept.more |= found.len() > budget;
        found.truncate(budget);
        if found.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = found.into_iter().map(|found| found.id).collect();
        let due = doc! { "_id": { "$in": ids }, "t": { "$lte": now }, "s": state::DELAYED };
        let free = doc! { "$set": { "s": state::FREE }, "$unset": { "t": "" } };
        let shown = self.update_messages(due, free).await?;
        swept.done += usize::try_from(shown).unwrap_or(usize::MAX);
        Ok(())
    }

    /// Releases expired claims, queue by queue.
    async fn end_all_claims(
        &self,
        now: i64,
        budget: usize,
        swept: &mut Swept,
    ) -> Result<(), Error> {
        let over = doc! { "e": { "$lte": date(now) }, "live": true };
        let query =
            Query::new(over).fields(doc! { "_id": 1, "h": 1, "queue": 1 }).limited(budget + 1);
        let mut found: Vec<Owner> = self.find(&self.inner.claims, &query).await?;
        swept.more |= found.len() > budget;
        found.truncate(budget);
        let mut by_queue: HashMap<&str, Vec<&Owner>> = HashMap::new();
        for owner in &found {
            by_queue.entry(&owner.queue).or_default().push(owner);
        }
        for (queue, owners) in by_queue {
            // A view has released the claims of its own epoch. Others are orphaned, if it is the
            // latest view.
            let view = self.view_by(Freshness::Latest, queue, time(now)).await;
            let Some(view) = self.skip_failed("a queue with expired claims", view)? else {
                continue;
            };
            let message_epoch = view.map(|view| view.head.message_epoch);
            let dead: Vec<_> = owners
                .iter()
                .filter(|owner| Some(owner.h) != message_epoch)
                .map(|owner| owner.id.clone())
                .collect();
            let dead = doc! { "_id": { "$in": dead }, "e": { "$lte": date(now) } };
            self.send(|| self.inner.claims.delete_many(dead.clone())).await?;
            swept.done += owners.len();
        }
        Ok(())
    }

    /// Ends outbox entries whose messages have expired, and those of queues without subscriptions.
    async fn end_outbox(&self, now: i64, budget: usize, swept: &mut Swept) -> Result<(), Error> {
        let expired = doc! { "ends": { "$lte": now } };
        let query = Query::new(expired).fields(doc! { "_id": 1 }).limited(budget + 1);
        let mut found: Vec<Id> = self.find(&self.inner.outbox, &query).await?;
        swept.more |= found.len() > budget;
        found.truncate(budget);
        swept.done += found.len();
        if !found.is_empty() {
            let ids: Vec<_> = found.into_iter().map(|found| found.id).collect();
            self.end_entries(doc! { "_id": { "$in": ids }, "ends": { "$lte": now } }).await?;
        }
        let undeliverable = doc! { "subscribed": { "$gt": 0_i64, "$lte": now } };
        let query = Query::new(undeliverable).sorted(doc! { "subscribed": 1 }).limited(budget + 1);
        let heads: Vec<Head> = self.find(&self.heads(), &query).await?;
        for head in &heads {
            let left = budget.saturating_sub(swept.done);
            if left == 0 {
                swept.more = true;
                break;
            }
            let settled = self.apply_intents(head, now).await;
            if self.skip_failed("an intent of a queue without subscribers", settled)?.is_none() {
                continue;
            }
            let ended = self.end_undeliverable(head, left).await?;
            swept.done += ended.max(1);
            if ended == left {
                swept.more = true;
                break;
            }
            // Unless somebody has subscribed since.
            let same = doc! {
                "_id": &head.id, "life": head.outbox_epoch, "roster": head.subscription_seq,
                "subscribed": head.subscribed_until,
            };
            let nobody = doc! { "$set": { "subscribed": 0_i64 } };
            self.send(|| self.inner.heads.update_one(same.clone(), nobody.clone())).await?;
        }
        Ok(())
    }

    /// Deletes the documents of epochs that purged and closed queues have dropped.
    async fn clear_dropped_epochs(
        &self,
        now: i64,
        budget: usize,
        swept: &mut Swept,
    ) -> Result<(), Error> {
        let query = Query::new(doc! { "garbage": true }).limited(budget);
        let heads: Vec<Head> = self.find(&self.heads(), &query).await?;
        for head in &heads {
            let cleared = self.clear_head(head, now, budget, swept).await;
            self.skip_failed("the dropped epochs of a queue", cleared)?;
            if swept.done >= budget {
                break;
            }
        }
        swept.more |= heads.len() >= budget || (swept.done >= budget && !heads.is_empty());
        Ok(())
    }

    async fn clear_head(
        &self,
        head: &Head,
        now: i64,
        budget: usize,
        swept: &mut Swept,
    ) -> Result<(), Error> {
        // Intents of an epoch are applied before the epoch is cleared for the last time; no more
        // can follow.
        self.apply_intents(head, now).await?;
        for gone in &head.dropped_epochs {
            let left = budget.saturating_sub(swept.done);
            let mut cleared = Swept::default();
            if left == 0 {
                swept.more = true;
                return Ok(());
            }
            self.clear_epoch(gone, left, &mut cleared).await?;
            swept.done += cleared.done;
            if cleared.more {
                swept.more = true;
                return Ok(());
            }
            if head.exists() {
                self.remove_dropped_epoch(&head.id, gone).await?;
            }
        }
        self.delete_closed_head(head).await
    }

    async fn clear_epoch(
        &self,
        gone: &DroppedEpoch,
        budget: usize,
        swept: &mut Swept,
    ) -> Result<(), Error> {
        match gone {
            DroppedEpoch::Messages(message_epoch) => {
                self.remove(&self.inner.messages, doc! { "h": *message_epoch }, budget, swept)
                    .await?;
                let (first, last) = key_range(*message_epoch);
                let claims = doc! { "_id": { "$gte": first, "$lt": last } };
                let left = budget.saturating_sub(swept.done.min(budget));
                self.remove_range(&self.inner.claims, claims, left, swept).await
            }
            DroppedEpoch::Subscriptions(subscription_epoch) => {
                let (first, last) = key_range(*subscription_epoch);
                let all = doc! { "_id": { "$gte": first, "$lt": last } };
                self.remove_range(&self.inner.subscriptions, all, budget, swept).await
            }
            DroppedEpoch::Outbox(outbox_epoch) => {
                self.remove(&self.inner.outbox, doc! { "life": *outbox_epoch }, budget, swept).await
            }
        }
    }

    /// As [`Mongo::remove`], for a range of ids.
    async fn remove_range(
        &self,
        from: &Collection<Document>,
        range: Document,
        budget: usize,
        swept: &mut Swept,
    ) -> Result<(), Error> {
        let query = Query::new(range).fields(doc! { "_id": 1 }).limited(budget + 1);
        let mut found: Vec<Id> = self.find(from, &query).await?;
        swept.more |= found.len() > budget;
        found.truncate(budget);
        if found.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = found.into_iter().map(|found| found.id).collect();
        let filter = doc! { "_id": { "$in": ids } };
        let removed = self.send(|| from.delete_many(filter.clone())).await?.deleted_count;
        swept.done += usize::try_from(removed).unwrap_or(usize::MAX);
        Ok(())
    }

    async fn remove_dropped_epoch(&self, queue: &str, gone: &DroppedEpoch) -> Result<(), Error> {
        let change = doc! { "$pull": { "gone": gone.to_bson() } };
        self.send(|| self.inner.heads.update_one(doc! { "_id": queue }, change.clone())).await?;
        let nothing_left = doc! { "_id": queue, "gone": { "$size": 0 } };
        let change = doc! { "$unset": { "garbage": "" } };
        self.send(|| self.inner.heads.update_one(nothing_left.clone(), change.clone())).await?;
        Ok(())
    }

    /// Deletes a closed head whose epochs are cleared, unless it was opened again.
    async fn delete_closed_head(&self, head: &Head) -> Result<(), Error> {
        if head.exists() {
            return Ok(());
        }
        let same = doc! {
            "_id": &head.id, "open": false, "moving": { "$exists": false },
            "life": head.outbox_epoch,
        };
        self.send(|| self.inner.heads.delete_one(same.clone())).await?;
        Ok(())
    }

    fn heads(&self) -> Collection<Document> {
        self.inner.heads.clone_with_type()
    }
}
