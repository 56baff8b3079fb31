//! The target of a webhook: the subscriber's URI, parsed and checked.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
    /// Its host is longer than [`Target::MAX_HOST_BYTES`].
    #[error(
        "the subscriber's host has {bytes} bytes; at most {} are allowed",
        Target::MAX_HOST_BYTES
    )]
    LongHost {
        /// Bytes of the host.
        bytes: usize,
    },
    /// Its host is an address that webhooks must not reach, or `localhost`. Names are not looked
    /// up: the error would say which names exist inside the operator's network.
    #[error(transparent)]
    Refused(#[from] Refused),
}

impl Target {
    /// The longest URI, in bytes.
    pub const MAX_BYTES: usize = 8192;

    /// The longest host, in bytes: no name of DNS is longer.
    pub const MAX_HOST_BYTES: usize = 253;

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
        if host.len() > Self::MAX_HOST_BYTES {
            return Err(TargetError::LongHost { bytes: host.len() });
        }
        let origin = Origin { is_secure, host, port };
        Ok(Self { uri, origin })
    }

    /// Like [`Target::parse`], and checks a host whose address is known without a lookup.
    ///
    /// # Errors
    /// [`TargetError`].
    pub fn checked(subscriber: &str, networks: &Networks) -> Result<Self, TargetError> {
        let target = Self::parse(subscriber)?;
        let host = target.origin.host();
        if let Some(address) = literal(host) {
            networks.check(address)?;
        } else if host == "localhost" || host.ends_with(".localhost") {
            // It leads to either of them.
            let v6 = networks.check(Ipv6Addr::LOCALHOST.into());
            v6.or_else(|_| networks.check(Ipv4Addr::LOCALHOST.into()))?;
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

/// The address in a host, if it is one: IPv6 in brackets, or IPv4 in any form that resolvers take
/// (`127.1`, `0x7f.1`, a number).
pub(crate) fn literal(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(bare) => bare.parse().ok().map(IpAddr::V6),
        None => loose_v4(host).map(IpAddr::V4),
    }
}

/// IPv4 as `inet_aton` reads it: one to four numbers, decimal, octal or hexadecimal, of which the
/// last fills the bytes that are left.
fn loose_v4(host: &str) -> Option<Ipv4Addr> {
    let parts: Vec<u32> = host.split('.').take(5).map(loose_number).collect::<Option<_>>()?;
    let (last, bytes) = parts.split_last().filter(|(_, bytes)| bytes.len() < 4)?;
    let left = 32 - 8 * u32::try_from(bytes.len()).ok()?;
    if bytes.iter().any(|byte| *byte > 255) || u64::from(*last) >> left != 0 {
        return None;
    }
    let high = bytes.iter().enumerate().map(|(at, byte)| byte << (24 - 8 * at));
    Some(Ipv4Addr::from(high.sum::<u32>() | last))
}

fn loose_number(text: &str) -> Option<u32> {
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, radix) = match hexadecimal {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    // `from_str_radix` would take a sign.
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_plain.then(|| u32::from_str_radix(digits, radix).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_taken_apart() {
        let longest = "x".repeat(Target::MAX_HOST_BYTES);
        for (subscriber, origin, path) in [
            ("http://Example.COM", "http://example.com:80", "/"),
            ("https://a.b./x?y=%20#z", "https://a.b:443", "/x?y=%20"),
            ("HTTP://a:8080/v1.0/t", "http://a:8080", "/v1.0/t"),
            ("http://[2606:4700::1111]:81/", "http://[2606:4700::1111]:81", "/"),
            ("http://127.1/", "http://127.1:80", "/"),
            (&format!("http://{longest}./"), &format!("http://{longest}:80"), "/"),
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
            (&format!("http://{}/", "x".repeat(254)), TargetError::LongHost { bytes: 254 }),
        ] {
            assert_eq!(Target::parse(subscriber), Err(expected), "{subscriber}");
        }
    }

    #[test]
    fn addresses_have_many_spellings() {
        for (host, address) in [
            ("127.0.0.1", "127.0.0.1"),
            ("127.1", "127.0.0.1"),
            ("10.1.258", "10.1.1.2"),
            ("2130706433", "127.0.0.1"),
            ("0x7f.0.0.0x1", "127.0.0.1"),
            ("0177.1", "127.0.0.1"),
            ("0xA9FEA9FE", "169.254.169.254"),
            ("0", "0.0.0.0"),
            ("255.255.255.255", "255.255.255.255"),
            ("[::1]", "::1"),
        ] {
            assert_eq!(literal(host), Some(address.parse().unwrap()), "{host}");
        }
        for name in [
            "",
            "a",
            "1.2.3.4.5",
            "256.1",
            "1.2.3.256",
            "1.16777216",
            "4294967296",
            "0x",
            "08",
            "+1",
            "1..2",
            "1.2.3.4a",
            "[127.0.0.1]",
            "::1",
            "0x1g",
        ] {
            assert_eq!(literal(name), None, "{name}");
        }
    }

    #[test]
    fn a_literal_is_checked_and_a_name_is_not() {
        let networks = Networks::default();
        for refused in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://0x7f000001/",
            "https://[::ffff:10.0.0.1]/",
            "http://10.0.0.1./",
            "http://LocalHost./",
            "http://a.localhost/",
        ] {
            let found = Target::checked(refused, &networks);
            assert!(matches!(found, Err(TargetError::Refused(_))), "{refused}: {found:?}");
        }
        for passes in ["http://internal.example/", "http://8.8.8.8/", "http://notlocalhost/"] {
            assert!(Target::checked(passes, &networks).is_ok(), "{passes}");
        }
        let opened = Networks::allowing(vec!["127.0.0.0/8".parse().unwrap()]);
        assert!(Target::checked("http://localhost/", &opened).is_ok());
    }
}
