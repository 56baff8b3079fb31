//! Tokens of Keystone v3: made when one is needed, renewed before they expire.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use zaqar_core::{Clock, Secret, SystemClock, iso8601};

use crate::Error;
use crate::http::{Answer, Http};

/// A token with less time left is renewed.
const RENEWED_BEFORE_SECS: u64 = 60;
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
}

/// One user's tokens, one after the other.
pub(crate) struct Session {
    credentials: Credentials,
    clock: SystemClock,
    /// Held while a token is made, so that one is made.
    token: Mutex<Option<Token>>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("credentials", &self.credentials).finish_non_exhaustive()
    }
}

impl Session {
    pub(crate) fn new(credentials: Credentials) -> Self {
        Self { credentials, clock: SystemClock::default(), token: Mutex::default() }
    }

    /// The token. Cost: a request to Keystone where there is none that lives long enough.
    pub(crate) async fn token(&self, http: &Http) -> Result<Token, Error> {
        let mut place = self.token.lock().await;
        let now = self.clock.now().as_secs();
        if let Some(token) = place.as_ref().filter(|token| now < token.renew_at_secs) {
            return Ok(token.clone());
        }
        let token = self.make(http).await?;
        Ok(place.insert(token).clone())
    }

    /// Forgets a token that was refused, unless another took its place meanwhile.
    pub(crate) async fn forget(&self, refused: &Token) {
        let mut place = self.token.lock().await;
        if place.as_ref().is_some_and(|token| token.text == refused.text) {
            *place = None;
        }
    }

    async fn make(&self, http: &Http) -> Result<Token, Error> {
        let url = format!("{}/auth/tokens", v3(&self.credentials.auth_url));
        let failed = |reason: String| Error::Keystone { url: url.clone(), reason };
        let uri = url.parse().map_err(|_| Error::config("auth_url", "this is no URL"))?;
        let json = HeaderValue::from_static("application/json");
        let headers =
            HeaderMap::from_iter([(header::ACCEPT, json.clone()), (header::CONTENT_TYPE, json)]);
        let document = self.credentials.identity.document().to_string();
        let answer = http.send(&Method::POST, uri, headers, Bytes::from(document)).await;
        let answer = match answer {
            Err(Error::Refused(refusal)) if refusal.status == 401 => {
                return Err(failed(format!(
                    "401: the user, project or secret is wrong ({})",
                    refusal.description
                )));
            }
            other => other?,
        };
        self.read(&answer).ok_or_else(|| failed("its answer is none of Keystone v3".to_owned()))
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
}
