//! Every error of this wire, and the one place where each becomes a status.

use std::time::Duration;

use serde_json::json;
use zaqar_api::{Part, PoolsRule, Rejection};
use zaqar_core::storage;

use crate::action::Action;
use crate::reply::Reply;

/// Why a request gets no answer of its operation.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WsError {
    #[error("Can't decode {kind} request. {reason}")]
    Undecodable { kind: &'static str, reason: String },
    #[error("Unexpected body type. Expected dict or dict like.")]
    NotAnObject,
    #[error("{name} is not a valid action")]
    UnknownAction { name: String },
    #[error("Schema validation failed.")]
    Schema,
    /// What says who asks is said twice.
    #[error("{name} may be given once; this request has it more than once.")]
    Repeated { name: &'static str },
    /// Nobody has said who this is, or a signature does not hold. The original's spelling.
    #[error("Not authentified.")]
    NotAuthenticated,
    /// Somebody else's project.
    #[error("Not authenticated.")]
    OtherProject,
    #[error("Authentication failed.")]
    AuthenticationFailed { status: u16 },
    /// A rule of the wire.
    #[error("{reason}")]
    Invalid { reason: String },
    #[error("Message {id} does not exist in queue {queue} for project {project}")]
    MessageNotFound { id: String, queue: String, project: String },
    #[error(transparent)]
    Api(#[from] zaqar_api::Error),
}

impl WsError {
    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid { reason: reason.into() }
    }
}

/// What a request was about, for the texts of its errors.
#[derive(Debug, Default)]
pub(crate) struct About {
    pub(crate) action: Option<Action>,
    pub(crate) queue: String,
    pub(crate) project: String,
    /// The message, claim or subscription.
    pub(crate) id: String,
    pub(crate) claim: String,
}

impl About {
    /// What the original says of an action that its store did not do.
    fn undone(&self) -> String {
        let (queue, id) = (&self.queue, &self.id);
        match self.action {
            Some(Action::QueueList) => "Queues could not be listed.".to_owned(),
            Some(Action::QueueCreate) => format!("Queue {queue} could not be created."),
            Some(Action::QueueDelete) => format!("Queue {queue} could not be deleted."),
            Some(Action::QueueGet) => format!("Cannot retrieve queue {queue}."),
            Some(Action::QueueGetStats) => format!("Cannot retrieve queue {queue} stats."),
            Some(Action::SubscriptionList) => "Subscriptions could not be listed.".to_owned(),
            Some(Action::SubscriptionCreate) => {
                format!("Subscription {queue} could not be created.")
            }
            Some(Action::SubscriptionGet) => format!("Cannot retrieve subscription {id}."),
            Some(Action::SubscriptionDelete) => {
                format!("Subscription {id} for queue {queue} could not be deleted.")
            }
            _ => "Service temporarily unavailable.".to_owned(),
        }
    }

    fn no_such_claim(&self) -> String {
        format!(
            "Claim {} does not exist in queue {} for project {}",
            self.claim, self.queue, self.project
        )
    }
}

impl WsError {
    /// The answer that tells the sender.
    pub(crate) fn into_reply(self, about: &About) -> Reply {
        match self {
            Self::Undecodable { .. }
            | Self::NotAnObject
            | Self::UnknownAction { .. }
            | Self::Schema
            | Self::Repeated { .. } => bare(400, &self.to_string()),
            Self::NotAuthenticated | Self::OtherProject => bare(403, &self.to_string()),
            Self::AuthenticationFailed { status } => bare(status, &self.to_string()),
            Self::Invalid { reason } => described(400, &reason, None),
            Self::MessageNotFound { .. } => described(404, &self.to_string(), None),
            Self::Api(error) => api(error, about),
        }
    }
}

fn api(error: zaqar_api::Error, about: &About) -> Reply {
    use zaqar_api::Error;
    // Of no use for errors that a retry does not help.
    let retry_after = error.retry_after().unwrap_or_default();
    let (queue, id) = (&about.queue, &about.id);
    match error {
        Error::Invalid { part: Part::Request | Part::Body, reason } => {
            described(400, &reason, None)
        }
        Error::QueueNotFound { key } => {
            let text = format!("Queue {} does not exist for project {}", key.name, key.project);
            described(404, &text, Some(&format!("Queue {} does not exist.", key.name)))
        }
        Error::Conflict { reason } => described(409, &reason, None),
        Error::Pools(rule) => {
            let status = match rule {
                PoolsRule::PoolNotFound { .. } | PoolsRule::FlavorNotFound { .. } => 404,
                PoolsRule::UriInUse => 409,
                PoolsRule::LastOfFlavor { .. } => 403,
                PoolsRule::Unable { .. } => 400,
            };
            described(status, &rule.to_string(), None)
        }
        Error::NoPools => described(404, "There are no pools and flavors on this server.", None),
        Error::MessageClaimed => described(
            403,
            &format!("Message {id} is claimed"),
            Some("This message is claimed; it cannot be deleted without a valid claim ID."),
        ),
        Error::MessageNotClaimed => described(
            400,
            &format!("Message {id} is no longer claimed"),
            Some("A claim was specified, but the message is not currently claimed."),
        ),
        Error::WrongClaim => described(
            400,
            &about.no_such_claim(),
            Some("The specified claim does not exist or has expired."),
        ),
        Error::ClaimNotFound { id, .. } => {
            let text = format!("Claim {id} does not exist.");
            described(404, &about.no_such_claim(), Some(&text))
        }
        // Of operations that this wire does not have.
        Error::RecoveryNotFound { id } => {
            described(404, &format!("Nothing is known of a recovery {id}"), None)
        }
        Error::DeliveryNotFound { id } => {
            described(404, &format!("Nothing is known of a delivery {id}"), None)
        }
        Error::SubscriptionNotFound { id } => described(
            404,
            &format!("Subscription {id} does not exist"),
            Some(&format!("Subscription {id} for queue {queue} does not exist.")),
        ),
        Error::SubscriptionExists | Error::SubscriptionTaken => {
            Reply::json(409, json!(format!("Subscription {queue} not created.")))
        }
        Error::SubscriptionUnchanged { id } => {
            described(400, &format!("Subscription {id} could not be updated."), None)
        }
        Error::Forbidden => bare(403, "You are not authorized to complete this action."),
        Error::CannotSeal => internal_error(&format!("{error}.")),
        Error::NotAuthenticated | Error::NotGranted => {
            bare(403, &WsError::NotAuthenticated.to_string())
        }
        Error::NoProject => bare(403, &WsError::OtherProject.to_string()),
        Error::Rejected(Rejection::BadRequest(reason)) => described(400, &reason, None),
        Error::Rejected(Rejection::Forbidden(reason)) | Error::OverQuota { reason } => {
            bare(403, &reason)
        }
        Error::OverRate { reason, .. } => unavailable_as(&reason, about, retry_after),
        Error::Overloaded { .. }
        | Error::AuthenticationUnavailable { .. }
        | Error::DeadlineExceeded
        | Error::Contended
        | Error::TaskFailed { .. } => unavailable(about, retry_after),
        Error::Storage(error) => storage(&error, about, retry_after),
    }
}

fn storage(error: &storage::Error, about: &About, retry_after: Duration) -> Reply {
    match error {
        storage::Error::TooLarge { .. } => described(400, &format!("{error}."), None),
        storage::Error::Failed { .. } => {
            internal_error("The store failed; the server's log says why.")
        }
        storage::Error::Overloaded { .. }
        | storage::Error::Unavailable { .. }
        | storage::Error::ClockSkew { .. }
        | storage::Error::Full { .. }
        | storage::Error::Closed => unavailable(about, retry_after),
    }
}

fn internal_error(text: &str) -> Reply {
    described(500, text, Some("Unexpected error."))
}

/// The answer of a server that has too much to do or has lost its store.
fn unavailable(about: &About, retry_after: Duration) -> Reply {
    unavailable_as("Please try again in a few seconds.", about, retry_after)
}

fn unavailable_as(text: &str, about: &About, retry_after: Duration) -> Reply {
    let mut reply = described(503, text, Some(&about.undone()));
    // Whole seconds, rounded up: 0 would ask for a storm.
    let seconds = retry_after.as_millis().div_ceil(1000).max(1);
    reply.retry_after = Some(u64::try_from(seconds).unwrap_or(u64::MAX));
    reply
}

/// What the original says before it looks for the operation.
fn bare(status: u16, error: &str) -> Reply {
    Reply::json(status, json!({ "error": error }))
}

/// What the original says of an operation.
fn described(status: u16, exception: &str, error: Option<&str>) -> Reply {
    Reply::json(status, json!({ "exception": exception, "error": error }))
}
