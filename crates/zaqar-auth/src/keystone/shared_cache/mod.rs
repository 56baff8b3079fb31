//! Validated tokens in memcached, shared with other servers and with services in Python.
//!
//! Keys and entries are those of keystonemiddleware 13 (`auth_token/_cache.py`,
//! `_memcache_crypt.py`), and which server has a key is decided as python-memcached does. Whoever
//! may write to memcached can forge an identity unless entries are protected.

mod memcached;
mod protection;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};
use zaqar_core::Secret;

use memcached::{Memcached, Outcome};
use protection::Keys;

/// The port of a server that is given without one.
const PORT: u16 = 11_211;
/// Servers of one key that are tried, at most.
const TRIES: usize = 10;
/// Entries that are being written, at most; others are not shared.
const WRITES: usize = 16;

/// `memcached_servers`, and how entries are protected.
#[derive(Debug, Clone)]
pub struct SharedCacheOptions {
    /// `memcached_servers`, in the order of all who share them.
    pub servers: Vec<MemcachedServer>,
    /// `memcache_security_strategy` and `memcache_secret_key`.
    pub protection: Protection,
    /// `memcache_pool_socket_timeout`: until a server has answered.
    pub timeout: Duration,
    /// `memcache_pool_dead_retry`: how long a server is left alone that did not.
    pub dead_for: Duration,
    /// `memcache_pool_unused_timeout`: an idle connection is closed after that.
    pub unused_for: Duration,
    /// `memcache_pool_maxsize`: connections to each server, each with one request in flight.
    pub connections: usize,
}

/// Where a memcached listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemcachedServer {
    /// At a host, by name or address, and a port.
    Tcp(String, u16),
    /// At a socket in the file system.
    Unix(PathBuf),
}

impl MemcachedServer {
    /// Reads what python-memcached reads: `host:port`, `inet:host:port`, `inet6:[address]:port`,
    /// `unix:path`; without a port it is 11211. `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Some(Self::Unix(path.into()));
        }
        let (host, port) = if let Some(rest) = text.strip_prefix("inet6:[") {
            let (host, port) = rest.split_once(']')?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        } else {
            let text = text.strip_prefix("inet:").unwrap_or(text);
            text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
        };
        let port = port.map_or(Some(PORT), |port| port.parse().ok())?;
        let is_host = !host.is_empty() && !host.contains(['[', ']', ' ']);
        is_host.then(|| Self::Tcp(host.to_owned(), port))
    }
}

/// `memcache_security_strategy`.
#[derive(Debug, Clone)]
pub enum Protection {
    /// Entries are neither.
    None,
    /// Entries are authenticated.
    Mac(Secret<String>),
    /// Entries are authenticated and encrypted.
    Encrypt(Secret<String>),
}

/// Entries of validated tokens. It fails to nothing: what cannot be read is not there, and what
/// cannot be written is not shared.
#[derive(Debug)]
pub(super) struct SharedCache {
    servers: Vec<Memcached>,
    protection: Protection,
    /// How long entries are kept.
    seconds: u64,
    writes: Arc<Semaphore>,
}

/// Where the entry of a token is, and what protects it.
struct Place {
    key: String,
    keys: Option<Keys>,
}

impl SharedCache {
    pub(super) fn new(options: &SharedCacheOptions, seconds: u64) -> Self {
        let servers = options.servers.iter().map(|server| Memcached::new(server, options));
        Self {
            servers: servers.collect(),
            protection: options.protection.clone(),
            seconds,
            writes: Arc::new(Semaphore::new(WRITES)),
        }
    }

    /// What Keystone said of a token, to whoever asked first. Cost: a request to memcached; none
    /// where it is away.
    pub(super) async fn get(&self, token: &str) -> Option<Value> {
        let place = self.place(token);
        let server = self.server_of(&place.key)?;
        let found = server.get(&place.key).await;
        let found = told(server, found)??;
        let document = match &place.keys {
            None => found,
            Some(keys) => {
                let opened = keys.open(&found);
                if opened.is_none() {
                    debug!("an entry in memcached has another memcache_secret_key, or was changed");
                }
                opened?
            }
        };
        let document: Value = serde_json::from_slice(&document).ok()?;
        // Long ago entries were a document and its expiry.
        let pair = document.as_array().filter(|pair| pair.len() == 2);
        Some(pair.map(|pair| pair[0].clone()).unwrap_or(document))
    }

    /// Shares what Keystone said, in a task of its own.
    pub(super) fn put(self: &Arc<Self>, token: &str, document: Bytes) {
        let Ok(permit) = Arc::clone(&self.writes).try_acquire_owned() else { return };
        let (shared, place) = (Arc::clone(self), self.place(token));
        tokio::spawn(async move {
            let entry = match &place.keys {
                None => document.to_vec(),
                Some(keys) => keys.seal(&document),
            };
            if let Some(server) = shared.server_of(&place.key) {
                let written = server.set(&place.key, &entry, shared.seconds).await;
                told(server, written);
            }
            drop(permit);
        });
    }

    fn place(&self, token: &str) -> Place {
        match &self.protection {
            Protection::None => Place { key: protection::plain_key(token), keys: None },
            Protection::Mac(secret) => Place::protected(Keys::mac(token, secret)),
            Protection::Encrypt(secret) => Place::protected(Keys::encrypt(token, secret)),
        }
    }

    /// The server that has a key: the first of its hashes' that may be asked.
    fn server_of(&self, key: &str) -> Option<&Memcached> {
        let mut hash = hash(key.as_bytes());
        for again in 0..TRIES {
            let server = self.servers.get(hash as usize % self.servers.len().max(1))?;
            if server.may_ask() {
                return Some(server);
            }
            hash = self::hash(format!("{hash}{again}").as_bytes());
        }
        None
    }
}

/// Tells that a server is away, and that it answers again.
fn told<T>(server: &Memcached, outcome: Outcome<T>) -> Option<T> {
    match outcome {
        Outcome::Answered(answer) => {
            if let Some(failures) = server.log.success() {
                info!(server = %server, failures, "memcached answers again");
            }
            Some(answer)
        }
        Outcome::NotAsked => None,
        Outcome::Failed(error) => {
            if let Some(failures) = server.log.failure() {
                warn!(
                    server = %server, %error, failures,
                    "memcached does not answer: tokens are validated with Keystone"
                );
            }
            None
        }
    }
}

impl Place {
    fn protected(keys: Keys) -> Self {
        Self { key: keys.cache_key(), keys: Some(keys) }
    }
}

/// python-memcached's hash of a key: the upper half of its CRC-32, without the sign.
fn hash(key: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in key {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    (!crc >> 16) & 0x7fff
}
