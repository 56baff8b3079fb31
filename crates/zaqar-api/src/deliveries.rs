//! Operations on the deliveries to one subscriber.

use serde_json::json;
use zaqar_core::delivery::{
    BeginRecovery, Delivery, DeliveryQuery, DeliveryState, Recovery, RecoveryId, RecoveryRange,
    Redelivery, SubscriberHealth,
};
use zaqar_core::storage::Subscription;
use zaqar_core::{MessageId, Payload, QueueKey, SubscriptionId, Timestamp, iso8601};

use crate::{
    Api, CancelRecovery, Context, Error, ListDeliveries, ReadDelivery, ReadRecovery,
    RecoverDeliveries, RetryDelivery, Subscribers, SubscriptionRef, TestSubscription, page_limit,
};

/// A live subscription with an address, and the layer that delivers to it.
struct ServedSubscription<'a> {
    subscribers: &'a dyn Subscribers,
    key: QueueKey,
    id: SubscriptionId,
    subscription: Subscription,
}

impl Api {
    /// Lists deliveries by id. Cost: a read of the subscription's log, which is bounded.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an invalid limit, status or time; [`Error::SubscriptionNotFound`];
    /// [`Error::Storage`].
    pub(crate) async fn list_deliveries(
        &self,
        context: &Context,
        request: ListDeliveries,
    ) -> Result<Vec<Delivery>, Error> {
        let limit = page_limit(request.limit, self.inner.limits.max_subscriptions_per_page)?;
        let state = match request.status.as_deref() {
            None => None,
            Some(name) => Some(DeliveryState::parse(name).ok_or_else(|| {
                Error::request("The status must be pending, delivered, failed or expired.")
            })?),
        };
        let since = time("since", request.since.as_deref())?;
        let served = self.served(context, request.subscription).await?;
        let after = match request.marker.as_deref().map(str::parse) {
            None => None,
            Some(Ok(id)) => Some(id),
            Some(Err(_)) => return Ok(Vec::new()),
        };
        let query = DeliveryQuery { state, since, after, limit };
        served.subscribers.deliveries(&served.key, served.id, &query).await
    }

    /// Reads a delivery.
    ///
    /// # Errors
    /// [`Error::SubscriptionNotFound`]; [`Error::DeliveryNotFound`]; [`Error::Storage`].
    pub(crate) async fn read_delivery(
        &self,
        context: &Context,
        request: ReadDelivery,
    ) -> Result<Delivery, Error> {
        let served = self.served(context, request.subscription).await?;
        let id = delivery(&request.delivery)?;
        let found = served.subscribers.delivery(&served.key, served.id, id).await?;
        found.ok_or(Error::DeliveryNotFound { id: request.delivery })
    }

    /// Schedules a delivery again.
    ///
    /// # Errors
    /// [`Error::SubscriptionNotFound`]; [`Error::DeliveryNotFound`]; [`Error::Conflict`] if its
    /// message is no longer stored; [`Error::Storage`].
    pub(crate) async fn retry_delivery(
        &self,
        context: &Context,
        request: RetryDelivery,
    ) -> Result<(), Error> {
        let served = self.served(context, request.subscription).await?;
        let id = delivery(&request.delivery)?;
        match served.subscribers.redeliver(&served.key, served.id, id).await? {
            Redelivery::Scheduled => Ok(()),
            Redelivery::Unknown => Err(Error::DeliveryNotFound { id: request.delivery }),
            Redelivery::Ended(state) => Err(Error::Conflict {
                reason: format!(
                    "The delivery has ended as {}, and its message is no longer stored.",
                    state.as_str()
                ),
            }),
        }
    }

    /// Starts a recovery, which delivers failed messages again.
    ///
    /// # Errors
    /// [`Error::Invalid`] for invalid times; [`Error::SubscriptionNotFound`]; [`Error::Conflict`]
    /// while another recovery runs; [`Error::Contended`]; [`Error::Storage`].
    pub(crate) async fn recover_deliveries(
        &self,
        context: &Context,
        request: RecoverDeliveries,
    ) -> Result<Recovery, Error> {
        let since = time("since", request.since.as_deref())?;
        let until = time("until", request.until.as_deref())?;
        let served = self.served(context, request.subscription).await?;
        let range = RecoveryRange { since, until };
        match served.subscribers.recover(&served.key, served.id, range).await? {
            BeginRecovery::Begun(recovery) => Ok(recovery),
            BeginRecovery::Runs(id) => Err(Error::Conflict {
                reason: format!("The recovery {id} of the subscription is running."),
            }),
            BeginRecovery::Contended => Err(Error::Contended),
        }
    }

