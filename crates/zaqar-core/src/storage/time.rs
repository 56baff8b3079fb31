//! The time at which a store acts.

use std::time::Duration;

use crate::Timestamp;

/// The default maximum difference between a server's clock and that of a store or of other servers.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(30);

/// The time at which a call acts whose `now` is given, on a queue or a store that has last acted at
/// `latest`: the later one, or `now` if `latest` is ahead of it by more than [`MAX_CLOCK_SKEW`], so
/// that it must be wrong. A store keeps the result as its `latest`.
pub const fn effective_time(latest: Timestamp, now: Timestamp) -> Timestamp {
    let bound = now.plus_secs(MAX_CLOCK_SKEW.as_secs());
    let (seen, earliest) = (latest.as_millis(), now.as_millis());
    if seen < earliest || seen > bound.as_millis() { now } else { latest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_back_only_from_an_impossible_one() {
        let at = |secs| Timestamp::from_millis(0).plus_secs(secs);
        assert_eq!(effective_time(at(100), at(101)), at(101));
        assert_eq!(effective_time(at(101), at(100)), at(101));
        assert_eq!(effective_time(at(130), at(100)), at(130));
        assert_eq!(effective_time(at(131), at(100)), at(100));
        assert_eq!(effective_time(at(1), Timestamp::MAX), Timestamp::MAX);
    }
}
