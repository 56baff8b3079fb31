//! Messages of a queue.

use std::collections::BTreeSet;

use async_trait::async_trait;
use futures_util::future::try_join_all;
use zaqar_core::storage::{
    Batch, Deletable, Deleted, Endpoint, Error, Guarded, ListQuery, Message, MessagePage, Messages,
    PopPage, PopQuery, Stats, Volume,
};
use zaqar_core::{
    ClaimId, Generation, Incarnation, Kind, MessageId, Position, QueueKey, Timestamp,
};

use crate::Redis;
use crate::driver::{HeadCall, arguments, digits, number};
use crate::error::{Malformed, report_unfinished, skip_failed};
use crate::keys::{self, SHARDS, Schedule};
use crate::peer::{LARGE_BYTES, Lane};
use crate::record;
use crate::reply::Reply;
use crate::scripts::{self, Script};
use crate::server::Mode;

/// A batch or page with more messages, or more than [`LARGE_BYTES`], is large.
pub(crate) const LARGE: usize = 50;
/// Slices of one page, at most.
const MAX_SLICES: usize = 256;
/// Bounds of a slice: messages; bytes of the first one, whose size is not known before; and bytes
/// of the following ones, which are sent on the connections for large answers.
const SLICE_MESSAGES: usize = 500;
pub(crate) const FIRST_SLICE_BYTES: u64 = 128 << 10;
const SLICE_BYTES: u64 = 256 << 10;
/// Tells a script not to end due claims and delays first.
const SKIP_DUE: &[u8] = b"skip";

#[async_trait]
impl Messages for Redis {
    async fn post(
        &self,
        key: &QueueKey,
        assumed: Generation,
        batch: Batch,
        now: Timestamp,
    ) -> Result<Guarded<Vec<MessageId>>, Error> {
        self.post_in_group(key, assumed, batch, now).await
    }

    async fn list(
        &self,
        key: &QueueKey,
        query: &ListQuery,
        now: Timestamp,
    ) -> Result<MessagePage, Error> {
        let mut page = MessagePage::default();
        let (after, bytes, lane) = (query.after, FIRST_SLICE_BYTES, lane(query.limit, 0));
        let mut slice = SliceQuery { after, limit: 0, bytes, lane };
        // Large pages are read in slices, so that none blocks the server for long.
        for _ in 0..MAX_SLICES {
            let left = query.limit - page.messages.len();
            slice.limit = left.min(SLICE_MESSAGES);
            let found = match self.slice_directly(key, query, &slice, now).await {
                Some(found) => found,
                None => match self.slice_by_script(key, query, &slice, now).await? {
                    Some(found) => found,
                    None => break,
                },
            };
            page.messages.extend(found.messages);
            let Some(next) = found.next else { break };
            page.next = Some(next);
            let is_slice = found.is_slice || left > SLICE_MESSAGES;
            if !is_slice || page.messages.len() >= query.limit {
                break;
            }
            (slice.after, slice.bytes, slice.lane) = (page.next, SLICE_BYTES, Lane::Large);
        }
        Ok(page)
    }

    async fn get(
        &self,
        key: &QueueKey,
        ids: &[MessageId],
        now: Timestamp,
    ) -> Result<Vec<Message>, Error> {
        if let Some(messages) = self.get_directly(key, ids, now).await {
            return Ok(messages);
        }
        let (mut rest, mut messages) = (ids.to_vec(), Vec::new());
        loop {
            let found = self.read_head(key, now, &scripts::GET, groups(&rest)).await?;
            let Some((_, mut reply)) = found else { return Ok(messages) };
            let (incarnation, last) = (reply.incarnation()?, reply.some_number()?);
            messages.extend(reply.messages(incarnation)?);
            let Some(last) = last else { return Ok(messages) };
            let count = rest.len();
            rest.retain(|it| *it > id(incarnation, last) && it.incarnation == incarnation);
            if rest.len() == count {
                return Err(Malformed.into());
            }
        }
    }

    async fn delete(
        &self,
        key: &QueueKey,
        id: MessageId,
        claim: Option<ClaimId>,
        now: Timestamp,
    ) -> Result<Deleted, Error> {
        self.delete_in_group(key, id, claim, now).await
    }

