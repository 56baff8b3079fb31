//! Manages the subscriptions of this server's connections, the lease that they depend on, and the
//! tasks that read queues and send delayed messages.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use zaqar_core::storage::{
    Error as StorageError, MessageStore, NewSubscription, NewsStream, Renewal,
};
use zaqar_core::{
    Clock, Incarnation, LeaseId, MemoryBudget, MessageId, OverBudget, Position, QueueKey, StateLog,
    SubscriptionId, TaskMonitor, Timestamp,
};

use super::state::{FollowedQueue, LocalSubscription, ReadMessage, ReaderState, State};
use super::{ConnectionSender, PushHandle, PushesEnded};
use crate::Keyring;
use crate::stack::Stack;

/// How long subscriptions outlive their server.
const LEASE: Duration = Duration::from_secs(15);
/// How often the lease is renewed.
const RENEWAL: Duration = Duration::from_secs(5);
/// Number of queues that are read concurrently.
const READERS: usize = 64;
/// Number of subscriptions of a closed connection that are removed from the store concurrently.
const REMOVED_AT_ONCE: usize = 16;
/// Maximum number of subscriptions of closed connections that wait to be removed from the store.
/// Others expire with the lease.
const MAX_UNREMOVED: usize = 10_000;
/// Removals that are retried at each renewal of the lease.
const MAX_RETRIES: usize = 1000;
/// Maximum number of queues without posts whose subscriptions are checked at each renewal of the
/// lease.
const CHECKS: usize = 64;
/// How often such a queue is checked, in seconds, unless more than [`CHECKS`] are due.
const CHECK_INTERVAL: u64 = 30;
/// Number of delayed messages that are sent while the state is locked.
const DELAYED_AT_ONCE: usize = 100;
/// The longest sleep of the task that sends delayed messages, and so their greatest delay.
const TICK: Duration = Duration::from_millis(500);

static LEASE_LOG: StateLog = StateLog::new();
static REMOVAL_LOG: StateLog = StateLog::new();
static MEMORY_LOG: StateLog = StateLog::new();

/// Pushes messages to the connections of this server.
pub(crate) struct Pusher {
    pub(super) store: Arc<dyn MessageStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) keyring: Option<Arc<Keyring>>,
    pub(super) stack: Arc<Stack>,
    pub(super) memory: MemoryBudget,
    pub(super) readers: Semaphore,
    tasks: TaskMonitor,
    /// Present while any connection is subscribed. Locked while a session begins, so that only one
    /// does.
    session: tokio::sync::Mutex<Option<Arc<Session>>>,
    state: Mutex<State>,
}

/// Lasts from the first subscription until none is left: one lease, and the tasks that renew it,
/// follow the news and send delayed messages.
pub(super) struct Session {
    pub(super) lease: LeaseId,
    pub(super) ended: CancellationToken,
}

/// A subscription that is being created. Until it is dropped, the session counts as used.
pub(crate) struct PendingSubscription {
    pusher: Arc<Pusher>,
    session: Option<Arc<Session>>,
}

impl PendingSubscription {
    /// The lease for the subscription.
    pub(crate) fn lease(&self) -> Option<LeaseId> {
        self.session.as_ref().map(|session| session.lease)
    }

