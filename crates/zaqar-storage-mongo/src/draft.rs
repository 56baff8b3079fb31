//! Drafts: posts before they are committed. What is written for them, and how the commit changes
//! the head.

use mongodb::bson::{Binary, Bson, Document, doc};
use zaqar_core::storage::{Batch, Error, Guarded};
use zaqar_core::{Generation, Kind, MessageId, QueueKey};

use crate::error::too_large;
use crate::schema::{
    self, CommitDeadline, INTERNAL, binary, draft_expiry, message_key, message_keys, number,
    queue_id, random_id,
};
use crate::stored::{Post, put_payload};

/// The maximum size of a document beyond the caller's bytes.
const OVERHEAD: usize = 1024;

/// The answer to one post.
pub(crate) type Answer = Result<Guarded<Vec<MessageId>>, Error>;

/// A post before it is committed.
pub(crate) struct Draft {
    pub(crate) key: QueueKey,
    assumed: Generation,
    /// Identifies the post: the keys of its messages begin with it.
    pub(crate) op: Binary,
    /// The effective time, and the caller's time.
    now: i64,
    caller_time: i64,
    pub(crate) count: u32,
    pub(crate) messages: Vec<Document>,
    /// The outbox entry; `None` if the post does not notify subscribers.
    pub(crate) entry: Option<Document>,
    /// The size of all messages, with their overhead.
    pub(crate) bytes: usize,
    /// Milliseconds until the first delayed message is due.
    soonest_delayed: Option<i64>,
}

/// Posts to one queue that are committed together. They assume the same generation, and either all
/// notify subscribers or none.
pub(crate) struct Group {
    pub(crate) queue: String,
    /// The id of its intent.
    pub(crate) op: Binary,
    pub(crate) deadline: CommitDeadline,
    pub(crate) drafts: Vec<Draft>,
    pub(crate) assumed: Generation,
    pub(crate) now: i64,
    pub(crate) caller_time: i64,
    /// Its only post may have been committed by an earlier attempt of its request.
    pub(crate) is_repeated: bool,
}

impl Group {
    /// A group of posts with the same key and assumed generation; at least one.
    pub(crate) fn new(drafts: Vec<Draft>) -> Self {
        let latest = |time: fn(&Draft) -> i64| drafts.iter().map(time).max().unwrap_or(0);
        let (now, caller_time) = (latest(|draft| draft.now), latest(|draft| draft.caller_time));
        let first = drafts.first();
        Self {
            queue: first.map(|draft| queue_id(&draft.key)).unwrap_or_default(),
            assumed: first.map_or(schema::generation(0, 0), |draft| draft.assumed),
            op: random_id(),
            deadline: CommitDeadline::new(),
            now,
            caller_time,
            is_repeated: false,
            drafts,
        }
    }

    /// A group of one post that may have been committed by an earlier attempt of its request.
    pub(crate) fn repeated(draft: Draft, deadline: CommitDeadline) -> Self {
        Self { deadline, is_repeated: true, ..Self::new(vec![draft]) }
    }

    /// Whether its posts notify subscribers.
    pub(crate) fn notifies(&self) -> bool {
        self.drafts.iter().any(|draft| draft.entry.is_some())
    }

    pub(crate) fn all(&self, answer: impl Fn() -> Answer) -> Vec<Answer> {
        self.drafts.iter().map(|_| answer()).collect()
    }

    pub(crate) fn posts(&self) -> Vec<Post> {
        let post = |draft: &Draft| Post { op: draft.op.clone(), count: i64::from(draft.count) };
        self.drafts.iter().map(post).collect()
    }

