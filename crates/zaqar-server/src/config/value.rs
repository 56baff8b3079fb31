//! Parses values as oslo.config's types do.

use std::net::IpAddr;

pub(super) const BOOLEAN: &str = "a boolean: true, yes, on, 1 or false, no, off, 0";

pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// A decimal integer; Python accepts a sign, white space around it and single underscores between
/// digits.
pub(super) fn integer(text: &str) -> Option<i64> {
    let text = text.trim();
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let plain =
        digits.split('_').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    plain.then(|| text.replace('_', "").parse().ok()).flatten()
}

/// A finite number.
pub(super) fn float(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|number: &f64| number.is_finite())
}

/// Commas at the end are ignored, empty texts between commas are kept.
pub(super) fn list(text: &str) -> Vec<String> {
    let text = text.trim().trim_end_matches(',');
    if text.is_empty() {
        return Vec::new();
    }
    text.split(',').map(|item| item.trim().to_owned()).collect()
}

/// An IP address, or labels of letters, digits and dashes, the last of which is not all digits, so
/// that a mistyped address is not a host name.
pub(super) fn is_host(text: &str) -> bool {
    if text.parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let last = name.rsplit('.').next().unwrap_or_default();
    text.len() <= 253
        && last.bytes().any(|b| b.is_ascii_alphabetic() || b == b'-')
        && name.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// The choices, as text.
pub(super) fn one_of(choices: &[&str]) -> String {
    let words: Vec<_> =
        choices.iter().map(|choice| if choice.is_empty() { "(empty)" } else { choice }).collect();
    format!("one of: {}", words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::{boolean, float, integer, is_host, list};

    #[test]
    fn booleans() {
        for text in ["true", "True", "YES", "on", "1"] {
            assert_eq!(boolean(text), Some(true), "{text}");
        }
        for text in ["false", "False", "NO", "off", "0"] {
            assert_eq!(boolean(text), Some(false), "{text}");
        }
        for text in ["", " true", "2", "t", "maybe"] {
            assert_eq!(boolean(text), None, "{text}");
        }
    }

    #[test]
    fn integers() {
        for (text, number) in [("7", 7), ("+5", 5), ("-5", -5), (" 1_000 ", 1000), ("007", 7)] {
            assert_eq!(integer(text), Some(number), "{text}");
        }
        for text in ["", "-", "0x10", "1.0", "1__0", "_1", "1_", "9223372036854775808", "٣", "+-1"]
        {
            assert_eq!(integer(text), None, "{text}");
        }
    }

    #[test]
    fn floats() {
        assert_eq!(float(" 0.5 "), Some(0.5));
        assert_eq!(float("1e3"), Some(1000.0));
        for text in ["", "nan", "inf", "1,5"] {
            assert_eq!(float(text), None, "{text}");
        }
    }

    #[test]
    fn lists() {
        let table: [(&str, &[&str]); 6] = [
            ("", &[]),
            (",,", &[]),
            ("a", &["a"]),
            ("a, b ,c", &["a", "b", "c"]),
            ("a,,b,", &["a", "", "b"]),
            ("a,\nb", &["a", "b"]),
        ];
        for (text, expected) in table {
            assert_eq!(list(text), expected, "{text}");
        }
    }

    #[test]
    fn hosts() {
        for text in ["127.0.0.1", "::", "::1", "localhost", "a-b.example.org.", "x1", "1.a"] {
            assert!(is_host(text), "{text}");
        }
        for text in ["", ".", "300.0.0.1", "1.2.3", "-a", "a-", "a b", "a..b", "a_b", "[::1]"] {
            assert!(!is_host(text), "{text}");
        }
    }
}
