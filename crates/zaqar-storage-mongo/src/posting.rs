//! Posts.
//!
//! The messages are written first, without a position: nobody sees them. One change of the head
//! then decides the post: it checks the generation and the clock, takes the positions and lists the
//! post. Then the messages get their positions, by the writer or by whoever comes first. A writer
//! that dies before the decision has posted nothing; one that stops before it and then goes on
//! posts then, in whole and at the end, as if it had just come, or after half a day not at all.
//! Nobody waits for it.
//!
//! Posts to one queue that wait while others are on their way leave together, as one step.

use futures_util::future::{join, try_join};
use mongodb::bson::{Binary, Bson, Document, doc};
use serde::Deserialize;
use tokio::time::timeout;
use zaqar_core::storage::{Batch, Error, Guarded};
use zaqar_core::{Generation, MessageId, QueueKey, Timestamp};

use crate::Mongo;
use crate::draft::{Answer, Draft, Group};
use crate::error::{is_duplicate, too_large, unreadable};
use crate::query::Query;
use crate::schema::{self, PIECE, PIECE_BYTES, message_number, queue_id};
use crate::steps::MAX_OPEN;
use crate::stored::{Act, Head, Readers, Step};

/// What became of messages that were written before a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    New,
    /// Some were there: a request was posted before and its answer was lost, or a command was sent
    /// twice.
    Repeated,
}

/// How a group was decided.
struct Decided {
    step: Step,
    first: i64,
}

/// What is read of a post's message.
#[derive(Deserialize)]
struct Placed {
    #[serde(rename = "_id")]
    id: Binary,
    n: Option<i64>,
}

impl Mongo {
    pub(crate) async fn post_batch(
        &self,
        key: &QueueKey,
        assumed: Generation,
        batch: Batch,
        now: Timestamp,
    ) -> Answer {
        let draft = Draft::new(key, assumed, &batch, self.at(now), schema::millis(now))?;
        drop(batch);
        let (store, bytes) = (self.clone(), draft.bytes);
        let line = (queue_id(key), assumed, draft.entry.is_some());
        let send = move |_, drafts: Vec<Draft>| {
            let store = store.clone();
            async move { store.post_within_time(Group::new(drafts)).await }
        };
        match self.inner.posts.submit(line, draft, bytes, send).await {
            Ok(answer) => answer,
            Err(zaqar_storage_batch::Error::Full) => Err(Mongo::overtaken()),
            Err(zaqar_storage_batch::Error::Lost) => {
                Err(Error::unavailable("the task that posted ended"))
            }
        }
    }

    /// Posts a group; what took too long is given up, and not begun again.
    async fn post_within_time(&self, group: Group) -> Vec<Answer> {
        let (_running, count) = (self.inner.background.token(), group.drafts.len());
        let late = || Err(Error::unavailable("the post took too long"));
        let posted = timeout(self.inner.options.deadline, self.post_group(group)).await;
        posted.unwrap_or_else(|_| (0..count).map(|_| late()).collect())
    }

    /// Posts a group; the answers in the order of its posts.
    pub(crate) async fn post_group(&self, mut group: Group) -> Vec<Answer> {
        let earlier = self.inner.placing.take(&group.queue);
        let earlier = async {
            match earlier {
                Some(earlier) => earlier.done().await,
                None => None,
            }
        };
        let has_entries = group.is_told() && self.seems_subscribed(&group.queue);
        let drafts = async {
            let entries =
                async { if has_entries { self.write_entries(&group).await } else { Ok(()) } };
            try_join(self.write_messages(&group), entries).await
        };
        let (written, earlier) = join(drafts, earlier).await;
        match written {
            Err(error) => group.all(|| Err(error.duplicate())),
            Ok((Written::New, ())) => self.decide_group(&mut group, earlier, has_entries).await,
            Ok((Written::Repeated, ())) => self.post_one_by_one(group, earlier).await,
        }
    }

