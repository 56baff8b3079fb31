//! Messages.

use std::slice;

use bytes::{BufMut, BytesMut};
use http::{StatusCode, header};
use zaqar_api::{
    CheckPostSize, DeleteMessage, DeleteMessages, Error, ListMessages, Part, PopMessages,
    PostMessages, QueueRef, ReadMessage, ReadMessages, json,
};
use zaqar_core::MessageId;

use super::{Exchange, HandlerResult};
use crate::body::{self, ITEMS_AT_ONCE};
use crate::error::HttpError;
use crate::respond::{self, queue_path};

/// Maximum number of ids in a `Location`: clients fail on header lines of many KiB, and would post
/// the stored messages again. The body always has all ids.
const MAX_LOCATION_IDS: usize = 100;

impl Exchange<'_> {
    pub(super) async fn post_messages(mut self, queue: QueueRef) -> HandlerResult {
        let max = self.inner.api.limits().max_messages_post_size;
        let document = self
            .document(max, |max| HttpError::TooLarge {
                reason: format!("Message collection size is too large. Max size {max}"),
            })
            .await?;
        let size = document.len() as u64;
        let mut decoded = self.holder.try_acquire(0)?;
        let messages = match body::decode_post(&document, &mut decoded).await {
            Ok(messages) => messages,
            Err(error @ HttpError::OverBudget(_)) => return Err(error),
            // As in the original, a size past the queue's limit is reported before a malformed
            // body, although that reads the queue.
            Err(error) => {
                self.call(CheckPostSize { queue, size }).await?;
                return Err(error);
            }
        };
        let base = queue_path(queue.kind, &queue.name);
        let request = PostMessages { queue, size, messages, notify: false };
        let ids = self.call(request).await?;
        drop(decoded);
        let mut out = BytesMut::with_capacity(16 + ids.len() * (base.len() + 48));
        out.put_slice(b"{\"resources\":[");
        for (number, part) in ids.chunks(ITEMS_AT_ONCE).enumerate() {
            if number > 0 {
                out.put_u8(b',');
                tokio::task::yield_now().await;
            }
            json::joined(&mut out, part, |out, id| {
                out.put_u8(b'"');
                out.put_slice(base.as_bytes());
                out.put_slice(b"/messages/");
                out.put_slice(&id.encode());
                out.put_u8(b'"');
            });
        }
        out.put_slice(b"]}");
        let mut response = respond::json(StatusCode::CREATED, out.freeze());
        respond::set(&mut response, header::LOCATION, location(&base, &ids).freeze());
        Ok(response)
    }

    pub(super) async fn list_messages(self, queue: QueueRef) -> HandlerResult {
        if let Some(ids) = self.ids("ids") {
            return self.messages_by_id(queue, ids).await;
        }
        let query = self.query;
        let limit = query.integer("limit")?;
        let echo = query.boolean("echo")?;
        let include_claimed = query.boolean("include_claimed")?;
        let include_delayed = query.boolean("include_delayed")?;
        let base = queue_path(queue.kind, &queue.name);
        let request = ListMessages {
            queue,
            marker: query.text("marker"),
            limit,
            echo: echo.unwrap_or(false),
            include_claimed: include_claimed.unwrap_or(false),
            include_delayed: include_delayed.unwrap_or(false),
        };
        let page = self.call(request).await?;
        let next = page.next.map(|next| {
            let mut href = format!("{base}/messages?");
            if let Some(limit) = limit {
                href.push_str(&format!("limit={limit}&"));
            }
            let flags = [
                ("echo", echo),
                ("include_claimed", include_claimed),
                ("include_delayed", include_delayed),
            ];
            for (name, value) in flags {
                if let Some(value) = value {
                    href.push_str(&format!("{name}={value}&"));
                }
            }
            href + &format!("marker={next}")
        });
        let now = self.inner.api.clock().now();
        let turns = &self.inner.turns;
        let document = respond::messages(turns, &base, &page.messages, now, |out| {
            respond::links(out, next);
        });
        Ok(respond::json(StatusCode::OK, document.await))
    }

    /// A list of ids, or one more than a request may have.
    fn ids(&self, name: &str) -> Option<Vec<String>> {
        self.query.list(name, self.inner.api.limits().max_messages_per_page)
    }

    async fn messages_by_id(self, queue: QueueRef, ids: Vec<String>) -> HandlerResult {
        let base = queue_path(queue.kind, &queue.name);
        let name = queue.name.clone();
        let request = ReadMessages { queue, ids: ids.clone() };
        let messages = self.call(request).await?;
        if messages.is_empty() {
            let project = &self.context.project;
            let ids = ids.iter().map(|id| format!("'{id}'")).collect::<Vec<_>>().join(", ");
            let description = format!(
                "No messages with IDs: [{ids}] found in the queue {name} for project {project}."
            );
            return Err(HttpError::NotFound { description });
        }
        let now = self.inner.api.clock().now();
        let document = respond::messages(&self.inner.turns, &base, &messages, now, |_| {}).await;
        Ok(respond::json(StatusCode::OK, document))
    }

    pub(super) async fn get_message(self, queue: QueueRef, id: &str) -> HandlerResult {
        let base = queue_path(queue.kind, &queue.name);
        let name = queue.name.clone();
        let found = self.call(ReadMessage { queue, id: id.to_owned() }).await?;
        let Some(message) = found else {
            let project = &self.context.project;
            let description =
                format!("Message {id} does not exist in queue {name} for project {project}");
            return Err(HttpError::NotFound { description });
        };
        let mut out =
            BytesMut::with_capacity(respond::encoded_size(&base, slice::from_ref(&message)));
        respond::message(&mut out, &base, &message, self.inner.api.clock().now());
        Ok(respond::json(StatusCode::OK, out.freeze()))
    }

    pub(super) async fn delete_message(self, queue: QueueRef, id: &str) -> HandlerResult {
        let claim = self.query.text("claim_id");
        let request = DeleteMessage { queue, id: id.to_owned(), claim };
        self.call(request).await?;
        Ok(respond::empty(StatusCode::NO_CONTENT))
    }

    pub(super) async fn delete_messages(self, queue: QueueRef) -> HandlerResult {
        let invalid = |reason: &str| Error::Invalid { part: Part::Request, reason: reason.into() };
        let ids = self.ids("ids");
        let pop = self.query.integer("pop")?;
        match (ids, pop) {
            (Some(_), Some(_)) => {
                Err(invalid("pop and id params cannot be present together in the delete request.")
                    .into())
            }
            (None, None) => Err(invalid(
                "The request should have either \"ids\" or \"pop\" parameter in the request, to \
                 be able to delete.",
            )
            .into()),
            (Some(ids), None) => {
                let claims = self.ids("claim_ids");
                let request = DeleteMessages { queue, ids, claims };
                self.call(request).await?;
                Ok(respond::empty(StatusCode::NO_CONTENT))
            }
            (None, Some(limit)) => {
                let request = PopMessages { queue, limit };
                let messages = self.call(request).await?;
                let now = self.inner.api.clock().now();
                let document = respond::popped(&self.inner.turns, &messages, now).await;
                Ok(respond::json(StatusCode::OK, document))
            }
        }
    }
}

/// The `Location` of posted messages.
fn location(base: &str, ids: &[MessageId]) -> BytesMut {
    let mut out = BytesMut::with_capacity(base.len() + 16 + ids.len().min(MAX_LOCATION_IDS) * 33);
    out.put_slice(base.as_bytes());
    out.put_slice(b"/messages");
    if ids.len() <= MAX_LOCATION_IDS {
        out.put_slice(b"?ids=");
        json::joined(&mut out, ids, |out, id| out.put_slice(&id.encode()));
    }
    out
}
