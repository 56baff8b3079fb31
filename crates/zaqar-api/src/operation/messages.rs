//! Operations on messages.

use bytes::Bytes;
use zaqar_core::storage::{Message, MessagePage, NewMessage};
use zaqar_core::{MessageId, OverBudget, Permit};

use super::{
    Access, Amount, Declaration, Messages, Method, Operation, Resource, Rule, Run, addresses_id,
    addresses_queue, answers_page,
};
use crate::{Api, Context, Error, Push, QueueRef};

const MESSAGES_PATH: &str = "/v2/{kind}s/{queue}/messages";
const MESSAGE_PATH: &str = "/v2/{kind}s/{queue}/messages/{id}";

/// Stores messages, all or none. Returns their ids in the order of the post.
#[derive(Debug, Clone)]
pub struct PostMessages {
    /// The queue, created if it does not exist.
    pub queue: QueueRef,
    /// Size in bytes of the posted document, which the queue's `_max_messages_post_size` limits.
    pub size: u64,
    /// The messages, in order.
    pub messages: Vec<PostedMessage>,
    /// Whether subscribers are notified. Callers set `false`: [`crate::Notifier`], a stage of the
    /// default pipeline, sets `true`.
    pub notify: bool,
}

/// A message as a client posts it.
#[derive(Debug, Clone)]
pub struct PostedMessage {
    /// Valid JSON text that also passes [`zaqar_core::json::check`]. A stage that changes it must
    /// keep it so.
    pub body: Bytes,
    /// Seconds it lives; `None` for the default of its queue or of the configuration.
    pub ttl: Option<i64>,
    /// Seconds until it is visible; `None` for the default of its queue or of the configuration.
    pub delay: Option<i64>,
}

/// Bytes of the messages of a post that are not charged.
const FREE_BYTES: usize = 4 * 1024;

impl PostedMessage {
    /// Bytes that a message of a post occupies besides its body, about, until it is stored: here,
    /// and as what the store is given.
    pub const OCCUPIES: usize = size_of::<Self>() + size_of::<NewMessage>();

    /// Charges exactly what these messages of a post occupy besides their bodies; nothing if they
    /// are few.
    ///
    /// # Errors
    /// [`OverBudget`]; the permit does not change.
    pub fn charge(messages: &[Self], permit: &mut Permit) -> Result<(), OverBudget> {
        let occupied = messages.len() * Self::OCCUPIES;
        if occupied <= FREE_BYTES { Ok(()) } else { permit.resize(occupied) }
    }
}

impl Operation for PostMessages {
    type Answer = Vec<MessageId>;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "post_messages",
        rule: Rule::One("messages:create"),
        about: Resource::Message,
        access: Access::Write,
        method: Method::Post,
        path: MESSAGES_PATH,
        admin: false,
    };

    addresses_queue!();

    fn amount(&self) -> Amount {
        Amount { messages: self.messages.len() as u64, bytes: self.size }
    }
}

impl Run for PostMessages {
    async fn run(self, api: &Api, context: &Context) -> Result<Vec<MessageId>, Error> {
        api.post_messages(context, self).await
    }
}

/// Checks the size of a malformed post as [`PostMessages`] does: a size past the limit is reported
/// before a malformed body.
#[derive(Debug, Clone)]
pub struct CheckPostSize {
    /// The queue.
    pub queue: QueueRef,
    /// Bytes of the document.
    pub size: u64,
}

impl Operation for CheckPostSize {
    type Answer = ();
    const DECLARATION: &'static Declaration =
        &Declaration { name: "check_post_size", ..*PostMessages::DECLARATION };

    addresses_queue!();
}

impl Run for CheckPostSize {
    async fn run(self, api: &Api, context: &Context) -> Result<(), Error> {
        api.check_post_size(context, self.queue, self.size).await
    }
}

/// Lists messages in order.
#[derive(Debug, Clone)]
pub struct ListMessages {
    /// The queue.
    pub queue: QueueRef,
    /// A message id: starts after it. A malformed one gives an empty page.
    pub marker: Option<String>,
    /// Messages on the page: 1 to `max_messages_per_page`.
    pub limit: Option<i64>,
    /// Shows the caller's own messages.
    pub echo: bool,
    /// Shows claimed messages.
    pub include_claimed: bool,
    /// Shows delayed messages.
    pub include_delayed: bool,
}

impl Operation for ListMessages {
    type Answer = MessagePage;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "list_messages",
        rule: Rule::One("messages:get_all"),
        about: Resource::Message,
        access: Access::Read,
        method: Method::Get,
        path: MESSAGES_PATH,
        admin: false,
    };

    addresses_queue!();
    answers_page!();
}

impl Run for ListMessages {
    async fn run(self, api: &Api, context: &Context) -> Result<MessagePage, Error> {
        api.list_messages(context, self).await
    }
}

