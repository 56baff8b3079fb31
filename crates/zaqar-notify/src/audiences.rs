//! How many subscriptions queues have, which bounds how many entries are expanded together.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use zaqar_core::QueueKey;

/// Entries of a group, at most.
const ENTRIES: usize = 64;
/// Entries of a queue's first group, whose number of subscriptions is not known.
const FIRST_ENTRIES: usize = 8;
/// Entries times subscriptions of a group, about, so that it is expanded long before its lease
/// expires.
const ADDED: usize = 16 * 1024;
/// Queues whose number of subscriptions is remembered.
const REMEMBERED: usize = 10_000;

/// How many subscriptions a queue had when one of its entries was expanded last.
#[derive(Debug, Default)]
pub(crate) struct Audiences {
    sizes: Mutex<HashMap<QueueKey, usize>>,
}

impl Audiences {
    /// How many entries of a queue are a group, at most.
    pub(crate) fn entries(&self, key: &QueueKey) -> usize {
        // No code panics while it holds this lock.
        let sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        sizes.get(key).map_or(FIRST_ENTRIES, |size| (ADDED / (*size).max(1)).clamp(1, ENTRIES))
    }

    pub(crate) fn note(&self, key: &QueueKey, size: usize) {
        let mut sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        if sizes.len() >= REMEMBERED && !sizes.contains_key(key) {
            sizes.clear();
        }
        sizes.insert(key.clone(), size);
    }
}
