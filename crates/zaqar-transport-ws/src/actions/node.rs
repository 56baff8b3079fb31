//! What the server says of itself.

use zaqar_api::{CheckHealth, Ping, ReadHome};

use super::{Call, Replied};
use crate::reply::Reply;

impl Call {
    pub(super) async fn home(&self) -> Replied {
        Ok(Reply::new(200, self.call(ReadHome).await?))
    }

    pub(super) async fn ping(&self) -> Replied {
        self.call(Ping).await?;
        Ok(Reply::nothing())
    }

    pub(super) async fn health(&self) -> Replied {
        self.check_admin_mode()?;
        let health = self.call(CheckHealth).await?;
        Ok(Reply::json(200, health.document()))
    }
}
