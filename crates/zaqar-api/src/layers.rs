//! What can be put in front of every operation: small traits, absent unless configured.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};
use zaqar_core::delivery::{
    BeginRecovery, Delivery, DeliveryQuery, Recovery, RecoveryId, RecoveryRange, Redelivery,
    SubscriberHealth,
};
use zaqar_core::{Kind, MessageId, Payload, QueueKey, Secret, SubscriptionId, Timestamp};

use crate::pipeline::Pipelines;
use crate::{Context, Declaration, Error, Facts, Identity, TraceParent, Tracer};

/// The layers in front of the operations. What is `None` is absent and costs nothing.
#[derive(Clone, Default)]
pub struct Layers {
    /// Counts and times operations.
    pub metrics: Option<Arc<dyn Metrics>>,
    /// Records operations as spans.
    pub tracer: Option<Arc<dyn Tracer>>,
    /// Knows callers by their tokens. Without one they are who they say they are.
    pub authenticator: Option<Arc<dyn Authenticator>>,
    /// Limits what a project may do.
    pub quota: Option<Arc<dyn Quota>>,
    /// Decides who may do what. Without one only [`Declaration::admin`] is checked.
    pub policy: Option<Arc<dyn Policy>>,
    /// Checks and serves subscribers with an address. Without one they are only recorded.
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
    /// An operation of this caller was answered, or failed with `error`, after `elapsed`. Called on
    /// the path of every operation: it must not block.
    fn record(
        &self,
        context: &Context,
        declaration: &'static Declaration,
        kind: Kind,
        error: Option<&Error>,
        elapsed: Duration,
    );
}

/// What a request, or a connection, shows of whom it is from. Its tokens are never printed.
#[derive(Clone, Copy, Default)]
pub struct Presented<'a> {
    /// `X-Auth-Token`, else `X-Storage-Token`: the user's.
    pub user_token: Option<&'a str>,
    /// `X-Service-Token`: the token of the service that asks on the user's behalf.
    pub service_token: Option<&'a str>,
    /// The method and the path of the request that the tokens are for; `None` for those of a
    /// connection, whose requests are each checked against [`Identity::requests`].
    pub request: Option<(&'a str, &'a str)>,
    /// The caller's span.
    pub trace_parent: Option<TraceParent>,
}

impl fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presented").field("request", &self.request).finish_non_exhaustive()
    }
}

/// Checks tokens.
#[async_trait]
pub trait Authenticator: Send + Sync {
    /// What the tokens of a request stand for.
    ///
    /// # Behavior
    /// - Called again for a known token: the implementation caches.
    /// - Answers in bounded time: requests wait for it.
    ///
    /// # Errors
    /// [`TokenError`].
    async fn authenticate(&self, presented: Presented<'_>) -> Result<Arc<Identity>, TokenError>;

    /// Where to get a token: the value of `WWW-Authenticate` in a 401.
    fn challenge(&self) -> String;
}

/// Why a token was rejected.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It is unknown, expired or revoked: 401.
    #[error("the token is not valid")]
    Invalid,
    /// It is valid, but for no project: 400.
    #[error("the token is for no project")]
    NoProject,
    /// It cannot be checked at the moment: 503.
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
    /// Whether an operation is within the quota, before it is done.
    ///
    /// # Errors
    /// [`Error::OverQuota`] where the project has used its quota up, [`Error::OverRate`] where it
    /// may do so later.
    async fn admit(&self, context: &Context, facts: &Facts<'_>) -> Result<(), Error>;
}

/// Decides who may do what, by the names of the original's rules.
#[async_trait]
pub trait Policy: Send + Sync {
    /// Whether a caller may do an operation. Where [`Facts::rule`] is `None` there is nothing to
    /// decide by, and the operation is not asked about.
    ///
    /// # Errors
    /// [`Error::Forbidden`]; [`Error::Overloaded`] where it cannot be decided at the moment.
    async fn check(
        &self,
        context: &Context,
        rule: &'static str,
        facts: &Facts<'_>,
    ) -> Result<(), Error>;
}

/// The trust that a subscriber needs which acts for its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustRequest<'a> {
    /// One that the caller made before; `None` asks for a new one.
    pub given: Option<&'a str>,
    /// When a new one ends.
    pub expires: Timestamp,
}

/// Checks subscribers that have an address, and learns what becomes of their subscriptions.
#[async_trait]
pub trait Subscribers: Send + Sync {
    /// Whether messages can ever be sent to a subscriber with these options. Of a change, only what
    /// changes is given.
    ///
    /// # Behavior
    /// - Answers in bounded time: the request waits for it.
    ///
    /// # Errors
    /// What the client is told: 400.
    async fn check(
        &self,
        subscriber: Option<&str>,
        options: Option<&Map<String, Value>>,
    ) -> Result<(), String>;

