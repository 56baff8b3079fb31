//! What the server says of itself.

use serde_json::{Map, Value, json};

use super::{Call, Replied};
use crate::error::WsError;
use crate::reply::Reply;

impl Call {
    pub(super) fn home(&self) -> Replied {
        Ok(Reply::json(200, zaqar_api::home_document()))
    }

    pub(super) async fn ping(&self) -> Replied {
        self.api.ping().await?;
        Ok(Reply::nothing())
    }

    pub(super) async fn health(&self) -> Replied {
        if !self.admin {
            return Err(WsError::Api(zaqar_api::Error::Forbidden));
        }
        let health = self.api.health(&self.caller).await?;
        let operations: Map<String, Value> = health
            .operations
            .iter()
            .map(|(name, probe)| {
                let error = probe.error.as_ref().map(ToString::to_string);
                let status = json!({
                    "succeeded": error.is_none(),
                    "seconds": probe.took.as_secs_f64(),
                    "ref": error,
                });
                ((*name).to_owned(), status)
            })
            .collect();
        let volume = health.volume.map(|volume| {
            let (free, claimed) = (volume.free, volume.claimed);
            json!({ "free": free, "claimed": claimed, "total": free + claimed })
        });
        let body = json!({
            "storage_reachable": health.reachable,
            "operation_status": operations,
            "message_volume": volume,
        });
        Ok(Reply::json(200, body))
    }
}
