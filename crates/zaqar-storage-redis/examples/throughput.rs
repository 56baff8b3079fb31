//! Measures the store on a server: operations per second of 64 tasks on one queue, with
//! bodies of 1 KiB.
//!
//! ```text
//! cargo run --release -p zaqar-storage-redis --example throughput -- redis://127.0.0.1:6379
//! ```

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use zaqar_core::storage::{
    Batch, ClaimRequest, Claimed, Claims, Guarded, Heads, ListQuery, Messages, NewMessage,
};
use zaqar_core::{
    ClaimId, ClientId, Clock, Generation, Incarnation, Kind, Payload, ProjectId, QueueKey,
    QueueName, SystemClock, Version,
};
use zaqar_storage_redis::{Options, Redis};

type BenchResult<T> = Result<T, Box<dyn Error + Send + Sync>>;

const TASKS: usize = 64;
const DURATION: Duration = Duration::from_secs(3);

#[derive(Clone)]
struct Bench {
    store: Redis,
    key: QueueKey,
    generation: Generation,
    clock: Arc<SystemClock>,
}

#[tokio::main]
async fn main() -> BenchResult<()> {
    let uri = std::env::args().nth(1).unwrap_or_else(|| "redis://127.0.0.1:6379".to_owned());
    let store = Redis::open(Options::new(&uri)?).await?;
    let project = ProjectId::new(&format!("throughput-{:x}", rand::random::<u64>()))?;
    let key = QueueKey { project, kind: Kind::Queue, name: QueueName::new("q")? };
    let incarnation = Incarnation::new(rand::random::<u64>() >> 1);
    let generation = Generation { incarnation, version: Version::new(1) };
    let bench = Bench { store, key, generation, clock: Arc::default() };
    Heads::open(&bench.store, &bench.key, generation, bench.clock.now()).await?;

    bench.run("post 1", 1, |it| async move { it.post(1).await }).await;
    bench.run("post 10", 10, |it| async move { it.post(10).await }).await;
    bench.run("list 10", 1, |it| async move { it.list().await }).await;
    bench
        .run("claim 10, delete 10 at once", 10, |it| async move { it.claim_and_delete().await })
        .await;
    Heads::close(&bench.store, &bench.key, generation.incarnation).await?;
    Ok(())
}

impl Bench {
    async fn run<F>(
        &self,
        what: &str,
        messages: u64,
        operation: impl Fn(Self) -> F + Clone + Send + 'static,
    ) where
        F: Future<Output = BenchResult<()>> + Send,
    {
        let (done, started) = (Arc::new(AtomicU64::new(0)), Instant::now());
        let tasks: Vec<_> = (0..TASKS)
            .map(|_| {
                let (bench, operation, done) = (self.clone(), operation.clone(), Arc::clone(&done));
                tokio::spawn(async move {
                    while started.elapsed() < DURATION {
                        if let Err(error) = operation(bench.clone()).await {
                            return eprintln!("{error}");
                        }
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for task in tasks {
            drop(task.await);
        }
        let rate = done.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64();
        println!("{what}: {rate:.0} a second, {:.0} messages", rate * messages as f64);
    }

    async fn post(&self, count: usize) -> BenchResult<()> {
        let payload = Payload::plain(Bytes::from(vec![b'1'; 1024]));
        let message = NewMessage { payload, ttl: 3600, delay: 0 };
        let messages = vec![message; count];
        let batch =
            Batch { request: rand::random(), client: ClientId::new("me"), messages, notify: true };
        self.store.post(&self.key, self.generation, batch, self.clock.now()).await?;
        Ok(())
    }

    async fn list(&self) -> BenchResult<()> {
        let query = ListQuery {
            after: None,
            limit: 10,
            hide: None,
            include_claimed: false,
            include_delayed: false,
        };
        Messages::list(&self.store, &self.key, &query, self.clock.now()).await?;
        Ok(())
    }

    async fn claim_and_delete(&self) -> BenchResult<()> {
        let id = ClaimId::new(rand::random());
        let request = ClaimRequest { grace: 60, ..ClaimRequest::new(id, 60, 10) };
        let now = self.clock.now();
        let claimed = self.store.claim(&self.key, self.generation, &request, now).await?;
        let Guarded::Done(Claimed::Messages { messages, .. }) = claimed else { return Ok(()) };
        let ids: Vec<_> = messages.iter().map(|message| message.id).collect();
        let held = zaqar_core::storage::Deletable::HeldBy(vec![id]);
        self.store.delete_many(&self.key, &ids, &held, now).await?;
        Ok(())
    }
}
