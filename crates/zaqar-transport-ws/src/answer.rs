//! Encodes the frame that answers a request: the repeated request, and the reply.

use bytes::{BufMut, Bytes, BytesMut};
use zaqar_api::json;

use crate::members;
use crate::reply::Reply;
use crate::request::Frame;

/// Headers that no answer repeats: whoever can read an answer must not be able to impersonate the
/// client.
const TOKENS: [&str; 3] = ["X-Auth-Token", "X-Service-Token", "X-Storage-Token"];

/// The complete answer to a frame, in the frame's encoding.
pub(crate) fn encode(reply: &Reply, frame: &Frame) -> Bytes {
    let echoed = frame.body.as_deref().unwrap_or(b"{}");
    let mut out = BytesMut::with_capacity(
        reply.body.len() + echoed.len() + frame.headers.len() + frame.action.len() + 128,
    );
    out.put_slice(b"{\"request\":{\"action\":");
    out.put_slice(&frame.action);
    out.put_slice(b",\"body\":");
    out.put_slice(echoed);
    out.put_slice(b",\"headers\":");
    headers(&mut out, &frame.headers);
    out.put_slice(b",\"api\":\"v2\"},\"body\":");
    out.put_slice(&reply.body);
    out.put_slice(b",\"headers\":{\"status\":");
    json::number(&mut out, reply.status.into());
    if let Some(seconds) = reply.retry_after {
        out.put_slice(b",\"Retry-After\":");
        json::number(&mut out, seconds);
    }
    out.put_slice(b"}}");
    frame.encoding.encode(out.freeze())
}

/// Appends the headers of a request without its tokens.
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
        out.put_slice(value);
    });
    out.put_slice(b"}");
    if read.is_err() {
        // Headers that are not an object contain no tokens.
        out.truncate(start);
        out.put_slice(written);
    }
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
