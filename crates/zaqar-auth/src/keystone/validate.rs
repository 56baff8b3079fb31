//! Validation of other people's tokens, with a bounded cache.

use std::fmt;
use std::sync::Arc;

use http::Method;
use moka::future::Cache;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use zaqar_core::Clock;

use super::session::{Own, Session, add_token, json_headers};
use super::token::Token;
use super::{Error, Options};

/// What became of a validation.
#[derive(Debug, Clone)]
pub enum Validity {
    /// It stands for this. It may have expired, where that was allowed.
    Valid(Arc<Token>),
    /// It is unknown, expired or revoked.
    Invalid,
}

/// Validates tokens.
///
/// Each token is asked about once at a time, whoever waits; different tokens do not wait for each
/// other. What Keystone said is remembered for a time (`token_cache_time`), within which a
/// revocation is not noticed; an expiry is, at once. That a token is not valid is not remembered.
pub struct Validator {
    session: Arc<Session>,
    clock: Arc<dyn Clock>,
    /// By a digest: the tokens themselves are not kept. `None` where nothing is remembered.
    cache: Option<Cache<[u8; 32], Arc<Token>>>,
    waiting: Semaphore,
}

impl fmt::Debug for Validator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Validator").field("session", &self.session).finish_non_exhaustive()
    }
}

/// Why there is no token to remember.
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

    /// How Keystone is asked.
    pub fn options(&self) -> &Options {
        self.session.options()
    }

    /// Validates a token. Cost: a look-up where it is remembered, else a request to Keystone.
    ///
    /// `allow_expired`: an expired token is valid all the same, as it is for a service that
    /// finishes what its user began.
    ///
    /// # Errors
    /// [`Error`]: nobody can tell.
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
        // Also for who waits until another has made a token of our own, or failed to.
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
        // Our own token may have been revoked: then with another one, once.
        for _ in 0..2 {
            let own = self.session.own().await.map_err(Failure::Keystone)?;
            match self.ask_as(&own, token, allow_expired).await? {
                Some(found) => return Ok(Arc::new(found)),
                None => self.session.forget(&own).await,
            }
        }
        let url = self.session.options().auth_url.clone();
        let question = "whether a token is valid, with a token of our own that it made before";
        Err(Failure::Keystone(Error::Refused { url, question, status: 401 }))
    }

    /// `None` where Keystone refuses our own token.
    async fn ask_as(
        &self,
        own: &Own,
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
            _ => Err(Failure::Keystone(answer.refused("whether a token is valid"))),
        }
    }
}
