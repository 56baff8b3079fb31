//! Subscriptions.

use async_trait::async_trait;
use zaqar_core::storage::{
    Changed, Error, Guarded, NewSubscription, RecipientQuery, Subscribed, Subscription,
    SubscriptionChange, Subscriptions,
};
use zaqar_core::{Generation, LeaseId, Position, QueueKey, SubscriptionId, Timestamp};

use crate::Redis;
use crate::driver::{HeadCall, arguments, millis, number};
use crate::error::Malformed;
use crate::messages::bounded;
use crate::reply::Reply;
use crate::scripts;
use crate::server::Mode;

const CONFIRMED: &[u8] = b"1";

#[async_trait]
impl Subscriptions for Redis {
    async fn subscribe(
        &self,
        key: &QueueKey,
        assumed: Generation,
        subscription: &NewSubscription,
        now: Timestamp,
    ) -> Result<Guarded<Subscribed>, Error> {
        if let Some(lease) = subscription.lease {
            let expires = now.plus_secs(subscription.ttl);
            self.attach_to_lease(lease, key, subscription.id, expires, now).await?;
        }
        let mut arguments = arguments(Some(assumed));
        arguments.extend([
            text(subscription.id),
            millis(subscription.ttl),
            number(subscription.ttl),
            flag(subscription.confirmed),
            subscription.subscriber.clone().into_bytes(),
            subscription.options.clone().into_bytes(),
            subscription.lease.map_or_else(Vec::new, |lease| lease.encode().to_vec()),
        ]);
        let call = HeadCall::new(&scripts::SUBSCRIBE, Mode::Write, Some(now), arguments);
        let made = self.call_head(key, call).await?;
        let made = made.guarded(|status, mut reply| match status {
            "exists" => Ok(Subscribed::Exists(read(&mut reply)?)),
            _ => Ok(Subscribed::Created { after: Position::new(reply.number()?) }),
        })?;
        Ok(made)
    }

    async fn subscription(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        now: Timestamp,
    ) -> Result<Option<Subscription>, Error> {
        let found = self.read_head(key, now, &scripts::SUBSCRIPTION, [text(id)]).await?;
        let Some(("done", mut reply)) = found else { return Ok(None) };
        Ok(Some(read(&mut reply)?))
    }

