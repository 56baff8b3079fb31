//! Dead letters.
//!
//! Messages that reached the maximum claim count are first held by an internal claim, so that no
//! other process takes them. Then an intent in the target's head commits the move. A message moves
//! by one change of its own document, so it is never in two queues and never in none. If the
//! process dies in between, the internal claim expires and the next claim starts over.

use mongodb::bson::{Binary, Document, doc, serialize_to_bson};
use zaqar_core::storage::{DeadLetters, Error};

use crate::Mongo;
use crate::error::unreadable;
use crate::first_free::Search;
use crate::holding::{Hold, HoldOutcome};
use crate::moves::STAMP;
use crate::schema::{
    CommitDeadline, first_position, news, number, plus_secs, queue_id, random_id, time,
};
use crate::stored::{DeadLetter, Head, Intent, StoredMessage, rounded_seconds};
use crate::view::View;

/// The ttl of an internal claim, in seconds.
const HOLD: u64 = 60;

/// How many messages one intent moves at least, if there are as many.
const BATCH: usize = 100;

/// The result of moving dead letters.
pub(crate) enum MoveOutcome {
    /// There were none.
    Nothing,
    /// This many were moved: read the queue again.
    Moved(usize),
    /// Another operation was first: read the queue again.
    Conflict,
    /// The target has another generation than assumed; nothing was moved.
    TargetChanged,
}

impl Mongo {
    /// Moves the dead letters before the messages that a claim takes, of which `found` are the
    /// first.
    pub(crate) async fn move_dead_letters(
        &self,
        view: &View,
        rule: &DeadLetters,
        found: &[StoredMessage],
        search: Search<'_>,
    ) -> Result<MoveOutcome, Error> {
        let limit = search.limit;
        if exhausted(found, rule, limit).is_empty() {
            return Ok(MoveOutcome::Nothing);
        }
        // In larger batches, so that a small claim need not repeat this often.
        let search = Search { limit: limit.max(BATCH), ..search };
        let (found, _) = self.first_free(view, &search).await?;
        match exhausted(&found, rule, limit) {
            exhausted if exhausted.is_empty() => Ok(MoveOutcome::Conflict),
            exhausted => self.move_exhausted(view, rule, &exhausted).await,
        }
    }

    async fn move_exhausted(
        &self,
        view: &View,
        rule: &DeadLetters,
        exhausted: &[&StoredMessage],
    ) -> Result<MoveOutcome, Error> {
        if self.clear_stamps(view, exhausted).await? {
            return Ok(MoveOutcome::Conflict);
        }
        let target = queue_id(&rule.target);
        let head = self.head(&target).await?;
        if head.map(|head| head.generation()) != Some(rule.generation) {
            return Ok(MoveOutcome::TargetChanged);
        }
        let (claim, deadline) = (random_id(), CommitDeadline::new());
        self.write_internal_claim(view, &claim).await?;
        let hold = Hold {
            claim: &claim,
            positions: exhausted.iter().map(|message| message.n).collect(),
            ttl: number(HOLD),
            grace: None,
            deadline,
        };
        // If the result is unknown, the internal claim may exist; then it expires.
        let HoldOutcome::Committed(_) = self.try_holding(view, hold).await? else {
            return Ok(MoveOutcome::Conflict);
        };
        let moved = self.hand_over(view, rule, &target, &claim, exhausted).await?;
        self.release(&view.head.id, &claim, time(view.now)).await?;
        Ok(moved)
    }

    /// Clears the stamps of moves that were undone, which would keep messages from becoming dead
    /// letters. Returns whether there were any.
    async fn clear_stamps(&self, view: &View, messages: &[&StoredMessage]) -> Result<bool, Error> {
        let stamped: Vec<_> = messages.iter().filter(|message| message.z.is_some()).collect();
        if stamped.is_empty() {
            return Ok(false);
        }
        // An error if the move goes on.
        self.latest_head(&view.head.id).await?;
        for message in stamped {
            let seen = doc! { "_id": &message.id, "h": view.head.message_epoch, STAMP: message.z };
            self.update_messages(seen, doc! { "$unset": { STAMP: "" } }).await?;
        }
        Ok(true)
    }

    async fn hand_over(
        &self,
        view: &View,
        rule: &DeadLetters,
        target: &str,
        claim: &Binary,
        exhausted: &[&StoredMessage],
    ) -> Result<MoveOutcome, Error> {
        let committed = self.commit_move(view, rule, target, claim, exhausted).await?;
        let Some((head, intent)) = committed else { return Ok(MoveOutcome::TargetChanged) };
        self.apply_and_remove(&head.id, &intent).await?;
        Ok(MoveOutcome::Moved(exhausted.len()))
    }

    /// Commits the move of messages from a claim to the target, if it has the assumed generation.
    /// Returns its head and the intent.
    pub(crate) async fn commit_move(
        &self,
        view: &View,
        rule: &DeadLetters,
        target: &str,
        claim: &Binary,
        exhausted: &[&StoredMessage],
    ) -> Result<Option<(Head, Intent)>, Error> {
        let dead_letters: Vec<_> =
            exhausted.iter().map(|message| dead_letter(message, rule, view.now)).collect();
        let op = random_id();
        let change = takes_over(&op, self.commit_time(view.now), view, claim, &dead_letters)?;
        let filter = doc! {
            "_id": target, "open": true,
            "incarnation": rule.generation.incarnation.get().cast_signed(),
            "version": rule.generation.version.get().cast_signed(),
        };
        let Some(head) = self.change_head(filter, vec![change]).await? else { return Ok(None) };
        let intent =
            head.intent(&op).ok_or_else(|| unreadable("dead letters that were just committed"))?;
        let intent = intent.clone();
        Ok(Some((head, intent)))
    }
}

/// The dead letters among the first free messages, up to `limit` others.
fn exhausted<'a>(
    found: &'a [StoredMessage],
    rule: &DeadLetters,
    limit: usize,
) -> Vec<&'a StoredMessage> {
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

/// The change of a target's head that commits the move. If it is committed twice, the second intent
/// only leaves unused positions.
fn takes_over(
    op: &Binary,
    at: Document,
    view: &View,
    claim: &Binary,
    dead_letters: &[DeadLetter],
) -> Result<Document, Error> {
    let listed = serialize_to_bson(dead_letters).map_err(Error::failed)?;
    let first = first_position(&at.clone().into());
    let intent = doc! {
        "op": op, "at": &at, "room": "$room",
        "act": { "letters": {
            "first": &first, "source": view.head.message_epoch, "claim": claim,
            "letters": { "$literal": listed },
        } },
    };
    Ok(doc! { "$set": {
        "next": { "$add": [&first, number(dead_letters.len() as u64)] },
        "at": at,
        "posted": "$$NOW",
        "news": news(doc! { "$add": [first, number(dead_letters.len() as u64) - 1] }),
        "todo": { "$concatArrays": ["$todo", [intent]] },
    } })
}

fn dead_letter(message: &StoredMessage, rule: &DeadLetters, now: i64) -> DeadLetter {
    let (ttl, expires) = match rule.ttl {
        Some(ttl) => (number(ttl), crate::schema::date(plus_secs(now, number(ttl)))),
        None => {
            let left = message.expires().timestamp_millis().saturating_sub(now);
            (rounded_seconds(left), message.expires())
        }
    };
    DeadLetter { id: message.id.clone(), ttl, expires }
}
