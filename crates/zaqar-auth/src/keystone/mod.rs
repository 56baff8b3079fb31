//! Keystone v3: tokens validated as keystonemiddleware's `auth_token` does, and trusts.
//!
//! | file | subject |
//! |---|---|
//! | `options` | the options of `[keystone_authtoken]` |
//! | `http` | requests to Keystone, bounded in time and size |
//! | `session` | our own token: made, renewed before it expires, made again when it is refused |
//! | `token` | what a token says of its owner |
//! | `digest` | what a token is remembered by |
//! | `recent` | the tokens used last |
//! | `validate` | validation of other people's tokens, with a bounded cache |
//! | `shared_cache` | validated tokens in memcached, as keystonemiddleware keeps them there |
//! | `access_rules` | what an application credential may be used for |
//! | `middleware` | the decision for one request, from its tokens |
//! | `trusts` | trusts for notifications, and a bounded cache of their tokens |
//!
//! The rules are those of keystonemiddleware 13 (`auth_token/__init__.py`, `_identity.py`) and
//! keystoneauth1; requests follow Keystone's Identity API v3.

use std::sync::Arc;

mod access_rules;
mod digest;
mod http;
mod middleware;
mod options;
mod recent;
mod session;
mod shared_cache;
mod token;
mod trusts;
mod validate;

pub(crate) use access_rules::limit_of;
pub use middleware::{Middleware, Rejection, Verified};
pub use options::{ApplicationId, Credential, Interface, Name, Options, Scope, ServiceTokens, Tls};
pub use session::{PublicUrls, Session};
pub use shared_cache::{MemcachedServer, Protection, SharedCacheOptions};
pub use token::{AccessRule, Named, Token, TokenError};
pub use trusts::{Trust, TrustError, TrustToken, TrustTokens, Trustor};
pub use validate::{Validator, Validity};

/// Why a request to Keystone failed. Clones share their source, because several callers may have
/// waited for one response.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The options are wrong.
    #[error("[keystone_authtoken] {option}: {reason}")]
    Options {
        /// The option.
        option: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Keystone cannot be reached or did not answer in time.
    #[error("Keystone at {url} does not answer")]
    Unreachable {
        /// The URL.
        url: String,
        /// The cause.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// Keystone answered with an unexpected status.
    #[error("Keystone at {url} answered {status} to {request}")]
    Refused {
        /// The URL.
        url: String,
        /// What was requested.
        request: &'static str,
        /// The status.
        status: u16,
    },
    /// Keystone's response cannot be parsed.
    #[error("Keystone at {url} sent a response that cannot be read")]
    Malformed {
        /// The URL.
        url: String,
        /// What is wrong with it.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// Too many requests wait for Keystone already.
    #[error("{limit} requests wait for Keystone already")]
    Overloaded {
        /// How many may wait.
        limit: usize,
    },
}
