//! Claims.

use async_trait::async_trait;
use futures_util::future::join_all;
use zaqar_core::storage::{Claim, ClaimRequest, Claimed, Claims, Error, Guarded, Message};
use zaqar_core::{ClaimId, Generation, Incarnation, QueueKey, Timestamp};

use crate::Redis;
use crate::dead_letters::DeadLetterBatch;
use crate::driver::{HeadCall, arguments, millis, number};
use crate::error::{Malformed, report_unfinished};
use crate::groups::{self, ClaimKey, ClaimResult, MESSAGE_OVERHEAD, flatten, same_error};
use crate::messages::{bounded, claim_text, lane};
use crate::peer::Lane;
use crate::record;
use crate::reply::{MESSAGE_FIELDS, Outcome, Reply};
use crate::scripts;
use crate::server::Mode;

/// Indexes of arguments of a claim: the last position that it examines, the claim that holds dead
/// letters, and the position after which it begins.
const LAST_POSITION: usize = 5;
const MOVING_CLAIM: usize = 6;
const AFTER: usize = 7;

#[async_trait]
impl Claims for Redis {
    async fn claim(
        &self,
        key: &QueueKey,
        assumed: Generation,
        request: &ClaimRequest,
        now: Timestamp,
    ) -> ClaimResult {
        let _permit = self.server().admit()?;
        let max_claim_count = request.dead_letters.as_ref().map(|rule| rule.max_claim_count);
        let keys = record::keys(request.keys.as_deref());
        let group = ClaimKey { key: key.clone(), assumed, max_claim_count, keys };
        if lane(request.limit, 0) == Lane::Large || request.after.is_some() {
            return self.claim_alone(&group, request, now).await;
        }
        let item = groups::Claim { request: request.clone(), now };
        let store = self.clone();
        let send = move |group: ClaimKey, items: Vec<groups::Claim>| {
            let store = store.clone();
            async move { store.claim_group(&group, items).await }
        };
        let claims = &self.inner.groups.claims;
        let submitted = claims.submit(group, item, MESSAGE_OVERHEAD * request.limit, send).await;
        submitted.unwrap_or_else(flatten)
    }

    async fn claim_each(
        &self,
        key: &QueueKey,
        assumed: Generation,
        ids: &[ClaimId],
        ttl: u64,
        now: Timestamp,
    ) -> Result<Guarded<Vec<Message>>, Error> {
        let _permit = self.server().admit()?;
        let keys = record::keys(None);
        let group = ClaimKey { key: key.clone(), assumed, max_claim_count: None, keys };
        let item = |id: &ClaimId| groups::Claim { request: ClaimRequest::new(*id, ttl, 1), now };
        let mut taken = Vec::with_capacity(ids.len());
        let mut items: Vec<_> = ids.iter().map(item).collect();
        // Claims that cannot be made together: the first ends what is due, and the others follow.
        while !items.is_empty() {
            let answers = match self.claim_first(&group, &items).await {
                Ok(answers) => answers,
                Err(error) if taken.is_empty() => return Err(error),
                Err(error) => {
                    report_unfinished("only some claims of a batch were made", key, &error);
                    return Ok(Guarded::Done(taken));
                }
            };
            let count = answers.len();
            for answer in answers {
                match answer {
                    Guarded::Done(Claimed::Messages { messages, .. }) if !messages.is_empty() => {
                        taken.extend(messages);
                    }
                    // What was claimed before stays claimed, in the generation that was assumed.
                    Guarded::Absent if taken.is_empty() => return Ok(Guarded::Absent),
                    Guarded::Stale(found) if taken.is_empty() => return Ok(Guarded::Stale(found)),
                    Guarded::Done(_) | Guarded::Absent | Guarded::Stale(_) => {
                        return Ok(Guarded::Done(taken));
                    }
                }
            }
            items.drain(..count);
        }
        Ok(Guarded::Done(taken))
    }

    async fn claim_get(
        &self,
        key: &QueueKey,
        id: ClaimId,
        now: Timestamp,
    ) -> Result<Option<Claim>, Error> {
        let found = self.read_head(key, now, &scripts::CLAIM_GET, [claim_text(id)]).await?;
        let Some(("done", mut reply)) = found else { return Ok(None) };
        let incarnation = reply.incarnation()?;
        let (ttl, since) = (reply.number()?, reply.time()?);
        Ok(Some(Claim { ttl, since, messages: reply.messages(incarnation)? }))
    }

    async fn claim_renew(
        &self,
        key: &QueueKey,
        id: ClaimId,
        ttl: u64,
        grace: u64,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let own = [claim_text(id), number(ttl), millis(ttl), millis(ttl.saturating_add(grace))];
        let script = &scripts::CLAIM_RENEW;
        let status = self.update_head(key, now, script, own).await?;
        Ok(matches!(status, Some(("done", _))))
    }

    async fn claim_release(
        &self,
        key: &QueueKey,
        id: ClaimId,
        now: Timestamp,
    ) -> Result<usize, Error> {
        let own = [claim_text(id)];
        let script = &scripts::CLAIM_RELEASE;
        let Some(("done", mut reply)) = self.update_head(key, now, script, own).await? else {
            return Ok(0);
        };
        Ok(usize::try_from(reply.number()?).unwrap_or(usize::MAX))
    }
}

