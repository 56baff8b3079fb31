//! Posts.
//!
//! The messages are written first, without a position, so they are not visible. Then one change of
//! the head commits the post: it checks the generation and the clock, reserves the positions and
//! lists the intent. Then the messages get their positions, from the writer or from any other
//! process. A writer that dies before the commit has posted nothing. If it stops before the commit
//! and then continues, the whole post is appended at that time, or rejected after half a day.
//! Nobody waits for it.
//!
//! Posts that arrive while others to the same queue are in progress are committed together, with
//! one intent.

use futures_util::future::{join, try_join};
use mongodb::bson::{Binary, Bson, Document, doc};
use serde::Deserialize;
use tokio::time::timeout;
use zaqar_core::storage::{Batch, Error, Guarded};
use zaqar_core::{Generation, MessageId, QueueKey, Timestamp};

use crate::Mongo;
use crate::draft::{Answer, Draft, Group};
use crate::error::{is_duplicate, too_large, unreadable};
use crate::intents::MAX_OPEN;
use crate::query::Query;
use crate::schema::{self, CHUNK_BYTES, CHUNK_DOCUMENTS, message_index, queue_id};
use crate::stored::{Action, Head, Intent, Readers};

/// The result of writing messages before the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Insertion {
    New,
    /// Some existed: the request is a retry of one whose answer was lost, or a command was sent
    /// twice.
    Duplicate,
}

/// A committed group.
struct Committed {
    intent: Intent,
    first: i64,
}

