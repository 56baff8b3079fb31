//! One connection from its opening handshake to its end: one task, whatever it is busy with.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::Error;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::debug;
use zaqar_api::{Caller, PushesEnded};
use zaqar_core::{Secret, SubscriptionId};

use crate::action::Action;
use crate::actions::{self, Call, Connected, Performed};
use crate::encoding::Encoding;
use crate::ending::{self, End, FAREWELL, Rest};
use crate::error::{About, WsError};
use crate::handshake;
use crate::identity::{Identity, Refusal};
use crate::inbox::{Inbox, Place};
use crate::pipeline::Pipeline;
use crate::reply::Reply;
use crate::request::{Frame, Refused, Request};
use crate::session::{self, Trust};
use crate::{Inner, Options};

/// Bytes read at once: ten thousand idle connections keep this much each.
const READ_BUFFER: usize = 2 * 1024;
/// Bytes of small answers that leave together.
const WRITE_BUFFER: usize = 4 * 1024;
/// Serves a stream. Returns when nothing of the connection is left.
pub(crate) async fn serve<S>(inner: Arc<Inner>, mut stream: S, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let options = &inner.options;
    let accepting = handshake::accept(&mut stream, &options.allowed_origins);
    let accepting = timeout(options.handshake_timeout, accepting);
    // Boxed: what the handshake needs must not weigh on the connection for life.
    let rest = tokio::select! {
        biased;
        () = shutdown.cancelled() => return,
        accepted = Box::pin(accepting) => match accepted {
            Ok(Ok(rest)) => rest,
            Ok(Err(error)) => return debug!(%error, "no handshake"),
            Err(_) => return debug!("no handshake in time"),
        },
    };
    let config = config(&inner.options);
    let socket =
        WebSocketStream::from_partially_read(stream, rest, Role::Server, Some(config)).await;
    let mut connection = Box::pin(Connection::new(inner, socket, shutdown));
    let end = connection.as_mut().run().await;
    Box::pin(connection.as_mut().finish(end)).await;
}

fn config(options: &Options) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        // What waits to be written is bounded by asking first: at most one message beyond the buffer.
        .max_write_buffer_size(usize::MAX)
        .max_message_size(Some(options.max_message_size))
        .max_frame_size(Some(options.max_message_size))
}

/// What a request came to.
struct Outcome {
    encoding: Encoding,
    payload: Bytes,
    /// Who the connection is from now on.
    identity: Option<Identity>,
    /// What it is a subscriber of from now on.
    subscribed: Option<(Place, SubscriptionId)>,
    /// Answers a request that makes the connection a subscriber: goes before what is pushed.
    listens: bool,
}

/// What happened.
enum Event {
    Received(Message),
    Broken(Error),
    PushesEnded(PushesEnded),
    Gone,
    Timer,
    Stop,
    /// Everything is answered and sent, after a stop.
    Drained,
}

