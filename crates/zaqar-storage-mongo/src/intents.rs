//! Steps: how an operation on many documents is one.
//!
//! A step is decided when its head lists it, by one change of one document. From then on whoever
//! meets it carries it out: each part of it may be repeated, by anyone and at any later time, and
//! does nothing the second time. Whoever reads a queue reads its head first and carries out what it
//! lists; then everything up to the head's `next` is in its place and in its state.
//!
//! Steps that change who holds which message count the head's turns. They are tried on the turn
//! that was seen, so each knows that nothing happened in between, and a message remembers the turn
//! that changed it last: an older step leaves it alone.

use futures_util::TryStreamExt;
use futures_util::future::try_join_all;
use mongodb::Collection;
use mongodb::bson::{Binary, Bson, Document, doc, serialize_to_bson};
use mongodb::options::ReturnDocument;
use zaqar_core::storage::Error;

use crate::Mongo;
use crate::connect::one_node;
use crate::entries::EntryChange;
use crate::error::{Sent, StatementFailed, unreadable};
use crate::schema::{self, Fence, PIECE, date, message_ids};
use crate::stored::{Act, DeadLetter, Head, Post, Step, state};

/// A step is taken off its list by others than who made it when it is this old: who made it is dead
/// or stopped.
pub(crate) const ABANDONED: i64 = 1000;
/// The last step that a head lists: more are refused until some are struck off.
pub(crate) const MAX_OPEN: &str = "todo.63";
/// Where a head lists as many, whoever has carried them out strikes them off.
const CROWDED: usize = 32;

/// What became of a step that was tried on a turn.
pub(crate) enum Tried {
    /// It is decided.
    Done(Box<Head>),
    /// Another step was faster; nothing was done.
    Overtaken,
    /// The connection broke and the head has moved on since: it was decided or not.
    Unknown,
}

/// Which counter a step is tried on.
#[derive(Clone, Copy)]
pub(crate) enum Counter {
    /// Who holds what.
    Turn,
    /// Who subscribes.
    Roster,
}

impl Counter {
    const fn fields(self) -> (&'static str, &'static str) {
        match self {
            Self::Turn => ("turn", "last"),
            Self::Roster => ("roster", "roster_last"),
        }
    }

    fn of(self, head: &Head) -> (i64, Option<&Binary>) {
        match self {
            Self::Turn => (head.turn, head.last.as_ref()),
            Self::Roster => (head.roster, head.roster_last.as_ref()),
        }
    }
}

impl Mongo {
    /// The head of a queue, also of one that was closed, with the database's clock.
    pub(crate) async fn any_head(&self, queue: &str) -> Result<Option<Head>, Error> {
        match &self.inner.confirmed_heads {
            Some(confirmed) if self.inner.elections.are_recent() => {
                self.read_head(confirmed, queue).await
            }
            _ => self.read_head(&self.inner.heads, queue).await,
        }
    }

    /// The head of a queue that is there. That one is not there is made sure of.
    pub(crate) async fn head(&self, queue: &str) -> Result<Option<Head>, Error> {
        match self.any_head(queue).await?.filter(|head| head.open) {
            Some(head) => Ok(Some(head)),
            None => self.confirmed_head(queue).await,
        }
    }

