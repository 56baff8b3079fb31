//! `Retry-After`: when the receiver wants the next request.

use std::time::{Duration, SystemTime};

use zaqar_core::Timestamp;

/// How far a receiver can postpone a retry, unless twice its planned delay is longer.
const LONGEST: Duration = Duration::from_secs(3600);

/// The delay that a receiver asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryAfter(Duration);

impl RetryAfter {
    /// Wraps a delay.
    pub const fn from_delay(delay: Duration) -> Self {
        Self(delay)
    }

    /// Parses a header's value: seconds, or a date (RFC 9110, 10.2.3). A date in the past means no
    /// delay; `None` for anything else.
    pub fn parse(value: &str, now: Timestamp) -> Option<Self> {
        let value = value.trim();
        if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
            let secs = value.parse().unwrap_or(u64::MAX);
            return Some(Self(Duration::from_secs(secs)));
        }
        let date = httpdate::parse_http_date(value).ok()?;
        let date = date.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Some(Self(date.saturating_sub(Duration::from_millis(now.as_millis()))))
    }

    /// The requested delay: at least `planned`, and at most twice that or an hour, whichever is
    /// longer.
    pub fn bounded(self, planned: Duration) -> Duration {
        self.0.clamp(planned, planned.saturating_mul(2).max(LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates_are_read() {
        // Sunday, 29 November 2026, 05:00:00.
        let now = Timestamp::from_millis(1_795_928_400_000);
        let table = [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("Sun, 29 Nov 2026 05:01:30 GMT", Some(90)),
            ("Sun, 29 Nov 2026 04:00:00 GMT", Some(0)),
            ("Sunday, 29-Nov-26 05:00:07 GMT", Some(7)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
        ];
        for (value, expected) in table {
            let expected = expected.map(|secs| RetryAfter(Duration::from_secs(secs)));
            assert_eq!(RetryAfter::parse(value, now), expected, "{value:?}");
        }
    }

    #[test]
    fn it_is_bounded() {
        let secs = Duration::from_secs;
        let table = [
            (0, 5, 5),
            (60, 5, 60),
            (100_000, 5, 3600),
            (100_000, 7200, 14_400),
            (9000, 7200, 9000),
            (u64::MAX, 0, 3600),
        ];
        for (asked, planned, expected) in table {
            let found = RetryAfter(secs(asked)).bounded(secs(planned));
            assert_eq!(found, secs(expected), "{asked} {planned}");
        }
    }
}
