//! Heads, messages and claims.

use async_trait::async_trait;
use zaqar_core::storage::{
    Batch, Claim, ClaimRequest, Claimed, Claims, DeadLetters, Deletable, Deleted, Error, Guarded,
    Heads, ListQuery, Message, MessagePage, Messages, NewMessage, PopPage, PopQuery, Stats, Volume,
};
use zaqar_core::{
    ClaimId, Generation, Incarnation, Kind, MessageId, Position, QueueKey, Timestamp,
};

use crate::head::{Head, START, Stored, rounded_secs};
use crate::store::{MemoryStore, State};

#[async_trait]
impl Heads for MemoryStore {
    async fn open(
        &self,
        key: &QueueKey,
        generation: Generation,
        now: Timestamp,
    ) -> Result<Generation, Error> {
        let mut state = self.state()?;
        let new = || Head::new(generation, now);
        Ok(state.heads.entry(key.clone()).or_insert_with(new).generation)
    }

    async fn generation(&self, key: &QueueKey) -> Result<Option<Generation>, Error> {
        Ok(self.state()?.heads.get(key).map(|head| head.generation))
    }

    async fn advance(&self, key: &QueueKey, to: Generation) -> Result<Guarded<()>, Error> {
        let mut state = self.state()?;
        let head = state.guard(key, |own| own.incarnation == to.incarnation);
        Ok(head.map(|head| {
            head.generation.version = head.generation.version.max(to.version);
        }))
    }

    async fn close(&self, key: &QueueKey, incarnation: Incarnation) -> Result<Guarded<()>, Error> {
        let mut state = self.state()?;
        let closed = state.guard(key, |own| own.incarnation == incarnation).map(|_| ());
        if matches!(closed, Guarded::Done(())) {
            state.heads.remove(key);
        }
        Ok(closed)
    }
}

#[async_trait]
impl Messages for MemoryStore {
    async fn post(
        &self,
        key: &QueueKey,
        assumed: Generation,
        batch: Batch,
        now: Timestamp,
    ) -> Result<Guarded<Vec<MessageId>>, Error> {
        let mut state = self.state()?;
        let posted = state.guard(key, |own| own == assumed).map(|head| head.post(batch, now));
        if let Guarded::Done(ids) = &posted
            && let Some(last) = ids.last()
        {
            state.notify(|listener| listener.record(key, *last));
        }
        Ok(posted)
    }

    async fn list(
        &self,
        key: &QueueKey,
        query: &ListQuery,
        now: Timestamp,
    ) -> Result<MessagePage, Error> {
        self.on(key, now, |head, now| {
            let after = query.after.filter(|id| id.incarnation == head.generation.incarnation);
            let is_shown = |stored: &&Stored| {
                (query.include_claimed || head.claim_of(stored, now).is_none())
                    && (query.include_delayed || stored.due <= now)
                    && query.hide.as_ref() != Some(&stored.message.client)
            };
            let behind = head.live(after.map_or(START, |id| id.position), now);
            let shown = behind.filter(is_shown).take(query.limit);
            let messages: Vec<_> = shown.map(|stored| head.show(stored, now)).collect();
            MessagePage { next: messages.last().map(|last| last.id), messages }
        })
    }

    async fn get(
        &self,
        key: &QueueKey,
        ids: &[MessageId],
        now: Timestamp,
    ) -> Result<Vec<Message>, Error> {
        self.on(key, now, |head, now| {
            let named = head.live(START, now).filter(|stored| ids.contains(&stored.message.id));
            named.map(|stored| head.show(stored, now)).collect()
        })
    }

    async fn delete(
        &self,
        key: &QueueKey,
        id: MessageId,
        claim: Option<ClaimId>,
        now: Timestamp,
    ) -> Result<Deleted, Error> {
        let deleted = self.on(key, now, |head, now| {
            let stored = head.live(START, now).find(|stored| stored.message.id == id)?;
            Some(match (head.claim_of(stored, now), claim) {
                (Some(_), None) => Deleted::Claimed,
                (None, Some(_)) => Deleted::NotClaimed,
                (Some(held), Some(named)) if held != named => Deleted::WrongClaim,
                (None, None) | (Some(_), Some(_)) => {
                    head.messages.remove(&id.position);
                    Deleted::Gone
                }
            })
        })?;
        Ok(deleted.unwrap_or(Deleted::Gone))
    }

    async fn delete_many(
        &self,
        key: &QueueKey,
        ids: &[MessageId],
        which: &Deletable,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.on(key, now, |head, now| {
            let may_go = |claim: Option<ClaimId>| match which {
                Deletable::Any => true,
                Deletable::HeldBy(claims) => claim.is_some_and(|id| claims.contains(&id)),
            };
            let named = head.live(START, now).filter(|stored| ids.contains(&stored.message.id));
            let gone = named.filter(|stored| may_go(head.claim_of(stored, now)));
            let gone: Vec<_> = gone.map(|stored| stored.message.id.position).collect();
            head.messages.retain(|position, _| !gone.contains(position));
        })
    }

    async fn pop(
        &self,
        key: &QueueKey,
        query: &PopQuery,
        now: Timestamp,
    ) -> Result<PopPage, Error> {
        self.on(key, now, |head, now| {
            let can_open = |stored: &&Stored| {
                let key = stored.message.payload.sealed_with.as_ref();
                key.is_none_or(|key| query.keys.contains(key))
            };
            let free = head.free(query.after.unwrap_or(START), now).filter(can_open);
            let taken = free.take(query.limit).map(|stored| head.show(stored, now));
            let messages: Vec<_> = taken.collect();
            for message in &messages {
                head.messages.remove(&message.id.position);
            }
            PopPage { messages, next: None }
        })
    }

