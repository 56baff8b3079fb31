//! Messages of a queue.

use std::collections::BTreeSet;

use async_trait::async_trait;
use zaqar_core::storage::{
    Batch, Deletable, Deleted, Endpoint, Error, FOLLOWED_FOR, Guarded, ListQuery, Message,
    MessagePage, Messages, Stats, Volume,
};
use zaqar_core::{
    ClaimId, Generation, Incarnation, MessageId, Position, QueueKey, Timestamp, Version,
};

use crate::Redis;
use crate::driver::{Repeat, Step, VERSION, arguments, digits, millis, number};
use crate::error::Garbled;
use crate::keys::{Agenda, SHARDS};
use crate::record;
use crate::reply::{Outcome, Reply};
use crate::scripts::{self, Script};

/// Which argument of a post says that it is a repeat.
const REPEATED: usize = 6;
/// What a script is told that need not end claims and delays first.
const AS_IT_IS: &[u8] = b"as it is";

#[async_trait]
impl Messages for Redis {
    async fn post(
        &self,
        key: &QueueKey,
        assumed: Generation,
        batch: Batch,
        now: Timestamp,
    ) -> Result<Guarded<Vec<MessageId>>, Error> {
        let now = self.at(now);
        let count = batch.messages.len() as u64;
        let mut arguments = arguments(Some(assumed), now);
        arguments.reserve(4 + 3 * batch.messages.len());
        arguments.extend([Vec::new(), batch.request.to_be_bytes().to_vec(), Vec::new()]);
        arguments.push(millis(FOLLOWED_FOR.as_secs()));
        for message in &batch.messages {
            arguments.push(record::encode(now, &batch.client, &message.payload));
            arguments.extend([millis(message.ttl), millis(message.delay)]);
        }
        let repeat = Repeat::Marked(REPEATED);
        let step = Step { script: &scripts::POST, repeat, is_write: true, arguments };
        let posted = self
            .step(key, step)
            .await?
            .guarded(|_, mut reply| Ok((reply.number()?, reply.some_number()?)))?;
        let (first, deliveries_due) = match posted {
            Guarded::Done(posted) => posted,
            Guarded::Absent => return Ok(Guarded::Absent),
            Guarded::Stale(generation) => return Ok(Guarded::Stale(generation)),
        };
        if let Some(at) = deliveries_due {
            self.announce_deliveries(key, at).await;
        }
        let ids: Vec<_> = (first..first + count).map(|at| id(assumed.incarnation, at)).collect();
        if let Some(last) = ids.last() {
            self.inner.hub.posted(key, *last);
        }
        Ok(Guarded::Done(ids))
    }

    async fn list(
        &self,
        key: &QueueKey,
        query: &ListQuery,
        now: Timestamp,
    ) -> Result<MessagePage, Error> {
        let states = match (query.include_claimed, query.include_delayed) {
            (false, false) => "f",
            (true, false) => "fc",
            (false, true) => "fd",
            (true, true) => "fcd",
        };
        let go = if states == "fcd" { AS_IT_IS } else { b"" };
        let after = query.after.map_or((Vec::new(), 0), |marker| {
            (digits(marker.incarnation.get()), marker.position.get())
        });
        let own = [
            go.to_vec(),
            number(after.1),
            number(bounded(query.limit)),
            query.hide.as_ref().map_or_else(Vec::new, record::client),
            states.into(),
            after.0,
        ];
        let Some((_, mut reply)) = self.on_head(key, now, &scripts::LIST, own).await? else {
            return Ok(MessagePage::default());
        };
        let incarnation = reply.incarnation()?;
        let next = reply.some_number()?;
        Ok(MessagePage {
            messages: reply.messages(incarnation)?,
            next: next.map(|position| id(incarnation, position)),
        })
    }

    async fn get(
        &self,
        key: &QueueKey,
        ids: &[MessageId],
        now: Timestamp,
    ) -> Result<Vec<Message>, Error> {
        let found = self.on_head(key, now, &scripts::GET, groups(ids)).await?;
        let Some((_, mut reply)) = found else { return Ok(Vec::new()) };
        let incarnation = reply.incarnation()?;
        Ok(reply.messages(incarnation)?)
    }

