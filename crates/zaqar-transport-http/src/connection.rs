//! Serves one connection: hyper over a stream with timeouts, whose memory is charged to the budget.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::future::{Either, Ready, ready};
use http::{Method, Request, Response, Version, header};
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use pin_project_lite::pin_project;
use tokio::time::{Instant, sleep};
use tower::util::Oneshot;
use tower::{Service, ServiceExt};
use tracing::debug;
use zaqar_api::{LastToken, RequestId};
use zaqar_core::{Holder, Permit};
use zaqar_transport::{Connection, Protocol};

use crate::activity::{Activity, RequestGuard, UnreadBody};
use crate::bounds::ServerOptions;
use crate::connection_body::ConnectionBody;
use crate::error::HttpError;
use crate::handlers::set_request_id;
use crate::io::{ConnectionIo, MAX_BUFFER};
use crate::respond::take_body;

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
    S: HttpLike + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    const NAME: &'static str = "http";
    /// The task with hyper's state, its read buffer, a small response being written, and a token.
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

/// What [`crate::Server`] serves.
pub(crate) trait HttpLike:
    Service<Request<ConnectionBody>, Response = Response<Full<Bytes>>, Error = Infallible>
{
}

impl<S> HttpLike for S where
    S: Service<Request<ConnectionBody>, Response = Response<Full<Bytes>>, Error = Infallible>
{
}

/// Passes requests on with the connection's [`Holder`] and [`LastToken`], and tracks how long
/// responses take to be read.
///
/// It also rejects requests that HTTP/1.1 requires to be rejected: those with no or several `Host`
/// headers (RFC 9112, 3.2), and a target in authority form with a method other than CONNECT
/// (3.2.3).
#[derive(Clone)]
struct ConnectionService<S> {
    service: S,
    holder: Holder,
    last_token: Arc<LastToken>,
    activity: Arc<Activity>,
    timeout: Duration,
}

impl<S> hyper::service::Service<Request<Incoming>> for ConnectionService<S>
where
    S: HttpLike + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Responding<S>;

    fn call(&self, request: Request<Incoming>) -> Responding<S> {
        let Self { service, holder, last_token, activity, timeout } = self;
        let guard = activity.begin_request();
        let (headers, rejected) = match charge_headers(&request, holder) {
            Err(over) => (None, Some(HttpError::OverBudget(over))),
            Ok(headers) => (headers, (!has_valid_host(&request)).then_some(HttpError::WrongHost)),
        };
        let response = match rejected {
            Some(error) => Either::Right(ready(Ok(rejection(error)))),
            None => {
                let (holder, last_token) = (holder.clone(), Arc::clone(last_token));
                let request = request.map(|body| ConnectionBody::new(body, holder, last_token));
                Either::Left(service.clone().oneshot(request))
            }
        };
        let open = Some((guard, headers));
        Responding { response, open, activity: Arc::clone(activity), timeout: *timeout }
    }
}

type HandlerResult = Result<Response<Full<Bytes>>, Infallible>;

pin_project! {
    /// A response on its way.
    struct Responding<S: HttpLike> {
        #[pin]
        response: Either<Oneshot<S, Request<ConnectionBody>>, Ready<HandlerResult>>,
        open: Option<(RequestGuard, Option<Permit>)>,
        activity: Arc<Activity>,
        timeout: Duration,
    }
}

impl<S: HttpLike> Future for Responding<S> {
    type Output = Result<Response<ResponseBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.response.poll(context))?;
        // The request is handled, and its headers are dropped.
        this.open.take();
        let bytes = take_body(&mut response);
        let unread = match bytes.is_empty() {
            true => None,
            false => Some(this.activity.respond(bytes.len(), *this.timeout)),
        };
        Poll::Ready(Ok(response.map(|_| ResponseBody { bytes, unread })))
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
struct ResponseBody {
    bytes: Bytes,
    unread: Option<UnreadBody>,
}

/// A piece of a response's body. Pieces are written in order, so the last one ends the response.
struct Piece {
    bytes: Bytes,
    _unread: Option<UnreadBody>,
}

impl Body for ResponseBody {
    type Data = Piece;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, Infallible>>> {
        if self.bytes.is_empty() {
            return Poll::Ready(None);
        }
        // The last piece takes the buffer itself, so that the body keeps no reference to it.
        let piece = match self.bytes.len() > MAX_FRAME {
            true => Piece { bytes: self.bytes.split_to(MAX_FRAME), _unread: None },
            false => Piece { bytes: std::mem::take(&mut self.bytes), _unread: self.unread.take() },
        };
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}
