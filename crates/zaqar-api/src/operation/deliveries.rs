//! Operations on the deliveries of a subscription.

use serde_json::Value;
use zaqar_core::MessageId;
use zaqar_core::delivery::{Delivery, Recovery, SubscriberHealth};

use super::{
    Access, Declaration, Method, Operation, Resource, Rule, Run, SubscriptionRef,
    addresses_subscription, answers_page,
};
use crate::{Api, Context, Error, QueueRef};

const READ: Rule = Rule::One("subscription:get");
const CHANGE: Rule = Rule::One("subscription:update");

/// Declares that `delivery` is the delivery that is addressed.
macro_rules! addresses_delivery {
    () => {
        fn delivery(&self) -> Option<&str> {
            Some(&self.delivery)
        }
    };
}

/// Lists the latest deliveries to a subscriber, by id.
#[derive(Debug, Clone)]
pub struct ListDeliveries {
    /// The subscription.
    pub subscription: SubscriptionRef,
    /// The name of a [`zaqar_core::delivery::DeliveryState`]: only deliveries of this state.
    pub status: Option<String>,
    /// A time of ISO 8601: only deliveries that changed since.
    pub since: Option<String>,
    /// A delivery's id: starts after it. A malformed one gives an empty page.
    pub marker: Option<String>,
    /// Deliveries on the page: 1 to `max_subscriptions_per_page`.
    pub limit: Option<i64>,
}

impl Operation for ListDeliveries {
    type Answer = Vec<Delivery>;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "list_deliveries",
        rule: READ,
        about: Resource::Subscription,
        access: Access::Read,
        method: Method::Get,
        path: "/v2/{kind}s/{queue}/subscriptions/{id}/deliveries",
        admin: false,
    };

    addresses_subscription!();
    answers_page!();
}

impl Run for ListDeliveries {
    async fn run(self, api: &Api, context: &Context) -> Result<Vec<Delivery>, Error> {
        api.list_deliveries(context, self).await
    }
}

/// Reads a delivery with its attempts.
#[derive(Debug, Clone)]
pub struct ReadDelivery {
    /// The subscription.
    pub subscription: SubscriptionRef,
    /// The delivery: its message's id.
    pub delivery: String,
}

impl Operation for ReadDelivery {
    type Answer = Delivery;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "read_delivery",
        rule: READ,
        about: Resource::Subscription,
        access: Access::Read,
        method: Method::Get,
        path: "/v2/{kind}s/{queue}/subscriptions/{id}/deliveries/{delivery}",
        admin: false,
    };

    addresses_subscription!();
    addresses_delivery!();
    answers_page!();
}

impl Run for ReadDelivery {
    async fn run(self, api: &Api, context: &Context) -> Result<Delivery, Error> {
        api.read_delivery(context, self).await
    }
}

/// Delivers a failed message again, or immediately one that waits for a retry.
#[derive(Debug, Clone)]
pub struct RetryDelivery {
    /// The subscription.
    pub subscription: SubscriptionRef,
    /// The delivery: its message's id.
    pub delivery: String,
}

impl Operation for RetryDelivery {
    type Answer = ();
    const DECLARATION: &'static Declaration = &Declaration {
        name: "retry_delivery",
        rule: CHANGE,
        about: Resource::Subscription,
        access: Access::Write,
        method: Method::Post,
        path: "/v2/{kind}s/{queue}/subscriptions/{id}/deliveries/{delivery}/retry",
        admin: false,
    };

    addresses_subscription!();
    addresses_delivery!();
    answers_page!();
}

impl Run for RetryDelivery {
    async fn run(self, api: &Api, context: &Context) -> Result<(), Error> {
        api.retry_delivery(context, self).await
    }
}

/// Reads the health of a subscriber.
#[derive(Debug, Clone)]
pub struct CheckSubscriber {
    /// The subscription.
    pub subscription: SubscriptionRef,
}

impl Operation for CheckSubscriber {
    type Answer = SubscriberHealth;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "check_subscriber",
        rule: READ,
        about: Resource::Subscription,
        access: Access::Read,
        method: Method::Get,
        path: "/v2/{kind}s/{queue}/subscriptions/{id}/health",
        admin: false,
    };

    addresses_subscription!();
    answers_page!();
}

impl Run for CheckSubscriber {
    async fn run(self, api: &Api, context: &Context) -> Result<SubscriberHealth, Error> {
        api.subscriber_health(context, self.subscription).await
    }
}

