//! Why an operation failed: facts, which each transport maps to its own form.

use std::time::Duration;

use zaqar_core::metadata::MetadataError;
use zaqar_core::pools::{self, FlavorName, PoolName};
use zaqar_core::{QueueKey, QueueName, TaskFailure, storage};

/// Why a stage rejects an operation. The reason is shown to the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The request is invalid: 400.
    #[error("{0}")]
    BadRequest(String),
    /// The caller is not allowed to do this: 403.
    #[error("{0}")]
    Forbidden(String),
}

/// The invalid part of a request: the original's errors have different titles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Parameters and limits.
    Request,
    /// The form of the body.
    Body,
}

/// A rule of pools or flavors that a request breaks.
#[derive(Debug, thiserror::Error)]
pub enum PoolsRule {
    /// No such pool.
    #[error("Pool {name} does not exist")]
    PoolNotFound {
        /// The name.
        name: PoolName,
    },
    /// No such flavor in the project.
    #[error("Flavor {name} does not exist")]
    FlavorNotFound {
        /// The name.
        name: FlavorName,
    },
    /// Another pool is the same store.
    #[error("The database URI is in use by another pool.")]
    UriInUse,
    /// The pool would be the configured message store.
    #[error("{}", pools::Error::UriOfMessageStore)]
    UriOfMessageStore,
    /// The pool is the last of its flavor.
    #[error("This pool is used by flavors {flavor}; It cannot be deleted.")]
    LastOfFlavor {
        /// The flavor.
        flavor: FlavorName,
    },
    /// No such queue.
    #[error("Queue {name} does not exist")]
    QueueNotFound {
        /// The name.
        name: QueueName,
    },
    /// The queue cannot be moved, or the pool cannot be drained.
    #[error("{reason}.")]
    CannotMove {
        /// Why.
        reason: String,
    },
    /// Something that is wrong, under the title that the original gives it.
    #[error("{reason}")]
    Unable {
        /// The title.
        title: &'static str,
        /// The fault.
        reason: String,
    },
}

