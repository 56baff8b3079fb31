//! Pre-signed URLs: grants and their signatures.
//!
//! The signature is the original's, byte for byte (`zaqar/common/urls.py`), so that URLs signed by
//! either are valid on both: HMAC-SHA256 over paths, methods, project and expiry, joined by a
//! backslash and an `n`, two characters, with commas between paths and between methods.
//!
//! No two grants sign the same text: paths and methods contain neither separator, so the first two
//! backslash-`n` of a text end the paths and the methods, and the last one precedes the expiry,
//! which contains none. The project in between may contain anything.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::{ProjectId, Secret, Timestamp, iso8601};

/// What a signed URL allows, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The project whose resources can be accessed.
    pub project: ProjectId,
    /// The paths, sorted. Each covers itself and everything below it.
    pub paths: Vec<String>,
    /// The HTTP methods, sorted.
    pub methods: Vec<String>,
    /// The expiry; printed to the second.
    pub expires: Timestamp,
}

impl Grant {
    /// Creates a grant. Sorts the lists, as signatures need them.
    pub fn new(
        project: ProjectId,
        mut paths: Vec<String>,
        mut methods: Vec<String>,
        expires: Timestamp,
    ) -> Self {
        paths.sort();
        methods.sort();
        Self { project, paths, methods, expires }
    }

