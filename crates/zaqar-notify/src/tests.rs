//! The workers on the in-memory store, with a manual clock and a scripted channel.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test fails on whatever it does not expect")]

mod batches;
mod changes;
mod confirmations;
mod events;
mod expansion;
mod health;
mod log;
mod planted;
mod recovery;
mod shards;
mod taking;
mod throughput;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use zaqar_core::delivery::{DeliveryQuery, DeliveryState, Redelivery};
use zaqar_core::storage::{
    Batch, Changed, Error, Guarded, Heads, ListQuery, Messages, NewMessage, NewSubscription,
    SubscriptionChange, Subscriptions,
};
use zaqar_core::{
    ClientId, Clock, Generation, Incarnation, Kind, ManualClock, MessageId, Payload, ProjectId,
    QueueKey, QueueName, SubscriptionId, Timestamp, Version,
};
use zaqar_storage_testkit::Memory;

use crate::deliveries::{Deliveries, ROW_LEASE, Take, Taken};
use crate::outcome::{Answer, Attempt, Failure};
use crate::row::{Body, Content, Row, SHARDS, SubscriptionKey, schedule};
use crate::target::{Origin, Target};
use crate::{Channel, EventSink, Options, Outgoing, Parts, PlainBodies, Workers};

/// Stands for a request that there is no memory for.
const NO_MEMORY: u16 = 0;

/// Answers with the scripted statuses, then with 204; records what it was sent.
#[derive(Default)]
struct Script {
    statuses: Mutex<VecDeque<u16>>,
    /// Made while the next request is in progress.
    change: Mutex<Option<Change>>,
    /// Bodies of requests that are never answered.
    hangs: Mutex<Vec<String>>,
    sent: Mutex<Vec<Sent>>,
}

#[derive(Debug, Clone, PartialEq)]
struct Sent {
    subscriber: String,
    body: String,
    at: u64,
}

#[async_trait]
impl Channel for Script {
    fn origin(&self, subscriber: &str) -> Result<Origin, String> {
        Ok(Target::parse(subscriber).map_err(|error| error.to_string())?.origin().clone())
    }

    fn takes_batches(&self) -> bool {
        true
    }

    async fn send(&self, outgoing: &Outgoing<'_>) -> Attempt {
        let bodies = outgoing.messages.iter().map(|one| String::from_utf8_lossy(one.body));
        let body = bodies.collect::<Vec<_>>().join(",");
        let body = if outgoing.is_batch { format!("[{body}]") } else { body };
        self.sent.lock().unwrap().push(Sent {
            subscriber: outgoing.subscriber.to_owned(),
            body: body.clone(),
            at: outgoing.now.as_millis() - START.as_millis(),
        });
        let change = self.change.lock().unwrap().take();
        if let Some(change) = change {
            change.make().await;
        }
        let hangs = self.hangs.lock().unwrap().contains(&body);
        if hangs || outgoing.subscriber.starts_with("http://dead/") {
            return std::future::pending().await;
        }
        let status = match outgoing.subscriber {
            "http://rejects/" => 400,
            _ => self.statuses.lock().unwrap().pop_front().unwrap_or(204),
        };
        if status == NO_MEMORY {
            let scope = zaqar_core::MemoryScope::Process;
            let over = zaqar_core::OverBudget { scope, limit: 1, in_use: 1, requested: 1 };
            return Attempt::Failed(Failure::OverBudget(over));
        }
        Attempt::Answered(Answer { status, retry_after: None, body: Bytes::new() })
    }
}

/// A change of a subscription that another server makes.
struct Change {
    store: Arc<Memory>,
    subscription: SubscriptionKey,
    change: SubscriptionChange,
}

impl Change {
    async fn make(self) {
        let SubscriptionKey { queue, id } = &self.subscription;
        let changed = self.store.change_subscription(queue, *id, &self.change, START).await;
        assert_eq!(changed.unwrap(), Changed::Done);
    }
}

/// Records events, after as many failures as set.
#[derive(Default)]
struct Posted {
    events: Mutex<Vec<(String, Value)>>,
    /// The queue of each post, and the number of its events.
    posts: Mutex<Vec<(String, usize)>>,
    failures: Mutex<u32>,
    /// Made before the next event is posted.
    change: Mutex<Option<Change>>,
    /// For each event the rows of its subscription, and whether it was suspended.
    found: Mutex<Vec<(usize, bool)>>,
    store: OnceLock<Arc<Memory>>,
}