    /// Reads the progress of a recovery.
    ///
    /// # Errors
    /// [`Error::SubscriptionNotFound`]; [`Error::RecoveryNotFound`]; [`Error::Storage`].
    pub(crate) async fn read_recovery(
        &self,
        context: &Context,
        request: ReadRecovery,
    ) -> Result<Recovery, Error> {
        let served = self.served(context, request.subscription).await?;
        let id = recovery(&request.delivery)?;
        let found = served.subscribers.recovery(&served.key, served.id, id).await?;
        found.ok_or(Error::RecoveryNotFound { id: request.delivery })
    }

    /// Cancels a recovery.
    ///
    /// # Errors
    /// [`Error::SubscriptionNotFound`]; [`Error::RecoveryNotFound`]; [`Error::Storage`].
    pub(crate) async fn cancel_recovery(
        &self,
        context: &Context,
        request: CancelRecovery,
    ) -> Result<(), Error> {
        let served = self.served(context, request.subscription).await?;
        let id = recovery(&request.delivery)?;
        match served.subscribers.cancel_recovery(&served.key, served.id, id).await? {
            true => Ok(()),
            false => Err(Error::RecoveryNotFound { id: request.delivery }),
        }
    }

    /// Reads the health of a subscriber.
    ///
    /// # Errors
    /// [`Error::SubscriptionNotFound`]; [`Error::Storage`].
    pub(crate) async fn subscriber_health(
        &self,
        context: &Context,
        request: SubscriptionRef,
    ) -> Result<SubscriberHealth, Error> {
        let id = request.id.clone();
        let served = self.served(context, request).await?;
        let found = served.subscribers.health(&served.key, served.id).await?;
        found.ok_or(Error::SubscriptionNotFound { id })
    }

    /// Resumes delivery to a suspended or failing subscriber.
    ///
    /// # Errors
    /// [`Error::SubscriptionNotFound`]; [`Error::Storage`].
    pub(crate) async fn resume_subscription(
        &self,
        context: &Context,
        request: SubscriptionRef,
    ) -> Result<(), Error> {
        let served = self.served(context, request).await?;
        served.subscribers.resume(&served.key, served.id).await
    }

    /// Sends a test message, and returns its id.
    ///
    /// # Errors
    /// [`Error::SubscriptionNotFound`]; [`Error::Conflict`] if the subscriber must confirm first;
    /// [`Error::Storage`].
    pub(crate) async fn test_subscription(
        &self,
        context: &Context,
        request: TestSubscription,
    ) -> Result<MessageId, Error> {
        let served = self.served(context, request.subscription).await?;
        if !served.subscription.confirmed && served.subscribers.requires_confirmation() {
            let reason = "The subscriber has not confirmed the subscription.".to_owned();
            return Err(Error::Conflict { reason });
        }
        let body = request.body.unwrap_or_else(|| json!({ "test": true }));
        let body = Payload::plain(body.to_string().into());
        served.subscribers.test(&served.key, served.id, body).await
    }

    /// The subscription that a request names, if this server delivers to it.
    async fn served(
        &self,
        context: &Context,
        request: SubscriptionRef,
    ) -> Result<ServedSubscription<'_>, Error> {
        let unknown = || Error::SubscriptionNotFound { id: request.id.clone() };
        let id = request.id.parse().map_err(|_| unknown())?;
        let key = context.key(request.queue);
        let now = self.inner.clock.now();
        let found = self.inner.messages.subscription(&key, id, now).await?;
        let subscription = found.ok_or_else(unknown)?;
        match self.subscribers() {
            Some(subscribers) if subscription.lease.is_none() => {
                Ok(ServedSubscription { subscribers, key, id, subscription })
            }
            Some(_) | None => Err(Error::Conflict {
                reason: "The subscriber is a connection, or this server delivers nothing."
                    .to_owned(),
            }),
        }
    }
}

fn delivery(id: &str) -> Result<MessageId, Error> {
    id.parse().map_err(|_| Error::DeliveryNotFound { id: id.to_owned() })
}

fn recovery(id: &str) -> Result<RecoveryId, Error> {
    id.parse().map_err(|_| Error::RecoveryNotFound { id: id.to_owned() })
}

/// Parses a time parameter.
fn time(name: &str, text: Option<&str>) -> Result<Option<Timestamp>, Error> {
    let parsed = text.map(iso8601::parse).transpose();
    parsed.map_err(|error| Error::request(format!("The {name} is {error}.")))
}
