//! What a token is remembered by.

use std::hash::{BuildHasher, Hash, Hasher};

use ring::hmac;

/// The first 128 bits of a token's HMAC-SHA-256, under a key that is random and stays in this
/// process. Two tokens of one digest would be one identity, so it is a MAC for which nobody can
/// look for such tokens, rather than a hash for tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Digest([u64; 2]);

/// Makes digests.
#[derive(Debug)]
pub(super) struct Digester(hmac::Key);

impl Default for Digester {
    fn default() -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>()))
    }
}

impl Digester {
    pub(super) fn digest(&self, token: &str) -> Digest {
        let tag = hmac::sign(&self.0, token.as_bytes());
        let mut halves = tag
            .as_ref()
            .chunks_exact(8)
            .map(|bytes| bytes.iter().fold(0, |half, byte| half << 8 | u64::from(*byte)));
        Digest([0, 1].map(|_| halves.next().unwrap_or_default()))
    }
}

impl Hash for Digest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0[0]);
    }
}

/// Hashes a digest by its first half: it is as good as a hash.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Halves;

/// The half.
#[derive(Debug, Default)]
pub(super) struct Half(u64);

impl BuildHasher for Halves {
    type Hasher = Half;

    fn build_hasher(&self) -> Half {
        Half::default()
    }
}

impl Hasher for Half {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Digests write whole numbers; for anything else it is a hash all the same.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, half: u64) {
        self.0 = half;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_of_its_token_and_its_process() {
        let (one, other) = (Digester::default(), Digester::default());
        assert_eq!(one.digest("token"), one.digest("token"));
        assert_ne!(one.digest("token"), one.digest("tokem"));
        assert_ne!(one.digest("token"), other.digest("token"));
        let digest = one.digest("token");
        assert_ne!(digest.0[0], digest.0[1]);
        assert_eq!(Halves.hash_one(digest), digest.0[0]);
    }
}
