//! Operations on claims.

use tracing::{info, warn};
use zaqar_core::limits::MIN_TTL;
use zaqar_core::metadata::DeadLetterRule;
use zaqar_core::storage::{Claim, ClaimRequest, Claimed, DeadLetters, Guarded, Message};
use zaqar_core::{
    ClaimId, Generation, Incarnation, Position, QueueKey, StateLog, Timestamp, Version,
};

use crate::directory::ATTEMPTS;
use crate::messages::MAX_SLICES;
use crate::seal;
use crate::{Api, Context, CreateClaim, Error, ReadClaim, RenewClaim, checked_seconds, page_limit};

/// A generation that no queue ever has.
const NEVER: Generation = Generation { incarnation: Incarnation::new(0), version: Version::new(0) };

/// The dead-letter queue of a claim.
#[derive(Debug, Clone, Copy)]
enum Target {
    /// As it is cached.
    Assumed,
    /// With this generation.
    Found(Generation),
    /// It cannot be created: messages stay where they are.
    Missing,
}

/// Claims that left dead letters where they are.
static OVER_QUOTA: StateLog = StateLog::new();

impl Api {
    /// Claims the first free messages for the caller; `None` when there are none. Cost: one store
    /// step.
    ///
    /// Messages whose key is not configured are skipped, and do not become dead letters. Those that
    /// cannot be decrypted although it is, as they were tampered with, are claimed and counted, but
    /// not returned. A claim that got only such messages is repeated, at most [`MAX_SLICES`] times.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a ttl, grace or limit out of bounds; [`Error::Storage`].
    pub(crate) async fn create_claim(
        &self,
        context: &Context,
        request: CreateClaim,
    ) -> Result<Option<(ClaimId, Vec<Message>)>, Error> {
        let limits = &self.inner.limits;
        let ttl = self.claim_ttl(request.ttl)?;
        let limit = page_limit(request.limit, limits.max_messages_per_claim_or_pop)?;
        let grace = self.claim_grace(request.grace)?;
        let key = context.key(request.queue);
        let mut after = None;
        for _ in 0..MAX_SLICES {
            let id = ClaimId::new(rand::random());
            let keys = Some(self.key_ids());
            let claim = ClaimRequest { grace, after, keys, ..ClaimRequest::new(id, ttl, limit) };
            let (mut messages, next) = self.claim(&key, claim).await?;
            if messages.is_empty() && next.is_none() {
                return Ok(None);
            }
            self.open(&key, &mut messages);
            if !messages.is_empty() {
                return Ok(Some((id, messages)));
            }
            after = next;
        }
        Ok(None)
    }

    /// Creates a claim, with the dead-letter rule of the queue, and returns the messages as they
    /// are stored, and where the next slice begins.
    async fn claim(
        &self,
        key: &QueueKey,
        mut claim: ClaimRequest,
    ) -> Result<(Vec<Message>, Option<Position>), Error> {
        let now = self.inner.clock.now();
        let directory = &self.inner.directory;
        let (mut known, mut target) = (directory.find(key).await?, Target::Assumed);
        for _ in 0..ATTEMPTS {
            let Some(queue) = known else { return Ok((Vec::new(), None)) };
            let rule = queue.rules.dead_letters.as_ref();
            claim.dead_letters = rule.and_then(|rule| self.dead_letters(key, rule, target));
            match self.inner.messages.claim(key, queue.generation, &claim, now).await? {
                Guarded::Done(Claimed::Messages { messages, skipped, .. }) => {
                    seal::report_skipped(skipped.key.as_ref());
                    return Ok((messages, skipped.next));
                }
                Guarded::Done(Claimed::TargetChanged) => {
                    if let Some(dead_letters) = &claim.dead_letters {
                        target = self.make_dead_letter_queue(&dead_letters.target, now).await?;
                    }
                    known = Some(queue);
                }
                Guarded::Absent => {
                    directory.forget(key);
                    return Ok((Vec::new(), None));
                }
                Guarded::Stale(_) => known = Some(directory.reconcile(key, now).await?),
            }
        }
        Err(Error::Contended)
    }

    /// A live claim and its messages.
    ///
    /// # Errors
    /// [`Error::ClaimNotFound`], also when none of its readable messages is left;
    /// [`Error::Storage`].
    pub(crate) async fn read_claim(
        &self,
        context: &Context,
        request: ReadClaim,
    ) -> Result<Claim, Error> {
        let key = context.key(request.queue);
        let id = parse_claim(&request.id, &key)?;
        let now = self.inner.clock.now();
        if let Some(mut claim) = self.inner.messages.claim_get(&key, id, now).await? {
            self.open(&key, &mut claim.messages);
            if !claim.messages.is_empty() {
                return Ok(claim);
            }
        }
        Err(Error::ClaimNotFound { id: request.id, key })
    }

