//! Messages.

use std::slice;

use bytes::{BufMut, Bytes, BytesMut};
use zaqar_api::{
    CheckPostSize, DeleteMessage, DeleteMessages, Error, ListMessages, PopMessages, PostMessages,
    PostedMessage, ReadMessage, ReadMessages, json,
};
use zaqar_core::Permit;
use zaqar_core::json::Scan;

use super::{Exchange, HandlerResult};
use crate::error::WsError;
use crate::members::{Items, Members, Shape, shape};
use crate::reply::{self, Reply};

/// Messages that are decoded, or ids that are encoded, before other tasks run.
const ITEMS_AT_ONCE: usize = 1000;

const NEITHER: &str = "The request should have either \"ids\" or \"pop\" parameter in the request, \
                       to be able to delete.";
const BOTH: &str = "pop and id params cannot be present together in the delete request.";

impl Exchange {
    pub(super) async fn post_messages(&self) -> HandlerResult {
        let queue = self.queue()?;
        let written = self.request.body.get("messages").cloned().unwrap_or_default();
        let size = written.len() as u64;
        let mut decoded = self.holder.try_acquire(0).map_err(WsError::over_budget)?;
        let messages = match posted(&written, &mut decoded).await {
            Ok(messages) => messages,
            Err(error @ WsError::Api(Error::Overloaded { .. })) => return Err(error),
            // As in the original, a size past the limit is reported before a malformed body,
            // although that reads the queue.
            Err(error) => {
                self.call(CheckPostSize { queue, size }).await?;
                return Err(error);
            }
        };
        self.checked_client()?;
        let request = PostMessages { queue, size, messages, notify: false };
        let ids = self.call(request).await?;
        drop(decoded);
        let mut out = BytesMut::with_capacity(32 + ids.len() * 40);
        out.put_slice(b"{\"message_ids\":[");
        for (number, part) in ids.chunks(ITEMS_AT_ONCE).enumerate() {
            if number > 0 {
                out.put_u8(b',');
                tokio::task::yield_now().await;
            }
            json::joined(&mut out, part, |out, id| {
                out.put_slice(b"\"");
                out.put_slice(&id.encode());
                out.put_slice(b"\"");
            });
        }
        out.put_slice(b"]}");
        Ok(Reply::new(201, out))
    }

    pub(super) async fn list_messages(&self) -> HandlerResult {
        let body = &self.request.body;
        self.checked_client()?;
        let request = ListMessages {
            queue: self.queue()?,
            marker: body.text("marker"),
            limit: body.integer("limit"),
            echo: self.lenient_boolean("echo"),
            include_claimed: self.lenient_boolean("include_claimed"),
            include_delayed: self.lenient_boolean("include_delayed"),
        };
        let page = self.call(request).await?;
        Ok(self.message_list(&page.messages).await)
    }

    pub(super) async fn get_messages(&self) -> HandlerResult {
        let ids = self.ids("message_ids").unwrap_or_default();
        let request = ReadMessages { queue: self.queue()?, ids };
        let messages = self.call(request).await?;
        Ok(self.message_list(&messages).await)
    }

    pub(super) async fn get_message(&self) -> HandlerResult {
        let (queue, id) = (self.queue()?, self.text("message_id"));
        let name = queue.name.to_string();
        let found = self.call(ReadMessage { queue, id: id.clone() }).await?;
        let Some(message) = found else {
            let project = self.context.project.to_string();
            return Err(WsError::MessageNotFound { id, queue: name, project });
        };
        let mut out = BytesMut::with_capacity(json::encoded_size(slice::from_ref(&message), 16));
        out.put_slice(b"{\"messages\":");
        reply::message(&mut out, &message, None, self.now());
        out.put_slice(b"}");
        Ok(Reply::new(200, out))
    }

    async fn message_list(&self, messages: &[zaqar_core::storage::Message]) -> Reply {
        let mut out = BytesMut::new();
        out.put_slice(b"{");
        reply::messages(&self.turns, &mut out, messages, None, self.now()).await;
        out.put_slice(b"}");
        Reply::new(200, out)
    }

    pub(super) async fn delete_message(&self) -> HandlerResult {
        let claim = self.request.body.text("claim_id");
        let request = DeleteMessage { queue: self.queue()?, id: self.text("message_id"), claim };
        self.call(request).await?;
        Ok(Reply::no_content())
    }

    pub(super) async fn delete_messages(&self) -> HandlerResult {
        let queue = self.queue()?;
        match (self.ids("message_ids"), self.request.body.integer("pop")) {
            (Some(_), Some(_)) => Err(WsError::invalid(BOTH)),
            (None, None) => Err(WsError::invalid(NEITHER)),
            (Some(ids), None) => {
                let claims = self.ids("claim_ids");
                let request = DeleteMessages { queue, ids, claims };
                self.call(request).await?;
                Ok(Reply::no_content())
            }
            (None, Some(limit)) => {
                let request = PopMessages { queue, limit };
                let messages = self.call(request).await?;
                Ok(Reply::new(200, reply::popped(&self.turns, &messages, self.now()).await))
            }
        }
    }
}

/// The messages of a post; none if `list` is no list. Bodies are slices of the frame; what the
/// messages occupy besides is charged to `permit`. Other tasks run between the parts of a large
/// post.
async fn posted(list: &Bytes, permit: &mut Permit) -> Result<Vec<PostedMessage>, WsError> {
    let messages = match scan_posted(list, permit).await? {
        Some(messages) => messages,
        None => {
            let mut messages = Vec::new();
            for item in Items::of(list) {
                add_posted(&mut messages, &list.slice_ref(item), permit).await?;
            }
            messages
        }
    };
    PostedMessage::charge(&messages, permit).map_err(WsError::over_budget)?;
    Ok(messages)
}

