//! Subscriptions, leases and the outbox.

use async_trait::async_trait;
use zaqar_core::storage::{
    Changed, DueQueue, Error, Guarded, LeaseRequest, Leases, NewSubscription, Outbox, OutboxEntry,
    OutboxMessage, RecipientQuery, Renewal, Subscribed, Subscription, SubscriptionChange,
    Subscriptions,
};
use zaqar_core::{Generation, Incarnation, LeaseId, Position, QueueKey, SubscriptionId, Timestamp};

use crate::head::{Entry, Head};
use crate::store::MemoryStore;

#[async_trait]
impl Subscriptions for MemoryStore {
    async fn subscribe(
        &self,
        key: &QueueKey,
        assumed: Generation,
        new: &NewSubscription,
        now: Timestamp,
    ) -> Result<Guarded<Subscribed>, Error> {
        let mut state = self.state()?;
        Ok(state.guard(key, |own| own == assumed).map(|head| {
            let now = head.time(now);
            let is_same = |one: &&Subscription| one.subscriber == new.subscriber;
            if let Some(exists) = head.subscribed(None, now).find(is_same).cloned() {
                return Subscribed::Exists(exists);
            }
            let NewSubscription { id, subscriber, ttl, options, confirmed, lease } = new.clone();
            let one = Subscription { id, subscriber, ttl, since: now, options, confirmed, lease };
            head.subscriptions.insert(id, one);
            Subscribed::Created { after: head.last }
        }))
    }

    async fn subscription(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        now: Timestamp,
    ) -> Result<Option<Subscription>, Error> {
        self.on(key, now, |head, now| head.subscribed(None, now).find(|one| one.id == id).cloned())
    }

