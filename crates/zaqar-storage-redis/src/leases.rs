//! Leases, and the subscriptions that depend on them.
//!
//! A lease is in a shard of its own, so no script changes both a lease and a subscription that
//! depends on it. Therefore the subscription is added to the index of the lease before it is
//! created. The index may contain subscriptions that do not exist, but never misses one.
//!
//! - A sweep processes the index of each lease that is not live. A subscription in it that does not
//!   exist may still be about to be created, so it stays in the index until half a minute after
//!   anything was last attached to the lease.
//! - A lease that has subscriptions but was never renewed is swept in the same way, so a server
//!   that dies orphans nothing.
//! - A subscription that expires by itself stays in the index. It is removed an hour later when
//!   others are added, or with the lease.

use async_trait::async_trait;
use futures_util::future::{join_all, try_join_all};
use zaqar_core::storage::{Error, Leases, Renewal, Swept};
use zaqar_core::{LeaseId, QueueKey, SubscriptionId, Timestamp};

use crate::Redis;
use crate::driver::{number, time};
use crate::error::{Malformed, skip_failed};
use crate::keys::{self, SHARDS};
use crate::reply::{Outcome, Reply};
use crate::scripts::{self, Script};
use crate::server::{Mode, ScriptCall};

/// How long after its attachment to a lease a subscription may still be created, in milliseconds.
const ATTACH_GRACE_MS: u64 = 30_000;
/// Leases per shard that one sweep processes.
const LEASES_PER_SHARD: usize = 64;
/// Subscriptions that are removed concurrently.
const CHUNK: usize = 32;

#[async_trait]
impl Leases for Redis {
    async fn keep_lease(
        &self,
        lease: LeaseId,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Renewal, Error> {
        let mut kept = self.update_lease(&scripts::LEASE_KEEP, lease, now, [time(until)]).await?;
        match kept.number()? {
            0 => Ok(Renewal::Expired),
            1 => Ok(Renewal::Continued),
            2 => Ok(Renewal::Created),
            _ => Err(Malformed.into()),
        }
    }

    async fn end_lease(&self, lease: LeaseId, now: Timestamp) -> Result<(), Error> {
        self.update_lease(&scripts::LEASE_END, lease, now, []).await?;
        Ok(())
    }
}

impl Redis {
    /// Attaches a subscription, which expires at `expires` and is about to be created, to a lease.
    pub(crate) async fn attach_to_lease(
        &self,
        lease: LeaseId,
        key: &QueueKey,
        id: SubscriptionId,
        expires: Timestamp,
        now: Timestamp,
    ) -> Result<(), Error> {
        let own = [member(key, id), time(expires)];
        self.update_lease(&scripts::LEASE_ATTACH, lease, now, own).await?;
        Ok(())
    }

    /// Detaches a subscription from a lease.
    pub(crate) async fn detach_from_lease(
        &self,
        lease: LeaseId,
        key: &QueueKey,
        id: SubscriptionId,
        now: Timestamp,
    ) -> Result<(), Error> {
        let own = [Vec::new(), member(key, id)];
        self.call_lease(&scripts::LEASE_DETACH, lease, now, own).await?;
        Ok(())
    }

    /// Removes at most `budget` subscriptions of expired leases.
    pub(crate) async fn sweep_leases(&self, now: Timestamp, budget: usize) -> Result<Swept, Error> {
        let shards: Vec<_> = (0..SHARDS).collect();
        // In a Cluster the shards are on different nodes; otherwise one script reads all.
        let together = if self.server().is_cluster() { 1 } else { SHARDS };
        let lookups = shards.chunks(together).map(|shards| self.expired_leases(shards, now));
        let mut swept = Swept::default();
        for expired in join_all(lookups).await {
            let expired = expired?;
            swept.more |= expired.len() >= LEASES_PER_SHARD;
            for lease in expired {
                if swept.done >= budget {
                    swept.more = true;
                    return Ok(swept);
                }
                let of_one = self.sweep_lease(lease, now, budget - swept.done).await;
                let of_one = skip_failed(of_one, "the subscriptions of a lease cannot be swept")?
                    .unwrap_or_default();
                swept.done += of_one.done;
                swept.more |= of_one.more;
            }
        }
        Ok(swept)
    }