    async fn delete_many(
        &self,
        key: &QueueKey,
        ids: &[MessageId],
        which: &Deletable,
        now: Timestamp,
    ) -> Result<(), Error> {
        let mut own = match which {
            Deletable::Any => vec![Vec::new()],
            Deletable::HeldBy(claims) => {
                let mut own = vec![number(claims.len() as u64)];
                own.extend(claims.iter().copied().map(claim_text));
                own
            }
        };
        own.extend(groups(ids));
        self.update_head(key, now, &scripts::DELETE_MANY, own).await?;
        Ok(())
    }

    async fn pop(
        &self,
        key: &QueueKey,
        query: &PopQuery,
        now: Timestamp,
    ) -> Result<PopPage, Error> {
        let after = query.after.map_or_else(Vec::new, |after| number(after.get()));
        let keys = record::keys(Some(&query.keys));
        let own = vec![Vec::new(), number(bounded(query.limit)), after, keys];
        let lane = lane(query.limit, 0);
        let call = HeadCall { lane, ..self.head_call(&scripts::POP, Mode::Write, now, own) };
        let Some((_, mut reply)) = self.call_head(key, call).await?.found()? else {
            return Ok(PopPage::default());
        };
        let incarnation = reply.incarnation()?;
        let skipped = reply.skipped()?;
        Ok(PopPage { messages: reply.messages(incarnation)?, skipped })
    }

    async fn purge(&self, key: &QueueKey, now: Timestamp) -> Result<(), Error> {
        // A repeat may also delete messages that were posted while the caller was waiting, which is
        // the same as purging later.
        self.update_head(key, now, &scripts::PURGE, []).await?;
        Ok(())
    }

    async fn stats(&self, key: &QueueKey, now: Timestamp) -> Result<Option<Stats>, Error> {
        let found = self.read_head(key, now, &scripts::STATS, [Vec::new()]).await?;
        let Some((_, mut reply)) = found else { return Ok(None) };
        let incarnation = reply.incarnation()?;
        let (free, claimed, delayed) = (reply.number()?, reply.number()?, reply.number()?);
        let mut end = || -> Result<Option<Endpoint>, Malformed> {
            if reply.is_empty() {
                return Ok(None);
            }
            let id = id(incarnation, reply.number()?);
            Ok(Some(Endpoint { id, created: reply.time()? }))
        };
        let ends = end()?.zip(end()?);
        Ok(Some(Stats { free, claimed, delayed, ends }))
    }

    async fn volume(&self) -> Result<Option<Volume>, Error> {
        let mut volume = Volume::default();
        for shard in 0..SHARDS {
            let is_counted =
                |tag: &String| keys::queue(tag).is_none_or(|queue| queue.kind != Kind::Internal);
            let tags = self.server().queues_of_shard(shard).await?;
            let tags: Vec<_> = tags.into_iter().filter(is_counted).collect();
            for tags in tags.chunks(32) {
                for (claimed, free) in try_join_all(tags.iter().map(|tag| self.count(tag))).await? {
                    volume.claimed += claimed;
                    volume.free += free;
                }
            }
        }
        Ok(Some(volume))
    }
}

/// What to read of a page at once.
pub(crate) struct SliceQuery {
    /// Begin after this message, as in [`ListQuery`].
    pub(crate) after: Option<MessageId>,
    /// Messages, at least 1.
    pub(crate) limit: usize,
    /// Bytes after which the slice ends.
    pub(crate) bytes: u64,
    pub(crate) lane: Lane,
}

/// A part of a page.
pub(crate) struct Slice {
    pub(crate) messages: Vec<Message>,
    /// As in [`MessagePage`].
    pub(crate) next: Option<MessageId>,
    /// It ends before the page does.
    pub(crate) is_slice: bool,
}

/// The states that a page lists, as scripts name them.
pub(crate) const fn states(query: &ListQuery) -> &'static str {
    match (query.include_claimed, query.include_delayed) {
        (false, false) => "f",
        (true, false) => "fc",
        (false, true) => "fd",
        (true, true) => "fcd",
    }
}

