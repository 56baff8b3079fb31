//! Quotas of a project.

use serde::{Deserialize, Serialize};

use super::Link;

/// What holds for a project; 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quotas {
    /// Queues and topics.
    pub max_queues: u64,
    /// Subscriptions.
    pub max_subscriptions: u64,
    /// Messages of one queue or topic.
    pub max_messages_per_queue: u64,
    /// Bytes of the messages of one queue or topic.
    pub max_bytes_per_queue: u64,
    /// Messages of all queues and topics.
    pub max_messages: u64,
    /// Bytes of the messages of all queues and topics.
    pub max_bytes: u64,
    /// Requests a second.
    pub max_requests_per_second: u64,
    /// Bytes a second, posted and pushed.
    pub max_bytes_per_second: u64,
}

/// What was set for a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagedQuotas {
    /// The project.
    pub project: String,
    /// What was set; the rest is as the server is configured.
    pub quotas: QuotaChange,
    /// Its path.
    pub href: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct QuotaList {
    pub(crate) quotas: Vec<ManagedQuotas>,
    #[serde(default)]
    pub(crate) links: Vec<Link>,
}

/// What to set for a project; 0 is no limit. What is `None` is as the server is configured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaChange {
    /// Queues and topics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_queues: Option<u64>,
    /// Subscriptions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_subscriptions: Option<u64>,
    /// Messages of one queue or topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_messages_per_queue: Option<u64>,
    /// Bytes of the messages of one queue or topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes_per_queue: Option<u64>,
    /// Messages of all queues and topics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_messages: Option<u64>,
    /// Bytes of the messages of all queues and topics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// Requests a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests_per_second: Option<u64>,
    /// Bytes a second, posted and pushed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes_per_second: Option<u64>,
}
