//! What can be asked, and what is answered: one type an operation.

use bytes::Bytes;
use serde_json::{Map, Value};
use zaqar_core::signing::Grant;
use zaqar_core::storage::{Claim, Message, MessagePage, Stats, Subscription};
use zaqar_core::{
    ClaimId, ClientId, Kind, MessageId, Metadata, ProjectId, QueueName, SubscriptionId,
};

use crate::{Error, Health, Listener};

/// An operation and who asks for it.
#[derive(Debug, Clone)]
pub struct Request {
    /// Who asks.
    pub caller: Caller,
    /// What is asked.
    pub operation: Operation,
}

/// Who asks: established by the transport, believed here.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The tenant whose queues are meant.
    pub project: ProjectId,
    /// The client, for `echo`.
    pub client: ClientId,
    /// Its roles in the project; case does not matter.
    pub roles: Vec<String>,
}

impl Caller {
    /// A client of a project, without roles.
    pub const fn new(project: ProjectId, client: ClientId) -> Self {
        Self { project, client, roles: Vec::new() }
    }

    pub(crate) fn require_admin(&self) -> Result<(), Error> {
        let is_admin = self.roles.iter().any(|role| role.eq_ignore_ascii_case("admin"));
        if is_admin { Ok(()) } else { Err(Error::Forbidden) }
    }
}

/// A queue or topic of the caller's project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueRef {
    /// Queue or topic.
    pub kind: Kind,
    /// Its name.
    pub name: QueueName,
}

/// Everything that can be asked.
#[derive(Debug, Clone)]
pub enum Operation {
    /// Whether the stores can serve.
    Ping,
    /// A page of queues.
    ListQueues(ListQueues),
    /// A queue, if it is not there yet.
    CreateQueue(CreateQueue),
    /// A queue's metadata.
    GetQueue(QueueRef),
    /// Changes to a queue's metadata.
    PatchQueue(PatchQueue),
    /// The end of a queue and everything in it.
    DeleteQueue(QueueRef),
    /// What is in a queue.
    QueueStats(QueueRef),
    /// The end of everything in a queue, but not of the queue.
    Purge(Purge),
    /// New messages.
    PostMessages(PostMessages),
    /// A page of messages.
    ListMessages(ListMessages),
    /// Messages by id.
    ReadMessages(ReadMessages),
    /// The end of one message.
    DeleteMessage(DeleteMessage),
    /// The end of messages by id.
    DeleteMessages(DeleteMessages),
    /// The first messages, taken out.
    PopMessages(PopMessages),
    /// The first messages, held for a time.
    CreateClaim(CreateClaim),
    /// A claim and its messages.
    ReadClaim(ReadClaim),
    /// More time for a claim.
    RenewClaim(RenewClaim),
    /// The end of a claim.
    ReleaseClaim(ReadClaim),
    /// A new subscription.
    CreateSubscription(CreateSubscription),
    /// A page of subscriptions.
    ListSubscriptions(ListSubscriptions),
    /// A subscription.
    ReadSubscription(SubscriptionRef),
    /// Changes to a subscription.
    ChangeSubscription(ChangeSubscription),
    /// Whether the subscriber agrees.
    ConfirmSubscription(ConfirmSubscription),
    /// The end of a subscription.
    DeleteSubscription(SubscriptionRef),
    /// A pre-signed URL.
    Share(Share),
    /// A self-test of every operation.
    Health,
}

/// Everything that can be answered.
#[derive(Debug)]
pub enum Answer {
    /// It was done; there is nothing to tell.
    Done,
    /// To [`Operation::ListQueues`].
    Queues(QueueList),
    /// To [`Operation::CreateQueue`]: whether this request created it.
    Created(bool),
    /// To [`Operation::GetQueue`] and [`Operation::PatchQueue`]: `None` for a queue that is not there.
    Metadata(Option<Metadata>),
    /// To [`Operation::QueueStats`]: `None` for a queue that is not there.
    Stats(Option<Stats>),
    /// To [`Operation::PostMessages`]: the ids, in the order of the post.
    Posted(Vec<MessageId>),
    /// To [`Operation::ListMessages`].
    Page(MessagePage),
    /// To [`Operation::ReadMessages`] and [`Operation::PopMessages`].
    Messages(Vec<Message>),
    /// To [`Operation::CreateClaim`]: `None` when there was nothing to claim.
    Claimed(Option<(ClaimId, Vec<Message>)>),
    /// To [`Operation::ReadClaim`].
    Claim(Claim),
    /// To [`Operation::CreateSubscription`].
    Subscribed(SubscriptionId),
    /// To [`Operation::ListSubscriptions`].
    Subscriptions(Vec<Subscription>),
    /// To [`Operation::ReadSubscription`].
    Subscription(Subscription),
    /// To [`Operation::Share`].
    Shared(Shared),
    /// To [`Operation::Health`].
    Health(Health),
}

