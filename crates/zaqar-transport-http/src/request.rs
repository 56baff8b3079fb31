//! Validates the headers of a request, in the order of the original, and identifies its caller.

use std::sync::Arc;

use http::Method;
use http::header::{self, HeaderMap, HeaderName};
use zaqar_api::{
    Api, AuthRequest, Authentication, Context, ProfilerHeaders, QueueRef, RequestId, SignedHeaders,
    TraceParent, Wire,
};
use zaqar_core::limits::ClientIds;
use zaqar_core::{ClientId, Kind, Limits, NameError, ProjectId, QueueName};

use crate::error::{HttpError, PATCH_TYPE};

/// Rejects the content type of HTML forms, which `curl -d` sends by default.
pub(crate) fn check_content_type(headers: &HeaderMap) -> Result<(), HttpError> {
    let is_form = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value == "application/x-www-form-urlencoded");
    let has_body = headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0");
    if is_form && has_body { Err(HttpError::FormContent) } else { Ok(()) }
}

/// Whether the content type is that of a metadata patch.
pub(crate) fn is_patch(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let essence = kind.and_then(|kind| kind.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case(PATCH_TYPE))
}

/// Checks that the client accepts JSON. `also` is another type that the resource serves.
pub(crate) fn check_accept(headers: &HeaderMap, also: &str) -> Result<(), HttpError> {
    let mut ranges = headers
        .get_all(header::ACCEPT)
        .iter()
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

// Parsed once: a lookup by a text parses it each time.
static CLIENT_ID: HeaderName = HeaderName::from_static("client-id");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static URL_EXPIRES: HeaderName = HeaderName::from_static("url-expires");
static URL_METHODS: HeaderName = HeaderName::from_static("url-methods");
static URL_PATHS: HeaderName = HeaderName::from_static("url-paths");
static URL_SIGNATURE: HeaderName = HeaderName::from_static("url-signature");
static X_AUTH_TOKEN: HeaderName = HeaderName::from_static("x-auth-token");
static X_OPENSTACK_REQUEST_ID: HeaderName = HeaderName::from_static("x-openstack-request-id");
static X_PROJECT_ID: HeaderName = HeaderName::from_static("x-project-id");
static X_ROLES: HeaderName = HeaderName::from_static("x-roles");
static X_SERVICE_TOKEN: HeaderName = HeaderName::from_static("x-service-token");
static X_STORAGE_TOKEN: HeaderName = HeaderName::from_static("x-storage-token");
static X_TRACE_HMAC: HeaderName = HeaderName::from_static("x-trace-hmac");
static X_TRACE_INFO: HeaderName = HeaderName::from_static("x-trace-info");

/// Headers that identify the caller: one that a client sends must not override the one that a proxy
/// adds.
const SINGLE: [&str; 10] = [
    "Client-ID",
    "URL-Expires",
    "URL-Methods",
    "URL-Paths",
    "URL-Signature",
    "X-Auth-Token",
    "X-Project-ID",
    "X-Roles",
    "X-Service-Token",
    "X-Storage-Token",
];

/// Checks that each header that identifies the caller is present at most once and is UTF-8, so that
/// two callers cannot be confused.
pub(crate) fn check_identity(headers: &HeaderMap) -> Result<(), HttpError> {
    // A walk over what was sent costs less than a lookup of each name.
    for sent in headers.keys() {
        let is_it = |name: &&str| name.eq_ignore_ascii_case(sent.as_str());
        let Some(name) = SINGLE.into_iter().find(is_it) else { continue };
        let mut values = headers.get_all(sent).iter();
        let Some(value) = values.next() else { continue };
        let more = values.count();
        if more > 0 {
            return Err(HttpError::header(
                format!("Repeated header {name}"),
                format!(
                    "The header {name} may be sent once; this request has it {} times.",
                    more + 1
                ),
            ));
        }
        if std::str::from_utf8(value.as_bytes()).is_err() {
            return Err(HttpError::header(
                format!("Invalid header {name}"),
                format!("The value of the header {name} must be UTF-8."),
            ));
        }
    }
    Ok(())
}

/// The context of a request that has passed [`check_identity`].
pub(crate) fn context(
    headers: &HeaderMap,
    kind: Kind,
    limits: &Limits,
    authentication: Authentication,
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
        global_request_id: text(headers, &X_OPENSTACK_REQUEST_ID).and_then(RequestId::parse),
        trace_parent: text(headers, &TRACEPARENT).and_then(TraceParent::parse),
        profiler: profiler(headers),
        ..Context::new(project, client).authenticated(authentication)
    })
}

/// OSprofiler's headers, if both are present; the tracer checks their signature.
fn profiler(headers: &HeaderMap) -> Option<Arc<ProfilerHeaders>> {
    let info = text(headers, &X_TRACE_INFO)?.to_owned();
    let signature = text(headers, &X_TRACE_HMAC)?.to_owned();
    Some(Arc::new(ProfilerHeaders { info, signature }))
}

/// Headers, without `x-` or `x-service-`, that Keystone's middleware sets for the service behind
/// it. From a client they are unproven claims.
const CLAIMS: [&str; 11] = [
    "domain-id",
    "domain-name",
    "project-domain-id",
    "project-domain-name",
    "project-id",
    "project-name",
    "roles",
    "user-domain-id",
    "user-domain-name",
    "user-id",
    "user-name",
];

