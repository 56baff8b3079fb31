//! Claims and dead letters.

use async_trait::async_trait;
use zaqar_core::storage::{
    Chosen, Claim, ClaimRequest, ClaimRow, Claimed, Claims, DeadLetters, Error, Guarded, Message,
    MessageRow, MessageState,
};
use zaqar_core::{ClaimId, Generation, Position, QueueKey, Timestamp};

use super::head::Head;
use super::{Fault, Memory, State};

#[async_trait]
impl Claims for Memory {
    async fn claim(
        &self,
        key: &QueueKey,
        assumed: Generation,
        request: &ClaimRequest,
        now: Timestamp,
    ) -> Result<Guarded<Claimed>, Error> {
        let key = self.stored_key(key);
        let chosen = {
            let mut state = self.state_of(&key)?;
            self.open_if_faulty(&mut state, &key, now);
            let head = match state.heads.get_mut(&key) {
                None => return Ok(Guarded::Absent),
                Some(head)
                    if head.generation != assumed
                        && !head.has(Fault::AnyGeneration)
                        && !(head.has(Fault::StaleClaim)
                            && head.generation.incarnation == assumed.incarnation) =>
                {
                    return Ok(Guarded::Stale(head.generation));
                }
                Some(head) => head,
            };
            let chosen = head.choose(request, now);
            if let Some(rule) = request.dead_letters.as_ref().filter(|_| !chosen.moved.is_empty()) {
                let target = state.heads.get(&self.stored_key(&rule.target));
                if let Some((id, end)) = target.and_then(|target| target.frozen) {
                    return Err(Error::Moved { id, end });
                }
            }
            if !self.has(Fault::RacingClaims) {
                return Ok(Guarded::Done(self.apply(&mut state, &key, request, chosen, now)));
            }
            chosen
        };
        self.yield_between_halves().await;
        let mut state = self.state_of(&key)?;
        Ok(Guarded::Done(self.apply(&mut state, &key, request, chosen, now)))
    }

    async fn claim_each(
        &self,
        key: &QueueKey,
        assumed: Generation,
        ids: &[ClaimId],
        ttl: u64,
        now: Timestamp,
    ) -> Result<Guarded<Vec<Message>>, Error> {
        let mut state = self.state_of(key)?;
        let Some(head) = state.heads.get_mut(&self.stored_key(key)) else {
            return Ok(Guarded::Absent);
        };
        let is_accepted = head.has(Fault::AnyGeneration)
            || head.has(Fault::StaleClaim) && head.generation.incarnation == assumed.incarnation;
        if head.generation != assumed && !is_accepted {
            return Ok(Guarded::Stale(head.generation));
        }
        let mut taken = Vec::with_capacity(ids.len());
        for id in ids {
            let id = if head.has(Fault::ClaimShared) { ids[0] } else { *id };
            let request = ClaimRequest::new(id, ttl, 1);
            let chosen = head.choose(&request, now);
            let messages = head.hold(&request, &chosen.taken, now);
            if messages.is_empty() {
                break;
            }
            taken.extend(messages);
        }
        Ok(Guarded::Done(taken))
    }

    async fn claim_get(
        &self,
        key: &QueueKey,
        id: ClaimId,
        now: Timestamp,
    ) -> Result<Option<Claim>, Error> {
        let mut state = self.state_of(key)?;
        let Some(head) = state.heads.get_mut(&self.stored_key(key)) else {
            return self.nothing(None);
        };
        let now = head.effective_time(now);
        if !head.is_live(id, now) {
            return Ok(None);
        }
        let held = head.live(now).filter(|(_, state)| state.holder() == Some(id));
        let messages = held.map(|row| head.show(row)).collect();
        Ok(head.claims.get(&id).map(|held| Claim { ttl: held.ttl, since: held.since, messages }))
    }

    async fn claim_renew(
        &self,
        key: &QueueKey,
        id: ClaimId,
        ttl: u64,
        grace: u64,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let mut state = self.state_of(key)?;
        let Some(head) = state.heads.get_mut(&self.stored_key(key)) else {
            return self.nothing(false);
        };
        let now = head.effective_time(now);
        let is_lost = head.claims.contains_key(&id) && head.has(Fault::LostClaimRenews);
        if !head.is_live(id, now) && !is_lost {
            return Ok(false);
        }
        let renewed = ClaimRow { id, ttl, since: now };
        for position in head.held_by(id, now) {
            head.extend(position, &renewed, grace);
        }
        if !head.has(Fault::RenewIgnored) {
            head.claims.insert(id, renewed);
        }
        Ok(true)
    }

