//! Why a store cannot be opened, and what Redis's errors mean for a caller.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "replies and errors that are not named are treated alike"
)]

use std::time::Duration;

use redis::{ErrorKind, RedisError};
use zaqar_core::storage;

/// When it is worth coming back to a server that is full or busy.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// When a queue is looked at again whose keys the server did not let a script use.
pub(crate) const AGAIN_SECS: u64 = 60;

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URI is not one that this driver reads.
    #[error("the Redis URI {reason}")]
    Uri {
        /// What is wrong with it. It does not repeat the URI, which may hold a password.
        reason: String,
    },
    /// A certificate or key file cannot be read.
    #[error("cannot read {path}")]
    File {
        /// The file.
        path: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// No server could be reached, or none that answers.
    #[error("cannot connect to Redis")]
    Connect {
        /// What was seen.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server is too old.
    #[error("Redis {version} is too old: version 6.2 or later is needed")]
    Version {
        /// What it says that it is.
        version: String,
    },
    /// The store was written by a release that keeps things otherwise.
    #[error(
        "this Redis holds a store of layout {found}, and this release knows layout {known}: \
         run the release that wrote it, or begin with another database or an empty one"
    )]
    Layout {
        /// The layout that it says it has.
        found: String,
        /// The one that this release knows.
        known: u32,
    },
}

impl Error {
    /// No server did what it was asked while a store was opened.
    pub(crate) fn connect(trouble: Trouble) -> Self {
        let source: Box<dyn std::error::Error + Send + Sync> = match trouble {
            Trouble::NotYet(error)
            | Trouble::Unknown(error)
            | Trouble::Full(error)
            | Trouble::Down(error)
            | Trouble::Refused(error) => error.into(),
            Trouble::NoScript | Trouble::Unsafe { .. } | Trouble::Skew { .. } => {
                "an answer that makes no sense".into()
            }
        };
        Self::Connect { source }
    }
}

/// A reply, or something kept, that this driver does not write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Redis holds or answers what this driver does not write")]
pub(crate) struct Garbled;

impl From<Garbled> for storage::Error {
    fn from(error: Garbled) -> Self {
        Self::failed(error)
    }
}

/// What became of one attempt that failed.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The server does not know the script; nothing was done.
    NoScript,
    /// Nothing was done, and soon it may be.
    NotYet(RedisError),
    /// It may have been done.
    Unknown(RedisError),
    /// It was done on too few servers.
    Unsafe {
        /// Replicas that have it.
        replicas: i64,
    },
    /// Nothing was done: our clock and the server's differ too much.
    Skew {
        /// Milliseconds that ours is ahead.
        offset_ms: i64,
    },
    /// Nothing was done: the server is full.
    Full(RedisError),
    /// Nothing was done: the server takes no writes for now, and waiting a moment does not help.
    Down(RedisError),
    /// Nothing was done, nor would it be another time.
    Refused(RedisError),
}

impl Trouble {
    /// What an error of a command that was sent means.
    pub(crate) fn of(error: RedisError) -> Self {
        match code(&error) {
            Some("NOSCRIPT") => return Self::NoScript,
            Some(
                "READONLY" | "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "MOVED"
                | "ASK" | "BUSY",
            ) => return Self::NotYet(error),
            // The request came after its deadline: the next attempt is made in time, on a
            // connection that reads the clock anew.
            Some("ZLATE") => return Self::NotYet(error),
            Some("ZSKEW") => {
                let offset =
                    error.detail().and_then(|detail| detail.split(' ').next()?.parse().ok());
                return Self::Skew { offset_ms: offset.unwrap_or(0) };
            }
            Some("OOM") => return Self::Full(error),
            Some("MISCONF" | "NOREPLICAS") => return Self::Down(error),
            _ => {}
        }
        match error.kind() {
            ErrorKind::ClusterConnectionNotFound => Self::NotYet(error),
            ErrorKind::Io | ErrorKind::Parse => Self::Unknown(error),
            // `UNBLOCKED`: the server lost its place while it waited for replicas.
            ErrorKind::Extension if error.code() == Some("UNBLOCKED") => Self::Unknown(error),
            _ => Self::Refused(error),
        }
    }

