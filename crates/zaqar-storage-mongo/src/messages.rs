//! Messages of a queue: what changes them. Posts are in [`crate::posting`], what shows messages is
//! in [`crate::listing`].

use async_trait::async_trait;
use mongodb::bson::{Binary, doc};
use serde::Deserialize;
use zaqar_core::storage::{
    Batch, Deletable, Deleted, Error, Guarded, ListQuery, Message, MessagePage, Messages, PopPage,
    PopQuery, Stats, Volume,
};
use zaqar_core::{ClaimId, Generation, MessageId, Position, QueueKey, Timestamp};

use crate::Mongo;
use crate::listing::places;
use crate::schema::{claim_bits, fresh, fresh_op, millis, queue_id};
use crate::steps::{Counter, MAX_OPEN, Tried};
use crate::stored::{Act, Gone, Step, Stored, state};
use crate::view::{Freshness, View, in_order};

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
                // The second look is at the latest head: the first may have been too old to know of
                // the message.
                let freshness =
                    if attempt == 0 { Freshness::Committed } else { Freshness::Confirmed };
                let view = self.view_by(freshness, &queue, now).await?;
                let Some(view) = view else { return Ok(Deleted::Gone) };
                if let Some(deleted) = self.delete_one(&view, freshness, id, claim).await? {
                    return Ok(deleted);
                }
            }
            Err(Mongo::overtaken())
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
            let queue = queue_id(key);
            let Some(mut view) = self.view(&queue, now).await? else { return Ok(()) };
            let is_known = |id: &MessageId| {
                id.incarnation == view.head.incarnation()
                    && id.position.get().cast_signed() < view.head.next
            };
            if !ids.iter().all(is_known) {
                // Of what the head does not know it may be too old to know.
                let latest = self.view_by(Freshness::Confirmed, &queue, now).await?;
                let Some(latest) = latest else { return Ok(()) };
                view = latest;
            }
            self.delete_places(&view, places(&view, ids), which).await
        })
        .await
    }

    async fn pop(
        &self,
        key: &QueueKey,
        query: &PopQuery,
        now: Timestamp,
    ) -> Result<PopPage, Error> {
        self.act(async {
            let queue = queue_id(key);
            let _gate = self.gate(&queue).await;
            for attempt in 0..self.inner.options.max_attempts.max(1) {
                self.back_off(attempt).await;
                let Some(view) = self.view(&queue, now).await? else {
                    return Ok(PopPage::default());
                };
                if let Some(popped) = self.take_out(&view, query).await? {
                    return Ok(popped);
                }
            }
            Err(Mongo::overtaken())
        })
        .await
    }

    async fn purge(&self, key: &QueueKey, now: Timestamp) -> Result<(), Error> {
        self.act(async {
            let (queue, asked_at, now) = (queue_id(key), millis(now), self.at(now));
            let mut sent_about = None;
            for attempt in 0..self.inner.options.max_attempts.max(1) {
                self.back_off(attempt).await;
                let Some(head) = self.head(&queue).await? else { return Ok(()) };
                if sent_about.is_some_and(|room| room != head.room) {
                    // The answer to the command that left the room behind was lost.
                    return Ok(());
                }
                self.check_clock(head.clock, asked_at)?;
                // Everything is in the room: it is left behind. What is listed goes on in there.
                let mut filter = doc! { "_id": &queue, "open": true, "room": head.room };
                self.guard(&mut filter, asked_at, None);
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
                if purged.matched_count > 0 {
                    return Ok(());
                }
                sent_about = was_sent.then_some(head.room);
            }
            Err(Mongo::overtaken())
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
        self.act(async { self.count_all().await.map(Some) }).await
    }
}

/// Messages that its caller cannot open and a pop passes over in one slice.
const UNREADABLE: usize = 1000;

/// What decides whether a pop may take a message.
#[derive(Deserialize)]
struct Sealed {
    n: i64,
    e: Option<String>,
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
        freshness: Freshness,
        id: MessageId,
        claim: Option<ClaimId>,
    ) -> Result<Option<Deleted>, Error> {
        // What is not there in the latest head is gone, in an older one perhaps yet to come.
        let gone = match freshness {
            Freshness::Committed if self.inner.confirmed_heads.is_some() => None,
            Freshness::Committed | Freshness::Confirmed => Some(Deleted::Gone),
        };
        let Some(place) = places(view, &[id]).pop() else { return Ok(gone) };
        let claim = claim.map(claim_bits);
        let mut fitting = view.at_place(place);
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
        let found = self.send(|| messages.find_one(view.at_place(place))).await?;
        let Some(found) = found else { return Ok(gone) };
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
        // No turn: whatever holds the messages when this is carried out is as good as what held
        // them before.
        let listed = mongodb::bson::serialize_to_bson(&step).map_err(Error::failed)?;
        let mut filter = doc! {
            "_id": queue, "open": true, "room": room, MAX_OPEN: { "$exists": false },
        };
        self.guard(&mut filter, view.head.asked_at.unwrap_or(view.now), None);
        let change = doc! { "$push": { "todo": listed }, "$max": { "at": view.now } };
        let heads = &self.inner.heads;
        for attempt in 0..self.inner.options.max_attempts.max(1) {
            self.back_off(attempt).await;
            let decided = self.send(|| heads.update_one(filter.clone(), change.clone())).await?;
            if decided.matched_count > 0 {
                self.finish(queue, &step).await?;
                return Ok(());
            }
            // Purged or closed: nothing of it is there. Otherwise it has too many steps, or the
            // clocks differ.
            let Some(head) = self.confirmed_head(queue).await? else { return Ok(()) };
            if head.room != room {
                return Ok(());
            }
            self.check_clock(head.clock, view.head.asked_at.unwrap_or(view.now))?;
            self.settle_steps(&head, view.now).await?;
        }
        Err(Mongo::overtaken())
    }

    /// Takes the first free messages that the caller can open out, in one step; `None` where
    /// another step came first.
    async fn take_out(&self, view: &View, query: &PopQuery) -> Result<Option<PopPage>, Error> {
        let (found, next) = self.first_readable(view, query).await?;
        if found.is_empty() {
            return Ok(Some(PopPage { messages: Vec::new(), next }));
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
                Ok(Some(PopPage { messages: self.show(view, found)?, next }))
            }
            Tried::Overtaken => Ok(None),
            Tried::Unknown => Err(Error::unavailable("whether messages were taken is not known")),
        }
    }

    /// The first free messages that the caller can open, and where the next slice begins if too
    /// many others stand before more of them.
    async fn first_readable(
        &self,
        view: &View,
        query: &PopQuery,
    ) -> Result<(Vec<Stored>, Option<Position>), Error> {
        let mut free = view.of_state(state::FREE);
        let after = query.after.map_or(0, |after| after.get().cast_signed());
        free.insert("n", doc! { "$gt": after, "$lt": view.head.next });
        let found = self.first(free.clone(), query.limit).await?;
        let can_open = |key: &Option<String>| {
            key.as_ref().is_none_or(|key| query.keys.iter().any(|k| k.0 == *key))
        };
        if found.iter().all(|message| can_open(&message.e)) {
            return Ok((found, None));
        }
        // Without bodies: most of them stay.
        let look = query.limit.saturating_add(UNREADABLE);
        let glances = in_order(free).limited(look).of(doc! { "_id": 0, "n": 1, "e": 1 });
        let glances: Vec<Sealed> = self.find(&self.inner.messages, &glances).await?;
        let mut places = Vec::new();
        let (mut passed_over, mut next) = (0, None);
        for glance in &glances {
            if can_open(&glance.e) {
                places.push(glance.n);
                if places.len() == query.limit {
                    break;
                }
            } else {
                passed_over += 1;
                if passed_over == UNREADABLE {
                    next = Some(Position::new(glance.n.cast_unsigned()));
                    break;
                }
            }
        }
        if places.is_empty() {
            return Ok((Vec::new(), next));
        }
        Ok((self.first(view.at_places(&places), usize::MAX).await?, next))
    }
}
