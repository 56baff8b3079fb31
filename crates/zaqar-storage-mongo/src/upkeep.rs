//! Health, cleaning and the end.

use async_trait::async_trait;
use mongodb::bson::doc;
use zaqar_core::Timestamp;
use zaqar_core::storage::{Error, Swept, Upkeep};

use crate::Mongo;

#[async_trait]
impl Upkeep for Mongo {
    async fn ping(&self) -> Result<(), Error> {
        self.act(async {
            // Goes to the primary, so there must be one.
            self.send(|| self.inner.db.run_command(doc! { "ping": 1 })).await?;
            Ok(())
        })
        .await
    }

    async fn sweep(&self, now: Timestamp, budget: usize) -> Result<Swept, Error> {
        self.act(self.sweep_all(self.at(now), budget)).await
    }

    async fn shut_down(&self) -> Result<(), Error> {
        self.shut().await;
        Ok(())
    }
}
