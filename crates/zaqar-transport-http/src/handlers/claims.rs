//! Claims.

use http::{StatusCode, header};
use zaqar_api::{CreateClaim, QueueRef, ReadClaim, ReleaseClaim, RenewClaim};

use super::{Exchange, HandlerResult};
use crate::body::{self, ClaimDocument};
use crate::respond::{self, claim_path, queue_path};

impl Exchange<'_> {
    pub(super) async fn create_claim(mut self, queue: QueueRef) -> HandlerResult {
        let limit = self.query.integer("limit")?;
        let document = self.small_document().await?;
        let ClaimDocument { ttl, grace } =
            if document.is_empty() { ClaimDocument::default() } else { body::decode(&document)? };
        let base = queue_path(queue.kind, &queue.name);
        let request = CreateClaim { queue, limit, ttl, grace };
        let Some((id, messages)) = self.call(request).await? else {
            return Ok(respond::empty(StatusCode::NO_CONTENT));
        };
        let now = self.inner.api.clock().now();
        let document = respond::messages(&self.inner.turns, &base, &messages, now, |_| {}).await;
        let mut response = respond::json(StatusCode::CREATED, document);
        respond::set(&mut response, header::LOCATION, claim_path(&base, id));
        Ok(response)
    }

    pub(super) async fn get_claim(self, queue: QueueRef, id: &str) -> HandlerResult {
        let base = queue_path(queue.kind, &queue.name);
        let request = ReadClaim { queue, id: id.to_owned() };
        let claim = self.call(request).await?;
        let now = self.inner.api.clock().now();
        let turns = &self.inner.turns;
        let document = respond::messages(turns, &base, &claim.messages, now, |out| {
            let (age, ttl) = (now.secs_since(claim.since), claim.ttl);
            let rest = format!(",\"age\":{age},\"ttl\":{ttl},\"href\":\"{base}/claims/{id}\"");
            out.extend_from_slice(rest.as_bytes());
        });
        Ok(respond::json(StatusCode::OK, document.await))
    }

    pub(super) async fn renew_claim(mut self, queue: QueueRef, id: &str) -> HandlerResult {
        let document = self.small_document().await?;
        let ClaimDocument { ttl, grace } = body::decode(&document)?;
        let request = RenewClaim { queue, id: id.to_owned(), ttl, grace };
        self.call(request).await?;
        Ok(respond::empty(StatusCode::NO_CONTENT))
    }

    pub(super) async fn release_claim(self, queue: QueueRef, id: &str) -> HandlerResult {
        self.call(ReleaseClaim { queue, id: id.to_owned() }).await?;
        Ok(respond::empty(StatusCode::NO_CONTENT))
    }
}