/// Older headers, and those without an `x-service-` variant, without `x-`.
const OTHER_CLAIMS: [&str; 9] = [
    "identity-status",
    "is-admin-project",
    "role",
    "service-catalog",
    "service-identity-status",
    "tenant",
    "tenant-id",
    "tenant-name",
    "user",
];

fn is_claim(name: &str) -> bool {
    let Some(claim) = name.strip_prefix("x-") else { return name == "openstack-system-scope" };
    OTHER_CLAIMS.contains(&claim)
        || CLAIMS.contains(&claim.strip_prefix("service-").unwrap_or(claim))
}

/// Removes headers in which a client claims an identity, before anything reads them: only a token
/// proves one. The project of a signed request stays, as the signature covers it.
pub(crate) fn drop_claims(headers: &mut HeaderMap) {
    let is_signed = headers.contains_key(&URL_SIGNATURE);
    let names = headers.keys().filter(|name| is_claim(name.as_str()));
    let claims: Vec<_> =
        names.filter(|name| !(is_signed && *name == "x-project-id")).cloned().collect();
    for claim in claims {
        headers.remove(claim);
    }
}

/// Authenticates a request by its tokens. With `keeps_token` the identity includes the token, for a
/// request that may act for its caller.
pub(crate) async fn token(
    api: &Api,
    headers: &HeaderMap,
    (method, path): (&Method, &str),
    keeps_token: bool,
) -> Result<Authentication, HttpError> {
    let auth = AuthRequest {
        user_token: text(headers, &X_AUTH_TOKEN).or_else(|| text(headers, &X_STORAGE_TOKEN)),
        service_token: text(headers, &X_SERVICE_TOKEN),
        request: Some((method.as_str(), path)),
        trace_parent: text(headers, &TRACEPARENT).and_then(TraceParent::parse),
    };
    let identity = api.authenticate(auth).await?;
    Ok(Authentication::Token(match auth.user_token {
        Some(token) if keeps_token => Arc::new(identity.with_token(token.trim())),
        Some(_) | None => identity,
    }))
}

/// A caller without authentication, which is trusted with its `X-Roles`.
pub(crate) fn unchecked(headers: &HeaderMap) -> Authentication {
    let roles = text(headers, &X_ROLES).map_or_else(Vec::new, |roles| {
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
pub(crate) fn signed(headers: &HeaderMap) -> Option<SignedHeaders<'_>> {
    let signature = headers.get(&URL_SIGNATURE)?;
    Some(SignedHeaders {
        project: text(headers, &X_PROJECT_ID).unwrap_or_default(),
        paths: text(headers, &URL_PATHS).unwrap_or_default(),
        methods: text(headers, &URL_METHODS).unwrap_or_default(),
        expires: text(headers, &URL_EXPIRES).unwrap_or_default(),
        signature: signature.to_str().unwrap_or_default(),
    })
}

/// Whitespace around a header value in HTTP; other whitespace is part of the value.
const SPACE: [char; 2] = [' ', '\t'];

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    std::str::from_utf8(headers.get(name)?.as_bytes()).ok()
}

fn client(headers: &HeaderMap, limits: &Limits) -> Result<ClientId, HttpError> {
    let Some(text) = text(headers, &CLIENT_ID) else {
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

fn project(headers: &HeaderMap, kind: Kind) -> Result<ProjectId, HttpError> {
    let Some(text) = text(headers, &X_PROJECT_ID) else {
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
    use http::HeaderValue;

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
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_str(accept).unwrap());
            assert_eq!(check_accept(&headers, "").is_ok(), accepted, "{accept}");
        }
        assert!(check_accept(&HeaderMap::new(), "").is_ok());
    }

    #[test]
    fn claims_of_identity_are_dropped_and_nothing_else() {
        let names = [
            "x-project-id",
            "x-service-project-id",
            "x-roles",
            "x-user-domain-name",
            "x-tenant",
            "x-service-catalog",
            "x-service-identity-status",
            "openstack-system-scope",
            "x-auth-token",
            "x-service-token",
            "x-storage-token",
            "client-id",
            "x-openstack-request-id",
        ];
        let of = |more: &[&'static str]| {
            let names = names.iter().chain(more).copied();
            let mut headers: HeaderMap = names
                .map(|name| (http::HeaderName::from_static(name), HeaderValue::from_static("v")))
                .collect();
            drop_claims(&mut headers);
            let mut left: Vec<_> = headers.keys().map(|name| name.as_str().to_owned()).collect();
            left.sort_unstable();
            left
        };
        let mut left = [
            "client-id",
            "x-auth-token",
            "x-openstack-request-id",
            "x-service-token",
            "x-storage-token",
        ]
        .map(str::to_owned)
        .to_vec();
        assert_eq!(of(&[]), left);
        left.extend(["url-signature".to_owned(), "x-project-id".to_owned()]);
        left.sort_unstable();
        assert_eq!(of(&["url-signature"]), left);
    }

    #[test]
    fn client_ids_follow_the_configuration() {
        let mut headers = HeaderMap::new();
        headers.insert("client-id", HeaderValue::from_static("short"));
        headers.insert("x-project-id", HeaderValue::from_static("p"));
        let taken = |headers: &HeaderMap, limits: &Limits| {
            let unchecked = Authentication::Unchecked { roles: Vec::new() };
            context(headers, Kind::Queue, limits, unchecked)
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
