//! Trusts: they let a notification act for its subscriber later.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, Method};
use moka::future::Cache;
use serde_json::{Value, json};
use zaqar_core::{Clock, Secret, Timestamp, iso8601};

use super::Error;
use super::http::Answer;
use super::options::{Credential, Scope};
use super::session::{OwnToken, Session, add_token, json_headers, request, subject, v3};

/// The last time that Keystone's dates can express.
const LAST_SECS: u64 = 253_402_300_799;
/// A cached token that expires sooner than this is replaced.
const MARGIN_SECS: u64 = 60;
/// Tokens that are cached, at most.
const CACHED: u64 = 1000;
/// Attempts to create a trust, as another trust may have its expiry already.
const CONFLICTS: u32 = 4;
/// The longest id of a trust, in bytes.
const MAX_ID: usize = 255;

/// A trust to create.
#[derive(Debug, Clone, Copy)]
pub struct Trust<'a> {
    /// The trustor's token.
    pub token: &'a Secret<String>,
    /// The trustor's user id.
    pub user: &'a str,
    /// The project that the trust is for, by id.
    pub project: &'a str,
    /// The roles in it, by name.
    pub roles: &'a [String],
    /// When the trust expires; a time past the year 9999 becomes that year's end.
    pub expires: Timestamp,
}

/// The user who made a trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trustor {
    /// The user's id.
    pub user: String,
    /// The id of the trust's project; empty for a trust without one.
    pub project: String,
}

/// Why a trust, or a token of one, could not be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TrustError {
    /// Keystone rejects the request: the trust is deleted or expired, or the trustor may not make
    /// one.
    #[error("Keystone refuses it ({status})")]
    Refused {
        /// The status that it answered.
        status: u16,
    },
    /// The request to Keystone failed.
    #[error(transparent)]
    Keystone(#[from] Error),
}

impl Session {
    /// Creates a trust with this service as the trustee. Returns its id.
    ///
    /// # Errors
    /// [`TrustError`].
    pub async fn create_trust(&self, trust: Trust<'_>) -> Result<String, TrustError> {
        let own = self.own().await?;
        let url = format!("{}/OS-TRUST/trusts", own.identity);
        let mut tries = 0;
        loop {
            let document = document(&trust, &own.user_id);
            let answer = self.ask(Method::POST, &url, trust.token, Some(&document)).await?;
            tries += 1;
            match answer.status {
                201 => {
                    let document = answer.json()?;
                    let id = document["trust"]["id"].as_str().map(str::to_owned);
                    return Ok(id.ok_or_else(|| answer.malformed("a trust without an id"))?);
                }
                409 if tries < CONFLICTS => {}
                _ => return Err(refused(&answer, "a request for a trust")),
            }
        }
    }

    /// Deletes a trust with the trustor's token. If the trust is gone, that is no error.
    ///
    /// # Errors
    /// [`TrustError`].
    pub async fn delete_trust(&self, id: &str, token: &Secret<String>) -> Result<(), TrustError> {
        let url = trust_url(&self.own().await?, id)?;
        let answer = self.ask(Method::DELETE, &url, token, None).await?;
        match answer.status {
            200..=299 | 404 => Ok(()),
            _ => Err(refused(&answer, "the deletion of a trust")),
        }
    }

    /// The trustor of a trust with this service as the trustee.
    ///
    /// # Errors
    /// [`TrustError::Refused`] also if the trust is gone, or has another trustee.
    pub async fn trustor(&self, id: &str) -> Result<Trustor, TrustError> {
        let own = self.own().await?;
        let url = trust_url(&own, id)?;
        let answer = self.ask(Method::GET, &url, &own.token, None).await?;
        match answer.status {
            200 => {
                let document = answer.json()?;
                let trust = &document["trust"];
                if trust["trustee_user_id"].as_str() != Some(&own.user_id) {
                    return Err(TrustError::Refused { status: 403 });
                }
                let text = |name: &str| trust[name].as_str().unwrap_or_default().to_owned();
                Ok(Trustor { user: text("trustor_user_id"), project: text("project_id") })
            }
            401 => {
                self.forget(&own).await;
                Err(answer.refused("a look-up of a trust, rejecting our own new token").into())
            }
            _ => Err(refused(&answer, "a look-up of a trust")),
        }
    }

    async fn ask(
        &self,
        method: Method,
        url: &str,
        token: &Secret<String>,
        document: Option<&Value>,
    ) -> Result<Answer, TrustError> {
        let mut headers: HeaderMap = json_headers();
        if !add_token(&mut headers, "x-auth-token", token.expose()) {
            return Err(TrustError::Refused { status: 401 });
        }
        Ok(self.http.send(method, url, &headers, document).await?)
    }

