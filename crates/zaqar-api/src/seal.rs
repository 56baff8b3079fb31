//! Encryption at rest: bodies are encrypted just before they are stored, and decrypted just after
//! they are read.
//!
//! AES-256-GCM with the first configured key and the project as associated data, so that a record
//! copied to another tenant cannot be decrypted. Each record names its key; the other configured
//! keys decrypt what was encrypted before a rotation. The stored name is the configured id and a
//! digest of the secret: an id with a new secret names a new key, so that pops and claims, which
//! take only messages whose key is configured, take none that cannot be decrypted.

use std::collections::HashMap;
use std::fmt;

use aes_gcm::aead::{Aead, KeyInit, Payload as Sealed};
use aes_gcm::{Aes256Gcm, Nonce};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tracing::error;
use zaqar_core::storage::Message;
use zaqar_core::{KeyId, Payload, ProjectId, Secret, StateLog};

use crate::Error;

const NONCE: usize = 12;

/// Minimum length of a secret.
pub const MIN_SECRET_CHARS: usize = 16;

/// The configured keys.
pub struct Keyring {
    current: KeyId,
    /// By stored name, and by id alone, as earlier versions stored them.
    keys: HashMap<KeyId, Aes256Gcm>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

/// Why the configured keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// No key at all.
    #[error("there is no key")]
    Empty,
    /// Too easily guessed.
    #[error("a key must have at least {MIN_SECRET_CHARS} characters")]
    TooShort,
    /// Two keys under one name.
    #[error("the key id {id} is used twice")]
    Twice {
        /// The name.
        id: String,
    },
}

impl Keyring {
    /// Reads `message_encryption_key`: secrets separated by commas, each of at least
    /// [`MIN_SECRET_CHARS`] characters and optionally named as `id:secret`. The first encrypts; all
    /// decrypt. A secret without a name is named by its digest. The key is the SHA-256 digest of
    /// the secret, so a secret should be random, not a word.
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
            let digest: String =
                Sha256::digest(key).iter().take(4).map(|b| format!("{b:02x}")).collect();
            let (id, stored) = match id {
                Some(id) => (KeyId(id.clone()), KeyId(format!("{id}:{digest}"))),
                None => (KeyId(digest.clone()), KeyId(digest)),
            };
            let ring =
                ring.get_or_insert_with(|| Self { current: stored.clone(), keys: HashMap::new() });
            let cipher = Aes256Gcm::new(&key);
            if ring.keys.insert(id.clone(), cipher.clone()).is_some() {
                return Err(KeyringError::Twice { id: id.0 });
            }
            ring.keys.insert(stored, cipher);
        }
        ring.ok_or(KeyringError::Empty)
    }

    /// The stored names of all keys, which tell the bodies that can be decrypted.
    pub(crate) fn key_ids(&self) -> Vec<KeyId> {
        self.keys.keys().cloned().collect()
    }

    /// Encrypts a payload's body.
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

    /// Encrypts a payload that is not a message's; `None` if that fails.
    pub fn seal_payload(&self, project: &ProjectId, payload: Payload) -> Option<Payload> {
        self.seal(project, payload).ok()
    }

    /// The plain body of a payload, encrypted or not; `None` if its key is not configured, or it
    /// was tampered with.
    pub fn open_payload(&self, project: &ProjectId, mut payload: Payload) -> Option<Bytes> {
        open_payload(Some(self), project, &mut payload)?;
        Some(payload.bytes)
    }

    /// Decrypts a body; `None` if its key is not configured, or it was tampered with.
    pub(crate) fn open(&self, project: &ProjectId, id: &KeyId, bytes: &[u8]) -> Option<Bytes> {
        let cipher = self.keys.get(id)?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE>()?;
        let sealed = Sealed { msg: sealed, aad: project.as_str().as_bytes() };
        cipher.decrypt(&Nonce::from(*nonce), sealed).ok().map(Bytes::from)
    }
}

static UNREADABLE: StateLog = StateLog::new();

