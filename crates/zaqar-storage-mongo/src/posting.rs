//! Posts.
//!
//! The messages are written first, without a place: nobody sees them. One change of the head then decides the post: it checks the
//! generation, takes the places and lists the post. Then the messages are put in their places, by the writer or by whoever comes first.
//! A writer that dies before the decision has posted nothing; one that stops before it and then goes on posts then, in whole and at the end,
//! as if it had just come, or after half a day not at all. Nobody waits for it.

use mongodb::bson::{Bson, Document, doc};
use serde::Deserialize;
use zaqar_core::storage::{Batch, Error, Guarded};
use zaqar_core::{Generation, MessageId, QueueKey, Timestamp};

use crate::Mongo;
use crate::driver::Mongo as Driver;
use crate::error::{is_duplicate, unreadable};
use crate::query::Query;
use crate::schema::{
    self, Fence, binary, draft_end, message_id, message_ids, message_number, number, queue_id,
};
use crate::stored::{Act, Head, Hearers, Step, put_payload};

/// A post before it is decided.
pub(crate) struct Draft {
    pub(crate) queue: String,
    pub(crate) assumed: Generation,
    /// Names the post: its messages' ids begin with it.
    pub(crate) op: [u8; 16],
    /// The time to act at.
    now: i64,
    pub(crate) fence: Fence,
    count: u32,
    messages: Vec<Document>,
    entry: Document,
    /// Milliseconds until the first delayed message is due.
    soonest_delayed: Option<i64>,
}

/// What is read of a post's message.
#[derive(Deserialize)]
struct Placed {
    #[serde(rename = "_id")]
    id: mongodb::bson::Binary,
    n: Option<i64>,
}

impl Mongo {
    pub(crate) async fn post_batch(
        &self,
        key: &QueueKey,
        assumed: Generation,
        batch: Batch,
        now: Timestamp,
    ) -> Result<Guarded<Vec<MessageId>>, Error> {
        let draft = Draft::new(key, assumed, &batch, self.at(now))?;
        drop(batch);
        self.post_draft(key, draft).await
    }

    pub(crate) async fn post_draft(
        &self,
        key: &QueueKey,
        mut draft: Draft,
    ) -> Result<Guarded<Vec<MessageId>>, Error> {
        if let Some(first) = self.write_messages(&draft).await? {
            // The request was posted before and its answer was lost.
            return Ok(Guarded::Done(draft.ids(first)));
        }
        draft.messages = Vec::new();
        let mut has_entry = self.seems_subscribed(&draft.queue);
        if has_entry {
            self.write_entry(&draft).await?;
        }
        for attempt in 0..self.inner.options.max_attempts.max(1) {
            self.back_off(attempt).await;
            if let Some(head) = self.decide(&draft, has_entry).await? {
                return self.place(key, &draft, &head).await.map(Guarded::Done);
            }
            let head = self.head(&draft.queue).await?;
            if let Some(refusal) = refusal(head.as_ref(), draft.assumed) {
                self.take_back(&draft).await?;
                return Ok(refusal);
            }
            let Some(head) = head else { continue };
            draft.now = draft.now.max(head.at);
            if !has_entry && head.heard_until() > draft.now {
                self.write_entry(&draft).await?;
                has_entry = true;
            } else if draft.fence.has_come(self.server_time().await?) {
                self.take_back(&draft).await?;
                return Err(Error::unavailable(
                    "the post was held up for half a day, or the clocks here and at the MongoDB server differ by that",
                ));
            }
        }
        self.take_back(&draft).await?;
        Err(Driver::overtaken())
    }

    /// Writes the messages where nobody sees them. The first position where they were posted before.
    pub(crate) async fn write_messages(&self, draft: &Draft) -> Result<Option<i64>, Error> {
        let is_repeated = self
            .send(|| {
                let insert = self.inner.messages.insert_many(&draft.messages).ordered(false);
                async {
                    match insert.await {
                        Ok(_) => Ok(false),
                        Err(error) if is_duplicate(&error) => Ok(true),
                        Err(error) => Err(error),
                    }
                }
            })
            .await?;
        if !is_repeated {
            return Ok(None);
        }
        let first = self.first_position(draft).await?;
        if first.is_some() {
            // What consumers have taken since was written anew.
            self.take_back(draft).await?;
        }
        Ok(first)
    }

    /// Writes the outbox entry where nobody sees it.
    pub(crate) async fn write_entry(&self, draft: &Draft) -> Result<(), Error> {
        self.send(|| {
            let insert = self.inner.outbox.insert_one(&draft.entry);
            async {
                match insert.await {
                    Err(error) if !is_duplicate(&error) => Err(error),
                    _ => Ok(()),
                }
            }
        })
        .await
    }

