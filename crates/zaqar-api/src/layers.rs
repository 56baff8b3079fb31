//! The layers in front of every operation: small traits, absent unless configured.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::{Map, Value};
use zaqar_core::delivery::{
    BeginRecovery, Delivery, DeliveryQuery, Recovery, RecoveryId, RecoveryRange, Redelivery,
    SubscriberHealth,
};
use zaqar_core::{
    Kind, MessageId, Payload, ProjectId, QueueKey, Secret, SubscriptionId, Timestamp,
};

use crate::pipeline::Pipelines;
use crate::{Context, Declaration, Error, Facts, Identity, TraceParent, Tracer};

/// The layers in front of the operations. A layer that is `None` costs nothing.
#[derive(Clone, Default)]
pub struct Layers {
    /// Counts and times operations.
    pub metrics: Option<Arc<dyn Metrics>>,
    /// Records operations as spans.
    pub tracer: Option<Arc<dyn Tracer>>,
    /// Authenticates callers by their tokens. Without one, their claims are trusted.
    pub authenticator: Option<Arc<dyn Authenticator>>,
    /// Limits what a project may do.
    pub quota: Option<Arc<dyn Quota>>,
    /// Keeps the quotas that administrators set for single projects.
    pub project_quotas: Option<Arc<dyn ProjectQuotas>>,
    /// Decides who may do what. Without one only [`Declaration::admin`] is checked.
    pub policy: Option<Arc<dyn Policy>>,
    /// Validates subscribers with an address and delivers to them. Without one, their subscriptions
    /// are only stored.
    pub subscribers: Option<Arc<dyn Subscribers>>,
    /// The stages that operations pass.
    pub pipelines: Pipelines,
}

impl fmt::Debug for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layers").field("pipelines", &self.pipelines).finish_non_exhaustive()
    }
}

/// Counts and times operations.
pub trait Metrics: Send + Sync {
    /// Records that an operation of this caller finished, or failed with `error`, after `elapsed`.
    /// It is called for every operation and must not block.
    fn record(
        &self,
        context: &Context,
        declaration: &'static Declaration,
        kind: Kind,
        error: Option<&Error>,
        elapsed: Duration,
    );
}

/// The credentials of a request or a connection. `Debug` does not show the tokens.
#[derive(Clone, Copy, Default)]
pub struct AuthRequest<'a> {
    /// The user's token: `X-Auth-Token`, else `X-Storage-Token`.
    pub user_token: Option<&'a str>,
    /// The token of the service that acts for the user: `X-Service-Token`.
    pub service_token: Option<&'a str>,
    /// The method and the path of the request that the tokens are for; `None` for those of a
    /// connection, whose requests are each checked against [`Identity::requests`].
    pub request: Option<(&'a str, &'a str)>,
    /// The caller's span.
    pub trace_parent: Option<TraceParent>,
}

impl fmt::Debug for AuthRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthRequest").field("request", &self.request).finish_non_exhaustive()
    }
}

