//! A queue as an operation finds it: what its head lists is carried out, and what has come due by
//! its time has happened.

use mongodb::bson::{Binary, DateTime, Document, doc};
use serde::Deserialize;
use zaqar_core::storage::{Error, Guarded};
use zaqar_core::{Generation, Timestamp};

use crate::Mongo;
use crate::query::Query;
use crate::schema::{self, BY_PLACE, BY_STATE, date};
use crate::steps::{Counter, Tried};
use crate::stored::{Act, Head, Step, Stored, state};

/// Claims that one step ends, at most, and messages that it frees, about.
const CLAIMS: usize = 100;
const FREED: usize = 5000;
/// Steps that one operation makes to end claims; a queue that needs more is busy enough to be told
/// so.
const ROUNDS: usize = 100;

/// A queue that is there.
pub(crate) struct View {
    pub(crate) head: Head,
    /// The time to act at.
    pub(crate) now: i64,
}

/// How sure a view must be that nothing newer was acknowledged.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Freshness {
    /// It is what a majority has; older than that for a moment after an election.
    Committed,
    /// It is the latest.
    Confirmed,
}

/// A claim as it is kept.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct StoredClaim {
    #[serde(rename = "_id")]
    pub(crate) key: Binary,
    pub(crate) ttl: i64,
    pub(crate) since: i64,
    /// When it is over.
    e: DateTime,
    /// The messages that it took, in order. Which of them it still holds they know themselves.
    pub(crate) places: Vec<i64>,
}

impl StoredClaim {
    /// The claim's own part of its key.
    pub(crate) fn bits(&self) -> Binary {
        schema::binary(self.key.bytes.iter().skip(8).copied().collect())
    }
}

impl View {
    /// Messages that have their place, one way to begin a filter.
    pub(crate) fn all(&self) -> Document {
        doc! { "h": self.head.room, "n": { "$lt": self.head.next }, "x": { "$gt": date(self.now) } }
    }

    /// Those messages of one state.
    pub(crate) fn of_state(&self, state: i32) -> Document {
        doc! {
            "h": self.head.room, "s": state, "n": { "$lt": self.head.next },
            "x": { "$gt": date(self.now) },
        }
    }

    /// The message at a position, which the head need not know.
    pub(crate) fn at_place(&self, place: i64) -> Document {
        doc! { "h": self.head.room, "n": place, "x": { "$gt": date(self.now) } }
    }

    /// Those messages at some places.
    pub(crate) fn at_places(&self, places: &[i64]) -> Document {
        let places: Vec<_> = places.iter().filter(|place| **place < self.head.next).collect();
        doc! { "h": self.head.room, "n": { "$in": places }, "x": { "$gt": date(self.now) } }
    }
}

impl Mongo {
    /// Finds a queue as it is now.
    pub(crate) async fn view(&self, queue: &str, now: Timestamp) -> Result<Option<View>, Error> {
        self.view_by(Freshness::Committed, queue, now).await
    }

    /// As [`Mongo::view`], with everything that was acknowledged before.
    pub(crate) async fn view_by(
        &self,
        freshness: Freshness,
        queue: &str,
        now: Timestamp,
    ) -> Result<Option<View>, Error> {
        for _ in 0..ROUNDS {
            let head = match freshness {
                Freshness::Committed => self.head(queue).await?,
                Freshness::Confirmed => self.confirmed_head(queue).await?,
            };
            let Some(mut head) = head else { return Ok(None) };
            self.check_clock(head.clock, schema::millis(now))?;
            head.asked_at = Some(schema::millis(now));
            self.repair_time(&mut head, now).await?;
            let now = self.at(now).max(head.at);
            self.settle_steps(&head, now).await?;
            if head.due <= now {
                self.show_due(&head, now).await?;
            }
            if head.over > now || !self.end_claims(&head, now).await? {
                return Ok(Some(View { head, now }));
            }
        }
        Err(Self::overtaken())
    }

    /// Finds a queue that must have a generation.
    pub(crate) async fn guarded_view(
        &self,
        queue: &str,
        assumed: Generation,
        now: Timestamp,
    ) -> Result<Guarded<View>, Error> {
        Ok(match self.view(queue, now).await? {
            None => Guarded::Absent,
            Some(view) if view.head.generation() == assumed => Guarded::Done(view),
            Some(view) => Guarded::Stale(view.head.generation()),
        })
    }

