//! Queues and topics.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Link, Message, Object};

/// Which queues or topics a list shows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct QueueFilter {
    /// A regular expression that a name must contain.
    pub name: Option<String>,
    /// Attributes that the metadata must have.
    pub attributes: Vec<(String, String)>,
    /// Show the metadata.
    pub detailed: bool,
    /// Names of a page; servers allow 1 to 20 unless configured otherwise.
    pub page: Option<u32>,
}

/// A queue or topic in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueueEntry {
    /// Its name.
    pub name: String,
    /// Its path.
    pub href: String,
    /// Its metadata, if the filter asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Object>,
}

/// A page of queues or topics.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QueuePage {
    #[serde(alias = "topics")]
    pub(crate) queues: Vec<QueueEntry>,
    #[serde(default)]
    pub(crate) links: Vec<Link>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) count: Option<u64>,
}

/// The number of messages, and the first and last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Messages that a claim holds.
    pub claimed: u64,
    /// All others; delayed ones too.
    pub free: u64,
    /// All.
    pub total: u64,
    /// The first, unless there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<End>,
    /// The last, unless there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<End>,
}

/// The message at one end of a queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Its path.
    pub href: String,
    /// Seconds since its post.
    #[serde(deserialize_with = "super::age")]
    pub age: u64,
    /// When it was posted, in UTC.
    pub created: String,
}

/// One change of metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum MetadataChange {
    /// Sets an attribute, whether it is there or not.
    Set(String, Value),
    /// Removes an attribute; one that is not there is a conflict, unless its name is reserved.
    Remove(String),
}

impl MetadataChange {
    pub(crate) fn document(&self) -> Value {
        let pointer =
            |name: &str| format!("/metadata/{}", name.replace('~', "~0").replace('/', "~1"));
        match self {
            Self::Set(name, value) => {
                serde_json::json!({"op": "add", "path": pointer(name), "value": value})
            }
            Self::Remove(name) => serde_json::json!({"op": "remove", "path": pointer(name)}),
        }
    }
}

/// What a pre-signed URL opens. Without paths the messages, without methods GET, without an expiry
/// one day.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    /// What it reaches.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<SharedPath>,
    /// What may be done.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// When it ends: a time of ISO 8601.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

/// A part of a queue that can be shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SharedPath {
    /// Its messages.
    Messages,
    /// Its claims.
    Claims,
    /// Its subscriptions.
    Subscriptions,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StatsDocument {
    pub(crate) messages: Stats,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct ClaimTimes {
    pub(crate) ttl: u64,
    pub(crate) grace: u64,
}

/// A claim as the server tells of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClaimInfo {
    /// What it holds.
    pub messages: Vec<Message>,
    /// Seconds since it was made or renewed.
    #[serde(deserialize_with = "super::age")]
    pub age: u64,
    /// Seconds that it lives.
    pub ttl: u64,
    /// Its path.
    pub href: String,
}
