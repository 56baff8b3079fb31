//! Dead letters.
//!
//! Messages that were claimed often enough are first held by a claim of our own, so that nobody
//! else takes them. The target's head then lists that it takes them over: that decides. A message
//! moves by one change of its own document, so it is never in two queues and never in none. Where
//! we die in between, our claim runs out and the next claimer begins anew.

use mongodb::bson::{Binary, Document, doc, serialize_to_bson};
use zaqar_core::storage::{DeadLetters, Error};

use crate::Mongo;
use crate::error::unreadable;
use crate::holding::{Hold, HoldOutcome};
use crate::schema::{Fence, first_position, fresh_op, later, news, number, queue_id, time};
use crate::stored::{DeadLetter, Head, Step, Stored, rounded_seconds, state};
use crate::view::View;

/// Seconds that a claim of our own lives.
const HOLD: u64 = 60;

/// Messages that one step moves at least, where so many must.
const BATCH: usize = 100;

/// What became of messages that must move.
pub(crate) enum MoveOutcome {
    /// There are none.
    Nothing,
    /// Some have moved: look again.
    Moved,
    /// Others have come first: look again.
    Overtaken,
    /// The target is not as assumed; none has moved.
    TargetChanged,
}

impl Mongo {
    /// Moves what must move before a claim of `limit` messages, of which `found` are the first.
    pub(crate) async fn move_dead_letters(
        &self,
        view: &View,
        rule: &DeadLetters,
        found: &[Stored],
        limit: usize,
    ) -> Result<MoveOutcome, Error> {
        if exhausted(found, rule, limit).is_empty() {
            return Ok(MoveOutcome::Nothing);
        }
        // A claim of few messages does not come back for each few of many.
        let found = self.first(view.of_state(state::FREE), limit.max(BATCH)).await?;
        match exhausted(&found, rule, limit) {
            exhausted if exhausted.is_empty() => Ok(MoveOutcome::Overtaken),
            exhausted => self.move_exhausted(view, rule, &exhausted).await,
        }
    }

    async fn move_exhausted(
        &self,
        view: &View,
        rule: &DeadLetters,
        exhausted: &[&Stored],
    ) -> Result<MoveOutcome, Error> {
        let target = queue_id(&rule.target);
        let head = self.head(&target).await?;
        if head.map(|head| head.generation()) != Some(rule.generation) {
            return Ok(MoveOutcome::TargetChanged);
        }
        let (claim, fence) = (fresh_op(), Fence::new());
        self.write_own_claim(view, &claim).await?;
        let hold = Hold {
            claim: &claim,
            places: exhausted.iter().map(|message| message.n).collect(),
            ttl: number(HOLD),
            grace: None,
            fence,
        };
        // Where it is not known whether we hold them: if we do, that runs out.
        let HoldOutcome::Done(_) = self.try_holding(view, hold).await? else {
            return Ok(MoveOutcome::Overtaken);
        };
        let moved = self.hand_over(view, rule, &target, &claim, exhausted).await?;
        self.release(&view.head.id, &claim, time(view.now)).await?;
        Ok(moved)
    }

    async fn hand_over(
        &self,
        view: &View,
        rule: &DeadLetters,
        target: &str,
        claim: &Binary,
        exhausted: &[&Stored],
    ) -> Result<MoveOutcome, Error> {
        let decided = self.decide_move(view, rule, target, claim, exhausted).await?;
        let Some((head, step)) = decided else { return Ok(MoveOutcome::TargetChanged) };
        self.finish(&head.id, &step).await?;
        Ok(MoveOutcome::Moved)
    }

    /// Decides that the target takes messages over from a claim, if it is as assumed; its head
    /// then, and the step.
    pub(crate) async fn decide_move(
        &self,
        view: &View,
        rule: &DeadLetters,
        target: &str,
        claim: &Binary,
        exhausted: &[&Stored],
    ) -> Result<Option<(Head, Step)>, Error> {
        let letters: Vec<_> =
            exhausted.iter().map(|message| dead_letter(message, rule, view.now)).collect();
        let op = fresh_op();
        let change = takes_over(&op, self.step_time(view.now), view, claim, &letters)?;
        let filter = doc! {
            "_id": target, "open": true,
            "incarnation": rule.generation.incarnation.get().cast_signed(),
            "version": rule.generation.version.get().cast_signed(),
        };
        let Some(head) = self.change_head(filter, vec![change]).await? else { return Ok(None) };
        let step = head.step(&op).ok_or_else(|| unreadable("letters that were just listed"))?;
        let step = step.clone();
        Ok(Some((head, step)))
    }
}

/// Those of the first free messages that must move before `limit` others are met.
fn exhausted<'a>(found: &'a [Stored], rule: &DeadLetters, limit: usize) -> Vec<&'a Stored> {
    let (mut exhausted, mut kept) = (Vec::new(), 0);
    for message in found {
        if kept == limit {
            break;
        }
        match u32::try_from(message.k) {
            Ok(count) if count >= rule.max_claim_count => exhausted.push(message),
            _ => kept += 1,
        }
    }
    exhausted
}

/// The change of a target's head that takes letters over. Listed twice it does nothing the second
/// time but leave places empty.
fn takes_over(
    op: &Binary,
    at: Document,
    view: &View,
    claim: &Binary,
    letters: &[DeadLetter],
) -> Result<Document, Error> {
    let listed = serialize_to_bson(letters).map_err(Error::failed)?;
    let first = first_position(&at.clone().into());
    let step = doc! {
        "op": op, "at": &at, "room": "$room",
        "act": { "letters": {
            "first": &first, "source": view.head.room, "claim": claim,
            "letters": { "$literal": listed },
        } },
    };
    Ok(doc! { "$set": {
        "next": { "$add": [&first, number(letters.len() as u64)] },
        "at": at,
        "posted": "$$NOW",
        "news": news(doc! { "$add": [first, number(letters.len() as u64) - 1] }),
        "todo": { "$concatArrays": ["$todo", [step]] },
    } })
}

fn dead_letter(message: &Stored, rule: &DeadLetters, now: i64) -> DeadLetter {
    let (ttl, expires) = match rule.ttl {
        Some(ttl) => (number(ttl), crate::schema::date(later(now, number(ttl)))),
        None => {
            let left = message.expires().timestamp_millis().saturating_sub(now);
            (rounded_seconds(left), message.expires())
        }
    };
    DeadLetter { id: message.id.clone(), ttl, expires }
}
