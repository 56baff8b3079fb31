//! News: what was posted here is told to listeners here at once, and to those of other servers by publishing, some posts together.
//!
//! What gets lost on the way (a server that ends between a post and its news, a listener that is disconnected) is made good by looking
//! at every queue that holds something: after each reconnection, and now and then.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use redis::cmd;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tracing::warn;
use zaqar_core::storage::{Error, News, NewsStream, Posted};
use zaqar_core::{Incarnation, MessageId, Position, QueueKey};

use crate::Redis;
use crate::driver::Server;
use crate::keys::{self, SHARDS};
use crate::reply::Reply;

/// How long posts are gathered before they are published.
const GATHER: Duration = Duration::from_millis(5);
/// Queues in one publication.
const BATCH: usize = 1000;
/// Queues that wait to be published, that a listener has not taken yet, and whose last news are remembered, at most.
const QUEUES: usize = 65_536;
/// The pause after publishing, subscribing or looking has failed.
const PAUSE: Duration = Duration::from_millis(200);
/// The pause between pages of a look at all queues.
const PAGE_PAUSE: Duration = Duration::from_millis(20);
/// How long the end of a store waits for its last news to be published.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long a listener waits until it hears.
const SUBSCRIBED: Duration = Duration::from_secs(5);

type Last = HashMap<QueueKey, MessageId>;

/// What a store's news go through.
pub(crate) struct Hub {
    server: Server,
    channel: String,
    poll: Option<Duration>,
    /// Tells this store's own publications from others'.
    origin: u64,
    outgoing: Mutex<Last>,
    has_outgoing: Notify,
    listeners: Mutex<Vec<Weak<Listener>>>,
    /// What listeners were last told of each queue.
    told: Mutex<Last>,
    is_missing: Notify,
    is_subscribed: watch::Sender<bool>,
    is_closed: AtomicBool,
    publisher: Mutex<Option<JoinHandle<()>>>,
    subscriber: Mutex<Option<JoinHandle<()>>>,
}

/// One stream of news.
#[derive(Default)]
struct Listener {
    pending: Mutex<Last>,
    has_pending: Notify,
    is_closed: AtomicBool,
}

#[async_trait]
impl News for Redis {
    async fn news(&self) -> Result<NewsStream, Error> {
        self.inner.hub.listen().await
    }
}

impl Hub {
    pub(crate) fn start(server: Server, channel: String, poll: Option<Duration>) -> Arc<Self> {
        let hub = Arc::new(Self {
            server,
            channel,
            poll,
            origin: rand::random(),
            outgoing: Mutex::default(),
            has_outgoing: Notify::new(),
            listeners: Mutex::default(),
            told: Mutex::default(),
            is_missing: Notify::new(),
            is_subscribed: watch::Sender::new(false),
            is_closed: AtomicBool::new(false),
            publisher: Mutex::default(),
            subscriber: Mutex::default(),
        });
        *lock(&hub.publisher) = Some(tokio::spawn(publish(Arc::clone(&hub))));
        hub
    }

    /// Something was posted here.
    pub(crate) fn posted(&self, key: &QueueKey, last: MessageId) {
        let mut outgoing = lock(&self.outgoing);
        if outgoing.len() < QUEUES {
            outgoing.insert(key.clone(), last);
            self.has_outgoing.notify_one();
        }
        drop(outgoing);
        self.tell(key, last);
    }