    /// Sets the latest time of a head back that a wrong clock has set far ahead of the database's.
    async fn repair_time(&self, head: &mut Head, now: Timestamp) -> Result<(), Error> {
        let (Some(bound), Some(clock)) = (self.bound(), head.clock) else { return Ok(()) };
        if head.at.saturating_sub(clock.timestamp_millis()) <= bound {
            return Ok(());
        }
        let now = self.at(now);
        let same = doc! { "_id": &head.id, "at": head.at };
        let right = doc! { "$set": { "at": now } };
        self.send(|| self.inner.heads.update_one(same.clone(), right.clone())).await?;
        tracing::warn!(
            queue = head.id,
            milliseconds = head.at.saturating_sub(clock.timestamp_millis()),
            "the latest time of a queue was far ahead of the database's clock; it was set back"
        );
        head.at = now;
        Ok(())
    }

    /// Frees delayed messages that are due. Needs no step: each is due or not by itself, whoever
    /// looks.
    async fn show_due(&self, head: &Head, now: i64) -> Result<(), Error> {
        let due = doc! { "h": head.room, "t": { "$lte": now }, "s": state::DELAYED };
        let free = doc! { "$set": { "s": state::FREE }, "$unset": { "t": "" } };
        self.update_messages(due, free).await?;
        let waiting = doc! { "h": head.room, "t": { "$gt": now } };
        let next = self
            .send(|| {
                self.inner
                    .messages
                    .find_one(waiting.clone())
                    .sort(doc! { "t": 1 })
                    .projection(doc! { "t": 1 })
            })
            .await?;
        let next = next.and_then(|message| message.get_i64("t").ok()).unwrap_or(i64::MAX);
        // A post in between may wait for less: then the hint stays, and is looked into again.
        let unchanged =
            doc! { "_id": &head.id, "room": head.room, "next": head.next, "due": head.due };
        self.hint(unchanged, doc! { "due": next }).await
    }

    /// Ends claims that are over; whether there were any, so that the head has moved on.
    async fn end_claims(&self, head: &Head, now: i64) -> Result<bool, Error> {
        let live = Query::new(doc! { "h": head.room, "live": true });
        let live = live.sorted(doc! { "e": 1 }).limited(CLAIMS + 1);
        let first: Vec<StoredClaim> = self.find(&self.inner.claims, &live).await?;
        let is_over = |claim: &&StoredClaim| claim.e <= date(now);
        let (mut claims, mut places) = (Vec::new(), Vec::new());
        for claim in first.iter().take(CLAIMS).take_while(is_over) {
            if places.len() >= FREED {
                break;
            }
            claims.push(claim.bits());
            places.extend(&claim.places);
        }
        let over = first.get(claims.len()).map_or(i64::MAX, |claim| claim.e.timestamp_millis());
        if claims.is_empty() {
            let unchanged = doc! { "_id": &head.id, "room": head.room, "turn": head.turn };
            self.hint(unchanged, doc! { "over": over }).await?;
            return Ok(false);
        }
        let step = Step {
            op: schema::fresh_op(),
            at: now,
            room: head.room,
            act: Act::Free { turn: head.turn + 1, claims, places },
        };
        let change = doc! { "$set": { "over": over } };
        if let Tried::Done(head) = self.try_step(head, Counter::Turn, &step, change, None).await? {
            self.finish(&head.id, &step).await?;
        }
        Ok(true)
    }

    /// Corrects what a head says about when something is due. It may be lost.
    async fn hint(&self, unchanged: Document, set: Document) -> Result<(), Error> {
        self.send(|| {
            self.inner
                .heads
                .update_one(unchanged.clone(), doc! { "$set": set.clone() })
                .write_concern(crate::connect::one_node())
        })
        .await?;
        Ok(())
    }

    /// A live claim of the queue.
    pub(crate) async fn held(
        &self,
        view: &View,
        claim: &Binary,
    ) -> Result<Option<StoredClaim>, Error> {
        let live = doc! {
            "_id": schema::claim_key(view.head.room, claim), "live": true,
            "e": { "$gt": date(view.now) },
        };
        let claims = self.inner.claims.clone_with_type::<StoredClaim>();
        self.send(|| claims.find_one(live.clone())).await
    }

    /// The first messages that fit a filter. What cannot be read is passed over.
    pub(crate) async fn first(&self, filter: Document, limit: usize) -> Result<Vec<Stored>, Error> {
        let read = |raw: &_| self.read::<Stored>(raw).filter(Stored::can_be_shown);
        self.find_in_order(&self.inner.messages, in_order(filter).limited(limit), "n", read).await
    }
}

/// A query for messages of a queue in the order of their places.
pub(crate) fn in_order(filter: Document) -> Query {
    let index = if filter.contains_key("s") { BY_STATE } else { BY_PLACE };
    Query::new(filter).sorted(doc! { "n": 1 }).by(index)
}
