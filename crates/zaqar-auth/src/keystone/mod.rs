//! Keystone v3: tokens validated as keystonemiddleware's `auth_token` does, and trusts.
//!
//! | file | subject |
//! |---|---|
//! | `options` | what `[keystone_authtoken]` says |
//! | `http` | requests to Keystone, bounded in time and size |
//! | `session` | our own token: made, renewed before it expires, made again when it is refused |
//! | `token` | what a token says of its owner |
//! | `validate` | validation of other people's tokens, with a bounded cache |
//! | `access_rules` | what an application credential may be used for |
//! | `middleware` | the decision for one request, from its tokens |
//! | `trusts` | trusts for notifications, and a bounded cache of their tokens |
//!
//! The rules are those of keystonemiddleware 13 (`auth_token/__init__.py`, `_identity.py`) and
//! keystoneauth1; what is sent is Keystone's Identity API v3.

use std::sync::Arc;

mod access_rules;
mod http;
mod middleware;
mod options;
mod session;
mod token;
mod trusts;
mod validate;

pub(crate) use access_rules::limit_of;
pub use middleware::{Middleware, Rejection, Verified};
pub use options::{ApplicationId, Credential, Interface, Name, Options, Scope, ServiceTokens, Tls};
pub use session::{PublicUrls, Session};
pub use token::{AccessRule, Named, Token, TokenError};
pub use trusts::{Trust, TrustError, TrustToken, TrustTokens, Trustor};
pub use validate::{Validator, Validity};

/// Why Keystone could not be asked, or did not answer as it should.
/// Clones share their cause: several may have waited for one answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The options cannot work.
    #[error("[keystone_authtoken] {option}: {reason}")]
    Options {
        /// The option that is wrong.
        option: &'static str,
        /// Why.
        reason: String,
    },
    /// It cannot be reached or did not answer in time.
    #[error("Keystone at {url} does not answer")]
    Unreachable {
        /// Where it was asked.
        url: String,
        /// What went wrong.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// It answered with a status that is no answer to the question.
    #[error("Keystone at {url} answered {status} to {question}")]
    Refused {
        /// Where it was asked.
        url: String,
        /// What it was asked.
        question: &'static str,
        /// The status.
        status: u16,
    },
    /// It answered something that cannot be read.
    #[error("Keystone at {url} answered what cannot be read")]
    Malformed {
        /// Where it was asked.
        url: String,
        /// What is wrong with it.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// Too many questions wait for its answer.
    #[error("{limit} questions wait for Keystone's answer already")]
    Overloaded {
        /// How many may wait.
        limit: usize,
    },
}
