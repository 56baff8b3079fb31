//! Receiving webhooks: signatures of the Standard Webhooks specification.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zaqar_core::{Secret, Timestamp};

use crate::types::Body;

/// How a secret begins as text.
const PREFIX: &str = "whsec_";
/// How a public key begins as text.
const PUBLIC_PREFIX: &str = "whpk_";
/// Bytes of a public key.
const PUBLIC_BYTES: usize = 32;

/// Verifies the signatures of one subscription: those of the scheme `v1` (HMAC-SHA256) by its
/// secret, or those of `v1a` (Ed25519) by its public key.
///
/// ```
/// use std::time::Duration;
/// use zaqar_client::Timestamp;
/// use zaqar_client::webhook::{Headers, Verifier};
///
/// let verifier = Verifier::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
/// let headers = Headers {
///     id: "msg_p5jXN8AQM9LWM0D4loKWxJek",
///     timestamp: "1614265330",
///     signature: "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
/// };
/// let now = Timestamp::from_millis(1_614_265_331_000);
/// verifier.verify(&headers, br#"{"test": 2432232314}"#, now)?;
/// assert!(verifier.verify(&headers, b"{}", now).is_err());
/// # Ok::<_, zaqar_client::webhook::SignatureError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Verifier {
    key: Key,
    tolerance: Duration,
}

#[derive(Debug, Clone)]
enum Key {
    Hmac(Secret<Vec<u8>>),
    Ed25519([u8; PUBLIC_BYTES]),
}

/// The headers of a webhook that are signed, and the signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers<'a> {
    /// `webhook-id`: the same for all attempts to deliver one message to one subscription.
    pub id: &'a str,
    /// `webhook-timestamp`: seconds since 1970.
    pub timestamp: &'a str,
    /// `webhook-signature`: one or several signatures.
    pub signature: &'a str,
}

/// Why a webhook is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The text is no signing secret and no public key.
    #[error(
        "a signing secret is whsec_ and the base64 of 24 to 64 bytes, a public key whpk_ and that of 32"
    )]
    Secret,
    /// No signature in the header is that of the secret.
    #[error("no signature is that of the secret")]
    Signature,
    /// It was signed too long ago, or in the future: it may be a replay.
    #[error("it was signed more than {0:?} from now")]
    Time(Duration),
}

/// What a webhook's body says, unless the subscription has `post_data`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notification {
    /// What was posted.
    pub body: Body,
    /// Seconds that the message lives.
    pub ttl: u64,
    /// The queue or topic.
    pub queue_name: String,
    /// `Notification`, or what the server wants confirmed.
    #[serde(rename = "Message_Type")]
    pub message_type: String,
}

impl Verifier {
    /// For the secret, or the public key, that the creation of the subscription answered.
    /// Signatures may be five minutes old.
    ///
    /// # Errors
    /// [`SignatureError::Secret`]; it does not repeat the text.
    pub fn new(secret: &str) -> Result<Self, SignatureError> {
        let bytes = |encoded| STANDARD.decode(encoded).map_err(|_| SignatureError::Secret);
        let key = match (secret.strip_prefix(PREFIX), secret.strip_prefix(PUBLIC_PREFIX)) {
            (Some(encoded), _) => {
                let bytes = bytes(encoded)?;
                let is_long_enough = (24..=64).contains(&bytes.len());
                is_long_enough.then_some(Key::Hmac(Secret::new(bytes)))
            }
            (None, Some(encoded)) => bytes(encoded)?.try_into().ok().map(Key::Ed25519),
            (None, None) => None,
        };
        let key = key.ok_or(SignatureError::Secret)?;
        Ok(Self { key, tolerance: Duration::from_secs(300) })
    }

    /// How far the time of signing may be from now.
    #[must_use]
    pub const fn tolerance(mut self, tolerance: Duration) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// Whether the server signed this body, a moment ago. The comparison takes the same time
    /// wherever signatures differ.
    ///
    /// # Errors
    /// [`SignatureError::Signature`] and [`SignatureError::Time`].
    pub fn verify(
        &self,
        headers: &Headers<'_>,
        body: &[u8],
        now: Timestamp,
    ) -> Result<(), SignatureError> {
        let signed: u64 = headers.timestamp.parse().map_err(|_| SignatureError::Signature)?;
        let mut text = format!("{}.{signed}.", headers.id).into_bytes();
        text.extend_from_slice(body);
        if !headers.signature.split(' ').any(|one| self.key.has_signed(&text, one)) {
            return Err(SignatureError::Signature);
        }
        if signed.abs_diff(now.as_secs()) > self.tolerance.as_secs() {
            return Err(SignatureError::Time(self.tolerance));
        }
        Ok(())
    }
}

