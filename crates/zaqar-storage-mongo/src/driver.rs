//! The store: its client, its bounds, and how a command is sent.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mongodb::bson::Document;
use mongodb::options::{Acknowledgment, WriteConcern};
use mongodb::{Collection, Database};
use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError};
use tokio::time::{sleep, timeout};
use zaqar_core::{Timestamp, storage};

use crate::error::{Sent, is_passing, refused};
use crate::news::Newsroom;
use crate::schema::{self, millis};
use crate::stored::Head;
use crate::{Error, Options, connect, foreign};

/// When it is worth another try after a refusal for want of room.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Queues that share a gate now and then do each other no harm.
const GATES: usize = 64;
/// Queues of which it is remembered that somebody subscribes to them.
const REMEMBERED: usize = 4096;

#[doc = include_str!("docs.md")]
#[derive(Clone)]
pub struct Mongo {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) db: Database,
    pub(crate) heads: Collection<Head>,
    pub(crate) messages: Collection<Document>,
    pub(crate) claims: Collection<Document>,
    pub(crate) rows: Collection<Document>,
    pub(crate) subscriptions: Collection<Document>,
    pub(crate) outbox: Collection<Document>,
    pub(crate) leases: Collection<Document>,
    pub(crate) news: Newsroom,
    /// A permit for each operation at once.
    admission: Semaphore,
    is_closing: AtomicBool,
    /// One permit each: those of this process that take messages from one queue wait for each other here, as all but one of them
    /// would only find out at the server that they have to try again.
    gates: Vec<Semaphore>,
    /// The latest time that was asked for.
    latest: AtomicI64,
    /// Queues that had a subscription when last posted to: a hint that saves a round trip.
    subscribed: Mutex<HashSet<String>>,
}

