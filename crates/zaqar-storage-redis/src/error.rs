//! Why a store cannot be opened, and what Redis's errors mean for a caller.

use std::time::Duration;

use redis::{ErrorKind, RedisError, ServerErrorKind};
use zaqar_core::storage;

/// When it is worth coming back to a server that is full or busy.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);

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
    #[error("Redis {version} is too old: version 7.0 or later is needed")]
    Version {
        /// What it says that it is.
        version: String,
    },
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
        match error.code() {
            Some("NOSCRIPT") => return Self::NoScript,
            Some(
                "READONLY" | "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "MOVED"
                | "ASK" | "BUSY",
            ) => return Self::NotYet(error),
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
            Self::NotYet(error) => error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly),
            Self::NoScript
            | Self::Unsafe { .. }
            | Self::Full(_)
            | Self::Down(_)
            | Self::Refused(_) => false,
        }
    }
}

impl From<Trouble> for storage::Error {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::NoScript => Self::unavailable("the server forgets its scripts"),
            Trouble::NotYet(error) | Trouble::Unknown(error) | Trouble::Down(error) => {
                Self::unavailable(error)
            }
            Trouble::Unsafe { replicas } => Self::unavailable(format!(
                "the change is on {replicas} replicas, fewer than wait_replicas asks for"
            )),
            Trouble::Full(_) => Self::Overloaded { retry_after: RETRY_AFTER },
            Trouble::Refused(error) => Self::failed(error),
        }
    }
}
