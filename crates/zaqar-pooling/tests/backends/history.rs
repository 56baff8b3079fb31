//! A queue that moves back and forth between stores of different kinds, while producers and
//! consumers use it and the servers that move it die.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::RwLock;
use zaqar_core::pools::{PoolName, QueueMoveState, QueueMoves};
use zaqar_core::storage::{
    Batch, ClaimRequest, Claimed, Claims, Deleted, Error, Guarded, Heads, Message, Messages,
    NewMessage,
};
use zaqar_core::{
    ClaimId, ClientId, Kind, MessageId, Payload, ProjectId, QueueKey, QueueName, Timestamp,
};
use zaqar_pooling::{Options, Pooled};
use zaqar_storage_testkit::Memory;

use crate::moves::{ASSUMED, Stores, pool_name, server_with, stores, unlimited_calls};

const PRODUCERS: usize = 8;
const CONSUMERS: usize = 8;
const POSTS: usize = 40;
/// The least number of moves, whether the queue arrived or stayed.
const ROUNDS: u64 = 12;
const CACHED_FOR: Duration = Duration::from_millis(20);
/// Bounds the wait of a call for a move, and that for the consumers.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The state that all tasks share.
struct History {
    key: QueueKey,
    servers: [Arc<Pooled>; 2],
    /// Milliseconds since 1970. It is advanced by 31 s before another server takes a move over.
    clock: AtomicU64,
    consumed: AtomicUsize,
    /// Each call holds it for reading, so that a writer waits for the calls in progress.
    calls: RwLock<()>,
}

