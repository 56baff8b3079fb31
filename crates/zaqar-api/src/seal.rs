//! Encryption at rest: the last thing before the store, the first after it.
//!
//! AES-256-GCM under the first configured key, with the project as associated data, so that a record copied to another tenant does not
//! open. Each record names its key: the others in the configuration open what was sealed before a rotation.

use std::collections::HashMap;

use aes_gcm::aead::{Aead, KeyInit, Payload as Sealed};
use aes_gcm::{Aes256Gcm, Nonce};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use zaqar_core::storage::Message;
use zaqar_core::{KeyId, Payload, ProjectId, Secret};

use crate::Error;

const NONCE: usize = 12;

/// The shortest secret that makes a key.
pub const MIN_SECRET_CHARS: usize = 16;

/// The configured keys.
pub struct Keyring {
    current: KeyId,
    keys: HashMap<KeyId, Aes256Gcm>,
}

/// Why a configured key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// No key at all.
    #[error("no key is given")]
    Empty,
    /// Too easily guessed.
    #[error("a key has at least {MIN_SECRET_CHARS} characters")]
    TooShort,
    /// Two keys under one name.
    #[error("the key id {id} is given twice")]
    Twice {
        /// The name.
        id: String,
    },
}

impl Keyring {
    /// Reads `message_encryption_key`: secrets separated by commas, each of at least [`MIN_SECRET_CHARS`] characters and optionally
    /// named as `id:secret`. The first seals; all open. A secret without a name is named by its own digest. The key is the SHA-256
    /// digest of the secret, so a secret should be random, not a word.
    ///
    /// # Errors
    /// [`KeyringError`].
    pub fn parse(option: &Secret<String>) -> Result<Self, KeyringError> {
        let mut ring: Option<Self> = None;
        for entry in option.expose().split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let (id, secret) = match entry.split_once(':') {
                Some((id, secret)) => (Some(id.trim().to_owned()), secret.trim()),
                None => (None, entry),
            };
            if secret.chars().count() < MIN_SECRET_CHARS {
                return Err(KeyringError::TooShort);
            }
            let key = Sha256::digest(secret.as_bytes());
            let named = || Sha256::digest(key).iter().take(4).map(|b| format!("{b:02x}")).collect();
            let id = KeyId(id.unwrap_or_else(named));
            let ring =
                ring.get_or_insert_with(|| Self { current: id.clone(), keys: HashMap::new() });
            if ring.keys.insert(id.clone(), Aes256Gcm::new(&key)).is_some() {
                return Err(KeyringError::Twice { id: id.0 });
            }
        }
        ring.ok_or(KeyringError::Empty)
    }

    /// Seals a payload's body.
    pub(crate) fn seal(&self, project: &ProjectId, payload: Payload) -> Result<Payload, Error> {
        let cipher = self.keys.get(&self.current).ok_or(Error::CannotSeal)?;
        let nonce: [u8; NONCE] = rand::random();
        let plain = Sealed { msg: &payload.bytes, aad: project.as_str().as_bytes() };
        let sealed = cipher.encrypt(&Nonce::from(nonce), plain).map_err(|_| Error::CannotSeal)?;
        let bytes = [&nonce[..], &sealed].concat();
        Ok(Payload {
            bytes: Bytes::from(bytes),
            sealed_with: Some(self.current.clone()),
            checksum: payload.checksum,
        })
    }

    /// Opens a sealed body; `None` where its key is not here, or it was changed.
    pub(crate) fn open(&self, project: &ProjectId, id: &KeyId, bytes: &[u8]) -> Option<Bytes> {
        let cipher = self.keys.get(id)?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE>()?;
        let sealed = Sealed { msg: sealed, aad: project.as_str().as_bytes() };
        cipher.decrypt(&Nonce::from(*nonce), sealed).ok().map(Bytes::from)
    }
}

/// Opens the bodies of messages on their way out. Plain ones are left as they are.
///
/// # Errors
/// [`Error::CannotOpen`] for a record whose key is not configured, or that was changed.
pub(crate) fn open_all(
    keyring: Option<&Keyring>,
    project: &ProjectId,
    messages: &mut [Message],
) -> Result<(), Error> {
    for message in messages {
        let Some(id) = message.payload.sealed_with.take() else { continue };
        let opened = keyring.and_then(|ring| ring.open(project, &id, &message.payload.bytes));
        message.payload.bytes = opened.ok_or(Error::CannotOpen { key: id.0 })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use zaqar_core::{Incarnation, MessageId, Position, Timestamp};

    fn ring(option: &str) -> Keyring {
        Keyring::parse(&Secret::new(option.to_owned())).unwrap()
    }

    fn message(payload: Payload) -> Message {
        Message {
            id: MessageId { incarnation: Incarnation::new(1), position: Position::new(1) },
            payload,
            ttl: 60,
            created: Timestamp::from_millis(0),
            claim: None,
            claim_count: 0,
        }
    }

    #[test]
    fn what_is_sealed_opens_for_its_project_and_key_only() {
        let (ours, theirs) = (ProjectId::new("p").unwrap(), ProjectId::new("q").unwrap());
        let old = ring("a:0123456789abcdef");
        let sealed = old.seal(&ours, Payload::plain(Bytes::from_static(b"\"x\""))).unwrap();
        assert!(!sealed.bytes.windows(3).any(|part| part == b"\"x\""));

        let rotated = ring("b:fedcba9876543210, a:0123456789abcdef");
        let mut opened = [message(sealed.clone())];
        open_all(Some(&rotated), &ours, &mut opened).unwrap();
        assert_eq!(opened[0].payload.bytes, "\"x\"");
        assert_eq!(
            rotated.seal(&ours, sealed.clone()).unwrap().sealed_with,
            Some(KeyId("b".into()))
        );

        assert!(open_all(Some(&rotated), &theirs, &mut [message(sealed.clone())]).is_err());
        assert!(
            open_all(Some(&ring("b:fedcba9876543210")), &ours, &mut [message(sealed.clone())])
                .is_err()
        );
        assert!(open_all(None, &ours, &mut [message(sealed.clone())]).is_err());
        let mut changed = sealed.bytes.to_vec();
        changed[NONCE] ^= 1;
        let changed = Payload { bytes: changed.into(), ..sealed };
        assert!(open_all(Some(&rotated), &ours, &mut [message(changed)]).is_err());
    }

    #[test]
    fn two_seals_of_one_body_differ() {
        let project = ProjectId::new("p").unwrap();
        let ring = ring("0123456789abcdef");
        let seal = || ring.seal(&project, Payload::plain(Bytes::from_static(b"1"))).unwrap();
        assert_ne!(seal().bytes, seal().bytes);
    }

    #[test]
    fn keys_are_checked() {
        for (option, says) in [
            ("", "no key"),
            (",", "no key"),
            ("short", "at least 16"),
            ("a:0123456789abcdef,a:fedcba9876543210", "twice"),
        ] {
            let error = Keyring::parse(&Secret::new(option.to_owned())).err().unwrap();
            assert!(error.to_string().contains(says), "{option}: {error}");
        }
    }
}
