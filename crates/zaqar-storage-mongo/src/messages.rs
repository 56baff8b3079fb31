//! Deleting, popping and purging messages. Posts are in [`crate::posting`], reads in
//! [`crate::listing`].

use async_trait::async_trait;
use mongodb::bson::{Binary, doc};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};
use zaqar_core::storage::{
    Batch, Deletable, Deleted, Error, Guarded, ListQuery, Message, MessagePage, Messages, PopPage,
    PopQuery, Stats, Volume,
};
use zaqar_core::{ClaimId, Generation, MessageId, QueueKey, Timestamp};

use crate::Mongo;
use crate::first_free::Search;
use crate::intents::{CommitOutcome, MAX_OPEN, Sequence};
use crate::listing::positions;
use crate::moves::{STAMP, stamped};
use crate::schema::{claim_bits, millis, new_epoch, queue_id, random_id};
use crate::stored::{Action, DroppedEpoch, Intent, state};
use crate::view::{Freshness, View};

#[async_trait]
impl Messages for Mongo {
    async fn post(
        &self,
        key: &QueueKey,
        assumed: Generation,
        batch: Batch,
        now: Timestamp,
    ) -> Result<Guarded<Vec<MessageId>>, Error> {
        self.run(self.post_batch(key, assumed, batch, now)).await
    }

    async fn list(
        &self,
        key: &QueueKey,
        query: &ListQuery,
        now: Timestamp,
    ) -> Result<MessagePage, Error> {
        self.run(async {
            match self.view(&queue_id(key), now).await? {
                Some(view) => self.page(&view, query).await,
                None => Ok(MessagePage::default()),
            }
        })
        .await
    }

    async fn get(
        &self,
        key: &QueueKey,
        ids: &[MessageId],
        now: Timestamp,
    ) -> Result<Vec<Message>, Error> {
        self.run(async {
            match self.view(&queue_id(key), now).await? {
                Some(view) => self.show_at(&view, &positions(&view, ids)).await,
                None => Ok(Vec::new()),
            }
        })
        .await
    }

    async fn delete(
        &self,
        key: &QueueKey,
        id: MessageId,
        claim: Option<ClaimId>,
        now: Timestamp,
    ) -> Result<Deleted, Error> {
        self.run(async {
            let queue = queue_id(key);
            for attempt in 0..self.inner.options.max_attempts.max(1) {
                self.back_off(attempt).await;
                // The second attempt reads the latest head: the first may have been too old to
                // include the message.
                let freshness = if attempt == 0 { Freshness::Majority } else { Freshness::Latest };
                let view = self.view_by(freshness, &queue, now).await?;
                let Some(view) = view else { return Ok(Deleted::Gone) };
                if let Some(deleted) = self.delete_one(&view, freshness, id, claim).await? {
                    return Ok(deleted);
                }
            }
            Err(Mongo::contended())
        })
        .await
    }

    async fn delete_many(
        &self,
        key: &QueueKey,
        ids: &[MessageId],
        which: &Deletable,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.run(async {
            let queue = queue_id(key);
            let Some(mut view) = self.view(&queue, now).await? else { return Ok(()) };
            let is_known = |id: &MessageId| {
                id.incarnation == view.head.incarnation()
                    && id.position.get().cast_signed() < view.head.next
            };
            if !ids.iter().all(is_known) {
                // The head may be too old to include these ids.
                let latest = self.view_by(Freshness::Latest, &queue, now).await?;
                let Some(latest) = latest else { return Ok(()) };
                view = latest;
            }
            self.delete_positions(&view, positions(&view, ids), which).await
        })
        .await
    }

    async fn pop(
        &self,
        key: &QueueKey,
        query: &PopQuery,
        now: Timestamp,
    ) -> Result<PopPage, Error> {
        self.run(async {
            let queue = queue_id(key);
            // Before the operation times out: what is popped must be answered.
            let apply_until = Instant::now() + self.inner.options.deadline.mul_f32(0.9);
            let _lock = self.lock_claims(&queue).await;
            for attempt in 0..self.inner.options.max_attempts.max(1) {
                self.back_off(attempt).await;
                let Some(view) = self.view(&queue, now).await? else {
                    return Ok(PopPage::default());
                };
                if let Some(popped) = self.try_pop(&view, query, apply_until).await? {
                    return Ok(popped);
                }
            }
            Err(Mongo::contended())
        })
        .await
    }

