//! Schedules: which queues have work due, for servers that are asked to look for it.
//!
//! A schedule is a sorted set for each shard, of queues by time. It belongs to another slot than
//! the queues, so it cannot change in the same step. It is a hint that may be wrong in one
//! direction: a queue with work is on it no later than that work is due, or half a minute after it
//! came about. That holds because
//!
//! - a head remembers what the schedule promises: to look at the queue by then;
//! - a step that would make work due before says so instead of acting; the server writes to the
//!   schedule and tries again with that time. What it writes is half a minute ahead at least, and
//!   the second try follows at once, so nobody has looked in between;
//! - whoever looks asks the queue, which says when it is due next and takes that for the new
//!   promise; then it moves the entry there, or removes it, if the entry is still as it was. Every
//!   write makes it another.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use redis::{Value, cmd};
use zaqar_core::Timestamp;
use zaqar_core::storage::Error;

use crate::driver::{number, time};
use crate::error::{Garbled, unless_failed};
use crate::keys::{SHARDS, Schedule};
use crate::reply::Reply;
use crate::scripts;
use crate::server::{Call, Mode, Server};

/// A queue on a schedule.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) schedule: Schedule,
    pub(crate) shard: usize,
    /// The queue's tag.
    pub(crate) tag: String,
    /// When it is to be looked at, as the server writes it.
    pub(crate) score: Vec<u8>,
}

impl Entry {
    /// Whether it is for this time: writes make it differ by less than one.
    pub(crate) fn is_at(&self, time: u64) -> bool {
        // Times of schedules are far below where doubles have gaps.
        (time as f64 - self.at()).abs() < 1.0
    }

    /// Milliseconds since 1970.
    pub(crate) fn at(&self) -> f64 {
        std::str::from_utf8(&self.score).ok().and_then(|text| text.parse().ok()).unwrap_or(0.0)
    }
}

impl Server {
    /// Entries to look at, at most `limit` of each shard; the first shard is `first`.
    pub(crate) async fn look(
        &self,
        schedule: Schedule,
        first: usize,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Entry>, Error> {
        let shards: Vec<_> = (0..SHARDS).map(|n| (first + n) % SHARDS).collect();
        // In a Cluster shards are on different nodes; elsewhere one script looks at all.
        let together = if self.is_cluster() { 1 } else { SHARDS };
        let looks = shards.chunks(together);
        let looks = looks.map(|shards| self.look_at(schedule, shards, limit, now));
        let mut entries = Vec::new();
        for found in join_all(looks).await {
            entries.extend(found?);
        }
        Ok(entries)
    }

    async fn look_at(
        &self,
        schedule: Schedule,
        shards: &[usize],
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Entry>, Error> {
        let place = self.schedule(schedule, shards[0]);
        let mut arguments = vec![time(now), number(limit as u64)];
        let others = shards[1..].iter().map(|shard| self.keys().schedule(schedule, *shard));
        arguments.extend(others.map(String::into_bytes));
        let call = Call::new(&scripts::SCHEDULE_LOOK, &place, &arguments, Mode::Read);
        let mut reply = Reply::new(self.run(call).await?)?;
        let mut entries = Vec::new();
        while !reply.is_empty() {
            let at = usize::try_from(reply.number()?).unwrap_or(usize::MAX);
            let (tag, score) = (reply.bytes()?, reply.bytes()?);
            let shard = *shards.get(at).ok_or(Garbled)?;
            // What is no text is no queue of ours.
            let Ok(tag) = String::from_utf8(tag) else { continue };
            entries.push(Entry { schedule, shard, tag, score });
        }
        Ok(entries)
    }

    /// Moves an entry to when its queue is due next, or removes it; leaves it where it has changed
    /// since.
    pub(crate) async fn settle(&self, entry: &Entry, next: Option<u64>) -> Result<(), Error> {
        let place = self.schedule(entry.schedule, entry.shard);
        let next = next.map_or_else(Vec::new, number);
        let arguments = [entry.tag.clone().into_bytes(), entry.score.clone(), next];
        let script = &scripts::SCHEDULE_SETTLE;
        self.run(Call::new(script, &place, &arguments, Mode::Background)).await?;
        Ok(())
    }

    /// The tags of all queues on a shard of the schedule of sweeps, which has every queue that
    /// holds something.
    pub(crate) async fn queues_on(&self, shard: usize) -> Result<BTreeSet<String>, Error> {
        let (mut cursor, mut all) = (0, BTreeSet::new());
        loop {
            let (next, tags) = self.scan(shard, cursor).await?;
            all.extend(tags);
            cursor = next;
            if cursor == 0 {
                return Ok(all);
            }
        }
    }

    /// A page of these tags; one may come twice. The cursor for the next page is 0 at the end.
    pub(crate) async fn scan(
        &self,
        shard: usize,
        cursor: u64,
    ) -> Result<(u64, Vec<String>), Error> {
        const PAGE: usize = 256;
        let place = self.schedule(Schedule::Sweeps, shard);
        let mut scan = cmd("ZSCAN");
        scan.arg(&place.key).arg(cursor).arg("COUNT").arg(PAGE);
        let page = self.read(&place.key, &scan).await;
        let Some(page) = unless_failed(page, "a schedule cannot be read")? else {
            return Ok((0, Vec::new()));
        };
        let mut reply = Reply::new(page)?;
        let cursor = reply.number()?;
        let Value::Array(members) = reply.value()? else { return Err(Garbled.into()) };
        let mut members = Reply::new(Value::Array(members))?;
        let mut tags = Vec::new();
        while !members.is_empty() {
            tags.extend(members.text().ok());
            members.value()?;
        }
        Ok((cursor, tags))
    }
}
