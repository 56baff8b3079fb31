//! How much a server holds, and for how long.

use std::sync::Arc;
use std::time::Duration;

use zaqar_core::MemoryBudget;
use zaqar_transport::{ConnectionCounts, Tls};

/// The bounds of a server.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Connections at once. One more is rejected with 503.
    pub max_connections: usize,
    /// How long the head of a request may take, how long a connection may idle between requests,
    /// how long a peer may take nothing of its responses, and how long it may take over one of
    /// them; to the last comes a second for each 16 KiB of the response.
    pub header_timeout: Duration,
    /// How long open requests have to finish when the server stops. Connections without a request
    /// end within two seconds.
    pub grace: Duration,
    /// Connections, bodies and responses are charged to it.
    pub memory: MemoryBudget,
    /// Counts connections.
    pub connections: ConnectionCounts,
    /// What connections begin with; offer it [`crate::ALPN`].
    pub tls: Option<Arc<Tls>>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            max_connections: 16_384,
            header_timeout: Duration::from_secs(60),
            grace: Duration::from_secs(30),
            memory: MemoryBudget::default(),
            connections: ConnectionCounts::default(),
            tls: None,
        }
    }
}
