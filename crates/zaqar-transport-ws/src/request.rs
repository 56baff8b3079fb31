//! Decodes a frame to a request, and validates it against the schema of its action.

use bytes::Bytes;
use tokio_tungstenite::tungstenite::Message;
use zaqar_api::Access;
use zaqar_core::QueueName;
use zaqar_core::limits::MAX_DOCUMENT;

use crate::action::{Action, BodyRule, FIELDS, Field};
use crate::encoding::Encoding;
use crate::error::WsError;
use crate::members::{Members, Shape, shape};
use crate::pipeline::Footprint;

/// The members of a frame that are read.
const PARTS: &[&str] = &["action", "headers", "body"];

/// Headers that any action reads.
const HEADERS: &[&str] = &[
    "Accept",
    "Client-ID",
    "Date",
    "URL-Expires",
    "URL-Methods",
    "URL-Paths",
    "URL-Signature",
    "User-Agent",
    "X-Auth-Token",
    "X-OpenStack-Request-ID",
    "X-Project-ID",
    "X-Roles",
    "X-Service-Token",
    "traceparent",
];

/// Headers that must be strings if present.
const STRINGS: &[&str] = &[
    "Accept",
    "Client-ID",
    "Date",
    "User-Agent",
    "X-Auth-Token",
    "X-Project-ID",
    "X-Service-Token",
];

/// The parts of a request frame, which its answer repeats.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// The encoding of the frame and of its answer.
    pub(crate) encoding: Encoding,
    /// The JSON text of `action`.
    pub(crate) action: Bytes,
    /// The JSON text of `headers`.
    pub(crate) headers: Bytes,
    /// The JSON text of `body`.
    pub(crate) body: Option<Bytes>,
}

/// A request that passed validation.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) frame: Frame,
    pub(crate) action: Action,
    pub(crate) headers: Members,
    pub(crate) body: Members,
}

/// A frame that was rejected, and why.
#[derive(Debug)]
pub(crate) struct RejectedFrame {
    pub(crate) frame: Frame,
    pub(crate) error: WsError,
}

impl RejectedFrame {
    pub(crate) fn boxed(frame: Frame, error: WsError) -> Box<Self> {
        Box::new(Self { frame, error })
    }
}

impl Frame {
    /// An empty frame, for the answer to one that cannot be decoded.
    pub(crate) const fn empty(encoding: Encoding) -> Self {
        Self {
            encoding,
            action: Bytes::from_static(b"null"),
            headers: Bytes::from_static(b"{}"),
            body: None,
        }
    }

    /// Reads the outermost object. `None` for frames that are not messages.
    ///
    /// # Errors
    /// [`WsError::Undecodable`], [`WsError::NotAnObject`] and [`WsError::Repeated`].
    pub(crate) fn read(message: Message) -> Option<(Encoding, Result<Self, WsError>)> {
        let (encoding, document) = match message {
            Message::Text(text) => (Encoding::Json, Bytes::from(text)),
            Message::Binary(bytes) => (Encoding::MessagePack, bytes),
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => {
                return None;
            }
        };
        Some((encoding, Self::decode(encoding, document)))
    }

    fn decode(encoding: Encoding, document: Bytes) -> Result<Self, WsError> {
        let text = encoding
            .decode(document)
            .map_err(|reason| WsError::Undecodable { kind: encoding.name(), reason })?;
        let parts = Members::of(&text, PARTS).map_err(|_| WsError::NotAnObject)?;
        if parts.repeated() == Some("headers") {
            return Err(WsError::Repeated { name: "headers" });
        }
        let part = |name| parts.get(name).cloned();
        Ok(Self {
            encoding,
            action: part("action").unwrap_or_else(|| Bytes::from_static(b"null")),
            headers: part("headers")
                .filter(|headers| !is_empty(headers))
                .unwrap_or_else(|| Bytes::from_static(b"{}")),
            body: part("body"),
        })
    }

    /// Validates it against the schema of its action.
    ///
    /// # Errors
    /// [`WsError::UnknownAction`], [`WsError::Schema`] and [`WsError::Repeated`], with the frame
    /// itself.
    pub(crate) fn check(self) -> Result<Request, Box<RejectedFrame>> {
        let Some(action) = self.named_action() else {
            let name = self.shown_action();
            return Err(RejectedFrame::boxed(self, WsError::UnknownAction { name }));
        };
        match self.checked_parts(action) {
            Ok((headers, _)) if headers.repeated().is_some() => {
                let name = headers.repeated().unwrap_or_default();
                Err(RejectedFrame::boxed(self, WsError::Repeated { name }))
            }
            Ok((headers, body)) => Ok(Request { frame: self, action, headers, body }),
            Err(rule) => Err(RejectedFrame::boxed(self, WsError::Schema { rule })),
        }
    }

    /// Bytes that it occupies.
    pub(crate) fn size(&self) -> usize {
        self.action.len() + self.headers.len() + self.body.as_ref().map_or(0, Bytes::len)
    }

    fn named_action(&self) -> Option<Action> {
        Action::named(&serde_json::from_slice::<String>(&self.action).ok()?)
    }

