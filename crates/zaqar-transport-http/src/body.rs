//! Reads request bodies up to a limit, and decodes them without building a tree of message bodies.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;
use serde::de::{self, DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use zaqar_api::PostedMessage;
use zaqar_core::json::{self, JsonError, NotOrdinary, Scan};
use zaqar_core::{Holder, OverBudget, Permit};

use crate::connection_body::AnyBody;
use crate::error::HttpError;

/// Bytes of an unread body that are discarded at most, so that the connection can be reused.
const DRAIN_BYTES: u64 = 1024 * 1024;

/// How long discarding them may take.
const DRAIN_LIMIT: Duration = Duration::from_millis(500);

/// Bytes that a request occupies while it waits for its body: over HTTP/2, one connection may have
/// many such requests.
const REQUEST_BYTES: usize = 4 * 1024;

/// Messages that are decoded, or ids that are encoded, before other tasks run.
pub(crate) const ITEMS_AT_ONCE: usize = 1000;

/// Initial capacity of the buffer for a body that arrives in several pieces.
const FIRST_CAPACITY: usize = 16 * 1024;

/// The limits of a body.
pub(crate) struct Bound<'a> {
    /// Maximum size in bytes.
    pub(crate) max: u64,
    /// How long it may take to arrive.
    pub(crate) timeout: Duration,
    /// Holds the memory that it occupies.
    pub(crate) holder: &'a Holder,
}

/// A request's body, which tracks whether it has been read to its end.
pub(crate) struct RequestBody {
    body: AnyBody,
    ended: bool,
}

impl RequestBody {
    pub(crate) fn new(body: AnyBody) -> Self {
        Self { ended: body.is_end_stream(), body }
    }

    /// Whether everything has been read.
    pub(crate) const fn has_ended(&self) -> bool {
        self.ended
    }

