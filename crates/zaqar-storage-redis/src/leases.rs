//! Leases, and what hangs on them.
//!
//! A lease is in a shard of its own, so nothing about it changes in one step with a subscription
//! that hangs on it. What hangs on it is therefore written down first, and the subscription made
//! then: an index that may name what is not there, and never lacks what is.
//!
//! - What hangs on a lease that does not last is looked at by a sweep. A subscription that is not
//!   there may still be on its way: it is looked for again until half a minute has passed since
//!   anything was last hung on that lease.
//! - Whatever hangs on a lease that was never kept waits for a sweep in the same way, so nothing is
//!   orphaned by a server that ends.
//! - What ends by itself leaves its line in the index, which goes an hour after that, as others
//!   come, or with the lease.

use async_trait::async_trait;
use futures_util::future::{join_all, try_join_all};
use zaqar_core::storage::{Error, Leases, Renewal, Swept};
use zaqar_core::{LeaseId, QueueKey, SubscriptionId, Timestamp};

use crate::Redis;
use crate::driver::{number, time};
use crate::error::{Garbled, unless_failed};
use crate::keys::{self, SHARDS};
use crate::reply::{Outcome, Reply};
use crate::scripts::{self, Script};
use crate::server::{Call, Mode};

/// How long a subscription may be on its way after its lease was told of it: milliseconds.
const ON_THE_WAY: u64 = 30_000;
/// Leases of one shard that a sweep looks at.
const LOOK: usize = 64;
/// What is removed at once.
const PIECE: usize = 32;

#[async_trait]
impl Leases for Redis {
    async fn keep_lease(
        &self,
        lease: LeaseId,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Renewal, Error> {
        let mut kept = self.change_lease(&scripts::LEASE_KEEP, lease, now, [time(until)]).await?;
        match kept.number()? {
            0 => Ok(Renewal::Expired),
            1 => Ok(Renewal::Continued),
            2 => Ok(Renewal::Created),
            _ => Err(Garbled.into()),
        }
    }

    async fn end_lease(&self, lease: LeaseId, now: Timestamp) -> Result<(), Error> {
        self.change_lease(&scripts::LEASE_END, lease, now, []).await?;
        Ok(())
    }
}

impl Redis {
    /// Says that a subscription that lives until then hangs on a lease, or soon will.
    pub(crate) async fn hang(
        &self,
        lease: LeaseId,
        key: &QueueKey,
        id: SubscriptionId,
        expires: Timestamp,
        now: Timestamp,
    ) -> Result<(), Error> {
        let own = [member(key, id), time(expires)];
        self.change_lease(&scripts::LEASE_HANG, lease, now, own).await?;
        Ok(())
    }

    /// Says that it no longer does.
    pub(crate) async fn unhang(
        &self,
        lease: LeaseId,
        key: &QueueKey,
        id: SubscriptionId,
        now: Timestamp,
    ) -> Result<(), Error> {
        let own = [Vec::new(), member(key, id)];
        self.on_lease(&scripts::LEASE_DROP, lease, now, own).await?;
        Ok(())
    }

    /// Removes subscriptions of leases that are over, at most `budget` of them.
    pub(crate) async fn sweep_leases(&self, now: Timestamp, budget: usize) -> Result<Swept, Error> {
        let shards: Vec<_> = (0..SHARDS).collect();
        // In a Cluster shards are on different nodes; elsewhere one script looks at all.
        let together = if self.server().is_cluster() { 1 } else { SHARDS };
        let looks = shards.chunks(together).map(|shards| self.leases_over(shards, now));
        let mut swept = Swept::default();
        for over in join_all(looks).await {
            let over = over?;
            swept.more |= over.len() >= LOOK;
            for lease in over {
                if swept.done >= budget {
                    swept.more = true;
                    return Ok(swept);
                }
                let of_one = self.sweep_lease(lease, now, budget - swept.done).await;
                let of_one = unless_failed(of_one, "a lease cannot be swept")?.unwrap_or_default();
                swept.done += of_one.done;
                swept.more |= of_one.more;
            }
        }
        Ok(swept)
    }

