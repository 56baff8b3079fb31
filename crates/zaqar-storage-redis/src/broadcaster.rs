//! Broadcasts news of posts: to listeners in this process at once, and to other servers through
//! publications, which combine several posts.
//!
//! News can be lost: a server may die between a post and its publication, or a listener may be
//! disconnected. Therefore all queues that hold something are scanned after each reconnection and
//! periodically.

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

use crate::error::skip_failed;
use crate::keys::{self, SHARDS};
use crate::reply::Reply;
use crate::server::Server;

/// How long posts are collected before they are published.
const BATCH_DELAY: Duration = Duration::from_millis(5);
/// Queues in one publication.
const MAX_BATCH: usize = 1000;
/// Bound on the queues that wait to be published, that wait for a listener, and whose latest news
/// are remembered.
const MAX_QUEUES: usize = 65_536;
/// The delay after a failure to publish, subscribe or scan.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// The delay between pages of a scan of all queues.
const PAGE_DELAY: Duration = Duration::from_millis(20);
/// How long closing a store waits for the last publication.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the subscriber's connection is checked.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// How long a new listener waits for the subscription.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(5);

type LatestPosts = HashMap<QueueKey, MessageId>;

/// Sends and receives the news of a store.
pub(crate) struct Broadcaster {
    server: Server,
    channel: String,
    poll: Option<Duration>,
    /// Distinguishes this store's own publications from those of others.
    origin: u64,
    outgoing: Mutex<LatestPosts>,
    has_outgoing: Notify,
    listeners: Mutex<Vec<Weak<Listener>>>,
    /// The latest news of each queue that listeners got.
    announced: Mutex<LatestPosts>,
    rescan: Notify,
    publishing: StateLog,
    scanning: StateLog,
    is_subscribed: watch::Sender<bool>,
    is_closed: AtomicBool,
    tasks: TaskMonitor,
    publisher: Mutex<Option<JoinHandle<()>>>,
    subscriber: Mutex<Option<JoinHandle<()>>>,
}

/// Lives as long as a task. Reports a failure unless the broadcaster was closed before.
struct TaskExit {
    broadcaster: Arc<Broadcaster>,
    guard: Option<TaskGuard>,
}

/// One stream of news.
#[derive(Default)]
struct Listener {
    pending: Mutex<LatestPosts>,
    has_pending: Notify,
    is_closed: AtomicBool,
}

impl Broadcaster {
    pub(crate) fn start(
        server: Server,
        channel: String,
        poll: Option<Duration>,
        tasks: TaskMonitor,
    ) -> Arc<Self> {
        let broadcaster = Arc::new(Self {
            server,
            channel,
            poll,
            origin: rand::random(),
            outgoing: Mutex::default(),
            has_outgoing: Notify::new(),
            listeners: Mutex::default(),
            announced: Mutex::default(),
            rescan: Notify::new(),
            publishing: StateLog::new(),
            scanning: StateLog::new(),
            is_subscribed: watch::Sender::new(false),
            is_closed: AtomicBool::new(false),
            tasks,
            publisher: Mutex::default(),
            subscriber: Mutex::default(),
        });
        *lock(&broadcaster.publisher) =
            Some(broadcaster.spawn("redis publisher", publish(Arc::clone(&broadcaster))));
        broadcaster
    }

    /// Starts a task that must not end before the broadcaster is closed.
    fn spawn(
        self: &Arc<Self>,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let end = TaskExit { broadcaster: Arc::clone(self), guard: Some(self.tasks.guard(name)) };
        tokio::spawn(async move {
            // Bound to a variable first, so that a panic of the task drops it.
            let _end = end;
            task.await;
        })
    }

    /// Announces and publishes a post to this store.
    pub(crate) fn posted(&self, key: &QueueKey, last: MessageId) {
        let mut outgoing = lock(&self.outgoing);
        if outgoing.len() < MAX_QUEUES {
            outgoing.insert(key.clone(), last);
            self.has_outgoing.notify_one();
        }
        drop(outgoing);
        self.announce(key, last);
    }

    /// Publishes what is pending and ends all streams.
    pub(crate) async fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.has_outgoing.notify_one();
        let publisher = lock(&self.publisher).take();
        if let Some(mut publisher) = publisher
            && tokio::time::timeout(CLOSE_TIMEOUT, &mut publisher).await.is_err()
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

    /// Aborts the background tasks.
    pub(crate) fn abort(&self) {
        self.is_closed.store(true, Ordering::Release);
        for task in [&self.publisher, &self.subscriber] {
            if let Some(task) = lock(task).take() {
                task.abort();
            }
        }
    }

