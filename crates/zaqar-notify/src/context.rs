//! What the tasks of the workers share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;
use zaqar_core::storage::{ManagementStore, MessageStore};
use zaqar_core::{Clock, Payload, ProjectId, Secret, StateLog};

use crate::channel::Channel;
use crate::deliveries::Deliveries;
use crate::destination::Bounds;
use crate::events::{EventSink, Events};
use crate::fairness::{Fairness, Limits};
use crate::log::Log;
use crate::rates::Rates;
use crate::retry::Tail;

/// How the workers behave.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bounds per destination, per project and in all.
    pub limits: Limits,
    /// A subscriber that has not confirmed gets no message, and is asked to confirm.
    pub require_confirmation: bool,
    /// Signs what confirms a subscription; without it no subscriber is asked.
    pub signing_key: Option<Secret<String>>,
    /// What follows a retry policy, if anything does.
    pub tail: Option<Tail>,
    /// Subscriptions that are served at once, at most.
    pub subscriptions: usize,
    /// How long the outbox is left alone without news.
    pub poll_outbox: Duration,
    /// How long the schedule is left alone without news.
    pub poll_schedule: Duration,
    /// Deliveries of each subscription that the log keeps, about; none where it is 0.
    pub log: usize,
    /// Seconds that the log keeps them.
    pub log_time: u64,
    /// How long attempts in progress may go on after the shutdown has begun.
    pub drain: Duration,
}

impl Default for Options {
    /// Unconfirmed subscribers are served, nothing follows the policy, 1024 subscriptions at once;
    /// the outbox every second, the schedule every 5 s; 200 deliveries for a week in the log; 10 s
    /// to drain.
    fn default() -> Self {
        // Probes of a dead destination are no further apart than the default policy's retries.
        let longest_pause = Duration::from_secs(25);
        let destination = Bounds { longest_pause, ..Bounds::default() };
        Self {
            limits: Limits { destination, ..Limits::default() },
            require_confirmation: false,
            signing_key: None,
            tail: None,
            subscriptions: 1024,
            poll_outbox: Duration::from_secs(1),
            poll_schedule: Duration::from_secs(5),
            log: 200,
            log_time: 604_800,
            drain: Duration::from_secs(10),
        }
    }
}

/// Encrypts and decrypts what is stored.
pub trait Cipher: Send + Sync {
    /// The plain body; `None` where its key is not configured or it was changed.
    fn open(&self, project: &ProjectId, payload: Payload) -> Option<Bytes>;

    /// Encrypts a secret of a subscription where there is a key; else it stays as it is. `None`
    /// where that fails.
    fn seal(&self, project: &ProjectId, payload: Payload) -> Option<Payload>;
}

/// Opens plain bodies and no others, and encrypts nothing.
#[derive(Debug, Clone, Copy)]
pub struct PlainBodies;

impl Cipher for PlainBodies {
    fn open(&self, _: &ProjectId, payload: Payload) -> Option<Bytes> {
        payload.sealed_with.is_none().then_some(payload.bytes)
    }

    fn seal(&self, _: &ProjectId, payload: Payload) -> Option<Payload> {
        Some(payload)
    }
}

/// Where clients reach the service, as a confirmation says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublicUrls {
    /// Over HTTP.
    pub http: Option<String>,
    /// Over WebSocket.
    pub websocket: Option<String>,
}

/// Knows where clients reach the service.
#[async_trait]
pub trait Directory: Send + Sync {
    /// The URLs, as far as they are known.
    ///
    /// # Behavior
    /// - Answers in bounded time: the request to subscribe waits for it.
    async fn public_urls(&self) -> PublicUrls;
}

/// What the workers work on.
#[derive(Clone)]
pub struct Parts {
    /// Keeps the metadata of queues.
    pub management: Arc<dyn ManagementStore>,
    /// Keeps the outbox, subscriptions and deliveries.
    pub messages: Arc<dyn MessageStore>,
    /// Where `now` comes from.
    pub clock: Arc<dyn Clock>,
    /// Channels by the scheme of a subscriber, in lower case.
    pub channels: BTreeMap<String, Arc<dyn Channel>>,
    /// Decrypts bodies, and encrypts secrets.
    pub bodies: Arc<dyn Cipher>,
    /// Posts events about subscribers to queues of tenants; without one there are none.
    pub events: Option<Arc<dyn EventSink>>,
    /// Says in confirmations where the service is; without one they lack that.
    pub directory: Option<Arc<dyn Directory>>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("channels", &self.channels.keys()).finish_non_exhaustive()
    }
}

/// What ended, since the start of this server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Deliveries that the subscriber has.
    pub delivered: u64,
    /// Attempts that failed and are followed by another.
    pub retried: u64,
    /// Deliveries that ended without success: the policy ended, the receiver rejected the message,
    /// or there is no way to send it.
    pub failed: u64,
    /// Deliveries whose message expired before.
    pub expired: u64,
    /// Subscriptions that were suspended.
    pub suspended: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) delivered: AtomicU64,
    pub(crate) retried: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) suspended: AtomicU64,
}

impl Counters {
    pub(crate) fn get(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            delivered: get(&self.delivered),
            retried: get(&self.retried),
            failed: get(&self.failed),
            expired: get(&self.expired),
            suspended: get(&self.suspended),
        }
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Shared by all tasks of one server's workers.
pub(crate) struct Context {
    pub(crate) parts: Parts,
    pub(crate) options: Options,
    pub(crate) deliveries: Deliveries,
    pub(crate) fairness: Fairness,
    pub(crate) counters: Counters,
    /// What became of deliveries, before it is written.
    pub(crate) log: Log,
    /// What happened to subscribers, before it is posted.
    pub(crate) events: Events,
    /// How often subscriptions are delivered to.
    pub(crate) rates: Rates,
    /// A delivery ended: another may start.
    pub(crate) freed: Notify,
    /// Of steps on the store.
    pub(crate) store_log: StateLog,
}

impl Context {
    pub(crate) fn new(parts: Parts, options: Options) -> Self {
        let deliveries = Deliveries::new(Arc::clone(&parts.messages));
        let fairness = Fairness::new(options.limits);
        let (counters, freed, store_log) = (Counters::default(), Notify::new(), StateLog::new());
        let (log, rates, events) = (Log::default(), Rates::default(), Events::default());
        Self {
            parts,
            options,
            deliveries,
            fairness,
            counters,
            log,
            events,
            rates,
            freed,
            store_log,
        }
    }

    /// The channel for a subscriber.
    pub(crate) fn channel(&self, subscriber: &str) -> Option<&Arc<dyn Channel>> {
        let (scheme, _) = subscriber.split_once(':')?;
        self.parts.channels.get(&scheme.to_ascii_lowercase())
    }

    /// Logs a failure of the store, the first of many.
    pub(crate) fn log_failure(&self, step: &'static str, error: &zaqar_core::storage::Error) {
        if let Some(failures) = self.store_log.failure() {
            let error = error as &dyn std::error::Error;
            tracing::warn!(error, failures, step, "deliveries wait for the store");
        }
    }

    /// Notes that the store serves.
    pub(crate) fn log_success(&self) {
        if let Some(failures) = self.store_log.success() {
            tracing::info!(failures, "deliveries go on");
        }
    }
}