    async fn expired_leases(
        &self,
        shards: &[usize],
        now: Timestamp,
    ) -> Result<Vec<LeaseId>, Error> {
        let mut arguments = vec![Vec::new(), number(LEASES_PER_SHARD as u64)];
        let others = shards[1..].iter().map(|shard| self.server().keys().leases(*shard).key);
        arguments.extend(others.map(|mut key| {
            key.pop();
            key.into_bytes()
        }));
        let script = &scripts::EXPIRED_LEASES;
        let expired = self.call_shard(script, shards[0], &arguments, Mode::Background, now).await;
        let Some(mut reply) = skip_failed(expired, "expired leases cannot be read")? else {
            return Ok(Vec::new());
        };
        let mut leases = Vec::new();
        while !reply.is_empty() {
            // A member that is not a lease id is skipped; it stays for an operator to see.
            leases.extend(reply.text().ok().and_then(|text| text.parse::<LeaseId>().ok()));
        }
        Ok(leases)
    }

    /// Removes at most `limit` subscriptions that depend on one lease.
    async fn sweep_lease(
        &self,
        lease: LeaseId,
        now: Timestamp,
        limit: usize,
    ) -> Result<Swept, Error> {
        let limit = limit.min(1000);
        let own = [number(limit as u64)];
        let mut members_reply = self.call_lease(&scripts::LEASE_MEMBERS, lease, now, own).await?;
        let grace_ends =
            Timestamp::from_millis(members_reply.number()?.saturating_add(ATTACH_GRACE_MS));
        let mut members = Vec::new();
        while !members_reply.is_empty() {
            members.push(members_reply.bytes()?);
        }
        let mut detached = Vec::new();
        let mut done = 0;
        for piece in members.chunks(CHUNK) {
            let removed = piece.iter().map(|member| self.remove_leased(member, lease, now));
            for (member, is_removed) in piece.iter().zip(try_join_all(removed).await?) {
                done += usize::from(is_removed);
                if is_removed || now >= grace_ends {
                    detached.push(member.clone());
                }
            }
        }
        let is_all = members.len() < limit;
        // Subscriptions that may still be created are looked for again when that is no longer
        // possible.
        let sweep_at = if is_all || detached.is_empty() { time(grace_ends) } else { Vec::new() };
        self.call_lease(&scripts::LEASE_DETACH, lease, now, [vec![sweep_at], detached].concat())
            .await?;
        Ok(Swept { done, more: !is_all, expired: 0 })
    }

    /// Removes a subscription if it depends on this lease. Returns whether it did.
    async fn remove_leased(
        &self,
        member: &[u8],
        lease: LeaseId,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let Some((key, id)) = read_member(member) else { return Ok(false) };
        let own = [id.encode().to_vec(), lease.encode().to_vec()];
        let script = &scripts::UNSUBSCRIBE_LEASED;
        let call = self.head_call(script, Mode::Background, now, own);
        let removed =
            skip_failed(self.call_head(&key, call).await, "a subscription cannot be removed")?;
        Ok(matches!(removed, Some(Outcome::Answer("done", _))))
    }

    /// Changes a lease with the durability that the options require.
    async fn update_lease(
        &self,
        script: &'static Script,
        lease: LeaseId,
        now: Timestamp,
        own: impl IntoIterator<Item = Vec<u8>>,
    ) -> Result<Reply, Error> {
        let arguments = arguments(lease, own);
        self.call_shard(script, shard(lease), &arguments, Mode::Write, now).await
    }

    /// Reads a lease, or makes a change that may be lost.
    async fn call_lease(
        &self,
        script: &'static Script,
        lease: LeaseId,
        now: Timestamp,
        own: impl IntoIterator<Item = Vec<u8>>,
    ) -> Result<Reply, Error> {
        let arguments = arguments(lease, own);
        self.call_shard(script, shard(lease), &arguments, Mode::Background, now).await
    }

    async fn call_shard(
        &self,
        script: &'static Script,
        shard: usize,
        arguments: &[Vec<u8>],
        mode: Mode,
        now: Timestamp,
    ) -> Result<Reply, Error> {
        let keys = self.server().keys().leases(shard);
        let call = ScriptCall { now: Some(now), ..ScriptCall::new(script, &keys, arguments, mode) };
        Ok(Reply::new(self.server().run(call).await?)?)
    }
}

fn arguments(lease: LeaseId, own: impl IntoIterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
    let mut arguments = vec![lease.encode().to_vec()];
    arguments.extend(own);
    arguments
}

fn shard(lease: LeaseId) -> usize {
    // The remainder is below 16, so the cast does not truncate it.
    (lease.get() % SHARDS as u128) as usize
}

fn member(key: &QueueKey, id: SubscriptionId) -> Vec<u8> {
    format!("{} {id}", keys::tag(key)).into_bytes()
}

fn read_member(member: &[u8]) -> Option<(QueueKey, SubscriptionId)> {
    let (tag, id) = std::str::from_utf8(member).ok()?.split_once(' ')?;
    Some((keys::queue(tag)?, id.parse().ok()?))
}