    /// An unknown action, as the original's error shows it.
    fn shown_action(&self) -> String {
        match self.action.as_ref() {
            b"null" => "None".to_owned(),
            b"true" => "True".to_owned(),
            b"false" => "False".to_owned(),
            other => serde_json::from_slice(other)
                .unwrap_or_else(|_| String::from_utf8_lossy(other).into_owned()),
        }
    }

    /// Headers and body, or the rule that the request breaks.
    fn checked_parts(&self, action: Action) -> Result<(Members, Members), String> {
        let headers = self.checked_headers(action)?;
        let body = match (&self.body, action.body_rule()) {
            (_, BodyRule::Ignored) | (None, BodyRule::Optional) => {
                return Ok((headers, Members::default()));
            }
            (None, BodyRule::Required) => return Err("The action needs a \"body\".".to_owned()),
            (Some(body), BodyRule::Optional | BodyRule::Required)
                if !action.has_own_limit() && body.len() as u64 > MAX_DOCUMENT =>
            {
                let size = body.len();
                return Err(format!(
                    "The \"body\" of this action may not exceed {MAX_DOCUMENT} bytes: {size} were \
                     given."
                ));
            }
            (Some(body), BodyRule::Optional | BodyRule::Required) => Members::of(body, FIELDS)
                .map_err(|_| format!("The \"body\" must be an object, not {}.", shown(body)))?,
        };
        for Field { name, shape: expected, required } in action.fields() {
            match body.get(name) {
                Some(value) if shape(value) != *expected => {
                    let value = shown(value);
                    return Err(format!("\"{name}\" in the body must be {expected}, not {value}."));
                }
                None if *required => {
                    return Err(format!("The body needs \"{name}\", which is {expected}."));
                }
                Some(_) | None => {}
            }
        }
        Ok((headers, body))
    }

    /// Errors name no value of a header: it may be a token.
    fn checked_headers(&self, action: Action) -> Result<Members, String> {
        let headers = Members::of(&self.headers, HEADERS)
            .map_err(|_| format!("\"headers\" must be an object, not {}.", shape(&self.headers)))?;
        for name in STRINGS {
            if let Some(value) = headers.get(name)
                && shape(value) != Shape::Text
            {
                let found = shape(value);
                return Err(format!("The header \"{name}\" must be a string, not {found}."));
            }
        }
        match action.required_headers().iter().find(|name| headers.get(name).is_none()) {
            Some(name) => Err(format!("The header \"{name}\" is required.")),
            None => Ok(headers),
        }
    }
}

/// Characters of a wrong value that an error shows.
const SHOWN: usize = 64;

/// The JSON text of a wrong value, cut.
fn shown(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into_owned(),
    }
}

/// Whether a value is false in Python: the original treats such headers as absent.
fn is_empty(value: &[u8]) -> bool {
    let without_space = || value.iter().filter(|byte| !byte.is_ascii_whitespace());
    [&b"null"[..], b"false", b"0", b"\"\"", b"[]"].iter().any(|empty| without_space().eq(*empty))
}

impl Request {
    /// The queue that it names.
    pub(crate) fn queue(&self) -> Option<QueueName> {
        QueueName::new(&self.body.text("queue_name")?).ok()
    }

    /// What it accesses, as its operation declares.
    pub(crate) fn footprint(&self) -> Footprint {
        // A token changes what every later request may do.
        let Some(declaration) = self.action.declaration() else { return Footprint::Everything };
        let on = |of: fn(QueueName) -> Footprint| self.queue().map_or(Footprint::Nothing, of);
        match (declaration.access, declaration.names_queue()) {
            (Access::Nothing, _) => Footprint::Nothing,
            (Access::Read | Access::Write, false) => Footprint::Everything,
            (Access::Read, true) => on(Footprint::Reads),
            (Access::Write, true) => on(Footprint::Writes),
        }
    }

