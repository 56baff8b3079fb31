//! The outbox.
//!
//! An entry is written with its post, before that is decided, and counts with it. It is *open* while it has a time at which it is due to
//! workers; one that servers follow has a time until which they do, and stays that long, open or not.

use std::collections::HashSet;

use async_trait::async_trait;
use mongodb::bson::{Binary, Document, doc};
use serde::Deserialize;
use zaqar_core::storage::{Error, FOLLOWED_FOR, Outbox, OutboxEntry, OutboxMessage};
use zaqar_core::{Incarnation, Position, QueueKey, Timestamp};

use crate::Mongo;
use crate::error::unreadable;
use crate::query::Query;
use crate::schema::{self, date, millis, queue_id, queue_key, time};
use crate::stored::{Head, Hearers, payload};

/// Queues whose abandoned posts one look finishes.
const ABANDONED: usize = 100;

/// An entry as it is kept.
#[derive(Deserialize)]
struct Entry {
    incarnation: i64,
    first: i64,
    created: i64,
    messages: Vec<Body>,
}

#[derive(Deserialize)]
struct Body {
    b: Binary,
    e: Option<String>,
    m: Option<Binary>,
    l: i64,
    /// Milliseconds until it may be delivered.
    delay: i64,
}

/// What an entry gets when its post is carried out.
pub(crate) struct Heard<'a> {
    pub(crate) queue: &'a str,
    /// The post.
    pub(crate) op: &'a Binary,
    pub(crate) hearers: Hearers,
    pub(crate) life: i64,
    pub(crate) incarnation: i64,
    pub(crate) first: i64,
    pub(crate) at: i64,
}

impl Heard<'_> {
    /// Makes the entry count.
    fn change(&self) -> Vec<Document> {
        let mut set = doc! {
            "queue": { "$literal": self.queue },
            "life": self.life,
            "incarnation": self.incarnation,
            "first": self.first,
            "created": self.at,
        };
        let mut unset = vec!["soonest", "longest"];
        if self.hearers.workers {
            set.insert("due", doc! { "$add": [self.at, "$soonest"] });
        }
        let followed = schema::span(FOLLOWED_FOR).saturating_add(self.at);
        match (self.hearers.workers, self.hearers.followers) {
            // It is collected when it is no longer followed: at once, or when it is settled.
            (false, _) => drop(set.insert("x", doc! { "$add": [date(followed), "$longest"] })),
            (true, true) => {
                set.insert("until", doc! { "$add": [date(followed), "$longest"] });
                unset.push("x");
            }
            (true, false) => unset.push("x"),
        }
        vec![doc! { "$set": set }, doc! { "$unset": unset }]
    }
}

/// Where an entry belongs.
#[derive(Deserialize)]
struct Owner {
    queue: String,
    life: i64,
}

impl Entry {
    fn show(self) -> Result<OutboxEntry, Error> {
        let incarnation = Incarnation::new(self.incarnation.cast_unsigned());
        let messages = self.messages.into_iter().zip(self.first..).map(|(body, place)| {
            Ok(OutboxMessage {
                id: schema::place(incarnation, place),
                payload: payload(body.b, body.e, body.m)?,
                ttl: u64::try_from(body.l).unwrap_or(0),
                due: time(self.created.saturating_add(body.delay)),
            })
        });
        Ok(OutboxEntry {
            incarnation,
            first: Position::new(self.first.cast_unsigned()),
            messages: messages.collect::<Result<_, Error>>()?,
            created: time(self.created),
        })
    }
}

