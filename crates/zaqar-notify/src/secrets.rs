//! Signing keys of subscriptions, stored apart from their options, so that they cannot be read.

use zaqar_core::storage::Error;
use zaqar_core::{Payload, Secret, Timestamp};

use crate::context::Context;
use crate::row::SubscriptionKey;
use crate::signature::{Scheme, SigningKeys, SigningSecret};

/// Seconds that a secret signs on after another scheme was asked for: a day.
const GRACE: u64 = 86_400;

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

/// Makes a secret for a subscription, unless it has one of that scheme: what verifies the new one,
/// to be shown once. One of another scheme signs too for [`GRACE`].
pub(crate) async fn make(
    context: &Context,
    subscription: &SubscriptionKey,
    scheme: Scheme,
    now: Timestamp,
) -> Result<Option<Secret<String>>, Error> {
    let Some(key) = subscription.secrets() else { return Ok(None) };
    if let Some(found) = context.deliveries.read_single(&key, now).await? {
        let is_other =
            open(context, subscription, found).is_some_and(|keys| keys.scheme() != scheme);
        return match is_other {
            true => replace(context, subscription, scheme, now.plus_secs(GRACE), now).await,
            false => Ok(None),
        };
    }
    let secret = SigningSecret::generate(scheme);
    let payload = seal(context, subscription, &SigningKeys::new(secret.clone()));
    let payload = payload.ok_or_else(|| Error::failed(CannotSeal))?;
    context.deliveries.add_single(subscription, &key, payload, now).await?;
    Ok(Some(secret.shown()))
}

/// Makes a new secret; the one before signs too until `until`. What verifies the new one, to be
/// shown once; `None` where another caller changes it at the moment, or the old one cannot be read.
pub(crate) async fn rotate(
    context: &Context,
    subscription: &SubscriptionKey,
    scheme: Scheme,
    until: Timestamp,
    now: Timestamp,
) -> Result<Option<Secret<String>>, Error> {
    if let Some(made) = make(context, subscription, scheme, now).await? {
        return Ok(Some(made));
    }
    replace(context, subscription, scheme, until, now).await
}

async fn replace(
    context: &Context,
    subscription: &SubscriptionKey,
    scheme: Scheme,
    until: Timestamp,
    now: Timestamp,
) -> Result<Option<Secret<String>>, Error> {
    let Some(key) = subscription.secrets() else { return Ok(None) };
    let change = |payload| {
        let keys = open(context, subscription, payload)?;
        let secret = SigningSecret::generate(scheme);
        let keys = keys.rotate(secret.clone(), until);
        Some((seal(context, subscription, &keys)?, secret.shown()))
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
