//! Times as text: `2026-11-23T18:46:39Z`, and the other forms that the original's clients send.

use time::{Date, Month, PrimitiveDateTime, Time, UtcOffset};

use crate::Timestamp;

/// A text is not a valid time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a date and time of ISO 8601 between 1970 and 9999")]
pub struct TimeError;

/// Prints a time to the second, in UTC, without a zone: `2026-11-23T18:46:39`.
pub fn format(at: Timestamp) -> String {
    // 9999-12-31T23:59:59, the last time with a year of four digits.
    const LAST: i64 = 253_402_300_799;
    let seconds = i64::try_from(at.as_secs()).unwrap_or(LAST).min(LAST);
    let at = time::OffsetDateTime::from_unix_timestamp(seconds)
        .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    let (hour, minute, second) = at.to_hms();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

/// Parses a time in the forms that Python's `parse_isotime` accepts: extended or basic, `T` or a
/// space, the seconds or the whole time optional, a fraction that is ignored, and `Z`, an offset,
/// or nothing for UTC.
///
/// # Errors
/// [`TimeError`] for anything else.
pub fn parse(text: &str) -> Result<Timestamp, TimeError> {
    if !text.is_ascii() {
        return Err(TimeError);
    }
    let (date, rest) = split_date(text)?;
    let (clock, offset) = match rest.strip_prefix(['T', ' ']) {
        None if rest.is_empty() => (Time::MIDNIGHT, UtcOffset::UTC),
        None => return Err(TimeError),
        Some(rest) => {
            let zone = rest.find(['Z', '+', '-']).unwrap_or(rest.len());
            (parse_clock(&rest[..zone])?, parse_offset(&rest[zone..])?)
        }
    };
    let seconds = PrimitiveDateTime::new(date, clock).assume_offset(offset).unix_timestamp();
    let seconds = u64::try_from(seconds).map_err(|_| TimeError)?;
    Ok(Timestamp::from_millis(0).plus_secs(seconds))
}

fn split_date(text: &str) -> Result<(Date, &str), TimeError> {
    let extended = text.as_bytes().get(4) == Some(&b'-');
    let (digits, length) = if extended {
        let date = text.get(..10).ok_or(TimeError)?;
        let dashes = date.as_bytes()[7] == b'-';
        if !dashes {
            return Err(TimeError);
        }
        (date.replace('-', ""), 10)
    } else {
        (text.get(..8).ok_or(TimeError)?.to_owned(), 8)
    };
    if digits.len() != 8 {
        return Err(TimeError);
    }
    let month = u8::try_from(number(&digits[4..6])?).map_err(|_| TimeError)?;
    let day = u8::try_from(number(&digits[6..])?).map_err(|_| TimeError)?;
    let year = i32::try_from(number(&digits[..4])?).map_err(|_| TimeError)?;
    let month = Month::try_from(month).map_err(|_| TimeError)?;
    let date = Date::from_calendar_date(year, month, day).map_err(|_| TimeError)?;
    Ok((date, &text[length..]))
}

fn parse_clock(text: &str) -> Result<Time, TimeError> {
    let whole = text.split(['.', ',']).next().unwrap_or_default();
    let digits = whole.replace(':', "");
    let part = |at: usize| -> Result<u8, TimeError> {
        let Some(digits) = digits.get(at..at + 2) else { return Ok(0) };
        u8::try_from(number(digits)?).map_err(|_| TimeError)
    };
    if !matches!(digits.len(), 2 | 4 | 6) {
        return Err(TimeError);
    }
    Time::from_hms(part(0)?, part(2)?, part(4)?).map_err(|_| TimeError)
}

fn parse_offset(text: &str) -> Result<UtcOffset, TimeError> {
    if text.is_empty() || text == "Z" {
        return Ok(UtcOffset::UTC);
    }
    let digits = text[1..].replace(':', "");
    if !matches!(digits.len(), 2 | 4) {
        return Err(TimeError);
    }
    let hours = i8::try_from(number(&digits[..2])?).map_err(|_| TimeError)?;
    let minutes = digits.get(2..).filter(|minutes| !minutes.is_empty()).map_or(Ok(0), number)?;
    let minutes = i8::try_from(minutes).map_err(|_| TimeError)?;
    let sign = if text.starts_with('-') { -1 } else { 1 };
    UtcOffset::from_hms(sign * hours, sign * minutes, 0).map_err(|_| TimeError)
}

fn number(digits: &str) -> Result<u32, TimeError> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(TimeError);
    }
    digits.parse().map_err(|_| TimeError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_forms_that_clients_send_are_parsed() {
        for (text, canonical) in [
            ("2030-01-01", "2030-01-01T00:00:00"),
            ("2030-01-01T00:00", "2030-01-01T00:00:00"),
            ("2030-01-01T00:00:00Z", "2030-01-01T00:00:00"),
            ("2030-01-01T00:00:00+02:00", "2029-12-31T22:00:00"),
            ("2030-01-01T00:00:00-0130", "2030-01-01T01:30:00"),
            ("2026-11-23T17:23:40.235909", "2026-11-23T17:23:40"),
            ("2030-01-01 12:34:56", "2030-01-01T12:34:56"),
            ("20300101T000000", "2030-01-01T00:00:00"),
            ("2028-02-29T00:00:00", "2028-02-29T00:00:00"),
        ] {
            assert_eq!(parse(text).map(format).as_deref(), Ok(canonical), "{text}");
        }
        for bad in [
            "",
            "garbage",
            "2030-13-01T00:00:00",
            "2027-02-29",
            "1893456000",
            "2030-01-01T25:00",
            "1960-01-01",
        ] {
            assert_eq!(parse(bad), Err(TimeError), "{bad}");
        }
    }

    #[test]
    fn the_latest_time_prints() {
        assert_eq!(format(Timestamp::MAX), "9999-12-31T23:59:59");
    }

    proptest! {
        #[test]
        fn times_round_trip_through_text(seconds in 0u64..253_402_300_800) {
            let at = Timestamp::from_millis(seconds * 1000);
            prop_assert_eq!(parse(&format(at)), Ok(at));
        }

        #[test]
        fn any_text_is_parsed_or_rejected(text in "\\PC{0,30}") {
            let _ = parse(&text);
        }
    }
}
