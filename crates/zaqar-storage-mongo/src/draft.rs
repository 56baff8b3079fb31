//! Posts before they are decided: what is written for them, and what their decision changes.

use mongodb::bson::{Binary, Bson, Document, doc};
use zaqar_core::storage::{Batch, Error, Guarded};
use zaqar_core::{Generation, MessageId, QueueKey};

use crate::error::too_large;
use crate::schema::{
    self, Fence, binary, draft_end, fresh_op, message_id, message_ids, number, queue_id,
};
use crate::stored::{Post, put_payload};

/// What a document has beside the bytes that a caller gave, at most.
const OVERHEAD: usize = 1024;

/// The answer to one post.
pub(crate) type Answer = Result<Guarded<Vec<MessageId>>, Error>;

/// A post before it is decided.
pub(crate) struct Draft {
    pub(crate) key: QueueKey,
    assumed: Generation,
    /// Names the post: its messages' ids begin with it.
    pub(crate) op: Binary,
    /// The time to act at, and what the caller's clock said.
    now: i64,
    asked_at: i64,
    pub(crate) count: u32,
    pub(crate) messages: Vec<Document>,
    /// What the outbox is to hold; `None` where nobody is told of the post.
    pub(crate) entry: Option<Document>,
    /// Of all bodies, with what is kept beside them.
    pub(crate) bytes: usize,
    /// Milliseconds until the first delayed message is due.
    soonest_delayed: Option<i64>,
}

/// Posts to one queue, under one assumption, of which subscribers are told or are not, that are
/// decided together.
pub(crate) struct Group {
    pub(crate) queue: String,
    /// Names its step.
    pub(crate) op: Binary,
    pub(crate) fence: Fence,
    pub(crate) drafts: Vec<Draft>,
    pub(crate) assumed: Generation,
    pub(crate) now: i64,
    pub(crate) asked_at: i64,
}

impl Group {
    /// Posts that have one key and assume one generation; at least one.
    pub(crate) fn new(drafts: Vec<Draft>) -> Self {
        let latest = |time: fn(&Draft) -> i64| drafts.iter().map(time).max().unwrap_or(0);
        let (now, asked_at) = (latest(|draft| draft.now), latest(|draft| draft.asked_at));
        let first = drafts.first();
        Self {
            queue: first.map(|draft| queue_id(&draft.key)).unwrap_or_default(),
            assumed: first.map_or(schema::generation(0, 0), |draft| draft.assumed),
            op: fresh_op(),
            fence: Fence::new(),
            now,
            asked_at,
            drafts,
        }
    }

    /// Whether subscribers are told of its posts.
    pub(crate) fn is_told(&self) -> bool {
        self.drafts.iter().any(|draft| draft.entry.is_some())
    }

    pub(crate) fn all(&self, answer: impl Fn() -> Answer) -> Vec<Answer> {
        self.drafts.iter().map(|_| answer()).collect()
    }

    pub(crate) fn posts(&self) -> Vec<Post> {
        let post = |draft: &Draft| Post { op: draft.op.clone(), count: i64::from(draft.count) };
        self.drafts.iter().map(post).collect()
    }

    /// What its decision sets in the head.
    pub(crate) fn change(
        &self,
        at: Document,
        has_entries: bool,
        earlier: Option<&Binary>,
    ) -> Document {
        let first = schema::first_position(&at.clone().into());
        let mut hearers = Bson::Null;
        if has_entries {
            let workers = doc! { "$gt": ["$subscribed", &at] };
            let followers = doc! { "$gt": ["$followed", &at] };
            hearers = doc! { "workers": workers, "followers": followers }.into();
        }
        let posts: Vec<_> = self
            .posts()
            .into_iter()
            .map(|post| doc! { "op": post.op, "count": post.count })
            .collect();
        let step = doc! {
            "op": &self.op, "at": &at, "room": "$room",
            "act": { "post": {
                "life": "$life", "incarnation": "$incarnation", "first": &first,
                "posts": posts, "hearers": hearers,
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
            "todo": { "$concatArrays": [listed, [step]] },
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
        asked_at: i64,
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
        let lives = batch.messages.iter().map(|new| schema::lifetime(number(new.ttl)));
        Ok(Self {
            key: key.clone(),
            assumed,
            op: binary(op.to_vec()),
            now,
            asked_at,
            count,
            bytes,
            soonest_delayed: delays.clone().filter(|delay| *delay > 0).min(),
            entry: batch.notify.then(|| {
                doc! {
                    "_id": binary(op.to_vec()),
                    "x": unused,
                    "soonest": delays.clone().min().unwrap_or(0),
                    "longest": delays.max().unwrap_or(0),
                    "life_time": lives.max().unwrap_or(0),
                    "messages": entry.collect::<Vec<_>>(),
                }
            }),
            messages: messages.collect(),
        })
    }

    pub(crate) fn all_ids(&self) -> Vec<Binary> {
        message_ids(&self.op.bytes, self.count)
    }

    pub(crate) fn ids(&self, first: i64) -> Vec<MessageId> {
        let positions = first..first + i64::from(self.count);
        positions.map(|position| schema::place(self.assumed.incarnation, position)).collect()
    }
}