    /// Decides the post, if the head is as assumed and it is not too late; the head as it is then.
    pub(crate) async fn decide(
        &self,
        draft: &Draft,
        has_entry: bool,
    ) -> Result<Option<Head>, Error> {
        let mut filter = doc! {
            "_id": &draft.queue, "open": true,
            "incarnation": draft.assumed.incarnation.get().cast_signed(),
            "version": draft.assumed.version.get().cast_signed(),
        };
        draft.fence.guard(&mut filter);
        let at = doc! { "$max": ["$at", draft.now] };
        let mut hearers = Bson::Null;
        if has_entry {
            let workers = doc! { "$gt": ["$subscribed", &at] };
            let followers = doc! { "$gt": ["$followed", &at] };
            hearers = doc! { "workers": workers, "followers": followers }.into();
        } else {
            // Who subscribes in the meantime must hear of this.
            filter.insert("subscribed", doc! { "$lte": draft.now });
            filter.insert("followed", doc! { "$lte": draft.now });
        }
        let step = doc! {
            "op": binary(draft.op.to_vec()), "at": &at, "room": "$room",
            "act": { "post": {
                "life": "$life", "incarnation": "$incarnation", "first": "$next",
                "count": i64::from(draft.count), "hearers": hearers,
            } },
        };
        let mut set = doc! {
            "next": { "$add": ["$next", i64::from(draft.count)] },
            "at": &at,
            "posted": "$$NOW",
            "todo": { "$concatArrays": ["$todo", [step]] },
        };
        if let Some(delay) = draft.soonest_delayed {
            set.insert("due", doc! { "$min": ["$due", { "$add": [at, delay] }] });
        }
        self.change_head(filter, vec![doc! { "$set": set }]).await
    }

    /// Puts the messages of a decided post in their places.
    pub(crate) async fn place(
        &self,
        key: &QueueKey,
        draft: &Draft,
        head: &Head,
    ) -> Result<Vec<MessageId>, Error> {
        // The first of that name: a command that was sent twice may have listed the post twice, and only the first counts.
        let step = head.step(&binary(draft.op.to_vec()));
        let Some(step @ Step { act: Act::Post { first, hearers, .. }, .. }) = step else {
            return Err(unreadable("a post that was just listed"));
        };
        self.remember_subscribed(&draft.queue, hearers.is_some_and(Hearers::are_any));
        let mut first = *first;
        if self.finish(&draft.queue, step).await? < u64::from(draft.count) {
            // Somebody else was faster, perhaps with the same post listed before.
            first = self.first_position(draft).await?.unwrap_or(first);
        }
        let ids = draft.ids(first);
        if let Some(last) = ids.last() {
            self.inner.news.announce(key, *last);
        }
        Ok(ids)
    }

    /// The position of the first message of a post, as any one that is still there tells.
    async fn first_position(&self, draft: &Draft) -> Result<Option<i64>, Error> {
        let query = Query::new(draft.all()).of(doc! { "n": 1 });
        let found: Vec<Placed> = self.find(&self.inner.messages, &query).await?;
        let first = |message: Placed| Some(message.n? - i64::from(message_number(&message.id)?));
        Ok(found.into_iter().find_map(first))
    }

    /// Removes what was written and will not be posted. The caller may post the same again only when this is done: so an error here is
    /// the caller's answer. What is left then is never seen and expires.
    async fn take_back(&self, draft: &Draft) -> Result<(), Error> {
        let mut messages = draft.all();
        messages.insert("h", doc! { "$exists": false });
        let entry = doc! { "_id": binary(draft.op.to_vec()), "first": { "$exists": false } };
        let entry = self.send(|| self.inner.outbox.delete_one(entry.clone()));
        futures_util::try_join!(self.delete_messages(messages), entry)?;
        Ok(())
    }
}

impl Draft {
    pub(crate) fn new(
        key: &QueueKey,
        assumed: Generation,
        batch: &Batch,
        now: i64,
    ) -> Result<Self, Error> {
        let queue = queue_id(key);
        let op = schema::post_id(&queue, assumed, batch.request);
        let count = u32::try_from(batch.messages.len())
            .map_err(|_| Error::failed("a post has at most 4294967295 messages"))?;
        let delay = |delay: u64| schema::lifetime(number(delay));
        let unused = draft_end(now);
        let messages = batch.messages.iter().zip(0..).map(|(new, i)| {
            let life = schema::lifetime(number(new.ttl));
            let mut message = doc! {
                "_id": message_id(&op, i),
                "i": i64::from(i),
                "delay": delay(new.delay),
                "life": life,
                "l": number(new.ttl),
                // Should it never be posted, it is collected by this.
                "x": unused,
                "u": batch.client.as_str(),
            };
            put_payload(&mut message, &new.payload);
            message
        });
        let entry = batch.messages.iter().map(|new| {
            let mut message = doc! { "l": number(new.ttl), "delay": delay(new.delay) };
            put_payload(&mut message, &new.payload);
            Bson::from(message)
        });
        let delays = batch.messages.iter().map(|new| delay(new.delay));
        Ok(Self {
            assumed,
            op,
            now,
            fence: Fence::new(),
            count,
            soonest_delayed: delays.clone().filter(|delay| *delay > 0).min(),
            entry: doc! {
                "_id": binary(op.to_vec()),
                "x": unused,
                "soonest": delays.clone().min().unwrap_or(0),
                "longest": delays.max().unwrap_or(0),
                "messages": entry.collect::<Vec<_>>(),
            },
            messages: messages.collect(),
            queue,
        })
    }

    /// A filter for its messages.
    fn all(&self) -> Document {
        doc! { "_id": { "$in": message_ids(&self.op, self.count) } }
    }

    fn ids(&self, first: i64) -> Vec<MessageId> {
        let places = first..first + i64::from(self.count);
        places.map(|place| schema::place(self.assumed.incarnation, place)).collect()
    }
}

/// Why a head does not take a post.
fn refusal<T>(head: Option<&Head>, assumed: Generation) -> Option<Guarded<T>> {
    match head.map(Head::generation) {
        None => Some(Guarded::Absent),
        Some(own) if own != assumed => Some(Guarded::Stale(own)),
        Some(_) => None,
    }
}
