//! Moves to other stores and from them.
//!
//! A frozen head is not open, so no intent commits, and has the field `moving`, by which whoever
//! looks for it gets [`Error::Moved`]. All of its intents are applied before anything is read.
//!
//! Some changes are of one document, without a head: a message is deleted, an entry is settled or
//! leased, a message becomes a dead letter of another queue. They must not act on what has been
//! copied. So an export stamps documents with the move (`z`) before it reads them, and such a
//! change that meets a stamp looks at the head again. A stamp outlives its move where that was
//! undone, and is ignored then.

mod export;
mod import;

use async_trait::async_trait;
use mongodb::bson::{Bson, Document, doc};
use zaqar_core::storage::{
    Contents, ContentsMark, Error, Exported, FrozenHead, MoveEnd, MoveId, Moves,
};
use zaqar_core::{Kind, QueueKey, Timestamp};

use crate::Mongo;
use crate::error::is_duplicate;
use crate::heads::beginning;
use crate::query::Query;
use crate::schema::{queue_id, queue_key};
use crate::stored::{DroppedEpoch, Head};

/// The field of messages and entries that a move has stamped.
pub(crate) const STAMP: &str = "z";
/// Positions that a queue may bring, at most: the later half is for those that follow.
const MAX_POSITION: u64 = 1 << 62;

/// A filter for documents with the stamp that was seen, or without one.
pub(crate) fn stamped(seen: Option<i64>) -> Bson {
    seen.map_or_else(|| doc! { "$exists": false }.into(), Bson::from)
}

/// The value of `moving`.
fn mark(id: MoveId, end: MoveEnd) -> String {
    let letter = match end {
        MoveEnd::Source => 's',
        MoveEnd::Target => 't',
    };
    format!("{letter}{}", id.get())
}

impl Head {
    /// The move that has frozen it.
    fn frozen(&self) -> Option<(MoveId, MoveEnd)> {
        let moving = self.moving.as_deref()?;
        let end = if moving.starts_with('s') { MoveEnd::Source } else { MoveEnd::Target };
        let id = moving.get(1..).and_then(|id| id.parse().ok());
        // A damaged one is frozen by no move, so that its next mover ends the freeze.
        Some((MoveId::new(id.unwrap_or_default()), end))
    }

    /// It, unless it is frozen for a move.
    pub(crate) fn unless_frozen(self) -> Result<Self, Error> {
        match self.frozen() {
            Some((id, end)) => Err(Error::Moved { id, end }),
            None => Ok(self),
        }
    }

    /// Whether the queue is here, frozen or not.
    pub(crate) const fn exists(&self) -> bool {
        self.open || self.moving.is_some()
    }

    fn is_at(&self, id: MoveId, end: MoveEnd) -> bool {
        self.moving.as_deref() == Some(&mark(id, end))
    }
}

#[async_trait]
impl Moves for Mongo {
    async fn freeze(
        &self,
        key: &QueueKey,
        id: MoveId,
        now: Timestamp,
    ) -> Result<Option<FrozenHead>, Error> {
        self.run(async {
            let queue = queue_id(key);
            for attempt in 0..self.inner.options.max_attempts.max(1) {
                self.back_off(attempt).await;
                let Some(head) = self.latest_any_head(&queue).await?.filter(Head::exists) else {
                    return Ok(None);
                };
                let frozen = if head.is_at(id, MoveEnd::Source) {
                    Some(head)
                } else {
                    self.try_freezing(&head.unless_frozen()?, id).await?
                };
                let Some(head) = frozen else { continue };
                let now = self.effective_time(now).max(head.latest_time);
                self.apply_intents(&head, now).await?;
                let done = head.intents.iter().map(|intent| intent.op.clone()).collect();
                self.remove_intents(&queue, done).await?;
                let (generation, last) = (head.generation(), head.last_position());
                return Ok(Some(FrozenHead { generation, last, time: crate::schema::time(now) }));
            }
            Err(Self::contended())
        })
        .await
    }

    async fn receive(
        &self,
        key: &QueueKey,
        id: MoveId,
        head: FrozenHead,
        now: Timestamp,
    ) -> Result<(), Error> {
        if head.last.get() > MAX_POSITION {
            return Err(Error::failed(format!(
                "the last position of the queue, {}, is more than {MAX_POSITION}",
                head.last.get()
            )));
        }
        self.run(async {
            let queue = queue_id(key);
            let at = self.effective_time(now.max(head.time));
            let mut fields = beginning(head.generation, at);
            fields.extend(doc! {
                "open": false, "moving": mark(id, MoveEnd::Target),
                "next": head.last.get().cast_signed() + 1,
            });
            for attempt in 0..self.inner.options.max_attempts.max(1) {
                self.back_off(attempt).await;
                let is_received = match self.latest_any_head(&queue).await? {
                    None => self.insert_frozen(&queue, &fields).await?,
                    Some(there) if there.is_at(id, MoveEnd::Target) => true,
                    Some(there) if there.unless_frozen_ref()?.open => {
                        return Err(Error::failed("the queue is in this store already"));
                    }
                    Some(closed) => self.reopen_frozen(&closed, &fields).await?,
                };
                if is_received {
                    return Ok(());
                }
            }
            Err(Self::contended())
        })
        .await
    }

