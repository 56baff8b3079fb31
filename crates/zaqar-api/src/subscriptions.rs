//! Operations on subscriptions.

use serde_json::{Map, Value};
use tracing::Instrument;
use zaqar_core::limits::{MAX_DOCUMENT, MIN_TTL};
use zaqar_core::metadata::check_retry_policy;
use zaqar_core::storage::{
    self, Changed, Guarded, NewSubscription, Subscribed, Subscription, SubscriptionChange,
};
use zaqar_core::{Incarnation, QueueKey, Secret, SubscriptionId, Timestamp};

use crate::directory::ATTEMPTS;
use crate::trusts::{NewTrust, needs_trust};
use crate::{
    Api, Authentication, ChangeSubscription, ConfirmSubscription, Context, CreateSubscription,
    CreatedSubscription, DEFAULT_GRACE, Error, Facts, ListSubscriptions, MAX_GRACE,
    MAX_SUBSCRIPTIONS_PER_CONNECTION, Part, RotateSecret, Subscriber, Subscribers, SubscriptionRef,
    page_limit,
};

/// A requested subscription with an address.
struct AddressSubscription {
    key: QueueKey,
    subscriber: String,
    options: Map<String, Value>,
    ttl: u64,
}

/// Options that change what a subscriber gets, and that pushes over a connection do not heed.
const NOT_PUSHED: [&str; 5] = ["batch", "failure_queue", "filter", "max_rate", "signing"];

/// The last second that clients can represent: 9999-12-31T23:59:59.
const LAST_SECOND: u64 = 253_402_300_799;

impl Api {
    /// Subscribes to a queue, which is created if it does not exist. If the subscriber has a live
    /// subscription that is not confirmed yet, that one is returned.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an invalid subscriber, ttl or options; [`Error::SubscriptionExists`]
    /// if the subscriber has a confirmed one; [`Error::Storage`].
    pub(crate) async fn create_subscription(
        &self,
        context: &Context,
        request: CreateSubscription,
    ) -> Result<CreatedSubscription, Error> {
        let now = self.inner.clock.now();
        if let Subscriber::Address(subscriber) = &request.subscriber {
            self.check_subscriber(subscriber)?;
        }
        check_options(&request.options)?;
        match &request.subscriber {
            Subscriber::Address(subscriber) => {
                self.check_delivery(Some(subscriber), Some(&request.options)).await?;
            }
            Subscriber::Connection(_) => check_pushed(&request.options)?,
        }
        let ttl = match request.ttl {
            None => self.inner.limits.default_subscription_ttl,
            Some(ttl) => checked_ttl(ttl, now)?,
        };
        let key = context.key(request.queue);
        match request.subscriber {
            Subscriber::Address(subscriber) => {
                let request =
                    AddressSubscription { key, subscriber, options: request.options, ttl };
                self.subscribe_address(context, request, now).await
            }
            Subscriber::Connection(handle) => {
                let id = new_id(now);
                let options = Value::Object(request.options).to_string();
                if handle.subscriptions() >= MAX_SUBSCRIPTIONS_PER_CONNECTION {
                    return Err(Error::request(format!(
                        "A connection may have at most {MAX_SUBSCRIPTIONS_PER_CONNECTION} \
                         subscriptions."
                    )));
                }
                // Spawned, so that a connection that closes meanwhile cannot cancel it halfway.
                let api = self.clone();
                let signed_until = match &context.authentication {
                    Authentication::Signature(grant) => grant.expires,
                    Authentication::Unchecked { .. }
                    | Authentication::Token(_)
                    | Authentication::Server => Timestamp::MAX,
                };
                let connected = async move {
                    let pending = api.inner.pusher.begin_subscription().await?;
                    let (subscriber, confirmed) = (format!("websocket:{id}"), true);
                    let lease = pending.lease();
                    let new = NewSubscription { id, subscriber, ttl, options, confirmed, lease };
                    if let (incarnation, Subscribed::Created { after }) =
                        api.subscribe(&key, &new, now).await?
                    {
                        let span = (after, signed_until);
                        pending.activate(&handle, &key, incarnation, &new, span, now);
                    }
                    Ok(CreatedSubscription { id, secret: None })
                };
                tokio::spawn(connected.in_current_span()).await.map_err(storage::Error::failed)?
            }
        }
    }

