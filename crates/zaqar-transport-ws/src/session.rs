//! Who asks: what a connection has said of itself, and what a request brings.

use serde_json::Value;
use zaqar_api::{Api, Caller, SignedHeaders};
use zaqar_core::{ClientId, NameError, ProjectId, Timestamp};

use crate::action::Action;
use crate::error::WsError;
use crate::identity::Identity;
use crate::request::Request;

/// The project of requests that need none.
const NO_PROJECT: &str = "-";

/// How a connection knows its callers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trust<'a> {
    /// Nobody checks: requests are believed.
    Anybody,
    /// Somebody checks, and this is what came of it.
    Checked(Option<&'a Identity>),
}

/// Whose request this is.
///
/// # Errors
/// [`WsError::NotAuthenticated`], [`WsError::OtherProject`], and [`WsError::Invalid`] for a project id that cannot be.
pub(crate) fn caller(
    request: &Request,
    trust: Trust<'_>,
    api: &Api,
    now: Timestamp,
) -> Result<Caller, WsError> {
    let client = ClientId::new(&request.headers.text("Client-ID").unwrap_or_default());
    if let Trust::Checked(Some(identity)) = trust
        && now < identity.expires
    {
        return of_identity(request, identity, client);
    }
    if request.headers.get("URL-Signature").is_some() {
        return of_signature(request, api, client);
    }
    match trust {
        Trust::Checked(_) => Err(WsError::NotAuthenticated),
        Trust::Anybody => {
            let mut caller = Caller::new(project(request)?, client);
            if let Some(roles) = request.headers.text("X-Roles") {
                caller.roles = roles.split(',').map(|role| role.trim().to_owned()).collect();
            }
            Ok(caller)
        }
    }
}

fn of_identity(
    request: &Request,
    identity: &Identity,
    client: ClientId,
) -> Result<Caller, WsError> {
    match request.headers.text("X-Project-ID") {
        Some(project) if project == identity.project.as_str() => {}
        None if request.action.required_headers().is_empty() => {}
        Some(_) | None => return Err(WsError::OtherProject),
    }
    let mut caller = Caller::new(identity.project.clone(), client);
    caller.roles.clone_from(&identity.roles);
    Ok(caller)
}

fn of_signature(request: &Request, api: &Api, client: ClientId) -> Result<Caller, WsError> {
    let header = |name: &str| request.headers.get(name).map(|value| text_or_list(value));
    let (Some(method), Some(path)) = (request.action.signed_method(), path(request)) else {
        return Err(WsError::NotAuthenticated);
    };
    let [project, paths, methods, expires, signature] =
        ["X-Project-ID", "URL-Paths", "URL-Methods", "URL-Expires", "URL-Signature"]
            .map(|name| header(name).unwrap_or_default());
    let signed = SignedHeaders {
        project: &project,
        paths: &paths,
        methods: &methods,
        expires: &expires,
        signature: &signature,
    };
    api.signed_caller(&signed, client, method, &path).ok_or(WsError::NotAuthenticated)
}

/// A header's text; lists, as a share answers them, become what HTTP headers say.
fn text_or_list(value: &[u8]) -> String {
    match serde_json::from_slice(value) {
        Ok(Value::String(text)) => text,
        Ok(Value::Array(list)) => {
            list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
        }
        Ok(_) | Err(_) => String::new(),
    }
}

/// The HTTP path of what an action touches: what signed URLs are for.
fn path(request: &Request) -> Option<String> {
    let messages = format!("/v2/queues/{}/messages", request.queue()?);
    Some(match request.action {
        Action::MessageGet | Action::MessageDelete => {
            format!("{messages}/{}", request.body.text("message_id")?)
        }
        _ => messages,
    })
}

fn project(request: &Request) -> Result<ProjectId, WsError> {
    let text = match request.headers.text("X-Project-ID") {
        Some(text) => text,
        None if request.action.required_headers().is_empty() => NO_PROJECT.to_owned(),
        None => String::new(),
    };
    ProjectId::new(text.trim()).map_err(|error| match error {
        NameError::ProjectTooLong { max, .. } => {
            WsError::invalid(format!("Project ids may not be more than {max} characters long."))
        }
        NameError::ProjectEmpty | NameError::QueueTooLong { .. } | NameError::QueueCharacters => {
            WsError::invalid("X-PROJECT-ID cannot be an empty string.")
        }
    })
}