    async fn subscriptions(
        &self,
        key: &QueueKey,
        after: Option<SubscriptionId>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Subscription>, Error> {
        let (mut subscriptions, mut after) = (Vec::new(), after);
        loop {
            let left = bounded(limit - subscriptions.len());
            let own = [after.map_or_else(Vec::new, text), number(left)];
            let found = self.read_head(key, now, &scripts::SUBSCRIPTIONS, own).await?;
            let Some((_, mut reply)) = found else { break };
            let is_slice = reply.some_number()?.is_some();
            while !reply.is_empty() {
                subscriptions.push(read(&mut reply)?);
            }
            after = subscriptions.last().map(|last| last.id);
            if !is_slice || subscriptions.len() >= limit {
                break;
            }
        }
        Ok(subscriptions)
    }

    async fn leased_subscriptions(
        &self,
        key: &QueueKey,
        lease: LeaseId,
        after: Option<SubscriptionId>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<(SubscriptionId, Timestamp)>, Error> {
        let after = after.map_or_else(Vec::new, text);
        let own = [lease.encode().to_vec(), after, number(bounded(limit))];
        let found = self.read_head(key, now, &scripts::LEASED_SUBSCRIPTIONS, own).await?;
        let Some((_, mut reply)) = found else { return Ok(Vec::new()) };
        let mut leased = Vec::new();
        while !reply.is_empty() {
            let id = reply.text()?.parse().map_err(|_| Malformed)?;
            leased.push((id, reply.time()?));
        }
        Ok(leased)
    }

    async fn recipients(
        &self,
        key: &QueueKey,
        query: &RecipientQuery,
        now: Timestamp,
    ) -> Result<Vec<SubscriptionId>, Error> {
        let mut recipients = Vec::new();
        let mut after = query.after.map_or_else(Vec::new, text);
        loop {
            let left = bounded(query.limit - recipients.len());
            let own = [after, number(left), flag(query.confirmed_only)];
            let found = self.read_head(key, now, &scripts::RECIPIENTS, own).await?;
            let Some((_, mut reply)) = found else { break };
            // The last one that was looked at, if there are more.
            after = reply.bytes()?;
            while !reply.is_empty() {
                recipients.push(reply.text()?.parse().map_err(|_| Malformed)?);
            }
            if after.is_empty() || recipients.len() >= query.limit {
                break;
            }
        }
        Ok(recipients)
    }

    async fn change_subscription(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        change: &SubscriptionChange,
        now: Timestamp,
    ) -> Result<Changed, Error> {
        if let Some(ttl) = change.ttl {
            // The lease's index must know the later expiry first, as for a new subscription.
            let existing = self.subscription(key, id, now).await?;
            if let Some(lease) = existing.and_then(|existing| existing.lease) {
                self.attach_to_lease(lease, key, id, now.plus_secs(ttl), now).await?;
            }
        }
        let mut own = vec![text(id)];
        own.extend(optional(change.subscriber.clone().map(String::into_bytes)));
        own.extend(optional(change.ttl.map(millis)));
        own.extend(optional(change.ttl.map(number)));
        own.extend(optional(change.options.clone().map(String::into_bytes)));
        own.extend(optional(change.confirmed.map(flag)));
        let script = &scripts::CHANGE_SUBSCRIPTION;
        let answer = self.update_head(key, now, script, own).await?;
        match answer {
            Some(("done", _)) => Ok(Changed::Done),
            Some(("duplicate", _)) => Ok(Changed::Duplicate),
            Some(("none", _)) | None => Ok(Changed::Absent),
            Some(_) => Err(Malformed.into()),
        }
    }

    async fn unsubscribe(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        now: Timestamp,
    ) -> Result<(), Error> {
        let (script, own) = (&scripts::UNSUBSCRIBE, [text(id)]);
        let answer = self.update_head(key, now, script, own).await?;
        if let Some((_, mut reply)) = answer
            && let Some(lease) = read_lease(&mut reply)?
            && let Err(error) = self.detach_from_lease(lease, key, id, now).await
        {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(queue = %key, error, "a deleted subscription stays in the index of its lease");
        }
        Ok(())
    }

    async fn unsubscribe_all(&self, key: &QueueKey, now: Timestamp) -> Result<(), Error> {
        let (script, own) = (&scripts::UNSUBSCRIBE, [Vec::new()]);
        self.update_head(key, now, script, own).await?;
        Ok(())
    }
}

pub(crate) fn text(id: SubscriptionId) -> Vec<u8> {
    id.encode().to_vec()
}

pub(crate) fn flag(is_set: bool) -> Vec<u8> {
    if is_set { CONFIRMED.to_vec() } else { b"0".to_vec() }
}

/// A flag whether there is a value, and the value.
fn optional(value: Option<Vec<u8>>) -> [Vec<u8>; 2] {
    match value {
        Some(value) => [b"1".to_vec(), value],
        None => [Vec::new(), Vec::new()],
    }
}

pub(crate) fn read(reply: &mut Reply) -> Result<Subscription, Malformed> {
    Ok(Subscription {
        id: reply.text()?.parse().map_err(|_| Malformed)?,
        ttl: reply.number()?,
        since: reply.time()?,
        confirmed: reply.bytes()? == CONFIRMED,
        subscriber: reply.text()?,
        options: reply.text()?,
        lease: read_lease(reply)?,
    })
}

fn read_lease(reply: &mut Reply) -> Result<Option<LeaseId>, Malformed> {
    let text = reply.text()?;
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|_| Malformed) }
}
