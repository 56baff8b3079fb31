//! Intents: atomic operations on many documents, without transactions.
//!
//! An intent is committed when its head lists it, which is one change of one document. From then on
//! any process may apply it: all parts are idempotent and may be repeated at any later time. A
//! reader of a queue reads its head first and applies the listed intents; then all messages before
//! the head's `next` have their positions and states.
//!
//! Intents that change which claim holds a message increment the head's claim sequence number. They
//! commit only if the number has not changed since the head was read, so nothing happened in
//! between. A message stores the number of the intent that changed it last, so an older intent does
//! not change it again.

use futures_util::TryStreamExt;
use futures_util::future::try_join_all;
use mongodb::Collection;
use mongodb::bson::{Binary, Bson, Document, doc, serialize_to_bson};
use mongodb::options::ReturnDocument;
use zaqar_core::storage::Error;

use crate::Mongo;
use crate::connect::one_node;
use crate::entries::EntryChange;
use crate::error::{DriverResult, StatementFailed, unreadable};
use crate::moves::{STAMP, stamped};
use crate::schema::{self, CHUNK_DOCUMENTS, CommitDeadline, date, message_keys};
use crate::stored::{Action, DeadLetter, Head, Intent, Post, state};

/// Milliseconds after which other processes remove an intent: the process that committed it is dead
/// or stopped.
pub(crate) const ABANDONED: i64 = 1000;
/// The last intent that a head can list: commits are rejected until some are removed.
pub(crate) const MAX_OPEN: &str = "todo.63";
/// If a head lists this many, any process that has applied them removes them.
const CROWDED: usize = 32;

/// The result of an attempt to commit an intent.
pub(crate) enum CommitOutcome {
    /// It is committed; the head afterwards.
    Committed(Box<Head>),
    /// Another intent was committed first; nothing was done.
    Conflict,
    /// The connection broke, and the head has changed since: it may or may not be committed.
    Unknown,
}

/// The sequence number that an intent increments.
#[derive(Clone, Copy)]
pub(crate) enum Sequence {
    /// Of changes of claims.
    Claims,
    /// Of changes of subscriptions.
    Subscriptions,
}

impl Sequence {
    const fn fields(self) -> (&'static str, &'static str) {
        match self {
            Self::Claims => ("turn", "last"),
            Self::Subscriptions => ("roster", "roster_last"),
        }
    }

    fn of(self, head: &Head) -> (i64, Option<&Binary>) {
        match self {
            Self::Claims => (head.claim_seq, head.last_claim_intent.as_ref()),
            Self::Subscriptions => (head.subscription_seq, head.last_subscription_intent.as_ref()),
        }
    }
}

impl Mongo {
    /// The head of a queue, open or closed, with the database's clock.
    pub(crate) async fn any_head(&self, queue: &str) -> Result<Option<Head>, Error> {
        match &self.inner.linearizable_heads {
            Some(linearizable) if self.inner.elections.are_recent() => {
                self.read_head(linearizable, queue).await
            }
            _ => self.read_head(&self.inner.heads, queue).await,
        }
    }

    /// The head of an open queue. A missing head is confirmed by a linearizable read.
    pub(crate) async fn head(&self, queue: &str) -> Result<Option<Head>, Error> {
        let head = self.any_head(queue).await?.map(Head::unless_frozen).transpose()?;
        match head.filter(|head| head.open) {
            Some(head) => Ok(Some(head)),
            None => self.latest_head(queue).await,
        }
    }

    /// As [`Mongo::head`], always with a linearizable read.
    pub(crate) async fn latest_head(&self, queue: &str) -> Result<Option<Head>, Error> {
        let head = self.latest_any_head(queue).await?.map(Head::unless_frozen).transpose()?;
        Ok(head.filter(|head| head.open))
    }

    /// As [`Mongo::any_head`], always with a linearizable read.
    pub(crate) async fn latest_any_head(&self, queue: &str) -> Result<Option<Head>, Error> {
        let heads = self.inner.linearizable_heads.as_ref().unwrap_or(&self.inner.heads);
        self.read_head(heads, queue).await
    }

    async fn read_head(
        &self,
        heads: &Collection<Head>,
        queue: &str,
    ) -> Result<Option<Head>, Error> {
        self.send(|| {
            let pipeline =
                [doc! { "$match": { "_id": queue } }, doc! { "$set": { "clock": "$$NOW" } }];
            let read = heads
                .aggregate(pipeline)
                .max_time(self.inner.options.command_timeout)
                .with_type::<Head>();
            async { read.await?.try_next().await }
        })
        .await
    }

