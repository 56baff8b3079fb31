//! Queues.

use bytes::Bytes;
use serde_json::Value;
use zaqar_api::{CreateQueue, DeleteQueue, GetQueue, GetQueueStats, ListQueues, Purge, json};
use zaqar_core::{Kind, MessageId, Metadata};

use super::{Exchange, HandlerResult, texts};
use crate::error::WsError;
use crate::reply::{self, Reply};

/// Maximum number of resource types in a purge. There are two; others are ignored.
const MAX_TYPES: usize = 20;

impl Exchange {
    pub(super) async fn list_queues(&self) -> HandlerResult {
        let body = &self.request.body;
        let request = ListQueues {
            kind: Kind::Queue,
            marker: body.text("marker"),
            limit: body.integer("limit"),
            detailed: self.lenient_boolean("detailed"),
            name: None,
            with_count: false,
            filters: Vec::new(),
        };
        let list = self.call(request).await?;
        Ok(Reply::new(200, reply::queues(&self.turns, list.queues).await))
    }

    pub(super) async fn create_queue(&self) -> HandlerResult {
        let queue = self.queue()?;
        let text = Reply::json(201, format!("Queue {} created.", queue.name).into());
        let request = CreateQueue { queue, metadata: self.metadata()? };
        let created = self.call(request).await?;
        Ok(Reply { status: if created { 201 } else { 204 }, ..text })
    }

    fn metadata(&self) -> Result<Metadata, WsError> {
        let Some(written) = self.request.body.get("metadata") else {
            return Ok(Metadata::default());
        };
        let max = self.api.limits().max_queue_metadata;
        if written.len() as u64 > max {
            return Err(WsError::invalid(format!("Queue metadata is too large. Max size: {max}")));
        }
        match serde_json::from_slice(written) {
            Ok(Value::Null) => Ok(Metadata::default()),
            Ok(Value::Array(list)) if list.is_empty() => Ok(Metadata::default()),
            Ok(Value::Object(members)) => Ok(Metadata::new(members)),
            Ok(_) | Err(_) => Err(WsError::invalid("Queue metadata must be an object.")),
        }
    }

    pub(super) async fn delete_queue(&self) -> HandlerResult {
        let queue = self.queue()?;
        let text = format!("Queue {} removed.", queue.name);
        self.call(DeleteQueue { queue }).await?;
        Ok(Reply::json(204, text.into()))
    }

    pub(super) async fn get_queue(&self) -> HandlerResult {
        let metadata = self.call(GetQueue { queue: self.queue()? }).await?;
        Ok(Reply::new(200, metadata.unwrap_or_default().to_json()))
    }

    pub(super) async fn stats(&self) -> HandlerResult {
        let stats = self.call(GetQueueStats { queue: self.queue()? }).await?;
        let status = if stats.is_some() { 200 } else { 404 };
        let location = |id: MessageId| ("id", id.to_string());
        Ok(Reply::json(status, json::stats(&stats.unwrap_or_default(), self.now(), location)))
    }

    pub(super) async fn purge(&self) -> HandlerResult {
        let types = self.request.body.list("resource_types").map(|list| texts(list, MAX_TYPES));
        if types.as_ref().is_some_and(|types| types.len() > MAX_TYPES) {
            let rule = format!("resource_types may not have more than {MAX_TYPES} values.");
            return Err(WsError::invalid(rule));
        }
        let has = |name: &str| types.as_ref().is_none_or(|types| types.iter().any(|t| t == name));
        let (messages, subscriptions) = (has("messages"), has("subscriptions"));
        let request = Purge { queue: self.queue()?, messages, subscriptions };
        self.call(request).await?;
        Ok(Reply::new(204, Bytes::from_static(b"{}")))
    }
}