/// Checks tokens.
#[async_trait]
pub trait Authenticator: Send + Sync {
    /// The identity that the tokens prove.
    ///
    /// # Behavior
    /// - It is called for every request whose token is not remembered, and for every connection;
    ///   the implementation caches known tokens.
    /// - Answers in bounded time: requests wait for it.
    ///
    /// # Errors
    /// [`TokenError`].
    async fn authenticate(&self, auth: AuthRequest<'_>) -> Result<Arc<Identity>, TokenError>;

    /// The identity, if it is known without asking anybody and without waiting; else `None`, and
    /// [`Authenticator::authenticate`] decides. It is asked first, for each request.
    ///
    /// # Behavior
    /// - What it returns, [`Authenticator::authenticate`] would return, but for an identity that
    ///   has expired: the caller compares the time.
    fn remembered(&self, auth: AuthRequest<'_>) -> Option<Remembered>;

    /// Where to get a token: the value of `WWW-Authenticate` in a 401.
    fn challenge(&self) -> String;
}

/// An identity that an authenticator knew without asking anybody.
#[derive(Debug, Clone)]
pub struct Remembered {
    /// The identity. It may have expired.
    pub identity: Arc<Identity>,
    /// Until when any request with this token, and without one of a service, has this identity;
    /// `None` if that depends on the request.
    pub until: Option<Instant>,
}

/// Why a token was rejected.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The token is unknown, expired or revoked: 401.
    #[error("the token is not valid")]
    Invalid,
    /// The token is valid, but for no project: 400.
    #[error("the token is for no project")]
    NoProject,
    /// The token cannot be checked at the moment: 503.
    #[error("tokens cannot be checked at the moment")]
    Unavailable {
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Limits what a project may do.
#[async_trait]
pub trait Quota: Send + Sync {
    /// Whether an operation is within the quota, before it is done; with what it takes of it, where
    /// that is given back when it fails.
    ///
    /// # Errors
    /// [`Error::OverQuota`] where the project has used its quota up, [`Error::OverRate`] where it
    /// may do so later.
    async fn admit(
        &self,
        context: &Context,
        facts: &Facts<'_>,
    ) -> Result<Option<Box<dyn Admission>>, Error>;

    /// Whether a queue that an operation creates beside its own is within its project's quota, with
    /// what it takes of it. A queue that exists is.
    ///
    /// # Errors
    /// [`Error::OverQuota`]; those of the store.
    async fn admit_new_queue(&self, key: &QueueKey) -> Result<Option<Box<dyn Admission>>, Error>;
}

/// What administrators have set for a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagedQuotas {
    /// The project.
    pub project: ProjectId,
    /// Each by the name of its option; 0 is no limit.
    pub quotas: Map<String, Value>,
}

/// Keeps the quotas that administrators set for single projects. In documents each is a member with
/// the name of its option, and 0 is no limit.
#[async_trait]
pub trait ProjectQuotas: Send + Sync {
    /// The projects for which something is set, by their ids and from behind `after`, each with
    /// what was set.
    ///
    /// # Errors
    /// [`Error::Storage`].
    async fn list_quotas(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ManagedQuotas>, Error>;

    /// The quotas that hold for a project: what was set for it, and the configured ones for the
    /// others.
    ///
    /// # Errors
    /// [`Error::Storage`].
    async fn quotas(&self, project: &ProjectId) -> Result<Map<String, Value>, Error>;

    /// Sets the quotas of a document for a project, in the place of all that were set before, and
    /// answers those that hold then. Other servers take them over within seconds.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a member that is no quota or no such number, or for too many projects
    /// with quotas of their own; [`Error::Storage`].
    async fn set_quotas(
        &self,
        project: &ProjectId,
        quotas: &Map<String, Value>,
    ) -> Result<Map<String, Value>, Error>;

    /// Forgets what was set for a project; nothing set is no error.
    ///
    /// # Errors
    /// [`Error::Storage`].
    async fn unset_quotas(&self, project: &ProjectId) -> Result<(), Error>;
}

/// What an operation takes of a quota. Dropped before it is settled, it is given back: the
/// operation did not start, or failed and certainly stored nothing.
pub trait Admission: Send {
    /// The operation was done, or may have been: its store failed, its deadline passed, or its
    /// caller gave up after it had started.
    fn settle(self: Box<Self>);
}

/// Authorizes operations by the names of the original's rules.
pub trait Policy: Send + Sync {
    /// Checks whether a caller may run an operation. Not called if [`Facts::rule`] is `None`.
    ///
    /// # Behavior
    /// - Decides from memory: every operation waits for it.
    ///
    /// # Errors
    /// [`Error::Forbidden`]; [`Error::Overloaded`] if the decision is not possible at the moment.
    fn check(&self, context: &Context, rule: &'static str, facts: &Facts<'_>) -> Result<(), Error>;
}

/// The trust for a subscriber that acts for its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustRequest<'a> {
    /// An existing trust of the caller; `None` asks for a new one.
    pub given: Option<&'a str>,
    /// When a new trust expires.
    pub expires: Timestamp,
}

/// Validates subscribers with an address, delivers to them, and is notified of changes to their
/// subscriptions.
#[async_trait]
pub trait Subscribers: Send + Sync {
    /// Checks whether messages can be sent to a subscriber with these options. For a change of a
    /// subscription, only the changed parts are given.
    ///
    /// # Behavior
    /// - Answers in bounded time: the request waits for it.
    ///
    /// # Errors
    /// The reason, shown to the client with 400.
    async fn check(
        &self,
        subscriber: Option<&str>,
        options: Option<&Map<String, Value>>,
    ) -> Result<(), String>;

    /// Returns the id of a trust to act for the caller: a new one, created with the caller's token,
    /// or the given one.
    ///
    /// # Behavior
    /// - A given trust must be the caller's own, for the caller's project.
    /// - Answers in bounded time: the request waits for it.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there can be no trust, [`Error::AuthenticationUnavailable`] if
    /// Keystone does not answer.
    async fn trust(&self, context: &Context, request: TrustRequest<'_>) -> Result<String, Error>;

    /// Deletes a new trust that is not used after all; failures are not reported.
    async fn end_trust(&self, context: &Context, id: &str);

    /// Makes the signing secret of a subscription that is to be made or changed, as its options
    /// say, unless it has one of that scheme.
    ///
    /// # Behavior
    /// - What verifies a new one is answered, and no other call answers it.
    ///
    /// # Errors
    /// [`Error::Storage`].
    async fn make_secret(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        options: &Map<String, Value>,
    ) -> Result<Option<Secret<String>>, Error>;

    /// Replaces the signing secret of a live subscription; the old one stays valid for `grace`
    /// seconds.
    ///
    /// # Behavior
    /// - `None` if another caller changes it at the same time, or the old one cannot be read.
    ///
    /// # Errors
    /// [`Error::Storage`].
    async fn rotate_secret(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        options: &Map<String, Value>,
        grace: u64,
    ) -> Result<Option<Secret<String>>, Error>;

    /// Whether messages are sent to confirmed subscribers only.
    fn requires_confirmation(&self) -> bool;

    /// The latest deliveries to a subscriber, by id.
    ///
    /// # Errors
    /// [`Error::Storage`].
    async fn deliveries(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        query: &DeliveryQuery,
    ) -> Result<Vec<Delivery>, Error>;

    /// One delivery; `None` if it is unknown.
    ///
    /// # Errors
    /// [`Error::Storage`].
    async fn delivery(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        message: MessageId,
    ) -> Result<Option<Delivery>, Error>;

    /// Delivers a failed message again, or immediately one that waits for a retry.
    ///
    /// # Errors
    /// [`Error::Storage`].
    async fn redeliver(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        message: MessageId,
    ) -> Result<Redelivery, Error>;

    /// Starts to deliver failed messages again.
    ///
    /// # Errors
    /// [`Error::Storage`].
    async fn recover(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        range: RecoveryRange,
    ) -> Result<BeginRecovery, Error>;

    /// The progress of a recovery; `None` for any but the subscription's last.
    ///
    /// # Errors
    /// [`Error::Storage`].
    async fn recovery(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        recovery: RecoveryId,
    ) -> Result<Option<Recovery>, Error>;

    /// Cancels a recovery; `false` for any but the subscription's last.
    ///
    /// # Errors
    /// [`Error::Storage`].
    async fn cancel_recovery(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        recovery: RecoveryId,
    ) -> Result<bool, Error>;

    /// Sends a message that was not posted through the normal delivery path, and returns its id.
    ///
    /// # Errors
    /// [`Error::Storage`].
    async fn test(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        body: Payload,
    ) -> Result<MessageId, Error>;

    /// The health of a subscriber; `None` if the subscription does not exist.
    ///
    /// # Errors
    /// [`Error::Storage`].
    async fn health(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
    ) -> Result<Option<SubscriberHealth>, Error>;

    /// Resumes delivery to a suspended subscriber, and retries a failing one immediately.
    ///
    /// # Errors
    /// [`Error::Storage`].
    async fn resume(&self, queue: &QueueKey, id: SubscriptionId) -> Result<(), Error>;

    /// Called when a client subscribed and the subscriber has not confirmed yet, also when the
    /// subscription existed before, or has another subscriber from now on.
    ///
    /// # Behavior
    /// - The subscription exists, whatever happens here.
    async fn created(&self, queue: &QueueKey, id: SubscriptionId, ttl: u64);

    /// Called when a subscriber confirmed the subscription, or withdrew the confirmation.
    ///
    /// # Behavior
    /// - The change is made, whatever happens here.
    async fn confirmed(&self, queue: &QueueKey, id: SubscriptionId, is_confirmed: bool);

    /// Called when a subscription was changed: a suspended one is resumed.
    ///
    /// # Behavior
    /// - The change is made, whatever happens here: failures are logged and retried in time.
    async fn changed(&self, queue: &QueueKey, id: SubscriptionId);

    /// Called when a subscription was deleted: its waiting deliveries are deleted.
    ///
    /// # Behavior
    /// - The subscription is deleted, whatever happens here; remaining deliveries are deleted
    ///   later.
    async fn deleted(&self, queue: &QueueKey, id: SubscriptionId);
}
