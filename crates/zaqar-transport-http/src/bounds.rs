//! The limits of a server.

use std::sync::Arc;
use std::time::Duration;

use zaqar_core::MemoryBudget;
use zaqar_transport::{ConnectionCounts, Tls};

/// Options of a server.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The listener's name in logs; `http` without one.
    pub name: Option<&'static str>,
    /// Maximum number of open connections. Further ones are rejected with 503.
    pub max_connections: usize,
    /// How long the head of a request may take to arrive, a connection may idle between requests, a
    /// peer may read nothing of its responses, and a response may take to be read. For the last,
    /// each 16 KiB of the response adds one second.
    pub header_timeout: Duration,
    /// How long open requests may take to finish when the server stops. Connections without a
    /// request close within two seconds.
    pub grace: Duration,
    /// Connections, bodies and responses are charged to it.
    pub memory: MemoryBudget,
    /// Counts connections.
    pub connections: ConnectionCounts,
    /// TLS for all connections, loaded with [`crate::ALPN`]; or plain text.
    pub tls: Option<Arc<Tls>>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            name: None,
            max_connections: 16_384,
            header_timeout: Duration::from_secs(60),
            grace: Duration::from_secs(30),
            memory: MemoryBudget::default(),
            connections: ConnectionCounts::default(),
            tls: None,
        }
    }
}
