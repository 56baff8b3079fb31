//! What can be set.

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
    /// Attempts of a request after the first one, while a server is away or changes its role.
    pub max_reconnect_attempts: u32,
    /// The longest pause between two attempts. They begin short and grow.
    pub reconnect_sleep: Duration,
    /// How long a request waits for a server that is away, in all.
    pub retry_for: Duration,
    /// Replicas that have a change before it is acknowledged. With fewer, or not within
    /// [`Uri::socket_timeout`], the request fails as
    /// [`Unavailable`](zaqar_core::storage::Error::Unavailable), though the change is made.
    pub wait_replicas: u32,
    /// How far the clock of this server may be from that of Redis. Beyond it every operation fails
    /// as [`ClockSkew`](zaqar_core::storage::Error::ClockSkew), having done nothing, and a later
    /// time that a queue has seen is repaired. `None` for any distance: then a wrong clock expires
    /// messages.
    pub max_clock_skew: Option<Duration>,
    /// Requests in progress, waiting ones included. Beyond it a request fails at once as
    /// [`Overloaded`](zaqar_core::storage::Error::Overloaded).
    pub pending: usize,
    /// Connections for small requests to each server, and as many for large ones.
    pub connections: usize,
    /// What all keys begin with: stores with different ones share a server without sharing anything
    /// else. `[A-Za-z0-9_.-]` only.
    pub prefix: String,
    /// How often listeners look at every queue that holds something, in case news were lost; `None`
    /// for never.
    pub news_poll: Option<Duration>,
    /// Learns of the death of the store's tasks.
    pub tasks: TaskMonitor,
}

impl Options {
    /// The defaults for a URI: 10 attempts, at most 1 s apart and 5 s in all; no replicas waited
    /// for; clocks 30 s apart; 4096 requests; 2 connections; news looked for once a minute.
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
