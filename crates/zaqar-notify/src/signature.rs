//! Signatures by the Standard Webhooks specification: scheme `v1` (HMAC-SHA256), and `v1a`
//! (Ed25519), whose receivers can verify and not sign.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use sha2::Sha256;
use zaqar_core::{Secret, Timestamp};

/// The prefix of a secret's text form.
const PREFIX: &str = "whsec_";
/// How the seed of an Ed25519 key begins as text.
const SEED_PREFIX: &str = "whsk_";
/// How a public key begins as text.
const PUBLIC_PREFIX: &str = "whpk_";
/// Bytes of a secret that the specification allows.
const BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Bytes of a secret that is made here, and of a seed.
const MADE: usize = 32;

/// How webhooks are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `v1`: HMAC-SHA256, with a secret that the receiver has too.
    Hmac,
    /// `v1a`: Ed25519; the receiver has the public key.
    Ed25519,
}

/// A text that is no signing secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a signing secret is {PREFIX} and the base64 of 24 to 64 bytes, or {SEED_PREFIX} and that of 32"
)]
pub struct SecretError;

/// The secret that webhooks are signed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningSecret {
    scheme: Scheme,
    bytes: Secret<Vec<u8>>,
}

impl SigningSecret {
    /// Makes one, at random.
    pub fn generate(scheme: Scheme) -> Self {
        let bytes: [u8; MADE] = rand::random();
        Self { scheme, bytes: Secret::new(bytes.to_vec()) }
    }