    /// Whether it subscribes its own connection.
    pub(crate) fn subscribes_connection(&self) -> bool {
        self.action == Action::SubscriptionCreate
            && self.body.text("subscriber").is_none_or(|subscriber| subscriber.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(document: &str) -> Result<Request, String> {
        let read = Frame::read(Message::text(document)).unwrap().1;
        read.map_err(|e| e.to_string())?.check().map_err(|rejected| rejected.error.to_string())
    }

    #[test]
    fn schemas_are_the_originals() {
        let headers = r#""headers":{"Client-ID":"c","X-Project-ID":"p"}"#;
        for (rest, holds) in [
            (r#""action":"queue_list""#, true),
            (r#""action":"queue_list","body":{}"#, true),
            (r#""action":"queue_list","body":null"#, false),
            (r#""action":"queue_list","body":{"limit":true}"#, false),
            (r#""action":"queue_list","body":{"limit":1.0}"#, false),
            (r#""action":"queue_list","body":{"limit":null}"#, false),
            (r#""action":"queue_list","body":{"limit":1,"more":[]}"#, true),
            (r#""action":"queue_get","body":{}"#, false),
            (r#""action":"queue_get""#, false),
            (r#""action":"queue_get","body":{"queue_name":1}"#, false),
            (r#""action":"queue_get","body":{"queue_name":1,"queue_name":"q"}"#, true),
            (r#""action":"message_post","body":{"queue_name":"q","messages":{}}"#, false),
            (
                r#""action":"claim_update","body":{"queue_name":"q","claim_id":"c","grace":"x"}"#,
                true,
            ),
            (r#""action":"subscription_create","body":{"queue_name":"q","options":[]}"#, false),
        ] {
            assert_eq!(check(&format!("{{{headers},{rest}}}")).is_ok(), holds, "{rest}");
        }
        for (document, holds) in [
            (r#"{"action":"queue_list","headers":{"X-Project-ID":"p"}}"#, false),
            (r#"{"action":"queue_list","headers":{"Client-ID":"c","x-project-id":"p"}}"#, false),
            (r#"{"action":"queue_list","headers":{"Client-ID":1,"X-Project-ID":"p"}}"#, false),
            (r#"{"action":"queue_list"}"#, false),
            (r#"{"action":"ping_node","headers":{}}"#, true),
            (r#"{"action":"ping_node","headers":[]}"#, true),
            (r#"{"action":"ping_node","headers":"x"}"#, false),
            (r#"{"action":"ping_node","headers":{"Date":1}}"#, false),
            (r#"{"action":"authenticate","headers":{"X-Project-ID":"p"}}"#, false),
            (
                r#"{"action":"authenticate","headers":{"X-Project-ID":"p","X-Auth-Token":"t"}}"#,
                true,
            ),
        ] {
            assert_eq!(check(document).is_ok(), holds, "{document}");
        }
    }

    #[test]
    fn an_error_names_the_rule_and_the_value() {
        let headers = r#""headers":{"Client-ID":"c","X-Project-ID":"p"}"#;
        let long = "x".repeat(100);
        let cut = format!("\"queue_name\" in the body must be a string, not [\"{}….", &long[..62]);
        for (rest, says) in [
            (r#""action":"queue_get""#.to_owned(), r#"The action needs a "body"."#),
            (
                r#""action":"queue_list","body":null"#.to_owned(),
                r#"The "body" must be an object, not null."#,
            ),
            (
                r#""action":"queue_list","body":{"limit":1.5}"#.to_owned(),
                r#""limit" in the body must be an integer, not 1.5."#,
            ),
            (
                r#""action":"queue_get","body":{}"#.to_owned(),
                r#"The body needs "queue_name", which is a string."#,
            ),
            (format!(r#""action":"queue_get","body":{{"queue_name":["{long}"]}}"#), &cut),
        ] {
            let error = check(&format!("{{{headers},{rest}}}")).unwrap_err();
            assert_eq!(error, format!("Schema validation failed. {says}"), "{rest}");
        }
        for (headers, says) in [
            ("{}", r#"The header "Client-ID" is required."#),
            (r#"{"Client-ID":"c"}"#, r#"The header "X-Project-ID" is required."#),
            (r#"{"Client-ID":7}"#, r#"The header "Client-ID" must be a string, not an integer."#),
            (
                r#"{"X-Auth-Token":["secret"]}"#,
                r#"The header "X-Auth-Token" must be a string, not a list."#,
            ),
            (r#""x""#, r#""headers" must be an object, not a string."#),
        ] {
            let error = check(&format!(r#"{{"action":"queue_list","headers":{headers}}}"#));
            assert_eq!(
                error.unwrap_err(),
                format!("Schema validation failed. {says}"),
                "{headers}"
            );
        }
    }

    #[test]
    fn only_messages_and_metadata_may_be_larger_than_a_document() {
        let request = |action: &str, size: usize| {
            let body = r#"{"queue_name":"q","messages":[],"message_ids":[]"#;
            let space = " ".repeat(size - body.len() - 1);
            let headers = r#"{"Client-ID":"c","X-Project-ID":"p"}"#;
            check(&format!(r#"{{"action":"{action}","headers":{headers},"body":{body}{space}}}}}"#))
        };
        for action in ["subscription_create", "message_get_many", "queue_purge", "queue_list"] {
            assert!(request(action, 65_536).is_ok(), "{action}");
            let says = "Schema validation failed. The \"body\" of this action may not exceed 65536 \
                        bytes: 65537 were given.";
            assert_eq!(request(action, 65_537).unwrap_err(), says, "{action}");
        }
        for action in ["message_post", "queue_create"] {
            assert!(request(action, 500_000).is_ok(), "{action}");
        }
    }

    #[test]
    fn an_unknown_action_is_named() {
        for (action, shown) in
            [("\"nope\"", "nope"), ("null", "None"), ("true", "True"), ("[1]", "[1]"), ("7", "7")]
        {
            let error = check(&format!("{{\"action\":{action}}}")).unwrap_err();
            assert_eq!(error, format!("{shown} is not a valid action"));
        }
        assert_eq!(check("{}").unwrap_err(), "None is not a valid action");
    }
}
