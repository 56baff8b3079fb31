//! Paths with queries.

use std::fmt::Write;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// What stands in a path segment or a query as it is.
const PLAIN: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b',');

/// A path that grows a query.
#[derive(Debug)]
pub(crate) struct Query {
    text: String,
    has_parameters: bool,
}

impl Query {
    pub(crate) fn new(path: impl Into<String>) -> Self {
        Self { text: path.into(), has_parameters: false }
    }

    pub(crate) fn with(mut self, name: &str, value: impl AsRef<str>) -> Self {
        let separator = if std::mem::replace(&mut self.has_parameters, true) { '&' } else { '?' };
        let _ = write!(self.text, "{separator}{}={}", encoded(name), encoded(value.as_ref()));
        self
    }

    pub(crate) fn with_some(self, name: &str, value: Option<impl AsRef<str>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    pub(crate) fn with_number(self, name: &str, value: Option<u32>) -> Self {
        self.with_some(name, value.map(|value| value.to_string()))
    }

    pub(crate) fn with_flag(self, name: &str, value: bool) -> Self {
        self.with(name, if value { "true" } else { "false" })
    }

    pub(crate) fn end(self) -> String {
        self.text
    }
}

/// A text as a path segment.
pub(crate) fn encoded(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, PLAIN)
}

/// The value of a parameter in a path's query.
pub(crate) fn parameter(path: &str, name: &str) -> Option<String> {
    let (_, query) = path.split_once('?')?;
    let mut parameters = query.split('&').filter_map(|one| one.split_once('='));
    let (_, value) = parameters.find(|(own, _)| *own == name)?;
    Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_cannot_leave_their_place() {
        let query = Query::new("/v2/queues").with("a b", "c&d=e").with_number("limit", Some(3));
        assert_eq!(query.end(), "/v2/queues?a%20b=c%26d%3De&limit=3");
        assert_eq!(encoded("../x?y").to_string(), "..%2Fx%3Fy");
    }

    #[test]
    fn a_parameter_is_found_by_its_whole_name_and_decoded() {
        let path = "/v2/queues/q/messages?old_marker=1&marker=a%2Fb&limit=3";
        assert_eq!(parameter(path, "marker").as_deref(), Some("a/b"));
        assert_eq!(parameter(path, "echo"), None);
        assert_eq!(parameter("/v2/queues?marker", "marker"), None);
        assert_eq!(parameter("/v2/queues", "marker"), None);
    }
}
