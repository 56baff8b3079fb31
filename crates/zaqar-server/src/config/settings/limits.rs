//! `[transport]`: limits and defaults of requests.

use zaqar_core::Limits;
use zaqar_core::limits::ClientIds;

use crate::config::error::Warning;
use crate::config::reader::Options;

const SUBSCRIBER_TYPES: [&str; 5] = ["http", "https", "mailto", "trust+http", "trust+https"];

pub(super) fn read(options: &mut Options<'_>, channels: &[String]) -> Limits {
    let limits = Limits {
        default_message_ttl: options.number("default_message_ttl"),
        default_message_delay: options.number("default_message_delay"),
        default_claim_ttl: options.number("default_claim_ttl"),
        default_claim_grace: options.number("default_claim_grace"),
        default_subscription_ttl: options.number("default_subscription_ttl"),
        max_queues_per_page: options.number("max_queues_per_page"),
        max_messages_per_page: options.number("max_messages_per_page"),
        max_subscriptions_per_page: options.number("max_subscriptions_per_page"),
        max_messages_per_claim_or_pop: options.number("max_messages_per_claim_or_pop"),
        max_queue_metadata: options.number("max_queue_metadata"),
        max_messages_post_size: options.number("max_messages_post_size"),
        max_message_ttl: options.number("max_message_ttl"),
        max_message_delay: options.number("max_message_delay"),
        max_claim_ttl: options.number("max_claim_ttl"),
        max_claim_grace: options.number("max_claim_grace"),
        subscriber_types: subscriber_types(options, channels),
        max_flavors_per_page: options.number("max_flavors_per_page"),
        max_pools_per_page: options.number("max_pools_per_page"),
        client_ids: client_ids(options),
        message_delete_with_claim_id: options.boolean("message_delete_with_claim_id"),
    };
    for (least, most) in [
        (
            ("default_message_ttl", limits.default_message_ttl),
            ("max_message_ttl", limits.max_message_ttl),
        ),
        (
            ("default_message_delay", limits.default_message_delay),
            ("max_message_delay", limits.max_message_delay),
        ),
        (("default_claim_ttl", limits.default_claim_ttl), ("max_claim_ttl", limits.max_claim_ttl)),
        (
            ("default_claim_grace", limits.default_claim_grace),
            ("max_claim_grace", limits.max_claim_grace),
        ),
    ] {
        warn_above(options, least, most);
    }
    limits
}

fn subscriber_types(options: &mut Options<'_>, channels: &[String]) -> Vec<String> {
    let types = options.list("subscriber_types");
    let known: Vec<_> =
        SUBSCRIBER_TYPES.into_iter().chain(channels.iter().map(String::as_str)).collect();
    if types.iter().any(|kind| !known.contains(&kind.as_str())) {
        options.refuse("subscriber_types", format!("a list of: {}", known.join(", ")));
    }
    types
}

fn client_ids(options: &mut Options<'_>) -> ClientIds {
    let mode = options.choice("client_id_uuid_safe");
    let (min, max) =
        (options.number("min_length_client_id"), options.number("max_length_client_id"));
    if mode != "off" {
        return ClientIds::Strict;
    }
    if min > max {
        options.refuse(
            first_set(options, ["min_length_client_id", "max_length_client_id"]),
            format!(
                "such that min_length_client_id ({min}) is not above max_length_client_id ({max})"
            ),
        );
    }
    let length = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    ClientIds::Off { min: length(min), max: length(max) }
}

/// A default above its maximum works for requests with an explicit value, so it is not an error.
fn warn_above(options: &mut Options<'_>, default: (&'static str, u64), max: (&'static str, u64)) {
    if default.1 <= max.1 {
        return;
    }
    let what = format!("[transport] {} ({}) is above {} ({})", default.0, default.1, max.0, max.1);
    let origin = options.section.origin(first_set(options, [default.0, max.0]));
    options.reader.warnings.push(Warning::Conflict { origin, what });
}

/// Of two contradicting options, the first one that is set.
fn first_set(options: &Options<'_>, pair: [&'static str; 2]) -> &'static str {
    let is_set = |option: &str| options.section.options().any(|set| set == option);
    if is_set(pair[0]) { pair[0] } else { pair[1] }
}