    async fn purge(&self, key: &QueueKey, now: Timestamp) -> Result<(), Error> {
        self.on(key, now, |head, _| {
            head.messages.clear();
            head.claims.clear();
        })
    }

    async fn stats(&self, key: &QueueKey, now: Timestamp) -> Result<Option<Stats>, Error> {
        self.on(key, now, |head, now| Some(head.stats(now)))
    }

    async fn volume(&self) -> Result<Option<Volume>, Error> {
        let state = self.state()?;
        let heads = state.heads.iter().filter(|(key, _)| key.kind != Kind::Internal);
        Ok(Some(heads.fold(Volume::default(), |sum, (_, head)| {
            let stats = head.stats(head.latest);
            Volume {
                claimed: sum.claimed + stats.claimed,
                free: sum.free + stats.free + stats.delayed,
            }
        })))
    }
}

#[async_trait]
impl Claims for MemoryStore {
    async fn claim(
        &self,
        key: &QueueKey,
        assumed: Generation,
        request: &ClaimRequest,
        now: Timestamp,
    ) -> Result<Guarded<Claimed>, Error> {
        let mut state = self.state()?;
        let chosen = state.guard(key, |own| own == assumed).map(|head| head.choose(request, now));
        Ok(chosen.map(|(dead, taken)| match &request.dead_letters {
            Some(rule) if !dead.is_empty() && !state.move_dead_letters(key, &dead, rule, now) => {
                Claimed::TargetChanged
            }
            Some(_) | None => Claimed::Messages {
                messages: state.hold(key, &taken, request, now),
                dead_letters: dead.len(),
            },
        }))
    }

    async fn claim_each(
        &self,
        key: &QueueKey,
        assumed: Generation,
        ids: &[ClaimId],
        ttl: u64,
        now: Timestamp,
    ) -> Result<Guarded<Vec<Message>>, Error> {
        let mut state = self.state()?;
        let guarded = state.guard(key, |own| own == assumed).map(|_| ());
        Ok(guarded.map(|()| {
            let mut taken = Vec::new();
            for id in ids {
                let request = ClaimRequest { id: *id, ttl, grace: 0, limit: 1, dead_letters: None };
                let head = state.heads.get_mut(key);
                let first = head.map(|head| head.choose(&request, now).1).unwrap_or_default();
                taken.extend(state.hold(key, &first, &request, now));
            }
            taken
        }))
    }

    async fn claim_get(
        &self,
        key: &QueueKey,
        id: ClaimId,
        now: Timestamp,
    ) -> Result<Option<Claim>, Error> {
        self.on(key, now, |head, now| {
            let (ttl, since) = *head.claims.get(&id).filter(|_| head.has_claim(id, now))?;
            Some(Claim { ttl, since, messages: head.held(id, now) })
        })
    }

    async fn claim_renew(
        &self,
        key: &QueueKey,
        id: ClaimId,
        ttl: u64,
        grace: u64,
        now: Timestamp,
    ) -> Result<bool, Error> {
        self.on(key, now, |head, now| {
            let held = head.held(id, now);
            let is_live = head.has_claim(id, now);
            if is_live {
                head.claims.insert(id, (ttl, now));
            }
            for message in held {
                head.extend(message.id.position, now.plus_secs(ttl).plus_secs(grace));
            }
            is_live
        })
    }

    async fn claim_release(
        &self,
        key: &QueueKey,
        id: ClaimId,
        now: Timestamp,
    ) -> Result<usize, Error> {
        // A message whose claim is not there is free.
        self.on(key, now, |head, now| {
            let freed = head.held(id, now).len();
            head.claims.remove(&id);
            freed
        })
    }
}

impl State {
    /// Moves messages to the dead letters; `false` if these are not as the rule assumes.
    fn move_dead_letters(
        &mut self,
        key: &QueueKey,
        dead: &[Position],
        rule: &DeadLetters,
        now: Timestamp,
    ) -> bool {
        let Guarded::Done(_) = self.guard(&rule.target, |own| own == rule.generation) else {
            return false;
        };
        let Some(source) = self.heads.get_mut(key) else { return false };
        let dead: Vec<_> = dead.iter().filter_map(|at| source.messages.remove(at)).collect();
        let Some(target) = self.heads.get_mut(&rule.target) else { return false };
        let now = target.time(now);
        for Stored { message, expires, .. } in dead {
            let expires = rule.ttl.map_or(expires, |ttl| now.plus_secs(ttl));
            let ttl = rule.ttl.unwrap_or_else(|| rounded_secs(now, expires));
            let new = NewMessage { payload: message.payload, ttl, delay: 0 };
            target.push(message.client, new, expires, now);
        }
        true
    }

    /// Makes the claim on the messages that were chosen.
    fn hold(
        &mut self,
        key: &QueueKey,
        taken: &[Position],
        request: &ClaimRequest,
        now: Timestamp,
    ) -> Vec<Message> {
        let Some(head) = self.heads.get_mut(key).filter(|_| !taken.is_empty()) else {
            return Vec::new();
        };
        let now = head.time(now);
        head.claims.insert(request.id, (request.ttl, now));
        let held = taken.iter().filter_map(|position| {
            head.extend(*position, now.plus_secs(request.ttl).plus_secs(request.grace));
            let stored = head.messages.get_mut(position)?;
            stored.message.claim = Some(request.id);
            stored.message.claim_count += 1;
            Some(stored.message.clone())
        });
        held.collect()
    }
}
