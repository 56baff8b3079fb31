//! Validates the headers of a request, in the order of the original, and identifies its caller.

use std::sync::Arc;

use http::Method;
use zaqar_api::{
    Api, AuthRequest, Authentication, Context, Identity, ProfilerHeaders, QueueRef, RequestId,
    SignedHeaders, TraceParent, Wire,
};
use zaqar_core::limits::ClientIds;
use zaqar_core::{ClientId, Kind, Limits, NameError, ProjectId, QueueName};

use crate::error::{HttpError, PATCH_TYPE};
use crate::headers::Headers;

/// Rejects the content type of HTML forms, which `curl -d` sends by default.
pub(crate) fn check_content_type(headers: &Headers<'_>) -> Result<(), HttpError> {
    let is_form =
        headers.content_type.is_some_and(|value| value == "application/x-www-form-urlencoded");
    let has_body = || {
        headers.transfer_encoding.is_some()
            || headers.content_length.is_some_and(|length| length != "0")
    };
    if is_form && has_body() { Err(HttpError::FormContent) } else { Ok(()) }
}

/// Whether the content type is that of a metadata patch.
pub(crate) fn is_patch(headers: &Headers<'_>) -> bool {
    let kind = headers.content_type.and_then(|kind| kind.to_str().ok());
    let essence = kind.and_then(|kind| kind.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case(PATCH_TYPE))
}

/// Checks that the client accepts JSON. `also` is another type that the resource serves.
pub(crate) fn check_accept(headers: &Headers<'_>, also: &str) -> Result<(), HttpError> {
    let mut ranges = headers
        .accept()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|range| !range.is_empty())
        .peekable();
    if ranges.peek().is_none() || ranges.any(|range| accepts_json(range, also)) {
        return Ok(());
    }
    Err(HttpError::NotAcceptable)
}

fn accepts_json(range: &str, also: &str) -> bool {
    let mut parts = range.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default();
    let excluded = parts
        .filter_map(|parameter| parameter.strip_prefix("q="))
        .any(|q| q.parse().is_ok_and(|q: f32| q <= 0.0));
    let matches = ["application/json", "application/*", "*/*", "*", also]
        .iter()
        .any(|accepted| accepted.eq_ignore_ascii_case(kind));
    matches && !excluded
}

/// The context of a request that has passed [`Headers::check_identity`].
pub(crate) fn context(
    headers: &Headers<'_>,
    kind: Kind,
    limits: &Limits,
    authentication: Authentication,
    request_id: RequestId,
) -> Result<Context, HttpError> {
    let client = client(headers, limits)?;
    let project = match &authentication {
        Authentication::Token(identity) => identity.project.clone(),
        Authentication::Unchecked { .. }
        | Authentication::Signature(_)
        | Authentication::Server => project(headers, kind)?,
    };
    Ok(Context {
        wire: Wire::Http,
        authentication,
        global_request_id: headers.openstack_request_id.and_then(RequestId::parse),
        trace_parent: headers.traceparent.and_then(TraceParent::parse),
        profiler: profiler(headers),
        ..Context::of_request(project, client, request_id)
    })
}

/// OSprofiler's headers, if both are present; the tracer checks their signature.
fn profiler(headers: &Headers<'_>) -> Option<Arc<ProfilerHeaders>> {
    let info = headers.trace_info?.to_owned();
    let signature = headers.trace_hmac?.to_owned();
    Some(Arc::new(ProfilerHeaders { info, signature }))
}

/// The credentials of a request.
#[inline]
pub(crate) fn auth<'a>(
    headers: &Headers<'a>,
    (method, path): (&'a Method, &'a str),
) -> AuthRequest<'a> {
    AuthRequest {
        user_token: headers.auth_token.or(headers.storage_token),
        service_token: headers.service_token,
        request: Some((method.as_str(), path)),
        trace_parent: headers.traceparent.and_then(TraceParent::parse),
    }
}

/// What the tokens of a request prove. With `keeps_token` the identity includes the token, for a
/// request that may act for its caller.
pub(crate) fn authenticated(
    identity: Arc<Identity>,
    auth: AuthRequest<'_>,
    keeps_token: bool,
) -> Authentication {
    Authentication::Token(match auth.user_token {
        Some(token) if keeps_token => Arc::new(identity.with_token(token.trim())),
        Some(_) | None => identity,
    })
}

/// A caller without authentication, which is trusted with its `X-Roles`.
pub(crate) fn unchecked(headers: &Headers<'_>) -> Authentication {
    let roles = headers.roles.map_or_else(Vec::new, |roles| {
        roles.split(',').map(|role| role.trim_matches(SPACE).to_owned()).collect()
    });
    Authentication::Unchecked { roles }
}

/// The grant of a signature, if it is valid and covers the method and path of the request.
pub(crate) fn granted(
    api: &Api,
    signed: &SignedHeaders<'_>,
    method: &Method,
    path: &str,
) -> Result<Authentication, HttpError> {
    let grant = api.verify_signature(signed);
    let covered = grant.filter(|grant| grant.covers(method.as_str(), path));
    let mut grant = covered.ok_or(zaqar_api::Error::NotGranted)?;
    if method == Method::HEAD {
        // HEAD is answered by the operation of GET.
        grant.methods = vec![Method::GET.as_str().to_owned()];
    }
    Ok(Authentication::Signature(grant))
}

