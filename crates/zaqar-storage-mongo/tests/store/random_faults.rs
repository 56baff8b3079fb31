//! Several processes under load, while every now and then a statement fails, before or after its
//! execution: no message may be lost, doubled or given to two consumers, whatever the answers were.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use zaqar_core::storage::{
    Batch, ClaimRequest, Claimed, Claims, Deleted, Error, Guarded, Heads, ListQuery, Message,
    Messages,
};
use zaqar_core::{
    ClaimId, Clock, Generation, Incarnation, Kind, MessageId, ProjectId, QueueKey, QueueName,
    Secret, SystemClock, Timestamp, Version,
};
use zaqar_storage_mongo::{Mongo, Options};
use zaqar_storage_testkit::block_on;

use crate::history::{ClaimTracker, TIMEOUT};
use crate::scene::batch;
use crate::support::proxy::{Fault, Proxy, plain_address};
use crate::support::server;

const POSTERS: usize = 2;
const POSTS: usize = 15;
const CONSUMERS: usize = 3;
const MESSAGES: usize = POSTERS * POSTS * 3;
/// One in so many statements fails.
const ONE_IN: u32 = 15;
const FAULTS: [Fault; 13] = [
    Fault::Network,
    Fault::Concern(64),
    Fault::Code(43),
    Fault::Code(91),
    Fault::Code(112),
    Fault::Code(175),
    Fault::Code(189),
    Fault::Code(237),
    Fault::Code(10107),
    Fault::Code(11600),
    Fault::Code(11601),
    Fault::Code(11602),
    Fault::Code(13435),
];

struct Load {
    /// Half of them give up at the first error.
    stores: Vec<Mongo>,
    next: AtomicUsize,
    key: QueueKey,
    generation: Generation,
    now: Timestamp,
    tracker: ClaimTracker,
    /// The bodies of the messages that were posted.
    posted: Mutex<BTreeMap<MessageId, String>>,
}

/// Repeats a call whose outcome is unknown.
async fn until_answered<T, F: Future<Output = Result<T, Error>>>(call: impl Fn() -> F) -> T {
    let start = Instant::now();
    loop {
        match call().await {
            Ok(answer) => return answer,
            Err(Error::Unavailable { .. } | Error::Overloaded { .. }) => {
                assert!(start.elapsed() < TIMEOUT, "there is never an answer");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

fn text(message: &Message) -> String {
    String::from_utf8(message.payload.bytes.to_vec()).unwrap()
}

impl Load {
    /// A different store each time.
    fn store(&self) -> &Mongo {
        &self.stores[self.next.fetch_add(1, Ordering::Relaxed) % self.stores.len()]
    }

    async fn post(&self, poster: usize) {
        let mut last = None;
        for number in 0..POSTS {
            let texts: Vec<_> = (0..3).map(|i| format!("{poster} {number} {i}")).collect();
            let batch: Batch = batch(&texts.iter().map(String::as_str).collect::<Vec<_>>());
            let post = || self.store().post(&self.key, self.generation, batch.clone(), self.now);
            let Guarded::Done(ids) = until_answered(post).await else { panic!("the queue exists") };
            assert!(last < ids.first().copied(), "a later post comes after an earlier one");
            last = ids.last().copied();
            self.posted.lock().unwrap().extend(ids.into_iter().zip(texts));
        }
    }

    async fn consume(&self, consumer: u64) {
        let start = Instant::now();
        while self.tracker.count() < MESSAGES && start.elapsed() < 2 * TIMEOUT {
            let (id, limit) = (ClaimId::new(rand::random()), rand::random_range(1..5));
            let request = ClaimRequest { grace: 60, ..ClaimRequest::new(id, 1000, limit) };
            let claimed = self.store().claim(&self.key, self.generation, &request, self.now).await;
            let messages = match claimed {
                Ok(Guarded::Done(Claimed::Messages { messages, .. })) => messages,
                Err(Error::Unavailable { .. } | Error::Overloaded { .. }) => {
                    // It may hold messages, which nobody was given.
                    until_answered(|| self.store().claim_release(&self.key, id, self.now)).await;
                    continue;
                }
                other => panic!("{other:?}"),
            };
            let ids: Vec<_> = messages.iter().map(|message| message.id).collect();
            self.tracker.take(consumer, &ids);
            self.tracker.consume(&ids);
            for id in &ids {
                let delete = || self.store().delete(&self.key, *id, Some(request.id), self.now);
                assert_eq!(until_answered(delete).await, Deleted::Gone);
            }
            self.tracker.release(&ids);
            for message in messages {
                self.tracker.read(message.id, text(&message));
            }
        }
    }
}

#[test]
fn errors_at_random_statements_lose_and_double_nothing() {
    block_on(async {
        let name = server::name();
        let Some(address) = plain_address(&name) else {
            eprintln!("skipped: {} has more than a host and a port, as a proxy needs", server::URI);
            return;
        };
        let proxy = Proxy::start(address).await;
        let mut stores = Vec::new();
        for max_reconnect_attempts in [10, 0, 10, 0] {
            let pause = Duration::from_millis(1);
            let options = Options {
                uri: Secret::new(proxy.uri()),
                change_streams: false,
                max_reconnect_attempts,
                reconnect_sleep: pause,
                ..server::options(&name)
            };
            stores.push(Mongo::open(options).await.unwrap());
        }
        let incarnation = Incarnation::new(rand::random::<u64>() >> 1);
        let generation = Generation { incarnation, version: Version::new(1) };
        let key = QueueKey {
            project: ProjectId::new("p").unwrap(),
            kind: Kind::Queue,
            name: QueueName::new("q").unwrap(),
        };
        let now = SystemClock.now();
        stores[0].open(&key, generation, now).await.unwrap();
        let load = Arc::new(Load {
            stores,
            next: AtomicUsize::new(0),
            key,
            generation,
            now,
            tracker: ClaimTracker::default(),
            posted: Mutex::default(),
        });
        proxy.strike_at_random(ONE_IN, &FAULTS);
        let posters = (0..POSTERS).map(|poster| {
            let load = load.clone();
            tokio::spawn(async move { load.post(poster).await })
        });
        let consumers = (0..CONSUMERS).map(|consumer| {
            let load = load.clone();
            tokio::spawn(async move { load.consume(consumer as u64).await })
        });
        let tasks: Vec<_> = posters.chain(consumers.collect::<Vec<_>>()).collect();
        for task in join_all(tasks).await {
            task.unwrap();
        }
        assert!(proxy.struck() > 0);
        println!("{} statements failed", proxy.struck());
        proxy.plan(None);
        assert_eq!(load.tracker.count(), MESSAGES);
        assert_eq!(load.tracker.bodies(), *load.posted.lock().unwrap());
        let query = ListQuery {
            after: None,
            limit: 9,
            hide: None,
            include_claimed: true,
            include_delayed: true,
        };
        let left = Messages::list(&load.stores[0], &load.key, &query, now).await.unwrap();
        assert_eq!(left.messages.len(), 0);
        server::database(&name).await.drop().await.unwrap();
    });
}