    /// Posts of which some may have been posted before.
    async fn post_one_by_one(&self, group: Group, earlier: Option<Binary>) -> Vec<Answer> {
        let (mut answers, mut earlier) = (Vec::new(), earlier);
        for draft in group.drafts {
            let mut one = Group { fence: group.fence, ..Group::new(vec![draft]) };
            answers.extend(match self.find_posted(&one).await {
                Ok(Some(ids)) => vec![Ok(Guarded::Done(ids))],
                Ok(None) => self.decide_group(&mut one, earlier.take(), false).await,
                Err(error) => vec![Err(error)],
            });
        }
        answers
    }

    /// The ids that the post of a request was given before.
    async fn find_posted(&self, one: &Group) -> Result<Option<Vec<MessageId>>, Error> {
        let Some(first) = self.first_position(one).await? else { return Ok(None) };
        // What consumers have taken since was written anew.
        self.take_back(one).await?;
        Ok(one.drafts.first().map(|draft| draft.ids(first)))
    }

    async fn decide_group(
        &self,
        group: &mut Group,
        earlier: Option<Binary>,
        has_entries: bool,
    ) -> Vec<Answer> {
        let decided = match self.try_deciding(group, earlier, has_entries).await {
            Ok(Guarded::Done(decided)) => decided,
            Ok(Guarded::Absent) => return group.all(|| Ok(Guarded::Absent)),
            Ok(Guarded::Stale(own)) => return group.all(|| Ok(Guarded::Stale(own))),
            Err(error) => return group.all(|| Err(error.duplicate())),
        };
        if let Act::Post { hearers, .. } = &decided.step.act {
            let is_heard = hearers.is_some_and(Readers::are_any);
            self.remember_subscribed(&group.queue, is_heard);
            if is_heard {
                // Its outbox entry is due from the answer on. Where this fails others do it: it is
                // decided.
                let done = self.carry_out_once(&group.queue, &decided.step).await;
                if let Err(error) = done {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(error, "a decided post is left to be finished by others");
                }
            }
        }
        self.place_later(&group.queue, decided.step);
        let mut first = decided.first;
        let answers = group.drafts.iter().map(|draft| {
            let ids = draft.ids(first);
            first += i64::from(draft.count);
            if let Some(last) = ids.last() {
                self.inner.news.announce(&draft.key, *last);
            }
            Ok(Guarded::Done(ids))
        });
        answers.collect()
    }

    /// Decides a group, or finds out why its queue does not take it: then it leaves no trace.
    async fn try_deciding(
        &self,
        group: &mut Group,
        earlier: Option<Binary>,
        mut has_entries: bool,
    ) -> Result<Guarded<Decided>, Error> {
        for attempt in 0..self.inner.options.max_attempts.max(1) {
            self.back_off(attempt).await;
            let (decided, was_sent) = self.decide(group, has_entries, earlier.as_ref()).await?;
            if let Some(head) = &decided {
                return self.decided_by(head, group, was_sent).await.map(Guarded::Done);
            }
            let head = self.head(&group.queue).await?;
            if was_sent && let Some(decided) = self.decided_before(head.as_ref(), group).await? {
                return Ok(Guarded::Done(decided));
            }
            if let Some(refusal) = refusal(head.as_ref(), group.assumed) {
                self.take_back(group).await?;
                return Ok(refusal);
            }
            let Some(head) = head else { continue };
            let skewed = self.check_clock(head.clock, group.asked_at);
            let is_late = head.clock.is_some_and(|clock| group.fence.has_come(clock));
            if skewed.is_err() || is_late {
                self.take_back(group).await?;
                skewed?;
                return Err(Error::unavailable("half a day has passed since this post was begun"));
            }
            group.now = group.now.max(head.at);
            if group.is_told() && !has_entries && head.heard_until() > group.now {
                self.write_entries(group).await?;
                has_entries = true;
            }
            self.settle_steps(&head, group.now).await?;
        }
        self.take_back(group).await?;
        Err(Mongo::overtaken())
    }

