//! The store: its client, its limits, and how commands are sent.

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

use crate::applied::AppliedIntents;
use crate::background::Background;
use crate::broadcaster::Broadcaster;
use crate::draft::{Answer, Draft};
use crate::elections::Elections;
use crate::error::{DriverResult, is_transient, storage_error};
use crate::pending_posts::PendingPosts;
use crate::queue_locks::{QueueLock, QueueLocks};
use crate::schema::{self, CommitDeadline, millis};
use crate::stored::Head;
use crate::volume::VolumeCache;
use crate::{Error, Options, connect, original_data};

/// The retry delay reported with [`storage::Error::Overloaded`].
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The limits of a group: posts, bytes, and posts that wait for one queue.
const GROUPS: Limits = Limits { items: 64, bytes: schema::CHUNK_BYTES, waiting: 1024 };
/// How many queues with subscriptions are remembered.
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
    /// Heads with linearizable reads; `None` on a standalone server.
    pub(crate) linearizable_heads: Option<Collection<Head>>,
    pub(crate) elections: Arc<Elections>,
    /// The write concern of commands that are built by hand.
    pub(crate) write_concern: Bson,
    pub(crate) messages: Collection<Document>,
    pub(crate) claims: Collection<Document>,
    pub(crate) rows: Collection<Document>,
    pub(crate) subscriptions: Collection<Document>,
    pub(crate) outbox: Collection<Document>,
    pub(crate) leases: Collection<Document>,
    pub(crate) news: Broadcaster,
    /// A permit for each operation in progress.
    admission: Semaphore,
    is_closing: AtomicBool,
    queue_locks: QueueLocks,
    /// By queue, assumed generation, and whether subscribers are notified.
    pub(crate) posts: Batcher<(String, Generation, bool), Draft, Answer>,
    pub(crate) pending_posts: PendingPosts,
    pub(crate) background: Background,
    pub(crate) applied: AppliedIntents,
    pub(crate) volume: VolumeCache,
    /// Limits the log lines about unreadable documents.
    pub(crate) unreadable: StateLog,
    pub(crate) unfinished: StateLog,
    pub(crate) time_resets: StateLog,
    /// This process's clock, for operations without a `now`.
    clock: SystemClock,
    /// The latest time of a caller while the clocks agreed.
    latest: AtomicI64,
    /// Queues that had a subscription at their last post: a hint that saves a round trip.
    subscribed: Mutex<HashSet<String>>,
}

