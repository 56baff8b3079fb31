//! Opening, advancing and closing heads.

use async_trait::async_trait;
use mongodb::bson::{Document, doc};
use mongodb::options::ReturnDocument;
use zaqar_core::storage::{Error, Guarded, Heads, Movable, Moves};
use zaqar_core::{Generation, Incarnation, QueueKey, Timestamp};

use crate::Mongo;
use crate::error::is_duplicate;
use crate::schema::{new_epoch, queue_id};
use crate::stored::{DroppedEpoch, Head};

#[async_trait]
impl Heads for Mongo {
    async fn open(
        &self,
        key: &QueueKey,
        generation: Generation,
        now: Timestamp,
    ) -> Result<Generation, Error> {
        self.run(async {
            let (queue, now) = (queue_id(key), self.effective_time(now));
            for attempt in 0..self.inner.options.max_attempts.max(1) {
                self.back_off(attempt).await;
                match self.any_head(&queue).await?.map(Head::unless_frozen).transpose()? {
                    Some(head) if head.open => return Ok(head.generation()),
                    Some(head) if self.reopen(&head, generation, now).await? => {
                        return Ok(generation);
                    }
                    None if self.make_head(&queue, generation, now).await? => {
                        return Ok(generation);
                    }
                    Some(_) | None => {}
                }
            }
            Err(Mongo::contended())
        })
        .await
    }

    async fn generation(&self, key: &QueueKey) -> Result<Option<Generation>, Error> {
        self.run(async { Ok(self.head(&queue_id(key)).await?.map(|head| head.generation())) }).await
    }

    async fn advance(&self, key: &QueueKey, generation: Generation) -> Result<Guarded<()>, Error> {
        self.run(async {
            let queue = queue_id(key);
            for attempt in 0..self.inner.options.max_attempts.max(1) {
                self.back_off(attempt).await;
                let Some(head) = self.head(&queue).await? else { return Ok(Guarded::Absent) };
                let own = head.generation();
                if own.incarnation != generation.incarnation {
                    return Ok(Guarded::Stale(own));
                }
                if own.version >= generation.version || self.raise(&head, generation).await? {
                    return Ok(Guarded::Done(()));
                }
            }
            Err(Mongo::contended())
        })
        .await
    }

    async fn close(&self, key: &QueueKey, incarnation: Incarnation) -> Result<Guarded<()>, Error> {
        self.run(async {
            let queue = queue_id(key);
            let mut may_have_closed = false;
            for attempt in 0..self.inner.options.max_attempts.max(1) {
                self.back_off(attempt).await;
                let Some(head) = self.head(&queue).await? else {
                    return Ok(if may_have_closed { Guarded::Done(()) } else { Guarded::Absent });
                };
                if head.incarnation() != incarnation {
                    return Ok(if may_have_closed {
                        Guarded::Done(())
                    } else {
                        Guarded::Stale(head.generation())
                    });
                }
                let (is_closed, was_retried) = self.close_head(&head).await?;
                if is_closed {
                    return Ok(Guarded::Done(()));
                }
                may_have_closed |= was_retried;
            }
            Err(Mongo::contended())
        })
        .await
    }
}

impl Movable for Mongo {
    fn moves(&self) -> Option<&dyn Moves> {
        Some(self)
    }
}

impl Mongo {
    async fn make_head(
        &self,
        queue: &str,
        generation: Generation,
        now: i64,
    ) -> Result<bool, Error> {
        let mut head = beginning(generation, now);
        head.extend(doc! { "_id": queue, "todo": [], "turn": 0_i64, "roster": 0_i64 });
        let heads = self.inner.heads.clone_with_type::<Document>();
        let (is_made, was_retried) = self
            .send_reporting_retry(|| {
                let insert = heads.insert_one(head.clone());
                async {
                    match insert.await {
                        Ok(_) => Ok(true),
                        Err(error) if is_duplicate(&error) => Ok(false),
                        Err(error) => Err(error),
                    }
                }
            })
            .await?;
        if is_made || !was_retried {
            return Ok(is_made);
        }
        let found = self.head(queue).await?;
        Ok(found.is_some_and(|head| head.generation() == generation))
    }

    /// Opens a queue whose closed head still exists. Its intents and dropped epochs are kept.
    async fn reopen(&self, closed: &Head, generation: Generation, now: i64) -> Result<bool, Error> {
        let filter = doc! {
            "_id": &closed.id, "open": false, "moving": { "$exists": false },
            "life": closed.outbox_epoch,
        };
        let change = vec![doc! { "$set": beginning(generation, now.max(closed.latest_time)) }];
        Ok(self.change_head(filter, change).await?.is_some())
    }

    async fn raise(&self, head: &Head, generation: Generation) -> Result<bool, Error> {
        let own = head.generation();
        let filter = doc! {
            "_id": &head.id, "open": true,
            "incarnation": own.incarnation.get().cast_signed(),
            "version": own.version.get().cast_signed(),
        };
        let change = vec![doc! { "$set": { "version": generation.version.get().cast_signed() } }];
        Ok(self.change_head(filter, change).await?.is_some())
    }

    /// Closes a head. Returns whether it did, and whether the command was retried.
    async fn close_head(&self, head: &Head) -> Result<(bool, bool), Error> {
        let filter = doc! {
            "_id": &head.id, "open": true, "life": head.outbox_epoch, "room": head.message_epoch, "hall": head.subscription_epoch,
        };
        let gone = [
            DroppedEpoch::Messages(head.message_epoch),
            DroppedEpoch::Subscriptions(head.subscription_epoch),
            DroppedEpoch::Outbox(head.outbox_epoch),
        ];
        let gone: Vec<_> = gone.iter().map(DroppedEpoch::to_bson).collect();
        let change = doc! {
            "$set": { "open": false, "garbage": true }, "$push": { "gone": { "$each": gone } },
        };
        let (closed, was_retried) = self
            .send_reporting_retry(|| {
                self.inner
                    .heads
                    .find_one_and_update(filter.clone(), change.clone())
                    .return_document(ReturnDocument::After)
            })
            .await?;
        Ok((closed.is_some(), was_retried))
    }
}

/// The fields of a head that is opened.
pub(crate) fn beginning(generation: Generation, now: i64) -> Document {
    doc! {
        "open": true,
        "incarnation": generation.incarnation.get().cast_signed(),
        "version": generation.version.get().cast_signed(),
        "life": new_epoch(),
        "room": new_epoch(),
        "hall": new_epoch(),
        "next": 1_i64,
        "subscribed": 0_i64,
        "followed": 0_i64,
        "at": now,
        "due": i64::MAX,
        "over": i64::MAX,
    }
}
