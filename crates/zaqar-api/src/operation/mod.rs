//! The operations. Each is one type, which declares everything that layers, signed URLs, WebSocket
//! ordering and pipelines need to know about it.

mod claims;
mod declaration;
mod deliveries;
mod flavors;
mod messages;
mod pools;
mod queues;
mod quotas;
mod service;
mod subscriptions;

use std::any::Any;

use zaqar_core::storage::Message;
use zaqar_core::{Kind, QueueName};

use crate::{Api, Context, Error, QueueRef};

pub use claims::{CreateClaim, ReadClaim, ReleaseClaim, RenewClaim};
pub use declaration::{Access, Declaration, Method, Resource, Rule};
pub use deliveries::{
    CancelRecovery, CheckSubscriber, ListDeliveries, ReadDelivery, ReadRecovery, RecoverDeliveries,
    ResumeSubscription, RetryDelivery, TestSubscription,
};
pub use flavors::{CreateFlavor, DeleteFlavor, GetFlavor, ListFlavors, UpdateFlavor};
pub use messages::{
    CheckPostSize, DeleteMessage, DeleteMessages, ListMessages, PopMessages, PostMessages,
    PostedMessage, PushMessages, ReadMessage, ReadMessages,
};
pub use pools::{
    CreatePool, DeletePool, DrainPool, GetPool, ListPools, MoveQueue, ReadDrain, StopDrain,
    UpdatePool,
};
pub use queues::{
    Change, CreateQueue, DeleteQueue, GetQueue, GetQueueStats, ListQueues, ListedQueue, PatchQueue,
    Purge, QueueList, Share, Shared,
};
pub use quotas::{GetQuotas, ListQuotas, SetQuotas, UnsetQuotas};
pub use service::{CheckHealth, Ping, ReadHome};
pub use subscriptions::{
    ChangeSubscription, ConfirmSubscription, CreateSubscription, CreatedSubscription,
    DEFAULT_GRACE, DeleteSubscription, ListSubscriptions, MAX_GRACE, ReadSubscription,
    RotateSecret, Subscriber, SubscriptionRef,
};

/// The declarations of all operations.
pub const DECLARATIONS: &[&Declaration] = &[
    CancelRecovery::DECLARATION,
    ChangeSubscription::DECLARATION,
    CheckHealth::DECLARATION,
    CheckPostSize::DECLARATION,
    CheckSubscriber::DECLARATION,
    ConfirmSubscription::DECLARATION,
    CreateClaim::DECLARATION,
    CreateFlavor::DECLARATION,
    CreatePool::DECLARATION,
    CreateQueue::DECLARATION,
    CreateSubscription::DECLARATION,
    DeleteFlavor::DECLARATION,
    DeleteMessage::DECLARATION,
    DeleteMessages::DECLARATION,
    DeletePool::DECLARATION,
    DeleteQueue::DECLARATION,
    DeleteSubscription::DECLARATION,
    DrainPool::DECLARATION,
    GetFlavor::DECLARATION,
    GetPool::DECLARATION,
    GetQueue::DECLARATION,
    GetQueueStats::DECLARATION,
    GetQuotas::DECLARATION,
    ListDeliveries::DECLARATION,
    ListFlavors::DECLARATION,
    ListMessages::DECLARATION,
    ListPools::DECLARATION,
    ListQueues::DECLARATION,
    ListQuotas::DECLARATION,
    ListSubscriptions::DECLARATION,
    MoveQueue::DECLARATION,
    PatchQueue::DECLARATION,
    Ping::DECLARATION,
    PopMessages::DECLARATION,
    PostMessages::DECLARATION,
    Purge::DECLARATION,
    PushMessages::DECLARATION,
    ReadClaim::DECLARATION,
    ReadDelivery::DECLARATION,
    ReadDrain::DECLARATION,
    ReadHome::DECLARATION,
    ReadMessage::DECLARATION,
    ReadMessages::DECLARATION,
    ReadRecovery::DECLARATION,
    ReadSubscription::DECLARATION,
    RecoverDeliveries::DECLARATION,
    ReleaseClaim::DECLARATION,
    RenewClaim::DECLARATION,
    ResumeSubscription::DECLARATION,
    RetryDelivery::DECLARATION,
    RotateSecret::DECLARATION,
    SetQuotas::DECLARATION,
    Share::DECLARATION,
    StopDrain::DECLARATION,
    TestSubscription::DECLARATION,
    UnsetQuotas::DECLARATION,
    UpdateFlavor::DECLARATION,
    UpdatePool::DECLARATION,
];

/// One operation, with its parameters in the fields of the type.
///
/// [`crate::Api::call`] runs it, if it is [`Callable`].
pub trait Operation: Any + Send + Sync {
    /// Its answer.
    type Answer: Any + Send + Sync;

    /// The facts about every operation of this type.
    const DECLARATION: &'static Declaration;

    /// The queue or topic that it addresses; `None` if it addresses none or several.
    fn queue(&self) -> Option<&QueueRef>;