    async fn next(&mut self) -> Option<Result<Bytes, HttpError>> {
        while !self.ended {
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    return Some(Ok(data));
                }
                Some(Err(error)) => return Some(Err(error)),
                None => self.ended = true,
            }
        }
        None
    }

    /// Reads a whole body. A body that arrives in one piece is not copied. Its bytes are charged
    /// until their last slice is dropped.
    ///
    /// # Errors
    /// `too_large(max)` for more than `bound.max` bytes: by its `Content-Length` before a byte is
    /// read, else as soon as they have arrived. [`HttpError::OverBudget`],
    /// [`HttpError::BodyTimeout`] and [`HttpError::BodyBroken`].
    pub(crate) async fn read(
        &mut self,
        bound: &Bound<'_>,
        too_large: impl FnOnce(u64) -> HttpError,
    ) -> Result<Bytes, HttpError> {
        let announced = self.body.size_hint().lower();
        if announced > bound.max {
            return Err(too_large(bound.max));
        }
        let announced = usize::try_from(announced).unwrap_or(usize::MAX);
        let reading = async {
            let mut first = Bytes::new();
            let mut whole = BytesMut::new();
            let mut permit = bound.holder.try_acquire(REQUEST_BYTES)?;
            while let Some(data) = self.next().await {
                let data = data?;
                let length = first.len() + whole.len() + data.len();
                if length as u64 > bound.max {
                    return Err(too_large(bound.max));
                }
                if first.is_empty() && whole.is_empty() {
                    permit.resize(REQUEST_BYTES + length)?;
                    first = data;
                    continue;
                }
                if whole.capacity() < length {
                    let capacity = grown_capacity(whole.capacity(), length, announced);
                    // The old buffer and the new one exist together while the bytes are copied.
                    permit.resize(REQUEST_BYTES + capacity + length)?;
                    whole.reserve(capacity - whole.len());
                    whole.extend_from_slice(&std::mem::take(&mut first));
                    permit.resize(REQUEST_BYTES + whole.capacity())?;
                }
                whole.extend_from_slice(&data);
            }
            let whole = if whole.is_empty() { first } else { whole.freeze() };
            permit.shrink(REQUEST_BYTES);
            Ok(if whole.is_empty() { whole } else { permit.attach(whole) })
        };
        let mut reading = pin!(reading);
        // Most bodies came with their head, and need no timer.
        if let Poll::Ready(read) = poll_fn(|cx| Poll::Ready(reading.as_mut().poll(cx))).await {
            return read;
        }
        match tokio::time::timeout(bound.timeout, reading).await {
            Ok(read) => read,
            Err(_) => Err(HttpError::BodyTimeout),
        }
    }

    /// Reads and discards the rest of a small body, and returns whether the connection can be
    /// reused. A large body is not read, nor one that the client sends only after a `100 Continue`
    /// (`Expect: 100-continue`).
    pub(crate) async fn drain(&mut self, expects_continue: bool) -> bool {
        if self.ended {
            return true;
        }
        if expects_continue || self.body.size_hint().lower() > DRAIN_BYTES {
            return false;
        }
        let draining = async {
            let mut drained = 0;
            while let Some(data) = self.next().await {
                drained += data.as_ref().map_or(0, Bytes::len) as u64;
                if data.is_err() || drained > DRAIN_BYTES {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(DRAIN_LIMIT, draining).await.unwrap_or(false)
    }
}

/// The new capacity of a buffer for `length` bytes: doubled, but not past the announced length.
fn grown_capacity(capacity: usize, length: usize, announced: usize) -> usize {
    let doubled = length.max(2 * capacity).max(FIRST_CAPACITY);
    if announced >= length { doubled.min(announced) } else { doubled }
}

/// Decodes a small document.
///
/// # Errors
/// [`HttpError::Body`] with the fault and its position.
pub(crate) fn decode<T: DeserializeOwned>(document: &Bytes) -> Result<T, HttpError> {
    let text = check(document)?;
    serde_json::from_str(text).map_err(|error| unreadable(text, &error))
}

/// Decodes the messages of a post. Bodies are slices of the document; what the list occupies
/// besides is charged to `permit`. Other tasks run between the parts of a large one.
///
/// # Errors
/// [`HttpError::Body`] with the fault and its position; [`HttpError::OverBudget`].
pub(crate) async fn decode_post(
    document: &Bytes,
    permit: &mut Permit,
) -> Result<Vec<PostedMessage>, HttpError> {
    let messages = match scan_post(document, permit).await {
        Ok(messages) => messages,
        Err(Unscanned::NotOrdinary) => parse_post(document)?,
        Err(Unscanned::OverBudget(over)) => return Err(over.into()),
    };
    PostedMessage::charge(&messages, permit)?;
    Ok(messages)
}

/// Why a post could not be decoded in one pass.
enum Unscanned {
    NotOrdinary,
    OverBudget(OverBudget),
}

impl From<NotOrdinary> for Unscanned {
    fn from(NotOrdinary: NotOrdinary) -> Self {
        Self::NotOrdinary
    }
}

/// Decodes an ordinary post in one pass.
async fn scan_post(document: &Bytes, permit: &mut Permit) -> Result<Vec<PostedMessage>, Unscanned> {
    let text = simdutf8::basic::from_utf8(document).map_err(|_| NotOrdinary)?;
    let (mut scan, mut messages) = (Scan::new(text), None);
    let mut member = scan.first_member()?;
    while let Some(name) = member {
        if name == b"messages" {
            let mut list = Vec::new();
            let mut is_item = scan.first_item()?;
            while is_item {
                list.push(scan_message(&mut scan, document)?);
                if list.len().is_multiple_of(ITEMS_AT_ONCE) {
                    PostedMessage::charge(&list, permit).map_err(Unscanned::OverBudget)?;
                    tokio::task::yield_now().await;
                }
                is_item = scan.next_item()?;
            }
            // Of a repeated member the last one counts.
            messages = Some(list);
        } else {
            scan.value()?;
        }
        member = scan.next_member()?;
    }
    scan.end()?;
    messages.ok_or(Unscanned::NotOrdinary)
}

fn scan_message(scan: &mut Scan<'_>, document: &Bytes) -> Result<PostedMessage, NotOrdinary> {
    let (mut body, mut ttl, mut delay) = (None, None, None);
    scan.object(|scan, name| {
        match name {
            b"body" => body = Some(scan.value()?),
            b"ttl" => ttl = Some(scan.integer()?),
            b"delay" => delay = Some(scan.integer()?),
            _ => {
                scan.value()?;
            }
        }
        Ok(())
    })?;
    let body = document.slice_ref(body.ok_or(NotOrdinary)?);
    Ok(PostedMessage { body, ttl, delay })
}

/// Decodes any post, and names the fault of one that is malformed.
fn parse_post(document: &Bytes) -> Result<Vec<PostedMessage>, HttpError> {
    let text = check(document)?;
    let posted: Posted<'_> =
        serde_json::from_str(text).map_err(|error| unreadable(text, &error))?;
    let Some(messages) = posted.0 else {
        let reason = "No messages were found in the request body.";
        return Err(zaqar_api::Error::Invalid {
            part: zaqar_api::Part::Request,
            reason: reason.to_owned(),
        }
        .into());
    };
    Ok(messages
        .into_iter()
        .map(|message| PostedMessage {
            body: document.slice_ref(message.body.get().as_bytes()),
            ttl: message.ttl,
            delay: message.delay,
        })
        .collect())
}

fn check(document: &Bytes) -> Result<&str, HttpError> {
    if document.is_empty() {
        return Err(HttpError::body("Request body can not be empty"));
    }
    json::check(document).map_err(|error| match error {
        JsonError::NotUtf8 => HttpError::body("Request body could not be parsed: it is not UTF-8."),
        JsonError::IntegerTooLarge => HttpError::body(
            "JSON contains integer that is too large: integers must be between -2^63 and 2^63-1.",
        ),
        JsonError::TooDeep | JsonError::Surrogate => {
            HttpError::body(format!("Request body could not be parsed: {error}."))
        }
    })
}

/// The original's text, followed by the fault and its position.
fn unreadable(document: &str, error: &serde_json::Error) -> HttpError {
    let is_structure = document.trim_start().starts_with(['{', '[']);
    // A wrong type is reported before the rest is parsed, which may not be JSON at all.
    let broken = serde_json::from_str::<IgnoredAny>(document).err();
    let error = broken.as_ref().unwrap_or(error);
    let text = in_words_of_json(error);
    if error.is_data() && text.starts_with("invalid type") && is_structure {
        return HttpError::body(format!("Document type not supported: {text}."));
    }
    if error.is_data() && is_structure {
        return HttpError::body(format!("{text}."));
    }
    HttpError::body(format!("Request body could not be parsed: {text}."))
}

/// The text of an error: maps and sequences are the parser's words, and column 0 is no position.
fn in_words_of_json(error: &serde_json::Error) -> String {
    let mut text = error.to_string();
    if error.column() == 0
        && let Some(at) = text.rfind(" at line ")
    {
        text.truncate(at);
    }
    text.replace("invalid type: map", "invalid type: object")
        .replace("invalid type: sequence", "invalid type: list")
        .replace("expected a map", "expected an object")
        .replace("expected a sequence", "expected a list")
}

/// A number of seconds; `true` is 1 and `false` is 0, as in the original.
#[derive(Debug, Clone, Copy)]
struct Seconds(i64);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SecondsVisitor;
        impl Visitor<'_> for SecondsVisitor {
            type Value = Seconds;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an integer")
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Seconds, E> {
                Ok(Seconds(i64::from(value)))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Seconds, E> {
                Ok(Seconds(value))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Seconds, E> {
                Ok(Seconds(i64::try_from(value).unwrap_or(i64::MAX)))
            }
        }
        deserializer.deserialize_any(SecondsVisitor)
    }
}

/// Reads a field of seconds; a wrong type is reported with the field's name.
fn seconds<'de, A: MapAccess<'de>>(map: &mut A, field: &str) -> Result<i64, A::Error> {
    let value: Result<Seconds, A::Error> = map.next_value();
    value.map(|Seconds(value)| value).map_err(|error| {
        de::Error::custom(format!("The value of the \"{field}\" field must be a int: {error}"))
    })
}

/// The document of a post: an object with `messages`; other members are ignored, as in the
/// original.
struct Posted<'a>(Option<Vec<Item<'a>>>);

