//! Wrappers around stores that count and time their calls.

use std::sync::Arc;

use async_trait::async_trait;
use zaqar_core::storage::{
    Batch, Changed, Claim, ClaimRequest, Claimed, Claims, Deletable, Deleted, DueQueue, Error,
    Guarded, Heads, LeaseRequest, Leases, ListQuery, ManagementStore, Message, MessagePage,
    MessageStore, Messages, Movable, Moves, NewSubscription, News, NewsStream, Outbox, OutboxEntry,
    PopPage, PopQuery, QueueRow, Queues, RecipientQuery, Renewal, Stats, Subscribed, Subscription,
    SubscriptionChange, Subscriptions, Swept, Upkeep, Volume,
};
use zaqar_core::{
    ClaimId, Generation, Incarnation, Kind, LeaseId, MessageId, Position, ProjectId, QueueKey,
    QueueName, SubscriptionId, Timestamp,
};

use super::calls::{MessageCounts, Method, StoreCalls};

/// Counts the calls to a message store.
pub(crate) struct MeteredMessages {
    inner: Arc<dyn MessageStore>,
    calls: Arc<StoreCalls>,
    messages: Arc<MessageCounts>,
}

/// Counts the calls to a management store.
pub(crate) struct MeteredManagement {
    inner: Arc<dyn ManagementStore>,
    calls: Arc<StoreCalls>,
}

impl MeteredMessages {
    pub(crate) fn new(
        inner: Arc<dyn MessageStore>,
        calls: Arc<StoreCalls>,
        messages: Arc<MessageCounts>,
    ) -> Self {
        Self { inner, calls, messages }
    }
}

impl MeteredManagement {
    pub(crate) fn new(inner: Arc<dyn ManagementStore>, calls: Arc<StoreCalls>) -> Self {
        Self { inner, calls }
    }
}

/// Whether a queue or topic is a client's.
fn is_clients(key: &QueueKey) -> bool {
    key.kind != Kind::Internal
}

#[async_trait]
impl Heads for MeteredMessages {
    async fn open(
        &self,
        key: &QueueKey,
        generation: Generation,
        now: Timestamp,
    ) -> Result<Generation, Error> {
        self.calls.timed(Method::Open, self.inner.open(key, generation, now)).await
    }

    async fn generation(&self, key: &QueueKey) -> Result<Option<Generation>, Error> {
        self.calls.timed(Method::Generation, self.inner.generation(key)).await
    }

    async fn advance(&self, key: &QueueKey, generation: Generation) -> Result<Guarded<()>, Error> {
        self.calls.timed(Method::Advance, self.inner.advance(key, generation)).await
    }

    async fn close(&self, key: &QueueKey, incarnation: Incarnation) -> Result<Guarded<()>, Error> {
        self.calls.timed(Method::Close, self.inner.close(key, incarnation)).await
    }
}

impl Movable for MeteredMessages {
    fn moves(&self) -> Option<&dyn Moves> {
        self.inner.moves()
    }
}

#[warn(clippy::missing_trait_methods, reason = "a default would bypass the store behind it")]
#[async_trait]
impl Messages for MeteredMessages {
    async fn post(
        &self,
        key: &QueueKey,
        assumed: Generation,
        batch: Batch,
        now: Timestamp,
    ) -> Result<Guarded<Vec<MessageId>>, Error> {
        let (messages, is_clients) = (batch.messages.len(), is_clients(key));
        let outcome =
            self.calls.timed(Method::Post, self.inner.post(key, assumed, batch, now)).await;
        if let (true, Ok(Guarded::Done(_))) = (is_clients, &outcome) {
            self.messages.posted.add(messages);
        }
        outcome
    }

    async fn list(
        &self,
        key: &QueueKey,
        query: &ListQuery,
        now: Timestamp,
    ) -> Result<MessagePage, Error> {
        self.calls.timed(Method::List, self.inner.list(key, query, now)).await
    }

    async fn get(
        &self,
        key: &QueueKey,
        ids: &[MessageId],
        now: Timestamp,
    ) -> Result<Vec<Message>, Error> {
        self.calls.timed(Method::Get, self.inner.get(key, ids, now)).await
    }

