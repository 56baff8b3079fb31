//! Classifies errors for every transport alike: whether a retry may help, and whether to log them.

use std::error::Error as StdError;
use std::time::Duration;

use tracing::{error, warn};
use zaqar_core::{StateLog, storage};

use crate::Error;

static UNAVAILABLE: StateLog = StateLog::new();
static CLOCK_SKEW: StateLog = StateLog::new();
static FULL: StateLog = StateLog::new();
static FAILED: StateLog = StateLog::new();
static ENCRYPTION: StateLog = StateLog::new();
static AUTHENTICATION: StateLog = StateLog::new();

/// When a client may retry while the store is unavailable.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// When a client may retry while the store is full: an operator has to free space first.
const RETRY_AFTER_FULL: Duration = Duration::from_secs(30);
/// When a client may retry if the next attempt may already succeed.
const RETRY_SOON: Duration = Duration::from_secs(1);

/// The class of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Treatment {
    /// The caller's fault. The same request would fail again.
    Permanent,
    /// Temporary, and not logged.
    Retry(Duration),
    /// Temporary, and logged.
    LoggedRetry(Failure, Duration),
    /// Permanent until an operator acts, and logged.
    Logged(Failure),
}

/// A failure that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    Unavailable,
    ClockSkew,
    Full,
    Failed,
    Encryption,
    Authentication,
}

impl Error {
    /// When to retry; `None` if the same request would fail again. A transport answers `Some` with
    /// 503 and `Retry-After`.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self.treatment() {
            Treatment::Permanent | Treatment::Logged(_) => None,
            Treatment::Retry(after) | Treatment::LoggedRetry(_, after) => Some(after),
        }
    }

    /// Logs an error that concerns the operator: at most one line of each kind every few seconds,
    /// with the number of failed requests. Errors of callers, and load shedding by a store, are not
    /// logged.
    pub(crate) fn log(&self) {
        match self.treatment() {
            Treatment::Permanent | Treatment::Retry(_) => {}
            Treatment::LoggedRetry(failure, _) | Treatment::Logged(failure) => {
                failure.log(self.cause());
            }
        }
    }

    const fn treatment(&self) -> Treatment {
        match self {
            Self::Overloaded { retry_after }
            | Self::OverRate { retry_after, .. }
            | Self::Storage(storage::Error::Overloaded { retry_after }) => {
                Treatment::Retry(*retry_after)
            }
            Self::Contended
            | Self::DeadlineExceeded
            | Self::Storage(storage::Error::Moved { .. }) => Treatment::Retry(RETRY_SOON),
            // A task's death is logged where the server is stopped for it.
            Self::TaskFailed { .. } | Self::Storage(storage::Error::Closed) => {
                Treatment::Retry(RETRY_AFTER)
            }
            Self::AuthenticationUnavailable { .. } => {
                Treatment::LoggedRetry(Failure::Authentication, RETRY_AFTER)
            }
            Self::Storage(storage::Error::Unavailable { .. }) => {
                Treatment::LoggedRetry(Failure::Unavailable, RETRY_AFTER)
            }
            Self::Storage(storage::Error::ClockSkew { .. }) => {
                Treatment::LoggedRetry(Failure::ClockSkew, RETRY_AFTER)
            }
            Self::Storage(storage::Error::Full { .. }) => {
                Treatment::LoggedRetry(Failure::Full, RETRY_AFTER_FULL)
            }
            Self::Storage(storage::Error::Failed { .. }) => Treatment::Logged(Failure::Failed),
            Self::CannotSeal => Treatment::LoggedRetry(Failure::Encryption, RETRY_AFTER_FULL),
            Self::Invalid { .. }
            | Self::Pools(_)
            | Self::NoPools
            | Self::NoProjectQuotas
            | Self::QueueNotFound { .. }
            | Self::Conflict { .. }
            | Self::MessageClaimed
            | Self::MessageNotClaimed
            | Self::WrongClaim
            | Self::ClaimNotFound { .. }
            | Self::SubscriptionNotFound { .. }
            | Self::DeliveryNotFound { .. }
            | Self::RecoveryNotFound { .. }
            | Self::SubscriptionExists
            | Self::SubscriptionTaken
            | Self::SubscriptionUnchanged { .. }
            | Self::Forbidden
            | Self::NotAuthenticated
            | Self::NoProject
            | Self::NotGranted
            | Self::Rejected(_)
            | Self::OverQuota { .. }
            | Self::Storage(storage::Error::TooLarge { .. }) => Treatment::Permanent,
        }
    }

    /// The error that a log line shows.
    fn cause(&self) -> &(dyn StdError + 'static) {
        if let Self::AuthenticationUnavailable { source } = self {
            return source.as_ref();
        }
        if let Self::Storage(error) = self { error } else { self }
    }
}

impl Failure {
    fn log(self, error: &(dyn StdError + 'static)) {
        let Some(requests) = self.state_log().failure() else { return };
        match self {
            Self::Unavailable => warn!(error, requests, "store unavailable"),
            Self::ClockSkew => {
                error!(error, requests, "requests are rejected: the clocks differ");
            }
            Self::Full => error!(error, requests, "the store is full"),
            Self::Failed => error!(error, requests, "store failed"),
            Self::Encryption => error!(error, requests, "encryption failed"),
            Self::Authentication => warn!(error, requests, "tokens cannot be checked"),
        }
    }

    const fn state_log(self) -> &'static StateLog {
        match self {
            Self::Unavailable => &UNAVAILABLE,
            Self::ClockSkew => &CLOCK_SKEW,
            Self::Full => &FULL,
            Self::Failed => &FAILED,
            Self::Encryption => &ENCRYPTION,
            Self::Authentication => &AUTHENTICATION,
        }
    }
}
