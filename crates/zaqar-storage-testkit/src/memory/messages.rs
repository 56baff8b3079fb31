//! Messages.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use zaqar_core::storage::{
    Batch, Deletable, Deleted, Error, Guarded, ListQuery, Message, MessagePage, MessageRow,
    MessageState, Messages, PopPage, PopQuery, Skipping, Stats, Volume,
};
use zaqar_core::{ClaimId, Generation, Kind, MessageId, Position, QueueKey, Timestamp};

use super::head::{Head, guarded};
use super::{Fault, Memory};

#[async_trait]
impl Messages for Memory {
    async fn post(
        &self,
        key: &QueueKey,
        assumed: Generation,
        mut batch: Batch,
        now: Timestamp,
    ) -> Result<Guarded<Vec<MessageId>>, Error> {
        if self.has(Fault::RacingPosts) {
            return self.store_in_two_halves(key, assumed, batch, now).await;
        }
        if !self.has(Fault::HalfBatch) || batch.messages.len() < 2 {
            return self.store(key, assumed, batch, now);
        }
        let rest = batch.messages.split_off(batch.messages.len() / 2);
        let rest = Batch { messages: rest, ..batch.clone() };
        let Guarded::Done(mut ids) = self.store(key, assumed, batch, now)? else {
            return self.store(key, assumed, rest, now);
        };
        self.yield_between_halves().await;
        if let Guarded::Done(more) = self.store(key, assumed, rest, now)? {
            ids.extend(more);
        }
        Ok(Guarded::Done(ids))
    }

    async fn list(
        &self,
        key: &QueueKey,
        query: &ListQuery,
        now: Timestamp,
    ) -> Result<MessagePage, Error> {
        let mut state = self.state_of(key)?;
        let Some(head) = state.heads.get_mut(&self.stored_key(key)) else {
            let next = query.after.filter(|_| self.has(Fault::EndlessListing));
            return self.nothing(MessagePage { next, ..MessagePage::default() });
        };
        let now = head.effective_time(now);
        let after = head.position_of(query.after);
        let is_shown = |(message, state): &(&MessageRow, MessageState)| {
            query.includes(&message.client, *state)
                && !(state.holder().is_some() && head.has(Fault::ListHidesClaimed))
        };
        let behind = head.live(now).filter(|(message, _)| message.position > after);
        let messages: Vec<_> = if head.has(Fault::PageCutBeforeFilter) {
            behind.take(query.limit).filter(is_shown).map(|row| head.show(row)).collect()
        } else {
            behind.filter(is_shown).take(query.limit).map(|row| head.show(row)).collect()
        };
        let next = match messages.last() {
            None if head.last == Position::START && head.has(Fault::EndlessListing) => {
                Some(head.id(after))
            }
            Some(last)
                if last.id.position == head.last
                    && messages.len() == query.limit
                    && head.has(Fault::LastPageHasNoMarker) =>
            {
                None
            }
            last => last.map(|message| message.id),
        };
        Ok(MessagePage { messages, next })
    }

    async fn get(
        &self,
        key: &QueueKey,
        ids: &[MessageId],
        now: Timestamp,
    ) -> Result<Vec<Message>, Error> {
        let mut state = self.state_of(key)?;
        let Some(head) = state.heads.get_mut(&self.stored_key(key)) else {
            return self.nothing(Vec::new());
        };
        let now = head.effective_time(now);
        let ids: BTreeSet<_> = ids.iter().copied().collect();
        let found =
            ids.into_iter().filter_map(|id| head.find(id, now).map(|found| head.show(found)));
        let found: Vec<_> = found.collect();
        if head.has(Fault::GetRemoves) {
            head.remove_all(&found);
        }
        Ok(found)
    }