    /// Renews a live claim from now on.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a ttl out of bounds; [`Error::ClaimNotFound`]; [`Error::Storage`].
    pub(crate) async fn renew_claim(
        &self,
        context: &Context,
        request: RenewClaim,
    ) -> Result<(), Error> {
        let ttl = self.claim_ttl(request.ttl)?;
        let limits = &self.inner.limits;
        // The original ignores it, and clients send any value: it is clamped, not rejected.
        let grace = request.grace.map(|grace| u64::try_from(grace).unwrap_or(0));
        let grace = grace.unwrap_or(limits.default_claim_grace).min(limits.max_claim_grace);
        let key = context.key(request.queue);
        let id = parse_claim(&request.id, &key)?;
        let now = self.inner.clock.now();
        if self.inner.messages.claim_renew(&key, id, ttl, grace, now).await? {
            return Ok(());
        }
        Err(Error::ClaimNotFound { id: request.id, key })
    }

    /// Releases a claim; its messages are free again, in their old positions. A missing claim is
    /// not an error.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub(crate) async fn release_claim(
        &self,
        context: &Context,
        request: ReadClaim,
    ) -> Result<(), Error> {
        let Ok(id) = request.id.parse() else { return Ok(()) };
        let key = context.key(request.queue);
        self.inner.messages.claim_release(&key, id, self.inner.clock.now()).await?;
        Ok(())
    }

    /// The rule for a claim. Where the generation of the dead-letter queue, which may not exist, is
    /// not known, it has one that no head ever has: the store says whether a message must be moved.
    fn dead_letters(
        &self,
        source: &QueueKey,
        rule: &DeadLetterRule,
        target: Target,
    ) -> Option<DeadLetters> {
        let queue = QueueKey { name: rule.queue.clone(), ..source.clone() };
        let generation = match target {
            Target::Assumed => self.inner.directory.cached_generation(&queue).unwrap_or(NEVER),
            Target::Found(generation) => generation,
            Target::Missing => return None,
        };
        let DeadLetterRule { max_claim_count, ttl, .. } = *rule;
        Some(DeadLetters { max_claim_count, target: queue, generation, ttl })
    }

    /// Creates the dead-letter queue that a message must be moved to, or makes its row and head
    /// match. If the project may have no more queues, the message stays where it is, and is claimed
    /// like others.
    async fn make_dead_letter_queue(
        &self,
        target: &QueueKey,
        now: Timestamp,
    ) -> Result<Target, Error> {
        let admission = match &self.inner.stack.layers().quota {
            Some(quota) => match quota.admit_new_queue(target).await {
                Err(Error::OverQuota { reason }) => {
                    if let Some(claims) = OVER_QUOTA.failure() {
                        let (project, queue) = (&target.project, &target.name);
                        warn!(
                            %project, %queue, reason, claims,
                            "dead letters stay in their queues, as theirs cannot be created"
                        );
                    }
                    return Ok(Target::Missing);
                }
                admitted => admitted?,
            },
            None => None,
        };
        let found = self.inner.directory.reconcile(target, now).await?;
        if let Some(admission) = admission {
            admission.settle();
        }
        if let Some(claims) = OVER_QUOTA.success() {
            info!(claims, "dead-letter queues can be created again");
        }
        Ok(Target::Found(found.generation))
    }

    fn claim_ttl(&self, ttl: Option<i64>) -> Result<u64, Error> {
        let limits = &self.inner.limits;
        claim_seconds("TTL", ttl, limits.default_claim_ttl, limits.max_claim_ttl)
    }

    fn claim_grace(&self, grace: Option<i64>) -> Result<u64, Error> {
        let limits = &self.inner.limits;
        claim_seconds("grace", grace, limits.default_claim_grace, limits.max_claim_grace)
    }
}

fn claim_seconds(what: &str, given: Option<i64>, default: u64, max: u64) -> Result<u64, Error> {
    let Some(given) = given else { return Ok(default) };
    checked_seconds(given, MIN_TTL, max, |max, min| {
        Error::request(format!(
            "The {what} for a claim may not exceed {max} seconds, and must be at least {min} \
             seconds long."
        ))
    })
}

fn parse_claim(id: &str, key: &QueueKey) -> Result<ClaimId, Error> {
    id.parse().map_err(|_| Error::ClaimNotFound { id: id.to_owned(), key: key.clone() })
}

#[cfg(test)]
mod tests;
