//! Pushes: messages that reach a connection as they are posted, on whichever server of the deployment.
//!
//! A connection subscribes through its [`Listener`] and takes what comes from its [`Pushes`]. Its subscriptions are rows in the store
//! like any other, but hang on a lease of this server: they end with the connection, and with the server.
//!
//! `audience` knows who listens to which queue here and keeps the lease; `reading` reads a queue once for all of them.

mod audience;
mod delayed;
mod reading;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use zaqar_core::{QueueKey, SubscriptionId};

use crate::QueueRef;

pub(crate) use audience::Audience;

/// A message on its way to connections.
#[derive(Debug)]
pub struct Push {
    /// Where it was posted.
    pub queue: QueueRef,
    /// Seconds it lives.
    pub ttl: u64,
    /// Its body: the text of a JSON value, as it was posted.
    pub body: Bytes,
    encodings: [OnceLock<Bytes>; 2],
}

impl Push {
    fn new(queue: QueueRef, ttl: u64, body: Bytes) -> Self {
        Self { queue, ttl, body, encodings: [const { OnceLock::new() }; 2] }
    }

    /// What a transport makes of it, made once for all connections with this tag. Only tags 0 and 1 are remembered.
    pub fn encoded(&self, tag: u8, make: impl FnOnce(&Self) -> Bytes) -> Bytes {
        match self.encodings.get(usize::from(tag)) {
            Some(place) => place.get_or_init(|| make(self)).clone(),
            None => make(self),
        }
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
    /// Nobody took them in time.
    #[error("more pushes wait than the connection may leave")]
    Overflow,
    /// This server could not keep its lease: the subscriptions may be gone. Whoever connects anew can subscribe again.
    #[error("the server lost its hold on the subscriptions")]
    Lost,
    /// The server ends.
    #[error("the server shuts down")]
    ShutDown,
}

/// Subscribes for one connection. Clones are one handle.
#[derive(Clone)]
pub struct Listener {
    audience: Arc<Audience>,
    outlet: Arc<Outlet>,
    tag: u8,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("tag", &self.tag).finish_non_exhaustive()
    }
}

impl Listener {
    /// The same connection, with another mark on what its subscriptions bring.
    #[must_use]
    pub fn with_tag(&self, tag: u8) -> Self {
        Self { tag, ..self.clone() }
    }

    /// Waits until no more pushes come, whether or not the last ones are taken.
    pub async fn ended(&self) -> PushesEnded {
        self.outlet.closed.cancelled().await;
        self.outlet.why()
    }

    /// Ends the connection's subscriptions. What cannot be removed now goes with the lease.
    pub async fn close(self) {
        self.audience.clone().leave(&self.outlet).await;
    }
}

/// What comes for one connection, in the order of each queue. Dropping it ends the connection's subscriptions soon after.
pub struct Pushes {
    receiver: mpsc::Receiver<Pushed>,
    audience: Arc<Audience>,
    outlet: Arc<Outlet>,
}

impl fmt::Debug for Pushes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pushes").finish_non_exhaustive()
    }
}

impl Pushes {
    /// The next one. Can be dropped while it waits: nothing is lost, but whoever waits again must ask again to be woken.
    ///
    /// # Errors
    /// [`PushesEnded`], from then on always.
    pub async fn next(&mut self) -> Result<Pushed, PushesEnded> {
        tokio::select! {
            biased;
            () = self.outlet.closed.cancelled() => {}
            pushed = self.receiver.recv() => {
                if let Some(pushed) = pushed {
                    return Ok(pushed);
                }
            }
        }
        Err(self.outlet.why())
    }
}

impl Drop for Pushes {
    fn drop(&mut self) {
        self.outlet.end(PushesEnded::ShutDown);
        if self.outlet.subscriptions().is_empty() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (audience, outlet) = (Arc::clone(&self.audience), Arc::clone(&self.outlet));
            runtime.spawn(async move { audience.leave(&outlet).await });
        }
    }
}

/// Opens a connection on which at most `capacity` pushes wait.
pub(crate) fn listen(audience: &Arc<Audience>, capacity: usize) -> (Listener, Pushes) {
    let (sender, receiver) = mpsc::channel(capacity.max(1));
    let outlet = Arc::new(Outlet {
        sender,
        closed: CancellationToken::new(),
        ended: OnceLock::new(),
        subscriptions: Mutex::default(),
    });
    let listener = Listener { audience: audience.clone(), outlet: outlet.clone(), tag: 0 };
    (listener, Pushes { receiver, audience: audience.clone(), outlet })
}

/// The way to one connection.
struct Outlet {
    sender: mpsc::Sender<Pushed>,
    closed: CancellationToken,
    ended: OnceLock<PushesEnded>,
    subscriptions: Mutex<Vec<(QueueKey, SubscriptionId)>>,
}

impl Outlet {
    /// Hands on a push, or ends the connection's pushes where it cannot take one more; whether it could.
    fn push(&self, pushed: Pushed) -> bool {
        let is_sent = self.sender.try_send(pushed).is_ok();
        if !is_sent {
            self.end(PushesEnded::Overflow);
        }
        is_sent
    }

    fn end(&self, why: PushesEnded) {
        // The first reason stays.
        let _ = self.ended.set(why);
        self.closed.cancel();
    }

    fn why(&self) -> PushesEnded {
        *self.ended.get().unwrap_or(&PushesEnded::ShutDown)
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