/// Asks for a page of queues, by name.
#[derive(Debug, Clone)]
pub struct ListQueues {
    /// Queues or topics.
    pub kind: Kind,
    /// Begin behind this name, which need not exist.
    pub marker: Option<String>,
    /// Queues on the page: 1 to `max_queues_per_page`.
    pub limit: Option<i64>,
    /// Answer the metadata too.
    pub detailed: bool,
    /// A regular expression, found anywhere in the name.
    pub name: Option<String>,
    /// Count the project's queues.
    pub with_count: bool,
    /// Attributes that the metadata must have, with these values as a query writes them: an integer means a number.
    pub filters: Vec<(String, String)>,
}

/// A page of queues.
#[derive(Debug, Clone)]
pub struct QueueList {
    /// The queues, by name.
    pub queues: Vec<ListedQueue>,
    /// The last name looked at, where the next page begins; `None` when nothing was shown and nothing is left.
    pub next: Option<QueueName>,
    /// The project's queues, if asked for.
    pub count: Option<u64>,
}

/// A queue on a page.
#[derive(Debug, Clone)]
pub struct ListedQueue {
    /// Its name.
    pub name: QueueName,
    /// Its metadata as it was given, without defaults, if asked for.
    pub metadata: Option<Metadata>,
}

/// Asks for a queue to be there.
#[derive(Debug, Clone)]
pub struct CreateQueue {
    /// The queue.
    pub queue: QueueRef,
    /// Its metadata, if it is created; a queue that is there keeps its own.
    pub metadata: Metadata,
}

/// Asks for changes to metadata: all of them or none.
#[derive(Debug, Clone)]
pub struct PatchQueue {
    /// The queue.
    pub queue: QueueRef,
    /// The changes, in order.
    pub changes: Vec<Change>,
}

/// One change to metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Sets an attribute.
    Add {
        /// Its name.
        attribute: String,
        /// Its value.
        value: Value,
    },
    /// Sets an attribute that is there or reserved.
    Replace {
        /// Its name.
        attribute: String,
        /// Its value.
        value: Value,
    },
    /// Removes an attribute that is there or reserved.
    Remove {
        /// Its name.
        attribute: String,
    },
}

/// Asks for the end of what is in a queue.
#[derive(Debug, Clone)]
pub struct Purge {
    /// The queue.
    pub queue: QueueRef,
    /// Its messages and claims.
    pub messages: bool,
    /// Its subscriptions.
    pub subscriptions: bool,
}

/// Asks for messages to be stored: all of them or none.
#[derive(Debug, Clone)]
pub struct PostMessages {
    /// The queue, created if it is not there.
    pub queue: QueueRef,
    /// Bytes of the document that they came in, held against the queue's `_max_messages_post_size`.
    pub size: u64,
    /// The messages, in order.
    pub messages: Vec<PostedMessage>,
}

/// A message as it comes from a client.
#[derive(Debug, Clone)]
pub struct PostedMessage {
    /// JSON text that [`zaqar_core::json::check`] and a parser let pass.
    pub body: Bytes,
    /// Seconds it lives; else as its queue or the configuration says.
    pub ttl: Option<i64>,
    /// Seconds until it is shown; else as its queue or the configuration says.
    pub delay: Option<i64>,
}

/// Asks for a page of messages.
#[derive(Debug, Clone)]
pub struct ListMessages {
    /// The queue.
    pub queue: QueueRef,
    /// A message id: begin behind it. What is no id gives an empty page.
    pub marker: Option<String>,
    /// Messages on the page: 1 to `max_messages_per_page`.
    pub limit: Option<i64>,
    /// Show the caller's own messages.
    pub echo: bool,
    /// Show claimed messages.
    pub include_claimed: bool,
    /// Show delayed messages.
    pub include_delayed: bool,
}

/// Asks for messages by id; what is no id finds nothing.
#[derive(Debug, Clone)]
pub struct ReadMessages {
    /// The queue.
    pub queue: QueueRef,
    /// 1 to `max_messages_per_page` ids.
    pub ids: Vec<String>,
}

