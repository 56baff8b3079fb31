//! Making claims hold messages and releasing them, for the claims of callers and for internal
//! claims that move dead letters.

use mongodb::bson::{Binary, doc};
use zaqar_core::Timestamp;
use zaqar_core::storage::Error;

use crate::Mongo;
use crate::error::is_duplicate;
use crate::intents::{CommitOutcome, Sequence};
use crate::schema::{self, CommitDeadline, draft_expiry, plus_secs, random_id};
use crate::stored::{Action, Intent};
use crate::view::{StoredClaim, View};

/// The messages that a claim is to hold, and for how long.
pub(crate) struct Hold<'a> {
    pub(crate) claim: &'a Binary,
    pub(crate) positions: Vec<i64>,
    pub(crate) ttl: i64,
    /// Seconds that messages live after it at least. `None` for an internal claim: expiry and claim
    /// count do not change.
    pub(crate) grace: Option<i64>,
    pub(crate) deadline: CommitDeadline,
}

/// The result of an attempt to hold messages.
pub(crate) enum HoldOutcome {
    /// The claim was made; how many messages this process assigned to it.
    Committed(u64),
    /// Another intent was committed first.
    Conflict,
    /// It is unknown which.
    Unknown,
}

/// The state of a claim's document after it was written.
pub(crate) enum ClaimRecord {
    /// It exists and is not live yet.
    Uncommitted,
    /// The claim was made by an earlier attempt whose answer was lost.
    Committed(StoredClaim),
}

impl Mongo {
    /// Tries to commit a claim whose document was written.
    pub(crate) async fn try_holding(
        &self,
        view: &View,
        hold: Hold<'_>,
    ) -> Result<HoldOutcome, Error> {
        let (until, deadline) = (plus_secs(view.now, hold.ttl), Some(hold.deadline));
        let intent = Intent {
            op: random_id(),
            at: view.now,
            message_epoch: view.head.message_epoch,
            action: Action::Claim {
                claim_seq: view.head.claim_seq + 1,
                claim: hold.claim.clone(),
                positions: hold.positions,
                ttl: hold.ttl,
                until,
                extend_to: hold.grace.map_or(0, |grace| plus_secs(until, grace)),
                counts: i32::from(hold.grace.is_some()),
            },
        };
        let change = doc! { "$min": { "over": until } };
        match self.try_commit(&view.head, Sequence::Claims, &intent, change, deadline).await? {
            CommitOutcome::Committed(head) => {
                self.apply_and_remove(&head.id, &intent).await.map(HoldOutcome::Committed)
            }
            CommitOutcome::Conflict => Ok(HoldOutcome::Conflict),
            CommitOutcome::Unknown => Ok(HoldOutcome::Unknown),
        }
    }

    /// Writes a claim's document, which is not live yet.
    pub(crate) async fn write_claim(
        &self,
        view: &View,
        claim: &Binary,
    ) -> Result<ClaimRecord, Error> {
        let record = doc! {
            "_id": schema::claim_key(view.head.message_epoch, claim),
            "h": view.head.message_epoch,
            "queue": &view.head.id,
            "live": false,
            // If it never becomes live, the TTL index deletes it by this.
            "x": draft_expiry(view.now),
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
            return Ok(ClaimRecord::Uncommitted);
        }
        Ok(self
            .live_claim(view, claim)
            .await?
            .map_or(ClaimRecord::Uncommitted, ClaimRecord::Committed))
    }

    /// As [`Mongo::write_claim`], for an internal claim.
    pub(crate) async fn write_internal_claim(
        &self,
        view: &View,
        claim: &Binary,
    ) -> Result<(), Error> {
        self.write_claim(view, claim).await.map(drop)
    }

    /// Releases a claim if it is live. Returns how many messages this process freed.
    pub(crate) async fn release(
        &self,
        queue: &str,
        claim: &Binary,
        now: Timestamp,
    ) -> Result<usize, Error> {
        for attempt in 0..self.inner.options.max_attempts.max(1) {
            self.back_off(attempt).await;
            let Some(view) = self.view(queue, now).await? else { return Ok(0) };
            let Some(held) = self.live_claim(&view, claim).await? else { return Ok(0) };
            let intent = Intent {
                op: random_id(),
                at: view.now,
                message_epoch: view.head.message_epoch,
                action: Action::Release {
                    claim_seq: view.head.claim_seq + 1,
                    claims: vec![claim.clone()],
                    positions: held.positions,
                },
            };
            let tried =
                self.try_commit(&view.head, Sequence::Claims, &intent, doc! {}, None).await?;
            if let CommitOutcome::Committed(head) = tried {
                let freed = self.apply_and_remove(&head.id, &intent).await?;
                return Ok(usize::try_from(freed).unwrap_or(usize::MAX));
            }
        }
        Err(Self::contended())
    }
}
