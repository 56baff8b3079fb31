//! The actions that a request can name, and the schema of each action's headers and body.

use zaqar_api::{
    CheckHealth, CreateClaim, CreateFlavor, CreatePool, CreateQueue, CreateSubscription,
    Declaration, DeleteFlavor, DeleteMessage, DeleteMessages, DeletePool, DeleteQueue,
    DeleteSubscription, DrainPool, GetFlavor, GetPool, GetQueue, GetQueueStats, GetQuotas,
    ListFlavors, ListMessages, ListPools, ListQueues, ListQuotas, ListSubscriptions, MoveQueue,
    Operation, Ping, PostMessages, Purge, ReadClaim, ReadDrain, ReadHome, ReadMessage,
    ReadMessages, ReadSubscription, ReleaseClaim, RenewClaim, SetQuotas, StopDrain, UnsetQuotas,
    UpdateFlavor, UpdatePool,
};

use crate::members::Shape;

/// An action.
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
    PoolList,
    PoolCreate,
    PoolUpdate,
    PoolGet,
    PoolDelete,
    PoolDrainCreate,
    PoolDrainGet,
    PoolDrainDelete,
    PoolQueueCreate,
    FlavorList,
    FlavorCreate,
    FlavorUpdate,
    FlavorGet,
    FlavorDelete,
    QuotaList,
    QuotaGet,
    QuotaUpdate,
    QuotaDelete,
}

/// A member of a body: the type that it must have if present, and whether it is required.
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    pub(crate) required: bool,
}

/// Whether an action has a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyRule {
    /// A body is ignored.
    Ignored,
    /// An object, or absent.
    Optional,
    /// An object.
    Required,
}

const fn required(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, required: true }
}

const fn optional(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, required: false }
}

/// The body members that any action reads.
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
    "pool_name",
    "flavor_name",
    "pool_list",
    "uri",
    "weight",
    "flavor",
    "capabilities",
    "kind",
    "project",
    "quotas",
];

const QUEUE: Field = required("queue_name", Shape::Text);
const POOL: Field = required("pool_name", Shape::Text);
const FLAVOR: Field = required("flavor_name", Shape::Text);
const PROJECT: Field = required("project", Shape::Text);
const MARKER: Field = optional("marker", Shape::Text);
const LIMIT: Field = optional("limit", Shape::Integer);
const TTL: Field = optional("ttl", Shape::Integer);

const POOL_FIELDS: &[Field] = &[
    POOL,
    optional("weight", Shape::Integer),
    optional("uri", Shape::Text),
    optional("options", Shape::Object),
];

