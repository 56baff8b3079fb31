//! Health, cleaning and the end.

use std::sync::atomic::Ordering;

use async_trait::async_trait;
use futures_util::future::try_join_all;
use zaqar_core::storage::{Error, Swept, Upkeep};
use zaqar_core::{Clock, SystemClock, Timestamp};

use crate::Redis;
use crate::driver::number;
use crate::error::{AGAIN_SECS, unless_failed};
use crate::keys::{SHARDS, Schedule};
use crate::layout;
use crate::reply::Reply;
use crate::schedule::Entry;
use crate::scripts;
use crate::server::{Call, Mode};

/// Queues of one shard that a sweep looks at.
const LOOK: usize = 64;

#[async_trait]
impl Upkeep for Redis {
    async fn ping(&self) -> Result<(), Error> {
        let places: Vec<_> = (0..SHARDS).map(|shard| self.server().keys().ping(shard)).collect();
        // In a Cluster the shards are on different nodes; otherwise one stands for all.
        let count = if self.server().is_cluster() { SHARDS } else { 1 };
        let now = Some(SystemClock::default().now());
        let pings = places.iter().take(count).map(|place| {
            let call = Call::new(&scripts::PING, place, &[], Mode::Background);
            self.server().run(Call { now, ..call })
        });
        try_join_all(pings).await?;
        Ok(())
    }

    async fn sweep(&self, now: Timestamp, budget: usize) -> Result<Swept, Error> {
        let budget = budget.max(1);
        let mut swept = self.sweep_leases(now, budget).await?;
        let first = self.inner.shard.fetch_add(1, Ordering::Relaxed) % SHARDS;
        let entries = self.server().look(Schedule::Sweeps, first, LOOK.min(budget), now).await?;
        swept.more |= entries.len() >= LOOK.min(budget);
        // A queue that has nothing to do costs a look, too.
        let mut looks = budget;
        for entry in &entries {
            if swept.done >= budget || looks == 0 {
                swept.more = true;
                break;
            }
            looks -= 1;
            let found = self.sweep_queue(entry, now, budget - swept.done).await;
            match unless_failed(found, "a queue cannot be swept")? {
                Some((done, is_left)) => {
                    swept.done += done;
                    swept.more |= is_left;
                }
                // It must not stand in the way of the others.
                None => {
                    let later = now.plus_secs(AGAIN_SECS).as_millis();
                    self.server().settle(entry, Some(later)).await?;
                }
            }
        }
        layout::keep(self.server()).await;
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
        let arguments = [number(budget as u64)];
        let call = Call::new(&scripts::SWEEP, &place, &arguments, Mode::Background);
        let swept = self.server().run(Call { now: Some(now), ..call }).await?;
        let mut reply = Reply::new(swept)?;
        let (done, is_left) = (reply.number()?, reply.number()? == 1);
        let next = reply.some_number()?;
        if !is_left {
            self.server().settle(entry, next).await?;
        }
        Ok((usize::try_from(done).unwrap_or(usize::MAX), is_left))
    }
}
