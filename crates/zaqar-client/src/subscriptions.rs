//! Subscriptions of a queue or topic, and their deliveries.

use futures_core::Stream;
use http::Method;
use serde::Serialize;
use serde_json::{Value, json};

use crate::Error;
use crate::client::{Call, Client};
use crate::pages;
use crate::query::{Query, encoded};
use crate::resource::{Kind, Resource};
use crate::retry::Repeat;
use crate::types::{
    Delivery, DeliveryFilter, DeliveryList, DeliverySummary, MessageId, NewSubscription, Recovery,
    RecoveryId, RecoveryRange, Subscribed, SubscriberHealth, Subscription, SubscriptionChange,
    SubscriptionId, SubscriptionList,
};

/// One subscription, by its id.
///
/// ```
/// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/mod.rs")); }
/// # use support::*;
/// # block_on(async |client: zaqar_client::Client| {
/// use zaqar_client::NewSubscription;
///
/// let queue = client.queue("alarms")?;
/// let new = NewSubscription::new("mailto:ops@example.org").ttl(3600);
/// let subscribed = queue.subscribe(&new).await?;
/// let subscription = queue.subscription(&subscribed.subscription_id);
/// assert_eq!(subscription.get().await?.subscriber, "mailto:ops@example.org");
/// assert_eq!(subscription.health().await?.state, "ok");
/// subscription.delete().await?;
/// # Ok(()) });
/// ```
#[derive(Debug, Clone)]
pub struct SubscriptionHandle {
    client: Client,
    path: String,
}

impl<K: Kind> Resource<K> {
    /// Subscribes an address. While the subscriber has not confirmed, again answers the same
    /// subscription.
    ///
    /// # Errors
    /// 409 where the subscriber has a confirmed subscription; 400 for an address that the server
    /// does not send to.
    pub async fn subscribe(&self, new: &NewSubscription) -> Result<Subscribed, Error> {
        let call = Call::new(Method::POST, self.path("/subscriptions")).body(new)?;
        self.client.call(call).await?.json()
    }

    /// Its subscriptions by id.
    pub fn subscriptions(
        &self,
    ) -> impl Stream<Item = Result<Subscription, Error>> + Send + Unpin + use<K> {
        pages::rows::<SubscriptionList>(self.client.clone(), self.path("/subscriptions"))
    }

    /// One subscription, which need not be there.
    pub fn subscription(&self, id: &SubscriptionId) -> SubscriptionHandle {
        let path = self.path(&format!("/subscriptions/{}", encoded(id.as_str())));
        SubscriptionHandle { client: self.client.clone(), path }
    }
}

impl SubscriptionHandle {
    fn below(&self, path: &str) -> String {
        format!("{}{path}", self.path)
    }

    async fn act(
        &self,
        method: Method,
        below: &str,
        document: Option<&impl Serialize>,
        repeat: Repeat,
    ) -> Result<crate::http::Answer, Error> {
        let mut call = Call::new(method, self.below(below)).repeat(repeat);
        if let Some(document) = document {
            call = call.body(document)?;
        }
        self.client.call(call).await
    }

    /// Reads it.
    ///
    /// # Errors
    /// 404 where it is not there.
    pub async fn get(&self) -> Result<Subscription, Error> {
        self.client.call(Call::get(&self.path)).await?.json()
    }

    /// Changes it.
    ///
    /// # Errors
    /// 404 where it is not there, 409 where another has the new address.
    pub async fn change(&self, change: &SubscriptionChange) -> Result<(), Error> {
        self.act(Method::PATCH, "", Some(change), Repeat::Safe).await.map(drop)
    }

    /// Ends it. One that is not there is no error.
    ///
    /// # Errors
    /// Those of any request.
    pub async fn delete(&self) -> Result<(), Error> {
        self.act(Method::DELETE, "", None::<&Value>, Repeat::Safe).await.map(drop)
    }

    /// Says whether the subscriber agrees.
    ///
    /// # Errors
    /// 404 where it is not there.
    pub async fn confirm(&self, agrees: bool) -> Result<(), Error> {
        let document = json!({"confirmed": agrees});
        self.act(Method::PUT, "/confirm", Some(&document), Repeat::Safe).await.map(drop)
    }

