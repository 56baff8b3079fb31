//! Health checks, sweeps and shutdown.

use async_trait::async_trait;
use zaqar_core::Timestamp;
use zaqar_core::storage::{Error, Swept, Upkeep};

use crate::Mongo;
use crate::schema::millis;

impl Mongo {
    /// The time that decides what is deleted: the database's, or the caller's if the clocks are not
    /// compared.
    pub(crate) async fn database_time(&self, now: Timestamp) -> Result<i64, Error> {
        if self.max_skew().is_none() {
            return Ok(self.effective_time(now));
        }
        let clock = self.server_time().await?;
        self.check_clock(Some(clock), millis(now))?;
        Ok(clock.timestamp_millis())
    }
}

#[async_trait]
impl Upkeep for Mongo {
    async fn ping(&self) -> Result<(), Error> {
        self.run(async {
            // This command needs a primary.
            let clock = self.server_time().await?;
            self.check_own_clock(clock)
        })
        .await
    }

    async fn sweep(&self, now: Timestamp, budget: usize) -> Result<Swept, Error> {
        self.run(async {
            let now = self.database_time(now).await?;
            self.sweep_all(now, budget).await
        })
        .await
    }

    async fn shut_down(&self) -> Result<(), Error> {
        self.drain().await;
        Ok(())
    }
}
