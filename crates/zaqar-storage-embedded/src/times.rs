//! Times as the file has them: milliseconds since 1970.

use zaqar_core::Timestamp;

/// A time from its stored number.
pub(crate) fn time(millis: i64) -> Timestamp {
    Timestamp::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// The stored number of a time.
pub(crate) const fn millis(time: Timestamp) -> i64 {
    time.as_millis().cast_signed()
}

/// A number of seconds after a stored time.
pub(crate) fn after(millis_since_1970: i64, secs: u64) -> i64 {
    millis(time(millis_since_1970).plus_secs(secs))
}
