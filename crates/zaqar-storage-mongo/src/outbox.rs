//! The outbox.
//!
//! An entry is written with its post before the post is committed, and is activated with it. It is
//! *open* while it has a time at which it is due to workers. An entry that can be followed has a
//! time until which it is kept, open or not.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use mongodb::bson::{Binary, Document, RawDocumentBuf, doc};
use serde::Deserialize;
use zaqar_core::storage::{Error, Outbox, OutboxEntry};
use zaqar_core::{Incarnation, Position, QueueKey, Timestamp};

use crate::Mongo;
use crate::entries::StoredEntry;
use crate::moves::{STAMP, stamped};
use crate::query::Query;
use crate::schema::{millis, queue_id, queue_key, random_id};
use crate::stored::{Head, Post};
use crate::view::View;

/// How many entries of a queue without subscribers one round ends.
const DUE: usize = 1000;
/// How many queues with abandoned posts one call finishes.
const ABANDONED: usize = 100;

/// How many unreadable entries one lease skips.
const MAX_UNREADABLE: usize = 100;

/// The queue and outbox epoch of an entry.
#[derive(Deserialize)]
struct Owner {
    queue: String,
    #[serde(rename = "life")]
    outbox_epoch: i64,
}

/// Owners of due entries.
#[derive(Default)]
struct Owners {
    queues: Vec<QueueKey>,
    /// Epochs of queues that seem to be closed; one per queue at a time.
    dead: HashMap<String, i64>,
    /// Queues without subscriptions.
    undeliverable: Vec<Head>,
    /// Queues that leave or arrive.
    frozen: HashSet<String>,
}

/// The move that has stamped an entry.
#[derive(Deserialize)]
struct Stamp {
    z: Option<i64>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(rename = "_id")]
    id: Binary,
}

#[async_trait]
impl Outbox for Mongo {
    async fn due_queues(&self, limit: usize, now: Timestamp) -> Result<Vec<QueueKey>, Error> {
        self.run(async {
            let now = self.database_time(now).await?;
            // A post whose writer died may have an entry that is not active yet.
            self.finish_abandoned(now, ABANDONED).await?;
            // Queues that leave or arrive are not served, and must not hide others.
            let mut frozen: HashSet<String> = HashSet::new();
            loop {
                let mut due = doc! { "due": { "$lte": now }, "ends": { "$gt": now } };
                if !frozen.is_empty() {
                    let frozen: Vec<_> = frozen.iter().map(String::as_str).collect();
                    due.insert("queue", doc! { "$nin": frozen });
                }
                let query = Query::new(due)
                    .sorted(doc! { "due": 1 })
                    .limited(limit)
                    .fields(doc! { "_id": 0, "queue": 1, "life": 1 });
                let owners: Vec<Owner> = self.find(&self.inner.outbox, &query).await?;
                let sorted = self.group_owners(&owners, now).await?;
                // Entries without readers must not hide others. If no such entry could be ended
                // (one that this store did not write), it stays in front.
                let has_more_frozen = sorted.frozen.iter().any(|queue| !frozen.contains(queue));
                frozen.extend(sorted.frozen.iter().cloned());
                if self.end_unowned(&sorted, now).await? == 0 && !has_more_frozen {
                    return Ok(sorted.queues);
                }
            }
        })
        .await
    }

