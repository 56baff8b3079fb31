//! When the primary last changed, as this process knows it.
//!
//! A read with read concern majority can be older than what was acknowledged, for a moment after an
//! election (SERVER-53813, SERVER-89619). So heads are read linearizably for some time after each
//! change of the primary, and always before a missing head or message is believed.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mongodb::ServerType;
use mongodb::event::sdam::SdamEvent;

/// Longer than a primary that lost its majority takes to step down by itself, which is 10 s unless
/// `electionTimeoutMillis` was changed.
const WINDOW: Duration = Duration::from_secs(15);

/// What the driver has seen of primaries.
#[derive(Debug, Default)]
pub(crate) struct Elections {
    changed: Mutex<Option<Instant>>,
}

impl Elections {
    /// Takes an event of the driver's.
    pub(crate) fn hear(&self, event: &SdamEvent) {
        let SdamEvent::ServerDescriptionChanged(event) = event else { return };
        let was = event.previous_description.server_type();
        self.note(was, event.new_description.server_type());
    }

    fn note(&self, was: ServerType, is: ServerType) {
        let serves = |kind| matches!(kind, ServerType::RsPrimary | ServerType::Mongos);
        if was != is && (serves(was) || serves(is)) {
            *self.changed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }

    /// Whether the primary changed so lately that a majority read may be stale.
    pub(crate) fn are_recent(&self) -> bool {
        let changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        changed.is_some_and(|changed| changed.elapsed() < WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_primary_that_comes_or_goes_is_noticed_and_nothing_else() {
        use ServerType::{Mongos, RsPrimary, RsSecondary, Unknown};
        for (was, is, is_change) in [
            (Unknown, RsPrimary, true),
            (RsPrimary, RsSecondary, true),
            (RsPrimary, RsPrimary, false),
            (Unknown, Mongos, true),
            (Unknown, RsSecondary, false),
        ] {
            let elections = Elections::default();
            elections.note(was, is);
            assert_eq!(elections.are_recent(), is_change, "{was:?} {is:?}");
        }
    }
}
