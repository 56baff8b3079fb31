//! Who listens to which queue on this server, and the lease that their subscriptions hang on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use zaqar_core::storage::{
    Error as StorageError, MessageStore, NewSubscription, NewsStream, Subscription,
};
use zaqar_core::{
    Clock, Incarnation, LeaseId, MessageId, Position, QueueKey, SubscriptionId, Timestamp,
};

use super::delayed::{Coming, Delayed};
use super::reading::{push_delayed, read};
use super::{Listener, Outlet, Pushed, PushesEnded};
use crate::Keyring;

/// How long subscriptions outlast their server.
const LEASE: Duration = Duration::from_secs(15);
/// How often the lease is kept.
const BEAT: Duration = Duration::from_secs(5);
/// Queues that are read at a time.
const READERS: usize = 64;
/// Subscriptions of one connection that end at a time.
const LEAVING: usize = 16;

/// The connections of this server that messages are pushed to.
pub(crate) struct Audience {
    pub(super) store: Arc<dyn MessageStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) keyring: Option<Arc<Keyring>>,
    pub(super) readers: Semaphore,
    /// The session, while anybody listens. Held while one begins, so that one begins.
    session: tokio::sync::Mutex<Option<Arc<Session>>>,
    hall: Mutex<Hall>,
}

/// From the first subscription until nobody listens any more: one lease, and the tasks that keep it and hear the news.
pub(super) struct Session {
    lease: LeaseId,
    pub(super) over: CancellationToken,
}

/// What is known of the queues that somebody here listens to.
#[derive(Default)]
struct Hall {
    followed: HashMap<QueueKey, Followed>,
    /// Subscriptions that are being made.
    arriving: usize,
    delayed: Delayed,
}

/// A queue that somebody listens to.
struct Followed {
    incarnation: Incarnation,
    /// Everything up to here was read.
    cursor: Position,
    followers: HashMap<SubscriptionId, Follower>,
    reading: Reading,
    /// When the store was last asked who still listens.
    checked: Timestamp,
}

/// A subscription of a connection.
struct Follower {
    outlet: Arc<Outlet>,
    tag: u8,
    /// Where it began: what lies behind concerns it.
    begin: Position,
    /// The last that it got in the queue's order.
    after: Position,
    ends: Timestamp,
}

impl Hall {
    fn hand_on(
        &mut self,
        key: &QueueKey,
        message: &Coming,
        now: Timestamp,
        concerns: impl Fn(&Follower) -> bool,
    ) {
        let Some(followed) = self.followed.get_mut(key) else { return };
        if followed.incarnation != message.id.incarnation {
            return;
        }
        followed.followers.retain(|_, follower| {
            if follower.ends <= now || follower.outlet.has_ended() {
                return false;
            }
            if !concerns(follower) {
                return true;
            }
            follower.after = follower.after.max(message.id.position);
            follower.outlet.push(Pushed { push: message.push.clone(), tag: follower.tag })
        });
        if followed.followers.is_empty() {
            self.followed.remove(key);
        }
    }
}

/// Somebody for whom a subscription is being made.
pub(crate) struct Arrival {
    audience: Arc<Audience>,
    session: Option<Arc<Session>>,
}

impl Arrival {
    /// What the subscription is to hang on.
    pub(crate) fn lease(&self) -> Option<LeaseId> {
        self.session.as_ref().map(|session| session.lease)
    }

