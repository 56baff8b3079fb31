//! The declarations of operations.

use zaqar_core::Kind;

/// The facts about every operation of one type, in their only place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Declaration {
    /// Its name in logs and metrics.
    pub name: &'static str,
    /// Its rule in the original's policies.
    pub rule: Rule,
    /// The resource that it concerns.
    pub about: Resource,
    /// Whether it changes anything.
    pub access: Access,
    /// Its method in the REST API.
    pub method: Method,
    /// Its path in the REST API: `{kind}` is `queue` or `topic`.
    pub path: &'static str,
    /// Without a policy, only callers with the role `admin` may run it.
    pub admin: bool,
}

impl Declaration {
    /// Whether the operation addresses one queue or topic.
    pub fn names_queue(&self) -> bool {
        self.path.contains("{queue}")
    }

    /// The resource whose pipeline the operation passes.
    pub const fn resource(&self, kind: Kind) -> Resource {
        match (self.about, kind) {
            (Resource::Queue, Kind::Topic) => Resource::Topic,
            (about, _) => about,
        }
    }
}

/// The resource that an operation concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    /// Queues, their metadata and statistics.
    Queue,
    /// The same for topics.
    Topic,
    /// Messages of queues and topics.
    Message,
    /// Claims.
    Claim,
    /// Subscriptions to queues and topics.
    Subscription,
    /// The service itself. It has no pipeline.
    Service,
}

/// Whether an operation changes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It accesses nothing that another operation could change.
    Nothing,
    /// It only reads.
    Read,
    /// It may change what others read.
    Write,
}

/// A method of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `PUT`
    Put,
    /// `POST`
    Post,
    /// `PATCH`
    Patch,
    /// `DELETE`
    Delete,
}

impl Method {
    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// The name of a rule in the original's policies (`zaqar/common/policies`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The original has no rule for it.
    None,
    /// One for queues and topics.
    One(&'static str),
    /// One for queues and another for topics.
    Each {
        /// For queues.
        queue: &'static str,
        /// For topics.
        topic: &'static str,
    },
}

impl Rule {
    /// Its name for queues or topics.
    pub const fn name(self, kind: Kind) -> Option<&'static str> {
        match (self, kind) {
            (Self::None, _) | (Self::Each { .. }, Kind::Internal) => None,
            (Self::One(name), _)
            | (Self::Each { queue: name, .. }, Kind::Queue)
            | (Self::Each { topic: name, .. }, Kind::Topic) => Some(name),
        }
    }
}
