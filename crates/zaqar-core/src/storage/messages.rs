//! Messages of a queue.

use std::collections::BTreeSet;

use async_trait::async_trait;

use super::{Error, Guarded};
use crate::{
    ClaimId, ClientId, Generation, KeyId, MessageId, Payload, Position, QueueKey, Timestamp,
};

/// A message to store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// Its body.
    pub payload: Payload,
    /// Seconds from `now` until it expires.
    pub ttl: u64,
    /// Seconds from `now` until it is listed and can be claimed; 0 for immediately.
    pub delay: u64,
}

/// The messages of one post, all by one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Drawn at random for this post. A store may use it to make a retry idempotent.
    pub request: u128,
    /// Who posts.
    pub client: ClientId,
    /// At least one message, in the order in which they are stored.
    pub messages: Vec<NewMessage>,
    /// Whether subscribers are notified: the post then writes an outbox entry if there are
    /// subscriptions.
    pub notify: bool,
}

/// A stored message, as it is at the time of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its id.
    pub id: MessageId,
    /// Who posted it.
    pub client: ClientId,
    /// Its body.
    pub payload: Payload,
    /// Its ttl in seconds, from its creation. A claim can extend it: see [`super::Claims::claim`].
    pub ttl: u64,
    /// When it was posted.
    pub created: Timestamp,
    /// The live claim that holds it.
    pub claim: Option<ClaimId>,
    /// How many times it was claimed.
    pub claim_count: u32,
}

/// Which messages a page contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListQuery {
    /// Begin after this message; at the start of the queue if it is `None` or of another
    /// incarnation.
    pub after: Option<MessageId>,
    /// Messages on the page, at least 1.
    pub limit: usize,
    /// The client whose messages are left out (`echo=false`).
    pub hide: Option<ClientId>,
    /// Include messages that a live claim holds.
    pub include_claimed: bool,
    /// Include messages that are still delayed.
    pub include_delayed: bool,
}

/// One page of messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MessagePage {
    /// The messages, in order.
    pub messages: Vec<Message>,
    /// The marker of the next page: the last message examined. `None` when the page is empty and
    /// there is nothing left to examine.
    pub next: Option<MessageId>,
}

/// Which messages a pop removes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PopQuery {
    /// Messages to remove at most; at least 1.
    pub limit: usize,
    /// Begin after this position, where an earlier slice of the same pop stopped. `None` begins at
    /// the start of the queue.
    pub after: Option<Position>,
    /// The keys whose sealed payloads the caller can open. A message sealed with another key stays
    /// in the queue.
    pub keys: Vec<KeyId>,
}

impl PopQuery {
    /// Whether the caller can open a payload.
    pub fn can_open(&self, payload: &Payload) -> bool {
        payload.opens_with(&self.keys)
    }
}

/// The result of a pop.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PopPage {
    /// The removed messages, in order.
    pub messages: Vec<Message>,
    /// What was skipped because the caller cannot open it.
    pub skipped: Skipped,
}

/// The messages that a slice of a pop or claim skipped because they are sealed with a key that the
/// caller does not have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Skipped {
    /// The key of the first one.
    pub key: Option<KeyId>,
    /// Where the next slice begins, if the store stopped early because it had skipped a bounded
    /// number of them. `None` if `limit` was reached or no free message is left.
    pub next: Option<Position>,
}

/// The oldest or newest message of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// Its id.
    pub id: MessageId,
    /// When it was posted.
    pub created: Timestamp,
}

/// The statistics of a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages that can be claimed.
    pub free: u64,
    /// Messages that live claims hold.
    pub claimed: u64,
    /// Messages that are still delayed.
    pub delayed: u64,
    /// The first and the last message of any state; `None` for an empty queue.
    pub ends: Option<(Endpoint, Endpoint)>,
}

/// The number of messages in a whole store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Volume {
    /// Messages that live claims hold.
    pub claimed: u64,
    /// All other messages.
    pub free: u64,
}

/// The answer to the deletion of one message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Deleted {
    /// It was deleted, or did not exist.
    #[default]
    Gone,
    /// A live claim holds it and the request named no claim; it was not deleted.
    Claimed,
    /// The request named a claim, but no live claim holds the message; it was not deleted.
    NotClaimed,
    /// A live claim other than the named one holds it; it was not deleted.
    WrongClaim,
}

impl Deleted {
    /// The answer for a live message, given the live claim that holds it and the named one.
    /// [`Deleted::Gone`] if it may be deleted: then the store deletes it.
    pub fn answer(holder: Option<ClaimId>, named: Option<ClaimId>) -> Self {
        match (holder, named) {
            (None, None) => Self::Gone,
            (Some(_), None) => Self::Claimed,
            (None, Some(_)) => Self::NotClaimed,
            (Some(holder), Some(named)) if holder == named => Self::Gone,
            (Some(_), Some(_)) => Self::WrongClaim,
        }
    }
}

/// Which of the named messages may be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deletable {
    /// Claimed or not.
    Any,
    /// Only messages that one of these live claims holds.
    HeldBy(Vec<ClaimId>),
}

impl Deletable {
    /// Whether a message may be deleted, given the live claim that holds it.
    pub fn allows(&self, holder: Option<ClaimId>) -> bool {
        match self {
            Self::Any => true,
            Self::HeldBy(claims) => holder.is_some_and(|holder| claims.contains(&holder)),
        }
    }
}

