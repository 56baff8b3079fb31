//! What a message carries, as a store keeps it.

use bytes::Bytes;

/// Which of the configured encryption keys sealed a payload.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyId(pub String);

/// The MD5 digest of a message's plain body, in the form the original prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Checksum(pub [u8; 16]);

/// A message's body and what must be known to hand it out again. A store keeps all of it and looks
/// into none of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// The body: JSON text, or the sealed form of it.
    pub bytes: Bytes,
    /// The key that sealed `bytes`; `None` for plain JSON.
    pub sealed_with: Option<KeyId>,
    /// Digest of the plain body, where the configuration asks for it.
    pub checksum: Option<Checksum>,
}

impl Payload {
    /// A plain body without a checksum. `json` was checked by [`crate::json::check`] or came from a
    /// store.
    pub const fn plain(json: Bytes) -> Self {
        Self { bytes: json, sealed_with: None, checksum: None }
    }
}
