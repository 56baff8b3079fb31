//! What frames say.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::Reply;
use crate::Error;
use crate::error::Refusal;
use crate::types::Body;
use crate::webhook::Notification;

/// A request.
#[derive(Debug, Serialize)]
pub(super) struct Request<'a> {
    pub(super) action: &'a str,
    pub(super) headers: &'a Map<String, Value>,
    pub(super) body: &'a RawValue,
}

/// What a frame from the server is.
#[derive(Debug, PartialEq)]
pub(super) enum Received {
    /// The answer to the oldest request that has none.
    Answer(u16, Body),
    /// A message that was posted.
    Push(Notification),
}

#[derive(Deserialize)]
struct Frame {
    #[serde(default)]
    headers: Option<Status>,
    #[serde(rename = "Message_Type", default)]
    message_type: Option<String>,
    #[serde(default)]
    body: Option<Body>,
    #[serde(default)]
    ttl: u64,
    #[serde(default)]
    queue_name: String,
}

#[derive(Deserialize)]
struct Status {
    status: u16,
}

/// Reads a frame.
pub(super) fn read(text: &str) -> Result<Received, serde_json::Error> {
    let frame: Frame = serde_json::from_str(text)?;
    let body = match frame.body {
        Some(body) => body,
        None => RawValue::from_string("null".to_owned())?.into(),
    };
    match (frame.headers, frame.message_type) {
        (Some(Status { status }), _) => Ok(Received::Answer(status, body)),
        (None, Some(message_type)) => Ok(Received::Push(Notification {
            body,
            ttl: frame.ttl,
            queue_name: frame.queue_name,
            message_type,
        })),
        (None, None) => Err(serde::de::Error::custom("neither an answer nor a push")),
    }
}

/// What the answer to `action` means.
pub(super) fn outcome(action: &str, status: u16, body: Body) -> Result<Reply, Error> {
    if (200..300).contains(&status) {
        return Ok(Reply { status, body });
    }
    let document: Value = body.parse().unwrap_or_default();
    Err(Error::from(Box::new(Refusal {
        method: action.to_owned(),
        path: "over WebSocket".to_owned(),
        status,
        title: String::new(),
        description: document["error"].as_str().unwrap_or_default().to_owned(),
        retry_after: None,
        request_id: None,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_pushes_are_distinguished() {
        let answer =
            r#"{"request":{"action":"ping_node"},"headers":{"status":204},"body":{"a":1}}"#;
        let Received::Answer(204, body) = read(answer).unwrap() else { panic!("no answer") };
        assert_eq!(body.as_json(), r#"{"a":1}"#);
        let push = r#"{"ttl":60,"body":"x","Message_Type":"Notification","queue_name":"q"}"#;
        let Received::Push(push) = read(push).unwrap() else { panic!("no push") };
        assert_eq!((&*push.queue_name, push.ttl), ("q", 60));
        assert!(read("{}").is_err() && read("[").is_err());
    }

    #[test]
    fn an_error_keeps_the_text_of_the_server() {
        let body = RawValue::from_string(r#"{"error":"no such queue"}"#.to_owned()).unwrap();
        let error = outcome("queue_get_stats", 404, body.into()).unwrap_err();
        assert!(error.is_not_found());
        assert!(error.to_string().contains("no such queue"), "{error}");
    }
}