    /// Publishes what waits to be, and ends all streams.
    pub(crate) async fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.has_outgoing.notify_one();
        let publisher = lock(&self.publisher).take();
        if let Some(mut publisher) = publisher
            && tokio::time::timeout(LAST_WORDS, &mut publisher).await.is_err()
        {
            publisher.abort();
        }
        self.abort();
        for listener in lock(&self.listeners).drain(..) {
            if let Some(listener) = listener.upgrade() {
                listener.is_closed.store(true, Ordering::Release);
                listener.has_pending.notify_one();
            }
        }
    }

    /// Ends the tasks in the background.
    pub(crate) fn abort(&self) {
        for task in [&self.publisher, &self.subscriber] {
            if let Some(task) = lock(task).take() {
                task.abort();
            }
        }
    }

    async fn listen(self: &Arc<Self>) -> Result<NewsStream, Error> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        let listener = Arc::new(Listener::default());
        lock(&self.listeners).push(Arc::downgrade(&listener));
        lock(&self.subscriber).get_or_insert_with(|| tokio::spawn(subscribe(Arc::clone(self))));
        let mut is_subscribed = self.is_subscribed.subscribe();
        let waited = tokio::time::timeout(SUBSCRIBED, is_subscribed.wait_for(|is| *is)).await;
        if !matches!(waited, Ok(Ok(_))) {
            return Err(Error::unavailable("no server takes the subscription to news"));
        }
        Ok(Box::pin(stream::unfold((listener, Vec::new()), |(listener, mut taken)| async move {
            loop {
                if let Some((key, last)) = taken.pop() {
                    return Some((Posted { key, last }, (listener, taken)));
                }
                taken = lock(&listener.pending).drain().collect();
                if taken.is_empty() {
                    if listener.is_closed.load(Ordering::Acquire) {
                        return None;
                    }
                    listener.has_pending.notified().await;
                }
            }
        })))
    }

    /// Tells the listeners, where they do not know.
    fn tell(&self, key: &QueueKey, last: MessageId) {
        let mut listeners = lock(&self.listeners);
        if listeners.is_empty() {
            return;
        }
        let mut told = lock(&self.told);
        if told.len() >= QUEUES {
            told.clear();
        }
        let known = told.insert(key.clone(), last);
        if known == Some(last) {
            return;
        }
        if known.is_some_and(|known| known.incarnation == last.incarnation && known > last) {
            // Publications overtake each other.
            told.extend(known.map(|known| (key.clone(), known)));
            return;
        }
        drop(told);
        listeners.retain(|listener| {
            let Some(listener) = listener.upgrade() else { return false };
            let mut pending = lock(&listener.pending);
            if pending.len() >= QUEUES && !pending.contains_key(key) {
                // Too slow: it hears of all queues again.
                pending.clear();
                self.is_missing.notify_one();
            }
            pending.insert(key.clone(), last);
            listener.has_pending.notify_one();
            true
        });
    }

    /// Publishes what waits to be; whether all of it was.
    async fn flush(&self) -> bool {
        loop {
            let batch: Vec<_> = {
                let mut outgoing = lock(&self.outgoing);
                let keys: Vec<_> = outgoing.keys().take(BATCH).cloned().collect();
                keys.into_iter().filter_map(|key| outgoing.remove_entry(&key)).collect()
            };
            if batch.is_empty() {
                return true;
            }
            let payload = write(self.origin, &batch);
            let mut publish = cmd("PUBLISH");
            publish.arg(&self.channel).arg(payload);
            if let Err(trouble) = self.server.send(&self.channel, &publish).await {
                warn!(?trouble, "news could not be published; they will be");
                let mut outgoing = lock(&self.outgoing);
                for (key, last) in batch {
                    outgoing.entry(key).or_insert(last);
                }
                return false;
            }
        }
    }

    /// Looks at all queues that hold something.
    async fn look(&self) -> Result<(), Error> {
        for shard in 0..SHARDS {
            let mut cursor = 0;
            loop {
                let (next, tags) = self.server.scan(shard, cursor).await?;
                join_all(tags.iter().map(|tag| self.look_at(tag)))
                    .await
                    .into_iter()
                    .collect::<Result<Vec<()>, _>>()?;
                cursor = next;
                if cursor == 0 {
                    break;
                }
                tokio::time::sleep(PAGE_PAUSE).await;
            }
        }
        Ok(())
    }

    async fn look_at(&self, tag: &str) -> Result<(), Error> {
        let Some(key) = keys::queue(tag) else { return Ok(()) };
        let head = self.server.keys().head_of(tag).key;
        let mut ask = cmd("HMGET");
        ask.arg(&head).arg("i").arg("p");
        let mut reply = Reply::new(self.server.read(&head, &ask).await?)?;
        if let (Ok(incarnation), Ok(position)) = (reply.number(), reply.number())
            && position > 0
        {
            self.tell(&key, id(incarnation, position));
        }
        Ok(())
    }
}

/// Publishes until the store ends.
async fn publish(hub: Arc<Hub>) {
    loop {
        hub.has_outgoing.notified().await;
        let is_last = hub.is_closed.load(Ordering::Acquire);
        if !is_last {
            tokio::time::sleep(GATHER).await;
        }
        let is_done = hub.flush().await;
        if is_last {
            return;
        }
        if !is_done {
            tokio::time::sleep(PAUSE).await;
            hub.has_outgoing.notify_one();
        }
    }
}

/// Hears what others publish, and looks for what may be missing, until the store ends.
async fn subscribe(hub: Arc<Hub>) {
    let mut is_first = true;
    loop {
        if let Err(error) = hear(&hub, is_first).await {
            warn!(error = &error as &dyn std::error::Error, "news are not heard; trying again");
        }
        is_first = is_first && !*hub.is_subscribed.borrow();
        hub.is_subscribed.send_replace(false);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Hears until the connection ends.
async fn hear(hub: &Hub, is_first: bool) -> Result<(), redis::RedisError> {
    let mut connection = hub.server.pool().listen().await?;
    connection.subscribe(&hub.channel).await?;
    hub.is_subscribed.send_replace(true);
    let mut publications = connection.on_message();
    let mut is_missing = !is_first;
    loop {
        if std::mem::take(&mut is_missing)
            && let Err(error) = hub.look().await
        {
            warn!(error = &error as &dyn std::error::Error, "news may be late: looking failed");
        }
        tokio::select! {
            publication = publications.next() => {
                let Some(publication) = publication else { return Ok(()) };
                for (key, last) in read(hub.origin, publication.get_payload_bytes()) {
                    hub.tell(&key, last);
                }
            }
            () = hub.is_missing.notified() => {
                lock(&hub.told).clear();
                is_missing = true;
            }
            () = poll(hub.poll) => is_missing = true,
        }
    }
}

async fn poll(every: Option<Duration>) {
    match every {
        Some(every) => tokio::time::sleep(every).await,
        None => std::future::pending().await,
    }
}

/// One line for the sender and one for each queue: tag, incarnation, place.
fn write(origin: u64, batch: &[(QueueKey, MessageId)]) -> String {
    let mut text = format!("{origin:x}");
    for (key, last) in batch {
        text.push_str(&format!(
            "\n{} {:x} {:x}",
            keys::tag(key),
            last.incarnation.get(),
            last.position.get()
        ));
    }
    text
}

/// What a publication of another store tells; what cannot be read is of a newer release, and passed over.
fn read(own: u64, publication: &[u8]) -> Vec<(QueueKey, MessageId)> {
    let text = String::from_utf8_lossy(publication);
    let mut lines = text.lines();
    if lines.next() == Some(&format!("{own:x}")) {
        return Vec::new();
    }
    let parse = |line: &str| {
        let mut words = line.split(' ');
        let key = keys::queue(words.next()?)?;
        let mut number = || u64::from_str_radix(words.next()?, 16).ok();
        Some((key, id(number()?, number()?)))
    };
    lines.filter_map(parse).collect()
}

const fn id(incarnation: u64, position: u64) -> MessageId {
    MessageId { incarnation: Incarnation::new(incarnation), position: Position::new(position) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one is held, and any state is right.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
