//! Channels: how messages leave, one a scheme of subscribers.

use std::time::Duration;

use async_trait::async_trait;
use http::HeaderValue;
use serde_json::{Map, Value};
use zaqar_core::{MessageId, QueueKey, Secret, SubscriptionId, Timestamp};

use crate::http::WebhookClient;
use crate::outcome::{Attempt, Failure};
use crate::row::Content;
use crate::signature::SigningKeys;
use crate::target::{Origin, Target};
use crate::webhook::{Notification, request_body, request_headers};

/// A message for one subscriber.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// The queue or topic that it was posted to.
    pub queue: &'a QueueKey,
    /// The subscription.
    pub subscription: SubscriptionId,
    /// Where it goes.
    pub subscriber: &'a str,
    /// The subscription's options.
    pub options: &'a Map<String, Value>,
    /// Signs it, where the subscription asks for that.
    pub signing: Option<&'a SigningKeys>,
    /// The message's id.
    pub message: MessageId,
    /// Seconds that the message lives.
    pub ttl: u64,
    /// What `body` is.
    pub content: Content,
    /// Its body: JSON text.
    pub body: &'a [u8],
    /// For this attempt, where the subscription has a time-out of its own.
    pub timeout: Option<Duration>,
    /// The present.
    pub now: Timestamp,
}

/// Sends messages to subscribers of a scheme.
#[async_trait]
pub trait Channel: Send + Sync {
    /// What bounds and circuits are kept for.
    ///
    /// # Errors
    /// Says why nothing can ever be sent to the subscriber.
    fn origin(&self, subscriber: &str) -> Result<Origin, String>;

    /// Sends once. Ends within the lease of a row (30 s), less some seconds.
    async fn send(&self, outgoing: &Outgoing<'_>) -> Attempt;
}

/// Subscribers `http` and `https`.
#[derive(Debug, Clone)]
pub struct Webhooks {
    client: WebhookClient,
}

impl Webhooks {
    /// Webhooks through a client.
    pub const fn new(client: WebhookClient) -> Self {
        Self { client }
    }
}

#[async_trait]
impl Channel for Webhooks {
    fn origin(&self, subscriber: &str) -> Result<Origin, String> {
        match Target::parse(subscriber) {
            Ok(target) => Ok(target.origin().clone()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn send(&self, outgoing: &Outgoing<'_>) -> Attempt {
        match Target::parse(outgoing.subscriber) {
            Ok(target) => self.send_to(&target, outgoing, None).await,
            Err(error) => Attempt::Failed(Failure::Unusable(error.to_string())),
        }
    }
}

impl Webhooks {
    /// Sends to a target; with a token in `X-Auth-Token` unless the option `post_headers` sets that
    /// header, as in the original.
    pub(crate) async fn send_to(
        &self,
        target: &Target,
        outgoing: &Outgoing<'_>,
        token: Option<&Secret<String>>,
    ) -> Attempt {
        let mut headers = match request_headers(outgoing.options) {
            Ok(headers) => headers,
            Err(error) => return Attempt::Failed(Failure::Unusable(error.to_string())),
        };
        let queue = outgoing.queue.name.as_str();
        let message = match outgoing.content {
            Content::Message | Content::Test => {
                Notification { ttl: outgoing.ttl, body: outgoing.body, queue }.to_json()
            }
            Content::Confirmation => outgoing.body.to_vec(),
        };
        let body = request_body(outgoing.options, message);
        // The same for every attempt, and different for each subscription: receivers can tell
        // duplicates by it.
        let id = format!("{}-{}", outgoing.message, outgoing.subscription);
        if let Some(keys) = outgoing.signing {
            let signature = keys.sign(&id, outgoing.now, &body);
            if let Ok(signature) = signature.parse() {
                headers.insert("webhook-signature", signature);
            }
        }
        if let Ok(id) = id.parse() {
            headers.insert("webhook-id", id);
        }
        headers.insert("webhook-timestamp", outgoing.now.as_secs().into());
        if let Some(token) = token {
            let Ok(mut value) = HeaderValue::from_str(token.expose()) else {
                let text = "the trust's token is no value of a header".to_owned();
                return Attempt::Failed(Failure::Unusable(text));
            };
            value.set_sensitive(true);
            headers.entry("x-auth-token").or_insert(value);
        }
        self.client.post(target, headers, body, outgoing.timeout).await
    }
}