    /// How a group was decided by the command that `head` is the answer to.
    async fn decided_by(
        &self,
        head: &Head,
        group: &Group,
        was_sent: bool,
    ) -> Result<Decided, Error> {
        let listed = head.step(&group.op).and_then(|step| Some((step, first_of(step)?)));
        let Some((step, mut first)) = listed else {
            return Err(unreadable("a post that was just listed"));
        };
        if was_sent {
            // An earlier command may have been the first to act, and its step carried out and
            // struck off: then the messages have their positions from that.
            self.carry_out_once(&group.queue, step).await?;
            first = self.first_position(group).await?.unwrap_or(first);
        }
        Ok(Decided { step: step.clone(), first })
    }

    /// How a group was decided by a command whose answer was lost; `None` where it was not.
    async fn decided_before(
        &self,
        head: Option<&Head>,
        group: &Group,
    ) -> Result<Option<Decided>, Error> {
        let listed = head.and_then(|head| head.step(&group.op));
        if let Some((step, first)) = listed.and_then(|step| Some((step, first_of(step)?))) {
            return Ok(Some(Decided { step: step.clone(), first }));
        }
        let Some(first) = self.first_position(group).await? else { return Ok(None) };
        // It is carried out; this names what is known to be so.
        let posts = group.posts();
        let act = Act::Post { life: 0, incarnation: 0, first, posts, hearers: None };
        Ok(Some(Decided {
            step: Step { op: group.op.clone(), at: group.now, room: 0, act },
            first,
        }))
    }

    /// Writes the messages where nobody sees them, in pieces.
    pub(crate) async fn write_messages(&self, group: &Group) -> Result<Written, Error> {
        let mut written = Written::New;
        for piece in pieces(group.drafts.iter().flat_map(|draft| &draft.messages)) {
            let is_repeated = self
                .send(|| {
                    let insert =
                        self.inner.messages.insert_many(piece.iter().copied()).ordered(false);
                    async {
                        match insert.await {
                            Ok(_) => Ok(false),
                            Err(error) if is_duplicate(&error) => Ok(true),
                            Err(error) => Err(error),
                        }
                    }
                })
                .await?;
            if is_repeated {
                written = Written::Repeated;
            }
        }
        Ok(written)
    }

    /// Writes the outbox entries where nobody sees them.
    pub(crate) async fn write_entries(&self, group: &Group) -> Result<(), Error> {
        for draft in &group.drafts {
            too_large("the posted batch", draft.bytes)?;
        }
        for piece in pieces(group.drafts.iter().filter_map(|draft| draft.entry.as_ref())) {
            self.send(|| {
                let insert = self.inner.outbox.insert_many(piece.iter().copied()).ordered(false);
                async {
                    match insert.await {
                        Err(error) if !is_duplicate(&error) => Err(error),
                        _ => Ok(()),
                    }
                }
            })
            .await?;
        }
        Ok(())
    }

    /// Decides a group, if the head is as assumed, the clocks agree and it is not too late; the
    /// head as it is then, and whether the command was sent before. `earlier` is a step that is
    /// carried out.
    pub(crate) async fn decide(
        &self,
        group: &Group,
        has_entries: bool,
        earlier: Option<&Binary>,
    ) -> Result<(Option<Head>, bool), Error> {
        let mut filter = doc! {
            "_id": &group.queue, "open": true,
            "incarnation": group.assumed.incarnation.get().cast_signed(),
            "version": group.assumed.version.get().cast_signed(),
            "todo.op": { "$ne": &group.op },
            MAX_OPEN: { "$exists": false },
        };
        self.guard(&mut filter, group.asked_at, Some(group.fence));
        if group.is_told() && !has_entries {
            // Who subscribes in the meantime must hear of this.
            filter.insert("subscribed", doc! { "$lte": group.now });
            filter.insert("followed", doc! { "$lte": group.now });
        }
        let change =
            vec![doc! { "$set": group.change(self.step_time(group.now), has_entries, earlier) }];
        self.change_head_noting(filter, change).await
    }

