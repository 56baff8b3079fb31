#![doc = include_str!("../README.md")]

mod attributes;
mod claims;
mod context;
mod deliveries;
mod directory;
mod error;
mod filter;
mod health;
mod home;
pub mod json;
mod last_token;
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
use std::time::{Duration, Instant};

use zaqar_core::limits::DEFAULT_PAGE;
use zaqar_core::pools::{PoolStores, Pools, QueueMoves};
use zaqar_core::storage::{ManagementStore, MessageStore};
use zaqar_core::{Clock, Limits, MemoryBudget, OperationLimit, Secret, SystemClock, TaskMonitor};

use directory::Directory;
use project_limit::ProjectLimit;
use pushes::Pusher;
use stack::Stack;

pub use attributes::Attributes;
pub use context::{
    Authentication, Context, Identity, ProfilerHeaders, RequestId, RequestLimit, TraceParent, Wire,
};
pub use error::{Error, Part, PoolsRule, Rejection};
pub use filter::{MAX_ROWS_FILTERED, MAX_ROWS_HIDDEN};
pub use health::Health;
pub use last_token::LastToken;
pub use layers::{
    Admission, AuthRequest, Authenticator, Layers, ManagedQuotas, Metrics, Policy, ProjectQuotas,
    Quota, Remembered, Subscribers, TokenError, TrustRequest,
};
pub use operation::{
    Access, Amount, Callable, CancelRecovery, Change, ChangeSubscription, CheckHealth,
    CheckPostSize, CheckSubscriber, ConfirmSubscription, CreateClaim, CreateFlavor, CreatePool,
    CreateQueue, CreateSubscription, CreatedSubscription, DECLARATIONS, DEFAULT_GRACE, Declaration,
    DeleteFlavor, DeleteMessage, DeleteMessages, DeletePool, DeleteQueue, DeleteSubscription,
    DrainPool, Facts, GetFlavor, GetPool, GetQueue, GetQueueStats, GetQuotas, ListDeliveries,
    ListFlavors, ListMessages, ListPools, ListQueues, ListQuotas, ListSubscriptions, ListedQueue,
    MAX_GRACE, Method, MoveQueue, Operation, PatchQueue, Ping, PopMessages, PostMessages,
    PostedMessage, Purge, PushMessages, QueueList, ReadClaim, ReadDelivery, ReadDrain, ReadHome,
    ReadMessage, ReadMessages, ReadRecovery, ReadSubscription, RecoverDeliveries, ReleaseClaim,
    RenewClaim, Resource, ResumeSubscription, RetryDelivery, RotateSecret, Rule, SetQuotas, Share,
    Shared, StopDrain, Subscriber, SubscriptionRef, TestSubscription, UnsetQuotas, UpdateFlavor,
    UpdatePool,
};
pub use pipeline::{Answered, Asked, Notifier, Pipelines, Stage};
pub use pushes::{MAX_SUBSCRIPTIONS_PER_CONNECTION, Push, PushHandle, Pushed, Pushes, PushesEnded};
pub use queue_ref::QueueRef;
pub use seal::{Keyring, KeyringError, MIN_SECRET_CHARS};
pub use share::SignedHeaders;
pub use store_health::{Probe, StoreHealth};
pub use sweeper::Sweeper;
pub use trace::{ActiveSpan, Tracer, active_span, outgoing_profile, outgoing_trace};

/// Options of the operations.
#[derive(Clone)]
pub struct Options {
    /// The limits of requests.
    pub limits: Limits,
    /// The source of `now`.
    pub clock: Arc<dyn Clock>,
    /// Whether messages have a checksum of their body (`enable_checksum`).
    pub checksums: bool,
    /// Signs URLs (`[signed_url] secret_key`); without it none can be created, and none is valid.
    pub signing_key: Option<Secret<String>>,
    /// Encrypts message bodies; without it no queue may enable encryption.
    pub keyring: Option<Arc<Keyring>>,
    /// Maximum number of queues whose generation is cached.
    pub cached_queues: u64,
    /// How long a generation is cached. A stale one costs a round trip, never a wrong answer.
    pub cached_for: Duration,
    /// Bodies, responses and pushes are charged to it. Unlimited by default.
    pub memory: MemoryBudget,
    /// How many operations may be in progress over all transports. Unlimited by default.
    pub operations: OperationLimit,
    /// How many expensive operations ([`Operation::is_expensive`]) of one project may be in
    /// progress; others wait, in order. Unlimited by default.
    pub expensive_operations_per_project: usize,
    /// Monitors the long-lived tasks; ping and health fail once one has died.
    pub tasks: TaskMonitor,
    /// Pools and flavors, if they are configured.
    pub pools: Option<Arc<dyn Pools>>,
    /// The stores of the pools, for their health.
    pub pool_stores: Option<Arc<dyn PoolStores>>,
    /// What moves queues between pools.
    pub queue_moves: Option<Arc<dyn QueueMoves>>,
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
            clock: Arc::new(SystemClock),
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
            queue_moves: None,
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
    queue_moves: Option<Arc<dyn QueueMoves>>,
}

