//! The rules that hold where no file says otherwise: names and checks as Zaqar has them
//! (`zaqar/common/policies` of openstack/zaqar), and those of operations that it has not
//! (`quotas`).

use super::check::Scope;

/// A default rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Default {
    /// Its name.
    pub name: &'static str,
    /// Its check.
    pub check: &'static str,
    /// What it is for, for the sample file; empty for a rule that only others refer to.
    pub description: &'static str,
    /// The requests that it protects, for the sample file.
    pub requests: &'static [&'static str],
    /// The scopes of tokens that it accepts; any if it is empty.
    pub scopes: &'static [Scope],
    /// The deprecated name and check that it replaced, if any.
    pub deprecated: Option<Deprecated>,
}

/// The deprecated form of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deprecated {
    /// The old name.
    pub name: &'static str,
    /// The old check.
    pub check: &'static str,
}

const ADMIN: &str = "role:admin";
const ANYBODY: &str = "";

const fn rule(
    name: &'static str,
    check: &'static str,
    description: &'static str,
    requests: &'static [&'static str],
) -> Default {
    Default { name, check, description, requests, scopes: &[], deprecated: None }
}

/// Every rule of Zaqar.
pub const DEFAULTS: &[Default] = &[
    rule("context_is_admin", ADMIN, "", &[]),
    rule("admin_or_owner", "is_admin:True or project_id:%(project_id)s", "", &[]),
    rule("queues:get_all", ANYBODY, "List queues", &["GET /v2/queues"]),
    rule("queues:create", ANYBODY, "Create a queue", &["PUT /v2/queues/{queue}"]),
    rule("queues:get", ANYBODY, "Show a queue", &["GET /v2/queues/{queue}"]),
    rule("queues:delete", ANYBODY, "Delete a queue", &["DELETE /v2/queues/{queue}"]),
    rule("queues:update", ANYBODY, "Change a queue's metadata", &["PATCH /v2/queues/{queue}"]),
    rule("queues:stats", ANYBODY, "Count what is in a queue", &["GET /v2/queues/{queue}/stats"]),
    rule("queues:share", ANYBODY, "Make a pre-signed URL", &["POST /v2/queues/{queue}/share"]),
    rule("queues:purge", ANYBODY, "Empty a queue", &["POST /v2/queues/{queue}/purge"]),
    rule("messages:get_all", ANYBODY, "List messages", &["GET /v2/queues/{queue}/messages"]),
    rule("messages:create", ANYBODY, "Post messages", &["POST /v2/queues/{queue}/messages"]),
    rule("messages:get", ANYBODY, "Show a message", &["GET /v2/queues/{queue}/messages/{message}"]),
    rule(
        "messages:delete",
        ANYBODY,
        "Delete a message",
        &["DELETE /v2/queues/{queue}/messages/{message}"],
    ),
    rule(
        "messages:delete_all",
        ANYBODY,
        "Delete or pop several messages",
        &["DELETE /v2/queues/{queue}/messages"],
    ),
    rule("claims:create", ANYBODY, "Claim messages", &["POST /v2/queues/{queue}/claims"]),
    rule("claims:get", ANYBODY, "Show a claim", &["GET /v2/queues/{queue}/claims/{claim}"]),
    rule(
        "claims:delete",
        ANYBODY,
        "Release a claim",
        &["DELETE /v2/queues/{queue}/claims/{claim}"],
    ),
    rule("claims:update", ANYBODY, "Renew a claim", &["PATCH /v2/queues/{queue}/claims/{claim}"]),
    rule(
        "subscription:get_all",
        ANYBODY,
        "List subscriptions",
        &["GET /v2/queues/{queue}/subscriptions"],
    ),
    rule("subscription:create", ANYBODY, "Subscribe", &["POST /v2/queues/{queue}/subscriptions"]),
    rule(
        "subscription:get",
        ANYBODY,
        "Show a subscription",
        &[
            "GET /v2/queues/{queue}/subscriptions/{subscription}",
            "GET /v2/queues/{queue}/subscriptions/{subscription}/deliveries",
            "GET /v2/queues/{queue}/subscriptions/{subscription}/deliveries/{delivery}",
            "GET /v2/queues/{queue}/subscriptions/{subscription}/health",
            "GET /v2/queues/{queue}/subscriptions/{subscription}/recover/{recovery}",
        ],
    ),
    rule(
        "subscription:delete",
        ANYBODY,
        "Delete a subscription",
        &["DELETE /v2/queues/{queue}/subscriptions/{subscription}"],
    ),
    rule(
        "subscription:update",
        ANYBODY,
        "Change a subscription",
        &[
            "PATCH /v2/queues/{queue}/subscriptions/{subscription}",
            "POST /v2/queues/{queue}/subscriptions/{subscription}/secret",
            "POST /v2/queues/{queue}/subscriptions/{subscription}/deliveries/{delivery}/retry",
            "POST /v2/queues/{queue}/subscriptions/{subscription}/resume",
            "POST /v2/queues/{queue}/subscriptions/{subscription}/test",
            "POST /v2/queues/{queue}/subscriptions/{subscription}/recover",
            "DELETE /v2/queues/{queue}/subscriptions/{subscription}/recover/{recovery}",
        ],
    ),
    rule(
        "subscription:confirm",
        ANYBODY,
        "Confirm a subscription",
        &["PUT /v2/queues/{queue}/subscriptions/{subscription}/confirm"],
    ),
    rule("topics:get_all", ANYBODY, "List topics", &["GET /v2/topics"]),
    rule("topics:create", ANYBODY, "Create a topic", &["PUT /v2/topics/{topic}"]),
    rule("topics:get", ANYBODY, "Show a topic", &["GET /v2/topics/{topic}"]),
    rule("topics:delete", ANYBODY, "Delete a topic", &["DELETE /v2/topics/{topic}"]),
    rule("topics:update", ANYBODY, "Change a topic's metadata", &["PATCH /v2/topics/{topic}"]),
    rule("topics:stats", ANYBODY, "Count what is in a topic", &["GET /v2/topics/{topic}/stats"]),
    rule("topics:purge", ANYBODY, "Empty a topic", &["POST /v2/topics/{topic}/purge"]),
    rule("pools:get_all", ADMIN, "List pools", &["GET /v2/pools"]),
    rule("pools:create", ADMIN, "Create a pool", &["PUT /v2/pools/{pool}"]),
    rule(
        "pools:get",
        ADMIN,
        "Show a pool",
        &["GET /v2/pools/{pool}", "GET /v2/pools/{pool}/drain"],
    ),
    rule("pools:delete", ADMIN, "Delete a pool", &["DELETE /v2/pools/{pool}"]),
    rule(
        "pools:update",
        ADMIN,
        "Change a pool, move queues to it or all of them away",
        &[
            "PATCH /v2/pools/{pool}",
            "POST /v2/pools/{pool}/drain",
            "DELETE /v2/pools/{pool}/drain",
            "POST /v2/pools/{pool}/queues",
        ],
    ),
    rule("flavors:get_all", ANYBODY, "List flavors", &["GET /v2/flavors"]),
    rule("flavors:create", ADMIN, "Create a flavor", &["PUT /v2/flavors/{flavor}"]),
    rule("flavors:get", ANYBODY, "Show a flavor", &["GET /v2/flavors/{flavor}"]),
    rule("flavors:delete", ADMIN, "Delete a flavor", &["DELETE /v2/flavors/{flavor}"]),
    rule("flavors:update", ADMIN, "Change a flavor", &["PATCH /v2/flavors/{flavor}"]),
    rule("quotas:get_all", ADMIN, "List the projects with quotas", &["GET /v2/quotas"]),
    rule("quotas:get", ADMIN, "Show a project's quotas", &["GET /v2/quotas/{project}"]),
    rule("quotas:update", ADMIN, "Set a project's quotas", &["PUT /v2/quotas/{project}"]),
    rule("quotas:delete", ADMIN, "Forget a project's quotas", &["DELETE /v2/quotas/{project}"]),
    rule("ping:get", ANYBODY, "Ask whether the server can serve", &["GET /v2/ping"]),
    rule("health:get", ADMIN, "Test every operation", &["GET /v2/health"]),
];
