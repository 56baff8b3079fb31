//! When the primary last changed, as far as this process knows.
//!
//! For a moment after an election, a read with read concern majority can miss acknowledged writes
//! (SERVER-53813, SERVER-89619). So heads are read linearizably for some time after each change of
//! the primary, and always before a head or message is reported as missing.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mongodb::ServerType;
use mongodb::event::sdam::SdamEvent;

/// Longer than a primary that lost its majority takes to step down, which is 10 s unless
/// `electionTimeoutMillis` was changed.
const WINDOW: Duration = Duration::from_secs(15);

/// The last change of the primary that the driver reported.
#[derive(Debug, Default)]
pub(crate) struct Elections {
    changed: Mutex<Option<Instant>>,
}

impl Elections {
    /// Handles an event of the driver.
    pub(crate) fn observe(&self, event: &SdamEvent) {
        let SdamEvent::ServerDescriptionChanged(event) = event else { return };
        let was = event.previous_description.server_type();
        self.record(was, event.new_description.server_type());
    }

    fn record(&self, was: ServerType, is: ServerType) {
        let serves = |kind| matches!(kind, ServerType::RsPrimary | ServerType::Mongos);
        if was != is && (serves(was) || serves(is)) {
            *self.changed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }

    /// Whether the primary changed so recently that a majority read may be stale.
    pub(crate) fn are_recent(&self) -> bool {
        let changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        changed.is_some_and(|changed| changed.elapsed() < WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_of_the_primary_are_recorded() {
        use ServerType::{Mongos, RsPrimary, RsSecondary, Unknown};
        for (was, is, is_change) in [
            (Unknown, RsPrimary, true),
            (RsPrimary, RsSecondary, true),
            (RsPrimary, RsPrimary, false),
            (Unknown, Mongos, true),
            (Unknown, RsSecondary, false),
        ] {
            let elections = Elections::default();
            elections.record(was, is);
            assert_eq!(elections.are_recent(), is_change, "{was:?} {is:?}");
        }
    }
}