impl Mongo {
    /// Connects, and makes the collections' indexes where they are missing.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn open(options: Options) -> Result<Self, Error> {
        let client = connect::client(&options).await?;
        let name = format!("{}_server", options.database);
        let db = client.database(&name);
        let heads = connect::prepare(&db).await?;
        foreign::warn_of_the_originals_data(&client, &options.database).await;
        Ok(Self {
            inner: Arc::new(Inner {
                heads,
                messages: db.collection(schema::MESSAGES),
                claims: db.collection(schema::CLAIMS),
                rows: db.collection(schema::ROWS),
                subscriptions: db.collection(schema::SUBSCRIPTIONS),
                outbox: db.collection(schema::OUTBOX),
                leases: db.collection(schema::LEASES),
                news: Newsroom::default(),
                admission: Semaphore::new(options.in_flight.max(1)),
                is_closing: AtomicBool::new(false),
                gates: (0..GATES).map(|_| Semaphore::new(1)).collect(),
                latest: AtomicI64::new(0),
                subscribed: Mutex::default(),
                options,
                db,
            }),
        })
    }

    /// The time to act at: `now`, or the latest that this process has seen.
    pub(crate) fn at(&self, now: Timestamp) -> i64 {
        let now = millis(now);
        self.inner.latest.fetch_max(now, Ordering::Relaxed).max(now)
    }

    /// Does one operation within its bounds. It may be given up anywhere: whoever meets its traces finishes or ignores them.
    pub(crate) async fn act<T>(
        &self,
        work: impl Future<Output = Result<T, storage::Error>>,
    ) -> Result<T, storage::Error> {
        let _permit = self.admit()?;
        let Ok(outcome) = timeout(self.inner.options.deadline, work).await else {
            return Err(storage::Error::unavailable("the operation took too long"));
        };
        outcome
    }

    fn admit(&self) -> Result<SemaphorePermit<'_>, storage::Error> {
        if self.inner.is_closing.load(Ordering::Acquire) {
            return Err(storage::Error::Closed);
        }
        self.inner.admission.try_acquire().map_err(|error| match error {
            TryAcquireError::NoPermits => storage::Error::Overloaded { retry_after: RETRY_AFTER },
            TryAcquireError::Closed => storage::Error::Closed,
        })
    }

    /// Sends a command, again where the connection breaks or the primary changes.
    pub(crate) async fn send<T, A>(&self, command: impl Fn() -> A) -> Result<T, storage::Error>
    where
        A: IntoFuture<Output = Sent<T>>,
    {
        Ok(self.send_noting(command).await?.0)
    }

    /// As [`Mongo::send`]; says, too, whether the command was sent before: the one that was answered is then perhaps the second that
    /// acted.
    pub(crate) async fn send_noting<T, A>(
        &self,
        command: impl Fn() -> A,
    ) -> Result<(T, bool), storage::Error>
    where
        A: IntoFuture<Output = Sent<T>>,
    {
        let options = &self.inner.options;
        let mut pause = options.reconnect_sleep;
        for attempt in 0..=options.max_reconnect_attempts {
            let error = match timeout(options.command_timeout, command().into_future()).await {
                Ok(Ok(answer)) => return Ok((answer, attempt > 0)),
                Ok(Err(error)) if !is_passing(&error) => return Err(refused(error)),
                Ok(Err(error)) => storage::Error::unavailable(error),
                Err(_) => storage::Error::unavailable("no answer in time"),
            };
            if attempt == options.max_reconnect_attempts {
                return Err(error);
            }
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                attempt,
                "a command is sent again"
            );
            sleep(pause).await;
            pause = pause.saturating_mul(2);
        }
        Err(storage::Error::unavailable("no attempt was made"))
    }

    /// Waits before the `attempt`th try of a step that others have overtaken; not before the first two.
    pub(crate) async fn back_off(&self, attempt: u32) {
        if attempt < 2 {
            return;
        }
        let options = &self.inner.options;
        let longest = Duration::from_millis(1 << attempt.min(16)).min(options.max_retry_sleep);
        let pause = longest.mul_f64(rand::random::<f64>())
            + options.max_retry_jitter.mul_f64(rand::random::<f64>());
        sleep(pause).await;
    }

    /// What a step comes to that was overtaken too often.
    pub(crate) const fn overtaken() -> storage::Error {
        storage::Error::Overloaded { retry_after: RETRY_AFTER }
    }

    /// Lets one at a time of this process take messages from a queue.
    pub(crate) async fn gate(&self, queue: &str) -> Result<SemaphorePermit<'_>, storage::Error> {
        let mut hasher = DefaultHasher::new();
        queue.hash(&mut hasher);
        let index = usize::try_from(hasher.finish() % GATES as u64).unwrap_or(0);
        self.inner.gates[index].acquire().await.map_err(|_| storage::Error::Closed)
    }

    /// Lets one at a time of this process change who subscribes to a queue: such steps overtake each other.
    pub(crate) async fn roster_gate(
        &self,
        queue: &str,
    ) -> Result<SemaphorePermit<'_>, storage::Error> {
        self.gate(&format!("roster of {queue}")).await
    }

    pub(crate) fn seems_subscribed(&self, queue: &str) -> bool {
        self.inner.subscribed.lock().unwrap_or_else(PoisonError::into_inner).contains(queue)
    }

    pub(crate) fn remember_subscribed(&self, queue: &str, is_subscribed: bool) {
        let mut queues = self.inner.subscribed.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_subscribed {
            queues.remove(queue);
            return;
        }
        if queues.len() >= REMEMBERED {
            queues.clear();
        }
        queues.insert(queue.to_owned());
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.inner.is_closing.load(Ordering::Acquire)
    }

    /// Refuses what comes and waits for what is there.
    pub(crate) async fn shut(&self) {
        self.inner.is_closing.store(true, Ordering::Release);
        self.inner.news.end();
        let all = u32::try_from(self.inner.options.in_flight.max(1)).unwrap_or(u32::MAX);
        if let Ok(permits) = self.inner.admission.acquire_many(all).await {
            permits.forget();
            self.inner.admission.close();
        }
    }
}

impl std::fmt::Debug for Mongo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mongo").field("database", &self.inner.db.name()).finish_non_exhaustive()
    }
}

/// For a write whose loss is made good by whoever meets its absence.
pub(crate) fn unhurried() -> WriteConcern {
    WriteConcern::builder().w(Acknowledgment::Nodes(1)).build()
}
