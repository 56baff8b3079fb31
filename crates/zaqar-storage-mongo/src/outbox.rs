//! The outbox.
//!
//! An entry is written with its post before the post is committed, and is activated with it. It is
//! *open* while it has a time at which it is due to workers. An entry that can be followed has a
//! time until which it is kept, open or not.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use futures_util::future::join_all;
use mongodb::bson::{Binary, Bson, Document, RawDocumentBuf, doc};
use serde::Deserialize;
use zaqar_core::storage::{DueQueue, Error, LeaseRequest, Outbox, OutboxEntry};
use zaqar_core::{Incarnation, Position, QueueKey, Timestamp};

use crate::Mongo;
use crate::entries::StoredEntry;
use crate::intents::ABANDONED;
use crate::moves::{STAMP, stamped};
use crate::query::Query;
use crate::schema::{self, millis, queue_id, queue_key, random_id, time};
use crate::stored::{Head, Intent, Post};
use crate::view::View;

/// How many entries of a queue without subscribers one round ends.
const DUE: usize = 1000;
/// How many queues with listed intents one call examines.
const UNFINISHED: usize = 1000;

/// How often one lease looks again, past unreadable entries and other workers.
const MAX_UNREADABLE: usize = 100;

/// The queue and outbox epoch of an entry.
#[derive(Deserialize)]
struct Owner {
    queue: String,
    #[serde(rename = "life")]
    outbox_epoch: i64,
    due: i64,
}

/// Owners of due entries.
#[derive(Default)]
struct Owners {
    queues: Vec<DueQueue>,
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

/// The position of an entry.
#[derive(Deserialize)]
struct First {
    first: i64,
}

#[derive(Deserialize)]
struct Named {
    #[serde(rename = "_id")]
    id: Binary,
}

/// A lease that a call takes.
struct Lease<'a> {
    view: &'a View,
    /// The stamp of a move that the entries had when they were read.
    seen: Option<i64>,
    until: i64,
    call: Binary,
}

impl Lease<'_> {
    /// The entries with these ids, if they are still due.
    fn of(&self, ids: impl Into<Bson>) -> Document {
        doc! { "_id": ids.into(), "due": { "$lte": self.view.now }, STAMP: stamped(self.seen) }
    }

    fn change(&self) -> Document {
        let Self { until, call, .. } = self;
        doc! { "$set": { "due": until, "leased_until": until, "leased_by": call } }
    }
}

