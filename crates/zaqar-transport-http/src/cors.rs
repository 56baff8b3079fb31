//! CORS: which pages of other origins may call, as `[cors]` says.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request, Response};
use tower::{Layer, Service};
use tower_http::cors::{AllowOrigin, Cors, CorsLayer};

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
    /// Headers that a page may set.
    pub headers: Vec<String>,
}

/// Applies [`CorsRules`] to a service. An OPTIONS request that is no preflight goes through as it is.
#[derive(Clone)]
pub struct WithCors<S> {
    plain: S,
    cors: Cors<S>,
}

impl<S: Clone> WithCors<S> {
    /// Puts the rules in front of a service. What is no origin, method or header of HTTP in them is left out.
    pub fn new(service: S, rules: &CorsRules) -> Self {
        let any = rules.origins.iter().any(|origin| origin == "*");
        let origins: Vec<HeaderValue> = parsed(&rules.origins);
        let allowed = AllowOrigin::predicate(move |origin, _| any || origins.contains(origin));
        let mut layer = CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods(parsed::<Method>(&rules.methods))
            .allow_headers(parsed::<HeaderName>(&rules.headers))
            .expose_headers(parsed::<HeaderName>(&rules.expose_headers))
            .allow_credentials(rules.credentials);
        if let Some(max_age) = rules.max_age {
            layer = layer.max_age(max_age);
        }
        Self { cors: layer.layer(service.clone()), plain: service }
    }
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
        Box::pin(self.cors.call(request))
    }
}
