//! Operations on claims.

use zaqar_core::limits::{DEFAULT_PAGE, MIN_TTL};
use zaqar_core::metadata::DeadLetterRule;
use zaqar_core::storage::{Claim, ClaimRequest, Claimed, DeadLetters, Guarded, Message};
use zaqar_core::{ClaimId, QueueKey, Timestamp};

use crate::directory::ATTEMPTS;
use crate::{
    Api, Caller, CreateClaim, Error, ReadClaim, RenewClaim, checked_limit, checked_seconds,
};

impl Api {
    /// Holds the first free messages for the caller; `None` when there are none. Cost: one store step.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a ttl, grace or limit out of bounds; [`Error::Storage`].
    pub async fn create_claim(
        &self,
        caller: &Caller,
        request: CreateClaim,
    ) -> Result<Option<(ClaimId, Vec<Message>)>, Error> {
        let limits = &self.inner.limits;
        let ttl = self.claim_ttl(request.ttl)?;
        let max = limits.max_messages_per_claim_or_pop;
        let limit = checked_limit(request.limit, DEFAULT_PAGE, max, |max| {
            Error::request(format!("Limit must be at least 1 and may not be greater than {max}."))
        })?;
        let grace = self.claim_grace(request.grace)?;
        let key = caller.key(request.queue);
        let now = self.inner.clock.now();
        let id = ClaimId::new(rand::random());
        let directory = &self.inner.directory;
        let mut known = directory.find(&key).await?;
        for _ in 0..ATTEMPTS {
            let Some(queue) = known else { return Ok(None) };
            let dead_letters = match &queue.rules.dead_letters {
                None => None,
                Some(rule) => Some(self.dead_letters(&key, rule, now).await?),
            };
            let claim = ClaimRequest { id, ttl, grace, limit, dead_letters };
            match self.inner.messages.claim(&key, queue.generation, &claim, now).await? {
                Guarded::Done(Claimed::Messages(messages)) if messages.is_empty() => {
                    return Ok(None);
                }
                Guarded::Done(Claimed::Messages(mut messages)) => {
                    self.open(&key, &mut messages)?;
                    return Ok(Some((id, messages)));
                }
                Guarded::Done(Claimed::TargetChanged) => {
                    if let Some(dead_letters) = claim.dead_letters {
                        directory.agree(&dead_letters.target, now).await?;
                    }
                    known = Some(queue);
                }
                Guarded::Absent => {
                    directory.forget(&key);
                    return Ok(None);
                }
                Guarded::Stale(_) => known = Some(directory.agree(&key, now).await?),
            }
        }
        Err(Error::Contended)
    }

    /// A live claim and its messages.
    ///
    /// # Errors
    /// [`Error::ClaimNotFound`], also when all its messages are gone; [`Error::Storage`].
    pub async fn read_claim(&self, caller: &Caller, request: ReadClaim) -> Result<Claim, Error> {
        let key = caller.key(request.queue);
        let id = parse_claim(&request.id, &key)?;
        match self.inner.messages.claim_get(&key, id, self.inner.clock.now()).await? {
            Some(mut claim) if !claim.messages.is_empty() => {
                self.open(&key, &mut claim.messages)?;
                Ok(claim)
            }
            Some(_) | None => Err(Error::ClaimNotFound { id: request.id, key }),
        }
    }

    /// Gives a live claim a new life from now.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a ttl out of bounds; [`Error::ClaimNotFound`]; [`Error::Storage`].
    pub async fn renew_claim(&self, caller: &Caller, request: RenewClaim) -> Result<(), Error> {
        let ttl = self.claim_ttl(request.ttl)?;
        let limits = &self.inner.limits;
        // The original does not look at it, and clients send any: it is brought within bounds, not refused.
        let grace = request.grace.map(|grace| u64::try_from(grace).unwrap_or(0));
        let grace = grace.unwrap_or(limits.default_claim_grace).min(limits.max_claim_grace);
        let key = caller.key(request.queue);
        let id = parse_claim(&request.id, &key)?;
        let now = self.inner.clock.now();
        if self.inner.messages.claim_renew(&key, id, ttl, grace, now).await? {
            return Ok(());
        }
        Err(Error::ClaimNotFound { id: request.id, key })
    }

    /// Ends a claim; its messages are free again, in their old places. One that is not there is no error.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub async fn release_claim(&self, caller: &Caller, request: ReadClaim) -> Result<(), Error> {
        let Ok(id) = request.id.parse() else { return Ok(()) };
        let key = caller.key(request.queue);
        Ok(self.inner.messages.claim_release(&key, id, self.inner.clock.now()).await?)
    }

    async fn dead_letters(
        &self,
        source: &QueueKey,
        rule: &DeadLetterRule,
        now: Timestamp,
    ) -> Result<DeadLetters, Error> {
        let target = QueueKey { name: rule.queue.clone(), ..source.clone() };
        let known = self.inner.directory.find_or_create(&target, now).await?;
        Ok(DeadLetters {
            max_claim_count: rule.max_claim_count,
            target,
            generation: known.generation,
            ttl: rule.ttl,
        })
    }

    fn claim_ttl(&self, ttl: Option<i64>) -> Result<u64, Error> {
        let limits = &self.inner.limits;
        let Some(ttl) = ttl else { return Ok(limits.default_claim_ttl) };
        checked_seconds(ttl, MIN_TTL, limits.max_claim_ttl, |max, min| {
            Error::request(format!(
                "The TTL for a claim may not exceed {max} seconds, and must be at least {min} \
                 seconds long."
            ))
        })
    }

    fn claim_grace(&self, grace: Option<i64>) -> Result<u64, Error> {
        let limits = &self.inner.limits;
        let Some(grace) = grace else { return Ok(limits.default_claim_grace) };
        checked_seconds(grace, MIN_TTL, limits.max_claim_grace, |max, min| {
            Error::request(format!(
                "The grace for a claim may not exceed {max} seconds, and must be at least {min} \
                 seconds long."
            ))
        })
    }
}

fn parse_claim(id: &str, key: &QueueKey) -> Result<ClaimId, Error> {
    id.parse().map_err(|_| Error::ClaimNotFound { id: id.to_owned(), key: key.clone() })
}
