//! The request that sends a message to a webhook.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};
use zaqar_core::MessageId;

/// The placeholder for the message in `post_data`, without its quotes.
const PLACEHOLDER: &str = "$zaqar_message$";
/// The quotes around it.
const QUOTE: &str = "\"";
/// The same in a JSON text within a string: `post_data` that was encoded twice.
const ESCAPED_QUOTE: &str = "\\\"";

/// Placeholders for the message in `post_data`, at most.
pub const MAX_PLACEHOLDERS: usize = 4;
/// The longest body of a request that has its message more than once, in bytes: that many of the
/// largest batch, and what surrounds them.
pub const MAX_REPEATED_BYTES: usize = 5 * 1024 * 1024;

/// Headers of `post_headers`, at most.
pub const MAX_POST_HEADERS: usize = 32;
/// The longest of these headers, name and value together, in bytes.
pub const MAX_POST_HEADER_BYTES: usize = 4096;

/// Headers that belong to this server or the connection. A subscription must not set them.
const RESERVED: [&str; 14] = [
    "connection",
    "content-encoding",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
];

/// A message to send.
#[derive(Debug, Clone, Copy)]
pub struct Notification<'a> {
    /// How long the message lives, in seconds.
    pub ttl: u64,
    /// The body: JSON text.
    pub body: &'a [u8],
    /// The queue or topic that it was posted to.
    pub queue: &'a str,
}

/// Why a subscription's options are invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// An option of the wrong type.
    #[error("the option {option} must be {expected}")]
    Type {
        /// Its name.
        option: &'static str,
        /// What is valid, with an article.
        expected: &'static str,
    },
    /// More than [`MAX_POST_HEADERS`].
    #[error("post_headers has {count} headers; at most {MAX_POST_HEADERS} are allowed")]
    TooManyHeaders {
        /// The number of headers.
        count: usize,
    },
    /// A name or value that HTTP does not allow, or that is too long.
    #[error(
        "post_headers: {name:?} is not an HTTP header of at most {MAX_POST_HEADER_BYTES} bytes"
    )]
    Header {
        /// Its name.
        name: String,
    },
    /// A header that only this server sets.
    #[error("post_headers must not set {name}")]
    ReservedHeader {
        /// Its name.
        name: String,
    },
    /// More than [`MAX_PLACEHOLDERS`].
    #[error(
        "post_data has the placeholder \"$zaqar_message$\" {count} times; at most \
         {MAX_PLACEHOLDERS} are allowed"
    )]
    TooManyPlaceholders {
        /// Their number.
        count: usize,
    },
}

/// The message is too large for a `post_data` that repeats it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "post_data repeats the message {copies} times, which makes {bytes} bytes; at most \
     {MAX_REPEATED_BYTES} are sent"
)]
pub struct TooLong {
    /// How often it has the message.
    pub copies: usize,
    /// The length of the body that would be sent.
    pub bytes: usize,
}

impl Notification<'_> {
    /// `{"ttl":…,"body":…,"Message_Type":"Notification","queue_name":…}`, with the body as it was
    /// posted.
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.body.len() + self.queue.len() + 80);
        out.extend_from_slice(b"{\"ttl\":");
        out.extend_from_slice(self.ttl.to_string().as_bytes());
        out.extend_from_slice(b",\"body\":");
        out.extend_from_slice(self.body);
        out.extend_from_slice(b",\"Message_Type\":\"Notification\",\"queue_name\":");
        out.extend_from_slice(Value::from(self.queue).to_string().as_bytes());
        out.push(b'}');
        out
    }

    /// The body of the request: the message, or the option `post_data` with the message in place of
    /// each placeholder.
    ///
    /// In `post_data`, `"$zaqar_message$"` with its quotes becomes the message, at any depth; if
    /// the quotes are escaped, within a string, it becomes the message escaped likewise. A
    /// `post_data` that is another JSON value is converted to text first.
    ///
    /// # Errors
    /// [`TooLong`] if the body would have the message more than once, and more than
    /// [`MAX_REPEATED_BYTES`] bytes.
    pub fn request_body(&self, options: &Map<String, Value>) -> Result<Bytes, TooLong> {
        RequestBody::new(options, self.to_json()).map(RequestBody::build)
    }
}

