//! Reads subscriptions as the workers need them, from the cache where it has them.

use serde_json::{Map, Value};
use zaqar_core::storage::Error;

use crate::announce;
use crate::context::Context;
use crate::delivery_options::DeliveryOptions;
use crate::events::EventKind;
use crate::filter::Filter;
use crate::retry::{RetryPolicy, Schedule};
use crate::row::SubscriptionKey;
use crate::secrets;
use crate::subject::Subject;
use crate::subjects::{Moment, Read};

/// A subscription that is current, from the cache if it has it; `None` if it is gone.
pub(crate) async fn current(
    context: &Context,
    key: &SubscriptionKey,
) -> Result<Option<Read>, Error> {
    match context.subjects.current(key, context.parts.clock.now()) {
        Some(read) => Ok(Some(read)),
        None => read(context, key).await,
    }
}

/// A subscription as it is after a moment; `None` if it is gone.
pub(crate) async fn after(
    context: &Context,
    key: &SubscriptionKey,
    moment: Moment,
) -> Result<Option<Read>, Error> {
    match context.subjects.after(key, moment) {
        Some(read) => Ok(Some(read)),
        None => read(context, key).await,
    }
}

/// Whether a subscription has changed since `subject` was read. Asked after an attempt that would
/// end messages, or suspend the subscription: neither follows from an address that it had before.
pub(crate) async fn has_changed(context: &Context, subject: &Subject) -> Result<bool, Error> {
    let now = context.subjects.moment();
    let read = after(context, &subject.key, now).await?;
    Ok(read.is_some_and(|read| !read.subject.sends_as(subject)))
}

async fn read(context: &Context, key: &SubscriptionKey) -> Result<Option<Read>, Error> {
    let (moment, at) = (context.subjects.moment(), context.parts.clock.now());
    let Some(subject) = read_stored(context, key).await? else {
        context.subjects.forget(key);
        return Ok(None);
    };
    Ok(Some(context.subjects.add(subject, moment, at)))
}

async fn read_stored(context: &Context, key: &SubscriptionKey) -> Result<Option<Subject>, Error> {
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
    Ok(Some(Subject {
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

impl Subject {
    /// Posts an event, if the subscription names a queue for that.
    pub(crate) async fn tell(&self, context: &Context, happened: &EventKind) -> Result<(), Error> {
        let about = (self.subscription.subscriber.as_str(), &self.options);
        announce::tell(context, &self.key, about, happened).await
    }
}