    async fn leases_over(&self, shards: &[usize], now: Timestamp) -> Result<Vec<LeaseId>, Error> {
        let mut arguments = vec![Vec::new(), number(LOOK as u64)];
        let others = shards[1..].iter().map(|shard| self.server().keys().leases(*shard).key);
        arguments.extend(others.map(|mut key| {
            key.pop();
            key.into_bytes()
        }));
        let script = &scripts::LEASES_OVER;
        let over = self.on_shard(script, shards[0], &arguments, Mode::Background, now).await;
        let Some(mut reply) = unless_failed(over, "leases cannot be read")? else {
            return Ok(Vec::new());
        };
        let mut leases = Vec::new();
        while !reply.is_empty() {
            // What is no lease is nobody's: it waits for an operator and holds up no other.
            leases.extend(reply.text().ok().and_then(|text| text.parse::<LeaseId>().ok()));
        }
        Ok(leases)
    }

    /// Removes what hangs on one lease, at most `limit`.
    async fn sweep_lease(
        &self,
        lease: LeaseId,
        now: Timestamp,
        limit: usize,
    ) -> Result<Swept, Error> {
        let limit = limit.min(1000);
        let own = [number(limit as u64)];
        let mut held = self.on_lease(&scripts::LEASE_HELD, lease, now, own).await?;
        let settled = Timestamp::from_millis(held.number()?.saturating_add(ON_THE_WAY));
        let mut members = Vec::new();
        while !held.is_empty() {
            members.push(held.bytes()?);
        }
        let mut gone = Vec::new();
        let mut done = 0;
        for piece in members.chunks(PIECE) {
            let removed = piece.iter().map(|member| self.unlease(member, lease, now));
            for (member, is_removed) in piece.iter().zip(try_join_all(removed).await?) {
                done += usize::from(is_removed);
                if is_removed || now >= settled {
                    gone.push(member.clone());
                }
            }
        }
        let is_all = members.len() < limit;
        // What may be on its way is looked for when it no longer can be.
        let again = if is_all || gone.is_empty() { time(settled) } else { Vec::new() };
        self.on_lease(&scripts::LEASE_DROP, lease, now, [vec![again], gone].concat()).await?;
        Ok(Swept { done, more: !is_all })
    }

    /// Removes a subscription, unless it hangs on another lease; whether it was there.
    async fn unlease(&self, member: &[u8], lease: LeaseId, now: Timestamp) -> Result<bool, Error> {
        let Some((key, id)) = read_member(member) else { return Ok(false) };
        let own = [id.encode().to_vec(), lease.encode().to_vec()];
        let script = &scripts::UNLEASE;
        let step = self.step_of(script, Mode::Background, now, own);
        let said = unless_failed(self.step(&key, step).await, "a subscription cannot be removed")?;
        Ok(matches!(said, Some(Outcome::Said("done", _))))
    }

    /// Changes a lease so that it is as safe as the options ask for.
    async fn change_lease(
        &self,
        script: &'static Script,
        lease: LeaseId,
        now: Timestamp,
        own: impl IntoIterator<Item = Vec<u8>>,
    ) -> Result<Reply, Error> {
        let arguments = arguments(lease, own);
        self.on_shard(script, shard(lease), &arguments, Mode::Write, now).await
    }

    /// Asks a lease something, or forgets what it need not know.
    async fn on_lease(
        &self,
        script: &'static Script,
        lease: LeaseId,
        now: Timestamp,
        own: impl IntoIterator<Item = Vec<u8>>,
    ) -> Result<Reply, Error> {
        let arguments = arguments(lease, own);
        self.on_shard(script, shard(lease), &arguments, Mode::Background, now).await
    }

    async fn on_shard(
        &self,
        script: &'static Script,
        shard: usize,
        arguments: &[Vec<u8>],
        mode: Mode,
        now: Timestamp,
    ) -> Result<Reply, Error> {
        let place = self.server().keys().leases(shard);
        let call = Call { now: Some(now), ..Call::new(script, &place, arguments, mode) };
        Ok(Reply::new(self.server().run(call).await?)?)
    }
}

fn arguments(lease: LeaseId, own: impl IntoIterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
    let mut arguments = vec![lease.encode().to_vec()];
    arguments.extend(own);
    arguments
}

fn shard(lease: LeaseId) -> usize {
    // A remainder of 16 is no number that a cast cuts.
    (lease.get() % SHARDS as u128) as usize
}

fn member(key: &QueueKey, id: SubscriptionId) -> Vec<u8> {
    format!("{} {id}", keys::tag(key)).into_bytes()
}

fn read_member(member: &[u8]) -> Option<(QueueKey, SubscriptionId)> {
    let (tag, id) = std::str::from_utf8(member).ok()?.split_once(' ')?;
    Some((keys::queue(tag)?, id.parse().ok()?))
}
