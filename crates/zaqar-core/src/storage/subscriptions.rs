//! Subscriptions: who is notified of a queue's messages.

use async_trait::async_trait;

use super::{Error, Guarded};
use crate::{Generation, LeaseId, Position, QueueKey, SubscriptionId, Timestamp};

/// A subscription to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSubscription {
    /// Its id; ids of later subscriptions are greater.
    pub id: SubscriptionId,
    /// Where messages are sent: a URI that the caller has checked.
    pub subscriber: String,
    /// Seconds from `now` until it expires. Any number; the expiry is [`Timestamp::MAX`] at most.
    pub ttl: u64,
    /// The user's options: the text of a JSON object, stored unchanged.
    pub options: String,
    /// Whether the subscriber has already agreed.
    pub confirmed: bool,
    /// The lease that it depends on beside its ttl: that of the server that the subscriber is
    /// connected to. `None` for a subscriber with an address.
    pub lease: Option<LeaseId>,
}

/// A live subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Its id.
    pub id: SubscriptionId,
    /// Where messages are sent.
    pub subscriber: String,
    /// Its ttl in seconds, from `since`.
    pub ttl: u64,
    /// When it was created or its ttl was last set.
    pub since: Timestamp,
    /// The text of a JSON object.
    pub options: String,
    /// Whether the subscriber has agreed.
    pub confirmed: bool,
    /// The lease that it depends on, if any.
    pub lease: Option<LeaseId>,
}

impl Subscription {
    /// A subscription that is created at `now`.
    pub fn new(new: NewSubscription, now: Timestamp) -> Self {
        let NewSubscription { id, subscriber, ttl, options, confirmed, lease } = new;
        Self { id, subscriber, ttl, since: now, options, confirmed, lease }
    }

    /// When it expires.
    pub const fn expires(&self) -> Timestamp {
        self.since.plus_secs(self.ttl)
    }

    /// Whether it has not expired at `now`.
    pub fn is_live(&self, now: Timestamp) -> bool {
        now < self.expires()
    }

    /// Makes a change at `now`: a new ttl counts from then on.
    pub fn apply(&mut self, change: SubscriptionChange, now: Timestamp) {
        let SubscriptionChange { subscriber, ttl, options, confirmed } = change;
        if let Some(ttl) = ttl {
            (self.ttl, self.since) = (ttl, now);
        }
        self.subscriber = subscriber.unwrap_or_else(|| std::mem::take(&mut self.subscriber));
        self.options = options.unwrap_or_else(|| std::mem::take(&mut self.options));
        self.confirmed = confirmed.unwrap_or(self.confirmed);
    }
}

/// What to change; `None` keeps the old value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubscriptionChange {
    /// The new subscriber.
    pub subscriber: Option<String>,
    /// The new ttl, from `now`.
    pub ttl: Option<u64>,
    /// The new options, which replace all old ones.
    pub options: Option<String>,
    /// Whether the subscriber has agreed.
    pub confirmed: Option<bool>,
}

/// Which subscriptions a post is delivered to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecipientQuery {
    /// Begins with the first id greater than this one, which need not exist.
    pub after: Option<SubscriptionId>,
    /// At most so many.
    pub limit: usize,
    /// Leaves out subscribers that have not agreed.
    pub confirmed_only: bool,
}

impl RecipientQuery {
    /// Whether a post is delivered to a live subscription, whatever its id.
    pub const fn includes(&self, one: &Subscription) -> bool {
        one.lease.is_none() && (one.confirmed || !self.confirmed_only)
    }
}

/// The answer to a new subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subscribed {
    /// It was created. Every post that is acknowledged after this answer has positions greater than
    /// `after`; every post that was acknowledged before the request has positions up to `after`.
    Created {
        /// The last position that the subscriber is not notified of.
        after: Position,
    },
    /// The subscriber already has this live subscription to the queue; it does not change.
    Exists(Subscription),
}

/// The answer to a change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Changed {
    /// The change was made.
    Done,
    /// There is no such live subscription.
    #[default]
    Absent,
    /// Another live subscription of the queue has that subscriber; nothing changed.
    Duplicate,
}

