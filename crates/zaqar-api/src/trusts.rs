//! Subscribers that act for their owner: `trust+http` and `trust+https` need a Keystone trust,
//! which is created when they subscribe and stored as the option `trust_id`.

use serde_json::{Map, Value};
use zaqar_core::storage::Subscription;
use zaqar_core::{QueueKey, Timestamp};

use crate::{Api, Context, Error, TrustRequest};

/// The option that stores the trust.
const OPTION: &str = "trust_id";
/// Page size of the search for a subscription.
const PAGE: usize = 200;

/// The result of preparing the trust of a new subscription.
pub(crate) enum NewTrust {
    /// The subscriber has subscribed before; no trust was created.
    AlreadySubscribed(Subscription),
    /// The subscription can be stored. If it is not, the new trust must be deleted.
    Ready(Option<String>),
}

/// The result of preparing the trust of a changed subscription.
#[derive(Default)]
pub(crate) struct ChangedTrust {
    /// The options to store, if the change concerns a trust.
    pub(crate) options: Option<Map<String, Value>>,
    /// A new trust that was created for it.
    pub(crate) created: Option<String>,
}

/// Whether a subscriber acts for its owner.
pub(crate) fn needs_trust(subscriber: &str) -> bool {
    let scheme = subscriber.split_once(':').map(|(scheme, _)| scheme).unwrap_or_default();
    scheme.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("trust+"))
}

impl Api {
    /// Adds the trust that a new subscription needs to its options. A repeated request creates
    /// none.
    pub(crate) async fn trust_new(
        &self,
        context: &Context,
        key: &QueueKey,
        subscriber: &str,
        options: &mut Map<String, Value>,
        (ttl, now): (u64, Timestamp),
    ) -> Result<NewTrust, Error> {
        let Some(subscribers) = self.subscribers().filter(|_| needs_trust(subscriber)) else {
            return Ok(NewTrust::Ready(None));
        };
        let given = given(options)?;
        if let Some(found) = self.subscription_of(key, subscriber, now).await? {
            return Ok(NewTrust::AlreadySubscribed(found));
        }
        let request = TrustRequest { given: given.as_deref(), expires: now.plus_secs(ttl) };
        let id = subscribers.trust(context, request).await?;
        options.insert(OPTION.to_owned(), id.clone().into());
        Ok(NewTrust::Ready(given.is_none().then_some(id)))
    }

    /// The options to store for a change that concerns a trust: those of the request, else the
    /// stored ones, with the trust that the subscriber needs.
    ///
    /// An unchanged subscriber keeps its trust, unless another one is given, or `null` for a new
    /// one. A changed subscriber gets another trust, created by the caller of the change: nobody
    /// may redirect another caller's trust to an address of their choice. If the change fails, the
    /// new trust must be deleted.
    pub(crate) async fn trust_changed(
        &self,
        context: &Context,
        stored: &Subscription,
        (subscriber, options): (Option<&str>, Option<&Map<String, Value>>),
        expires: Timestamp,
    ) -> Result<ChangedTrust, Error> {
        let target = subscriber.unwrap_or(&stored.subscriber);
        let Some(subscribers) = self.subscribers().filter(|_| needs_trust(target)) else {
            return Ok(ChangedTrust::default());
        };
        let before: Map<String, Value> = serde_json::from_str(&stored.options).unwrap_or_default();
        let known = before.get(OPTION).and_then(Value::as_str).map(str::to_owned);
        let known = known.filter(|_| target == stored.subscriber);
        let asked = options.map(given).transpose()?.flatten();
        let is_new = options.is_some_and(|options| options.get(OPTION) == Some(&Value::Null));
        let (id, is_made) = match (asked, known) {
            (Some(asked), Some(known)) if asked == known => (known, false),
            (None, Some(known)) if !is_new => (known, false),
            (asked, _) => {
                let request = TrustRequest { given: asked.as_deref(), expires };
                (subscribers.trust(context, request).await?, asked.is_none())
            }
        };
        let mut options = options.cloned().unwrap_or(before);
        options.insert(OPTION.to_owned(), id.clone().into());
        Ok(ChangedTrust { options: Some(options), created: is_made.then_some(id) })
    }

    /// Deletes a new trust after the subscription could not be created or changed.
    pub(crate) async fn end_trust(&self, context: &Context, created: Option<String>) {
        if let (Some(subscribers), Some(id)) = (self.subscribers(), created) {
            subscribers.end_trust(context, &id).await;
        }
    }

    /// The live subscription of a subscriber. Cost: reads all subscriptions of the queue page by
    /// page, which is cheap compared with creating a trust.
    async fn subscription_of(
        &self,
        key: &QueueKey,
        subscriber: &str,
        now: Timestamp,
    ) -> Result<Option<Subscription>, Error> {
        let mut after = None;
        loop {
            let page = self.inner.messages.subscriptions(key, after, PAGE, now).await?;
            let is_last = page.len() < PAGE;
            after = page.last().map(|one| one.id);
            if let Some(found) = page.into_iter().find(|one| one.subscriber == subscriber) {
                return Ok(Some(found));
            }
            if is_last {
                return Ok(None);
            }
        }
    }
}

/// The trust that the options name; `null` counts as none.
fn given(options: &Map<String, Value>) -> Result<Option<String>, Error> {
    match options.get(OPTION) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(id)) if !id.is_empty() => Ok(Some(id.clone())),
        Some(_) => Err(Error::request("The option trust_id must be the id of a trust.")),
    }
}

#[cfg(test)]
mod tests {
    use super::needs_trust;

    #[test]
    fn a_scheme_says_whether_a_trust_is_needed() {
        for subscriber in ["trust+http://h/", "TRUST+https://h/", "trust+http:"] {
            assert!(needs_trust(subscriber), "{subscriber}");
        }
        for subscriber in ["http://trust+http:/", "https://h/", "trust", "mailto:trust+x@h", ""] {
            assert!(!needs_trust(subscriber), "{subscriber}");
        }
    }
}
