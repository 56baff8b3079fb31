//! The error type of all stores.

use std::time::Duration;

use super::{MoveEnd, MoveId};

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store cannot be reached, or did not answer in time. It may or may not have acted.
    #[error("the store cannot be reached")]
    Unavailable {
        /// What the driver saw.
        #[source]
        source: Source,
    },
    /// The store sheds load; it did not act.
    #[error("the store is overloaded")]
    Overloaded {
        /// How long to wait before a retry.
        retry_after: Duration,
    },
    /// This server's clock and the store's differ by more than the store tolerates. The store did
    /// not act.
    #[error(
        "this server's clock is {offset_ms} ms off the store's, more than the {bound_ms} ms allowed"
    )]
    ClockSkew {
        /// Milliseconds that this server's clock is ahead of the store's; negative when it is
        /// behind.
        offset_ms: i64,
        /// The largest difference allowed, in milliseconds.
        bound_ms: u64,
    },
    /// The store has no space left for new data; it did not act. Deletions still work.
    #[error("the store is full")]
    Full {
        /// What the driver saw.
        #[source]
        source: Source,
    },
    /// The request exceeds a limit of this store; a retry would fail as well. The store did not
    /// act.
    #[error("{what} has {size} bytes; this store takes at most {max}")]
    TooLarge {
        /// What is too large: "a message", "the posted batch", "the metadata".
        what: &'static str,
        /// Its size in bytes.
        size: u64,
        /// The most that this store takes, in bytes.
        max: u64,
    },
    /// The queue is frozen, as it moves to another store; the store did not act. Look again where
    /// it is.
    #[error("the queue is being moved to another store")]
    Moved {
        /// The move.
        id: MoveId,
        /// Which end of it this is.
        end: MoveEnd,
    },
    /// The store is shutting down; it did not act.
    #[error("the store is closed")]
    Closed,
    /// The store rejected the request or failed, and would again. It did not act.
    #[error("the store failed")]
    Failed {
        /// What the driver saw.
        #[source]
        source: Source,
    },
}

impl Error {
    /// Wraps a driver's error as [`Error::Unavailable`].
    pub fn unavailable(source: impl Into<Source>) -> Self {
        Self::Unavailable { source: source.into() }
    }

    /// Wraps a driver's error as [`Error::Failed`].
    pub fn failed(source: impl Into<Source>) -> Self {
        Self::Failed { source: source.into() }
    }

    /// A copy of the error for another caller whose request was in the same group. A source is
    /// reduced to its text.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        match self {
            Self::Unavailable { source } => Self::unavailable(source.to_string()),
            Self::Failed { source } => Self::failed(source.to_string()),
            Self::Full { source } => Self::full(source.to_string()),
            Self::Overloaded { retry_after } => Self::Overloaded { retry_after: *retry_after },
            Self::ClockSkew { offset_ms, bound_ms } => {
                Self::ClockSkew { offset_ms: *offset_ms, bound_ms: *bound_ms }
            }
            Self::TooLarge { what, size, max } => Self::TooLarge { what, size: *size, max: *max },
            Self::Moved { id, end } => Self::Moved { id: *id, end: *end },
            Self::Closed => Self::Closed,
        }
    }

    /// Wraps a driver's error as [`Error::Full`].
    pub fn full(source: impl Into<Source>) -> Self {
        Self::Full { source: source.into() }
    }

    /// Whether the same call may succeed later.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. }
            | Self::Overloaded { .. }
            | Self::ClockSkew { .. }
            | Self::Moved { .. }
            | Self::Full { .. } => true,
            Self::TooLarge { .. } | Self::Closed | Self::Failed { .. } => false,
        }
    }
}
