//! The last answer to how much the whole store holds.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use zaqar_core::storage::Volume;

/// An answer is given again for so long.
const KEPT: Duration = Duration::from_secs(2);

/// The last answer, and when it was found.
#[derive(Debug, Default)]
pub(crate) struct LastVolume(Mutex<Option<(Volume, Instant)>>);

impl LastVolume {
    /// The last answer, where it may be given again.
    pub(crate) fn get(&self) -> Option<Volume> {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.filter(|(_, found)| found.elapsed() < KEPT).map(|(volume, _)| volume)
    }

    pub(crate) fn put(&self, volume: Volume) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((volume, Instant::now()));
    }
}
