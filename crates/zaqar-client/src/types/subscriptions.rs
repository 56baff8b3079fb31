//! Subscriptions and what became of their messages.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Id, Link, MessageId, Object, SubscriptionId};
use crate::auth::Stars;

/// A subscription.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Subscription {
    /// Its id.
    pub id: SubscriptionId,
    /// The queue or topic.
    pub source: String,
    /// Where messages are sent.
    pub subscriber: String,
    /// Seconds that it lives.
    pub ttl: u64,
    /// Seconds since its life began.
    #[serde(deserialize_with = "super::age")]
    pub age: u64,
    /// As they were given.
    #[serde(default)]
    pub options: Object,
    /// Whether the subscriber agreed.
    #[serde(default)]
    pub confirmed: bool,
}

/// A subscription to make.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NewSubscription {
    subscriber: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u64>,
    options: Object,
}

impl NewSubscription {
    /// Of an address: `https://…`, `mailto:…`.
    pub fn new(subscriber: impl Into<String>) -> Self {
        Self { subscriber: subscriber.into(), ttl: None, options: Object::new() }
    }

    /// Seconds that it lives.
    #[must_use]
    pub const fn ttl(mut self, seconds: u64) -> Self {
        self.ttl = Some(seconds);
        self
    }

    /// One option more: `signing`, `filter`, `post_headers`, …
    #[must_use]
    pub fn option(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.options.insert(name.to_owned(), value.into());
        self
    }
}

/// What the creation of a subscription answers.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribed {
    /// The subscription.
    pub subscription_id: SubscriptionId,
    /// The secret that signs its webhooks, with the option `signing`. No other answer shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

impl fmt::Debug for Subscribed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscribed")
            .field("subscription_id", &self.subscription_id)
            .field("secret", &self.secret.as_ref().map(|_| Stars))
            .finish()
    }
}

/// A change of a subscription; what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SubscriptionChange {
    /// Another address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscriber: Option<String>,
    /// A new life of so many seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u64>,
    /// Other options instead of all that are there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<Object>,
}

/// Which deliveries a list shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeliveryFilter {
    /// `pending`, `delivered`, `failed` or `expired`.
    pub status: Option<String>,
    /// Those that changed at this time of ISO 8601, or later.
    pub since: Option<String>,
    /// Deliveries of a page.
    pub page: Option<u32>,
}

/// What became of one message for one subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliverySummary {
    /// The message.
    pub id: MessageId,
    /// `pending`, `delivered`, `failed` or `expired`.
    pub status: String,
    /// When the message was posted, in UTC.
    pub posted: String,
    /// When the status changed, in UTC.
    pub changed: String,
    /// How often it was tried.
    pub attempt_count: u64,
}

/// A delivery with its attempts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// What a list shows of it.
    #[serde(flatten)]
    pub summary: DeliverySummary,
    /// The attempts, first to last.
    pub attempts: Vec<Attempt>,
}

/// One attempt to deliver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it began, in UTC.
    pub at: String,
    /// How long it took.
    pub milliseconds: u64,
    /// The status of the answer, if there was one.
    pub status: Option<u16>,
    /// Why there was none.
    pub error: Option<String>,
    /// The beginning of the answer's body.
    pub answer: String,
}

/// How a subscriber does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriberHealth {
    /// `ok`, `failing` or `suspended`.
    pub state: String,
    /// When a failing one is tried next, in UTC.
    pub next_attempt: Option<String>,
    /// Messages that wait.
    pub waiting: u64,
    /// Deliveries in the log that succeeded.
    pub delivered: u64,
    /// Deliveries in the log that failed for good.
    pub failed: u64,
    /// Deliveries in the log whose message expired first.
    pub expired: u64,
    /// When one succeeded last, in UTC.
    pub last_delivered: Option<String>,
    /// When one failed last, in UTC.
    pub last_failed: Option<String>,
}

/// The id of a recovery.
pub type RecoveryId = Id<Recovery>;

/// Which failed deliveries to deliver once more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RecoveryRange {
    /// Of messages posted at this time of ISO 8601 or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Of messages posted before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// How far the delivery of what failed is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// Its id.
    pub id: RecoveryId,
    /// `running`, `cancelled`, or `done`: all were taken, and each is tried as any delivery.
    pub status: String,
    /// Only messages posted then or later, in UTC.
    pub since: Option<String>,
    /// Only messages posted before, in UTC.
    pub until: Option<String>,
    /// When it began, in UTC.
    pub started: String,
    /// Deliveries that it takes.
    pub total: u64,
    /// Those of them that it has not taken yet.
    pub remaining: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SubscriptionList {
    pub(crate) subscriptions: Vec<Subscription>,
    #[serde(default)]
    pub(crate) links: Vec<Link>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DeliveryList {
    pub(crate) deliveries: Vec<DeliverySummary>,
    #[serde(default)]
    pub(crate) links: Vec<Link>,
}
