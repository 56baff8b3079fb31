//! Finds members of a JSON object without parsing their values.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use zaqar_core::json::{self, JsonError, NotOrdinary, Scan};

/// The type of a JSON value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Text,
    Integer,
    Boolean,
    List,
    Object,
    /// Null, or a number with a decimal point or an exponent.
    Other,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "a string",
            Self::Integer => "an integer",
            Self::Boolean => "true or false",
            Self::List => "a list",
            Self::Object => "an object",
            Self::Other => "null or a fraction",
        })
    }
}

/// The type of a value, by its JSON text.
pub(crate) fn shape(value: &[u8]) -> Shape {
    match value.first() {
        Some(b'"') => Shape::Text,
        Some(b'{') => Shape::Object,
        Some(b'[') => Shape::List,
        Some(b't' | b'f') => Shape::Boolean,
        Some(b'-' | b'0'..=b'9') if !value.iter().any(|b| matches!(b, b'.' | b'e' | b'E')) => {
            Shape::Integer
        }
        _ => Shape::Other,
    }
}

/// Members of an object by name, limited to the names asked for. Of repeated members the last
/// counts, and [`Members::repeated`] reports the repetition.
#[derive(Debug, Clone, Default)]
pub(crate) struct Members {
    found: Vec<(&'static str, Bytes)>,
    repeated: Option<&'static str>,
}

impl Members {
    /// Finds the members with these names.
    ///
    /// # Errors
    /// For text that is not a JSON object.
    pub(crate) fn of(
        object: &Bytes,
        names: &'static [&'static str],
    ) -> Result<Self, serde_json::Error> {
        let (mut found, mut repeated) = (Vec::new(), None);
        each(object, |name, value| {
            if let Some(name) = names.iter().find(|wanted| **wanted == name) {
                let before = found.len();
                found.retain(|(earlier, _)| earlier != name);
                if found.len() < before {
                    repeated = Some(*name);
                }
                found.push((*name, object.slice_ref(value)));
            }
        })?;
        Ok(Self { found, repeated })
    }

    /// A name that was given more than once.
    pub(crate) const fn repeated(&self) -> Option<&'static str> {
        self.repeated
    }

    /// The JSON text of a member.
    pub(crate) fn get(&self, name: &str) -> Option<&Bytes> {
        self.found.iter().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// A member that is a string.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        serde_json::from_slice(self.get(name)?).ok()
    }

    /// A member that is an integer.
    pub(crate) fn integer(&self, name: &str) -> Option<i64> {
        serde_json::from_slice(self.get(name)?).ok()
    }

    /// The items of a member that is a list.
    pub(crate) fn list(&self, name: &str) -> Option<Items<'_>> {
        self.get(name).map(|list| Items::of(list))
    }
}

/// Calls `found` with the name and the JSON text of each member of an object that is UTF-8. Text
/// after the object is an error.
///
/// # Errors
/// For text that is not a JSON object.
pub(crate) fn each(
    object: &[u8],
    mut found: impl FnMut(&str, &[u8]),
) -> Result<(), serde_json::Error> {
    // Most objects are ordinary, and taken apart without a parser.
    if let Ok(members) = scan_members(object) {
        for (name, value) in members {
            // The whole frame has been checked to be UTF-8.
            found(str::from_utf8(name).unwrap_or_default(), value);
        }
        return Ok(());
    }
    let mut deserializer = serde_json::Deserializer::from_slice(object);
    Each(found).deserialize(&mut deserializer)?;
    deserializer.end()
}

/// A member's name and its value.
type Member<'a> = (&'a [u8], &'a [u8]);

fn scan_members(object: &[u8]) -> Result<Vec<Member<'_>>, NotOrdinary> {
    let mut scan = Scan::of_checked(object);
    let mut members = Vec::new();
    scan.object(|scan, name| {
        members.push((name, scan.value()?));
        Ok(())
    })?;
    scan.end().map(|()| members)
}

fn is_ordinary(document: &[u8]) -> bool {
    let Ok(text) = simdutf8::basic::from_utf8(document) else { return false };
    let mut scan = Scan::new(text);
    scan.value().is_ok() && scan.end().is_ok()
}

/// The JSON texts of the items of a list, each of which is found as it is asked for. The text is
/// known to be JSON; one that is no list has no items.
#[derive(Debug, Clone)]
pub(crate) struct Items<'a> {
    /// From the bracket or comma in front of the next item on.
    rest: &'a [u8],
}

