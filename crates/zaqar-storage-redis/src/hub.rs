//! News: what was posted here is told to listeners here at once, and to those of other servers by
//! publishing, some posts together.
//!
//! What gets lost on the way (a server that ends between a post and its news, a listener that is
//! disconnected) is made good by looking at every queue that holds something: after each
//! reconnection, and now and then.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use redis::cmd;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::warn;
use zaqar_core::storage::{Error, NewsStream, Posted};
use zaqar_core::{Incarnation, MessageId, Position, QueueKey, StateLog, TaskGuard, TaskMonitor};

use crate::error::unless_failed;
use crate::keys::{self, SHARDS};
use crate::reply::Reply;
use crate::server::Server;

/// How long posts are gathered before they are published.
const GATHER: Duration = Duration::from_millis(5);
/// Queues in one publication.
const BATCH: usize = 1000;
/// Queues that wait to be published, that a listener has not taken yet, and whose last news are
/// remembered, at most.
const QUEUES: usize = 65_536;
/// The pause after publishing, subscribing or looking has failed.
const PAUSE: Duration = Duration::from_millis(200);
/// The pause between pages of a look at all queues.
const PAGE_PAUSE: Duration = Duration::from_millis(20);
/// How long the end of a store waits for its last news to be published.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How often the connection that hears is asked whether it still does.
const HEARTBEAT: Duration = Duration::from_secs(3);
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
    publishing: StateLog,
    is_subscribed: watch::Sender<bool>,
    is_closed: AtomicBool,
    tasks: TaskMonitor,
    publisher: Mutex<Option<JoinHandle<()>>>,
    subscriber: Mutex<Option<JoinHandle<()>>>,
}

/// Lives as long as a task of the hub. Its end is a failure unless the hub was closed before.
struct TaskEnd {
    hub: Arc<Hub>,
    guard: Option<TaskGuard>,
}

/// One stream of news.
#[derive(Default)]
struct Listener {
    pending: Mutex<Last>,
    has_pending: Notify,
    is_closed: AtomicBool,
}

impl Hub {
    pub(crate) fn start(
        server: Server,
        channel: String,
        poll: Option<Duration>,
        tasks: TaskMonitor,
    ) -> Arc<Self> {
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
            publishing: StateLog::new(),
            is_subscribed: watch::Sender::new(false),
            is_closed: AtomicBool::new(false),
            tasks,
            publisher: Mutex::default(),
            subscriber: Mutex::default(),
        });
        *lock(&hub.publisher) = Some(hub.spawn("redis publisher", publish(Arc::clone(&hub))));
        hub
    }

    /// Starts a task that must not end before the hub is closed.
    fn spawn(
        self: &Arc<Self>,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let end = TaskEnd { hub: Arc::clone(self), guard: Some(self.tasks.guard(name)) };
        tokio::spawn(async move {
            // Bound first, so that a panic of the task drops it.
            let _end = end;
            task.await;
        })
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
        self.is_closed.store(true, Ordering::Release);
        for task in [&self.publisher, &self.subscriber] {
            if let Some(task) = lock(task).take() {
                task.abort();
            }
        }
    }

    /// A stream of news, once this store hears what others publish.
    pub(crate) async fn listen(self: &Arc<Self>) -> Result<NewsStream, Error> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        let listener = Arc::new(Listener::default());
        lock(&self.listeners).push(Arc::downgrade(&listener));
        lock(&self.subscriber)
            .get_or_insert_with(|| self.spawn("redis subscriber", subscribe(Arc::clone(self))));
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
            let published = self.server.send(&self.channel, &publish).await;
            if let Err(trouble) = published {
                if let Some(failures) = self.publishing.failure() {
                    warn!(?trouble, failures, "news could not be published; they will be");
                }
                let mut outgoing = lock(&self.outgoing);
                for (key, last) in batch {
                    outgoing.entry(key).or_insert(last);
                }
                return false;
            }
            if let Some(failures) = self.publishing.success() {
                tracing::info!(failures, "news are published again");
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
        let found = self.server.read(&head, &ask).await;
        let Some(found) = unless_failed(found, "a queue cannot be looked at")? else {
            return Ok(());
        };
        let mut reply = Reply::new(found)?;
        if let (Ok(incarnation), Ok(position)) = (reply.number(), reply.number())
            && position > 0
        {
            self.tell(&key, id(incarnation, position));
        }
        Ok(())
    }
}

