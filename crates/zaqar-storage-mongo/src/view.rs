//! A consistent view of a queue: committed intents are applied, expired claims are released, and
//! due messages are free.

use mongodb::bson::{Binary, DateTime, Document, doc};
use serde::Deserialize;
use zaqar_core::storage::{Error, Guarded};
use zaqar_core::{Generation, Timestamp};

use crate::Mongo;
use crate::intents::{CommitOutcome, Sequence};
use crate::query::Query;
use crate::schema::{self, BY_POSITION, BY_STATE, date};
use crate::stored::{Action, Head, Intent, StoredMessage, state};

/// The maximum number of claims that one intent releases, and about the maximum number of messages
/// that it frees.
const CLAIMS: usize = 100;
const FREED: usize = 5000;
/// The maximum number of such intents of one operation. If a queue needs more, the operation is
/// rejected as overloaded.
const ROUNDS: usize = 100;

/// A queue that exists.
pub(crate) struct View {
    pub(crate) head: Head,
    /// The effective time.
    pub(crate) now: i64,
}

/// How fresh a view must be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Freshness {
    /// Read from a majority; for a moment after an election it may miss acknowledged writes.
    Majority,
    /// A linearizable read: it has all acknowledged writes.
    Latest,
}

/// A claim as it is stored.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct StoredClaim {
    #[serde(rename = "_id")]
    pub(crate) key: Binary,
    pub(crate) ttl: i64,
    pub(crate) since: i64,
    /// When it expires.
    e: DateTime,
    /// The positions of the messages that it claimed, in order. The messages say whether it still
    /// holds them.
    #[serde(rename = "places")]
    pub(crate) positions: Vec<i64>,
}

impl StoredClaim {
    /// The claim's id, as the last part of its key.
    pub(crate) fn bits(&self) -> Binary {
        schema::binary(self.key.bytes.iter().skip(8).copied().collect())
    }
}

impl View {
    /// A filter for live messages with a position.
    pub(crate) fn all(&self) -> Document {
        doc! { "h": self.head.message_epoch, "n": { "$lt": self.head.next }, "x": { "$gt": date(self.now) } }
    }

    /// A filter for live messages in one state.
    pub(crate) fn of_state(&self, state: i32) -> Document {
        doc! {
            "h": self.head.message_epoch, "s": state, "n": { "$lt": self.head.next },
            "x": { "$gt": date(self.now) },
        }
    }

    /// A filter for the message at a position, which the head need not know yet.
    pub(crate) fn at_position(&self, position: i64) -> Document {
        doc! { "h": self.head.message_epoch, "n": position, "x": { "$gt": date(self.now) } }
    }

    /// A filter for live messages at some positions.
    pub(crate) fn at_positions(&self, positions: &[i64]) -> Document {
        let positions: Vec<_> =
            positions.iter().filter(|position| **position < self.head.next).collect();
        doc! { "h": self.head.message_epoch, "n": { "$in": positions }, "x": { "$gt": date(self.now) } }
    }
}

impl Mongo {
    /// The view of a queue, read with [`Freshness::Majority`].
    pub(crate) async fn view(&self, queue: &str, now: Timestamp) -> Result<Option<View>, Error> {
        self.view_by(Freshness::Majority, queue, now).await
    }

    /// The view of a queue, with this freshness.
    pub(crate) async fn view_by(
        &self,
        freshness: Freshness,
        queue: &str,
        now: Timestamp,
    ) -> Result<Option<View>, Error> {
        for _ in 0..ROUNDS {
            let head = match freshness {
                Freshness::Majority => self.head(queue).await?,
                Freshness::Latest => self.latest_head(queue).await?,
            };
            let Some(mut head) = head else { return Ok(None) };
            self.check_clock(head.clock, schema::millis(now))?;
            head.caller_time = Some(schema::millis(now));
            self.repair_time(&mut head, now).await?;
            let now = self.effective_time(now).max(head.latest_time);
            self.apply_intents(&head, now).await?;
            if head.next_due <= now {
                self.show_due(&head, now).await?;
            }
            if head.next_claim_expiry > now || !self.end_claims(&head, now).await? {
                return Ok(Some(View { head, now }));
            }
        }
        Err(Self::contended())
    }

    /// The view of a queue that must have a generation.
    pub(crate) async fn guarded_view(
        &self,
        queue: &str,
        assumed: Generation,
        now: Timestamp,
    ) -> Result<Guarded<View>, Error> {
        let view = self.view(queue, now).await?;
        Ok(Guarded::check(view, |view| view.head.generation(), |own| own == assumed))
    }

