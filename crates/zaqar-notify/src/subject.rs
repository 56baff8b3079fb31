//! A subscription as the workers need it, with its options parsed.

use serde_json::{Map, Value};
use zaqar_core::storage::Subscription;

use crate::delivery_options::DeliveryOptions;
use crate::filter::Filter;
use crate::retry::Schedule;
use crate::row::SubscriptionKey;
use crate::signature::SigningKeys;
use crate::target::Origin;

/// A subscription that was read recently.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) key: SubscriptionKey,
    pub(crate) subscription: Subscription,
    pub(crate) options: Map<String, Value>,
    pub(crate) schedule: Schedule,
    pub(crate) filter: Option<Filter>,
    pub(crate) delivery: DeliveryOptions,
    /// Signing keys for its webhooks; `None` also if they cannot be read.
    pub(crate) keys: Option<SigningKeys>,
    /// Whether its channel can send several messages at once.
    pub(crate) takes_batches: bool,
    /// The origin that limits apply to, or why nothing can be sent.
    pub(crate) origin: Result<Origin, String>,
}

impl Subject {
    /// Bytes of what users wrote of it.
    pub(crate) fn size(&self) -> usize {
        self.subscription.options.len() + self.subscription.subscriber.len()
    }

    /// Whether it is sent to as another state of it is: at the same address, with the same options,
    /// keys and retries.
    pub(crate) fn sends_as(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.subscription, &other.subscription);
        ours.subscriber == theirs.subscriber
            && ours.options == theirs.options
            && self.schedule == other.schedule
            && self.keys == other.keys
    }

    /// Messages of one request, at most; `None` if they are sent one by one.
    pub(crate) fn batch(&self) -> Option<usize> {
        self.delivery.batch.filter(|_| self.takes_batches)
    }
}