impl<'de> Deserialize<'de> for Posted<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PostedVisitor;
        impl<'de> Visitor<'de> for PostedVisitor {
            type Value = Posted<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object with a list of messages")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut messages = None;
                while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                    if key == "messages" {
                        messages = Some(map.next_value()?);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Posted(messages))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Posted(None))
            }
        }
        deserializer.deserialize_any(PostedVisitor)
    }
}

struct Item<'a> {
    body: &'a RawValue,
    ttl: Option<i64>,
    delay: Option<i64>,
}

impl<'de> Deserialize<'de> for Item<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemVisitor;
        impl<'de> Visitor<'de> for ItemVisitor {
            type Value = Item<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a message: an object with a \"body\"")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let (mut body, mut ttl, mut delay) = (None, None, None);
                while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                    match key.as_ref() {
                        "body" => body = Some(map.next_value()?),
                        "ttl" => ttl = Some(seconds(&mut map, "ttl")?),
                        "delay" => delay = Some(seconds(&mut map, "delay")?),
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                let body = body.ok_or_else(|| de::Error::custom("Missing \"body\" field"))?;
                Ok(Item { body, ttl, delay })
            }
        }
        deserializer.deserialize_any(ItemVisitor)
    }
}

/// The document of a claim; unknown members are ignored.
#[derive(Debug, Default)]
pub(crate) struct ClaimDocument {
    pub(crate) ttl: Option<i64>,
    pub(crate) grace: Option<i64>,
}