/// Messages by queue.
///
/// A message is *live* from its post until it is deleted or `now` reaches its creation plus its
/// ttl. No method returns a message that is not live.
#[async_trait]
pub trait Messages: Send + Sync {
    /// Stores a batch and returns the ids, in the batch's order.
    ///
    /// # Behavior
    /// - The head has `assumed`: every message is stored, at consecutive positions after every
    ///   message stored before.
    /// - No head: `Absent`. Another generation: `Stale`. Nothing is stored.
    /// - Readers see the whole batch or nothing of it; a batch that fails stores nothing.
    /// - A position is never reused, even after all messages were deleted, purged or expired, and
    ///   after a restart.
    /// - After a store lost its last writes (an older snapshot, a failover, a backup), new
    ///   positions are still greater than every position assigned before: positions follow the
    ///   clock where it is ahead of the last assigned position. How many positions stand for a
    ///   second is the store's choice: more than it can assign in one.
    /// - For a reader that follows [`MessagePage::next`], no message ever appears before a position
    ///   that it has passed.
    async fn post(
        &self,
        key: &QueueKey,
        assumed: Generation,
        batch: Batch,
        now: Timestamp,
    ) -> Result<Guarded<Vec<MessageId>>, Error>;

    /// Lists messages in order.
    ///
    /// # Behavior
    /// - Begins with the first message after `query.after`, which need not exist any more.
    /// - Returns at most `query.limit` messages, skipping only those that the query excludes,
    ///   ordered by position.
    /// - A page examines a bounded number of messages; if that ends it early, `next` is where to
    ///   continue.
    /// - `next` is `None` only if the page is empty because the end of the queue was reached.
    /// - A queue without a head: an empty page.
    async fn list(
        &self,
        key: &QueueKey,
        query: &ListQuery,
        now: Timestamp,
    ) -> Result<MessagePage, Error>;

    /// Reads messages by id, ordered by position, each once.
    ///
    /// # Behavior
    /// - Includes claimed and delayed messages. Ids that are unknown, not live or of another
    ///   incarnation are ignored.
    /// - A store may read each in a step of its own.
    ///
    /// The default costs a [`Messages::list`] of one message for each id.
    async fn get(
        &self,
        key: &QueueKey,
        ids: &[MessageId],
        now: Timestamp,
    ) -> Result<Vec<Message>, Error> {
        let ids: BTreeSet<_> = ids.iter().copied().collect();
        let mut found = Vec::new();
        for id in ids {
            let Some(before) = id.position.get().checked_sub(1) else { continue };
            let query = ListQuery {
                after: Some(MessageId { position: Position::new(before), ..id }),
                limit: 1,
                hide: None,
                include_claimed: true,
                include_delayed: true,
            };
            let page = self.list(key, &query, now).await?;
            found.extend(page.messages.into_iter().filter(|message| message.id == id));
        }
        Ok(found)
    }

    /// Deletes one message.
    ///
    /// # Behavior
    /// - If a delete without a claim races a claim, exactly one of them gets the message.
    /// - Not live, unknown or of another incarnation: `Gone`, whatever claim is named.
    /// - No claim named: deletes a free or delayed message; does not delete a claimed one:
    ///   `Claimed`.
    /// - A claim named: deletes the message if that claim is live and holds it. No live claim holds
    ///   it: `NotClaimed`. Another live claim holds it: `WrongClaim`.
    async fn delete(
        &self,
        key: &QueueKey,
        id: MessageId,
        claim: Option<ClaimId>,
        now: Timestamp,
    ) -> Result<Deleted, Error>;

    /// Deletes messages by id, all in one atomic step.
    ///
    /// # Behavior
    /// - [`Deletable::Any`]: every live message, claimed ones included. [`Deletable::HeldBy`]:
    ///   those that a named live claim holds.
    /// - Ids without a message are ignored.
    async fn delete_many(
        &self,
        key: &QueueKey,
        ids: &[MessageId],
        which: &Deletable,
        now: Timestamp,
    ) -> Result<(), Error>;

    /// Removes the first free messages from the queue and returns them.
    ///
    /// # Behavior
    /// - At most `query.limit`, in order; claimed and delayed messages stay. A message is returned
    ///   by at most one pop.
    /// - A pop does not raise the claim count: messages are returned as they were.
    /// - A message sealed with a key that is not in `query.keys` stays free, its claim count
    ///   unchanged, and messages after it are removed. Skipping more than a bounded number of these
    ///   (about 1 000) ends the slice early: see [`Skipped::next`].
    async fn pop(&self, key: &QueueKey, query: &PopQuery, now: Timestamp)
    -> Result<PopPage, Error>;

    /// Removes every message, claimed and delayed ones included, and every claim.
    ///
    /// # Behavior
    /// - Subscriptions and outbox entries stay.
    /// - Markers stay valid; later messages get later positions.
    /// - Takes constant time, whatever the queue holds; [`super::Upkeep::sweep`] frees the space.
    async fn purge(&self, key: &QueueKey, now: Timestamp) -> Result<(), Error>;

    /// Counts the messages of a queue.
    ///
    /// # Behavior
    /// - Exact once [`super::Upkeep::sweep`] has nothing left to do at `now`; never off by more
    ///   than what still has to be swept.
    /// - `None` for a queue without a head.
    async fn stats(&self, key: &QueueKey, now: Timestamp) -> Result<Option<Stats>, Error>;

    /// Counts the messages of the whole store, for an administrator.
    ///
    /// # Behavior
    /// - The sum of [`Messages::stats`] over all queues and topics, without internal queues
    ///   ([`crate::Kind::Internal`]). It may lag a few seconds behind.
    /// - `None` if the store cannot count at a cost bounded by the number of queues: the default.
    async fn volume(&self) -> Result<Option<Volume>, Error> {
        Ok(None)
    }
}
