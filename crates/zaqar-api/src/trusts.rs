//! Subscribers that act for their owner: `trust+http` and `trust+https` need a Keystone trust,
//! which is made when they subscribe and kept as the option `trust_id`.

use serde_json::{Map, Value};
use zaqar_core::storage::Subscription;
use zaqar_core::{QueueKey, Timestamp};

use crate::{Api, Context, Error, TrustRequest};

/// The option that a trust is kept in.
const OPTION: &str = "trust_id";
/// Subscriptions of a page of the search for one.
const PAGE: usize = 200;

/// What a request to subscribe needs before it is stored.
pub(crate) enum Trusted {
    /// The subscriber has subscribed before; no trust was made.
    Before(Subscription),
    /// It may be stored. A trust that was made for it goes if it is not.
    Ready(Option<String>),
}

/// What a change of a subscription needs before it is stored.
#[derive(Default)]
pub(crate) struct Retrusted {
    /// The options to store, where the change concerns a trust.
    pub(crate) options: Option<Map<String, Value>>,
    /// A trust that was made for it.
    pub(crate) made: Option<String>,
}

/// Whether a subscriber acts for its owner.
pub(crate) fn needs_trust(subscriber: &str) -> bool {
    let scheme = subscriber.split_once(':').map(|(scheme, _)| scheme).unwrap_or_default();
    scheme.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("trust+"))
}

impl Api {
    /// Completes the options of a new subscription with the trust that it needs. A repeated request
    /// makes none.
    pub(crate) async fn trust_new(
        &self,
        context: &Context,
        key: &QueueKey,
        subscriber: &str,
        options: &mut Map<String, Value>,
        (ttl, now): (u64, Timestamp),
    ) -> Result<Trusted, Error> {
        let Some(subscribers) = self.subscribers().filter(|_| needs_trust(subscriber)) else {
            return Ok(Trusted::Ready(None));
        };
        let given = given(options)?;
        if let Some(found) = self.subscription_of(key, subscriber, now).await? {
            return Ok(Trusted::Before(found));
        }
        let request = TrustRequest { given: given.as_deref(), expires: now.plus_secs(ttl) };
        let id = subscribers.trust(context, request).await?;
        options.insert(OPTION.to_owned(), id.clone().into());
        Ok(Trusted::Ready(given.is_none().then_some(id)))
    }

    /// The options that a change is to store, where it concerns a trust: those of the request, else
    /// those that are stored, with the trust that the subscriber needs.
    ///
    /// The trust of a subscriber that stays the same stays too, unless another one is given, or
    /// `null` for a new one. Another subscriber gets another trust, made by who asks: one caller's
    /// trust must not be moved to where another one likes. A trust that was made goes if the change
    /// does not come about.
    pub(crate) async fn trust_changed(
        &self,
        context: &Context,
        stored: &Subscription,
        (subscriber, options): (Option<&str>, Option<&Map<String, Value>>),
        expires: Timestamp,
    ) -> Result<Retrusted, Error> {
        let target = subscriber.unwrap_or(&stored.subscriber);
        let Some(subscribers) = self.subscribers().filter(|_| needs_trust(target)) else {
            return Ok(Retrusted::default());
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
        Ok(Retrusted { options: Some(options), made: is_made.then_some(id) })
    }

    /// Deletes a trust that was made for a subscription which was not made or changed.
    pub(crate) async fn end_trust(&self, context: &Context, made: Option<String>) {
        if let (Some(subscribers), Some(id)) = (self.subscribers(), made) {
            subscribers.end_trust(context, &id).await;
        }
    }

    /// The live subscription of a subscriber. Cost: a look at all of the queue's, page by page,
    /// which is little beside the trust that it saves.
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

/// The trust that options name. `null` is none.
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
