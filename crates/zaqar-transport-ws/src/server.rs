//! The server: connections, how many, and their end.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::ending::FAREWELL;
use crate::{WsService, handshake};

/// Connections that are being told at once that there is no place.
const REFUSALS: usize = 256;

/// The bounds of a server.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Connections at once. One more is told 503 and closed.
    pub max_connections: usize,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self { max_connections: 16_384 }
    }
}

/// Serves a service on a listener.
pub struct Server {
    /// Where connections come from.
    pub listener: TcpListener,
    /// What serves them.
    pub service: WsService,
    /// The bounds.
    pub options: ServerOptions,
}

impl Server {
    /// Serves until `shutdown`; then accepts no more, lets open requests finish, closes every connection with 1001, and returns.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { listener, service, options } = self;
        let slots = Arc::new(Semaphore::new(options.max_connections));
        let refusals = Arc::new(Semaphore::new(REFUSALS));
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most often: the next accept would fail as fast.
                    warn!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                // More than this many at once are not told.
                if let Ok(refusal) = Arc::clone(&refusals).try_acquire_owned() {
                    connections.spawn(async move {
                        refuse(stream).await;
                        drop(refusal);
                    });
                }
                continue;
            };
            // Without it, answers wait for the peer's acknowledgements.
            if let Err(error) = stream.set_nodelay(true) {
                debug!(%error, "no TCP_NODELAY");
            }
            let (service, shutdown) = (service.clone(), shutdown.clone());
            connections.spawn(async move {
                service.serve(stream, shutdown).await;
                drop(slot);
            });
        }
        drop(listener);
        info!("websocket server stops");
        connections.close();
        // Each connection ends within its own bounds.
        connections.wait().await;
    }
}

async fn refuse(mut stream: TcpStream) {
    if timeout(FAREWELL, handshake::refuse(&mut stream)).await.is_err() {
        debug!("a refused peer does not go");
    }
}
