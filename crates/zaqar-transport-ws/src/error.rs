//! The errors of this transport, and the only place where they are mapped to statuses.

use std::time::Duration;

use serde_json::json;
use zaqar_api::{Part, PoolsRule, Rejection};
use zaqar_core::{OverBudget, storage};

use crate::action::Action;
use crate::reply::Reply;

/// When a request that was rejected over the memory budget should be retried.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WsError {
    #[error("Can't decode {kind} request. {reason}")]
    Undecodable { kind: &'static str, reason: String },
    #[error("Unexpected body type. Expected dict or dict like.")]
    NotAnObject,
    #[error("{name} is not a valid action")]
    UnknownAction { name: String },
    /// The original says no more than the first sentence.
    #[error("Schema validation failed. {rule}")]
    Schema { rule: String },
    /// A header that identifies the caller is repeated.
    #[error("{name} may be given once; this request has it more than once.")]
    Repeated { name: &'static str },
    /// No token was accepted, or the signature is invalid. The spelling is the original's.
    #[error("Not authentified.")]
    NotAuthenticated,
    /// The token is for another project.
    #[error("Not authenticated.")]
    OtherProject,
    #[error("Authentication failed.")]
    AuthenticationFailed { status: u16 },
    /// The request breaks a rule of this transport.
    #[error("{reason}")]
    Invalid { reason: String },
    #[error("Message {id} does not exist in queue {queue} for project {project}")]
    MessageNotFound { id: String, queue: String, project: String },
    #[error(transparent)]
    Api(#[from] zaqar_api::Error),
}

impl WsError {
    /// The error of a request that is rejected because memory is short.
    pub(crate) fn over_budget(over: OverBudget) -> Self {
        tracing::debug!(%over, "request rejected");
        Self::Api(zaqar_api::Error::Overloaded { retry_after: RETRY_AFTER })
    }

    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid { reason: reason.into() }
    }
}

/// The subject of a request, for the texts of its errors.
#[derive(Debug, Default)]
pub(crate) struct ErrorContext {
    pub(crate) action: Option<Action>,
    pub(crate) queue: String,
    pub(crate) project: String,
    /// The message, claim or subscription.
    pub(crate) id: String,
    pub(crate) claim: String,
}

impl ErrorContext {
    /// The original's text for an action that failed in the store.
    fn failure_text(&self) -> String {
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

    fn claim_not_found(&self) -> String {
        format!(
            "Claim {} does not exist in queue {} for project {}",
            self.claim, self.queue, self.project
        )
    }
}

impl WsError {
    /// The reply that reports the error.
    pub(crate) fn into_reply(self, context: &ErrorContext) -> Reply {
        match self {
            Self::Undecodable { .. }
            | Self::NotAnObject
            | Self::UnknownAction { .. }
            | Self::Schema { .. }
            | Self::Repeated { .. } => bare(400, &self.to_string()),
            Self::NotAuthenticated | Self::OtherProject => bare(403, &self.to_string()),
            Self::AuthenticationFailed { status } => bare(status, &self.to_string()),
            Self::Invalid { reason } => described(400, &reason, None),
            Self::MessageNotFound { .. } => described(404, &self.to_string(), None),
            Self::Api(error) => api(error, context),
        }
    }
}

/// Why a body was not stored.
const CANNOT_SEAL: &str = "The queue encrypts its messages, and this server has no key for that \
                           ([transport] message_encryption_key).";

fn api(error: zaqar_api::Error, context: &ErrorContext) -> Reply {
    use zaqar_api::Error;
    // Only used for errors that a retry may help.
    let retry_after = error.retry_after().unwrap_or_default();
    let (queue, id) = (&context.queue, &context.id);
    match error {
        Error::Invalid { part: Part::Request | Part::Body, reason } => {
            described(400, &reason, None)
        }
        Error::QueueNotFound { key } => {
            let text = format!("Queue {} does not exist for project {}", key.name, key.project);
            described(404, &text, Some(&format!("Queue {} does not exist.", key.name)))
        }
        Error::Conflict { reason } => described(409, &reason, None),
        Error::Pools(rule) => described(pools_status(&rule), &rule.to_string(), None),
        Error::NoProjectQuotas => {
            described(404, "There are no quotas of single projects on this server.", None)
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
            &context.claim_not_found(),
            Some("The specified claim does not exist or has expired."),
        ),
        Error::ClaimNotFound { id, .. } => {
            let text = format!("Claim {id} does not exist.");
            described(404, &context.claim_not_found(), Some(&text))
        }
        // From operations that this transport does not offer.
        Error::RecoveryNotFound { id } => {
            described(404, &format!("Recovery {id} does not exist"), None)
        }
        Error::DeliveryNotFound { id } => {
            described(404, &format!("Delivery {id} does not exist"), None)
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
        Error::CannotSeal => unavailable_as(CANNOT_SEAL, context, retry_after),
        Error::NotAuthenticated | Error::NotGranted => {
            bare(403, &WsError::NotAuthenticated.to_string())
        }
        Error::NoProject => bare(403, &WsError::OtherProject.to_string()),
        Error::Rejected(Rejection::BadRequest(reason)) => described(400, &reason, None),
        Error::Rejected(Rejection::Forbidden(reason)) | Error::OverQuota { reason } => {
            bare(403, &reason)
        }
        Error::OverRate { reason, .. } => unavailable_as(&reason, context, retry_after),
        Error::Overloaded { .. }
        | Error::AuthenticationUnavailable { .. }
        | Error::DeadlineExceeded
        | Error::Contended
        | Error::TaskFailed { .. } => unavailable(context, retry_after),
        Error::Storage(error) => storage(&error, context, retry_after),
    }
}

const fn pools_status(rule: &PoolsRule) -> u16 {
    match rule {
        PoolsRule::PoolNotFound { .. }
        | PoolsRule::FlavorNotFound { .. }
        | PoolsRule::QueueNotFound { .. } => 404,
        PoolsRule::UriInUse | PoolsRule::UriOfMessageStore | PoolsRule::CannotMove { .. } => 409,
        PoolsRule::LastOfFlavor { .. } => 403,
        PoolsRule::Unable { .. } => 400,
    }
}

fn storage(error: &storage::Error, context: &ErrorContext, retry_after: Duration) -> Reply {
    match error {
        storage::Error::TooLarge { .. } => described(400, &format!("{error}."), None),
        storage::Error::Failed { .. } => {
            internal_error("The store failed; the server's log says why.")
        }
        storage::Error::Overloaded { .. }
        | storage::Error::Unavailable { .. }
        | storage::Error::ClockSkew { .. }
        | storage::Error::Full { .. }
        | storage::Error::Moved { .. }
        | storage::Error::Closed => unavailable(context, retry_after),
    }
}

fn internal_error(text: &str) -> Reply {
    described(500, text, Some("Unexpected error."))
}

/// The answer while the server is overloaded or the store is unavailable.
fn unavailable(context: &ErrorContext, retry_after: Duration) -> Reply {
    unavailable_as("Please try again in a few seconds.", context, retry_after)
}

fn unavailable_as(text: &str, context: &ErrorContext, retry_after: Duration) -> Reply {
    let mut reply = described(503, text, Some(&context.failure_text()));
    // Whole seconds, rounded up: with 0, all clients would retry at once.
    let seconds = retry_after.as_millis().div_ceil(1000).max(1);
    reply.retry_after = Some(u64::try_from(seconds).unwrap_or(u64::MAX));
    reply
}

/// The original's form for errors that occur before the action is handled.
fn bare(status: u16, error: &str) -> Reply {
    Reply::json(status, json!({ "error": error }))
}

/// The original's form for errors of an action.
fn described(status: u16, exception: &str, error: Option<&str>) -> Reply {
    Reply::json(status, json!({ "exception": exception, "error": error }))
}
