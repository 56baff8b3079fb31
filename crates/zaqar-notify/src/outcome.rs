//! The outcome of an attempt, and what follows from it.

use std::time::Duration;

use bytes::Bytes;

use crate::retry::RetryAfter;

/// The outcome of one attempt to deliver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// The receiver answered.
    Answered(Answer),
    /// It did not answer.
    Failed(Failure),
}

/// The part of a receiver's answer that matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The `Retry-After` header, if it is valid.
    pub retry_after: Option<RetryAfter>,
    /// The beginning of the body: at most [`Answer::KEPT`] bytes.
    pub body: Bytes,
}

impl Answer {
    /// Bytes of an answer's body that are kept.
    pub const KEPT: usize = 4096;
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The address is refused.
    #[error("{0}")]
    Refused(#[from] crate::address::Refused),
    /// The subscriber's address is invalid, or the request cannot be built.
    #[error("the request cannot be made: {0}")]
    Unusable(String),
    /// The memory budget has no room for the request.
    #[error("not sent: {0}")]
    OverBudget(#[from] zaqar_core::OverBudget),
    /// The subscriber needs a token of its owner, and there is none.
    #[error("no token: {0}")]
    NoToken(String),
    /// No connection: the name does not resolve, no server listens, or TLS fails.
    #[error("no connection: {0}")]
    NoConnection(String),
    /// The connection ended before an answer, or the answer is invalid.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// No answer in time.
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
}

/// What follows from an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The subscriber has received the message.
    Delivered,
    /// Retry, but not before the receiver asked for it.
    Retry(Option<RetryAfter>),
    /// End this delivery, and send this subscriber nothing until it is resumed.
    Suspend,
    /// End this delivery: the same request would be rejected again.
    Rejected,
}

impl Attempt {
    /// What follows. 2xx is success; 408, 425, 429, 5xx and failures without an answer are retried;
    /// 410 suspends; every other status, including redirects, ends the delivery.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Answered(answer) => match answer.status {
                200..=299 => Verdict::Delivered,
                408 | 425 | 429 | 500..=599 => Verdict::Retry(answer.retry_after),
                410 => Verdict::Suspend,
                _ => Verdict::Rejected,
            },
            // It never fits.
            Self::Failed(Failure::OverBudget(over)) if over.requested > over.limit => {
                Verdict::Rejected
            }
            Self::Failed(Failure::Refused(_) | Failure::Unusable(_)) => Verdict::Rejected,
            Self::Failed(
                Failure::OverBudget(_)
                | Failure::NoToken(_)
                | Failure::NoConnection(_)
                | Failure::NoAnswer(_)
                | Failure::TimedOut(_),
            ) => Verdict::Retry(None),
        }
    }

    /// Whether it shows that the receiver is overloaded: 429, 503 and timeouts.
    pub fn is_overload(&self) -> bool {
        match self {
            Self::Answered(answer) => matches!(answer.status, 429 | 503),
            Self::Failed(failure) => matches!(failure, Failure::TimedOut(_)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_verdict() {
        let asked = Some(RetryAfter::from_delay(Duration::from_secs(7)));
        for status in 100..=999 {
            let answer = Answer { status, retry_after: asked, body: Bytes::new() };
            let expected = match status {
                200..300 => Verdict::Delivered,
                408 | 425 | 429 => Verdict::Retry(asked),
                500..600 => Verdict::Retry(asked),
                410 => Verdict::Suspend,
                _ => Verdict::Rejected,
            };
            let attempt = Attempt::Answered(answer);
            assert_eq!(attempt.verdict(), expected, "{status}");
            assert_eq!(attempt.is_overload(), [429, 503].contains(&status), "{status}");
        }
    }

    #[test]
    fn every_failure_has_its_verdict() {
        let refused = crate::address::Networks::default()
            .check([127, 0, 0, 1].into())
            .expect_err("loopback is refused");
        let text = || "x".to_owned();
        let scope = zaqar_core::MemoryScope::Project;
        let over = zaqar_core::OverBudget { scope, limit: 1, in_use: 1, requested: 1 };
        let never_fits = zaqar_core::OverBudget { requested: 2, ..over };
        let table = [
            (Failure::Refused(refused), Verdict::Rejected, false),
            (Failure::Unusable(text()), Verdict::Rejected, false),
            (Failure::OverBudget(over), Verdict::Retry(None), false),
            (Failure::OverBudget(never_fits), Verdict::Rejected, false),
            (Failure::NoToken(text()), Verdict::Retry(None), false),
            (Failure::NoConnection(text()), Verdict::Retry(None), false),
            (Failure::NoAnswer(text()), Verdict::Retry(None), false),
            (Failure::TimedOut(Duration::from_secs(15)), Verdict::Retry(None), true),
        ];
        for (failure, verdict, is_overload) in table {
            let attempt = Attempt::Failed(failure);
            assert_eq!(attempt.verdict(), verdict, "{attempt:?}");
            assert_eq!(attempt.is_overload(), is_overload, "{attempt:?}");
        }
    }
}
