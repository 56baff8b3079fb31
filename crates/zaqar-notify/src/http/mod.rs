//! The HTTP client: requests to receivers that may be slow, broken or hostile.
//!
//! One pool of connections, with HTTP/1.1 and, if TLS negotiates it, HTTP/2. Every wait is bounded:
//! connecting, the answer, and its body, of which a bounded part is read. Redirects are not
//! followed. Only addresses that [`Networks`] allows are dialled: a name is looked up and checked
//! for each connection.

mod connector;
mod open;
mod resolve;
mod tls;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{HeaderMap, RETRY_AFTER, USER_AGENT};
use http::{HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::Instant;
use zaqar_core::{ProjectId, Timestamp};

use crate::address::Networks;
use crate::outcome::{Answer, Attempt, Failure};
use crate::retry::RetryAfter;
use crate::target::{Target, TargetError};
use connector::{Bounded, ConnectError, Guarded, PROJECT};
use open::OpenConnections;
pub use resolve::{Resolve, SystemResolver};
pub use tls::{Roots, RootsError};

/// Options of the client.
#[derive(Debug, Clone)]
pub struct Options {
    /// Addresses that may be dialled.
    pub networks: Networks,
    /// The timeout of resolving the name, connecting and the TLS handshake together.
    pub connect_timeout: Duration,
    /// The timeout of the whole request, including connecting.
    pub timeout: Duration,
    /// Bytes of an answer's body that are read before its connection is closed.
    pub max_body: usize,
    /// The longest status line and headers of an answer, in bytes; at least 8 KiB.
    pub max_headers: usize,
    /// How long an idle connection is kept.
    pub idle_timeout: Duration,
    /// Idle connections that are kept for each destination.
    pub max_idle: usize,
    /// Open connections, idle or not, up to which a new one is kept when its request has ended.
    /// While there are more, a new one is closed then. So there are never more idle ones.
    pub max_kept: usize,
    /// The same for the connections of one project.
    pub max_kept_per_project: usize,
    /// The trusted CA certificates.
    pub roots: Roots,
}

impl Default for Options {
    /// Public addresses; 5 s to connect, 15 s in all; bodies of 64 KiB, headers of 64 KiB; 16 idle
    /// connections, as many as a destination has in flight, for 30 s; 512 kept ones, 128 of one
    /// project, twice as many as deliveries in flight; the system's certificates.
    fn default() -> Self {
        Self {
            networks: Networks::default(),
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(15),
            max_body: 64 * 1024,
            max_headers: 64 * 1024,
            idle_timeout: Duration::from_secs(30),
            max_idle: 16,
            max_kept: 512,
            max_kept_per_project: 128,
            roots: Roots::System,
        }
    }
}

/// The client. Clones share its connections.
#[derive(Debug, Clone)]
pub struct WebhookClient {
    client: Client<Bounded<HttpsConnector<Guarded>>, Full<Bytes>>,
    networks: Networks,
    timeout: Duration,
    max_body: usize,
}

impl WebhookClient {
    /// A client that resolves names as the system does.
    ///
    /// # Errors
    /// The certificates cannot be read.
    pub fn new(options: &Options) -> Result<Self, RootsError> {
        Self::with_resolver(options, SystemResolver::default())
    }

    /// A client with a custom resolver.
    ///
    /// # Errors
    /// The certificates cannot be read.
    pub fn with_resolver(
        options: &Options,
        resolver: impl Resolve + 'static,
    ) -> Result<Self, RootsError> {
        let open = OpenConnections::new(options.max_kept, options.max_kept_per_project);
        let guarded = Guarded::new(resolver, options.networks.clone(), open.clone());
        let tls = tls::config(&options.roots)?;
        let https = || {
            let builder = hyper_rustls::HttpsConnectorBuilder::new();
            builder.with_tls_config(tls.clone()).https_or_http()
        };
        let unkept = https().enable_http1().wrap_connector(guarded.unkept());
        let kept = https().enable_all_versions().wrap_connector(guarded);
        let connector = Bounded::new(kept, unkept, open, options.connect_timeout);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(options.idle_timeout)
            .pool_max_idle_per_host(options.max_idle)
            // For receivers that compare names of headers by case, or send unusual ones.
            .http1_title_case_headers(true)
            .http1_ignore_invalid_headers_in_responses(true)
            .http1_max_buf_size(options.max_headers.max(8192))
            .http2_max_header_list_size(u32::try_from(options.max_headers).unwrap_or(u32::MAX))
            .build(connector);
        let networks = options.networks.clone();
        Ok(Self { client, networks, timeout: options.timeout, max_body: options.max_body })
    }

    /// Checks a subscriber's URI: its form, and its host if that is an address. A name is not
    /// looked up before something is sent: what came of it would tell a tenant which names exist
    /// inside the operator's network.
    ///
    /// # Errors
    /// [`TargetError`] says why it can never be delivered to.
    pub fn check(&self, subscriber: &str) -> Result<Target, TargetError> {
        Target::checked(subscriber, &self.networks)
    }

    /// The timeout of a request for which a shorter one may be asked.
    pub(crate) fn timeout(&self, asked: Option<Duration>) -> Duration {
        asked.map_or(self.timeout, |shorter| shorter.min(self.timeout))
    }

    /// Posts once for a project, at `now`: a date in `Retry-After` is compared with it. `timeout`
    /// can only shorten the client's own. Dropping the future ends the request.
    pub async fn post(
        &self,
        project: &ProjectId,
        target: &Target,
        headers: HeaderMap,
        body: Bytes,
        timeout: Option<Duration>,
        now: Timestamp,
    ) -> Attempt {
        let timeout = self.timeout(timeout);
        let began = Instant::now();
        let deadline = began + timeout;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = target.uri().clone();
        *request.headers_mut() = headers;
        let agent = HeaderValue::from_static(concat!("zaqar-server/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().entry(USER_AGENT).or_insert(agent);
        let sending = PROJECT.scope(project.clone(), self.client.request(request));
        match tokio::time::timeout_at(deadline, sending).await {
            Err(_) => Attempt::Failed(Failure::TimedOut(timeout)),
            Ok(Err(error)) => Attempt::Failed(failure(&error)),
            Ok(Ok(response)) => {
                let waited = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                let now = Timestamp::from_millis(now.as_millis().saturating_add(waited));
                Attempt::Answered(self.answer(response, deadline, now).await)
            }
        }
    }

    /// The status decides; the receiver has answered, even if reading the body fails.
    async fn answer(
        &self,
        response: Response<Incoming>,
        deadline: Instant,
        now: Timestamp,
    ) -> Answer {
        let status = response.status().as_u16();
        let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = header.and_then(|value| RetryAfter::parse(value, now));
        let mut kept = BytesMut::new();
        let reading = read(response.into_body(), self.max_body, &mut kept);
        let _too_slow = tokio::time::timeout_at(deadline, reading).await;
        Answer { status, retry_after, body: kept.freeze() }
    }
}

/// Reads a body to its end or to `max` bytes; if it is not read to its end, its connection is
/// closed.
async fn read(mut body: Incoming, max: usize, kept: &mut BytesMut) {
    let mut left = max;
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        let keeps = data.len().min(Answer::KEPT - kept.len());
        kept.extend_from_slice(&data[..keeps]);
        match left.checked_sub(data.len()) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

fn failure(error: &legacy::Error) -> Failure {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut text = String::new();
    while let Some(cause) = source {
        if let Some(ConnectError::Refused(refused)) = cause.downcast_ref() {
            return Failure::Refused(*refused);
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    if error.is_connect() { Failure::NoConnection(text) } else { Failure::NoAnswer(text) }
}