    /// The fields of the head that the commit sets.
    pub(crate) fn change(
        &self,
        at: Document,
        has_entries: bool,
        earlier: Option<&Binary>,
    ) -> Document {
        let first = schema::first_position(&at.clone().into());
        let mut readers = Bson::Null;
        if has_entries {
            let workers = doc! { "$gt": ["$subscribed", &at] };
            let followers = doc! { "$gt": ["$followed", &at] };
            readers = doc! { "workers": workers, "followers": followers }.into();
        }
        let posts: Vec<_> = self
            .posts()
            .into_iter()
            .map(|post| doc! { "op": post.op, "count": post.count })
            .collect();
        let intent = doc! {
            "op": &self.op, "at": &at, "room": "$room",
            "act": { "post": {
                "life": "$life", "incarnation": "$incarnation", "first": &first,
                "posts": posts, "hearers": readers,
            } },
        };
        let listed = match earlier {
            None => Bson::from("$todo"),
            Some(earlier) => doc! { "$filter": {
                "input": "$todo", "as": "step", "cond": { "$ne": ["$$step.op", earlier] },
            } }
            .into(),
        };
        let count: i64 = self.drafts.iter().map(|draft| i64::from(draft.count)).sum();
        let mut set = doc! {
            "next": { "$add": [&first, count] },
            "at": &at,
            "posted": "$$NOW",
            "news": schema::news(doc! { "$add": [first, count - 1] }),
            "todo": { "$concatArrays": [listed, [intent]] },
        };
        if let Some(delay) = self.drafts.iter().filter_map(|draft| draft.soonest_delayed).min() {
            set.insert("due", doc! { "$min": ["$due", { "$add": [at, delay] }] });
        }
        set
    }
}

impl Draft {
    pub(crate) fn new(
        key: &QueueKey,
        assumed: Generation,
        batch: &Batch,
        now: i64,
        caller_time: i64,
    ) -> Result<Self, Error> {
        let op = schema::post_id(&queue_id(key), assumed, batch.request);
        let count = u32::try_from(batch.messages.len())
            .map_err(|_| Error::failed("a post has at most 4294967295 messages"))?;
        let mut bytes = 0;
        for new in &batch.messages {
            let own = new.payload.bytes.len() + batch.client.as_str().len() + OVERHEAD;
            too_large("a message", own)?;
            bytes += own;
        }
        let delay = |delay: u64| schema::lifetime(number(delay));
        let unused = draft_expiry(now);
        let messages = batch.messages.iter().zip(0..).map(|(new, i)| {
            let ttl_millis = schema::lifetime(number(new.ttl));
            let mut message = doc! {
                "_id": message_key(&op, i),
                "i": i64::from(i),
                "delay": delay(new.delay),
                "life": ttl_millis,
                "l": number(new.ttl),
                // If it is never posted, the TTL index deletes it by this.
                "x": unused,
                "u": batch.client.as_str(),
            };
            if key.kind == Kind::Internal {
                message.insert(INTERNAL, true);
            }
            put_payload(&mut message, &new.payload);
            message
        });
        let entry = batch.messages.iter().map(|new| {
            let mut message = doc! { "l": number(new.ttl), "delay": delay(new.delay) };
            put_payload(&mut message, &new.payload);
            Bson::from(message)
        });
        let delays = batch.messages.iter().map(|new| delay(new.delay));
        let ttls = batch.messages.iter().map(|new| schema::lifetime(number(new.ttl)));
        Ok(Self {
            key: key.clone(),
            assumed,
            op: binary(op.to_vec()),
            now,
            caller_time,
            count,
            bytes,
            soonest_delayed: delays.clone().filter(|delay| *delay > 0).min(),
            entry: batch.notify.then(|| {
                doc! {
                    "_id": binary(op.to_vec()),
                    "x": unused,
                    "soonest": delays.clone().min().unwrap_or(0),
                    "longest": delays.max().unwrap_or(0),
                    "life_time": ttls.max().unwrap_or(0),
                    "messages": entry.collect::<Vec<_>>(),
                }
            }),
            messages: messages.collect(),
        })
    }

    pub(crate) fn all_ids(&self) -> Vec<Binary> {
        message_keys(&self.op.bytes, self.count)
    }

    pub(crate) fn ids(&self, first: i64) -> Vec<MessageId> {
        let positions = first..first + i64::from(self.count);
        positions.map(|position| schema::message_id(self.assumed.incarnation, position)).collect()
    }
}
