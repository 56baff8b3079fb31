//! News. A listener that lags gets the last post of each queue, so it never has more than that.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use futures_core::Stream;
use zaqar_core::storage::{Error, News, NewsStream, Posted};
use zaqar_core::{MessageId, QueueKey};

use crate::store::{MemoryStore, State};

/// What one listener has not been told yet.
#[derive(Debug, Default)]
pub(crate) struct Listener {
    waiting: BTreeMap<QueueKey, MessageId>,
    is_closed: bool,
    waker: Option<Waker>,
}

struct Listening(Arc<Mutex<Listener>>);

#[async_trait]
impl News for MemoryStore {
    async fn news(&self) -> Result<NewsStream, Error> {
        let listener = Arc::default();
        self.state()?.listeners.push(Arc::downgrade(&listener));
        Ok(Box::pin(Listening(listener)))
    }
}

impl Stream for Listening {
    type Item = Posted;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Posted>> {
        let mut listener = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        listener.waker = Some(context.waker().clone());
        match listener.waiting.pop_first() {
            Some((key, last)) => Poll::Ready(Some(Posted { key, last })),
            None if listener.is_closed => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

impl State {
    /// Notifies every listener, and removes those that were dropped.
    pub(crate) fn notify(&mut self, change: impl Fn(&mut Listener)) {
        self.listeners.retain(|listener: &Weak<Mutex<Listener>>| {
            let Some(listener) = listener.upgrade() else { return false };
            let mut listener = listener.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut listener);
            listener.waker.take().into_iter().for_each(Waker::wake);
            true
        });
    }
}

impl Listener {
    pub(crate) fn record(&mut self, key: &QueueKey, last: MessageId) {
        self.waiting.insert(key.clone(), last);
    }

    pub(crate) fn close(&mut self) {
        self.is_closed = true;
    }
}
