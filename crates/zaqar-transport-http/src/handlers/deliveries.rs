//! The deliveries of a subscription.

use bytes::{BufMut, BytesMut};
use http::{StatusCode, header};
use zaqar_api::{
    CancelRecovery, CheckSubscriber, ListDeliveries, QueueRef, ReadDelivery, ReadRecovery,
    RecoverDeliveries, ResumeSubscription, RetryDelivery, SubscriptionRef, TestSubscription, json,
};

use super::subscriptions::{Fields, subscription_path};
use super::{Exchange, HandlerResult};
use crate::respond;

impl Exchange<'_> {
    pub(super) async fn list_deliveries(self, queue: QueueRef, id: &str) -> HandlerResult {
        let (limit, query) = (self.query.integer("limit")?, self.query);
        let base = subscription_path(&queue, id);
        let (status, since) = (query.text("status"), query.text("since"));
        let mut kept = limit.map(|limit| format!("limit={limit}&")).unwrap_or_default();
        for (name, value) in [("status", &status), ("since", &since)] {
            if let Some(value) = value {
                let value = percent_encoding::utf8_percent_encode(value, VALUE);
                kept.push_str(&format!("{name}={value}&"));
            }
        }
        let subscription = SubscriptionRef { queue, id: id.to_owned() };
        let marker = query.text("marker");
        let request = ListDeliveries { subscription, status, since, marker, limit };
        let list = self.call(request).await?;
        let next = list.last().map(|last| format!("{base}/deliveries?{kept}marker={}", last.id));
        let mut out = BytesMut::new();
        out.put_slice(b"{\"deliveries\":[");
        json::joined(&mut out, &list, |out, one| {
            out.put_slice(json::delivery(one, false).to_string().as_bytes());
        });
        out.put_u8(b']');
        respond::links(&mut out, next);
        out.put_u8(b'}');
        Ok(respond::json(StatusCode::OK, out.freeze()))
    }

    pub(super) async fn get_delivery(
        self,
        queue: QueueRef,
        id: &str,
        delivery: &str,
    ) -> HandlerResult {
        let subscription = SubscriptionRef { queue, id: id.to_owned() };
        let request = ReadDelivery { subscription, delivery: delivery.to_owned() };
        let found = self.call(request).await?;
        Ok(respond::json(StatusCode::OK, json::delivery(&found, true).to_string()))
    }

    pub(super) async fn retry_delivery(
        self,
        queue: QueueRef,
        id: &str,
        delivery: &str,
    ) -> HandlerResult {
        let path = format!("{}/deliveries/{delivery}", subscription_path(&queue, id));
        let subscription = SubscriptionRef { queue, id: id.to_owned() };
        self.call(RetryDelivery { subscription, delivery: delivery.to_owned() }).await?;
        let mut response = respond::empty(StatusCode::ACCEPTED);
        respond::set(&mut response, header::LOCATION, path);
        Ok(response)
    }

    pub(super) async fn subscriber_health(self, queue: QueueRef, id: &str) -> HandlerResult {
        let subscription = SubscriptionRef { queue, id: id.to_owned() };
        let found = self.call(CheckSubscriber { subscription }).await?;
        Ok(respond::json(StatusCode::OK, json::subscriber_health(&found).to_string()))
    }

    pub(super) async fn resume_subscription(self, queue: QueueRef, id: &str) -> HandlerResult {
        let subscription = SubscriptionRef { queue, id: id.to_owned() };
        self.call(ResumeSubscription { subscription }).await?;
        Ok(respond::empty(StatusCode::NO_CONTENT))
    }

    pub(super) async fn recover_deliveries(mut self, queue: QueueRef, id: &str) -> HandlerResult {
        let document = self.small_document().await?;
        let mut fields = Fields::read(&document)?;
        let (since, until) = (fields.text("since")?, fields.text("until")?);
        let base = subscription_path(&queue, id);
        let subscription = SubscriptionRef { queue, id: id.to_owned() };
        let recovery = self.call(RecoverDeliveries { subscription, since, until }).await?;
        let document = json::recovery(&recovery).to_string();
        let mut response = respond::json(StatusCode::ACCEPTED, document);
        respond::set(&mut response, header::LOCATION, format!("{base}/recover/{}", recovery.id));
        Ok(response)
    }

    pub(super) async fn get_recovery(
        self,
        queue: QueueRef,
        id: &str,
        recovery: &str,
    ) -> HandlerResult {
        let subscription = SubscriptionRef { queue, id: id.to_owned() };
        let request = ReadRecovery { subscription, delivery: recovery.to_owned() };
        let found = self.call(request).await?;
        Ok(respond::json(StatusCode::OK, json::recovery(&found).to_string()))
    }

    pub(super) async fn cancel_recovery(
        self,
        queue: QueueRef,
        id: &str,
        recovery: &str,
    ) -> HandlerResult {
        let subscription = SubscriptionRef { queue, id: id.to_owned() };
        self.call(CancelRecovery { subscription, delivery: recovery.to_owned() }).await?;
        Ok(respond::empty(StatusCode::NO_CONTENT))
    }

    pub(super) async fn test_subscription(mut self, queue: QueueRef, id: &str) -> HandlerResult {
        let document = self.small_document().await?;
        let body = Fields::read(&document)?.take("body");
        let base = subscription_path(&queue, id);
        let subscription = SubscriptionRef { queue, id: id.to_owned() };
        let delivery = self.call(TestSubscription { subscription, body }).await?;
        let document = format!("{{\"delivery_id\":\"{delivery}\"}}");
        let mut response = respond::json(StatusCode::ACCEPTED, document);
        respond::set(&mut response, header::LOCATION, format!("{base}/deliveries/{delivery}"));
        Ok(response)
    }
}

/// Characters that are percent-encoded in a query value.
const VALUE: &percent_encoding::AsciiSet = percent_encoding::NON_ALPHANUMERIC;
