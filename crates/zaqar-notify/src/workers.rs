//! The workers of one server: they expand the outbox, serve the schedule, and receive news.

use std::collections::HashSet;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FusedFuture, join_all};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use zaqar_core::storage::{Error, Posted, Subscription};
use zaqar_core::{
    Incarnation, Kind, MessageId, Payload, Position, QueueKey, Secret, SubscriptionId, Timestamp,
};

use crate::confirmation::confirmation;
use crate::context::{Context, Counts, Options, Parts, PublicUrls};
use crate::dispatch::Dispatcher;
use crate::events::EventKind;
use crate::expand::expand_queue;
use crate::fairness::Circuits;
use crate::row::{Body, Content, Row, SHARDS, SubscriptionKey, Ticket, shard_of};
use crate::signature::Scheme;
use crate::turns::{Reason, Turns};
use crate::{announce, log_store, secrets};

/// Queues per look-up in the outbox.
const QUEUES: usize = 64;
/// Queues that are remembered for having subscribers, at most.
const REMEMBERED: usize = 10_000;
/// The pause between look-ups in the outbox on news of queues without subscribers: it grows while
/// nothing is found.
const PAUSES: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(200)];
/// How often tickets are renewed; less than a third of their lease.
const RENEWAL: Duration = Duration::from_secs(6);
/// The pause between two writes of the log.
const LOG_PAUSE: Duration = Duration::from_millis(500);
/// The pause between two looks for events that wait.
const EVENTS_PAUSE: Duration = Duration::from_secs(5);
/// The pause after the store failed.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Delivers messages to subscribers with an address.
///
/// Any number of servers can share one store. Each post reaches every subscriber it is for at least
/// once, even if servers die.
pub struct Workers {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workers").finish_non_exhaustive()
    }
}

/// Controls the workers. Clones share them.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

struct Shared {
    context: Arc<Context>,
    dispatcher: Arc<Dispatcher>,
    shutdown: CancellationToken,
    wake: Wake,
}

/// What must be checked next.
#[derive(Default)]
struct Wake {
    outbox: Notify,
    queues: Notify,
    shards: [Notify; SHARDS],
    news: Mutex<PendingNews>,
}

#[derive(Default)]
struct PendingNews {
    /// Queues with subscribers that have news, and those that look-ups named.
    turns: Turns,
    /// Whether other queues have news.
    others: bool,
    /// Queues that had entries before.
    subscribed: HashSet<QueueKey>,
}

impl Workers {
    /// Creates workers that are not running yet.
    pub fn new(parts: Parts, options: Options) -> Self {
        let context = Arc::new(Context::new(parts, options));
        let shutdown = CancellationToken::new();
        let dispatcher = Arc::new(Dispatcher::new(Arc::clone(&context), shutdown.clone()));
        let wake = Wake::default();
        Self { shared: Arc::new(Shared { context, dispatcher, shutdown, wake }) }
    }

    /// A handle to control them.
    pub fn handle(&self) -> Handle {
        Handle { shared: Arc::clone(&self.shared) }
    }

    /// Runs until `shutdown`; then attempts in progress may end, within [`Options::drain`]. The
    /// future is boxed so that it is compiled in this crate.
    pub fn run(self, shutdown: CancellationToken) -> BoxFuture<'static, ()> {
        Box::pin(self.work(shutdown))
    }

    async fn work(self, shutdown: CancellationToken) {
        let shared = &self.shared;
        let mut expanding = pin!(shared.expand_outbox(&shutdown).fuse());
        tokio::select! {
            () = shutdown.cancelled() => {}
            _ = async { tokio::join!(
                shared.listen(),
                expanding.as_mut(),
                shared.serve_schedule(),
                shared.write_log(),
                shared.post_events(),
            ) } => {}
        }
        shared.shutdown.cancel();
        let drain = shared.context.options.drain;
        // Entries that are leased would hold up their queues until their lease expires.
        let is_expanded = expanding.is_terminated();
        let expanded = async {
            if !is_expanded {
                expanding.await;
            }
        };
        // Tickets must not expire meanwhile: the drain is shorter than their lease.
        let _is_drained = tokio::time::timeout(drain, async {
            tokio::join!(expanded, shared.dispatcher.idle());
        })
        .await;
        shared.dispatcher.stop().await;
        shared.flush_log().await;
    }

    /// Does everything that is due now and waits for it: for tests, with a manual clock.
    #[cfg(test)]
    pub(crate) async fn step(&self) -> Result<(), Error> {
        let shared = &self.shared;
        loop {
            let now = shared.context.parts.clock.now();
            let queues = shared.due_queues(now).await?;
            let mut expanded = 0;
            for key in queues {
                expanded += expand_queue(&shared.context, &key).await?;
            }
            if expanded == 0 {
                break;
            }
        }
        for shard in 0..SHARDS {
            shared.dispatcher.poll(shard).await?;
        }
        shared.dispatcher.idle().await;
        log_store::flush(&shared.context).await?;
        // The sink may fail, as it is told to: what waits is posted by a later step.
        let _is_posted = announce::post_waiting(&shared.context).await;
        Ok(())
    }
}

