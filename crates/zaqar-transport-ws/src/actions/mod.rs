//! The handlers of actions, one file per resource. Each handler decodes a request, calls the
//! operation and encodes its answer.

mod claims;
mod messages;
mod node;
mod pools;
mod queues;
mod quotas;
mod subscriptions;

use zaqar_api::{Api, Callable, Context, QueueRef};
use zaqar_core::limits::ClientIds;
use zaqar_core::{ClientId, Holder, Kind, NameError, QueueName, Timestamp};
use zaqar_transport::Turns;

use crate::action::Action;
use crate::error::{ErrorContext, WsError};
use crate::members::{Items, Shape, shape};
use crate::reply::Reply;
use crate::request::Request;

type HandlerResult = Result<Reply, WsError>;

/// One request, with the context of its caller, while it is handled.
pub(crate) struct Exchange {
    pub(crate) api: Api,
    pub(crate) context: Context,
    pub(crate) request: Request,
    /// Serves the operations for administrators too.
    pub(crate) admin: bool,
    /// In which large lists are encoded.
    pub(crate) turns: Turns,
    /// What memory is charged to: the connection and the project.
    pub(crate) holder: Holder,
}

/// The result of a request.
pub(crate) struct Completed {
    pub(crate) request: Request,
    pub(crate) reply: Reply,
}

impl Exchange {
    /// Handles the request.
    pub(crate) async fn handle(self) -> Completed {
        let replied = match self.request.action {
            Action::Authenticate => Ok(authenticated()),
            Action::GetHomeDoc => self.home().await,
            Action::CheckNodeHealth => self.health().await,
            Action::PingNode => self.ping().await,
            Action::QueueList => self.list_queues().await,
            Action::QueueCreate => self.create_queue().await,
            Action::QueueDelete => self.delete_queue().await,
            Action::QueueGet => self.get_queue().await,
            Action::QueueGetStats => self.stats().await,
            Action::QueuePurge => self.purge().await,
            Action::MessageList => self.list_messages().await,
            Action::MessageGet => self.get_message().await,
            Action::MessageGetMany => self.get_messages().await,
            Action::MessagePost => self.post_messages().await,
            Action::MessageDelete => self.delete_message().await,
            Action::MessageDeleteMany => self.delete_messages().await,
            Action::ClaimCreate => self.create_claim().await,
            Action::ClaimGet => self.get_claim().await,
            Action::ClaimUpdate => self.renew_claim().await,
            Action::ClaimDelete => self.release_claim().await,
            Action::SubscriptionList => self.list_subscriptions().await,
            Action::SubscriptionCreate => self.create_subscription().await,
            Action::SubscriptionGet => self.get_subscription().await,
            Action::SubscriptionDelete => self.delete_subscription().await,
            Action::PoolList => self.list_pools().await,
            Action::PoolCreate => self.create_pool().await,
            Action::PoolUpdate => self.update_pool().await,
            Action::PoolGet => self.get_pool().await,
            Action::PoolDelete => self.delete_pool().await,
            Action::PoolDrainCreate => self.drain_pool().await,
            Action::PoolDrainGet => self.get_drain().await,
            Action::PoolDrainDelete => self.stop_drain().await,
            Action::PoolQueueCreate => self.move_queue().await,
            Action::FlavorList => self.list_flavors().await,
            Action::FlavorCreate => self.create_flavor().await,
            Action::FlavorUpdate => self.update_flavor().await,
            Action::FlavorGet => self.get_flavor().await,
            Action::FlavorDelete => self.delete_flavor().await,
            Action::QuotaList => self.list_quotas().await,
            Action::QuotaGet => self.get_quotas().await,
            Action::QuotaUpdate => self.set_quotas().await,
            Action::QuotaDelete => self.unset_quotas().await,
        };
        let reply = replied.unwrap_or_else(|error| error.into_reply(&self.error_context()));
        Completed { request: self.request, reply }
    }