/// The signature that a request has instead of a token. An empty one counts too, and is never
/// valid.
pub(crate) fn signed<'a>(headers: &Headers<'a>) -> Option<SignedHeaders<'a>> {
    let signature = headers.url_signature?;
    Some(SignedHeaders {
        project: headers.project_id.unwrap_or_default(),
        paths: headers.url_paths.unwrap_or_default(),
        methods: headers.url_methods.unwrap_or_default(),
        expires: headers.url_expires.unwrap_or_default(),
        signature: signature.to_str().unwrap_or_default(),
    })
}

/// Whitespace around a header value in HTTP; other whitespace is part of the value.
const SPACE: [char; 2] = [' ', '\t'];

fn client(headers: &Headers<'_>, limits: &Limits) -> Result<ClientId, HttpError> {
    let Some(text) = headers.client_id else {
        return Err(HttpError::MissingHeader { name: "Client-Id" });
    };
    match limits.client_ids {
        ClientIds::Strict => ClientId::uuid(text.trim_matches(SPACE))
            .ok_or_else(|| HttpError::header("Wrong UUID value", "Malformed hexadecimal UUID.")),
        ClientIds::Off { min, max } => {
            let chars = text.chars().count();
            if (min..=max).contains(&chars) {
                return Ok(ClientId::new(text));
            }
            Err(HttpError::header(
                format!("Length of client id must be at least {min} and no greater than {max}."),
                "The Client-ID header is too short or too long.",
            ))
        }
    }
}

fn project(headers: &Headers<'_>, kind: Kind) -> Result<ProjectId, HttpError> {
    let Some(text) = headers.project_id else {
        return Err(HttpError::header("Project-Id Missing", "The header X-PROJECT-ID was missing"));
    };
    let title = || format!("Invalid {} identification", kind.as_str());
    ProjectId::new(text.trim_matches(SPACE)).map_err(|error| match error {
        NameError::ProjectEmpty => HttpError::header(
            "Empty project header not allowed",
            "X-PROJECT-ID cannot be an empty string. Specify the right header X-PROJECT-ID and \
             retry.",
        ),
        NameError::ProjectWhitespace => HttpError::header(
            title(),
            "Project ids may neither start nor end with whitespace characters.",
        ),
        NameError::ProjectTooLong { .. }
        | NameError::QueueTooLong { .. }
        | NameError::QueueCharacters => {
            HttpError::header(title(), "Project ids may not be more than 256 characters long.")
        }
    })
}

/// The queue or topic of a path.
pub(crate) fn queue(kind: Kind, name: &str) -> Result<QueueRef, HttpError> {
    match QueueName::new(name) {
        Ok(name) => Ok(QueueRef { kind, name }),
        Err(error) => {
            let kind = kind.as_str();
            let rule = match error {
                NameError::QueueTooLong { chars, max } => {
                    format!("a {kind} name has at most {max} characters, this one has {chars}")
                }
                NameError::QueueCharacters
                | NameError::ProjectEmpty
                | NameError::ProjectWhitespace
                | NameError::ProjectTooLong { .. } => format!(
                    "a {kind} name has 1 to {} ASCII letters, digits, underscores, dots and dashes",
                    QueueName::MAX_CHARS
                ),
            };
            Err(HttpError::Identification { kind, rule })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::Claims;
    use http::header::{self, HeaderMap, HeaderValue};

    #[test]
    fn json_must_be_acceptable() {
        for (accept, accepted) in [
            ("application/json", true),
            ("*/*", true),
            ("*", true),
            ("application/*", true),
            ("", true),
            ("text/plain, application/json;q=0.1", true),
            ("application/json; charset=utf-8", true),
            ("application/json;q=0", false),
            ("text/html", false),
            ("garbage", false),
            ("application/json-home", false),
        ] {
            let mut map = HeaderMap::new();
            map.insert(header::ACCEPT, HeaderValue::from_str(accept).unwrap());
            let headers = Headers::read(&map, Claims::Believed);
            assert_eq!(check_accept(&headers, "").is_ok(), accepted, "{accept}");
        }
        let map = HeaderMap::new();
        assert!(check_accept(&Headers::read(&map, Claims::Believed), "").is_ok());
    }

    #[test]
    fn client_ids_follow_the_configuration() {
        let mut headers = HeaderMap::new();
        headers.insert("client-id", HeaderValue::from_static("short"));
        headers.insert("x-project-id", HeaderValue::from_static("p"));
        let taken = |headers: &HeaderMap, limits: &Limits| {
            let headers = Headers::read(headers, Claims::Believed);
            let unchecked = Authentication::Unchecked { roles: Vec::new() };
            context(&headers, Kind::Queue, limits, unchecked, RequestId::random())
        };
        let strict = Limits::default();
        assert!(taken(&headers, &strict).is_err());
        let off =
            |min, max| Limits { client_ids: ClientIds::Off { min, max }, ..Limits::default() };
        assert!(taken(&headers, &off(5, 5)).is_ok());
        assert!(taken(&headers, &off(6, 9)).is_err());
        assert!(taken(&headers, &off(1, 4)).is_err());
    }
}
