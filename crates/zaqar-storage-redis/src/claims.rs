//! Claims.

use async_trait::async_trait;
use zaqar_core::storage::{Claim, ClaimRequest, Claimed, Claims, Error, Guarded};
use zaqar_core::{ClaimId, Generation, QueueKey, Timestamp};

use crate::Redis;
use crate::driver::{Repeat, Step, arguments, millis, number};
use crate::letters::Letters;
use crate::messages::{bounded, claim_text};
use crate::reply::Outcome;
use crate::scripts;

/// Which arguments of a claim are the last place that it takes, that it is a repeat, and the claim that holds letters.
const LAST: usize = 11;
const REPEATED: usize = 12;
const LETTERS: usize = 13;

#[async_trait]
impl Claims for Redis {
    async fn claim(
        &self,
        key: &QueueKey,
        assumed: Generation,
        request: &ClaimRequest,
        now: Timestamp,
    ) -> Result<Guarded<Claimed>, Error> {
        let now = self.at(now);
        let mut own = claim_arguments(assumed, request, now);
        loop {
            let step = Step {
                script: &scripts::CLAIM,
                repeat: Repeat::Marked(REPEATED),
                is_write: true,
                arguments: own.clone(),
            };
            let mut reply = match self.step(key, step).await? {
                Outcome::Said("worn", reply) => reply,
                Outcome::Said(_, mut reply) => {
                    let incarnation = reply.incarnation()?;
                    let messages = reply.messages(incarnation)?;
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
                std::mem::replace(&mut own[LETTERS], claim_text(ClaimId::new(rand::random())));
            let letters = Letters::read(key, assumed.incarnation, claim, reply)?;
            if !self.bury(rule, letters, now).await? {
                return Ok(Guarded::Done(Claimed::TargetChanged));
            }
        }
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
        let said = self.change_head_of(key, now, script, own, Repeat::Harmless).await?;
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
        self.change_head_of(key, now, script, own, Repeat::Harmless).await?;
        Ok(())
    }
}

fn claim_arguments(assumed: Generation, request: &ClaimRequest, now: Timestamp) -> Vec<Vec<u8>> {
    let most = request.dead_letters.as_ref().map(|rule| number(rule.max_claim_count.into()));
    let mut all = arguments(Some(assumed), now);
    all.extend([
        Vec::new(),
        claim_text(request.id),
        number(request.ttl),
        millis(request.ttl),
        millis(request.ttl.saturating_add(request.grace)),
        number(bounded(request.limit)),
        most.unwrap_or_default(),
        Vec::new(),
        Vec::new(),
        claim_text(ClaimId::new(rand::random())),
    ]);
    all
}
