//! Options.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use mongodb::event::EventHandler;
use mongodb::event::command::CommandEvent;
use mongodb::options::{ConnectionString, HostInfo, ServerAddress};
use zaqar_core::storage::MAX_CLOCK_SKEW;
use zaqar_core::{Secret, TaskMonitor, canonical_host};

const MONGODB_PORT: u16 = 27017;

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

    /// Whether these options and `other` open one store, as far as that is known without a
    /// connection: one database of a server in common, whoever logs in and however. Names are not
    /// resolved.
    #[must_use]
    pub fn is_same_place(&self, other: &Self) -> bool {
        self.database == other.database
            && (self.uri == other.uri || have_common(&self.seeds(), &other.seeds()))
    }

    /// The servers that the URI names; none if it is invalid.
    fn seeds(&self) -> Vec<String> {
        let uri = plain_scheme(self.uri.expose());
        let Ok(parsed) = ConnectionString::parse(uri.as_str()) else { return Vec::new() };
        match parsed.host_info {
            HostInfo::HostIdentifiers(hosts) => hosts.iter().map(seed).collect(),
            HostInfo::DnsRecord(name) => vec![format!("srv {}", canonical_host(&name))],
            _ => Vec::new(),
        }
    }
}

/// Removes the variant of the original's driver from the scheme.
pub(crate) fn plain_scheme(uri: &str) -> String {
    match uri.strip_prefix("mongodb.fifo://") {
        Some(rest) => format!("mongodb://{rest}"),
        None => uri.to_owned(),
    }
}

fn seed(address: &ServerAddress) -> String {
    match address {
        ServerAddress::Tcp { host, port } => {
            format!("{} {}", canonical_host(host), port.unwrap_or(MONGODB_PORT))
        }
        ServerAddress::Unix { path } => path.display().to_string(),
        // None yet.
        _ => address.to_string(),
    }
}

fn have_common(seeds: &[String], others: &[String]) -> bool {
    seeds.iter().any(|seed| others.contains(seed))
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("database", &self.database).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_has_many_spellings() {
        for (one, other, is_same) in [
            ("mongodb://localhost", "mongodb://127.0.0.1:27017/", true),
            ("mongodb://[::1]/?w=majority", "mongodb.fifo://u:p@LOCALHOST", true),
            ("mongodb://a,b:1/?replicaSet=r", "mongodb://B:1,A:27017/?replicaSet=r", true),
            ("mongodb://a,b", "mongodb://b,c", true),
            ("mongodb://a", "mongodb://a:27018", false),
            ("mongodb://a", "mongodb://b", false),
            ("mongodb+srv://Cluster.example.org", "mongodb+srv://cluster.example.org/", true),
            ("mongodb+srv://cluster.example.org", "mongodb://cluster.example.org", false),
            ("mongodb://%2Ftmp%2Fm.sock", "mongodb://%2Ftmp%2Fm.sock/?w=majority", true),
            ("not a URI", "not a URI", true),
            ("not a URI", "no URI either", false),
        ] {
            let options = |uri: &str| Options::new(uri, "zaqar");
            let (first, second) = (options(one), options(other));
            assert_eq!(first.is_same_place(&second), is_same, "{one} and {other}");
            assert!(!first.is_same_place(&Options::new(other, "another")), "{one} and {other}");
        }
    }
}
