//! What can be set.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use mongodb::event::EventHandler;
use mongodb::event::command::CommandEvent;
use zaqar_core::storage::MAX_CLOCK_SKEW;
use zaqar_core::{Secret, TaskMonitor};

/// How a store is opened.
#[derive(Clone)]
pub struct Options {
    /// Where the server is: `mongodb://…` or `mongodb+srv://…`; `mongodb.fifo://` is taken as
    /// `mongodb://`. What it says about write concern, pools, timeouts and TLS holds.
    pub uri: Secret<String>,
    /// The store lives in the database `<database>_server`: the original uses `<database>` itself
    /// and other endings.
    pub database: String,
    /// Times that a step is tried which others on the same queue keep overtaking. Then:
    /// [`Overloaded`].
    ///
    /// [`Overloaded`]: zaqar_core::storage::Error::Overloaded
    pub max_attempts: u32,
    /// The longest pause between two such tries; the first ones are shorter.
    pub max_retry_sleep: Duration,
    /// Up to this much more, at random, so that two who collide do not collide again.
    pub max_retry_jitter: Duration,
    /// Times that a command is sent again after the connection broke or the primary changed.
    pub max_reconnect_attempts: u32,
    /// The pause before the first of these; each further one is twice as long.
    pub reconnect_sleep: Duration,
    /// One operation takes no longer, all tries and pauses together. Then: [`Unavailable`].
    ///
    /// [`Unavailable`]: zaqar_core::storage::Error::Unavailable
    pub deadline: Duration,
    /// One command takes no longer.
    pub command_timeout: Duration,
    /// Operations at once, at most. One more is refused with [`Overloaded`].
    ///
    /// [`Overloaded`]: zaqar_core::storage::Error::Overloaded
    pub in_flight: usize,
    /// Ask the server for change streams; where it has none, or this is off, [`News`] are looked
    /// up.
    ///
    /// [`News`]: zaqar_core::storage::News
    pub change_streams: bool,
    /// How often they are looked up then.
    pub poll: Duration,
    /// Certificates, where the URI asks for TLS.
    pub tls: Tls,
    /// Connections to each server, where the URI does not say (`maxPoolSize`).
    pub max_pool_size: u32,
    /// How far the caller's clock and the database's may differ. Beyond it nothing is done, and the
    /// answer is [`ClockSkew`]. `None`: they are not compared, and the caller's counts, also for
    /// what a sweep deletes.
    ///
    /// [`ClockSkew`]: zaqar_core::storage::Error::ClockSkew
    pub max_clock_skew: Option<Duration>,
    /// How long the start waits for a database that cannot be reached or has no primary.
    pub start_timeout: Duration,
    /// Take a URI that asks for less than a majority to have written what is acknowledged.
    pub unreliable: bool,
    /// Learns of the death of a task that the store started for itself.
    pub tasks: TaskMonitor,
    /// Hears of each command sent: for tests and traces.
    pub commands: Option<EventHandler<CommandEvent>>,
}

/// Certificates. They count only where the URI asks for TLS (`tls=true`, `ssl=true`,
/// `mongodb+srv://`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// PEM of the authorities that may sign the server's certificate; the system's where `None`.
    pub ca_file: Option<PathBuf>,
    /// PEM of our own certificate.
    pub certificate_file: Option<PathBuf>,
    /// PEM of its key, where that is not in `certificate_file`.
    pub key_file: Option<PathBuf>,
    /// Take any certificate: anyone in between can then read and change everything.
    pub accept_any: bool,
}

impl Options {
    /// The original's defaults for its options; 15 s an operation, 10 s a command, 1024 operations
    /// at once on 100 connections, clocks up to 30 s apart, a start that waits 20 s, news twice a
    /// second.
    pub fn new(uri: impl Into<String>, database: impl Into<String>) -> Self {
        Self {
            uri: Secret::new(uri.into()),
            database: database.into(),
            max_attempts: 1000,
            max_retry_sleep: Duration::from_millis(100),
            max_retry_jitter: Duration::from_millis(5),
            max_reconnect_attempts: 10,
            reconnect_sleep: Duration::from_millis(20),
            deadline: Duration::from_secs(15),
            command_timeout: Duration::from_secs(10),
            in_flight: 1024,
            change_streams: true,
            poll: Duration::from_millis(500),
            tls: Tls::default(),
            max_pool_size: 100,
            max_clock_skew: Some(MAX_CLOCK_SKEW),
            start_timeout: Duration::from_secs(20),
            unreliable: false,
            tasks: TaskMonitor::default(),
            commands: None,
        }
    }

    /// Whether a store that is opened with these is the one that is opened with `other`, over the
    /// same connections.
    #[must_use]
    pub fn is_same_place(&self, other: &Self) -> bool {
        (&self.uri, &self.database, &self.tls) == (&other.uri, &other.database, &other.tls)
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("database", &self.database).finish_non_exhaustive()
    }
}
