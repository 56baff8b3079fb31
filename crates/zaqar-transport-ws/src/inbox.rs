//! The subscriptions of one connection, and the pushes that they receive.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{self, Stream};
use zaqar_api::{Api, Push, PushHandle, Pushed, PushesEnded, json};

use crate::encoding::Encoding;

/// The subscriptions and pushes of a connection that has subscribed.
pub(crate) struct Inbox {
    handle: PushHandle,
    /// Kept across polls, as a dropped future would not wake the task.
    pushes: Pin<Box<dyn Stream<Item = Result<Pushed, PushesEnded>> + Send>>,
    /// Resolves even while pushes are waiting: a peer that reads none must not delay it.
    ended: Pin<Box<dyn Future<Output = PushesEnded> + Send>>,
}

impl Inbox {
    pub(crate) fn new(api: &Api, capacity: usize) -> Self {
        let (handle, pushes) = api.open_pushes(capacity);
        let pushes = Box::pin(stream::unfold(pushes, |mut pushes| async move {
            Some((pushes.next().await, pushes))
        }));
        let ended_handle = handle.clone();
        let ended = Box::pin(async move { ended_handle.ended().await });
        Self { handle, pushes, ended }
    }

    /// The connection as a subscriber whose pushes have this encoding.
    pub(crate) fn handle(&self, encoding: Encoding) -> PushHandle {
        self.handle.with_tag(encoding.tag())
    }

    /// Whether the connection has a subscription.
    pub(crate) fn is_subscribed(&self) -> bool {
        self.handle.subscriptions() > 0
    }

    /// Ready once pushes have ended.
    pub(crate) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<PushesEnded> {
        self.ended.as_mut().poll(cx)
    }

    /// The next push, encoded.
    pub(crate) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Encoding, Bytes), PushesEnded>> {
        let next = ready!(self.pushes.as_mut().poll_next(cx)).unwrap_or(Err(PushesEnded::ShutDown));
        Poll::Ready(next.map(|pushed| {
            let encoding = Encoding::from_tag(pushed.tag);
            let payload =
                pushed.push.encoded(pushed.tag, |push| encoding.encode(notification(push)));
            (encoding, payload)
        }))
    }

    /// Ends the connection's subscriptions.
    pub(crate) async fn close(self) {
        self.handle.close().await;
    }
}

/// The notification for a subscriber: the original's members, in its order.
fn notification(push: &Push) -> Bytes {
    let mut out = BytesMut::with_capacity(push.body.len() + 160);
    out.put_slice(b"{\"ttl\":");
    json::number(&mut out, push.ttl);
    out.put_slice(b",\"body\":");
    out.put_slice(&push.body);
    out.put_slice(b",\"Message_Type\":\"Notification\",\"queue_name\":\"");
    // Of an alphabet that needs no escapes.
    out.put_slice(push.queue.name.as_str().as_bytes());
    out.put_slice(b"\"}");
    out.freeze()
}
