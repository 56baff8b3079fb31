//! Operations on queues and topics.

use serde_json::Value;
use zaqar_core::signing::Grant;
use zaqar_core::storage::Stats;
use zaqar_core::{Kind, Metadata, QueueName};

use super::{
    Access, Declaration, Method, Operation, Resource, Rule, Run, addresses_queue, answers_page,
};
use crate::{Api, Context, Error, QueueRef};

const QUEUE_PATH: &str = "/v2/{kind}s/{queue}";

/// Lists queues by name.
#[derive(Debug, Clone)]
pub struct ListQueues {
    /// Queues or topics.
    pub kind: Kind,
    /// Starts after this name, which need not exist.
    pub marker: Option<String>,
    /// Queues on the page: 1 to `max_queues_per_page`.
    pub limit: Option<i64>,
    /// Returns the metadata too.
    pub detailed: bool,
    /// A regular expression, found anywhere in the name.
    pub name: Option<String>,
    /// Counts the project's queues.
    pub with_count: bool,
    /// Attributes that the metadata must have, with values as in a query string: an integer matches
    /// numbers only.
    pub filters: Vec<(String, String)>,
}

/// A page of queues.
#[derive(Debug, Clone)]
pub struct QueueList {
    /// The queues, by name.
    pub queues: Vec<ListedQueue>,
    /// The last name examined, where the next page starts; `None` when the page is empty because
    /// the list ends there.
    pub next: Option<QueueName>,
    /// The number of the project's queues, if asked for.
    pub count: Option<u64>,
}

/// A queue on a page.
#[derive(Debug, Clone)]
pub struct ListedQueue {
    /// Its name.
    pub name: QueueName,
    /// Its metadata as it was given, without defaults, if asked for.
    pub metadata: Option<Metadata>,
}

impl Operation for ListQueues {
    type Answer = QueueList;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "list_queues",
        rule: Rule::Each { queue: "queues:get_all", topic: "topics:get_all" },
        about: Resource::Queue,
        access: Access::Read,
        method: Method::Get,
        path: "/v2/{kind}s",
        admin: false,
    };

    answers_page!();

    fn queue(&self) -> Option<&QueueRef> {
        None
    }

    fn kind(&self) -> Kind {
        self.kind
    }
}

impl Run for ListQueues {
    async fn run(self, api: &Api, context: &Context) -> Result<QueueList, Error> {
        api.list_queues(context, self).await
    }
}

/// Creates a queue if it does not exist. Returns whether this call created it.
#[derive(Debug, Clone)]
pub struct CreateQueue {
    /// The queue.
    pub queue: QueueRef,
    /// The metadata of a new queue; an existing queue keeps its own.
    pub metadata: Metadata,
}

impl Operation for CreateQueue {
    type Answer = bool;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "create_queue",
        rule: Rule::Each { queue: "queues:create", topic: "topics:create" },
        about: Resource::Queue,
        access: Access::Write,
        method: Method::Put,
        path: QUEUE_PATH,
        admin: false,
    };

    addresses_queue!();
}

impl Run for CreateQueue {
    async fn run(self, api: &Api, context: &Context) -> Result<bool, Error> {
        api.create_queue(context, self).await
    }
}

/// Reads a queue's metadata; `None` where the queue does not exist.
#[derive(Debug, Clone)]
pub struct GetQueue {
    /// The queue.
    pub queue: QueueRef,
}

impl Operation for GetQueue {
    type Answer = Option<Metadata>;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "get_queue",
        rule: Rule::Each { queue: "queues:get", topic: "topics:get" },
        about: Resource::Queue,
        access: Access::Read,
        method: Method::Get,
        path: QUEUE_PATH,
        admin: false,
    };

    addresses_queue!();
}

impl Run for GetQueue {
    async fn run(self, api: &Api, context: &Context) -> Result<Option<Metadata>, Error> {
        api.get_queue(context, self.queue).await
    }
}

/// Changes metadata, all changes or none. Returns the changed metadata.
#[derive(Debug, Clone)]
pub struct PatchQueue {
    /// The queue.
    pub queue: QueueRef,
    /// The changes, in order.
    pub changes: Vec<Change>,
}