    async fn delete(
        &self,
        key: &QueueKey,
        id: MessageId,
        claim: Option<ClaimId>,
        now: Timestamp,
    ) -> Result<Deleted, Error> {
        let key = self.stored_key(key);
        {
            let mut state = self.state_of(&key)?;
            let Some(head) = state.heads.get_mut(&key) else {
                return self.nothing(Deleted::Gone);
            };
            let now = head.effective_time(now);
            let Some((_, state)) = head.find(id, now) else { return self.nothing(Deleted::Gone) };
            let answer = Deleted::answer(state.holder(), claim);
            let is_any = answer == Deleted::WrongClaim && head.has(Fault::AnyClaimDeletes);
            if answer != Deleted::Gone && !is_any {
                return Ok(answer);
            }
            if !self.has(Fault::RacingDeletes) {
                if !self.has(Fault::DeleteIgnored) {
                    head.messages.remove(&id.position);
                }
                return Ok(Deleted::Gone);
            }
        }
        self.yield_between_halves().await;
        if let Some(head) = self.state_of(&key)?.heads.get_mut(&key) {
            head.messages.remove(&id.position);
        }
        Ok(Deleted::Gone)
    }

    async fn delete_many(
        &self,
        key: &QueueKey,
        ids: &[MessageId],
        which: &Deletable,
        now: Timestamp,
    ) -> Result<(), Error> {
        let mut state = self.state_of(key)?;
        let Some(head) = state.heads.get_mut(&self.stored_key(key)) else {
            return self.nothing(());
        };
        let now = head.effective_time(now);
        for id in ids {
            let Some((_, state)) = head.find(*id, now) else { continue };
            let goes = which.allows(state.holder());
            let was_held = matches!(which, Deletable::HeldBy(claims) if !claims.is_empty());
            if goes || (was_held && head.has(Fault::LostClaimDeletes)) {
                head.messages.remove(&id.position);
            }
        }
        Ok(())
    }

    async fn pop(
        &self,
        key: &QueueKey,
        query: &PopQuery,
        now: Timestamp,
    ) -> Result<PopPage, Error> {
        let key = self.stored_key(key);
        let page = {
            let mut state = self.state_of(&key)?;
            let Some(head) = state.heads.get_mut(&key) else {
                return self.nothing(PopPage::default());
            };
            let page = head.first_readable(query, now);
            if !self.has(Fault::RacingPops) {
                head.remove_all(&page.messages);
            }
            page
        };
        if self.has(Fault::RacingPops) {
            self.yield_between_halves().await;
            if let Some(head) = self.state_of(&key)?.heads.get_mut(&key) {
                head.remove_all(&page.messages);
            }
        }
        Ok(page)
    }

    async fn purge(&self, key: &QueueKey, now: Timestamp) -> Result<(), Error> {
        let mut state = self.state_of(key)?;
        let Some(head) = state.heads.get_mut(&self.stored_key(key)) else {
            return self.nothing(());
        };
        let now = head.effective_time(now);
        let claimed: BTreeSet<_> = head
            .live(now)
            .filter(|(_, state)| state.holder().is_some())
            .map(|(message, _)| message.position)
            .collect();
        let keeps = head.has(Fault::PurgeLeavesClaimed);
        head.messages.retain(|position, _| keeps && claimed.contains(position));
        if !keeps && !head.has(Fault::PurgeLeavesClaims) {
            head.claims.clear();
        }
        if head.has(Fault::PurgeClearsOutbox) {
            head.outbox.clear();
        }
        Ok(())
    }

    async fn stats(&self, key: &QueueKey, now: Timestamp) -> Result<Option<Stats>, Error> {
        let mut state = self.state_of(key)?;
        let stored_key = self.stored_key(key);
        self.open_if_faulty(&mut state, &stored_key, now);
        let Some(head) = state.heads.get_mut(&stored_key) else { return self.nothing(None) };
        let now = if head.has(Fault::StatsStale) { now } else { head.effective_time(now) };
        Ok(Some(head.stats(now)))
    }

    async fn volume(&self) -> Result<Option<Volume>, Error> {
        self.answer().await;
        let mut volume = Volume::default();
        let state = self.state()?;
        for (_, head) in state.heads.iter().filter(|(key, _)| key.kind != Kind::Internal) {
            let Stats { free, claimed, delayed, .. } = head.stats(head.latest());
            volume.claimed += claimed;
            volume.free += free + delayed;
        }
        Ok(Some(volume))
    }
}