/// Decodes an ordinary list in one pass; `None` for any other.
async fn scan_posted(
    list: &Bytes,
    permit: &mut Permit,
) -> Result<Option<Vec<PostedMessage>>, WsError> {
    let (mut scan, mut messages) = (Scan::of_checked(list), Vec::new());
    let Ok(mut is_item) = scan.first_item() else { return Ok(None) };
    while is_item {
        let Ok(item) = scan.value() else { return Ok(None) };
        add_posted(&mut messages, &list.slice_ref(item), permit).await?;
        let Ok(has_next) = scan.next_item() else { return Ok(None) };
        is_item = has_next;
    }
    Ok(scan.end().is_ok().then_some(messages))
}

/// Decodes one message of a post. Lets other tasks run after each part.
async fn add_posted(
    messages: &mut Vec<PostedMessage>,
    item: &Bytes,
    permit: &mut Permit,
) -> Result<(), WsError> {
    messages.push(one_posted(item)?);
    if messages.len().is_multiple_of(ITEMS_AT_ONCE) {
        PostedMessage::charge(messages, permit).map_err(WsError::over_budget)?;
        tokio::task::yield_now().await;
    }
    Ok(())
}

fn one_posted(item: &Bytes) -> Result<PostedMessage, WsError> {
    let bad = |reason: &str| WsError::invalid(format!("Bad request. {reason}"));
    let members = Members::of(item, &["body", "ttl", "delay"])
        .map_err(|_| bad("A message must be an object with a \"body\"."))?;
    let seconds = |name: &str| {
        let Some(value) = members.get(name) else { return Ok(None) };
        match (value.as_ref(), shape(value)) {
            (_, Shape::Integer) => Ok(members.integer(name)),
            // As in the original, where a boolean is an integer.
            (b"true", _) => Ok(Some(1)),
            (b"false", _) => Ok(Some(0)),
            _ => Err(bad(&format!("The value of the \"{name}\" field must be a int."))),
        }
    };
    let body = members.get("body").ok_or_else(|| bad("Missing \"body\" field."))?;
    Ok(PostedMessage { body: body.clone(), ttl: seconds("ttl")?, delay: seconds("delay")? })
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use zaqar_core::{MemoryBounds, MemoryBudget};

    use super::*;

    #[test]
    fn bodies_are_slices_of_the_frame() {
        let item =
            Bytes::from_static(b"{\"ttl\":60,\"x\":1,\"body\": {\"a\" : [1, 2]},\"delay\":true}");
        let message = one_posted(&item).unwrap();
        assert_eq!(message.body, "{\"a\" : [1, 2]}");
        assert!(item.as_ptr_range().contains(&message.body.as_ptr()));
        assert_eq!((message.ttl, message.delay), (Some(60), Some(1)));
    }

    #[test]
    fn a_large_post_is_decoded_in_parts_that_are_charged() {
        let list = |first: &str, count| {
            let rest = vec!["{\"body\":0}"; count - 1].join(",");
            Bytes::from(format!("[{first},{rest}]"))
        };
        let count = 3 * ITEMS_AT_ONCE + 1;
        let mut context = Context::from_waker(Waker::noop());
        // One that is scanned, and one that must be parsed.
        for first in ["{\"body\":0}", "{\"bod\\u0079\":0}"] {
            let (list, budget) = (list(first, count), MemoryBudget::default());
            let mut permit = budget.holder().try_acquire(0).unwrap();
            let mut decoding = pin!(posted(&list, &mut permit));
            for part in 1..=3 {
                assert!(decoding.as_mut().poll(&mut context).is_pending());
                assert_eq!(budget.in_use(), part * ITEMS_AT_ONCE * PostedMessage::OCCUPIES);
            }
            let Poll::Ready(Ok(messages)) = decoding.as_mut().poll(&mut context) else { panic!() };
            assert_eq!(messages.len(), count);
            assert_eq!(budget.in_use(), count * PostedMessage::OCCUPIES);
        }
        let process = 3 * ITEMS_AT_ONCE / 2 * PostedMessage::OCCUPIES;
        let budget = MemoryBudget::new(MemoryBounds { process, ..MemoryBounds::UNLIMITED });
        let (list, mut permit) =
            (list("{\"body\":0}", count), budget.holder().try_acquire(0).unwrap());
        let mut decoding = pin!(posted(&list, &mut permit));
        assert!(decoding.as_mut().poll(&mut context).is_pending());
        let Poll::Ready(Err(error)) = decoding.as_mut().poll(&mut context) else { panic!() };
        assert!(matches!(error, WsError::Api(Error::Overloaded { .. })), "{error}");
    }

    #[test]
    fn an_invalid_message_is_rejected_with_a_reason() {
        for (item, says) in [
            ("3", "object"),
            ("{\"ttl\":60}", "Missing \"body\""),
            ("{\"body\":1,\"ttl\":\"x\"}", "\"ttl\" field must be a int"),
            ("{\"body\":1,\"delay\":1.5}", "\"delay\" field must be a int"),
            ("{\"body\":1,\"ttl\":null}", "\"ttl\" field must be a int"),
        ] {
            let error = one_posted(&Bytes::from_static(item.as_bytes())).unwrap_err().to_string();
            assert!(error.starts_with("Bad request. ") && error.contains(says), "{item}: {error}");
        }
    }
}