    /// Queue or topic, also if it addresses several.
    fn kind(&self) -> Kind {
        self.queue().map_or(Kind::Queue, |queue| queue.kind)
    }

    /// The one message, claim or subscription that it addresses, as the caller wrote it.
    fn id(&self) -> Option<&str> {
        None
    }

    /// The one delivery of a subscription that it addresses, as the caller wrote it.
    fn delivery(&self) -> Option<&str> {
        None
    }

    /// The amount of messages that it stores or pushes.
    fn amount(&self) -> Amount {
        Amount::default()
    }

    /// Whether it may take long or return much: a page, or a large post. The server limits the
    /// number of expensive operations in progress for each project.
    fn is_expensive(&self) -> bool {
        let Amount { messages, bytes } = self.amount();
        messages > MANY_MESSAGES || bytes > MANY_BYTES
    }
}

/// Posts of more messages are expensive.
const MANY_MESSAGES: u64 = 100;
/// Posts of more bytes are expensive.
const MANY_BYTES: u64 = 64 * 1024;

/// An amount of messages, for quotas.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// Messages.
    pub messages: u64,
    /// Size in bytes of the posted document.
    pub bytes: u64,
}

impl Amount {
    /// Both together.
    #[must_use]
    pub const fn plus(self, more: Self) -> Self {
        Self {
            messages: self.messages.saturating_add(more.messages),
            bytes: self.bytes.saturating_add(more.bytes),
        }
    }

    /// What is left without `less`.
    #[must_use]
    pub const fn minus(self, less: Self) -> Self {
        Self {
            messages: self.messages.saturating_sub(less.messages),
            bytes: self.bytes.saturating_sub(less.bytes),
        }
    }
}

/// What a layer can know of any operation without knowing its type.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The declaration of its type.
    pub declaration: &'static Declaration,
    /// Queue or topic.
    pub kind: Kind,
    /// The queue or topic that it addresses.
    pub queue: Option<&'a QueueName>,
    /// The one message, claim or subscription that it addresses.
    pub id: Option<&'a str>,
    /// The one delivery of the subscription that it addresses.
    pub delivery: Option<&'a str>,
    /// The amount of messages that it stores or pushes.
    pub amount: Amount,
}

impl<'a> Facts<'a> {
    /// The facts of an operation. Cheap.
    pub fn of<O: Operation>(operation: &'a O) -> Self {
        Self {
            declaration: O::DECLARATION,
            kind: operation.kind(),
            queue: operation.queue().map(|queue| &queue.name),
            id: operation.id(),
            delivery: operation.delivery(),
            amount: operation.amount(),
        }
    }

    /// The name of its rule in the original's policies; `None` where the original has none.
    pub const fn rule(&self) -> Option<&'static str> {
        self.declaration.rule.name(self.kind)
    }

    /// The resource whose pipeline it passes.
    pub const fn resource(&self) -> Resource {
        self.declaration.resource(self.kind)
    }

    /// Its path in the REST API, which a signed URL must cover. Allocates.
    pub fn path(&self) -> String {
        let queue = self.queue.map_or("", |queue| queue.as_str());
        self.declaration
            .path
            .replace("{kind}", self.kind.as_str())
            .replace("{queue}", queue)
            .replace("{id}", self.id.unwrap_or_default())
            .replace("{delivery}", self.delivery.unwrap_or_default())
    }
}

/// An operation of any type, for layers: its facts, and through [`Any`] its type.
pub(crate) trait AnyOperation: Any + Send + Sync {
    fn facts(&self) -> Facts<'_>;
}

impl<O: Operation> AnyOperation for O {
    fn facts(&self) -> Facts<'_> {
        Facts::of(self)
    }
}

/// An operation that callers can request; the others are internal to the server.
pub trait Callable: Run {}

impl<O: Run> Callable for O {}

/// Runs an operation behind all layers. Not exported, so that nothing can bypass the layers.
pub trait Run: Operation {
    /// Runs it.
    fn run(
        self,
        api: &Api,
        context: &Context,
    ) -> impl Future<Output = Result<Self::Answer, Error>> + Send;
}

/// Declares that an operation's `queue` field is the queue that it addresses.
macro_rules! addresses_queue {
    () => {
        fn queue(&self) -> Option<&QueueRef> {
            Some(&self.queue)
        }
    };
}

/// Declares that `id` is the one message, claim or subscription that it addresses.
macro_rules! addresses_id {
    () => {
        fn id(&self) -> Option<&str> {
            Some(&self.id)
        }
    };
}

/// Declares that `subscription` names the queue and the subscription that are addressed.
macro_rules! addresses_subscription {
    () => {
        fn queue(&self) -> Option<&QueueRef> {
            Some(&self.subscription.queue)
        }

        fn id(&self) -> Option<&str> {
            Some(&self.subscription.id)
        }
    };
}

/// Declares that an operation returns or reads a page.
macro_rules! answers_page {
    () => {
        fn is_expensive(&self) -> bool {
            true
        }
    };
}

use {addresses_id, addresses_queue, addresses_subscription, answers_page};

/// The messages of an answer.
pub(crate) type Messages = Vec<Message>;
