//! Claims.
//!
//! A claim's document is written first, without counting. The step that makes the claim names the
//! messages it takes; it is tried on the turn at which they were seen to be free, so no two claims
//! can name one message.

use async_trait::async_trait;
use mongodb::bson::{Binary, doc};
use serde::Deserialize;
use zaqar_core::storage::{Claim, ClaimRequest, Claimed, Claims, Error, Guarded, Message};
use zaqar_core::{ClaimId, Generation, QueueKey, Timestamp};

use crate::Mongo;
use crate::dead_letters::MoveOutcome;
use crate::holding::{Hold, HoldOutcome, Written};
use crate::schema::{self, Fence, claim_bits, date, fresh_op, later, number, queue_id, time};
use crate::steps::{Counter, Tried};
use crate::stored::{Act, Step, Stored, state};
use crate::view::{StoredClaim, View, in_order};

/// Where a message is.
#[derive(Deserialize)]
struct Place {
    n: i64,
}

/// What became of a try to take messages.
enum Taken {
    Messages(Vec<Message>),
    /// Another step came first.
    Overtaken,
    /// One or the other.
    Unknown,
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
            let _gate = self.gate(&queue).await;
            for attempt in 0..self.inner.options.max_attempts.max(1) {
                self.back_off(attempt).await;
                let Some(view) = self.view(&queue, now).await? else { return Ok(false) };
                let Some(held) = self.held(&view, &claim).await? else { return Ok(false) };
                if self.renew(&view, held, number(ttl), number(grace)).await? {
                    return Ok(true);
                }
            }
            Err(Mongo::overtaken())
        })
        .await
    }

    async fn claim_release(
        &self,
        key: &QueueKey,
        id: ClaimId,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.act(async {
            let queue = queue_id(key);
            let _gate = self.gate(&queue).await;
            self.release(&queue, &claim_bits(id), now).await
        })
        .await
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
        let _gate = self.gate(queue).await;
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
                match self.move_dead_letters(&view, rule, &found, request.limit).await? {
                    MoveOutcome::Nothing => {}
                    // Not overtaken: nobody is to wait for each piece of many.
                    MoveOutcome::Moved => {
                        attempt = 0;
                        continue;
                    }
                    MoveOutcome::Overtaken => continue,
                    MoveOutcome::TargetChanged => {
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
            let hold = Hold {
                claim: &claim,
                places: found.iter().map(|message| message.n).collect(),
                ttl: number(request.ttl),
                grace: Some(number(request.grace)),
                fence,
            };
            match self.try_claiming(&view, hold, found).await? {
                Taken::Messages(messages) => {
                    return Ok(Guarded::Done(Claimed::Messages(messages)));
                }
                Taken::Overtaken => {}
                Taken::Unknown => may_be_made = true,
            }
        }
        self.forget(written).await;
        Err(Mongo::overtaken())
    }

    /// Tries to let a claim have messages that are free in this view.
    async fn try_claiming(
        &self,
        view: &View,
        hold: Hold<'_>,
        found: Vec<Stored>,
    ) -> Result<Taken, Error> {
        let (claim, places) = (hold.claim.clone(), hold.places.clone());
        let alive = later(later(view.now, hold.ttl), hold.grace.unwrap_or(0));
        let held = match self.try_holding(view, hold).await? {
            HoldOutcome::Done(held) => held,
            HoldOutcome::Overtaken => return Ok(Taken::Overtaken),
            HoldOutcome::Unknown => return Ok(Taken::Unknown),
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
    async fn messages_of(&self, view: &View, held: &StoredClaim) -> Result<Vec<Message>, Error> {
        let mut mine = view.at_places(&held.places);
        mine.insert("c", held.bits());
        let found = self.first(mine, usize::MAX).await?;
        self.show(view, found)
    }

    /// Tries to renew a live claim; whether no other step came first.
    async fn renew(
        &self,
        view: &View,
        held: StoredClaim,
        ttl: i64,
        grace: i64,
    ) -> Result<bool, Error> {
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
}
