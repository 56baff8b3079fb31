//! News: that something was posted, from whichever server.

use std::pin::Pin;

use async_trait::async_trait;
use futures_core::Stream;

use super::Error;
use crate::{MessageId, QueueKey};

/// A queue has messages up to this one. Never a body: who wants it reads the queue, once for all
/// who listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posted {
    /// The queue.
    pub key: QueueKey,
    /// The last message posted.
    pub last: MessageId,
}

/// News as they come. It ends when the store is shut down.
pub type NewsStream = Pin<Box<dyn Stream<Item = Posted> + Send>>;

/// News of a store.
#[async_trait]
pub trait News: Send + Sync {
    /// Listens to posts of every queue.
    ///
    /// # Behavior
    /// - Every post acknowledged after this answer is named, or a later post to the same queue is.
    /// - A post may be named more than once. News of one queue may come late, but a slow listener
    ///   holds up nobody: what it misses is made good by naming each queue that was posted to.
    async fn news(&self) -> Result<NewsStream, Error>;
}