    /// What it means that there is no connection.
    pub(crate) fn unconnected(error: RedisError) -> Self {
        let is_final = matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"))
            || matches!(
                error.kind(),
                ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig
            );
        if is_final { Self::Refused(error) } else { Self::NotYet(error) }
    }

    /// Whether the connection is of no more use.
    pub(crate) fn ends_connection(&self) -> bool {
        match self {
            // A timeout may be a dead peer. READONLY: it is another server's turn.
            Self::Unknown(_) => true,
            Self::NotYet(error) => matches!(code(error), Some("READONLY" | "ZLATE")),
            Self::NoScript
            | Self::Skew { .. }
            | Self::Unsafe { .. }
            | Self::Full(_)
            | Self::Down(_)
            | Self::Refused(_) => false,
        }
    }
}

impl Trouble {
    /// What it is to the caller of a store with this bound on clocks.
    pub(crate) fn told(self, max_clock_skew: Option<Duration>) -> storage::Error {
        match self {
            Self::NoScript => storage::Error::unavailable("the server forgets its scripts"),
            Self::NotYet(error) | Self::Unknown(error) | Self::Down(error) => {
                storage::Error::unavailable(error)
            }
            Self::Unsafe { replicas } => storage::Error::unavailable(format!(
                "the change is on {replicas} replicas, fewer than wait_replicas asks for"
            )),
            Self::Skew { offset_ms } => {
                let bound = max_clock_skew.unwrap_or_default().as_millis();
                let bound_ms = u64::try_from(bound).unwrap_or(u64::MAX);
                storage::Error::ClockSkew { offset_ms, bound_ms }
            }
            Self::Full(error) => storage::Error::full(error),
            Self::Refused(error) => storage::Error::failed(error),
        }
    }
}

/// The code of an error. Before Redis 7 that of a command in a script stands within the text of the
/// script's error: `ERR Error running script (…): …: -OOM command not allowed …`.
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

/// What was found, or nothing where the server refuses: one damaged key must not stop a sweep.
pub(crate) fn unless_failed<T>(
    found: Result<T, storage::Error>,
    what: &'static str,
) -> Result<Option<T>, storage::Error> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(storage::Error::Failed { source }) => {
            tracing::warn!(error = &*source, "{what}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a server says, as the client reads it.
    fn said(text: &str) -> RedisError {
        let value = redis::parse_redis_value(format!("-{text}\r\n").as_bytes()).unwrap();
        value.extract_error().expect_err("an error")
    }

    #[test]
    fn errors_of_scripts_mean_the_same_before_redis_7() {
        let of_script = |text: &str| {
            let script = "ERR Error running script (call to f_cc7b): @user_script:90: @user_script";
            Trouble::of(said(&format!("{script}: 90: -{text}")))
        };
        for text in ["OOM command not allowed", "OOM"] {
            assert!(matches!(Trouble::of(said(text)), Trouble::Full(_)), "{text}");
            assert!(matches!(of_script(text), Trouble::Full(_)), "{text}");
        }
        let replica = of_script("READONLY You can't write against a read only replica.");
        assert!(matches!(replica, Trouble::NotYet(_)) && replica.ends_connection());
        assert!(matches!(of_script("MISCONF Redis is configured to save"), Trouble::Down(_)));
        let wrong = "WRONGTYPE Operation against a key holding the wrong kind of value";
        for trouble in [of_script(wrong), Trouble::of(said(wrong)), Trouble::of(said("ERR odd"))] {
            assert!(matches!(trouble, Trouble::Refused(_)), "{trouble:?}");
        }
    }
}
