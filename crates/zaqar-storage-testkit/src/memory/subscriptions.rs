//! Subscriptions.

use async_trait::async_trait;
use zaqar_core::storage::{
    Changed, Error, Guarded, NewSubscription, RecipientQuery, Subscribed, Subscription,
    SubscriptionChange, Subscriptions,
};
use zaqar_core::{Generation, LeaseId, QueueKey, SubscriptionId, Timestamp};

use super::head::{Head, guarded};
use super::{Fault, Memory};

#[async_trait]
impl Subscriptions for Memory {
    async fn subscribe(
        &self,
        key: &QueueKey,
        assumed: Generation,
        subscription: &NewSubscription,
        now: Timestamp,
    ) -> Result<Guarded<Subscribed>, Error> {
        let mut state = self.state_of(key)?;
        let head = state.heads.get_mut(&self.stored_key(key));
        let ttl = self.stored_number(subscription.ttl);
        let subscription = NewSubscription { ttl, ..subscription.clone() };
        Ok(guarded(head, |own| own == assumed, |head| head.subscribe(&subscription, now)))
    }

    async fn subscription(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        now: Timestamp,
    ) -> Result<Option<Subscription>, Error> {
        let mut state = self.state_of(key)?;
        let Some(head) = state.heads.get_mut(&self.stored_key(key)) else { return Ok(None) };
        let now = head.effective_time(now);
        Ok(head.subscribed(now).find(|subscription| subscription.id == id).cloned())
    }

    async fn subscriptions(
        &self,
        key: &QueueKey,
        after: Option<SubscriptionId>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Subscription>, Error> {
        let mut state = self.state_of(key)?;
        let Some(head) = state.heads.get_mut(&self.stored_key(key)) else { return Ok(Vec::new()) };
        let now = head.effective_time(now);
        let behind = head.subscribed(now).filter(|subscription| Some(subscription.id) > after);
        let mut page: Vec<_> = behind.take(limit).cloned().collect();
        if self.has(Fault::SubscriptionsReversed) {
            page.reverse();
        }
        Ok(page)
    }

    async fn leased_subscriptions(
        &self,
        key: &QueueKey,
        lease: LeaseId,
        after: Option<SubscriptionId>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<(SubscriptionId, Timestamp)>, Error> {
        let mut state = self.state_of(key)?;
        let Some(head) = state.heads.get_mut(&self.stored_key(key)) else { return Ok(Vec::new()) };
        let now = head.effective_time(now);
        let any = self.has(Fault::LeaseListsOthers);
        let leased = head
            .subscribed(now)
            .filter(|one| Some(one.id) > after && (one.lease == Some(lease) || any));
        Ok(leased.take(limit).map(|one| (one.id, one.expires())).collect())
    }

    async fn recipients(
        &self,
        key: &QueueKey,
        query: &RecipientQuery,
        now: Timestamp,
    ) -> Result<Vec<SubscriptionId>, Error> {
        let mut state = self.state()?;
        let Some(head) = state.heads.get_mut(&self.stored_key(key)) else { return Ok(Vec::new()) };
        let now = head.effective_time(now);
        let any_lease = self.has(Fault::RecipientsOnLeases);
        let confirmed_only = query.confirmed_only && !self.has(Fault::RecipientsUnconfirmed);
        let recipients = head.subscribed(now).filter(|one| {
            Some(one.id) > query.after
                && (one.lease.is_none() || any_lease)
                && (one.confirmed || !confirmed_only)
        });
        Ok(recipients.take(query.limit).map(|one| one.id).collect())
    }

    async fn change_subscription(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        change: &SubscriptionChange,
        now: Timestamp,
    ) -> Result<Changed, Error> {
        let mut state = self.state_of(key)?;
        let Some(head) = state.heads.get_mut(&self.stored_key(key)) else {
            return Ok(Changed::Absent);
        };
        let now = head.effective_time(now);
        Ok(head.change(id, change, now))
    }

    async fn unsubscribe(
        &self,
        key: &QueueKey,
        id: SubscriptionId,
        now: Timestamp,
    ) -> Result<(), Error> {
        if let Some(head) = self.state_of(key)?.heads.get_mut(&self.stored_key(key)) {
            head.effective_time(now);
            if !head.has(Fault::DeleteIgnored) {
                head.subscriptions.remove(&id);
            }
        }
        Ok(())
    }

    async fn unsubscribe_all(&self, key: &QueueKey, now: Timestamp) -> Result<(), Error> {
        if let Some(head) = self.state_of(key)?.heads.get_mut(&self.stored_key(key)) {
            head.effective_time(now);
            if !head.has(Fault::DeleteIgnored) {
                head.subscriptions.clear();
            }
        }
        Ok(())
    }
}

impl Head {
    /// Live subscriptions, by id.
    pub(super) fn subscribed(&self, now: Timestamp) -> impl Iterator<Item = &Subscription> {
        let is_live = move |one: &&Subscription| one.is_live(now);
        self.subscriptions.values().filter(is_live)
    }

    fn subscribe(&mut self, new: &NewSubscription, now: Timestamp) -> Subscribed {
        let now = self.effective_time(now);
        let there = self.subscribed(now).find(|one| one.subscriber == new.subscriber).cloned();
        if let Some(there) = there
            && !self.has(Fault::SubscribedTwice)
        {
            return Subscribed::Exists(there);
        }
        self.subscriptions.insert(new.id, Subscription::new(new.clone(), now));
        let after =
            if self.has(Fault::StartPositionTooLate) { self.last.next() } else { self.last };
        Subscribed::Created { after }
    }

    fn change(
        &mut self,
        id: SubscriptionId,
        change: &SubscriptionChange,
        now: Timestamp,
    ) -> Changed {
        let is_taken = self
            .subscribed(now)
            .any(|one| one.id != id && Some(&one.subscriber) == change.subscriber.as_ref())
            && !self.has(Fault::ChangedToTakenSubscriber);
        let is_live = self.subscribed(now).any(|one| one.id == id);
        let keeps_since = self.has(Fault::ChangeKeepsSince);
        let Some(one) = self.subscriptions.get_mut(&id).filter(|_| is_live) else {
            return Changed::Absent;
        };
        if is_taken {
            return Changed::Duplicate;
        }
        let since = if keeps_since { one.since } else { now };
        one.apply(change.clone(), since);
        Changed::Done
    }
}