/// Decrypts the bodies of messages, and drops messages that cannot be decrypted: their key is not
/// configured, or they were tampered with. Plain bodies stay as they are.
pub(crate) fn open_readable(
    keyring: Option<&Keyring>,
    project: &ProjectId,
    messages: &mut Vec<Message>,
) {
    messages.retain_mut(|message| {
        let opened = open_payload(keyring, project, &mut message.payload);
        if opened.is_none() {
            report_skipped(message.payload.sealed_with.as_ref());
        }
        opened.is_some()
    });
}

/// Logs that messages with this key are skipped, if any are. A key is configured by a restart, so
/// there is no recovery to log.
pub(crate) fn report_skipped(key: Option<&KeyId>) {
    if let Some(KeyId(key)) = key
        && let Some(failures) = UNREADABLE.failure()
    {
        error!(key, failures, "messages cannot be decrypted: is their key configured?");
    }
}

/// Decrypts one payload; `None` if that fails, in which case it is unchanged.
pub(crate) fn open_payload(
    keyring: Option<&Keyring>,
    project: &ProjectId,
    payload: &mut Payload,
) -> Option<()> {
    if let Some(id) = &payload.sealed_with {
        payload.bytes = keyring?.open(project, id, &payload.bytes)?;
        payload.sealed_with = None;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use zaqar_core::{ClientId, Incarnation, MessageId, Position, Timestamp};

    fn ring(option: &str) -> Keyring {
        Keyring::parse(&Secret::new(option.to_owned())).unwrap()
    }

    fn message(payload: Payload) -> Message {
        Message {
            id: MessageId { incarnation: Incarnation::new(1), position: Position::new(1) },
            client: ClientId::new("me"),
            payload,
            ttl: 60,
            created: Timestamp::from_millis(0),
            claim: None,
            claim_count: 0,
        }
    }

    #[test]
    fn a_sealed_body_opens_for_its_project_and_key_only() {
        let (ours, theirs) = (ProjectId::new("p").unwrap(), ProjectId::new("q").unwrap());
        let old = ring("a:0123456789abcdef");
        let sealed = old.seal(&ours, Payload::plain(Bytes::from_static(b"\"x\""))).unwrap();
        assert!(!sealed.bytes.windows(3).any(|part| part == b"\"x\""));

        let rotated = ring("b:fedcba9876543210, a:0123456789abcdef");
        let mut opened = vec![message(sealed.clone())];
        open_readable(Some(&rotated), &ours, &mut opened);
        assert_eq!(opened[0].payload.bytes, "\"x\"");
        let newer = rotated.seal(&ours, sealed.clone()).unwrap().sealed_with;
        assert!(newer.is_some_and(|id| id.0.starts_with("b:")));
        // Earlier versions stored the id alone.
        let earlier = Payload { sealed_with: Some(KeyId("a".into())), ..sealed.clone() };
        let mut opened = vec![message(earlier)];
        open_readable(Some(&rotated), &ours, &mut opened);
        assert_eq!(opened[0].payload.bytes, "\"x\"");

        let mut changed = sealed.bytes.to_vec();
        changed[NONCE] ^= 1;
        let changed = Payload { bytes: changed.into(), ..sealed.clone() };
        let other = ring("b:fedcba9876543210");
        for (ring, project, payload) in [
            (Some(&rotated), &theirs, &sealed),
            (Some(&other), &ours, &sealed),
            (None, &ours, &sealed),
            (Some(&rotated), &ours, &changed),
        ] {
            let plain = Payload::plain(Bytes::from_static(b"1"));
            let mut messages = [payload, &plain, payload].map(|p| message(p.clone())).to_vec();
            open_readable(ring, project, &mut messages);
            assert_eq!(messages, [message(plain)], "the others are shown");
        }
    }

    #[test]
    fn an_id_with_another_secret_is_another_key() {
        let project = ProjectId::new("p").unwrap();
        let (before, after) = (ring("a:0123456789abcdef"), ring("a:fedcba9876543210"));
        let sealed = before.seal(&project, Payload::plain(Bytes::from_static(b"1"))).unwrap();
        let id = sealed.sealed_with.unwrap();
        assert!(before.key_ids().contains(&id) && !after.key_ids().contains(&id));
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