    async fn subscriptions(
        &self,
        key: &QueueKey,
        after: Option<SubscriptionId>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Subscription>, Error> {
        self.on(key, now, |head, now| head.subscribed(after, now).take(limit).cloned().collect())
    }

    async fn leased_subscriptions(
        &self,
        key: &QueueKey,
        lease: LeaseId,
        after: Option<SubscriptionId>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<(SubscriptionId, Timestamp)>, Error> {
        self.on(key, now, |head, now| {
            let leased = head.subscribed(after, now).filter(|one| one.lease == Some(lease));
            leased.take(limit).map(|one| (one.id, one.since.plus_secs(one.ttl))).collect()
        })
    }

    async fn recipients(
        &self,
        key: &QueueKey,
        query: &RecipientQuery,
        now: Timestamp,
    ) -> Result<Vec<SubscriptionId>, Error> {
        self.on(key, now, |head, now| {
            let wanted = head
                .subscribed(query.after, now)
                .filter(|one| one.lease.is_none() && (one.confirmed || !query.confirmed_only));
            wanted.take(query.limit).map(|one| one.id).collect()
        })
    }

    async fn change_subscription(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        change: &SubscriptionChange,
        now: Timestamp,
    ) -> Result<Changed, Error> {
        let changed = self.on(key, now, |head, now| {
            let is_taken = head
                .subscribed(None, now)
                .any(|one| one.id != id && Some(&one.subscriber) == change.subscriber.as_ref());
            head.subscribed(None, now).find(|one| one.id == id)?;
            let one = head.subscriptions.get_mut(&id)?;
            if is_taken {
                return Some(Changed::Duplicate);
            }
            let SubscriptionChange { subscriber, ttl, options, confirmed } = change.clone();
            one.subscriber = subscriber.unwrap_or_else(|| one.subscriber.clone());
            one.options = options.unwrap_or_else(|| one.options.clone());
            one.confirmed = confirmed.unwrap_or(one.confirmed);
            (one.ttl, one.since) = ttl.map_or((one.ttl, one.since), |ttl| (ttl, now));
            Some(Changed::Done)
        })?;
        Ok(changed.unwrap_or(Changed::Absent))
    }

    async fn unsubscribe(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.on(key, now, |head, _| drop(head.subscriptions.remove(&id)))
    }

    async fn unsubscribe_all(&self, key: &QueueKey, now: Timestamp) -> Result<(), Error> {
        self.on(key, now, |head, _| head.subscriptions.clear())
    }
}

#[async_trait]
impl Leases for MemoryStore {
    async fn keep_lease(
        &self,
        lease: LeaseId,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Renewal, Error> {
        let mut state = self.state()?;
        let kept = state.leases.get(&lease).copied();
        if kept.is_some_and(|kept| kept <= now) {
            return Ok(Renewal::Expired);
        }
        state.leases.insert(lease, kept.map_or(until, |kept| kept.max(until)));
        Ok(if kept.is_some() { Renewal::Continued } else { Renewal::Created })
    }

    async fn end_lease(&self, lease: LeaseId, now: Timestamp) -> Result<(), Error> {
        self.state()?.leases.entry(lease).and_modify(|until| *until = now.min(*until));
        Ok(())
    }
}

#[async_trait]
impl Outbox for MemoryStore {
    async fn due_queues(&self, limit: usize, now: Timestamp) -> Result<Vec<DueQueue>, Error> {
        let mut state = self.state()?;
        let mut due: Vec<_> = state
            .heads
            .iter_mut()
            .filter_map(|(key, head)| {
                let now = head.time(now);
                Some((head.due(now).map(|one| one.due()).min()??, key.clone()))
            })
            .collect();
        due.sort();
        Ok(due.into_iter().map(|(since, queue)| DueQueue { queue, since }).take(limit).collect())
    }

    async fn lease(
        &self,
        key: &QueueKey,
        request: &LeaseRequest,
        now: Timestamp,
    ) -> Result<Vec<OutboxEntry>, Error> {
        self.on(key, now, |head, now| {
            let (mut leased, mut bytes) = (Vec::new(), 0_usize);
            for stored in head.leasable(now) {
                let of = |one: &OutboxMessage| one.payload.bytes.len();
                bytes = bytes.saturating_add(stored.entry.messages.iter().map(of).sum());
                let is_full = leased.len() == request.limit || bytes > request.bytes;
                if is_full && !leased.is_empty() {
                    break;
                }
                stored.leased_until = request.until;
                leased.push(stored.entry.clone());
            }
            leased
        })
    }

    async fn settle(
        &self,
        key: &QueueKey,
        incarnation: Incarnation,
        firsts: &[Position],
    ) -> Result<(), Error> {
        let mut state = self.state()?;
        if let Guarded::Done(head) = state.guard(key, |own| own.incarnation == incarnation) {
            for first in firsts {
                head.outbox.entry(*first).and_modify(|stored| stored.is_settled = true);
            }
        }
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
        self.on(key, now, |head, _| {
            let is_it = head.generation.incarnation == incarnation;
            let entries = head.outbox.range(after.next()..).filter(|_| is_it).take(limit);
            entries.map(|(_, stored)| stored.entry.clone()).collect()
        })
    }
}

impl Head {
    /// The entries that are open for workers, in order.
    fn open(&mut self, now: Timestamp) -> impl Iterator<Item = &mut Entry> {
        let is_delivered = self.has_address(now);
        self.outbox.values_mut().filter(move |one| is_delivered && one.is_open(now))
    }

    /// Those of them that are due, also behind one that is leased.
    fn due(&mut self, now: Timestamp) -> impl Iterator<Item = &mut Entry> {
        self.open(now).filter(move |one| one.due() <= Some(now))
    }

    /// Those that a worker may take: up to one that is leased.
    fn leasable(&mut self, now: Timestamp) -> impl Iterator<Item = &mut Entry> {
        let reachable = self.open(now).take_while(move |one| one.leased_until <= now);
        reachable.filter(move |one| one.due() <= Some(now))
    }
}