    async fn delete(
        &self,
        key: &QueueKey,
        id: MessageId,
        claim: Option<ClaimId>,
        now: Timestamp,
    ) -> Result<Deleted, Error> {
        let outcome =
            self.calls.timed(Method::Delete, self.inner.delete(key, id, claim, now)).await;
        if let (true, Ok(Deleted::Gone)) = (is_clients(key), &outcome) {
            self.messages.deleted.add(1);
        }
        outcome
    }

    async fn delete_many(
        &self,
        key: &QueueKey,
        ids: &[MessageId],
        which: &Deletable,
        now: Timestamp,
    ) -> Result<(), Error> {
        let work = self.inner.delete_many(key, ids, which, now);
        let outcome = self.calls.timed(Method::DeleteMany, work).await;
        if is_clients(key) && outcome.is_ok() {
            self.messages.deleted.add(ids.len());
        }
        outcome
    }

    async fn pop(
        &self,
        key: &QueueKey,
        query: &PopQuery,
        now: Timestamp,
    ) -> Result<PopPage, Error> {
        let outcome = self.calls.timed(Method::Pop, self.inner.pop(key, query, now)).await;
        if let (true, Ok(page)) = (is_clients(key), &outcome) {
            self.messages.popped.add(page.messages.len());
        }
        outcome
    }

    async fn purge(&self, key: &QueueKey, now: Timestamp) -> Result<(), Error> {
        self.calls.timed(Method::Purge, self.inner.purge(key, now)).await
    }

    async fn stats(&self, key: &QueueKey, now: Timestamp) -> Result<Option<Stats>, Error> {
        self.calls.timed(Method::Stats, self.inner.stats(key, now)).await
    }

    async fn volume(&self) -> Result<Option<Volume>, Error> {
        self.calls.timed(Method::Volume, self.inner.volume()).await
    }
}

#[warn(clippy::missing_trait_methods, reason = "a default would bypass the store behind it")]
#[async_trait]
impl Claims for MeteredMessages {
    async fn claim(
        &self,
        key: &QueueKey,
        assumed: Generation,
        request: &ClaimRequest,
        now: Timestamp,
    ) -> Result<Guarded<Claimed>, Error> {
        let outcome =
            self.calls.timed(Method::Claim, self.inner.claim(key, assumed, request, now)).await;
        if let (true, Ok(Guarded::Done(Claimed::Messages { messages, dead_letters, .. }))) =
            (is_clients(key), &outcome)
        {
            self.messages.dead_lettered.add(*dead_letters);
            self.messages.claimed.add(messages.len());
            let again = messages.iter().filter(|message| message.claim_count > 1).count();
            self.messages.redelivered.add(again);
        }
        outcome
    }

    async fn claim_each(
        &self,
        key: &QueueKey,
        assumed: Generation,
        ids: &[ClaimId],
        ttl: u64,
        now: Timestamp,
    ) -> Result<Guarded<Vec<Message>>, Error> {
        let work = self.inner.claim_each(key, assumed, ids, ttl, now);
        let outcome = self.calls.timed(Method::ClaimEach, work).await;
        if let (true, Ok(Guarded::Done(messages))) = (is_clients(key), &outcome) {
            self.messages.claimed.add(messages.len());
            let again = messages.iter().filter(|message| message.claim_count > 1).count();
            self.messages.redelivered.add(again);
        }
        outcome
    }

    async fn claim_get(
        &self,
        key: &QueueKey,
        id: ClaimId,
        now: Timestamp,
    ) -> Result<Option<Claim>, Error> {
        self.calls.timed(Method::ClaimGet, self.inner.claim_get(key, id, now)).await
    }

    async fn claim_renew(
        &self,
        key: &QueueKey,
        id: ClaimId,
        ttl: u64,
        grace: u64,
        now: Timestamp,
    ) -> Result<bool, Error> {
        self.calls.timed(Method::ClaimRenew, self.inner.claim_renew(key, id, ttl, grace, now)).await
    }

    async fn claim_release(
        &self,
        key: &QueueKey,
        id: ClaimId,
        now: Timestamp,
    ) -> Result<usize, Error> {
        let work = self.inner.claim_release(key, id, now);
        let outcome = self.calls.timed(Method::ClaimRelease, work).await;
        if let (true, Ok(freed)) = (is_clients(key), &outcome) {
            self.messages.released.add(*freed);
        }
        outcome
    }
}

