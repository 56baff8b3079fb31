//! Operations on subscriptions.

use serde_json::{Map, Value};
use zaqar_core::storage::Subscription;
use zaqar_core::{Secret, SubscriptionId};

use super::{
    Access, Declaration, Method, Operation, Resource, Rule, Run, addresses_queue,
    addresses_subscription, answers_page,
};
use crate::{Api, Context, Error, PushHandle, QueueRef};

const SUBSCRIPTIONS_PATH: &str = "/v2/{kind}s/{queue}/subscriptions";
const SUBSCRIPTION_PATH: &str = "/v2/{kind}s/{queue}/subscriptions/{id}";

/// Names a subscription.
#[derive(Debug, Clone)]
pub struct SubscriptionRef {
    /// The queue.
    pub queue: QueueRef,
    /// The subscription.
    pub id: String,
}

/// Creates a subscription.
#[derive(Debug, Clone)]
pub struct CreateSubscription {
    /// The queue, created if it does not exist.
    pub queue: QueueRef,
    /// The subscriber.
    pub subscriber: Subscriber,
    /// Seconds it lives, at least 60; `default_subscription_ttl` where absent.
    pub ttl: Option<i64>,
    /// Stored as given; `_retry_policy` in it is validated.
    pub options: Map<String, Value>,
}

/// The receiver of messages.
#[derive(Debug, Clone)]
pub enum Subscriber {
    /// A URI with one of the schemes of `subscriber_types`.
    Address(String),
    /// A connection: the subscription ends with it.
    Connection(PushHandle),
}

/// A subscription that was created, or that existed unconfirmed.
#[derive(Debug, Clone)]
pub struct CreatedSubscription {
    /// Its id.
    pub id: SubscriptionId,
    /// The secret that signs its webhooks, if one was created: it is shown in this answer only.
    pub secret: Option<Secret<String>>,
}

impl Operation for CreateSubscription {
    type Answer = CreatedSubscription;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "create_subscription",
        rule: Rule::One("subscription:create"),
        about: Resource::Subscription,
        access: Access::Write,
        method: Method::Post,
        path: SUBSCRIPTIONS_PATH,
        admin: false,
    };

    addresses_queue!();
}

impl Run for CreateSubscription {
    async fn run(self, api: &Api, context: &Context) -> Result<CreatedSubscription, Error> {
        api.create_subscription(context, self).await
    }
}

/// Lists subscriptions by id.
#[derive(Debug, Clone)]
pub struct ListSubscriptions {
    /// The queue.
    pub queue: QueueRef,
    /// A subscription id: starts after it. A malformed one gives an empty page.
    pub marker: Option<String>,
    /// Subscriptions on the page: 1 to `max_subscriptions_per_page`.
    pub limit: Option<i64>,
}

impl Operation for ListSubscriptions {
    type Answer = Vec<Subscription>;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "list_subscriptions",
        rule: Rule::One("subscription:get_all"),
        about: Resource::Subscription,
        access: Access::Read,
        method: Method::Get,
        path: SUBSCRIPTIONS_PATH,
        admin: false,
    };

    addresses_queue!();
    answers_page!();
}

impl Run for ListSubscriptions {
    async fn run(self, api: &Api, context: &Context) -> Result<Vec<Subscription>, Error> {
        api.list_subscriptions(context, self).await
    }
}

/// Reads a subscription.
#[derive(Debug, Clone)]
pub struct ReadSubscription {
    /// The subscription.
    pub subscription: SubscriptionRef,
}

impl Operation for ReadSubscription {
    type Answer = Subscription;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "read_subscription",
        rule: Rule::One("subscription:get"),
        about: Resource::Subscription,
        access: Access::Read,
        method: Method::Get,
        path: SUBSCRIPTION_PATH,
        admin: false,
    };

    addresses_subscription!();
}

