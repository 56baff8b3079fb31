//! Subscriptions, leases and the outbox.

use zaqar_core::storage::{
    Changed, Guarded, LeaseRequest, NewMessage, NewSubscription, OutboxEntry, OutboxMessage,
    RecipientQuery, Renewal, Subscribed, SubscriptionChange,
};
use zaqar_core::{LeaseId, MessageId, SubscriptionId, Timestamp};

use super::super::oracle::QueueModel;
use super::Run;
use crate::subscriber::renew;
use crate::subscriber::subscription;

/// The duration of a new lease, in seconds.
const LEASE: u64 = 200;

/// A limit that is large enough for all queues.
const ALL: usize = 1000;

impl Run {
    pub(super) async fn subscribe(
        &mut self,
        queue: usize,
        subscriber: u8,
        ttl: u64,
        is_on_lease: bool,
    ) {
        let now = self.kit.now();
        self.subscriptions += 1;
        let new = NewSubscription {
            ttl,
            lease: is_on_lease.then_some(self.lease.0),
            ..subscription(self.subscriptions, &name(subscriber))
        };
        let (at, (queue, model)) = (&self.at, &mut self.queues[queue]);
        let answer = queue.try_subscribe(queue.generation, &new).await;
        let Some(QueueModel { subscribers, .. }) = model else {
            assert_eq!(answer, Guarded::Absent, "{at}");
            return;
        };
        match (subscribers.of(&new.subscriber), answer) {
            (Some(there), answer) => {
                let there = Subscribed::Exists(there.clone());
                assert_eq!(answer, Guarded::Done(there), "{at}");
            }
            (None, Guarded::Done(Subscribed::Created { after })) => {
                subscribers.subscribe(new, after, now);
            }
            (None, refused) => panic!("{at} was rejected: {refused:?}"),
        }
    }

    pub(super) async fn change_subscription(
        &mut self,
        queue: usize,
        number: usize,
        subscriber: Option<u8>,
        ttl: Option<u64>,
    ) {
        let (id, now) = (self.subscription_id(number), self.kit.now());
        let subscriber = subscriber.map(name);
        let change = SubscriptionChange { subscriber, ttl, ..SubscriptionChange::default() };
        let answer = self.queues[queue].0.change(id, &change).await;
        let expected = self
            .model(queue)
            .map_or(Changed::Absent, |model| model.subscribers.change(id, &change, now));
        assert_eq!(answer, expected, "{}", self.at);
    }

    pub(super) async fn unsubscribe(&mut self, queue: usize, number: usize) {
        let id = self.subscription_id(number);
        self.queues[queue].0.unsubscribe(id.get()).await;
        self.model(queue).into_iter().for_each(|model| model.subscribers.unsubscribe(id));
        self.end_unneeded_entries(queue).await;
    }

    pub(super) async fn unsubscribe_all(&mut self, queue: usize) {
        self.queues[queue].0.unsubscribe_all().await;
        self.model(queue).into_iter().for_each(|model| model.subscribers.subscriptions.clear());
        self.end_unneeded_entries(queue).await;
    }

    /// Sweeps after subscriptions were removed: until then a store may keep their entries, which
    /// may become due again.
    async fn end_unneeded_entries(&mut self, queue: usize) {
        let now = self.kit.now();
        self.model(queue).into_iter().for_each(|model| model.subscribers.end_unneeded_entries(now));
        self.kit.sweep().await;
    }

    pub(super) async fn lease_entries(&mut self, queue: usize, limit: usize, secs: u64) {
        let (until, now) = (self.kit.now().plus_secs(secs), self.kit.now());
        let queue_of = &self.queues[queue].0;
        let request = LeaseRequest { until, limit, bytes: usize::MAX };
        let answer = queue_of.store.lease(&queue_of.key, &request, now).await;
        let model = self.model(queue);
        let expected = model.map(|model| model.subscribers.lease(limit, until, now));
        assert_eq!(answer.expect("lease answers"), expected.unwrap_or_default(), "{}", self.at);
    }

