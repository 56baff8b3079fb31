//! Claims: messages reserved for one consumer for a limited time.

use async_trait::async_trait;

use super::{Error, Guarded, Message, Skipped};
use crate::{ClaimId, Generation, KeyId, Payload, Position, QueueKey, Timestamp};

/// A claim to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRequest {
    /// The claim's id, drawn at random by the caller for this request. A store may use it to make a
    /// retry idempotent.
    pub id: ClaimId,
    /// Seconds from `now` until it expires.
    pub ttl: u64,
    /// Seconds that its messages live after it expires, at least.
    pub grace: u64,
    /// Messages to claim at most; at least 1.
    pub limit: usize,
    /// Begin after this position, where an earlier slice of the same claim stopped. `None` begins
    /// at the start of the queue.
    pub after: Option<Position>,
    /// The keys whose sealed payloads the caller can open. A message sealed with another key stays
    /// free. `None` for a caller that takes messages whatever their key.
    pub keys: Option<Vec<KeyId>>,
    /// What to do with messages that reached the maximum claim count.
    pub dead_letters: Option<DeadLetters>,
}

impl ClaimRequest {
    /// A claim of the first messages, whatever their key, without grace and dead letters.
    pub const fn new(id: ClaimId, ttl: u64, limit: usize) -> Self {
        Self { id, ttl, grace: 0, limit, after: None, keys: None, dead_letters: None }
    }

    /// Whether the caller can open a payload.
    pub fn can_open(&self, payload: &Payload) -> bool {
        self.keys.as_ref().is_none_or(|keys| payload.opens_with(keys))
    }
}

/// The dead-letter rule: what to do with messages that reached the maximum claim count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetters {
    /// A message that was claimed this many times (at least 1) is moved instead of claimed again.
    pub max_claim_count: u32,
    /// The queue it moves to, in the same store. It may be the one it comes from.
    pub target: QueueKey,
    /// The generation that the target is assumed to have.
    pub generation: Generation,
    /// Its ttl there, in seconds from `now`. `None` keeps its expiry; the ttl shown is then what is
    /// left, rounded to the nearest second.
    pub ttl: Option<u64>,
}

/// The answer to a claim request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// The result of a claim. Without messages no claim is made.
    Messages {
        /// The claimed messages, in order.
        messages: Vec<Message>,
        /// How many messages were moved to the dead-letter queue. A retry whose first attempt
        /// succeeded may not know of them.
        dead_letters: usize,
        /// What was skipped because the caller cannot open it.
        skipped: Skipped,
    },
    /// Messages must be moved, but the dead-letter queue has another generation than assumed.
    /// Nothing was done.
    TargetChanged,
}

/// A live claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Its ttl in seconds, from `since`.
    pub ttl: u64,
    /// When it was created or last renewed.
    pub since: Timestamp,
    /// The live messages it holds, in order.
    pub messages: Vec<Message>,
}

/// Claims by queue.
///
/// A claim is *live* from its creation until it is released or `now` reaches its expiry, even if
/// its messages are deleted before.
#[async_trait]
pub trait Claims: Send + Sync {
    /// Claims the first free messages.
    ///
    /// # Behavior
    /// - The head has `assumed`: at most `limit` free messages, in order, are held by the new claim
    ///   until `now + ttl`.
    /// - No head: `Absent`. Another generation: `Stale`. Nothing is claimed.
    /// - A message is held by at most one live claim. Claimed, delayed and expired ones are
    ///   skipped.
    /// - A message sealed with a key that is not in `request.keys` stays free: it is neither held
    ///   nor counted nor moved, and messages after it are claimed. Skipping more than a bounded
    ///   number of these (about 1 000) ends the slice early: see [`Skipped::next`].
    /// - A message that would expire before `now + ttl + grace` expires then instead: its ttl
    ///   grows, shown rounded to the nearest second.
    /// - The claim count of each claimed message grows by one, and the answer shows the new count.
    /// - A message that was claimed `max_claim_count` times is not claimed: it leaves the queue and
    ///   is appended to the dead-letter queue, with a new id, free, with a claim count of 0,
    ///   created `now`, with the same payload and client. This is one atomic step where the store
    ///   supports it; otherwise the target is written first, keyed by the source's id, so that a
    ///   retry after a crash changes nothing.
    /// - Only free messages before the last claimed one are moved, in their order; if none is
    ///   claimed, any that reached the maximum. A store may move many in several steps and then
    ///   return fewer than `limit` messages, but not none while a message could be claimed. A move
    ///   is not a post: it does not notify subscribers.
    /// - The cost of a claim is logarithmic in the backlog, regardless of how many messages before
    ///   the claimed ones are claimed, delayed or expired.
    async fn claim(
        &self,
        key: &QueueKey,
        assumed: Generation,
        request: &ClaimRequest,
        now: Timestamp,
    ) -> Result<Guarded<Claimed>, Error>;

