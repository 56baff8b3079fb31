#![doc = include_str!("../README.md")]

mod activity;
mod body;
mod bounds;
mod connection;
mod connection_body;
mod cors;
mod error;
mod handlers;
mod headers;
mod io;
#[cfg(test)]
mod openapi_tests;
mod query;
mod request;
mod respond;
mod response_body;
mod route;
mod server;

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Body;
use zaqar_api::Api;
use zaqar_transport::Turns;

use connection_body::AnyBody;

pub use bounds::ServerOptions;
pub use connection_body::ConnectionBody;
pub use cors::{CorsRules, WithCors};
pub use server::Server;
pub use zaqar_transport::ConnectionCounts;

/// The protocols to offer through ALPN (RFC 7301), in order of preference.
pub const ALPN: &[&str] = &["h2", "http/1.1"];

/// Options of the transport.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long a request's body may take to arrive.
    pub body_timeout: Duration,
    /// Serves the operations for administrators too (`admin_mode`).
    pub admin: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { body_timeout: Duration::from_secs(60), admin: false }
    }
}

/// Zaqar's REST API as a service. Clones are cheap. Its error type is `Infallible`: every error is
/// a response.
#[derive(Clone)]
pub struct HttpService {
    inner: Arc<Inner>,
}

impl fmt::Debug for HttpService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpService").finish_non_exhaustive()
    }
}

struct Inner {
    api: Api,
    options: Options,
    turns: Turns,
}

impl HttpService {
    /// Serves an API.
    pub fn new(api: Api, options: Options) -> Self {
        Self { inner: Arc::new(Inner { api, options, turns: Turns::of_process() }) }
    }

    /// What handles a request is compiled here, not in each crate that calls the service.
    fn respond(&self, request: Request<AnyBody>) -> Responding {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move { Ok(handlers::handle(&inner, request).await) })
    }
}

type Responding = BoxFuture<'static, Result<Response<Full<Bytes>>, Infallible>>;

impl<B> tower::Service<Request<B>> for HttpService
where
    B: Body<Data = Bytes> + Send + 'static,
{
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Responding;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Responding {
        self.respond(request.map(AnyBody::new))
    }
}

#[cfg(test)]
mod tests;
