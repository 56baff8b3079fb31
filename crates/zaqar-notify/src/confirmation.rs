//! Confirmations: what asks a subscriber to agree, and tells it that it no longer does.

use serde_json::{Value, json};
use zaqar_core::signing::Grant;
use zaqar_core::{Secret, Timestamp, iso8601};

use crate::row::SubscriptionKey;

/// What is sent, as the original writes it: the members that a subscriber needs to send a signed
/// `PUT` to the subscription's `confirm` resource. `None` for a queue that cannot be signed for.
pub(crate) fn confirmation(
    key: &Secret<String>,
    subscription: &SubscriptionKey,
    expires: Timestamp,
    has_ended: bool,
) -> Option<Value> {
    let SubscriptionKey { queue, id } = subscription;
    let path = format!("/v2/{}s/{}/subscriptions/{id}/confirm", queue.kind.as_str(), queue.name);
    let (paths, methods) = (vec![path.clone()], vec!["PUT".to_owned()]);
    let grant = Grant::new(queue.project.clone(), paths, methods, expires);
    let signature = grant.sign(key).ok()?;
    let (kind, message) = if has_ended {
        let text = format!(
            "You have unsubscribed successfully to the queue: {}, you can resubscribe it by using \
             confirmed=True.",
            queue.name
        );
        ("UnsubscribeConfirmation", text)
    } else {
        let text = format!("You have chosen to subscribe to the queue: {}", queue.name);
        ("SubscriptionConfirmation", text)
    };
    Some(json!({
        "Message_Type": kind,
        "Message": message,
        "URL-Signature": signature,
        "URL-Methods": "PUT",
        "URL-Paths": path,
        "X-Project-ID": queue.project.as_str(),
        "URL-Expires": iso8601::format(expires),
        "SubscribeBody": {"confirmed": true},
        "UnsubscribeBody": {"confirmed": false},
        "queue_name": queue.name.as_str(),
    }))
}