    async fn export(
        &self,
        key: &QueueKey,
        id: MoveId,
        mark: ContentsMark,
        limit: usize,
        now: Timestamp,
    ) -> Result<Option<Exported>, Error> {
        self.run(async {
            let head = self.latest_any_head(&queue_id(key)).await?;
            let Some(head) = head.filter(|head| head.is_at(id, MoveEnd::Source)) else {
                return Ok(None);
            };
            let now = self.effective_time(now).max(head.latest_time);
            self.export_part(&head, id, mark, limit.max(1), now).await.map(Some)
        })
        .await
    }

    async fn import(
        &self,
        key: &QueueKey,
        id: MoveId,
        part: &Contents,
        now: Timestamp,
    ) -> Result<bool, Error> {
        self.run(async {
            let head = self.latest_any_head(&queue_id(key)).await?;
            let Some(head) = head.filter(|head| head.is_at(id, MoveEnd::Target)) else {
                return Ok(false);
            };
            let now = self.effective_time(now).max(head.latest_time);
            self.import_part(&head, part, now).await
        })
        .await
    }

    async fn thaw(&self, key: &QueueKey, id: MoveId) -> Result<(), Error> {
        self.run(async {
            let change = vec![doc! { "$set": { "open": true } }, doc! { "$unset": "moving" }];
            self.change_head(of_move(&queue_id(key), id), change).await.map(drop)
        })
        .await
    }

    async fn discard(&self, key: &QueueKey, id: MoveId) -> Result<(), Error> {
        self.run(async {
            let queue = queue_id(key);
            let Some(head) = self.latest_any_head(&queue).await? else { return Ok(()) };
            let gone = [
                DroppedEpoch::Messages(head.message_epoch),
                DroppedEpoch::Subscriptions(head.subscription_epoch),
                DroppedEpoch::Outbox(head.outbox_epoch),
            ];
            let gone: Vec<_> = gone.iter().map(DroppedEpoch::to_bson).collect();
            // No epoch of a frozen head changes.
            let mut filter = of_move(&queue, id);
            filter.insert("life", head.outbox_epoch);
            let change = doc! {
                "$set": { "garbage": true }, "$unset": { "moving": "" },
                "$push": { "gone": { "$each": gone } },
            };
            self.send(|| self.inner.heads.update_one(filter.clone(), change.clone())).await?;
            Ok(())
        })
        .await
    }

    /// The cursor is the epoch of a head's outbox entries, which it keeps until it is closed.
    async fn heads(
        &self,
        cursor: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<QueueKey>, Option<u64>), Error> {
        self.run(async {
            let after = cursor.map_or(-1, u64::cast_signed);
            let query = Query::new(doc! { "life": { "$gt": after } })
                .sorted(doc! { "life": 1 })
                .limited(limit.max(1))
                .hint("life");
            let heads = self.inner.heads.clone_with_type::<Document>();
            let found = self.find_raw(&heads, &query).await?;
            let last = found.last().filter(|_| found.len() == limit.max(1));
            let next = last.and_then(|last| last.get_i64("life").ok()).map(i64::cast_unsigned);
            let heads = found.iter().filter_map(|raw| self.read::<Head>(raw)).filter(Head::exists);
            let queues = heads.filter_map(|head| queue_key(&head.id));
            Ok((queues.filter(|key| key.kind != Kind::Internal).collect(), next))
        })
        .await
    }
}

/// A filter for the head that a move has frozen, at either end.
fn of_move(queue: &str, id: MoveId) -> Document {
    let ends = [mark(id, MoveEnd::Source), mark(id, MoveEnd::Target)];
    doc! { "_id": queue, "moving": { "$in": ends.to_vec() } }
}

impl Head {
    fn unless_frozen_ref(&self) -> Result<&Self, Error> {
        match self.frozen() {
            Some((id, end)) => Err(Error::Moved { id, end }),
            None => Ok(self),
        }
    }
}

impl Mongo {
    /// Freezes an open head; the head afterwards, or `None` after a conflict.
    async fn try_freezing(&self, head: &Head, id: MoveId) -> Result<Option<Head>, Error> {
        let filter = doc! { "_id": &head.id, "open": true, "life": head.outbox_epoch };
        let moving = mark(id, MoveEnd::Source);
        let change = vec![doc! { "$set": { "open": false, "moving": moving } }];
        self.change_head(filter, change).await
    }

    async fn insert_frozen(&self, queue: &str, fields: &Document) -> Result<bool, Error> {
        let mut head = fields.clone();
        head.extend(doc! { "_id": queue, "todo": [], "turn": 0_i64, "roster": 0_i64 });
        let heads = self.inner.heads.clone_with_type::<Document>();
        self.send(|| {
            let insert = heads.insert_one(head.clone());
            async {
                match insert.await {
                    Ok(_) => Ok(true),
                    // Another attempt of this command may have acted: the next round sees.
                    Err(error) if is_duplicate(&error) => Ok(false),
                    Err(error) => Err(error),
                }
            }
        })
        .await
    }

    async fn reopen_frozen(&self, closed: &Head, fields: &Document) -> Result<bool, Error> {
        let filter = doc! {
            "_id": &closed.id, "open": false, "moving": { "$exists": false },
            "life": closed.outbox_epoch,
        };
        Ok(self.change_head(filter, vec![doc! { "$set": fields.clone() }]).await?.is_some())
    }
}