    async fn claim_release(
        &self,
        key: &QueueKey,
        id: ClaimId,
        now: Timestamp,
    ) -> Result<usize, Error> {
        let mut state = self.state_of(key)?;
        let Some(head) = state.heads.get_mut(&self.stored_key(key)) else {
            return self.nothing(0);
        };
        let now = head.effective_time(now);
        let held = head.held_by(id, now);
        let freed = held.len();
        head.claims.remove(&id);
        if head.has(Fault::ReleasedToEnd) {
            for position in held {
                if let Some(mut message) = head.messages.remove(&position) {
                    message.position = head.next_position(now);
                    head.messages.insert(message.position, message);
                }
            }
        }
        Ok(freed)
    }
}

impl Memory {
    fn apply(
        &self,
        state: &mut State,
        key: &QueueKey,
        request: &ClaimRequest,
        chosen: Chosen,
        now: Timestamp,
    ) -> Claimed {
        if let Some(rule) = &request.dead_letters
            && !chosen.moved.is_empty()
            && !self.move_dead_letters(state, key, rule, &chosen.moved, now)
        {
            return Claimed::TargetChanged;
        }
        let messages = match state.heads.get_mut(key) {
            Some(head) => head.hold(request, &chosen.taken, now),
            None => Vec::new(),
        };
        let dead_letters = chosen.moved.len();
        Claimed::Messages { messages, dead_letters, skipped: chosen.skipped }
    }

    /// Appends messages to the dead-letter queue; `false` if it has another generation than
    /// assumed.
    fn move_dead_letters(
        &self,
        state: &mut State,
        key: &QueueKey,
        rule: &DeadLetters,
        moved: &[Position],
        now: Timestamp,
    ) -> bool {
        let target = self.stored_key(&rule.target);
        if state.heads.get(&target).map(|head| head.generation) != Some(rule.generation) {
            return false;
        }
        let Some(source) = state.heads.get_mut(key) else { return false };
        source.effective_time(now);
        let dead_letters: Vec<_> =
            moved.iter().filter_map(|position| source.messages.remove(position)).collect();
        let Some(target) = state.heads.get_mut(&target) else { return false };
        let created = target.effective_time(now);
        for dead_letter in dead_letters {
            if self.has(Fault::DeadLetterLost) {
                continue;
            }
            let count = dead_letter.claim_count;
            let mut moved =
                dead_letter.into_dead_letter(target.next_position(created), rule, created);
            if self.has(Fault::DeadLetterCounted) {
                moved.claim_count = count;
            }
            target.messages.insert(moved.position, moved);
        }
        true
    }
}

impl Head {
    fn choose(&mut self, request: &ClaimRequest, now: Timestamp) -> Chosen {
        let now = self.effective_time(now);
        let is_free = |state: MessageState| match state {
            MessageState::Free => true,
            MessageState::Claimed(_) => self.has(Fault::DoubleClaim),
            MessageState::Delayed => self.has(Fault::DelayIgnored),
        };
        let is_behind = |message: &MessageRow| Some(message.position) > request.after;
        let free = self.live(now).filter(|(row, state)| is_free(*state) && is_behind(row));
        let free = free.map(|(message, _)| message);
        if self.has(Fault::ClaimTakesUnreadable) {
            return ClaimRequest { keys: None, ..request.clone() }.choose(free);
        }
        request.choose(free)
    }

    fn hold(
        &mut self,
        request: &ClaimRequest,
        chosen: &[Position],
        now: Timestamp,
    ) -> Vec<Message> {
        let now = self.effective_time(now);
        if chosen.is_empty() {
            return Vec::new();
        }
        let claim = ClaimRow::new(request, now);
        self.claims.insert(request.id, claim);
        let mut taken = Vec::with_capacity(chosen.len());
        for position in chosen {
            self.extend(*position, &claim, request.grace);
            let counts = u32::from(!self.has(Fault::ClaimNotCounted));
            let Some(message) = self.messages.get_mut(position) else { continue };
            message.claim = Some(request.id);
            message.claim_count += counts;
            let message = message.clone();
            taken.push(self.show((&message, MessageState::Claimed(request.id))));
        }
        taken
    }

    fn held_by(&self, id: ClaimId, now: Timestamp) -> Vec<Position> {
        let held = self.live(now).filter(|(_, state)| state.holder() == Some(id));
        held.map(|(message, _)| message.position).collect()
    }

    fn extend(&mut self, position: Position, claim: &ClaimRow, grace: u64) {
        let is_kept = self.has(Fault::TtlNotExtended);
        if let Some(message) = self.messages.get_mut(&position).filter(|_| !is_kept) {
            message.extend(claim, grace);
        }
    }
}
