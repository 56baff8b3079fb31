//! The target of a webhook: the subscriber's URI, parsed and checked.

use std::fmt;
use std::net::IpAddr;

use http::Uri;
use http::uri::Scheme;

use crate::address::{Networks, Refused};

/// A URI that a webhook can be sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    uri: Uri,
    origin: Origin,
}

/// What connections, limits and circuits are kept for: scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    is_secure: bool,
    host: String,
    port: u16,
}

/// Why a URI is not a target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// It is not an absolute URI with a host.
    #[error("the subscriber is not a URI with a scheme and a host")]
    NoUri,
    /// Its scheme is neither http nor https.
    #[error("the subscriber's scheme must be http or https")]
    Scheme,
    /// It has a user or a password before the host. These would never be sent, and shown to
    /// everybody who lists subscriptions.
    #[error("the subscriber's URI must not contain a user or a password")]
    UserInfo,
    /// It is longer than [`Target::MAX_BYTES`].
    #[error("the subscriber's URI has {bytes} bytes; at most {} are allowed", Target::MAX_BYTES)]
    TooLong {
        /// Bytes of the URI.
        bytes: usize,
    },
    /// Its host is an address that webhooks must not reach.
    #[error(transparent)]
    Refused(#[from] Refused),
}

impl Target {
    /// The longest URI, in bytes.
    pub const MAX_BYTES: usize = 8192;

    /// Parses a subscriber's URI; its fragment is dropped, as it is never sent.
    ///
    /// # Errors
    /// [`TargetError`]. Addresses are not checked.
    pub fn parse(subscriber: &str) -> Result<Self, TargetError> {
        if subscriber.len() > Self::MAX_BYTES {
            return Err(TargetError::TooLong { bytes: subscriber.len() });
        }
        let sent = subscriber.split('#').next().unwrap_or_default();
        let uri: Uri = sent.parse().map_err(|_| TargetError::NoUri)?;
        let authority = uri.authority().ok_or(TargetError::NoUri)?;
        let scheme = uri.scheme().ok_or(TargetError::NoUri)?;
        let is_secure = *scheme == Scheme::HTTPS;
        if !is_secure && *scheme != Scheme::HTTP {
            return Err(TargetError::Scheme);
        }
        if authority.as_str().contains('@') {
            return Err(TargetError::UserInfo);
        }
        let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
        let port = match authority.port() {
            Some(port) => port.as_u16(),
            // `host:` and `host:99999` parse as a host without a port.
            None if authority.as_str().len() > authority.host().len() => {
                return Err(TargetError::NoUri);
            }
            None if is_secure => 443,
            None => 80,
        };
        let is_literal_without_zone = host.starts_with('[') && literal(&host).is_some();
        if host.is_empty() || port == 0 || (host.starts_with('[') && !is_literal_without_zone) {
            return Err(TargetError::NoUri);
        }
        let origin = Origin { is_secure, host, port };
        Ok(Self { uri, origin })
    }

    /// Like [`Target::parse`], and checks a host that is an address.
    ///
    /// # Errors
    /// [`TargetError`].
    pub fn checked(subscriber: &str, networks: &Networks) -> Result<Self, TargetError> {
        let target = Self::parse(subscriber)?;
        if let Some(address) = literal(target.origin.host()) {
            networks.check(address)?;
        }
        Ok(target)
    }

    /// The URI to request.
    pub const fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Scheme, host and port.
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }
}

impl Origin {
    /// What a channel of one's own sends to: bounds, circuits and metrics are kept for each.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { is_secure: false, host: host.into(), port }
    }

    /// What stands for all mail: it leaves by one way.
    pub fn mail() -> Self {
        Self::new("mail", 25)
    }

    /// Whether the scheme is https.
    pub const fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// The host in lower case, an IPv6 address in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; the scheme's default if none is named.
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secure { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

/// The address in a host, if it is one. Other spellings of IPv4 (`127.1`, `0x7f.1`, a number) count
/// as names: the addresses that they resolve to are checked like any name's.
pub(crate) fn literal(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    bare.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_taken_apart() {
        for (subscriber, origin, path) in [
            ("http://Example.COM", "http://example.com:80", "/"),
            ("https://a.b./x?y=%20#z", "https://a.b:443", "/x?y=%20"),
            ("HTTP://a:8080/v1.0/t", "http://a:8080", "/v1.0/t"),
            ("http://[2606:4700::1111]:81/", "http://[2606:4700::1111]:81", "/"),
            ("http://127.1/", "http://127.1:80", "/"),
        ] {
            let target = Target::parse(subscriber).unwrap();
            assert_eq!(target.origin().to_string(), origin, "{subscriber}");
            assert_eq!(target.uri().path_and_query().unwrap(), path, "{subscriber}");
        }
    }

    #[test]
    fn what_is_no_target_says_why() {
        let long = format!("http://a/{}", "x".repeat(Target::MAX_BYTES));
        for (subscriber, expected) in [
            ("", TargetError::NoUri),
            ("/path", TargetError::NoUri),
            ("a:1", TargetError::NoUri),
            ("http://", TargetError::NoUri),
            ("http:///x", TargetError::NoUri),
            ("http://a:0/", TargetError::NoUri),
            ("http://a:99999/", TargetError::NoUri),
            ("http://a:/", TargetError::NoUri),
            ("http://./", TargetError::NoUri),
            ("http://[fe80::1%25eth0]/", TargetError::NoUri),
            ("http://a b/", TargetError::NoUri),
            ("http://a/\r\nX: y", TargetError::NoUri),
            ("ftp://a/", TargetError::Scheme),
            ("http://u:p@a/", TargetError::UserInfo),
            ("http://8.8.8.8@10.0.0.1/", TargetError::UserInfo),
            (&long, TargetError::TooLong { bytes: long.len() }),
        ] {
            assert_eq!(Target::parse(subscriber), Err(expected), "{subscriber}");
        }
    }

    #[test]
    fn a_literal_is_checked_and_a_name_is_not() {
        let networks = Networks::default();
        for refused in ["http://127.0.0.1/", "https://[::ffff:10.0.0.1]/", "http://10.0.0.1./"] {
            let found = Target::checked(refused, &networks);
            assert!(matches!(found, Err(TargetError::Refused(_))), "{refused}: {found:?}");
        }
        assert!(Target::checked("http://localhost/", &networks).is_ok());
        assert!(Target::checked("http://8.8.8.8/", &networks).is_ok());
    }
}
