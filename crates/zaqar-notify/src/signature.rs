//! Signatures by the Standard Webhooks specification, scheme `v1` (HMAC-SHA256).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use zaqar_core::{Secret, Timestamp};

/// The prefix of a secret's text form.
const PREFIX: &str = "whsec_";
/// The lengths of secrets that the specification allows.
const BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// The length of secrets that are generated here.
const GENERATED: usize = 32;

/// A text that is not a signing secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a signing secret is {PREFIX} and the base64 of 24 to 64 bytes")]
pub struct SecretError;

/// The secret that a subscriber verifies signatures with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningSecret(Secret<Vec<u8>>);

impl SigningSecret {
    /// Generates a random one.
    pub fn generate() -> Self {
        let bytes: [u8; GENERATED] = rand::random();
        Self(Secret::new(bytes.to_vec()))
    }

    /// Parses the text form.
    ///
    /// # Errors
    /// [`SecretError`], which does not repeat the text.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let encoded = text.strip_prefix(PREFIX).ok_or(SecretError)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| SecretError)?;
        if !BYTES.contains(&bytes.len()) {
            return Err(SecretError);
        }
        Ok(Self(Secret::new(bytes)))
    }

    /// The text form, to be shown once.
    pub fn to_text(&self) -> Secret<String> {
        Secret::new(format!("{PREFIX}{}", STANDARD.encode(self.0.expose())))
    }

    fn sign(&self, id: &str, secs: u64, body: &[u8]) -> String {
        // HMAC accepts keys of any length.
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.expose())
            .unwrap_or_else(|_| Hmac::new(&Default::default()));
        mac.update(format!("{id}.{secs}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

/// The secrets of a subscription: the current one, and for a time after a rotation the previous
/// one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKeys {
    current: SigningSecret,
    previous: Option<(SigningSecret, Timestamp)>,
}

impl SigningKeys {
    /// One secret.
    pub const fn new(current: SigningSecret) -> Self {
        Self { current, previous: None }
    }

    /// Signs with `next` from now on, and also with the present one until `until`. A still older
    /// one is dropped.
    #[must_use]
    pub fn rotate(self, next: SigningSecret, until: Timestamp) -> Self {
        Self { current: next, previous: Some((self.current, until)) }
    }

    /// The current secret.
    pub const fn current(&self) -> &SigningSecret {
        &self.current
    }

    /// The stored form: JSON text that [`SigningKeys::decode`] reads.
    pub(crate) fn encode(&self) -> Secret<String> {
        let mut stored = json!({ "current": self.current.to_text().expose() });
        if let Some((previous, until)) = &self.previous {
            stored["previous"] = previous.to_text().expose().as_str().into();
            stored["until"] = until.as_millis().into();
        }
        Secret::new(stored.to_string())
    }

    /// Reads what [`SigningKeys::encode`] wrote; `None` for anything else.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let stored: Value = serde_json::from_slice(bytes).ok()?;
        let secret = |name: &str| SigningSecret::parse(stored.get(name)?.as_str()?).ok();
        let until = stored.get("until").and_then(Value::as_u64).map(Timestamp::from_millis);
        Some(Self { current: secret("current")?, previous: secret("previous").zip(until) })
    }

    /// The value of `webhook-signature` for an attempt at `now`; `webhook-timestamp` is `now` in
    /// seconds. `id` is the same for all attempts and contains no dot.
    pub fn sign(&self, id: &str, now: Timestamp, body: &[u8]) -> String {
        let mut signatures = self.current.sign(id, now.as_secs(), body);
        if let Some((previous, until)) = &self.previous
            && now < *until
        {
            signatures.push(' ');
            signatures.push_str(&previous.sign(id, now.as_secs(), body));
        }
        signatures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    /// Verifies like a subscriber, with the specification's own implementation.
    fn verifies(secret: &SigningSecret, id: &str, secs: u64, signature: &str, body: &[u8]) -> bool {
        let webhook = standardwebhooks::Webhook::new(secret.to_text().expose()).unwrap();
        let mut headers = http::HeaderMap::new();
        headers.insert("webhook-id", id.parse().unwrap());
        headers.insert("webhook-timestamp", secs.to_string().parse().unwrap());
        headers.insert("webhook-signature", signature.parse().unwrap());
        webhook.verify(body, &headers).is_ok()
    }

    #[expect(clippy::disallowed_methods, reason = "the reference implementation compares with it")]
    fn now() -> Timestamp {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Timestamp::from_millis(now.as_millis() as u64)
    }

    #[test]
    fn a_signature_verifies_and_no_other_does() {
        let (secret, other) = (SigningSecret::generate(), SigningSecret::generate());
        let now = now();
        let body = br#"{"body": "caf\u00e9"}"#;
        let signature = SigningKeys::new(secret.clone()).sign("m-s", now, body);
        let secs = now.as_secs();
        assert!(verifies(&secret, "m-s", secs, &signature, body));
        assert!(!verifies(&other, "m-s", secs, &signature, body));
        assert!(!verifies(&secret, "m-t", secs, &signature, body));
        assert!(!verifies(&secret, "m-s", secs + 1, &signature, body));
        assert!(!verifies(&secret, "m-s", secs, &signature, b"{}"));
    }

    #[test]
    fn both_keys_are_valid_while_one_is_replaced() {
        let (old, new) = (SigningSecret::generate(), SigningSecret::generate());
        let now = now();
        let keys = SigningKeys::new(old.clone()).rotate(new.clone(), now.plus_secs(60));
        let during = keys.sign("m", now, b"{}");
        assert!(verifies(&old, "m", now.as_secs(), &during, b"{}"));
        assert!(verifies(&new, "m", now.as_secs(), &during, b"{}"));
        let after = keys.sign("m", now.plus_secs(60), b"{}");
        assert!(!verifies(&old, "m", now.as_secs() + 60, &after, b"{}"));
        assert!(verifies(&new, "m", now.as_secs() + 60, &after, b"{}"));
    }

    #[test]
    fn keys_read_back_and_are_not_printed() {
        let one = SigningKeys::new(SigningSecret::generate());
        let two = one.clone().rotate(SigningSecret::generate(), Timestamp::from_millis(7));
        for keys in [one, two] {
            let stored = keys.encode();
            assert_eq!(SigningKeys::decode(stored.expose().as_bytes()), Some(keys.clone()));
            assert!(!format!("{keys:?} {stored}").contains("whsec_"));
        }
        assert_eq!(SigningKeys::decode(b"{}"), None);
    }

    #[test]
    fn a_secret_reads_back_and_is_not_printed() {
        let secret = SigningSecret::generate();
        let text = secret.to_text();
        assert_eq!(SigningSecret::parse(text.expose()), Ok(secret.clone()));
        assert!(!format!("{secret:?} {text}").contains(&text.expose()[6..]));
        let short = format!("{PREFIX}{}", STANDARD.encode([7; 23]));
        let long = format!("{PREFIX}{}", STANDARD.encode([7; 65]));
        for bad in ["", "whsec_", "whsec_%%%", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", &short, &long] {
            assert_eq!(SigningSecret::parse(bad), Err(SecretError), "{bad}");
        }
    }
}