impl Handle {
    pub(crate) fn context(&self) -> &Context {
        &self.shared.context
    }

    #[cfg(test)]
    pub(crate) fn dispatcher(&self) -> Arc<Dispatcher> {
        Arc::clone(&self.shared.dispatcher)
    }

    /// Counters since the start.
    pub fn counts(&self) -> Counts {
        self.shared.context.counters.get()
    }

    /// The number of deliveries in flight.
    pub fn in_flight(&self) -> u32 {
        self.shared.context.fairness.in_flight()
    }

    /// Destinations by the state of their circuits, as this server sees them.
    pub fn circuits(&self) -> Circuits {
        let context = &self.shared.context;
        context.fairness.circuits(context.parts.clock.now())
    }

    /// The number of subscriptions in service.
    pub fn served(&self) -> usize {
        self.shared.dispatcher.served()
    }

    /// Resumes a subscription after a change: ends a suspension, and retries waiting rows.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn resume(&self, queue: &QueueKey, id: SubscriptionId) -> Result<(), Error> {
        let context = &self.shared.context;
        let key = SubscriptionKey { queue: queue.clone(), id };
        let now = context.parts.clock.now();
        let was_suspended = context.deliveries.is_suspended(&key).await?;
        if let Some(found) = context.parts.messages.subscription(queue, id, now).await? {
            let channel = context.channel(&found.subscriber);
            if let Some(Ok(origin)) = channel.map(|channel| channel.origin(&found.subscriber)) {
                context.fairness.resume(&queue.project, &origin, now);
            }
            if was_suspended {
                let options = serde_json::from_str(&found.options).unwrap_or_default();
                let about = (found.subscriber.as_str(), &options);
                announce::tell(context, &key, about, &EventKind::Resumed).await?;
            }
        }
        context.subjects.forget(&key);
        context.deliveries.set_suspended(&key, false).await?;
        if !context.deliveries.is_empty(&key, now).await? {
            let ticket = Ticket { subscription: key, keeps: false };
            context.deliveries.schedule(&[ticket], now, now).await?;
        }
        Ok(())
    }

    /// Asks a subscriber to confirm, or notifies it that it gets no more messages, if
    /// [`Options::require_confirmation`] is set. The URL is valid for `secs` seconds.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn confirm(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        secs: u64,
        has_ended: bool,
    ) -> Result<(), Error> {
        let context = &self.shared.context;
        let (true, Some(signing)) =
            (context.options.require_confirmation, &context.options.signing_key)
        else {
            return Ok(());
        };
        let key = SubscriptionKey { queue: queue.clone(), id };
        let now = context.parts.clock.now();
        let found = context.parts.messages.subscription(queue, id, now).await?;
        let Some(Subscription { subscriber, .. }) = found else { return Ok(()) };
        let urls = match &context.parts.directory {
            Some(directory) => directory.public_urls().await,
            None => PublicUrls::default(),
        };
        let expires = now.plus_secs(secs);
        let Some(request) = confirmation(signing, (&key, &subscriber), &urls, expires, has_ended)
        else {
            return Ok(());
        };
        let row = Row {
            message: MessageId {
                incarnation: Incarnation::new(rand::random::<u64>() >> 1),
                position: Position::new(0),
            },
            ttl: secs,
            created: now,
            content: Content::Confirmation,
            body: Body::Here(Payload::plain(request.to_string().into())),
        };
        context.deliveries.add(&key, &[(row, now)], now).await?;
        let ticket = Ticket { subscription: key, keeps: false };
        context.deliveries.schedule(&[ticket], now, now).await
    }

    /// Makes the signing secret of a subscription, unless it has one of that scheme. What verifies
    /// the new one is answered, and never again.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn make_secret(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        scheme: Scheme,
    ) -> Result<Option<Secret<String>>, Error> {
        let context = &self.shared.context;
        let key = SubscriptionKey { queue: queue.clone(), id };
        secrets::make(context, &key, scheme, context.parts.clock.now()).await
    }

    /// Makes a new signing secret; the one before signs too for `grace` seconds. What verifies the
    /// new one is answered, and never again; `None` where another caller changes it at the moment,
    /// or the old one cannot be read.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn rotate_secret(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        scheme: Scheme,
        grace: u64,
    ) -> Result<Option<Secret<String>>, Error> {
        let context = &self.shared.context;
        let key = SubscriptionKey { queue: queue.clone(), id };
        let now = context.parts.clock.now();
        secrets::rotate(context, &key, scheme, now.plus_secs(grace), now).await
    }

    /// Deletes everything of a subscription that is gone.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn remove(&self, queue: &QueueKey, id: SubscriptionId) -> Result<(), Error> {
        let key = SubscriptionKey { queue: queue.clone(), id };
        self.shared.context.subjects.forget(&key);
        self.shared.context.deliveries.remove(&key).await
    }
}