    pub(super) async fn settle(&mut self, queue: usize, id: usize) {
        let id = self.id(id);
        let (queue, model) = &mut self.queues[queue];
        queue.settle(id).await;
        if let Some(model) =
            model.as_mut().filter(|_| id.incarnation == queue.generation.incarnation)
        {
            model.subscribers.settle(id.position);
        }
    }

    pub(super) async fn keep_lease(&mut self, secs: u64) {
        let (lease, until) = self.lease;
        let renewal = renew(&self.kit, lease, secs).await;
        assert_eq!(renewal, Renewal::Continued, "{}", self.at);
        self.lease.1 = until.max(self.kit.now().plus_secs(secs));
    }

    pub(super) async fn end_lease(&mut self) {
        let ended = self.kit.store().end_lease(self.lease.0, self.kit.now()).await;
        ended.expect("end_lease answers");
        self.renew_lease().await;
        self.kit.sweep().await;
    }

    /// Replaces a lease that is no longer live, and drops the subscriptions on it.
    pub(super) async fn renew_lease(&mut self) {
        let over = self.lease.0;
        for model in self.queues.iter_mut().flat_map(|(_, model)| model) {
            model.subscribers.drop_lease(over);
        }
        self.lease = (LeaseId::new(rand::random()), self.kit.now().plus_secs(LEASE));
        let renewal = renew(&self.kit, self.lease.0, LEASE).await;
        assert_eq!(renewal, Renewal::Created, "the lease is new, {}", self.at);
    }

    /// The expected outbox entry of a post.
    pub(super) fn entry(given: &[MessageId], new: &[NewMessage], now: Timestamp) -> OutboxEntry {
        let of = |(id, new): (&MessageId, &NewMessage)| OutboxMessage {
            id: *id,
            payload: new.payload.clone(),
            ttl: new.ttl,
            due: now.plus_secs(new.delay),
        };
        OutboxEntry {
            incarnation: given[0].incarnation,
            first: given[0].position,
            messages: given.iter().zip(new).map(of).collect(),
            created: now,
        }
    }

    /// Compares subscriptions and outbox entries.
    pub(super) async fn compare_subscribers(&self) {
        let now = self.kit.now();
        let due = self.kit.store().due_queues(ALL, now).await.expect("due_queues answers");
        let due: Vec<_> = due.into_iter().map(|due| due.queue).collect();
        for (queue, model) in &self.queues {
            let at = format!("{} after {}", queue.key, self.at);
            let subscriptions = queue.store.subscriptions(&queue.key, None, 100, now).await;
            let subscriptions = subscriptions.expect("subscriptions answers");
            let shown = queue.entries(queue.generation.incarnation, 0, ALL).await;
            let Some(QueueModel { subscribers, .. }) = model else {
                assert_eq!((subscriptions, shown), (vec![], vec![]), "no head: {at}");
                continue;
            };
            assert_eq!(subscriptions, subscribers.subscriptions, "subscriptions of {at}");
            let lease = self.lease.0;
            let leased = queue.store.leased_subscriptions(&queue.key, lease, None, 100, now).await;
            let leased = leased.expect("leased_subscriptions answers");
            assert_eq!(leased, subscribers.on_lease(lease), "subscriptions on the lease of {at}");
            for confirmed_only in [false, true] {
                let query = RecipientQuery { after: None, limit: 100, confirmed_only };
                let found = queue.store.recipients(&queue.key, &query, now).await;
                let found = found.expect("recipients answers");
                assert_eq!(found, subscribers.recipients(confirmed_only), "recipients of {at}");
            }
            subscribers.check_followed(&shown, &at);
            assert!(!subscribers.is_due(now) || due.contains(&queue.key), "not due: {at}");
        }
    }

    /// The subscription id for a number, 0 for the latest.
    fn subscription_id(&self, number: usize) -> SubscriptionId {
        SubscriptionId::new(self.subscriptions.saturating_sub(number as u128))
    }
}

fn name(subscriber: u8) -> String {
    format!("http://example.org/{subscriber}")
}
