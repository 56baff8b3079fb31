//! Claims.
//!
//! A claim's document is written first and is not live yet. The intent that makes the claim lists
//! the positions of its messages. It commits only if the claim sequence number is still the one at
//! which they were read as free, so no message is in two claims.

use async_trait::async_trait;
use mongodb::bson::{Binary, doc};
use serde::Deserialize;
use zaqar_core::storage::{Claim, ClaimRequest, Claimed, Claims, Error, Guarded, Message, Skipped};
use zaqar_core::{ClaimId, Generation, QueueKey, Timestamp};

use crate::Mongo;
use crate::dead_letters::MoveOutcome;
use crate::first_free::Search;
use crate::holding::{ClaimRecord, Hold, HoldOutcome};
use crate::intents::{CommitOutcome, Sequence};
use crate::schema::{
    self, CommitDeadline, claim_bits, date, number, plus_secs, queue_id, random_id, time,
};
use crate::stored::{Action, Intent, StoredMessage};
use crate::view::{StoredClaim, View, in_order};

/// The position of a message.
#[derive(Deserialize)]
struct StoredPosition {
    n: i64,
}

/// The result of an attempt to claim messages.
enum ClaimAttempt {
    Messages(Vec<Message>),
    /// Another intent was committed first.
    Conflict,
    /// It is unknown which.
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
        self.run(self.claim_messages(&queue_id(key), assumed, request, now)).await
    }

    async fn claim_each(
        &self,
        key: &QueueKey,
        assumed: Generation,
        ids: &[ClaimId],
        ttl: u64,
        now: Timestamp,
    ) -> Result<Guarded<Vec<Message>>, Error> {
        let queue = queue_id(key);
        let mut taken = Vec::with_capacity(ids.len());
        // An intent makes one claim, so each is a step of its own.
        for id in ids {
            let request = ClaimRequest::new(*id, ttl, 1);
            match self.run(self.claim_messages(&queue, assumed, &request, now)).await {
                Ok(Guarded::Done(Claimed::Messages { messages, .. })) if !messages.is_empty() => {
                    taken.extend(messages);
                }
                // What was claimed before stays claimed, in the generation that was assumed.
                Ok(Guarded::Absent) if taken.is_empty() => return Ok(Guarded::Absent),
                Ok(Guarded::Stale(found)) if taken.is_empty() => return Ok(Guarded::Stale(found)),
                Ok(Guarded::Done(_) | Guarded::Absent | Guarded::Stale(_)) => break,
                Err(error) if taken.is_empty() => return Err(error),
                Err(error) => {
                    self.report_unfinished("only some claims of a batch were made", &queue, &error);
                    break;
                }
            }
        }
        Ok(Guarded::Done(taken))
    }

    async fn claim_get(
        &self,
        key: &QueueKey,
        id: ClaimId,
        now: Timestamp,
    ) -> Result<Option<Claim>, Error> {
        self.run(async {
            let Some(view) = self.view(&queue_id(key), now).await? else { return Ok(None) };
            let Some(held) = self.live_claim(&view, &claim_bits(id)).await? else {
                return Ok(None);
            };
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
        self.run(async {
            let (queue, claim) = (queue_id(key), claim_bits(id));
            let _lock = self.lock_claims(&queue).await;
            for attempt in 0..self.inner.options.max_attempts.max(1) {
                self.back_off(attempt).await;
                let Some(view) = self.view(&queue, now).await? else { return Ok(false) };
                let Some(held) = self.live_claim(&view, &claim).await? else { return Ok(false) };
                if self.renew(&view, held, number(ttl), number(grace)).await? {
                    return Ok(true);
                }
            }
            Err(Mongo::contended())
        })
        .await
    }

    async fn claim_release(
        &self,
        key: &QueueKey,
        id: ClaimId,
        now: Timestamp,
    ) -> Result<usize, Error> {
        self.run(async {
            let queue = queue_id(key);
            let _lock = self.lock_claims(&queue).await;
            self.release(&queue, &claim_bits(id), now).await
        })
        .await
    }
}

const fn claimed(
    messages: Vec<Message>,
    dead_letters: usize,
    skipped: Skipped,
) -> Guarded<Claimed> {
    Guarded::Done(Claimed::Messages { messages, dead_letters, skipped })
}

impl Mongo {
    async fn claim_messages(
        &self,
        queue: &str,
        assumed: Generation,
        request: &ClaimRequest,
        now: Timestamp,
    ) -> Result<Guarded<Claimed>, Error> {
        let claim = claim_bits(request.id);
        let (mut written, deadline) = (None, CommitDeadline::new());
        let mut may_be_made = false;
        let _lock = self.lock_claims(queue).await;
        let (mut attempt, mut dead_letters) = (0, 0);
        while attempt < self.inner.options.max_attempts.max(1) {
            self.back_off(attempt).await;
            attempt += 1;
            let view = match self.guarded_view(queue, assumed, now).await? {
                Guarded::Done(view) => view,
                Guarded::Absent => {
                    self.delete_unused_claim(written).await;
                    return Ok(Guarded::Absent);
                }
                Guarded::Stale(own) => {
                    self.delete_unused_claim(written).await;
                    return Ok(Guarded::Stale(own));
                }
            };
            if may_be_made && let Some(held) = self.live_claim(&view, &claim).await? {
                let messages = self.messages_of(&view, &held).await?;
                return Ok(claimed(messages, dead_letters, Skipped::default()));
            }
            let search = Search::of_claim(request);
            let (found, skipped) = self.first_free(&view, &search).await?;
            if let Some(rule) = &request.dead_letters {
                match self.move_dead_letters(&view, rule, &found, search).await? {
                    MoveOutcome::Nothing => {}
                    // Progress, not a conflict: no backoff between the batches.
                    MoveOutcome::Moved(count) => {
                        dead_letters += count;
                        attempt = 0;
                        continue;
                    }
                    MoveOutcome::Conflict => continue,
                    MoveOutcome::TargetChanged => {
                        self.delete_unused_claim(written).await;
                        return Ok(Guarded::Done(Claimed::TargetChanged));
                    }
                }
            }
            if found.is_empty() {
                self.delete_unused_claim(written).await;
                return Ok(claimed(Vec::new(), dead_letters, skipped));
            }
            let record = schema::claim_key(view.head.message_epoch, &claim);
            if written.as_ref() != Some(&record) {
                // The epoch changes only with a purge; documents of the old one are deleted with
                // it.
                if let ClaimRecord::Committed(held) = self.write_claim(&view, &claim).await? {
                    let messages = self.messages_of(&view, &held).await?;
                    return Ok(claimed(messages, dead_letters, skipped));
                }
                written = Some(record);
            }
            let hold = Hold {
                claim: &claim,
                positions: found.iter().map(|message| message.n).collect(),
                ttl: number(request.ttl),
                grace: Some(number(request.grace)),
                deadline,
            };
            match self.try_claiming(&view, hold, found).await? {
                ClaimAttempt::Messages(messages) => {
                    return Ok(claimed(messages, dead_letters, skipped));
                }
                ClaimAttempt::Conflict => {}
                ClaimAttempt::Unknown => may_be_made = true,
            }
        }
        self.delete_unused_claim(written).await;
        Err(Mongo::contended())
    }

    /// Tries to claim messages that are free in this view.
    async fn try_claiming(
        &self,
        view: &View,
        hold: Hold<'_>,
        found: Vec<StoredMessage>,
    ) -> Result<ClaimAttempt, Error> {
        let (claim, positions) = (hold.claim.clone(), hold.positions.clone());
        let extend_to = plus_secs(plus_secs(view.now, hold.ttl), hold.grace.unwrap_or(0));
        let held = match self.try_holding(view, hold).await? {
            HoldOutcome::Committed(held) => held,
            HoldOutcome::Conflict => return Ok(ClaimAttempt::Conflict),
            HoldOutcome::Unknown => return Ok(ClaimAttempt::Unknown),
        };
        let mut found = found;
        if held < positions.len() as u64 {
            // Another process applied a part of it, or messages were deleted in the meantime.
            let mut mine = view.at_positions(&positions);
            mine.insert("c", &claim);
            let mine = in_order(mine).fields(doc! { "_id": 0, "n": 1 });
            let mine: Vec<StoredPosition> = self.find(&self.inner.messages, &mine).await?;
            found.retain(|message| mine.iter().any(|mine| mine.n == message.n));
        }
        let found = found.into_iter().map(|message| message.claimed_by(&claim, date(extend_to)));
        self.show(view, found.collect()).map(ClaimAttempt::Messages)
    }

    /// Deletes the document of a claim that was not made. If that fails, the TTL index deletes it.
    async fn delete_unused_claim(&self, written: Option<Binary>) {
        let Some(key) = written else { return };
        let filter = doc! { "_id": key, "live": false };
        if let Err(error) = self.send(|| self.inner.claims.delete_one(filter.clone())).await {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the document of an unused claim is left to expire"
            );
        }
    }

    /// The live messages that a claim holds.
    async fn messages_of(&self, view: &View, held: &StoredClaim) -> Result<Vec<Message>, Error> {
        let mut mine = view.at_positions(&held.positions);
        mine.insert("c", held.bits());
        let found = self.first(mine, usize::MAX).await?;
        self.show(view, found)
    }

    /// Tries to renew a live claim; `false` after a conflict.
    async fn renew(
        &self,
        view: &View,
        held: StoredClaim,
        ttl: i64,
        grace: i64,
    ) -> Result<bool, Error> {
        let until = plus_secs(view.now, ttl);
        let intent = Intent {
            op: random_id(),
            at: view.now,
            message_epoch: view.head.message_epoch,
            action: Action::Renew {
                claim_seq: view.head.claim_seq + 1,
                claim: held.bits(),
                positions: held.positions,
                ttl,
                until,
                extend_to: plus_secs(until, grace),
            },
        };
        let change = doc! { "$min": { "over": until } };
        match self.try_commit(&view.head, Sequence::Claims, &intent, change, None).await? {
            CommitOutcome::Committed(head) => {
                self.apply_and_remove(&head.id, &intent).await.map(|_| true)
            }
            CommitOutcome::Conflict | CommitOutcome::Unknown => Ok(false),
        }
    }
}