/// Resumes delivery to a suspended subscriber, and retries a failing one immediately.
#[derive(Debug, Clone)]
pub struct ResumeSubscription {
    /// The subscription.
    pub subscription: SubscriptionRef,
}

impl Operation for ResumeSubscription {
    type Answer = ();
    const DECLARATION: &'static Declaration = &Declaration {
        name: "resume_subscription",
        rule: CHANGE,
        about: Resource::Subscription,
        access: Access::Write,
        method: Method::Post,
        path: "/v2/{kind}s/{queue}/subscriptions/{id}/resume",
        admin: false,
    };

    addresses_subscription!();
}

impl Run for ResumeSubscription {
    async fn run(self, api: &Api, context: &Context) -> Result<(), Error> {
        api.resume_subscription(context, self.subscription).await
    }
}

/// Sends a subscriber a message that was not posted, through the normal delivery path.
#[derive(Debug, Clone)]
pub struct TestSubscription {
    /// The subscription.
    pub subscription: SubscriptionRef,
    /// The message's body; `{"test": true}` where absent. At most 64 KiB as text.
    pub body: Option<Value>,
}

impl Operation for TestSubscription {
    /// The delivery's id.
    type Answer = MessageId;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "test_subscription",
        rule: CHANGE,
        about: Resource::Subscription,
        access: Access::Write,
        method: Method::Post,
        path: "/v2/{kind}s/{queue}/subscriptions/{id}/test",
        admin: false,
    };

    addresses_subscription!();
}

impl Run for TestSubscription {
    async fn run(self, api: &Api, context: &Context) -> Result<MessageId, Error> {
        api.test_subscription(context, self).await
    }
}

/// Delivers failed messages again, all of them or those of a time range, at a bounded rate.
#[derive(Debug, Clone)]
pub struct RecoverDeliveries {
    /// The subscription.
    pub subscription: SubscriptionRef,
    /// A time of ISO 8601: only messages posted then or later.
    pub since: Option<String>,
    /// A time of ISO 8601: only messages posted before.
    pub until: Option<String>,
}

impl Operation for RecoverDeliveries {
    type Answer = Recovery;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "recover_deliveries",
        rule: CHANGE,
        about: Resource::Subscription,
        access: Access::Write,
        method: Method::Post,
        path: "/v2/{kind}s/{queue}/subscriptions/{id}/recover",
        admin: false,
    };

    addresses_subscription!();
    answers_page!();
}

impl Run for RecoverDeliveries {
    async fn run(self, api: &Api, context: &Context) -> Result<Recovery, Error> {
        api.recover_deliveries(context, self).await
    }
}

/// Reads the progress of a recovery.
#[derive(Debug, Clone)]
pub struct ReadRecovery {
    /// The subscription.
    pub subscription: SubscriptionRef,
    /// The recovery's id.
    pub delivery: String,
}

impl Operation for ReadRecovery {
    type Answer = Recovery;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "read_recovery",
        rule: READ,
        about: Resource::Subscription,
        access: Access::Read,
        method: Method::Get,
        path: "/v2/{kind}s/{queue}/subscriptions/{id}/recover/{delivery}",
        admin: false,
    };

    addresses_subscription!();
    addresses_delivery!();
    answers_page!();
}

impl Run for ReadRecovery {
    async fn run(self, api: &Api, context: &Context) -> Result<Recovery, Error> {
        api.read_recovery(context, self).await
    }
}

/// Cancels a recovery.
#[derive(Debug, Clone)]
pub struct CancelRecovery {
    /// The subscription.
    pub subscription: SubscriptionRef,
    /// The recovery's id.
    pub delivery: String,
}

impl Operation for CancelRecovery {
    type Answer = ();
    const DECLARATION: &'static Declaration = &Declaration {
        name: "cancel_recovery",
        rule: CHANGE,
        about: Resource::Subscription,
        access: Access::Write,
        method: Method::Delete,
        path: "/v2/{kind}s/{queue}/subscriptions/{id}/recover/{delivery}",
        admin: false,
    };

    addresses_subscription!();
    addresses_delivery!();
}

impl Run for CancelRecovery {
    async fn run(self, api: &Api, context: &Context) -> Result<(), Error> {
        api.cancel_recovery(context, self).await
    }
}