#[async_trait]
impl Outbox for Mongo {
    async fn due_queues(&self, limit: usize, now: Timestamp) -> Result<Vec<QueueKey>, Error> {
        self.act(async {
            let now = self.at(now);
            // A post whose writer died may have an entry that does not count yet.
            self.finish_abandoned(now, ABANDONED).await?;
            loop {
                let query = Query::new(doc! { "due": { "$lte": now } })
                    .sorted(doc! { "due": 1 })
                    .limited(limit)
                    .of(doc! { "_id": 0, "queue": 1, "life": 1 });
                let owners: Vec<Owner> = self.find(&self.inner.outbox, &query).await?;
                let (queues, dead) = self.sort_out(&owners).await?;
                if dead.is_empty() {
                    return Ok(queues);
                }
                // Of queues that were closed since: they must not stand before others.
                let filter = doc! { "life": { "$in": dead }, "due": { "$lte": now } };
                self.send(|| self.inner.outbox.delete_many(filter.clone())).await?;
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
        self.act(async {
            let Some(view) = self.view(&queue_id(key), now).await? else { return Ok(None) };
            let due = doc! { "life": view.head.life, "due": { "$lte": view.now } };
            let entries = self.inner.outbox.clone_with_type::<Entry>();
            let entry = self
                .send(|| {
                    entries
                        .find_one_and_update(due.clone(), doc! { "$set": { "due": millis(until) } })
                        .sort(doc! { "first": 1 })
                })
                .await?;
            entry.map(Entry::show).transpose()
        })
        .await
    }

    async fn settle(
        &self,
        key: &QueueKey,
        incarnation: Incarnation,
        first: Position,
    ) -> Result<(), Error> {
        self.act(async {
            let Some(head) = self.head(&queue_id(key)).await? else { return Ok(()) };
            if head.incarnation() != incarnation {
                return Ok(());
            }
            let first = first.get().cast_signed();
            let mut entry = doc! { "life": head.life, "first": first, "due": { "$gte": 0_i64 } };
            let followed =
                vec![doc! { "$set": { "x": "$until" } }, doc! { "$unset": ["due", "until"] }];
            entry.insert("until", doc! { "$exists": true });
            let stays =
                self.send(|| self.inner.outbox.update_one(entry.clone(), followed.clone())).await?;
            if stays.matched_count == 0 {
                entry.insert("until", doc! { "$exists": false });
                self.send(|| self.inner.outbox.delete_one(entry.clone())).await?;
            }
            Ok(())
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
        self.act(async {
            let Some(head) = self.head(&queue_id(key)).await? else { return Ok(Vec::new()) };
            if head.incarnation() != incarnation {
                return Ok(Vec::new());
            }
            // Everything before the head's next position is in its place then: nothing comes in between later.
            self.settle_steps(&head, self.at(now).max(head.at)).await?;
            let places = doc! { "$gt": after.get().cast_signed(), "$lt": head.next };
            let query = Query::new(doc! { "life": head.life, "first": places })
                .sorted(doc! { "first": 1 })
                .limited(limit);
            let entries: Vec<Entry> = self.find(&self.inner.outbox, &query).await?;
            entries.into_iter().map(Entry::show).collect()
        })
        .await
    }
}

impl Mongo {
    /// Makes a post's entry count, or removes it where nobody hears of it. Does nothing the second time: then it has its place, or
    /// is gone.
    pub(crate) async fn put_out(&self, heard: Option<Heard<'_>>) -> Result<(), Error> {
        let Some(heard) = heard else { return Ok(()) };
        let filter = doc! { "_id": heard.op, "first": { "$exists": false } };
        if !heard.hearers.are_any() {
            self.send(|| self.inner.outbox.delete_one(filter.clone())).await?;
            return Ok(());
        }
        let change = heard.change();
        self.send(|| self.inner.outbox.update_one(filter.clone(), change.clone())).await?;
        Ok(())
    }

    /// The queues that own entries, each once and in that order, and the lives that are over.
    async fn sort_out(&self, owners: &[Owner]) -> Result<(Vec<QueueKey>, Vec<i64>), Error> {
        let (mut queues, mut dead, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
        let ids: Vec<_> = owners.iter().map(|owner| &owner.queue).collect();
        let query = Query::new(doc! { "_id": { "$in": ids }, "open": true });
        let heads = self.inner.heads.clone_with_type::<Document>();
        let open: Vec<Head> = self.find(&heads, &query).await?;
        for owner in owners {
            if !open.iter().any(|head| head.life == owner.life) {
                dead.push(owner.life);
            } else if seen.insert(&owner.queue) {
                let key = queue_key(&owner.queue).ok_or_else(|| unreadable("a queue's id"))?;
                queues.push(key);
            }
        }
        Ok((queues, dead))
    }
}
