//! Rate limits of subscriptions: the option `max_rate`, enforced by each server.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use zaqar_core::Timestamp;

use crate::row::SubscriptionKey;

/// Subscriptions whose rate is tracked; one that is dropped may exceed its rate once.
const REMEMBERED: usize = 10_000;
/// Deliveries of this much time may follow each other at once.
const BURST: Duration = Duration::from_secs(1);

/// When each subscription may be delivered to next (the generic cell rate algorithm).
#[derive(Debug, Default)]
pub(crate) struct Rates {
    /// The theoretical arrival time of the next delivery, in microseconds.
    spread: Mutex<HashMap<SubscriptionKey, u64>>,
}

impl Rates {
    /// Until when no delivery is allowed at a rate of one per `pause`; `None` if one is allowed
    /// now.
    pub(crate) fn not_before(
        &self,
        key: &SubscriptionKey,
        pause: Duration,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let spread = self.spread().get(key).copied()?;
        // Another one is allowed as long as it is within the burst.
        let burst = micros(BURST.max(pause)) - micros(pause);
        let from = Timestamp::from_millis(spread.saturating_sub(burst).div_ceil(1000));
        (from > now).then_some(from)
    }

    /// Counts a delivery.
    pub(crate) fn note(&self, key: &SubscriptionKey, pause: Duration, now: Timestamp) {
        let now = now.as_millis().saturating_mul(1000);
        let mut spread = self.spread();
        if spread.len() >= REMEMBERED && !spread.contains_key(key) {
            spread.retain(|_, until| *until > now);
            if spread.len() >= REMEMBERED {
                spread.clear();
            }
        }
        let until = spread.entry(key.clone()).or_insert(now);
        *until = now.max(*until).saturating_add(micros(pause));
    }

    fn spread(&self) -> MutexGuard<'_, HashMap<SubscriptionKey, u64>> {
        // No method call leaves a map half changed.
        self.spread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