    /// The signature, 64 lower-case hexadecimal digits.
    ///
    /// # Errors
    /// [`Separator`] if a path or method contains a separator.
    pub fn sign(&self, key: &Secret<String>) -> Result<String, Separator> {
        let digest = mac(key, &self.text()?).finalize().into_bytes();
        Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Whether the signature belongs to this grant and the grant has not expired. Compares in
    /// constant time.
    pub fn verify(&self, key: &Secret<String>, signature: &str, now: Timestamp) -> bool {
        let (Some(signature), Ok(text)) = (unhex(signature), self.text()) else { return false };
        mac(key, &text).verify_slice(&signature).is_ok() && now < self.expires
    }

    /// Whether the grant covers a request: its method, and its path at or below a path of the
    /// grant, whose query does not count.
    pub fn covers(&self, method: &str, path: &str) -> bool {
        let below = |granted: &String| {
            let granted = granted.split_once('?').map_or(granted.as_str(), |(path, _)| path);
            let rest = path.strip_prefix(granted).filter(|_| !granted.is_empty());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.methods.iter().any(|granted| granted == method) && self.paths.iter().any(below)
    }

    /// Whether it was sent to this address, with [`path_for`].
    pub fn is_for(&self, path: &str, address: &str) -> bool {
        self.paths.contains(&path_for(path, address))
    }

    /// The text to sign. No other grant has the same text.
    fn text(&self) -> Result<String, Separator> {
        let mut items = self.paths.iter().chain(&self.methods);
        if let Some(item) = items.find(|item| item.contains(',') || item.contains(SEPARATOR)) {
            return Err(Separator { item: item.clone() });
        }
        let (paths, methods) = (self.paths.join(","), self.methods.join(","));
        let expires = iso8601::format(self.expires);
        Ok([paths.as_str(), methods.as_str(), self.project.as_str(), &expires].join(SEPARATOR))
    }
}

/// A path for a grant that one address is sent, and which is void for any other: the path, and a
/// digest of the address as its query.
pub fn path_for(path: &str, address: &str) -> String {
    let digest = Sha256::digest(address);
    let digest: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{path}?for={digest}")
}

/// Separates the fields of the signed text: a backslash and an `n`.
const SEPARATOR: &str = "\\n";

/// A path or method contains a separator, so the signed text would be ambiguous.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{item:?} cannot be signed: paths and methods contain no comma and no backslash before n")]
pub struct Separator {
    /// The path or method.
    pub item: String,
}

fn mac(key: &Secret<String>, text: &str) -> Hmac<Sha256> {
    // HMAC accepts keys of any length.
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose().as_bytes())
        .unwrap_or_else(|_| Hmac::new(&Default::default()));
    mac.update(text.as_bytes());
    mac
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    if bytes.len() != 64 || bytes.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    bytes.chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn grant(paths: &[&str], methods: &[&str], project: &str, expires: &str) -> Grant {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        let project = ProjectId::new(project).unwrap();
        Grant::new(project, owned(paths), owned(methods), iso8601::parse(expires).unwrap())
    }

    fn key() -> Secret<String> {
        Secret::new("test".to_owned())
    }

    /// Expected values: signatures by the original, with the key `test`.
    #[test]
    fn signatures_equal_the_originals() {
        for (grant, signature) in [
            (
                grant(&["/v2/queues/sh/messages"], &["GET"], "ps", "2030-01-01T00:00:00"),
                "29a7f77b0f3f8132f870f3f30766b210c05f307e06b96e1a4fcef6edf8154754",
            ),
            (
                grant(
                    &["/v2/queues/sh/messages", "/v2/queues/sh/claims"],
                    &["POST", "GET"],
                    "ps",
                    "2030-01-01T00:00:00",
                ),
                "37bf206fed80bea7dad30d78b02477ddda6c10deadab4aef1c9cd9a9b52b302a",
            ),
            (
                grant(&["/v2/queues/sh/messages"], &["GET"], "a/b c", "2030-01-01T00:00:00"),
                "60d009d81acd9107c5bd0adfaf14723bc9fef3b31fecbb2b38ee8dd331c44b14",
            ),
        ] {
            assert_eq!(grant.sign(&key()).unwrap(), signature);
            let now = iso8601::parse("2029-12-31T23:59:59").unwrap();
            assert!(grant.verify(&key(), signature, now));
            assert!(!grant.verify(&key(), signature, grant.expires));
            assert!(!grant.verify(&Secret::new("other".into()), signature, now));
            assert!(!grant.verify(&key(), &signature.to_uppercase(), now));
            assert!(!grant.verify(&key(), &signature[1..], now));
            assert!(!grant.verify(&key(), "", now));
        }
    }

    #[test]
    fn ambiguous_lists_are_neither_signed_nor_verified() {
        for (paths, methods) in [
            (["/v2/queues/q/messages,/v2/queues/q/claims"], ["GET"]),
            (["/v2/queues/q/messages\\nGET"], ["GET"]),
            (["/v2/queues/q/messages"], ["GET\\np"]),
        ] {
            let grant = grant(&paths, &methods, "p", "2030-01-01");
            let error = grant.sign(&key()).unwrap_err();
            assert!(error.to_string().contains("contain no comma"), "{error}");
            let text = [&paths.join(","), &methods.join(","), "p", "2030-01-01T00:00:00"];
            let signature = mac(&key(), &text.join(SEPARATOR)).finalize().into_bytes();
            let signature: String = signature.iter().map(|b| format!("{b:02x}")).collect();
            assert!(!grant.verify(&key(), &signature, Timestamp::from_millis(0)));
        }
    }

    /// Texts composed of the separators and their parts.
    fn tricky() -> impl Strategy<Value = String> {
        proptest::collection::vec(prop::sample::select(vec!["\\", "n", ",", "a", "\\n"]), 1..5)
            .prop_map(|parts| parts.concat())
    }

    fn tricky_grant() -> impl Strategy<Value = Grant> {
        let list = || proptest::collection::vec(tricky(), 1..3);
        let times = [0, 1_893_456_000_000].map(Timestamp::from_millis).to_vec();
        let project = prop_oneof![
            tricky(),
            // A project that looks like more fields.
            (tricky(), tricky()).prop_map(|(a, b)| format!("{a}\\n{b}")),
            tricky().prop_map(|a| format!("{a}\\n2030-01-01T00:00:00")),
        ];
        (list(), list(), project, prop::sample::select(times)).prop_map(
            |(paths, methods, project, expires)| {
                Grant::new(ProjectId::new(&project).unwrap(), paths, methods, expires)
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        /// The text can be parsed into fields in one way only.
        #[test]
        fn the_signed_text_is_unambiguous(grant in tricky_grant()) {
            if let Ok(text) = grant.text() {
                let (paths, rest) = text.split_once(SEPARATOR).unwrap();
                let (methods, rest) = rest.split_once(SEPARATOR).unwrap();
                let (project, expires) = rest.rsplit_once(SEPARATOR).unwrap();
                let list = |text: &str| text.split(',').map(str::to_owned).collect();
                let project = ProjectId::new(project).unwrap();
                let expires = iso8601::parse(expires).unwrap();
                prop_assert_eq!(Grant::new(project, list(paths), list(methods), expires), grant);
            }
        }
    }

    #[test]
    fn a_path_covers_itself_and_everything_below() {
        let grant = grant(&["/v2/queues/q/messages"], &["GET"], "p", "2030-01-01");
        assert!(grant.covers("GET", "/v2/queues/q/messages"));
        assert!(grant.covers("GET", "/v2/queues/q/messages/1"));
        for (method, path) in [
            ("POST", "/v2/queues/q/messages"),
            ("GET", "/v2/queues/q/messagesx"),
            ("GET", "/v2/queues/q"),
            ("GET", "/v2/queues/q2/messages"),
            ("GET", "/x/v2/queues/q/messages"),
        ] {
            assert!(!grant.covers(method, path), "{method} {path}");
        }
        for path in ["", "?for=0"] {
            let empty = Grant { paths: vec![path.to_owned()], ..grant.clone() };
            assert!(!empty.covers("GET", "/v2/queues/q/messages"));
        }
    }

    #[test]
    fn a_grant_is_for_one_address() {
        let path = "/v2/queues/q/subscriptions/1/confirm";
        let sent = path_for(path, "http://a");
        let sent = grant(&[&sent], &["PUT"], "p", "2030-01-01");
        assert!(sent.covers("PUT", path) && sent.is_for(path, "http://a"));
        assert!(!sent.is_for(path, "http://b"));
        assert!(!sent.is_for("/v2/queues/q/subscriptions/2/confirm", "http://a"));
        assert!(!sent.covers("PUT", "/v2/queues/q/subscriptions/2/confirm"));
        let plain = grant(&[path, "/v2/queues/q/subscriptions"], &["PUT"], "p", "2030-01-01");
        assert!(plain.covers("PUT", path) && !plain.is_for(path, "http://a"));
    }
}
