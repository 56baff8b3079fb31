//! Rules for JSON input beyond the grammar: UTF-8, 64-bit integers, bounded nesting.
//!
//! [`check`] runs once over a whole document, so that the parser behind it can slice message bodies
//! out as raw bytes. Most documents are ordinary, and a [`Scan`] checks and takes them apart at
//! once.

mod scan;

use memchr::memchr2;

pub use scan::{NotOrdinary, Scan};

/// The maximum nesting of arrays and objects, so that no later parser overflows its stack.
pub const MAX_NESTING: usize = 128;

/// Why a document is rejected before it is parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Bytes that are not UTF-8.
    #[error("the document is not UTF-8")]
    NotUtf8,
    /// An integer that does not fit 64 bits with sign; the original rejects it as well.
    #[error("JSON contains an integer outside -2^63 to 2^63-1")]
    IntegerTooLarge,
    /// An escaped surrogate without its pair: only JSON can represent it.
    #[error("JSON contains an unpaired surrogate")]
    Surrogate,
    /// Nested deeper than [`MAX_NESTING`].
    #[error("JSON is nested deeper than {MAX_NESTING} levels")]
    TooDeep,
}

/// Checks a whole document against the rules of this module, not its grammar. Linear in its length,
/// no allocation.
///
/// # Errors
/// The first violated rule.
pub fn check(document: &[u8]) -> Result<&str, JsonError> {
    let text = simdutf8::basic::from_utf8(document).map_err(|_| JsonError::NotUtf8)?;
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (0, 0usize);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at = after_string(bytes, at + 1)?,
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_NESTING {
                    return Err(JsonError::TooDeep);
                }
                at += 1;
            }
            b']' | b'}' => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let end = after_number(bytes, at);
                check_number(&text[at..end])?;
                at = end;
            }
            _ => at += 1,
        }
    }
    Ok(text)
}

fn after_string(bytes: &[u8], mut at: usize) -> Result<usize, JsonError> {
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found;
        if bytes[at] == b'"' {
            return Ok(at + 1);
        }
        at = after_escape(bytes, at)?;
    }
    Ok(bytes.len())
}

/// The index after the escape at `at`; a pair of surrogates is one escape.
fn after_escape(bytes: &[u8], at: usize) -> Result<usize, JsonError> {
    match unicode_escape(bytes, at) {
        None => Ok(at + 2),
        Some(0xd800..=0xdbff) => match unicode_escape(bytes, at + 6) {
            Some(0xdc00..=0xdfff) => Ok(at + 12),
            _ => Err(JsonError::Surrogate),
        },
        Some(0xdc00..=0xdfff) => Err(JsonError::Surrogate),
        Some(_) => Ok(at + 6),
    }
}

fn unicode_escape(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn after_number(bytes: &[u8], start: usize) -> usize {
    let is_part = |b: &u8| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    start + bytes[start..].iter().take_while(|b| is_part(b)).count()
}

fn check_number(number: &str) -> Result<(), JsonError> {
    // 18 digits always fit; anything with a point or an exponent is a float and may be of any size.
    if number.len() <= 18 || number.contains(['.', 'e', 'E']) {
        return Ok(());
    }
    number.parse::<i64>().map(|_| ()).map_err(|_| JsonError::IntegerTooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn integers_fit_64_bits() {
        for good in [
            "9223372036854775807",
            "[-9223372036854775808]",
            r#""99999999999999999999999""#,
            "1e999",
            "123456789012345678901234567890.5",
            r#"{"a\"99999999999999999999999":1}"#,
        ] {
            assert_eq!(check(good.as_bytes()), Ok(good));
        }
        for bad in
            ["9223372036854775808", "[1,-9223372036854775809]", r#"{"a":99999999999999999999}"#]
        {
            assert_eq!(check(bad.as_bytes()), Err(JsonError::IntegerTooLarge), "{bad}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(check(nested(MAX_NESTING).as_bytes()).is_ok());
        assert_eq!(check(nested(MAX_NESTING + 1).as_bytes()), Err(JsonError::TooDeep));
        assert!(check(format!("\"{}\"", "[".repeat(1000)).as_bytes()).is_ok());
    }

    #[test]
    fn surrogates_come_in_pairs() {
        for good in [r#""\ud83d\ude00""#, r#""\\ud800""#, r#""\u00e9\n""#, r#""\ud7ff\ue000""#] {
            assert!(check(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in [r#""\ud800""#, r#""\ud800x""#, r#"{"\udc00":1}"#, r#""\ud83d\ud83d""#] {
            assert_eq!(check(bad.as_bytes()), Err(JsonError::Surrogate), "{bad}");
        }
    }

    #[test]
    fn bytes_are_utf8() {
        assert_eq!(check(b"\"\xff\""), Err(JsonError::NotUtf8));
    }

    proptest! {
        #[test]
        fn any_bytes_are_checked_without_panic(bytes: Vec<u8>) {
            let _ = check(&bytes);
        }

        #[test]
        fn documents_of_a_64_bit_parser_pass(number: i64, text in "\\PC*") {
            let document = serde_json::json!({ "n": number, "t": text, "l": [number] }).to_string();
            prop_assert!(check(document.as_bytes()).is_ok());
        }
    }
}