    /// Creates a subscription with an address, with the trust and the secret that it needs.
    async fn subscribe_address(
        &self,
        context: &Context,
        request: AddressSubscription,
        now: Timestamp,
    ) -> Result<CreatedSubscription, Error> {
        let AddressSubscription { key, subscriber, mut options, ttl } = request;
        let lifetime = (ttl, now);
        let trust = self.trust_new(context, &key, &subscriber, &mut options, lifetime).await?;
        let made = match trust {
            NewTrust::Ready(made) => made,
            NewTrust::AlreadySubscribed(found) => {
                return self.resend_confirmation(&key, found, ttl).await;
            }
        };
        let (id, is_signed) = (new_id(now), signs(&options));
        // Before the subscription, so that nothing is ever sent unsigned.
        let secret = match self.subscribers() {
            Some(subscribers) if is_signed => subscribers.make_secret(&key, id, &options).await?,
            Some(_) | None => None,
        };
        let options = Value::Object(options).to_string();
        let (confirmed, lease) = (false, None);
        let new = NewSubscription { id, subscriber, ttl, options, confirmed, lease };
        let subscribed = self.subscribe(&key, &new, now).await;
        if !matches!(subscribed, Ok((_, Subscribed::Created { .. }))) {
            if let (Some(subscribers), true) = (self.subscribers(), is_signed) {
                subscribers.deleted(&key, id).await;
            }
            self.end_trust(context, made).await;
        }
        match subscribed?.1 {
            Subscribed::Created { .. } => {
                if let Some(subscribers) = self.subscribers() {
                    subscribers.created(&key, id, ttl).await;
                }
                Ok(CreatedSubscription { id, secret })
            }
            Subscribed::Exists(found) => self.resend_confirmation(&key, found, ttl).await,
        }
    }

    /// Answers a repeated request: the subscriber is asked again to confirm.
    async fn resend_confirmation(
        &self,
        key: &QueueKey,
        found: Subscription,
        ttl: u64,
    ) -> Result<CreatedSubscription, Error> {
        if found.confirmed {
            return Err(Error::SubscriptionExists);
        }
        if let Some(subscribers) = self.subscribers() {
            subscribers.created(key, found.id, ttl).await;
        }
        Ok(CreatedSubscription { id: found.id, secret: None })
    }

    /// Creates the subscription, and returns the incarnation of its queue too.
    async fn subscribe(
        &self,
        key: &QueueKey,
        new: &NewSubscription,
        now: Timestamp,
    ) -> Result<(Incarnation, Subscribed), Error> {
        let directory = &self.inner.directory;
        let mut queue = directory.find_or_create(key, now).await?;
        for _ in 0..ATTEMPTS {
            let assumed = queue.generation;
            match self.inner.messages.subscribe(key, assumed, new, now).await? {
                Guarded::Done(subscribed) => return Ok((assumed.incarnation, subscribed)),
                Guarded::Absent | Guarded::Stale(_) => {
                    queue = directory.reconcile(key, now).await?
                }
            }
        }
        Err(Error::Contended)
    }

    /// Lists subscriptions by id. Cost: one row per subscription returned.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a limit out of bounds; [`Error::Storage`].
    pub(crate) async fn list_subscriptions(
        &self,
        context: &Context,
        request: ListSubscriptions,
    ) -> Result<Vec<Subscription>, Error> {
        let limit = page_limit(request.limit, self.inner.limits.max_subscriptions_per_page)?;
        let after = match request.marker.as_deref().map(str::parse) {
            None => None,
            Some(Ok(id)) => Some(id),
            Some(Err(_)) => return Ok(Vec::new()),
        };
        let key = context.key(request.queue);
        let now = self.inner.clock.now();
        Ok(self.inner.messages.subscriptions(&key, after, limit, now).await?)
    }

