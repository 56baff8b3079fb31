//! Converts MessagePack to JSON text and back without a tree in between: bodies are stored as JSON
//! in either encoding.

use std::fmt::Write as _;

use rmp::Marker;
use rmp::encode::{self, ByteBuf};
use zaqar_core::json::MAX_NESTING;

/// Why a document cannot be converted to JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MessagePackError {
    #[error("incomplete input")]
    Incomplete,
    #[error("unpack(b) received extra data.")]
    ExtraData,
    #[error("a string is not UTF-8")]
    NotUtf8,
    #[error("map keys must be strings")]
    Key,
    #[error("integers must be between -2^63 and 2^63-1")]
    IntegerTooLarge,
    #[error("NaN and infinity cannot be represented in JSON")]
    NotFinite,
    #[error("{what} cannot be represented in JSON")]
    Unsupported { what: &'static str },
    #[error("nested deeper than {MAX_NESTING} levels")]
    TooDeep,
}

type Result<T> = std::result::Result<T, MessagePackError>;

/// Converts a document to JSON text that passes [`zaqar_core::json::check`] and is at most seven
/// times as long as the document.
///
/// # Errors
/// For what JSON, or this server's JSON, cannot represent.
pub(crate) fn to_json(document: &[u8]) -> Result<String> {
    let mut reader = Reader { rest: document };
    let mut out = String::with_capacity(document.len() + document.len() / 2);
    reader.value(&mut out, 0)?;
    if reader.rest.is_empty() { Ok(out) } else { Err(MessagePackError::ExtraData) }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn value(&mut self, out: &mut String, depth: usize) -> Result<()> {
        match Marker::from_u8(self.byte()?) {
            Marker::Null => out.push_str("null"),
            Marker::True => out.push_str("true"),
            Marker::False => out.push_str("false"),
            Marker::FixPos(n) => number(out, n),
            Marker::U8 => number(out, self.byte()?),
            Marker::U16 => number(out, u16::from_be_bytes(self.array()?)),
            Marker::U32 => number(out, u32::from_be_bytes(self.array()?)),
            Marker::U64 => {
                let n = u64::from_be_bytes(self.array()?);
                number(out, i64::try_from(n).map_err(|_| MessagePackError::IntegerTooLarge)?);
            }
            Marker::FixNeg(n) => number(out, n),
            Marker::I8 => number(out, i8::from_be_bytes(self.array()?)),
            Marker::I16 => number(out, i16::from_be_bytes(self.array()?)),
            Marker::I32 => number(out, i32::from_be_bytes(self.array()?)),
            Marker::I64 => number(out, i64::from_be_bytes(self.array()?)),
            Marker::F32 => float(out, f32::from_be_bytes(self.array()?).into())?,
            Marker::F64 => float(out, f64::from_be_bytes(self.array()?))?,
            Marker::FixStr(length) => string(out, self.text(length.into())?),
            Marker::Str8 => {
                let length = self.byte()?.into();
                string(out, self.text(length)?);
            }
            Marker::Str16 => {
                let length = u16::from_be_bytes(self.array()?).into();
                string(out, self.text(length)?);
            }
            Marker::Str32 => {
                let length = self.length()?;
                string(out, self.text(length)?);
            }
            Marker::FixArray(length) => self.list(out, length.into(), depth)?,
            Marker::Array16 => {
                let length = u16::from_be_bytes(self.array()?).into();
                self.list(out, length, depth)?;
            }
            Marker::Array32 => {
                let length = self.length()?;
                self.list(out, length, depth)?;
            }
            Marker::FixMap(length) => self.map(out, length.into(), depth)?,
            Marker::Map16 => {
                let length = u16::from_be_bytes(self.array()?).into();
                self.map(out, length, depth)?;
            }
            Marker::Map32 => {
                let length = self.length()?;
                self.map(out, length, depth)?;
            }
            Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => {
                return Err(MessagePackError::Unsupported { what: "binary data" });
            }
            Marker::FixExt1
            | Marker::FixExt2
            | Marker::FixExt4
            | Marker::FixExt8
            | Marker::FixExt16
            | Marker::Ext8
            | Marker::Ext16
            | Marker::Ext32 => {
                return Err(MessagePackError::Unsupported { what: "an extension type" });
            }
            Marker::Reserved => {
                return Err(MessagePackError::Unsupported { what: "the byte 0xc1" });
            }
        }
        Ok(())
    }

    fn list(&mut self, out: &mut String, length: usize, depth: usize) -> Result<()> {
        let depth = deeper(depth)?;
        out.push('[');
        for at in 0..length {
            if at > 0 {
                out.push(',');
            }
            self.value(out, depth)?;
        }
        out.push(']');
        Ok(())
    }

    fn map(&mut self, out: &mut String, length: usize, depth: usize) -> Result<()> {
        let depth = deeper(depth)?;
        out.push('{');
        for at in 0..length {
            if at > 0 {
                out.push(',');
            }
            string(out, self.key()?);
            out.push(':');
            self.value(out, depth)?;
        }
        out.push('}');
        Ok(())
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "no other of the format's types is a key")]
    fn key(&mut self) -> Result<&'a str> {
        let length = match Marker::from_u8(self.byte()?) {
            Marker::FixStr(length) => length.into(),
            Marker::Str8 => self.byte()?.into(),
            Marker::Str16 => u16::from_be_bytes(self.array()?).into(),
            Marker::Str32 => self.length()?,
            _ => return Err(MessagePackError::Key),
        };
        self.text(length)
    }

    fn text(&mut self, length: usize) -> Result<&'a str> {
        std::str::from_utf8(self.take(length)?).map_err(|_| MessagePackError::NotUtf8)
    }

    fn length(&mut self) -> Result<usize> {
        let length = u32::from_be_bytes(self.array()?);
        usize::try_from(length).map_err(|_| MessagePackError::Incomplete)
    }

    fn byte(&mut self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(MessagePackError::Incomplete)?;
        self.rest = rest;
        Ok(*head)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (head, rest) =
            self.rest.split_at_checked(length).ok_or(MessagePackError::Incomplete)?;
        self.rest = rest;
        Ok(head)
    }
}

