//! The hyper server: connections, their bounds, and their end.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, Ready, ready};
use http::{Method, Request, Response, Version, header};
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

use crate::error::HttpError;
use crate::handlers::{REQUEST_ID, request_id};
use crate::patience::Patient;

/// The bounds of a server.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Connections at once. One more is told 503 and closed.
    pub max_connections: usize,
    /// How long the head of a request may take, how long a connection may idle between requests, and how long a peer may take nothing
    /// of its answers.
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
        let refusals = Arc::new(Semaphore::new(REFUSALS));
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
                // More than this many at once are not told.
                if let Ok(refusal) = Arc::clone(&refusals).try_acquire_owned() {
                    tokio::spawn(async move {
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
            let service = TowerToHyperService::new(WithHost(service.clone()));
            let stream = TokioIo::new(Patient::new(stream, options.header_timeout));
            let connection = builder.serve_connection(stream, service).into_owned();
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

/// Bytes of a request's head at most: what one connection can make the server keep before anything is known of it. A target alone may
/// have half of them.
const MAX_HEAD: usize = 128 * 1024;

fn builder(options: &ServerOptions) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout)
        .max_buf_size(MAX_HEAD)
        // A client that has said all it wants to say may close its side and wait for the answer.
        .half_close(true)
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

/// Refuses what HTTP/1.1 says must be: a request that names no host or several (RFC 9112, 3.2), and the form of a request to a proxy's
/// tunnel without its method (3.2.3).
#[derive(Clone)]
struct WithHost<S>(S);

impl<S> Service<Request<Incoming>> for WithHost<S>
where
    S: Service<Request<Incoming>, Response = Response<Full<Bytes>>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let uri = request.uri();
        let is_tunnel = uri.scheme().is_none() && uri.authority().is_some();
        let hosts = request.headers().get_all(header::HOST).iter().count();
        if request.version() == Version::HTTP_11 && hosts != 1
            || is_tunnel && request.method() != Method::CONNECT
        {
            let mut response = HttpError::NotForUs.into_response();
            response.headers_mut().insert(REQUEST_ID, request_id());
            return Either::Right(ready(Ok(response)));
        }
        Either::Left(self.0.call(request))
    }
}

/// Connections that are being told at once that there is no place.
const REFUSALS: usize = 256;

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
