//! A strict reader of ordinary JSON, which skips values at the speed of a search for their quotes.
//!
//! It accepts no text that a JSON parser or [`super::check`] would reject, but for bytes in strings
//! that are not UTF-8: whoever has not checked that yet begins with a `str`. Some that they would
//! accept it gives up on: integers of more than 18 digits, names with escapes, deep nesting.
//! Callers then parse the text by other means, which also name the fault of malformed text.

use memchr::{memchr, memchr2};

/// The nesting up to which a text is read here.
const MAX_DEPTH: usize = 64;

/// Integers of so many digits always fit 64 bits with sign.
const MAX_DIGITS: usize = 18;

/// The text is malformed, or not ordinary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not ordinary JSON")]
pub struct NotOrdinary;

/// A position in a text. A method that fails leaves it anywhere.
#[derive(Debug, Clone)]
pub struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    /// Begins at the start of a text.
    pub const fn new(text: &'a str) -> Self {
        Self::of_checked(text.as_bytes())
    }

    /// Begins at the start of a text that is known to be UTF-8.
    pub const fn of_checked(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Reads an object: calls `member` with each name, after which the scan is in front of the
    /// member's value, which `member` must read.
    ///
    /// # Errors
    /// [`NotOrdinary`], also from `member`.
    pub fn object(
        &mut self,
        mut member: impl FnMut(&mut Self, &'a [u8]) -> Result<(), NotOrdinary>,
    ) -> Result<(), NotOrdinary> {
        let mut name = self.first_member()?;
        while let Some(found) = name {
            member(self, found)?;
            name = self.next_member()?;
        }
        Ok(())
    }

    /// Begins an object: the name of its first member, in front of whose value the scan is then,
    /// or `None` behind an empty object.
    ///
    /// # Errors
    /// [`NotOrdinary`].
    pub fn first_member(&mut self) -> Result<Option<&'a [u8]>, NotOrdinary> {
        self.take(b'{')?;
        if self.next_is(b'}') { Ok(None) } else { self.name().map(Some) }
    }

    /// As [`Self::first_member`], behind the value of a member.
    ///
    /// # Errors
    /// [`NotOrdinary`].
    pub fn next_member(&mut self) -> Result<Option<&'a [u8]>, NotOrdinary> {
        if self.next_is(b',') {
            return self.name().map(Some);
        }
        self.take(b'}')?;
        Ok(None)
    }

    fn name(&mut self) -> Result<&'a [u8], NotOrdinary> {
        let name = self.string()?;
        // An escape may spell any name.
        if memchr(b'\\', name).is_some() {
            return Err(NotOrdinary);
        }
        self.take(b':')?;
        Ok(&name[1..name.len() - 1])
    }

    /// Reads a list: calls `item` in front of each item, which it must read.
    ///
    /// # Errors
    /// [`NotOrdinary`], also from `item`.
    pub fn list(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<(), NotOrdinary>,
    ) -> Result<(), NotOrdinary> {
        let mut is_item = self.first_item()?;
        while is_item {
            item(self)?;
            is_item = self.next_item()?;
        }
        Ok(())
    }

    /// Begins a list: whether the scan is in front of its first item, rather than behind an empty
    /// list.
    ///
    /// # Errors
    /// [`NotOrdinary`].
    pub fn first_item(&mut self) -> Result<bool, NotOrdinary> {
        self.take(b'[')?;
        Ok(!self.next_is(b']'))
    }

    /// As [`Self::first_item`], behind an item.
    ///
    /// # Errors
    /// [`NotOrdinary`].
    pub fn next_item(&mut self) -> Result<bool, NotOrdinary> {
        if self.next_is(b',') {
            return Ok(true);
        }
        self.take(b']')?;
        Ok(false)
    }

    /// Reads any value, and returns its text without the whitespace around it.
    ///
    /// # Errors
    /// [`NotOrdinary`].
    pub fn value(&mut self) -> Result<&'a [u8], NotOrdinary> {
        self.space();
        let start = self.at;
        self.skip(MAX_DEPTH)?;
        Ok(&self.bytes[start..self.at])
    }

    /// Reads an integer of at most 18 digits.
    ///
    /// # Errors
    /// [`NotOrdinary`].
    pub fn integer(&mut self) -> Result<i64, NotOrdinary> {
        self.space();
        let start = self.at;
        self.number()?;
        let digits = str::from_utf8(&self.bytes[start..self.at]).map_err(|_| NotOrdinary)?;
        digits.parse().map_err(|_| NotOrdinary)
    }

    /// Ends the text: nothing but whitespace is left.
    ///
    /// # Errors
    /// [`NotOrdinary`].
    pub fn end(mut self) -> Result<(), NotOrdinary> {
        self.space();
        if self.at == self.bytes.len() { Ok(()) } else { Err(NotOrdinary) }
    }

    fn byte(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.byte(), Some(b' ' | b'\n' | b'\t' | b'\r')) {
            self.at += 1;
        }
    }

    /// Reads a byte, after whitespace, if it is the next one.
    fn next_is(&mut self, byte: u8) -> bool {
        self.space();
        let is_next = self.byte() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn take(&mut self, byte: u8) -> Result<(), NotOrdinary> {
        if self.next_is(byte) { Ok(()) } else { Err(NotOrdinary) }
    }

    fn skip(&mut self, depth: usize) -> Result<(), NotOrdinary> {
        self.space();
        match self.byte().ok_or(NotOrdinary)? {
            b'"' => self.string().map(|_| ()),
            b'{' => {
                let depth = depth.checked_sub(1).ok_or(NotOrdinary)?;
                self.object(|scan, _| scan.skip(depth))
            }
            b'[' => {
                let depth = depth.checked_sub(1).ok_or(NotOrdinary)?;
                self.list(|scan| scan.skip(depth))
            }
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            _ => self.number(),
        }
    }

    fn literal(&mut self, literal: &str) -> Result<(), NotOrdinary> {
        if !self.bytes[self.at..].starts_with(literal.as_bytes()) {
            return Err(NotOrdinary);
        }
        self.at += literal.len();
        Ok(())
    }

    /// Reads a string, and returns it with its quotes.
    fn string(&mut self) -> Result<&'a [u8], NotOrdinary> {
        self.space();
        let start = self.at;
        self.take(b'"')?;
        let bytes = self.bytes;
        loop {
            let rest = &bytes[self.at..];
            let found = memchr2(b'"', b'\\', rest).ok_or(NotOrdinary)?;
            if has_control(&rest[..found]) {
                return Err(NotOrdinary);
            }
            self.at += found;
            if bytes[self.at] == b'"' {
                self.at += 1;
                return Ok(&bytes[start..self.at]);
            }
            self.escape()?;
        }
    }

    /// Reads an escape; a pair of surrogates is one.
    fn escape(&mut self) -> Result<(), NotOrdinary> {
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => match (self.unicode(self.at)?, self.unicode(self.at + 6)) {
                (0xd800..=0xdbff, Ok(0xdc00..=0xdfff)) => self.at += 12,
                (0xd800..=0xdfff, _) => return Err(NotOrdinary),
                _ => self.at += 6,
            },
            _ => return Err(NotOrdinary),
        }
        Ok(())
    }

    fn unicode(&self, at: usize) -> Result<u16, NotOrdinary> {
        let escape = self.bytes.get(at..at + 6).ok_or(NotOrdinary)?;
        let digits = escape.strip_prefix(b"\\u").ok_or(NotOrdinary)?;
        digits.iter().try_fold(0, |unit: u16, digit| {
            let value = char::from(*digit).to_digit(16).ok_or(NotOrdinary)?;
            Ok(unit << 4 | value as u16)
        })
    }

    fn number(&mut self) -> Result<(), NotOrdinary> {
        let sign = usize::from(self.byte() == Some(b'-'));
        self.at += sign;
        let start = self.at;
        let digits = self.digits()?;
        if digits > 1 && self.bytes[start] == b'0' {
            return Err(NotOrdinary);
        }
        let mut is_float = false;
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
            is_float = true;
        }
        if matches!(self.byte(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.byte(), Some(b'+' | b'-')));
            self.digits()?;
            is_float = true;
        }
        if digits + sign > MAX_DIGITS && !is_float {
            return Err(NotOrdinary);
        }
        Ok(())
    }

    /// Reads one digit or more, and returns their number.
    fn digits(&mut self) -> Result<usize, NotOrdinary> {
        let start = self.at;
        while matches!(self.byte(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at > start { Ok(self.at - start) } else { Err(NotOrdinary) }
    }
}

/// Whether there is a control character, which a string may only have as an escape.
fn has_control(bytes: &[u8]) -> bool {
    // The lowest byte, without a way out: that is done for many bytes at a time.
    bytes.iter().fold(u8::MAX, |lowest, byte| lowest.min(*byte)) < 0x20
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    use super::*;

    fn is_ordinary(text: &str) -> bool {
        let mut scan = Scan::new(text);
        scan.value().is_ok_and(|_| scan.end().is_ok())
    }

    fn is_accepted(text: &str) -> bool {
        super::super::check(text.as_bytes()).is_ok()
            && serde_json::from_str::<IgnoredAny>(text).is_ok()
    }

    #[test]
    fn ordinary_texts_are_read() {
        for text in [
            "null",
            " true ",
            "false",
            "0",
            "-0",
            "-12345678901234567",
            "1.5e+3",
            "123456789012345678901234567890.5",
            r#""""#,
            r#""a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00ä""#,
            "[]",
            "[ 1 , [ ] , { } ]",
            r#"{"a":1,"b":{"c":[null]} }"#,
        ] {
            assert!(is_ordinary(text) && is_accepted(text), "{text}");
        }
        assert!(is_ordinary(&format!("{}{}", "[".repeat(64), "]".repeat(64))));
    }

    #[test]
    fn malformed_and_unusual_texts_are_left_to_others() {
        for text in [
            "",
            " ",
            "nul",
            "truer",
            "tru",
            "01",
            "-",
            "-01",
            "1.",
            ".5",
            "1e",
            "1e+",
            "+1",
            "1 2",
            "[",
            "[1",
            "[1,]",
            "[,1]",
            "]",
            "{",
            "{}}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            "{1:2}",
            r#""a"#,
            r#""\x""#,
            r#""\u12""#,
            r#""\u+123""#,
            r#""\ud800""#,
            r#""\udc00""#,
            r#""\ud83d\ud83d""#,
            "\"\u{1}\"",
            "\"\n\"",
            "\u{feff}1",
            "'a'",
            "NaN",
            "1234567890123456789",
            r#"{"\u0061":1}"#,
        ] {
            assert!(!is_ordinary(text), "{text:?}");
        }
        assert!(!is_ordinary(&format!("{}{}", "[".repeat(65), "]".repeat(65))));
    }

    #[test]
    fn members_and_items_are_read_in_turn() {
        let mut scan = Scan::new(r#" {"n": -7 , "l":[1,[2]], "s":"x y"} "#);
        let mut seen = Vec::new();
        let read = scan.object(|scan, name| {
            match name {
                b"n" => seen.push(scan.integer()?.to_string().into_bytes()),
                b"l" => scan.list(|scan| scan.value().map(|item| seen.push(item.to_owned())))?,
                _ => seen.push(scan.value()?.to_owned()),
            }
            Ok(())
        });
        assert_eq!((read, scan.end()), (Ok(()), Ok(())));
        assert_eq!(seen, [&b"-7"[..], b"1", b"[2]", b"\"x y\""]);
    }

    #[test]
    fn a_control_character_is_found_wherever_it_is() {
        for length in [1, 15, 16, 255, 256, 257, 600] {
            for at in [0, length / 2, length - 1] {
                let mut bytes = vec![b'x'; length];
                assert!(!has_control(&bytes));
                bytes[at] = 0x1f;
                assert!(has_control(&bytes), "{at} of {length}");
            }
        }
    }

    /// Texts that are JSON, or nearly.
    fn nearly_json() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("{".to_owned()),
            Just("}".to_owned()),
            Just("[".to_owned()),
            Just("]".to_owned()),
            Just(",".to_owned()),
            Just(":".to_owned()),
            Just("\"a\"".to_owned()),
            Just("\"\\ud83d\\ude00\"".to_owned()),
            Just("\"\\ud83d\"".to_owned()),
            Just(" ".to_owned()),
            Just("null".to_owned()),
            "-?[0-9]{1,3}(\\.[0-9]{0,2})?([eE][+-]?[0-9]{0,2})?",
            "\"(\\\\[\"\\\\/bfnrtux]|[ -~]|\\PC){0,4}\"",
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    fn value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            (-999_999_999_999_999_i64..999_999_999_999_999).prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            ".*".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            let names = "[a-z ä]{0,3}";
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
                prop::collection::vec((names, inner), 0..5)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn nothing_is_read_that_others_reject(text in nearly_json()) {
            prop_assert!(!is_ordinary(&text) || is_accepted(&text), "{text:?}");
        }

        #[test]
        fn a_changed_byte_is_noticed(value in value(), at: prop::sample::Index, byte in 0u8..128) {
            let mut bytes = value.to_string().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(text) = String::from_utf8(bytes) {
                prop_assert!(!is_ordinary(&text) || is_accepted(&text), "{text:?}");
            }
        }

        #[test]
        fn what_others_write_is_ordinary(value in value()) {
            for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
                prop_assert!(is_ordinary(&text), "{text}");
                prop_assert_eq!(Scan::new(&text).value(), Ok(text.as_bytes()));
            }
        }
    }
}
