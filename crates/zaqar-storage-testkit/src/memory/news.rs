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
        let heard = self.state()?.posts;
        Ok(Box::pin(Listener { memory: self.clone(), heard }))
    }
}

/// Hears of each queue's latest post, in the order of these posts: what it misses in between is
/// named by the later one.
struct Listener {
    memory: Memory,
    heard: u64,
}

impl Stream for Listener {
    type Item = Posted;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Posted>> {
        let memory = self.memory.clone();
        let Ok(mut state) = memory.state() else { return Poll::Ready(None) };
        if memory.has(Fault::NewsLost) && state.posts - self.heard > 1000 {
            self.heard = state.posts;
        }
        let unheard = state.latest.iter().filter(|(_, (post, _))| *post > self.heard);
        let next = unheard.min_by_key(|(_, (post, _))| *post);
        if let Some((key, (post, last))) = next {
            self.heard = *post;
            return Poll::Ready(Some(Posted { key: key.clone(), last: *last }));
        }
        state.listeners.retain(|waker| !waker.will_wake(context.waker()));
        state.listeners.push(context.waker().clone());
        Poll::Pending
    }
}

impl Memory {
    /// Tells listeners of a post.
    pub(super) fn tell(&self, state: &mut State, key: QueueKey, last: MessageId) {
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
