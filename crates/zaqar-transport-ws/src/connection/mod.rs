//! Serves one connection from its opening handshake until it is closed, in one task.

mod requests;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::Error;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::debug;
use zaqar_api::{Identity, PushesEnded};
use zaqar_core::{Holder, OverBudget, Permit};
use zaqar_transport::linger;

use crate::close::{self, CLOSE_TIMEOUT, Close, Remaining};
use crate::encoding::Encoding;
use crate::handshake;
use crate::inbox::Inbox;
use crate::io::ConnectionIo;
use crate::pipeline::Pipeline;
use crate::request::Request;
use crate::{Inner, Options};

/// Size of the read buffer, which every idle connection keeps.
const READ_BUFFER: usize = 2 * 1024;
/// Bytes of small answers that are collected before they are written.
const WRITE_BUFFER: usize = 4 * 1024;
/// Bytes reserved for an answer with a page before it is read from the store.
const RESERVED: usize = 512 * 1024;
/// Buffered bytes that the fixed charge of every connection covers.
const FREE_BYTES: usize = 4 * 1024;

/// Serves a stream. Returns once the connection is closed and its requests are done.
pub(crate) async fn serve<S>(
    inner: Arc<Inner>,
    mut stream: S,
    holder: Holder,
    shutdown: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let options = &inner.options;
    let accepting = handshake::accept(&mut stream, &options.allowed_origins);
    let accepting = timeout(options.handshake_timeout, accepting);
    // Boxed, so that the handshake's state does not enlarge the connection's task.
    let rest = tokio::select! {
        biased;
        () = shutdown.cancelled() => return,
        accepted = Box::pin(accepting) => match accepted {
            Ok(Ok(rest)) => rest,
            Ok(Err(error)) => return debug!(%error, "handshake failed"),
            Err(_) => return debug!("handshake timed out"),
        },
    };
    let config = config(&inner.options);
    // A permit of 0 bytes is always granted.
    let Ok(permit) = holder.try_acquire(0) else { return };
    let stream = ConnectionIo::new(stream, inner.options.send_timeout);
    let socket =
        WebSocketStream::from_partially_read(stream, rest, Role::Server, Some(config)).await;
    let mut connection = Box::pin(Connection::new(inner, socket, permit, shutdown));
    let close = connection.as_mut().run().await;
    Box::pin(connection.finish(close)).await;
}

fn config(options: &Options) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        // Writes are bounded by `poll_ready`: at most one message exceeds the buffer.
        .max_write_buffer_size(usize::MAX)
        .max_message_size(Some(options.max_message_size))
        .max_frame_size(Some(options.max_message_size))
}

/// The part of the grace period that open requests may take when the server stops. The rest is for
/// sending the close frame and for waiting for the peer's.
fn time_for_requests(grace: Duration) -> Duration {
    let closing = 2 * CLOSE_TIMEOUT + Duration::from_secs(1);
    grace.saturating_sub(closing).max(grace / 2)
}

/// The result of a request.
struct Outcome {
    encoding: Encoding,
    payload: Bytes,
    /// The connection's new identity.
    identity: Option<Arc<Identity>>,
}

/// What the connection must react to.
enum Event {
    Received(Message),
    Failed(Error),
    OverBudget(OverBudget),
    PushesEnded(PushesEnded),
    Disconnected,
    Timer,
    Stop,
    /// After a stop: all requests are answered, and the answers sent.
    Drained,
}

type Outgoing = (Encoding, Bytes);

