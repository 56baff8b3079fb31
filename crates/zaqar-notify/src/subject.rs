//! A subscription as the workers need it: read from the store, with its options parsed.

use serde_json::{Map, Value};
use zaqar_core::storage::{Error, Subscription};

use crate::announce;
use crate::context::Context;
use crate::delivery_options::DeliveryOptions;
use crate::events::EventKind;
use crate::filter::Filter;
use crate::retry::{RetryPolicy, Schedule};
use crate::row::SubscriptionKey;
use crate::secrets;
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
    /// Reads a subscription; `None` if it is gone.
    pub(crate) async fn read(
        context: &Context,
        key: &SubscriptionKey,
    ) -> Result<Option<Self>, Error> {
        let now = context.parts.clock.now();
        let found = context.parts.messages.subscription(&key.queue, key.id, now).await?;
        let Some(subscription) = found else { return Ok(None) };
        let row = context.parts.management.get(&key.queue).await?;
        let of_queue = row.as_ref().and_then(|row| row.metadata.as_object().get("_retry_policy"));
        let options: Map<String, Value> =
            serde_json::from_str(&subscription.options).unwrap_or_default();
        let policy = RetryPolicy::effective(options.get("_retry_policy"), of_queue);
        let schedule = Schedule { policy, tail: context.options.tail };
        // Options were checked on subscribing; an invalid one from before that check has no effect.
        let filter = options.get("filter").and_then(|filter| Filter::parse(filter).ok());
        let delivery = DeliveryOptions::parse(&options).unwrap_or_default();
        let keys = match delivery.signing {
            Some(_) => secrets::read(context, key, now).await?,
            None => None,
        };
        let channel = context.channel(&subscription.subscriber);
        let takes_batches = channel.is_some_and(|channel| channel.takes_batches());
        let origin = match channel {
            Some(channel) => channel.origin(&subscription.subscriber),
            None => Err("no channel is configured for its scheme".to_owned()),
        };
        let key = key.clone();
        Ok(Some(Self {
            key,
            subscription,
            options,
            schedule,
            filter,
            delivery,
            keys,
            takes_batches,
            origin,
        }))
    }

    /// Posts an event, if the subscription names a queue for that.
    pub(crate) async fn tell(&self, context: &Context, happened: &EventKind) -> Result<(), Error> {
        let about = (self.subscription.subscriber.as_str(), &self.options);
        announce::tell(context, &self.key, about, happened).await
    }

    /// Messages of one request, at most; `None` if they are sent one by one.
    pub(crate) fn batch(&self) -> Option<usize> {
        self.delivery.batch.filter(|_| self.takes_batches)
    }
}