impl Drop for TaskEnd {
    fn drop(&mut self) {
        let is_closed = self.hub.is_closed.load(Ordering::Acquire);
        if let Some(guard) = self.guard.take()
            && is_closed
            && !std::thread::panicking()
        {
            guard.finish();
        }
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
    let log = StateLog::new();
    let mut is_first = true;
    loop {
        if let Err(error) = hear(&hub, is_first, &log).await
            && let Some(failures) = log.failure()
        {
            let error = &error as &dyn std::error::Error;
            warn!(error, failures, "news are not heard; trying again");
        }
        is_first = is_first && !*hub.is_subscribed.borrow();
        hub.is_subscribed.send_replace(false);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Hears until the connection ends, or does not answer, or is to a node that has left the Cluster.
async fn hear(hub: &Hub, is_first: bool, log: &StateLog) -> Result<(), redis::RedisError> {
    let pool = hub.server.pool();
    let (connection, node) = pool.listen().await?;
    let (mut commands, mut publications) = connection.split();
    let limit = pool.timeouts().answer;
    let timed_out = |_| crate::clients::timed_out();
    tokio::time::timeout(limit, commands.subscribe(&hub.channel)).await.map_err(timed_out)??;
    hub.is_subscribed.send_replace(true);
    if let Some(failures) = log.success() {
        tracing::info!(failures, "news are heard again");
    }
    let mut is_missing = !is_first;
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    let mut next_poll = hub.poll.map(|every| Instant::now() + every);
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
            _ = heartbeat.tick() => {
                let answer = tokio::time::timeout(limit, commands.ping::<redis::Value>());
                answer.await.map_err(timed_out)??;
                if !pool.has_node(node.as_ref()).await {
                    return Ok(());
                }
            }
            () = poll(next_poll) => {
                next_poll = hub.poll.map(|every| Instant::now() + every);
                is_missing = true;
            }
        }
    }
}

async fn poll(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
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

/// What a publication of another store tells; what cannot be read is of a newer release, and passed
/// over.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Options;

    /// A hub whose server nobody talks to.
    fn hub(tasks: &TaskMonitor) -> Arc<Hub> {
        let server = Server::new(Options::new("redis://127.0.0.1:1").unwrap()).unwrap();
        Hub::start(server, "news".to_owned(), None, tasks.clone())
    }

    fn said(tasks: &TaskMonitor) -> Vec<String> {
        tasks.failures().iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn a_task_that_panics_or_ends_is_reported() {
        let tasks = TaskMonitor::default();
        let hub = hub(&tasks);
        drop(hub.spawn("one", async { panic!("a planted panic") }).await);
        drop(hub.spawn("two", async {}).await);
        assert_eq!(
            said(&tasks),
            ["the task \"one\" panicked", "the task \"two\" ended unexpectedly"]
        );
        hub.abort();
    }

    #[tokio::test]
    async fn the_end_of_a_store_is_no_failure() {
        let tasks = TaskMonitor::default();
        let (closed, dropped) = (hub(&tasks), hub(&tasks));
        assert!(lock(&closed.publisher).is_some(), "it has a task");
        closed.close().await;
        let task = lock(&dropped.publisher).as_ref().map(JoinHandle::abort_handle).unwrap();
        dropped.abort();
        while !task.is_finished() {
            tokio::task::yield_now().await;
        }
        assert_eq!(said(&tasks), [""; 0]);
    }
}