/// One change to metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Sets an attribute.
    Add {
        /// Its name.
        attribute: String,
        /// Its value.
        value: Value,
    },
    /// Sets an attribute that exists or is reserved.
    Replace {
        /// Its name.
        attribute: String,
        /// Its value.
        value: Value,
    },
    /// Removes an attribute that exists or is reserved.
    Remove {
        /// Its name.
        attribute: String,
    },
}

impl Operation for PatchQueue {
    type Answer = Metadata;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "patch_queue",
        rule: Rule::Each { queue: "queues:update", topic: "topics:update" },
        about: Resource::Queue,
        access: Access::Write,
        method: Method::Patch,
        path: QUEUE_PATH,
        admin: false,
    };

    addresses_queue!();
}

impl Run for PatchQueue {
    async fn run(self, api: &Api, context: &Context) -> Result<Metadata, Error> {
        api.patch_queue(context, self).await
    }
}

/// Deletes a queue with everything in it.
#[derive(Debug, Clone)]
pub struct DeleteQueue {
    /// The queue.
    pub queue: QueueRef,
}

impl Operation for DeleteQueue {
    type Answer = ();
    const DECLARATION: &'static Declaration = &Declaration {
        name: "delete_queue",
        rule: Rule::Each { queue: "queues:delete", topic: "topics:delete" },
        about: Resource::Queue,
        access: Access::Write,
        method: Method::Delete,
        path: QUEUE_PATH,
        admin: false,
    };

    addresses_queue!();
}

impl Run for DeleteQueue {
    async fn run(self, api: &Api, context: &Context) -> Result<(), Error> {
        api.delete_queue(context, self.queue).await
    }
}

/// Counts the messages of a queue; `None` if the queue does not exist.
#[derive(Debug, Clone)]
pub struct GetQueueStats {
    /// The queue.
    pub queue: QueueRef,
}

impl Operation for GetQueueStats {
    type Answer = Option<Stats>;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "get_queue_stats",
        rule: Rule::Each { queue: "queues:stats", topic: "topics:stats" },
        about: Resource::Queue,
        access: Access::Read,
        method: Method::Get,
        path: "/v2/{kind}s/{queue}/stats",
        admin: false,
    };

    addresses_queue!();
}

impl Run for GetQueueStats {
    async fn run(self, api: &Api, context: &Context) -> Result<Option<Stats>, Error> {
        api.stats(context, self.queue).await
    }
}

/// Deletes the contents of a queue, but not the queue.
#[derive(Debug, Clone)]
pub struct Purge {
    /// The queue.
    pub queue: QueueRef,
    /// Deletes its messages and claims.
    pub messages: bool,
    /// Deletes its subscriptions.
    pub subscriptions: bool,
}

impl Operation for Purge {
    type Answer = ();
    const DECLARATION: &'static Declaration = &Declaration {
        name: "purge_queue",
        rule: Rule::Each { queue: "queues:purge", topic: "topics:purge" },
        about: Resource::Queue,
        access: Access::Write,
        method: Method::Post,
        path: "/v2/{kind}s/{queue}/purge",
        admin: false,
    };

    addresses_queue!();
}

impl Run for Purge {
    async fn run(self, api: &Api, context: &Context) -> Result<(), Error> {
        api.purge(context, self).await
    }
}

/// Creates a pre-signed URL.
#[derive(Debug, Clone)]
pub struct Share {
    /// The queue.
    pub queue: QueueRef,
    /// `messages`, `claims`, `subscriptions` of the queue; `messages` where empty.
    pub paths: Vec<String>,
    /// HTTP methods; `GET` where empty.
    pub methods: Vec<String>,
    /// A time in ISO 8601; one day from now if absent.
    pub expires: Option<String>,
}

/// A pre-signed URL.
#[derive(Debug, Clone)]
pub struct Shared {
    /// What it allows.
    pub grant: Grant,
    /// 64 hexadecimal digits.
    pub signature: String,
}

impl Operation for Share {
    type Answer = Shared;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "share_queue",
        rule: Rule::One("queues:share"),
        about: Resource::Queue,
        access: Access::Read,
        method: Method::Post,
        path: "/v2/{kind}s/{queue}/share",
        admin: false,
    };

    addresses_queue!();
}

impl Run for Share {
    async fn run(self, api: &Api, context: &Context) -> Result<Shared, Error> {
        api.share(context, self)
    }
}