    async fn lease(
        &self,
        key: &QueueKey,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Option<OutboxEntry>, Error> {
        self.run(async {
            let Some(view) = self.view(&queue_id(key), now).await? else { return Ok(None) };
            if view.head.subscribed_until <= view.now {
                // There is no subscription to deliver to.
                return Ok(None);
            }
            let due = doc! {
                "life": view.head.outbox_epoch, "due": { "$lte": view.now }, "ends": { "$gt": view.now },
            };
            let entries = self.inner.outbox.clone_with_type::<RawDocumentBuf>();
            for _ in 0..MAX_UNREADABLE {
                let call = random_id();
                let lease = doc! { "$set": { "due": millis(until), "leased_by": &call } };
                let (entry, was_retried) = self
                    .send_reporting_retry(|| {
                        entries
                            .find_one_and_update(due.clone(), lease.clone())
                            .sort(doc! { "first": 1 })
                    })
                    .await?;
                let entry =
                    if was_retried { self.first_leased(&view, &call, until).await? } else { entry };
                let Some(entry) = entry else { return Ok(None) };
                if entry.get(STAMP).is_ok_and(|stamp| stamp.is_some()) {
                    // As in `settle`: what was copied is leased where it is.
                    self.latest_head(&view.head.id).await?;
                }
                // An unreadable entry stays leased, so that it does not block the next one.
                if let Some(shown) = self.show_entry(&entry) {
                    return Ok(Some(shown));
                }
            }
            Ok(None)
        })
        .await
    }

    async fn settle(
        &self,
        key: &QueueKey,
        incarnation: Incarnation,
        first: Position,
    ) -> Result<(), Error> {
        self.run(async {
            let Some(head) = self.head(&queue_id(key)).await? else { return Ok(()) };
            if head.incarnation() != incarnation {
                return Ok(());
            }
            self.settle_entry(&head, first).await
        })
        .await
    }

    async fn follow(
        &self,
        key: &QueueKey,
        incarnation: Incarnation,
        after: Position,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<OutboxEntry>, Error> {
        self.run(async {
            let Some(head) = self.head(&queue_id(key)).await? else { return Ok(Vec::new()) };
            if head.incarnation() != incarnation {
                return Ok(Vec::new());
            }
            // After this, all messages before the head's next position have their positions: no
            // entry can appear in between later.
            self.apply_intents(&head, self.effective_time(now).max(head.latest_time)).await?;
            let positions = doc! { "$gt": after.get().cast_signed(), "$lt": head.next };
            let query = Query::new(doc! { "life": head.outbox_epoch, "first": positions })
                .sorted(doc! { "first": 1 })
                .limited(limit);
            self.find_in_order(&self.inner.outbox, query, "first", |raw| self.show_entry(raw)).await
        })
        .await
    }
}

impl Mongo {
    fn show_entry(&self, raw: &RawDocumentBuf) -> Option<OutboxEntry> {
        self.read::<StoredEntry>(raw).and_then(|entry| entry.show().ok())
    }

    /// Settles an entry of a queue whose head was just read.
    pub(crate) async fn settle_entry(&self, head: &Head, first: Position) -> Result<(), Error> {
        let first = first.get().cast_signed();
        let entry = doc! { "life": head.outbox_epoch, "first": first, "due": { "$gte": 0_i64 } };
        let mut fitting = entry.clone();
        fitting.insert(STAMP, stamped(None));
        if self.end_entries(fitting).await? > 0 {
            return Ok(());
        }
        let entries = self.inner.outbox.clone_with_type::<Stamp>();
        let found = self.send(|| entries.find_one(entry.clone())).await?;
        let Some(seen) = found.and_then(|found| found.z) else { return Ok(()) };
        // A move may be copying it. If it was undone, its stamp is as none.
        self.latest_head(&head.id).await?;
        let mut fitting = entry;
        fitting.insert(STAMP, stamped(Some(seen)));
        self.end_entries(fitting).await.map(drop)
    }

    /// The first entry that a call has leased with a retried command. If it has leased more, these
    /// become due again.
    async fn first_leased(
        &self,
        view: &View,
        call: &Binary,
        until: Timestamp,
    ) -> Result<Option<RawDocumentBuf>, Error> {
        let leased =
            doc! { "life": view.head.outbox_epoch, "due": millis(until), "leased_by": call };
        let query = Query::new(leased.clone()).sorted(doc! { "first": 1 }).limited(1);
        let first = self.find_raw(&self.inner.outbox, &query).await?.pop();
        let Some(position) = first.as_ref().and_then(|first| first.get_i64("first").ok()) else {
            return Ok(first);
        };
        let mut others = leased;
        others.insert("first", doc! { "$gt": position });
        let due = doc! { "$set": { "due": view.now } };
        self.send(|| self.inner.outbox.update_many(others.clone(), due.clone())).await?;
        Ok(first)
    }

    /// Ends due entries without readers. Returns how many.
    async fn end_unowned(&self, owners: &Owners, now: i64) -> Result<u64, Error> {
        let mut ended = 0;
        for (queue, outbox_epoch) in &owners.dead {
            // A head that was read too early may not have the new epoch yet.
            let head = self.latest_head(queue).await;
            let Some(head) = self.skip_failed("a queue's head", head)? else { continue };
            if head.is_none_or(|head| head.outbox_epoch != *outbox_epoch) {
                let filter = doc! { "life": *outbox_epoch, "due": { "$lte": now } };
                let removed = self.send(|| self.inner.outbox.delete_many(filter.clone())).await?;
                ended += removed.deleted_count;
            }
        }
        for head in &owners.undeliverable {
            ended += self.end_undeliverable(head, DUE).await? as u64;
        }
        Ok(ended)
    }

    /// Deletes the entries of posts without subscribers. Returns how many.
    pub(crate) async fn drop_entries(&self, posts: &[Post]) -> Result<u64, Error> {
        let ops: Vec<_> = posts.iter().map(|post| &post.op).collect();
        let entries = doc! { "_id": { "$in": ops }, "first": { "$exists": false } };
        let dropped = self.send(|| self.inner.outbox.delete_many(entries.clone())).await?;
        Ok(dropped.deleted_count)
    }

    /// Ends entries for workers: entries that can still be followed are kept until then, others are
    /// deleted. Returns how many.
    pub(crate) async fn end_entries(&self, which: Document) -> Result<u64, Error> {
        let (mut followed, mut other) = (which.clone(), which);
        followed.insert("until", doc! { "$exists": true });
        other.insert("until", doc! { "$exists": false });
        let settled =
            vec![doc! { "$set": { "x": "$until" } }, doc! { "$unset": ["due", "ends", "until"] }];
        let kept =
            self.send(|| self.inner.outbox.update_many(followed.clone(), settled.clone())).await?;
        let gone = self.send(|| self.inner.outbox.delete_many(other.clone())).await?;
        Ok(kept.matched_count + gone.deleted_count)
    }

    /// Ends at most `limit` entries of a queue that had no subscription without a lease when its
    /// head was read. Returns how many. Entries of later posts have later positions and stay.
    pub(crate) async fn end_undeliverable(
        &self,
        head: &Head,
        limit: usize,
    ) -> Result<usize, Error> {
        let open = doc! {
            "life": head.outbox_epoch, "first": { "$lt": head.next }, "due": { "$gte": 0_i64 },
        };
        let query = Query::new(open.clone()).limited(limit).fields(doc! { "_id": 1 });
        let found: Vec<Named> = self.find(&self.inner.outbox, &query).await?;
        let ids: Vec<_> = found.iter().map(|found| &found.id).collect();
        if !ids.is_empty() {
            self.end_entries(doc! { "_id": { "$in": ids }, "due": { "$gte": 0_i64 } }).await?;
        }
        Ok(found.len())
    }

    /// Groups owners by what is to be done: queues with due entries, each once and in order, and
    /// queues whose entries are to be ended.
    async fn group_owners(&self, owners: &[Owner], now: i64) -> Result<Owners, Error> {
        let mut sorted = Owners::default();
        let mut seen = HashSet::new();
        let ids: Vec<_> = owners.iter().map(|owner| &owner.queue).collect();
        let query = Query::new(doc! { "_id": { "$in": ids } });
        let heads = self.inner.heads.clone_with_type::<Document>();
        let found: Vec<Head> = self.find(&heads, &query).await?;
        let there: Vec<_> = found.into_iter().filter(Head::exists).collect();
        for owner in owners {
            match there.iter().find(|head| head.outbox_epoch == owner.outbox_epoch) {
                None => drop(sorted.dead.insert(owner.queue.clone(), owner.outbox_epoch)),
                Some(head) if !head.open => drop(sorted.frozen.insert(owner.queue.clone())),
                Some(_) if !seen.insert(&owner.queue) => {}
                Some(head) if head.subscribed_until <= now => {
                    sorted.undeliverable.push(head.clone())
                }
                Some(_) => sorted.queues.extend(queue_key(&owner.queue)),
            }
        }
        Ok(sorted)
    }
}