impl<'de> Deserialize<'de> for ClaimDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ClaimVisitor;
        impl<'de> Visitor<'de> for ClaimVisitor {
            type Value = ClaimDocument;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object with \"ttl\" and \"grace\"")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut claim = ClaimDocument::default();
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "ttl" => claim.ttl = Some(seconds(&mut map, "ttl")?),
                        "grace" => claim.grace = Some(seconds(&mut map, "grace")?),
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(claim)
            }
        }
        deserializer.deserialize_any(ClaimVisitor)
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use proptest::prelude::*;
    use zaqar_core::MemoryBudget;

    use super::*;

    fn unlimited() -> Permit {
        MemoryBudget::default().holder().try_acquire(0).unwrap()
    }

    /// The result of a future that waits for nothing.
    fn now<T>(future: impl Future<Output = T>) -> T {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => result,
            Poll::Pending => panic!("it waits"),
        }
    }

    fn post(document: impl Into<Bytes>) -> Result<Vec<PostedMessage>, String> {
        now(decode_post(&document.into(), &mut unlimited())).map_err(|e| e.to_string())
    }

    #[test]
    fn a_large_post_is_decoded_in_parts() {
        let messages = vec![r#"{"body":0}"#; 3 * ITEMS_AT_ONCE + 1].join(",");
        let document = Bytes::from(format!("{{\"messages\":[{messages}]}}"));
        let mut permit = unlimited();
        let mut decoding = pin!(decode_post(&document, &mut permit));
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            assert!(decoding.as_mut().poll(&mut context).is_pending());
        }
        let Poll::Ready(Ok(messages)) = decoding.as_mut().poll(&mut context) else { panic!() };
        assert_eq!(messages.len(), 3 * ITEMS_AT_ONCE + 1);
    }

    #[test]
    fn bodies_are_sliced_out_unchanged() {
        let posted = post(
            r#"{"x":[1],"messages":[ {"ttl":60, "body": {"a" : [1.50, "\u00e9"]} , "delay":true}, {"body":null,"y":{}} ]}"#,
        )
        .unwrap();
        assert_eq!(posted[0].body, r#"{"a" : [1.50, "\u00e9"]}"#);
        assert_eq!((posted[0].ttl, posted[0].delay), (Some(60), Some(1)));
        assert_eq!(posted[1].body, "null");
        assert_eq!((posted[1].ttl, posted[1].delay), (None, None));
    }

    #[test]
    fn a_post_that_is_not_ordinary_is_decoded_too() {
        for document in [
            r#"{"messages":[{"body":1,"ttl":true}]}"#,
            r#"{"mess\u0061ges":[{"body":1,"ttl":1}]}"#,
            r#"{"messages":[{"body":1,"ttl":1000000000000000000}]}"#,
        ] {
            let bytes = Bytes::from(document);
            let scanned = now(scan_post(&bytes, &mut unlimited()));
            assert!(scanned.is_err() && post(document).is_ok(), "{document}");
        }
    }

    fn nearly_posts() -> impl Strategy<Value = String> {
        let member = prop_oneof![
            "\"(body|ttl|delay|x)\":-?[0-9]{1,4}",
            Just("\"body\":{\"a\" : [1.50, \"\\u00e9\"]} ".to_owned()),
            Just("\"body\":\"\\ud83d\\ude00\"".to_owned()),
            Just("\"ttl\":true".to_owned()),
            Just("\"ttl\":null".to_owned()),
            Just("\"ttl\":1.5".to_owned()),
            Just("\"b\\u006fdy\":2".to_owned()),
        ];
        let message = prop::collection::vec(member, 0..4)
            .prop_map(|members| format!(" {{ {} }}", members.join(",")));
        let list = prop::collection::vec(message, 0..4)
            .prop_map(|messages| format!("\"messages\":[{}]", messages.join(" ,")));
        let part = prop_oneof![4 => list, 1 => Just("\"x\":[{}]".to_owned())];
        prop::collection::vec(part, 0..3).prop_map(|parts| format!("{{{}}} ", parts.join(",")))
    }

    proptest! {
        /// What is read in one pass is what the parser reads.
        #[test]
        fn both_ways_to_decode_a_post_agree(
            text in nearly_posts(),
            change in prop::option::of((any::<prop::sample::Index>(), 0u8..128)),
        ) {
            let mut bytes = text.into_bytes();
            if let Some((at, byte)) = change {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let document = Bytes::from(bytes);
            if let Ok(scanned) = now(scan_post(&document, &mut unlimited())) {
                let shown = |messages: &[PostedMessage]| format!("{messages:?}");
                let parsed = parse_post(&document).map_err(|error| error.to_string());
                prop_assert_eq!(parsed.map(|parsed| shown(&parsed)), Ok(shown(&scanned)));
            }
        }
    }

    #[test]
    fn errors_name_the_fault() {
        for (document, says) in [
            ("", "can not be empty"),
            ("{", "could not be parsed"),
            ("3", "could not be parsed: invalid type: integer `3`, expected an object with a list"),
            ("[]", "No messages were found"),
            ("{}", "No messages were found"),
            (r#"{"messages":null}"#, "Document type not supported: invalid type: null"),
            (r#"{"messages":{}}"#, "invalid type: object"),
            (r#"{"messages":{}"#, "could not be parsed: EOF"),
            (r#"{"messages":[3]}"#, "invalid type: integer `3`, expected a message"),
            (r#"{"messages":[{}]}"#, "Missing \"body\" field"),
            (r#"{"messages":[{"body":1,"ttl":"60"}]}"#, "\"ttl\" field must be a int"),
            (r#"{"messages":[{"body":1,"ttl":60.0}]}"#, "\"ttl\" field must be a int"),
            (r#"{"messages":[{"body":1,"ttl":null}]}"#, "\"ttl\" field must be a int"),
            (r#"{"messages":[{"body":NaN}]}"#, "could not be parsed"),
            (r#"{"messages":[{"body":9223372036854775808}]}"#, "integer that is too large"),
            (r#"{"messages":[{"body":1}]} x"#, "could not be parsed"),
        ] {
            let error = post(document).unwrap_err();
            assert!(error.contains(says), "{document}: {error}");
        }
        let not_utf8 = post(&b"{\"messages\":[{\"body\":\"\xff\"}]}"[..]);
        assert!(not_utf8.unwrap_err().contains("not UTF-8"));
    }

    #[test]
    fn the_last_of_two_members_counts() {
        let posted = post(r#"{"messages":3,"messages":[{"body":1,"body":2,"ttl":60,"ttl":70}]}"#);
        assert!(posted.is_err());
        let posted = post(r#"{"messages":[],"messages":[{"body":1,"body":2,"ttl":60,"ttl":70}]}"#);
        let posted = posted.unwrap();
        assert_eq!((posted[0].body.as_ref(), posted[0].ttl), (&b"2"[..], Some(70)));
    }
}
