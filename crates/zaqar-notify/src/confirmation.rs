//! Requests to confirm a subscription, and notices that it has ended.

use serde_json::{Value, json};
use zaqar_core::signing::{Grant, path_for};
use zaqar_core::{Secret, Timestamp, iso8601};

use crate::context::PublicUrls;
use crate::row::SubscriptionKey;

/// The body, as the original writes it: the members that a subscriber needs to send a signed `PUT`
/// to the subscription's `confirm` resource. The signature is for this subscriber only. `None` for
/// a queue whose paths cannot be signed.
pub(crate) fn confirmation(
    key: &Secret<String>,
    (subscription, subscriber): (&SubscriptionKey, &str),
    urls: &PublicUrls,
    expires: Timestamp,
    has_ended: bool,
) -> Option<Value> {
    let queue = &subscription.queue;
    let path = path(subscription);
    let signed = path_for(&path, subscriber);
    let (paths, methods) = (vec![signed.clone()], vec!["PUT".to_owned()]);
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
    let mut document = json!({
        "Message_Type": kind,
        "Message": message,
        "URL-Signature": signature,
        "URL-Methods": "PUT",
        "URL-Paths": signed,
        "X-Project-ID": queue.project.as_str(),
        "URL-Expires": iso8601::format(expires),
        "SubscribeBody": {"confirmed": true},
        "UnsubscribeBody": {"confirmed": false},
        "queue_name": queue.name.as_str(),
    });
    let known = [("WSGISubscribeURL", &urls.http), ("WebSocketSubscribeURL", &urls.websocket)];
    for (name, url) in known {
        if let Some(url) = url {
            document[name] = below(url, &path).into();
        }
    }
    Some(document)
}

/// Whether a body that [`confirmation`] returned is for this subscriber: it may have been changed
/// since.
pub(crate) fn is_for(body: &[u8], subscription: &SubscriptionKey, subscriber: &str) -> bool {
    let document: Option<Value> = serde_json::from_slice(body).ok();
    let signed = document.as_ref().and_then(|document| document.get("URL-Paths")?.as_str());
    signed == Some(path_for(&path(subscription), subscriber).as_str())
}

/// The path of the resource that confirms a subscription.
fn path(subscription: &SubscriptionKey) -> String {
    let SubscriptionKey { queue, id } = subscription;
    format!("/v2/{}s/{}/subscriptions/{id}/confirm", queue.kind.as_str(), queue.name)
}

/// Joins a path to the service's base URL, which may already end with the version that paths begin
/// with.
fn below(service: &str, path: &str) -> String {
    let service = service.trim_end_matches('/');
    format!("{}{path}", service.strip_suffix("/v2").unwrap_or(service))
}

#[cfg(test)]
mod tests {
    use super::below;

    #[test]
    fn a_path_is_below_the_service() {
        for (service, expected) in [
            ("http://h:8888", "http://h:8888/v2/q"),
            ("http://h:8888/", "http://h:8888/v2/q"),
            ("https://h/messaging", "https://h/messaging/v2/q"),
            ("https://h/messaging/v2/", "https://h/messaging/v2/q"),
            ("ws://h:9000/", "ws://h:9000/v2/q"),
        ] {
            assert_eq!(below(service, "/v2/q"), expected);
        }
    }
}
