//! The subscriptions of this server's connections, the lease that they depend on, and the tasks
//! that have queues read and send delayed messages.

use std::collections::{BTreeMap, HashMap};
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
use super::{ConnectionSender, Listener, PushesEnded};
use crate::Keyring;
use crate::stack::Stack;

/// How long subscriptions outlast their server.
const LEASE: Duration = Duration::from_secs(15);
/// How often the lease is renewed.
const RENEWAL: Duration = Duration::from_secs(5);
/// Queues that are read at a time.
const READERS: usize = 64;
/// Subscriptions of one closed connection that are removed from the store at a time.
const REMOVED_AT_ONCE: usize = 16;
/// Subscriptions of closed connections that wait to be removed from the store, at most. The rest
/// expires with the lease.
const MAX_UNREMOVED: usize = 10_000;
/// Removals that are retried at each renewal of the lease.
const MAX_RETRIES: usize = 1000;
/// Queues whose subscriptions are checked at each renewal of the lease although nothing was posted.
const CHECKS: usize = 64;
/// Queues are checked this often, in seconds, where at most [`CHECKS`] are due at a time.
const CHECK_INTERVAL: u64 = 30;
/// Delayed messages that are sent before other users of the state get their turn.
const DELAYED_AT_ONCE: usize = 100;
/// The longest sleep of the task that sends delayed messages: how late one may be.
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
    /// There while any connection is subscribed. Locked while a session begins, so that one
    /// begins.
    session: tokio::sync::Mutex<Option<Arc<Session>>>,
    state: Mutex<State>,
}

/// From the first subscription until none is left: one lease, and the tasks that renew it, follow
/// the news and send delayed messages.
pub(super) struct Session {
    pub(super) lease: LeaseId,
    pub(super) ended: CancellationToken,
}

/// A subscription that is being made. Until it is dropped, the session does not end because nobody
/// is subscribed.
pub(crate) struct PendingSubscription {
    pusher: Arc<Pusher>,
    session: Option<Arc<Session>>,
}

impl PendingSubscription {
    /// The lease that the subscription is to depend on.
    pub(crate) fn lease(&self) -> Option<LeaseId> {
        self.session.as_ref().map(|session| session.lease)
    }

    /// Pushes to a subscription from now on: what is posted after `begin`, in this incarnation of
    /// the queue.
    pub(crate) fn activate(
        self,
        listener: &Listener,
        key: &QueueKey,
        incarnation: Incarnation,
        new: &NewSubscription,
        begin: Position,
        now: Timestamp,
    ) {
        let Some(session) = &self.session else { return };
        let (connection, tag) = (listener.connection.clone(), listener.tag);
        connection.subscriptions().push((key.clone(), new.id));
        let expires = now.plus_secs(new.ttl);
        let subscription =
            LocalSubscription { connection: connection.clone(), tag, begin, after: begin, expires };
        let fresh = || FollowedQueue {
            incarnation,
            cursor: begin,
            subscriptions: HashMap::new(),
            delayed: BTreeMap::new(),
            reader: ReaderState::Idle,
            checked: now,
        };
        let mut state = self.pusher.state();
        let queue = state.queues.entry(key.clone()).or_insert_with(fresh);
        if queue.incarnation != incarnation {
            // The earlier incarnation of the queue was deleted with its subscriptions.
            let new = FollowedQueue { reader: queue.reader, ..fresh() };
            std::mem::replace(queue, new).end(PushesEnded::Lost);
        }
        queue.cursor = queue.cursor.min(begin);
        queue.subscriptions.insert(new.id, subscription);
        drop(state);
        // News that came before was ignored, as nobody was subscribed.
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

    /// The lease to subscribe on.
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
        // News first, so that no post after the first subscription is missed.
        let news = self.store.news().await?;
        let now = self.clock.now();
        self.store.keep_lease(lease, now.plus_secs(LEASE.as_secs()), now).await?;
        let session = Arc::new(Session { lease, ended: CancellationToken::new() });
        self.spawn("pushes: news", self.clone().follow_news(session.clone(), news));
        self.spawn("pushes: delayed messages", self.clone().send_delayed(session.clone()));
        self.spawn("pushes: lease", self.clone().renew_lease(session.clone(), now));
        Ok(session)
    }

