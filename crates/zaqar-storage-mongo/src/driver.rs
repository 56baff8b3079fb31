//! The store: its client, its bounds, and how a command is sent.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mongodb::bson::{Bson, DateTime, Document, doc, serialize_to_bson};
use mongodb::{Collection, Database};
use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError};
use tokio::time::{sleep, timeout};
use zaqar_core::{Clock, Generation, StateLog, SystemClock, Timestamp, storage};
use zaqar_storage_batch::{Batcher, Limits};

use crate::background::Background;
use crate::carried::Carried;
use crate::draft::{Answer, Draft};
use crate::elections::Elections;
use crate::error::{Sent, is_passing, refused};
use crate::gates::{Gates, Pass};
use crate::news_hub::NewsHub;
use crate::placing::Placing;
use crate::schema::{self, Fence, millis};
use crate::stored::Head;
use crate::volume::LastVolume;
use crate::{Error, Options, connect, foreign};

/// When it is worth another try after a refusal for want of room.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Posts of one group, their bytes, and posts that wait for one queue.
const GROUPS: Limits = Limits { items: 64, bytes: schema::PIECE_BYTES, waiting: 1024 };
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
    /// Heads as nobody can have changed them since; `None` on a server of its own.
    pub(crate) confirmed_heads: Option<Collection<Head>>,
    pub(crate) elections: Arc<Elections>,
    /// What a command that we write ourselves asks for.
    pub(crate) write_concern: Bson,
    pub(crate) messages: Collection<Document>,
    pub(crate) claims: Collection<Document>,
    pub(crate) rows: Collection<Document>,
    pub(crate) subscriptions: Collection<Document>,
    pub(crate) outbox: Collection<Document>,
    pub(crate) leases: Collection<Document>,
    pub(crate) news: NewsHub,
    /// A permit for each operation at once.
    admission: Semaphore,
    is_closing: AtomicBool,
    gates: Gates,
    /// By queue, the generation assumed, and whether subscribers are told.
    pub(crate) posts: Batcher<(String, Generation, bool), Draft, Answer>,
    pub(crate) placing: Placing,
    pub(crate) background: Background,
    pub(crate) carried: Carried,
    pub(crate) volume: LastVolume,
    /// Stored documents that cannot be read, for the log.
    pub(crate) unreadable: StateLog,
    /// This process's clock, for what is not told the time.
    clock: SystemClock,
    /// The latest time that was asked for while the clocks agreed.
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
        let elections = Arc::new(Elections::default());
        let client = connect::client(&options, Arc::clone(&elections)).await?;
        let concern = client.write_concern();
        let write_concern = serialize_to_bson(&concern).unwrap_or(Bson::Null);
        let name = format!("{}_server", options.database);
        let db = client.database(&name);
        let heads = connect::prepare_in_time(&db, options.start_timeout).await?;
        foreign::warn_of_the_originals_data(&client, &options.database).await;
        Ok(Self {
            inner: Arc::new(Inner {
                heads: heads.committed,
                confirmed_heads: heads.confirmed,
                elections,
                write_concern,
                messages: db.collection(schema::MESSAGES),
                claims: db.collection(schema::CLAIMS),
                rows: db.collection(schema::ROWS),
                subscriptions: db.collection(schema::SUBSCRIPTIONS),
                outbox: db.collection(schema::OUTBOX),
                leases: db.collection(schema::LEASES),
                news: NewsHub::default(),
                admission: Semaphore::new(options.in_flight.max(1)),
                is_closing: AtomicBool::new(false),
                gates: Gates::default(),
                posts: Batcher::new(GROUPS),
                placing: Placing::default(),
                background: Background::new(options.tasks.clone()),
                carried: Carried::default(),
                volume: LastVolume::default(),
                unreadable: StateLog::new(),
                clock: SystemClock::default(),
                latest: AtomicI64::new(0),
                subscribed: Mutex::default(),
                options,
                db,
            }),
        })
    }

    /// How far clocks may differ, in milliseconds.
    pub(crate) fn bound(&self) -> Option<i64> {
        self.inner.options.max_clock_skew.map(schema::span)
    }

    /// The time to act at: `now`, or the latest that this process has seen, unless that is further
    /// ahead than clocks may differ.
    pub(crate) fn at(&self, now: Timestamp) -> i64 {
        let now = millis(now);
        match self.bound() {
            None => self.inner.latest.fetch_max(now, Ordering::Relaxed).max(now),
            Some(bound) => {
                let latest = self.inner.latest.load(Ordering::Relaxed);
                if latest.saturating_sub(now) > bound { now } else { latest.max(now) }
            }
        }
    }

    /// Compares this process's clock with the database's.
    pub(crate) fn check_own_clock(&self, database: DateTime) -> Result<(), storage::Error> {
        self.check_clock(Some(database), millis(self.inner.clock.now()))
    }

    /// Compares a caller's clock with the database's.
    pub(crate) fn check_clock(
        &self,
        database: Option<DateTime>,
        now: i64,
    ) -> Result<(), storage::Error> {
        let (Some(bound), Some(database)) = (self.bound(), database) else { return Ok(()) };
        let offset_ms = now.saturating_sub(database.timestamp_millis());
        if offset_ms.saturating_abs() > bound {
            return Err(storage::Error::ClockSkew { offset_ms, bound_ms: bound.unsigned_abs() });
        }
        // From here on it counts; what was taken for the latest by a wrong clock does not.
        let latest = self.inner.latest.load(Ordering::Relaxed);
        if latest.saturating_sub(now) > bound {
            self.inner.latest.store(now, Ordering::Relaxed);
        } else {
            self.inner.latest.fetch_max(now, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The time of a step, for a pipeline that changes a head: never before the head's latest,
    /// unless a wrong clock has set that far ahead of the database's.
    pub(crate) fn step_time(&self, now: i64) -> Document {
        let latest = doc! { "$max": ["$at", now] };
        let Some(bound) = self.bound() else { return latest };
        let last_right = doc! { "$add": [{ "$toLong": "$$NOW" }, bound] };
        doc! { "$cond": [{ "$gt": ["$at", last_right] }, now, latest] }
    }

    /// Lets a filter fit nothing where the clocks differ too much, or once a fence has come.
    pub(crate) fn guard(&self, filter: &mut Document, now: i64, fence: Option<Fence>) {
        let mut conditions: Vec<_> = fence.map(Fence::condition).into_iter().collect();
        conditions.extend(self.bound().map(|bound| schema::clocks_agree(now, bound)));
        if !conditions.is_empty() {
            filter.insert("$expr", doc! { "$and": conditions });
        }
    }

    /// Does one operation within its bounds. It may be given up anywhere: whoever meets its traces
    /// finishes or ignores them.
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

    /// As [`Mongo::send`]; says, too, whether the command was sent before: the one that was
    /// answered is then perhaps the second that acted.
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
                // It may still be at work: once more would only double that.
                Err(_) => return Err(storage::Error::unavailable("no answer in time")),
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

    /// Waits before the `attempt`th try of a step that others have overtaken; not before the first
    /// two.
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

    /// Lets one at a time of this process change who holds which message of a queue.
    pub(crate) async fn gate(&self, queue: &str) -> Pass<'_> {
        self.inner.gates.pass(queue.to_owned()).await
    }

    /// Lets one at a time of this process change who subscribes to a queue: such steps overtake
    /// each other.
    pub(crate) async fn roster_gate(&self, queue: &str) -> Pass<'_> {
        self.inner.gates.pass(format!("roster of {queue}")).await
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
        self.inner.background.idle().await;
    }
}

impl std::fmt::Debug for Mongo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mongo").field("database", &self.inner.db.name()).finish_non_exhaustive()
    }
}
