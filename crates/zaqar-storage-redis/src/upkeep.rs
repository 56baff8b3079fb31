//! Health checks, sweeping and shutdown.

use std::sync::atomic::Ordering;

use async_trait::async_trait;
use futures_util::future::try_join_all;
use zaqar_core::storage::{Error, Swept, Upkeep};
use zaqar_core::{Clock, SystemClock, Timestamp};

use crate::Redis;
use crate::driver::number;
use crate::error::{RECHECK_SECS, skip_failed};
use crate::keys::{SHARDS, Schedule, is_internal};
use crate::layout;
use crate::reply::Reply;
use crate::schedule::Entry;
use crate::scripts;
use crate::server::{Mode, ScriptCall};

/// Queues per shard that one sweep visits.
const QUEUES_PER_SHARD: usize = 64;

#[async_trait]
impl Upkeep for Redis {
    async fn ping(&self) -> Result<(), Error> {
        let keys: Vec<_> = (0..SHARDS).map(|shard| self.server().keys().ping(shard)).collect();
        // In a Cluster the shards are on different nodes; otherwise one is enough.
        let count = if self.server().is_cluster() { SHARDS } else { 1 };
        let now = Some(SystemClock.now());
        let pings = keys.iter().take(count).map(|keys| {
            let call = ScriptCall::new(&scripts::PING, keys, &[], Mode::Background);
            self.server().run(ScriptCall { now, ..call })
        });
        try_join_all(pings).await?;
        Ok(())
    }

    async fn sweep(&self, now: Timestamp, budget: usize) -> Result<Swept, Error> {
        let budget = budget.max(1);
        let mut swept = self.sweep_leases(now, budget).await?;
        let first = self.inner.shard.fetch_add(1, Ordering::Relaxed) % SHARDS;
        let entries = self
            .server()
            .due_entries(Schedule::Sweeps, first, QUEUES_PER_SHARD.min(budget), now)
            .await?;
        swept.more |= entries.len() >= QUEUES_PER_SHARD.min(budget);
        // A visit to a queue without work has a cost, too.
        let mut visits = budget;
        for entry in &entries {
            if swept.done >= budget || visits == 0 {
                swept.more = true;
                break;
            }
            visits -= 1;
            let found = self.sweep_queue(entry, now, budget - swept.done).await;
            match skip_failed(found, "a queue cannot be swept")? {
                Some(one) => {
                    swept.done += one.done;
                    swept.more |= one.more;
                    swept.expired += one.expired;
                }
                // A queue that cannot be swept must not block the others.
                None => {
                    let later = now.plus_secs(RECHECK_SECS).as_millis();
                    self.server().reschedule(entry, Some(later)).await?;
                }
            }
        }
        layout::keep(self.server()).await;
        Ok(swept)
    }

    async fn shut_down(&self) -> Result<(), Error> {
        self.server().close().await;
        self.inner.broadcaster.close().await;
        Ok(())
    }
}

impl Redis {
    /// Sweeps one queue.
    async fn sweep_queue(
        &self,
        entry: &Entry,
        now: Timestamp,
        budget: usize,
    ) -> Result<Swept, Error> {
        let keys = self.server().keys().head_by_tag(&entry.tag);
        let arguments = [number(budget as u64)];
        let call = ScriptCall::new(&scripts::SWEEP, &keys, &arguments, Mode::Background);
        let swept = self.server().run(ScriptCall { now: Some(now), ..call }).await?;
        let mut reply = Reply::new(swept)?;
        let (done, is_left) = (reply.number()?, reply.number()? == 1);
        let next = reply.some_number()?;
        let expired = if is_internal(&entry.tag) { 0 } else { reply.number()? };
        if !is_left {
            self.server().reschedule(entry, next).await?;
        }
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Ok(Swept { done: count(done), more: is_left, expired: count(expired) })
    }
}