    /// Changes a head with one command. Returns the head afterwards, or `None` if none matches the
    /// filter.
    pub(crate) async fn change_head(
        &self,
        filter: Document,
        change: Vec<Document>,
    ) -> Result<Option<Head>, Error> {
        Ok(self.change_head_reporting_retry(filter, change).await?.0)
    }

    /// As [`Mongo::change_head`]. Also returns whether the command was retried.
    pub(crate) async fn change_head_reporting_retry(
        &self,
        filter: Document,
        change: Vec<Document>,
    ) -> Result<(Option<Head>, bool), Error> {
        self.send_reporting_retry(|| {
            self.inner
                .heads
                .find_one_and_update(filter.clone(), change.clone())
                .return_document(ReturnDocument::After)
        })
        .await
    }

    /// Tries to commit an intent if the sequence number of `head` has not changed. `change` is
    /// changed in the head in addition. An intent that refers to documents written before has a
    /// deadline.
    pub(crate) async fn try_commit(
        &self,
        head: &Head,
        sequence: Sequence,
        intent: &Intent,
        mut change: Document,
        deadline: Option<CommitDeadline>,
    ) -> Result<CommitOutcome, Error> {
        let (count, last) = sequence.fields();
        let seen = sequence.of(head).0;
        let own = head.generation();
        let mut filter = doc! {
            "_id": &head.id, "open": true,
            "incarnation": own.incarnation.get().cast_signed(),
            "version": own.version.get().cast_signed(),
            // After a purge the positions would belong to other messages.
            "room": head.message_epoch, "hall": head.subscription_epoch, count: seen,
        };
        filter.insert(MAX_OPEN, doc! { "$exists": false });
        match head.caller_time {
            Some(caller_time) => self.guard(&mut filter, caller_time, deadline),
            None => drop(deadline.map(|deadline| filter.insert("$expr", deadline.condition()))),
        }
        let set = doc! { last: &intent.op };
        merge(&mut change, "$set", set);
        merge(&mut change, "$max", doc! { "at": intent.at });
        change.insert("$inc", doc! { count: 1_i64 });
        let listed = serialize_to_bson(intent).map_err(Error::failed)?;
        change.insert("$push", doc! { "todo": listed });
        let answer = self
            .send_reporting_retry(|| {
                self.inner
                    .heads
                    .find_one_and_update(filter.clone(), change.clone())
                    .return_document(ReturnDocument::After)
            })
            .await?;
        match answer {
            (Some(head), _) => Ok(CommitOutcome::Committed(Box::new(head))),
            (None, false) => Ok(CommitOutcome::Conflict),
            (None, true) => self.resolve_unknown_commit(head, sequence, &intent.op).await,
        }
    }

    /// Finds out whether an intent was committed by a command whose answer was lost.
    async fn resolve_unknown_commit(
        &self,
        seen: &Head,
        sequence: Sequence,
        op: &Binary,
    ) -> Result<CommitOutcome, Error> {
        let Some(head) = self.any_head(&seen.id).await? else { return Ok(CommitOutcome::Unknown) };
        let (count, last) = sequence.of(&head);
        if last == Some(op) || head.intent(op).is_some() {
            return Ok(CommitOutcome::Committed(Box::new(head)));
        }
        let is_untouched = count == sequence.of(seen).0;
        Ok(if is_untouched || count == sequence.of(seen).0 + 1 {
            CommitOutcome::Conflict
        } else {
            CommitOutcome::Unknown
        })
    }

    /// Applies the intents that a head lists.
    pub(crate) async fn apply_intents(&self, head: &Head, now: i64) -> Result<(), Error> {
        if head.intents.is_empty() {
            return Ok(());
        }
        let is_post = |intent: &&Intent| matches!(intent.action, Action::Post { .. });
        // Posts are independent; other intents depend on posts and on earlier intents.
        let posts = head.intents.iter().filter(is_post);
        try_join_all(posts.map(|intent| self.apply_once(&head.id, intent))).await?;
        for intent in head.intents.iter().filter(|intent| !is_post(intent)) {
            self.apply_once(&head.id, intent).await?;
        }
        let is_crowded = head.intents.len() >= CROWDED;
        let is_abandoned =
            |intent: &&Intent| is_crowded || intent.at.saturating_add(ABANDONED) <= now;
        let abandoned: Vec<_> =
            head.intents.iter().filter(is_abandoned).map(|intent| intent.op.clone()).collect();
        if !abandoned.is_empty() {
            self.remove_intents(&head.id, abandoned).await?;
        }
        Ok(())
    }