/// The key and position of a message.
#[derive(Deserialize)]
struct StoredPosition {
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
        let draft =
            Draft::new(key, assumed, &batch, self.effective_time(now), schema::millis(now))?;
        drop(batch);
        let (store, bytes) = (self.clone(), draft.bytes);
        let line = (queue_id(key), assumed, draft.entry.is_some());
        let send = move |_, drafts: Vec<Draft>| {
            let store = store.clone();
            async move { store.post_within_time(Group::new(drafts)).await }
        };
        match self.inner.posts.submit(line, draft, bytes, send).await {
            Ok(answer) => answer,
            Err(zaqar_storage_batch::Error::Full) => Err(Mongo::contended()),
            Err(zaqar_storage_batch::Error::Lost) => {
                Err(Error::unavailable("the task that posts has died"))
            }
        }
    }

    /// Posts a group, with a timeout and without retries.
    async fn post_within_time(&self, group: Group) -> Vec<Answer> {
        let (_running, count) = (self.inner.background.token(), group.drafts.len());
        let late = || Err(Error::unavailable("the post timed out"));
        let posted = timeout(self.inner.options.deadline, self.post_group(group)).await;
        posted.unwrap_or_else(|_| (0..count).map(|_| late()).collect())
    }

    /// Posts a group. Returns the answers in the order of its posts.
    pub(crate) async fn post_group(&self, mut group: Group) -> Vec<Answer> {
        let earlier = self.inner.pending_posts.take(&group.queue);
        let earlier = async {
            match earlier {
                Some(earlier) => earlier.done().await,
                None => None,
            }
        };
        let has_entries = group.notifies() && self.seems_subscribed(&group.queue);
        let drafts = async {
            let entries =
                async { if has_entries { self.write_entries(&group).await } else { Ok(()) } };
            try_join(self.write_messages(&group), entries).await
        };
        let (written, earlier) = join(drafts, earlier).await;
        match written {
            Err(error) => group.all(|| Err(error.duplicate())),
            Ok((Insertion::New, ())) => self.commit_group(&mut group, earlier, has_entries).await,
            Ok((Insertion::Duplicate, ())) => self.post_one_by_one(group, earlier).await,
        }
    }

    /// Posts a group in which some posts may be retries.
    async fn post_one_by_one(&self, group: Group, earlier: Option<Binary>) -> Vec<Answer> {
        let (mut answers, mut earlier) = (Vec::new(), earlier);
        for draft in group.drafts {
            let mut one = Group::repeated(draft, group.deadline);
            answers.extend(match self.find_posted(&one).await {
                Ok(Some(ids)) => vec![Ok(Guarded::Done(ids))],
                Ok(None) => self.commit_group(&mut one, earlier.take(), false).await,
                Err(error) => vec![Err(error)],
            });
        }
        answers
    }

    /// The ids that an earlier attempt of the request got.
    async fn find_posted(&self, one: &Group) -> Result<Option<Vec<MessageId>>, Error> {
        let Some(first) = self.first_position(one).await? else { return Ok(None) };
        // Messages that were consumed since have been written again.
        self.delete_draft(one).await?;
        Ok(one.drafts.first().map(|draft| draft.ids(first)))
    }

    async fn commit_group(
        &self,
        group: &mut Group,
        earlier: Option<Binary>,
        has_entries: bool,
    ) -> Vec<Answer> {
        let committed = match self.try_commit_group(group, earlier, has_entries).await {
            Ok(Guarded::Done(committed)) => committed,
            Ok(Guarded::Absent) => return group.all(|| Ok(Guarded::Absent)),
            Ok(Guarded::Stale(own)) => return group.all(|| Ok(Guarded::Stale(own))),
            Err(error) => return group.all(|| Err(error.duplicate())),
        };
        if let Action::Post { readers, .. } = &committed.intent.action {
            let has_readers = readers.is_some_and(Readers::are_any);
            self.remember_subscribed(&group.queue, has_readers);
        }
        self.apply_later(&group.queue, committed.intent);
        let mut first = committed.first;
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

    /// Commits a group, or finds out why its queue rejects it. Then its documents are deleted.
    async fn try_commit_group(
        &self,
        group: &mut Group,
        earlier: Option<Binary>,
        mut has_entries: bool,
    ) -> Result<Guarded<Committed>, Error> {
        for attempt in 0..self.inner.options.max_attempts.max(1) {
            self.back_off(attempt).await;
            let (committed, was_retried) =
                self.commit(group, has_entries, earlier.as_ref()).await?;
            if let Some(head) = &committed {
                return self.committed_by(head, group, was_retried).await.map(Guarded::Done);
            }
            let head = match self.head(&group.queue).await {
                Err(moved @ Error::Moved { .. }) => {
                    return self.rejected_by_move(group, was_retried, moved).await;
                }
                head => head?,
            };
            if was_retried || group.is_repeated {
                if let Some(head) = head.as_ref().filter(|_| group.is_repeated) {
                    // It may list an earlier attempt.
                    self.apply_intents(head, group.now).await?;
                }
                if let Some(committed) = self.committed_before(head.as_ref(), group).await? {
                    return Ok(Guarded::Done(committed));
                }
            }
            if let Some(refusal) = refusal(head.as_ref(), group.assumed) {
                self.delete_draft(group).await?;
                return Ok(refusal);
            }
            let Some(head) = head else { continue };
            if head.lists_any(&group.posts()) {
                return Err(Error::unavailable(
                    "another attempt of the same request is in progress",
                ));
            }
            let skewed = self.check_clock(head.clock, group.caller_time);
            let is_late = head.clock.is_some_and(|clock| group.deadline.has_passed(clock));
            if skewed.is_err() || is_late {
                self.delete_draft(group).await?;
                skewed?;
                return Err(Error::unavailable("the post was started more than half a day ago"));
            }
            group.now = group.now.max(head.latest_time);
            if group.notifies() && !has_entries && head.has_subscribers_until() > group.now {
                self.write_entries(group).await?;
                has_entries = true;
            }
            self.apply_intents(&head, group.now).await?;
        }
        self.delete_draft(group).await?;
        Err(Mongo::contended())
    }

    /// The answer for a queue that moves: it has the group if an earlier attempt committed it.
    async fn rejected_by_move(
        &self,
        group: &Group,
        was_retried: bool,
        moved: Error,
    ) -> Result<Guarded<Committed>, Error> {
        let head = self.latest_any_head(&group.queue).await?;
        let may_be_done = was_retried || group.is_repeated;
        if may_be_done && let Some(committed) = self.committed_before(head.as_ref(), group).await? {
            return Ok(Guarded::Done(committed));
        }
        self.delete_draft(group).await?;
        Err(moved)
    }

    /// The committed group, from the head that the commit returned.
    async fn committed_by(
        &self,
        head: &Head,
        group: &Group,
        was_retried: bool,
    ) -> Result<Committed, Error> {
        let listed =
            head.intent(&group.op).and_then(|intent| Some((intent, first_position_of(intent)?)));
        let Some((intent, mut first)) = listed else {
            return Err(unreadable("a post that was just committed"));
        };
        if was_retried || group.is_repeated {
            // An earlier attempt may have committed first, and its intent may be applied and
            // removed: then the messages have their positions from that one.
            self.apply_once(&group.queue, intent).await?;
            first = self.first_position(group).await?.unwrap_or(first);
        }
        Ok(Committed { intent: intent.clone(), first })
    }

    /// The group as committed by a command whose answer was lost; `None` if it was not committed.
    async fn committed_before(
        &self,
        head: Option<&Head>,
        group: &Group,
    ) -> Result<Option<Committed>, Error> {
        let listed = head.and_then(|head| head.intent(&group.op));
        if let Some((intent, first)) =
            listed.and_then(|intent| Some((intent, first_position_of(intent)?)))
        {
            return Ok(Some(Committed { intent: intent.clone(), first }));
        }
        let Some(first) = self.first_position(group).await? else { return Ok(None) };
        // It is applied; this describes what is known about it.
        let posts = group.posts();
        let action = Action::Post { outbox_epoch: 0, incarnation: 0, first, posts, readers: None };
        Ok(Some(Committed {
            intent: Intent { op: group.op.clone(), at: group.now, message_epoch: 0, action },
            first,
        }))
    }

    /// Writes the messages, not visible yet, in chunks.
    pub(crate) async fn write_messages(&self, group: &Group) -> Result<Insertion, Error> {
        let mut written = Insertion::New;
        for chunk in chunks(group.drafts.iter().flat_map(|draft| &draft.messages)) {
            let is_repeated = self
                .send(|| {
                    let insert =
                        self.inner.messages.insert_many(chunk.iter().copied()).ordered(false);
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
                written = Insertion::Duplicate;
            }
        }
        Ok(written)
    }

    /// Writes the outbox entries, not visible yet.
    pub(crate) async fn write_entries(&self, group: &Group) -> Result<(), Error> {
        for draft in &group.drafts {
            too_large("the posted batch", draft.bytes)?;
        }
        for chunk in chunks(group.drafts.iter().filter_map(|draft| draft.entry.as_ref())) {
            self.send(|| {
                let insert = self.inner.outbox.insert_many(chunk.iter().copied()).ordered(false);
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

    /// Commits a group if the head has the assumed generation, the clocks agree and the deadline
    /// has not passed. Returns the head afterwards, and whether the command was retried. `earlier`
    /// is an applied intent, which is removed.
    pub(crate) async fn commit(
        &self,
        group: &Group,
        has_entries: bool,
        earlier: Option<&Binary>,
    ) -> Result<(Option<Head>, bool), Error> {
        let ops: Vec<_> = group.drafts.iter().map(|draft| &draft.op).collect();
        let mut filter = doc! {
            "_id": &group.queue, "open": true,
            "incarnation": group.assumed.incarnation.get().cast_signed(),
            "version": group.assumed.version.get().cast_signed(),
            "todo.op": { "$ne": &group.op },
            // Of two intents for one post, each could assign a part of the positions.
            "todo.act.post.posts.op": { "$nin": ops },
            MAX_OPEN: { "$exists": false },
        };
        self.guard(&mut filter, group.caller_time, Some(group.deadline));
        if group.notifies() && !has_entries {
            // If somebody has subscribed in the meantime, entries are needed.
            filter.insert("subscribed", doc! { "$lte": group.now });
            filter.insert("followed", doc! { "$lte": group.now });
        }
        let change =
            vec![doc! { "$set": group.change(self.commit_time(group.now), has_entries, earlier) }];
        self.change_head_reporting_retry(filter, change).await
    }

    /// Applies a committed post in the background, after its answer. Whoever reads the queue or its
    /// outbox earlier waits for that, or applies the post itself: the head lists it.
    fn apply_later(&self, queue: &str, intent: Intent) {
        let (store, name, op) = (self.clone(), queue.to_owned(), intent.op.clone());
        let token = self.inner.background.token();
        let deadline = self.inner.options.deadline;
        let task = self.inner.background.spawn("the application of a post", async move {
            let _running = token;
            let positioned = timeout(deadline, store.apply_once(&name, &intent)).await;
            let is_positioned = matches!(positioned, Ok(Ok(_)));
            // Unless the next group has taken it over: that removes the intent with its own commit.
            if store.inner.pending_posts.forget(&name, &intent.op) && is_positioned {
                let removed = timeout(deadline, store.remove_intents(&name, vec![intent.op])).await;
                if let Ok(Err(error)) = removed {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(
                        error,
                        "an intent stays listed until another process removes it"
                    );
                }
            }
            is_positioned
        });
        self.inner.pending_posts.put(queue, op, task);
    }

    /// The position of a group's first message, computed from any message that still exists.
    async fn first_position(&self, group: &Group) -> Result<Option<i64>, Error> {
        let mut before = 0_i64;
        for draft in &group.drafts {
            for ids in draft.all_ids().chunks(CHUNK_DOCUMENTS) {
                let query = Query::new(doc! { "_id": { "$in": ids } }).fields(doc! { "n": 1 });
                let found: Vec<StoredPosition> = self.find(&self.inner.messages, &query).await?;
                let first = |message: StoredPosition| {
                    Some(message.n? - i64::from(message_index(&message.id)?))
                };
                if let Some(first) = found.into_iter().find_map(first) {
                    return Ok(Some(first - before));
                }
            }
            before += i64::from(draft.count);
        }
        Ok(None)
    }

    /// Deletes the documents of a group that will not be posted. The caller may retry the same
    /// request only after this, so an error here is returned to the caller. Remaining documents are
    /// never visible and expire.
    async fn delete_draft(&self, group: &Group) -> Result<(), Error> {
        for draft in &group.drafts {
            for ids in draft.all_ids().chunks(CHUNK_DOCUMENTS) {
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

/// The first position that an intent assigns to its posts.
pub(crate) fn first_position_of(intent: &Intent) -> Option<i64> {
    if let Action::Post { first, .. } = &intent.action { Some(*first) } else { None }
}

/// Splits documents into chunks that one command can write in a short time.
fn chunks<'a>(documents: impl Iterator<Item = &'a Document>) -> Vec<Vec<&'a Document>> {
    let (mut chunks, mut chunk, mut bytes) = (Vec::new(), Vec::new(), 0);
    for document in documents {
        let own = size_of_bodies(document);
        if !chunk.is_empty() && (chunk.len() >= CHUNK_DOCUMENTS || bytes + own > CHUNK_BYTES) {
            chunks.push(std::mem::take(&mut chunk));
            bytes = 0;
        }
        chunk.push(document);
        bytes += own;
    }
    if !chunk.is_empty() {
        chunks.push(chunk);
    }
    chunks
}

/// The size of the bodies of a message or an entry.
fn size_of_bodies(document: &Document) -> usize {
    let body = document.get_binary_generic("b").map_or(0, Vec::len);
    let messages = document.get_array("messages").into_iter().flatten();
    body + messages.filter_map(Bson::as_document).map(size_of_bodies).sum::<usize>()
}

/// Why a head rejects a post.
fn refusal<T>(head: Option<&Head>, assumed: Generation) -> Option<Guarded<T>> {
    match head.map(Head::generation) {
        None => Some(Guarded::Absent),
        Some(own) if own != assumed => Some(Guarded::Stale(own)),
        Some(_) => None,
    }
}
