//! The headers of a request that this transport reads, found in one walk over all of them: each
//! look-up in the map would hash the name that it looks for.

use http::HeaderMap;
use http::header::{self, HeaderValue};

use crate::error::HttpError;

/// Whether a client may say who it is in its headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claims {
    /// Nobody authenticates callers, so they are believed.
    Believed,
    /// Only a token or a signature proves an identity. Headers that claim one are never read, with
    /// the exception of the project of a signed request, which the signature covers.
    Ignored,
}

/// The headers that this transport reads; nothing else of a request's headers reaches a handler, in
/// particular none of those in which Keystone's middleware passes an identity on.
///
/// Of a repeated header the first value counts, of texts the first that is UTF-8.
#[derive(Debug)]
pub(crate) struct Headers<'a> {
    all: &'a HeaderMap,
    claims: Claims,
    /// One of the headers that identify the caller is repeated or not UTF-8.
    is_ambiguous: bool,
    accept: Option<&'a HeaderValue>,
    pub(crate) content_type: Option<&'a HeaderValue>,
    pub(crate) content_length: Option<&'a HeaderValue>,
    pub(crate) transfer_encoding: Option<&'a HeaderValue>,
    pub(crate) expect: Option<&'a HeaderValue>,
    pub(crate) traceparent: Option<&'a str>,
    pub(crate) openstack_request_id: Option<&'a str>,
    pub(crate) trace_info: Option<&'a str>,
    pub(crate) trace_hmac: Option<&'a str>,
    pub(crate) client_id: Option<&'a str>,
    pub(crate) project_id: Option<&'a str>,
    pub(crate) roles: Option<&'a str>,
    pub(crate) auth_token: Option<&'a str>,
    pub(crate) storage_token: Option<&'a str>,
    pub(crate) service_token: Option<&'a str>,
    pub(crate) url_expires: Option<&'a str>,
    pub(crate) url_methods: Option<&'a str>,
    pub(crate) url_paths: Option<&'a str>,
    /// Present also if it is no text: such a signature is never valid.
    pub(crate) url_signature: Option<&'a HeaderValue>,
}

/// Headers that identify the caller: one that a client sends must not override the one that a proxy
/// adds.
const SINGLE: [&str; 10] = [
    "Client-ID",
    "URL-Expires",
    "URL-Methods",
    "URL-Paths",
    "URL-Signature",
    "X-Auth-Token",
    "X-Project-ID",
    "X-Roles",
    "X-Service-Token",
    "X-Storage-Token",
];

impl<'a> Headers<'a> {
    pub(crate) fn read(all: &'a HeaderMap, claims: Claims) -> Self {
        let mut read = Self::none(all, claims);
        for (name, value) in all {
            let slot = match name.as_str() {
                "accept" => Slot::Value(&mut read.accept),
                "content-type" => Slot::Value(&mut read.content_type),
                "content-length" => Slot::Value(&mut read.content_length),
                "transfer-encoding" => Slot::Value(&mut read.transfer_encoding),
                "expect" => Slot::Value(&mut read.expect),
                "traceparent" => Slot::Text(&mut read.traceparent),
                "x-openstack-request-id" => Slot::Text(&mut read.openstack_request_id),
                "x-trace-info" => Slot::Text(&mut read.trace_info),
                "x-trace-hmac" => Slot::Text(&mut read.trace_hmac),
                "client-id" => Slot::Identity(&mut read.client_id),
                "x-project-id" => Slot::Identity(&mut read.project_id),
                "x-roles" => Slot::Identity(&mut read.roles),
                "x-auth-token" => Slot::Identity(&mut read.auth_token),
                "x-storage-token" => Slot::Identity(&mut read.storage_token),
                "x-service-token" => Slot::Identity(&mut read.service_token),
                "url-expires" => Slot::Identity(&mut read.url_expires),
                "url-methods" => Slot::Identity(&mut read.url_methods),
                "url-paths" => Slot::Identity(&mut read.url_paths),
                "url-signature" => Slot::Signature(&mut read.url_signature),
                _ => continue,
            };
            read.is_ambiguous |= slot.put(value).is_err();
        }
        read.ignore_claims();
        read
    }

    const fn none(all: &'a HeaderMap, claims: Claims) -> Self {
        Self {
            all,
            claims,
            is_ambiguous: false,
            accept: None,
            content_type: None,
            content_length: None,
            transfer_encoding: None,
            expect: None,
            traceparent: None,
            openstack_request_id: None,
            trace_info: None,
            trace_hmac: None,
            client_id: None,
            project_id: None,
            roles: None,
            auth_token: None,
            storage_token: None,
            service_token: None,
            url_expires: None,
            url_methods: None,
            url_paths: None,
            url_signature: None,
        }
    }

    fn ignore_claims(&mut self) {
        if self.claims == Claims::Ignored {
            self.roles = None;
            self.project_id = self.project_id.filter(|_| self.url_signature.is_some());
        }
    }

    fn is_ignored(&self, name: &str) -> bool {
        let is_claim = match name {
            "X-Roles" => true,
            "X-Project-ID" => self.url_signature.is_none(),
            _ => false,
        };
        is_claim && self.claims == Claims::Ignored
    }

