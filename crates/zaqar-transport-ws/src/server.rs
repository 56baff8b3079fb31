//! Serves WebSocket on a listener.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use zaqar_transport::{
    AcceptOptions, Connection, ConnectionCounts, Listener, Protocol, ServeError, Tls, serve,
};

use crate::WsService;

/// Options of a server.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Maximum number of open connections. Further ones are rejected with 503.
    pub max_connections: usize,
    /// Counts connections.
    pub connections: ConnectionCounts,
    /// TLS for all connections, loaded with [`crate::ALPN`]; or plain text.
    pub tls: Option<Arc<Tls>>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self { max_connections: 16_384, connections: ConnectionCounts::default(), tls: None }
    }
}

/// Serves a service on a listener.
#[derive(Debug)]
pub struct Server {
    /// Accepts the connections.
    pub listener: Listener,
    /// Serves the connections.
    pub service: WsService,
    /// The options.
    pub options: ServerOptions,
}

impl Server {
    /// Serves until `shutdown`; then accepts no more, lets open requests finish, closes every
    /// connection with 1001, and returns.
    ///
    /// # Errors
    /// When the listener is broken and accepts no more connections.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), ServeError> {
        self.start(shutdown).await
    }

    /// Boxed, so that it is compiled in this crate.
    fn start(self, shutdown: CancellationToken) -> BoxFuture<'static, Result<(), ServeError>> {
        let Self { listener, service, options } = self;
        let inner = &service.inner;
        let options = AcceptOptions {
            name: None,
            max_connections: options.max_connections,
            grace: inner.options.grace,
            memory: inner.api.memory().clone(),
            counts: options.connections,
            tls: options.tls,
        };
        Box::pin(serve(listener, service, options, shutdown))
    }
}

impl Protocol for WsService {
    const NAME: &'static str = "websocket";
    /// The task with its state and buffers: 6.1 KiB were measured, and 8.8 KiB with a subscription.
    const CONNECTION_BYTES: usize = 12 * 1024;

    fn serve(&self, connection: Connection) -> impl Future<Output = ()> + Send + 'static {
        let Connection { stream, holder, shutdown } = connection;
        crate::connection::serve(self.inner.clone(), stream, holder, shutdown)
    }
}
