//! A store of a server that dies after a number of calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use zaqar_core::storage::{
    Batch, Changed, Claim, ClaimRequest, Claimed, Claims, Contents, ContentsMark, Deletable,
    Deleted, DueQueue, Error, Exported, FrozenHead, Guarded, Heads, LeaseRequest, Leases,
    ListQuery, Message, MessagePage, MessageStore, Messages, Movable, MoveId, Moves,
    NewSubscription, News, NewsStream, Outbox, OutboxEntry, PopPage, PopQuery, RecipientQuery,
    Renewal, Stats, Subscribed, Subscription, SubscriptionChange, Subscriptions, Swept, Upkeep,
    Volume,
};
use zaqar_core::{
    ClaimId, Generation, Incarnation, LeaseId, MessageId, Position, QueueKey, SubscriptionId,
    Timestamp,
};

pub(crate) struct Dying {
    pub(crate) store: Arc<dyn MessageStore>,
    /// The server's stores share it.
    pub(crate) calls_left: Arc<AtomicI64>,
}

impl Dying {
    fn alive(&self) -> Result<&dyn MessageStore, Error> {
        match self.calls_left.fetch_sub(1, Ordering::AcqRel) {
            left if left > 0 => Ok(self.store.as_ref()),
            _ => Err(Error::unavailable("the server is dead")),
        }
    }

    fn moving(&self) -> Result<&dyn Moves, Error> {
        self.alive()?.moves().ok_or_else(|| Error::failed("it moves no queues"))
    }
}

/// Implements a trait by methods that count as calls, and fail after the last one.
macro_rules! forward {
    ($alive:ident $resource:ident {
        $(fn $name:ident($($given:ident: $kind:ty),*) -> $answer:ty;)+
    }) => {
        #[async_trait]
        impl $resource for Dying {
            $(async fn $name(&self, $($given: $kind),*) -> Result<$answer, Error> {
                self.$alive()?.$name($($given),*).await
            })+
        }
    };
}

forward!(alive Heads {
    fn open(key: &QueueKey, generation: Generation, now: Timestamp) -> Generation;
    fn generation(key: &QueueKey) -> Option<Generation>;
    fn advance(key: &QueueKey, generation: Generation) -> Guarded<()>;
    fn close(key: &QueueKey, incarnation: Incarnation) -> Guarded<()>;
});

forward!(alive Messages {
    fn post(
        key: &QueueKey, assumed: Generation, batch: Batch, now: Timestamp
    ) -> Guarded<Vec<MessageId>>;
    fn list(key: &QueueKey, query: &ListQuery, now: Timestamp) -> MessagePage;
    fn get(key: &QueueKey, ids: &[MessageId], now: Timestamp) -> Vec<Message>;
    fn delete(
        key: &QueueKey, id: MessageId, claim: Option<ClaimId>, now: Timestamp
    ) -> Deleted;
    fn delete_many(key: &QueueKey, ids: &[MessageId], which: &Deletable, now: Timestamp) -> ();
    fn pop(key: &QueueKey, query: &PopQuery, now: Timestamp) -> PopPage;
    fn purge(key: &QueueKey, now: Timestamp) -> ();
    fn stats(key: &QueueKey, now: Timestamp) -> Option<Stats>;
    fn volume() -> Option<Volume>;
});

forward!(alive Claims {
    fn claim(
        key: &QueueKey, assumed: Generation, request: &ClaimRequest, now: Timestamp
    ) -> Guarded<Claimed>;
    fn claim_each(
        key: &QueueKey, assumed: Generation, ids: &[ClaimId], ttl: u64, now: Timestamp
    ) -> Guarded<Vec<Message>>;
    fn claim_get(key: &QueueKey, id: ClaimId, now: Timestamp) -> Option<Claim>;
    fn claim_renew(key: &QueueKey, id: ClaimId, ttl: u64, grace: u64, now: Timestamp) -> bool;
    fn claim_release(key: &QueueKey, id: ClaimId, now: Timestamp) -> usize;
});

forward!(alive Subscriptions {
    fn subscribe(
        key: &QueueKey, assumed: Generation, new: &NewSubscription, now: Timestamp
    ) -> Guarded<Subscribed>;
    fn subscription(
        key: &QueueKey, id: SubscriptionId, now: Timestamp
    ) -> Option<Subscription>;
    fn subscriptions(
        key: &QueueKey, after: Option<SubscriptionId>, limit: usize, now: Timestamp
    ) -> Vec<Subscription>;
    fn leased_subscriptions(
        key: &QueueKey, lease: LeaseId, after: Option<SubscriptionId>, limit: usize, now: Timestamp
    ) -> Vec<(SubscriptionId, Timestamp)>;
    fn recipients(
        key: &QueueKey, query: &RecipientQuery, now: Timestamp
    ) -> Vec<SubscriptionId>;
    fn change_subscription(
        key: &QueueKey, id: SubscriptionId, change: &SubscriptionChange, now: Timestamp
    ) -> Changed;
    fn unsubscribe(key: &QueueKey, id: SubscriptionId, now: Timestamp) -> ();
    fn unsubscribe_all(key: &QueueKey, now: Timestamp) -> ();
});

forward!(alive Leases {
    fn keep_lease(lease: LeaseId, until: Timestamp, now: Timestamp) -> Renewal;
    fn end_lease(lease: LeaseId, now: Timestamp) -> ();
});

forward!(alive Outbox {
    fn due_queues(limit: usize, now: Timestamp) -> Vec<DueQueue>;
    fn lease(key: &QueueKey, request: &LeaseRequest, now: Timestamp) -> Vec<OutboxEntry>;
    fn settle(key: &QueueKey, incarnation: Incarnation, firsts: &[Position]) -> ();
    fn follow(
        key: &QueueKey, incarnation: Incarnation, after: Position, limit: usize, now: Timestamp
    ) -> Vec<OutboxEntry>;
});

forward!(alive News {
    fn news() -> NewsStream;
});

#[async_trait]
impl Upkeep for Dying {
    async fn ping(&self) -> Result<(), Error> {
        self.alive()?.ping().await
    }

    async fn sweep(&self, now: Timestamp, budget: usize) -> Result<Swept, Error> {
        self.alive()?.sweep(now, budget).await
    }

    /// Nothing, as other servers use the store.
    async fn shut_down(&self) -> Result<(), Error> {
        Ok(())
    }
}

forward!(moving Moves {
    fn freeze(key: &QueueKey, id: MoveId, now: Timestamp) -> Option<FrozenHead>;
    fn receive(key: &QueueKey, id: MoveId, head: FrozenHead, now: Timestamp) -> ();
    fn export(
        key: &QueueKey, id: MoveId, mark: ContentsMark, limit: usize, now: Timestamp
    ) -> Option<Exported>;
    fn import(key: &QueueKey, id: MoveId, part: &Contents, now: Timestamp) -> bool;
    fn thaw(key: &QueueKey, id: MoveId) -> ();
    fn discard(key: &QueueKey, id: MoveId) -> ();
    fn heads(cursor: Option<u64>, limit: usize) -> (Vec<QueueKey>, Option<u64>);
});

impl Movable for Dying {
    fn moves(&self) -> Option<&dyn Moves> {
        self.store.moves().map(|_| self as _)
    }
}
