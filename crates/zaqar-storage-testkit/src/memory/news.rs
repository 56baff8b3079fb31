//! News.

use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use futures_core::Stream;
use zaqar_core::storage::{Error, News, NewsStream, Posted};
use zaqar_core::{MessageId, QueueKey};

use super::{Fault, Memory, State};

#[async_trait]
impl News for Memory {
    async fn news(&self) -> Result<NewsStream, Error> {
        let last_seen = self.state()?.posts;
        Ok(Box::pin(Listener { memory: self.clone(), last_seen }))
    }
}

/// Reports each queue's latest post, in the order of these posts. A later post replaces earlier
/// ones that were not reported yet.
struct Listener {
    memory: Memory,
    last_seen: u64,
}

impl Stream for Listener {
    type Item = Posted;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Posted>> {
        let memory = self.memory.clone();
        let Ok(mut state) = memory.state() else { return Poll::Ready(None) };
        if memory.has(Fault::NewsLost) && state.posts - self.last_seen > 1000 {
            self.last_seen = state.posts;
        }
        let unseen = state.latest.iter().filter(|(_, (post, _))| *post > self.last_seen);
        let next = unseen.min_by_key(|(_, (post, _))| *post);
        if let Some((key, (post, last))) = next {
            self.last_seen = *post;
            return Poll::Ready(Some(Posted { key: key.clone(), last: *last }));
        }
        state.listeners.retain(|waker| !waker.will_wake(context.waker()));
        state.listeners.push(context.waker().clone());
        Poll::Pending
    }
}

impl Memory {
    /// Reports a post to the listeners.
    pub(super) fn report(&self, state: &mut State, key: QueueKey, last: MessageId) {
        state.posts += 1;
        state.latest.insert(key, (state.posts, last));
        state.wake_listeners();
    }
}

impl State {
    pub(super) fn wake_listeners(&mut self) {
        self.listeners.drain(..).for_each(std::task::Waker::wake);
    }
}
