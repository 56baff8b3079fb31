//! Tokens of Keystone v3: made when one is needed, renewed before they expire.

use std::error::Error as _;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Value, json};
use zaqar_core::{Clock, Secret, SystemClock, iso8601};

use crate::Error;
use crate::http::{Answer, Http};

/// A token with less time left is renewed.
const RENEWED_BEFORE_SECS: u64 = 60;
/// How long a token that is due for renewal is used after Keystone gave no other.
const RENEWAL_PAUSE: Duration = Duration::from_secs(10);
/// The service's type in the catalog.
const SERVICE_TYPE: &str = "messaging";

/// What Keystone is asked with.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The address of Keystone, with or without `/v3`.
    pub auth_url: String,
    /// Who we are.
    pub identity: Identity,
    /// Which region's endpoint is used; any, where it is `None`.
    pub region: Option<String>,
    /// Which endpoint is used: `public`, `internal` or `admin`.
    pub interface: String,
}

impl Credentials {
    /// For the public endpoint in any region.
    pub fn new(auth_url: &str, identity: Identity) -> Self {
        Self {
            auth_url: auth_url.to_owned(),
            identity,
            region: None,
            interface: "public".to_owned(),
        }
    }
}

/// A user with a password, or an application credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// A user's password, for one project.
    Password {
        /// The user.
        user: Named,
        /// The user's password.
        password: Secret<String>,
        /// The project whose queues are meant.
        project: Named,
    },
    /// An application credential, which belongs to one project.
    Application {
        /// Its id, or its name.
        id: Named,
        /// The owner, for one that is given by name.
        user: Option<Named>,
        /// Its secret.
        secret: Secret<String>,
    },
}

/// An id, or a name within a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// Unique by itself.
    Id(String),
    /// Unique within its domain.
    Name {
        /// The name.
        name: String,
        /// The domain.
        domain: Domain,
    },
}

/// A domain by its id or its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Domain {
    /// By its id.
    Id(String),
    /// By its name.
    Name(String),
}

impl Named {
    fn document(&self) -> Value {
        match self {
            Self::Id(id) => json!({"id": id}),
            Self::Name { name, domain: Domain::Id(id) } => {
                json!({"name": name, "domain": {"id": id}})
            }
            Self::Name { name, domain: Domain::Name(domain) } => {
                json!({"name": name, "domain": {"name": domain}})
            }
        }
    }
}

impl Identity {
    fn document(&self) -> Value {
        match self {
            Self::Password { user, password, project } => {
                let mut user = user.document();
                user["password"] = json!(password.expose());
                let identity = json!({"methods": ["password"], "password": {"user": user}});
                json!({"auth": {"identity": identity, "scope": {"project": project.document()}}})
            }
            Self::Application { id, user, secret } => {
                let mut credential = match id {
                    Named::Id(id) => json!({"id": id}),
                    Named::Name { name, .. } => json!({"name": name}),
                };
                if let Some(user) = user {
                    credential["user"] = user.document();
                }
                credential["secret"] = json!(secret.expose());
                let methods = ["application_credential"];
                json!({"auth": {"identity": {
                    "methods": methods, "application_credential": credential
                }}})
            }
        }
    }
}

/// A token, and what Keystone says with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: Secret<String>,
    /// Where the messaging service is, if the catalog has one.
    pub(crate) endpoint: Option<String>,
    pub(crate) project: Option<String>,
    renew_at_secs: u64,
    expires_at_secs: u64,
}

/// One user's tokens, one after the other.
pub(crate) struct Session {
    credentials: Credentials,
    clock: SystemClock,
    /// Held while a token is made, so that one is made.
    making: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

/// What the last attempts gave.
#[derive(Default)]
struct State {
    token: Option<Token>,
    /// When Keystone last gave no token, and why; `None` after it gave one.
    failure: Option<(Instant, String)>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("credentials", &self.credentials).finish_non_exhaustive()
    }
}