struct Connection<S> {
    inner: Arc<Inner>,
    socket: WebSocketStream<S>,
    pipeline: Pipeline<Request, Outcome>,
    identity: Option<Identity>,
    /// There from the first subscription on.
    inbox: Option<Inbox>,
    /// Requests that make it a subscriber and have begun, but are not answered.
    listening: usize,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    /// When requests that are open after a stop are given up.
    stopping: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    last_received: Instant,
    last_ping: Instant,
    /// Since when something written has not left.
    unsent: Option<Instant>,
}

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    fn new(inner: Arc<Inner>, socket: WebSocketStream<S>, shutdown: CancellationToken) -> Self {
        let now = Instant::now();
        let first = now + inner.options.ping_interval;
        Self {
            inner,
            socket,
            pipeline: Pipeline::new(),
            identity: None,
            inbox: None,
            listening: 0,
            stop: Box::pin(shutdown.cancelled_owned()),
            stopping: None,
            timer: Box::pin(sleep_until(first)),
            last_received: now,
            last_ping: now,
            unsent: None,
        }
    }

    async fn run(mut self: Pin<&mut Self>) -> End {
        loop {
            match poll_fn(|cx| self.poll_event(cx)).await {
                Event::Received(Message::Close(_)) | Event::Gone => return End::Peer,
                Event::Received(message) => self.receive(message),
                Event::Broken(error) => {
                    debug!(%error, "connection broken");
                    return End::of_error(&error);
                }
                Event::PushesEnded(why) => return End::of_pushes(why),
                Event::Timer => {
                    if let Some(end) = self.tick() {
                        return end;
                    }
                }
                Event::Stop => {
                    let until = Instant::now() + self.inner.options.grace;
                    self.stopping = Some(until);
                    self.wake_by(until);
                }
                Event::Drained => return End::going_away(),
            }
        }
    }

    /// Moves everything on, and says what else happened. Answers go before what is read next, so that a peer that only sends is held
    /// back.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if self.stopping.is_none() && self.stop.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Event::Stop);
        }
        self.poll_requests(cx);
        if let Some(inbox) = &mut self.inbox
            && let Poll::Ready(why) = inbox.poll_ended(cx)
        {
            return Poll::Ready(Event::PushesEnded(why));
        }
        match self.poll_send(cx) {
            Poll::Ready(Err(event)) => return Poll::Ready(event),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        if self.stopping.is_some() {
            if self.pipeline.is_empty() && self.unsent.is_none() {
                return Poll::Ready(Event::Drained);
            }
        } else if self.may_read() {
            match Pin::new(&mut self.socket).poll_next(cx) {
                Poll::Ready(Some(Ok(message))) => return Poll::Ready(Event::Received(message)),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Event::Broken(error)),
                Poll::Ready(None) => return Poll::Ready(Event::Gone),
                Poll::Pending => {}
            }
        }
        self.timer.as_mut().poll(cx).map(|()| Event::Timer)
    }

    /// Whether there is room for one more message.
    fn may_read(&self) -> bool {
        let options = &self.inner.options;
        self.pipeline.len() < options.max_in_flight
            && self.pipeline.weight() <= options.max_message_size
    }

    /// Begins what may begin, and goes on with what has begun.
    fn poll_requests(&mut self, cx: &mut Context<'_>) {
        loop {
            while let Some((number, request)) = self.pipeline.next() {
                self.begin(number, request);
            }
            let (mut identity, mut subscribed) = (None, None);
            let done = self.pipeline.poll(cx, |outcome| {
                (identity, subscribed) = (outcome.identity.take(), outcome.subscribed.take());
                outcome.payload.len()
            });
            if let Some(identity) = identity {
                self.identify(identity);
            }
            if let (Some((place, id)), Some(inbox)) = (subscribed, &mut self.inbox) {
                inbox.remember(place, id);
            }
            if done.is_pending() {
                return;
            }
        }
    }

    /// Writes what is ready, as far as the peer takes it.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Event>> {
        loop {
            ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(Event::Broken)?;
            match self.poll_outgoing(cx) {
                Poll::Ready(Ok((encoding, payload))) => {
                    self.send(encoding.frame(payload)).map_err(Event::Broken)?;
                }
                Poll::Ready(Err(why)) => return Poll::Ready(Err(Event::PushesEnded(why))),
                Poll::Pending => break,
            }
        }
        if self.unsent.is_some() {
            ready!(Pin::new(&mut self.socket).poll_flush(cx)).map_err(Event::Broken)?;
            self.unsent = None;
        }
        Poll::Ready(Ok(()))
    }

    /// What is to be written next: answers before pushes.
    fn poll_outgoing(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Encoding, Bytes), PushesEnded>> {
        if let Some(outcome) = self.pipeline.pop() {
            self.listening -= usize::from(outcome.listens);
            return Poll::Ready(Ok((outcome.encoding, outcome.payload)));
        }
        match &mut self.inbox {
            // Whoever subscribes is to know that before the first push.
            Some(inbox) if self.listening == 0 => inbox.poll_next(cx),
            Some(_) | None => Poll::Pending,
        }
    }

    fn send(&mut self, message: Message) -> Result<(), Error> {
        Pin::new(&mut self.socket).start_send(message)?;
        self.unsent.get_or_insert_with(Instant::now);
        Ok(())
    }

    fn receive(&mut self, message: Message) {
        self.last_received = Instant::now();
        let Some((encoding, read)) = Frame::read(message) else { return };
        let checked = match read {
            Ok(frame) => frame.check(),
            Err(error) => Err(Refused::boxed(Frame::nothing(encoding), error)),
        };
        match checked {
            Ok(request) => {
                self.pipeline.push(request.footprint(), request.frame.size(), request);
            }
            Err(refused) => {
                let Refused { frame, error } = *refused;
                let reply = error.into_reply(&About::default());
                let refused = answered(&frame, &reply);
                self.pipeline.push_done(refused.payload.len(), refused);
            }
        }
    }

    fn begin(&mut self, number: u64, request: Request) {
        let inner = Arc::clone(&self.inner);
        if request.action == Action::Authenticate {
            self.pipeline.run(number, async move { authenticate(&inner, request).await });
            return;
        }
        let trust = match &inner.authenticator {
            None => Trust::Anybody,
            Some(_) => Trust::Checked(self.identity.as_ref()),
        };
        let caller = match session::caller(&request, trust, &inner.api, inner.api.clock().now()) {
            Ok(caller) => caller,
            Err(error) => {
                let refused = answered(&request.frame, &error.into_reply(&About::default()));
                self.pipeline.run(number, async move { refused });
                return;
            }
        };
        let listens = request.is_listening();
        let connection = listens.then(|| self.connected(&caller, &request));
        self.listening += usize::from(listens);
        let (api, admin) = (inner.api.clone(), inner.options.admin);
        let call = Call { api, caller, request, admin, connection };
        self.pipeline.run(number, async move {
            let Performed { request, reply, subscribed } = call.perform().await;
            Outcome { subscribed, listens, ..answered(&request.frame, &reply) }
        });
    }

    /// The connection as a subscriber.
    fn connected(&mut self, caller: &Caller, request: &Request) -> Connected {
        let inner = &self.inner;
        let inbox = self
            .inbox
            .get_or_insert_with(|| Inbox::new(&inner.api, inner.options.max_waiting_pushes));
        let place = request.queue().map(|queue| (caller.project.clone(), queue));
        Connected {
            listener: inbox.listener(request.frame.encoding),
            earlier: place.and_then(|place| inbox.subscription(&place)),
        }
    }

    fn identify(&mut self, identity: Identity) {
        let left = self.left(&identity);
        self.wake_by(Instant::now() + left);
        self.identity = Some(identity);
    }

    fn wake_by(&mut self, at: Instant) {
        if at < self.timer.deadline() {
            self.timer.as_mut().reset(at);
        }
    }

    /// How long an identity still holds.
    fn left(&self, identity: &Identity) -> Duration {
        let now = self.inner.api.clock().now();
        let millis = identity.expires.as_millis().saturating_sub(now.as_millis());
        // Far enough away to be never, near enough to be a time.
        Duration::from_millis(millis).min(Duration::from_secs(86_400))
    }

    /// Looks at what time has brought.
    fn tick(&mut self) -> Option<End> {
        let now = Instant::now();
        let options = &self.inner.options;
        if self.stopping.is_some_and(|until| now >= until) {
            return Some(End::going_away());
        }
        if self.unsent.is_some_and(|since| now >= since + options.send_timeout) {
            debug!("a peer does not read");
            return Some(End::Stuck);
        }
        if now >= self.last_received + options.idle_timeout {
            return Some(End::silent());
        }
        if self.identity.as_ref().is_some_and(|identity| self.left(identity).is_zero()) {
            return Some(End::expired());
        }
        let quiet_since = self.last_received.max(self.last_ping);
        if now >= quiet_since + options.ping_interval && self.unsent.is_none() {
            self.last_ping = now;
            if self.send(Message::Ping(Bytes::new())).is_err() {
                return Some(End::Stuck);
            }
        }
        let next = self.next_tick(now);
        self.timer.as_mut().reset(next);
        None
    }

    fn next_tick(&self, now: Instant) -> Instant {
        let options = &self.inner.options;
        let quiet_since = self.last_received.max(self.last_ping);
        let dues = [
            Some(quiet_since + options.ping_interval),
            Some(self.last_received + options.idle_timeout),
            self.unsent.map(|since| since + options.send_timeout),
            self.stopping,
            self.identity.as_ref().map(|identity| now + self.left(identity)),
        ];
        let next = dues.into_iter().flatten().min().unwrap_or(now);
        // A ping that cannot be sent yet must not make it spin.
        next.max(now + Duration::from_millis(10))
    }

    /// Ends the connection: requests that came before the end are carried out, and the peer is told why.
    async fn finish(mut self: Pin<&mut Self>, end: End) {
        let rest = end.rest();
        let inbox = self.inbox.take();
        let closing = async {
            if let Some(inbox) = inbox
                && timeout(FAREWELL, inbox.close()).await.is_err()
            {
                debug!("subscriptions of a connection could not be ended; they go with the lease");
            }
        };
        tokio::join!(ending::tell(&mut self.socket, end), closing);
        let grace = self.inner.options.grace;
        let carrying_out = poll_fn(|cx| {
            self.poll_requests(cx);
            while self.pipeline.pop().is_some() {}
            if self.pipeline.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        });
        if timeout(grace, carrying_out).await.is_err() {
            debug!("requests still open when their connection had ended");
        }
        let left = match rest {
            Rest::Nothing => return,
            Rest::Close => timeout(FAREWELL, ending::until_closed(&mut self.socket)).await,
            Rest::Bytes => timeout(FAREWELL, ending::leave(self.socket.get_mut())).await,
        };
        if left.is_err() {
            debug!("a peer does not go");
        }
    }
}

