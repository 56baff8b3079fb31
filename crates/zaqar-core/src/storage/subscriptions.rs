//! Subscriptions: who hears of a queue's messages.

use async_trait::async_trait;

use super::{Error, Guarded};
use crate::{Generation, LeaseId, Position, QueueKey, SubscriptionId, Timestamp};

/// A subscription to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSubscription {
    /// The id it will have; ids of later subscriptions are greater.
    pub id: SubscriptionId,
    /// Where messages go: a URI that the caller has checked.
    pub subscriber: String,
    /// Seconds it lives, from `now`. Any number: what lies past [`Timestamp::MAX`] lives until
    /// then.
    pub ttl: u64,
    /// The user's options: the text of a JSON object, kept as it is.
    pub options: String,
    /// Whether the subscriber has already agreed.
    pub confirmed: bool,
    /// What it hangs on beside its ttl: the lease of the server that the subscriber is connected
    /// to. `None` for one with an address.
    pub lease: Option<LeaseId>,
}

/// A live subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Its id.
    pub id: SubscriptionId,
    /// Where messages go.
    pub subscriber: String,
    /// Seconds it lives, from `since`.
    pub ttl: u64,
    /// When it was made, or its ttl last set.
    pub since: Timestamp,
    /// The text of a JSON object.
    pub options: String,
    /// Whether the subscriber has agreed.
    pub confirmed: bool,
    /// The lease that it hangs on, if any.
    pub lease: Option<LeaseId>,
}

/// What to change; `None` keeps what is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubscriptionChange {
    /// Another subscriber.
    pub subscriber: Option<String>,
    /// Another life, from `now`.
    pub ttl: Option<u64>,
    /// Other options, all of them.
    pub options: Option<String>,
    /// Agreed, or no longer.
    pub confirmed: Option<bool>,
}

/// The answer to a new subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subscribed {
    /// It was made. Every post that is acknowledged after this answer lies behind `after`, and
    /// every one that was acknowledged before it was asked for lies at or before it.
    Created {
        /// The last position that is known not to concern the subscriber.
        after: Position,
    },
    /// The subscriber has a live subscription to this queue, this one; it stays as it is.
    Exists(Subscription),
}

/// The answer to a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// It was made.
    Done,
    /// There is no such live subscription.
    Absent,
    /// Another live subscription of the queue has that subscriber; nothing changed.
    Duplicate,
}

/// Subscriptions by queue.
///
/// A subscription is *live* until it is removed or `now` reaches `since + ttl`. No method shows one
/// that is not live. Closing the queue's head ends all of them. One that hangs on a lease is
/// removed by a sweep once the lease is over: see [`super::Leases`].
#[async_trait]
pub trait Subscriptions: Send + Sync {
    /// Makes a subscription.
    ///
    /// # Behavior
    /// - The head has `assumed` and no live subscription has the subscriber: it is made.
    /// - A live one has it: `Exists`, nothing changes. Of two callers at once one creates. One that
    ///   is over is no obstacle.
    /// - No head: `Absent`. Another generation: `Stale`.
    /// - Posts that are acknowledged after this answer write outbox entries.
    async fn subscribe(
        &self,
        key: &QueueKey,
        assumed: Generation,
        subscription: &NewSubscription,
        now: Timestamp,
    ) -> Result<Guarded<Subscribed>, Error>;

    /// Reads one.
    ///
    /// # Behavior
    /// - `None` for one that is unknown, over, or of another queue.
    async fn subscription(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        now: Timestamp,
    ) -> Result<Option<Subscription>, Error>;

    /// Lists live ones by id, ascending.
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

    /// Lists the live subscriptions of a queue that depend on one lease, by id, ascending: what a
    /// server that pushes needs, without subscribers and options.
    ///
    /// # Behavior
    /// - Begins with the first id greater than `after`, which need not exist. At most `limit`;
    ///   fewer only at the end.
    /// - Each comes with the time when it ends, [`Timestamp::MAX`] at most.
    /// - Cost grows with what is answered, not with the queue's other subscriptions nor with the
    ///   size of any.
    async fn leased_subscriptions(
        &self,
        key: &QueueKey,
        lease: LeaseId,
        after: Option<SubscriptionId>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<(SubscriptionId, Timestamp)>, Error>;

    /// Changes one.
    ///
    /// # Behavior
    /// - All of `change` happens or nothing. A new ttl counts from `now`; without one `since`
    ///   stays.
    /// - Unknown, over or of another queue: `Absent`. The new subscriber is taken by another live
    ///   one: `Duplicate`.
    async fn change_subscription(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        change: &SubscriptionChange,
        now: Timestamp,
    ) -> Result<Changed, Error>;

    /// Removes one; one that is not there is no error.
    ///
    /// # Behavior
    /// - The subscriber may subscribe anew at once.
    async fn unsubscribe(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        now: Timestamp,
    ) -> Result<(), Error>;

    /// Removes all of a queue.
    ///
    /// # Behavior
    /// - Answers in the same time however many there are.
    async fn unsubscribe_all(&self, key: &QueueKey, now: Timestamp) -> Result<(), Error>;
}