const fn deeper(depth: usize) -> Result<usize> {
    if depth < MAX_NESTING { Ok(depth + 1) } else { Err(MessagePackError::TooDeep) }
}

fn number(out: &mut String, number: impl std::fmt::Display) {
    // Writing to a string cannot fail.
    let _ = write!(out, "{number}");
}

fn float(out: &mut String, number: f64) -> Result<()> {
    if !number.is_finite() {
        return Err(MessagePackError::NotFinite);
    }
    // `Debug`, unlike `Display`, keeps the decimal point, so a float stays a float.
    let _ = write!(out, "{number:?}");
    Ok(())
}

fn string(out: &mut String, text: &str) {
    out.push('"');
    let mut plain = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= b' ' && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&text[plain..at]);
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            other => {
                let _ = write!(out, "\\u{other:04x}");
            }
        }
        plain = at + 1;
    }
    out.push_str(&text[plain..]);
    out.push('"');
}

/// Converts valid JSON text to MessagePack. For invalid text the result is unspecified, but it does
/// not panic.
pub(crate) fn from_json(text: &[u8]) -> Vec<u8> {
    let mut writer = Writer { text, at: 0, out: ByteBuf::with_capacity(text.len()) };
    writer.value(0);
    writer.out.into_vec()
}

struct Writer<'a> {
    text: &'a [u8],
    at: usize,
    out: ByteBuf,
}

/// Slightly deeper than stored documents can be: answers wrap them.
const MAX_WRITTEN: usize = MAX_NESTING + 16;

