//! Pushes: messages that reach a connection as they are posted, on whichever server of the
//! deployment.
//!
//! A connection subscribes through its [`Listener`] and receives from its [`Pushes`]. Its
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

/// Bytes that a push occupies beside its body: the structure, its place among delayed messages, and
/// what the allocator adds to both and to the body.
const PUSH_BYTES: usize = size_of::<Push>() + 256;

/// Subscriptions of one connection, at most: one more is answered with [`crate::Error::Invalid`].
pub const MAX_SUBSCRIPTIONS_PER_CONNECTION: usize = 1000;

/// A message on its way to connections.
#[derive(Debug)]
pub struct Push {
    /// Where it was posted.
    pub queue: QueueRef,
    /// Its id there.
    pub id: MessageId,
    /// When it may be pushed.
    pub(crate) due: Timestamp,
    /// Seconds it lives.
    pub ttl: u64,
    /// Its body: the text of a JSON value, as it was posted.
    pub body: Bytes,
    encodings: [OnceLock<Bytes>; 2],
    /// What the push occupies, charged to its project.
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

    /// What a transport makes of it, made once for all connections with this tag. Only tags 0 and 1
    /// are remembered. It is charged past the bounds: the push itself was within them.
    pub fn encoded(&self, tag: u8, make: impl FnOnce(&Self) -> Bytes) -> Bytes {
        let make = || self.charged(make(self));
        match self.encodings.get(usize::from(tag)) {
            Some(encoding) => encoding.get_or_init(make).clone(),
            None => make(),
        }
    }

    fn charged(&self, bytes: Bytes) -> Bytes {
        // Nothing is always granted.
        let Ok(mut permit) = self.permit.holder().try_acquire(0) else { return bytes };
        permit.resize_past_bounds(bytes.len());
        permit.attach(bytes)
    }

    /// Bytes that it occupies before it is encoded.
    fn occupied(&self) -> usize {
        self.permit.bytes()
    }
}

/// A push to one subscription.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// The message, shared by all connections that get it.
    pub push: Arc<Push>,
    /// The tag of the [`Listener`] that subscribed.
    pub tag: u8,
}

/// Why no more pushes come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PushesEnded {
    /// The connection reads them too slowly, or the memory budget is used up.
    #[error("more pushes wait than are kept for a connection")]
    Overflow,
    /// The subscriptions are gone: this server could not keep its lease, or a queue was deleted.
    /// Whoever connects again can subscribe again.
    #[error("the subscriptions were lost")]
    Lost,
    /// The server ends.
    #[error("the server shuts down")]
    ShutDown,
}

/// Subscribes for one connection. Clones are one handle.
#[derive(Clone)]
pub struct Listener {
    pusher: Arc<Pusher>,
    connection: Arc<ConnectionSender>,
    tag: u8,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("tag", &self.tag).finish_non_exhaustive()
    }
}

impl Listener {
    /// The same connection, with another tag on the pushes of its subscriptions.
    #[must_use]
    pub fn with_tag(&self, tag: u8) -> Self {
        Self { tag, ..self.clone() }
    }

    /// Subscriptions that it has at the moment.
    pub(crate) fn subscriptions(&self) -> usize {
        self.connection.subscriptions().len()
    }

    /// Waits until no more pushes come, whether or not the last ones were received.
    pub async fn ended(&self) -> PushesEnded {
        self.connection.closed.cancelled().await;
        self.connection.end_reason()
    }

    /// Ends the connection's subscriptions. What cannot be removed now is retried, or expires with
    /// the lease.
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
    /// The next one. Can be dropped while it waits: nothing is lost.
    ///
    /// # Errors
    /// [`PushesEnded`], from then on always.
    pub async fn next(&mut self) -> Result<Pushed, PushesEnded> {
        tokio::select! {
            biased;
            () = self.connection.closed.cancelled() => {}
            pushed = self.receiver.recv() => {
                if let Some(pushed) = pushed {
                    let taken = pushed.push.occupied();
                    self.connection.waiting.fetch_sub(taken, Ordering::Relaxed);
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

/// Opens a connection on which at most `capacity` pushes wait, of no more bytes than one
/// connection may hold.
pub(crate) fn listen(pusher: &Arc<Pusher>, capacity: usize) -> (Listener, Pushes) {
    let (sender, receiver) = mpsc::channel(capacity.max(1));
    let connection = Arc::new(ConnectionSender {
        sender,
        waiting: AtomicUsize::new(0),
        max_waiting: pusher.memory.bounds().connection,
        closed: CancellationToken::new(),
        end_reason: OnceLock::new(),
        subscriptions: Mutex::default(),
    });
    let listener = Listener { pusher: pusher.clone(), connection: connection.clone(), tag: 0 };
    (listener, Pushes { receiver, pusher: pusher.clone(), connection })
}

/// Sends pushes to one connection.
struct ConnectionSender {
    sender: mpsc::Sender<Pushed>,
    /// Bytes of the pushes that wait, and how many may.
    waiting: AtomicUsize,
    max_waiting: usize,
    closed: CancellationToken,
    end_reason: OnceLock<PushesEnded>,
    subscriptions: Mutex<Vec<(QueueKey, SubscriptionId)>>,
}

impl ConnectionSender {
    /// Sends a push, or ends the connection's pushes if more would wait than may; whether it was
    /// sent.
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
        // The first reason stays.
        let _ = self.end_reason.set(why);
        self.closed.cancel();
    }

    fn end_reason(&self) -> PushesEnded {
        *self.end_reason.get().unwrap_or(&PushesEnded::ShutDown)
    }

    /// Forgets a subscription, so that a connection may subscribe and unsubscribe for ever.
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
