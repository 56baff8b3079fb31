//! Pushes messages to connections as they are posted, to any server of the deployment.
//!
//! A connection subscribes through its [`PushHandle`] and receives from its [`Pushes`]. Its
//! subscriptions are rows in the store like any other, but depend on a lease of this server: they
//! end with the connection, and with the server.
//!
//! `state` has the subscriptions of this server; `pusher` renews their lease; `reader` reads a
//! queue once for all of them.

mod pusher;
mod reader;
mod state;

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use zaqar_core::{MessageId, Permit, QueueKey, SubscriptionId, Timestamp};

use crate::QueueRef;

pub(crate) use pusher::Pusher;

/// Bytes that a push occupies besides its body: the structure, its entry among the delayed
/// messages, and the overhead of the allocator.
const PUSH_BYTES: usize = size_of::<Push>() + 256;

/// Maximum number of subscriptions of one connection: a further one fails with
/// [`crate::Error::Invalid`].
pub const MAX_SUBSCRIPTIONS_PER_CONNECTION: usize = 1000;

/// A message that is being pushed to connections.
#[derive(Debug)]
pub struct Push {
    /// The queue that it was posted to.
    pub queue: QueueRef,
    /// Its id.
    pub id: MessageId,
    /// When it may be pushed.
    pub(crate) due: Timestamp,
    /// Seconds it lives.
    pub ttl: u64,
    /// Its body: the text of a JSON value, as it was posted.
    pub body: Bytes,
    encodings: [OnceLock<Bytes>; 2],
    /// The memory that the push occupies, charged to its project.
    permit: Permit,
}

impl Push {
    fn new(
        queue: QueueRef,
        id: MessageId,
        due: Timestamp,
        ttl: u64,
        body: Bytes,
        permit: Permit,
    ) -> Self {
        let encodings = [const { OnceLock::new() }; 2];
        Self { queue, id, due, ttl, body, encodings, permit }
    }

    /// The push as encoded by a transport, once for all connections with this tag. Only tags 0 and
    /// 1 are cached. Its charge may exceed the budget, which the push itself was within.
    pub fn encoded(&self, tag: u8, make: impl FnOnce(&Self) -> Bytes) -> Bytes {
        let make = || self.charged(make(self));
        match self.encodings.get(usize::from(tag)) {
            Some(encoding) => encoding.get_or_init(make).clone(),
            None => make(),
        }
    }

    fn charged(&self, bytes: Bytes) -> Bytes {
        // A permit of 0 bytes is always granted.
        let Ok(mut permit) = self.permit.holder().try_acquire(0) else { return bytes };
        permit.resize_past_bounds(bytes.len());
        permit.attach(bytes)
    }

    /// Bytes that it occupies without its encodings.
    fn occupied(&self) -> usize {
        self.permit.bytes()
    }
}

/// A push to one subscription.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// The message, shared by all its receivers.
    pub push: Arc<Push>,
    /// The tag of the [`PushHandle`] that subscribed.
    pub tag: u8,
}

/// Why pushes have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PushesEnded {
    /// The connection reads pushes too slowly, or the memory budget is used up.
    #[error("too many pushes are waiting for the connection")]
    Overflow,
    /// Subscriptions have ended: this server's lease expired, one was deleted by somebody else or
    /// its ttl ran out, or a queue was deleted. Clients can reconnect and subscribe again.
    #[error("the subscriptions were lost")]
    Lost,
    /// The signature has expired that a subscription was made with.
    #[error("the signature of a subscription has expired")]
    Expired,
    /// The server shuts down.
    #[error("the server shuts down")]
    ShutDown,
}

/// Subscribes one connection. Clones share it.
#[derive(Clone)]
pub struct PushHandle {
    pusher: Arc<Pusher>,
    connection: Arc<ConnectionSender>,
    tag: u8,
}

impl fmt::Debug for PushHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushHandle").field("tag", &self.tag).finish_non_exhaustive()
    }
}

impl PushHandle {
    /// The same connection, with another tag on the pushes of its subscriptions.
    #[must_use]
    pub fn with_tag(&self, tag: u8) -> Self {
        Self { tag, ..self.clone() }
    }

    /// The number of its subscriptions.
    pub fn subscriptions(&self) -> usize {
        self.connection.subscriptions().len()
    }

    /// Its latest subscription to a queue, which may have ended: ask the store where that matters.
    pub fn subscription(&self, key: &QueueKey) -> Option<SubscriptionId> {
        let subscriptions = self.connection.subscriptions();
        subscriptions.iter().rev().find(|(own, _)| own == key).map(|(_, id)| *id)
    }