    /// Pushes to a subscription from now on: what lies behind `begin`, in this life of the queue.
    pub(crate) fn admit(
        self,
        listener: &Listener,
        key: &QueueKey,
        incarnation: Incarnation,
        subscription: &NewSubscription,
        begin: Position,
        now: Timestamp,
    ) {
        let Some(session) = &self.session else { return };
        let (outlet, tag) = (listener.outlet.clone(), listener.tag);
        outlet.subscriptions().push((key.clone(), subscription.id));
        let ends = now.plus_secs(subscription.ttl);
        let follower = Follower { outlet: outlet.clone(), tag, begin, after: begin, ends };
        let fresh = || Followed {
            incarnation,
            cursor: begin,
            followers: HashMap::new(),
            reading: Reading::Idle,
            checked: now,
        };
        let mut hall = self.audience.hall();
        let followed = hall.followed.entry(key.clone()).or_insert_with(fresh);
        if followed.incarnation != incarnation {
            // What listened to an earlier life of the queue went with it.
            *followed = Followed { reading: followed.reading, ..fresh() };
        }
        followed.cursor = followed.cursor.min(begin);
        followed.followers.insert(subscription.id, follower);
        drop(hall);
        // News that came before it was admitted went past it.
        self.audience.wake(session, key);
        if session.over.is_cancelled() {
            outlet.end(PushesEnded::Lost);
        }
        if outlet.has_ended() {
            let audience = self.audience.clone();
            tokio::spawn(async move { audience.leave(&outlet).await });
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.audience.hall().arriving -= 1;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    Idle,
    /// A task reads.
    Under,
    /// A task reads, and there is news since it began.
    Behind,
}

impl Audience {
    pub(crate) fn new(
        store: Arc<dyn MessageStore>,
        clock: Arc<dyn Clock>,
        keyring: Option<Arc<Keyring>>,
    ) -> Self {
        let readers = Semaphore::new(READERS);
        let (session, hall) = (tokio::sync::Mutex::default(), Mutex::default());
        Self { store, clock, keyring, readers, session, hall }
    }

    /// The lease to subscribe on. Until [`Arrival`] is dropped it does not end for want of listeners.
    pub(crate) async fn receive(self: &Arc<Self>) -> Result<Arrival, StorageError> {
        self.hall().arriving += 1;
        let mut arrival = Arrival { audience: self.clone(), session: None };
        let mut session = self.session.lock().await;
        let lasting = session.clone().filter(|session| !session.over.is_cancelled());
        arrival.session = Some(match lasting {
            Some(session) => session,
            None => session.insert(self.clone().begin().await?).clone(),
        });
        Ok(arrival)
    }

    async fn begin(self: Arc<Self>) -> Result<Arc<Session>, StorageError> {
        let lease = LeaseId::new(rand::random());
        // News first: what is posted after the first subscription is heard of.
        let news = self.store.news().await?;
        let now = self.clock.now();
        self.store.keep_lease(lease, now.plus_secs(LEASE.as_secs()), now).await?;
        let session = Arc::new(Session { lease, over: CancellationToken::new() });
        tokio::spawn(self.clone().hear(session.clone(), news));
        tokio::spawn(push_delayed(self.clone(), session.clone()));
        tokio::spawn(self.keep(session.clone(), now));
        Ok(session)
    }

    /// Keeps the lease as long as somebody listens.
    async fn keep(self: Arc<Self>, session: Arc<Session>, mut kept: Timestamp) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(BEAT) => {}
                () = session.over.cancelled() => return,
            }
            if self.ends_unheard(&session).await {
                return;
            }
            let now = self.clock.now();
            match self.store.keep_lease(session.lease, now.plus_secs(LEASE.as_secs()), now).await {
                Ok(true) => kept = now,
                Ok(false) => return self.end(&session, PushesEnded::Lost),
                Err(StorageError::Closed) => return self.end(&session, PushesEnded::ShutDown),
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "cannot keep the lease");
                    if now >= kept.plus_secs(LEASE.as_secs()) {
                        return self.end(&session, PushesEnded::Lost);
                    }
                }
            }
        }
    }

    /// Ends the session if nobody listens.
    async fn ends_unheard(&self, session: &Session) -> bool {
        let mut place = self.session.lock().await;
        let is_heard = {
            let hall = self.hall();
            hall.arriving > 0 || !hall.followed.is_empty()
        };
        if is_heard {
            return false;
        }
        *place = None;
        drop(place);
        self.give_up(session).await;
        true
    }

    /// Ends every connection's pushes, and the lease.
    pub(crate) async fn shut_down(&self) {
        let session = self.session.lock().await.take();
        if let Some(session) = session {
            self.end(&session, PushesEnded::ShutDown);
            self.give_up(&session).await;
        }
    }

    async fn give_up(&self, session: &Session) {
        session.over.cancel();
        if let Err(error) = self.store.end_lease(session.lease, self.clock.now()).await {
            warn!(error = &error as &dyn std::error::Error, "the lease ends by itself");
        }
    }

    fn end(&self, session: &Session, why: PushesEnded) {
        session.over.cancel();
        let Hall { followed, .. } = std::mem::take(&mut *self.hall());
        for follower in followed.values().flat_map(|followed| followed.followers.values()) {
            follower.outlet.end(why);
        }
    }

    async fn hear(self: Arc<Self>, session: Arc<Session>, mut news: NewsStream) {
        loop {
            let next = std::future::poll_fn(|context| news.as_mut().poll_next(context));
            let posted = tokio::select! {
                posted = next => posted,
                () = session.over.cancelled() => return,
            };
            match posted {
                Some(posted) => self.heard(&session, &posted.key, posted.last),
                None => return self.end(&session, PushesEnded::ShutDown),
            }
        }
    }

    /// Has a queue read where somebody listens to it.
    fn heard(self: &Arc<Self>, session: &Arc<Session>, key: &QueueKey, last: MessageId) {
        let mut hall = self.hall();
        let Some(followed) = hall.followed.get_mut(key) else { return };
        if last.incarnation == followed.incarnation && last.position <= followed.cursor {
            return;
        }
        if last.incarnation != followed.incarnation {
            // Another life of the queue: ask who still listens.
            followed.checked = Timestamp::from_millis(0);
        }
        drop(hall);
        self.wake(session, key);
    }

    /// Has a queue read, by the task that does already or a new one.
    fn wake(self: &Arc<Self>, session: &Arc<Session>, key: &QueueKey) {
        let mut hall = self.hall();
        let Some(followed) = hall.followed.get_mut(key) else { return };
        if followed.reading != Reading::Idle {
            followed.reading = Reading::Behind;
            return;
        }
        followed.reading = Reading::Under;
        drop(hall);
        tokio::spawn(read(self.clone(), session.clone(), key.clone()));
    }

    /// Forgets a connection, and removes its subscriptions from the store.
    pub(super) async fn leave(self: Arc<Self>, outlet: &Outlet) {
        outlet.end(PushesEnded::ShutDown);
        let subscriptions = std::mem::take(&mut *outlet.subscriptions());
        for part in subscriptions.chunks(LEAVING) {
            let mut ends = tokio::task::JoinSet::new();
            for (key, id) in part {
                self.forget(key, *id);
                let (audience, key, id) = (self.clone(), key.clone(), *id);
                ends.spawn(async move {
                    audience.store.unsubscribe(&key, id, audience.clock.now()).await
                });
            }
            while let Some(ended) = ends.join_next().await {
                if let Ok(Err(error)) = ended {
                    warn!(error = &error as &dyn std::error::Error, "a subscription ends later");
                }
            }
        }
    }

    /// Pushes no more to one subscription, which is gone from the store.
    pub(crate) fn forget(&self, key: &QueueKey, id: SubscriptionId) {
        let mut hall = self.hall();
        if let Some(followed) = hall.followed.get_mut(key) {
            followed.followers.remove(&id);
            if followed.followers.is_empty() {
                hall.followed.remove(key);
            }
        }
    }

    /// Pushes no more to the subscriptions of a queue, which are gone from the store.
    pub(crate) fn forget_all(&self, key: &QueueKey) {
        self.hall().followed.remove(key);
    }

    /// Where a queue has been read to; `None` once nobody listens.
    pub(super) fn cursor(&self, key: &QueueKey) -> Option<(Incarnation, Position)> {
        let hall = self.hall();
        hall.followed.get(key).map(|followed| (followed.incarnation, followed.cursor))
    }

    /// Ends a reading; whether there was news meanwhile, so that it goes on.
    pub(super) fn goes_on(&self, key: &QueueKey) -> bool {
        let mut hall = self.hall();
        let Some(followed) = hall.followed.get_mut(key) else { return false };
        let is_behind = followed.reading == Reading::Behind;
        followed.reading = if is_behind { Reading::Under } else { Reading::Idle };
        is_behind
    }

    /// Moves a queue's cursor, unless somebody came who is behind it.
    pub(super) fn advance(&self, key: &QueueKey, from: Position, to: Position) {
        let mut hall = self.hall();
        if let Some(followed) = hall.followed.get_mut(key)
            && followed.cursor == from
        {
            followed.cursor = to;
        }
    }

    /// Whom the store should be asked about: the subscriptions to a queue, if none were for a while.
    pub(super) fn due_for_check(
        &self,
        key: &QueueKey,
        now: Timestamp,
    ) -> Option<Vec<SubscriptionId>> {
        let mut hall = self.hall();
        let followed = hall.followed.get_mut(key)?;
        if now.as_millis() < followed.checked.as_millis().saturating_add(1000) {
            return None;
        }
        followed.checked = now;
        Some(followed.followers.keys().copied().collect())
    }

    /// Keeps, of those that were asked about, the subscriptions that the store has.
    pub(super) fn checked(
        &self,
        key: &QueueKey,
        asked: &[SubscriptionId],
        found: &HashMap<SubscriptionId, Subscription>,
    ) {
        let mut hall = self.hall();
        let Some(followed) = hall.followed.get_mut(key) else { return };
        for id in asked {
            match found.get(id) {
                Some(there) => {
                    if let Some(follower) = followed.followers.get_mut(id) {
                        follower.ends = there.since.plus_secs(there.ttl);
                    }
                }
                None => drop(followed.followers.remove(id)),
            }
        }
        if followed.followers.is_empty() {
            hall.followed.remove(key);
        }
    }

    /// Hands a message to everybody who is yet to get it, or keeps it until it is due.
    pub(super) fn push(&self, key: &QueueKey, message: Coming, now: Timestamp) {
        let mut hall = self.hall();
        if message.due > now || hall.delayed.contains(key, &message) {
            hall.delayed.insert(key, message);
            return;
        }
        hall.hand_on(key, &message, now, |follower| follower.after < message.id.position);
    }

    /// Hands on the delayed messages that have come due; when the next one is.
    pub(super) fn push_delayed(&self, now: Timestamp) -> Option<Timestamp> {
        let mut hall = self.hall();
        while let Some((key, message)) = hall.delayed.take(now) {
            hall.hand_on(&key, &message, now, |follower| follower.begin < message.id.position);
        }
        hall.delayed.next()
    }

    #[cfg(test)]
    pub(super) fn hall_is_empty(&self) -> bool {
        let hall = self.hall();
        hall.followed.is_empty() && hall.arriving == 0
    }

    fn hall(&self) -> MutexGuard<'_, Hall> {
        // Every step leaves it usable.
        self.hall.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
