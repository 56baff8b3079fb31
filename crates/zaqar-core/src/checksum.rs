//! The checksum of a body: the MD5 digest of its text as Python's `json.dumps` prints it, as in the
//! original.

use md5::{Digest, Md5};
use serde_json::Value;

use crate::Checksum;

impl Checksum {
    /// The checksum of a body; a body of `null` has none. Parses the body into a tree, so it is
    /// called only where checksums are configured.
    ///
    /// # Errors
    /// Text that is not JSON.
    pub fn of_body(json: &[u8]) -> Result<Option<Self>, serde_json::Error> {
        let body: Value = serde_json::from_slice(json)?;
        if body.is_null() {
            return Ok(None);
        }
        let mut text = String::with_capacity(json.len() + json.len() / 8);
        dump(&mut text, &body);
        Ok(Some(Self(Md5::digest(text.as_bytes()).into())))
    }
}

impl std::fmt::Display for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MD5:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Prints as `json.dumps` does with its defaults: `", "`, `": "`, ASCII only, Python's floats.
fn dump(out: &mut String, value: &Value) {
    match value {
        Value::Null | Value::Bool(_) => out.push_str(&value.to_string()),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(float) => out.push_str(&python_float(float)),
            None => out.push_str(&number.to_string()),
        },
        Value::String(text) => dump_string(out, text),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                dump(out, item);
            }
            out.push(']');
        }
        Value::Object(members) => {
            out.push('{');
            for (i, (name, member)) in members.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                dump_string(out, name);
                out.push_str(": ");
                dump(out, member);
            }
            out.push('}');
        }
    }
}

fn dump_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    out.push('"');
}

/// Python's `repr` of a float: the shortest digits that parse to the same value, with an exponent
/// below 1e-4 and from 1e16 on.
fn python_float(float: f64) -> String {
    if float == 0.0 || (1e-4..1e16).contains(&float.abs()) {
        return format!("{float:?}");
    }
    if float.is_infinite() {
        return if float > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let text = format!("{float:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dumped(json: &str) -> String {
        let mut out = String::new();
        dump(&mut out, &serde_json::from_str(json).unwrap());
        out
    }

    /// Expected values: the output of CPython 3.11's `json.dumps(json.loads(text))`.
    #[test]
    fn bodies_print_as_in_python() {
        for (json, printed) in [
            (r#"{"b":1,"a":[1,2.0,null,true]}"#, r#"{"b": 1, "a": [1, 2.0, null, true]}"#),
            (r#""é\u0001\n\"\\/😀\u007f""#, r#""\u00e9\u0001\n\"\\/\ud83d\ude00\u007f""#),
            ("[]", "[]"),
            ("{}", "{}"),
            (
                "[1e16,1e15,1.5e-5,0.0001,-0.0,1e300,123456789.125]",
                "[1e+16, 1000000000000000.0, 1.5e-05, 0.0001, -0.0, 1e+300, 123456789.125]",
            ),
            ("-9223372036854775808", "-9223372036854775808"),
        ] {
            assert_eq!(dumped(json), printed, "{json}");
        }
    }

    /// Expected values: digests computed by CPython's `hashlib`.
    #[test]
    fn a_checksum_is_prefixed_with_its_algorithm() {
        for (body, checksum) in [
            (r#""x""#, "MD5:3fbf839fa0e778a20326ddc34f5cd588"),
            (r#"{"b":1,"a":[1, 2.0,null,"é"]}"#, "MD5:537a8e3919d28e34d689f30338293906"),
        ] {
            let made = Checksum::of_body(body.as_bytes()).unwrap().unwrap();
            assert_eq!(made.to_string(), checksum);
        }
        assert_eq!(Checksum::of_body(b"null").unwrap(), None);
    }
}
