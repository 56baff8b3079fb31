//! Queries and actions on the deliveries of one subscription.

use zaqar_core::delivery::{
    Delivery, DeliveryAttempt, DeliveryQuery, DeliveryState, Redelivery, SubscriberHealth,
    SubscriberState,
};
use zaqar_core::storage::Error;
use zaqar_core::{Incarnation, MessageId, Payload, Position, QueueKey, SubscriptionId, Timestamp};

use crate::context::Context;
use crate::destination::Circuit;
use crate::log_store;
use crate::row::{Body, Content, Row, SubscriptionKey, Ticket};
use crate::workers::Handle;

/// How long a test message lives, in seconds.
const TEST_TTL: u64 = 3600;

impl Handle {
    /// Lists the known deliveries of a subscription by id: about [`crate::Options::log`] that have
    /// ended or have failed once, and the first thousand that wait, fewer if their messages are
    /// large. On other servers the log is half a second late.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn deliveries(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        query: &DeliveryQuery,
    ) -> Result<Vec<Delivery>, Error> {
        let known = log_store::read(self.context(), &key(queue, id)).await?;
        let is_shown = |one: &Delivery| {
            query.after.is_none_or(|after| one.id > after)
                && query.state.is_none_or(|state| one.state == state)
                && query.since.is_none_or(|since| one.changed >= since)
        };
        let all = known.into_values().map(|known| known.delivery);
        Ok(all.filter(is_shown).take(query.limit).collect())
    }

    /// One delivery; `None` if it is not known.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn delivery(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        message: MessageId,
    ) -> Result<Option<Delivery>, Error> {
        let mut known = log_store::read(self.context(), &key(queue, id)).await?;
        Ok(known.remove(&message).map(|known| known.delivery))
    }

    /// Delivers a failed message again, or retries a waiting one now.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn redeliver(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        message: MessageId,
    ) -> Result<Redelivery, Error> {
        let (context, key) = (self.context(), key(queue, id));
        let known = log_store::read(context, &key).await?.remove(&message);
        let Some(known) = known else { return Ok(Redelivery::Unknown) };
        let now = context.parts.clock.now();
        match (known.delivery.state, known.waits, known.kept) {
            (DeliveryState::Pending, Some((_, claim)), _) => {
                if let Some(claim) = claim {
                    context.deliveries.hasten(&key, claim, now).await?;
                }
            }
            (DeliveryState::Failed, _, Some(kept)) => {
                let row = context.deliveries.kept(&key, kept, now).await?;
                let Some(row) = row.filter(|row| row.expires() > now) else {
                    return Ok(Redelivery::Ended(DeliveryState::Failed));
                };
                context.deliveries.add(&key, &[(row, now)], now).await?;
                context.deliveries.drop_kept(&key, &[kept], now).await?;
            }
            (state, _, _) => return Ok(Redelivery::Ended(state)),
        }
        serve_now(context, key, now).await?;
        Ok(Redelivery::Scheduled)
    }

    /// Sends a test message through all steps of a delivery except the filter. Returns its id.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn test(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        body: Payload,
    ) -> Result<MessageId, Error> {
        let (context, key) = (self.context(), key(queue, id));
        let now = context.parts.clock.now();
        let message = MessageId {
            incarnation: Incarnation::new(rand::random::<u64>() >> 1),
            position: Position::new(0),
        };
        let (content, body) = (Content::Test, Body::Here(body));
        let row = Row { message, ttl: TEST_TTL, created: now, content, body };
        context.deliveries.add(&key, &[(row, now)], now).await?;
        serve_now(context, key, now).await?;
        Ok(message)
    }

    /// The health of a subscriber; `None` if the subscription is gone.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn health(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
    ) -> Result<Option<SubscriberHealth>, Error> {
        let (context, key) = (self.context(), key(queue, id));
        let now = context.parts.clock.now();
        let found = context.parts.messages.subscription(queue, id, now).await?;
        let Some(subscription) = found else { return Ok(None) };
        let (waiting, is_suspended) = context.deliveries.waiting(&key, now).await?;
        let channel = context.channel(&subscription.subscriber);
        let origin = channel.and_then(|channel| channel.origin(&subscription.subscriber).ok());
        let project = &queue.project;
        let destination = origin.and_then(|one| context.fairness.destination(project, &one, now));
        let state = match destination.map(|destination| destination.circuit()) {
            _ if is_suspended => SubscriberState::Suspended,
            Some(Circuit::Open { probe }) => SubscriberState::Failing(probe),
            Some(Circuit::Ok) | None => SubscriberState::Ok,
        };
        let known = log_store::read(context, &key).await?;
        let count = |state| {
            let of_state = known.values().filter(|known| known.delivery.state == state);
            u64::try_from(of_state.count()).unwrap_or(u64::MAX)
        };
        let attempts = || known.values().flat_map(|known| &known.delivery.attempts);
        let last = |is_good: bool| {
            let of_kind = attempts().filter(|attempt| succeeded(attempt) == is_good);
            of_kind.map(|attempt| attempt.at).max()
        };
        Ok(Some(SubscriberHealth {
            state,
            waiting,
            delivered: count(DeliveryState::Delivered),
            failed: count(DeliveryState::Failed),
            expired: count(DeliveryState::Expired),
            last_delivered: last(true),
            last_failed: last(false),
        }))
    }
}

fn succeeded(attempt: &DeliveryAttempt) -> bool {
    attempt.status.is_some_and(|status| (200..300).contains(&status))
}

pub(crate) fn key(queue: &QueueKey, id: SubscriptionId) -> SubscriptionKey {
    SubscriptionKey { queue: queue.clone(), id }
}

/// Schedules a subscription to be served now, by any worker.
pub(crate) async fn serve_now(
    context: &Context,
    key: SubscriptionKey,
    now: Timestamp,
) -> Result<(), Error> {
    let ticket = Ticket { subscription: key, keeps: false };
    context.deliveries.schedule(&[ticket], now, now).await
}
