//! A cache for the number of messages in the whole store.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use zaqar_core::storage::Volume;

/// How long a value is cached.
const CACHE_TTL: Duration = Duration::from_secs(2);

/// The cached value, and when it was read.
#[derive(Debug, Default)]
pub(crate) struct VolumeCache(Mutex<Option<(Volume, Instant)>>);

impl VolumeCache {
    /// The cached value, if it is fresh.
    pub(crate) fn get(&self) -> Option<Volume> {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.filter(|(_, found)| found.elapsed() < CACHE_TTL).map(|(volume, _)| volume)
    }

    pub(crate) fn put(&self, volume: Volume) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((volume, Instant::now()));
    }
}
