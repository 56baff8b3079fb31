//! CORS: which pages of other origins may call, as `[cors]` says.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request, Response};
use hyper::body::Body;
use tower::{Layer, Service};
use tower_http::cors::{AllowOrigin, Cors, CorsLayer};

use crate::respond;

/// The rules, as the original's `[cors]` section has them.
#[derive(Debug, Clone)]
pub struct CorsRules {
    /// Origins, or `*` for any.
    pub origins: Vec<String>,
    /// Pages may send cookies and the like.
    pub credentials: bool,
    /// Headers of an answer that a page may read.
    pub expose_headers: Vec<String>,
    /// How long a browser may remember the answer.
    pub max_age: Option<Duration>,
    /// Methods that a page may use.
    pub methods: Vec<String>,
    /// Headers that a page may set, beside those that oslo.middleware always allows.
    pub headers: Vec<String>,
}

/// Applies [`CorsRules`] to a service. An OPTIONS request that is no preflight goes through as it
/// is.
#[derive(Clone)]
pub struct WithCors<S> {
    plain: S,
    cors: Cors<S>,
}

impl<S> fmt::Debug for WithCors<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithCors").finish_non_exhaustive()
    }
}

impl<S: Clone> WithCors<S> {
    /// Puts the rules in front of a service. What is no origin, method or header of HTTP in them is
    /// left out.
    pub fn new(service: S, rules: &CorsRules) -> Self {
        let any = rules.origins.iter().any(|origin| origin == "*");
        let origins: Vec<HeaderValue> = parsed(&rules.origins);
        let allowed = AllowOrigin::predicate(move |origin, _| any || origins.contains(origin));
        let mut layer = CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods(parsed::<Method>(&rules.methods))
            .allow_headers(allowed_headers(&rules.headers))
            .expose_headers(parsed::<HeaderName>(&rules.expose_headers))
            .allow_credentials(rules.credentials);
        if let Some(max_age) = rules.max_age {
            layer = layer.max_age(max_age);
        }
        Self { cors: layer.layer(service.clone()), plain: service }
    }
}

/// Headers that a page may always set, as in oslo.middleware (`SIMPLE_HEADERS`): to a browser,
/// `Content-Type: application/json` needs leave.
const SIMPLE_HEADERS: [&str; 8] = [
    "Accept",
    "Accept-Language",
    "Content-Type",
    "Cache-Control",
    "Content-Language",
    "Expires",
    "Last-Modified",
    "Pragma",
];

fn allowed_headers(configured: &[String]) -> Vec<HeaderName> {
    let simple = SIMPLE_HEADERS.iter().filter_map(|name| name.parse().ok());
    parsed(configured).into_iter().chain(simple).collect()
}

fn parsed<T: std::str::FromStr>(texts: &[String]) -> Vec<T> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

type Answering<R, E> = Pin<Box<dyn Future<Output = Result<R, E>> + Send>>;

impl<S, B, R> Service<Request<B>> for WithCors<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: Default + Send + 'static,
    B: Body,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Answering<Self::Response, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.plain.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let asks = request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if request.method() == Method::OPTIONS && !asks {
            return Box::pin(self.plain.call(request));
        }
        // A preflight is answered without a look at its body.
        let is_preflight = request.method() == Method::OPTIONS;
        let has_body = is_preflight && !request.body().is_end_stream();
        let answering = self.cors.call(request);
        Box::pin(async move {
            let mut response = answering.await?;
            if has_body {
                respond::close(&mut response);
            }
            Ok(response)
        })
    }
}
