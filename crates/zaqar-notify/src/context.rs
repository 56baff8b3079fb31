//! State that the tasks of the workers share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;
use zaqar_core::storage::{ManagementStore, MessageStore};
use zaqar_core::{Clock, Payload, ProjectId, Secret, StateLog};

use crate::audiences::Audiences;
use crate::channel::Channel;
use crate::deliveries::Deliveries;
use crate::destination::Bounds;
use crate::events::{EventSink, Events};
use crate::fairness::{Fairness, Limits};
use crate::in_service::InService;
use crate::log::Log;
use crate::rates::Rates;
use crate::retry::Tail;
use crate::subjects::Subjects;
use crate::unfinished::Unfinished;

/// Options of the workers.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bounds per destination, per project and in all.
    pub limits: Limits,
    /// Whether a subscriber must confirm before it gets messages.
    pub require_confirmation: bool,
    /// Signs confirmation URLs; without it no subscriber is asked to confirm.
    pub signing_key: Option<Secret<String>>,
    /// Retries after those of the policy, if any.
    pub tail: Option<Tail>,
    /// Subscriptions that are served concurrently, at most.
    pub subscriptions: usize,
    /// How often the outbox is polled without news.
    pub poll_outbox: Duration,
    /// How often the schedule is polled without news.
    pub poll_schedule: Duration,
    /// Deliveries of each subscription that the log keeps, about; 0 disables the log.
    pub log: usize,
    /// How long the log keeps them, in seconds.
    pub log_time: u64,
    /// How long attempts in progress may continue after shutdown has begun.
    pub drain: Duration,
}

impl Default for Options {
    /// Subscribers need not confirm, no tail, 1024 subscriptions at once; the outbox is polled
    /// every second, the schedule every 5 s; the log keeps 200 deliveries for a week; 10 s to
    /// drain.
    fn default() -> Self {
        // Probes of a failing destination come at least as often as the default policy's retries.
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

/// Encrypts and decrypts stored data.
pub trait Cipher: Send + Sync {
    /// Decrypts a body; `None` if its key is not configured or it was changed.
    fn open(&self, project: &ProjectId, payload: Payload) -> Option<Bytes>;

    /// Encrypts a subscription's secret if a key is configured; else returns it unchanged. `None`
    /// if that fails.
    fn seal(&self, project: &ProjectId, payload: Payload) -> Option<Payload>;
}

/// Accepts only plain bodies, and encrypts nothing.
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

/// The public URLs of the service, for confirmations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublicUrls {
    /// Over HTTP.
    pub http: Option<String>,
    /// Over WebSocket.
    pub websocket: Option<String>,
}

/// Looks up the public URLs of the service.
#[async_trait]
pub trait Directory: Send + Sync {
    /// The URLs, as far as they are known.
    ///
    /// # Behavior
    /// - Returns in bounded time: a request to subscribe waits for it.
    async fn public_urls(&self) -> PublicUrls;
}

/// What the workers depend on.
#[derive(Clone)]
pub struct Parts {
    /// Stores the metadata of queues.
    pub management: Arc<dyn ManagementStore>,
    /// Stores the outbox, subscriptions and deliveries.
    pub messages: Arc<dyn MessageStore>,
    /// The source of `now`.
    pub clock: Arc<dyn Clock>,
    /// Channels by the scheme of a subscriber, in lower case.
    pub channels: BTreeMap<String, Arc<dyn Channel>>,
    /// Decrypts bodies, and encrypts secrets.
    pub bodies: Arc<dyn Cipher>,
    /// Posts events about subscribers to queues of tenants; `None` disables events.
    pub events: Option<Arc<dyn EventSink>>,
    /// Looks up the URLs for confirmations; without it these are missing there.
    pub directory: Option<Arc<dyn Directory>>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("channels", &self.channels.keys()).finish_non_exhaustive()
    }
}

/// Counters since the start of this server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Deliveries that succeeded.
    pub delivered: u64,
    /// Failed attempts that are retried.
    pub retried: u64,
    /// Deliveries that ended without success: retries were used up, the receiver rejected the
    /// message, or it could not be sent at all.
    pub failed: u64,
    /// Deliveries whose message expired.
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
    /// Log entries that are not written yet.
    pub(crate) log: Log,
    /// What was told of subscribers.
    pub(crate) events: Events,
    /// Rate limits of subscriptions.
    pub(crate) rates: Rates,
    pub(crate) unfinished: Unfinished,
    /// How many subscriptions queues have.
    pub(crate) audiences: Audiences,
    /// Subscriptions that were read recently.
    pub(crate) subjects: Subjects,
    /// Subscriptions that this server serves.
    pub(crate) in_service: InService,
    /// Notified when a delivery ends, so that another may start.
    pub(crate) freed: Notify,
    /// Limits how often failures of the store are logged.
    pub(crate) store_log: StateLog,
    /// Limits how often messages are logged that are not delivered: the log of deliveries has all.
    pub(crate) undelivered_log: StateLog,
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
            unfinished: Unfinished::default(),
            audiences: Audiences::default(),
            subjects: Subjects::default(),
            in_service: InService::default(),
            freed,
            store_log,
            undelivered_log: StateLog::new(),
        }
    }

    /// The channel for a subscriber.
    pub(crate) fn channel(&self, subscriber: &str) -> Option<&Arc<dyn Channel>> {
        let (scheme, _) = subscriber.split_once(':')?;
        self.parts.channels.get(&scheme.to_ascii_lowercase())
    }

    /// Logs failures of the store, rarely if there are many.
    pub(crate) fn log_failure(&self, step: &'static str, error: &zaqar_core::storage::Error) {
        if let Some(failures) = self.store_log.failure() {
            let error = error as &dyn std::error::Error;
            tracing::warn!(error, failures, step, "deliveries wait: the store fails");
        }
    }

    /// Notes that the store works.
    pub(crate) fn log_success(&self) {
        if let Some(failures) = self.store_log.success() {
            tracing::info!(failures, "deliveries continue: the store works again");
        }
    }
}