    /// Reads a subscription.
    ///
    /// # Errors
    /// [`Error::SubscriptionNotFound`]; [`Error::Storage`].
    pub(crate) async fn read_subscription(
        &self,
        context: &Context,
        request: SubscriptionRef,
    ) -> Result<Subscription, Error> {
        let id = parse(&request.id)?;
        let key = context.key(request.queue);
        let found = self.inner.messages.subscription(&key, id, self.inner.clock.now()).await?;
        found.ok_or(Error::SubscriptionNotFound { id: request.id })
    }

    /// Changes the given parts of a subscription. One with another subscriber is not confirmed, and
    /// the new subscriber is asked. A request that gives the same subscriber again asks again until
    /// it has confirmed.
    ///
    /// # Errors
    /// [`Error::Invalid`] for invalid values; [`Error::SubscriptionUnchanged`] if nothing is given;
    /// [`Error::SubscriptionNotFound`]; [`Error::SubscriptionTaken`] if the new subscriber already
    /// has another one; [`Error::Storage`].
    pub(crate) async fn change_subscription(
        &self,
        context: &Context,
        request: ChangeSubscription,
    ) -> Result<(), Error> {
        let now = self.inner.clock.now();
        if let Some(subscriber) = &request.subscriber {
            self.check_subscriber(subscriber)?;
        }
        if let Some(options) = &request.options {
            check_options(options)?;
        }
        self.check_delivery(request.subscriber.as_deref(), request.options.as_ref()).await?;
        let ttl = request.ttl.map(|ttl| checked_ttl(ttl, now)).transpose()?;
        let SubscriptionRef { queue, id } = request.subscription;
        let parsed = parse(&id)?;
        if request.subscriber.is_none() && request.options.is_none() && ttl.is_none() {
            return Err(Error::SubscriptionUnchanged { id });
        }
        let key = context.key(queue);
        let (mut options, mut made) = (request.options, None);
        let stored = match request.subscriber.is_some() || options.is_some() {
            true => self.inner.messages.subscription(&key, parsed, now).await?,
            false => None,
        };
        if let Some(subscribers) = self.subscribers()
            && (request.subscriber.is_some() || options.is_some())
        {
            let Some(stored) = &stored else { return Err(Error::SubscriptionNotFound { id }) };
            if let Some(options) = options.as_ref().filter(|options| signs(options)) {
                // Shown to nobody: the client asks for a new one.
                subscribers.make_secret(&key, parsed, options).await?;
            }
            let expires = ttl.map_or(stored.since.plus_secs(stored.ttl), |ttl| now.plus_secs(ttl));
            let changed = (request.subscriber.as_deref(), options.as_ref());
            let trusted = self.trust_changed(context, stored, changed, expires).await?;
            (options, made) = (trusted.options.or(options), trusted.created);
        }
        // One that is the same is not written: it may be changed meanwhile.
        let before = stored.as_ref().map(|stored| &stored.subscriber);
        let is_confirmed = stored.as_ref().is_some_and(|stored| stored.confirmed);
        let is_given = request.subscriber.is_some();
        let subscriber = request.subscriber.filter(|subscriber| Some(subscriber) != before);
        let is_other = subscriber.is_some();
        // Also one that is the same: the server may have stopped before it asked.
        let asks = is_given && (is_other || !is_confirmed);
        let change = SubscriptionChange {
            subscriber,
            ttl,
            options: options.map(|options| Value::Object(options).to_string()),
            // In the same step, so that no message is sent to who did not agree.
            confirmed: is_other.then_some(false),
        };
        let changed = self.inner.messages.change_subscription(&key, parsed, &change, now).await;
        if !matches!(changed, Ok(Changed::Done)) {
            self.end_trust(context, made).await;
        }
        match changed? {
            Changed::Done => {
                if let Some(subscribers) = self.subscribers() {
                    subscribers.changed(&key, parsed).await;
                    if asks {
                        let ttl = ttl.or(stored.map(|stored| stored.ttl)).unwrap_or_default();
                        subscribers.created(&key, parsed, ttl).await;
                    }
                }
                Ok(())
            }
            Changed::Absent => Err(Error::SubscriptionNotFound { id }),
            Changed::Duplicate => Err(Error::SubscriptionTaken),
        }
    }

