//! How a claim comes to hold messages, and lets go of them: for claims of callers, and for those of
//! our own that move dead letters.

use mongodb::bson::{Binary, doc};
use zaqar_core::Timestamp;
use zaqar_core::storage::Error;

use crate::Mongo;
use crate::error::is_duplicate;
use crate::schema::{self, Fence, draft_end, fresh_op, later};
use crate::steps::{Counter, Tried};
use crate::stored::{Act, Step};
use crate::view::{StoredClaim, View};

/// What a claim takes, and for how long.
pub(crate) struct Hold<'a> {
    pub(crate) claim: &'a Binary,
    pub(crate) places: Vec<i64>,
    pub(crate) ttl: i64,
    /// Seconds that messages outlive it at least; `None` leaves their lives as they are, and does
    /// not count.
    pub(crate) grace: Option<i64>,
    pub(crate) fence: Fence,
}

/// What became of a try to hold messages.
pub(crate) enum HoldOutcome {
    /// The claim is made; how many messages it got by this.
    Done(u64),
    /// Another step came first.
    Overtaken,
    /// One or the other.
    Unknown,
}

/// What became of a claim's document.
pub(crate) enum Written {
    /// It is there and does not count yet.
    Waiting,
    /// The claim was made before: the answer to it was lost.
    Made(StoredClaim),
}

impl Mongo {
    /// Tries to let a claim, whose document is written, have messages.
    pub(crate) async fn try_holding(
        &self,
        view: &View,
        hold: Hold<'_>,
    ) -> Result<HoldOutcome, Error> {
        let (until, fence) = (later(view.now, hold.ttl), Some(hold.fence));
        let step = Step {
            op: fresh_op(),
            at: view.now,
            room: view.head.room,
            act: Act::Claim {
                turn: view.head.turn + 1,
                claim: hold.claim.clone(),
                places: hold.places,
                ttl: hold.ttl,
                until,
                alive: hold.grace.map_or(0, |grace| later(until, grace)),
                counts: i32::from(hold.grace.is_some()),
            },
        };
        let change = doc! { "$min": { "over": until } };
        match self.try_step(&view.head, Counter::Turn, &step, change, fence).await? {
            Tried::Done(head) => self.finish(&head.id, &step).await.map(HoldOutcome::Done),
            Tried::Overtaken => Ok(HoldOutcome::Overtaken),
            Tried::Unknown => Ok(HoldOutcome::Unknown),
        }
    }

    /// Writes a claim's document, which does not count yet.
    pub(crate) async fn write_claim(&self, view: &View, claim: &Binary) -> Result<Written, Error> {
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
