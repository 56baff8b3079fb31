//! The hyper server: connections, their bounds, and their end.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::Service;
use tracing::{debug, info, warn};

/// The bounds of a server.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Connections at once. One more is told 503 and closed.
    pub max_connections: usize,
    /// How long the head of a request may take, and how long a connection may idle between requests.
    pub header_timeout: Duration,
    /// How long open requests have to finish when the server stops.
    pub grace: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            max_connections: 16_384,
            header_timeout: Duration::from_secs(60),
            grace: Duration::from_secs(30),
        }
    }
}

/// Serves a service on a listener: an [`crate::HttpService`], bare or with layers around it.
pub struct Server<S> {
    /// Where connections come from.
    pub listener: TcpListener,
    /// What answers them.
    pub service: S,
    /// The bounds.
    pub options: ServerOptions,
}

impl<S> Server<S>
where
    S: Service<Request<Incoming>, Response = Response<Full<Bytes>>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    /// Serves until `shutdown`; then accepts no more, lets open requests finish, and returns.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { listener, service, options } = self;
        let builder = builder(&options);
        let slots = Arc::new(Semaphore::new(options.max_connections));
        let graceful = GracefulShutdown::new();
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
                tokio::spawn(refuse(stream));
                continue;
            };
            // Without it, answers wait for the peer's acknowledgements.
            if let Err(error) = stream.set_nodelay(true) {
                debug!(%error, "no TCP_NODELAY");
            }
            let service = TowerToHyperService::new(service.clone());
            let connection =
                builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    debug!(error, "connection ended");
                }
                drop(slot);
            });
        }
        drop(listener);
        info!("http server stops");
        tokio::select! {
            () = graceful.shutdown() => {}
            () = tokio::time::sleep(options.grace) => {
                warn!("requests still open when the grace of the stop ended");
            }
        }
    }
}

fn builder(options: &ServerOptions) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout)
        .pipeline_flush(true)
        // Bodies are spliced into one buffer already: one write a response.
        .writev(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(256)
        .max_header_list_size(64 * 1024)
        .keep_alive_interval(options.header_timeout);
    builder
}

/// Bytes that a refused peer may still send.
const REFUSED_BYTES: u64 = 1 << 20;

async fn refuse(mut stream: TcpStream) {
    const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n\
        content-length: 0\r\nconnection: close\r\n\r\n";
    let answering = async {
        stream.write_all(ANSWER).await?;
        stream.shutdown().await?;
        // Closed with bytes unread, the connection would be reset and the answer lost to a peer that is still sending.
        tokio::io::copy(&mut stream.take(REFUSED_BYTES), &mut tokio::io::sink()).await
    };
    if !matches!(tokio::time::timeout(Duration::from_secs(1), answering).await, Ok(Ok(_))) {
        debug!("a refused peer does not read");
    }
}