impl Run for ReadSubscription {
    async fn run(self, api: &Api, context: &Context) -> Result<Subscription, Error> {
        api.read_subscription(context, self.subscription).await
    }
}

/// Changes a subscription; `None` keeps the current value.
#[derive(Debug, Clone)]
pub struct ChangeSubscription {
    /// The subscription.
    pub subscription: SubscriptionRef,
    /// The new subscriber.
    pub subscriber: Option<String>,
    /// Seconds it lives from now.
    pub ttl: Option<i64>,
    /// The new options, which replace all old ones.
    pub options: Option<Map<String, Value>>,
}

impl Operation for ChangeSubscription {
    type Answer = ();
    const DECLARATION: &'static Declaration = &Declaration {
        name: "change_subscription",
        rule: Rule::One("subscription:update"),
        about: Resource::Subscription,
        access: Access::Write,
        method: Method::Patch,
        path: SUBSCRIPTION_PATH,
        admin: false,
    };

    addresses_subscription!();
}

impl Run for ChangeSubscription {
    async fn run(self, api: &Api, context: &Context) -> Result<(), Error> {
        api.change_subscription(context, self).await
    }
}

/// Confirms a subscription, or withdraws the confirmation.
#[derive(Debug, Clone)]
pub struct ConfirmSubscription {
    /// The subscription.
    pub subscription: SubscriptionRef,
    /// Whether the subscription is confirmed.
    pub confirmed: bool,
}

impl Operation for ConfirmSubscription {
    type Answer = ();
    const DECLARATION: &'static Declaration = &Declaration {
        name: "confirm_subscription",
        rule: Rule::One("subscription:confirm"),
        about: Resource::Subscription,
        access: Access::Write,
        method: Method::Put,
        path: "/v2/{kind}s/{queue}/subscriptions/{id}/confirm",
        admin: false,
    };

    addresses_subscription!();
}

impl Run for ConfirmSubscription {
    async fn run(self, api: &Api, context: &Context) -> Result<(), Error> {
        api.confirm_subscription(context, self).await
    }
}

/// Replaces the signing secret of a subscription.
#[derive(Debug, Clone)]
pub struct RotateSecret {
    /// The subscription.
    pub subscription: SubscriptionRef,
    /// Seconds during which the old secret signs too, up to [`MAX_GRACE`]; [`DEFAULT_GRACE`] if
    /// absent.
    pub grace: Option<i64>,
}

/// Default number of seconds that an old signing secret stays valid: a day.
pub const DEFAULT_GRACE: u64 = 86_400;
/// Maximum number of seconds that an old signing secret stays valid: a week.
pub const MAX_GRACE: u64 = 604_800;

impl Operation for RotateSecret {
    /// The secret, which is shown in this answer only.
    type Answer = Secret<String>;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "rotate_secret",
        rule: Rule::One("subscription:update"),
        about: Resource::Subscription,
        access: Access::Write,
        method: Method::Post,
        path: "/v2/{kind}s/{queue}/subscriptions/{id}/secret",
        admin: false,
    };

    addresses_subscription!();
}

impl Run for RotateSecret {
    async fn run(self, api: &Api, context: &Context) -> Result<Secret<String>, Error> {
        api.rotate_secret(context, self).await
    }
}

/// Deletes a subscription.
#[derive(Debug, Clone)]
pub struct DeleteSubscription {
    /// The subscription.
    pub subscription: SubscriptionRef,
}

impl Operation for DeleteSubscription {
    type Answer = ();
    const DECLARATION: &'static Declaration = &Declaration {
        name: "delete_subscription",
        rule: Rule::One("subscription:delete"),
        about: Resource::Subscription,
        access: Access::Write,
        method: Method::Delete,
        path: SUBSCRIPTION_PATH,
        admin: false,
    };

    addresses_subscription!();
}

impl Run for DeleteSubscription {
    async fn run(self, api: &Api, context: &Context) -> Result<(), Error> {
        api.delete_subscription(context, self.subscription).await
    }
}
