//! Identifies the caller of a request: by the connection's identity, or by the request's headers.

use std::sync::Arc;

use serde_json::Value;
use zaqar_api::{
    Api, Authentication, Context, Identity, RequestId, SignedHeaders, TraceParent, Wire,
};
use zaqar_core::{ClientId, NameError, ProjectId};

use crate::error::WsError;
use crate::request::Request;

/// The project of requests that need no project.
const NO_PROJECT: &str = "-";

/// The context of a request. The caller is identified by the connection's token, by a signature,
/// or, without an authenticator, by the request's own headers.
///
/// # Errors
/// [`WsError::NotAuthenticated`], [`WsError::OtherProject`], and [`WsError::Invalid`] for an
/// invalid project id.
pub(crate) fn context(
    request: &Request,
    identity: Option<&Arc<Identity>>,
    api: &Api,
) -> Result<Context, WsError> {
    let now = api.clock().now();
    let (project, authentication) = match identity.filter(|identity| now < identity.expires) {
        Some(identity) => by_identity(request, identity)?,
        None if request.headers.get("URL-Signature").is_some() => by_signature(request, api)?,
        None if api.authenticator().is_some() => return Err(WsError::NotAuthenticated),
        None => without_check(request)?,
    };
    let text = |name| request.headers.text(name);
    let client = ClientId::new(&text("Client-ID").unwrap_or_default());
    Ok(Context {
        wire: Wire::WebSocket,
        global_request_id: text("X-OpenStack-Request-ID").and_then(|id| RequestId::parse(&id)),
        trace_parent: text("traceparent").and_then(|parent| TraceParent::parse(&parent)),
        ..Context::new(project, client).authenticated(authentication)
    })
}

fn by_identity(
    request: &Request,
    identity: &Arc<Identity>,
) -> Result<(ProjectId, Authentication), WsError> {
    match request.headers.text("X-Project-ID") {
        Some(project) if project == identity.project.as_str() => {}
        None if request.action.required_headers().is_empty() => {}
        Some(_) | None => return Err(WsError::OtherProject),
    }
    Ok((identity.project.clone(), Authentication::Token(Arc::clone(identity))))
}

fn by_signature(request: &Request, api: &Api) -> Result<(ProjectId, Authentication), WsError> {
    let header = |name: &str| request.headers.get(name).map(|value| text_or_list(value));
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
    let grant = api.verify_signature(&signed).ok_or(WsError::NotAuthenticated)?;
    Ok((grant.project.clone(), Authentication::Signature(grant)))
}

fn without_check(request: &Request) -> Result<(ProjectId, Authentication), WsError> {
    let roles = request.headers.text("X-Roles").map_or_else(Vec::new, |roles| {
        roles.split(',').map(|role| role.trim_matches([' ', '\t']).to_owned()).collect()
    });
    Ok((project(request)?, Authentication::Unchecked { roles }))
}

/// A header as a string; a list, as in the answer to a share, is joined with commas as in HTTP
/// headers.
fn text_or_list(value: &[u8]) -> String {
    match serde_json::from_slice(value) {
        Ok(Value::String(text)) => text,
        Ok(Value::Array(list)) => {
            list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
        }
        Ok(_) | Err(_) => String::new(),
    }
}

fn project(request: &Request) -> Result<ProjectId, WsError> {
    let text = match request.headers.text("X-Project-ID") {
        Some(text) => text,
        None if request.action.required_headers().is_empty() => NO_PROJECT.to_owned(),
        None => String::new(),
    };
    ProjectId::new(&text).map_err(|error| match error {
        NameError::ProjectTooLong { max, .. } => {
            WsError::invalid(format!("Project ids may not be more than {max} characters long."))
        }
        NameError::ProjectWhitespace => {
            WsError::invalid("Project ids may neither start nor end with whitespace characters.")
        }
        NameError::ProjectEmpty | NameError::QueueTooLong { .. } | NameError::QueueCharacters => {
            WsError::invalid("X-PROJECT-ID cannot be an empty string.")
        }
    })
}
