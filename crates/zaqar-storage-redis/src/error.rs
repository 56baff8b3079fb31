//! Errors of opening a store, and the meaning of Redis's errors for callers.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "all other replies and errors are treated alike"
)]

use std::time::Duration;

use redis::{ErrorKind, RedisError};
use zaqar_core::{QueueKey, StateLog, storage};

/// When a caller should retry if the server is full or busy.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// When a queue is looked at again after a script on it failed.
pub(crate) const RECHECK_SECS: u64 = 60;

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URI is invalid.
    #[error("the Redis URI {reason}")]
    Uri {
        /// The reason. It does not repeat the URI, which may contain a password.
        reason: String,
    },
    /// A certificate or key file cannot be read.
    #[error("cannot read {path}")]
    File {
        /// The file.
        path: String,
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// No server could be reached, or none answers.
    #[error("cannot connect to Redis at {address}")]
    Connect {
        /// Where it should be, without credentials.
        address: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server is older than Redis 6.2.
    #[error("Redis {version} is too old: version 6.2 or later is needed")]
    Version {
        /// The server's version.
        version: String,
    },
    /// The store was written by a release with another layout.
    #[error(
        "this Redis holds a store of layout {found}, and this release knows layouts 2 to {known}: \
         run the release that wrote it, or use another database or an empty one"
    )]
    Layout {
        /// The store's layout.
        found: String,
        /// The latest layout that this release knows.
        known: u32,
    },
}

impl Error {
    /// Converts a failure during the opening of the store on these servers.
    pub(crate) fn connect(address: String, failure: Failure) -> Self {
        let source: Box<dyn std::error::Error + Send + Sync> = match failure {
            Failure::Retryable(error)
            | Failure::Ambiguous(error)
            | Failure::Full(error)
            | Failure::Unavailable(error)
            | Failure::Rejected(error) => error.into(),
            Failure::NoScript | Failure::UnderReplicated { .. } | Failure::ClockSkew { .. } => {
                "an unexpected answer".into()
            }
        };
        Self::Connect { address, source }
    }
}

/// A reply or stored value that this driver does not write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Redis returned data that this driver does not write")]
pub(crate) struct Malformed;

impl From<Malformed> for storage::Error {
    fn from(error: Malformed) -> Self {
        Self::failed(error)
    }
}

/// The outcome of one failed attempt.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server does not know the script; nothing was done.
    NoScript,
    /// Nothing was done; a retry may succeed soon.
    Retryable(RedisError),
    /// It may have been done.
    Ambiguous(RedisError),
    /// It was done, but too few replicas have it.
    UnderReplicated {
        /// Replicas that have it.
        replicas: i64,
    },
    /// Nothing was done: our clock and the server's differ too much.
    ClockSkew {
        /// Milliseconds by which our clock is ahead.
        offset_ms: i64,
    },
    /// Nothing was done: the server is full.
    Full(RedisError),
    /// Nothing was done: the server accepts no writes for now, and a short wait does not help.
    Unavailable(RedisError),
    /// Nothing was done, and a retry would not help.
    Rejected(RedisError),
}

impl Failure {
    /// Classifies the error of a command that was sent.
    pub(crate) fn of_command(error: RedisError) -> Self {
        match code(&error) {
            Some("NOSCRIPT") => return Self::NoScript,
            Some(
                "READONLY" | "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "MOVED"
                | "ASK" | "BUSY",
            ) => return Self::Retryable(error),
            // The request came after its deadline. The next attempt uses a new connection, which
            // reads the clock again.
            Some("ZLATE") => return Self::Retryable(error),
            Some("ZSKEW") => {
                let offset =
                    error.detail().and_then(|detail| detail.split(' ').next()?.parse().ok());
                return Self::ClockSkew { offset_ms: offset.unwrap_or(0) };
            }
            Some("OOM") => return Self::Full(error),
            Some("MISCONF" | "NOREPLICAS") => return Self::Unavailable(error),
            _ => {}
        }
        match error.kind() {
            ErrorKind::ClusterConnectionNotFound => Self::Retryable(error),
            ErrorKind::Io | ErrorKind::Parse => Self::Ambiguous(error),
            // `UNBLOCKED`: the server lost its role as master while it waited for replicas.
            ErrorKind::Extension if error.code() == Some("UNBLOCKED") => Self::Ambiguous(error),
            _ => Self::Rejected(error),
        }
    }

    /// Classifies the error of a failed attempt to connect.
    pub(crate) fn of_connect(error: RedisError) -> Self {
        let is_final = matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"))
            || matches!(
                error.kind(),
                ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig
            );
        if is_final { Self::Rejected(error) } else { Self::Retryable(error) }
    }

