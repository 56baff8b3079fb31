//! The home document, which lists the paths of the REST API. It is the same on every transport, as
//! signed URLs name the same paths.

use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::{Map, Value, json};

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| document(RESOURCES.iter()));
static DOCUMENT_WITH_POOLS: LazyLock<Bytes> =
    LazyLock::new(|| document(RESOURCES.iter().chain(POOL_RESOURCES)));

/// The home document (draft-nottingham-json-home-03) as JSON text, which is built once; with pools
/// and flavors if they are configured.
pub(crate) fn home_document(has_pools: bool) -> Bytes {
    if has_pools { DOCUMENT_WITH_POOLS.clone() } else { DOCUMENT.clone() }
}

fn document<'a>(resources: impl Iterator<Item = &'a Resource>) -> Bytes {
    let resources: Map<String, Value> = resources.map(described).collect();
    json!({ "resources": resources }).to_string().into()
}

/// A resource of the home document. Variables have the names of their parameters, except those in
/// `renamed`.
struct Resource {
    relation: &'static str,
    template: &'static str,
    renamed: &'static [(&'static str, &'static str)],
    methods: &'static [&'static str],
}

const fn resource(
    relation: &'static str,
    template: &'static str,
    methods: &'static [&'static str],
) -> Resource {
    Resource { relation, template, renamed: &[], methods }
}

impl Resource {
    const fn renamed(mut self, renamed: &'static [(&'static str, &'static str)]) -> Self {
        self.renamed = renamed;
        self
    }
}

/// The original's relations, and corresponding ones for topics.
#[rustfmt::skip]
const RESOURCES: &[Resource] = &[
    resource("rel/queues", "/v2/queues{?marker,limit,detailed,name,with_count}", &["GET"]).renamed(&[("limit", "queue_limit")]),
    resource("rel/queue", "/v2/queues/{queue_name}", &["GET", "PUT", "DELETE", "PATCH"]),
    resource("rel/queue_stats", "/v2/queues/{queue_name}/stats", &["GET"]),
    resource("rel/queue_share", "/v2/queues/{queue_name}/share", &["POST"]),
    resource("rel/queue_purge", "/v2/queues/{queue_name}/purge", &["POST"]),
    resource("rel/messages", "/v2/queues/{queue_name}/messages{?marker,limit,echo,include_claimed,include_delayed}", &["GET"]).renamed(&[("limit", "messages_limit")]),
    resource("rel/post_messages", "/v2/queues/{queue_name}/messages", &["POST"]),
    resource("rel/messages_delete", "/v2/queues/{queue_name}/messages{?ids,pop}", &["DELETE"]),
    resource("rel/message_delete", "/v2/queues/{queue_name}/messages/{message_id}{?claim_id}", &["DELETE"]),
    resource("rel/message_get", "/v2/queues/{queue_name}/messages/{message_id}", &["GET"]),
    resource("rel/claim", "/v2/queues/{queue_name}/claims/{claim_id}", &["GET"]),
    resource("rel/post_claim", "/v2/queues/{queue_name}/claims{?limit}", &["POST"]).renamed(&[("limit", "claim_limit")]),
    resource("rel/patch_claim", "/v2/queues/{queue_name}/claims/{claim_id}", &["PATCH"]),
    resource("rel/delete_claim", "/v2/queues/{queue_name}/claims/{claim_id}", &["DELETE"]),
    resource("rel/subscriptions_get", "/v2/queues/{queue_name}/subscriptions{?marker,limit}", &["GET"]).renamed(&[("limit", "subscription_limit")]),
    resource("rel/subscriptions_post", "/v2/queues/{queue_name}/subscriptions", &["POST"]),
    resource("rel/subscription", "/v2/queues/{queue_name}/subscriptions/{subscriptions_id}", &["GET", "DELETE"]),
    resource("rel/subscription_patch", "/v2/queues/{queue_name}/subscriptions/{subscriptions_id}", &["PATCH"]),
    resource("rel/subscription_confirm", "/v2/queues/{queue_name}/subscriptions/{subscriptions_id}/confirm", &["PUT"]),
    resource("rel/subscription_secret", "/v2/queues/{queue_name}/subscriptions/{subscriptions_id}/secret", &["POST"]),
    resource("rel/subscription_deliveries", "/v2/queues/{queue_name}/subscriptions/{subscriptions_id}/deliveries{?status,since,marker,limit}", &["GET"]).renamed(&[("limit", "subscription_limit")]),
    resource("rel/subscription_delivery", "/v2/queues/{queue_name}/subscriptions/{subscriptions_id}/deliveries/{delivery_id}", &["GET"]),
    resource("rel/subscription_delivery_retry", "/v2/queues/{queue_name}/subscriptions/{subscriptions_id}/deliveries/{delivery_id}/retry", &["POST"]),
    resource("rel/subscription_health", "/v2/queues/{queue_name}/subscriptions/{subscriptions_id}/health", &["GET"]),
    resource("rel/subscription_resume", "/v2/queues/{queue_name}/subscriptions/{subscriptions_id}/resume", &["POST"]),
    resource("rel/subscription_recover", "/v2/queues/{queue_name}/subscriptions/{subscriptions_id}/recover", &["POST"]),
    resource("rel/subscription_recovery", "/v2/queues/{queue_name}/subscriptions/{subscriptions_id}/recover/{recovery_id}", &["GET", "DELETE"]),
    resource("rel/subscription_test", "/v2/queues/{queue_name}/subscriptions/{subscriptions_id}/test", &["POST"]),
    resource("rel/topics", "/v2/topics{?marker,limit,detailed,name,with_count}", &["GET"]).renamed(&[("limit", "topic_limit")]),
    resource("rel/topic", "/v2/topics/{topic_name}", &["GET", "PUT", "DELETE", "PATCH"]),
    resource("rel/topic_stats", "/v2/topics/{topic_name}/stats", &["GET"]),
    resource("rel/topic_purge", "/v2/topics/{topic_name}/purge", &["POST"]),
    resource("rel/topic_messages", "/v2/topics/{topic_name}/messages{?marker,limit,echo,include_delayed,ids,pop}", &["GET", "POST", "DELETE"]).renamed(&[("limit", "messages_limit")]),
    resource("rel/topic_message", "/v2/topics/{topic_name}/messages/{message_id}", &["GET", "DELETE"]),
    resource("rel/topic_subscriptions", "/v2/topics/{topic_name}/subscriptions{?marker,limit}", &["GET", "POST"]).renamed(&[("limit", "subscription_limit")]),
    resource("rel/topic_subscription", "/v2/topics/{topic_name}/subscriptions/{subscriptions_id}", &["GET", "PATCH", "DELETE"]),
    resource("rel/topic_subscription_confirm", "/v2/topics/{topic_name}/subscriptions/{subscriptions_id}/confirm", &["PUT"]),
    resource("rel/topic_subscription_secret", "/v2/topics/{topic_name}/subscriptions/{subscriptions_id}/secret", &["POST"]),
    resource("rel/topic_subscription_deliveries", "/v2/topics/{topic_name}/subscriptions/{subscriptions_id}/deliveries{?status,since,marker,limit}", &["GET"]).renamed(&[("limit", "subscription_limit")]),
    resource("rel/topic_subscription_delivery", "/v2/topics/{topic_name}/subscriptions/{subscriptions_id}/deliveries/{delivery_id}", &["GET"]),
    resource("rel/topic_subscription_delivery_retry", "/v2/topics/{topic_name}/subscriptions/{subscriptions_id}/deliveries/{delivery_id}/retry", &["POST"]),
    resource("rel/topic_subscription_health", "/v2/topics/{topic_name}/subscriptions/{subscriptions_id}/health", &["GET"]),
    resource("rel/topic_subscription_resume", "/v2/topics/{topic_name}/subscriptions/{subscriptions_id}/resume", &["POST"]),
    resource("rel/topic_subscription_recover", "/v2/topics/{topic_name}/subscriptions/{subscriptions_id}/recover", &["POST"]),
    resource("rel/topic_subscription_recovery", "/v2/topics/{topic_name}/subscriptions/{subscriptions_id}/recover/{recovery_id}", &["GET", "DELETE"]),
    resource("rel/topic_subscription_test", "/v2/topics/{topic_name}/subscriptions/{subscriptions_id}/test", &["POST"]),
    resource("rel/ping", "/v2/ping", &["GET", "HEAD"]),
    resource("rel/health", "/v2/health", &["GET"]),
];