#[warn(clippy::missing_trait_methods, reason = "a default would bypass the store behind it")]
#[async_trait]
impl Subscriptions for MeteredMessages {
    async fn subscribe(
        &self,
        key: &QueueKey,
        assumed: Generation,
        subscription: &NewSubscription,
        now: Timestamp,
    ) -> Result<Guarded<Subscribed>, Error> {
        self.calls
            .timed(Method::Subscribe, self.inner.subscribe(key, assumed, subscription, now))
            .await
    }

    async fn subscription(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        now: Timestamp,
    ) -> Result<Option<Subscription>, Error> {
        self.calls.timed(Method::Subscription, self.inner.subscription(key, id, now)).await
    }

    async fn subscriptions(
        &self,
        key: &QueueKey,
        after: Option<SubscriptionId>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Subscription>, Error> {
        self.calls
            .timed(Method::Subscriptions, self.inner.subscriptions(key, after, limit, now))
            .await
    }

    async fn leased_subscriptions(
        &self,
        key: &QueueKey,
        lease: LeaseId,
        after: Option<SubscriptionId>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<(SubscriptionId, Timestamp)>, Error> {
        self.calls
            .timed(
                Method::LeasedSubscriptions,
                self.inner.leased_subscriptions(key, lease, after, limit, now),
            )
            .await
    }

    async fn recipients(
        &self,
        key: &QueueKey,
        query: &RecipientQuery,
        now: Timestamp,
    ) -> Result<Vec<SubscriptionId>, Error> {
        self.calls.timed(Method::Recipients, self.inner.recipients(key, query, now)).await
    }

    async fn change_subscription(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        change: &SubscriptionChange,
        now: Timestamp,
    ) -> Result<Changed, Error> {
        self.calls
            .timed(Method::ChangeSubscription, self.inner.change_subscription(key, id, change, now))
            .await
    }

    async fn unsubscribe(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.calls.timed(Method::Unsubscribe, self.inner.unsubscribe(key, id, now)).await
    }

    async fn unsubscribe_all(&self, key: &QueueKey, now: Timestamp) -> Result<(), Error> {
        self.calls.timed(Method::UnsubscribeAll, self.inner.unsubscribe_all(key, now)).await
    }
}

#[async_trait]
impl Leases for MeteredMessages {
    async fn keep_lease(
        &self,
        lease: LeaseId,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Renewal, Error> {
        self.calls.timed(Method::KeepLease, self.inner.keep_lease(lease, until, now)).await
    }

    async fn end_lease(&self, lease: LeaseId, now: Timestamp) -> Result<(), Error> {
        self.calls.timed(Method::EndLease, self.inner.end_lease(lease, now)).await
    }
}

#[async_trait]
impl Outbox for MeteredMessages {
    async fn due_queues(&self, limit: usize, now: Timestamp) -> Result<Vec<DueQueue>, Error> {
        self.calls.timed(Method::DueQueues, self.inner.due_queues(limit, now)).await
    }

    async fn lease(
        &self,
        key: &QueueKey,
        request: &LeaseRequest,
        now: Timestamp,
    ) -> Result<Vec<OutboxEntry>, Error> {
        self.calls.timed(Method::Lease, self.inner.lease(key, request, now)).await
    }

    async fn settle(
        &self,
        key: &QueueKey,
        incarnation: Incarnation,
        firsts: &[Position],
    ) -> Result<(), Error> {
        self.calls.timed(Method::Settle, self.inner.settle(key, incarnation, firsts)).await
    }

    async fn follow(
        &self,
        key: &QueueKey,
        incarnation: Incarnation,
        after: Position,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<OutboxEntry>, Error> {
        self.calls
            .timed(Method::Follow, self.inner.follow(key, incarnation, after, limit, now))
            .await
    }
}

#[async_trait]
impl News for MeteredMessages {
    async fn news(&self) -> Result<NewsStream, Error> {
        self.calls.timed(Method::News, self.inner.news()).await
    }
}

#[async_trait]
impl Upkeep for MeteredMessages {
    async fn ping(&self) -> Result<(), Error> {
        self.calls.timed(Method::Ping, self.inner.ping()).await
    }

    async fn sweep(&self, now: Timestamp, budget: usize) -> Result<Swept, Error> {
        let outcome = self.calls.timed(Method::Sweep, self.inner.sweep(now, budget)).await;
        if let Ok(swept) = &outcome {
            self.calls.swept.add(swept.done);
            self.messages.expired.add(swept.expired);
        }
        outcome
    }

    async fn shut_down(&self) -> Result<(), Error> {
        self.calls.timed(Method::ShutDown, self.inner.shut_down()).await
    }
}

#[warn(clippy::missing_trait_methods, reason = "a default would bypass the store behind it")]
#[async_trait]
impl Queues for MeteredManagement {
    async fn create(&self, key: &QueueKey, row: &QueueRow) -> Result<Option<QueueRow>, Error> {
        self.calls.timed(Method::Create, self.inner.create(key, row)).await
    }

    async fn get(&self, key: &QueueKey) -> Result<Option<QueueRow>, Error> {
        self.calls.timed(Method::Get, self.inner.get(key)).await
    }

    async fn replace(
        &self,
        key: &QueueKey,
        expected: Generation,
        row: &QueueRow,
    ) -> Result<bool, Error> {
        self.calls.timed(Method::Replace, self.inner.replace(key, expected, row)).await
    }

    async fn remove(&self, key: &QueueKey, incarnation: Incarnation) -> Result<bool, Error> {
        self.calls.timed(Method::Remove, self.inner.remove(key, incarnation)).await
    }

    async fn list(
        &self,
        project: &ProjectId,
        kind: Kind,
        after: Option<&QueueName>,
        limit: usize,
    ) -> Result<Vec<(QueueName, QueueRow)>, Error> {
        self.calls.timed(Method::List, self.inner.list(project, kind, after, limit)).await
    }

    async fn count(&self, project: &ProjectId, kind: Kind) -> Result<u64, Error> {
        self.calls.timed(Method::Count, self.inner.count(project, kind)).await
    }
}

#[async_trait]
impl Upkeep for MeteredManagement {
    async fn ping(&self) -> Result<(), Error> {
        self.calls.timed(Method::Ping, self.inner.ping()).await
    }

    async fn sweep(&self, now: Timestamp, budget: usize) -> Result<Swept, Error> {
        let outcome = self.calls.timed(Method::Sweep, self.inner.sweep(now, budget)).await;
        if let Ok(swept) = &outcome {
            self.calls.swept.add(swept.done);
        }
        outcome
    }

    async fn shut_down(&self) -> Result<(), Error> {
        self.calls.timed(Method::ShutDown, self.inner.shut_down()).await
    }
}

#[cfg(test)]
mod tests {
    use zaqar_core::{ClientId, Payload, Version};
    use zaqar_storage_testkit::Memory;

    use zaqar_core::storage::NewMessage;

    use super::super::calls::Count;
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    #[tokio::test]
    async fn calls_and_messages_of_clients_are_counted() {
        let calls = Arc::new(StoreCalls::new("message"));
        let messages = Arc::new(MessageCounts::default());
        let store = MeteredMessages::new(
            Arc::new(Memory::new()),
            Arc::clone(&calls),
            Arc::clone(&messages),
        );
        let generation = Generation { incarnation: Incarnation::new(1), version: Version::new(1) };
        for kind in [Kind::Queue, Kind::Internal] {
            let project = ProjectId::new("p").unwrap();
            let key = QueueKey { project, kind, name: QueueName::new("q").unwrap() };
            store.open(&key, generation, NOW).await.unwrap();
            let message = || NewMessage {
                payload: Payload::plain(bytes::Bytes::from_static(b"1")),
                ttl: 100,
                delay: 0,
            };
            let batch = Batch {
                request: 7,
                client: ClientId::new("c"),
                messages: vec![message(), message(), message()],
                notify: false,
            };
            store.post(&key, generation, batch, NOW).await.unwrap();
            let query = PopQuery { limit: 2, after: None, keys: Vec::new() };
            store.pop(&key, &query, NOW).await.unwrap();
        }
        let counted = [&messages.posted, &messages.claimed, &messages.popped].map(Count::get);
        assert_eq!(counted, [3, 0, 2]);
        let seen = calls.counted();
        let seen: Vec<_> = seen.iter().map(|one| (one.call, one.outcomes.as_slice())).collect();
        let twice: &[_] = &[("ok", 2)];
        assert_eq!(seen, [("open", twice), ("post", twice), ("pop", twice)]);
    }
}