impl Writer<'_> {
    fn value(&mut self, depth: usize) {
        match self.peek() {
            Some(b'{') if depth < MAX_WRITTEN => self.container(depth, b'}', Marker::Map32),
            Some(b'[') if depth < MAX_WRITTEN => self.container(depth, b']', Marker::Array32),
            Some(b'"') => self.string(),
            Some(b't') => self.word("true", Marker::True),
            Some(b'f') => self.word("false", Marker::False),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => self.word("null", Marker::Null),
        }
    }

    /// Reserves a header for any length, and shortens it for small containers once the length is
    /// known.
    fn container(&mut self, depth: usize, end: u8, long: Marker) {
        self.at += 1;
        let start = self.out.as_slice().len();
        self.out.as_mut_vec().extend_from_slice(&[long.to_u8(), 0, 0, 0, 0]);
        let mut length = 0u32;
        loop {
            match self.peek() {
                None => break,
                Some(byte) if byte == end => {
                    self.at += 1;
                    break;
                }
                Some(b',' | b':') => self.at += 1,
                Some(b']' | b'}') => break,
                Some(_) if end == b'}' => {
                    self.string();
                    if self.peek() == Some(b':') {
                        self.at += 1;
                    }
                    self.value(depth + 1);
                    length += 1;
                }
                Some(_) => {
                    self.value(depth + 1);
                    length += 1;
                }
            }
        }
        let out = self.out.as_mut_vec();
        match u8::try_from(length) {
            Ok(short) if short < 16 => {
                out[start] = if end == b'}' { 0x80 | short } else { 0x90 | short };
                out.drain(start + 1..start + 5);
            }
            _ => out[start + 1..start + 5].copy_from_slice(&length.to_be_bytes()),
        }
    }

    fn string(&mut self) {
        let start = self.at;
        self.at += 1;
        while let Some(byte) = self.text.get(self.at) {
            match byte {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at = (self.at + 1).min(self.text.len());
        let quoted = &self.text[start..self.at];
        let plain = quoted.get(1..quoted.len().max(2) - 1).unwrap_or_default();
        let text = if plain.contains(&b'\\') {
            serde_json::from_slice(quoted).unwrap_or_default()
        } else {
            std::str::from_utf8(plain).unwrap_or_default().to_owned()
        };
        // Writing to a vector cannot fail.
        let _ = encode::write_str(&mut self.out, &text);
    }

    fn number(&mut self) {
        let start = self.at;
        let is_part = |b: &u8| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        self.at += self.text[start..].iter().take_while(|b| is_part(b)).count();
        let text = std::str::from_utf8(&self.text[start..self.at]).unwrap_or_default();
        match text.parse::<i64>() {
            Ok(number) => {
                let _ = encode::write_sint(&mut self.out, number);
            }
            // As in Python, a float out of range is infinite.
            Err(_) => {
                let _ = encode::write_f64(&mut self.out, text.parse().unwrap_or_default());
            }
        }
    }

    fn word(&mut self, word: &str, marker: Marker) {
        self.at = (self.at + word.len()).min(self.text.len());
        self.out.as_mut_vec().push(marker.to_u8());
    }

    fn peek(&mut self) -> Option<u8> {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn value(bytes: &[u8]) -> rmpv::Value {
        let mut rest = bytes;
        let value = rmpv::decode::read_value(&mut rest).unwrap();
        assert!(rest.is_empty(), "bytes left over");
        value
    }

    fn pack(value: &rmpv::Value) -> Vec<u8> {
        let mut out = Vec::new();
        rmpv::encode::write_value(&mut out, value).unwrap();
        out
    }

    fn json_strategy() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            // Few digits: the parser of this test rounds the last digit of long numbers.
            any::<i32>().prop_map(|n| Value::from(f64::from(n) / 8.0)),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 20, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..20).prop_map(Value::from),
                prop::collection::hash_map(any::<String>(), inner, 0..20)
                    .prop_map(|map| map.into_iter().collect::<Value>()),
            ]
        })
    }

    proptest! {
        #[test]
        fn json_survives_a_round_trip(document in json_strategy()) {
            let packed = from_json(document.to_string().as_bytes());
            value(&packed);
            let text = to_json(&packed).unwrap();
            prop_assert!(zaqar_core::json::check(text.as_bytes()).is_ok());
            prop_assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), document);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            if let Ok(text) = to_json(&bytes) {
                prop_assert!(zaqar_core::json::check(text.as_bytes()).is_ok());
                prop_assert!(serde_json::from_str::<Value>(&text).is_ok());
            }
            from_json(&bytes);
        }
    }

    #[test]
    fn values_that_json_cannot_represent_are_rejected() {
        use MessagePackError as E;
        let nested = |depth: usize| [vec![0x91; depth], vec![0xc0]].concat();
        assert!(to_json(&nested(MAX_NESTING)).is_ok());
        for (bytes, error) in [
            (vec![], E::Incomplete),
            (vec![0x92, 1], E::Incomplete),
            (vec![0xdf, 0xff, 0xff, 0xff, 0xff], E::Incomplete),
            (vec![0xdb, 0xff, 0xff, 0xff, 0xff], E::Incomplete),
            (vec![1, 2], E::ExtraData),
            (vec![0xa1, 0xff], E::NotUtf8),
            (vec![0x81, 1, 2], E::Key),
            (vec![0xcf, 0x80, 0, 0, 0, 0, 0, 0, 0], E::IntegerTooLarge),
            (pack(&f64::NAN.into()), E::NotFinite),
            (vec![0xc4, 1, 0], E::Unsupported { what: "binary data" }),
            (vec![0xd4, 1, 0], E::Unsupported { what: "an extension type" }),
            (vec![0xc1], E::Unsupported { what: "the byte 0xc1" }),
            (nested(MAX_NESTING + 1), E::TooDeep),
            (nested(10_000), E::TooDeep),
        ] {
            assert_eq!(to_json(&bytes), Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn lengths_and_numbers_have_every_form() {
        let long: Vec<Value> = (0..70_000).map(Value::from).collect();
        for document in [
            json!([0, 127, 128, 255, 256, 65_536, -1, -32, -33, -129, -40_000, i64::MIN, i64::MAX]),
            json!(["", "x".repeat(31), "x".repeat(32), "x".repeat(256), "x".repeat(70_000)]),
            json!([[], [[]], {}, {"a": {}}, long, vec![1; 16]]),
            json!(["\u{0}\u{1f}\"\\\n\t/", "ä€😀"]),
        ] {
            let packed = pack(&value(&from_json(document.to_string().as_bytes())));
            let text = to_json(&packed).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), document);
        }
        assert_eq!(to_json(&[0xca, 0x40, 0x20, 0, 0]).unwrap(), "2.5");
        assert_eq!(to_json(&pack(&2.0.into())).unwrap(), "2.0");
        assert_eq!(value(&from_json(b"1e999")), rmpv::Value::from(f64::INFINITY));
        assert_eq!(
            value(&from_json(b" { \"a\\u0041\" : [ 1 , 2 ] } ")),
            value(&[0x81, 0xa2, b'a', b'A', 0x92, 1, 2])
        );
    }
}