impl Redis {
    /// Executes claims in one call, or one by one if that is not possible.
    async fn claim_group(&self, group: &ClaimKey, items: Vec<groups::Claim>) -> Vec<ClaimResult> {
        if items.len() > 1 {
            match self.claim_together(group, &items).await {
                Ok(Some(answers)) => return answers.into_iter().map(Ok).collect(),
                Ok(None) => {}
                Err(error) => return same_error(error, items.len()),
            }
        }
        let alone = items.iter().map(|item| self.claim_alone(group, &item.request, item.now));
        join_all(alone).await
    }

    /// Executes all these claims in one call, or only the first if that is not possible.
    async fn claim_first(
        &self,
        group: &ClaimKey,
        items: &[groups::Claim],
    ) -> Result<Vec<Guarded<Claimed>>, Error> {
        if let Some(answers) = self.claim_together(group, items).await? {
            return Ok(answers);
        }
        let Some(first) = items.first() else { return Ok(Vec::new()) };
        Ok(vec![self.claim_alone(group, &first.request, first.now).await?])
    }

    /// Executes claims in one call; `None`, and nothing is changed, if that is not possible.
    async fn claim_together(
        &self,
        group: &ClaimKey,
        items: &[groups::Claim],
    ) -> Result<Option<Vec<Guarded<Claimed>>>, Error> {
        let now = items.iter().map(|item| item.now).max();
        let requests = items.iter().map(|item| &item.request);
        let call =
            HeadCall::new(&scripts::CLAIM, Mode::Write, now, claim_arguments(group, requests));
        let mut reply =
            match self.call_head(&group.key, HeadCall { is_admitted: true, ..call }).await? {
                Outcome::Answer("done", reply) => reply,
                Outcome::Answer(..) => return Ok(None),
                Outcome::Absent => return Ok(Some(vec![Guarded::Absent; items.len()])),
                Outcome::Stale(generation) => {
                    return Ok(Some(vec![Guarded::Stale(generation); items.len()]));
                }
            };
        let (incarnation, skipped) = (reply.incarnation()?, reply.skipped()?);
        let mut claimed = Vec::with_capacity(items.len());
        for _ in items {
            let messages = read_claimed(&mut reply, incarnation)?;
            // Claims with dead letters are executed one by one.
            let (dead_letters, skipped) = (0, skipped.clone());
            claimed.push(Guarded::Done(Claimed::Messages { messages, dead_letters, skipped }));
        }
        Ok(Some(claimed))
    }

    /// Executes one claim, including any moves of dead letters.
    async fn claim_alone(
        &self,
        group: &ClaimKey,
        request: &ClaimRequest,
        now: Timestamp,
    ) -> ClaimResult {
        let key = &group.key;
        let mut own = claim_arguments(group, [request]);
        own[AFTER] = request.after.map_or_else(Vec::new, |after| number(after.get()));
        let mut dead_letters = 0;
        loop {
            let call = HeadCall::new(&scripts::CLAIM, Mode::Write, Some(now), own.clone());
            let call = HeadCall { lane: lane(request.limit, 0), is_admitted: true, ..call };
            let mut reply = match self.call_head(key, call).await? {
                Outcome::Answer("exhausted", reply) => reply,
                Outcome::Answer(_, mut reply) => {
                    let (incarnation, skipped) = (reply.incarnation()?, reply.skipped()?);
                    let messages = read_claimed(&mut reply, incarnation)?;
                    let claimed = Claimed::Messages { messages, dead_letters, skipped };
                    return Ok(Guarded::Done(claimed));
                }
                Outcome::Absent => return Ok(Guarded::Absent),
                Outcome::Stale(generation) => return Ok(Guarded::Stale(generation)),
            };
            let Some(rule) = &request.dead_letters else {
                return Err(Error::failed(
                    "a claim without a dead-letter rule found exhausted messages",
                ));
            };
            let last = reply.bytes()?;
            if rule.target == *key && own[LAST_POSITION].is_empty() {
                // The claim must not take the messages that are moved to the end of its own queue.
                own[LAST_POSITION] = last;
            }
            let claim =
                std::mem::replace(&mut own[MOVING_CLAIM], claim_text(ClaimId::new(rand::random())));
            let batch = DeadLetterBatch::read(key, group.assumed.incarnation, claim, reply)?;
            let count = batch.len();
            if !self.dead_letter(rule, batch, now).await? {
                return Ok(Guarded::Done(Claimed::TargetChanged));
            }
            dead_letters += count;
        }
    }
}

/// Reads the result of one claim: the number of messages, and the messages.
fn read_claimed(reply: &mut Reply, incarnation: Incarnation) -> Result<Vec<Message>, Malformed> {
    let count = reply.number()?;
    reply.take(MESSAGE_FIELDS.saturating_mul(count))?.messages(incarnation)
}

fn claim_arguments<'a>(
    group: &ClaimKey,
    requests: impl IntoIterator<Item = &'a ClaimRequest>,
) -> Vec<Vec<u8>> {
    let mut all = arguments(Some(group.assumed));
    all.extend([
        Vec::new(),
        group.max_claim_count.map_or_else(Vec::new, |count| number(count.into())),
        Vec::new(),
        claim_text(ClaimId::new(rand::random())),
        Vec::new(),
        group.keys.clone(),
    ]);
    for request in requests {
        all.extend([
            claim_text(request.id),
            number(request.ttl),
            millis(request.ttl),
            millis(request.ttl.saturating_add(request.grace)),
            number(bounded(request.limit)),
        ]);
    }
    all
}
