//! What protects an entry: keys of the token and a secret, as keystonemiddleware derives them.

use aes::Aes128;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt as _, BlockModeEncrypt as _, KeyIvInit as _};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256, Sha384};
use zaqar_core::Secret;

/// Bytes of a key, of a block, and of the initialization vector.
const KEY: usize = 16;
/// Bytes of a MAC in base64.
const MAC: usize = 64;

/// The keys of one token's entry.
pub(super) struct Keys {
    cache: [u8; KEY],
    mac: [u8; KEY],
    /// `None` where entries are only authenticated.
    encryption: Option<[u8; KEY]>,
}

/// Where the unprotected entry of a token is.
pub(super) fn plain_key(token: &str) -> String {
    let mut key = String::from("tokens/");
    for byte in Sha256::digest(token) {
        key.push_str(&format!("{byte:02x}"));
    }
    key
}

impl Keys {
    pub(super) fn mac(token: &str, secret: &Secret<String>) -> Self {
        Self { encryption: None, ..Self::derive(token, secret, b"MAC") }
    }

    pub(super) fn encrypt(token: &str, secret: &Secret<String>) -> Self {
        Self::derive(token, secret, b"ENCRYPT")
    }

    fn derive(token: &str, secret: &Secret<String>, strategy: &[u8]) -> Self {
        let digest = hmac(secret.expose().as_bytes(), &[token.as_bytes(), strategy]).finalize();
        let digest = digest.into_bytes();
        let part = |n: usize| {
            let mut key = [0; KEY];
            key.copy_from_slice(&digest[n * KEY..(n + 1) * KEY]);
            key
        };
        Self { cache: part(0), mac: part(1), encryption: Some(part(2)) }
    }

    /// Python's text of bytes is part of the key.
    pub(super) fn cache_key(&self) -> String {
        format!("tokens/b'{}'", STANDARD.encode(self.cache))
    }

    /// An entry of a document.
    pub(super) fn seal(&self, document: &[u8]) -> Vec<u8> {
        let encoded = match &self.encryption {
            None => STANDARD.encode(document),
            Some(key) => {
                let iv: [u8; KEY] = rand::random();
                let cipher = cbc::Encryptor::<Aes128>::new(key.into(), &iv.into());
                let mut sealed = iv.to_vec();
                sealed.extend(cipher.encrypt_padded_vec::<Pkcs7>(document));
                STANDARD.encode(sealed)
            }
        };
        let mac = hmac(&self.mac, &[encoded.as_bytes()]).finalize().into_bytes();
        let mut entry = STANDARD.encode(mac).into_bytes();
        entry.extend(encoded.into_bytes());
        entry
    }

    /// The document of an entry; `None` for one that was made with another secret, or changed. The
    /// comparison takes as long for any MAC.
    pub(super) fn open(&self, entry: &[u8]) -> Option<Vec<u8>> {
        let (mac, encoded) = entry.split_at_checked(MAC)?;
        let mac = STANDARD.decode(mac).ok()?;
        hmac(&self.mac, &[encoded]).verify_slice(&mac).ok()?;
        let data = STANDARD.decode(encoded).ok()?;
        let Some(key) = &self.encryption else { return Some(data) };
        let (iv, sealed) = data.split_at_checked(KEY)?;
        let iv: &[u8; KEY] = iv.try_into().ok()?;
        let cipher = cbc::Decryptor::<Aes128>::new(key.into(), iv.into());
        cipher.decrypt_padded_vec::<Pkcs7>(sealed).ok()
    }
}

#[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
fn hmac(key: &[u8], parts: &[&[u8]]) -> Hmac<Sha384> {
    let mut mac = Hmac::<Sha384>::new_from_slice(key).expect("a key of any length");
    for part in parts {
        mac.update(part);
    }
    mac
}
