//! The client: where the server is, who asks, and how requests are sent.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use serde::Serialize;
use zaqar_core::Secret;

use crate::Error;
use crate::auth::{Auth, SignedUrl, insert};
use crate::http::{Answer, Bounds, Http};
use crate::keystone::{Credentials, Session, Token};
use crate::retry::{Repeat, Retries};
use crate::tls::Tls;

/// A client of one server, for one project. Clones share their connections and their token.
///
/// ```
/// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/mod.rs")); }
/// # use support::*;
/// # block_on(async |_| {
/// use zaqar_client::Client;
///
/// # let url = client_url();
/// let client = Client::builder().url(url).project("demo").build()?;
/// client.ping().await?;
/// # Ok(()) });
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    http: Http,
    /// What is configured; with Keystone the catalog says where there is none.
    base: Option<String>,
    headers: HeaderMap,
    identity: Identified,
    retries: Retries,
    tls: Tls,
    timeout: Duration,
    client_id: String,
    project: Option<String>,
}

#[derive(Debug)]
enum Identified {
    Fixed(Option<Secret<String>>),
    Session(Box<Session>),
    Signed(SignedUrl),
}

/// Builds a [`Client`].
#[derive(Debug, Clone)]
pub struct Builder {
    url: Option<String>,
    project: Option<String>,
    roles: Option<String>,
    client_id: Option<String>,
    auth: Auth,
    tls: Tls,
    timeout: Duration,
    connect_timeout: Duration,
    max_answer: usize,
    retries: Retries,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            url: None,
            project: None,
            roles: None,
            client_id: None,
            auth: Auth::None,
            tls: Tls::System,
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            max_answer: 64 * 1024 * 1024,
            retries: Retries::default(),
        }
    }
}

impl Builder {
    /// The server, as `http://host:8888` with any prefix in front of `/v2`. With Keystone the
    /// catalog knows it.
    #[must_use]
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.url = Some(url.into());
        self
    }

    /// The project, sent as `X-Project-ID`. With Keystone the token knows it.
    #[must_use]
    pub fn project(mut self, project: impl Into<String>) -> Self {
        self.project = Some(project.into());
        self
    }

    /// The roles to claim of a server without authentication, sent as `X-Roles`.
    #[must_use]
    pub fn roles(mut self, roles: impl Into<String>) -> Self {
        self.roles = Some(roles.into());
        self
    }

    /// The client's UUID. A list leaves out what the same client posted, unless `echo` is asked
    /// for. Without this each client has a random one.
    #[must_use]
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        self.client_id = Some(id.into());
        self
    }

    /// Who asks.
    #[must_use]
    pub fn auth(mut self, auth: Auth) -> Self {
        self.auth = auth;
        self
    }

    /// Tokens are made and renewed with these.
    #[must_use]
    pub fn keystone(self, credentials: Credentials) -> Self {
        self.auth(Auth::Keystone(credentials))
    }

    /// A token that somebody else made.
    #[must_use]
    pub fn token(self, token: impl Into<String>) -> Self {
        self.auth(Auth::Token(Secret::new(token.into())))
    }

    /// A pre-signed URL instead of a token.
    #[must_use]
    pub fn signed(self, url: SignedUrl) -> Self {
        self.auth(Auth::Signed(url))
    }

    /// Whose certificates are believed.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    /// The longest time of one attempt; 30 s by default.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The longest time to make a connection; 5 s by default.
    #[must_use]
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The most bytes of an answer; 64 MiB by default.
    #[must_use]
    pub const fn max_answer(mut self, bytes: usize) -> Self {
        self.max_answer = bytes;
        self
    }

    /// What is sent again, and when.
    #[must_use]
    pub const fn retries(mut self, retries: Retries) -> Self {
        self.retries = retries;
        self
    }

    /// Makes the client. Nothing is sent.
    ///
    /// # Errors
    /// [`Error::Config`] for a wrong URL, a missing URL without Keystone, a value that cannot be a
    /// header, or a CA file that cannot be read.
    pub fn build(self) -> Result<Client, Error> {
        let base = self.url.as_deref().map(base_of).transpose()?;
        if base.is_none() && !matches!(self.auth, Auth::Keystone(_)) {
            return Err(Error::config("url", "it is needed where no Keystone knows it"));
        }
        let client_id = self.client_id.unwrap_or_else(random_uuid);
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        insert(&mut headers, "client-id", &client_id, false)?;
        for (name, value) in [("x-project-id", &self.project), ("x-roles", &self.roles)] {
            if let Some(value) = value {
                insert(&mut headers, name, value, false)?;
            }
        }
        let identity = match self.auth {
            Auth::None => Identified::Fixed(None),
            Auth::Token(token) => {
                insert(&mut headers, "x-auth-token", token.expose(), true)?;
                Identified::Fixed(Some(token))
            }
            Auth::Keystone(credentials) => Identified::Session(Box::new(Session::new(credentials))),
            Auth::Signed(url) => {
                for (name, value) in url.headers() {
                    insert(&mut headers, name, &value, name == "url-signature")?;
                }
                Identified::Signed(url)
            }
        };
        let bounds =
            Bounds { connect: self.connect_timeout, whole: self.timeout, answer: self.max_answer };
        let http = Http::new(&self.tls, bounds)?;
        let shared = Shared {
            http,
            base,
            headers,
            identity,
            retries: self.retries,
            tls: self.tls,
            timeout: self.timeout,
            client_id,
            project: self.project,
        };
        Ok(Client { shared: Arc::new(shared) })
    }
}