    /// Parses the text form.
    ///
    /// # Errors
    /// [`SecretError`], which does not repeat the text.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let (scheme, encoded) = match (text.strip_prefix(PREFIX), text.strip_prefix(SEED_PREFIX)) {
            (Some(encoded), _) => (Scheme::Hmac, encoded),
            (None, Some(encoded)) => (Scheme::Ed25519, encoded),
            (None, None) => return Err(SecretError),
        };
        let bytes = STANDARD.decode(encoded).map_err(|_| SecretError)?;
        let is_long_enough = match scheme {
            Scheme::Hmac => BYTES.contains(&bytes.len()),
            Scheme::Ed25519 => bytes.len() == MADE,
        };
        is_long_enough.then(|| Self { scheme, bytes: Secret::new(bytes) }).ok_or(SecretError)
    }

    /// The text form, to be stored.
    pub fn to_text(&self) -> Secret<String> {
        let prefix = match self.scheme {
            Scheme::Hmac => PREFIX,
            Scheme::Ed25519 => SEED_PREFIX,
        };
        Secret::new(format!("{prefix}{}", STANDARD.encode(self.bytes.expose())))
    }

    /// What the receiver verifies with, to be shown once: the secret itself, or the public key.
    pub fn shown(&self) -> Secret<String> {
        match self.scheme {
            Scheme::Hmac => self.to_text(),
            Scheme::Ed25519 => {
                let public = self.pair().map(|pair| STANDARD.encode(pair.public_key()));
                Secret::new(format!("{PUBLIC_PREFIX}{}", public.unwrap_or_default()))
            }
        }
    }

    /// Its key pair. A seed of 32 bytes always has one.
    fn pair(&self) -> Option<Ed25519KeyPair> {
        Ed25519KeyPair::from_seed_unchecked(self.bytes.expose()).ok()
    }

    fn sign(&self, id: &str, secs: u64, body: &[u8]) -> String {
        let mut signed = format!("{id}.{secs}.").into_bytes();
        signed.extend_from_slice(body);
        match self.scheme {
            Scheme::Hmac => {
                // HMAC takes keys of any length.
                let mut mac = Hmac::<Sha256>::new_from_slice(self.bytes.expose())
                    .unwrap_or_else(|_| Hmac::new(&Default::default()));
                mac.update(&signed);
                format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
            }
            Scheme::Ed25519 => {
                let signature = self.pair().map(|pair| STANDARD.encode(pair.sign(&signed)));
                format!("v1a,{}", signature.unwrap_or_default())
            }
        }
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

    /// How the secret signs that counts from now on.
    pub const fn scheme(&self) -> Scheme {
        self.current.scheme
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
        let (secret, other) =
            (SigningSecret::generate(Scheme::Hmac), SigningSecret::generate(Scheme::Hmac));
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

    /// Verifies as a subscriber does that has the public key alone.
    fn verifies_asymmetric(shown: &str, secs: u64, signatures: &str, body: &[u8]) -> bool {
        use ring::signature::{ED25519, UnparsedPublicKey};
        let public = STANDARD.decode(shown.strip_prefix("whpk_").unwrap()).unwrap();
        let signed = [format!("m.{secs}.").as_bytes(), body].concat();
        let mut asymmetric = signatures.split(' ').filter_map(|one| one.strip_prefix("v1a,"));
        asymmetric.any(|signature| {
            let signature = STANDARD.decode(signature).unwrap();
            UnparsedPublicKey::new(&ED25519, &public).verify(&signed, &signature).is_ok()
        })
    }

    /// The first test of RFC 8032, section 7.1.
    #[test]
    fn a_public_key_is_the_one_of_its_seed() {
        let seed = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=";
        let secret = SigningSecret::parse(&format!("whsk_{seed}")).unwrap();
        let public = "whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
        assert_eq!(secret.shown().expose(), public);
        assert_eq!(secret.to_text().expose(), &format!("whsk_{seed}"));
        assert!(!format!("{secret:?}").contains(&seed[..8]));
        let short = STANDARD.encode([7; 31]);
        assert_eq!(SigningSecret::parse(&format!("whsk_{short}")), Err(SecretError));
    }

    #[test]
    fn an_asymmetric_signature_verifies_with_the_public_key_and_rotates() {
        let [old, new] = [0; 2].map(|_| SigningSecret::generate(Scheme::Ed25519));
        let (at, until) = (Timestamp::from_millis(1_000_000), Timestamp::from_millis(2_000_000));
        let keys = SigningKeys::new(old.clone()).rotate(new.clone(), until);
        let during = keys.sign("m", at, b"{}");
        for secret in [&old, &new] {
            let shown = secret.shown();
            assert!(verifies_asymmetric(shown.expose(), 1000, &during, b"{}"));
            assert!(!verifies_asymmetric(shown.expose(), 1000, &during, b"[]"));
            assert!(!verifies_asymmetric(shown.expose(), 1001, &during, b"{}"));
        }
        let after = keys.sign("m", until, b"{}");
        assert!(!verifies_asymmetric(old.shown().expose(), 2000, &after, b"{}"));
        assert!(verifies_asymmetric(new.shown().expose(), 2000, &after, b"{}"));
        // Another scheme takes over as another key does.
        let hmac = SigningSecret::generate(Scheme::Hmac);
        let at = now();
        let mixed = keys.rotate(hmac.clone(), at.plus_secs(60)).sign("m", at, b"{}");
        assert!(verifies_asymmetric(new.shown().expose(), at.as_secs(), &mixed, b"{}"));
        assert!(verifies(&hmac, "m", at.as_secs(), &mixed, b"{}"));
    }

    #[test]
    fn both_keys_are_valid_while_one_is_replaced() {
        let (old, new) =
            (SigningSecret::generate(Scheme::Hmac), SigningSecret::generate(Scheme::Hmac));
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
        let one = SigningKeys::new(SigningSecret::generate(Scheme::Hmac));
        let two =
            one.clone().rotate(SigningSecret::generate(Scheme::Ed25519), Timestamp::from_millis(7));
        for keys in [one, two] {
            let stored = keys.encode();
            assert_eq!(SigningKeys::decode(stored.expose().as_bytes()), Some(keys.clone()));
            assert!(!format!("{keys:?} {stored}").contains("whs"));
        }
        assert_eq!(SigningKeys::decode(b"{}"), None);
    }

    #[test]
    fn a_secret_reads_back_and_is_not_printed() {
        let secret = SigningSecret::generate(Scheme::Hmac);
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
