//! Heads, messages and claims.

use async_trait::async_trait;
use zaqar_core::storage::{
    Batch, Chosen, Claim, ClaimRequest, ClaimRow, Claimed, Claims, DeadLetters, Deletable, Deleted,
    Guarded, Heads, ListQuery, MessagePage, MessageState, Messages, PopPage, PopQuery, Posted,
    Result, Stats,
};
use zaqar_core::{ClaimId, Generation, Incarnation, MessageId, Position, QueueKey, Timestamp};

use crate::queue::Queue;
use crate::store::{MemoryStore, State};

#[async_trait]
impl Heads for MemoryStore {
    async fn open(&self, key: &QueueKey, new: Generation, now: Timestamp) -> Result<Generation> {
        let mut state = self.state()?;
        let queue = state.queues.entry(key.clone()).or_insert_with(|| Queue::new(new, now));
        Ok(queue.generation)
    }

    async fn generation(&self, key: &QueueKey) -> Result<Option<Generation>> {
        Ok(self.state()?.queues.get(key).map(|queue| queue.generation))
    }

    async fn advance(&self, key: &QueueKey, to: Generation) -> Result<Guarded<()>> {
        let mut state = self.state()?;
        let queue = state.guard(key, |own| own.incarnation == to.incarnation);
        Ok(queue.map(|queue| {
            queue.generation.version = queue.generation.version.max(to.version);
        }))
    }

    async fn close(&self, key: &QueueKey, incarnation: Incarnation) -> Result<Guarded<()>> {
        let mut state = self.state()?;
        let queue = state.guard(key, |own| own.incarnation == incarnation).map(|_| ());
        Ok(queue.map(|()| drop(state.queues.remove(key))))
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
    ) -> Result<Guarded<Vec<MessageId>>> {
        let mut state = self.state()?;
        Ok(state.guard(key, |own| own == assumed).map(|queue| {
            let now = queue.time(now);
            let ids = queue.post(batch, now);
            self.news.announce(ids.last().map(|last| Posted { key: key.clone(), last: *last }));
            ids
        }))
    }

    async fn list(&self, key: &QueueKey, query: &ListQuery, now: Timestamp) -> Result<MessagePage> {
        self.on(key, now, |queue, now| {
            let incarnation = queue.generation.incarnation;
            let after = queue.live(query.start(incarnation), now);
            let listed = after.filter(|(row, state)| query.includes(&row.client, *state));
            let messages =
                listed.take(query.limit).map(|(row, state)| row.show(incarnation, state));
            let messages: Vec<_> = messages.collect();
            MessagePage { next: messages.last().map(|last| last.id), messages }
        })
    }

    async fn delete(
        &self,
        key: &QueueKey,
        id: MessageId,
        claim: Option<ClaimId>,
        now: Timestamp,
    ) -> Result<Deleted> {
        self.on(key, now, |queue, now| {
            let Some((_, state)) = queue.find(id, now) else { return Deleted::Gone };
            let answer = Deleted::answer(state.holder(), claim);
            if answer == Deleted::Gone {
                queue.messages.remove(&id.position);
            }
            answer
        })
    }

    async fn delete_many(
        &self,
        key: &QueueKey,
        ids: &[MessageId],
        which: &Deletable,
        now: Timestamp,
    ) -> Result<()> {
        self.on(key, now, |queue, now| {
            for id in ids {
                if queue.find(*id, now).is_some_and(|(_, state)| which.allows(state.holder())) {
                    queue.messages.remove(&id.position);
                }
            }
        })
    }

    async fn pop(&self, key: &QueueKey, query: &PopQuery, now: Timestamp) -> Result<PopPage> {
        self.on(key, now, |queue, now| {
            let incarnation = queue.generation.incarnation;
            let free = queue.free(query.after.unwrap_or(Position::START), now);
            let (taken, skipped) = query.choose(free);
            let rows = taken.iter().filter_map(|at| queue.messages.remove(at));
            let messages = rows.map(|row| row.show(incarnation, MessageState::Free)).collect();
            PopPage { messages, skipped }
        })
    }

