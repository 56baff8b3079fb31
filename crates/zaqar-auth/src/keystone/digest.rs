//! What a token is remembered by.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};

/// 128 bits of a token, under keys that are random and stay in this process: nobody else can look
/// for two tokens of one digest. One that needs no secret, such as SHA-256, would take a good part
/// of what a whole request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Digest([u64; 2]);

/// Makes digests.
#[derive(Debug, Default)]
pub(super) struct Digester([RandomState; 2]);

impl Digester {
    pub(super) fn digest(&self, token: &str) -> Digest {
        Digest([0, 1].map(|half: usize| self.0[half].hash_one(token.as_bytes())))
    }
}

impl Hash for Digest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0[0]);
    }
}

/// Hashes a digest by its first half: it is a hash already.
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
