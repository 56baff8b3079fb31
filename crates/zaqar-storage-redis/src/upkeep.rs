//! Health, cleaning and the end.

use std::sync::atomic::Ordering;

use async_trait::async_trait;
use futures_util::future::try_join_all;
use zaqar_core::Timestamp;
use zaqar_core::storage::{Error, Swept, Upkeep};

use crate::Redis;
use crate::agenda::Entry;
use crate::driver::{Call, Repeat, number, time};
use crate::keys::{Agenda, SHARDS};
use crate::reply::Reply;
use crate::scripts;

/// Queues of one shard that a sweep looks at.
const LOOK: usize = 64;

#[async_trait]
impl Upkeep for Redis {
    async fn ping(&self) -> Result<(), Error> {
        let places: Vec<_> = (0..SHARDS).map(|shard| self.server().keys().ping(shard)).collect();
        // In a Cluster the shards are on different nodes; otherwise one stands for all.
        let count = if self.server().is_cluster() { SHARDS } else { 1 };
        let pings = places.iter().take(count).map(|place| self.server().ask(&scripts::PING, place));
        try_join_all(pings).await?;
        Ok(())
    }

    async fn sweep(&self, now: Timestamp, budget: usize) -> Result<Swept, Error> {
        let (now, budget) = (self.at(now), budget.max(1));
        let mut swept = self.sweep_leases(now, budget).await?;
        let first = self.inner.shard.fetch_add(1, Ordering::Relaxed) % SHARDS;
        let entries = self.server().look(Agenda::Sweeps, first, LOOK.min(budget), now).await?;
        swept.more |= entries.len() >= LOOK.min(budget);
        // A queue that has nothing to do costs a look, too.
        let mut looks = budget;
        for entry in &entries {
            if swept.done >= budget || looks == 0 {
                swept.more = true;
                break;
            }
            looks -= 1;
            let (done, is_left) = self.sweep_queue(entry, now, budget - swept.done).await?;
            swept.done += done;
            swept.more |= is_left;
        }
        Ok(swept)
    }

    async fn shut_down(&self) -> Result<(), Error> {
        self.server().close().await;
        self.inner.hub.close().await;
        Ok(())
    }
}

impl Redis {
    /// Sweeps one queue; how many rows that were, and whether it has more to do.
    async fn sweep_queue(
        &self,
        entry: &Entry,
        now: Timestamp,
        budget: usize,
    ) -> Result<(usize, bool), Error> {
        let place = self.server().keys().head_of(&entry.tag);
        let mut arguments = [time(now), number(budget as u64)];
        let swept = self
            .server()
            .run(Call {
                script: &scripts::SWEEP,
                place: &place,
                other: None,
                arguments: &mut arguments,
                repeat: Repeat::Harmless,
                is_write: false,
            })
            .await?;
        let mut reply = Reply::new(swept)?;
        let (done, is_left) = (reply.number()?, reply.number()? == 1);
        let next = reply.some_number()?;
        if !is_left {
            self.server().settle(entry, next).await?;
        }
        Ok((usize::try_from(done).unwrap_or(usize::MAX), is_left))
    }
}