    /// Whether both are of one connection.
    fn is_same(&self, connection: &Arc<ConnectionSender>) -> bool {
        Arc::ptr_eq(&self.connection, connection)
    }

    /// Waits until pushes have ended, whether or not the last ones were received.
    pub async fn ended(&self) -> PushesEnded {
        self.connection.closed.cancelled().await;
        self.connection.end_reason()
    }

    /// Deletes the connection's subscriptions. A failed deletion is retried, or the subscription
    /// expires with the lease.
    pub async fn close(self) {
        self.pusher.clone().disconnect(&self.connection).await;
    }
}

/// The pushes of one connection, in the order of each queue. Dropping it ends the connection's
/// subscriptions soon after.
pub struct Pushes {
    receiver: mpsc::Receiver<Pushed>,
    pusher: Arc<Pusher>,
    connection: Arc<ConnectionSender>,
}

impl fmt::Debug for Pushes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pushes").finish_non_exhaustive()
    }
}

impl Pushes {
    /// Waits for the next push. Cancel-safe: no push is lost.
    ///
    /// # Errors
    /// [`PushesEnded`], also for every later call.
    pub async fn next(&mut self) -> Result<Pushed, PushesEnded> {
        tokio::select! {
            biased;
            () = self.connection.closed.cancelled() => {}
            pushed = self.receiver.recv() => {
                if let Some(pushed) = pushed {
                    let occupied = pushed.push.occupied();
                    self.connection.waiting.fetch_sub(occupied, Ordering::Relaxed);
                    return Ok(pushed);
                }
            }
        }
        Err(self.connection.end_reason())
    }
}

impl Drop for Pushes {
    fn drop(&mut self) {
        self.connection.end(PushesEnded::ShutDown);
        if self.connection.subscriptions().is_empty() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (pusher, connection) = (Arc::clone(&self.pusher), Arc::clone(&self.connection));
            runtime.spawn(async move { pusher.disconnect(&connection).await });
        }
    }
}

/// Prepares a connection for pushes: at most `capacity` may wait, of at most the bytes that one
/// connection may hold.
pub(crate) fn open(pusher: &Arc<Pusher>, capacity: usize) -> (PushHandle, Pushes) {
    let (sender, receiver) = mpsc::channel(capacity.max(1));
    let connection = Arc::new(ConnectionSender {
        sender,
        waiting: AtomicUsize::new(0),
        max_waiting: pusher.memory.bounds().connection,
        closed: CancellationToken::new(),
        end_reason: OnceLock::new(),
        subscriptions: Mutex::default(),
    });
    let handle = PushHandle { pusher: pusher.clone(), connection: connection.clone(), tag: 0 };
    (handle, Pushes { receiver, pusher: pusher.clone(), connection })
}

/// Sends pushes to one connection.
struct ConnectionSender {
    sender: mpsc::Sender<Pushed>,
    /// Bytes of the waiting pushes, and their maximum.
    waiting: AtomicUsize,
    max_waiting: usize,
    closed: CancellationToken,
    end_reason: OnceLock<PushesEnded>,
    subscriptions: Mutex<Vec<(QueueKey, SubscriptionId)>>,
}

impl ConnectionSender {
    /// Sends a push, or ends the connection's pushes if too many are waiting. Returns whether it
    /// was sent.
    fn push(&self, pushed: Pushed) -> bool {
        let occupied = pushed.push.occupied();
        let waiting = self.waiting.fetch_add(occupied, Ordering::Relaxed) + occupied;
        let is_sent = waiting <= self.max_waiting && self.sender.try_send(pushed).is_ok();
        if !is_sent {
            self.end(PushesEnded::Overflow);
        }
        is_sent
    }

    fn end(&self, why: PushesEnded) {
        // The first reason is kept.
        let _ = self.end_reason.set(why);
        self.closed.cancel();
    }

    fn end_reason(&self) -> PushesEnded {
        *self.end_reason.get().unwrap_or(&PushesEnded::ShutDown)
    }

    /// Removes a subscription, so that a connection may subscribe and unsubscribe any number of
    /// times.
    fn forget(&self, key: &QueueKey, id: SubscriptionId) {
        self.subscriptions().retain(|(own_key, own)| *own != id || own_key != key);
    }

    fn has_ended(&self) -> bool {
        self.closed.is_cancelled()
    }

    fn subscriptions(&self) -> MutexGuard<'_, Vec<(QueueKey, SubscriptionId)>> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
