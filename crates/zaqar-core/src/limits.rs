//! The limits and defaults of the `[transport]` section, with the original's names and values.

/// Seconds that a message, a claim, a grace and a subscription live at least.
pub const MIN_TTL: u64 = 60;

/// What one request may ask for, and what it gets when it does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Seconds a message lives when neither the post nor its queue says.
    pub default_message_ttl: u64,
    /// Seconds until a message is shown when neither the post nor its queue says.
    pub default_message_delay: u64,
    /// Seconds a claim lives when the request does not say.
    pub default_claim_ttl: u64,
    /// Seconds that a claim's messages outlive it when the request does not say.
    pub default_claim_grace: u64,
    /// Seconds a subscription lives when the request does not say.
    pub default_subscription_ttl: u64,
    /// Queues on one page.
    pub max_queues_per_page: u64,
    /// Messages on one page, and ids in one request.
    pub max_messages_per_page: u64,
    /// Subscriptions on one page.
    pub max_subscriptions_per_page: u64,
    /// Messages in one claim or pop.
    pub max_messages_per_claim_or_pop: u64,
    /// Bytes of a queue's metadata document.
    pub max_queue_metadata: u64,
    /// Bytes of the document that posts messages.
    pub max_messages_post_size: u64,
    /// Seconds a message lives at most.
    pub max_message_ttl: u64,
    /// Seconds of delay at most.
    pub max_message_delay: u64,
    /// Seconds a claim lives at most.
    pub max_claim_ttl: u64,
    /// Seconds of grace at most.
    pub max_claim_grace: u64,
    /// Schemes of subscriber URIs.
    pub subscriber_types: Vec<String>,
    /// Flavors on one page.
    pub max_flavors_per_page: u64,
    /// Pools on one page.
    pub max_pools_per_page: u64,
    /// Which client ids are taken.
    pub client_ids: ClientIds,
    /// A deletion by `ids` names `claim_ids` too.
    pub message_delete_with_claim_id: bool,
}

/// Which texts a `Client-ID` may be (`client_id_uuid_safe`).
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

/// Queues, messages, claims or subscriptions on a page when the request does not say.
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
