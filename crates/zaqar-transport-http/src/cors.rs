//! CORS: which pages of other origins may send requests, as configured in `[cors]`.

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

/// The rules, as in the original's `[cors]` section.
#[derive(Debug, Clone)]
pub struct CorsRules {
    /// The allowed origins, or `*` for any.
    pub origins: Vec<String>,
    /// Whether pages may send credentials such as cookies.
    pub credentials: bool,
    /// Response headers that a page may read.
    pub expose_headers: Vec<String>,
    /// How long a browser may cache the response to a preflight.
    pub max_age: Option<Duration>,
    /// The methods that a page may use.
    pub methods: Vec<String>,
    /// The request headers that a page may set, besides those that oslo.middleware always allows.
    pub headers: Vec<String>,
}

/// Applies [`CorsRules`] to a service. An OPTIONS request that is not a preflight is passed on
/// unchanged.
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
    /// Wraps a service. Invalid origins, methods and header names in the rules are ignored.
    pub fn new(service: S, rules: &CorsRules) -> Self {
        let allows_any = rules.origins.iter().any(|origin| origin == "*");
        let origins: Vec<HeaderValue> = parsed(&rules.origins);
        let allowed =
            AllowOrigin::predicate(move |origin, _| allows_any || origins.contains(origin));
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

/// Headers that a page may always set, as in oslo.middleware (`SIMPLE_HEADERS`): a browser sends
/// `Content-Type: application/json` only if it is allowed.
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

type ResponseFuture<R, E> = Pin<Box<dyn Future<Output = Result<R, E>> + Send>>;

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
    type Future = ResponseFuture<Self::Response, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.plain.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let requests_method = request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if request.method() == Method::OPTIONS && !requests_method {
            return Box::pin(self.plain.call(request));
        }
        // A preflight is answered without reading its body.
        let is_preflight = request.method() == Method::OPTIONS;
        let has_body = is_preflight && !request.body().is_end_stream();
        let response = self.cors.call(request);
        Box::pin(async move {
            let mut response = response.await?;
            if has_body {
                respond::close(&mut response);
            }
            Ok(response)
        })
    }
}
