//! What a token is remembered by.

use std::hash::{BuildHasher, Hash, Hasher};

use siphasher::sip128::{Hasher128, SipHasher24};

/// The 128 bits of a token's SipHash-2-4, under a key that is random and stays in this process, as
/// the digests do. Two tokens of one digest would be one identity, so it is a MAC for which nobody
/// can look for such tokens, rather than a hash for tables. Of MACs it is the one that is made for
/// short texts: a token costs a tenth of its HMAC-SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Digest([u64; 2]);

impl Digest {
    /// Its place among so many.
    pub(super) const fn place(self, places: usize) -> usize {
        self.0[1] as usize % places
    }
}

/// Makes digests.
pub(super) struct Digester(SipHasher24);

impl Default for Digester {
    fn default() -> Self {
        Self(SipHasher24::new_with_key(&rand::random()))
    }
}

impl Digester {
    pub(super) fn digest(&self, token: &str) -> Digest {
        let mut hasher = self.0;
        hasher.write(token.as_bytes());
        let digest = hasher.finish128();
        Digest([digest.h1, digest.h2])
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
