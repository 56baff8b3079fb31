//! Broadcasts news of posts to listeners within this process: no other process posts.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use zaqar_core::storage::Posted;
use zaqar_core::{MessageId, QueueKey};

/// Sends news to listeners.
#[derive(Debug, Default)]
pub(crate) struct Broadcaster {
    listeners: Mutex<Listeners>,
}

#[derive(Debug, Default)]
struct Listeners {
    /// The entry of a listener that was dropped is removed by the next announcement.
    mailboxes: Vec<Weak<Mutex<Mailbox>>>,
    is_closed: bool,
}

/// The news that one listener has not taken yet: each queue once, with its last post, so that the
/// memory of a slow listener is bounded by the number of queues.
#[derive(Debug, Default)]
struct Mailbox {
    order: VecDeque<QueueKey>,
    last: HashMap<QueueKey, MessageId>,
    waker: Option<Waker>,
    is_closed: bool,
}

/// A stream of news.
pub(crate) struct Listener {
    mailbox: Arc<Mutex<Mailbox>>,
}

impl Broadcaster {
    /// A new listener; `None` after closing.
    pub(crate) fn listen(&self) -> Option<Listener> {
        let mut listeners = lock(&self.listeners);
        if listeners.is_closed {
            return None;
        }
        let mailbox = Arc::default();
        listeners.mailboxes.push(Arc::downgrade(&mailbox));
        Some(Listener { mailbox })
    }

    /// Sends news to all listeners, before the posts are acknowledged.
    pub(crate) fn announce(&self, posts: impl Iterator<Item = Posted>) {
        let mut listeners = lock(&self.listeners);
        if listeners.mailboxes.is_empty() {
            return;
        }
        let posts: Vec<_> = posts.collect();
        listeners.mailboxes.retain(|mailbox| match mailbox.upgrade() {
            Some(mailbox) => {
                lock(&mailbox).put(&posts);
                true
            }
            None => false,
        });
    }

    /// Ends all streams.
    pub(crate) fn close(&self) {
        let mut listeners = lock(&self.listeners);
        listeners.is_closed = true;
        for mailbox in listeners.mailboxes.drain(..).filter_map(|mailbox| mailbox.upgrade()) {
            let mut mailbox = lock(&mailbox);
            mailbox.is_closed = true;
            mailbox.wake();
        }
    }
}

impl Mailbox {
    fn put(&mut self, posts: &[Posted]) {
        for Posted { key, last } in posts {
            if self.last.insert(key.clone(), *last).is_none() {
                self.order.push_back(key.clone());
            }
        }
        if !posts.is_empty() {
            self.wake();
        }
    }

    fn take(&mut self) -> Option<Posted> {
        let key = self.order.pop_front()?;
        self.last.remove(&key).map(|last| Posted { key, last })
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Stream for Listener {
    type Item = Posted;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Posted>> {
        let mut mailbox = lock(&self.mailbox);
        if let Some(posted) = mailbox.take() {
            return Poll::Ready(Some(posted));
        }
        if mailbox.is_closed {
            return Poll::Ready(None);
        }
        mailbox.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

/// No code panics while it holds one of these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
