//! Validation of callers' tokens, with a bounded cache.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use http::Method;
use moka::Expiry;
use moka::future::Cache;
use tokio::sync::Semaphore;
use zaqar_core::Clock;

use super::digest::{Digest, Digester, Halves};
use super::recent::{Recent, Remembered};
use super::session::{OwnToken, Session, add_token, json_headers};
use super::shared_cache::SharedCache;
use super::token::Token;
use super::{Error, Options};

/// The part of its time that an entry of the shared cache is remembered here.
const SHARED_PART: u32 = 10;

/// What became of a validation.
#[derive(Debug, Clone)]
pub enum Validity {
    /// The token is valid. It may have expired, if that was allowed.
    Valid(Arc<Token>),
    /// It is unknown, expired or revoked.
    Invalid,
}

/// Validates tokens.
///
/// Each token is asked about once at a time, whoever waits; different tokens do not wait for each
/// other. What Keystone said is remembered for a time (`token_cache_time`), within which a
/// revocation is not noticed; an expiry is, at once. That a token is not valid is not remembered.
/// With a shared cache it is remembered there for as long, and what is found there for a tenth of
/// that time here: nobody knows how long it was there.
pub struct Validator {
    session: Arc<Session>,
    clock: Arc<dyn Clock>,
    /// By a digest: the tokens themselves are not kept. `None` where nothing is remembered.
    cache: Option<Cache<Digest, Remembered, Halves>>,
    recent: Recent,
    digester: Digester,
    shared: Option<Arc<SharedCache>>,
    waiting: Semaphore,
}

impl fmt::Debug for Validator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Validator").field("session", &self.session).finish_non_exhaustive()
    }
}

/// Each entry lives for as long as it says.
struct Lives;

impl Expiry<Digest, Remembered> for Lives {
    fn expire_after_create(
        &self,
        _: &Digest,
        remembered: &Remembered,
        now: Instant,
    ) -> Option<Duration> {
        Some(remembered.until.saturating_duration_since(now))
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
                .expire_after(Lives)
                .build_with_hasher(Halves)
        });
        let shared = options.shared_cache.as_ref().filter(|_| cache.is_some());
        let seconds = options.cached_for.as_secs();
        let shared = shared.map(|shared| Arc::new(SharedCache::new(shared, seconds)));
        let waiting = Semaphore::new(options.max_waiting);
        let (recent, digester) = (Recent::default(), Digester::default());
        Self { session, clock, cache, recent, digester, shared, waiting }
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
                let key = self.digester.digest(token);
                match cache.get(&key).await {
                    Some(found) => Ok(found),
                    None => {
                        // Boxed: of all requests, few ask.
                        let asking = Box::pin(self.ask(token, allow_expired));
                        let asked = cache.try_get_with(key, asking).await;
                        asked.map_err(|failure| (*failure).clone())
                    }
                }
            }
            None => Box::pin(self.ask(token, allow_expired)).await,
        };
        match found {
            Ok(found) if allow_expired || self.clock.now() < found.token.expires => {
                Ok(Validity::Valid(found.token))
            }
            Ok(_) | Err(Failure::Invalid) => Ok(Validity::Invalid),
            Err(Failure::Keystone(error)) => Err(error),
        }
    }

    /// A token whose validation is remembered, and until when. It may have expired. Nothing waits,
    /// and nobody is asked.
    pub fn remembered(&self, token: &str) -> Option<(Arc<Token>, Instant)> {
        let cache = self.cache.as_ref()?;
        let key = self.digester.digest(token.trim());
        if let Some(Remembered { token, until }) = self.recent.get(key, Instant::now()) {
            return Some((token, until));
        }
        // A look-up is ready at once; if it ever were not, the token would be validated as usual.
        let found = cache.get(&key).now_or_never()??;
        self.recent.put(key, found.clone());
        Some((found.token, found.until))
    }

    async fn ask(&self, token: &str, allow_expired: bool) -> Result<Remembered, Failure> {
        // The timeout covers the shared cache, and waiting for our own token, which another caller
        // may be requesting.
        let options = self.session.options();
        let asking = tokio::time::timeout(options.timeout, self.find(token, allow_expired));
        asking.await.unwrap_or_else(|elapsed| {
            let url = options.auth_url.clone();
            Err(Failure::Keystone(Error::Unreachable { url, source: Arc::new(elapsed) }))
        })
    }

    async fn find(&self, token: &str, allow_expired: bool) -> Result<Remembered, Failure> {
        let lives = self.session.options().cached_for;
        // Without a permit: those are for Keystone, and memcached may be slow.
        if let Some(token) = self.find_shared(token).await {
            return Ok(Remembered::for_time(token, lives / SHARED_PART));
        }
        let limit = self.session.options().max_waiting;
        let overloaded = Failure::Keystone(Error::Overloaded { limit });
        let _permit = self.waiting.try_acquire().map_err(|_| overloaded)?;
        let token = self.ask_as_ourselves(token, allow_expired).await?;
        Ok(Remembered::for_time(token, lives))
    }

    /// What is in the shared cache and is no token is as if it were not there.
    async fn find_shared(&self, token: &str) -> Option<Arc<Token>> {
        let document = self.shared.as_ref()?.get(token).await?;
        Token::read(&document).ok().map(Arc::new)
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
                let read = Token::read(&document);
                let read = read.map_err(|error| Failure::Keystone(answer.malformed(error)))?;
                if let Some(shared) = &self.shared {
                    shared.put(token, answer.body().clone());
                }
                Ok(Some(read))
            }
            401 => Ok(None),
            404 => Err(Failure::Invalid),
            _ => Err(Failure::Keystone(answer.refused("the validation of a token"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use zaqar_core::{Secret, SystemClock};

    use super::super::{Credential, MemcachedServer, Name, Protection, Scope, SharedCacheOptions};
    use super::*;

    #[tokio::test]
    async fn waiting_for_memcached_takes_no_permit_for_keystone() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let credential = Credential::Password {
            user: Name::Id("u".to_owned()),
            domain: Name::Id("d".to_owned()),
            password: Secret::new("p".to_owned()),
            scope: Scope::Unscoped,
        };
        let mut options = Options::new("http://127.0.0.1:1", credential);
        options.shared_cache = Some(SharedCacheOptions {
            servers: vec![MemcachedServer::Tcp("127.0.0.1".to_owned(), port)],
            protection: Protection::None,
            timeout: Duration::from_secs(60),
            dead_for: Duration::from_secs(60),
            unused_for: Duration::from_secs(60),
            connections: 1,
        });
        let limit = options.max_waiting;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let session = Arc::new(Session::new(options, Arc::clone(&clock)).unwrap());
        let validator = Validator::new(session, clock);
        let mut waiting = std::pin::pin!(validator.validate("token", false));
        tokio::select! {
            validity = &mut waiting => panic!("{validity:?}"),
            accepted = listener.accept() => {
                let _connection = accepted.unwrap();
                assert_eq!(validator.waiting.available_permits(), limit);
            }
        }
    }
}