    async fn purge(&self, key: &QueueKey, now: Timestamp) -> Result<(), Error> {
        self.run(async {
            let (queue, caller_time, now) = (queue_id(key), millis(now), self.effective_time(now));
            let mut retried_epoch = None;
            for attempt in 0..self.inner.options.max_attempts.max(1) {
                self.back_off(attempt).await;
                let Some(head) = self.head(&queue).await? else { return Ok(()) };
                if retried_epoch.is_some_and(|message_epoch| message_epoch != head.message_epoch) {
                    // The answer to the command that changed the epoch was lost.
                    return Ok(());
                }
                self.check_clock(head.clock, caller_time)?;
                // A new epoch drops all messages and claims. Listed intents still apply to the old
                // one.
                let mut filter = doc! { "_id": &queue, "open": true, "room": head.message_epoch };
                self.guard(&mut filter, caller_time, None);
                let change = doc! {
                    "$set": {
                        "room": new_epoch(), "due": i64::MAX, "over": i64::MAX, "garbage": true,
                    },
                    "$max": { "at": now },
                    "$push": { "gone": DroppedEpoch::Messages(head.message_epoch).to_bson() },
                };
                let heads = &self.inner.heads;
                let (purged, was_retried) = self
                    .send_reporting_retry(|| heads.update_one(filter.clone(), change.clone()))
                    .await?;
                if purged.matched_count > 0 {
                    return Ok(());
                }
                retried_epoch = was_retried.then_some(head.message_epoch);
            }
            Err(Mongo::contended())
        })
        .await
    }

    async fn stats(&self, key: &QueueKey, now: Timestamp) -> Result<Option<Stats>, Error> {
        self.run(async {
            match self.view(&queue_id(key), now).await? {
                Some(view) => self.count(&view).await.map(Some),
                None => Ok(None),
            }
        })
        .await
    }

    async fn volume(&self) -> Result<Option<Volume>, Error> {
        self.run(async { self.count_all().await.map(Some) }).await
    }
}

/// The fields that decide whether a message may be deleted.
#[derive(Deserialize)]
struct ClaimState {
    s: i32,
    c: Option<Binary>,
    z: Option<i64>,
}

impl Mongo {
    /// Deletes a message if its state allows it; `None` if the state changed in the meantime.
    pub(crate) async fn delete_one(
        &self,
        view: &View,
        freshness: Freshness,
        id: MessageId,
        claim: Option<ClaimId>,
    ) -> Result<Option<Deleted>, Error> {
        // A message that the latest head does not include is gone; an older head may not include it
        // yet.
        let gone = match freshness {
            Freshness::Majority if self.inner.linearizable_heads.is_some() => None,
            Freshness::Majority | Freshness::Latest => Some(Deleted::Gone),
        };
        let Some(position) = positions(view, &[id]).pop() else { return Ok(gone) };
        let claim = claim.map(claim_bits);
        let mut fitting = view.at_position(position);
        match &claim {
            None => drop(fitting.insert("s", doc! { "$ne": state::CLAIMED })),
            Some(claim) => {
                fitting.insert("s", state::CLAIMED);
                fitting.insert("c", claim);
            }
        }
        fitting.insert(STAMP, stamped(None));
        let deleted =
            self.send(|| self.inner.messages.delete_one(fitting.clone())).await?.deleted_count;
        if deleted > 0 {
            return Ok(Some(Deleted::Gone));
        }
        let messages = self.inner.messages.clone_with_type::<ClaimState>();
        let found = self.send(|| messages.find_one(view.at_position(position))).await?;
        let Some(found) = found else { return Ok(gone) };
        if found.z.is_some() {
            // A move may be copying it. If it was undone, its stamp is as none.
            self.latest_head(&view.head.id).await?;
            fitting.insert(STAMP, stamped(found.z));
            if self.delete_messages(fitting).await? > 0 {
                return Ok(Some(Deleted::Gone));
            }
        }
        Ok(match claim {
            None if found.s == state::CLAIMED => Some(Deleted::Claimed),
            Some(_) if found.s != state::CLAIMED => Some(Deleted::NotClaimed),
            Some(claim) if found.c.as_ref() != Some(&claim) => Some(Deleted::WrongClaim),
            None | Some(_) => None,
        })
    }