    /// Applies an intent and removes it from the head. Returns how many messages it changed.
    pub(crate) async fn apply_and_remove(
        &self,
        queue: &str,
        intent: &Intent,
    ) -> Result<u64, Error> {
        let changed = self.apply_once(queue, intent).await?;
        self.remove_intents(queue, vec![intent.op.clone()]).await?;
        Ok(changed)
    }

    pub(crate) async fn remove_intents(&self, queue: &str, ops: Vec<Binary>) -> Result<(), Error> {
        let filter = doc! { "_id": queue };
        let change = doc! { "$pull": { "todo": { "op": { "$in": ops } } } };
        self.send(|| {
            self.inner
                .heads
                .update_one(filter.clone(), change.clone())
                // If this write is lost, the intent is applied once more.
                .write_concern(one_node())
        })
        .await?;
        Ok(())
    }

    /// Applies an intent, unless this process has done so or is doing so. Returns how many messages
    /// that changed.
    pub(crate) async fn apply_once(&self, queue: &str, intent: &Intent) -> Result<u64, Error> {
        self.inner.applied.once(&intent.op, self.apply(queue, intent)).await
    }

    pub(crate) async fn apply(&self, queue: &str, intent: &Intent) -> Result<u64, Error> {
        match &intent.action {
            Action::Post { .. } => self.assign_positions(queue, intent).await,
            Action::Claim { .. } => self.apply_claim(intent).await,
            Action::Release { .. } => self.apply_release(intent).await,
            Action::Renew { .. } => self.apply_renewal(intent).await,
            Action::Delete { positions, holders } => {
                let mut filter = doc! { "h": intent.message_epoch, "n": { "$in": positions } };
                if let Some(holders) = holders {
                    filter.insert("s", state::CLAIMED);
                    filter.insert("c", doc! { "$in": holders });
                }
                self.delete_messages(filter).await
            }
            Action::DeadLetters { first, source, claim, dead_letters } => {
                let moves = dead_letters.iter().zip(*first..).map(|(dead_letter, position)| {
                    self.move_dead_letter(intent, *source, claim, dead_letter, position)
                });
                Ok(try_join_all(moves).await?.into_iter().sum())
            }
            Action::Subscribe { key, end } => {
                let change = doc! { "$set": { "counts": true, "e": date(*end) } };
                self.change_subscriber(doc! { "_id": key, "counts": false }, change).await
            }
            Action::ChangeSubscription { key, subscription_seq, set } => {
                let mut set = set.clone();
                set.insert("roster", *subscription_seq);
                let filter = doc! { "_id": key, "roster": { "$lt": *subscription_seq } };
                self.change_subscriber(filter, doc! { "$set": set }).await
            }
            Action::Unsubscribe { keys } => self.delete_subscriptions(keys).await,
        }
    }

    /// Assigns positions to the messages of posts and activates their outbox entries. Returns how
    /// many messages this call changed.
    async fn assign_positions(&self, queue: &str, intent: &Intent) -> Result<u64, Error> {
        let Action::Post { outbox_epoch, incarnation, first, posts, readers } = &intent.action
        else {
            return Err(unreadable("a post"));
        };
        let (mut statements, mut entries, mut position) = (Vec::new(), Vec::new(), *first);
        for post in posts {
            let count = u32::try_from(post.count).map_err(|_| unreadable("a post's length"))?;
            for ids in message_keys(&post.op.bytes, count).chunks(CHUNK_DOCUMENTS) {
                statements.push((ids.len(), position_statement(intent, ids, position)));
            }
            if let Some(readers) = *readers {
                let (outbox_epoch, incarnation, at) = (*outbox_epoch, *incarnation, intent.at);
                let change = EntryChange {
                    queue,
                    op: &post.op,
                    readers,
                    outbox_epoch,
                    incarnation,
                    first: position,
                    at,
                };
                entries.push((1, change.statement()));
            }
            position += post.count;
        }
        let entries = async {
            match readers {
                None => Ok(0),
                Some(readers) if readers.are_any() => {
                    self.update_by_statements(schema::OUTBOX, entries).await
                }
                Some(_) => self.drop_entries(posts).await,
            }
        };
        let messages = self.update_by_statements(schema::MESSAGES, statements);
        let (positioned, _) = futures_util::try_join!(messages, entries)?;
        let all: i64 = posts.iter().map(|post| post.count).sum();
        if positioned < all.unsigned_abs() {
            // Another process applied a part of it, which must be verified before the intent is
            // removed.
            self.check_positions(posts).await?;
        }
        Ok(positioned)
    }

