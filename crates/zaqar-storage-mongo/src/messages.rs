//! Messages of a queue: what changes them. Posts are in [`crate::posting`], what shows messages is in [`crate::listing`].

use async_trait::async_trait;
use mongodb::bson::{Binary, doc};
use serde::Deserialize;
use zaqar_core::storage::{
    Batch, Deletable, Deleted, Error, Guarded, ListQuery, Message, MessagePage, Messages, Stats,
    Volume,
};
use zaqar_core::{ClaimId, Generation, MessageId, QueueKey, Timestamp};

use crate::Mongo;
use crate::driver::Mongo as Driver;
use crate::listing::places;
use crate::schema::{claim_bits, fresh, fresh_op, queue_id};
use crate::steps::{Counter, Tried};
use crate::stored::{Act, Gone, Step, state};
use crate::view::View;

#[async_trait]
impl Messages for Mongo {
    async fn post(
        &self,
        key: &QueueKey,
        assumed: Generation,
        batch: Batch,
        now: Timestamp,
    ) -> Result<Guarded<Vec<MessageId>>, Error> {
        self.act(self.post_batch(key, assumed, batch, now)).await
    }

    async fn list(
        &self,
        key: &QueueKey,
        query: &ListQuery,
        now: Timestamp,
    ) -> Result<MessagePage, Error> {
        self.act(async {
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
        self.act(async {
            match self.view(&queue_id(key), now).await? {
                Some(view) => self.show_at(&view, &places(&view, ids)).await,
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
        self.act(async {
            let queue = queue_id(key);
            for attempt in 0..self.inner.options.max_attempts.max(1) {
                self.back_off(attempt).await;
                let Some(view) = self.view(&queue, now).await? else { return Ok(Deleted::Gone) };
                if let Some(deleted) = self.delete_one(&view, id, claim).await? {
                    return Ok(deleted);
                }
            }
            Err(Driver::overtaken())
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
        self.act(async {
            let Some(view) = self.view(&queue_id(key), now).await? else { return Ok(()) };
            self.delete_places(&view, places(&view, ids), which).await
        })
        .await
    }

    async fn pop(
        &self,
        key: &QueueKey,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Message>, Error> {
        self.act(async {
            let queue = queue_id(key);
            let _gate = self.gate(&queue).await?;
            for attempt in 0..self.inner.options.max_attempts.max(1) {
                self.back_off(attempt).await;
                let Some(view) = self.view(&queue, now).await? else { return Ok(Vec::new()) };
                if let Some(popped) = self.take_out(&view, limit).await? {
                    return Ok(popped);
                }
            }
            Err(Driver::overtaken())
        })
        .await
    }

    async fn purge(&self, key: &QueueKey, now: Timestamp) -> Result<(), Error> {
        self.act(async {
            let (queue, now) = (queue_id(key), self.at(now));
            for attempt in 0..self.inner.options.max_attempts.max(1) {
                self.back_off(attempt).await;
                let Some(head) = self.head(&queue).await? else { return Ok(()) };
                // Everything is in the room: it is left behind. What is listed goes on in there.
                let filter = doc! { "_id": &queue, "open": true, "room": head.room };
                let change = doc! {
                    "$set": {
                        "room": fresh(), "due": i64::MAX, "over": i64::MAX, "garbage": true,
                    },
                    "$max": { "at": now },
                    "$push": { "gone": Gone::Room(head.room).to_bson() },
                };
                let heads = &self.inner.heads;
                let (purged, was_sent) =
                    self.send_noting(|| heads.update_one(filter.clone(), change.clone())).await?;
                if purged.matched_count > 0 || was_sent {
                    return Ok(());
                }
            }
            Err(Driver::overtaken())
        })
        .await
    }

    async fn stats(&self, key: &QueueKey, now: Timestamp) -> Result<Option<Stats>, Error> {
        self.act(async {
            match self.view(&queue_id(key), now).await? {
                Some(view) => self.count(&view).await.map(Some),
                None => Ok(None),
            }
        })
        .await
    }

    async fn volume(&self) -> Result<Option<Volume>, Error> {
        // Counting takes a look at every message's key: that is not bounded by the number of queues.
        self.act(async { Ok(None) }).await
    }
}

/// What decides whether a message may be deleted.
#[derive(Deserialize)]
struct Holder {
    s: i32,
    c: Option<Binary>,
}

impl Mongo {
    /// Deletes a message that is as it must be; `None` where it changed meanwhile.
    async fn delete_one(
        &self,
        view: &View,
        id: MessageId,
        claim: Option<ClaimId>,
    ) -> Result<Option<Deleted>, Error> {
        let Some(place) = places(view, &[id]).pop() else { return Ok(Some(Deleted::Gone)) };
        let claim = claim.map(claim_bits);
        let mut fitting = view.at_places(&[place]);
        match &claim {
            None => drop(fitting.insert("s", doc! { "$ne": state::HELD })),
            Some(claim) => {
                fitting.insert("s", state::HELD);
                fitting.insert("c", claim);
            }
        }
        let deleted =
            self.send(|| self.inner.messages.delete_one(fitting.clone())).await?.deleted_count;
        if deleted > 0 {
            return Ok(Some(Deleted::Gone));
        }
        let messages = self.inner.messages.clone_with_type::<Holder>();
        let found = self.send(|| messages.find_one(view.at_places(&[place]))).await?;
        let Some(found) = found else { return Ok(Some(Deleted::Gone)) };
        Ok(match claim {
            None if found.s == state::HELD => Some(Deleted::Claimed),
            Some(_) if found.s != state::HELD => Some(Deleted::NotClaimed),
            Some(claim) if found.c.as_ref() != Some(&claim) => Some(Deleted::WrongClaim),
            None | Some(_) => None,
        })
    }

    /// Deletes what may be deleted of some places, in one step.
    async fn delete_places(
        &self,
        view: &View,
        places: Vec<i64>,
        which: &Deletable,
    ) -> Result<(), Error> {
        let holders: Option<Vec<_>> = match which {
            Deletable::Any => None,
            Deletable::HeldBy(claims) => Some(claims.iter().copied().map(claim_bits).collect()),
        };
        if places.is_empty() || holders.as_ref().is_some_and(Vec::is_empty) {
            return Ok(());
        }
        let (queue, room) = (&view.head.id, view.head.room);
        let places = places.into_iter().filter(|place| *place < view.head.next).collect();
        let step =
            Step { op: fresh_op(), at: view.now, room, act: Act::Delete { places, holders } };
        // No turn: whatever holds the messages when this is carried out is as good as what held them before.
        let listed = mongodb::bson::serialize_to_bson(&step).map_err(Error::failed)?;
        let filter = doc! { "_id": queue, "open": true, "room": room };
        let change = doc! { "$push": { "todo": listed }, "$max": { "at": view.now } };
        let heads = &self.inner.heads;
        let decided = self.send(|| heads.update_one(filter.clone(), change.clone())).await?;
        if decided.matched_count > 0 {
            self.finish(queue, &step).await?;
        }
        Ok(())
    }

    /// Takes the first free messages out, in one step; `None` where another step came first.
    async fn take_out(&self, view: &View, limit: usize) -> Result<Option<Vec<Message>>, Error> {
        let found = self.first(view.of_state(state::FREE), limit).await?;
        if found.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let step = Step {
            op: fresh_op(),
            at: view.now,
            room: view.head.room,
            act: Act::Delete {
                places: found.iter().map(|message| message.n).collect(),
                holders: None,
            },
        };
        match self.try_step(&view.head, Counter::Turn, &step, doc! {}, None).await? {
            Tried::Done(head) => {
                self.finish(&head.id, &step).await?;
                self.show(view, found).map(Some)
            }
            Tried::Overtaken => Ok(None),
            Tried::Unknown => Err(Error::unavailable("whether messages were taken is not known")),
        }
    }
}
