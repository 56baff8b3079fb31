//! What a server tells of its pools, and moves of queues between them.

use async_trait::async_trait;
use futures_util::future::join_all;
use zaqar_core::pools::{Error, PoolDrain, PoolName, PoolStatus, PoolStores, QueueMoves};
use zaqar_core::{QueueKey, Timestamp};

use crate::Pooled;
use crate::place::Place;
use crate::pools::PoolSet;

#[async_trait]
impl PoolStores for Pooled {
    fn statuses(&self) -> Vec<PoolStatus> {
        self.members.all().values().filter_map(|member| member.status()).collect()
    }

    async fn current(&self) -> Vec<PoolStatus> {
        self.refresh().await;
        let members = self.members.all();
        join_all(members.values().map(|member| member.store())).await;
        self.statuses()
    }
}

#[async_trait]
impl QueueMoves for Pooled {
    async fn move_queue(&self, key: &QueueKey, to: &PoolName, now: Timestamp) -> Result<(), Error> {
        self.registry.read_pools().await?.get(to)?;
        self.mover.begin(key, &Place::Pool(to.clone()), now).await?;
        self.mover.spawn_drive(key.clone(), now);
        Ok(())
    }

    async fn set_draining(&self, pool: &PoolName, is_draining: bool) -> Result<(), Error> {
        self.registry.read_pools().await?.get(pool)?;
        if is_draining {
            self.mover.check_drain(pool).await?;
        }
        let set = |set: &mut PoolSet| set.set_draining(pool, is_draining);
        self.registry.change_pools(set).await?;
        self.mover.drain_pauses.end(pool);
        Ok(())
    }

    async fn drain(&self, pool: &PoolName) -> Result<PoolDrain, Error> {
        self.mover.progress(pool).await
    }
}