struct Connection<S> {
    inner: Arc<Inner>,
    socket: WebSocketStream<ConnectionIo<S>>,
    /// Memory that the connection occupies, without waiting pushes.
    permit: Permit,
    pipeline: Pipeline<Request, Outcome>,
    identity: Option<Arc<Identity>>,
    /// Present from the first request to subscribe on.
    inbox: Option<Inbox>,
    /// The next push, which waits until no request is open.
    push: Option<Outgoing>,
    /// Answers sent while the push was waiting.
    answers_before_push: usize,
    /// A message too large to be copied, which waits until everything before it has been flushed.
    large: Option<Outgoing>,
    /// Bytes of messages that were written but not flushed.
    unsent_bytes: usize,
    /// Among them is the answer to a request that may have changed something.
    unsent_change: bool,
    /// What the connection keeps is charged past the bounds: nothing more is read meanwhile.
    is_over: bool,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Set once no more requests are read: when to stop waiting for the open ones.
    drain_until: Option<Instant>,
    /// Why pushes have ended, which becomes the close reason once open requests are answered.
    pushes_ended: Option<PushesEnded>,
    timer: Pin<Box<Sleep>>,
    last_received: Instant,
    /// When a request was last permitted.
    last_request: Instant,
    last_ping: Instant,
    /// Something was written but not flushed.
    unsent: bool,
}

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    fn new(
        inner: Arc<Inner>,
        socket: WebSocketStream<ConnectionIo<S>>,
        permit: Permit,
        shutdown: CancellationToken,
    ) -> Self {
        let now = Instant::now();
        let first = now + inner.options.ping_interval;
        Self {
            inner,
            socket,
            permit,
            pipeline: Pipeline::new(),
            identity: None,
            inbox: None,
            push: None,
            answers_before_push: 0,
            large: None,
            unsent_bytes: 0,
            unsent_change: false,
            is_over: false,
            stop: Box::pin(shutdown.cancelled_owned()),
            drain_until: None,
            pushes_ended: None,
            timer: Box::pin(sleep_until(first)),
            last_received: now,
            last_request: now,
            last_ping: now,
            unsent: false,
        }
    }

    async fn run(mut self: Pin<&mut Self>) -> Close {
        loop {
            match poll_fn(|cx| self.poll_event(cx)).await {
                Event::Received(Message::Close(_)) | Event::Disconnected => return Close::Peer,
                Event::Received(message) => self.receive(message),
                Event::Failed(error) => {
                    debug!(%error, "connection failed");
                    return Close::from_error(&error);
                }
                Event::OverBudget(over) => {
                    debug!(%over, "connection closed");
                    return self.release(&over);
                }
                Event::PushesEnded(PushesEnded::Overflow) if !self.owes_answers() => {
                    return Close::from_pushes(PushesEnded::Overflow);
                }
                Event::PushesEnded(why) => {
                    self.pushes_ended = Some(why);
                    self.stop_reading();
                }
                Event::Timer => {
                    if let Some(close) = self.tick() {
                        return close;
                    }
                }
                Event::Stop => self.stop_reading(),
                Event::Drained => return self.close_reason(),
            }
        }
    }

    /// Frees what is buffered for a peer that does not read it.
    fn release(&mut self, over: &OverBudget) -> Close {
        (self.push, self.large) = (None, None);
        while self.pipeline.pop().is_some() {}
        // In the middle of a frame, no close frame can be sent.
        if self.socket.get_mut().abandon_large() {
            Close::Unresponsive
        } else {
            Close::over_budget(over)
        }
    }

    /// Stops reading requests, and gives open ones time to be answered.
    fn stop_reading(&mut self) {
        let until = Instant::now() + time_for_requests(self.inner.options.grace);
        self.drain_until = Some(until);
        self.wake_by(until);
    }

    /// The close reason once no more requests are read and the open ones are answered.
    fn close_reason(&self) -> Close {
        self.pushes_ended.map_or_else(Close::going_away, Close::from_pushes)
    }

    /// Drives requests, writes and pushes, and returns the next event. Answers are sent before more
    /// is read, so that a peer that does not read is throttled.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if self.drain_until.is_none() && self.stop.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Event::Stop);
        }
        self.poll_requests(cx);
        if self.pushes_ended.is_none()
            && let Some(inbox) = &mut self.inbox
            && let Poll::Ready(why) = inbox.poll_ended(cx)
        {
            return Poll::Ready(Event::PushesEnded(why));
        }
        loop {
            if let Poll::Ready(Err(event)) = self.poll_send(cx) {
                return Poll::Ready(event);
            }
            // An answer may have come, and what was sent may have made room for more.
            if let Err(over) = self.charge() {
                return Poll::Ready(Event::OverBudget(over));
            }
            if self.drain_until.is_some() {
                if self.pipeline.is_empty() && !self.unsent {
                    return Poll::Ready(Event::Drained);
                }
            } else if self.may_read()
                && let Poll::Ready(event) = self.poll_receive(cx)
            {
                return Poll::Ready(event);
            }
            if let Err(over) = self.charge() {
                return Poll::Ready(Event::OverBudget(over));
            }
            // A client may take the next frame for its answer: pushes wait until every request that
            // was read is answered.
            match self.poll_push(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(event)) => return Poll::Ready(event),
                Poll::Pending => break,
            }
        }
        self.timer.as_mut().poll(cx).map(|()| Event::Timer)
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        Poll::Ready(match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
            Some(Ok(message)) => {
                let wire = self.socket.get_mut();
                match &message {
                    Message::Ping(payload) | Message::Pong(payload) => {
                        wire.finish_control(payload.len());
                    }
                    Message::Text(_)
                    | Message::Binary(_)
                    | Message::Close(_)
                    | Message::Frame(_) => wire.finish_message(),
                }
                Event::Received(message)
            }
            Some(Err(error)) => Event::Failed(error),
            None => Event::Disconnected,
        })
    }

    /// Whether it has not sent an answer yet that the client cannot ask for again: popped messages
    /// would be lost with it.
    fn owes_answers(&self) -> bool {
        self.unsent_change || self.pipeline.has_changes()
    }

    /// Charges what the connection keeps at the moment; past the bounds while it owes answers, as
    /// what they tell has been done. The memory reserved before keeps that in proportion, and
    /// nothing more is read until it is within the bounds.
    fn charge(&mut self) -> Result<(), OverBudget> {
        let buffered = self.socket.get_ref().buffered();
        let waiting = [&self.push, &self.large];
        let waiting: usize = waiting.into_iter().flatten().map(|(_, payload)| payload.len()).sum();
        let kept = buffered + self.pipeline.bytes() + self.unsent_bytes + waiting;
        let charged = if kept <= FREE_BYTES { 0 } else { kept.next_multiple_of(FREE_BYTES) };
        let resized = self.permit.resize(charged);
        // What is no larger than before is not refused, even while it is past the bounds.
        let stays_over = self.is_over && self.permit.is_past_bounds();
        self.is_over = (resized.is_err() || stays_over) && self.owes_answers();
        if self.is_over {
            self.permit.resize_past_bounds(charged);
            return Ok(());
        }
        resized
    }

    /// Writes the next push; pending while there is none or it must wait.
    fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Event>> {
        if self.pushes_ended.is_some() {
            return Poll::Pending;
        }
        if self.push.is_none() {
            let Some(inbox) = &mut self.inbox else { return Poll::Pending };
            let push = ready!(inbox.poll_next(cx)).map_err(Event::PushesEnded)?;
            self.push = Some(push);
        }
        if !self.pipeline.is_empty() || self.large.is_some() || self.is_over {
            return Poll::Pending;
        }
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(Event::Failed)?;
        if let Some(push) = self.push.take() {
            self.answers_before_push = 0;
            self.write(push).map_err(Event::Failed)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether another message may be read.
    fn may_read(&self) -> bool {
        let options = &self.inner.options;
        !self.is_over
            && self.pipeline.len() < options.max_in_flight
            && self.pipeline.bytes() <= options.max_message_size
            // A push does not wait for ever for a client that always asks for more.
            && self.answers_before_push < options.max_in_flight
    }

    /// Starts the requests that may run, and polls those that do.
    fn poll_requests(&mut self, cx: &mut Context<'_>) {
        loop {
            while let Some((number, request)) = self.pipeline.next() {
                self.begin(number, request);
            }
            let mut identity = None;
            let done = self.pipeline.poll(cx, |outcome| {
                identity = outcome.identity.take();
                outcome.payload.len()
            });
            if let Some(identity) = identity {
                self.identify(identity);
            }
            if done.is_pending() {
                return;
            }
        }
    }

    /// Writes the answers that are ready, as far as the peer reads them.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Event>> {
        loop {
            if self.large.is_some() {
                ready!(self.poll_flush(cx)).map_err(Event::Failed)?;
            }
            if let Some((encoding, payload)) = self.large.take() {
                self.unsent = true;
                self.unsent_bytes = payload.len();
                self.socket.get_mut().write_large(encoding, payload);
                ready!(self.poll_flush(cx)).map_err(Event::Failed)?;
            }
            ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(Event::Failed)?;
            let may_change = self.pipeline.front_may_change();
            let Some(outcome) = self.pipeline.pop() else { break };
            self.unsent_change |= may_change;
            self.answers_before_push += usize::from(self.push.is_some());
            self.write((outcome.encoding, outcome.payload)).map_err(Event::Failed)?;
        }
        self.poll_flush(cx).map_err(Event::Failed)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.unsent {
            ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
            self.unsent = false;
            self.unsent_bytes = 0;
            self.unsent_change &= self.large.is_some();
        }
        Poll::Ready(Ok(()))
    }

    /// Writes a message; a large one is written by [`Connection::poll_send`].
    fn write(&mut self, (encoding, payload): Outgoing) -> Result<(), Error> {
        if payload.len() > WRITE_BUFFER {
            self.large = Some((encoding, payload));
            return Ok(());
        }
        self.unsent_bytes += payload.len();
        self.send(encoding.frame(payload))
    }

    fn send(&mut self, message: Message) -> Result<(), Error> {
        Pin::new(&mut self.socket).start_send(message)?;
        self.unsent = true;
        Ok(())
    }

    /// Gives the connection an identity. One of another user or project may not read what the
    /// former one subscribed to, so the subscriptions end.
    fn identify(&mut self, identity: Arc<Identity>) {
        let is_other = |former: &Arc<Identity>| {
            (&former.project, &former.user) != (&identity.project, &identity.user)
        };
        if self.identity.as_ref().is_some_and(is_other) {
            (self.inbox, self.push, self.answers_before_push) = (None, None, 0);
        }
        let left = self.time_left(&identity);
        self.wake_by(Instant::now() + left);
        self.identity = Some(identity);
    }

    fn wake_by(&mut self, at: Instant) {
        if at < self.timer.deadline() {
            self.timer.as_mut().reset(at);
        }
    }

    /// How long an identity is still valid.
    fn time_left(&self, identity: &Identity) -> Duration {
        let now = self.inner.api.clock().now();
        let millis = identity.expires.as_millis().saturating_sub(now.as_millis());
        // Bounded, so that adding it to an `Instant` cannot overflow.
        Duration::from_millis(millis).min(Duration::from_secs(86_400))
    }

    /// Handles the timer: closes on a timeout, sends pings, and resets the timer.
    fn tick(&mut self) -> Option<Close> {
        let now = Instant::now();
        let options = &self.inner.options;
        if self.drain_until.is_some_and(|until| now >= until) {
            return Some(self.close_reason());
        }
        let (_, unfinished_since) = self.socket.get_ref().unfinished();
        // While the server does not read, the rest of the message cannot arrive.
        if self.may_read() && unfinished_since.is_some_and(|t| now >= t + options.send_timeout) {
            return Some(Close::message_timeout());
        }
        if now >= self.last_received + options.idle_timeout {
            return Some(Close::idle());
        }
        if self.unused_at().is_some_and(|at| now >= at) {
            return Some(Close::unused());
        }
        if self.identity.as_ref().is_some_and(|identity| self.time_left(identity).is_zero()) {
            return Some(Close::expired());
        }
        let quiet_since = self.last_received.max(self.last_ping);
        if now >= quiet_since + options.ping_interval && !self.unsent {
            self.last_ping = now;
            if self.send(Message::Ping(Bytes::new())).is_err() {
                return Some(Close::Unresponsive);
            }
        }
        let next = self.next_tick(now);
        self.timer.as_mut().reset(next);
        None
    }

    /// When it counts as unused; `None` while it is authenticated, subscribed or being answered.
    fn unused_at(&self) -> Option<Instant> {
        let is_used = self.identity.is_some()
            || self.inbox.as_ref().is_some_and(Inbox::is_subscribed)
            || !self.pipeline.is_empty();
        (!is_used).then(|| self.last_request + self.inner.options.unused_timeout)
    }

    fn next_tick(&self, now: Instant) -> Instant {
        let options = &self.inner.options;
        let quiet_since = self.last_received.max(self.last_ping);
        let (_, unfinished_since) = self.socket.get_ref().unfinished();
        let deadlines = [
            Some(quiet_since + options.ping_interval),
            Some(self.last_received + options.idle_timeout),
            self.unused_at(),
            unfinished_since.map(|since| since + options.send_timeout),
            self.drain_until,
            self.identity.as_ref().map(|identity| now + self.time_left(identity)),
        ];
        let next = deadlines.into_iter().flatten().min().unwrap_or(now);
        // A ping that cannot be sent yet must not make the loop spin.
        next.max(now + Duration::from_millis(10))
    }

    /// Closes the connection: sends the reason, and carries out the requests that were received.
    async fn finish(self: Pin<Box<Self>>, close: Close) {
        let mut this = *Pin::into_inner(self);
        let give_up = this.drain_until.unwrap_or_else(|| Instant::now() + this.inner.options.grace);
        let remaining = close.remaining();
        let inbox = this.inbox.take();
        let closing = async {
            if let Some(inbox) = inbox
                && timeout(CLOSE_TIMEOUT, inbox.close()).await.is_err()
            {
                debug!("subscriptions of a closed connection were not removed, they expire");
            }
        };
        tokio::join!(close::send_close(&mut this.socket, close), closing);
        let carrying_out = poll_fn(|cx| {
            this.poll_requests(cx);
            while this.pipeline.pop().is_some() {}
            if this.pipeline.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        });
        if timeout_at(give_up, carrying_out).await.is_err() {
            debug!("requests of a closed connection did not finish in time");
        }
        match remaining {
            Remaining::Nothing => {}
            Remaining::Close => {
                let closed = timeout(CLOSE_TIMEOUT, close::wait_for_close(&mut this.socket)).await;
                if closed.is_err() {
                    debug!("peer did not close its side in time");
                }
            }
            Remaining::Bytes => {
                let Self { socket, pipeline, permit, .. } = this;
                let mut stream = socket.into_inner().into_inner();
                // Frees the requests that were read, before waiting for the peer to close.
                drop((pipeline, permit));
                linger(&mut stream, CLOSE_TIMEOUT).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;

    /// A server may have ten thousand idle connections.
    #[test]
    fn an_idle_connection_is_small() {
        let store = Arc::new(zaqar_storage_testkit::Memory::new());
        let api = zaqar_api::Api::new(store.clone(), store, zaqar_api::Options::default());
        let inner = Arc::new(Inner {
            api,
            options: Options::default(),
            turns: zaqar_transport::Turns::default(),
        });
        let (stream, _) = tokio::io::duplex(1);
        let holder = inner.api.memory().connection();
        let future = serve(inner, stream, holder, CancellationToken::new());
        let (task, state) = (size_of_val(&future), size_of::<Connection<tokio::net::TcpStream>>());
        assert!(task <= 1536 && state <= 1024, "{task} bytes of task, {state} of connection");
    }
}
