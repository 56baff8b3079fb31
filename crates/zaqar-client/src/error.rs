//! What can go wrong, and what may be done about it.

use std::time::Duration;

use crate::types::ClaimId;

/// Why a request has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The client is set up wrongly; nothing was sent.
    #[error("{what}: {reason}")]
    Config {
        /// The setting.
        what: String,
        /// The rule that it breaks.
        reason: String,
    },
    /// No connection could be made, so the server has not seen the request.
    #[error("cannot connect to {url}")]
    Connect {
        /// Where to.
        url: String,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The connection broke before the whole answer was there. The server may have done the
    /// request.
    #[error("the connection broke before {method} {path} was answered; it may have been done")]
    Interrupted {
        /// The method, or the action over WebSocket.
        method: String,
        /// What was asked for.
        path: String,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer came in time. The server may have done the request.
    #[error("{method} {path} was not answered in {limit:?}; it may have been done")]
    Timeout {
        /// The method, or the action over WebSocket.
        method: String,
        /// What was asked for.
        path: String,
        /// The time that it had.
        limit: Duration,
    },
    /// The server answered that it did not do it.
    #[error(transparent)]
    Refused(#[from] Box<Refusal>),
    /// The answer is longer than the client takes.
    #[error("the answer to {method} {path} is longer than {limit} bytes")]
    TooLong {
        /// The method.
        method: String,
        /// What was asked for.
        path: String,
        /// The most bytes that are read.
        limit: usize,
    },
    /// The answer is none that this API gives.
    #[error("the answer to {method} {path} cannot be read")]
    Malformed {
        /// The method, or the action over WebSocket.
        method: String,
        /// What was asked for.
        path: String,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Keystone gave no token.
    #[error("Keystone at {url} gave no token: {reason}")]
    Keystone {
        /// Where it was asked.
        url: String,
        /// What it said.
        reason: String,
    },
    /// The claim has ended although it is held; nothing was sent.
    #[error("claim {id} has ended: somebody else may have its messages")]
    ClaimLost {
        /// The claim.
        id: ClaimId,
    },
    /// The WebSocket is closed for good.
    #[error("the WebSocket is closed: {reason}")]
    Closed {
        /// Why.
        reason: String,
    },
}

/// An answer whose status is no success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{method} {path} was answered {status} {title}{}{description}", separator(.title, .description))]
pub struct Refusal {
    /// The method, or the action over WebSocket.
    pub method: String,
    /// What was asked for.
    pub path: String,
    /// The HTTP status.
    pub status: u16,
    /// The error's title; empty where the answer has none.
    pub title: String,
    /// Which rule was broken; empty where the answer does not say.
    pub description: String,
    /// How long the server asks to wait.
    pub retry_after: Option<Duration>,
    /// The id by which the server's log names the request.
    pub request_id: Option<String>,
}

fn separator(title: &str, description: &str) -> &'static str {
    if title.is_empty() || description.is_empty() { "" } else { ": " }
}

impl Error {
    /// The status that the server answered, where it did.
    pub fn status(&self) -> Option<u16> {
        if let Self::Refused(refusal) = self { Some(refusal.status) } else { None }
    }

    /// How long the server asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        if let Self::Refused(refusal) = self { refusal.retry_after } else { None }
    }

    /// Whether the server said that it is not there.
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }

    /// Whether the server may have done the request although there is no result: then a post that
    /// is sent again may store its messages twice.
    pub fn may_be_done(&self) -> bool {
        match self {
            Self::Interrupted { .. }
            | Self::Timeout { .. }
            | Self::TooLong { .. }
            | Self::Malformed { .. } => true,
            Self::Refused(refusal) => refusal.status >= 500,
            Self::Config { .. }
            | Self::Connect { .. }
            | Self::Keystone { .. }
            | Self::ClaimLost { .. }
            | Self::Closed { .. } => false,
        }
    }

    /// Whether the same request may succeed a little later.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Interrupted { .. } | Self::Timeout { .. } => true,
            Self::Refused(refusal) => matches!(refusal.status, 502..=504),
            Self::Config { .. }
            | Self::TooLong { .. }
            | Self::Malformed { .. }
            | Self::Keystone { .. }
            | Self::ClaimLost { .. }
            | Self::Closed { .. } => false,
        }
    }

    pub(crate) fn config(what: impl Into<String>, reason: impl ToString) -> Self {
        Self::Config { what: what.into(), reason: reason.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_the_text_of_the_server() {
        let mut refusal = Refusal {
            method: "GET".to_owned(),
            path: "/v2/queues".to_owned(),
            status: 400,
            title: "Invalid API request".to_owned(),
            description: "Limit must be at least 1.".to_owned(),
            retry_after: None,
            request_id: None,
        };
        let text = "GET /v2/queues was answered 400 Invalid API request: Limit must be at least 1.";
        assert_eq!(Error::from(Box::new(refusal.clone())).to_string(), text);
        refusal.description.clear();
        assert!(refusal.to_string().ends_with("request"));
        refusal.status = 503;
        assert!(Error::from(Box::new(refusal)).may_be_done());
    }
}