    /// The id of a trust to act with for the caller: a new one, made with the caller's token, or
    /// the one that is given.
    ///
    /// # Behavior
    /// - One that is given must be the caller's own, for the caller's project.
    /// - Answers in bounded time: the request waits for it.
    ///
    /// # Errors
    /// [`Error::Invalid`] where there can be none, [`Error::AuthenticationUnavailable`] where
    /// nobody can tell.
    async fn trust(&self, context: &Context, request: TrustRequest<'_>) -> Result<String, Error>;

    /// A trust that was made is not used: it is deleted, as far as that can be done.
    async fn end_trust(&self, context: &Context, id: &str);

    /// Makes the signing secret of a subscription that is to be made or changed, unless it has one.
    ///
    /// # Behavior
    /// - A new one is answered, and no other call answers it.
    ///
    /// # Errors
    /// [`Error::Storage`].
    async fn make_secret(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
    ) -> Result<Option<Secret<String>>, Error>;

    /// Makes a new signing secret for a live subscription that signs; the one before it stays valid
    /// for `grace` seconds.
    ///
    /// # Behavior
    /// - `None` where another caller changes it at the moment, or the old one cannot be read.
    ///
    /// # Errors
    /// [`Error::Storage`].
    async fn rotate_secret(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        grace: u64,
    ) -> Result<Option<Secret<String>>, Error>;

    /// Whether messages are sent to confirmed subscribers only.
    fn requires_confirmation(&self) -> bool;

    /// What became of the last messages for a subscriber, by id.
    ///
    /// # Errors
    /// [`Error::Storage`].
    async fn deliveries(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        query: &DeliveryQuery,
    ) -> Result<Vec<Delivery>, Error>;

    /// One delivery; `None` where nothing is known of it.
    ///
    /// # Errors
    /// [`Error::Storage`].
    async fn delivery(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        message: MessageId,
    ) -> Result<Option<Delivery>, Error>;

    /// Delivers once more what failed, or now what waits for a retry.
    ///
    /// # Errors
    /// [`Error::Storage`].
    async fn redeliver(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        message: MessageId,
    ) -> Result<Redelivery, Error>;

    /// Begins to deliver once more what failed.
    ///
    /// # Errors
    /// [`Error::Storage`].
    async fn recover(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        range: RecoveryRange,
    ) -> Result<BeginRecovery, Error>;

    /// How far a recovery is; `None` for any but the subscription's last.
    ///
    /// # Errors
    /// [`Error::Storage`].
    async fn recovery(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        recovery: RecoveryId,
    ) -> Result<Option<Recovery>, Error>;

    /// Ends a recovery before it is done; `false` for any but the subscription's last.
    ///
    /// # Errors
    /// [`Error::Storage`].
    async fn cancel_recovery(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        recovery: RecoveryId,
    ) -> Result<bool, Error>;

    /// Sends a message that was not posted the way that all take; its id.
    ///
    /// # Errors
    /// [`Error::Storage`].
    async fn test(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        body: Payload,
    ) -> Result<MessageId, Error>;

    /// How a subscriber does; `None` for a subscription that is gone.
    ///
    /// # Errors
    /// [`Error::Storage`].
    async fn health(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
    ) -> Result<Option<SubscriberHealth>, Error>;

    /// Sends again to a subscriber that was suspended, and at once to one that fails.
    ///
    /// # Errors
    /// [`Error::Storage`].
    async fn resume(&self, queue: &QueueKey, id: SubscriptionId) -> Result<(), Error>;

    /// A client subscribed, and the subscriber has not confirmed yet: also where the subscription
    /// was there before.
    ///
    /// # Behavior
    /// - The subscription is there, whatever happens here.
    async fn created(&self, queue: &QueueKey, id: SubscriptionId, ttl: u64);

    /// A subscriber agreed, or no longer does.
    ///
    /// # Behavior
    /// - The change is made, whatever happens here.
    async fn confirmed(&self, queue: &QueueKey, id: SubscriptionId, is_confirmed: bool);

    /// A subscription was changed: one that was suspended is served again.
    ///
    /// # Behavior
    /// - The change is made, whatever happens here: failures are logged and retried in time.
    async fn changed(&self, queue: &QueueKey, id: SubscriptionId);

    /// A subscription was deleted: what waits for it goes.
    ///
    /// # Behavior
    /// - The subscription is gone, whatever happens here; what is left goes later.
    async fn deleted(&self, queue: &QueueKey, id: SubscriptionId);
}