impl Action {
    /// The action with this name.
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
            "pool_list" => Self::PoolList,
            "pool_create" => Self::PoolCreate,
            "pool_update" => Self::PoolUpdate,
            "pool_get" => Self::PoolGet,
            "pool_delete" => Self::PoolDelete,
            "pool_drain_create" => Self::PoolDrainCreate,
            "pool_drain_get" => Self::PoolDrainGet,
            "pool_drain_delete" => Self::PoolDrainDelete,
            "pool_queue_create" => Self::PoolQueueCreate,
            "flavor_list" => Self::FlavorList,
            "flavor_create" => Self::FlavorCreate,
            "flavor_update" => Self::FlavorUpdate,
            "flavor_get" => Self::FlavorGet,
            "flavor_delete" => Self::FlavorDelete,
            "quota_list" => Self::QuotaList,
            "quota_get" => Self::QuotaGet,
            "quota_update" => Self::QuotaUpdate,
            "quota_delete" => Self::QuotaDelete,
            // The original declares it too; its rules are those of pool_get.
            "pool_get_detail" => Self::PoolGet,
            _ => return None,
        })
    }

    /// The required headers.
    pub(crate) const fn required_headers(self) -> &'static [&'static str] {
        if matches!(self, Self::GetHomeDoc | Self::CheckNodeHealth | Self::PingNode) {
            &[]
        } else if matches!(self, Self::Authenticate) {
            &["X-Project-ID", "X-Auth-Token"]
        } else {
            &["Client-ID", "X-Project-ID"]
        }
    }

    /// Whether a body is required.
    pub(crate) const fn body_rule(self) -> BodyRule {
        if matches!(
            self,
            Self::GetHomeDoc | Self::CheckNodeHealth | Self::PingNode | Self::Authenticate
        ) {
            BodyRule::Ignored
        } else if matches!(
            self,
            Self::QueueList | Self::PoolList | Self::FlavorList | Self::QuotaList
        ) {
            BodyRule::Optional
        } else {
            BodyRule::Required
        }
    }

    /// The members of its body that are validated.
    pub(crate) const fn fields(self) -> &'static [Field] {
        match self {
            Self::GetHomeDoc | Self::CheckNodeHealth | Self::PingNode | Self::Authenticate => &[],
            Self::QueueList | Self::PoolList | Self::FlavorList => {
                const { &[MARKER, LIMIT, optional("detailed", Shape::Boolean)] }
            }
            Self::QuotaList => const { &[MARKER, LIMIT] },
            Self::PoolCreate | Self::PoolUpdate => POOL_FIELDS,
            Self::PoolGet => const { &[POOL, optional("detailed", Shape::Boolean)] },
            Self::PoolDelete
            | Self::PoolDrainCreate
            | Self::PoolDrainGet
            | Self::PoolDrainDelete => const { &[POOL] },
            Self::PoolQueueCreate => {
                const { &[POOL, QUEUE, optional("kind", Shape::Text), optional("project", Shape::Text)] }
            }
            Self::FlavorCreate | Self::FlavorUpdate => {
                const {
                    &[
                        FLAVOR,
                        optional("pool_list", Shape::List),
                        optional("capabilities", Shape::Object),
                    ]
                }
            }
            Self::FlavorGet => const { &[FLAVOR, optional("detailed", Shape::Boolean)] },
            Self::FlavorDelete => const { &[FLAVOR] },
            Self::QuotaGet | Self::QuotaDelete => const { &[PROJECT] },
            Self::QuotaUpdate => const { &[PROJECT, required("quotas", Shape::Object)] },
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

    /// Whether its body has a limit of its own: the size of messages, or of metadata.
    pub(crate) const fn has_own_limit(self) -> bool {
        matches!(self, Self::MessagePost | Self::QueueCreate)
    }

    /// Whether an answer may be as large as a page of messages.
    pub(crate) const fn returns_page(self) -> bool {
        matches!(
            self,
            Self::QueueList
                | Self::SubscriptionList
                | Self::MessageList
                | Self::MessageGetMany
                | Self::MessageDeleteMany
                | Self::ClaimCreate
                | Self::ClaimGet
        )
    }

    /// The declaration of its operation; `None` for `authenticate`, which is not an operation.
    pub(crate) const fn declaration(self) -> Option<&'static Declaration> {
        Some(match self {
            Self::Authenticate => return None,
            Self::GetHomeDoc => ReadHome::DECLARATION,
            Self::CheckNodeHealth => CheckHealth::DECLARATION,
            Self::PingNode => Ping::DECLARATION,
            Self::QueueList => ListQueues::DECLARATION,
            Self::QueueCreate => CreateQueue::DECLARATION,
            Self::QueueDelete => DeleteQueue::DECLARATION,
            Self::QueueGet => GetQueue::DECLARATION,
            Self::QueueGetStats => GetQueueStats::DECLARATION,
            Self::QueuePurge => Purge::DECLARATION,
            Self::MessageList => ListMessages::DECLARATION,
            Self::MessageGet => ReadMessage::DECLARATION,
            Self::MessageGetMany => ReadMessages::DECLARATION,
            Self::MessagePost => PostMessages::DECLARATION,
            Self::MessageDelete => DeleteMessage::DECLARATION,
            // The action may also pop messages; `PopMessages` declares the same access.
            Self::MessageDeleteMany => DeleteMessages::DECLARATION,
            Self::ClaimCreate => CreateClaim::DECLARATION,
            Self::ClaimGet => ReadClaim::DECLARATION,
            Self::ClaimUpdate => RenewClaim::DECLARATION,
            Self::ClaimDelete => ReleaseClaim::DECLARATION,
            Self::SubscriptionList => ListSubscriptions::DECLARATION,
            Self::SubscriptionCreate => CreateSubscription::DECLARATION,
            Self::SubscriptionGet => ReadSubscription::DECLARATION,
            Self::SubscriptionDelete => DeleteSubscription::DECLARATION,
            Self::PoolList => ListPools::DECLARATION,
            Self::PoolCreate => CreatePool::DECLARATION,
            Self::PoolUpdate => UpdatePool::DECLARATION,
            Self::PoolGet => GetPool::DECLARATION,
            Self::PoolDelete => DeletePool::DECLARATION,
            Self::PoolDrainCreate => DrainPool::DECLARATION,
            Self::PoolDrainGet => ReadDrain::DECLARATION,
            Self::PoolDrainDelete => StopDrain::DECLARATION,
            Self::PoolQueueCreate => MoveQueue::DECLARATION,
            Self::FlavorList => ListFlavors::DECLARATION,
            Self::FlavorCreate => CreateFlavor::DECLARATION,
            Self::FlavorUpdate => UpdateFlavor::DECLARATION,
            Self::FlavorGet => GetFlavor::DECLARATION,
            Self::FlavorDelete => DeleteFlavor::DECLARATION,
            Self::QuotaList => ListQuotas::DECLARATION,
            Self::QuotaGet => GetQuotas::DECLARATION,
            Self::QuotaUpdate => SetQuotas::DECLARATION,
            Self::QuotaDelete => UnsetQuotas::DECLARATION,
        })
    }
}
