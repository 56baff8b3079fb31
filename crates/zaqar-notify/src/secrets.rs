//! Signing keys of subscriptions, stored apart from their options, so that they cannot be read.

use zaqar_core::storage::Error;
use zaqar_core::{Payload, Secret, Timestamp};

use crate::context::Context;
use crate::row::SubscriptionKey;
use crate::signature::{SigningKeys, SigningSecret};

/// A secret could not be encrypted, so it was not stored.
#[derive(Debug, thiserror::Error)]
#[error("a signing secret cannot be encrypted")]
struct CannotSeal;

/// The keys of a subscription; `None` if it has none, or they cannot be decrypted.
pub(crate) async fn read(
    context: &Context,
    subscription: &SubscriptionKey,
    now: Timestamp,
) -> Result<Option<SigningKeys>, Error> {
    let Some(key) = subscription.secrets() else { return Ok(None) };
    let found = context.deliveries.read_single(&key, now).await?;
    Ok(found.and_then(|payload| open(context, subscription, payload)))
}

/// Creates a secret for a subscription that has none. Returns it, to be shown once.
pub(crate) async fn make(
    context: &Context,
    subscription: &SubscriptionKey,
    now: Timestamp,
) -> Result<Option<Secret<String>>, Error> {
    let Some(key) = subscription.secrets() else { return Ok(None) };
    if context.deliveries.read_single(&key, now).await?.is_some() {
        return Ok(None);
    }
    let secret = SigningSecret::generate();
    let payload = seal(context, subscription, &SigningKeys::new(secret.clone()));
    let payload = payload.ok_or_else(|| Error::failed(CannotSeal))?;
    context.deliveries.add_single(subscription, &key, payload, now).await?;
    Ok(Some(secret.to_text()))
}

/// Creates a new secret; the previous one also signs until `until`. Returns the new one, to be
/// shown once; `None` if another caller is changing it, or the old one cannot be read.
pub(crate) async fn rotate(
    context: &Context,
    subscription: &SubscriptionKey,
    until: Timestamp,
    now: Timestamp,
) -> Result<Option<Secret<String>>, Error> {
    if let Some(made) = make(context, subscription, now).await? {
        return Ok(Some(made));
    }
    let Some(key) = subscription.secrets() else { return Ok(None) };
    let change = |payload| {
        let keys = open(context, subscription, payload)?;
        let secret = SigningSecret::generate();
        let keys = keys.rotate(secret.clone(), until);
        Some((seal(context, subscription, &keys)?, secret.to_text()))
    };
    context.deliveries.replace_single(subscription, &key, change, now).await
}

fn open(
    context: &Context,
    subscription: &SubscriptionKey,
    payload: Payload,
) -> Option<SigningKeys> {
    let plain = context.parts.bodies.open(&subscription.queue.project, payload)?;
    SigningKeys::decode(&plain)
}

fn seal(context: &Context, subscription: &SubscriptionKey, keys: &SigningKeys) -> Option<Payload> {
    let plain = Payload::plain(keys.encode().expose().clone().into());
    context.parts.bodies.seal(&subscription.queue.project, plain)
}
