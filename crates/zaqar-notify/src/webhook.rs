//! The request that sends a message to a webhook.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};
use zaqar_core::MessageId;

/// The placeholder for the message in `post_data`.
const PLACEHOLDER: &str = "\"$zaqar_message$\"";
/// The same in a JSON text within a string: `post_data` that was encoded twice.
const QUOTED_PLACEHOLDER: &str = "\\\"$zaqar_message$\\\"";

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
    pub fn request_body(&self, options: &Map<String, Value>) -> Bytes {
        request_body(options, self.to_json())
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

/// The body of a request with `message`, which is JSON text: see
/// [`Notification::request_body`].
pub fn request_body(options: &Map<String, Value>, message: Vec<u8>) -> Bytes {
    let template = match options.get("post_data") {
        None | Some(Value::Null) => return message.into(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    // Bodies were checked to be UTF-8 when they were posted.
    let message = String::from_utf8_lossy(&message);
    fill(&template, &message).into()
}

/// Replaces placeholders in one pass: placeholders in the message are not replaced.
fn fill(template: &str, message: &str) -> String {
    let escaped = || {
        let quoted = Value::from(message).to_string();
        quoted[1..quoted.len() - 1].to_owned()
    };
    let mut out = String::with_capacity(template.len() + message.len());
    let mut rest = template;
    loop {
        let plain = rest.find(PLACEHOLDER);
        let quoted = rest.find(QUOTED_PLACEHOLDER);
        let (at, placeholder, text) = match (plain, quoted) {
            (None, None) => break,
            (Some(at), None) => (at, PLACEHOLDER, message.to_owned()),
            (Some(at), Some(other)) if at < other => (at, PLACEHOLDER, message.to_owned()),
            (_, Some(at)) => (at, QUOTED_PLACEHOLDER, escaped()),
        };
        out.push_str(&rest[..at]);
        out.push_str(&text);
        rest = &rest[at + placeholder.len()..];
    }
    out.push_str(rest);
    out
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
        String::from_utf8(MESSAGE.request_body(&object(options)).to_vec()).unwrap()
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