    /// Resets the latest time of a head that a wrong clock has set far ahead of the database's
    /// clock.
    async fn repair_time(&self, head: &mut Head, now: Timestamp) -> Result<(), Error> {
        let (Some(bound), Some(clock)) = (self.max_skew(), head.clock) else { return Ok(()) };
        if head.latest_time.saturating_sub(clock.timestamp_millis()) <= bound {
            return Ok(());
        }
        let now = self.effective_time(now);
        let same = doc! { "_id": &head.id, "at": head.latest_time };
        let right = doc! { "$set": { "at": now } };
        self.send(|| self.inner.heads.update_one(same.clone(), right.clone())).await?;
        if let Some(times) = self.inner.time_resets.failure() {
            tracing::warn!(
                queue = head.id,
                milliseconds = head.latest_time.saturating_sub(clock.timestamp_millis()),
                times,
                "the latest time of a queue was far ahead of the database's clock and was reset"
            );
        }
        head.latest_time = now;
        Ok(())
    }

    /// Frees delayed messages that are due. This needs no intent, as it depends on nothing but the
    /// message and the time.
    async fn show_due(&self, head: &Head, now: i64) -> Result<(), Error> {
        let due = doc! { "h": head.message_epoch, "t": { "$lte": now }, "s": state::DELAYED };
        let free = doc! { "$set": { "s": state::FREE }, "$unset": { "t": "" } };
        self.update_messages(due, free).await?;
        let waiting = doc! { "h": head.message_epoch, "t": { "$gt": now } };
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
        // A concurrent post may be due earlier: then the hint does not change, and is checked again
        // later.
        let unchanged = doc! { "_id": &head.id, "room": head.message_epoch, "next": head.next, "due": head.next_due };
        self.hint(unchanged, doc! { "due": next }).await
    }

    /// Releases expired claims. Returns whether there were any: then the head must be read again.
    async fn end_claims(&self, head: &Head, now: i64) -> Result<bool, Error> {
        let live = Query::new(doc! { "h": head.message_epoch, "live": true });
        let live = live.sorted(doc! { "e": 1 }).limited(CLAIMS + 1);
        let first: Vec<StoredClaim> = self.find(&self.inner.claims, &live).await?;
        let is_over = |claim: &&StoredClaim| claim.e <= date(now);
        let (mut claims, mut positions) = (Vec::new(), Vec::new());
        for claim in first.iter().take(CLAIMS).take_while(is_over) {
            if positions.len() >= FREED {
                break;
            }
            claims.push(claim.bits());
            positions.extend(&claim.positions);
        }
        let over = first.get(claims.len()).map_or(i64::MAX, |claim| claim.e.timestamp_millis());
        if claims.is_empty() {
            let unchanged =
                doc! { "_id": &head.id, "room": head.message_epoch, "turn": head.claim_seq };
            self.hint(unchanged, doc! { "over": over }).await?;
            return Ok(false);
        }
        let intent = Intent {
            op: schema::random_id(),
            at: now,
            message_epoch: head.message_epoch,
            action: Action::Release { claim_seq: head.claim_seq + 1, claims, positions },
        };
        let change = doc! { "$set": { "over": over } };
        if let CommitOutcome::Committed(head) =
            self.try_commit(head, Sequence::Claims, &intent, change, None).await?
        {
            self.apply_and_remove(&head.id, &intent).await?;
        }
        Ok(true)
    }

    /// Updates a hint in the head about when something is due. The update may be lost.
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
    pub(crate) async fn live_claim(
        &self,
        view: &View,
        claim: &Binary,
    ) -> Result<Option<StoredClaim>, Error> {
        let live = doc! {
            "_id": schema::claim_key(view.head.message_epoch, claim), "live": true,
            "e": { "$gt": date(view.now) },
        };
        let claims = self.inner.claims.clone_with_type::<StoredClaim>();
        self.send(|| claims.find_one(live.clone())).await
    }

    /// The first messages that match a filter. Unreadable ones are skipped.
    pub(crate) async fn first(
        &self,
        filter: Document,
        limit: usize,
    ) -> Result<Vec<StoredMessage>, Error> {
        let read = |raw: &_| self.read::<StoredMessage>(raw).filter(StoredMessage::can_be_shown);
        self.find_in_order(&self.inner.messages, in_order(filter).limited(limit), "n", read).await
    }
}

/// A query for messages of a queue, ordered by position.
pub(crate) fn in_order(filter: Document) -> Query {
    let index = if filter.contains_key("s") { BY_STATE } else { BY_POSITION };
    Query::new(filter).sorted(doc! { "n": 1 }).hint(index)
}