    /// Checks that no message of these posts lacks a position.
    async fn check_positions(&self, posts: &[Post]) -> Result<(), Error> {
        for post in posts {
            let count = u32::try_from(post.count).map_err(|_| unreadable("a post's length"))?;
            for ids in message_keys(&post.op.bytes, count).chunks(CHUNK_DOCUMENTS) {
                let left = doc! { "_id": { "$in": ids }, "h": { "$exists": false } };
                let left = self.send(|| self.inner.messages.find_one(left.clone())).await?;
                if left.is_some() {
                    return Err(Error::unavailable("a message has no position"));
                }
            }
        }
        Ok(())
    }

    /// Updates documents with several statements in one command, or in a few if there are many.
    /// Returns how many documents matched. Each statement comes with the number of documents that
    /// it addresses.
    async fn update_by_statements(
        &self,
        collection: &str,
        statements: Vec<(usize, Document)>,
    ) -> Result<u64, Error> {
        let (mut updated, mut chunk, mut named) = (0, Vec::new(), 0);
        for (count, statement) in statements {
            if named > 0 && named + count > CHUNK_DOCUMENTS {
                updated += self.send_statements(collection, std::mem::take(&mut chunk)).await?;
                named = 0;
            }
            named += count;
            chunk.push(statement);
        }
        if chunk.is_empty() {
            return Ok(updated);
        }
        Ok(updated + self.send_statements(collection, chunk).await?)
    }

    async fn send_statements(
        &self,
        collection: &str,
        statements: Vec<Document>,
    ) -> Result<u64, Error> {
        let command = doc! {
            "update": collection, "updates": statements, "ordered": false,
            "writeConcern": self.inner.write_concern.clone(),
        };
        self.send(|| {
            let sent = self.inner.db.run_command(command.clone());
            async { read_statements(&sent.await?) }
        })
        .await
    }

    async fn apply_claim(&self, intent: &Intent) -> Result<u64, Error> {
        let Action::Claim { claim_seq, claim, positions, ttl, until, extend_to, counts } =
            &intent.action
        else {
            return Err(unreadable("a claim"));
        };
        let key = schema::claim_key(intent.message_epoch, claim);
        let record = doc! {
            "$set": {
                "live": true, "turn": *claim_seq, "places": positions, "ttl": *ttl, "since": intent.at,
                "e": date(*until),
            },
            "$unset": { "x": "" },
        };
        let record = self.update_claim(doc! { "_id": key, "live": false }, record);
        let held = doc! {
            "$set": { "s": state::CLAIMED, "c": claim, "q": *claim_seq },
            "$max": { "x": date(*extend_to) },
            "$inc": { "k": *counts },
        };
        let filter = doc! { "h": intent.message_epoch, "n": { "$in": positions }, "q": { "$lt": *claim_seq } };
        let (_, held) = futures_util::try_join!(record, self.update_messages(filter, held))?;
        Ok(held)
    }

    async fn apply_release(&self, intent: &Intent) -> Result<u64, Error> {
        let Action::Release { claim_seq, claims, positions } = &intent.action else {
            return Err(unreadable("a release"));
        };
        let filter = doc! {
            "h": intent.message_epoch, "n": { "$in": positions }, "c": { "$in": claims }, "q": { "$lt": *claim_seq },
        };
        let freed = doc! {
            "$set": { "s": state::FREE, "q": *claim_seq }, "$unset": { "c": "" },
        };
        let keys: Vec<_> =
            claims.iter().map(|claim| schema::claim_key(intent.message_epoch, claim)).collect();
        let ended = async {
            let filter = doc! { "_id": { "$in": keys } };
            self.send(|| self.inner.claims.delete_many(filter.clone())).await
        };
        let (freed, _) = futures_util::try_join!(self.update_messages(filter, freed), ended)?;
        Ok(freed)
    }

    async fn apply_renewal(&self, intent: &Intent) -> Result<u64, Error> {
        let Action::Renew { claim_seq, claim, positions, ttl, until, extend_to } = &intent.action
        else {
            return Err(unreadable("a renewal"));
        };
        let key = schema::claim_key(intent.message_epoch, claim);
        let record = doc! { "$set": {
            "turn": *claim_seq, "ttl": *ttl, "since": intent.at, "e": date(*until),
        } };
        let filter = doc! { "_id": key, "live": true, "turn": { "$lt": *claim_seq } };
        let record = self.update_claim(filter, record);
        let filter = doc! {
            "h": intent.message_epoch, "n": { "$in": positions }, "c": claim, "q": { "$lt": *claim_seq },
        };
        let longer = doc! { "$set": { "q": *claim_seq }, "$max": { "x": date(*extend_to) } };
        let (_, longer) = futures_util::try_join!(record, self.update_messages(filter, longer))?;
        Ok(longer)
    }

