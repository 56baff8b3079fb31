//! What requests and answers say, as Rust types.
//!
//! Answers may have more members than the types: a newer server is no error. A test holds the types
//! against `docs/api/openapi.yaml`.

use std::fmt;
use std::marker::PhantomData;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

mod messages;
mod pools;
mod queues;
mod quotas;
mod subscriptions;

pub use messages::{Body, Listed, Message, NewMessage, Popped};
pub use pools::{
    Flavor, Health, MessageVolume, OperationStatus, Pool, PoolChange, PoolDrain, PoolsHealth,
    QueueMove, QueueToMove, StoreHealth,
};
pub use queues::{
    ClaimInfo, End, MetadataChange, QueueEntry, QueueFilter, QueuePage, Share, SharedPath, Stats,
};
pub use quotas::{ManagedQuotas, QuotaChange, Quotas};
pub use subscriptions::{
    Attempt, Delivery, DeliveryFilter, DeliverySummary, NewSubscription, Recovery, RecoveryId,
    RecoveryRange, Subscribed, SubscriberHealth, Subscription, SubscriptionChange,
};

pub(crate) use messages::{MessageList, PoppedList, Post, Posted};
pub(crate) use pools::{FlavorList, PoolList};
pub(crate) use queues::{ClaimTimes, StatsDocument};
pub(crate) use quotas::QuotaList;
pub(crate) use subscriptions::{DeliveryList, SubscriptionList};

/// A JSON object.
pub type Object = Map<String, Value>;

/// Seconds since something began. The original looks at its clock before it waits for its store, so
/// that an age can be a second below zero there.
fn age<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Ok(u64::try_from(i64::deserialize(deserializer)?).unwrap_or(0))
}

/// The id of a `T`, as the server made it.
#[derive(Serialize, Deserialize)]
#[serde(transparent, bound = "")]
pub struct Id<T> {
    text: String,
    #[serde(skip)]
    of: PhantomData<fn() -> T>,
}

impl<T> Id<T> {
    /// An id that the server gave earlier.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), of: PhantomData }
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl<T> Clone for Id<T> {
    fn clone(&self) -> Self {
        Self::new(self.text.clone())
    }
}

impl<T> PartialEq for Id<T> {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl<T> Eq for Id<T> {}

impl<T> PartialOrd for Id<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Id<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

impl<T> std::hash::Hash for Id<T> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl<T> fmt::Debug for Id<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<T> fmt::Display for Id<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The id of a message, which is also a marker.
pub type MessageId = Id<Message>;
/// The id of a claim.
pub type ClaimId = Id<ClaimInfo>;
/// The id of a subscription.
pub type SubscriptionId = Id<Subscription>;

/// A link of a page.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Link {
    pub(crate) rel: String,
    pub(crate) href: String,
}

/// Where the next page is.
pub(crate) fn next(links: &[Link]) -> Option<&str> {
    links.iter().find(|link| link.rel == "next").map(|link| link.href.as_str())
}

#[cfg(test)]
mod tests;
