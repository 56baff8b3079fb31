#![doc = include_str!("../README.md")]

mod claims;
mod context;
mod deliveries;
mod directory;
mod error;
mod filter;
mod health;
mod home;
pub mod json;
mod layers;
mod messages;
mod operation;
mod pipeline;
mod pool_health;
pub mod pools;
mod project_limit;
mod pushes;
mod queue_ref;
mod queues;
mod report;
mod seal;
mod share;
mod stack;
mod store_health;
mod subscriptions;
mod sweeper;
mod trace;
mod trusts;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use zaqar_core::limits::DEFAULT_PAGE;
use zaqar_core::pools::{PoolStores, Pools};
use zaqar_core::storage::{ManagementStore, MessageStore};
use zaqar_core::{Clock, Limits, MemoryBudget, OperationLimit, Secret, SystemClock, TaskMonitor};

use directory::Directory;
use project_limit::ProjectLimit;
use pushes::Pusher;
use stack::Stack;

pub use context::{
    Authentication, Context, Identity, ProfilerHeaders, RequestId, RequestLimit, TraceParent, Wire,
};
pub use error::{Error, Part, PoolsRule, Rejection};
pub use filter::{MAX_ROWS_FILTERED, MAX_ROWS_HIDDEN};
pub use health::Health;
pub use layers::{
    Authenticator, Layers, Metrics, Policy, Presented, Quota, Subscribers, TokenError, TrustRequest,
};
pub use operation::{
    Access, Amount, Callable, CancelRecovery, Change, ChangeSubscription, CheckHealth,
    CheckPostSize, CheckSubscriber, ConfirmSubscription, CreateClaim, CreateFlavor, CreatePool,
    CreateQueue, CreateSubscription, CreatedSubscription, DECLARATIONS, DEFAULT_GRACE, Declaration,
    DeleteFlavor, DeleteMessage, DeleteMessages, DeletePool, DeleteQueue, DeleteSubscription,
    Facts, GetFlavor, GetPool, GetQueue, GetQueueStats, ListDeliveries, ListFlavors, ListMessages,
    ListPools, ListQueues, ListSubscriptions, ListedQueue, MAX_GRACE, Method, Operation,
    PatchQueue, Ping, PopMessages, PostMessages, PostedMessage, Purge, PushMessages, QueueList,
    ReadClaim, ReadDelivery, ReadHome, ReadMessage, ReadMessages, ReadRecovery, ReadSubscription,
    RecoverDeliveries, ReleaseClaim, RenewClaim, Resource, ResumeSubscription, RetryDelivery,
    RotateSecret, Rule, Share, Shared, Subscriber, SubscriptionRef, TestSubscription, UpdateFlavor,
    UpdatePool,
};
pub use pipeline::{Answered, Asked, Notifier, Pipelines, Stage};
pub use pushes::{Listener, MAX_SUBSCRIPTIONS_PER_CONNECTION, Push, Pushed, Pushes, PushesEnded};
pub use queue_ref::QueueRef;
pub use seal::{Keyring, KeyringError, MIN_SECRET_CHARS};
pub use share::SignedHeaders;
pub use store_health::{Probe, StoreHealth};
pub use sweeper::Sweeper;
pub use trace::{ActiveSpan, Tracer, active_span, outgoing_trace};

/// How the operations behave.
#[derive(Clone)]
pub struct Options {
    /// What a request may ask for.
    pub limits: Limits,
    /// Where `now` comes from.
    pub clock: Arc<dyn Clock>,
    /// Messages carry the checksum of their body (`enable_checksum`).
    pub checksums: bool,
    /// Signs URLs (`[signed_url] secret_key`); without it none can be made and none opens
    /// anything.
    pub signing_key: Option<Secret<String>>,
    /// Seals the bodies of queues that ask for it; without it no queue may ask.
    pub keyring: Option<Arc<Keyring>>,
    /// Queues whose generation is remembered, at most.
    pub cached_queues: u64,
    /// How long a generation is remembered. A stale one costs a round trip, never a wrong answer.
    pub cached_for: Duration,
    /// What is kept for clients (bodies, responses, pushes) is charged to it. Without bounds by
    /// default.
    pub memory: MemoryBudget,
    /// How many operations may be in progress over all wires. Without a limit by default.
    pub operations: OperationLimit,
    /// How many expensive operations ([`Operation::is_expensive`]) of one project may be in
    /// progress; more wait for their turn, in order. Without a limit by default.
    pub expensive_operations_per_project: usize,
    /// Learns of the death of every long-lived task; ping and health then fail.
    pub tasks: TaskMonitor,
    /// Pools and flavors; without them queues are not spread, and there is nothing to administer.
    pub pools: Option<Arc<dyn Pools>>,
    /// The stores of the pools, for their health.
    pub pool_stores: Option<Arc<dyn PoolStores>>,
    /// What every operation passes.
    pub layers: Layers,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("limits", &self.limits)
            .field("checksums", &self.checksums)
            .finish_non_exhaustive()
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            clock: Arc::new(SystemClock::default()),
            checksums: false,
            signing_key: None,
            keyring: None,
            cached_queues: 10_000,
            cached_for: Duration::from_secs(5),
            memory: MemoryBudget::default(),
            operations: OperationLimit::default(),
            expensive_operations_per_project: usize::MAX,
            tasks: TaskMonitor::default(),
            pools: None,
            pool_stores: None,
            layers: Layers::default(),
        }
    }
}

