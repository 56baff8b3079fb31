//! Serves one connection: hyper over a stream with timeouts, whose memory is charged to the budget.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, Either, Ready, ready};
use http::{Method, Request, Response, Version, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use pin_project_lite::pin_project;
use tokio::time::{Instant, sleep};
use tracing::debug;
use zaqar_api::{LastToken, RequestId};
use zaqar_core::{Holder, OverBudget};
use zaqar_transport::{Connection, Protocol};

use crate::activity::{Activity, RequestGuard};
use crate::bounds::ServerOptions;
use crate::connection_body::ConnectionBody;
use crate::error::HttpError;
use crate::handlers::set_request_id;
use crate::io::{ConnectionIo, MAX_BUFFER};
use crate::respond::{close, take_body};
use crate::response_body::{MAX_PIECE, Owed, ResponseBody, StreamPermit};

/// Maximum number of concurrent streams of an HTTP/2 connection.
const MAX_STREAMS: u32 = 256;

/// Maximum size of the headers of an HTTP/2 request, in bytes.
const MAX_HEADERS: u32 = 64 * 1024;

/// Flow-control windows of one HTTP/2 stream, and of all streams of a connection together: bytes of
/// bodies that the client may send before the server has read them. While a body is being read, its
/// window is extended at once.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;

/// Bytes that a stream of HTTP/2 occupies besides the headers of its request: its state, and a
/// small response.
const STREAM_BYTES: usize = 2 * 1024;

/// What answers the requests of all connections. It is not generic, so that hyper and all around it
/// are compiled once, in this crate.
pub(crate) type Handler = Arc<dyn Fn(Request<ConnectionBody>) -> Handling + Send + Sync>;

type Handling = BoxFuture<'static, HandlerResult>;

/// HTTP as a [`Protocol`] for [`zaqar_transport::serve`].
pub(crate) struct Http {
    handler: Handler,
    builder: Builder<TokioExecutor>,
    timeout: Duration,
}

impl Http {
    pub(crate) fn new(handler: Handler, options: &ServerOptions) -> Self {
        Self { handler, builder: builder(options), timeout: options.header_timeout }
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
        .max_send_buf_size(MAX_PIECE)
        .keep_alive_interval(options.header_timeout);
    builder
}

impl Protocol for Http {
    const NAME: &'static str = "http";
    /// The task with hyper's state, its two buffers of 8 KiB, and a token: 22.8 KiB were measured.
    const CONNECTION_BYTES: usize = 24 * 1024;

    fn serve(&self, connection: Connection) -> impl Future<Output = ()> + Send + 'static {
        let Connection { stream, holder, shutdown } = connection;
        let activity = Arc::new(Activity::default());
        let timeout = self.timeout;
        let io = holder
            .try_acquire(0)
            .map(|permit| ConnectionIo::new(stream, timeout, Arc::clone(&activity), permit));
        let service = ConnectionService {
            handler: Arc::clone(&self.handler),
            holder,
            last_token: Arc::default(),
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
            let (mut writes, mut is_told) = (0, false);
            loop {
                tokio::select! {
                    biased;
                    served = serving.as_mut() => {
                        return served.unwrap_or_else(|error| debug!(error, "connection ended"));
                    }
                    () = aborted(&activity) => {
                        return debug!("too many answers to requests over the memory budget");
                    }
                    () = stopped.as_mut(), if !activity.is_stopping() => {
                        activity.stop();
                        (is_told, writes) = (activity.is_http2(), activity.writes());
                        if is_told {
                            serving.as_mut().graceful_shutdown();
                        }
                        check.as_mut().reset(Instant::now() + activity.idle_limit());
                    }
                    () = check.as_mut() => {
                        if activity.is_overdue() {
                            return debug!("peer did not read its responses in time");
                        }
                        let wrote = activity.writes() != std::mem::replace(&mut writes, activity.writes());
                        let is_stopping = activity.is_stopping();
                        if is_stopping && activity.is_http2() && !is_told {
                            is_told = true;
                            serving.as_mut().graceful_shutdown();
                        } else if is_stopping && activity.is_idle() && !wrote {
                            return debug!("no request completed before the server stopped");
                        }
                        let next = if is_stopping { activity.idle_limit() } else { timeout / 4 };
                        check.as_mut().reset(Instant::now() + next);
                    }
                }
            }
        }
    }
}

/// Ready once the connection is aborted, if it is polled after that.
async fn aborted(activity: &Activity) {
    poll_fn(|_| if activity.is_aborted() { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// Passes requests on with the connection's [`Holder`] and [`LastToken`], and tracks how long
/// responses take to be read.
///
/// It also rejects requests that HTTP/1.1 requires to be rejected: those with no or several `Host`
/// headers (RFC 9112, 3.2), and a target in authority form with a method other than CONNECT
/// (3.2.3).
#[derive(Clone)]
struct ConnectionService {
    handler: Handler,
    holder: Holder,
    last_token: Arc<LastToken>,
    activity: Arc<Activity>,
    timeout: Duration,
}

impl hyper::service::Service<Request<Incoming>> for ConnectionService {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Responding;

    fn call(&self, request: Request<Incoming>) -> Responding {
        let Self { handler, holder, last_token, activity, timeout } = self;
        let guard = activity.begin_request();
        let is_http1 = request.version() != Version::HTTP_2;
        let (stream, rejected) = match charge_stream(&request, holder) {
            Err(over) => (reject_stream(holder, activity), Some(HttpError::OverBudget(over))),
            Ok(stream) => (stream, (!has_valid_host(&request)).then_some(HttpError::WrongHost)),
        };
        let response = match rejected {
            Some(error) => Either::Right(ready(Ok(rejection(error)))),
            None => {
                let (holder, last_token) = (holder.clone(), Arc::clone(last_token));
                let request = request.map(|body| ConnectionBody::new(body, holder, last_token));
                Either::Left(handler(request))
            }
        };
        let open = Some((guard, stream));
        let (activity, timeout) = (Arc::clone(activity), *timeout);
        Responding { response, open, activity, timeout, is_http1 }
    }
}

type HandlerResult = Result<Response<Full<Bytes>>, Infallible>;

pin_project! {
    /// A response on its way.
    struct Responding {
        #[pin]
        response: Either<Handling, Ready<HandlerResult>>,
        open: Option<(RequestGuard, Option<StreamPermit>)>,
        activity: Arc<Activity>,
        timeout: Duration,
        is_http1: bool,
    }
}

impl Future for Responding {
    type Output = Result<Response<ResponseBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if this.activity.is_aborted() {
            // It is dropped with the connection.
            return Poll::Pending;
        }
        let mut response = ready!(this.response.poll(context))?;
        // The request is handled.
        let stream = this.open.take().and_then(|(_, stream)| stream);
        // hyper's own shutdown would close a connection whose next request is on its way.
        if *this.is_http1 && this.activity.is_stopping() {
            close(&mut response);
        }
        let bytes = take_body(&mut response);
        let owed = match bytes.is_empty() {
            true => Owed::default(),
            false => {
                let unread = this.activity.respond(bytes.len(), *this.timeout);
                Owed { unread: Some(unread), stream }
            }
        };
        let body = ResponseBody::new(bytes, owed, *this.is_http1);
        Poll::Ready(Ok(response.map(|_| body)))
    }
}

/// The response to a request that is not handled. The connection is closed.
fn rejection(error: HttpError) -> Response<Full<Bytes>> {
    let mut response = error.into_response();
    set_request_id(&mut response, RequestId::random());
    close(&mut response);
    response
}

/// Charges a stream of HTTP/2 with the headers of its request, until its response is written: a
/// connection may have many. Over HTTP/1, the charge of the connection and its stream cover both.
fn charge_stream(
    request: &Request<Incoming>,
    holder: &Holder,
) -> Result<Option<StreamPermit>, OverBudget> {
    if request.version() != Version::HTTP_2 {
        return Ok(None);
    }
    let fields = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
    let uri = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    let permit = holder.try_acquire(STREAM_BYTES + uri + fields.sum::<usize>())?;
    Ok(Some(StreamPermit::Budget(permit)))
}

/// Charges the answer to a stream that exceeds the budget. Closes the connection instead when too
/// many such answers are on their way to clients that do not read them.
fn reject_stream(holder: &Holder, activity: &Activity) -> Option<StreamPermit> {
    let permit = holder.try_reject(STREAM_BYTES).map(StreamPermit::Rejection);
    if permit.is_none() {
        activity.abort();
    }
    permit
}

fn has_valid_host<B>(request: &Request<B>) -> bool {
    let uri = request.uri();
    let is_authority_form = uri.scheme().is_none() && uri.authority().is_some();
    let hosts = request.headers().get_all(header::HOST).iter().count();
    (request.version() != Version::HTTP_11 || hosts == 1)
        && (!is_authority_form || request.method() == Method::CONNECT)
}
