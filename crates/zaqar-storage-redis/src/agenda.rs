//! Agendas: which queues have work due, for servers that are asked to look for it.
//!
//! An agenda is a sorted set for each shard, of queues by time. It belongs to another slot than the queues, so it cannot change in the
//! same step. It is a hint that may be wrong in one direction: a queue with work is on it no later than that work is due, or half a
//! minute after it came about. That holds because
//!
//! - a head remembers what the agenda promises: to look at the queue by then;
//! - a step that would make work due before says so instead of acting; the server writes to the agenda and tries again with that time.
//!   What it writes is half a minute ahead at least, and the second try follows at once, so nobody has looked in between;
//! - whoever looks asks the queue, which says when it is due next and takes that for the new promise; then it moves the entry there, or
//!   removes it, if the entry is still as it was. Every write makes it another.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use redis::{Value, cmd};
use zaqar_core::Timestamp;
use zaqar_core::storage::Error;

use crate::driver::{Call, Repeat, Server, number, time};
use crate::error::Garbled;
use crate::keys::{Agenda, SHARDS};
use crate::reply::Reply;
use crate::scripts;

/// A queue on an agenda.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) agenda: Agenda,
    pub(crate) shard: usize,
    /// The queue's tag.
    pub(crate) tag: String,
    /// When it is to be looked at, as the server writes it.
    pub(crate) score: Vec<u8>,
}

impl Entry {
    /// Whether it is for this time: writes make it differ by less than one.
    pub(crate) fn is_at(&self, time: u64) -> bool {
        // Times of agendas are far below where doubles have gaps.
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
        agenda: Agenda,
        first: usize,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Entry>, Error> {
        let shards = (0..SHARDS).map(|n| (first + n) % SHARDS);
        let looks = shards.map(|shard| self.look_at(agenda, shard, limit, now));
        let mut entries = Vec::new();
        for found in join_all(looks).await {
            entries.extend(found?);
        }
        Ok(entries)
    }

    async fn look_at(
        &self,
        agenda: Agenda,
        shard: usize,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Entry>, Error> {
        let place = self.agenda(agenda, shard);
        let mut look = cmd("ZRANGE");
        look.arg(&place.key).arg("-inf").arg(time(now)).arg("BYSCORE");
        look.arg("LIMIT").arg(0).arg(limit).arg("WITHSCORES");
        let mut reply = Reply::new(self.read(&place.key, &look).await?)?;
        let mut entries = Vec::new();
        while !reply.is_empty() {
            let (tag, score) = (reply.text()?, reply.bytes()?);
            entries.push(Entry { agenda, shard, tag, score });
        }
        Ok(entries)
    }

    /// Moves an entry to when its queue is due next, or removes it; leaves it where it has changed since.
    pub(crate) async fn settle(&self, entry: &Entry, next: Option<u64>) -> Result<(), Error> {
        let place = self.agenda(entry.agenda, entry.shard);
        let next = next.map_or_else(Vec::new, number);
        let mut arguments = [entry.tag.clone().into_bytes(), entry.score.clone(), next];
        self.run(Call {
            script: &scripts::AGENDA_SETTLE,
            place: &place,
            other: None,
            arguments: &mut arguments,
            repeat: Repeat::Harmless,
            is_write: false,
        })
        .await?;
        Ok(())
    }

    /// The tags of all queues on a shard of the agenda of sweeps, which has every queue that holds something.
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
        let place = self.agenda(Agenda::Sweeps, shard);
        let mut scan = cmd("ZSCAN");
        scan.arg(&place.key).arg(cursor).arg("COUNT").arg(PAGE);
        let mut reply = Reply::new(self.read(&place.key, &scan).await?)?;
        let cursor = reply.number()?;
        let Value::Array(members) = reply.value()? else { return Err(Garbled.into()) };
        let mut members = Reply::new(Value::Array(members))?;
        let mut tags = Vec::new();
        while !members.is_empty() {
            tags.push(members.text()?);
            members.value()?;
        }
        Ok((cursor, tags))
    }
}
