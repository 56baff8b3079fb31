//! Why an operation was not done: facts that a transport gives its own form.

use zaqar_core::metadata::MetadataError;
use zaqar_core::{QueueKey, storage};

/// Which part of a request is wrong: the original gives the two different titles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Parameters, limits, what is asked.
    Request,
    /// The form of the body.
    Body,
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
    /// A stored body does not open: its key is not configured, or it was changed.
    #[error("a message is encrypted with key {key}, which does not open it")]
    CannotOpen {
        /// The key that the record names.
        key: String,
    },
    /// The queue was deleted and created by others faster than this operation could follow.
    #[error("the queue changes too fast")]
    Contended,
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
