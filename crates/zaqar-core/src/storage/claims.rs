//! Claims: messages held for one consumer for a time.

use async_trait::async_trait;

use super::{Error, Guarded, Message};
use crate::{ClaimId, Generation, QueueKey, Timestamp};

/// A claim to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRequest {
    /// The id it will have, drawn at random by the caller for this request: a store may use it to
    /// make a repeat harmless.
    pub id: ClaimId,
    /// Seconds it lives, from `now`.
    pub ttl: u64,
    /// Seconds that its messages outlive it, at least.
    pub grace: u64,
    /// Messages to take, at least 1.
    pub limit: usize,
    /// Where messages go that were claimed often enough.
    pub dead_letters: Option<DeadLetters>,
}

/// What to do with messages that were claimed often enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetters {
    /// A message that was claimed this often, at least 1, is not claimed again: it moves.
    pub max_claim_count: u32,
    /// The queue it moves to, in the same store. It may be the one it comes from.
    pub target: QueueKey,
    /// The generation that the target is assumed to have.
    pub generation: Generation,
    /// Seconds it lives there, from `now`; what is left of its life where `None`, shown rounded to
    /// the nearest second.
    pub ttl: Option<u64>,
}

/// The answer to a claim request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// The messages taken, in order; with none there is no claim.
    Messages(Vec<Message>),
    /// Messages must move and the dead-letter queue is not as assumed; nothing was done.
    TargetChanged,
}

/// A live claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Seconds it lives, from when it was made or last renewed.
    pub ttl: u64,
    /// When it was made or last renewed.
    pub since: Timestamp,
    /// The live messages it holds, in order.
    pub messages: Vec<Message>,
}

/// Claims by queue.
///
/// A claim is *live* from when it is made until it is released or `now` reaches its expiry, also
/// when its messages are gone before.
#[async_trait]
pub trait Claims: Send + Sync {
    /// Takes the first free messages.
    ///
    /// # Behavior
    /// - The head has `assumed`: at most `limit` free messages, in order, are held by the new claim
    ///   until `now + ttl`.
    /// - No head: `Absent`. Another generation: `Stale`. Nothing is taken.
    /// - A message is held by at most one live claim. Claimed, delayed and expired ones are passed
    ///   over.
    /// - A message whose life would end before `now + ttl + grace` lives until then: its own ttl
    ///   grows, shown rounded to the nearest second.
    /// - Each message taken counts one claim more, and the answer shows the new count.
    /// - A message that was claimed `max_claim_count` times is not taken: it leaves the queue and
    ///   is stored in the dead-letter queue, with a new id at the end, free, uncounted, created
    ///   `now`, with the same payload and client. One step where the store can; else the target
    ///   first, keyed by the source's id, so that a repeat after a crash changes nothing.
    /// - Only free messages before the last one taken move, in their order. A store may move many
    ///   in pieces and then answer fewer than `limit`, but not none while a message could be taken.
    ///   A move is no post: nobody is told of it.
    /// - The claim costs a logarithm of the backlog, whatever is claimed, delayed or expired before
    ///   the messages it takes.
    async fn claim(
        &self,
        key: &QueueKey,
        assumed: Generation,
        request: &ClaimRequest,
        now: Timestamp,
    ) -> Result<Guarded<Claimed>, Error>;

    /// Reads a live claim.
    ///
    /// # Behavior
    /// - `None` for one that is unknown, over, released or of another queue.
    async fn claim_get(
        &self,
        key: &QueueKey,
        id: ClaimId,
        now: Timestamp,
    ) -> Result<Option<Claim>, Error>;

    /// Renews a live claim from `now`, with a new ttl.
    ///
    /// # Behavior
    /// - A live claim holds its messages until `now + ttl`; their lives are made longer as by
    ///   [`Claims::claim`]; `true`.
    /// - Unknown or over: nothing changes; `false`.
    async fn claim_renew(
        &self,
        key: &QueueKey,
        id: ClaimId,
        ttl: u64,
        grace: u64,
        now: Timestamp,
    ) -> Result<bool, Error>;

    /// Ends a claim. Its messages are free again, in their old places.
    ///
    /// # Behavior
    /// - Unknown or over: nothing happens.
    async fn claim_release(&self, key: &QueueKey, id: ClaimId, now: Timestamp)
    -> Result<(), Error>;
}