impl Key {
    /// Whether a signature, with its scheme, is that of this key.
    fn has_signed(&self, text: &[u8], signature: &str) -> bool {
        let decoded = |scheme| STANDARD.decode(signature.strip_prefix(scheme)?).ok();
        match self {
            Self::Hmac(secret) => {
                let mac = Hmac::<Sha256>::new_from_slice(secret.expose());
                decoded("v1,").zip(mac.ok()).is_some_and(|(signature, mac)| {
                    mac.chain_update(text).verify_slice(&signature).is_ok()
                })
            }
            Self::Ed25519(public) => decoded("v1a,").is_some_and(|signature| {
                UnparsedPublicKey::new(&ED25519, public).verify(text, &signature).is_ok()
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use ring::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn only_signatures_of_the_reference_implementation_verify() {
        let reference = standardwebhooks::Webhook::new(SECRET).unwrap();
        let body = br#"{"body": 1}"#;
        let (id, secs) = ("m-s", 1_700_000_000);
        let signature = reference.sign(id, secs, body).unwrap();
        let timestamp = secs.to_string();
        let verifier = Verifier::new(SECRET).unwrap();
        let now = Timestamp::from_millis(secs as u64 * 1000);
        let headers = Headers { id, timestamp: &timestamp, signature: &signature };
        assert_eq!(verifier.verify(&headers, body, now), Ok(()));
        let rotated = format!("v1,AAAA {signature} v2,x");
        let both = Headers { signature: &rotated, ..headers };
        assert_eq!(verifier.verify(&both, body, now), Ok(()));

        let wrong = Err(SignatureError::Signature);
        assert_eq!(verifier.verify(&headers, b"{}", now), wrong);
        assert_eq!(verifier.verify(&Headers { id: "m-t", ..headers }, body, now), wrong);
        for signature in ["", "v1,", "v1,AAAA", &signature[3..]] {
            assert_eq!(verifier.verify(&Headers { signature, ..headers }, body, now), wrong);
        }
        for timestamp in ["", "x", "1700000001"] {
            assert_eq!(verifier.verify(&Headers { timestamp, ..headers }, body, now), wrong);
        }
        let late = now.plus_secs(301);
        assert!(matches!(verifier.verify(&headers, body, late), Err(SignatureError::Time(_))));
    }

    #[test]
    fn only_signatures_of_the_private_key_verify_by_the_public_one() {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let public = format!("whpk_{}", STANDARD.encode(pair.public_key()));
        let sign = |text: &[u8]| format!("v1a,{}", STANDARD.encode(pair.sign(text)));
        let signature = sign(b"m-s.1700000000.{}");
        let headers = Headers { id: "m-s", timestamp: "1700000000", signature: &signature };
        let now = Timestamp::from_millis(1_700_000_000_000);
        let verifier = Verifier::new(&public).unwrap();
        assert_eq!(verifier.verify(&headers, b"{}", now), Ok(()));
        let rotated = format!("v1a,AAAA v1,AAAA {signature}");
        let both = Headers { signature: &rotated, ..headers };
        assert_eq!(verifier.verify(&both, b"{}", now), Ok(()));

        let wrong = Err(SignatureError::Signature);
        assert_eq!(verifier.verify(&headers, b"[]", now), wrong);
        assert_eq!(verifier.verify(&Headers { id: "m-t", ..headers }, b"{}", now), wrong);
        let as_hmac = signature.replace("v1a,", "v1,");
        for signature in ["", "v1a,", "v1a,AAAA", &as_hmac] {
            assert_eq!(verifier.verify(&Headers { signature, ..headers }, b"{}", now), wrong);
        }
        // The public key is no secret: who knows it cannot sign as the scheme `v1`.
        let bytes = pair.public_key().as_ref();
        let mac = Hmac::<Sha256>::new_from_slice(bytes).unwrap();
        let mac = mac.chain_update(b"m-s.1700000000.{}").finalize().into_bytes();
        let forged = format!("v1,{}", STANDARD.encode(mac));
        assert_eq!(verifier.verify(&Headers { signature: &forged, ..headers }, b"{}", now), wrong);
        let late = now.plus_secs(301);
        assert!(matches!(verifier.verify(&headers, b"{}", late), Err(SignatureError::Time(_))));
    }

    #[test]
    fn a_text_that_is_no_secret_is_rejected() {
        for text in
            ["", "whsec_", "whsec_AAAA", "whpk_", "whpk_AAAA", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]
        {
            assert!(Verifier::new(text).is_err(), "{text}");
        }
    }
}