impl Posted {
    async fn look(&self, event: &Value) {
        let Some(store) = self.store.get() else { return };
        let name = format!("deliveries.{}", event["subscription_id"].as_str().unwrap());
        let project = ProjectId::new("p").unwrap();
        let name = QueueName::new(&name).unwrap();
        let rows = QueueKey { project, kind: Kind::Internal, name };
        let stats = store.stats(&rows, START).await.unwrap().unwrap();
        let generation = store.generation(&rows).await.unwrap().unwrap();
        let is_suspended = generation.version.get() % 2 == 1;
        let count = usize::try_from(stats.free + stats.claimed).unwrap();
        self.found.lock().unwrap().push((count, is_suspended));
    }
}

#[async_trait]
impl EventSink for Posted {
    async fn post(
        &self,
        project: &ProjectId,
        queue: &QueueName,
        events: &[Value],
    ) -> Result<(), Error> {
        assert_eq!(project.as_str(), "p");
        let change = self.change.lock().unwrap().take();
        if let Some(change) = change {
            change.make().await;
        }
        for event in events {
            self.look(event).await;
        }
        let mut failures = self.failures.lock().unwrap();
        if *failures > 0 {
            *failures -= 1;
            return Err(Error::unavailable("as planned"));
        }
        self.posts.lock().unwrap().push((queue.as_str().to_owned(), events.len()));
        let events = events.iter().map(|event| (queue.as_str().to_owned(), event.clone()));
        self.events.lock().unwrap().extend(events);
        Ok(())
    }
}

const START: Timestamp = Timestamp::from_millis(1_795_000_000_000);
const GENERATION: Generation =
    Generation { incarnation: Incarnation::new(7), version: Version::new(1) };

struct Scene {
    store: Arc<Memory>,
    clock: Arc<ManualClock>,
    script: Arc<Script>,
    posted: Arc<Posted>,
    workers: Workers,
    key: QueueKey,
    made: u128,
}

impl Scene {
    async fn new() -> Self {
        Self::with(Options::default()).await
    }

    async fn with(options: Options) -> Self {
        let store = Arc::new(planted::fault().map_or_else(Memory::new, Memory::with_fault));
        let clock = Arc::new(ManualClock::new(START));
        let script = Arc::new(Script::default());
        let key = QueueKey {
            project: ProjectId::new("p").unwrap(),
            kind: Kind::Queue,
            name: QueueName::new("q").unwrap(),
        };
        Heads::open(&*store, &key, GENERATION, START).await.unwrap();
        let posted = Arc::new(Posted::default());
        posted.store.set(Arc::clone(&store)).unwrap();
        let workers = workers(&store, &clock, &script, &posted, options);
        Self { store, clock, script, posted, workers, key, made: 0 }
    }

    /// Another server on the same store.
    fn other_server(&mut self) {
        let (store, clock, script) = (&self.store, &self.clock, &self.script);
        self.workers = workers(store, clock, script, &self.posted, Options::default());
    }

    async fn subscribe(&mut self, subscriber: &str, options: Value) -> SubscriptionId {
        self.made += 1;
        let now = self.clock.now();
        let id = SubscriptionId::new(u128::from(now.as_millis()) << 80 | self.made);
        let new = NewSubscription {
            id,
            subscriber: subscriber.to_owned(),
            ttl: 100_000,
            options: options.to_string(),
            confirmed: false,
            lease: None,
        };
        let made = Subscriptions::subscribe(&*self.store, &self.key, GENERATION, &new, now).await;
        assert!(matches!(made.unwrap(), Guarded::Done(_)));
        id
    }

    async fn post(&self, body: &str, ttl: u64, delay: u64) -> MessageId {
        let payload = Payload::plain(Bytes::from(body.to_owned()));
        let batch = Batch {
            request: rand::random(),
            client: ClientId::new("c"),
            messages: vec![NewMessage { payload, ttl, delay }],
            notify: true,
        };
        let now = self.clock.now();
        match Messages::post(&*self.store, &self.key, GENERATION, batch, now).await.unwrap() {
            Guarded::Done(ids) => ids[0],
            refused => panic!("{refused:?}"),
        }
    }

    async fn step(&self) {
        self.workers.step().await.unwrap();
    }

    /// Runs the workers in a task.
    fn run(&mut self) -> Running {
        let (store, clock, script) = (&self.store, &self.clock, &self.script);
        let spare = workers(store, clock, script, &self.posted, Options::default());
        let shutdown = CancellationToken::new();
        let running = std::mem::replace(&mut self.workers, spare).run(shutdown.clone());
        Running { task: tokio::spawn(running), shutdown }
    }

