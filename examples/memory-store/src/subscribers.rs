//! Subscriptions, leases and the outbox.

use async_trait::async_trait;
use zaqar_core::storage::{
    Changed, DueQueue, Guarded, LeaseRequest, Leases, NewSubscription, Outbox, OutboxEntry,
    Renewal, Result, Subscribed, Subscription, SubscriptionChange, Subscriptions,
};
use zaqar_core::{Generation, Incarnation, LeaseId, Position, QueueKey, SubscriptionId, Timestamp};

use crate::store::MemoryStore;

#[async_trait]
impl Subscriptions for MemoryStore {
    async fn subscribe(
        &self,
        key: &QueueKey,
        assumed: Generation,
        new: &NewSubscription,
        now: Timestamp,
    ) -> Result<Guarded<Subscribed>> {
        let mut state = self.state()?;
        Ok(state.guard(key, |own| own == assumed).map(|queue| {
            let now = queue.time(now);
            let exists = queue.subscribed(None, now).find(|one| one.subscriber == new.subscriber);
            if let Some(exists) = exists {
                return Subscribed::Exists(exists.clone());
            }
            queue.subscriptions.insert(new.id, Subscription::new(new.clone(), now));
            Subscribed::Created { after: queue.last }
        }))
    }

    async fn subscriptions(
        &self,
        key: &QueueKey,
        after: Option<SubscriptionId>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Subscription>> {
        self.on(key, now, |queue, now| queue.subscribed(after, now).take(limit).cloned().collect())
    }

    async fn change_subscription(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        change: &SubscriptionChange,
        now: Timestamp,
    ) -> Result<Changed> {
        self.on(key, now, |queue, now| {
            let is_taken = queue
                .subscribed(None, now)
                .any(|one| one.id != id && Some(&one.subscriber) == change.subscriber.as_ref());
            let own = queue.subscriptions.get_mut(&id).filter(|own| own.is_live(now));
            match own {
                None => Changed::Absent,
                Some(_) if is_taken => Changed::Duplicate,
                Some(own) => {
                    own.apply(change.clone(), now);
                    Changed::Done
                }
            }
        })
    }

    async fn unsubscribe(&self, key: &QueueKey, id: SubscriptionId, now: Timestamp) -> Result<()> {
        self.on(key, now, |queue, _| drop(queue.subscriptions.remove(&id)))
    }

    async fn unsubscribe_all(&self, key: &QueueKey, now: Timestamp) -> Result<()> {
        self.on(key, now, |queue, _| queue.subscriptions.clear())
    }
}

#[async_trait]
impl Leases for MemoryStore {
    async fn keep_lease(&self, id: LeaseId, until: Timestamp, now: Timestamp) -> Result<Renewal> {
        let mut state = self.state()?;
        let kept = state.leases.get(&id).copied();
        if kept.is_some_and(|kept| kept <= now) {
            return Ok(Renewal::Expired);
        }
        state.leases.insert(id, kept.map_or(until, |kept| kept.max(until)));
        Ok(if kept.is_some() { Renewal::Continued } else { Renewal::Created })
    }

    async fn end_lease(&self, id: LeaseId, now: Timestamp) -> Result<()> {
        self.state()?.leases.entry(id).and_modify(|until| *until = now.min(*until));
        Ok(())
    }
}

#[async_trait]
impl Outbox for MemoryStore {
    async fn due_queues(&self, limit: usize, now: Timestamp) -> Result<Vec<DueQueue>> {
        let mut state = self.state()?;
        let due = state.queues.iter_mut().filter_map(|(key, queue)| {
            let now = queue.time(now);
            let since = queue.entries(now).filter_map(|row| row.due_since(now)).min()?;
            Some(DueQueue { queue: key.clone(), since })
        });
        let mut due: Vec<_> = due.collect();
        due.sort_by_key(|due| due.since);
        due.truncate(limit);
        Ok(due)
    }

    async fn lease(
        &self,
        key: &QueueKey,
        request: &LeaseRequest,
        now: Timestamp,
    ) -> Result<Vec<OutboxEntry>> {
        self.on(key, now, |queue, now| request.lease(queue.entries(now), now))
    }

    async fn settle(
        &self,
        key: &QueueKey,
        incarnation: Incarnation,
        firsts: &[Position],
    ) -> Result<()> {
        let mut state = self.state()?;
        if let Guarded::Done(queue) = state.guard(key, |own| own.incarnation == incarnation) {
            for first in firsts {
                queue.outbox.entry(*first).and_modify(|row| row.due = None);
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
    ) -> Result<Vec<OutboxEntry>> {
        self.on(key, now, |queue, _| {
            let is_own = queue.generation.incarnation == incarnation;
            let rows = queue.outbox.range(after.next()..).filter(|_| is_own).take(limit);
            rows.map(|(_, row)| row.entry.clone()).collect()
        })
    }
}