impl Shared {
    /// Receives the store's news, and subscribes again when the stream ends.
    async fn listen(&self) {
        loop {
            match self.context.parts.messages.news().await {
                Ok(mut news) => {
                    while let Some(posted) = poll_fn(|cx| news.as_mut().poll_next(cx)).await {
                        self.receive(posted);
                    }
                }
                Err(error) => self.context.log_failure("news", &error),
            }
            tokio::time::sleep(AFTER_FAILURE).await;
        }
    }

    fn receive(&self, Posted { key, .. }: Posted) {
        let mut news = self.wake.news();
        match key.kind {
            Kind::Queue | Kind::Topic => {
                let is_subscribed = news.subscribed.contains(&key);
                if is_subscribed && news.turns.add(key, Reason::News) {
                    self.wake.queues.notify_one();
                } else {
                    news.others = true;
                    self.wake.outbox.notify_one();
                }
            }
            Kind::Internal => {
                if let Some(shard) = shard_of(&key).and_then(|shard| self.wake.shards.get(shard)) {
                    shard.notify_one();
                }
            }
        }
    }

    /// Expands due entries until `shutdown`; then it finishes what it has begun. Queues with news
    /// do not wait for a look-up: a pool that does not answer delays it.
    async fn expand_outbox(&self, shutdown: &CancellationToken) {
        tokio::join!(self.expand_in_turns(shutdown), self.look_up_entries(shutdown));
    }

    /// Expands the queues that wait.
    async fn expand_in_turns(&self, shutdown: &CancellationToken) {
        let context = &self.context;
        let mut running = FuturesUnordered::new();
        while !(shutdown.is_cancelled() && running.is_empty()) {
            let mut change = None;
            if !shutdown.is_cancelled() {
                let (mut news, now) = (self.wake.news(), Instant::now());
                while let Some(key) = news.turns.next(now) {
                    running.push(async move { (expand_queue(context, &key).await, key) });
                }
                change = news.turns.next_change(now);
            }
            tokio::select! {
                Some((expanded, key)) = running.next() => self.expanded(key, expanded),
                () = self.wake.queues.notified() => {}
                () = tokio::time::sleep_until(change.unwrap_or_else(Instant::now)),
                    if change.is_some() => {}
                () = shutdown.cancelled(), if !shutdown.is_cancelled() => {}
            }
        }
    }

    /// Notes the end of an expansion of a queue, which had so many entries.
    fn expanded(&self, key: QueueKey, expanded: Result<usize, Error>) {
        let mut news = self.wake.news();
        let reason = news.turns.end(&key, expanded.is_err(), Instant::now());
        match expanded {
            Ok(0) => {}
            Ok(_) => {
                if news.subscribed.len() >= REMEMBERED {
                    news.subscribed.clear();
                }
                news.subscribed.insert(key);
                // There may be more than a look-up returns.
                if reason == Some(Reason::LookUp) {
                    news.others = true;
                    self.wake.outbox.notify_one();
                }
            }
            Err(error) => {
                drop(news);
                self.context.log_failure("an entry of the outbox", &error);
            }
        }
    }

