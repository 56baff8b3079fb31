//! Our own token: requested when it is needed, renewed before it expires, replaced when it is
//! rejected.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use serde_json::{Value, json};
use zaqar_core::{Clock, Secret, iso8601};

use super::Error;
use super::http::{Answer, Http};
use super::options::{ApplicationId, Credential, Name, Options, Scope};

/// A token that expires sooner than this is renewed.
const RENEWED_BEFORE_SECS: u64 = 30;

/// Sends requests to Keystone as this service.
pub struct Session {
    pub(super) http: Http,
    pub(super) options: Options,
    pub(super) clock: Arc<dyn Clock>,
    /// Held while a token is requested, so that only one is.
    own: tokio::sync::Mutex<Option<OwnToken>>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Our token.
#[derive(Debug, Clone)]
pub(super) struct OwnToken {
    pub(super) token: Secret<String>,
    pub(super) user_id: String,
    /// The base URL for validating tokens.
    pub(super) identity: String,
    services: PublicUrls,
    renew_at_secs: u64,
}

/// The public URLs of this service, from the catalog.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublicUrls {
    /// The service named `zaqar`.
    pub zaqar: Option<String>,
    /// The service named `zaqar-websocket`.
    pub zaqar_websocket: Option<String>,
}

impl Session {
    /// Sends nothing until a token is needed.
    ///
    /// # Errors
    /// [`Error::Options`] if a certificate or key cannot be read.
    pub fn new(options: Options, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let http = Http::new(&options)?;
        Ok(Self { http, options, clock, own: tokio::sync::Mutex::default() })
    }

    /// The options.
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// Our token. Cost: one request if there is none that is valid for another 30 s.
    pub(super) async fn own(&self) -> Result<OwnToken, Error> {
        let mut place = self.own.lock().await;
        let now = self.clock.now().as_secs();
        if let Some(own) = place.as_ref().filter(|own| now < own.renew_at_secs) {
            return Ok(own.clone());
        }
        let own = self.make().await?;
        Ok(place.insert(own).clone())
    }

    /// The public URLs of this service, from our token's catalog.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn public_urls(&self) -> Result<PublicUrls, Error> {
        Ok(self.own().await?.services)
    }

    /// Forgets a token that Keystone rejected, unless it has been replaced meanwhile.
    pub(super) async fn forget(&self, refused: &OwnToken) {
        let mut place = self.own.lock().await;
        if place.as_ref().is_some_and(|own| own.token == refused.token) {
            *place = None;
        }
    }

    async fn make(&self) -> Result<OwnToken, Error> {
        let answer = self.authenticate(&self.options.credential).await?;
        let document = answer.json()?;
        let token = &document["token"];
        let expires = token["expires_at"].as_str().and_then(|text| iso8601::parse(text).ok());
        let expires = expires.ok_or_else(|| answer.malformed("a token without an expiry"))?;
        let lifetime = expires.secs_since(self.clock.now());
        // A token that lives shorter than the margin is used for half of its life.
        let margin = RENEWED_BEFORE_SECS.min(lifetime / 2);
        Ok(OwnToken {
            token: subject(&answer)?,
            user_id: token["user"]["id"].as_str().unwrap_or_default().to_owned(),
            identity: self.identity(token),
            services: PublicUrls {
                zaqar: self.public(token, "zaqar"),
                zaqar_websocket: self.public(token, "zaqar-websocket"),
            },
            renew_at_secs: expires.as_secs().saturating_sub(margin),
        })
    }

    /// Requests a token.
    pub(super) async fn authenticate(&self, credential: &Credential) -> Result<Answer, Error> {
        let url = format!("{}/auth/tokens", v3(&self.options.auth_url));
        let document = request(credential);
        let answer = self.http.send(Method::POST, &url, &json_headers(), Some(&document)).await?;
        match answer.status {
            201 => Ok(answer),
            _ => Err(answer.refused("a request for our own token")),
        }
    }

    /// The identity service's URL in a catalog; `auth_url` if there is none.
    fn identity(&self, token: &Value) -> String {
        let interface = self.options.interface.name();
        let url = self.endpoint(token, ("type", "identity"), interface);
        v3(url.unwrap_or(&self.options.auth_url))
    }

    fn public(&self, token: &Value, service: &str) -> Option<String> {
        self.endpoint(token, ("name", service), "public").map(str::to_owned)
    }

    /// The endpoint of the service with this member, in our region if one is configured.
    fn endpoint<'a>(
        &self,
        token: &'a Value,
        (member, value): (&str, &str),
        interface: &str,
    ) -> Option<&'a str> {
        let region = self.options.region_name.as_deref();
        let is_ours = |endpoint: &&Value| {
            let is_there = region.is_none_or(|region| {
                endpoint["region_id"] == region || endpoint["region"] == region
            });
            endpoint["interface"] == interface && is_there
        };
        let services = token["catalog"].as_array().into_iter().flatten();
        services
            .filter(|service| service[member] == value)
            .flat_map(|service| service["endpoints"].as_array().into_iter().flatten())
            .find(is_ours)
            .and_then(|endpoint| endpoint["url"].as_str())
    }
}