    /// Starts to push to a subscription the messages posted after `begin` in this incarnation of
    /// the queue, until its signature expires.
    pub(crate) fn activate(
        self,
        handle: &PushHandle,
        key: &QueueKey,
        incarnation: Incarnation,
        new: &NewSubscription,
        (begin, signed_until): (Position, Timestamp),
        now: Timestamp,
    ) {
        let Some(session) = &self.session else { return };
        let (connection, tag) = (handle.connection.clone(), handle.tag);
        connection.subscriptions().push((key.clone(), new.id));
        let expires = now.plus_secs(new.ttl);
        let subscription = LocalSubscription {
            connection: connection.clone(),
            tag,
            begin,
            after: begin,
            expires,
            signed_until,
            is_leaving: false,
        };
        let fresh = || FollowedQueue {
            incarnation,
            cursor: begin,
            subscriptions: HashMap::new(),
            delayed: BTreeMap::new(),
            reader: ReaderState::Idle,
            checked: now,
        };
        let mut state = self.pusher.state();
        state.note_end(expires.min(signed_until));
        let queue = state.queues.entry(key.clone()).or_insert_with(fresh);
        if queue.incarnation != incarnation {
            // The earlier incarnation of the queue was deleted with its subscriptions.
            let new = FollowedQueue { reader: queue.reader, ..fresh() };
            std::mem::replace(queue, new).end(PushesEnded::Lost);
        }
        queue.cursor = queue.cursor.min(begin);
        queue.subscriptions.insert(new.id, subscription);
        drop(state);
        // Earlier news may have been ignored, as no connection was subscribed.
        self.pusher.wake_reader(session, key);
        if session.ended.is_cancelled() {
            connection.end(PushesEnded::Lost);
        }
        if connection.has_ended() {
            let pusher = self.pusher.clone();
            tokio::spawn(async move { pusher.disconnect(&connection).await });
        }
    }
}

impl Drop for PendingSubscription {
    fn drop(&mut self) {
        self.pusher.state().pending -= 1;
    }
}

impl Pusher {
    pub(crate) fn new(
        store: Arc<dyn MessageStore>,
        clock: Arc<dyn Clock>,
        keyring: Option<Arc<Keyring>>,
        stack: Arc<Stack>,
        memory: MemoryBudget,
        tasks: TaskMonitor,
    ) -> Self {
        let readers = Semaphore::new(READERS);
        let (session, state) = (tokio::sync::Mutex::default(), Mutex::default());
        Self { store, clock, keyring, stack, memory, readers, tasks, session, state }
    }

    /// Begins a subscription, and the session if there is none.
    pub(crate) async fn begin_subscription(
        self: &Arc<Self>,
    ) -> Result<PendingSubscription, StorageError> {
        self.state().pending += 1;
        let mut pending = PendingSubscription { pusher: self.clone(), session: None };
        let mut session = self.session.lock().await;
        let live = session.clone().filter(|session| !session.ended.is_cancelled());
        pending.session = Some(match live {
            Some(session) => session,
            None => session.insert(self.begin_session().await?).clone(),
        });
        Ok(pending)
    }

    async fn begin_session(self: &Arc<Self>) -> Result<Arc<Session>, StorageError> {
        let lease = LeaseId::new(rand::random());
        // Follows news first, so that no post after the first subscription is missed.
        let news = self.store.news().await?;
        let now = self.clock.now();
        self.store.keep_lease(lease, now.plus_secs(LEASE.as_secs()), now).await?;
        let session = Arc::new(Session { lease, ended: CancellationToken::new() });
        self.spawn("pushes: news", self.clone().follow_news(session.clone(), news));
        self.spawn("pushes: delayed messages", self.clone().send_delayed(session.clone()));
        self.spawn("pushes: lease", self.clone().renew_lease(session.clone(), now));
        Ok(session)
    }