/// Reads messages by id. Malformed and unknown ids are left out.
#[derive(Debug, Clone)]
pub struct ReadMessages {
    /// The queue.
    pub queue: QueueRef,
    /// 1 to `max_messages_per_page` ids.
    pub ids: Vec<String>,
}

impl Operation for ReadMessages {
    type Answer = Messages;
    const DECLARATION: &'static Declaration =
        &Declaration { name: "read_messages", ..*ListMessages::DECLARATION };

    addresses_queue!();
    answers_page!();
}

impl Run for ReadMessages {
    async fn run(self, api: &Api, context: &Context) -> Result<Messages, Error> {
        api.read_messages(context, self).await
    }
}

/// Reads one message; `None` where it does not exist.
#[derive(Debug, Clone)]
pub struct ReadMessage {
    /// The queue.
    pub queue: QueueRef,
    /// The message.
    pub id: String,
}

impl Operation for ReadMessage {
    type Answer = Option<Message>;
    const DECLARATION: &'static Declaration = &Declaration {
        name: "read_message",
        rule: Rule::One("messages:get"),
        about: Resource::Message,
        access: Access::Read,
        method: Method::Get,
        path: MESSAGE_PATH,
        admin: false,
    };

    addresses_queue!();
    addresses_id!();
}

impl Run for ReadMessage {
    async fn run(self, api: &Api, context: &Context) -> Result<Option<Message>, Error> {
        let request = ReadMessages { queue: self.queue, ids: vec![self.id] };
        Ok(api.read_messages(context, request).await?.pop())
    }
}

/// Deletes one message.
#[derive(Debug, Clone)]
pub struct DeleteMessage {
    /// The queue.
    pub queue: QueueRef,
    /// The message.
    pub id: String,
    /// The claim that holds it.
    pub claim: Option<String>,
}

impl Operation for DeleteMessage {
    type Answer = ();
    const DECLARATION: &'static Declaration = &Declaration {
        name: "delete_message",
        rule: Rule::One("messages:delete"),
        about: Resource::Message,
        access: Access::Write,
        method: Method::Delete,
        path: MESSAGE_PATH,
        admin: false,
    };

    addresses_queue!();
    addresses_id!();
}

impl Run for DeleteMessage {
    async fn run(self, api: &Api, context: &Context) -> Result<(), Error> {
        api.delete_message(context, self).await
    }
}

/// Deletes messages by id.
#[derive(Debug, Clone)]
pub struct DeleteMessages {
    /// The queue.
    pub queue: QueueRef,
    /// 1 to `max_messages_per_page` ids.
    pub ids: Vec<String>,
    /// The claims that hold them: used and required with `message_delete_with_claim_id` only.
    pub claims: Option<Vec<String>>,
}

impl Operation for DeleteMessages {
    type Answer = ();
    const DECLARATION: &'static Declaration = &Declaration {
        name: "delete_messages",
        rule: Rule::One("messages:delete_all"),
        about: Resource::Message,
        access: Access::Write,
        method: Method::Delete,
        path: MESSAGES_PATH,
        admin: false,
    };

    addresses_queue!();
}

impl Run for DeleteMessages {
    async fn run(self, api: &Api, context: &Context) -> Result<(), Error> {
        api.delete_messages(context, self).await
    }
}

/// Removes the first free messages from the queue and returns them.
#[derive(Debug, Clone)]
pub struct PopMessages {
    /// The queue.
    pub queue: QueueRef,
    /// 1 to `max_messages_per_claim_or_pop`.
    pub limit: i64,
}

impl Operation for PopMessages {
    type Answer = Messages;
    const DECLARATION: &'static Declaration =
        &Declaration { name: "pop_messages", ..*DeleteMessages::DECLARATION };

    addresses_queue!();
}

impl Run for PopMessages {
    async fn run(self, api: &Api, context: &Context) -> Result<Messages, Error> {
        api.pop_messages(context, self).await
    }
}

/// Pushes the messages of one post to the connections that subscribed to their queue. Not requested
/// by clients: each server runs it when it sees a post to any server of the deployment.
#[derive(Debug)]
pub struct PushMessages {
    /// The queue.
    pub queue: QueueRef,
    /// The messages. A stage may change their bodies and leave messages out.
    pub messages: Vec<Push>,
}

impl Operation for PushMessages {
    type Answer = ();
    const DECLARATION: &'static Declaration = &Declaration {
        name: "push_messages",
        rule: Rule::None,
        about: Resource::Message,
        access: Access::Read,
        method: Method::Get,
        path: MESSAGES_PATH,
        admin: false,
    };

    addresses_queue!();

    fn amount(&self) -> Amount {
        let bytes = self.messages.iter().map(|push| push.body.len() as u64).sum();
        Amount { messages: self.messages.len() as u64, bytes }
    }

    /// Pushes do not wait for the expensive operations of their project.
    fn is_expensive(&self) -> bool {
        false
    }
}