impl<'a> Items<'a> {
    pub(crate) fn of(list: &'a [u8]) -> Self {
        let list = list.trim_ascii();
        Self { rest: if list.starts_with(b"[") { list } else { &[] } }
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<Self::Item> {
        let (b'[' | b',', rest) = self.rest.split_first()? else { return None };
        let rest = rest.trim_ascii_start();
        // The end of an empty list is no value.
        let item = Scan::of_checked(rest).value().ok().or_else(|| first_value(rest))?;
        self.rest = rest[item.len()..].trim_ascii_start();
        Some(item)
    }
}

/// The text of the value at the start of a text.
fn first_value(text: &[u8]) -> Option<&[u8]> {
    let value = <&RawValue>::deserialize(&mut serde_json::Deserializer::from_slice(text));
    value.ok().map(|value| value.get().as_bytes())
}

/// Checks that text is JSON that this server accepts.
///
/// # Errors
/// A description of the fault, for the client.
pub(crate) fn check(document: &[u8]) -> Result<(), String> {
    if is_ordinary(document) {
        return Ok(());
    }
    json::check(document).map_err(|error| match error {
        JsonError::IntegerTooLarge => {
            "JSON contains integer that is too large: integers must be between -2^63 and 2^63-1."
                .to_owned()
        }
        JsonError::NotUtf8 | JsonError::TooDeep | JsonError::Surrogate => format!("{error}."),
    })?;
    serde_json::from_slice::<IgnoredAny>(document).map_err(|error| format!("{error}."))?;
    Ok(())
}

struct Each<F>(F);

impl<'de, F: FnMut(&str, &[u8])> DeserializeSeed<'de> for Each<F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, F: FnMut(&str, &[u8])> Visitor<'de> for Each<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Name<'de>>()? {
            let value: &RawValue = map.next_value()?;
            (self.0)(&name.0, value.get().as_bytes());
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(serde::de::Error::custom("a list, not an object"))
    }
}

/// A key, borrowed unless it has escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_come_as_they_are_written() {
        let object =
            Bytes::from_static(b"{ \"a\": 1, \"\\u0062\" : [ 1 , 2 ], \"c\": 3, \"a\":\"x\" }");
        let members = Members::of(&object, &["a", "b"]).unwrap();
        assert_eq!(members.text("a").unwrap(), "x");
        assert_eq!(members.get("b").unwrap(), &"[ 1 , 2 ]");
        assert_eq!(members.list("b").unwrap().collect::<Vec<_>>(), [b"1", b"2"]);
        assert_eq!(members.get("c"), None);
        for bad in ["[]", "{} x", "1", "{\"a\"}", ""] {
            assert!(Members::of(&Bytes::from_static(bad.as_bytes()), &["a"]).is_err(), "{bad}");
        }
    }

    #[test]
    fn items_are_found_one_at_a_time() {
        for (list, expected) in [
            ("[]", &[][..]),
            (" [ ] ", &[]),
            ("[1]", &["1"]),
            (" [ 1 ,\"a,]\", [ 2 , 3 ] ] ", &["1", "\"a,]\"", "[ 2 , 3 ]"]),
            // Some that are not ordinary.
            ("[1234567890123456789,2 ]", &["1234567890123456789", "2"]),
            ("[0,{ \"\\u0061\" : 1 } ,\"b\"]", &["0", "{ \"\\u0061\" : 1 }", "\"b\""]),
            ("{\"a\":1}", &[]),
            ("1", &[]),
        ] {
            let found: Vec<_> = Items::of(list.as_bytes()).collect();
            let expected: Vec<_> = expected.iter().map(|item| item.as_bytes()).collect();
            assert_eq!(found, expected, "{list}");
        }
        let deep = format!("[{}1{},2]", "[".repeat(99), "]".repeat(99));
        assert_eq!(Items::of(deep.as_bytes()).nth(1), Some(&b"2"[..]));
        // What comes later is not read.
        let found: Vec<_> = Items::of(b"[1, 2, !").take(2).collect();
        assert_eq!(found, [b"1", b"2"]);
    }

    #[test]
    fn shapes_follow_from_the_text() {
        for (value, expected) in [
            ("1", Shape::Integer),
            ("-1", Shape::Integer),
            ("1.0", Shape::Other),
            ("1e3", Shape::Other),
            ("true", Shape::Boolean),
            ("null", Shape::Other),
            ("\"1\"", Shape::Text),
            ("[1.0]", Shape::List),
            ("{}", Shape::Object),
        ] {
            assert_eq!(shape(value.as_bytes()), expected, "{value}");
        }
    }
}