impl Session {
    pub(crate) fn new(credentials: Credentials) -> Self {
        Self {
            credentials,
            clock: SystemClock,
            making: tokio::sync::Mutex::default(),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token. Cost: a request to Keystone where there is none that lives long enough. If
    /// Keystone gives none, the one before is used until it expires.
    pub(crate) async fn token(&self, http: &Http) -> Result<Token, Error> {
        let asked = Instant::now();
        if let Some(token) = self.usable(false) {
            return Ok(token);
        }
        let _making = match self.making.try_lock() {
            Ok(making) => making,
            // Somebody else makes one: what has not expired is good meanwhile.
            Err(_) => match self.usable(true) {
                Some(token) => return Ok(token),
                None => self.making.lock().await,
            },
        };
        if let Some(token) = self.usable(false) {
            return Ok(token);
        }
        // Who waited for an attempt that failed does not make another.
        let failure = self.state().failure.clone();
        if let Some((_, reason)) = failure.filter(|(at, _)| asked <= *at) {
            return self.usable(true).ok_or_else(|| self.failed(reason));
        }
        match self.make(http).await {
            Ok(token) => {
                *self.state() = State { token: Some(token.clone()), failure: None };
                Ok(token)
            }
            Err(error) => {
                if let Error::Keystone { reason, .. } = &error {
                    self.state().failure = Some((Instant::now(), reason.clone()));
                }
                self.usable(true).ok_or(error)
            }
        }
    }

    /// A token that has not expired. One that is due for renewal only if `is_due_good`, or shortly
    /// after Keystone gave no other.
    fn usable(&self, is_due_good: bool) -> Option<Token> {
        let state = self.state();
        let token = state.token.as_ref()?;
        let now = self.clock.now().as_secs();
        let failed = state.failure.as_ref().is_some_and(|(at, _)| at.elapsed() < RENEWAL_PAUSE);
        let until = if is_due_good || failed { token.expires_at_secs } else { token.renew_at_secs };
        (now < until).then(|| token.clone())
    }

    /// Forgets a token that was rejected, unless another took its place meanwhile.
    pub(crate) fn forget(&self, rejected: &str) {
        let mut state = self.state();
        if state.token.as_ref().is_some_and(|token| token.text.expose() == rejected) {
            state.token = None;
        }
    }

    fn failed(&self, reason: String) -> Error {
        Error::Keystone { url: self.tokens_url(), reason }
    }

    fn tokens_url(&self) -> String {
        format!("{}/auth/tokens", v3(&self.credentials.auth_url))
    }

    /// Any failure but a wrong URL is [`Error::Keystone`]: it must not look like the server's.
    async fn make(&self, http: &Http) -> Result<Token, Error> {
        let uri =
            self.tokens_url().parse().map_err(|_| Error::config("auth_url", "this is no URL"))?;
        let json = HeaderValue::from_static("application/json");
        let headers =
            HeaderMap::from_iter([(header::ACCEPT, json.clone()), (header::CONTENT_TYPE, json)]);
        let document = self.credentials.identity.document().to_string();
        let answer = http.send(&Method::POST, uri, headers, Bytes::from(document)).await;
        let answer = answer.map_err(|error| self.failed(reason_of(&error)))?;
        let token = self.read(&answer);
        token.ok_or_else(|| self.failed("its answer is none of Keystone v3".to_owned()))
    }

    fn read(&self, answer: &Answer) -> Option<Token> {
        let text = answer.headers.get("x-subject-token")?.to_str().ok()?;
        let document: Value = answer.json().ok()?;
        let token = &document["token"];
        let expires = iso8601::parse(token["expires_at"].as_str()?).ok()?;
        let lifetime = expires.secs_since(self.clock.now());
        // One that lives shorter than the margin is used for half of its life.
        let margin = RENEWED_BEFORE_SECS.min(lifetime / 2);
        Some(Token {
            text: Secret::new(text.to_owned()),
            endpoint: self.endpoint(token),
            project: token["project"]["id"].as_str().map(ToOwned::to_owned),
            renew_at_secs: expires.as_secs().saturating_sub(margin),
            expires_at_secs: expires.as_secs(),
        })
    }

    fn endpoint(&self, token: &Value) -> Option<String> {
        let Credentials { region, interface, .. } = &self.credentials;
        let is_ours = |endpoint: &&Value| {
            let is_there = region.as_deref().is_none_or(|region| {
                endpoint["region_id"] == region || endpoint["region"] == region
            });
            endpoint["interface"] == interface.as_str() && is_there
        };
        let services = token["catalog"].as_array()?.iter();
        services
            .filter(|service| service["type"] == SERVICE_TYPE)
            .flat_map(|service| service["endpoints"].as_array().into_iter().flatten())
            .find(is_ours)
            .and_then(|endpoint| endpoint["url"].as_str().map(ToOwned::to_owned))
    }
}

/// Why a request to Keystone failed, with its causes.
fn reason_of(error: &Error) -> String {
    if let Error::Refused(refusal) = error {
        let description = &refusal.description;
        return match refusal.status {
            401 => format!("401: the user, project or secret is wrong ({description})"),
            status => format!("{status} {}: {description}", refusal.title),
        };
    }
    let mut reason = error.to_string();
    let mut cause = error.source();
    while let Some(one) = cause {
        reason += &format!(": {one}");
        cause = one.source();
    }
    reason
}

/// The URL of version 3 of the API.
fn v3(url: &str) -> String {
    let url = url.trim_end_matches('/');
    let base = url.strip_suffix("/v2.0").unwrap_or(url);
    if base.ends_with("/v3") { base.to_owned() } else { format!("{base}/v3") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_documents_are_keystones() {
        for url in ["http://k", "http://k/", "http://k/v3", "http://k/v2.0/"] {
            assert_eq!(v3(url), "http://k/v3");
        }
        let domain = Domain::Name("Default".to_owned());
        let identity = Identity::Password {
            user: Named::Name { name: "u".to_owned(), domain },
            password: Secret::new("p".to_owned()),
            project: Named::Id("7".to_owned()),
        };
        let user = json!({"name": "u", "domain": {"name": "Default"}, "password": "p"});
        assert_eq!(
            identity.document(),
            json!({"auth": {
                "identity": {"methods": ["password"], "password": {"user": user}},
                "scope": {"project": {"id": "7"}},
            }})
        );
        assert!(!format!("{identity:?}").contains("\"p\""));
        let secret = Secret::new("s".to_owned());
        let id = Named::Id("c".to_owned());
        let identity = Identity::Application { id, user: None, secret };
        assert_eq!(
            identity.document(),
            json!({"auth": {"identity": {
                "methods": ["application_credential"],
                "application_credential": {"id": "c", "secret": "s"},
            }}})
        );
    }

    #[tokio::test]
    async fn a_token_is_used_until_it_expires_where_keystone_gives_no_other() {
        let bounds = crate::http::Bounds {
            connect: Duration::from_secs(5),
            whole: Duration::from_secs(30),
            answer: 1024,
        };
        let http = Http::new(&crate::Tls::System, bounds).unwrap();
        let id = Named::Id("c".to_owned());
        let secret = Secret::new("s".to_owned());
        let identity = Identity::Application { id, user: None, secret };
        let session = Session::new(Credentials::new("http://127.0.0.1:1", identity));
        let error = session.token(&http).await.unwrap_err();
        assert!(matches!(error, Error::Keystone { .. }), "{error:?}");
        let due = Token {
            text: Secret::new("t".to_owned()),
            endpoint: None,
            project: None,
            renew_at_secs: 0,
            expires_at_secs: u64::MAX,
        };
        *session.state() = State { token: Some(due.clone()), failure: None };
        assert_eq!(session.token(&http).await.unwrap(), due);
        let failed_at = session.state().failure.clone().unwrap().0;
        // Keystone is left alone for a while.
        assert_eq!(session.token(&http).await.unwrap(), due);
        assert_eq!(session.state().failure.clone().unwrap().0, failed_at);
        session.forget("t");
        assert!(session.token(&http).await.is_err());
    }
}
