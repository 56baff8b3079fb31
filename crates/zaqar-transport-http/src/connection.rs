//! One connection: hyper over a bounded stream, with what it keeps charged, and its end.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, Version, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::time::{Instant, sleep};
use tower::Service;
use tracing::debug;
use zaqar_api::RequestId;
use zaqar_core::{Holder, Permit};
use zaqar_transport::{Connection, Protocol};

use crate::activity::Activity;
use crate::bounds::ServerOptions;
use crate::error::HttpError;
use crate::handlers::set_request_id;
use crate::io::{ConnectionIo, MAX_BUFFER};

/// Streams of one HTTP/2 connection.
const MAX_STREAMS: u32 = 256;

/// Bytes of the headers of one HTTP/2 request.
const MAX_HEADERS: u32 = 64 * 1024;

/// Bytes of bodies that one HTTP/2 stream may send before the server has read them, and all
/// streams of a connection together. A body that is being read has the next ones granted at once.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;

/// Bytes of a response that are handed to hyper at once: what it copies into its own buffers.
const MAX_FRAME: usize = 64 * 1024;

/// When the server stops, how long a connection without a request may take to make one whole.
const STOP_IDLE: Duration = Duration::from_secs(1);

/// HTTP, as [`zaqar_transport::serve`] runs it.
pub(crate) struct Http<S> {
    service: S,
    builder: Builder<TokioExecutor>,
    timeout: Duration,
}

impl<S> Http<S> {
    pub(crate) fn new(service: S, options: &ServerOptions) -> Self {
        Self { service, builder: builder(options), timeout: options.header_timeout }
    }
}

fn builder(options: &ServerOptions) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout)
        .max_buf_size(MAX_BUFFER)
        // A client that has said all it wants to say may close its side and wait for the answer.
        .half_close(true)
        // Bodies come as one piece mostly: one write a response.
        .writev(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(MAX_FRAME)
        .keep_alive_interval(options.header_timeout);
    builder
}

impl<S> Protocol for Http<S>
where
    S: Service<Request<Incoming>, Response = Response<Full<Bytes>>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    const NAME: &'static str = "http";
    /// The task with hyper's state, its buffer for reading, and a small response being written.
    const CONNECTION_BYTES: usize = 16 * 1024;

    fn serve(&self, connection: Connection) -> impl Future<Output = ()> + Send + 'static {
        let Connection { stream, holder, shutdown } = connection;
        let activity = Arc::new(Activity::default());
        let timeout = self.timeout;
        let io = holder
            .try_acquire(0)
            .map(|permit| ConnectionIo::new(stream, timeout, Arc::clone(&activity), permit));
        let service = Charged {
            service: self.service.clone(),
            holder,
            activity: Arc::clone(&activity),
            timeout,
        };
        let builder = self.builder.clone();
        async move {
            // Nothing is always granted.
            let Ok(io) = io else { return };
            let mut serving = pin!(builder.serve_connection(TokioIo::new(io), service));
            let mut stopped = pin!(shutdown.cancelled());
            let mut check = pin!(sleep(timeout / 4));
            let mut writes = 0;
            loop {
                tokio::select! {
                    biased;
                    served = serving.as_mut() => {
                        return served.unwrap_or_else(|error| debug!(error, "connection ended"));
                    }
                    () = stopped.as_mut(), if !activity.is_stopping() => {
                        activity.stop();
                        serving.as_mut().graceful_shutdown();
                        check.as_mut().reset(Instant::now() + STOP_IDLE);
                        writes = activity.writes();
                    }
                    () = check.as_mut() => {
                        if activity.is_overdue() {
                            return debug!("a peer does not take its responses");
                        }
                        let wrote = activity.writes() != std::mem::replace(&mut writes, activity.writes());
                        let next = if activity.is_stopping() { STOP_IDLE } else { timeout / 4 };
                        if activity.is_stopping() && activity.is_idle() && !wrote {
                            return debug!("a peer did not make its request in time for the stop");
                        }
                        check.as_mut().reset(Instant::now() + next);
                    }
                }
            }
        }
    }
}

/// Puts the connection's holder into requests, and its bounds around responses.
///
/// It also rejects what HTTP/1.1 says must be: a request that names no host or several (RFC 9112,
/// 3.2), and the form of a request to a proxy's tunnel without its method (3.2.3).
#[derive(Clone)]
struct Charged<S> {
    service: S,
    holder: Holder,
    activity: Arc<Activity>,
    timeout: Duration,
}

type Responding = Pin<Box<dyn Future<Output = Result<Response<Outgoing>, Infallible>> + Send>>;

impl<S> hyper::service::Service<Request<Incoming>> for Charged<S>
where
    S: Service<Request<Incoming>, Response = Response<Full<Bytes>>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    type Response = Response<Outgoing>;
    type Error = Infallible;
    type Future = Responding;

    fn call(&self, mut request: Request<Incoming>) -> Responding {
        let Self { service, holder, activity, timeout } = self;
        let (mut service, activity, timeout) = (service.clone(), Arc::clone(activity), *timeout);
        let guard = activity.begin_request();
        let headers = charge_headers(&request, holder);
        let rejected = match &headers {
            Err(over) => Some(HttpError::OverBudget(*over)),
            Ok(_) if !names_one_host(&request) => Some(HttpError::NotForUs),
            Ok(_) => None,
        };
        request.extensions_mut().insert(holder.clone());
        Box::pin(async move {
            let response = match rejected {
                Some(error) => rejection(error),
                None => {
                    poll_fn(|cx| service.poll_ready(cx)).await?;
                    service.call(request).await?
                }
            };
            drop((headers, guard));
            let (head, body) = response.into_parts();
            // A full body is never pending, and not copied.
            let body = activity.respond(body.collect().await?.to_bytes(), timeout);
            Ok(Response::from_parts(head, Outgoing(body)))
        })
    }
}

/// The answer to a request that nobody reads on: the connection ends.
fn rejection(error: HttpError) -> Response<Full<Bytes>> {
    let mut response = error.into_response();
    set_request_id(&mut response, RequestId::random());
    crate::respond::close(&mut response);
    response
}

/// Over HTTP/2 many requests have headers at once; over HTTP/1 the stream has charged them.
fn charge_headers(
    request: &Request<Incoming>,
    holder: &Holder,
) -> Result<Option<Permit>, zaqar_core::OverBudget> {
    if request.version() != Version::HTTP_2 {
        return Ok(None);
    }
    let fields = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
    let uri = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    holder.try_acquire(uri + fields.sum::<usize>()).map(Some)
}

fn names_one_host<B>(request: &Request<B>) -> bool {
    let uri = request.uri();
    let is_tunnel = uri.scheme().is_none() && uri.authority().is_some();
    let hosts = request.headers().get_all(header::HOST).iter().count();
    (request.version() != Version::HTTP_11 || hosts == 1)
        && (!is_tunnel || request.method() == Method::CONNECT)
}

/// A response's body, handed to hyper in pieces of bounded size.
struct Outgoing(Bytes);

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.0.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.0.len().min(MAX_FRAME);
        // The last piece takes the rest, so that nothing stays behind in an empty body.
        let piece = if length == self.0.len() {
            std::mem::take(&mut self.0)
        } else {
            self.0.split_to(length)
        };
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}
