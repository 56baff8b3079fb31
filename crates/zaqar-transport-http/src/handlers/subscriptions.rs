//! Subscriptions.

use bytes::{BufMut, Bytes, BytesMut};
use http::{StatusCode, header};
use serde_json::{Map, Value};
use zaqar_api::{
    ChangeSubscription, ConfirmSubscription, CreateSubscription, CreatedSubscription,
    DeleteSubscription, Error, ListSubscriptions, Part, QueueRef, ReadSubscription, RotateSecret,
    Subscriber, SubscriptionRef, json,
};

use super::{Exchange, HandlerResult};
use crate::body;
use crate::error::HttpError;
use crate::respond::{self, queue_path};

impl Exchange<'_> {
    pub(super) async fn create_subscription(mut self, queue: QueueRef) -> HandlerResult {
        let document = self.small_document().await?;
        let mut fields = Fields::read(&document)?;
        let Some(subscriber) = fields.subscriber()? else {
            return Err(invalid("Missing parameter subscriber in body."));
        };
        let (ttl, options) = (fields.ttl()?, fields.options()?.unwrap_or_default());
        let path = format!("{}/subscriptions", queue_path(queue.kind, &queue.name));
        let request =
            CreateSubscription { queue, subscriber: Subscriber::Address(subscriber), ttl, options };
        let created = self.call(request).await;
        let mut response = match created {
            Ok(CreatedSubscription { id, secret }) => {
                let secret = secret.map(|secret| format!(",\"secret\":\"{}\"", secret.expose()));
                let secret = secret.unwrap_or_default();
                let body = format!("{{\"subscription_id\":\"{id}\"{secret}}}");
                respond::json(StatusCode::CREATED, body)
            }
            Err(error) => HttpError::from(error).into_response(),
        };
        if matches!(response.status(), StatusCode::CREATED | StatusCode::CONFLICT) {
            respond::set(&mut response, header::LOCATION, path);
        }
        Ok(response)
    }

    pub(super) async fn list_subscriptions(self, queue: QueueRef) -> HandlerResult {
        let limit = self.query.integer("limit")?;
        let base = queue_path(queue.kind, &queue.name);
        let source = queue.name.clone();
        let request = ListSubscriptions { queue, marker: self.query.text("marker"), limit };
        let list = self.call(request).await?;
        let now = self.inner.api.clock().now();
        let next = list.last().map(|last| {
            let limit = limit.map(|limit| format!("limit={limit}&")).unwrap_or_default();
            format!("{base}/subscriptions?{limit}marker={}", last.id)
        });
        let mut out = BytesMut::new();
        out.put_slice(b"{\"subscriptions\":[");
        let one = |out: &mut BytesMut, one| json::subscription(out, source.as_str(), one, now);
        self.inner.turns.joined(&mut out, &list, one).await;
        out.put_u8(b']');
        respond::links(&mut out, next);
        out.put_u8(b'}');
        Ok(respond::json(StatusCode::OK, out.freeze()))
    }

    pub(super) async fn get_subscription(self, queue: QueueRef, id: &str) -> HandlerResult {
        let source = queue.name.clone();
        let subscription = SubscriptionRef { queue, id: id.to_owned() };
        let found = self.call(ReadSubscription { subscription }).await?;
        let mut out = BytesMut::new();
        json::subscription(&mut out, source.as_str(), &found, self.inner.api.clock().now());
        Ok(respond::json(StatusCode::OK, out.freeze()))
    }

    pub(super) async fn change_subscription(mut self, queue: QueueRef, id: &str) -> HandlerResult {
        let document = self.small_document().await?;
        let mut fields = Fields::read(&document)?;
        if fields.0.is_empty() {
            return Err(invalid(
                "Nothing to change: the body must be an object with a subscriber, ttl or options.",
            ));
        }
        let (subscriber, ttl, options) = (fields.subscriber()?, fields.ttl()?, fields.options()?);
        let path = subscription_path(&queue, id);
        let subscription = SubscriptionRef { queue, id: id.to_owned() };
        let request = ChangeSubscription { subscription, subscriber, ttl, options };
        self.call(request).await?;
        let mut response = respond::empty(StatusCode::NO_CONTENT);
        respond::set(&mut response, header::LOCATION, path);
        Ok(response)
    }

    pub(super) async fn confirm_subscription(mut self, queue: QueueRef, id: &str) -> HandlerResult {
        let document = self.small_document().await?;
        let fields = Fields::read(&document)?;
        let Some(Value::Bool(confirmed)) = fields.0.get("confirmed") else {
            return Err(invalid("The 'confirmed' should be boolean."));
        };
        let path = format!("{}/confirm", subscription_path(&queue, id));
        let subscription = SubscriptionRef { queue, id: id.to_owned() };
        let request = ConfirmSubscription { subscription, confirmed: *confirmed };
        self.call(request).await?;
        let mut response = respond::empty(StatusCode::NO_CONTENT);
        respond::set(&mut response, header::LOCATION, path);
        Ok(response)
    }

    pub(super) async fn rotate_secret(mut self, queue: QueueRef, id: &str) -> HandlerResult {
        let document = self.small_document().await?;
        let mut fields = Fields::read(&document)?;
        let grace = fields.integer("grace")?;
        let subscription = SubscriptionRef { queue, id: id.to_owned() };
        let secret = self.call(RotateSecret { subscription, grace }).await?;
        let body = format!("{{\"secret\":\"{}\"}}", secret.expose());
        Ok(respond::json(StatusCode::OK, body))
    }

    pub(super) async fn delete_subscription(self, queue: QueueRef, id: &str) -> HandlerResult {
        let subscription = SubscriptionRef { queue, id: id.to_owned() };
        self.call(DeleteSubscription { subscription }).await?;
        Ok(respond::empty(StatusCode::NO_CONTENT))
    }
}

pub(super) fn subscription_path(queue: &QueueRef, id: &str) -> String {
    format!("{}/subscriptions/{id}", queue_path(queue.kind, &queue.name))
}

fn invalid(reason: &str) -> HttpError {
    Error::Invalid { part: Part::Request, reason: reason.to_owned() }.into()
}

/// The members of a subscription document. A null counts as absent: real clients send null for
/// options that the user left out.
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    pub(super) fn read(document: &Bytes) -> Result<Self, HttpError> {
        if document.is_empty() {
            return Ok(Self(Map::new()));
        }
        body::decode(document).map(Self)
    }

    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, HttpError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(invalid(&format!("The {name} must be a string."))),
        }
    }

    fn subscriber(&mut self) -> Result<Option<String>, HttpError> {
        match self.take("subscriber") {
            None => Ok(None),
            Some(Value::String(subscriber)) => Ok(Some(subscriber)),
            Some(_) => Err(invalid("Subscriber must be a string.")),
        }
    }

    fn ttl(&mut self) -> Result<Option<i64>, HttpError> {
        match self.take("ttl") {
            None => Ok(None),
            Some(Value::Number(ttl)) if ttl.is_i64() => Ok(ttl.as_i64()),
            Some(_) => Err(invalid("TTL must be an integer.")),
        }
    }

    fn integer(&mut self, name: &str) -> Result<Option<i64>, HttpError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Number(number)) if number.is_i64() => Ok(number.as_i64()),
            Some(_) => Err(invalid(&format!("The {name} must be an integer."))),
        }
    }

    fn options(&mut self) -> Result<Option<Map<String, Value>>, HttpError> {
        match self.take("options") {
            None => Ok(None),
            Some(Value::Object(options)) => Ok(Some(options)),
            Some(_) => Err(invalid("Options must be a dict.")),
        }
    }
}
