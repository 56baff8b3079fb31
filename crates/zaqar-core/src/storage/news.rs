//! News: hints that a queue was posted to, by any server.

use std::pin::Pin;

use async_trait::async_trait;
use futures_core::Stream;

use super::Error;
use crate::{MessageId, QueueKey};

/// A queue was posted to, up to this message. There are no bodies: a listener reads the queue, once
/// for all its connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posted {
    /// The queue.
    pub key: QueueKey,
    /// The last message posted.
    pub last: MessageId,
}

/// A stream of news. It ends when the store is shut down.
pub type NewsStream = Pin<Box<dyn Stream<Item = Posted> + Send>>;

/// The source of news.
#[async_trait]
pub trait News: Send + Sync {
    /// Subscribes to news of every queue.
    ///
    /// # Behavior
    /// - For every post that is acknowledged after this method returns, the stream yields that post
    ///   or a later one to the same queue.
    /// - A post may be reported more than once. News may be late, but a slow listener blocks
    ///   nobody: if it lags, it gets one item for each queue that was posted to.
    async fn news(&self) -> Result<NewsStream, Error>;
}
