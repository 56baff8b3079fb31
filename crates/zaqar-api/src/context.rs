//! The context of an operation: its caller, and the request that it belongs to.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use serde_json::Map;
use zaqar_core::signing::Grant;
use zaqar_core::{ClientId, ProjectId, QueueKey, Secret, Timestamp, hex};

use crate::{Attributes, PushHandle, QueueRef};

/// The caller of an operation, and the request that it belongs to. A transport creates one for each
/// request.
#[derive(Debug, Clone)]
pub struct Context {
    /// The tenant whose queues are addressed.
    pub project: ProjectId,
    /// The client, for `echo`.
    pub client: ClientId,
    /// How the caller was authenticated.
    pub authentication: Authentication,
    /// The transport of the request; only metrics use it.
    pub wire: Wire,
    /// Identifies this request in logs and answers.
    pub request_id: RequestId,
    /// The id of the request to another service that caused this one, as the caller sent it.
    pub global_request_id: Option<RequestId>,
    /// The caller's span.
    pub trace_parent: Option<TraceParent>,
    /// OSprofiler's headers, unverified; over HTTP only.
    pub profiler: Option<Arc<ProfilerHeaders>>,
    /// The connection of the request, if it receives pushes: it is not closed for what it ends
    /// itself.
    pub connection: Option<PushHandle>,
    /// When the caller stops waiting: the operation then fails with
    /// [`crate::Error::DeadlineExceeded`]. A change in progress may have been made.
    pub deadline: Option<Instant>,
}

impl Context {
    /// An unauthenticated client of a project, without roles.
    pub fn new(project: ProjectId, client: ClientId) -> Self {
        Self::of_request(project, client, RequestId::random())
    }

    /// As [`Context::new`], with the request's id.
    pub fn of_request(project: ProjectId, client: ClientId, request_id: RequestId) -> Self {
        Self {
            project,
            client,
            authentication: Authentication::Unchecked { roles: Vec::new() },
            wire: Wire::InProcess,
            request_id,
            global_request_id: None,
            trace_parent: None,
            profiler: None,
            connection: None,
            deadline: None,
        }
    }

    /// The same request with another authentication.
    #[must_use]
    pub fn authenticated(self, authentication: Authentication) -> Self {
        Self { authentication, ..self }
    }

    /// Whether the caller has a role; case is ignored.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles().iter().any(|has| has.eq_ignore_ascii_case(role))
    }

    /// The caller's roles in the project.
    pub fn roles(&self) -> &[String] {
        match &self.authentication {
            Authentication::Unchecked { roles } => roles,
            Authentication::Token(identity) => &identity.roles,
            Authentication::Signature(_) | Authentication::Server => &[],
        }
    }

    pub(crate) fn key(&self, queue: QueueRef) -> QueueKey {
        QueueKey { project: self.project.clone(), kind: queue.kind, name: queue.name }
    }
}

/// The transport of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Wire {
    /// None: the caller is in this process, such as the server itself when it pushes messages.
    #[default]
    InProcess,
    /// Over HTTP.
    Http,
    /// Over a WebSocket connection.
    WebSocket,
}

/// How a caller was authenticated.
#[derive(Debug, Clone)]
pub enum Authentication {
    /// Not at all: the caller's claims are trusted. Accepted only without an
    /// [`crate::Authenticator`].
    Unchecked {
        /// The roles that it claims.
        roles: Vec<String>,
    },
    /// By a token, which is valid until the identity expires.
    Token(Arc<Identity>),
    /// By a valid signature: no user, no roles, and only what the grant covers.
    Signature(Grant),
    /// The server itself, which pushes messages to subscribers.
    Server,
}

/// The requests that a token is limited to.
pub trait RequestLimit: fmt::Debug + Send + Sync {
    /// Whether the token allows a request, by its method and path in the REST API.
    fn allows(&self, method: &str, path: &str) -> bool;
}

/// What a valid token stands for.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The project that the token is for.
    pub project: ProjectId,
    /// The user's id.
    pub user: String,
    /// The user's roles in the project.
    pub roles: Vec<String>,
    /// When the token expires.
    pub expires: Timestamp,
    /// All attributes that policies can use.
    pub attributes: Arc<Attributes>,
    /// The requests that the token is limited to, unless they were checked already.
    pub requests: Option<Arc<dyn RequestLimit>>,
    /// The token itself, if the request may need it to act for the caller.
    pub token: Option<Secret<String>>,
}

impl Identity {
    /// A user of a project with roles and no other attributes.
    pub fn new(project: ProjectId, user: &str, roles: Vec<String>, expires: Timestamp) -> Self {
        let mut attributes = Map::new();
        attributes.insert("user_id".to_owned(), user.into());
        attributes.insert("project_id".to_owned(), project.as_str().into());
        attributes.insert("roles".to_owned(), roles.clone().into());
        let attributes = Attributes::new(project.clone(), Arc::new(attributes));
        let (user, attributes) = (user.to_owned(), Arc::new(attributes));
        Self { project, user, roles, expires, attributes, requests: None, token: None }
    }

    /// The same identity with its token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(Secret::new(token.to_owned())), ..self.clone() }
    }
}