impl Api {
    /// The operations on two stores, which may be the same.
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
            queue_moves,
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
            queue_moves,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Whether administrators can set quotas of single projects.
    pub fn has_project_quotas(&self) -> bool {
        self.inner.stack.layers().project_quotas.is_some()
    }

    /// Whether queues are spread over pools, which administrators can ask for then.
    pub fn has_pools(&self) -> bool {
        self.inner.pools.is_some()
    }

    /// The limits of requests.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// The process's memory budget, which bodies, responses and pushes are charged to.
    pub fn memory(&self) -> &MemoryBudget {
        &self.inner.memory
    }

    /// The limit of operations in progress, over all transports.
    pub fn operations(&self) -> &OperationLimit {
        self.inner.stack.operations()
    }

    /// The clock of this service, which must be used to compute ages.
    pub fn clock(&self) -> &dyn Clock {
        self.inner.clock.as_ref()
    }

    /// Prepares a connection for pushes, of which at most `capacity` may wait. Cheap: nothing runs
    /// before the first subscription. Subscribing requires a tokio runtime: from then on tasks
    /// follow the store's news and renew a lease, as long as any connection is subscribed.
    pub fn open_pushes(&self, capacity: usize) -> (PushHandle, Pushes) {
        pushes::open(&self.inner.pusher, capacity)
    }

    /// Ends the subscriptions of all connections of this server; each [`Pushes`] ends.
    pub async fn stop_pushes(&self) {
        self.inner.pusher.shut_down().await;
    }

    /// The authenticator, if one is configured.
    pub fn authenticator(&self) -> Option<&dyn Authenticator> {
        self.inner.stack.layers().authenticator.as_deref()
    }

    /// The caller, if the tokens are known without asking anybody and have not expired: those that
    /// a connection sent last, or one that the authenticator remembers. It waits for nothing. Its
    /// expiry is compared by the service's clock, as that of every operation.
    pub fn recognize(
        &self,
        connection: Option<&LastToken>,
        auth: AuthRequest<'_>,
    ) -> Option<Arc<Identity>> {
        let authenticator = self.authenticator()?;
        let token = auth.user_token.filter(|_| auth.service_token.is_none());
        let of_connection = connection.zip(token);
        let lives = |identity: &Arc<Identity>| self.inner.clock.now() < identity.expires;
        let last = of_connection.and_then(|(last, token)| last.get(token, Instant::now()));
        if let Some(identity) = last {
            return lives(&identity).then_some(identity);
        }
        let Remembered { identity, until } = authenticator.remembered(auth)?;
        if !lives(&identity) {
            return None;
        }
        if let (Some((last, token)), Some(until)) = (of_connection, until) {
            last.put(token, &identity, until);
        }
        Some(identity)
    }

    /// Checks tokens that are not known ([`Api::recognize`]). A transport does this before anything
    /// else, and puts the identity into the request's [`Context`].
    ///
    /// # Errors
    /// [`Error::NotAuthenticated`], also without an authenticator; [`Error::NoProject`];
    /// [`Error::AuthenticationUnavailable`].
    pub async fn authenticate(&self, auth: AuthRequest<'_>) -> Result<Arc<Identity>, Error> {
        let authenticator = self.authenticator().ok_or(Error::NotAuthenticated)?;
        // Boxed: of all requests, few wait.
        let authenticating = Box::pin(authenticator.authenticate(auth));
        match trace::on_behalf(auth.trace_parent, authenticating).await {
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

    /// Checks that both stores are available, and that all long-lived tasks of this server are
    /// running.
    pub(crate) async fn ping(&self) -> Result<(), Error> {
        if let Some(failure) = self.inner.tasks.failures().into_iter().next() {
            return Err(failure.into());
        }
        self.inner.management.ping().await?;
        self.inner.messages.ping().await?;
        Ok(())
    }
}

/// Validates the limit of a page of messages or subscriptions.
fn page_limit(limit: Option<i64>, max: u64) -> Result<usize, Error> {
    checked_limit(limit, DEFAULT_PAGE, max, |max| {
        Error::request(format!("Limit must be at least 1 and may not be greater than {max}."))
    })
}

/// Validates a limit.
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

/// Validates a number of seconds.
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