impl Redis {
    /// Reads a slice of a page; `None` without a head.
    async fn slice_by_script(
        &self,
        key: &QueueKey,
        query: &ListQuery,
        slice: &SliceQuery,
        now: Timestamp,
    ) -> Result<Option<Slice>, Error> {
        let states = states(query);
        let (incarnation, after) = slice.after.map_or((Vec::new(), 0), |after| {
            (digits(after.incarnation.get()), after.position.get())
        });
        let own = vec![
            if states == "fcd" { SKIP_DUE.to_vec() } else { Vec::new() },
            number(after),
            number(bounded(slice.limit)),
            query.hide.as_ref().map_or_else(Vec::new, record::client),
            states.into(),
            incarnation,
            number(slice.bytes),
        ];
        let lane = slice.lane;
        let call = HeadCall { lane, ..self.head_call(&scripts::LIST, Mode::Read, now, own) };
        let Some((_, mut reply)) = self.call_head(key, call).await?.found()? else {
            return Ok(None);
        };
        let incarnation = reply.incarnation()?;
        let next = reply.some_number()?.map(|next| id(incarnation, next));
        let is_slice = reply.some_number()?.is_some();
        let messages = reply.messages(incarnation)?;
        self.inner.reads.learn(key, incarnation, &messages);
        Ok(Some(Slice { messages, next, is_slice }))
    }

    /// Calls a script that only reads a head and applies due work; `None` without a head.
    pub(crate) async fn read_head(
        &self,
        key: &QueueKey,
        now: Timestamp,
        script: &'static Script,
        own: impl IntoIterator<Item = Vec<u8>>,
    ) -> Result<Option<(&'static str, Reply)>, Error> {
        let call = self.head_call(script, Mode::Read, now, own);
        Ok(self.call_head(key, call).await?.found()?)
    }

    /// Changes a head, whatever its incarnation; `None` without a head.
    pub(crate) async fn update_head(
        &self,
        key: &QueueKey,
        now: Timestamp,
        script: &'static Script,
        own: impl IntoIterator<Item = Vec<u8>>,
    ) -> Result<Option<(&'static str, Reply)>, Error> {
        let call = self.head_call(script, Mode::Write, now, own);
        Ok(self.call_head(key, call).await?.found()?)
    }

    /// A call that assumes no generation.
    pub(crate) fn head_call(
        &self,
        script: &'static Script,
        mode: Mode,
        now: Timestamp,
        own: impl IntoIterator<Item = Vec<u8>>,
    ) -> HeadCall {
        let mut arguments = arguments(None);
        arguments.extend(own);
        HeadCall::new(script, mode, Some(now), arguments)
    }

    /// Counts the claimed and all other messages of a queue. One that cannot be read counts as
    /// empty.
    async fn count(&self, tag: &str) -> Result<(u64, u64), Error> {
        let keys = self.server().keys().head_by_tag(tag);
        let read = self.server().read_script(&scripts::VOLUME, &keys).await;
        let read = skip_failed(read, "a queue's messages cannot be counted")?;
        let Some(value) = read else { return Ok((0, 0)) };
        let mut reply = Reply::new(value)?;
        Ok((reply.number()?, reply.number()?))
    }

    /// Updates the schedule of deliveries. A failure does not fail the post, because the queue is
    /// on the schedule within half a minute anyway.
    pub(crate) async fn announce_deliveries(&self, key: &QueueKey, at: u64) {
        if let Err(error) = self.server().schedule_by(Schedule::Deliveries, key, at).await {
            let what = "a delivery may begin late: the schedule could not be updated";
            report_unfinished(what, key, &error);
        }
    }
}

/// A claim's id in the encoding of scripts.
pub(crate) fn claim_text(id: ClaimId) -> Vec<u8> {
    id.encode().to_vec()
}

/// The connections for a batch or page of so many messages and bytes.
pub(crate) const fn lane(messages: usize, bytes: usize) -> Lane {
    if messages > LARGE || bytes > LARGE_BYTES { Lane::Large } else { Lane::Small }
}

/// A limit in the range of numbers that scripts accept.
pub(crate) fn bounded(limit: usize) -> u64 {
    u64::try_from(limit).unwrap_or(u64::MAX).min(u32::MAX.into())
}

pub(crate) const fn id(incarnation: Incarnation, position: u64) -> MessageId {
    MessageId { incarnation, position: Position::new(position) }
}

/// Groups ids by incarnation: the incarnation, the number of ids, and their positions, ascending,
/// without duplicates.
fn groups(ids: &[MessageId]) -> Vec<Vec<u8>> {
    let ids: BTreeSet<MessageId> = ids.iter().copied().collect();
    let ids: Vec<MessageId> = ids.into_iter().collect();
    let mut groups = Vec::with_capacity(ids.len() + 2);
    for group in ids.chunk_by(|a, b| a.incarnation == b.incarnation) {
        groups.push(digits(group[0].incarnation.get()));
        groups.push(number(group.len() as u64));
        groups.extend(group.iter().map(|id| number(id.position.get())));
    }
    groups
}