#[async_trait]
impl Outbox for Mongo {
    async fn due_queues(&self, limit: usize, now: Timestamp) -> Result<Vec<DueQueue>, Error> {
        self.run(async {
            let now = self.database_time(now).await?;
            // Before the entries: an intent is removed only after its entries are active.
            let unfinished = self.unfinished_posts(now).await?;
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
                    .fields(doc! { "_id": 0, "queue": 1, "life": 1, "due": 1 });
                let owners: Vec<Owner> = self.find(&self.inner.outbox, &query).await?;
                let mut sorted = self.group_owners(&owners, now).await?;
                // Entries without readers must not hide others. If no such entry could be ended
                // (one that this store did not write), it stays in front.
                let has_more_frozen = sorted.frozen.iter().any(|queue| !frozen.contains(queue));
                frozen.extend(sorted.frozen.iter().cloned());
                if self.end_unowned(&sorted, now).await? == 0 && !has_more_frozen {
                    // Their entries have no time yet. They were posted just now.
                    let is_known =
                        |queue: &QueueKey| sorted.queues.iter().any(|due| due.queue == *queue);
                    let others = unfinished.into_iter().filter(|queue| !is_known(queue));
                    let others: Vec<_> =
                        others.map(|queue| DueQueue { queue, since: time(now) }).collect();
                    sorted.queues.extend(others);
                    sorted.queues.truncate(limit);
                    return Ok(sorted.queues);
                }
            }
        })
        .await
    }

    async fn lease(
        &self,
        key: &QueueKey,
        request: &LeaseRequest,
        now: Timestamp,
    ) -> Result<Vec<OutboxEntry>, Error> {
        self.run(async {
            let Some(view) = self.view(&queue_id(key), now).await? else { return Ok(Vec::new()) };
            if view.head.subscribed_until <= view.now {
                // There is no subscription to deliver to.
                return Ok(Vec::new());
            }
            for _ in 0..MAX_UNREADABLE {
                let mut found = self.leasable(&view, request).await?;
                let Some(seen) = found.first().map(stamp_of) else { break };
                found.truncate(found.iter().take_while(|raw| stamp_of(raw) == seen).count());
                if seen.is_some() {
                    // As in `settle_entries`: what was copied is leased where it is.
                    self.latest_head(&view.head.id).await?;
                }
                let leased = self.lease_found(&view, &found, seen, request.until).await?;
                let (entries, unreadable) = self.show_entries(&leased);
                if !unreadable.is_empty() {
                    // They wait, and do not block the next ones.
                    let which = doc! { "_id": { "$in": unreadable } };
                    let wait = doc! { "$unset": { "leased_until": "" } };
                    let waiting =
                        self.send(|| self.inner.outbox.update_many(which.clone(), wait.clone()));
                    match waiting.await {
                        Err(error) if entries.is_empty() => return Err(error),
                        Err(error) => {
                            let what = "unreadable outbox entries block others";
                            self.report_unfinished(what, &view.head.id, &error);
                        }
                        Ok(_) => {}
                    }
                }
                if !entries.is_empty() {
                    return Ok(entries);
                }
                // Another worker has leased the first one, or none can be read.
            }
            Ok(Vec::new())
        })
        .await
    }

    async fn settle(
        &self,
        key: &QueueKey,
        incarnation: Incarnation,
        firsts: &[Position],
    ) -> Result<(), Error> {
        self.run(async {
            let Some(head) = self.head(&queue_id(key)).await? else { return Ok(()) };
            if head.incarnation() != incarnation {
                return Ok(());
            }
            self.settle_entries(&head, firsts).await
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
    /// Queues with committed posts whose outbox entries may not be active yet. Those that this
    /// process applies, and those of writers that died, are active when this returns; the others
    /// are returned, as their writers are about to apply them.
    async fn unfinished_posts(&self, now: i64) -> Result<Vec<QueueKey>, Error> {
        let query = Query::new(doc! { "todo.at": { "$lte": now } }).limited(UNFINISHED);
        let heads: Vec<Head> = self.find(&self.inner.heads.clone_with_type(), &query).await?;
        let is_abandoned = |intent: &Intent| intent.at.saturating_add(ABANDONED) <= now;
        let (abandoned, recent): (Vec<_>, Vec<_>) =
            heads.iter().partition(|head| head.intents.iter().any(is_abandoned));
        let mut unfinished = self.finish_heads(abandoned, now).await;
        let mut posts = Vec::new();
        for head in recent {
            posts.push(self.finish_own_posts(head));
        }
        unfinished.extend(join_all(posts).await.into_iter().flatten());
        Ok(unfinished.into_iter().filter_map(|head| queue_key(&head.id)).collect())
    }

    /// Waits until the posts are applied that this process applies. Returns the head if there are
    /// others.
    async fn finish_own_posts<'a>(&self, head: &'a Head) -> Option<&'a Head> {
        let mut is_finished = true;
        for post in head.intents.iter().filter(|intent| intent.notifies_workers()) {
            is_finished &=
                self.inner.applied.has(&post.op) && self.apply_once(&head.id, post).await.is_ok();
        }
        (!is_finished).then_some(head)
    }

    fn show_entry(&self, raw: &RawDocumentBuf) -> Option<OutboxEntry> {
        self.read::<StoredEntry>(raw).and_then(|entry| entry.show().ok())
    }

    /// Settles entries of a queue whose head was just read.
    pub(crate) async fn settle_entries(
        &self,
        head: &Head,
        firsts: &[Position],
    ) -> Result<(), Error> {
        let firsts: Vec<_> = firsts.iter().map(|first| first.get().cast_signed()).collect();
        let count = firsts.len() as u64;
        let entries = doc! {
            "life": head.outbox_epoch, "first": { "$in": firsts }, "due": { "$gte": 0_i64 },
        };
        let mut fitting = entries.clone();
        fitting.insert(STAMP, stamped(None));
        if self.end_entries(fitting).await? == count {
            return Ok(());
        }
        let query = Query::new(entries.clone()).fields(doc! { "_id": 0, STAMP: 1 });
        let left: Vec<Stamp> = self.find(&self.inner.outbox, &query).await?;
        let seen: Vec<_> = left.into_iter().filter_map(|left| left.z).collect();
        if seen.is_empty() {
            return Ok(());
        }
        // A move may be copying them. If it was undone, its stamp is as none.
        self.latest_head(&head.id).await?;
        let mut fitting = entries;
        fitting.insert(STAMP, doc! { "$in": seen });
        self.end_entries(fitting).await.map(drop)
    }

    /// Entries that can be read, and the ids of those that cannot.
    fn show_entries(&self, raw: &[RawDocumentBuf]) -> (Vec<OutboxEntry>, Vec<Bson>) {
        let (mut shown, mut unreadable) = (Vec::new(), Vec::new());
        for raw in raw {
            match self.show_entry(raw) {
                Some(entry) => shown.push(entry),
                None => unreadable.extend(entry_id(raw)),
            }
        }
        (shown, unreadable)
    }

    /// The first due entries, up to one that is leased.
    async fn leasable(
        &self,
        view: &View,
        request: &LeaseRequest,
    ) -> Result<Vec<RawDocumentBuf>, Error> {
        let of_queue = doc! { "life": view.head.outbox_epoch, "ends": { "$gt": view.now } };
        let mut due = of_queue.clone();
        due.insert("due", doc! { "$lte": view.now });
        let query = Query::new(due).sorted(doc! { "first": 1 }).limited(request.limit);
        let mut found = self.find_until(&self.inner.outbox, &query, request.bytes).await?;
        if found.is_empty() {
            return Ok(found);
        }
        // Read after the due entries: one that is in neither answer was settled in between.
        let mut leased = of_queue;
        leased.insert("leased_until", doc! { "$gt": view.now });
        let query = Query::new(leased)
            .sorted(doc! { "first": 1 })
            .limited(1)
            .hint(schema::LEASED)
            .fields(doc! { "_id": 0, "first": 1 });
        let leased: Vec<First> = self.find(&self.inner.outbox, &query).await?;
        if let Some(leased) = leased.first() {
            found.retain(|raw| raw.get_i64("first").is_ok_and(|first| first < leased.first));
        }
        Ok(found)
    }

    /// Leases entries that were due, and had this stamp of a move, when they were read. Returns
    /// those that it got: none if another worker has the first one, as the worker that has it may
    /// have the others, too.
    async fn lease_found(
        &self,
        view: &View,
        found: &[RawDocumentBuf],
        seen: Option<i64>,
        until: Timestamp,
    ) -> Result<Vec<RawDocumentBuf>, Error> {
        let Some(first) = found.first() else { return Ok(Vec::new()) };
        let lease = Lease { view, seen, until: millis(until), call: random_id() };
        let (due, change) = (lease.of(entry_id(first)), lease.change());
        let (answer, was_retried) = self
            .send_reporting_retry(|| self.inner.outbox.update_one(due.clone(), change.clone()))
            .await?;
        let has_first = answer.modified_count > 0;
        if !has_first && !was_retried {
            return Ok(Vec::new());
        }
        match self.lease_rest(&lease, found, answer.modified_count).await {
            Err(error) if has_first => {
                let what = "only the first of the due outbox entries was leased";
                self.report_unfinished(what, &view.head.id, &error);
                Ok(vec![first.clone()])
            }
            leased => leased,
        }
    }

    /// Leases the entries after the first. Returns all that the lease got.
    async fn lease_rest(
        &self,
        lease: &Lease<'_>,
        found: &[RawDocumentBuf],
        mut got: u64,
    ) -> Result<Vec<RawDocumentBuf>, Error> {
        let rest: Vec<_> = found.iter().skip(1).filter_map(entry_id).collect();
        if !rest.is_empty() {
            let (due, change) = (lease.of(doc! { "$in": rest }), lease.change());
            let answer =
                self.send(|| self.inner.outbox.update_many(due.clone(), change.clone())).await?;
            got += answer.modified_count;
        }
        if got == found.len() as u64 {
            return Ok(found.to_vec());
        }
        // The answer of a first attempt was lost, or some were ended in the meantime.
        let epoch = lease.view.head.outbox_epoch;
        let leased = doc! { "life": epoch, "due": lease.until, "leased_by": &lease.call };
        let query = Query::new(leased).sorted(doc! { "first": 1 });
        self.find_raw(&self.inner.outbox, &query).await
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
                Some(_) => {
                    let due = |queue| DueQueue { queue, since: time(owner.due) };
                    sorted.queues.extend(queue_key(&owner.queue).map(due));
                }
            }
        }
        Ok(sorted)
    }
}

/// The move that has stamped an entry.
fn stamp_of(raw: &RawDocumentBuf) -> Option<i64> {
    raw.get_i64(STAMP).ok()
}

fn entry_id(raw: &RawDocumentBuf) -> Option<Bson> {
    raw.get("_id").ok().flatten().and_then(|id| Bson::try_from(id).ok())
}
