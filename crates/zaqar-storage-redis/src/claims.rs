//! Claims.

use async_trait::async_trait;
use futures_util::future::join_all;
use zaqar_core::storage::{Claim, ClaimRequest, Claimed, Claims, Error, Guarded, Message};
use zaqar_core::{ClaimId, Generation, Incarnation, QueueKey, Timestamp};

use crate::Redis;
use crate::dead_letters::Moving;
use crate::driver::{Step, arguments, millis, number};
use crate::error::Garbled;
use crate::groups::{self, Answer, ClaimLine, MESSAGE, all_alike, refused};
use crate::messages::{bounded, claim_text, lane};
use crate::peer::Lane;
use crate::reply::{MESSAGE_PARTS, Outcome, Reply};
use crate::scripts;
use crate::server::Mode;

/// Which arguments of a claim are the last place that it takes, and the claim that holds dead
/// letters.
const LAST: usize = 5;
const MOVING: usize = 6;

#[async_trait]
impl Claims for Redis {
    async fn claim(
        &self,
        key: &QueueKey,
        assumed: Generation,
        request: &ClaimRequest,
        now: Timestamp,
    ) -> Answer {
        let _permit = self.server().admit()?;
        let max_claim_count = request.dead_letters.as_ref().map(|rule| rule.max_claim_count);
        let line = ClaimLine { key: key.clone(), assumed, max_claim_count };
        if lane(request.limit, 0) == Lane::Large {
            return self.claim_alone(&line, request, now).await;
        }
        let item = groups::Claim { request: request.clone(), now };
        let store = self.clone();
        let send = move |line: ClaimLine, items: Vec<groups::Claim>| {
            let store = store.clone();
            async move { store.claim_group(&line, items).await }
        };
        let claims = &self.inner.groups.claims;
        let submitted = claims.submit(line, item, MESSAGE * request.limit, send).await;
        submitted.unwrap_or_else(refused)
    }

    async fn claim_get(
        &self,
        key: &QueueKey,
        id: ClaimId,
        now: Timestamp,
    ) -> Result<Option<Claim>, Error> {
        let found = self.on_head(key, now, &scripts::CLAIM_GET, [claim_text(id)]).await?;
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
        let said = self.change_head_of(key, now, script, own).await?;
        Ok(matches!(said, Some(("done", _))))
    }

    async fn claim_release(
        &self,
        key: &QueueKey,
        id: ClaimId,
        now: Timestamp,
    ) -> Result<(), Error> {
        let own = [claim_text(id)];
        let script = &scripts::CLAIM_RELEASE;
        self.change_head_of(key, now, script, own).await?;
        Ok(())
    }
}

impl Redis {
    /// Carries claims out together, or each by itself where they cannot be.
    async fn claim_group(&self, line: &ClaimLine, items: Vec<groups::Claim>) -> Vec<Answer> {
        if items.len() > 1 {
            match self.claim_together(line, &items).await {
                Ok(Some(answers)) => return answers.into_iter().map(Ok).collect(),
                Ok(None) => {}
                Err(error) => return all_alike(error, items.len()),
            }
        }
        let alone = items.iter().map(|item| self.claim_alone(line, &item.request, item.now));
        join_all(alone).await
    }

    /// Nothing, and nothing done, where that takes more than one step.
    async fn claim_together(
        &self,
        line: &ClaimLine,
        items: &[groups::Claim],
    ) -> Result<Option<Vec<Guarded<Claimed>>>, Error> {
        let now = items.iter().map(|item| item.now).max();
        let requests = items.iter().map(|item| &item.request);
        let step = Step::new(&scripts::CLAIM, Mode::Write, now, claim_arguments(line, requests));
        let mut reply = match self.step(&line.key, Step { is_admitted: true, ..step }).await? {
            Outcome::Said("done", reply) => reply,
            Outcome::Said(..) => return Ok(None),
            Outcome::Absent => return Ok(Some(vec![Guarded::Absent; items.len()])),
            Outcome::Stale(generation) => {
                return Ok(Some(vec![Guarded::Stale(generation); items.len()]));
            }
        };
        let incarnation = reply.incarnation()?;
        let mut claimed = Vec::with_capacity(items.len());
        for _ in items {
            claimed.push(Guarded::Done(Claimed::Messages(read_claimed(&mut reply, incarnation)?)));
        }
        Ok(Some(claimed))
    }

    /// Carries out one claim, with what it takes to move dead letters.
    async fn claim_alone(
        &self,
        line: &ClaimLine,
        request: &ClaimRequest,
        now: Timestamp,
    ) -> Answer {
        let key = &line.key;
        let mut own = claim_arguments(line, [request]);
        loop {
            let step = Step::new(&scripts::CLAIM, Mode::Write, Some(now), own.clone());
            let step = Step { lane: lane(request.limit, 0), is_admitted: true, ..step };
            let mut reply = match self.step(key, step).await? {
                Outcome::Said("exhausted", reply) => reply,
                Outcome::Said(_, mut reply) => {
                    let incarnation = reply.incarnation()?;
                    let messages = read_claimed(&mut reply, incarnation)?;
                    return Ok(Guarded::Done(Claimed::Messages(messages)));
                }
                Outcome::Absent => return Ok(Guarded::Absent),
                Outcome::Stale(generation) => return Ok(Guarded::Stale(generation)),
            };
            let Some(rule) = &request.dead_letters else {
                return Err(Error::failed("a claim without a rule met dead letters"));
            };
            let last = reply.bytes()?;
            if rule.target == *key && own[LAST].is_empty() {
                // What moves behind it is not for this claim.
                own[LAST] = last;
            }
            let claim =
                std::mem::replace(&mut own[MOVING], claim_text(ClaimId::new(rand::random())));
            let moving = Moving::read(key, line.assumed.incarnation, claim, reply)?;
            if !self.dead_letter(rule, moving, now).await? {
                return Ok(Guarded::Done(Claimed::TargetChanged));
            }
        }
    }
}

/// Reads what one claim got: how many messages, and they.
fn read_claimed(reply: &mut Reply, incarnation: Incarnation) -> Result<Vec<Message>, Garbled> {
    let count = reply.number()?;
    reply.take(MESSAGE_PARTS.saturating_mul(count))?.messages(incarnation)
}

fn claim_arguments<'a>(
    line: &ClaimLine,
    requests: impl IntoIterator<Item = &'a ClaimRequest>,
) -> Vec<Vec<u8>> {
    let mut all = arguments(Some(line.assumed));
    all.extend([
        Vec::new(),
        line.max_claim_count.map_or_else(Vec::new, |count| number(count.into())),
        Vec::new(),
        claim_text(ClaimId::new(rand::random())),
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
