//! Serves one connection: hyper over a stream with timeouts, whose memory is charged to the budget.

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

/// Maximum number of concurrent streams of an HTTP/2 connection.
const MAX_STREAMS: u32 = 256;

/// Maximum size of the headers of an HTTP/2 request, in bytes.
const MAX_HEADERS: u32 = 64 * 1024;

/// Flow-control windows of one HTTP/2 stream, and of all streams of a connection together: bytes of
/// bodies that the client may send before the server has read them. While a body is being read, its
/// window is extended at once.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;

/// Bytes of a response that are passed to hyper at a time, which it copies into its own buffers.
const MAX_FRAME: usize = 64 * 1024;

/// How long a connection without an open request may take to complete one when the server stops.
const STOP_IDLE: Duration = Duration::from_secs(1);

/// HTTP as a [`Protocol`] for [`zaqar_transport::serve`].
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
        // A client may close its side after its last request and wait for the response.
        .half_close(true)
        // Most bodies are one piece, so a response is one write.
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
    /// The task with hyper's state, its read buffer, and a small response being written.
    const CONNECTION_BYTES: usize = 16 * 1024;

    fn serve(&self, connection: Connection) -> impl Future<Output = ()> + Send + 'static {
        let Connection { stream, holder, shutdown } = connection;
        let activity = Arc::new(Activity::default());
        let timeout = self.timeout;
        let io = holder
            .try_acquire(0)
            .map(|permit| ConnectionIo::new(stream, timeout, Arc::clone(&activity), permit));
        let service = ConnectionService {
            service: self.service.clone(),
            holder,
            activity: Arc::clone(&activity),
            timeout,
        };
        let builder = self.builder.clone();
        async move {
            // A permit of 0 bytes is always granted.
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
                            return debug!("peer did not read its responses in time");
                        }
                        let wrote = activity.writes() != std::mem::replace(&mut writes, activity.writes());
                        let next = if activity.is_stopping() { STOP_IDLE } else { timeout / 4 };
                        if activity.is_stopping() && activity.is_idle() && !wrote {
                            return debug!("no request completed before the server stopped");
                        }
                        check.as_mut().reset(Instant::now() + next);
                    }
                }
            }
        }
    }
}

/// Adds the connection's [`Holder`] to requests, and tracks how long responses take to be read.
///
/// It also rejects requests that HTTP/1.1 requires to be rejected: those with no or several `Host`
/// headers (RFC 9112, 3.2), and a target in authority form with a method other than CONNECT
/// (3.2.3).
#[derive(Clone)]
struct ConnectionService<S> {
    service: S,
    holder: Holder,
    activity: Arc<Activity>,
    timeout: Duration,
}

type ResponseFuture =
    Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Infallible>> + Send>>;

impl<S> hyper::service::Service<Request<Incoming>> for ConnectionService<S>
where
    S: Service<Request<Incoming>, Response = Response<Full<Bytes>>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn call(&self, mut request: Request<Incoming>) -> ResponseFuture {
        let Self { service, holder, activity, timeout } = self;
        let (mut service, activity, timeout) = (service.clone(), Arc::clone(activity), *timeout);
        let guard = activity.begin_request();
        let headers = charge_headers(&request, holder);
        let rejected = match &headers {
            Err(over) => Some(HttpError::OverBudget(*over)),
            Ok(_) if !has_valid_host(&request) => Some(HttpError::WrongHost),
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
            // A `Full` body is ready at once and is not copied.
            let body = activity.respond(body.collect().await?.to_bytes(), timeout);
            Ok(Response::from_parts(head, ResponseBody(body)))
        })
    }
}

/// The response to a request that is not handled. The connection is closed.
fn rejection(error: HttpError) -> Response<Full<Bytes>> {
    let mut response = error.into_response();
    set_request_id(&mut response, RequestId::random());
    crate::respond::close(&mut response);
    response
}

/// Charges the headers of an HTTP/2 request, of which a connection may have many. Over HTTP/1, the
/// stream has charged them already.
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

fn has_valid_host<B>(request: &Request<B>) -> bool {
    let uri = request.uri();
    let is_authority_form = uri.scheme().is_none() && uri.authority().is_some();
    let hosts = request.headers().get_all(header::HOST).iter().count();
    (request.version() != Version::HTTP_11 || hosts == 1)
        && (!is_authority_form || request.method() == Method::CONNECT)
}

/// A response's body, passed to hyper in pieces of bounded size.
struct ResponseBody(Bytes);

impl Body for ResponseBody {
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
        // The last piece takes the buffer itself, so that the body keeps no reference to it.
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