/// The operations on one pair of stores. Clones are cheap and share everything.
#[derive(Clone)]
pub struct Api {
    inner: Arc<Inner>,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

struct Inner {
    stack: Arc<Stack>,
    directory: Directory,
    pusher: Arc<Pusher>,
    management: Arc<dyn ManagementStore>,
    messages: Arc<dyn MessageStore>,
    limits: Limits,
    clock: Arc<dyn Clock>,
    checksums: bool,
    signing_key: Option<Secret<String>>,
    keyring: Option<Arc<Keyring>>,
    memory: MemoryBudget,
    tasks: TaskMonitor,
    pools: Option<Arc<dyn Pools>>,
    pool_stores: Option<Arc<dyn PoolStores>>,
}

impl Api {
    /// Puts the operations in front of two stores, which may be one and the same.
    pub fn new(
        management: Arc<dyn ManagementStore>,
        messages: Arc<dyn MessageStore>,
        options: Options,
    ) -> Self {
        let directory = Directory::new(
            Arc::clone(&management),
            Arc::clone(&messages),
            options.cached_queues,
            options.cached_for,
        );
        let Options {
            limits,
            clock,
            checksums,
            signing_key,
            keyring,
            memory,
            tasks,
            pools,
            pool_stores,
            ..
        } = options;
        let stack = Arc::new(Stack::new(
            options.layers,
            options.operations,
            ProjectLimit::new(options.expensive_operations_per_project),
            Arc::clone(&clock),
        ));
        let pusher = Pusher::new(
            Arc::clone(&messages),
            Arc::clone(&clock),
            keyring.clone(),
            Arc::clone(&stack),
            memory.clone(),
            tasks.clone(),
        );
        let inner = Inner {
            stack,
            directory,
            pusher: Arc::new(pusher),
            management,
            messages,
            limits,
            clock,
            checksums,
            signing_key,
            keyring,
            memory,
            tasks,
            pools,
            pool_stores,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Whether queues are spread over pools, which administrators can ask for then.
    pub fn has_pools(&self) -> bool {
        self.inner.pools.is_some()
    }

    /// The limits that requests are held to.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// The process's memory budget, which everything kept for clients is charged to.
    pub fn memory(&self) -> &MemoryBudget {
        &self.inner.memory
    }

    /// The limit of operations in progress, over all wires.
    pub fn operations(&self) -> &OperationLimit {
        self.inner.stack.operations()
    }

    /// Where this service takes its time from: what shows ages must ask the same clock.
    pub fn clock(&self) -> &dyn Clock {
        self.inner.clock.as_ref()
    }

    /// Opens a connection that messages can be pushed to; at most `capacity` pushes wait in it.
    /// Cheap: nothing runs before the first subscription. Subscribe on a tokio runtime: from then
    /// on tasks follow the store's news and renew a lease, as long as anybody is subscribed.
    pub fn listen(&self, capacity: usize) -> (Listener, Pushes) {
        pushes::listen(&self.inner.pusher, capacity)
    }

    /// Ends the subscriptions of all connections of this server; each [`Pushes`] ends.
    pub async fn stop_pushes(&self) {
        self.inner.pusher.shut_down().await;
    }

    /// What checks tokens, where anything does.
    pub fn authenticator(&self) -> Option<&dyn Authenticator> {
        self.inner.stack.layers().authenticator.as_deref()
    }

    /// Checks tokens. A transport asks before anything else, and puts the identity into the
    /// request's [`Context`].
    ///
    /// # Errors
    /// [`Error::NotAuthenticated`], also without an authenticator; [`Error::NoProject`];
    /// [`Error::AuthenticationUnavailable`].
    pub async fn authenticate(&self, presented: Presented<'_>) -> Result<Arc<Identity>, Error> {
        let authenticator = self.authenticator().ok_or(Error::NotAuthenticated)?;
        let asking = authenticator.authenticate(presented);
        match trace::on_behalf(presented.trace_parent, asking).await {
            Ok(identity) if self.inner.clock.now() < identity.expires => Ok(identity),
            Ok(_) | Err(TokenError::Invalid) => Err(Error::NotAuthenticated),
            Err(TokenError::NoProject) => Err(Error::NoProject),
            Err(TokenError::Unavailable { source }) => {
                let error = Error::AuthenticationUnavailable { source };
                error.log();
                Err(error)
            }
        }
    }

    /// Asks both stores whether they can serve, and whether all long-lived tasks of this server
    /// live.
    pub(crate) async fn ping(&self) -> Result<(), Error> {
        if let Some(failure) = self.inner.tasks.failures().into_iter().next() {
            return Err(failure.into());
        }
        self.inner.management.ping().await?;
        self.inner.messages.ping().await?;
        Ok(())
    }
}

/// Checks how many messages or subscriptions a request wants.
fn page_limit(limit: Option<i64>, max: u64) -> Result<usize, Error> {
    checked_limit(limit, DEFAULT_PAGE, max, |max| {
        Error::request(format!("Limit must be at least 1 and may not be greater than {max}."))
    })
}

/// Checks how many of something a request wants.
fn checked_limit(
    limit: Option<i64>,
    default: u64,
    max: u64,
    error: impl FnOnce(u64) -> Error,
) -> Result<usize, Error> {
    let wanted = match limit {
        None => default.min(max),
        Some(limit) => match u64::try_from(limit) {
            Ok(limit) if (1..=max).contains(&limit) => limit,
            _ => return Err(error(max)),
        },
    };
    Ok(usize::try_from(wanted).unwrap_or(usize::MAX))
}

/// Checks a number of seconds.
fn checked_seconds(
    seconds: i64,
    min: u64,
    max: u64,
    error: impl FnOnce(u64, u64) -> Error,
) -> Result<u64, Error> {
    match u64::try_from(seconds) {
        Ok(seconds) if (min..=max).contains(&seconds) => Ok(seconds),
        _ => Err(error(max, min)),
    }
}

#[cfg(test)]
mod tests;