    /// Starts a task whose panic ends the server: without it, pushes would stop in silence.
    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let guard = self.tasks.guard(name);
        tokio::spawn(async move {
            // Bound first, so that a panic of the task drops it.
            let guard = guard;
            task.await;
            guard.finish();
        });
    }

    /// Renews the lease as long as anybody is subscribed.
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
                // The server stood still, or its clock was set: any other server's sweep may have
                // removed the subscriptions, whatever the store says of the lease.
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

    /// Ends the session if nobody is subscribed.
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
            // Not `pending`: a subscription that is being made still decrements it.
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

    /// Has a queue read if a connection is subscribed to it.
    fn on_news(self: &Arc<Self>, session: &Arc<Session>, key: &QueueKey, last: MessageId) {
        let mut state = self.state();
        let Some(queue) = state.queues.get_mut(key) else { return };
        if last.incarnation == queue.incarnation && last.position <= queue.cursor {
            return;
        }
        if last.incarnation != queue.incarnation {
            // Another incarnation of the queue: ask the store which subscriptions are left.
            queue.checked = Timestamp::from_millis(0);
        }
        drop(state);
        self.wake_reader(session, key);
    }

    /// Has a queue read, by the task that reads it already or a new one.
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

    /// Forgets a connection, and removes its subscriptions from the store.
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

    /// Removes a subscription of a closed connection from the store, or has that retried at the
    /// next renewal of the lease.
    async fn unsubscribe(&self, key: QueueKey, id: SubscriptionId) {
        let Err(error) = self.store.unsubscribe(&key, id, self.clock.now()).await else { return };
        if let Some(failures) = REMOVAL_LOG.failure() {
            let error = &error as &dyn std::error::Error;
            warn!(error, failures, "a subscription of a closed connection is removed later");
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

    /// Has the queues checked that were not for a while: a queue may have been deleted, or a
    /// subscription removed, by another server.
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

    /// Pushes no more to one subscription, which was removed from the store.
    pub(crate) fn forget(&self, key: &QueueKey, id: SubscriptionId) {
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

    /// Pushes no more to the subscriptions of a queue, which were removed from the store.
    pub(crate) fn forget_all(&self, key: &QueueKey) {
        let removed = self.state().remove(key);
        for (id, subscription) in removed.iter().flat_map(|queue| &queue.subscriptions) {
            subscription.connection.forget(key, *id);
        }
    }

    /// Ends the pushes of every connection that subscribed to a queue which was deleted.
    pub(crate) fn queue_deleted(&self, key: &QueueKey) {
        self.end_queue(key, PushesEnded::Lost);
    }

    /// Ends the pushes of every connection that subscribed to a queue whose messages are more than
    /// may be kept for them.
    pub(super) fn over_budget(&self, key: &QueueKey, over: &OverBudget) {
        if let Some(failures) = MEMORY_LOG.failure() {
            let queue = key.name.as_str();
            warn!(%over, queue, failures, "subscribers are closed: their pushes take too much");
        }
        self.end_queue(key, PushesEnded::Overflow);
    }

    fn end_queue(&self, key: &QueueKey, why: PushesEnded) {
        let removed = self.state().remove(key);
        if let Some(queue) = removed {
            queue.end(why);
        }
    }

    /// Where a queue has been read to; `None` once nobody is subscribed.
    pub(super) fn cursor(&self, key: &QueueKey) -> Option<(Incarnation, Position)> {
        let state = self.state();
        state.queues.get(key).map(|queue| (queue.incarnation, queue.cursor))
    }

    /// Ends a reading; whether there was news meanwhile, so that it goes on.
    pub(super) fn reads_again(&self, key: &QueueKey) -> bool {
        let mut state = self.state();
        let Some(queue) = state.queues.get_mut(key) else { return false };
        let again = queue.reader == ReaderState::RunAgain;
        queue.reader = if again { ReaderState::Running } else { ReaderState::Idle };
        again
    }

    /// Moves a queue's cursor, unless a subscription that begins before it was added.
    pub(super) fn advance(&self, key: &QueueKey, from: Position, to: Position) {
        let mut state = self.state();
        if let Some(queue) = state.queues.get_mut(key)
            && queue.cursor == from
        {
            queue.cursor = to;
        }
    }

    /// The subscriptions of a queue that the store should be asked about, if it was not for a
    /// while.
    pub(super) fn due_for_check(
        &self,
        key: &QueueKey,
        now: Timestamp,
    ) -> Option<Vec<SubscriptionId>> {
        let mut state = self.state();
        let queue = state.queues.get_mut(key)?;
        if now.as_millis() < queue.checked.as_millis().saturating_add(1000) {
            return None;
        }
        queue.checked = now;
        Some(queue.subscriptions.keys().copied().collect())
    }

    /// Keeps, of those that were asked about, the subscriptions that the store has.
    pub(super) fn checked(
        &self,
        key: &QueueKey,
        asked: &[SubscriptionId],
        found: &HashMap<SubscriptionId, Timestamp>,
    ) {
        let mut state = self.state();
        let Some(queue) = state.queues.get_mut(key) else { return };
        for id in asked {
            match found.get(id) {
                Some(expires) => {
                    if let Some(subscription) = queue.subscriptions.get_mut(id) {
                        subscription.expires = *expires;
                    }
                }
                None => {
                    if let Some(subscription) = queue.subscriptions.remove(id) {
                        subscription.connection.forget(key, *id);
                    }
                }
            }
        }
        if queue.subscriptions.is_empty() {
            state.remove(key);
        }
    }

    /// Sends a message to every subscription that did not get it yet, or keeps it until it is due.
    pub(super) fn push(&self, key: &QueueKey, message: ReadMessage, now: Timestamp) {
        let mut state = self.state();
        let Some(queue) = state.queues.get(key) else { return };
        if message.due > now || queue.delayed.contains_key(&(message.due, message.id)) {
            return state.delay(key, message);
        }
        state.send(key, &message, now, |subscription| subscription.after < message.id.position);
    }

    /// Sends delayed messages when they are due.
    async fn send_delayed(self: Arc<Self>, session: Arc<Session>) {
        loop {
            let now = self.clock.now();
            let next = self.send_due(now).map_or(TICK, |due| {
                Duration::from_millis(due.as_millis().saturating_sub(now.as_millis()))
            });
            tokio::select! {
                () = tokio::time::sleep(next.min(TICK)) => {}
                () = session.ended.cancelled() => return,
            }
        }
    }

    /// Sends the delayed messages that are due, a bounded number; when the next one is.
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
        // Every step leaves it usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
