//! The errors of this transport, and the only place where they are mapped to statuses.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::json;
use zaqar_api::{Part, PoolsRule, Rejection};
use zaqar_core::storage;

use crate::respond;

/// The media type of a metadata patch, the only request type that is checked.
pub(crate) const PATCH_TYPE: &str = "application/openstack-messaging-v2.0-json-patch";

/// The body of a 401, as in Keystone's middleware.
const UNAUTHORIZED: &str = "{\"error\": {\"code\": 401, \"title\": \"Unauthorized\", \"message\": \
    \"The request you have made requires authentication.\"}}";

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("no such path")]
    NoSuchPath,
    #[error("the resource does not have this method")]
    MethodNotAllowed { allow: String },
    #[error("not an HTTP method")]
    UnknownMethod,
    #[error("the request must name one host")]
    WrongHost,
    #[error("the client does not accept JSON")]
    NotAcceptable,
    #[error("the body is a form")]
    FormContent,
    #[error("the body is not a patch")]
    PatchType,
    #[error("missing header {name}")]
    MissingHeader { name: &'static str },
    #[error("{title}")]
    Header { title: String, description: String },
    #[error("invalid {kind} name")]
    Identification { kind: &'static str, rule: String },
    #[error("invalid parameter {name}")]
    Parameter { name: &'static str, rule: &'static str },
    #[error("{reason}")]
    Body { reason: String },
    #[error("{reason}")]
    TooLarge { reason: String },
    #[error("the body did not arrive in time")]
    BodyTimeout,
    #[error("the body could not be read")]
    BodyBroken,
    #[error("{description}")]
    NotFound { description: String },
    #[error(transparent)]
    OverBudget(#[from] zaqar_core::OverBudget),
    #[error(transparent)]
    Api(#[from] zaqar_api::Error),
}

impl HttpError {
    pub(crate) fn body(reason: impl Into<String>) -> Self {
        Self::Body { reason: reason.into() }
    }

    pub(crate) fn header(title: impl Into<String>, description: impl Into<String>) -> Self {
        Self::Header { title: title.into(), description: description.into() }
    }

    /// The response that reports the error.
    #[expect(clippy::too_many_lines, reason = "one arm for each error")]
    pub(crate) fn into_response(self) -> Response<Full<Bytes>> {
        let bad_request = StatusCode::BAD_REQUEST;
        match self {
            // Also for an invalid signature, which must not be distinguishable from an unknown
            // path.
            Self::NoSuchPath => described(
                StatusCode::NOT_FOUND,
                "404 Not Found",
                "Nothing is at this path for this request.",
            ),
            Self::MethodNotAllowed { allow } => {
                let text = format!("The methods of this resource are {allow}.");
                let status = StatusCode::METHOD_NOT_ALLOWED;
                let mut response = described(status, "405 Method Not Allowed", &text);
                respond::set(&mut response, header::ALLOW, allow);
                response
            }
            Self::UnknownMethod => described(bad_request, "Bad request", "Invalid HTTP method"),
            Self::WrongHost => described(
                bad_request,
                "Bad request",
                "The request must name one host, in its \"Host\" header, and a path.",
            ),
            Self::NotAcceptable => described(
                StatusCode::NOT_ACCEPTABLE,
                "406 Not Acceptable",
                "Endpoint only serves `application/json`; specify client-side media type support \
                 with the \"Accept\" header.",
            ),
            Self::FormContent => described(
                bad_request,
                "Invalid Content-Type",
                "Endpoint does not accept `application/x-www-form-urlencoded` content; currently \
                 supported media type is `application/json`; specify proper client-side media \
                 type with the \"Content-Type\" header.",
            ),
            Self::PatchType => {
                let accepted = PATCH_TYPE;
                let text = format!("Accepted media type for PATCH: {accepted}.");
                let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
                let mut response = described(status, "415 Unsupported Media Type", &text);
                respond::set(
                    &mut response,
                    header::HeaderName::from_static("accept-patch"),
                    accepted,
                );
                response
            }
            Self::MissingHeader { name } => {
                let text = format!("The \"{name}\" header is required.");
                described(bad_request, "Missing header value", &text)
            }
            Self::Header { title, description } => described(bad_request, &title, &description),
            Self::Identification { kind, rule } => described(
                bad_request,
                &format!("Invalid {kind} identification"),
                &format!(
                    "The format of the submitted {kind} name or project id is not valid: {rule}."
                ),
            ),
            Self::Parameter { name, rule } => described(
                bad_request,
                "Invalid parameter",
                &format!("The \"{name}\" parameter is invalid. {rule}"),
            ),
            Self::Body { reason } => described(bad_request, "Invalid request body", &reason),
            Self::TooLarge { reason } => described(bad_request, "Invalid API request", &reason),
            Self::BodyTimeout => with_close(described(
                StatusCode::REQUEST_TIMEOUT,
                "408 Request Timeout",
                "The request body did not arrive in time.",
            )),
            Self::BodyBroken => with_close(described(
                bad_request,
                "Invalid request body",
                "The request body could not be read.",
            )),
            Self::NotFound { description } => {
                described(StatusCode::NOT_FOUND, "Not found", &description)
            }
            Self::OverBudget(over) => unavailable_as(
                &format!("Please try again in a few seconds: {over}."),
                RETRY_OVERLOAD,
            ),
            Self::Api(error) => api(error),
        }
    }
}

/// Why a body was not stored.
const CANNOT_SEAL: &str = "The queue encrypts its messages, and this server has no key for that \
                           ([transport] message_encryption_key).";

#[expect(clippy::too_many_lines, reason = "one arm for each error")]
fn api(error: zaqar_api::Error) -> Response<Full<Bytes>> {
    use zaqar_api::Error;
    // Only used for errors that a retry may help.
    let retry_after = error.retry_after().unwrap_or_default();
    let unable = |status, text: &str| described(status, "Unable to delete", text);
    match error {
        Error::Invalid { part: Part::Request, reason } => {
            described(StatusCode::BAD_REQUEST, "Invalid API request", &reason)
        }
        Error::Invalid { part: Part::Body, reason } => {
            described(StatusCode::BAD_REQUEST, "Invalid request body", &reason)
        }
        Error::QueueNotFound { key } => {
            let kind = match key.kind {
                zaqar_core::Kind::Queue => "Queue",
                zaqar_core::Kind::Topic => "Topic",
                zaqar_core::Kind::Internal => "Internal queue",
            };
            let text = format!("{kind} {} does not exist for project {}", key.name, key.project);
            described(StatusCode::NOT_FOUND, "Not found", &text)
        }
        Error::Conflict { reason } => described(StatusCode::CONFLICT, "Resource conflict", &reason),
        Error::Pools(rule) => pools_rule(&rule),
        Error::NoPools | Error::NoProjectQuotas => HttpError::NoSuchPath.into_response(),
        Error::MessageClaimed => unable(
            StatusCode::FORBIDDEN,
            "This message is claimed; it cannot be deleted without a valid claim ID.",
        ),
        Error::MessageNotClaimed => unable(
            StatusCode::BAD_REQUEST,
            "A claim was specified, but the message is not currently claimed.",
        ),
        Error::WrongClaim => {
            unable(StatusCode::BAD_REQUEST, "The specified claim does not exist or has expired.")
        }
        Error::ClaimNotFound { id, key } => {
            let (queue, project) = (&key.name, &key.project);
            let text = format!("Claim {id} does not exist in queue {queue} for project {project}");
            described(StatusCode::NOT_FOUND, "Not found", &text)
        }
        Error::RecoveryNotFound { id } => {
            let text = format!("Recovery {id} does not exist");
            described(StatusCode::NOT_FOUND, "Not found", &text)
        }
        Error::DeliveryNotFound { id } => {
            let text = format!("Delivery {id} does not exist");
            described(StatusCode::NOT_FOUND, "Not found", &text)
        }
        Error::SubscriptionNotFound { id } => {
            let text = format!("Subscription {id} does not exist");
            described(StatusCode::NOT_FOUND, "Not found", &text)
        }
        Error::SubscriptionExists | Error::SubscriptionTaken => described(
            StatusCode::CONFLICT,
            "Resource conflict",
            "Such subscription already exists. Subscriptions are unique by project + queue + \
             subscriber URI.",
        ),
        Error::SubscriptionUnchanged { id } => described(
            StatusCode::BAD_REQUEST,
            "Unable to update subscription",
            &format!(
                "Subscription {id} could not be updated: the body names none of subscriber, ttl and \
                 options."
            ),
        ),
        Error::Forbidden => described(
            StatusCode::FORBIDDEN,
            "Not authorized",
            "You are not authorized to complete this action.",
        ),
        Error::CannotSeal => unavailable_as(CANNOT_SEAL, retry_after),
        Error::NotAuthenticated => respond::json(StatusCode::UNAUTHORIZED, UNAUTHORIZED),
        // The original's response to a token without a project.
        Error::NoProject => described(
            StatusCode::BAD_REQUEST,
            "Project-Id Missing",
            "The header X-PROJECT-ID was missing",
        ),
        // It must not be distinguishable from an unknown path.
        Error::NotGranted => HttpError::NoSuchPath.into_response(),
        Error::Rejected(Rejection::BadRequest(reason)) => {
            described(StatusCode::BAD_REQUEST, "Invalid API request", &reason)
        }
        Error::Rejected(Rejection::Forbidden(reason)) => {
            described(StatusCode::FORBIDDEN, "Not authorized", &reason)
        }
        Error::OverQuota { reason } => described(StatusCode::FORBIDDEN, "Quota exceeded", &reason),
        Error::OverRate { reason, .. } => unavailable_as(&reason, retry_after),
        Error::AuthenticationUnavailable { .. } => {
            unavailable_as("The Keystone service is temporarily unavailable.", retry_after)
        }
        Error::Overloaded { .. }
        | Error::DeadlineExceeded
        | Error::Contended
        | Error::TaskFailed { .. } => unavailable(retry_after),
        Error::Storage(error) => storage(&error, retry_after),
    }
}

fn pools_rule(rule: &PoolsRule) -> Response<Full<Bytes>> {
    let (status, title) = match rule {
        PoolsRule::PoolNotFound { .. }
        | PoolsRule::FlavorNotFound { .. }
        | PoolsRule::QueueNotFound { .. } => (StatusCode::NOT_FOUND, "Not found"),
        PoolsRule::UriInUse | PoolsRule::UriOfMessageStore | PoolsRule::CannotMove { .. } => {
            (StatusCode::CONFLICT, "Resource conflict")
        }
        PoolsRule::LastOfFlavor { .. } => (StatusCode::FORBIDDEN, "Unable to delete"),
        PoolsRule::Unable { title, .. } => (StatusCode::BAD_REQUEST, *title),
    };
    described(status, title, &rule.to_string())
}

fn storage(error: &storage::Error, retry_after: Duration) -> Response<Full<Bytes>> {
    match error {
        storage::Error::TooLarge { .. } => {
            described(StatusCode::BAD_REQUEST, "Invalid API request", &format!("{error}."))
        }
        storage::Error::Failed { .. } => {
            internal_error("The store failed; the server's log says why.")
        }
        storage::Error::Overloaded { .. }
        | storage::Error::Unavailable { .. }
        | storage::Error::ClockSkew { .. }
        | storage::Error::Full { .. }
        | storage::Error::Moved { .. }
        | storage::Error::Closed => unavailable(retry_after),
    }
}

fn internal_error(text: &str) -> Response<Full<Bytes>> {
    described(StatusCode::INTERNAL_SERVER_ERROR, "Internal server error", text)
}

/// The response while the server is overloaded or the store is unavailable.
pub(crate) fn unavailable(retry_after: Duration) -> Response<Full<Bytes>> {
    unavailable_as("Please try again in a few seconds.", retry_after)
}

/// When a client should retry after the server was overloaded.
const RETRY_OVERLOAD: Duration = Duration::from_secs(1);

fn unavailable_as(description: &str, retry_after: Duration) -> Response<Full<Bytes>> {
    let mut response =
        described(StatusCode::SERVICE_UNAVAILABLE, "Service temporarily unavailable", description);
    // Whole seconds, rounded up: with 0, all clients would retry at once.
    let seconds = retry_after.as_millis().div_ceil(1000).max(1).to_string();
    respond::set(&mut response, header::RETRY_AFTER, seconds);
    response
}

fn described(status: StatusCode, title: &str, description: &str) -> Response<Full<Bytes>> {
    let mut body = json!({ "title": title, "description": description }).to_string();
    // Of a long text it is charged by its length.
    body.shrink_to_fit();
    let mut response = respond::json(status, body);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn with_close(mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    respond::close(&mut response);
    response
}
