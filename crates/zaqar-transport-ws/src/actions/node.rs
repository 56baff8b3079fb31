//! What the server says of itself.

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
        Ok(Reply::json(200, health.document()))
    }
}
