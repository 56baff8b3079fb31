//! Operations on subscriptions.

use serde_json::{Map, Value};
use zaqar_core::limits::MIN_TTL;
use zaqar_core::metadata::check_retry_policy;
use zaqar_core::storage::{
    self, Changed, Guarded, NewSubscription, Subscribed, Subscription, SubscriptionChange,
};
use zaqar_core::{Incarnation, QueueKey, SubscriptionId, Timestamp};

use crate::directory::ATTEMPTS;
use crate::{
    Api, Caller, ChangeSubscription, ConfirmSubscription, CreateSubscription, Error,
    ListSubscriptions, Part, Subscriber, SubscriptionRef, page_limit,
};

/// The end of the calendar that clients know: 9999-12-31T23:59:59.
const LAST_SECOND: u64 = 253_402_300_799;

impl Api {
    /// Subscribes to a queue, created if it is not there. Answers the id; of a live subscription that the subscriber has not confirmed
    /// yet, that one's.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a subscriber, ttl or options that cannot be; [`Error::SubscriptionExists`] when the subscriber has a
    /// confirmed one; [`Error::Storage`].
    pub async fn create_subscription(
        &self,
        caller: &Caller,
        request: CreateSubscription,
    ) -> Result<SubscriptionId, Error> {
        let now = self.inner.clock.now();
        if let Subscriber::Address(subscriber) = &request.subscriber {
            self.check_subscriber(subscriber)?;
        }
        check_options(&request.options)?;
        let ttl = match request.ttl {
            None => self.inner.limits.default_subscription_ttl,
            Some(ttl) => checked_ttl(ttl, now)?,
        };
        let id = new_id(now);
        let options = Value::Object(request.options).to_string();
        let key = caller.key(request.queue);
        match request.subscriber {
            Subscriber::Address(subscriber) => {
                let (confirmed, lease) = (false, None);
                let new = NewSubscription { id, subscriber, ttl, options, confirmed, lease };
                match self.subscribe(&key, &new, now).await?.1 {
                    Subscribed::Created { .. } => Ok(id),
                    Subscribed::Exists(found) if found.confirmed => Err(Error::SubscriptionExists),
                    Subscribed::Exists(found) => Ok(found.id),
                }
            }
            Subscriber::Listener(listener) => {
                // A connection that ends meanwhile must not leave half of this behind.
                let api = self.clone();
                let connected = async move {
                    let arrival = api.inner.audience.receive().await?;
                    let (subscriber, confirmed) = (format!("websocket:{id}"), true);
                    let lease = arrival.lease();
                    let new = NewSubscription { id, subscriber, ttl, options, confirmed, lease };
                    if let (incarnation, Subscribed::Created { after }) =
                        api.subscribe(&key, &new, now).await?
                    {
                        arrival.admit(&listener, &key, incarnation, &new, after, now);
                    }
                    Ok(id)
                };
                tokio::spawn(connected).await.map_err(storage::Error::failed)?
            }
        }
    }