impl History {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.clock.load(Ordering::Acquire))
    }

    fn pass(&self, secs: u64) -> Timestamp {
        self.clock.fetch_add(1000 * secs, Ordering::AcqRel);
        self.now()
    }

    /// Repeats a call while the answer is that it should be retried.
    async fn retried<T, F: Future<Output = Result<T, Error>>>(&self, call: impl Fn() -> F) -> T {
        let answered = async {
            loop {
                let _call = self.calls.read().await;
                match call().await {
                    Ok(answer) => return answer,
                    Err(Error::Overloaded { .. }) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        };
        tokio::time::timeout(TIMEOUT, answered).await.unwrap()
    }

    /// Waits until neither a call in progress nor a cache that one has filled leads to the old
    /// place of the queue.
    async fn quiesce(&self) {
        for _ in 0..2 {
            drop(self.calls.write().await);
            tokio::time::sleep(2 * CACHED_FOR).await;
        }
        drop(self.calls.write().await);
    }

    async fn produce(&self, number: usize) -> Vec<MessageId> {
        let mut ids = Vec::new();
        for count in 0..POSTS {
            let payload = Payload::plain(Bytes::from(format!("{number} {count}")));
            let messages = vec![NewMessage { payload, ttl: 1_000_000, delay: 0 }];
            let client = ClientId::new("me");
            let batch = Batch { request: rand::random(), client, messages, notify: true };
            let server = &self.servers[number % 2];
            let post = || server.post(&self.key, ASSUMED, batch.clone(), self.now());
            match self.retried(post).await {
                Guarded::Done(posted) => ids.extend(posted),
                refused @ (Guarded::Absent | Guarded::Stale(_)) => panic!("{refused:?}"),
            }
        }
        assert!(ids.is_sorted(), "positions only grow");
        ids
    }

    async fn consume(&self, number: usize) -> Vec<Message> {
        let (server, mut taken) = (&self.servers[number % 2], Vec::new());
        while self.consumed.load(Ordering::Acquire) < PRODUCERS * POSTS {
            let id = ClaimId::new(rand::random());
            let request = ClaimRequest { grace: 60, ..ClaimRequest::new(id, 100_000, 3) };
            let claim = || server.claim(&self.key, ASSUMED, &request, self.now());
            let Guarded::Done(Claimed::Messages { messages, .. }) = self.retried(claim).await
            else {
                panic!("the queue exists");
            };
            assert!(messages.is_sorted_by_key(|message| message.id));
            if messages.is_empty() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            for message in messages {
                assert_eq!(message.claim_count, 1, "{message:?} was claimed before");
                let delete = || server.delete(&self.key, message.id, Some(id), self.now());
                assert_eq!(self.retried(delete).await, Deleted::Gone);
                taken.push(message);
                self.consumed.fetch_add(1, Ordering::AcqRel);
            }
        }
        taken
    }
}

fn quick() -> Options {
    Options { cached_for: CACHED_FOR, moved_for: Duration::from_secs(1), ..Options::default() }
}

/// Which of two stores has the queue.
async fn place(stores: &Stores, key: &QueueKey, pools: [&'static str; 2]) -> usize {
    let first = stores[pools[0]].generation(key).await;
    usize::from(!matches!(first, Ok(Some(_))))
}

/// The state of the last move to a pool.
async fn state(server: &Pooled, pool: &PoolName) -> Option<QueueMoveState> {
    server.drain(pool).await.unwrap().moves.first().map(|one| one.state)
}

async fn check_moves(stores: &Stores, name: &str, pools: [&'static str; 2]) {
    let management = Memory::new();
    let unlimited = unlimited_calls();
    let live = || server_with(quick(), stores, &management, pools[0], &unlimited);
    let servers = [live().await, live().await];
    let mover = live().await;
    let project = ProjectId::new("p").unwrap();
    let key = QueueKey { project, kind: Kind::Queue, name: QueueName::new(name).unwrap() };
    let clock = AtomicU64::new(1_800_000_000_000);
    let consumed = AtomicUsize::new(0);
    let history =
        Arc::new(History { key: key.clone(), servers, clock, consumed, calls: RwLock::default() });
    mover.open(&key, ASSUMED, history.now()).await.unwrap();
    let produce = |number| {
        let history = Arc::clone(&history);
        tokio::spawn(async move { history.produce(number).await })
    };
    let producers: Vec<_> = (0..PRODUCERS).map(produce).collect();
    let consume = |number| {
        let history = Arc::clone(&history);
        tokio::spawn(async move { history.consume(number).await })
    };
    let consumers: Vec<_> = (0..CONSUMERS).map(consume).collect();
    let (mut rounds, mut arrived) = (0, 0);
    while producers.iter().any(|producer| !producer.is_finished()) || rounds < ROUNDS {
        let from = place(stores, &key, pools).await;
        let to = pool_name(pools[1 - from]);
        // It dies after some calls, mostly during the move.
        let calls_left = unlimited_calls();
        let dying = server_with(quick(), stores, &management, pools[0], &calls_left).await;
        calls_left.store(i64::try_from(5 + rounds * 7 % 40).unwrap(), Ordering::Release);
        let began = dying.move_queue(&key, &to, history.now()).await.is_ok();
        let has_ended = async {
            while began && calls_left.load(Ordering::Acquire) > 0 {
                if state(&mover, &to).await == Some(QueueMoveState::Moved) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(TIMEOUT, has_ended).await.unwrap();
        // Another server takes the move over, and cleans up once no cache leads to the old place.
        if state(&mover, &to).await == Some(QueueMoveState::Moved) {
            history.quiesce().await;
        }
        mover.resume_moves(history.pass(31)).await.unwrap();
        history.quiesce().await;
        mover.resume_moves(history.pass(2)).await.unwrap();
        arrived += u64::from(place(stores, &key, pools).await != from);
        rounds += 1;
    }
    let (mut posted, mut taken) = (Vec::new(), Vec::new());
    for producer in producers {
        posted.extend(producer.await.unwrap());
    }
    for consumer in consumers {
        let consumed = tokio::time::timeout(TIMEOUT, consumer).await.unwrap().unwrap();
        taken.extend(consumed.into_iter().map(|message| message.id));
    }
    posted.sort();
    taken.sort();
    assert_eq!(taken, posted, "{pools:?}: each is consumed once");
    assert!(arrived > ROUNDS / 4, "{pools:?}: {arrived} of {rounds} moves arrived");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_moves_back_and_forth_loses_nothing() {
    let stores = stores().await;
    for pools in [["disk0", "redis0"], ["redis1", "mongo0"], ["disk1", "mongo1"]] {
        check_moves(&stores, pools[0], pools).await;
    }
}