fn answered(frame: &Frame, reply: &Reply) -> Outcome {
    Outcome {
        encoding: frame.encoding,
        payload: reply.encode(frame),
        identity: None,
        subscribed: None,
        listens: false,
    }
}

async fn authenticate(inner: &Inner, request: Request) -> Outcome {
    // The original repeats nothing of what came with a token.
    let frame = Frame { headers: Bytes::from_static(b"{}"), body: None, ..request.frame };
    let Some(authenticator) = &inner.authenticator else {
        return answered(&frame, &actions::authenticated());
    };
    let token = Secret::new(request.headers.text("X-Auth-Token").unwrap_or_default());
    let refused = |status| {
        let reply = WsError::AuthenticationFailed { status }.into_reply(&About::default());
        answered(&frame, &reply)
    };
    match authenticator.authenticate(&token).await {
        Ok(identity) if identity.expires > inner.api.clock().now() => {
            Outcome { identity: Some(identity), ..answered(&frame, &actions::authenticated()) }
        }
        Ok(_) | Err(Refusal::Invalid) => refused(401),
        Err(error @ Refusal::Unavailable { .. }) => {
            let cause = &error as &dyn std::error::Error;
            tracing::warn!(error = cause, "a token could not be checked");
            refused(503)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;

    /// Ten thousand of them wait for something to do.
    #[test]
    fn an_idle_connection_is_small() {
        let store = Arc::new(zaqar_storage_testkit::Memory::new());
        let api = zaqar_api::Api::new(store.clone(), store, zaqar_api::Options::default());
        let inner = Arc::new(Inner { api, options: Options::default(), authenticator: None });
        let (stream, _) = tokio::io::duplex(1);
        let future = serve(inner, stream, CancellationToken::new());
        let (task, state) = (size_of_val(&future), size_of::<Connection<tokio::net::TcpStream>>());
        assert!(task <= 1536 && state <= 1024, "{task} bytes of task, {state} of connection");
    }
}
