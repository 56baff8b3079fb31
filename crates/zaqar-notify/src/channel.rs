//! Channels: how messages are sent, one channel for each scheme of subscribers.

use std::time::Duration;

use async_trait::async_trait;
use http::HeaderValue;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use zaqar_core::{MemoryBudget, MessageId, QueueKey, Secret, SubscriptionId, Timestamp};

use crate::http::WebhookClient;
use crate::memory::{RequestMemory, WAIT};
use crate::outcome::{Attempt, Failure};
use crate::row::Content;
use crate::signature::SigningKeys;
use crate::target::{Origin, Target};
use crate::webhook::{Notification, RequestBody, request_headers, to_array};

/// A message to send.
#[derive(Debug, Clone, Copy)]
pub struct OutgoingMessage<'a> {
    /// Its id.
    pub id: MessageId,
    /// How long it lives, in seconds.
    pub ttl: u64,
    /// The kind of `body`.
    pub content: Content,
    /// Its body: JSON text.
    pub body: &'a [u8],
}

/// Messages for one subscriber, in one request.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// The queue or topic that the messages were posted to.
    pub queue: &'a QueueKey,
    /// The subscription.
    pub subscription: SubscriptionId,
    /// The subscriber's URI.
    pub subscriber: &'a str,
    /// The subscription's options.
    pub options: &'a Map<String, Value>,
    /// The signing keys, if the subscription asks for signatures.
    pub signing: Option<&'a SigningKeys>,
    /// The messages: one, or in a batch at least one.
    pub messages: &'a [OutgoingMessage<'a>],
    /// Whether the messages are sent as an array.
    pub is_batch: bool,
    /// The timeout of this attempt, if the subscription has its own.
    pub timeout: Option<Duration>,
    /// The current time.
    pub now: Timestamp,
}

impl Outgoing<'_> {
    /// The length of the messages.
    pub(crate) fn message_bytes(&self) -> usize {
        self.messages.iter().map(|one| one.body.len()).sum()
    }
}

/// Sends messages to subscribers of a scheme.
#[async_trait]
pub trait Channel: Send + Sync {
    /// The origin, which has limits and a circuit.
    ///
    /// # Errors
    /// Why nothing can ever be sent to the subscriber.
    fn origin(&self, subscriber: &str) -> Result<Origin, String>;

    /// Whether [`Outgoing::is_batch`] may be set.
    fn takes_batches(&self) -> bool;

    /// Sends once. Must end some seconds before the lease of a row (30 s) does.
    async fn send(&self, outgoing: &Outgoing<'_>) -> Attempt;
}

/// Subscribers `http` and `https`.
#[derive(Debug, Clone)]
pub struct Webhooks {
    client: WebhookClient,
    memory: RequestMemory,
}

impl Webhooks {
    /// Sends webhooks through a client. Requests in flight are charged to a budget.
    pub fn new(client: WebhookClient, memory: &MemoryBudget) -> Self {
        Self { client, memory: RequestMemory::new(memory) }
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

    fn takes_batches(&self) -> bool {
        true
    }

    async fn send(&self, outgoing: &Outgoing<'_>) -> Attempt {
        match Target::parse(outgoing.subscriber) {
            Ok(target) => self.send_to(&target, outgoing, None).await,
            Err(error) => Attempt::Failed(Failure::Unusable(error.to_string())),
        }
    }
}

impl Webhooks {
    /// Sends to a target. A token goes into `X-Auth-Token` unless the option `post_headers` sets
    /// that header, as in the original.
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
        let id = request_id(outgoing);
        // One that has not agreed gets no text of somebody's choice.
        let asks = outgoing.messages.iter().any(|one| one.content == Content::Confirmation);
        let none = Map::new();
        let options = if asks { &none } else { outgoing.options };
        let body = match RequestBody::new(options, message(outgoing)) {
            Ok(body) => body,
            Err(error) => return Attempt::Failed(Failure::Unusable(error.to_string())),
        };
        let Outgoing { queue, now, .. } = *outgoing;
        // Half of it at least is left for the request.
        let timeout = self.client.timeout(outgoing.timeout);
        let bytes = outgoing.message_bytes().saturating_add(body.len());
        let permit = match self.memory.acquire(&queue.project, bytes, WAIT.min(timeout / 2)).await {
            Ok(permit) => permit,
            Err(failure) => return Attempt::Failed(failure),
        };
        let body = body.build();
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
        let timeout = timeout.saturating_sub(permit.waited);
        self.client.post(&queue.project, target, headers, body, Some(timeout), now).await
    }
}

/// The body of a request, as JSON text.
fn message(outgoing: &Outgoing<'_>) -> Vec<u8> {
    let queue = outgoing.queue.name.as_str();
    let notification =
        |one: &OutgoingMessage<'_>| Notification { ttl: one.ttl, body: one.body, queue }.to_json();
    if outgoing.is_batch {
        let all = outgoing.messages.iter().map(|one| (one.id, notification(one)));
        return to_array(all);
    }
    let Some(one) = outgoing.messages.first() else { return Vec::new() };
    match one.content {
        Content::Message | Content::Test => notification(one),
        Content::Confirmation | Content::Recovery => one.body.to_vec(),
    }
}

/// The same for every attempt at the same messages, and different for each subscription, so that
/// receivers can recognize duplicates.
pub(crate) fn request_id(outgoing: &Outgoing<'_>) -> String {
    let Outgoing { messages, subscription, .. } = outgoing;
    match messages.first() {
        Some(one) if !outgoing.is_batch => format!("{}-{subscription}", one.id),
        Some(_) | None => {
            let ids: String = messages.iter().map(|one| one.id.to_string()).collect();
            let digest = Sha256::digest(ids.as_bytes());
            let digest: String = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{digest}-{subscription}")
        }
    }
}