    async fn purge(&self, key: &QueueKey, now: Timestamp) -> Result<()> {
        self.on(key, now, |queue, _| {
            queue.messages.clear();
            queue.claims.clear();
        })
    }

    async fn stats(&self, key: &QueueKey, now: Timestamp) -> Result<Option<Stats>> {
        self.on(key, now, |queue, now| {
            let live = queue.live(Position::START, now);
            let incarnation = queue.generation.incarnation;
            Some(live.map(|(row, state)| (row.endpoint(incarnation), state)).collect())
        })
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
    ) -> Result<Guarded<Claimed>> {
        let mut state = self.state()?;
        let chosen = state.guard(key, |own| own == assumed).map(|queue| {
            let now = queue.time(now);
            let free = queue.free(request.after.unwrap_or(Position::START), now);
            (request.choose(free), ClaimRow::new(request, now))
        });
        Ok(chosen.map(|(Chosen { taken, moved, skipped }, claim)| {
            if let Some(rule) = request.dead_letters.as_ref().filter(|_| !moved.is_empty())
                && state.move_dead_letters(key, &moved, rule, now).is_none()
            {
                return Claimed::TargetChanged;
            }
            let queue = state.queues.get_mut(key);
            let messages = queue.map(|queue| queue.hold(claim, request.grace, &taken));
            let (messages, dead_letters) = (messages.unwrap_or_default(), moved.len());
            Claimed::Messages { messages, dead_letters, skipped }
        }))
    }

    async fn claim_get(
        &self,
        key: &QueueKey,
        id: ClaimId,
        now: Timestamp,
    ) -> Result<Option<Claim>> {
        self.on(key, now, |queue, now| {
            let ClaimRow { ttl, since, .. } = *queue.live_claim(id, now)?;
            let (incarnation, state) = (queue.generation.incarnation, MessageState::Claimed(id));
            let held = queue.held(id, now).into_iter();
            let messages = held.map(|at| queue.messages[&at].show(incarnation, state)).collect();
            Some(Claim { ttl, since, messages })
        })
    }

    async fn claim_renew(
        &self,
        key: &QueueKey,
        id: ClaimId,
        ttl: u64,
        grace: u64,
        now: Timestamp,
    ) -> Result<bool> {
        self.on(key, now, |queue, now| {
            let (held, renewed) = (queue.held(id, now), ClaimRow { id, ttl, since: now });
            if queue.live_claim(id, now).is_none() {
                return false;
            }
            queue.claims.insert(id, renewed);
            for position in held {
                queue.messages.entry(position).and_modify(|row| row.extend(&renewed, grace));
            }
            true
        })
    }

    async fn claim_release(&self, key: &QueueKey, id: ClaimId, now: Timestamp) -> Result<usize> {
        // A message whose claim is not there is free.
        self.on(key, now, |queue, now| {
            let freed = queue.held(id, now).len();
            queue.claims.remove(&id);
            freed
        })
    }
}

impl State {
    /// Moves messages to the dead letters; `None` if these have another generation than assumed.
    fn move_dead_letters(
        &mut self,
        key: &QueueKey,
        moved: &[Position],
        rule: &DeadLetters,
        now: Timestamp,
    ) -> Option<()> {
        self.queues.get(&rule.target).filter(|queue| queue.generation == rule.generation)?;
        let source = self.queues.get_mut(key)?;
        let moved: Vec<_> = moved.iter().filter_map(|at| source.messages.remove(at)).collect();
        let target = self.queues.get_mut(&rule.target)?;
        let now = target.time(now);
        let positions = target.last.next_at(now).get()..;
        let positioned = moved.into_iter().zip(positions);
        target.append(
            positioned
                .map(|(row, position)| row.into_dead_letter(Position::new(position), rule, now)),
        );
        Some(())
    }
}
