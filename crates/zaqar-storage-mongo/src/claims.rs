//! Claims.
//!
//! A claim's document is written first, without counting. The step that makes the claim names the messages it takes; it is tried on
//! the turn at which they were seen to be free, so no two claims can name one message.

use async_trait::async_trait;
use mongodb::bson::{Binary, doc};
use serde::Deserialize;
use zaqar_core::storage::{Claim, ClaimRequest, Claimed, Claims, Error, Guarded, Message};
use zaqar_core::{ClaimId, Generation, QueueKey, Timestamp};

use crate::Mongo;
use crate::driver::Mongo as Driver;
use crate::error::is_duplicate;
use crate::letters::Buried;
use crate::schema::{
    self, Fence, claim_bits, date, draft_end, fresh_op, later, number, queue_id, time,
};
use crate::steps::{Counter, Tried};
use crate::stored::{Act, Step, Stored, state};
use crate::view::{Held, View, in_order};

/// What a claim takes, and for how long.
pub(crate) struct Taking<'a> {
    pub(crate) claim: &'a Binary,
    pub(crate) places: Vec<i64>,
    pub(crate) ttl: i64,
    /// Seconds that messages outlive it at least; `None` leaves their lives as they are, and does not count.
    pub(crate) grace: Option<i64>,
    pub(crate) fence: Fence,
}

/// Where a message is.
#[derive(Deserialize)]
struct Place {
    n: i64,
}

/// What became of a try to hold messages.
pub(crate) enum Holding {
    /// The claim is made; how many messages it got by this.
    Done(u64),
    /// Another step came first.
    Overtaken,
    /// One or the other.
    Unknown,
}

/// What became of a try to take messages.
enum Taken {
    Messages(Vec<Message>),
    /// Another step came first.
    Overtaken,
    /// One or the other.
    Unknown,
}

/// What became of a claim's document.
enum Written {
    /// It is there and does not count yet.
    Waiting,
    /// The claim was made before: the answer to it was lost.
    Made(Held),
}

#[async_trait]
impl Claims for Mongo {
    async fn claim(
        &self,
        key: &QueueKey,
        assumed: Generation,
        request: &ClaimRequest,
        now: Timestamp,
    ) -> Result<Guarded<Claimed>, Error> {
        self.act(self.take(&queue_id(key), assumed, request, now)).await
    }

    async fn claim_get(
        &self,
        key: &QueueKey,
        id: ClaimId,
        now: Timestamp,
    ) -> Result<Option<Claim>, Error> {
        self.act(async {
            let Some(view) = self.view(&queue_id(key), now).await? else { return Ok(None) };
            let Some(held) = self.held(&view, &claim_bits(id)).await? else { return Ok(None) };
            let messages = self.messages_of(&view, &held).await?;
            let ttl = u64::try_from(held.ttl).unwrap_or(0);
            Ok(Some(Claim { ttl, since: time(held.since), messages }))
        })
        .await
    }

    async fn claim_renew(
        &self,
        key: &QueueKey,
        id: ClaimId,
        ttl: u64,
        grace: u64,
        now: Timestamp,
    ) -> Result<bool, Error> {
        self.act(async {
            let (queue, claim) = (queue_id(key), claim_bits(id));
            for attempt in 0..self.inner.options.max_attempts.max(1) {
                self.back_off(attempt).await;
                let Some(view) = self.view(&queue, now).await? else { return Ok(false) };
                let Some(held) = self.held(&view, &claim).await? else { return Ok(false) };
                if self.renew(&view, held, number(ttl), number(grace)).await? {
                    return Ok(true);
                }
            }
            Err(Driver::overtaken())
        })
        .await
    }

    async fn claim_release(
        &self,
        key: &QueueKey,
        id: ClaimId,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.act(self.release(&queue_id(key), &claim_bits(id), now)).await
    }
}