    /// Claims the first free messages, each with a claim of its own, which ends apart from the
    /// others: `ids` are the claims to make, drawn at random by the caller for this request.
    ///
    /// # Behavior
    /// - Does what [`Claims::claim`] does with [`ClaimRequest::new`], for each id in turn, with a
    ///   limit of 1, until one gets nothing. Returns the messages in order, each with the claim
    ///   that holds it: the first message has the first id.
    /// - Each claim is an atomic step; a store makes them in one step if it can. If one fails, the
    ///   messages of those before it are returned, and later ones are not tried. So an error means
    ///   that at most one step may have been done.
    /// - No head: `Absent`. Another generation: `Stale`. Nothing is claimed.
    ///
    /// The default costs a [`Claims::claim`] for each message, and one more if fewer are free.
    async fn claim_each(
        &self,
        key: &QueueKey,
        assumed: Generation,
        ids: &[ClaimId],
        ttl: u64,
        now: Timestamp,
    ) -> Result<Guarded<Vec<Message>>, Error> {
        let mut taken = Vec::with_capacity(ids.len());
        for id in ids {
            let request = ClaimRequest::new(*id, ttl, 1);
            match self.claim(key, assumed, &request, now).await {
                Ok(Guarded::Done(Claimed::Messages { messages, .. })) if !messages.is_empty() => {
                    taken.extend(messages);
                }
                Ok(Guarded::Absent) if taken.is_empty() => return Ok(Guarded::Absent),
                Ok(Guarded::Stale(own)) if taken.is_empty() => return Ok(Guarded::Stale(own)),
                Err(error) if taken.is_empty() => return Err(error),
                Ok(_) | Err(_) => break,
            }
        }
        Ok(Guarded::Done(taken))
    }

    /// Reads a live claim.
    ///
    /// # Behavior
    /// - `None` for a claim that is unknown, expired, released or of another queue.
    async fn claim_get(
        &self,
        key: &QueueKey,
        id: ClaimId,
        now: Timestamp,
    ) -> Result<Option<Claim>, Error>;

    /// Renews a live claim from `now`, with a new ttl.
    ///
    /// # Behavior
    /// - A live claim holds its messages until `now + ttl`; their expiry is extended as by
    ///   [`Claims::claim`]; `true`.
    /// - Unknown or expired: nothing changes; `false`.
    async fn claim_renew(
        &self,
        key: &QueueKey,
        id: ClaimId,
        ttl: u64,
        grace: u64,
        now: Timestamp,
    ) -> Result<bool, Error>;

    /// Releases a claim. Its messages are free again, at their old positions.
    ///
    /// # Behavior
    /// - Returns how many messages it frees; fewer where it repeated what an earlier attempt of its
    ///   own had done, whose answer was lost.
    /// - Unknown or expired: nothing happens; 0.
    async fn claim_release(
        &self,
        key: &QueueKey,
        id: ClaimId,
        now: Timestamp,
    ) -> Result<usize, Error>;
}