    /// As [`Mongo::head`], with everything that was acknowledged before.
    pub(crate) async fn confirmed_head(&self, queue: &str) -> Result<Option<Head>, Error> {
        let heads = self.inner.confirmed_heads.as_ref().unwrap_or(&self.inner.heads);
        Ok(self.read_head(heads, queue).await?.filter(|head| head.open))
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

    /// Changes a head by one command; the head as it is then, or `None` where none fits the filter.
    pub(crate) async fn change_head(
        &self,
        filter: Document,
        change: Vec<Document>,
    ) -> Result<Option<Head>, Error> {
        Ok(self.change_head_noting(filter, change).await?.0)
    }

    /// As [`Mongo::change_head`]; says, too, whether the command was sent before.
    pub(crate) async fn change_head_noting(
        &self,
        filter: Document,
        change: Vec<Document>,
    ) -> Result<(Option<Head>, bool), Error> {
        self.send_noting(|| {
            self.inner
                .heads
                .find_one_and_update(filter.clone(), change.clone())
                .return_document(ReturnDocument::After)
        })
        .await
    }

    /// Tries a step on the count that `head` has: `change` is what it changes in the head beside
    /// listing itself. A step for which something was written before has a fence.
    pub(crate) async fn try_step(
        &self,
        head: &Head,
        counter: Counter,
        step: &Step,
        mut change: Document,
        fence: Option<Fence>,
    ) -> Result<Tried, Error> {
        let (count, last) = counter.fields();
        let seen = counter.of(head).0;
        let own = head.generation();
        let mut filter = doc! {
            "_id": &head.id, "open": true,
            "incarnation": own.incarnation.get().cast_signed(),
            "version": own.version.get().cast_signed(),
            // After a purge it would be about other messages.
            "room": head.room, "hall": head.hall, count: seen,
        };
        filter.insert(MAX_OPEN, doc! { "$exists": false });
        match head.asked_at {
            Some(asked_at) => self.guard(&mut filter, asked_at, fence),
            None => drop(fence.map(|fence| filter.insert("$expr", fence.condition()))),
        }
        let set = doc! { last: &step.op };
        merge(&mut change, "$set", set);
        merge(&mut change, "$max", doc! { "at": step.at });
        change.insert("$inc", doc! { count: 1_i64 });
        let listed = serialize_to_bson(step).map_err(Error::failed)?;
        change.insert("$push", doc! { "todo": listed });
        let answer = self
            .send_noting(|| {
                self.inner
                    .heads
                    .find_one_and_update(filter.clone(), change.clone())
                    .return_document(ReturnDocument::After)
            })
            .await?;
        match answer {
            (Some(head), _) => Ok(Tried::Done(Box::new(head))),
            (None, false) => Ok(Tried::Overtaken),
            (None, true) => self.look_again(head, counter, &step.op).await,
        }
    }

    /// Finds out whether a step was decided by a command whose answer was lost.
    async fn look_again(&self, seen: &Head, counter: Counter, op: &Binary) -> Result<Tried, Error> {
        let Some(head) = self.any_head(&seen.id).await? else { return Ok(Tried::Unknown) };
        let (count, last) = counter.of(&head);
        if last == Some(op) || head.step(op).is_some() {
            return Ok(Tried::Done(Box::new(head)));
        }
        let is_untouched = count == counter.of(seen).0;
        Ok(if is_untouched || count == counter.of(seen).0 + 1 {
            Tried::Overtaken
        } else {
            Tried::Unknown
        })
    }

    /// Carries out what a head lists.
    pub(crate) async fn settle_steps(&self, head: &Head, now: i64) -> Result<(), Error> {
        if head.todo.is_empty() {
            return Ok(());
        }
        let is_post = |step: &&Step| matches!(step.act, Act::Post { .. });
        // Posts depend on nothing; what changes messages depends on posts and on what was listed
        // before.
        let posts = head.todo.iter().filter(is_post);
        try_join_all(posts.map(|step| self.carry_out_once(&head.id, step))).await?;
        for step in head.todo.iter().filter(|step| !is_post(step)) {
            self.carry_out_once(&head.id, step).await?;
        }
        let is_crowded = head.todo.len() >= CROWDED;
        let is_abandoned = |step: &&Step| is_crowded || step.at.saturating_add(ABANDONED) <= now;
        let abandoned: Vec<_> =
            head.todo.iter().filter(is_abandoned).map(|step| step.op.clone()).collect();
        if !abandoned.is_empty() {
            self.unlist(&head.id, abandoned).await?;
        }
        Ok(())
    }

    /// Carries out a step, and takes it off its list; how many messages it changed.
    pub(crate) async fn finish(&self, queue: &str, step: &Step) -> Result<u64, Error> {
        let changed = self.carry_out_once(queue, step).await?;
        self.unlist(queue, vec![step.op.clone()]).await?;
        Ok(changed)
    }

    pub(crate) async fn unlist(&self, queue: &str, ops: Vec<Binary>) -> Result<(), Error> {
        let filter = doc! { "_id": queue };
        let change = doc! { "$pull": { "todo": { "op": { "$in": ops } } } };
        self.send(|| {
            self.inner
                .heads
                .update_one(filter.clone(), change.clone())
                // Where it is lost the step is carried out once more.
                .write_concern(one_node())
        })
        .await?;
        Ok(())
    }

    /// Carries out a step, unless this process has done so or is at it; how many messages that
    /// changed.
    pub(crate) async fn carry_out_once(&self, queue: &str, step: &Step) -> Result<u64, Error> {
        self.inner.carried.once(&step.op, self.carry_out(queue, step)).await
    }

    pub(crate) async fn carry_out(&self, queue: &str, step: &Step) -> Result<u64, Error> {
        match &step.act {
            Act::Post { .. } => self.put_in_place(queue, step).await,
            Act::Claim { .. } => self.hold(step).await,
            Act::Free { .. } => self.free(step).await,
            Act::Renew { .. } => self.prolong(step).await,
            Act::Delete { places, holders } => {
                let mut filter = doc! { "h": step.room, "n": { "$in": places } };
                if let Some(holders) = holders {
                    filter.insert("s", state::HELD);
                    filter.insert("c", doc! { "$in": holders });
                }
                self.delete_messages(filter).await
            }
            Act::DeadLetters { first, source, claim, letters } => {
                let moves = letters.iter().zip(*first..).map(|(dead_letter, place)| {
                    self.take_dead_letter(step, *source, claim, dead_letter, place)
                });
                Ok(try_join_all(moves).await?.into_iter().sum())
            }
            Act::Join { key, end } => {
                let change = doc! { "$set": { "counts": true, "e": date(*end) } };
                self.change_subscriber(doc! { "_id": key, "counts": false }, change).await
            }
            Act::Change { key, roster, set } => {
                let mut set = set.clone();
                set.insert("roster", *roster);
                let filter = doc! { "_id": key, "roster": { "$lt": *roster } };
                self.change_subscriber(filter, doc! { "$set": set }).await
            }
            Act::Leave { keys } => self.delete_subscriptions(keys).await,
        }
    }

    /// Gives the messages of posts their positions; with them their outbox entries count. How many
    /// messages got theirs by this.
    async fn put_in_place(&self, queue: &str, step: &Step) -> Result<u64, Error> {
        let Act::Post { life, incarnation, first, posts, hearers } = &step.act else {
            return Err(unreadable("a post"));
        };
        let (mut statements, mut entries, mut position) = (Vec::new(), Vec::new(), *first);
        for post in posts {
            let count = u32::try_from(post.count).map_err(|_| unreadable("a post's length"))?;
            for ids in message_ids(&post.op.bytes, count).chunks(PIECE) {
                statements.push((ids.len(), in_place(step, ids, position)));
            }
            if let Some(hearers) = *hearers {
                let (life, incarnation, at) = (*life, *incarnation, step.at);
                let heard = EntryChange {
                    queue,
                    op: &post.op,
                    hearers,
                    life,
                    incarnation,
                    first: position,
                    at,
                };
                entries.push((1, heard.statement()));
            }
            position += post.count;
        }
        let entries = async {
            match hearers {
                None => Ok(0),
                Some(hearers) if hearers.are_any() => {
                    self.update_by_statements(schema::OUTBOX, entries).await
                }
                Some(_) => self.drop_entries(posts).await,
            }
        };
        let messages = self.update_by_statements(schema::MESSAGES, statements);
        let (placed, _) = futures_util::try_join!(messages, entries)?;
        let all: i64 = posts.iter().map(|post| post.count).sum();
        if placed < all.unsigned_abs() {
            // Somebody else did some of it, which the answer must prove before it is struck off.
            self.check_placed(posts).await?;
        }
        Ok(placed)
    }

    /// Makes sure that no message of these posts is without a position.
    async fn check_placed(&self, posts: &[Post]) -> Result<(), Error> {
        for post in posts {
            let count = u32::try_from(post.count).map_err(|_| unreadable("a post's length"))?;
            for ids in message_ids(&post.op.bytes, count).chunks(PIECE) {
                let left = doc! { "_id": { "$in": ids }, "h": { "$exists": false } };
                let left = self.send(|| self.inner.messages.find_one(left.clone())).await?;
                if left.is_some() {
                    return Err(Error::unavailable("a message did not get its position"));
                }
            }
        }
        Ok(())
    }

    /// Updates documents by several statements in one command, or in a few where they are large;
    /// how many documents fitted. Each statement comes with the number of documents that it names.
    async fn update_by_statements(
        &self,
        collection: &str,
        statements: Vec<(usize, Document)>,
    ) -> Result<u64, Error> {
        let (mut updated, mut piece, mut named) = (0, Vec::new(), 0);
        for (count, statement) in statements {
            if named > 0 && named + count > PIECE {
                updated += self.send_statements(collection, std::mem::take(&mut piece)).await?;
                named = 0;
            }
            named += count;
            piece.push(statement);
        }
        if piece.is_empty() {
            return Ok(updated);
        }
        Ok(updated + self.send_statements(collection, piece).await?)
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

    async fn hold(&self, step: &Step) -> Result<u64, Error> {
        let Act::Claim { turn, claim, places, ttl, until, alive, counts } = &step.act else {
            return Err(unreadable("a claim"));
        };
        let key = schema::claim_key(step.room, claim);
        let record = doc! {
            "$set": {
                "live": true, "turn": *turn, "places": places, "ttl": *ttl, "since": step.at,
                "e": date(*until),
            },
            "$unset": { "x": "" },
        };
        let record = self.update_claim(doc! { "_id": key, "live": false }, record);
        let held = doc! {
            "$set": { "s": state::HELD, "c": claim, "q": *turn },
            "$max": { "x": date(*alive) },
            "$inc": { "k": *counts },
        };
        let filter = doc! { "h": step.room, "n": { "$in": places }, "q": { "$lt": *turn } };
        let (_, held) = futures_util::try_join!(record, self.update_messages(filter, held))?;
        Ok(held)
    }

    async fn free(&self, step: &Step) -> Result<u64, Error> {
        let Act::Free { turn, claims, places } = &step.act else {
            return Err(unreadable("a release"));
        };
        let filter = doc! {
            "h": step.room, "n": { "$in": places }, "c": { "$in": claims }, "q": { "$lt": *turn },
        };
        let freed = doc! {
            "$set": { "s": state::FREE, "q": *turn }, "$unset": { "c": "" },
        };
        let keys: Vec<_> = claims.iter().map(|claim| schema::claim_key(step.room, claim)).collect();
        let ended = async {
            let filter = doc! { "_id": { "$in": keys } };
            self.send(|| self.inner.claims.delete_many(filter.clone())).await
        };
        let (freed, _) = futures_util::try_join!(self.update_messages(filter, freed), ended)?;
        Ok(freed)
    }

    async fn prolong(&self, step: &Step) -> Result<u64, Error> {
        let Act::Renew { turn, claim, places, ttl, until, alive } = &step.act else {
            return Err(unreadable("a renewal"));
        };
        let key = schema::claim_key(step.room, claim);
        let record = doc! { "$set": {
            "turn": *turn, "ttl": *ttl, "since": step.at, "e": date(*until),
        } };
        let filter = doc! { "_id": key, "live": true, "turn": { "$lt": *turn } };
        let record = self.update_claim(filter, record);
        let filter = doc! {
            "h": step.room, "n": { "$in": places }, "c": claim, "q": { "$lt": *turn },
        };
        let longer = doc! { "$set": { "q": *turn }, "$max": { "x": date(*alive) } };
        let (_, longer) = futures_util::try_join!(record, self.update_messages(filter, longer))?;
        Ok(longer)
    }

    /// Takes a message over from the claim that holds it in another room. It moves as it is: there
    /// is never a second one.
    async fn take_dead_letter(
        &self,
        step: &Step,
        source: i64,
        claim: &Binary,
        dead_letter: &DeadLetter,
        place: i64,
    ) -> Result<u64, Error> {
        let filter = doc! { "_id": &dead_letter.id, "h": source, "s": state::HELD, "c": claim };
        let change = doc! {
            "$set": {
                "h": step.room, "n": place, "s": state::FREE, "q": 0_i64, "k": 0,
                "a": date(step.at), "l": dead_letter.ttl, "x": dead_letter.expires,
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

/// A statement that gives messages of a post, whose first one gets `first`, their positions. A
/// message gets one once: later it has a room, or is gone.
fn in_place(step: &Step, ids: &[Binary], first: i64) -> Document {
    let is_delayed = doc! { "$gt": ["$delay", 0] };
    let set = doc! {
        "h": step.room,
        "n": { "$add": [first, "$i"] },
        "q": 0_i64,
        "k": 0,
        "s": { "$cond": [&is_delayed, state::DELAYED, state::FREE] },
        "t": { "$cond": [&is_delayed, { "$add": [step.at, "$delay"] }, "$$REMOVE"] },
        "a": date(step.at),
        "x": { "$add": [date(step.at), "$life"] },
    };
    doc! {
        "q": { "_id": { "$in": ids }, "h": { "$exists": false } },
        "u": [{ "$set": set }, { "$unset": ["i", "delay", "life"] }],
        "multi": true,
    }
}

/// How many documents fitted the statements of a command; an error where one was refused.
fn read_statements(answer: &Document) -> Sent<u64> {
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
