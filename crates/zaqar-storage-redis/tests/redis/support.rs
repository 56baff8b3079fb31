//! Helpers that the tests share.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test fails on whatever it does not expect")]

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use zaqar_core::storage::{
    Batch, ClaimRequest, Claimed, Claims, Error, Guarded, Heads, LeaseRequest, ListQuery, Message,
    Messages, NewMessage,
};
use zaqar_core::{
    ClaimId, ClientId, Clock, Generation, Incarnation, Kind, MessageId, Payload, ProjectId,
    QueueKey, QueueName, SystemClock, Timestamp, Version,
};
use zaqar_storage_redis::{Options, Redis};
use zaqar_storage_testkit::{About, Factory, Stores};

use crate::servers::TEST_TIMEOUT;

/// A server timeout that no slow machine reaches.
const SLOW: Duration = Duration::from_secs(60);
/// Longer than a test lasts, in seconds.
const HOUR: u64 = 3600;

/// A lease of one entry.
pub(crate) fn lease_for(until: Timestamp) -> LeaseRequest {
    LeaseRequest { until, limit: 1, bytes: usize::MAX }
}

/// Stores on one server with different key prefixes.
pub(crate) struct Prefixes(pub(crate) String);

#[async_trait]
impl Factory for Prefixes {
    async fn open(&self, name: &str) -> Stores {
        Stores::both(open(Options { prefix: name.to_owned(), ..options(&self.0) }).await)
    }

    async fn discard(&self, _: &str) {}

    fn about(&self) -> About {
        About { keeps: true, shared: false, repairs_time: false }
    }
}

/// Options with a timeout that no slow machine reaches, unless the URI sets one, and without a
/// bound on clock skew, because tests choose their own times.
pub(crate) fn options(uri: &str) -> Options {
    let mut options = Options::new(uri).expect("a good URI");
    options.max_clock_skew = None;
    if !uri.contains("socket_timeout") {
        options.uri.socket_timeout = SLOW;
    }
    options
}

/// Options of a store that retries for longer than any test.
pub(crate) fn long_retry(uri: &str) -> Options {
    Options { max_reconnect_attempts: u32::MAX, retry_for: TEST_TIMEOUT, ..options(uri) }
}

/// Options of a store that retries only briefly.
pub(crate) fn short_retry(uri: &str) -> Options {
    Options { retry_for: Duration::from_millis(700), ..options(uri) }
}

pub(crate) async fn open(options: Options) -> Redis {
    Redis::open(options).await.expect("the store opens")
}

/// A queue and the store through which a test uses it.
#[derive(Clone)]
pub(crate) struct Queue {
    pub(crate) store: Redis,
    pub(crate) key: QueueKey,
    pub(crate) generation: Generation,
}

impl Queue {
    /// A new queue in a project of its own.
    pub(crate) async fn new(store: &Redis, name: &str) -> Self {
        let queue = Self { store: store.clone(), key: key(name), generation: generation() };
        queue.open().await.expect("the head opens");
        queue
    }

    pub(crate) async fn open(&self) -> Result<Generation, Error> {
        Heads::open(&self.store, &self.key, self.generation, now()).await
    }

    /// The same queue through another store.
    pub(crate) fn by(&self, store: &Redis) -> Self {
        Self { store: store.clone(), ..self.clone() }
    }

    pub(crate) async fn try_post(&self, texts: &[&str]) -> Result<Vec<MessageId>, Error> {
        let messages = texts.iter().map(|text| message(text)).collect();
        self.try_post_new(messages).await
    }

    pub(crate) async fn try_post_new(
        &self,
        messages: Vec<NewMessage>,
    ) -> Result<Vec<MessageId>, Error> {
        let batch = Batch { request: rand(), client: ClientId::new("me"), messages, notify: true };
        match self.store.post(&self.key, self.generation, batch, now()).await? {
            Guarded::Done(ids) => Ok(ids),
            refused => panic!("{refused:?}"),
        }
    }

    pub(crate) async fn post(&self, texts: &[&str]) -> Vec<MessageId> {
        self.try_post(texts).await.expect("the post is stored")
    }

    pub(crate) async fn try_claim(&self, limit: usize) -> Result<(ClaimId, Vec<Message>), Error> {
        let id = ClaimId::new(rand());
        let request = ClaimRequest { grace: HOUR, ..ClaimRequest::new(id, HOUR, limit) };
        match self.store.claim(&self.key, self.generation, &request, now()).await? {
            Guarded::Done(Claimed::Messages { messages, .. }) => Ok((id, messages)),
            refused => panic!("{refused:?}"),
        }
    }

    pub(crate) async fn claim(&self, limit: usize) -> Vec<Message> {
        self.try_claim(limit).await.expect("the claim answers").1
    }

    /// All its messages, read in pages.
    pub(crate) async fn all(&self) -> Vec<Message> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let query = ListQuery {
                after,
                limit: 1000,
                hide: None,
                include_claimed: true,
                include_delayed: true,
            };
            let page = Messages::list(&self.store, &self.key, &query, now()).await;
            let page = page.expect("list answers");
            all.extend(page.messages);
            match page.next {
                Some(next) => after = Some(next),
                None => return all,
            }
        }
    }

    pub(crate) async fn texts(&self) -> Vec<String> {
        texts(&self.all().await)
    }
}

pub(crate) fn texts(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|it| String::from_utf8_lossy(&it.payload.bytes).into_owned()).collect()
}

pub(crate) fn message(text: &str) -> NewMessage {
    let payload = Payload::plain(Bytes::copy_from_slice(text.as_bytes()));
    NewMessage { payload, ttl: 3600, delay: 0 }
}

/// A queue in a project that no other test uses.
pub(crate) fn key(name: &str) -> QueueKey {
    key_of(&format!("{:032x}", rand::<u128>()), name)
}

pub(crate) fn key_of(project: &str, name: &str) -> QueueKey {
    QueueKey {
        project: ProjectId::new(project).expect("a project id"),
        kind: Kind::Queue,
        name: QueueName::new(name).expect("a queue name"),
    }
}

pub(crate) fn generation() -> Generation {
    Generation { incarnation: Incarnation::new(rand::<u64>() >> 1), version: Version::new(1) }
}

pub(crate) fn now() -> Timestamp {
    SystemClock.now()
}

pub(crate) fn rand<T>() -> T
where
    rand::distr::StandardUniform: rand::distr::Distribution<T>,
{
    rand::random()
}

/// An error with all its sources.
pub(crate) fn full_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

/// Queues in slots of all three masters of a Cluster.
pub(crate) async fn spread(store: &Redis) -> Vec<Queue> {
    let mut queues = Vec::new();
    for n in 0..6 {
        queues.push(Queue::new(store, &format!("q{n}")).await);
    }
    queues
}

/// The key of a queue's head.
pub(crate) fn head(queue: &Queue) -> String {
    let project = queue.key.project.as_str().replace('{', "%7B").replace('}', "%7D");
    format!("zq1:{{q/{project}/{}}}:h", queue.key.name)
}