    /// Subscribes, and says to which life of the queue.
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
                Guarded::Absent | Guarded::Stale(_) => queue = directory.agree(key, now).await?,
            }
        }
        Err(Error::Contended)
    }

    /// Lists subscriptions by id. Cost: one row read a subscription shown.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a limit out of bounds; [`Error::Storage`].
    pub async fn list_subscriptions(
        &self,
        caller: &Caller,
        request: ListSubscriptions,
    ) -> Result<Vec<Subscription>, Error> {
        let limit = page_limit(request.limit, self.inner.limits.max_subscriptions_per_page)?;
        let after = match request.marker.as_deref().map(str::parse) {
            None => None,
            Some(Ok(id)) => Some(id),
            Some(Err(_)) => return Ok(Vec::new()),
        };
        let key = caller.key(request.queue);
        let now = self.inner.clock.now();
        Ok(self.inner.messages.subscriptions(&key, after, limit, now).await?)
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`Error::SubscriptionNotFound`]; [`Error::Storage`].
    pub async fn read_subscription(
        &self,
        caller: &Caller,
        request: SubscriptionRef,
    ) -> Result<Subscription, Error> {
        let id = parse(&request.id)?;
        let key = caller.key(request.queue);
        let found = self.inner.messages.subscription(&key, id, self.inner.clock.now()).await?;
        found.ok_or(Error::SubscriptionNotFound { id: request.id })
    }

    /// Changes what is given; what is not stays.
    ///
    /// # Errors
    /// [`Error::Invalid`] for values that cannot be and for a change of nothing; [`Error::SubscriptionNotFound`];
    /// [`Error::SubscriptionTaken`] when the new subscriber has another one; [`Error::Storage`].
    pub async fn change_subscription(
        &self,
        caller: &Caller,
        request: ChangeSubscription,
    ) -> Result<(), Error> {
        let now = self.inner.clock.now();
        if let Some(subscriber) = &request.subscriber {
            self.check_subscriber(subscriber)?;
        }
        if let Some(options) = &request.options {
            check_options(options)?;
        }
        let ttl = request.ttl.map(|ttl| checked_ttl(ttl, now)).transpose()?;
        let change = SubscriptionChange {
            subscriber: request.subscriber,
            ttl,
            options: request.options.map(|options| Value::Object(options).to_string()),
            confirmed: None,
        };
        let SubscriptionRef { queue, id } = request.subscription;
        let parsed = parse(&id)?;
        if change == SubscriptionChange::default() {
            return Err(Error::SubscriptionUnchanged { id });
        }
        let key = caller.key(queue);
        match self.inner.messages.change_subscription(&key, parsed, &change, now).await? {
            Changed::Done => Ok(()),
            Changed::Absent => Err(Error::SubscriptionNotFound { id }),
            Changed::Duplicate => Err(Error::SubscriptionTaken),
        }
    }

    /// Says that the subscriber agrees, or no longer does.
    ///
    /// # Errors
    /// [`Error::SubscriptionNotFound`]; [`Error::Storage`].
    pub async fn confirm_subscription(
        &self,
        caller: &Caller,
        request: ConfirmSubscription,
    ) -> Result<(), Error> {
        let SubscriptionRef { queue, id } = request.subscription;
        let parsed = parse(&id)?;
        let change =
            SubscriptionChange { confirmed: Some(request.confirmed), ..Default::default() };
        let key = caller.key(queue);
        let now = self.inner.clock.now();
        match self.inner.messages.change_subscription(&key, parsed, &change, now).await? {
            Changed::Done => Ok(()),
            Changed::Absent | Changed::Duplicate => Err(Error::SubscriptionNotFound { id }),
        }
    }

    /// Ends one; one that is not there is no error.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub async fn delete_subscription(
        &self,
        caller: &Caller,
        request: SubscriptionRef,
    ) -> Result<(), Error> {
        let Ok(id) = request.id.parse() else { return Ok(()) };
        let key = caller.key(request.queue);
        self.inner.messages.unsubscribe(&key, id, self.inner.clock.now()).await?;
        self.inner.audience.forget(&key, id);
        Ok(())
    }

    fn check_subscriber(&self, subscriber: &str) -> Result<(), Error> {
        let types = &self.inner.limits.subscriber_types;
        let scheme = subscriber.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
        match scheme {
            // A trust is made with Keystone when the subscription is: without one nothing could ever be delivered.
            Some(scheme) if types.contains(&scheme) && scheme.starts_with("trust+") => {
                return Err(Error::request(format!(
                    "The subscriber type {scheme} needs auth_strategy = keystone."
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

fn check_options(options: &Map<String, Value>) -> Result<(), Error> {
    check_retry_policy(options.get("_retry_policy"))
        .map_err(|error| Error::metadata(Part::Request, &error))
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

/// The time in the upper 48 bits, so that ids ascend; chance below.
fn new_id(now: Timestamp) -> SubscriptionId {
    let chance: u128 = rand::random();
    SubscriptionId::new(u128::from(now.as_millis()) << 80 | chance >> 48)
}
