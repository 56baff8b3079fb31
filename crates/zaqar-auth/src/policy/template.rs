//! Templates such as `%(project_id)s`, which a check fills in from its target.

use std::borrow::Cow;

use serde_json::Value;

/// A text with places to fill in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// The target's attribute of this name; the name is one key, even with dots.
    Attribute(String),
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// What is in front of a `%` that is neither `%%` nor `%(name)s`, the name included. Python has
    /// more formats (`%(n)05d`), which no policy needs.
    pub(super) fn parse(text: &str) -> Result<Self, Self> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            plain.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(behind) = rest.strip_prefix('%') {
                plain.push('%');
                rest = behind;
                continue;
            }
            let Some((name, behind)) = name(rest) else { return Err(Self { parts }) };
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Attribute(name.to_owned()));
            let Some(behind) = behind.strip_prefix('s') else { return Err(Self { parts }) };
            rest = behind;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self { parts })
    }

    /// The names of its attributes.
    pub(super) fn attributes(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Attribute(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The text with those of its attributes; `None` where one is not there. One attribute alone is
    /// not copied.
    pub(super) fn fill<'a>(
        &'a self,
        attribute: impl Fn(&str) -> Option<Cow<'a, str>>,
    ) -> Option<Cow<'a, str>> {
        match self.parts.as_slice() {
            [] => return Some(Cow::Borrowed("")),
            [Part::Text(text)] => return Some(Cow::Borrowed(text)),
            [Part::Attribute(name)] => return attribute(name),
            _ => {}
        }
        let mut filled = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Attribute(name) => filled.push_str(&attribute(name)?),
            }
        }
        Some(Cow::Owned(filled))
    }
}

/// What is in a pair of parentheses, others in it included, and what is behind them.
fn name(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('(')?;
    let mut depth = 1;
    for (at, c) in inner.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some((&inner[..at], &inner[at + 1..]));
        }
    }
    None
}

/// A value as Python's `str` shows it, which is what rules are compared with.
pub(super) fn text_of(value: &Value) -> Cow<'_, str> {
    match value {
        Value::String(text) => Cow::Borrowed(text),
        Value::Bool(true) => Cow::Borrowed("True"),
        Value::Bool(false) => Cow::Borrowed("False"),
        Value::Null => Cow::Borrowed("None"),
        Value::Number(number) => Cow::Owned(number.to_string()),
        // No rule can contain these: white space ends a check.
        Value::Array(_) | Value::Object(_) => Cow::Owned(value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn filled(text: &str) -> Option<String> {
        let target = json!({"a": "x", "b.c": 7, "t": true, "n": null, "f(x)": "y"});
        let template = Template::parse(text).ok()?;
        template.fill(|name| target.get(name).map(text_of)).map(Cow::into_owned)
    }

    #[test]
    fn templates_are_filled_in() {
        for (template, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("%(a)s", "x"),
            ("<%(a)s-%(b.c)s>", "<x-7>"),
            ("%(t)s", "True"),
            ("%(n)s", "None"),
            ("100%%", "100%"),
            ("%(f(x))s", "y"),
        ] {
            assert_eq!(filled(template).as_deref(), Some(expected), "{template}");
        }
    }

    #[test]
    fn what_cannot_be_filled_in_is_no_text() {
        for template in ["%(missing)s", "%", "%s", "%(a)d", "%(a", "%(a)", "x%y"] {
            assert_eq!(filled(template), None, "{template}");
        }
    }
}
