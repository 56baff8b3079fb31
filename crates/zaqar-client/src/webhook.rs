//! Receiving webhooks: signatures of the Standard Webhooks specification.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zaqar_core::{Secret, Timestamp};

use crate::types::Body;

/// How a secret begins as text.
const PREFIX: &str = "whsec_";

/// Verifies the signatures of one subscription.
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
    secret: Secret<Vec<u8>>,
    tolerance: Duration,
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
    /// The text is no signing secret.
    #[error("a signing secret is whsec_ and the base64 of 24 to 64 bytes")]
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
    /// For the secret that the creation of the subscription answered. Signatures may be five
    /// minutes old.
    ///
    /// # Errors
    /// [`SignatureError::Secret`]; it does not repeat the text.
    pub fn new(secret: &str) -> Result<Self, SignatureError> {
        let encoded = secret.strip_prefix(PREFIX).ok_or(SignatureError::Secret)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| SignatureError::Secret)?;
        if !(24..=64).contains(&bytes.len()) {
            return Err(SignatureError::Secret);
        }
        Ok(Self { secret: Secret::new(bytes), tolerance: Duration::from_secs(300) })
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
        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret.expose())
            .map_err(|_| SignatureError::Secret)?;
        mac.update(format!("{}.{signed}.", headers.id).as_bytes());
        mac.update(body);
        let is_ours = |text: &str| {
            let signature = text.strip_prefix("v1,").and_then(|text| STANDARD.decode(text).ok());
            signature.is_some_and(|signature| mac.clone().verify_slice(&signature).is_ok())
        };
        if !headers.signature.split(' ').any(is_ours) {
            return Err(SignatureError::Signature);
        }
        if signed.abs_diff(now.as_secs()) > self.tolerance.as_secs() {
            return Err(SignatureError::Time(self.tolerance));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn what_the_reference_implementation_signs_verifies_and_nothing_else_does() {
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
    fn a_text_that_is_no_secret_is_rejected() {
        for text in ["", "whsec_", "whsec_AAAA", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
            assert!(Verifier::new(text).is_err(), "{text}");
        }
    }
}
