//! Broadcasts news of posts to listeners within this process.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;

use super::{Error, NewsStream, Posted};
use crate::{MessageId, QueueKey};

/// Sends news to the listeners of this process: what [`super::News`] returns for a store that no
/// other process posts to. A listener that lags gets the last post of each queue.
#[derive(Debug, Default)]
pub struct Broadcaster {
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
struct Listener(Arc<Mutex<Mailbox>>);

impl Broadcaster {
    /// The news from now on.
    ///
    /// # Errors
    /// [`Error::Closed`] after [`Broadcaster::close`].
    pub fn listen(&self) -> Result<NewsStream, Error> {
        let mut listeners = lock(&self.listeners);
        if listeners.is_closed {
            return Err(Error::Closed);
        }
        let mailbox = Arc::default();
        listeners.mailboxes.push(Arc::downgrade(&mailbox));
        Ok(Box::pin(Listener(mailbox)))
    }

    /// Sends news to all listeners. To be called before the posts are acknowledged. `posts` is read
    /// only if there are listeners.
    pub fn announce(&self, posts: impl IntoIterator<Item = Posted>) {
        let mut listeners = lock(&self.listeners);
        if listeners.mailboxes.is_empty() {
            return;
        }
        let posts: Vec<_> = posts.into_iter().collect();
        listeners.mailboxes.retain(|mailbox| match mailbox.upgrade() {
            Some(mailbox) => {
                lock(&mailbox).put(&posts);
                true
            }
            None => false,
        });
    }

    /// Ends all streams.
    pub fn close(&self) {
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
        let mut mailbox = lock(&self.0);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Incarnation, Kind, Position, ProjectId, QueueName};

    fn posted(name: &str, position: u64) -> Posted {
        let key = QueueKey {
            project: ProjectId::new("p").unwrap(),
            kind: Kind::Queue,
            name: QueueName::new(name).unwrap(),
        };
        let incarnation = Incarnation::new(1);
        Posted { key, last: MessageId { incarnation, position: Position::new(position) } }
    }

    fn poll(stream: &mut NewsStream) -> Poll<Option<Posted>> {
        stream.as_mut().poll_next(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_slow_listener_gets_the_last_post_of_each_queue_and_the_end() {
        let broadcaster = Broadcaster::default();
        broadcaster.announce([posted("a", 1)]);
        let mut news = broadcaster.listen().unwrap();
        assert!(poll(&mut news).is_pending(), "a post before it listened is no news");
        broadcaster.announce([posted("b", 1), posted("a", 2)]);
        broadcaster.announce([posted("b", 3)]);
        broadcaster.close();
        assert_eq!(poll(&mut news), Poll::Ready(Some(posted("b", 3))));
        assert_eq!(poll(&mut news), Poll::Ready(Some(posted("a", 2))));
        assert_eq!(poll(&mut news), Poll::Ready(None));
        assert!(matches!(broadcaster.listen(), Err(Error::Closed)));
    }

    #[test]
    fn a_dropped_listener_is_forgotten() {
        let broadcaster = Broadcaster::default();
        drop(broadcaster.listen());
        broadcaster.announce([posted("a", 1)]);
        assert!(lock(&broadcaster.listeners).mailboxes.is_empty());
    }
}
