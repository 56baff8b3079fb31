//! Every error of this wire, and the one place where each becomes a status.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::json;
use tracing::{error, warn};
use zaqar_api::Part;
use zaqar_core::storage;

use crate::respond;

/// Why a request gets no answer of its operation.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("no such path")]
    NoSuchPath,
    #[error("no such method")]
    MethodNotAllowed { allow: String },
    #[error("not a method of HTTP")]
    UnknownMethod,
    #[error("no host, or several")]
    NotForUs,
    #[error("the answer would be JSON")]
    NotAcceptable,
    #[error("form content")]
    FormContent,
    #[error("not a patch")]
    PatchType,
    #[error("missing header {name}")]
    MissingHeader { name: &'static str },
    #[error("{title}")]
    Header { title: String, description: &'static str },
    #[error("bad {kind} name")]
    Identification { kind: &'static str, rule: String },
    #[error("bad parameter {name}")]
    Parameter { name: &'static str, rule: &'static str },
    #[error("{reason}")]
    Body { reason: String },
    #[error("{reason}")]
    TooLarge { reason: String },
    #[error("the body did not arrive in time")]
    BodyTimeout,
    #[error("the body did not arrive")]
    BodyBroken,
    #[error("{description}")]
    NotFound { description: String },
    #[error(transparent)]
    Api(#[from] zaqar_api::Error),
}

impl HttpError {
    pub(crate) fn body(reason: impl Into<String>) -> Self {
        Self::Body { reason: reason.into() }
    }

    /// The response that tells the caller.
    pub(crate) fn into_response(self) -> Response<Full<Bytes>> {
        let bad_request = StatusCode::BAD_REQUEST;
        match self {
            // Also for a signature that does not hold: it is not told from a path that leads nowhere.
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
            Self::NotForUs => described(
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
                let accepted = crate::request::PATCH_TYPE;
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
            Self::Header { title, description } => described(bad_request, &title, description),
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
            Self::BodyTimeout => closing(described(
                StatusCode::REQUEST_TIMEOUT,
                "408 Request Timeout",
                "The request body did not arrive in time.",
            )),
            Self::BodyBroken => closing(described(
                bad_request,
                "Invalid request body",
                "The request body could not be read.",
            )),
            Self::NotFound { description } => {
                described(StatusCode::NOT_FOUND, "Not found", &description)
            }
            Self::Api(error) => api(error),
        }
    }
}

fn api(error: zaqar_api::Error) -> Response<Full<Bytes>> {
    use zaqar_api::Error;
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
            };
            let text = format!("{kind} {} does not exist for project {}", key.name, key.project);
            described(StatusCode::NOT_FOUND, "Not found", &text)
        }
        Error::Conflict { reason } => described(StatusCode::CONFLICT, "Resource conflict", &reason),
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
        error @ (Error::CannotSeal | Error::CannotOpen { .. }) => {
            error!(%error, "encryption failed");
            let text = format!("{error}.");
            described(StatusCode::INTERNAL_SERVER_ERROR, "Internal server error", &text)
        }
        Error::Contended => unavailable(Duration::from_secs(1)),
        Error::Storage(error) => storage(&error),
    }
}

fn storage(error: &storage::Error) -> Response<Full<Bytes>> {
    let cause = error as &dyn std::error::Error;
    match error {
        storage::Error::Overloaded { retry_after } => unavailable(*retry_after),
        storage::Error::Unavailable { .. } => {
            warn!(error = cause, "store unavailable");
            unavailable(Duration::from_secs(5))
        }
        storage::Error::Closed => unavailable(Duration::from_secs(5)),
        storage::Error::Failed { .. } => {
            error!(error = cause, "store failed");
            described(
                StatusCode::INTERNAL_SERVER_ERROR,
                "Internal server error",
                "The store failed; the server's log says why.",
            )
        }
    }
}

/// The answer of a server that has too much to do or has lost its store.
pub(crate) fn unavailable(retry_after: Duration) -> Response<Full<Bytes>> {
    let mut response = described(
        StatusCode::SERVICE_UNAVAILABLE,
        "Service temporarily unavailable",
        "Please try again in a few seconds.",
    );
    // Whole seconds, rounded up: 0 would ask for a storm.
    let seconds = retry_after.as_millis().div_ceil(1000).max(1).to_string();
    respond::set(&mut response, header::RETRY_AFTER, seconds);
    response
}

fn described(status: StatusCode, title: &str, description: &str) -> Response<Full<Bytes>> {
    let body = json!({ "title": title, "description": description });
    let mut response = respond::json(status, body.to_string());
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn closing(mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