    /// Starts a task whose panic stops the server: otherwise pushes would stop silently.
    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let guard = self.tasks.guard(name);
        tokio::spawn(async move {
            // Moved into the task, so that a panic drops it.
            let guard = guard;
            task.await;
            guard.finish();
        });
    }

    /// Renews the lease as long as any connection is subscribed.
    async fn renew_lease(self: Arc<Self>, session: Arc<Session>, mut renewed: Timestamp) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(RENEWAL) => {}
                () = session.ended.cancelled() => return,
            }
            if self.end_if_unused(&session).await {
                return;
            }
            let now = self.clock.now();
            if now >= renewed.plus_secs(LEASE.as_secs()) {
                // The server was paused, or its clock was set: another server's sweep may have
                // removed the subscriptions, even if the store would still renew the lease.
                self.end_lease(&session).await;
                return self.end(&session, PushesEnded::Lost);
            }
            self.retry_removals().await;
            self.wake_unchecked(&session, now);
            match self.store.keep_lease(session.lease, now.plus_secs(LEASE.as_secs()), now).await {
                Ok(Renewal::Continued) => renewed = now,
                Ok(Renewal::Created | Renewal::Expired) => {
                    return self.end(&session, PushesEnded::Lost);
                }
                Err(StorageError::Closed) => return self.end(&session, PushesEnded::ShutDown),
                Err(error) => {
                    if let Some(failures) = LEASE_LOG.failure() {
                        let error = &error as &dyn std::error::Error;
                        warn!(error, failures, "cannot renew the lease of subscriptions");
                    }
                }
            }
        }
    }

    /// Ends the session if no connection is subscribed.
    async fn end_if_unused(&self, session: &Session) -> bool {
        let mut current = self.session.lock().await;
        let is_used = {
            let state = self.state();
            state.pending > 0 || !state.queues.is_empty()
        };
        if is_used {
            return false;
        }
        *current = None;
        drop(current);
        self.end_lease(session).await;
        true
    }

    /// Ends every connection's pushes, and the lease.
    pub(crate) async fn shut_down(&self) {
        let session = self.session.lock().await.take();
        if let Some(session) = session {
            self.end(&session, PushesEnded::ShutDown);
            self.end_lease(&session).await;
        }
    }

    async fn end_lease(&self, session: &Session) {
        session.ended.cancel();
        if let Err(error) = self.store.end_lease(session.lease, self.clock.now()).await {
            let error = &error as &dyn std::error::Error;
            warn!(error, "the lease of subscriptions cannot be ended; it expires");
        }
    }

    fn end(&self, session: &Session, why: PushesEnded) {
        session.ended.cancel();
        let queues = {
            let mut state = self.state();
            state.schedule.clear();
            // `pending` stays: subscriptions that are being created still decrement it.
            std::mem::take(&mut state.queues)
        };
        for queue in queues.values() {
            queue.end(why);
        }
    }

    async fn follow_news(self: Arc<Self>, session: Arc<Session>, mut news: NewsStream) {
        loop {
            let next = std::future::poll_fn(|context| news.as_mut().poll_next(context));
            let posted = tokio::select! {
                posted = next => posted,
                () = session.ended.cancelled() => return,
            };
            match posted {
                Some(posted) => self.on_news(&session, &posted.key, posted.last),
                None => return self.end(&session, PushesEnded::ShutDown),
            }
        }
    }

    /// Starts to read a queue if a connection is subscribed to it.
    fn on_news(self: &Arc<Self>, session: &Arc<Session>, key: &QueueKey, last: MessageId) {
        let mut state = self.state();
        let Some(queue) = state.queues.get_mut(key) else { return };
        if last.incarnation == queue.incarnation && last.position <= queue.cursor {
            return;
        }
        if last.incarnation != queue.incarnation {
            // Another incarnation of the queue: makes the reader check which subscriptions are
            // left.
            queue.checked = Timestamp::from_millis(0);
        }
        drop(state);
        self.wake_reader(session, key);
    }

    /// Starts to read a queue, or makes the task that is reading it continue.
    fn wake_reader(self: &Arc<Self>, session: &Arc<Session>, key: &QueueKey) {
        let mut state = self.state();
        let Some(queue) = state.queues.get_mut(key) else { return };
        if queue.reader != ReaderState::Idle {
            queue.reader = ReaderState::RunAgain;
            return;
        }
        queue.reader = ReaderState::Running;
        drop(state);
        self.spawn("pushes: reader", self.clone().read(session.clone(), key.clone()));
    }

    /// Removes a connection's subscriptions, here and in the store.
    pub(super) async fn disconnect(self: Arc<Self>, connection: &ConnectionSender) {
        connection.end(PushesEnded::ShutDown);
        let subscriptions = std::mem::take(&mut *connection.subscriptions());
        for part in subscriptions.chunks(REMOVED_AT_ONCE) {
            let mut removals = tokio::task::JoinSet::new();
            for (key, id) in part {
                self.forget(key, *id);
                let (pusher, key, id) = (self.clone(), key.clone(), *id);
                removals.spawn(async move { pusher.unsubscribe(key, id).await });
            }
            while removals.join_next().await.is_some() {}
        }
    }

    /// Removes a subscription of a closed connection from the store. A failure is retried at the
    /// next renewal of the lease.
    async fn unsubscribe(&self, key: QueueKey, id: SubscriptionId) {
        let Err(error) = self.store.unsubscribe(&key, id, self.clock.now()).await else { return };
        if let Some(failures) = REMOVAL_LOG.failure() {
            let error = &error as &dyn std::error::Error;
            warn!(
                error,
                failures, "cannot remove a subscription of a closed connection, retrying later"
            );
        }
        let mut state = self.state();
        if state.unremoved.len() < MAX_UNREMOVED {
            state.unremoved.push_back((key, id));
        }
    }

    /// Retries removals until one fails.
    async fn retry_removals(&self) {
        for _ in 0..MAX_RETRIES {
            let Some((key, id)) = self.state().unremoved.pop_front() else { return };
            if self.store.unsubscribe(&key, id, self.clock.now()).await.is_err() {
                self.state().unremoved.push_front((key, id));
                return;
            }
        }
    }

    /// Checks queues that were not checked for a while: another server may have deleted the queue
    /// or a subscription.
    fn wake_unchecked(self: &Arc<Self>, session: &Arc<Session>, now: Timestamp) {
        let mut unchecked: Vec<_> = {
            let state = self.state();
            let is_due = |queue: &FollowedQueue| queue.checked.plus_secs(CHECK_INTERVAL) <= now;
            let due = state.queues.iter().filter(|(_, queue)| is_due(queue));
            due.map(|(key, queue)| (queue.checked, key.clone())).collect()
        };
        unchecked.sort_unstable_by_key(|(checked, _)| *checked);
        for (_, key) in unchecked.iter().take(CHECKS) {
            self.wake_reader(session, key);
        }
    }

    /// Notes that a connection begins to delete a subscription of its own, or all of a queue, so
    /// that it is not closed for that.
    pub(crate) fn begin_leaving(
        &self,
        key: &QueueKey,
        id: Option<SubscriptionId>,
        by: Option<&PushHandle>,
    ) {
        let Some(by) = by else { return };
        let mut state = self.state();
        let Some(queue) = state.queues.get_mut(key) else { return };
        for (own, subscription) in &mut queue.subscriptions {
            if id.is_none_or(|id| id == *own) && by.is_same(&subscription.connection) {
                subscription.is_leaving = true;
            }
        }
    }

    /// Ends the connection of a subscription that was removed from the store, or of all of a queue,
    /// unless it did so itself.
    pub(crate) fn removed(&self, key: &QueueKey, id: Option<SubscriptionId>) {
        let mut state = self.state();
        let Some(queue) = state.queues.get_mut(key) else { return };
        queue.remove(key, |own| id.is_none_or(|id| id == own));
        if queue.subscriptions.is_empty() {
            state.remove(key);
        }
    }

    /// Stops pushing to a subscription of a closed connection.
    fn forget(&self, key: &QueueKey, id: SubscriptionId) {
        let mut state = self.state();
        if let Some(queue) = state.queues.get_mut(key) {
            if let Some(subscription) = queue.subscriptions.remove(&id) {
                subscription.connection.forget(key, id);
            }
            if queue.subscriptions.is_empty() {
                state.remove(key);
            }
        }
    }

    /// Ends the pushes of every connection that subscribed to a deleted queue.
    pub(crate) fn queue_deleted(&self, key: &QueueKey) {
        self.end_queue(key, PushesEnded::Lost);
    }

    /// Ends the pushes of every connection that subscribed to a queue whose pushes exceed the
    /// memory budget.
    pub(super) fn over_budget(&self, key: &QueueKey, over: &OverBudget) {
        if let Some(failures) = MEMORY_LOG.failure() {
            let queue = key.name.as_str();
            warn!(%over, queue, failures, "pushes exceed the memory budget, closing their subscribers");
        }
        self.end_queue(key, PushesEnded::Overflow);
    }

    fn end_queue(&self, key: &QueueKey, why: PushesEnded) {
        let removed = self.state().remove(key);
        if let Some(queue) = removed {
            queue.end(why);
        }
    }

    /// The position up to which a queue was read; `None` once no connection is subscribed.
    pub(super) fn cursor(&self, key: &QueueKey) -> Option<(Incarnation, Position)> {
        let state = self.state();
        state.queues.get(key).map(|queue| (queue.incarnation, queue.cursor))
    }

    /// Called when a queue was read to its end. Returns whether there was news meanwhile, so that
    /// reading continues.
    pub(super) fn reads_again(&self, key: &QueueKey) -> bool {
        let mut state = self.state();
        let Some(queue) = state.queues.get_mut(key) else { return false };
        let again = queue.reader == ReaderState::RunAgain;
        queue.reader = if again { ReaderState::Running } else { ReaderState::Idle };
        again
    }

    /// Moves a queue's cursor, unless a subscription was added meanwhile that begins earlier.
    pub(super) fn advance(&self, key: &QueueKey, from: Position, to: Position) {
        let mut state = self.state();
        if let Some(queue) = state.queues.get_mut(key)
            && queue.cursor == from
        {
            queue.cursor = to;
        }
    }

    /// The subscriptions of a queue to check against the store, unless that was done recently and
    /// none has expired since.
    pub(super) fn due_for_check(
        &self,
        key: &QueueKey,
        now: Timestamp,
    ) -> Option<Vec<SubscriptionId>> {
        let mut state = self.state();
        let queue = state.queues.get_mut(key)?;
        let is_recent = now.as_millis() < queue.checked.as_millis().saturating_add(1000);
        if is_recent && queue.subscriptions.values().all(|one| now < one.expires) {
            return None;
        }
        queue.checked = now;
        Some(queue.subscriptions.keys().copied().collect())
    }

    /// Removes the checked subscriptions that the store does not have, and ends their connections.
    pub(super) fn checked(
        &self,
        key: &QueueKey,
        asked: &[SubscriptionId],
        found: &HashMap<SubscriptionId, Timestamp>,
    ) {
        let mut state = self.state();
        let Some(queue) = state.queues.get_mut(key) else { return };
        let mut first_end = Timestamp::MAX;
        for (id, expires) in found {
            if let Some(subscription) = queue.subscriptions.get_mut(id) {
                subscription.expires = *expires;
                first_end = first_end.min(*expires);
            }
        }
        let asked: HashSet<_> = asked.iter().collect();
        queue.remove(key, |id| asked.contains(&id) && !found.contains_key(&id));
        let is_empty = queue.subscriptions.is_empty();
        state.note_end(first_end);
        if is_empty {
            state.remove(key);
        }
    }

    /// Sends a message to every subscription that did not get it yet, or stores it until it is due.
    pub(super) fn push(&self, key: &QueueKey, message: ReadMessage, now: Timestamp) {
        let mut state = self.state();
        let Some(queue) = state.queues.get(key) else { return };
        if message.due > now || queue.delayed.contains_key(&(message.due, message.id)) {
            return state.delay(key, message);
        }
        state.send(key, &message, now, |subscription| subscription.after < message.id.position);
    }

    /// Sends delayed messages when they are due, and ends subscriptions whose time has passed.
    async fn send_delayed(self: Arc<Self>, session: Arc<Session>) {
        loop {
            let now = self.clock.now();
            let expired = self.state().end_due(now);
            for key in &expired {
                self.wake_reader(&session, key);
            }
            let next = self.send_due(now).map_or(TICK, |due| {
                Duration::from_millis(due.as_millis().saturating_sub(now.as_millis()))
            });
            tokio::select! {
                () = tokio::time::sleep(next.min(TICK)) => {}
                () = session.ended.cancelled() => return,
            }
        }
    }

    /// Sends a bounded number of the delayed messages that are due. Returns when the next one is
    /// due.
    pub(super) fn send_due(&self, now: Timestamp) -> Option<Timestamp> {
        let mut state = self.state();
        for _ in 0..DELAYED_AT_ONCE {
            let Some((key, message)) = state.take_due(now) else { break };
            state
                .send(&key, &message, now, |subscription| subscription.begin < message.id.position);
        }
        state.schedule.first().map(|(due, _)| *due)
    }

    #[cfg(test)]
    pub(super) fn is_unused(&self) -> bool {
        let state = self.state();
        state.queues.is_empty() && state.pending == 0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under the lock leaves the state consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
