//! The one error of all stores.

use std::time::Duration;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be reached, or did not answer in time: whether it acted is not known.
    #[error("the store cannot be reached")]
    Unavailable {
        /// What the driver saw.
        #[source]
        source: Source,
    },
    /// It has more to do than it takes on; it did not act.
    #[error("the store has too much to do")]
    Overloaded {
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// It is being closed; it did not act.
    #[error("the store is closed")]
    Closed,
    /// It refused or failed, and would again. It did not act.
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

    /// Whether the same call may succeed later.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Overloaded { .. } => true,
            Self::Closed | Self::Failed { .. } => false,
        }
    }
}
