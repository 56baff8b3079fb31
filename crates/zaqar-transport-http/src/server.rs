//! The hyper server.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use http::{Request, Response};
use http_body_util::Full;
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt};
use zaqar_transport::{AcceptOptions, Listener, ServeError, serve};

use crate::bounds::ServerOptions;
use crate::connection::{Handler, Http};
use crate::connection_body::ConnectionBody;

/// Serves a service on a listener: an [`crate::HttpService`], bare or with layers around it.
#[derive(Debug)]
pub struct Server<S> {
    /// Accepts the connections.
    pub listener: Listener,
    /// Answers the requests.
    pub service: S,
    /// The options.
    pub options: ServerOptions,
}

impl<S> Server<S>
where
    S: Service<Request<ConnectionBody>, Response = Response<Full<Bytes>>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    /// Serves until `shutdown`; then accepts no more, lets open requests finish, and returns.
    ///
    /// # Errors
    /// When the listener is broken and accepts no more connections.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), ServeError> {
        let Self { listener, service, options } = self;
        let handler = Arc::new(move |request| service.clone().oneshot(request).boxed());
        run(listener, handler, options, shutdown).await
    }
}

/// Boxed, so that it is compiled in this crate.
fn run(
    listener: Listener,
    handler: Handler,
    options: ServerOptions,
    shutdown: CancellationToken,
) -> BoxFuture<'static, Result<(), ServeError>> {
    let http = Http::new(handler, &options);
    let ServerOptions { name, max_connections, grace, memory, connections: counts, tls, .. } =
        options;
    let options = AcceptOptions { name, max_connections, grace, memory, counts, tls };
    Box::pin(serve(listener, http, options, shutdown))
}