    fn call<O: Callable>(
        &self,
        operation: O,
    ) -> impl Future<Output = Result<O::Answer, zaqar_api::Error>> + use<'_, O> {
        self.api.call(&self.context, operation)
    }

    fn error_context(&self) -> ErrorContext {
        let text = |name| self.request.body.text(name).unwrap_or_default();
        let action = self.request.action;
        let id = if matches!(action, Action::SubscriptionGet | Action::SubscriptionDelete) {
            text("subscription_id")
        } else {
            text("message_id")
        };
        ErrorContext {
            action: Some(self.request.action),
            queue: text("queue_name"),
            project: self.context.project.to_string(),
            id,
            claim: text("claim_id"),
        }
    }

    fn now(&self) -> Timestamp {
        self.api.clock().now()
    }

    /// The queue that the request names.
    fn queue(&self) -> Result<QueueRef, WsError> {
        let name = self.request.body.text("queue_name").unwrap_or_default();
        match QueueName::new(&name) {
            Ok(name) => Ok(QueueRef { kind: Kind::Queue, name }),
            Err(NameError::QueueTooLong { max, .. }) => Err(WsError::invalid(format!(
                "Queue names may not be more than {max} characters long."
            ))),
            Err(
                NameError::QueueCharacters
                | NameError::ProjectEmpty
                | NameError::ProjectWhitespace
                | NameError::ProjectTooLong { .. },
            ) => Err(WsError::invalid(
                "Queue names may only contain ASCII letters, digits, underscores, and dashes.",
            )),
        }
    }

    /// A string member that the schema of the action requires.
    fn text(&self, name: &str) -> String {
        self.request.body.text(name).unwrap_or_default()
    }

    /// An integer member that is not in the schema of the action: like the original, it may be a
    /// string of digits.
    fn lenient_integer(&self, name: &str) -> Result<Option<i64>, WsError> {
        let Some(value) = self.request.body.get(name) else { return Ok(None) };
        match (value.as_ref(), shape(value)) {
            (b"null", _) => return Ok(None),
            (_, Shape::Integer) => return Ok(self.request.body.integer(name)),
            (b"true", _) => return Ok(Some(1)),
            (b"false", _) => return Ok(Some(0)),
            (_, Shape::Text) => {
                let text = self.text(name);
                if let Ok(number) = text.trim().parse() {
                    return Ok(Some(number));
                }
            }
            _ => {}
        }
        Err(WsError::invalid(format!("The value of the \"{name}\" field must be a int.")))
    }

    /// A boolean member that is not in the schema of the action: like the original, it may be a
    /// word such as `yes`.
    fn lenient_boolean(&self, name: &str) -> bool {
        let Some(value) = self.request.body.get(name) else { return false };
        let word = if shape(value) == Shape::Text {
            self.text(name)
        } else {
            String::from_utf8_lossy(value).into_owned()
        };
        let word = word.trim().to_ascii_lowercase();
        ["1", "t", "true", "on", "y", "yes"].contains(&word.as_str())
    }

    /// The items of a list of ids, or one more than a request may have; see [`texts`].
    fn ids(&self, name: &str) -> Option<Vec<String>> {
        let max = usize::try_from(self.api.limits().max_messages_per_page).unwrap_or(usize::MAX);
        Some(texts(self.request.body.list(name)?, max))
    }

    /// Validates the client id, which the original does for listing and posting only.
    fn checked_client(&self) -> Result<(), WsError> {
        let id = self.request.headers.text("Client-ID").unwrap_or_default();
        match self.api.limits().client_ids {
            ClientIds::Strict => match ClientId::uuid(&id) {
                Some(_) => Ok(()),
                None => Err(WsError::invalid("badly formed hexadecimal UUID string")),
            },
            ClientIds::Off { min, max } if (min..=max).contains(&id.chars().count()) => Ok(()),
            ClientIds::Off { min, max } => Err(WsError::invalid(format!(
                "Length of client id must be at least {min} and no greater than {max}."
            ))),
        }
    }
}

/// The items of a list of strings, or one more than the maximum: what comes later is not decoded.
/// An item of another type becomes its JSON text, which is no valid id.
fn texts(items: Items<'_>, max: usize) -> Vec<String> {
    let text = |item| {
        serde_json::from_slice(item).unwrap_or_else(|_| String::from_utf8_lossy(item).into_owned())
    };
    items.take(max.saturating_add(1)).map(text).collect()
}

/// The answer to a token that was accepted, or that was not needed.
pub(crate) fn authenticated() -> Reply {
    Reply::new(200, bytes::Bytes::from_static(b"{\"message\":\"Authentified.\"}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_of_a_list_is_decoded_than_shows_that_it_is_too_long() {
        let list = format!("[{}1]", "\"a\",".repeat(1000));
        assert_eq!(texts(Items::of(list.as_bytes()), 20), ["a"; 21]);
        assert_eq!(texts(Items::of(b"[\"\\u0061\",7]"), 20), ["a", "7"]);
    }
}