    /// Moves a message from the claim that holds it in another queue. The document itself is
    /// changed, so there is never a copy.
    async fn move_dead_letter(
        &self,
        intent: &Intent,
        source: i64,
        claim: &Binary,
        dead_letter: &DeadLetter,
        position: i64,
    ) -> Result<u64, Error> {
        // One that a move has stamped stays, and goes where its queue goes.
        let filter = doc! {
            "_id": &dead_letter.id, "h": source, "s": state::CLAIMED, "c": claim,
            STAMP: stamped(None),
        };
        let change = doc! {
            "$set": {
                "h": intent.message_epoch, "n": position, "s": state::FREE, "q": 0_i64, "k": 0,
                "a": date(intent.at), "l": dead_letter.ttl, "x": dead_letter.expires,
            },
            "$unset": { "c": "" },
        };
        let moved =
            self.send(|| self.inner.messages.update_one(filter.clone(), change.clone())).await?;
        Ok(moved.matched_count)
    }

    pub(crate) async fn update_messages(
        &self,
        filter: Document,
        change: impl Into<mongodb::options::UpdateModifications>,
    ) -> Result<u64, Error> {
        let change = change.into();
        let updated =
            self.send(|| self.inner.messages.update_many(filter.clone(), change.clone())).await?;
        Ok(updated.matched_count)
    }

    pub(crate) async fn delete_messages(&self, filter: Document) -> Result<u64, Error> {
        let deleted = self.send(|| self.inner.messages.delete_many(filter.clone())).await?;
        Ok(deleted.deleted_count)
    }

    async fn update_claim(&self, filter: Document, change: Document) -> Result<u64, Error> {
        let updated =
            self.send(|| self.inner.claims.update_one(filter.clone(), change.clone())).await?;
        Ok(updated.matched_count)
    }

    async fn change_subscriber(&self, filter: Document, change: Document) -> Result<u64, Error> {
        let updated = self
            .send(|| self.inner.subscriptions.update_one(filter.clone(), change.clone()))
            .await?;
        Ok(updated.matched_count)
    }
}

/// A statement that assigns positions to messages of a post whose first message gets `first`. It is
/// idempotent: afterwards a message has an epoch or is deleted.
fn position_statement(intent: &Intent, ids: &[Binary], first: i64) -> Document {
    let is_delayed = doc! { "$gt": ["$delay", 0] };
    let set = doc! {
        "h": intent.message_epoch,
        "n": { "$add": [first, "$i"] },
        "q": 0_i64,
        "k": 0,
        "s": { "$cond": [&is_delayed, state::DELAYED, state::FREE] },
        "t": { "$cond": [&is_delayed, { "$add": [intent.at, "$delay"] }, "$$REMOVE"] },
        "a": date(intent.at),
        "x": { "$add": [date(intent.at), "$life"] },
    };
    doc! {
        "q": { "_id": { "$in": ids }, "h": { "$exists": false } },
        "u": [{ "$set": set }, { "$unset": ["i", "delay", "life"] }],
        "multi": true,
    }
}

/// How many documents matched the statements of a command; an error if one was rejected.
fn read_statements(answer: &Document) -> DriverResult<u64> {
    let failed = |error: &Document, has_acted| {
        let code = error.get_i32("code").unwrap_or(0);
        mongodb::error::Error::custom(StatementFailed { code, has_acted })
    };
    if let Ok(error) = answer.get_document("writeConcernError") {
        return Err(failed(error, true));
    }
    let errors = answer.get_array("writeErrors").into_iter().flatten();
    if let Some(error) = errors.filter_map(Bson::as_document).next() {
        return Err(failed(error, false));
    }
    let count = answer.get("n").and_then(|n| n.as_i64().or(n.as_i32().map(i64::from)));
    Ok(count.unwrap_or(0).unsigned_abs())
}

/// Adds fields to one operator of a change.
fn merge(change: &mut Document, operator: &str, fields: Document) {
    match change.get_document_mut(operator) {
        Ok(there) => there.extend(fields),
        Err(_) => {
            change.insert(operator, fields);
        }
    }
}
