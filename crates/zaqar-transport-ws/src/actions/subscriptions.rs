//! Subscriptions.

use bytes::BytesMut;
use serde_json::{Map, Value};
use zaqar_api::{
    CreateSubscription, CreatedSubscription, DeleteSubscription, Error, ListSubscriptions,
    PushHandle, QueueRef, ReadSubscription, Subscriber, SubscriptionRef, json,
};
use zaqar_core::QueueKey;

use super::{Exchange, HandlerResult};
use crate::error::WsError;
use crate::reply::{self, Reply};

impl Exchange {
    /// Subscribes an address, or else the connection, which can have one subscription per queue.
    pub(super) async fn create_subscription(&self) -> HandlerResult {
        let queue = self.queue()?;
        let connection = self.context.connection.clone();
        let subscriber = match connection.filter(|_| self.request.subscribes_connection()) {
            None => Subscriber::Address(self.text("subscriber")),
            Some(connection) => {
                self.check_not_subscribed(&connection, &queue).await?;
                Subscriber::Connection(connection)
            }
        };
        let name = queue.name.clone();
        let body = &self.request.body;
        let options = body.get("options").and_then(|options| serde_json::from_slice(options).ok());
        let options: Map<String, Value> = options.unwrap_or_default();
        let request = CreateSubscription { queue, subscriber, ttl: body.integer("ttl"), options };
        let CreatedSubscription { id, secret } = self.call(request).await?;
        let message = format!("Subscription {name} created.");
        let mut body = serde_json::json!({ "subscription_id": id.to_string(), "message": message });
        if let Some(secret) = secret {
            body["secret"] = secret.expose().as_str().into();
        }
        Ok(Reply::json(201, body))
    }

    async fn check_not_subscribed(
        &self,
        connection: &PushHandle,
        queue: &QueueRef,
    ) -> Result<(), WsError> {
        let QueueRef { kind, name } = queue.clone();
        let key = QueueKey { project: self.context.project.clone(), kind, name };
        let Some(earlier) = connection.subscription(&key) else { return Ok(()) };
        let subscription = SubscriptionRef { queue: queue.clone(), id: earlier.to_string() };
        match self.call(ReadSubscription { subscription }).await {
            Ok(_) => Err(Error::SubscriptionExists.into()),
            Err(Error::SubscriptionNotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn list_subscriptions(&self) -> HandlerResult {
        let queue = self.queue()?;
        let source = queue.name.clone();
        let limit = self.lenient_integer("limit")?;
        let request = ListSubscriptions { queue, marker: self.request.body.text("marker"), limit };
        let list = self.call(request).await?;
        Ok(Reply::new(200, reply::subscriptions(&self.turns, &source, &list, self.now()).await))
    }

    pub(super) async fn get_subscription(&self) -> HandlerResult {
        let queue = self.queue()?;
        let source = queue.name.clone();
        let subscription = SubscriptionRef { queue, id: self.text("subscription_id") };
        let found = self.call(ReadSubscription { subscription }).await?;
        let mut out = BytesMut::new();
        json::subscription(&mut out, source.as_str(), &found, self.now());
        Ok(Reply::new(200, out))
    }

    pub(super) async fn delete_subscription(&self) -> HandlerResult {
        let (queue, id) = (self.queue()?, self.text("subscription_id"));
        let text = format!("Subscription {id} removed.");
        let subscription = SubscriptionRef { queue, id };
        self.call(DeleteSubscription { subscription }).await?;
        Ok(Reply::json(204, text.into()))
    }
}
