//! Subscriptions, the leases that they depend on, and the outbox.

use std::sync::Arc;

use async_trait::async_trait;
use zaqar_core::storage::{
    Changed, DueQueue, Error, Guarded, LeaseRequest, Leases, MessageStore, NewSubscription, Outbox,
    OutboxEntry, RecipientQuery, Renewal, Subscribed, Subscription, SubscriptionChange,
    Subscriptions,
};
use zaqar_core::{Generation, Incarnation, LeaseId, Position, QueueKey, SubscriptionId, Timestamp};

use crate::Pooled;
use crate::reach::serve;

#[warn(clippy::missing_trait_methods, reason = "a default would bypass the store behind it")]
#[async_trait]
impl Subscriptions for Pooled {
    async fn subscribe(
        &self,
        key: &QueueKey,
        assumed: Generation,
        subscription: &NewSubscription,
        now: Timestamp,
    ) -> Result<Guarded<Subscribed>, Error> {
        let subscribed = self.ask_member(key, |member| async move {
            let at = &member;
            let subscribe = |store: Arc<dyn MessageStore>| async move {
                if let Some(lease) = subscription.lease {
                    self.leases.ensure(at, lease, now).await?;
                }
                store.subscribe(key, assumed, subscription, now).await
            };
            serve(&member, key, subscribe).await
        });
        Ok(subscribed.await?.unwrap_or(Guarded::Absent))
    }

    async fn subscription(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        now: Timestamp,
    ) -> Result<Option<Subscription>, Error> {
        Ok(self
            .ask(key, |store| async move { store.subscription(key, id, now).await })
            .await?
            .flatten())
    }

    async fn subscriptions(
        &self,
        key: &QueueKey,
        after: Option<SubscriptionId>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Subscription>, Error> {
        Ok(self
            .ask(key, |store| async move { store.subscriptions(key, after, limit, now).await })
            .await?
            .unwrap_or_default())
    }

    async fn leased_subscriptions(
        &self,
        key: &QueueKey,
        lease: LeaseId,
        after: Option<SubscriptionId>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<(SubscriptionId, Timestamp)>, Error> {
        Ok(self
            .ask(key, |store| async move {
                store.leased_subscriptions(key, lease, after, limit, now).await
            })
            .await?
            .unwrap_or_default())
    }

    async fn recipients(
        &self,
        key: &QueueKey,
        query: &RecipientQuery,
        now: Timestamp,
    ) -> Result<Vec<SubscriptionId>, Error> {
        Ok(self
            .ask(key, |store| async move { store.recipients(key, query, now).await })
            .await?
            .unwrap_or_default())
    }

    async fn change_subscription(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        change: &SubscriptionChange,
        now: Timestamp,
    ) -> Result<Changed, Error> {
        Ok(self
            .ask(key, |store| async move { store.change_subscription(key, id, change, now).await })
            .await?
            .unwrap_or(Changed::Absent))
    }

    async fn unsubscribe(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.ask(key, |store| async move { store.unsubscribe(key, id, now).await }).await?;
        Ok(())
    }

    async fn unsubscribe_all(&self, key: &QueueKey, now: Timestamp) -> Result<(), Error> {
        self.ask(key, |store| async move { store.unsubscribe_all(key, now).await }).await?;
        Ok(())
    }
}

#[async_trait]
impl Leases for Pooled {
    async fn keep_lease(
        &self,
        lease: LeaseId,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Renewal, Error> {
        self.leases.keep(&self.members, lease, until, now).await
    }

    async fn end_lease(&self, lease: LeaseId, now: Timestamp) -> Result<(), Error> {
        self.leases.end(&self.members, lease, now).await
    }
}

#[async_trait]
impl Outbox for Pooled {
    /// Those of all pools, by the time since which they are due.
    async fn due_queues(&self, limit: usize, now: Timestamp) -> Result<Vec<DueQueue>, Error> {
        let ask = |store: Arc<dyn MessageStore>| async move { store.due_queues(limit, now).await };
        let due = self.members.ask_briefly(ask).await?;
        let mut merged: Vec<_> = due.into_iter().flat_map(|(_, queues)| queues).collect();
        // Stable: a store knows the order of what is due since the same time.
        merged.sort_by_key(|due| due.since);
        merged.truncate(limit);
        Ok(merged)
    }

    async fn lease(
        &self,
        key: &QueueKey,
        request: &LeaseRequest,
        now: Timestamp,
    ) -> Result<Vec<OutboxEntry>, Error> {
        Ok(self
            .ask(key, |store| async move { store.lease(key, request, now).await })
            .await?
            .unwrap_or_default())
    }

    async fn settle(
        &self,
        key: &QueueKey,
        incarnation: Incarnation,
        firsts: &[Position],
    ) -> Result<(), Error> {
        self.ask(key, |store| async move { store.settle(key, incarnation, firsts).await }).await?;
        Ok(())
    }

    async fn follow(
        &self,
        key: &QueueKey,
        incarnation: Incarnation,
        after: Position,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<OutboxEntry>, Error> {
        Ok(self
            .ask(
                key,
                |store| async move { store.follow(key, incarnation, after, limit, now).await },
            )
            .await?
            .unwrap_or_default())
    }
}
