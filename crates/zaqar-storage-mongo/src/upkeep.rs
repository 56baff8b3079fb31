//! Health, cleaning and the end.

use async_trait::async_trait;
use zaqar_core::Timestamp;
use zaqar_core::storage::{Error, Swept, Upkeep};

use crate::Mongo;
use crate::schema::millis;

impl Mongo {
    /// The time to delete by: the database's, never the caller's, unless they are not to be
    /// compared.
    pub(crate) async fn database_time(&self, now: Timestamp) -> Result<i64, Error> {
        if self.bound().is_none() {
            return Ok(self.at(now));
        }
        let clock = self.server_time().await?;
        self.check_clock(Some(clock), millis(now))?;
        Ok(clock.timestamp_millis())
    }
}

#[async_trait]
impl Upkeep for Mongo {
    async fn ping(&self) -> Result<(), Error> {
        self.act(async {
            // Asks the primary, so there must be one.
            let clock = self.server_time().await?;
            self.check_own_clock(clock)
        })
        .await
    }

    async fn sweep(&self, now: Timestamp, budget: usize) -> Result<Swept, Error> {
        self.act(async {
            let now = self.database_time(now).await?;
            self.sweep_all(now, budget).await
        })
        .await
    }

    async fn shut_down(&self) -> Result<(), Error> {
        self.shut().await;
        Ok(())
    }
}