impl Memory {
    fn store(
        &self,
        key: &QueueKey,
        assumed: Generation,
        batch: Batch,
        now: Timestamp,
    ) -> Result<Guarded<Vec<MessageId>>, Error> {
        let mut state = self.state_of(key)?;
        let stored_key = self.stored_key(key);
        self.open_if_faulty(&mut state, &stored_key, now);
        let stale_too = self.has(Fault::StalePost);
        let stored = guarded(
            state.heads.get_mut(&stored_key),
            |own| own == assumed || (stale_too && own.incarnation == assumed.incarnation),
            |head| head.append(batch, now),
        );
        if let Guarded::Done(ids) = &stored
            && let Some(last) = ids.last()
        {
            self.report(&mut state, stored_key, *last);
        }
        Ok(stored)
    }
}

impl Memory {
    /// Assigns the positions of a batch, and stores the messages some time later.
    async fn store_in_two_halves(
        &self,
        key: &QueueKey,
        assumed: Generation,
        batch: Batch,
        now: Timestamp,
    ) -> Result<Guarded<Vec<MessageId>>, Error> {
        let stored_key = self.stored_key(key);
        let answer = self.store(key, assumed, batch, now)?;
        let Guarded::Done(ids) = &answer else { return Ok(answer) };
        let mut taken_out = BTreeMap::new();
        if let Some(head) = self.state_of(key)?.heads.get_mut(&stored_key) {
            taken_out.extend(ids.iter().filter_map(|id| head.messages.remove_entry(&id.position)));
        }
        // Only some of the posts, so that others overtake them.
        if ids[0].position.get() % 2 == 0 {
            self.yield_between_halves().await;
        }
        if let Some(head) = self.state_of(key)?.heads.get_mut(&stored_key) {
            head.messages.extend(taken_out);
        }
        Ok(answer)
    }
}

impl Head {
    fn append(&mut self, mut batch: Batch, now: Timestamp) -> Vec<MessageId> {
        let now = self.effective_time(now);
        if self.has(Fault::LostOrder) {
            batch.messages.reverse();
        }
        let is_entry_written = batch.notify || self.has(Fault::OutboxAlwaysWritten);
        let first = self.next_position(now);
        let mut ids = Vec::with_capacity(batch.messages.len());
        for message in MessageRow::of_post(batch, first, now) {
            self.last = message.position;
            ids.push(message.id(self.generation.incarnation));
            self.messages.insert(message.position, message);
        }
        if is_entry_written {
            self.write_entry(first, now);
        }
        ids
    }

    /// The position after which a listing begins.
    fn position_of(&self, marker: Option<MessageId>) -> Position {
        let head = Position::START;
        let is_own = |id: &MessageId| {
            id.incarnation == self.generation.incarnation || self.has(Fault::AnyGeneration)
        };
        let Some(marker) = marker.filter(is_own) else { return head };
        let is_gone = !self.messages.contains_key(&marker.position);
        if is_gone && self.has(Fault::MarkerRestarts) {
            return head;
        }
        if is_gone && self.has(Fault::MarkerSkips) {
            return marker.position.next();
        }
        marker.position
    }

    /// The first free messages whose payloads the caller can open.
    fn first_readable(&mut self, query: &PopQuery, now: Timestamp) -> PopPage {
        let now = self.effective_time(now);
        let (mut messages, mut skipping) = (Vec::new(), Skipping::default());
        for (message, state) in self.live(now) {
            let is_behind = query.after.is_none_or(|after| message.position > after);
            if state != MessageState::Free || !is_behind {
                continue;
            }
            if query.can_open(&message.payload) || self.has(Fault::PopRemovesUnreadable) {
                messages.push(self.show((message, state)));
                if messages.len() == query.limit {
                    break;
                }
            } else if skipping.skip(message.payload.sealed_with.as_ref(), message.position) {
                break;
            }
        }
        PopPage { messages, skipped: skipping.skipped }
    }

    fn remove_all(&mut self, messages: &[Message]) {
        for message in messages {
            self.messages.remove(&message.id.position);
        }
    }

    fn stats(&self, now: Timestamp) -> Stats {
        let incarnation = self.generation.incarnation;
        if self.has(Fault::StatsStale) {
            let all = self.messages.values();
            return all
                .map(|message| (message.endpoint(incarnation), MessageState::Free))
                .collect();
        }
        self.live(now).map(|(message, state)| (message.endpoint(incarnation), state)).collect()
    }
}
