//! Answers and the JSON in them. Message bodies are copied as they are stored, never parsed.

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value;
use zaqar_api::json;
use zaqar_core::storage::Message;
use zaqar_core::{ClaimId, Timestamp};

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
    out.reserve(json::encoded_size(list, 0) + 16);
    out.put_slice(b"\"messages\":[");
    json::joined(out, list, |out, one| message(out, one, claim, now));
    out.put_u8(b']');
}