    /// Deletes the messages at some positions that may be deleted, with one intent.
    async fn delete_positions(
        &self,
        view: &View,
        positions: Vec<i64>,
        which: &Deletable,
    ) -> Result<(), Error> {
        let holders: Option<Vec<_>> = match which {
            Deletable::Any => None,
            Deletable::HeldBy(claims) => Some(claims.iter().copied().map(claim_bits).collect()),
        };
        if positions.is_empty() || holders.as_ref().is_some_and(Vec::is_empty) {
            return Ok(());
        }
        let (queue, message_epoch) = (&view.head.id, view.head.message_epoch);
        let positions =
            positions.into_iter().filter(|position| *position < view.head.next).collect();
        let intent = Intent {
            op: random_id(),
            at: view.now,
            message_epoch,
            action: Action::Delete { positions, holders },
        };
        // No sequence number: the claims that hold the messages when this is applied are as good as
        // those that held them before.
        let listed = mongodb::bson::serialize_to_bson(&intent).map_err(Error::failed)?;
        let mut filter = doc! {
            "_id": queue, "open": true, "room": message_epoch, MAX_OPEN: { "$exists": false },
        };
        self.guard(&mut filter, view.head.caller_time.unwrap_or(view.now), None);
        let change = doc! { "$push": { "todo": listed }, "$max": { "at": view.now } };
        let heads = &self.inner.heads;
        for attempt in 0..self.inner.options.max_attempts.max(1) {
            self.back_off(attempt).await;
            let committed = self.send(|| heads.update_one(filter.clone(), change.clone())).await?;
            if committed.matched_count > 0 {
                self.apply_and_remove(queue, &intent).await?;
                return Ok(());
            }
            // If the queue was purged or closed, the messages are gone. Otherwise it has too many
            // intents, or the clocks differ.
            let Some(head) = self.latest_head(queue).await? else { return Ok(()) };
            if head.message_epoch != message_epoch {
                return Ok(());
            }
            self.check_clock(head.clock, view.head.caller_time.unwrap_or(view.now))?;
            self.apply_intents(&head, view.now).await?;
        }
        Err(Mongo::contended())
    }

    /// Removes the first free messages that the caller can open, with one intent; `None` after a
    /// conflict. They are returned also if the intent cannot be applied by `apply_until`.
    async fn try_pop(
        &self,
        view: &View,
        query: &PopQuery,
        apply_until: Instant,
    ) -> Result<Option<PopPage>, Error> {
        let PopQuery { limit, after, keys } = query;
        let search = Search { limit: *limit, after: *after, keys: Some(keys) };
        let (found, skipped) = self.first_free(view, &search).await?;
        if found.is_empty() {
            return Ok(Some(PopPage { messages: Vec::new(), skipped }));
        }
        let intent = Intent {
            op: random_id(),
            at: view.now,
            message_epoch: view.head.message_epoch,
            action: Action::Delete {
                positions: found.iter().map(|message| message.n).collect(),
                holders: None,
            },
        };
        match self.try_commit(&view.head, Sequence::Claims, &intent, doc! {}, None).await? {
            CommitOutcome::Committed(head) => {
                let applied =
                    timeout_at(apply_until, self.apply_and_remove(&head.id, &intent)).await;
                let applied = applied.unwrap_or_else(|late| Err(Error::unavailable(late)));
                if let Err(error) = applied {
                    // They are popped: whoever uses the queue next applies the listed intent.
                    self.report_unfinished("popped messages are deleted later", &head.id, &error);
                }
                Ok(Some(PopPage { messages: self.show(view, found)?, skipped }))
            }
            CommitOutcome::Conflict => Ok(None),
            CommitOutcome::Unknown => {
                Err(Error::unavailable("it is unknown whether messages were removed"))
            }
        }
    }
}