    /// Makes a new signing secret; the one before signs too for `grace` seconds, a day where it is
    /// `None`.
    ///
    /// # Errors
    /// 409 where its webhooks are not signed.
    pub async fn rotate_secret(&self, grace: Option<u64>) -> Result<String, Error> {
        #[derive(serde::Deserialize)]
        struct Rotated {
            secret: String,
        }
        let document = json!({"grace": grace});
        let answer = self.act(Method::POST, "/secret", Some(&document), Repeat::Unsafe).await?;
        Ok(answer.json::<Rotated>()?.secret)
    }

    /// How the subscriber does.
    ///
    /// # Errors
    /// 404 where it is not there.
    pub async fn health(&self) -> Result<SubscriberHealth, Error> {
        self.client.call(Call::get(self.below("/health"))).await?.json()
    }

    /// Sends again to a subscriber that was suspended, and at once to one that fails.
    ///
    /// # Errors
    /// 404 where it is not there.
    pub async fn resume(&self) -> Result<(), Error> {
        self.act(Method::POST, "/resume", None::<&Value>, Repeat::Safe).await.map(drop)
    }

    /// Sends a message that was not posted, and returns its delivery.
    ///
    /// # Errors
    /// 404 where it is not there.
    pub async fn test(&self, body: impl Serialize) -> Result<MessageId, Error> {
        #[derive(serde::Deserialize)]
        struct Sent {
            delivery_id: MessageId,
        }
        #[derive(Serialize)]
        struct Test<B> {
            body: B,
        }
        let answer = self.act(Method::POST, "/test", Some(&Test { body }), Repeat::Unsafe).await?;
        Ok(answer.json::<Sent>()?.delivery_id)
    }

    /// What became of its last messages.
    pub fn deliveries(
        &self,
        filter: &DeliveryFilter,
    ) -> impl Stream<Item = Result<DeliverySummary, Error>> + Send + Unpin + use<> {
        let query = Query::new(self.below("/deliveries"))
            .with_some("status", filter.status.as_deref())
            .with_some("since", filter.since.as_deref())
            .with_number("limit", filter.page);
        pages::rows::<DeliveryList>(self.client.clone(), query.end())
    }

    /// What became of one message.
    ///
    /// # Errors
    /// 404 where the log does not have it.
    pub async fn delivery(&self, id: &MessageId) -> Result<Delivery, Error> {
        let path = self.below(&format!("/deliveries/{}", encoded(id.as_str())));
        self.client.call(Call::get(path)).await?.json()
    }

    /// Delivers a message once more that failed, or now that waits.
    ///
    /// # Errors
    /// 409 where it was delivered or has expired.
    pub async fn retry_delivery(&self, id: &MessageId) -> Result<(), Error> {
        let below = format!("/deliveries/{}/retry", encoded(id.as_str()));
        self.act(Method::POST, &below, None::<&Value>, Repeat::Unsafe).await.map(drop)
    }

    /// Begins to deliver once more what failed and is still kept. See [`Self::recovery`] for how
    /// far that is.
    ///
    /// # Errors
    /// 409 while another one is running.
    pub async fn recover(&self, range: &RecoveryRange) -> Result<Recovery, Error> {
        self.act(Method::POST, "/recover", Some(range), Repeat::Unsafe).await?.json()
    }

    /// How far a recovery is.
    ///
    /// # Errors
    /// 404 where it is not there: the last one is kept.
    pub async fn recovery(&self, id: &RecoveryId) -> Result<Recovery, Error> {
        self.client.call(Call::get(self.recovery_path(id))).await?.json()
    }

    /// Has a recovery take no more deliveries.
    ///
    /// # Errors
    /// 404 where it is not there.
    pub async fn cancel_recovery(&self, id: &RecoveryId) -> Result<(), Error> {
        self.client.call(Call::new(Method::DELETE, self.recovery_path(id))).await.map(drop)
    }

    fn recovery_path(&self, id: &RecoveryId) -> String {
        self.below(&format!("/recover/{}", encoded(id.as_str())))
    }
}
