//! How often subscriptions may be delivered to: the option `max_rate`, counted by each server.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use zaqar_core::Timestamp;

use crate::row::SubscriptionKey;

/// Subscriptions with a rate that are remembered; one that is forgotten may go faster once.
const REMEMBERED: usize = 10_000;
/// Deliveries of this time may follow each other at once.
const BURST: Duration = Duration::from_secs(1);

/// When each subscription may be delivered to next (the generic cell rate algorithm).
#[derive(Debug, Default)]
pub(crate) struct Rates {
    /// When what was delivered would have been, evenly spread; in microseconds.
    spread: Mutex<HashMap<SubscriptionKey, u64>>,
}

impl Rates {
    /// Before this time nothing more may be delivered at one delivery for each `pause`; `None`
    /// where one may be now.
    pub(crate) fn not_before(
        &self,
        key: &SubscriptionKey,
        pause: Duration,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let spread = self.spread().get(key).copied()?;
        // One more fits as long as it ends within the burst.
        let burst = micros(BURST.max(pause)) - micros(pause);
        let from = Timestamp::from_millis(spread.saturating_sub(burst).div_ceil(1000));
        (from > now).then_some(from)
    }

    /// Notes a delivery.
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
        // A map is whole between any two calls of its methods.
        self.spread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
