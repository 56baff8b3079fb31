//! Pushes to one connection: what its subscriptions bring, and which these are.

use std::collections::HashMap;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{self, Stream};
use zaqar_api::{Api, Listener, Push, Pushed, PushesEnded, json};
use zaqar_core::{ProjectId, QueueName, SubscriptionId};

use crate::encoding::Encoding;

/// A queue that a connection subscribes to.
pub(crate) type SubscribedQueue = (ProjectId, QueueName);

/// The pushes of a connection that has asked for some.
pub(crate) struct Inbox {
    listener: Listener,
    /// Kept across polls, as a wait that is dropped is not woken any more.
    pushes: Pin<Box<dyn Stream<Item = Result<Pushed, PushesEnded>> + Send>>,
    /// Comes true however many pushes are still to be taken: a peer that takes none is not waited
    /// for.
    ended: Pin<Box<dyn Future<Output = PushesEnded> + Send>>,
    /// Its latest subscription to each queue. It may be over: whoever minds asks.
    subscriptions: HashMap<SubscribedQueue, SubscriptionId>,
}

impl Inbox {
    pub(crate) fn new(api: &Api, capacity: usize) -> Self {
        let (listener, pushes) = api.listen(capacity);
        let pushes = Box::pin(stream::unfold(pushes, |mut pushes| async move {
            Some((pushes.next().await, pushes))
        }));
        let of = listener.clone();
        let ended = Box::pin(async move { of.ended().await });
        Self { listener, pushes, ended, subscriptions: HashMap::new() }
    }

    /// A subscriber whose pushes are encoded so.
    pub(crate) fn listener(&self, encoding: Encoding) -> Listener {
        self.listener.with_tag(encoding.tag())
    }

    pub(crate) fn subscription(&self, queue: &SubscribedQueue) -> Option<SubscriptionId> {
        self.subscriptions.get(queue).copied()
    }

    pub(crate) fn remember(&mut self, queue: SubscribedQueue, id: SubscriptionId) {
        self.subscriptions.insert(queue, id);
    }

    /// Whether no more pushes come.
    pub(crate) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<PushesEnded> {
        self.ended.as_mut().poll(cx)
    }

    /// The next push, ready to be sent.
    pub(crate) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Encoding, Bytes), PushesEnded>> {
        let next = ready!(self.pushes.as_mut().poll_next(cx)).unwrap_or(Err(PushesEnded::ShutDown));
        Poll::Ready(next.map(|pushed| {
            let encoding = Encoding::of_tag(pushed.tag);
            let payload = pushed.push.encoded(pushed.tag, |push| encoding.encode(notice(push)));
            (encoding, payload)
        }))
    }

    /// Ends the connection's subscriptions.
    pub(crate) async fn close(self) {
        self.listener.close().await;
    }
}

/// What a subscriber is told: the original's members, in its order.
fn notice(push: &Push) -> Bytes {
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