    /// Gives the messages of a decided post their positions, after its answer.
    fn place_later(&self, queue: &str, step: Step) {
        let (store, name, op) = (self.clone(), queue.to_owned(), step.op.clone());
        let token = self.inner.background.token();
        let deadline = self.inner.options.deadline;
        let task = self.inner.background.spawn("the placing of a post", async move {
            let _running = token;
            let placed = timeout(deadline, store.carry_out_once(&name, &step)).await;
            let is_placed = matches!(placed, Ok(Ok(_)));
            // Unless the next group has taken it over: that strikes it off with its own decision.
            if store.inner.placing.forget(&name, &step.op) && is_placed {
                let struck = timeout(deadline, store.unlist(&name, vec![step.op])).await;
                if let Ok(Err(error)) = struck {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(
                        error,
                        "a step stays listed until somebody else strikes it off"
                    );
                }
            }
            is_placed
        });
        self.inner.placing.put(queue, op, task);
    }

    /// The position of a group's first message, as any one that is still there tells.
    async fn first_position(&self, group: &Group) -> Result<Option<i64>, Error> {
        let mut before = 0_i64;
        for draft in &group.drafts {
            for ids in draft.all_ids().chunks(PIECE) {
                let query = Query::new(doc! { "_id": { "$in": ids } }).of(doc! { "n": 1 });
                let found: Vec<Placed> = self.find(&self.inner.messages, &query).await?;
                let first =
                    |message: Placed| Some(message.n? - i64::from(message_number(&message.id)?));
                if let Some(first) = found.into_iter().find_map(first) {
                    return Ok(Some(first - before));
                }
            }
            before += i64::from(draft.count);
        }
        Ok(None)
    }

    /// Removes what was written and will not be posted. The caller may post the same again only
    /// when this is done: so an error here is the caller's answer. What is left then is never seen
    /// and expires.
    async fn take_back(&self, group: &Group) -> Result<(), Error> {
        for draft in &group.drafts {
            for ids in draft.all_ids().chunks(PIECE) {
                let unseen = doc! { "_id": { "$in": ids }, "h": { "$exists": false } };
                self.delete_messages(unseen).await?;
            }
        }
        let ops: Vec<_> = group.drafts.iter().map(|draft| &draft.op).collect();
        let entries = doc! { "_id": { "$in": ops }, "first": { "$exists": false } };
        self.send(|| self.inner.outbox.delete_many(entries.clone())).await?;
        Ok(())
    }
}

/// The first position that a step has given to its posts.
pub(crate) fn first_of(step: &Step) -> Option<i64> {
    if let Act::Post { first, .. } = &step.act { Some(*first) } else { None }
}

/// Documents in pieces that one command each can write in a short time.
fn pieces<'a>(documents: impl Iterator<Item = &'a Document>) -> Vec<Vec<&'a Document>> {
    let (mut pieces, mut piece, mut bytes) = (Vec::new(), Vec::new(), 0);
    for document in documents {
        let own = size_of_bodies(document);
        if !piece.is_empty() && (piece.len() >= PIECE || bytes + own > PIECE_BYTES) {
            pieces.push(std::mem::take(&mut piece));
            bytes = 0;
        }
        piece.push(document);
        bytes += own;
    }
    if !piece.is_empty() {
        pieces.push(piece);
    }
    pieces
}

/// The bytes of what callers gave in a message or an entry.
fn size_of_bodies(document: &Document) -> usize {
    let body = document.get_binary_generic("b").map_or(0, Vec::len);
    let messages = document.get_array("messages").into_iter().flatten();
    body + messages.filter_map(Bson::as_document).map(size_of_bodies).sum::<usize>()
}

/// Why a head does not take a post.
fn refusal<T>(head: Option<&Head>, assumed: Generation) -> Option<Guarded<T>> {
    match head.map(Head::generation) {
        None => Some(Guarded::Absent),
        Some(own) if own != assumed => Some(Guarded::Stale(own)),
        Some(_) => None,
    }
}
