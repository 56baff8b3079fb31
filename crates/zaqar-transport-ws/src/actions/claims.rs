//! Claims.

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::json;
use zaqar_api::{CreateClaim, ReadClaim, ReleaseClaim, RenewClaim};

use super::{Exchange, HandlerResult};
use crate::reply::{self, Reply};

impl Exchange {
    pub(super) async fn create_claim(&self) -> HandlerResult {
        let body = &self.request.body;
        let request = CreateClaim {
            queue: self.queue()?,
            limit: body.integer("limit"),
            ttl: body.integer("ttl"),
            grace: body.integer("grace"),
        };
        let Some((id, messages)) = self.call(request).await? else {
            return Ok(Reply::new(204, Bytes::from_static(b"{\"claim_id\":null}")));
        };
        let mut out = BytesMut::new();
        out.put_slice(format!("{{\"claim_id\":\"{id}\",").as_bytes());
        reply::messages(&self.turns, &mut out, &messages, Some(id), self.now()).await;
        out.put_slice(b"}");
        Ok(Reply::new(201, out))
    }

    pub(super) async fn get_claim(&self) -> HandlerResult {
        let id = self.text("claim_id");
        let parsed = id.parse().ok();
        let request = ReadClaim { queue: self.queue()?, id };
        let claim = self.call(request).await?;
        let now = self.now();
        let mut out = BytesMut::new();
        let (age, ttl) = (now.secs_since(claim.since), claim.ttl);
        out.put_slice(format!("{{\"age\":{age},\"ttl\":{ttl},").as_bytes());
        reply::messages(&self.turns, &mut out, &claim.messages, parsed, now).await;
        out.put_slice(b"}");
        Ok(Reply::new(200, out))
    }

    pub(super) async fn renew_claim(&self) -> HandlerResult {
        let id = self.text("claim_id");
        let text = format!("Claim {id} updated.");
        let ttl = self.request.body.integer("ttl");
        let grace = self.lenient_integer("grace")?;
        let request = RenewClaim { queue: self.queue()?, id, ttl, grace };
        self.call(request).await?;
        Ok(Reply::json(204, json!(text)))
    }

    pub(super) async fn release_claim(&self) -> HandlerResult {
        let id = self.text("claim_id");
        let text = format!("Claim {id} deleted.");
        self.call(ReleaseClaim { queue: self.queue()?, id }).await?;
        Ok(Reply::json(204, json!(text)))
    }
}
