//! What can be set.

use std::time::Duration;

use crate::error::Error;
use crate::keys;
use crate::uri::Uri;

/// How a store is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where the servers are.
    pub uri: Uri,
    /// Attempts that a request makes while a server is away or changes its role, the first not counted; only where it is known that a
    /// repeat is harmless.
    pub max_reconnect_attempts: u32,
    /// The longest pause between two attempts. They begin short and grow.
    pub reconnect_sleep: Duration,
    /// How long a request waits for a server that is away, in all.
    pub patience: Duration,
    /// Replicas that have a change before it is acknowledged. With fewer, or not within [`Uri::socket_timeout`], the request fails as
    /// [`Unavailable`](zaqar_core::storage::Error::Unavailable), though the change is made.
    pub wait_replicas: u32,
    /// Requests in the hands of the store, at most. One more is refused with
    /// [`Overloaded`](zaqar_core::storage::Error::Overloaded).
    pub pending: usize,
    /// Connections to a server; in a Cluster, to each.
    pub connections: usize,
    /// What all keys begin with: stores with different ones share a server without sharing anything else. `[A-Za-z0-9_.-]` only.
    pub prefix: String,
    /// How often listeners look at every queue that holds something, in case news were lost; `None` for never.
    pub news_poll: Option<Duration>,
}

impl Options {
    /// The defaults for a URI: 10 attempts, at most 1 s apart and 5 s in all; no replicas waited for; 4096 requests; 2 connections; news
    /// looked for once a minute.
    ///
    /// # Errors
    /// [`Error::Uri`], and [`Error::File`] for certificates.
    pub fn new(uri: &str) -> Result<Self, Error> {
        Ok(Self {
            uri: uri.parse()?,
            max_reconnect_attempts: 10,
            reconnect_sleep: Duration::from_secs(1),
            patience: Duration::from_secs(5),
            wait_replicas: 0,
            pending: 4096,
            connections: 2,
            prefix: keys::PREFIX.to_owned(),
            news_poll: Some(Duration::from_secs(60)),
        })
    }
}