impl Mongo {
    async fn take(
        &self,
        queue: &str,
        assumed: Generation,
        request: &ClaimRequest,
        now: Timestamp,
    ) -> Result<Guarded<Claimed>, Error> {
        let claim = claim_bits(request.id);
        let (mut written, fence) = (None, Fence::new());
        let mut may_be_made = false;
        let _gate = self.gate(queue).await?;
        let mut attempt = 0;
        while attempt < self.inner.options.max_attempts.max(1) {
            self.back_off(attempt).await;
            attempt += 1;
            let view = match self.guarded_view(queue, assumed, now).await? {
                Guarded::Done(view) => view,
                Guarded::Absent => {
                    self.forget(written).await;
                    return Ok(Guarded::Absent);
                }
                Guarded::Stale(own) => {
                    self.forget(written).await;
                    return Ok(Guarded::Stale(own));
                }
            };
            if may_be_made && let Some(held) = self.held(&view, &claim).await? {
                let messages = self.messages_of(&view, &held).await?;
                return Ok(Guarded::Done(Claimed::Messages(messages)));
            }
            let found = self.first(view.of_state(state::FREE), request.limit).await?;
            if let Some(rule) = &request.dead_letters {
                match self.bury(&view, rule, &found, request.limit).await? {
                    Buried::Nothing => {}
                    // Not overtaken: nobody is to wait for each piece of many.
                    Buried::Moved => {
                        attempt = 0;
                        continue;
                    }
                    Buried::Overtaken => continue,
                    Buried::TargetChanged => {
                        self.forget(written).await;
                        return Ok(Guarded::Done(Claimed::TargetChanged));
                    }
                }
            }
            if found.is_empty() {
                self.forget(written).await;
                return Ok(Guarded::Done(Claimed::Messages(Vec::new())));
            }
            let record = schema::claim_key(view.head.room, &claim);
            if written.as_ref() != Some(&record) {
                // Of another room only after a purge; what is there of it is cleared with the room.
                if let Written::Made(held) = self.write_claim(&view, &claim).await? {
                    let messages = self.messages_of(&view, &held).await?;
                    return Ok(Guarded::Done(Claimed::Messages(messages)));
                }
                written = Some(record);
            }
            let taking = Taking {
                claim: &claim,
                places: found.iter().map(|message| message.n).collect(),
                ttl: number(request.ttl),
                grace: Some(number(request.grace)),
                fence,
            };
            match self.try_taking(&view, taking, found).await? {
                Taken::Messages(messages) => {
                    return Ok(Guarded::Done(Claimed::Messages(messages)));
                }
                Taken::Overtaken => {}
                Taken::Unknown => may_be_made = true,
            }
        }
        self.forget(written).await;
        Err(Driver::overtaken())
    }

    /// Tries to let a claim have messages that are free in this view.
    async fn try_taking(
        &self,
        view: &View,
        taking: Taking<'_>,
        found: Vec<Stored>,
    ) -> Result<Taken, Error> {
        let (claim, places) = (taking.claim.clone(), taking.places.clone());
        let alive = later(later(view.now, taking.ttl), taking.grace.unwrap_or(0));
        let held = match self.hold_places(view, taking).await? {
            Holding::Done(held) => held,
            Holding::Overtaken => return Ok(Taken::Overtaken),
            Holding::Unknown => return Ok(Taken::Unknown),
        };
        let mut found = found;
        if held < places.len() as u64 {
            // Somebody else carried out some of it, or messages were deleted meanwhile.
            let mut mine = view.at_places(&places);
            mine.insert("c", &claim);
            let mine = in_order(mine).of(doc! { "_id": 0, "n": 1 });
            let mine: Vec<Place> = self.find(&self.inner.messages, &mine).await?;
            found.retain(|message| mine.iter().any(|mine| mine.n == message.n));
        }
        let found = found.into_iter().map(|message| message.held_by(&claim, date(alive)));
        self.show(view, found.collect()).map(Taken::Messages)
    }