    /// Waits until so many more requests were sent, in paused time.
    async fn wait_for(&self, count: usize) {
        let mut sent = 0;
        for _ in 0..1000 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            sent += self.sent().len();
            if sent >= count {
                return;
            }
        }
        panic!("{sent} requests of {count}");
    }

    async fn pass(&self, secs: u64) {
        self.clock.advance(Duration::from_secs(secs));
        self.step().await;
    }

    fn answer(&self, statuses: &[u16]) {
        self.script.statuses.lock().unwrap().extend(statuses);
    }

    fn sent(&self) -> Vec<Sent> {
        std::mem::take(&mut *self.script.sent.lock().unwrap())
    }

    fn bodies(&self) -> Vec<String> {
        self.sent().into_iter().map(|sent| sent.body).collect()
    }

    async fn tickets(&self) -> usize {
        let mut count = 0;
        for shard in 0..SHARDS {
            count += self.count(&schedule(shard).unwrap()).await;
        }
        count
    }

    async fn count(&self, key: &QueueKey) -> usize {
        let query = ListQuery {
            after: None,
            limit: 1000,
            hide: None,
            include_claimed: true,
            include_delayed: true,
        };
        self.store.list(key, &query, self.clock.now()).await.unwrap().messages.len()
    }

    fn subscription(&self, id: SubscriptionId) -> SubscriptionKey {
        SubscriptionKey { queue: self.key.clone(), id }
    }
}

/// Workers that run in a task.
struct Running {
    task: JoinHandle<()>,
    shutdown: CancellationToken,
}

