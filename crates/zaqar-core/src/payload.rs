//! The body of a message, as it is stored.

use bytes::Bytes;

/// The id of the configured encryption key that sealed a payload.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyId(pub String);

/// The MD5 digest of a message's plain body, printed as in the original.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Checksum(pub [u8; 16]);

/// A message's body with its encryption key and checksum. A store treats all of it as opaque.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// The body: JSON text, sealed if `sealed_with` is set.
    pub bytes: Bytes,
    /// The key that sealed `bytes`; `None` for plain JSON.
    pub sealed_with: Option<KeyId>,
    /// The digest of the plain body, if checksums are configured.
    pub checksum: Option<Checksum>,
}

impl Payload {
    /// A plain body without a checksum. `json` was checked by [`crate::json::check`] or came from a
    /// store.
    pub const fn plain(json: Bytes) -> Self {
        Self { bytes: json, sealed_with: None, checksum: None }
    }

    /// Whether it is plain, or sealed with one of these keys.
    pub fn opens_with(&self, keys: &[KeyId]) -> bool {
        self.sealed_with.as_ref().is_none_or(|key| keys.contains(key))
    }
}
