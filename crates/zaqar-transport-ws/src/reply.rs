//! Answers and the JSON in them. Message bodies are copied as they are stored, never parsed.

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value;
use zaqar_api::json;
use zaqar_core::storage::Message;
use zaqar_core::{ClaimId, Timestamp};

use crate::members;
use crate::request::Frame;

/// Headers that no answer repeats: whoever can read an answer must not be able to become its receiver.
const TOKENS: [&str; 3] = ["X-Auth-Token", "X-Service-Token", "X-Storage-Token"];

/// What an operation came to.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// JSON text.
    pub(crate) body: Bytes,
    /// Seconds after which it makes sense to try again.
    pub(crate) retry_after: Option<u64>,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Bytes>) -> Self {
        Self { status, body: body.into(), retry_after: None }
    }

    pub(crate) fn json(status: u16, body: Value) -> Self {
        Self::new(status, body.to_string())
    }

    /// The original's answer where there is nothing to tell.
    pub(crate) fn nothing() -> Self {
        Self::new(204, Bytes::from_static(b"{}"))
    }

    /// The whole answer to a frame, encoded as the frame was.
    pub(crate) fn encode(&self, frame: &Frame) -> Bytes {
        let echoed = frame.body.as_deref().unwrap_or(b"{}");
        let mut out = BytesMut::with_capacity(
            self.body.len() + echoed.len() + frame.headers.len() + frame.action.len() + 128,
        );
        out.put_slice(b"{\"request\":{\"action\":");
        out.put_slice(&frame.action);
        out.put_slice(b",\"body\":");
        out.put_slice(echoed);
        out.put_slice(b",\"headers\":");
        headers(&mut out, &frame.headers);
        out.put_slice(b",\"api\":\"v2\"},\"body\":");
        out.put_slice(&self.body);
        out.put_slice(b",\"headers\":{\"status\":");
        json::number(&mut out, self.status.into());
        if let Some(seconds) = self.retry_after {
            out.put_slice(b",\"Retry-After\":");
            json::number(&mut out, seconds);
        }
        out.put_slice(b"}}");
        frame.encoding.encode(out.freeze())
    }
}

/// Appends the headers of a request, but no token.
fn headers(out: &mut BytesMut, written: &[u8]) {
    let start = out.len();
    out.put_slice(b"{");
    let mut is_first = true;
    let read = members::each(written, |name, value| {
        if TOKENS.iter().any(|token| token.eq_ignore_ascii_case(name)) {
            return;
        }
        if !is_first {
            out.put_slice(b",");
        }
        is_first = false;
        json::string(out, name);
        out.put_slice(b":");
        out.put_slice(value.as_bytes());
    });
    out.put_slice(b"}");
    if read.is_err() {
        // Headers that are no object hold nothing that could be a token.
        out.truncate(start);
        out.put_slice(written);
    }
}

/// Appends a message as lists, gets and claims show it; `claim` is the claim that was asked for.
pub(crate) fn message(
    out: &mut BytesMut,
    message: &Message,
    claim: Option<ClaimId>,
    now: Timestamp,
) {
    out.put_slice(b"{\"id\":\"");
    out.put_slice(&message.id.encode());
    match claim {
        None => out.put_slice(b"\",\"claim_id\":null"),
        Some(claim) => {
            out.put_slice(b"\",\"claim_id\":\"");
            out.put_slice(&claim.encode());
            out.put_u8(b'"');
        }
    }
    json::ttl_age_body(out, message, now);
    out.put_u8(b'}');
}

/// Appends `"messages":[…]`.
pub(crate) fn messages(
    out: &mut BytesMut,
    list: &[Message],
    claim: Option<ClaimId>,
    now: Timestamp,
) {
    out.reserve(json::room(list, 0) + 16);
    out.put_slice(b"\"messages\":[");
    json::joined(out, list, |out, one| message(out, one, claim, now));
    out.put_u8(b']');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_token_is_repeated() {
        let written =
            br#"{"Client-ID":"c","x-auth-TOKEN":"secret","X-Auth-\u0054oken":"secret","a":[1]}"#;
        let mut out = BytesMut::new();
        headers(&mut out, written);
        assert_eq!(out, r#"{"Client-ID":"c","a":[1]}"#);
        out.clear();
        headers(&mut out, b"\"text\"");
        assert_eq!(out, "\"text\"");
    }
}
