//! Validation of callers' tokens, with a bounded cache.

use std::fmt;
use std::sync::Arc;

use http::Method;
use moka::future::Cache;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use zaqar_core::Clock;

use super::session::{OwnToken, Session, add_token, json_headers};
use super::token::Token;
use super::{Error, Options};

/// The result of a validation.
#[derive(Debug, Clone)]
pub enum Validity {
    /// The token is valid. It may have expired, if that was allowed.
    Valid(Arc<Token>),
    /// It is unknown, expired or revoked.
    Invalid,
}

/// Validates tokens.
///
/// Concurrent callers with one token share one request; different tokens do not wait for each
/// other. Valid tokens are cached for `token_cache_time`, within which a revocation is not noticed,
/// but an expiry is. Invalid tokens are not cached.
pub struct Validator {
    session: Arc<Session>,
    clock: Arc<dyn Clock>,
    /// Keyed by a digest: the tokens themselves are not kept. `None` if caching is disabled.
    cache: Option<Cache<[u8; 32], Arc<Token>>>,
    waiting: Semaphore,
}

impl fmt::Debug for Validator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Validator").field("session", &self.session).finish_non_exhaustive()
    }
}

/// Why there is no token to cache.
#[derive(Debug, Clone)]
enum Failure {
    Invalid,
    Keystone(Error),
}

impl Validator {
    /// Validates through a session.
    pub fn new(session: Arc<Session>, clock: Arc<dyn Clock>) -> Self {
        let options = session.options();
        let cache = (!options.cached_for.is_zero()).then(|| {
            Cache::builder()
                .max_capacity(options.cached_tokens)
                .time_to_live(options.cached_for)
                .build()
        });
        let waiting = Semaphore::new(options.max_waiting);
        Self { session, clock, cache, waiting }
    }

    /// The options.
    pub fn options(&self) -> &Options {
        self.session.options()
    }

    /// Validates a token. Cost: a look-up if it is cached, else a request to Keystone.
    ///
    /// `allow_expired`: accept an expired token, as for a service that finishes what its user
    /// began.
    ///
    /// # Errors
    /// [`Error`] if Keystone cannot be asked.
    pub async fn validate(&self, token: &str, allow_expired: bool) -> Result<Validity, Error> {
        let token = token.trim();
        let found = match &self.cache {
            Some(cache) => {
                let key: [u8; 32] = Sha256::digest(token).into();
                let asking = self.ask(token, allow_expired);
                cache.try_get_with(key, asking).await.map_err(|failure| (*failure).clone())
            }
            None => self.ask(token, allow_expired).await,
        };
        match found {
            Ok(found) if allow_expired || self.clock.now() < found.expires => {
                Ok(Validity::Valid(found))
            }
            Ok(_) | Err(Failure::Invalid) => Ok(Validity::Invalid),
            Err(Failure::Keystone(error)) => Err(error),
        }
    }

    async fn ask(&self, token: &str, allow_expired: bool) -> Result<Arc<Token>, Failure> {
        let limit = self.session.options().max_waiting;
        let overloaded = Failure::Keystone(Error::Overloaded { limit });
        let _permit = self.waiting.try_acquire().map_err(|_| overloaded)?;
        // The timeout also covers waiting for our own token, which another caller may be
        // requesting.
        let timeout = self.session.options().timeout;
        let asking = tokio::time::timeout(timeout, self.ask_as_ourselves(token, allow_expired));
        asking.await.unwrap_or_else(|elapsed| {
            let url = self.session.options().auth_url.clone();
            Err(Failure::Keystone(Error::Unreachable { url, source: Arc::new(elapsed) }))
        })
    }

    async fn ask_as_ourselves(
        &self,
        token: &str,
        allow_expired: bool,
    ) -> Result<Arc<Token>, Failure> {
        // Our own token may have been revoked: retry once with a new one.
        for _ in 0..2 {
            let own = self.session.own().await.map_err(Failure::Keystone)?;
            match self.ask_as(&own, token, allow_expired).await? {
                Some(found) => return Ok(Arc::new(found)),
                None => self.session.forget(&own).await,
            }
        }
        let url = self.session.options().auth_url.clone();
        let request = "the validation of a token, rejecting our own new token";
        Err(Failure::Keystone(Error::Refused { url, request, status: 401 }))
    }

    /// `None` if Keystone rejects our own token.
    async fn ask_as(
        &self,
        own: &OwnToken,
        token: &str,
        allow_expired: bool,
    ) -> Result<Option<Token>, Failure> {
        let mut headers = json_headers();
        headers.insert("openstack-identity-access-rules", http::HeaderValue::from_static("1"));
        let is_sendable = add_token(&mut headers, "x-subject-token", token)
            && add_token(&mut headers, "x-auth-token", own.token.expose());
        if !is_sendable {
            return Err(Failure::Invalid);
        }
        let options = self.session.options();
        let mut url = format!("{}/auth/tokens", own.identity);
        let mut separator = '?';
        let flags =
            [(allow_expired, "allow_expired=1"), (!options.include_service_catalog, "nocatalog")];
        for (_, flag) in flags.into_iter().filter(|(is_set, _)| *is_set) {
            url.push(separator);
            url.push_str(flag);
            separator = '&';
        }
        let answer = self.session.http.send(Method::GET, &url, &headers, None).await;
        let answer = answer.map_err(Failure::Keystone)?;
        match answer.status {
            200 => {
                let document = answer.json().map_err(Failure::Keystone)?;
                let token = Token::read(&document);
                token.map(Some).map_err(|error| Failure::Keystone(answer.malformed(error)))
            }
            401 => Ok(None),
            404 => Err(Failure::Invalid),
            _ => Err(Failure::Keystone(answer.refused("the validation of a token"))),
        }
    }
}