/// The token in a response's headers.
pub(super) fn subject(answer: &Answer) -> Result<Secret<String>, Error> {
    let subject = answer.headers.get("x-subject-token").and_then(|value| value.to_str().ok());
    let subject = subject.ok_or_else(|| answer.malformed("no X-Subject-Token"))?;
    Ok(Secret::new(subject.to_owned()))
}

/// A URL of version 3 of the API.
pub(super) fn v3(url: &str) -> String {
    let url = url.trim_end_matches('/');
    let base = url.strip_suffix("/v2.0").unwrap_or(url);
    if base.ends_with("/v3") { base.to_owned() } else { format!("{base}/v3") }
}

pub(super) fn json_headers() -> HeaderMap {
    let json = HeaderValue::from_static("application/json");
    HeaderMap::from_iter([(header::ACCEPT, json.clone()), (header::CONTENT_TYPE, json)])
}

/// Adds a token to a request's headers. One that is not a valid header value cannot be a token.
pub(super) fn add_token(headers: &mut HeaderMap, name: &'static str, token: &str) -> bool {
    let Ok(mut value) = HeaderValue::from_str(token) else { return false };
    value.set_sensitive(true);
    headers.insert(HeaderName::from_static(name), value);
    true
}

/// The body of a request for a token.
pub(super) fn request(credential: &Credential) -> Value {
    let (identity, scope) = match credential {
        Credential::Password { user, domain, password, scope } => {
            let mut user = of_domain(user, domain);
            user["password"] = json!(password.expose());
            (json!({"methods": ["password"], "password": {"user": user}}), scope.document())
        }
        Credential::Application { id, secret } => {
            let mut credential = match id {
                ApplicationId::Id(id) => json!({"id": id}),
                ApplicationId::Name { name, user, domain } => {
                    json!({"name": name, "user": of_domain(user, domain)})
                }
            };
            credential["secret"] = json!(secret.expose());
            let identity = json!({
                "methods": ["application_credential"],
                "application_credential": credential,
            });
            (identity, None)
        }
    };
    let mut auth = json!({"identity": identity});
    if let Some(scope) = scope {
        auth["scope"] = scope;
    }
    json!({"auth": auth})
}

impl Scope {
    fn document(&self) -> Option<Value> {
        match self {
            Self::Unscoped => None,
            Self::Project { project, domain } => {
                Some(json!({"project": of_domain(project, domain)}))
            }
            Self::Domain(domain) => Some(json!({"domain": domain.document()})),
            Self::System => Some(json!({"system": {"all": true}})),
            Self::Trust(id) => Some(json!({"OS-TRUST:trust": {"id": id}})),
        }
    }
}

impl Name {
    fn document(&self) -> Value {
        match self {
            Self::Id(id) => json!({"id": id}),
            Self::Name(name) => json!({"name": name}),
        }
    }
}

/// A name needs its domain, an id does not.
fn of_domain(name: &Name, domain: &Name) -> Value {
    let mut document = name.document();
    if matches!(name, Name::Name(_)) {
        document["domain"] = domain.document();
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_of_version_3() {
        for (url, expected) in [
            ("http://h:5000", "http://h:5000/v3"),
            ("http://h:5000/", "http://h:5000/v3"),
            ("http://h:5000/v3/", "http://h:5000/v3"),
            ("http://h/identity", "http://h/identity/v3"),
            ("http://h:5000/v2.0", "http://h:5000/v3"),
        ] {
            assert_eq!(v3(url), expected);
        }
    }

    #[test]
    fn what_is_asked_for_a_token() {
        let name = |name: &str| Name::Name(name.to_owned());
        let user = Credential::Password {
            user: name("zaqar"),
            domain: name("Default"),
            password: Secret::new("pw".to_owned()),
            scope: Scope::Project { project: name("service"), domain: Name::Id("default".into()) },
        };
        assert_eq!(
            request(&user),
            json!({"auth": {
                "identity": {"methods": ["password"], "password": {"user": {
                    "name": "zaqar", "domain": {"name": "Default"}, "password": "pw",
                }}},
                "scope": {"project": {"name": "service", "domain": {"id": "default"}}},
            }})
        );
        let application = Credential::Application {
            id: ApplicationId::Id("a".into()),
            secret: Secret::new("s".to_owned()),
        };
        assert_eq!(
            request(&application),
            json!({"auth": {"identity": {
                "methods": ["application_credential"],
                "application_credential": {"id": "a", "secret": "s"},
            }}})
        );
    }
}
