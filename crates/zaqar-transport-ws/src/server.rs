//! The server: a listener of the shared kind, speaking WebSocket.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use zaqar_transport::{
    AcceptOptions, Connection, ConnectionCounts, Listener, Protocol, ServeError, Tls, serve,
};

use crate::WsService;

/// The bounds of a server.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Connections at once. One more is told 503 and closed.
    pub max_connections: usize,
    /// Counts connections.
    pub connections: ConnectionCounts,
    /// What connections begin with; offer it [`crate::ALPN`].
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
    /// Where connections come from.
    pub listener: Listener,
    /// What serves them.
    pub service: WsService,
    /// The bounds.
    pub options: ServerOptions,
}

impl Server {
    /// Serves until `shutdown`; then accepts no more, lets open requests finish, closes every
    /// connection with 1001, and returns.
    ///
    /// # Errors
    /// When the listener is broken: nobody can connect any more.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), ServeError> {
        let Self { listener, service, options } = self;
        let inner = &service.inner;
        let options = AcceptOptions {
            max_connections: options.max_connections,
            grace: inner.options.grace,
            memory: inner.api.memory().clone(),
            counts: options.connections,
            tls: options.tls,
        };
        serve(listener, service, options, shutdown).await
    }
}

impl Protocol for WsService {
    const NAME: &'static str = "websocket";
    /// The task with its state and its buffers.
    const CONNECTION_BYTES: usize = 16 * 1024;

    fn serve(&self, connection: Connection) -> impl Future<Output = ()> + Send + 'static {
        let Connection { stream, holder, shutdown } = connection;
        crate::connection::serve(self.inner.clone(), stream, holder, shutdown)
    }
}