/// Subscriptions by queue.
///
/// A subscription is *live* until it is removed or `now` reaches `since + ttl`. No method returns
/// one that is not live. Closing the queue's head removes all of them. One that depends on a lease
/// is removed by a sweep once the lease is no longer live: see [`super::Leases`].
#[async_trait]
pub trait Subscriptions: Send + Sync {
    /// Creates a subscription.
    ///
    /// # Behavior
    /// - The head has `assumed` and no live subscription has the subscriber: it is created.
    /// - A live one has it: `Exists`; nothing changes. If two callers race, one creates the
    ///   subscription. An expired one is ignored.
    /// - No head: `Absent`. Another generation: `Stale`.
    /// - Posts that are acknowledged after this answer write outbox entries.
    async fn subscribe(
        &self,
        key: &QueueKey,
        assumed: Generation,
        subscription: &NewSubscription,
        now: Timestamp,
    ) -> Result<Guarded<Subscribed>, Error>;

    /// Reads a subscription.
    ///
    /// # Behavior
    /// - `None` for one that is unknown, expired or of another queue.
    ///
    /// The default costs a page of one.
    async fn subscription(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        now: Timestamp,
    ) -> Result<Option<Subscription>, Error> {
        let before = id.get().checked_sub(1).map(SubscriptionId::new);
        let page = self.subscriptions(key, before, 1, now).await?;
        Ok(page.into_iter().find(|one| one.id == id))
    }

    /// Lists live subscriptions by id, ascending.
    ///
    /// # Behavior
    /// - Begins with the first id greater than `after`, which need not exist. At most `limit`;
    ///   fewer only at the end.
    async fn subscriptions(
        &self,
        key: &QueueKey,
        after: Option<SubscriptionId>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Subscription>, Error>;

    /// Lists the live subscriptions of a queue that depend on one lease, by id, ascending. For
    /// servers that push: without subscribers and options.
    ///
    /// # Behavior
    /// - Begins with the first id greater than `after`, which need not exist. At most `limit`;
    ///   fewer only at the end.
    /// - Each comes with its expiry, [`Timestamp::MAX`] at most.
    /// - Cost grows with the number returned, not with the queue's other subscriptions or the size
    ///   of any. The default is for stores of queues with few: it reads all after `after`.
    async fn leased_subscriptions(
        &self,
        key: &QueueKey,
        lease: LeaseId,
        after: Option<SubscriptionId>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<(SubscriptionId, Timestamp)>, Error> {
        let leased =
            |one: &Subscription| (one.lease == Some(lease)).then(|| (one.id, one.expires()));
        select(self, key, after, limit, now, leased).await
    }

    /// Lists the live subscriptions of a queue without a lease, by id, ascending. For workers that
    /// give each a delivery: without subscribers and options.
    ///
    /// # Behavior
    /// - With `confirmed_only` only confirmed ones. At most `limit`; fewer only at the end.
    /// - Cost grows with the number of the queue's subscriptions that are passed, not with the size
    ///   of any. The default is for stores of queues with few: it reads the whole subscriptions.
    async fn recipients(
        &self,
        key: &QueueKey,
        query: &RecipientQuery,
        now: Timestamp,
    ) -> Result<Vec<SubscriptionId>, Error> {
        let recipient = |one: &Subscription| query.includes(one).then_some(one.id);
        select(self, key, query.after, query.limit, now, recipient).await
    }

    /// Changes a subscription.
    ///
    /// # Behavior
    /// - All of `change` is applied or nothing. A new ttl counts from `now`; without one `since`
    ///   does not change.
    /// - Unknown, expired or of another queue: `Absent`. Another live subscription has the new
    ///   subscriber: `Duplicate`.
    async fn change_subscription(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        change: &SubscriptionChange,
        now: Timestamp,
    ) -> Result<Changed, Error>;

    /// Removes a subscription; a missing one is not an error.
    ///
    /// # Behavior
    /// - The subscriber can subscribe again immediately.
    async fn unsubscribe(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        now: Timestamp,
    ) -> Result<(), Error>;

    /// Removes all subscriptions of a queue.
    ///
    /// # Behavior
    /// - Takes constant time, however many there are.
    async fn unsubscribe_all(&self, key: &QueueKey, now: Timestamp) -> Result<(), Error>;
}

/// Subscriptions that a default reads at a time.
const PAGE: usize = 100;

/// Reads pages until `limit` subscriptions are chosen or none is left.
async fn select<T>(
    store: &(impl Subscriptions + ?Sized),
    key: &QueueKey,
    mut after: Option<SubscriptionId>,
    limit: usize,
    now: Timestamp,
    choose: impl Fn(&Subscription) -> Option<T>,
) -> Result<Vec<T>, Error> {
    let mut chosen = Vec::new();
    loop {
        let page = store.subscriptions(key, after, PAGE, now).await?;
        chosen.extend(page.iter().filter_map(&choose).take(limit - chosen.len()));
        if page.len() < PAGE || chosen.len() == limit {
            return Ok(chosen);
        }
        after = page.last().map(|last| last.id);
    }
}
