//! The status of a server's pools.

use async_trait::async_trait;
use futures_util::future::join_all;
use zaqar_core::pools::{PoolStatus, PoolStores};

use crate::Pooled;

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