impl From<pools::Error> for Error {
    fn from(error: pools::Error) -> Self {
        let reason = error.to_string();
        Self::Pools(match error {
            pools::Error::PoolNotFound { name } => PoolsRule::PoolNotFound { name },
            pools::Error::FlavorNotFound { name } => PoolsRule::FlavorNotFound { name },
            pools::Error::UriInUse => PoolsRule::UriInUse,
            pools::Error::UriOfMessageStore => PoolsRule::UriOfMessageStore,
            pools::Error::LastOfFlavor { flavor } => PoolsRule::LastOfFlavor { flavor },
            pools::Error::CapabilitiesMismatch => {
                PoolsRule::Unable { title: "Unable to create pool", reason }
            }
            pools::Error::TooMany { .. } => PoolsRule::Unable { title: "Unable to create", reason },
            pools::Error::Unreachable { .. } => {
                return Self::Invalid { part: Part::Body, reason };
            }
            pools::Error::QueueNotFound { name } => PoolsRule::QueueNotFound { name },
            pools::Error::CannotMove { reason } => PoolsRule::CannotMove { reason },
            pools::Error::Contended => return Self::Contended,
            pools::Error::Storage(error) => return Self::Storage(error),
        })
    }
}

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request breaks a rule or a limit; the text says which, and its value.
    #[error("{reason}")]
    Invalid {
        /// The invalid part.
        part: Part,
        /// The fault, shown to the caller.
        reason: String,
    },
    /// The queue must exist, but does not.
    #[error("{key} does not exist")]
    QueueNotFound {
        /// The queue.
        key: QueueKey,
    },
    /// The request conflicts with the current state.
    #[error("{reason}")]
    Conflict {
        /// The conflict.
        reason: String,
    },
    /// The request breaks a rule of pools or flavors.
    #[error(transparent)]
    Pools(PoolsRule),
    /// Pools and flavors are not configured.
    #[error("pooling is not configured")]
    NoPools,
    /// Quotas of single projects are not kept.
    #[error("[quotas] managed is not configured")]
    NoProjectQuotas,
    /// A live claim holds the message and none was named.
    #[error("the message is claimed")]
    MessageClaimed,
    /// The request names a claim, but no claim holds the message.
    #[error("the message is not claimed")]
    MessageNotClaimed,
    /// The named claim is unknown, has expired, or does not hold the message.
    #[error("the claim does not exist or has expired")]
    WrongClaim,
    /// The claim is unknown, expired or released.
    #[error("claim {id} does not exist in {key}")]
    ClaimNotFound {
        /// The claim as the caller named it.
        id: String,
        /// The queue.
        key: QueueKey,
    },
    /// The subscription is unknown, expired, or to another queue.
    #[error("subscription {id} does not exist")]
    SubscriptionNotFound {
        /// The subscription as the caller named it.
        id: String,
    },
    /// The delivery is unknown.
    #[error("delivery {id} does not exist")]
    DeliveryNotFound {
        /// The delivery as the caller named it.
        id: String,
    },
    /// The recovery is not the last one of the subscription.
    #[error("recovery {id} does not exist")]
    RecoveryNotFound {
        /// The recovery as the caller named it.
        id: String,
    },
    /// The subscriber already has a confirmed subscription to the queue.
    #[error("the subscriber already has a subscription")]
    SubscriptionExists,
    /// The new subscriber already has another subscription to the queue.
    #[error("the subscriber already has another subscription")]
    SubscriptionTaken,
    /// The request changes nothing.
    #[error("subscription {id} could not be updated")]
    SubscriptionUnchanged {
        /// The subscription as the caller named it.
        id: String,
    },
    /// The caller's roles do not allow it.
    #[error("not allowed")]
    Forbidden,
    /// A body could not be encrypted, so nothing was stored. It can be once a key is configured.
    #[error(
        "the queue encrypts its messages, and this server has no key for that ([transport] \
         message_encryption_key)"
    )]
    CannotSeal,
    /// The caller is not authenticated, or its token has expired.
    #[error("not authenticated")]
    NotAuthenticated,
    /// The caller is known, but its token is for no project.
    #[error("the token is for no project")]
    NoProject,
    /// Tokens cannot be checked at the moment.
    #[error("tokens cannot be checked at the moment")]
    AuthenticationUnavailable {
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The signature that the request came with does not cover the operation.
    #[error("the signature does not cover the operation")]
    NotGranted,
    /// A stage of a pipeline rejects the operation.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The operation would exceed the project's quota.
    #[error("{reason}")]
    OverQuota {
        /// The limit with its value and its option, shown to the caller.
        reason: String,
    },
    /// The project exceeds a rate limit. The operation was not started.
    #[error("{reason}")]
    OverRate {
        /// The limit with its value and its option, shown to the caller.
        reason: String,
        /// When the project may retry.
        retry_after: Duration,
    },
    /// The server, or a layer of it, is overloaded. The operation was not started.
    #[error("too many operations are in progress")]
    Overloaded {
        /// When to retry.
        retry_after: Duration,
    },
    /// The operation took longer than its deadline allows. A change may have been made.
    #[error("the deadline of the request has passed")]
    DeadlineExceeded,
    /// The queue was changed concurrently in every attempt of this operation.
    #[error("the queue was changed concurrently too often")]
    Contended,
    /// An essential task of this server has died. The server is about to exit.
    #[error(transparent)]
    TaskFailed {
        /// The task, and the reason.
        #[from]
        failure: TaskFailure,
    },
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

impl Error {
    pub(crate) fn request(reason: impl Into<String>) -> Self {
        Self::Invalid { part: Part::Request, reason: reason.into() }
    }

    pub(crate) fn metadata(part: Part, error: &MetadataError) -> Self {
        Self::Invalid { part, reason: error.to_string() }
    }
}