    /// Records that the subscriber confirmed the subscription, or withdrew the confirmation. A link
    /// does so for the subscriber that it was sent to, and no other.
    ///
    /// # Errors
    /// [`Error::SubscriptionNotFound`]; [`Error::NotGranted`] for a link that was sent to another
    /// subscriber; [`Error::Storage`].
    pub(crate) async fn confirm_subscription(
        &self,
        context: &Context,
        request: ConfirmSubscription,
    ) -> Result<(), Error> {
        let now = self.inner.clock.now();
        let subscriber = self.linked_subscriber(context, &request, now).await?;
        let SubscriptionRef { queue, id } = request.subscription;
        let parsed = parse(&id)?;
        // With the subscriber that agrees: it may be changed meanwhile.
        let confirmed = Some(request.confirmed);
        let change = SubscriptionChange { subscriber, confirmed, ..Default::default() };
        let key = context.key(queue);
        match self.inner.messages.change_subscription(&key, parsed, &change, now).await? {
            Changed::Done => {
                if let Some(subscribers) = self.subscribers() {
                    subscribers.confirmed(&key, parsed, request.confirmed).await;
                }
                Ok(())
            }
            Changed::Absent | Changed::Duplicate => Err(Error::SubscriptionNotFound { id }),
        }
    }

    /// The subscriber that a signed request confirms; `None` for any other request, for links of
    /// earlier releases, which only withdraw, and where nobody needs to confirm. A signature that a
    /// user of the project made confirms nobody: it was not sent to the subscriber.
    async fn linked_subscriber(
        &self,
        context: &Context,
        request: &ConfirmSubscription,
        now: Timestamp,
    ) -> Result<Option<String>, Error> {
        let Authentication::Signature(grant) = &context.authentication else { return Ok(None) };
        if !self.subscribers().is_some_and(<dyn Subscribers>::requires_confirmation) {
            return Ok(None);
        }
        let path = Facts::of(request).path();
        if !request.confirmed && grant.paths.contains(&path) {
            return Ok(None);
        }
        let SubscriptionRef { queue, id } = &request.subscription;
        let found =
            self.inner.messages.subscription(&context.key(queue.clone()), parse(id)?, now).await?;
        let found = found.ok_or_else(|| Error::SubscriptionNotFound { id: id.clone() })?;
        if grant.is_for(&path, &found.subscriber) {
            return Ok(Some(found.subscriber));
        }
        Err(Error::NotGranted)
    }

    /// Replaces the signing secret.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a time out of bounds; [`Error::SubscriptionNotFound`];
    /// [`Error::Conflict`] if its webhooks are not signed; [`Error::Contended`];
    /// [`Error::Storage`].
    pub(crate) async fn rotate_secret(
        &self,
        context: &Context,
        request: RotateSecret,
    ) -> Result<Secret<String>, Error> {
        let grace = match request.grace.map(u64::try_from) {
            None => DEFAULT_GRACE,
            Some(Ok(grace)) if grace <= MAX_GRACE => grace,
            Some(_) => {
                let text = format!("The grace must be an integer from 0 to {MAX_GRACE} seconds.");
                return Err(Error::request(text));
            }
        };
        let SubscriptionRef { queue, id } = request.subscription;
        let parsed = parse(&id)?;
        let key = context.key(queue);
        let found = self.inner.messages.subscription(&key, parsed, self.inner.clock.now()).await?;
        let found = found.ok_or(Error::SubscriptionNotFound { id })?;
        let options: Map<String, Value> = serde_json::from_str(&found.options).unwrap_or_default();
        match self.subscribers() {
            Some(subscribers) if signs(&options) => {
                let rotated = subscribers.rotate_secret(&key, parsed, &options, grace).await?;
                rotated.ok_or(Error::Contended)
            }
            Some(_) | None => Err(Error::Conflict {
                reason: "The subscription's webhooks are not signed: set its option signing first."
                    .to_owned(),
            }),
        }
    }

