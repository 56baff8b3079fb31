//! The limits and defaults of the `[transport]` section, with the original's names and values.

/// The minimum ttl of messages, claims and subscriptions and the minimum grace of claims, in
/// seconds.
pub const MIN_TTL: u64 = 60;

/// The maximum size of a request's document other than messages and queue metadata, in bytes; also
/// of the options of a subscription, and of its subscriber.
pub const MAX_DOCUMENT: u64 = 64 * 1024;

/// Limits of one request, and defaults for what it does not specify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The default ttl of messages in seconds, if neither the post nor the queue specifies it.
    pub default_message_ttl: u64,
    /// The default delay of messages in seconds, if neither the post nor the queue specifies it.
    pub default_message_delay: u64,
    /// The default ttl of claims, in seconds.
    pub default_claim_ttl: u64,
    /// The default grace of claims, in seconds: how long their messages live after them at least.
    pub default_claim_grace: u64,
    /// The default ttl of subscriptions, in seconds.
    pub default_subscription_ttl: u64,
    /// The maximum number of queues on a page.
    pub max_queues_per_page: u64,
    /// The maximum number of messages on a page, and of ids in a request.
    pub max_messages_per_page: u64,
    /// The maximum number of subscriptions on a page.
    pub max_subscriptions_per_page: u64,
    /// The maximum number of messages in a claim or pop.
    pub max_messages_per_claim_or_pop: u64,
    /// The maximum size of a queue's metadata document, in bytes.
    pub max_queue_metadata: u64,
    /// The maximum size of a document that posts messages, in bytes.
    pub max_messages_post_size: u64,
    /// The maximum ttl of messages, in seconds.
    pub max_message_ttl: u64,
    /// The maximum delay of messages, in seconds.
    pub max_message_delay: u64,
    /// The maximum ttl of claims, in seconds.
    pub max_claim_ttl: u64,
    /// The maximum grace of claims, in seconds.
    pub max_claim_grace: u64,
    /// The accepted schemes of subscriber URIs.
    pub subscriber_types: Vec<String>,
    /// The maximum number of flavors on a page.
    pub max_flavors_per_page: u64,
    /// The maximum number of pools on a page.
    pub max_pools_per_page: u64,
    /// Which client ids are accepted.
    pub client_ids: ClientIds,
    /// Whether a deletion by `ids` must also name `claim_ids`.
    pub message_delete_with_claim_id: bool,
}

/// The accepted values of `Client-ID` (`client_id_uuid_safe`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientIds {
    /// UUIDs only.
    Strict,
    /// Any text within these lengths.
    Off {
        /// `min_length_client_id`, characters.
        min: usize,
        /// `max_length_client_id`, characters.
        max: usize,
    },
}

/// The default page size.
pub const DEFAULT_PAGE: u64 = 10;

impl Default for Limits {
    fn default() -> Self {
        Self {
            default_message_ttl: 3600,
            default_message_delay: 0,
            default_claim_ttl: 300,
            default_claim_grace: 60,
            default_subscription_ttl: 3600,
            max_queues_per_page: 20,
            max_messages_per_page: 20,
            max_subscriptions_per_page: 20,
            max_messages_per_claim_or_pop: 20,
            max_queue_metadata: 64 * 1024,
            max_messages_post_size: 256 * 1024,
            max_message_ttl: 1_209_600,
            max_message_delay: 900,
            max_claim_ttl: 43_200,
            max_claim_grace: 43_200,
            subscriber_types: ["http", "https", "mailto", "trust+http", "trust+https"]
                .map(String::from)
                .to_vec(),
            max_flavors_per_page: 20,
            max_pools_per_page: 20,
            client_ids: ClientIds::Strict,
            message_delete_with_claim_id: false,
        }
    }
}
