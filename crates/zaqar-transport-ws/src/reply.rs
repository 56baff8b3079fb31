//! Replies and their JSON. Message bodies are copied as they are stored, never parsed.

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value;
use zaqar_api::json;
use zaqar_core::storage::Message;
use zaqar_core::{ClaimId, Timestamp};

/// The result of an action.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// JSON text.
    pub(crate) body: Bytes,
    /// Seconds after which the client should retry.
    pub(crate) retry_after: Option<u64>,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Bytes>) -> Self {
        Self { status, body: body.into(), retry_after: None }
    }

    pub(crate) fn json(status: u16, body: Value) -> Self {
        Self::new(status, body.to_string())
    }

    /// The original's answer without content.
    pub(crate) fn no_content() -> Self {
        Self::new(204, Bytes::from_static(b"{}"))
    }
}

/// Appends a message as in lists, gets and claims; `claim` is the claim that was read or created.
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