    /// Deletes a subscription. A missing one is not an error.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub(crate) async fn delete_subscription(
        &self,
        context: &Context,
        request: SubscriptionRef,
    ) -> Result<(), Error> {
        let Ok(id) = request.id.parse() else { return Ok(()) };
        let key = context.key(request.queue);
        self.inner.pusher.begin_leaving(&key, Some(id), context.connection.as_ref());
        self.inner.messages.unsubscribe(&key, id, self.inner.clock.now()).await?;
        self.inner.pusher.removed(&key, Some(id));
        if let Some(subscribers) = self.subscribers() {
            subscribers.deleted(&key, id).await;
        }
        Ok(())
    }

    pub(crate) fn subscribers(&self) -> Option<&dyn Subscribers> {
        self.inner.stack.layers().subscribers.as_deref()
    }

    /// Checks whether messages can be sent, if this server delivers any.
    async fn check_delivery(
        &self,
        subscriber: Option<&str>,
        options: Option<&Map<String, Value>>,
    ) -> Result<(), Error> {
        match self.subscribers() {
            Some(subscribers) => {
                subscribers.check(subscriber, options).await.map_err(Error::request)
            }
            None => Ok(()),
        }
    }

    fn check_subscriber(&self, subscriber: &str) -> Result<(), Error> {
        check_size("A subscriber", subscriber.len())?;
        let types = &self.inner.limits.subscriber_types;
        let scheme = subscriber.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
        match scheme {
            // Without a trust, which only this request can create, nothing could ever be delivered.
            Some(scheme)
                if types.contains(&scheme)
                    && needs_trust(subscriber)
                    && self.subscribers().is_none() =>
            {
                return Err(Error::request(format!(
                    "The subscriber type {scheme} is not served: this server makes no Keystone \
                     trusts."
                )));
            }
            Some(scheme) if types.contains(&scheme) => return Ok(()),
            Some(_) | None => {}
        }
        let types = types.iter().map(|kind| format!("'{kind}'")).collect::<Vec<_>>().join(", ");
        Err(Error::request(format!(
            "The subscriber type of subscription must be supported in the list [{types}]."
        )))
    }
}

/// Whether webhooks are signed, by validated options.
fn signs(options: &Map<String, Value>) -> bool {
    options.get("signing").is_some_and(|signing| *signing != false && !signing.is_null())
}

fn check_options(options: &Map<String, Value>) -> Result<(), Error> {
    let text = serde_json::to_string(options).map_err(storage::Error::failed)?;
    check_size("The options of a subscription", text.len())?;
    check_retry_policy(options.get("_retry_policy"))
        .map_err(|error| Error::metadata(Part::Request, &error))
}

fn check_pushed(options: &Map<String, Value>) -> Result<(), Error> {
    let given = |option: &&str| options.get(*option).is_some_and(|value| !value.is_null());
    match NOT_PUSHED.into_iter().find(given) {
        None => Ok(()),
        Some(option) => Err(Error::request(format!(
            "The option {option} is for subscriptions with an address: pushes over WebSocket have \
             no such option."
        ))),
    }
}

/// A list repeats them for each subscription.
fn check_size(what: &str, size: usize) -> Result<(), Error> {
    if size as u64 > MAX_DOCUMENT {
        let rule = format!("{what} may not exceed {MAX_DOCUMENT} bytes: {size} were given.");
        return Err(Error::request(rule));
    }
    Ok(())
}

fn checked_ttl(ttl: i64, now: Timestamp) -> Result<u64, Error> {
    let ttl = u64::try_from(ttl).unwrap_or(0);
    if ttl < MIN_TTL {
        return Err(Error::request(format!(
            "The TTL for a subscription must be at least {MIN_TTL} seconds long."
        )));
    }
    if ttl > LAST_SECOND.saturating_sub(now.as_secs()) {
        return Err(Error::request(
            "The TTL seconds for a subscription plus current time must be less than 9999-12-31 \
             23:59:59.",
        ));
    }
    Ok(ttl)
}

fn parse(id: &str) -> Result<SubscriptionId, Error> {
    id.parse().map_err(|_| Error::SubscriptionNotFound { id: id.to_owned() })
}

/// The time in the upper 48 bits, so that ids ascend; random bits below.
fn new_id(now: Timestamp) -> SubscriptionId {
    let random: u128 = rand::random();
    SubscriptionId::new(u128::from(now.as_millis()) << 80 | random >> 48)
}