    /// Returns a stream of news once this store receives the publications of others.
    pub(crate) async fn listen(self: &Arc<Self>) -> Result<NewsStream, Error> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        let listener = Arc::new(Listener::default());
        lock(&self.listeners).push(Arc::downgrade(&listener));
        lock(&self.subscriber)
            .get_or_insert_with(|| self.spawn("redis subscriber", subscribe(Arc::clone(self))));
        let mut is_subscribed = self.is_subscribed.subscribe();
        let waited =
            tokio::time::timeout(SUBSCRIBE_TIMEOUT, is_subscribed.wait_for(|is| *is)).await;
        if !matches!(waited, Ok(Ok(_))) {
            return Err(Error::unavailable("no server accepts the subscription to news"));
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

    /// Passes news on to listeners unless they have them already.
    fn announce(&self, key: &QueueKey, last: MessageId) {
        let mut listeners = lock(&self.listeners);
        if listeners.is_empty() {
            return;
        }
        let mut announced = lock(&self.announced);
        if announced.len() >= MAX_QUEUES {
            announced.clear();
        }
        let known = announced.insert(key.clone(), last);
        if known == Some(last) {
            return;
        }
        if known.is_some_and(|known| known.incarnation == last.incarnation && known > last) {
            // Publications may arrive out of order.
            announced.extend(known.map(|known| (key.clone(), known)));
            return;
        }
        drop(announced);
        listeners.retain(|listener| {
            let Some(listener) = listener.upgrade() else { return false };
            let mut pending = lock(&listener.pending);
            if pending.len() >= MAX_QUEUES && !pending.contains_key(key) {
                // The listener is too slow: a scan announces all queues to it again.
                pending.clear();
                self.rescan.notify_one();
            }
            pending.insert(key.clone(), last);
            listener.has_pending.notify_one();
            true
        });
    }

    /// Publishes what is pending. Returns whether all of it was published.
    async fn flush(&self) -> bool {
        loop {
            let batch: Vec<_> = {
                let mut outgoing = lock(&self.outgoing);
                let keys: Vec<_> = outgoing.keys().take(MAX_BATCH).cloned().collect();
                keys.into_iter().filter_map(|key| outgoing.remove_entry(&key)).collect()
            };
            if batch.is_empty() {
                return true;
            }
            let payload = encode(self.origin, &batch);
            let mut publish = cmd("PUBLISH");
            publish.arg(&self.channel).arg(payload);
            let published = self.server.send(&self.channel, &publish).await;
            if let Err(failure) = published {
                if let Some(failures) = self.publishing.failure() {
                    warn!(?failure, failures, "news could not be published; retrying");
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

    /// Scans all queues that hold something.
    async fn scan_queues(&self) -> Result<(), Error> {
        for shard in 0..SHARDS {
            let mut cursor = 0;
            loop {
                let (next, tags) = self.server.scan_tags(shard, cursor).await?;
                join_all(tags.iter().map(|tag| self.scan_queue(tag)))
                    .await
                    .into_iter()
                    .collect::<Result<Vec<()>, _>>()?;
                cursor = next;
                if cursor == 0 {
                    break;
                }
                tokio::time::sleep(PAGE_DELAY).await;
            }
        }
        Ok(())
    }

    async fn scan_queue(&self, tag: &str) -> Result<(), Error> {
        let Some(key) = keys::queue(tag) else { return Ok(()) };
        let head = self.server.keys().head_by_tag(tag).key;
        let mut ask = cmd("HMGET");
        ask.arg(&head).arg("i").arg("p");
        let found = self.server.read(&head, &ask).await;
        let Some(found) = skip_failed(found, "a queue cannot be scanned for news")? else {
            return Ok(());
        };
        let mut reply = Reply::new(found)?;
        if let (Ok(incarnation), Ok(position)) = (reply.number(), reply.number())
            && position > 0
        {
            self.announce(&key, id(incarnation, position));
        }
        Ok(())
    }
}

impl Drop for TaskExit {
    fn drop(&mut self) {
        let is_closed = self.broadcaster.is_closed.load(Ordering::Acquire);
        if let Some(guard) = self.guard.take()
            && is_closed
            && !std::thread::panicking()
        {
            guard.finish();
        }
    }
}

/// Publishes until the store is closed.
async fn publish(broadcaster: Arc<Broadcaster>) {
    loop {
        broadcaster.has_outgoing.notified().await;
        let is_last = broadcaster.is_closed.load(Ordering::Acquire);
        if !is_last {
            tokio::time::sleep(BATCH_DELAY).await;
        }
        let is_done = broadcaster.flush().await;
        if is_last {
            return;
        }
        if !is_done {
            tokio::time::sleep(RETRY_DELAY).await;
            broadcaster.has_outgoing.notify_one();
        }
    }
}

/// Receives the publications of others, and scans for lost news, until the store is closed.
async fn subscribe(broadcaster: Arc<Broadcaster>) {
    let log = StateLog::new();
    let mut is_first = true;
    loop {
        if let Err(error) = receive(&broadcaster, is_first, &log).await
            && let Some(failures) = log.failure()
        {
            let error = &error as &dyn std::error::Error;
            warn!(error, failures, "news are not received; reconnecting");
        }
        is_first = is_first && !*broadcaster.is_subscribed.borrow();
        broadcaster.is_subscribed.send_replace(false);
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

/// Receives until the connection ends, times out, or belongs to a node that has left the Cluster.
async fn receive(
    broadcaster: &Broadcaster,
    is_first: bool,
    log: &StateLog,
) -> Result<(), redis::RedisError> {
    let pool = broadcaster.server.pool();
    let (connection, node) = pool.listen().await?;
    let (mut commands, mut publications) = connection.split();
    let limit = pool.timeouts().answer;
    let timed_out = |_| crate::clients::timed_out();
    tokio::time::timeout(limit, commands.subscribe(&broadcaster.channel))
        .await
        .map_err(timed_out)??;
    broadcaster.is_subscribed.send_replace(true);
    if let Some(failures) = log.success() {
        tracing::info!(failures, "news are received again");
    }
    let mut needs_scan = !is_first;
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    let mut next_poll = broadcaster.poll.map(|every| Instant::now() + every);
    loop {
        if std::mem::take(&mut needs_scan)
            && let Err(error) = broadcaster.scan_queues().await
            && let Some(failures) = broadcaster.scanning.failure()
        {
            let error = &error as &dyn std::error::Error;
            warn!(error, failures, "news may be late: the scan of queues failed");
        }
        tokio::select! {
            publication = publications.next() => {
                let Some(publication) = publication else { return Ok(()) };
                for (key, last) in decode(broadcaster.origin, publication.get_payload_bytes()) {
                    broadcaster.announce(&key, last);
                }
            }
            () = broadcaster.rescan.notified() => {
                lock(&broadcaster.announced).clear();
                needs_scan = true;
            }
            _ = heartbeat.tick() => {
                let answer = tokio::time::timeout(limit, commands.ping::<redis::Value>());
                answer.await.map_err(timed_out)??;
                if !pool.has_node(node.as_ref()).await {
                    return Ok(());
                }
            }
            () = poll(next_poll) => {
                next_poll = broadcaster.poll.map(|every| Instant::now() + every);
                needs_scan = true;
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

/// One line for the sender and one for each queue: tag, incarnation, position.
fn encode(origin: u64, batch: &[(QueueKey, MessageId)]) -> String {
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

/// Decodes a publication of another store. Lines that cannot be read are from a newer release and
/// are skipped.
fn decode(own: u64, publication: &[u8]) -> Vec<(QueueKey, MessageId)> {
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
    // No code panics while it holds a lock, and every state is valid.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Options;

    /// A broadcaster whose server does not exist.
    fn broadcaster(tasks: &TaskMonitor) -> Arc<Broadcaster> {
        let server = Server::new(Options::new("redis://127.0.0.1:1").unwrap()).unwrap();
        Broadcaster::start(server, "news".to_owned(), None, tasks.clone())
    }

    fn reported(tasks: &TaskMonitor) -> Vec<String> {
        tasks.failures().iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn a_task_that_panics_or_ends_is_reported() {
        let tasks = TaskMonitor::default();
        let broadcaster = broadcaster(&tasks);
        drop(broadcaster.spawn("one", async { panic!("a planted panic") }).await);
        drop(broadcaster.spawn("two", async {}).await);
        assert_eq!(
            reported(&tasks),
            ["the task \"one\" panicked", "the task \"two\" ended unexpectedly"]
        );
        broadcaster.abort();
    }

    #[tokio::test]
    async fn closing_a_store_is_no_failure() {
        let tasks = TaskMonitor::default();
        let (closed, dropped) = (broadcaster(&tasks), broadcaster(&tasks));
        assert!(lock(&closed.publisher).is_some(), "it has a task");
        closed.close().await;
        let task = lock(&dropped.publisher).as_ref().map(JoinHandle::abort_handle).unwrap();
        dropped.abort();
        while !task.is_finished() {
            tokio::task::yield_now().await;
        }
        assert_eq!(reported(&tasks), [""; 0]);
    }
}