/// A URL without what stands for the API's version.
fn base_of(url: &str) -> Result<String, Error> {
    let wrong = |reason| Error::config(format!("url {url}"), reason);
    let uri: Uri = url.parse().map_err(|_| wrong("this is no URL"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.authority().is_none() {
        return Err(wrong("it must be http://HOST or https://HOST"));
    }
    if uri.query().is_some() {
        return Err(wrong("it must have no query"));
    }
    let base = url.trim_end_matches('/');
    Ok(base.strip_suffix("/v2").unwrap_or(base).trim_end_matches('/').to_owned())
}

/// A random UUID of version 4.
pub(crate) fn random_uuid() -> String {
    let mut bits: u128 = rand::random();
    bits = bits & !(0xf << 76) | (0x4 << 76);
    bits = bits & !(0b11 << 62) | (0b10 << 62);
    let hex = format!("{bits:032x}");
    let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    format!("{a}-{b}-{c}-{d}-{e}")
}

/// One request.
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Behind the base: `/v2/…`, with the query.
    pub(crate) path: String,
    pub(crate) body: Option<Bytes>,
    pub(crate) content_type: &'static str,
    pub(crate) repeat: Repeat,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

impl Call {
    pub(crate) fn new(method: Method, path: impl Into<String>) -> Self {
        let repeat = if method == Method::POST { Repeat::Unsafe } else { Repeat::Safe };
        let content_type = "application/json";
        Self { method, path: path.into(), body: None, content_type, repeat }
    }

    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    pub(crate) fn body(mut self, document: &impl Serialize) -> Result<Self, Error> {
        let body = serde_json::to_vec(document)
            .map_err(|error| Error::config("a body that is no JSON", error))?;
        self.body = Some(body.into());
        Ok(self)
    }

    pub(crate) const fn repeat(mut self, repeat: Repeat) -> Self {
        self.repeat = repeat;
        self
    }
}

impl Client {
    /// Begins a client.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A client of a server without authentication.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn new(url: &str, project: &str) -> Result<Self, Error> {
        Self::builder().url(url).project(project).build()
    }

    /// The UUID that names this client to the server.
    pub fn id(&self) -> &str {
        &self.shared.client_id
    }

    pub(crate) fn tls(&self) -> &Tls {
        &self.shared.tls
    }

    /// The longest time of one attempt.
    pub(crate) fn timeout(&self) -> Duration {
        self.shared.timeout
    }

    pub(crate) fn retries(&self) -> &Retries {
        &self.shared.retries
    }

    /// The headers that say who asks, as a WebSocket's frames have them.
    pub(crate) async fn identity_headers(&self) -> Result<Vec<(&'static str, String)>, Error> {
        let mut headers = vec![("Client-ID", self.shared.client_id.clone())];
        let project = match &self.shared.identity {
            Identified::Fixed(token) => {
                headers.extend(token.iter().map(|token| ("X-Auth-Token", token.expose().clone())));
                self.shared.project.clone()
            }
            Identified::Session(session) => {
                let token = session.token(&self.shared.http).await?;
                headers.push(("X-Auth-Token", token.text.expose().clone()));
                token.project.or_else(|| self.shared.project.clone())
            }
            Identified::Signed(url) => {
                let names = ["URL-Signature", "URL-Expires", "URL-Methods", "URL-Paths"];
                headers.extend(names.into_iter().zip(url.headers().map(|(_, value)| value)));
                Some(url.project.clone())
            }
        };
        headers.extend(project.map(|project| ("X-Project-ID", project)));
        Ok(headers)
    }

    /// Forgets a token that the server rejected, and says whether another can be made.
    pub(crate) fn forget_token(&self, rejected: &str) -> bool {
        match &self.shared.identity {
            Identified::Session(session) => {
                session.forget(rejected);
                true
            }
            Identified::Fixed(_) | Identified::Signed(_) => false,
        }
    }

    /// Sends a request, again where that is safe and may help.
    pub(crate) async fn call(&self, call: Call) -> Result<Answer, Error> {
        let mut attempt = 1;
        let mut renewed = false;
        loop {
            let token = self.token().await?;
            let error = match self.send(&call, token.as_ref()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if error.status() == Some(401)
                && !renewed
                && let Some(token) = &token
                && self.forget_token(token.text.expose())
            {
                // A token may be revoked before it expires. What was refused was not done.
                renewed = true;
                continue;
            }
            attempt += 1;
            let Some(pause) = self.shared.retries.pause(&error, attempt, call.repeat) else {
                return Err(error);
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn token(&self) -> Result<Option<Token>, Error> {
        match &self.shared.identity {
            Identified::Session(session) => session.token(&self.shared.http).await.map(Some),
            Identified::Fixed(_) | Identified::Signed(_) => Ok(None),
        }
    }

    async fn send(&self, call: &Call, token: Option<&Token>) -> Result<Answer, Error> {
        let Shared { http, headers, base, .. } = &*self.shared;
        let mut headers = headers.clone();
        if let Some(token) = token {
            insert(&mut headers, "x-auth-token", token.text.expose(), true)?;
        }
        if call.body.is_some() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(call.content_type));
        }
        let found = token.and_then(|token| token.endpoint.as_deref()).map(base_of).transpose()?;
        let base = base.clone().or(found).ok_or_else(|| {
            Error::config("the catalog of Keystone", "it has no endpoint of the type messaging")
        })?;
        let uri = format!("{base}{}", call.path);
        let uri = uri.parse().map_err(|_| Error::config(uri, "this is no URL"))?;
        http.send(&call.method, uri, headers, call.body.clone().unwrap_or_default()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_url_is_the_part_before_the_version() {
        for (url, base) in [
            ("http://h:8888", "http://h:8888"),
            ("http://h:8888/", "http://h:8888"),
            ("https://h/messaging/v2/", "https://h/messaging"),
            ("http://h/v2", "http://h"),
        ] {
            assert_eq!(base_of(url).unwrap(), base);
        }
        for url in ["h:8888", "ftp://h", "http://h/?a=b", "http://", "/v2"] {
            assert!(base_of(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_uuid_says_that_it_is_random() {
        let uuid = random_uuid();
        assert_eq!((uuid.len(), &uuid[14..15]), (36, "4"));
        assert!(matches!(&uuid[19..20], "8" | "9" | "a" | "b"), "{uuid}");
        assert_ne!(uuid, random_uuid());
    }

    #[test]
    fn invalid_settings_are_rejected_before_anything_is_sent() {
        let error = Client::builder().project("p").build().unwrap_err();
        assert!(error.to_string().contains("url"), "{error}");
        assert!(Client::new("http://h", "a\nb").is_err());
    }
}