impl Running {
    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

fn workers(
    store: &Arc<Memory>,
    clock: &Arc<ManualClock>,
    script: &Arc<Script>,
    posted: &Arc<Posted>,
    options: Options,
) -> Workers {
    let parts = Parts {
        management: Arc::clone(store) as _,
        messages: Arc::clone(store) as _,
        clock: Arc::clone(clock) as _,
        channels: BTreeMap::from([("http".to_owned(), Arc::clone(script) as Arc<dyn Channel>)]),
        bodies: Arc::new(PlainBodies),
        events: Some(Arc::clone(posted) as _),
        directory: None,
    };
    Workers::new(parts, options)
}

#[tokio::test]
async fn every_subscriber_gets_every_message() {
    let mut scene = Scene::new().await;
    for host in ["a", "b", "c"] {
        scene.subscribe(&format!("http://{host}/"), json!({})).await;
    }
    let large = format!("\"{}\"", "x".repeat(5000));
    for body in ["1", "{\"a\": [2]}", &large] {
        scene.post(body, 60, 0).await;
    }
    scene.step().await;
    let mut sent: Vec<_> =
        scene.sent().into_iter().map(|sent| (sent.subscriber, sent.body.len())).collect();
    sent.sort();
    let expected: Vec<_> = ["a", "b", "c"]
        .iter()
        .flat_map(|host| [1, 10, 5002].map(|length| (format!("http://{host}/"), length)))
        .collect();
    assert_eq!(sent, expected);
    // Only the tickets that keep the three subscriptions are left.
    assert_eq!(scene.tickets().await, 3);
    scene.pass(100).await;
    assert_eq!(scene.sent(), []);
}

#[tokio::test]
async fn a_subscription_gets_what_is_posted_after_it() {
    let mut scene = Scene::new().await;
    scene.subscribe("http://a/", json!({})).await;
    scene.post("1", 60, 0).await;
    scene.clock.advance(Duration::from_secs(1));
    scene.subscribe("http://b/", json!({})).await;
    scene.post("2", 60, 0).await;
    scene.step().await;
    let mut sent: Vec<_> =
        scene.sent().into_iter().map(|sent| sent.subscriber + &sent.body).collect();
    sent.sort();
    assert_eq!(sent, ["http://a/1", "http://a/2", "http://b/2"]);
}

#[tokio::test]
async fn retries_follow_the_policy() {
    let mut scene = Scene::new().await;
    scene.subscribe("http://a/", json!({})).await;
    scene.answer(&[500; 100]);
    scene.post("1", 3600, 0).await;
    scene.step().await;
    for _ in 0..1200 {
        scene.clock.advance(Duration::from_millis(500));
        scene.step().await;
    }
    let at: Vec<_> = scene.sent().into_iter().map(|sent| sent.at).collect();
    assert_eq!(at.len(), 15, "{at:?}");
    assert_eq!(at[..4], [0, 0, 0, 0]);
    let pauses: Vec<_> = at.windows(2).skip(3).map(|pair| pair[1] - pair[0]).collect();
    for (pause, expected) in pauses.iter().zip([5, 5, 5, 5, 10, 15, 20, 25, 30, 30, 30]) {
        // A tenth either way, in whole seconds.
        let bounds = expected * 900..=expected * 1100 + 1500;
        assert!(bounds.contains(pause), "{pause} for {expected} s: {pauses:?}");
    }
    assert_eq!(scene.workers.handle().counts().failed, 1);
    assert_eq!(scene.workers.handle().counts().retried, 14);
}

#[tokio::test]
async fn a_retry_is_made_by_whichever_server_is_there() {
    let mut scene = Scene::new().await;
    scene.subscribe("http://a/", json!({})).await;
    scene.answer(&[503; 4]);
    scene.post("1", 3600, 0).await;
    scene.step().await;
    assert_eq!(scene.bodies().len(), 4);
    scene.other_server();
    for _ in 0..60 {
        scene.pass(1).await;
    }
    assert_eq!(scene.bodies(), ["1"]);
}

#[tokio::test]
async fn other_answers_end_a_delivery() {
    let mut scene = Scene::new().await;
    scene.subscribe("http://a/", json!({})).await;
    scene.answer(&[302, 404, 400]);
    for body in ["1", "2", "3", "4"] {
        scene.post(body, 3600, 0).await;
        scene.step().await;
    }
    scene.pass(300).await;
    assert_eq!(scene.bodies(), ["1", "2", "3", "4"]);
    let counts = scene.workers.handle().counts();
    assert_eq!((counts.delivered, counts.failed, counts.retried), (1, 3, 0));
}

#[tokio::test]
async fn gone_suspends_until_resumed_and_loses_nothing() {
    let mut scene = Scene::new().await;
    let id = scene.subscribe("http://a/", json!({})).await;
    scene.subscribe("http://a/other", json!({})).await;
    scene.answer(&[410]);
    scene.post("1", 3600, 0).await;
    scene.step().await;
    assert_eq!(scene.sent().len(), 2, "the other subscription is served");
    scene.post("2", 3600, 0).await;
    scene.step().await;
    scene.other_server();
    scene.pass(60).await;
    let suspended: Vec<_> = scene.sent();
    assert_eq!(suspended.len(), 1, "{suspended:?}");
    scene.workers.handle().resume(&scene.key, id).await.unwrap();
    scene.pass(1).await;
    let resumed = scene.sent();
    assert_eq!(resumed.len(), 1);
    assert_ne!(resumed[0].subscriber, suspended[0].subscriber);
    assert_eq!(resumed[0].body, "2");
}

#[tokio::test]
async fn what_is_delayed_waits() {
    let mut scene = Scene::new().await;
    scene.subscribe("http://a/", json!({})).await;
    scene.post("1", 3600, 30).await;
    scene.step().await;
    scene.pass(28).await;
    assert_eq!(scene.bodies().len(), 0);
    scene.pass(2).await;
    assert_eq!(scene.bodies(), ["1"]);
}

#[tokio::test]
async fn a_delivery_ends_with_its_message() {
    let mut scene = Scene::new().await;
    scene.subscribe("http://a/", json!({})).await;
    scene.answer(&[500; 4]);
    scene.post("1", 3, 0).await;
    scene.step().await;
    assert_eq!(scene.bodies().len(), 4);
    for _ in 0..60 {
        scene.pass(1).await;
    }
    assert_eq!(scene.bodies().len(), 0);
    assert_eq!(scene.tickets().await, 1);
}

#[tokio::test]
async fn a_filter_passes_what_it_says() {
    let mut scene = Scene::new().await;
    scene.subscribe("http://a/", json!({"filter": {"body.type": ["x"]}})).await;
    scene.post("{\"type\": \"y\"}", 3600, 0).await;
    scene.post("{\"type\": \"x\"}", 3600, 0).await;
    scene.step().await;
    assert_eq!(scene.bodies(), ["{\"type\": \"x\"}"]);
}

#[tokio::test]
async fn nothing_is_left_of_a_subscription_that_has_ended() {
    let mut scene = Scene::new().await;
    let id = scene.subscribe("http://a/", json!({})).await;
    scene.answer(&[500; 4]);
    scene.post("1", 3600, 0).await;
    scene.step().await;
    let rows = scene.subscription(id).deliveries().unwrap();
    assert_eq!(scene.count(&rows).await, 1);
    Subscriptions::unsubscribe(&*scene.store, &scene.key, id, scene.clock.now()).await.unwrap();
    for _ in 0..20 {
        scene.pass(1).await;
    }
    assert_eq!(scene.store.generation(&rows).await.unwrap(), None);
    scene.pass(86_400).await;
    assert_eq!(scene.tickets().await, 0);
    assert_eq!(scene.bodies().len(), 4);
}

#[tokio::test]
async fn ordered_ones_wait_for_the_first() {
    let mut scene = Scene::new().await;
    let policy = json!({"retries_with_no_delay": 0, "minimum_delay_retries": 50});
    let options = json!({"ordered": true, "_retry_policy": policy});
    scene.subscribe("http://a/", options).await;
    scene.answer(&[500, 500]);
    for body in ["1", "2", "3"] {
        scene.post(body, 3600, 0).await;
    }
    scene.step().await;
    scene.post("4", 3600, 0).await;
    for _ in 0..60 {
        scene.pass(1).await;
    }
    assert_eq!(scene.bodies(), ["1", "1", "1", "2", "3", "4"]);
}

/// A thousand failures leave one waiting ticket, not a thousand.
#[tokio::test]
async fn tickets_of_a_dead_receiver_do_not_pile_up() {
    let mut scene = Scene::new().await;
    scene.subscribe("http://a/", json!({})).await;
    scene.answer(&[500; 10_000]);
    for _ in 0..100 {
        scene.post("1", 3600, 0).await;
        scene.step().await;
    }
    let tickets = scene.tickets().await;
    assert!(tickets <= 4, "{tickets}");
}

/// A worker whose lease has expired settles nothing, whatever the outcome.
#[tokio::test]
async fn a_worker_that_was_too_slow_settles_nothing() {
    let mut scene = Scene::new().await;
    let id = scene.subscribe("http://a/", json!({})).await;
    let key = scene.subscription(id);
    let deliveries = Deliveries::new(Arc::clone(&scene.store) as _);
    let message = scene.post("1", 3600, 0).await;
    let body = Body::Here(Payload::plain(Bytes::from_static(b"1")));
    let content = Content::Message;
    let row = Row { message, ttl: 3600, created: START, content, body };
    deliveries.add(&key, &[(row.clone(), START)], START).await.unwrap();
    let take = async |now| match deliveries.take(&key, Take::Each(1), now).await.unwrap() {
        Taken::Rows(mut taken) => {
            let (lease, mut rows) = taken.pop().unwrap();
            (lease, rows.pop().unwrap())
        }
        other => panic!("{other:?}"),
    };
    let (slow, held) = take(START).await;
    assert_eq!((held.count, &held.row), (1, &row));
    let slow_row = held;
    let held = deliveries.take(&key, Take::Each(1), START.plus_secs(ROW_LEASE - 1)).await.unwrap();
    assert!(matches!(held, Taken::Nothing), "{held:?}");
    let later = START.plus_secs(ROW_LEASE);
    let (quick, quick_row) = take(later).await;
    assert_eq!(quick_row.count, 2);
    assert!(!deliveries.hold(&slow, 60, later).await.unwrap());
    deliveries.finish(&slow, &[slow_row], later).await.unwrap();
    assert!(!deliveries.is_empty(&key, later).await.unwrap(), "it is the other worker's");
    deliveries.finish(&quick, &[quick_row], later).await.unwrap();
    assert!(deliveries.is_empty(&key, later).await.unwrap());
}

#[tokio::test]
async fn no_more_is_delivered_than_the_rate_allows() {
    // Deliveries per second; how many at once, and how many after 10 more seconds.
    for (rate, at_once, later) in [(0.5, 1, 6), (1.0, 1, 11), (3.0, 3, 33)] {
        let mut scene = Scene::new().await;
        scene.subscribe("http://a/", json!({ "max_rate": rate })).await;
        for at in 0..50 {
            scene.post(&at.to_string(), 3600, 0).await;
        }
        scene.step().await;
        assert_eq!(scene.sent().len(), at_once, "{rate}");
        for _ in 0..10 {
            scene.pass(1).await;
        }
        assert_eq!(scene.sent().len() + at_once, later, "{rate}");
        for _ in 0..100 {
            scene.pass(1).await;
        }
        assert_eq!(scene.sent().len() + later, 50, "{rate}: none is lost");
    }
}
