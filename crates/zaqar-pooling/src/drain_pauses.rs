//! When pools that are drained are looked through again: a look costs a walk over all keys of a
//! Redis, and an empty pool may stay drained for long.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use zaqar_core::Timestamp;
use zaqar_core::pools::PoolName;

/// Seconds after the first pass that found nothing to move. They double with each such pass in a
/// row, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: u64 = 2;
const LONGEST_PAUSE: u64 = 30;

/// Pauses between the passes over pools that are drained.
#[derive(Debug, Default)]
pub(crate) struct DrainPauses(Mutex<BTreeMap<PoolName, Pause>>);

/// A pause after a pass that found nothing to move.
#[derive(Debug, Clone, Copy)]
struct Pause {
    since: Timestamp,
    secs: u64,
}

impl DrainPauses {
    /// Whether a pool is to be looked through.
    pub(crate) fn is_due(&self, pool: &PoolName, now: Timestamp) -> bool {
        // A clock that was set back ends the pause.
        self.lock()
            .get(pool)
            .is_none_or(|pause| now < pause.since || pause.since.plus_secs(pause.secs) <= now)
    }

    /// Lengthens the pause of a pool in which a pass that ended now found nothing to move.
    pub(crate) fn lengthen(&self, pool: &PoolName, now: Timestamp) {
        let mut pauses = self.lock();
        let before = pauses.get(pool).map_or(0, |pause| pause.secs);
        let secs = (2 * before).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        pauses.insert(pool.clone(), Pause { since: now, secs });
    }

    /// Ends the pause of a pool: something moved, or its drain begins.
    pub(crate) fn end(&self, pool: &PoolName) {
        self.lock().remove(pool);
    }

    /// Forgets pools that are not drained any more.
    pub(crate) fn keep(&self, draining: &BTreeSet<PoolName>) {
        self.lock().retain(|pool, _| draining.contains(pool));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PoolName, Pause>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_end() {
        let (pauses, pool) = (DrainPauses::default(), PoolName::new("a").unwrap());
        let mut now = Timestamp::from_millis(1_000_000);
        for secs in [2, 4, 8, 16, 30, 30] {
            assert!(pauses.is_due(&pool, now));
            pauses.lengthen(&pool, now);
            assert!(!pauses.is_due(&pool, now));
            assert!(!pauses.is_due(&pool, now.plus_secs(secs - 1)), "{secs}");
            now = now.plus_secs(secs);
        }
        pauses.lengthen(&pool, now);
        assert!(pauses.is_due(&pool, Timestamp::from_millis(999_999)), "a clock set back");
        pauses.keep(&BTreeSet::from([pool.clone()]));
        assert!(!pauses.is_due(&pool, now));
        pauses.end(&pool);
        assert!(pauses.is_due(&pool, now));
        pauses.lengthen(&pool, now);
        assert!(pauses.is_due(&pool, now.plus_secs(2)), "from the beginning");
        pauses.keep(&BTreeSet::new());
        assert!(pauses.is_due(&pool, now));
    }
}
