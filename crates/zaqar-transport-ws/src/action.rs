//! What a request may ask for, and what each action's headers and body must look like.

use crate::members::Shape;

/// Everything that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Authenticate,
    GetHomeDoc,
    CheckNodeHealth,
    PingNode,
    QueueList,
    QueueCreate,
    QueueDelete,
    QueueGet,
    QueueGetStats,
    QueuePurge,
    MessageList,
    MessageGet,
    MessageGetMany,
    MessagePost,
    MessageDelete,
    MessageDeleteMany,
    ClaimCreate,
    ClaimGet,
    ClaimUpdate,
    ClaimDelete,
    SubscriptionList,
    SubscriptionCreate,
    SubscriptionGet,
    SubscriptionDelete,
}

/// A member of a body: what it must be where it is there, and whether it must be.
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    pub(crate) required: bool,
}

/// Whether an action takes a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Whatever is there is passed over.
    NoBody,
    /// An object, or nothing.
    OptionalBody,
    /// An object.
    Body,
}

const fn required(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, required: true }
}

const fn optional(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, required: false }
}

/// The members of bodies that any action looks at.
pub(crate) const FIELDS: &[&str] = &[
    "queue_name",
    "metadata",
    "marker",
    "limit",
    "detailed",
    "echo",
    "include_claimed",
    "include_delayed",
    "messages",
    "message_id",
    "message_ids",
    "claim_id",
    "claim_ids",
    "pop",
    "ttl",
    "grace",
    "resource_types",
    "subscriber",
    "options",
    "subscription_id",
];

const QUEUE: Field = required("queue_name", Shape::Text);
const MARKER: Field = optional("marker", Shape::Text);
const LIMIT: Field = optional("limit", Shape::Integer);
const TTL: Field = optional("ttl", Shape::Integer);

impl Action {
    /// The action of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "authenticate" => Self::Authenticate,
            "get_home_doc" => Self::GetHomeDoc,
            "check_node_health" => Self::CheckNodeHealth,
            "ping_node" => Self::PingNode,
            "queue_list" => Self::QueueList,
            "queue_create" => Self::QueueCreate,
            "queue_delete" => Self::QueueDelete,
            "queue_get" => Self::QueueGet,
            "queue_get_stats" => Self::QueueGetStats,
            "queue_purge" => Self::QueuePurge,
            "message_list" => Self::MessageList,
            "message_get" => Self::MessageGet,
            "message_get_many" => Self::MessageGetMany,
            "message_post" => Self::MessagePost,
            "message_delete" => Self::MessageDelete,
            "message_delete_many" => Self::MessageDeleteMany,
            "claim_create" => Self::ClaimCreate,
            "claim_get" => Self::ClaimGet,
            "claim_update" => Self::ClaimUpdate,
            "claim_delete" => Self::ClaimDelete,
            "subscription_list" => Self::SubscriptionList,
            "subscription_create" => Self::SubscriptionCreate,
            "subscription_get" => Self::SubscriptionGet,
            "subscription_delete" => Self::SubscriptionDelete,
            _ => return None,
        })
    }

    /// The headers that must be there.
    pub(crate) const fn required_headers(self) -> &'static [&'static str] {
        match self {
            Self::GetHomeDoc | Self::CheckNodeHealth | Self::PingNode => &[],
            Self::Authenticate => &["X-Project-ID", "X-Auth-Token"],
            _ => &["Client-ID", "X-Project-ID"],
        }
    }

    /// Whether there must be a body.
    pub(crate) const fn takes(self) -> Takes {
        match self {
            Self::GetHomeDoc | Self::CheckNodeHealth | Self::PingNode | Self::Authenticate => {
                Takes::NoBody
            }
            Self::QueueList => Takes::OptionalBody,
            _ => Takes::Body,
        }
    }

    /// The members of its body that have rules.
    pub(crate) const fn fields(self) -> &'static [Field] {
        match self {
            Self::GetHomeDoc | Self::CheckNodeHealth | Self::PingNode | Self::Authenticate => &[],
            Self::QueueList => const { &[MARKER, LIMIT, optional("detailed", Shape::Boolean)] },
            Self::QueueCreate
            | Self::QueueDelete
            | Self::QueueGet
            | Self::QueueGetStats
            | Self::SubscriptionList => const { &[QUEUE] },
            Self::QueuePurge => const { &[QUEUE, optional("resource_types", Shape::List)] },
            Self::MessageList => {
                const {
                    &[
                        QUEUE,
                        MARKER,
                        LIMIT,
                        optional("echo", Shape::Boolean),
                        optional("include_claimed", Shape::Boolean),
                    ]
                }
            }
            Self::MessageGet => const { &[QUEUE, required("message_id", Shape::Text)] },
            Self::MessageGetMany => const { &[QUEUE, required("message_ids", Shape::List)] },
            Self::MessagePost => const { &[QUEUE, required("messages", Shape::List)] },
            Self::MessageDelete => {
                const { &[QUEUE, required("message_id", Shape::Text), optional("claim_id", Shape::Text)] }
            }
            Self::MessageDeleteMany => {
                const {
                    &[
                        QUEUE,
                        optional("message_ids", Shape::List),
                        optional("claim_ids", Shape::List),
                        optional("pop", Shape::Integer),
                    ]
                }
            }
            Self::ClaimCreate => const { &[QUEUE, LIMIT, TTL, optional("grace", Shape::Integer)] },
            Self::ClaimGet | Self::ClaimDelete => {
                const { &[QUEUE, required("claim_id", Shape::Text)] }
            }
            Self::ClaimUpdate => const { &[QUEUE, required("claim_id", Shape::Text), TTL] },
            Self::SubscriptionCreate => {
                const {
                    &[
                        QUEUE,
                        optional("subscriber", Shape::Text),
                        TTL,
                        optional("options", Shape::Object),
                    ]
                }
            }
            Self::SubscriptionGet | Self::SubscriptionDelete => {
                const { &[QUEUE, required("subscription_id", Shape::Text)] }
            }
        }
    }

    /// The HTTP method that a signed URL must grant for it; `None` where no signed URL does, as in the original.
    pub(crate) const fn signed_method(self) -> Option<&'static str> {
        match self {
            Self::MessageList | Self::MessageGet | Self::MessageGetMany => Some("GET"),
            Self::MessagePost => Some("POST"),
            Self::MessageDelete | Self::MessageDeleteMany => Some("DELETE"),
            _ => None,
        }
    }
}
