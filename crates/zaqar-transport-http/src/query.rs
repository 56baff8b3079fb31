//! Parses query strings as the original does: a value may be a comma-separated list, blank values
//! count as absent, the last of repeated parameters counts.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::error::HttpError;

/// A query string.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    pub(crate) fn new(query: Option<&'a str>) -> Self {
        Self(query.unwrap_or_default())
    }

    /// Every name with its raw value, without blank values.
    fn raw(self) -> impl Iterator<Item = (Cow<'a, str>, &'a str)> {
        self.0
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (decode(name), value))
    }

    /// Every name with its decoded value, the last of a comma-separated list.
    pub(crate) fn pairs(self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> {
        self.raw().filter_map(|(name, value)| Some((name, last(value)?)))
    }

    /// Whether the parameter may be present: a cheap check that avoids parsing the query for most
    /// names.
    fn may_have(self, name: &str) -> bool {
        self.0.contains(name) || self.0.contains(['%', '+'])
    }

    /// The last value of a parameter.
    pub(crate) fn text(self, name: &str) -> Option<String> {
        if !self.may_have(name) {
            return None;
        }
        let values = self.raw().filter(|(found, _)| found == name);
        values.last().and_then(|(_, value)| last(value)).map(Cow::into_owned)
    }

    /// The values of a parameter, from repetitions and comma-separated lists, or one more than the
    /// maximum: what comes later is not decoded. `None` if it is absent.
    pub(crate) fn list(self, name: &str, max: u64) -> Option<Vec<String>> {
        let mut list = None;
        if !self.may_have(name) {
            return list;
        }
        for (_, value) in self.raw().filter(|(found, _)| found == name) {
            let values = value.split(',').filter(|value| !value.is_empty());
            let list: &mut Vec<String> = list.get_or_insert_default();
            let left = usize::try_from(max).unwrap_or(usize::MAX).saturating_add(1) - list.len();
            list.extend(values.take(left).map(|value| decode(value).into_owned()));
        }
        list
    }

    /// An integer. One out of the 64-bit range becomes its bound, which exceeds the limits of every
    /// parameter.
    pub(crate) fn integer(self, name: &'static str) -> Result<Option<i64>, HttpError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let invalid = || HttpError::Parameter { name, rule: "The value must be an integer." };
        let text = text.trim();
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid());
        }
        let limit = if text.starts_with('-') { i64::MIN } else { i64::MAX };
        Ok(Some(text.parse().unwrap_or(limit)))
    }

    /// A boolean, in the spellings of the original's framework.
    pub(crate) fn boolean(self, name: &'static str) -> Result<Option<bool>, HttpError> {
        match self.text(name).as_deref() {
            None => Ok(None),
            Some("true" | "True" | "t" | "yes" | "y" | "1" | "on") => Ok(Some(true)),
            Some("false" | "False" | "f" | "no" | "n" | "0" | "off") => Ok(Some(false)),
            Some(_) => Err(HttpError::Parameter {
                name,
                rule: "The value of the parameter must be \"true\" or \"false\".",
            }),
        }
    }
}

fn last(value: &str) -> Option<Cow<'_, str>> {
    value.split(',').rfind(|value| !value.is_empty()).map(decode)
}

fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return text.into();
    }
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_the_original_reads_them() {
        let query = Query::new(Some("a=1&a=2,3&b=&c&d=%2C&e=x+y%21&ids=1,,2&ids=3&n=,"));
        assert_eq!(query.text("a").as_deref(), Some("3"));
        assert_eq!(query.text("b"), None);
        assert_eq!(query.text("c"), None);
        assert_eq!(query.text("d").as_deref(), Some(","));
        assert_eq!(query.text("e").as_deref(), Some("x y!"));
        assert_eq!(query.list("ids", 20).unwrap(), ["1", "2", "3"]);
        assert_eq!(query.list("ids", 1).unwrap(), ["1", "2"]);
        assert_eq!(query.list("ids", 0).unwrap(), ["1"]);
        assert_eq!(query.list("n", 20).unwrap(), [""; 0]);
        assert_eq!(query.list("b", 20), None);
        assert_eq!(Query::new(Some("%61=1&%61+=2")).text("a").as_deref(), Some("1"));
        assert_eq!(Query::new(None).text("a"), None);
    }

    #[test]
    fn integers_and_booleans_have_their_spellings() {
        for (text, value) in [
            ("5", Some(5)),
            ("-1", Some(-1)),
            ("+7", Some(7)),
            ("9223372036854775808", Some(i64::MAX)),
            ("-99999999999999999999", Some(i64::MIN)),
            ("1.5", None),
            ("abc", None),
            ("--1", None),
        ] {
            let query = format!("limit={}", text.replace('+', "%2B"));
            let read = Query::new(Some(&query)).integer("limit");
            assert_eq!(read.ok().flatten(), value, "{text}");
        }
        for (text, value) in [("True", Some(true)), ("off", Some(false)), ("TRUE", None)] {
            let query = format!("echo={text}");
            assert_eq!(Query::new(Some(&query)).boolean("echo").ok().flatten(), value, "{text}");
        }
    }
}
