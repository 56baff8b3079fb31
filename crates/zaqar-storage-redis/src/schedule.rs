//! Schedules: which queues have work due, so that servers do not have to look at all queues.
//!
//! A schedule is a sorted set per shard, of queues by time. Its slot differs from that of the
//! queues, so a script cannot change both. It may be wrong in one direction only: a queue may be on
//! it without having work, but a queue that has work is on it no later than that work is due, or
//! than half a minute after the work came about. This holds because:
//!
//! - A head stores the time for which its queue is scheduled.
//! - A script that would create work that is due earlier does nothing and answers that time. The
//!   server writes it to the schedule and calls the script again. The scheduled time is at least
//!   half a minute ahead, so no reader has processed the entry before the second call.
//! - A reader of the schedule calls a script on the queue, which stores the next due time in the
//!   head and answers it. Then the reader moves the entry to that time, or removes it, if the entry
//!   has not changed since it was read. Every write changes the entry's score.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use redis::{Value, cmd};
use zaqar_core::Timestamp;
use zaqar_core::storage::Error;

use crate::driver::{number, time};
use crate::error::{Malformed, skip_failed};
use crate::keys::{SHARDS, Schedule};
use crate::reply::Reply;
use crate::scripts;
use crate::server::{Mode, ScriptCall, Server};

/// A queue on a schedule.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) schedule: Schedule,
    pub(crate) shard: usize,
    /// The queue's tag.
    pub(crate) tag: String,
    /// When the queue is to be looked at, in the server's encoding.
    pub(crate) score: Vec<u8>,
}

impl Entry {
    /// Whether the entry is for this time: writes change a score by less than one.
    pub(crate) fn is_at(&self, time: u64) -> bool {
        // Times are far below the range in which doubles skip integers.
        (time as f64 - self.at()).abs() < 1.0
    }

    /// When the queue is to be looked at.
    pub(crate) fn time(&self) -> Timestamp {
        Timestamp::from_millis(self.at().max(0.0) as u64)
    }

    /// The score: milliseconds since 1970.
    pub(crate) fn at(&self) -> f64 {
        std::str::from_utf8(&self.score).ok().and_then(|text| text.parse().ok()).unwrap_or(0.0)
    }
}

impl Server {
    /// Due entries, at most `limit` of each shard; begins with the shard `first`.
    pub(crate) async fn due_entries(
        &self,
        schedule: Schedule,
        first: usize,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Entry>, Error> {
        let shards: Vec<_> = (0..SHARDS).map(|n| (first + n) % SHARDS).collect();
        // In a Cluster the shards are on different nodes; otherwise one script reads all.
        let together = if self.is_cluster() { 1 } else { SHARDS };
        let lookups = shards.chunks(together);
        let lookups = lookups.map(|shards| self.due_entries_of(schedule, shards, limit, now));
        let mut entries = Vec::new();
        for found in join_all(lookups).await {
            entries.extend(found?);
        }
        Ok(entries)
    }

    async fn due_entries_of(
        &self,
        schedule: Schedule,
        shards: &[usize],
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Entry>, Error> {
        let keys = self.schedule_keys(schedule, shards[0]);
        let mut arguments = vec![time(now), number(limit as u64)];
        let others = shards[1..].iter().map(|shard| self.keys().schedule(schedule, *shard));
        arguments.extend(others.map(String::into_bytes));
        let call = ScriptCall::new(&scripts::SCHEDULE_DUE, &keys, &arguments, Mode::Read);
        let mut reply = Reply::new(self.run(call).await?)?;
        let mut entries = Vec::new();
        while !reply.is_empty() {
            let at = usize::try_from(reply.number()?).unwrap_or(usize::MAX);
            let (tag, score) = (reply.bytes()?, reply.bytes()?);
            let shard = *shards.get(at).ok_or(Malformed)?;
            // A member that is not UTF-8 is not a queue's tag.
            let Ok(tag) = String::from_utf8(tag) else { continue };
            entries.push(Entry { schedule, shard, tag, score });
        }
        Ok(entries)
    }

    /// Moves an entry to the queue's next due time, or removes it if there is none. Does nothing if
    /// the entry has changed since.
    pub(crate) async fn reschedule(&self, entry: &Entry, next: Option<u64>) -> Result<(), Error> {
        let keys = self.schedule_keys(entry.schedule, entry.shard);
        let next = next.map_or_else(Vec::new, number);
        let arguments = [entry.tag.clone().into_bytes(), entry.score.clone(), next];
        let script = &scripts::SCHEDULE_MOVE;
        self.run(ScriptCall::new(script, &keys, &arguments, Mode::Background)).await?;
        Ok(())
    }

    /// The tags of all queues on a shard of the schedule of sweeps, which contains every queue that
    /// holds something.
    pub(crate) async fn queues_of_shard(&self, shard: usize) -> Result<BTreeSet<String>, Error> {
        let (mut cursor, mut all) = (0, BTreeSet::new());
        loop {
            let (next, tags) = self.scan_tags(shard, cursor).await?;
            all.extend(tags);
            cursor = next;
            if cursor == 0 {
                return Ok(all);
            }
        }
    }

    /// A page of these tags; a tag may occur twice. The cursor is 0 after the last page.
    pub(crate) async fn scan_tags(
        &self,
        shard: usize,
        cursor: u64,
    ) -> Result<(u64, Vec<String>), Error> {
        const PAGE: usize = 256;
        let keys = self.schedule_keys(Schedule::Sweeps, shard);
        let mut scan = cmd("ZSCAN");
        scan.arg(&keys.key).arg(cursor).arg("COUNT").arg(PAGE);
        let page = self.read(&keys.key, &scan).await;
        let Some(page) = skip_failed(page, "a schedule cannot be read")? else {
            return Ok((0, Vec::new()));
        };
        let mut reply = Reply::new(page)?;
        let cursor = reply.number()?;
        let Value::Array(members) = reply.value()? else { return Err(Malformed.into()) };
        let mut members = Reply::new(Value::Array(members))?;
        let mut tags = Vec::new();
        while !members.is_empty() {
            tags.extend(members.text().ok());
            members.value()?;
        }
        Ok((cursor, tags))
    }
}