    /// Looks up due entries on news of other queues, and every [`Options::poll_outbox`].
    async fn look_up_entries(&self, shutdown: &CancellationToken) {
        let poll = self.context.options.poll_outbox;
        let mut pause = PAUSES[0];
        let mut looked = None::<Instant>;
        while !shutdown.is_cancelled() {
            let wait = if self.wake.news().others { pause } else { poll };
            let since = looked.map_or(wait, |at| at.elapsed());
            if since >= wait {
                self.wake.news().others = false;
                looked = Some(Instant::now());
                let found = tokio::select! {
                    found = self.poll_outbox() => found,
                    () = shutdown.cancelled() => return,
                };
                pause = if found { PAUSES[0] } else { (pause * 2).min(PAUSES[1]) };
            } else {
                let news = self.wake.outbox.notified();
                tokio::select! {
                    _ = tokio::time::timeout(wait - since, news) => {}
                    () = shutdown.cancelled() => {}
                }
            }
        }
    }

    /// Lets the queues that the outbox names be expanded. Returns whether there are any.
    async fn poll_outbox(&self) -> bool {
        match self.due_queues(self.context.parts.clock.now()).await {
            Ok(queues) => {
                let mut news = self.wake.news();
                let added = queues.into_iter().map(|key| news.turns.add(key, Reason::LookUp));
                let is_any = added.fold(false, |any, is_added| any | is_added);
                if is_any {
                    self.wake.queues.notify_one();
                }
                is_any
            }
            Err(error) => {
                self.context.log_failure("the outbox", &error);
                tokio::time::sleep(AFTER_FAILURE).await;
                false
            }
        }
    }

    /// Queues with due entries, or with one whose expansion failed.
    async fn due_queues(&self, now: Timestamp) -> Result<Vec<QueueKey>, Error> {
        let due = self.context.parts.messages.due_queues(QUEUES, now).await?;
        let mut queues: Vec<_> = due.into_iter().map(|due| due.queue).collect();
        let failed = self.context.unfinished.queues();
        queues.extend(failed.into_iter().filter(|key| !queues.contains(key)).collect::<Vec<_>>());
        Ok(queues)
    }

    /// Serves due tickets, and renews those that this server holds. Each shard is a queue of its
    /// own, which may be at another place of the store: one that fails delays no other.
    async fn serve_schedule(&self) {
        let shards = self.wake.shards.iter().enumerate();
        join_all(shards.map(|(shard, news)| async move {
            tokio::join!(self.serve_shard(shard, news), self.renew_tickets(shard));
        }))
        .await;
    }

    /// Serves due tickets of a shard, on news and every [`Options::poll_schedule`].
    async fn serve_shard(&self, shard: usize, news: &Notify) {
        let poll = self.context.options.poll_schedule;
        loop {
            // Enabled first, so that no capacity is missed that a service leaves meanwhile.
            let mut freed = pin!(self.context.freed.notified());
            freed.as_mut().enable();
            let is_all = match self.dispatcher.poll(shard).await {
                Ok(is_all) => is_all,
                Err(error) => {
                    self.context.log_failure("the schedule", &error);
                    tokio::time::sleep(AFTER_FAILURE).await;
                    continue;
                }
            };
            let now = self.context.parts.clock.now();
            let due = self.dispatcher.next_due(shard);
            let due = due.map_or(poll, |due| until(due, now).min(poll));
            tokio::select! {
                () = news.notified() => {}
                () = freed, if !is_all => {}
                () = tokio::time::sleep(due.max(Duration::from_millis(1))) => {}
            }
        }
    }

    async fn renew_tickets(&self, shard: usize) {
        loop {
            tokio::time::sleep(RENEWAL).await;
            if let Err(error) = self.dispatcher.renew(shard).await {
                self.context.log_failure("tickets", &error);
            }
        }
    }
}

impl Shared {
    /// Writes the log of deliveries, many entries at once.
    async fn write_log(&self) {
        loop {
            tokio::time::sleep(LOG_PAUSE).await;
            self.flush_log().await;
        }
    }

    async fn flush_log(&self) {
        if let Err(error) = log_store::flush(&self.context).await {
            self.context.log_failure("the log of deliveries", &error);
        }
    }

    async fn post_events(&self) {
        loop {
            if let Err(error) = announce::post_waiting(&self.context).await {
                self.context.log_failure("events about subscribers", &error);
            }
            tokio::time::sleep(EVENTS_PAUSE).await;
        }
    }
}

impl Wake {
    fn news(&self) -> MutexGuard<'_, PendingNews> {
        // No critical section leaves the sets inconsistent.
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn until(due: Timestamp, now: Timestamp) -> Duration {
    Duration::from_millis(due.as_millis().saturating_sub(now.as_millis()))
}
