//! The subscriptions and the outbox of a queue in one incarnation.

use zaqar_core::storage::{
    Changed, FOLLOWED_FOR, NewSubscription, OutboxEntry, Subscription, SubscriptionChange,
};
use zaqar_core::{LeaseId, Position, SubscriptionId, Timestamp};

#[derive(Debug, Default)]
pub(in crate::model) struct Subscribers {
    /// By id, ascending.
    pub(in crate::model) subscriptions: Vec<Subscription>,
    /// In the order of the posts.
    entries: Vec<Entry>,
    /// The greatest start position that a subscriber got.
    begin: Option<Position>,
    /// The position of the last posted message.
    last: Option<Position>,
}

#[derive(Debug)]
struct Entry {
    shown: OutboxEntry,
    /// From when a worker can lease it: initially, or when its last lease expires. `None` if
    /// workers can not.
    due: Option<Timestamp>,
    leased_until: Timestamp,
    /// Until when it can be followed.
    followed: Option<Timestamp>,
}

impl Subscribers {
    pub(in crate::model) fn pass(&mut self, now: Timestamp) {
        self.subscriptions.retain(|one| one.since.plus_secs(one.ttl) > now);
        self.end_unneeded_entries(now);
        for entry in &mut self.entries {
            entry.followed = entry.followed.filter(|until| *until > now);
        }
    }

    /// Ends entries for workers if their messages have expired, and all if no subscription with an
    /// address is left.
    pub(in crate::model) fn end_unneeded_entries(&mut self, now: Timestamp) {
        let is_needed = self.subscriptions.iter().any(|one| one.lease.is_none());
        for entry in &mut self.entries {
            let has_expired = entry
                .shown
                .messages
                .iter()
                .all(|message| entry.shown.created.plus_secs(message.ttl) <= now);
            entry.due = entry.due.filter(|_| is_needed && !has_expired);
        }
    }

    /// A post of at least one message.
    pub(in crate::model) fn post(&mut self, shown: OutboxEntry) {
        assert!(
            Some(shown.first) > self.begin,
            "a post comes after the start positions of earlier subscribers"
        );
        self.last = shown.messages.last().map(|message| message.id.position);
        let dues = || shown.messages.iter().map(|message| message.due);
        let has = |is: fn(&Subscription) -> bool| self.subscriptions.iter().any(is);
        let due = dues().min().filter(|_| has(|one| one.lease.is_none()));
        let followed = dues().max().filter(|_| has(|one| one.lease.is_some()));
        let followed = followed.map(|due| due.plus_secs(FOLLOWED_FOR.as_secs()));
        if due.is_some() || followed.is_some() {
            let leased_until = Timestamp::from_millis(0);
            self.entries.push(Entry { shown, due, leased_until, followed });
        }
    }

    /// The live subscription of a subscriber.
    pub(in crate::model) fn of(&self, subscriber: &str) -> Option<&Subscription> {
        self.subscriptions.iter().find(|one| one.subscriber == subscriber)
    }

    /// Adds a subscription that the store has created with the start position `after`.
    pub(in crate::model) fn subscribe(
        &mut self,
        new: NewSubscription,
        after: Position,
        now: Timestamp,
    ) {
        assert!(Some(after) >= self.last, "a subscriber starts after all earlier posts");
        self.begin = self.begin.max(Some(after));
        let NewSubscription { id, subscriber, ttl, options, confirmed, lease } = new;
        let made = Subscription { id, subscriber, ttl, since: now, options, confirmed, lease };
        self.subscriptions.push(made);
    }

    pub(in crate::model) fn change(
        &mut self,
        id: SubscriptionId,
        change: &SubscriptionChange,
        now: Timestamp,
    ) -> Changed {
        let taken = change.subscriber.as_deref().and_then(|subscriber| self.of(subscriber));
        let is_taken = taken.is_some_and(|other| other.id != id);
        let Some(one) = self.subscriptions.iter_mut().find(|one| one.id == id) else {
            return Changed::Absent;
        };
        if is_taken {
            return Changed::Duplicate;
        }
        if let Some(subscriber) = &change.subscriber {
            one.subscriber.clone_from(subscriber);
        }
        if let Some(ttl) = change.ttl {
            (one.ttl, one.since) = (ttl, now);
        }
        Changed::Done
    }

    pub(in crate::model) fn unsubscribe(&mut self, id: SubscriptionId) {
        self.subscriptions.retain(|one| one.id != id);
    }

    /// Removes the subscriptions on a lease that is no longer live.
    pub(in crate::model) fn drop_lease(&mut self, lease: LeaseId) {
        self.subscriptions.retain(|one| one.lease != Some(lease));
    }

    /// The subscriptions on a lease, with their expiry.
    pub(in crate::model) fn on_lease(&self, lease: LeaseId) -> Vec<(SubscriptionId, Timestamp)> {
        let own = self.subscriptions.iter().filter(|one| one.lease == Some(lease));
        own.map(|one| (one.id, one.since.plus_secs(one.ttl))).collect()
    }

    pub(in crate::model) fn recipients(&self, confirmed_only: bool) -> Vec<SubscriptionId> {
        let told = self
            .subscriptions
            .iter()
            .filter(|one| one.lease.is_none() && (one.confirmed || !confirmed_only));
        told.map(|one| one.id).collect()
    }

    pub(in crate::model) fn is_due(&self, now: Timestamp) -> bool {
        self.entries.iter().any(|entry| entry.is_due(now))
    }

    /// Leases the first entries that are due, up to one that is leased.
    pub(in crate::model) fn lease(
        &mut self,
        limit: usize,
        until: Timestamp,
        now: Timestamp,
    ) -> Vec<OutboxEntry> {
        let reachable = self.entries.iter_mut().take_while(|entry| !entry.is_leased(now));
        let due = reachable.filter(|entry| entry.is_due(now)).take(limit);
        due.map(|entry| {
            (entry.due, entry.leased_until) = (Some(until), until);
            entry.shown.clone()
        })
        .collect()
    }

    pub(in crate::model) fn settle(&mut self, first: Position) {
        for entry in self.entries.iter_mut().filter(|entry| entry.shown.first == first) {
            entry.due = None;
        }
    }

    /// Checks the followed entries: every required one must be present, and every other must have
    /// been posted to subscribers.
    pub(in crate::model) fn check_followed(&self, shown: &[OutboxEntry], at: &str) {
        let must = self.entries.iter().filter(|entry| entry.followed.is_some());
        let missing: Vec<_> =
            must.map(|entry| &entry.shown).filter(|entry| !shown.contains(entry)).collect();
        assert!(missing.is_empty(), "these cannot be followed: {missing:?}, {at}");
        let known: Vec<_> = self.entries.iter().map(|entry| &entry.shown).collect();
        assert!(
            shown.iter().all(|entry| known.contains(&entry)),
            "{shown:?} were not posted, {at}"
        );
        assert!(shown.is_sorted_by(|a, b| a.first < b.first), "out of order: {shown:?}, {at}");
    }
}

impl Entry {
    fn is_due(&self, now: Timestamp) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    fn is_leased(&self, now: Timestamp) -> bool {
        self.due.is_some() && self.leased_until > now
    }
}