/// The resources that exist only with pools.
#[rustfmt::skip]
const POOL_RESOURCES: &[Resource] = &[
    resource("rel/pools", "/v2/pools{?detailed,limit,marker}", &["GET"]).renamed(&[("limit", "pool_limit")]),
    resource("rel/pool", "/v2/pools/{pool_name}", &["GET", "PUT", "PATCH", "DELETE"]),
    resource("rel/flavors", "/v2/flavors{?detailed,limit,marker}", &["GET"]).renamed(&[("limit", "flavor_limit")]),
    resource("rel/flavor", "/v2/flavors/{flavor_name}", &["GET", "PUT", "PATCH", "DELETE"]),
];

fn described(resource: &Resource) -> (String, Value) {
    let mut hints = json!({ "allow": resource.methods, "formats": { "application/json": {} } });
    if resource.methods.contains(&"POST") {
        hints["accept-post"] = json!(["application/json"]);
    }
    let parameter = |name: &str| {
        let renamed = resource.renamed.iter().find(|(variable, _)| *variable == name);
        Value::from(format!("param/{}", renamed.map_or(name, |(_, parameter)| parameter)))
    };
    let variables: Map<String, Value> =
        variables(resource.template).map(|name| (name.to_owned(), parameter(name))).collect();
    let description = if variables.is_empty() {
        json!({ "href": resource.template, "hints": hints })
    } else {
        json!({ "href-template": resource.template, "href-vars": variables, "hints": hints })
    };
    (resource.relation.to_owned(), description)
}

/// The variables of a URI template.
fn variables(template: &str) -> impl Iterator<Item = &str> {
    template
        .split('{')
        .skip(1)
        .filter_map(|part| part.split('}').next())
        .flat_map(|names| names.trim_start_matches('?').split(','))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_made_once() {
        let (first, second) = (home_document(false), home_document(false));
        assert_eq!(first.as_ptr(), second.as_ptr());
        let document: Value = serde_json::from_slice(&first).unwrap();
        assert_eq!(document["resources"].as_object().map(Map::len), Some(RESOURCES.len()));
        let document: Value = serde_json::from_slice(&home_document(true)).unwrap();
        assert_eq!(document["resources"]["rel/pool"]["href-template"], "/v2/pools/{pool_name}");
    }
}
