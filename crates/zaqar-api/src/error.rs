//! Why an operation was not done: facts that a transport gives its own form.

use std::time::Duration;

use zaqar_core::metadata::MetadataError;
use zaqar_core::pools::{self, FlavorName, PoolName};
use zaqar_core::{QueueKey, TaskFailure, storage};

/// Why a stage rejects an operation; the reason is for the client to read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// What is asked cannot be: 400.
    #[error("{0}")]
    BadRequest(String),
    /// The caller may not: 403.
    #[error("{0}")]
    Forbidden(String),
}

/// Which part of a request is wrong: the original gives the two different titles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Parameters, limits, what is asked.
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
    /// The pool is the last of its flavor.
    #[error("This pool is used by flavors {flavor}; It cannot be deleted.")]
    LastOfFlavor {
        /// The flavor.
        flavor: FlavorName,
    },
    /// Something that is wrong, under the title that the original gives it.
    #[error("{reason}")]
    Unable {
        /// The title.
        title: &'static str,
        /// What is wrong.
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
            pools::Error::LastOfFlavor { flavor } => PoolsRule::LastOfFlavor { flavor },
            pools::Error::CapabilitiesMismatch => {
                PoolsRule::Unable { title: "Unable to create pool", reason }
            }
            pools::Error::TooMany { .. } => PoolsRule::Unable { title: "Unable to create", reason },
            pools::Error::Unreachable { .. } => {
                return Self::Invalid { part: Part::Body, reason };
            }
            pools::Error::Contended => return Self::Contended,
            pools::Error::Storage(error) => return Self::Storage(error),
        })
    }
}

/// Why an operation was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request breaks a rule or a limit; the text says which, and its value.
    #[error("{reason}")]
    Invalid {
        /// Where the fault lies.
        part: Part,
        /// What is wrong, for the caller to read.
        reason: String,
    },
    /// The queue must be there and is not.
    #[error("{key} does not exist")]
    QueueNotFound {
        /// The queue.
        key: QueueKey,
    },
    /// A metadata change that does not fit what is there.
    #[error("{reason}")]
    Conflict {
        /// What does not fit.
        reason: String,
    },
    /// What is asked breaks a rule of pools or flavors.
    #[error(transparent)]
    Pools(PoolsRule),
    /// Pools and flavors are not configured.
    #[error("pooling is not configured")]
    NoPools,
    /// A live claim holds the message and none was named.
    #[error("the message is claimed")]
    MessageClaimed,
    /// A claim was named, but no claim holds the message.
    #[error("the message is not claimed")]
    MessageNotClaimed,
    /// The claim named is unknown, over, or holds other messages.
    #[error("the claim does not exist or has expired")]
    WrongClaim,
    /// The claim is unknown, over or released.
    #[error("claim {id} does not exist in {key}")]
    ClaimNotFound {
        /// The claim as the caller named it.
        id: String,
        /// The queue.
        key: QueueKey,
    },
    /// The subscription is unknown, over or of another queue.
    #[error("subscription {id} does not exist")]
    SubscriptionNotFound {
        /// The subscription as the caller named it.
        id: String,
    },
    /// Nothing is known of the delivery.
    #[error("delivery {id} is not known")]
    DeliveryNotFound {
        /// The delivery as the caller named it.
        id: String,
    },
    /// It is not the last recovery of the subscription.
    #[error("nothing is known of the recovery {id}")]
    RecoveryNotFound {
        /// The recovery as the caller named it.
        id: String,
    },
    /// The subscriber has a confirmed subscription to the queue already.
    #[error("the subscriber has a subscription")]
    SubscriptionExists,
    /// The new subscriber of a subscription has another one.
    #[error("the subscriber has another subscription")]
    SubscriptionTaken,
    /// A change that changes nothing.
    #[error("subscription {id} could not be updated")]
    SubscriptionUnchanged {
        /// The subscription as the caller named it.
        id: String,
    },
    /// The caller's roles do not allow it.
    #[error("not allowed")]
    Forbidden,
    /// A body could not be sealed, so nothing was stored.
    #[error("the queue asks for encryption, and [transport] message_encryption_key gives no key")]
    CannotSeal,
    /// Nobody has said who the caller is, or its token has expired.
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
    /// The project would have more than it may.
    #[error("{reason}")]
    OverQuota {
        /// Which limit, with its value and its option, for the caller to read.
        reason: String,
    },
    /// The project does more in a time than it may: the operation was not begun.
    #[error("{reason}")]
    OverRate {
        /// Which limit, with its value and its option, for the caller to read.
        reason: String,
        /// When the project may go on.
        retry_after: Duration,
    },
    /// The server, or a layer of it, has too much to do: the operation was not begun.
    #[error("too many operations are in progress")]
    Overloaded {
        /// When it makes sense to retry.
        retry_after: Duration,
    },
    /// The operation took longer than its caller waits. A change may have been made.
    #[error("the deadline of the request has passed")]
    DeadlineExceeded,
    /// The queue was deleted and created by others faster than this operation could follow.
    #[error("the queue changes too fast")]
    Contended,
    /// A task that this server cannot work without has died; the server is about to end.
    #[error(transparent)]
    TaskFailed {
        /// Which task, and how.
        #[from]
        failure: TaskFailure,
    },
    /// The store did not do it.
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