/// The id of a request: `req-` and a UUID in lower case.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId([u8; Self::LENGTH]);

impl RequestId {
    const LENGTH: usize = 40;

    /// A new one, of a random UUID (version 4).
    pub fn random() -> Self {
        let random: u128 = rand::random();
        // The version and the variant (RFC 9562).
        let uuid = random & !(0xf << 76) & !(0b11 << 62) | 4 << 76 | 0b10 << 62;
        let digits = hex(uuid);
        let mut id = *b"req-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
        id[4..12].copy_from_slice(&digits[..8]);
        id[13..17].copy_from_slice(&digits[8..12]);
        id[18..22].copy_from_slice(&digits[12..16]);
        id[23..27].copy_from_slice(&digits[16..20]);
        id[28..].copy_from_slice(&digits[20..]);
        Self(id)
    }

    /// Parses an id that a caller sent; `None` for anything else, so that logs contain no arbitrary
    /// text.
    pub fn parse(text: &str) -> Option<Self> {
        let id: [u8; Self::LENGTH] = text.as_bytes().try_into().ok()?;
        let fits = id.iter().enumerate().all(|(at, byte)| match at {
            0..4 => *byte == b"req-"[at],
            12 | 17 | 22 | 27 => *byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        });
        fits.then_some(Self(id))
    }

    /// The id as ASCII text.
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        // The bytes are always ASCII.
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The headers of OSprofiler as received: the tracer verifies their signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfilerHeaders {
    /// `X-Trace-Info`
    pub info: String,
    /// `X-Trace-HMAC`
    pub signature: String,
}

/// The parent span of a request (W3C Trace Context, `traceparent`, version 00).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace; not 0.
    pub trace: u128,
    /// The caller's span; not 0.
    pub span: u64,
    /// The caller records the trace.
    pub sampled: bool,
}

impl TraceParent {
    /// Parses the header; `None` for a malformed one, which the standard says to ignore.
    pub fn parse(text: &str) -> Option<Self> {
        let (head, flags) = (text.get(..53)?, text.get(53..55)?);
        let (version, rest) = head.split_at_checked(3)?;
        let (trace, span) = (rest.get(..32)?, rest.get(33..49)?);
        let is_hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let fits = text.len() == 55 && version == "00-" && is_hex(trace) && is_hex(span);
        if !fits || rest.as_bytes()[32] != b'-' || rest.as_bytes()[49] != b'-' || !is_hex(flags) {
            return None;
        }
        let parent = Self {
            trace: u128::from_str_radix(trace, 16).ok()?,
            span: u64::from_str_radix(span, 16).ok()?,
            sampled: u8::from_str_radix(flags, 16).ok()? & 1 == 1,
        };
        (parent.trace != 0 && parent.span != 0).then_some(parent)
    }
}

impl fmt::Display for TraceParent {
    /// The value of the header.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace, span, sampled } = *self;
        write!(f, "00-{trace:032x}-{span:016x}-{:02x}", u8::from(sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_request_id_is_a_version_4_uuid() {
        let id = RequestId::random();
        let uuid = id.as_str().strip_prefix("req-").unwrap();
        assert_eq!(&uuid[14..15], "4");
        assert!(["8", "9", "a", "b"].contains(&&uuid[19..20]), "{uuid}");
        assert_ne!(id, RequestId::random());
        assert_eq!(RequestId::parse(id.as_str()), Some(id));
    }

    #[test]
    fn a_request_id_is_nothing_else() {
        for text in [
            "",
            "req-",
            "req-0f6d2b8c-3f4e-4d57-9a4e-1b2c3d4e5f6",
            "req-0f6d2b8c-3f4e-4d57-9a4e-1b2c3d4e5f6G",
            "req-0f6d2b8c-3f4e-4d57-9a4e-1b2c3d4e5f6\n",
            "xeq-0f6d2b8c-3f4e-4d57-9a4e-1b2c3d4e5f60",
            "req-0f6d2b8c03f4e-4d57-9a4e-1b2c3d4e5f60",
        ] {
            assert_eq!(RequestId::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_trace_parent_is_read_as_the_standard_says() {
        let parent = TraceParent::parse("00-000000000000000000000000000000ab-00000000000000cd-01");
        assert_eq!(parent, Some(TraceParent { trace: 0xab, span: 0xcd, sampled: true }));
        let text = "00-000000000000000000000000000000ab-00000000000000cd-01";
        assert_eq!(parent.unwrap().to_string(), text);
        for text in [
            "",
            "00-000000000000000000000000000000ab-00000000000000cd",
            "00-000000000000000000000000000000ab-00000000000000cd-01-x",
            "01-000000000000000000000000000000ab-00000000000000cd-01",
            "00-00000000000000000000000000000000-00000000000000cd-01",
            "00-000000000000000000000000000000ab-0000000000000000-01",
            "00-000000000000000000000000000000AB-00000000000000cd-01",
            "00-000000000000000000000000000000ab000000000000000cd-01",
            "00-+00000000000000000000000000000ab-00000000000000cd-01",
        ] {
            assert_eq!(TraceParent::parse(text), None, "{text:?}");
        }
    }
}