    /// Requests a token of a trust.
    async fn trust_token(&self, id: &str) -> Result<TrustToken, TrustError> {
        let Credential::Password { user, domain, password, .. } = &self.options.credential else {
            let reason = "a trust needs auth_type = password: an application credential cannot \
                          use one";
            let (option, reason) = ("auth_type", reason.to_owned());
            return Err(Error::Options { option, reason }.into());
        };
        let credential = Credential::Password {
            user: user.clone(),
            domain: domain.clone(),
            password: password.clone(),
            scope: Scope::Trust(id.to_owned()),
        };
        let url = format!("{}/auth/tokens", v3(&self.options.auth_url));
        let document = request(&credential);
        let answer = self.http.send(Method::POST, &url, &json_headers(), Some(&document)).await?;
        match answer.status {
            201 => {}
            // Either the trust is gone, or this server's own password is wrong, or the trustor may
            // no longer do what the trust permits; each of them may change.
            401 => {
                self.trustor(id).await?;
                return Err(answer.refused("a request for a token of a trust").into());
            }
            _ => return Err(refused(&answer, "a request for a token of a trust")),
        }
        let document = answer.json()?;
        let token = &document["token"];
        let expires = token["expires_at"].as_str().and_then(|text| iso8601::parse(text).ok());
        let expires = expires.ok_or_else(|| answer.malformed("a token without an expiry"))?;
        let text = |name: &str| token[name]["id"].as_str().unwrap_or_default().to_owned();
        let trustor = Trustor { user: text("user"), project: text("project") };
        Ok(TrustToken { token: subject(&answer)?, trustor, made: self.clock.now(), expires })
    }
}

/// A token of a trust.
#[derive(Debug, Clone)]
pub struct TrustToken {
    /// The token.
    pub token: Secret<String>,
    /// The user it acts for.
    pub trustor: Trustor,
    made: Timestamp,
    expires: Timestamp,
}

impl TrustToken {
    /// Whether it can be used for a new request: a minute is left, or half of its life.
    fn is_fresh(&self, now: Timestamp) -> bool {
        let margin = MARGIN_SECS.min(self.expires.secs_since(self.made) / 2);
        now.plus_secs(margin) < self.expires
    }
}

/// A cache of trusts' tokens: a thousand at most, each until it has a minute left.
pub struct TrustTokens {
    session: Arc<Session>,
    clock: Arc<dyn Clock>,
    cache: Cache<String, Arc<TrustToken>>,
}

impl fmt::Debug for TrustTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustTokens").field("session", &self.session).finish_non_exhaustive()
    }
}

impl TrustTokens {
    /// Requests tokens through a session, whose user is the trustee.
    pub fn new(session: Arc<Session>, clock: Arc<dyn Clock>) -> Self {
        Self { session, clock, cache: Cache::new(CACHED) }
    }

    /// The session.
    pub const fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// A token of a trust. Cost: a request if none is cached; concurrent callers share one.
    ///
    /// # Errors
    /// [`TrustError`].
    pub async fn get(&self, trust: &str) -> Result<Arc<TrustToken>, TrustError> {
        if trust.is_empty() || trust.len() > MAX_ID {
            return Err(TrustError::Refused { status: 404 });
        }
        let now = self.clock.now();
        if let Some(found) = self.cache.get(trust).await
            && !found.is_fresh(now)
        {
            self.cache.invalidate(trust).await;
        }
        let making = async { self.session.trust_token(trust).await.map(Arc::new) };
        let made = self.cache.try_get_with(trust.to_owned(), making).await;
        made.map_err(|error| (*error).clone())
    }

    /// Forgets a token that was rejected, unless it has been replaced meanwhile. Returns whether it
    /// was this one.
    pub async fn forget(&self, trust: &str, refused: &Secret<String>) -> bool {
        let is_this = self.cache.get(trust).await.is_some_and(|cached| cached.token == *refused);
        if is_this {
            self.cache.invalidate(trust).await;
        }
        is_this
    }
}

/// The body that requests a trust. Keystone allows a trustor one trust for each project, trustee
/// and expiry, so the microseconds are random.
fn document(trust: &Trust<'_>, trustee: &str) -> Value {
    let secs = trust.expires.as_secs().min(LAST_SECS);
    let expires = iso8601::format(Timestamp::from_millis(0).plus_secs(secs));
    let micros = rand::random::<u32>() % 1_000_000;
    let roles: Vec<_> = trust.roles.iter().map(|name| json!({"name": name})).collect();
    json!({"trust": {
        "trustor_user_id": trust.user,
        "trustee_user_id": trustee,
        "project_id": trust.project,
        "impersonation": true,
        "roles": roles,
        "expires_at": format!("{expires}.{micros:06}Z"),
    }})
}

/// 4xx is Keystone's decision, anything else is a failure.
fn refused(answer: &Answer, request: &'static str) -> TrustError {
    match answer.status {
        429 => answer.refused(request).into(),
        status @ 400..=499 => TrustError::Refused { status },
        _ => answer.refused(request).into(),
    }
}

/// A trust's URL; `None` for an id with characters that mean something in a path.
fn trust_url(own: &OwnToken, id: &str) -> Result<String, TrustError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if id.is_empty() || id.len() > MAX_ID || !id.bytes().all(is_plain) {
        return Err(TrustError::Refused { status: 404 });
    }
    Ok(format!("{}/OS-TRUST/trusts/{id}", own.identity))
}
