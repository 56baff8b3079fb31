//! Operations on the service itself.

use zaqar_api::{CheckHealth, Ping, ReadHome};

use super::{Exchange, HandlerResult};
use crate::reply::Reply;

impl Exchange {
    pub(super) async fn home(&self) -> HandlerResult {
        Ok(Reply::new(200, self.call(ReadHome).await?))
    }

    pub(super) async fn ping(&self) -> HandlerResult {
        self.call(Ping).await?;
        Ok(Reply::no_content())
    }

    pub(super) async fn health(&self) -> HandlerResult {
        self.check_admin_mode()?;
        let health = self.call(CheckHealth).await?;
        Ok(Reply::json(200, health.document()))
    }
}