impl Mongo {
    /// Connects, and creates missing indexes.
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
        let heads = connect::prepare_with_retries(&db, options.start_timeout).await?;
        original_data::warn_about_original_data(&client, &options.database).await;
        Ok(Self {
            inner: Arc::new(Inner {
                heads: heads.majority,
                linearizable_heads: heads.linearizable,
                elections,
                write_concern,
                messages: db.collection(schema::MESSAGES),
                claims: db.collection(schema::CLAIMS),
                rows: db.collection(schema::ROWS),
                subscriptions: db.collection(schema::SUBSCRIPTIONS),
                outbox: db.collection(schema::OUTBOX),
                leases: db.collection(schema::LEASES),
                news: Broadcaster::default(),
                admission: Semaphore::new(options.in_flight.max(1)),
                is_closing: AtomicBool::new(false),
                queue_locks: QueueLocks::default(),
                posts: Batcher::new(GROUPS),
                pending_posts: PendingPosts::default(),
                background: Background::new(options.tasks.clone()),
                applied: AppliedIntents::default(),
                volume: VolumeCache::default(),
                unreadable: StateLog::new(),
                unfinished: StateLog::new(),
                time_resets: StateLog::new(),
                clock: SystemClock,
                latest: AtomicI64::new(0),
                subscribed: Mutex::default(),
                options,
                db,
            }),
        })
    }

    /// The maximum clock skew in milliseconds.
    pub(crate) fn max_skew(&self) -> Option<i64> {
        self.inner.options.max_clock_skew.map(schema::duration_millis)
    }

    /// The effective time: `now`, or the latest time that this process has seen, unless that is
    /// ahead by more than the maximum clock skew.
    pub(crate) fn effective_time(&self, now: Timestamp) -> i64 {
        let now = millis(now);
        match self.max_skew() {
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
        let (Some(bound), Some(database)) = (self.max_skew(), database) else { return Ok(()) };
        let offset_ms = now.saturating_sub(database.timestamp_millis());
        if offset_ms.saturating_abs() > bound {
            return Err(storage::Error::ClockSkew { offset_ms, bound_ms: bound.unsigned_abs() });
        }
        // `now` is valid; a latest time that came from a wrong clock is replaced.
        let latest = self.inner.latest.load(Ordering::Relaxed);
        if latest.saturating_sub(now) > bound {
            self.inner.latest.store(now, Ordering::Relaxed);
        } else {
            self.inner.latest.fetch_max(now, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The time of an intent, as an expression for a pipeline that changes a head: at least the
    /// head's latest time, unless a wrong clock has set that far ahead of the database's clock.
    pub(crate) fn commit_time(&self, now: i64) -> Document {
        let latest = doc! { "$max": ["$at", now] };
        let Some(bound) = self.max_skew() else { return latest };
        let last_right = doc! { "$add": [{ "$toLong": "$$NOW" }, bound] };
        doc! { "$cond": [{ "$gt": ["$at", last_right] }, now, latest] }
    }

    /// Extends a filter so that it matches nothing if the clocks differ too much or the deadline
    /// has passed.
    pub(crate) fn guard(&self, filter: &mut Document, now: i64, deadline: Option<CommitDeadline>) {
        let mut conditions: Vec<_> = deadline.map(CommitDeadline::condition).into_iter().collect();
        conditions.extend(self.max_skew().map(|bound| schema::clocks_agree(now, bound)));
        if !conditions.is_empty() {
            filter.insert("$expr", doc! { "$and": conditions });
        }
    }

    /// Runs one operation with a permit and a timeout. It may be cancelled at any point: other
    /// operations finish or ignore what it leaves.
    pub(crate) async fn run<T>(
        &self,
        work: impl Future<Output = Result<T, storage::Error>>,
    ) -> Result<T, storage::Error> {
        let _permit = self.admit()?;
        let Ok(outcome) = timeout(self.inner.options.deadline, work).await else {
            return Err(storage::Error::unavailable("the operation timed out"));
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

    /// Sends a command, with retries if the connection breaks or the primary changes.
    pub(crate) async fn send<T, A>(&self, command: impl Fn() -> A) -> Result<T, storage::Error>
    where
        A: IntoFuture<Output = DriverResult<T>>,
    {
        Ok(self.send_reporting_retry(command).await?.0)
    }

    /// As [`Mongo::send`]. Also returns whether the command was retried: then an earlier attempt
    /// may have acted before the one that was answered.
    pub(crate) async fn send_reporting_retry<T, A>(
        &self,
        command: impl Fn() -> A,
    ) -> Result<(T, bool), storage::Error>
    where
        A: IntoFuture<Output = DriverResult<T>>,
    {
        let options = &self.inner.options;
        let mut pause = options.reconnect_sleep;
        for attempt in 0..=options.max_reconnect_attempts {
            let error = match timeout(options.command_timeout, command().into_future()).await {
                Ok(Ok(answer)) => return Ok((answer, attempt > 0)),
                Ok(Err(error)) if !is_transient(&error) => return Err(storage_error(error)),
                Ok(Err(error)) => storage::Error::unavailable(error),
                // The server may still be executing it; a retry would only add load.
                Err(_) => return Err(storage::Error::unavailable("the command timed out")),
            };
            if attempt == options.max_reconnect_attempts {
                return Err(error);
            }
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                attempt,
                "a command is retried"
            );
            sleep(pause).await;
            pause = pause.saturating_mul(2);
        }
        Err(storage::Error::unavailable("no attempt was made"))
    }

    /// Waits before attempt number `attempt` (from 0) of an operation that met conflicts; not
    /// before the first two.
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

    /// The error of an operation that met too many conflicts.
    pub(crate) const fn contended() -> storage::Error {
        storage::Error::Overloaded { retry_after: RETRY_AFTER }
    }

    /// Serializes the operations of this process that change which claim holds a message of a
    /// queue.
    pub(crate) async fn lock_claims(&self, queue: &str) -> QueueLock<'_> {
        self.inner.queue_locks.lock(queue.to_owned()).await
    }

    /// Serializes the operations of this process that change the subscriptions of a queue, as they
    /// would conflict.
    pub(crate) async fn lock_subscriptions(&self, queue: &str) -> QueueLock<'_> {
        self.inner.queue_locks.lock(format!("subscriptions of {queue}")).await
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

    /// Rejects new operations and waits for those in progress.
    pub(crate) async fn drain(&self) {
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