    /// Whether the connection must be closed.
    pub(crate) fn ends_connection(&self) -> bool {
        match self {
            // After a timeout the peer may be dead. After READONLY another server is the master.
            Self::Ambiguous(_) => true,
            Self::Retryable(error) => matches!(code(error), Some("READONLY" | "ZLATE")),
            Self::NoScript
            | Self::ClockSkew { .. }
            | Self::UnderReplicated { .. }
            | Self::Full(_)
            | Self::Unavailable(_)
            | Self::Rejected(_) => false,
        }
    }
}

impl Failure {
    /// Converts the failure for a caller, given the bound on clock skew.
    pub(crate) fn into_storage_error(self, max_clock_skew: Option<Duration>) -> storage::Error {
        match self {
            Self::NoScript => storage::Error::unavailable("the server does not keep its scripts"),
            Self::Retryable(error) | Self::Ambiguous(error) | Self::Unavailable(error) => {
                storage::Error::unavailable(error)
            }
            Self::UnderReplicated { replicas } => storage::Error::unavailable(format!(
                "the change is on {replicas} replicas, fewer than wait_replicas requires"
            )),
            Self::ClockSkew { offset_ms } => {
                let bound = max_clock_skew.unwrap_or_default().as_millis();
                let bound_ms = u64::try_from(bound).unwrap_or(u64::MAX);
                storage::Error::ClockSkew { offset_ms, bound_ms }
            }
            Self::Full(error) => storage::Error::full(error),
            Self::Rejected(error) => storage::Error::failed(error),
        }
    }
}

/// The code of an error. Before Redis 7, the code of a command within a script is in the text of
/// the script's error: `ERR Error running script (…): …: -OOM command not allowed …`.
fn code(error: &RedisError) -> Option<&str> {
    let of_script = || {
        let text = error.detail()?;
        let (_, command) = text.strip_prefix("Error running script")?.split_once(": -")?;
        command.split_whitespace().next()
    };
    match error.code() {
        Some("ERR") => of_script().or(Some("ERR")),
        code => code,
    }
}

static SKIPPED: StateLog = StateLog::new();
static UNREADABLE: StateLog = StateLog::new();
static UNFINISHED: StateLog = StateLog::new();

/// Logs that damaged data is skipped, rarely if there is much: whatever reads it finds it again.
pub(crate) fn report_unreadable(what: &'static str, at: impl std::fmt::Display) {
    if let Some(times) = UNREADABLE.failure() {
        tracing::warn!(%at, times, "{what} cannot be read");
    }
}

/// Logs that an operation did a part of its work before Redis failed, rarely if many do.
pub(crate) fn report_unfinished(what: &'static str, queue: &QueueKey, error: &storage::Error) {
    if let Some(times) = UNFINISHED.failure() {
        let error = error as &dyn std::error::Error;
        tracing::warn!(%queue, error, times, "{what}");
    }
}

/// Turns a failed operation into `None` and logs it: one damaged key must not stop a sweep.
pub(crate) fn skip_failed<T>(
    found: Result<T, storage::Error>,
    what: &'static str,
) -> Result<Option<T>, storage::Error> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(storage::Error::Failed { source }) => {
            if let Some(times) = SKIPPED.failure() {
                tracing::warn!(error = &*source, times, "{what}");
            }
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error of a server, as the client parses it.
    fn error(text: &str) -> RedisError {
        let value = redis::parse_redis_value(format!("-{text}\r\n").as_bytes()).unwrap();
        value.extract_error().expect_err("an error")
    }

    #[test]
    fn errors_of_scripts_mean_the_same_before_redis_7() {
        let of_script = |text: &str| {
            let script = "ERR Error running script (call to f_cc7b): @user_script:90: @user_script";
            Failure::of_command(error(&format!("{script}: 90: -{text}")))
        };
        for text in ["OOM command not allowed", "OOM"] {
            assert!(matches!(Failure::of_command(error(text)), Failure::Full(_)), "{text}");
            assert!(matches!(of_script(text), Failure::Full(_)), "{text}");
        }
        let replica = of_script("READONLY You can't write against a read only replica.");
        assert!(matches!(replica, Failure::Retryable(_)) && replica.ends_connection());
        assert!(matches!(
            of_script("MISCONF Redis is configured to save"),
            Failure::Unavailable(_)
        ));
        let wrong = "WRONGTYPE Operation against a key holding the wrong kind of value";
        for failure in [
            of_script(wrong),
            Failure::of_command(error(wrong)),
            Failure::of_command(error("ERR odd")),
        ] {
            assert!(matches!(failure, Failure::Rejected(_)), "{failure:?}");
        }
    }
}
