//! Options.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use mongodb::event::EventHandler;
use mongodb::event::command::CommandEvent;
use zaqar_core::storage::MAX_CLOCK_SKEW;
use zaqar_core::{Secret, TaskMonitor};

/// The options of a store.
#[derive(Clone)]
pub struct Options {
    /// The URI of the server: `mongodb://…` or `mongodb+srv://…`; `mongodb.fifo://` means
    /// `mongodb://`. Its options for write concern, pools, timeouts and TLS are used.
    pub uri: Secret<String>,
    /// The store uses the database `<database>_server`: the original uses `<database>` itself and
    /// other suffixes.
    pub database: String,
    /// The maximum number of attempts of an operation that conflicts with others on the same queue.
    /// Then: [`Overloaded`].
    ///
    /// [`Overloaded`]: zaqar_core::storage::Error::Overloaded
    pub max_attempts: u32,
    /// The maximum delay between two such attempts; the first ones are shorter.
    pub max_retry_sleep: Duration,
    /// The maximum random addition to that delay, so that two operations do not conflict again.
    pub max_retry_jitter: Duration,
    /// The maximum number of retries of a command after the connection broke or the primary
    /// changed.
    pub max_reconnect_attempts: u32,
    /// The delay before the first of these; it doubles with each retry.
    pub reconnect_sleep: Duration,
    /// The timeout of an operation, including all attempts and delays. Then: [`Unavailable`].
    ///
    /// [`Unavailable`]: zaqar_core::storage::Error::Unavailable
    pub deadline: Duration,
    /// The timeout of a command.
    pub command_timeout: Duration,
    /// The maximum number of operations in progress. Others are rejected with [`Overloaded`].
    ///
    /// [`Overloaded`]: zaqar_core::storage::Error::Overloaded
    pub in_flight: usize,
    /// Use change streams; if this is off or the server has none, [`News`] are polled.
    ///
    /// [`News`]: zaqar_core::storage::News
    pub change_streams: bool,
    /// The poll interval of news.
    pub poll: Duration,
    /// Certificates, used if the URI enables TLS.
    pub tls: Tls,
    /// The maximum number of connections to each server, unless the URI sets `maxPoolSize`.
    pub max_pool_size: u32,
    /// The maximum difference between the caller's clock and the database's. Above it, operations
    /// do nothing and return [`ClockSkew`]. `None`: the clocks are not compared, and the caller's
    /// is used, also by sweeps.
    ///
    /// [`ClockSkew`]: zaqar_core::storage::Error::ClockSkew
    pub max_clock_skew: Option<Duration>,
    /// How long startup waits for a database that cannot be reached or has no primary.
    pub start_timeout: Duration,
    /// Accept a URI with a weaker write concern than majority.
    pub unreliable: bool,
    /// Monitors the background tasks of the store.
    pub tasks: TaskMonitor,
    /// Called for each command, for tests and tracing.
    pub commands: Option<EventHandler<CommandEvent>>,
}

/// Certificates. They are used only if the URI enables TLS (`tls=true`, `ssl=true`,
/// `mongodb+srv://`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// PEM file of the authorities that may sign the server's certificate; `None` for the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client certificate.
    pub certificate_file: Option<PathBuf>,
    /// PEM file of its key, if that is not in `certificate_file`.
    pub key_file: Option<PathBuf>,
    /// Accept any certificate. This allows man-in-the-middle attacks.
    pub accept_any: bool,
}

impl Options {
    /// The original's defaults for its options; timeouts of 15 s for an operation and 10 s for a
    /// command, 1024 operations in progress on 100 connections, clocks up to 30 s apart, 20 s of
    /// waiting at startup, and two polls for news per second.
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

    /// Whether these options and `other` open the same store with the same connections.
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