    async fn delete(
        &self,
        key: &QueueKey,
        id: MessageId,
        claim: Option<ClaimId>,
        now: Timestamp,
    ) -> Result<Deleted, Error> {
        let assumed = Generation { incarnation: id.incarnation, version: Version::new(0) };
        let mut arguments = arguments(Some(assumed), self.at(now));
        arguments[VERSION].clear();
        arguments.push(number(id.position.get()));
        arguments.push(claim.map_or_else(Vec::new, claim_text));
        let (script, repeat) = (&scripts::DELETE, Repeat::Harmless);
        match self.step(key, Step { script, repeat, is_write: true, arguments }).await? {
            Outcome::Said(_, mut reply) => match reply.bytes()?.as_slice() {
                b"gone" => Ok(Deleted::Gone),
                b"claimed" => Ok(Deleted::Claimed),
                b"not claimed" => Ok(Deleted::NotClaimed),
                b"wrong claim" => Ok(Deleted::WrongClaim),
                _ => Err(Garbled.into()),
            },
            Outcome::Absent | Outcome::Stale(_) => Ok(Deleted::Gone),
        }
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
        self.change_head_of(key, now, &scripts::DELETE_MANY, own, Repeat::Harmless).await?;
        Ok(())
    }

    async fn pop(
        &self,
        key: &QueueKey,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Message>, Error> {
        let own = [Vec::new(), number(bounded(limit))];
        // A second time it would take others, and the first would be lost.
        let popped = self.change_head_of(key, now, &scripts::POP, own, Repeat::Never).await?;
        let Some((_, mut reply)) = popped else { return Ok(Vec::new()) };
        let incarnation = reply.incarnation()?;
        Ok(reply.messages(incarnation)?)
    }

    async fn purge(&self, key: &QueueKey, now: Timestamp) -> Result<(), Error> {
        // What a repeat removes beside came in while the caller was waiting: it could have come before.
        self.change_head_of(key, now, &scripts::PURGE, [], Repeat::Harmless).await?;
        Ok(())
    }

    async fn stats(&self, key: &QueueKey, now: Timestamp) -> Result<Option<Stats>, Error> {
        let found = self.on_head(key, now, &scripts::STATS, [Vec::new()]).await?;
        let Some((_, mut reply)) = found else { return Ok(None) };
        let incarnation = reply.incarnation()?;
        let (free, claimed, delayed) = (reply.number()?, reply.number()?, reply.number()?);
        let mut end = || -> Result<Option<Endpoint>, Garbled> {
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
            for tag in self.server().queues_on(shard).await? {
                let place = self.server().keys().head_of(&tag);
                let mut reply = Reply::new(self.server().ask(&scripts::VOLUME, &place).await?)?;
                volume.claimed += reply.number()?;
                volume.free += reply.number()?;
            }
        }
        Ok(Some(volume))
    }
}

impl Redis {
    /// Asks a head something that changes nothing but what time has changed; `None` without a head.
    pub(crate) async fn on_head(
        &self,
        key: &QueueKey,
        now: Timestamp,
        script: &'static Script,
        own: impl IntoIterator<Item = Vec<u8>>,
    ) -> Result<Option<(&'static str, Reply)>, Error> {
        let mut arguments = arguments(None, self.at(now));
        arguments.extend(own);
        let step = Step { script, repeat: Repeat::Harmless, is_write: false, arguments };
        Ok(self.step(key, step).await?.found()?)
    }

    /// Changes what a head holds, whichever life of the queue it is; `None` without a head.
    pub(crate) async fn change_head_of(
        &self,
        key: &QueueKey,
        now: Timestamp,
        script: &'static Script,
        own: impl IntoIterator<Item = Vec<u8>>,
        repeat: Repeat,
    ) -> Result<Option<(&'static str, Reply)>, Error> {
        let mut arguments = arguments(None, self.at(now));
        arguments.extend(own);
        let step = Step { script, repeat, is_write: true, arguments };
        Ok(self.step(key, step).await?.found()?)
    }

    /// Tells the agenda of deliveries what it knows already within half a minute: failing is no failure of the post.
    async fn announce_deliveries(&self, key: &QueueKey, at: u64) {
        if let Err(error) = self.server().hint(Agenda::Deliveries, key, at).await {
            tracing::warn!(
                queue = %key,
                error = &error as &dyn std::error::Error,
                "a delivery begins late: its agenda could not be told"
            );
        }
    }
}

/// A claim's id as scripts have it.
pub(crate) fn claim_text(id: ClaimId) -> Vec<u8> {
    id.encode().to_vec()
}

/// A limit that scripts can count to.
pub(crate) fn bounded(limit: usize) -> u64 {
    u64::try_from(limit).unwrap_or(u64::MAX).min(u32::MAX.into())
}

const fn id(incarnation: Incarnation, position: u64) -> MessageId {
    MessageId { incarnation, position: Position::new(position) }
}

/// Ids in groups of one incarnation each: the incarnation, how many they are, and their places, ascending, each once.
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