    /// Checks that each header that identifies the caller is present at most once and is UTF-8, so
    /// that two callers cannot be confused.
    pub(crate) fn check_identity(&self) -> Result<(), HttpError> {
        if !self.is_ambiguous {
            return Ok(());
        }
        for sent in self.all.keys() {
            let is_it = |name: &&str| name.eq_ignore_ascii_case(sent.as_str());
            let Some(name) = SINGLE.into_iter().find(is_it) else { continue };
            if self.is_ignored(name) {
                continue;
            }
            let mut values = self.all.get_all(sent).iter();
            let is_text = values.next().is_some_and(|value| text(value).is_some());
            let more = values.count();
            if more > 0 {
                return Err(HttpError::header(
                    format!("Repeated header {name}"),
                    format!(
                        "The header {name} may be sent once; this request has it {} times.",
                        more + 1
                    ),
                ));
            }
            if !is_text {
                return Err(HttpError::header(
                    format!("Invalid header {name}"),
                    format!("The value of the header {name} must be UTF-8."),
                ));
            }
        }
        Ok(())
    }

    /// The values of `Accept`.
    pub(crate) fn accept(&self) -> impl Iterator<Item = &'a HeaderValue> + use<'a> {
        let all = self.all;
        self.accept.into_iter().flat_map(|_| all.get_all(header::ACCEPT))
    }
}

/// Where the value of a header goes, if it is the first one.
enum Slot<'s, 'a> {
    Value(&'s mut Option<&'a HeaderValue>),
    Text(&'s mut Option<&'a str>),
    /// Of a header that identifies the caller.
    Identity(&'s mut Option<&'a str>),
    Signature(&'s mut Option<&'a HeaderValue>),
}

/// A header that identifies the caller is repeated or not UTF-8.
struct Ambiguous;

impl<'a> Slot<'_, 'a> {
    fn put(self, value: &'a HeaderValue) -> Result<(), Ambiguous> {
        match self {
            Self::Value(slot) => {
                slot.get_or_insert(value);
            }
            Self::Text(slot) => *slot = slot.or_else(|| text(value)),
            Self::Identity(slot) => {
                if slot.is_some() {
                    return Err(Ambiguous);
                }
                *slot = Some(text(value).ok_or(Ambiguous)?);
            }
            Self::Signature(slot) => {
                if slot.replace(value).is_some() || text(value).is_none() {
                    return Err(Ambiguous);
                }
            }
        }
        Ok(())
    }
}

fn text(value: &HeaderValue) -> Option<&str> {
    simdutf8::basic::from_utf8(value.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    /// Every header in which a client could claim an identity, and those that prove one.
    const NAMES: [&str; 13] = [
        "x-project-id",
        "x-service-project-id",
        "x-roles",
        "x-user-domain-name",
        "x-tenant",
        "x-service-catalog",
        "x-service-identity-status",
        "openstack-system-scope",
        "x-auth-token",
        "x-service-token",
        "x-storage-token",
        "client-id",
        "x-openstack-request-id",
    ];

    fn map(more: &[&'static str]) -> HeaderMap {
        let names = NAMES.iter().chain(more).copied();
        names.map(|name| (HeaderName::from_static(name), HeaderValue::from_static("v"))).collect()
    }

    /// What a handler can read.
    fn readable(headers: &Headers<'_>) -> Vec<&'static str> {
        let fields = [
            ("project", headers.project_id.is_some()),
            ("roles", headers.roles.is_some()),
            ("tokens", headers.auth_token.is_some()),
            ("tokens", headers.storage_token.is_some()),
            ("tokens", headers.service_token.is_some()),
            ("client", headers.client_id.is_some()),
            ("request", headers.openstack_request_id.is_some()),
        ];
        fields.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect()
    }

    #[test]
    fn claims_of_identity_are_ignored_and_nothing_else() {
        let proofs = ["tokens", "tokens", "tokens", "client", "request"];
        assert_eq!(readable(&Headers::read(&map(&[]), Claims::Ignored)), proofs);
        let signed = map(&["url-signature"]);
        let with_project = [&["project"][..], &proofs].concat();
        assert_eq!(readable(&Headers::read(&signed, Claims::Ignored)), with_project);
        let all = [&["project", "roles"][..], &proofs].concat();
        assert_eq!(readable(&Headers::read(&map(&[]), Claims::Believed)), all);
    }

    #[test]
    fn headers_that_identify_the_caller_are_sent_once_and_are_text() {
        let (one, two) = (HeaderValue::from_static("1"), HeaderValue::from_static("2"));
        let bytes = HeaderValue::from_bytes(b"\xff").unwrap();
        for name in SINGLE {
            let name: HeaderName = name.parse().unwrap();
            for more in [&two, &bytes] {
                let mut headers = HeaderMap::new();
                headers.append(&name, one.clone());
                assert!(Headers::read(&headers, Claims::Believed).check_identity().is_ok());
                headers.append(&name, more.clone());
                assert!(Headers::read(&headers, Claims::Believed).check_identity().is_err());
            }
            let headers: HeaderMap = [(name, bytes.clone())].into_iter().collect();
            assert!(Headers::read(&headers, Claims::Believed).check_identity().is_err());
        }
        // What is not read cannot be confused.
        let mut headers = map(&[]);
        headers.append("x-roles", two.clone());
        headers.append("x-project-id", two.clone());
        assert!(Headers::read(&headers, Claims::Ignored).check_identity().is_ok());
        headers.append("url-signature", one);
        let error = Headers::read(&headers, Claims::Ignored).check_identity().unwrap_err();
        assert_eq!(error.to_string(), "Repeated header X-Project-ID");
        // Of other headers the first one counts.
        headers.append("x-openstack-request-id", two);
        assert_eq!(Headers::read(&headers, Claims::Ignored).openstack_request_id, Some("v"));
    }
}
