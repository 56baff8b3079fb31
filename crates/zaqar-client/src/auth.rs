//! How a request says who asks.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use zaqar_core::Secret;

use crate::Error;
use crate::keystone::Credentials;

/// Who asks.
#[derive(Debug, Clone, Default)]
pub enum Auth {
    /// Nobody checks: the server believes the project and roles that it is told.
    #[default]
    None,
    /// A token of Keystone that somebody else made and renews.
    Token(Secret<String>),
    /// Tokens are made and renewed with these.
    Keystone(Credentials),
    /// A pre-signed URL: it reaches what it was signed for, and nothing else.
    Signed(SignedUrl),
}

/// What `share` answers: whoever has it can use one queue for some methods and some time.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedUrl {
    /// The paths that it opens, and what lies below them.
    pub paths: Vec<String>,
    /// The methods that it allows.
    pub methods: Vec<String>,
    /// The project of the queue.
    pub project: String,
    /// When it ends, in UTC.
    pub expires: String,
    /// The proof.
    pub signature: String,
}

impl fmt::Debug for SignedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { paths, methods, project, expires, signature: _ } = self;
        f.debug_struct("SignedUrl")
            .field("paths", paths)
            .field("methods", methods)
            .field("project", project)
            .field("expires", expires)
            .field("signature", &Stars)
            .finish()
    }
}

/// Prints as stars, in the place of a secret.
pub(crate) struct Stars;

impl fmt::Debug for Stars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl SignedUrl {
    /// The headers that take the place of a token.
    pub(crate) fn headers(&self) -> [(&'static str, String); 5] {
        [
            ("url-signature", self.signature.clone()),
            ("url-expires", self.expires.clone()),
            ("url-methods", self.methods.join(",")),
            ("url-paths", self.paths.join(",")),
            ("x-project-id", self.project.clone()),
        ]
    }
}

/// Adds a header whose value came from outside.
pub(crate) fn insert(
    headers: &mut HeaderMap,
    name: &'static str,
    value: &str,
    is_secret: bool,
) -> Result<(), Error> {
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| Error::config(name, "a header has one line of visible characters"))?;
    value.set_sensitive(is_secret);
    headers.insert(HeaderName::from_static(name), value);
    Ok(())
}