/// An array of notifications, each with its message's id as the member `message_id`.
pub fn to_array(notifications: impl IntoIterator<Item = (MessageId, Vec<u8>)>) -> Vec<u8> {
    let mut out = vec![b'['];
    for (id, notification) in notifications {
        if out.len() > 1 {
            out.push(b',');
        }
        out.extend_from_slice(notification.strip_suffix(b"}").unwrap_or(&notification));
        out.extend_from_slice(format!(",\"message_id\":\"{id}\"}}").as_bytes());
    }
    out.push(b']');
    out
}

/// The body of a request before it is built: its length is known first. See
/// [`Notification::request_body`].
pub(crate) struct RequestBody<'a> {
    post_data: Option<PostData<'a>>,
    /// JSON text.
    message: Vec<u8>,
    len: usize,
}

/// `post_data` and the texts that replace its placeholders.
struct PostData<'a> {
    template: Cow<'a, str>,
    plain: String,
    /// The message in a string; empty if there is no such placeholder.
    escaped: String,
}

/// A part of `post_data`.
enum Piece<'a> {
    Text(&'a str),
    Plain,
    Escaped,
}

impl<'a> RequestBody<'a> {
    /// The body with a message, which is JSON text.
    pub(crate) fn new(options: &'a Map<String, Value>, message: Vec<u8>) -> Result<Self, TooLong> {
        let Some(template) = template(options) else {
            let len = message.len();
            return Ok(Self { post_data: None, message, len });
        };
        // Bodies were checked to be UTF-8 when they were posted.
        let plain = String::from_utf8_lossy(&message).into_owned();
        let is_escaped = pieces(&template).any(|piece| matches!(piece, Piece::Escaped));
        let escaped = if is_escaped { escaped(&plain) } else { String::new() };
        let post_data = PostData { template, plain, escaped };
        let (copies, bytes) = post_data.size();
        if copies > 1 && bytes > MAX_REPEATED_BYTES {
            return Err(TooLong { copies, bytes });
        }
        Ok(Self { post_data: Some(post_data), message, len: bytes })
    }

    /// Its length in bytes.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn build(self) -> Bytes {
        let Some(post_data) = self.post_data else { return self.message.into() };
        let mut out = String::with_capacity(self.len);
        post_data.texts().for_each(|text| out.push_str(text));
        out.into()
    }
}

impl PostData<'_> {
    /// In one pass: placeholders in the message are not replaced.
    fn texts(&self) -> impl Iterator<Item = &str> {
        pieces(&self.template).map(|piece| match piece {
            Piece::Text(text) => text,
            Piece::Plain => &self.plain,
            Piece::Escaped => &self.escaped,
        })
    }

    /// How often it has the message, and its length.
    fn size(&self) -> (usize, usize) {
        (placeholders(&self.template), self.texts().map(str::len).sum())
    }
}

/// The text of the option `post_data`.
fn template(options: &Map<String, Value>) -> Option<Cow<'_, str>> {
    match options.get("post_data") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(Cow::Borrowed(text)),
        Some(other) => Some(Cow::Owned(other.to_string())),
    }
}