/// Asks for the end of one message.
#[derive(Debug, Clone)]
pub struct DeleteMessage {
    /// The queue.
    pub queue: QueueRef,
    /// The message.
    pub id: String,
    /// The claim that holds it.
    pub claim: Option<String>,
}

/// Asks for the end of messages.
#[derive(Debug, Clone)]
pub struct DeleteMessages {
    /// The queue.
    pub queue: QueueRef,
    /// 1 to `max_messages_per_page` ids.
    pub ids: Vec<String>,
    /// The claims that hold them: heeded and needed with `message_delete_with_claim_id` only.
    pub claims: Option<Vec<String>>,
}

/// Asks for the first free messages, to be taken out.
#[derive(Debug, Clone)]
pub struct PopMessages {
    /// The queue.
    pub queue: QueueRef,
    /// 1 to `max_messages_per_claim_or_pop`.
    pub limit: i64,
}

/// Asks for the first free messages, to be held.
#[derive(Debug, Clone)]
pub struct CreateClaim {
    /// The queue.
    pub queue: QueueRef,
    /// 1 to `max_messages_per_claim_or_pop`.
    pub limit: Option<i64>,
    /// Seconds the claim lives; `default_claim_ttl` where absent.
    pub ttl: Option<i64>,
    /// Seconds its messages outlive it; `default_claim_grace` where absent.
    pub grace: Option<i64>,
}

/// Names a claim.
#[derive(Debug, Clone)]
pub struct ReadClaim {
    /// The queue.
    pub queue: QueueRef,
    /// The claim.
    pub id: String,
}

/// Asks for more time for a claim.
#[derive(Debug, Clone)]
pub struct RenewClaim {
    /// The queue.
    pub queue: QueueRef,
    /// The claim.
    pub id: String,
    /// Seconds it lives from now; `default_claim_ttl` where absent.
    pub ttl: Option<i64>,
    /// Seconds its messages outlive it, brought within 0 and `max_claim_grace`; `default_claim_grace` where absent.
    pub grace: Option<i64>,
}

/// Asks for a subscription.
#[derive(Debug, Clone)]
pub struct CreateSubscription {
    /// The queue, created if it is not there.
    pub queue: QueueRef,
    /// Who is to hear of messages.
    pub subscriber: Subscriber,
    /// Seconds it lives, at least 60; `default_subscription_ttl` where absent.
    pub ttl: Option<i64>,
    /// Kept as given; `_retry_policy` in it is checked.
    pub options: Map<String, Value>,
}

/// Who hears of messages.
#[derive(Debug, Clone)]
pub enum Subscriber {
    /// A URI with one of the schemes of `subscriber_types`.
    Address(String),
    /// The connection that asks: the subscription ends with it.
    Listener(Listener),
}

/// Asks for a page of subscriptions, by id.
#[derive(Debug, Clone)]
pub struct ListSubscriptions {
    /// The queue.
    pub queue: QueueRef,
    /// A subscription id: begin behind it. What is no id gives an empty page.
    pub marker: Option<String>,
    /// Subscriptions on the page: 1 to `max_subscriptions_per_page`.
    pub limit: Option<i64>,
}

/// Names a subscription.
#[derive(Debug, Clone)]
pub struct SubscriptionRef {
    /// The queue.
    pub queue: QueueRef,
    /// The subscription.
    pub id: String,
}

/// Asks for changes to a subscription; `None` keeps what is there.
#[derive(Debug, Clone)]
pub struct ChangeSubscription {
    /// The subscription.
    pub subscription: SubscriptionRef,
    /// Another subscriber.
    pub subscriber: Option<String>,
    /// Another life, from now.
    pub ttl: Option<i64>,
    /// Other options, all of them.
    pub options: Option<Map<String, Value>>,
}

/// Says whether a subscriber agrees.
#[derive(Debug, Clone)]
pub struct ConfirmSubscription {
    /// The subscription.
    pub subscription: SubscriptionRef,
    /// It agrees.
    pub confirmed: bool,
}

/// Asks for a pre-signed URL.
#[derive(Debug, Clone)]
pub struct Share {
    /// The path of the queue: `/v2/queues/…`.
    pub base: String,
    /// `messages`, `claims`, `subscriptions` below it; `messages` where empty.
    pub paths: Vec<String>,
    /// HTTP methods; `GET` where empty.
    pub methods: Vec<String>,
    /// A time of ISO 8601; in a day where absent.
    pub expires: Option<String>,
}

/// A pre-signed URL.
#[derive(Debug, Clone)]
pub struct Shared {
    /// What it allows.
    pub grant: Grant,
    /// 64 hexadecimal digits.
    pub signature: String,
}