    /// Tries to let a claim, whose document is written, have messages.
    pub(crate) async fn hold_places(
        &self,
        view: &View,
        taking: Taking<'_>,
    ) -> Result<Holding, Error> {
        let (until, fence) = (later(view.now, taking.ttl), Some(taking.fence));
        let step = Step {
            op: fresh_op(),
            at: view.now,
            room: view.head.room,
            act: Act::Claim {
                turn: view.head.turn + 1,
                claim: taking.claim.clone(),
                places: taking.places,
                ttl: taking.ttl,
                until,
                alive: taking.grace.map_or(0, |grace| later(until, grace)),
                counts: i32::from(taking.grace.is_some()),
            },
        };
        let change = doc! { "$min": { "over": until } };
        match self.try_step(&view.head, Counter::Turn, &step, change, fence).await? {
            Tried::Done(head) => self.finish(&head.id, &step).await.map(Holding::Done),
            Tried::Overtaken => Ok(Holding::Overtaken),
            Tried::Unknown => Ok(Holding::Unknown),
        }
    }

    /// Writes a claim's document, which does not count yet.
    async fn write_claim(&self, view: &View, claim: &Binary) -> Result<Written, Error> {
        let record = doc! {
            "_id": schema::claim_key(view.head.room, claim),
            "h": view.head.room,
            "queue": &view.head.id,
            "live": false,
            // Should it never count, it is collected by this.
            "x": draft_end(view.now),
        };
        let is_new = self
            .send(|| {
                let insert = self.inner.claims.insert_one(&record);
                async {
                    match insert.await {
                        Ok(_) => Ok(true),
                        Err(error) if is_duplicate(&error) => Ok(false),
                        Err(error) => Err(error),
                    }
                }
            })
            .await?;
        if is_new {
            return Ok(Written::Waiting);
        }
        Ok(self.held(view, claim).await?.map_or(Written::Waiting, Written::Made))
    }

    /// As [`Mongo::write_claim`], for a claim of our own.
    pub(crate) async fn write_own_claim(&self, view: &View, claim: &Binary) -> Result<(), Error> {
        self.write_claim(view, claim).await.map(drop)
    }

    /// Removes the document of a claim that was not made. Where that fails the collector does.
    async fn forget(&self, written: Option<Binary>) {
        let Some(key) = written else { return };
        let filter = doc! { "_id": key, "live": false };
        if let Err(error) = self.send(|| self.inner.claims.delete_one(filter.clone())).await {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "an empty claim is left to expire"
            );
        }
    }

    /// The live messages that a claim holds.
    async fn messages_of(&self, view: &View, held: &Held) -> Result<Vec<Message>, Error> {
        let mut mine = view.at_places(&held.places);
        mine.insert("c", held.bits());
        let found = self.first(mine, usize::MAX).await?;
        self.show(view, found)
    }

    /// Tries to renew a live claim; whether no other step came first.
    async fn renew(&self, view: &View, held: Held, ttl: i64, grace: i64) -> Result<bool, Error> {
        let until = later(view.now, ttl);
        let step = Step {
            op: fresh_op(),
            at: view.now,
            room: view.head.room,
            act: Act::Renew {
                turn: view.head.turn + 1,
                claim: held.bits(),
                places: held.places,
                ttl,
                until,
                alive: later(until, grace),
            },
        };
        let change = doc! { "$min": { "over": until } };
        match self.try_step(&view.head, Counter::Turn, &step, change, None).await? {
            Tried::Done(head) => self.finish(&head.id, &step).await.map(|_| true),
            Tried::Overtaken | Tried::Unknown => Ok(false),
        }
    }

    /// Ends a claim, if it lives.
    pub(crate) async fn release(
        &self,
        queue: &str,
        claim: &Binary,
        now: Timestamp,
    ) -> Result<(), Error> {
        for attempt in 0..self.inner.options.max_attempts.max(1) {
            self.back_off(attempt).await;
            let Some(view) = self.view(queue, now).await? else { return Ok(()) };
            let Some(held) = self.held(&view, claim).await? else { return Ok(()) };
            let step = Step {
                op: fresh_op(),
                at: view.now,
                room: view.head.room,
                act: Act::Free {
                    turn: view.head.turn + 1,
                    claims: vec![claim.clone()],
                    places: held.places,
                },
            };
            let tried = self.try_step(&view.head, Counter::Turn, &step, doc! {}, None).await?;
            if let Tried::Done(head) = tried {
                self.finish(&head.id, &step).await?;
                return Ok(());
            }
        }
        Err(Self::overtaken())
    }
}
