//! Options.

use std::time::Duration;

use zaqar_core::TaskMonitor;
use zaqar_core::storage::MAX_CLOCK_SKEW;

use crate::error::Error;
use crate::keys;
use crate::uri::Uri;

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the servers are.
    pub uri: Uri,
    /// Retries of a request while a server is unavailable or changes its role.
    pub max_reconnect_attempts: u32,
    /// The maximum delay between two attempts. Delays begin short and grow.
    pub reconnect_sleep: Duration,
    /// How long a request waits for a server that is unavailable, in total.
    pub retry_for: Duration,
    /// Replicas that must have a change before it is acknowledged. With fewer, or not within
    /// [`Uri::socket_timeout`], the request fails as
    /// [`Unavailable`](zaqar_core::storage::Error::Unavailable), although the change is made.
    pub wait_replicas: u32,
    /// How far the clock of this server may differ from that of Redis. Beyond it every operation
    /// fails as [`ClockSkew`](zaqar_core::storage::Error::ClockSkew) without any effect, and a
    /// queue's stored time that is too far ahead is corrected. `None` for no limit: then a wrong
    /// clock expires messages.
    pub max_clock_skew: Option<Duration>,
    /// Requests in progress, including waiting ones. Beyond it a request fails at once as
    /// [`Overloaded`](zaqar_core::storage::Error::Overloaded).
    pub pending: usize,
    /// Connections for small requests to each server, and as many for large ones.
    pub connections: usize,
    /// Prefix of all keys, `[A-Za-z0-9_.-]` only. Stores with different prefixes can share a
    /// server.
    pub prefix: String,
    /// How often listeners scan all queues that hold something, in case news were lost; `None` for
    /// never.
    pub news_poll: Option<Duration>,
    /// Is notified when one of the store's tasks dies.
    pub tasks: TaskMonitor,
}

impl Options {
    /// The defaults for a URI: 10 retries, at most 1 s apart and 5 s in total; no replicas to wait
    /// for; clock skew up to 30 s; 4096 requests; 2 connections; a scan for lost news once a
    /// minute.
    ///
    /// # Errors
    /// [`Error::Uri`], and [`Error::File`] for certificates.
    pub fn new(uri: &str) -> Result<Self, Error> {
        Ok(Self {
            uri: uri.parse()?,
            max_reconnect_attempts: 10,
            reconnect_sleep: Duration::from_secs(1),
            retry_for: Duration::from_secs(5),
            wait_replicas: 0,
            max_clock_skew: Some(MAX_CLOCK_SKEW),
            pending: 4096,
            connections: 2,
            prefix: keys::PREFIX.to_owned(),
            news_poll: Some(Duration::from_secs(60)),
            tasks: TaskMonitor::default(),
        })
    }
}