/// The message within a string of a JSON text.
fn escaped(message: &str) -> String {
    let quoted = Value::from(message).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// The pieces of a `post_data`, in their order. Cost: its length.
fn pieces(template: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut names = template.match_indices(PLACEHOLDER);
    let (mut from, mut next) = (0, None);
    std::iter::from_fn(move || {
        if let Some(piece) = next.take() {
            return Some(piece);
        }
        for (at, _) in names.by_ref() {
            let (before, after) = (template.get(from..at)?, &template[at + PLACEHOLDER.len()..]);
            let quotes = [(ESCAPED_QUOTE, Piece::Escaped), (QUOTE, Piece::Plain)];
            let found = quotes.into_iter().find_map(|(quote, piece)| {
                after.strip_prefix(quote)?;
                Some((before.strip_suffix(quote)?, quote, piece))
            });
            if let Some((text, quote, piece)) = found {
                from = at + PLACEHOLDER.len() + quote.len();
                next = Some(piece);
                return Some(Piece::Text(text));
            }
        }
        let rest = template.get(from..).filter(|rest| !rest.is_empty())?;
        from = template.len();
        Some(Piece::Text(rest))
    })
}

fn placeholders(template: &str) -> usize {
    pieces(template).filter(|piece| matches!(piece, Piece::Plain | Piece::Escaped)).count()
}

/// Checks the option `post_data`.
///
/// # Errors
/// [`OptionsError::TooManyPlaceholders`].
pub fn check_post_data(options: &Map<String, Value>) -> Result<(), OptionsError> {
    let count = template(options).map_or(0, |template| placeholders(&template));
    if count > MAX_PLACEHOLDERS {
        return Err(OptionsError::TooManyPlaceholders { count });
    }
    Ok(())
}

/// The headers of the request: `Content-Type: application/json` and those of `post_headers`, which
/// may replace it.
///
/// # Errors
/// [`OptionsError`]. Also checked on subscribing, so that the client learns of it then.
pub fn request_headers(options: &Map<String, Value>) -> Result<HeaderMap, OptionsError> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let given = match options.get("post_headers") {
        None | Some(Value::Null) => return Ok(headers),
        Some(Value::Object(given)) => given,
        Some(_) => {
            return Err(OptionsError::Type { option: "post_headers", expected: "an object" });
        }
    };
    if given.len() > MAX_POST_HEADERS {
        return Err(OptionsError::TooManyHeaders { count: given.len() });
    }
    for (name, value) in given {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
                let option = "post_headers";
                return Err(OptionsError::Type { option, expected: "an object of strings" });
            }
        };
        let refused = || OptionsError::Header { name: name.clone() };
        if name.len() + value.len() > MAX_POST_HEADER_BYTES {
            return Err(refused());
        }
        let key = HeaderName::try_from(name.as_str()).map_err(|_| refused())?;
        if RESERVED.contains(&key.as_str()) {
            return Err(OptionsError::ReservedHeader { name: name.clone() });
        }
        headers.insert(key, HeaderValue::try_from(value).map_err(|_| refused())?);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().expect("an object").clone()
    }

    const MESSAGE: Notification<'_> =
        Notification { ttl: 60, body: br#"{"a":"\"$zaqar_message$\""}"#, queue: "q" };

    fn sent(options: Value) -> String {
        String::from_utf8(MESSAGE.request_body(&object(options)).unwrap().to_vec()).unwrap()
    }

    #[test]
    fn a_message_is_sent_as_the_original_sends_it() {
        let found: Value = serde_json::from_str(&sent(json!({}))).unwrap();
        let expected = json!({
            "ttl": 60, "body": {"a": "\"$zaqar_message$\""},
            "Message_Type": "Notification", "queue_name": "q",
        });
        assert_eq!(found, expected);
        let names: Vec<_> = found.as_object().unwrap().keys().collect();
        assert_eq!(names, ["ttl", "body", "Message_Type", "queue_name"]);
        assert_eq!(sent(json!({"post_data": null})), sent(json!({})));
    }

    #[test]
    fn post_data_holds_the_message() {
        let message: Value = serde_json::from_str(&sent(json!({}))).unwrap();
        let table = [
            (json!("{\"m\": \"$zaqar_message$\"}"), json!({"m": message})),
            (json!("[\"$zaqar_message$\",\"$zaqar_message$\"]"), json!([message, message])),
            // As Heat writes it for Mistral: deep inside.
            (
                json!(
                    json!({"workflow_id": "w", "input": {},
                        "params": {"env": {"notification": "$zaqar_message$"}}})
                    .to_string()
                ),
                json!({"workflow_id": "w", "input": {},
                    "params": {"env": {"notification": message}}}),
            ),
            // An object rather than its text.
            (json!({"x": ["$zaqar_message$"]}), json!({"x": [message]})),
            // Without the quotes it is ordinary text.
            (json!("[\"a $zaqar_message$\"]"), json!(["a $zaqar_message$"])),
            (json!("{}"), json!({})),
        ];
        for (post_data, expected) in table {
            let found = sent(json!({ "post_data": post_data }));
            let found: Value = serde_json::from_str(&found).expect(&found);
            assert_eq!(found, expected, "{post_data}");
        }
        assert_eq!(sent(json!({"post_data": "no JSON"})), "no JSON");
    }

    #[test]
    fn post_data_that_was_encoded_twice_holds_the_message_in_a_string() {
        let inner = json!({"notification": "$zaqar_message$"}).to_string();
        let twice = json!({"input": inner, "and": "$zaqar_message$"}).to_string();
        let found: Value = serde_json::from_str(&sent(json!({ "post_data": twice }))).unwrap();
        let message: Value = serde_json::from_str(&sent(json!({}))).unwrap();
        let inner: Value = serde_json::from_str(found["input"].as_str().unwrap()).unwrap();
        assert_eq!(inner, json!({ "notification": message }));
        assert_eq!(found["and"], message);
    }

    #[test]
    fn quotes_are_shared_by_no_two_placeholders() {
        let message = sent(json!({}));
        for (post_data, expected) in [
            ("\"$zaqar_message$\"$zaqar_message$\"", format!("{message}$zaqar_message$\"")),
            ("\\\"$zaqar_message$\"", format!("\\{message}")),
            ("\"$zaqar_message$\\\"", "\"$zaqar_message$\\\"".to_owned()),
            ("$zaqar_message$\"$zaqar_message$\"", format!("$zaqar_message${message}")),
        ] {
            assert_eq!(sent(json!({ "post_data": post_data })), expected, "{post_data}");
        }
    }

    #[test]
    fn the_number_of_placeholders_is_bounded() {
        let check = |count: usize| {
            let post_data = vec!["$zaqar_message$"; count];
            let twice = json!(json!(post_data).to_string()).to_string();
            for post_data in [json!(post_data), json!(json!(post_data).to_string()), json!(twice)] {
                let expected = match count {
                    0..=4 => Ok(()),
                    count => Err(OptionsError::TooManyPlaceholders { count }),
                };
                assert_eq!(check_post_data(&object(json!({"post_data": post_data}))), expected);
            }
        };
        [0, 1, 4, 5, 3000].into_iter().for_each(check);
        let without_quotes = "$zaqar_message$ ".repeat(9);
        for post_data in [json!(null), json!(without_quotes)] {
            assert_eq!(check_post_data(&object(json!({ "post_data": post_data }))), Ok(()));
        }
    }

    /// A subscription of an earlier release may repeat the message as often as it likes.
    #[test]
    fn a_body_that_repeats_its_message_is_bounded() {
        let body = json!("x".repeat(2_000_000)).to_string();
        let message = Notification { ttl: 60, body: body.as_bytes(), queue: "q" };
        let options = |post_data: Value| object(json!({ "post_data": post_data }));
        let len = |post_data| message.request_body(&options(post_data)).map(|body| body.len());
        let one = message.to_json().len();
        assert_eq!(len(json!(["$zaqar_message$", "$zaqar_message$"])), Ok(2 * one + 3));
        let bytes = 8 * one + 9;
        assert_eq!(len(json!(vec!["$zaqar_message$"; 8])), Err(TooLong { copies: 8, bytes }));
        let body = json!("x".repeat(2 * MAX_REPEATED_BYTES)).to_string();
        let message = Notification { body: body.as_bytes(), ..message };
        let once = message.request_body(&options(json!({"a": "$zaqar_message$"})));
        assert!(once.is_ok(), "once, it is what was posted");
    }

    #[test]
    fn headers_are_set_and_checked() {
        let set = |given: Value| request_headers(&object(json!({ "post_headers": given })));
        let headers = set(json!({"X-A": "b", "content-type": "text/plain", "X-N": 7})).unwrap();
        assert_eq!(headers["x-a"], "b");
        assert_eq!(headers["x-n"], "7");
        assert_eq!(headers["content-type"], "text/plain");
        assert_eq!(request_headers(&Map::new()).unwrap()["content-type"], "application/json");
        assert!(set(json!(null)).is_ok());
        let many: Map<_, _> = (0..=32).map(|at| (format!("x-{at}"), json!("v"))).collect();
        let refused = |name: &str| OptionsError::Header { name: name.into() };
        let reserved = |name: &str| OptionsError::ReservedHeader { name: name.into() };
        let type_error = |expected| OptionsError::Type { option: "post_headers", expected };
        for (given, expected) in [
            (json!([]), type_error("an object")),
            (json!({"a": []}), type_error("an object of strings")),
            (json!({"a": "b\r\nX-Evil: c"}), refused("a")),
            (json!({"a:\r\nb": "c"}), refused("a:\r\nb")),
            (json!({"": "c"}), refused("")),
            (json!({"a": "x".repeat(4096)}), refused("a")),
            (json!({"Host": "internal"}), reserved("Host")),
            (json!({"Content-Length": "1"}), reserved("Content-Length")),
            (json!({"webhook-Signature": "v1,x"}), reserved("webhook-Signature")),
            (Value::Object(many), OptionsError::TooManyHeaders { count: 33 }),
        ] {
            assert_eq!(set(given.clone()), Err(expected), "{given}");
        }
    }
}
