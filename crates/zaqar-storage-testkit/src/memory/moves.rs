//! Moves to other stores and from them.

use async_trait::async_trait;
use zaqar_core::storage::{
    Contents, ContentsMark, Error, Exported, FrozenHead, MessageRow, MoveEnd, MoveId, Moves,
};
use zaqar_core::{Kind, QueueKey, Timestamp};

use super::head::Head;
use super::{Fault, Memory, State};

#[async_trait]
impl Moves for Memory {
    async fn freeze(
        &self,
        key: &QueueKey,
        id: MoveId,
        now: Timestamp,
    ) -> Result<Option<FrozenHead>, Error> {
        let mut state = self.state()?;
        let Some(head) = state.heads.get_mut(&self.stored_key(key)) else { return Ok(None) };
        match head.frozen {
            Some((own, MoveEnd::Source)) if own == id => {}
            Some((id, end)) => return Err(Error::Moved { id, end }),
            None if self.has(Fault::FreezeIgnored) => {}
            None => head.frozen = Some((id, MoveEnd::Source)),
        }
        let time = head.effective_time(now);
        Ok(Some(FrozenHead { generation: head.generation, last: head.last, time }))
    }

    async fn receive(
        &self,
        key: &QueueKey,
        id: MoveId,
        head: FrozenHead,
        now: Timestamp,
    ) -> Result<(), Error> {
        let mut state = self.state()?;
        let key = self.stored_key(key);
        match state.heads.get(&key).map(|head| head.frozen) {
            None => {}
            Some(Some((own, MoveEnd::Target))) if own == id => return Ok(()),
            Some(Some((id, end))) => return Err(Error::Moved { id, end }),
            Some(None) => return Err(Error::failed("the queue is in this store already")),
        }
        let mut arriving = Head::new(head.generation, head.time.max(now), self.fault);
        (arriving.last, arriving.frozen) = (head.last, Some((id, MoveEnd::Target)));
        state.heads.insert(key, arriving);
        Ok(())
    }

    async fn export(
        &self,
        key: &QueueKey,
        id: MoveId,
        mark: ContentsMark,
        limit: usize,
        now: Timestamp,
    ) -> Result<Option<Exported>, Error> {
        let mut state = self.state()?;
        let Some(head) = self.frozen(&mut state, key, id, MoveEnd::Source) else {
            return Ok(None);
        };
        let now = head.effective_time(now);
        Ok(Some(head.export(mark, limit.max(1), now)))
    }

    async fn import(
        &self,
        key: &QueueKey,
        id: MoveId,
        part: &Contents,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let mut state = self.state()?;
        let Some(head) = self.frozen(&mut state, key, id, MoveEnd::Target) else {
            return Ok(false);
        };
        head.effective_time(now);
        head.import(part);
        Ok(true)
    }

    async fn thaw(&self, key: &QueueKey, id: MoveId) -> Result<(), Error> {
        let mut state = self.state()?;
        for end in [MoveEnd::Source, MoveEnd::Target] {
            if let Some(head) = self.frozen(&mut state, key, id, end)
                && !head.has(Fault::ThawIgnored)
            {
                head.frozen = None;
            }
        }
        Ok(())
    }

    async fn discard(&self, key: &QueueKey, id: MoveId) -> Result<(), Error> {
        let mut state = self.state()?;
        let ends = [MoveEnd::Source, MoveEnd::Target];
        if ends.into_iter().any(|end| self.frozen(&mut state, key, id, end).is_some()) {
            let key = self.stored_key(key);
            state.heads.remove(&key);
            state.latest.remove(&key);
        }
        Ok(())
    }

    async fn heads(
        &self,
        cursor: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<QueueKey>, Option<u64>), Error> {
        let state = self.state()?;
        let skipped = usize::try_from(cursor.unwrap_or(0)).unwrap_or(usize::MAX);
        let skipped = skipped + usize::from(self.has(Fault::HeadUnlisted));
        let keys = state.heads.keys().filter(|key| key.kind != Kind::Internal).skip(skipped);
        let keys: Vec<_> = keys.take(limit).cloned().collect();
        let next = (keys.len() == limit).then_some((skipped + limit) as u64);
        Ok((keys, next))
    }
}

impl Memory {
    /// The head that a move froze at one end.
    fn frozen<'s>(
        &self,
        state: &'s mut State,
        key: &QueueKey,
        id: MoveId,
        end: MoveEnd,
    ) -> Option<&'s mut Head> {
        let is_any = self.has(Fault::AnyMove);
        let is_own = |frozen: Option<(MoveId, MoveEnd)>| {
            frozen.is_some_and(|(own, own_end)| (own == id || is_any) && own_end == end)
        };
        state.heads.get_mut(&self.stored_key(key)).filter(|head| is_own(head.frozen))
    }
}

impl Head {
    fn export(&self, mark: ContentsMark, limit: usize, now: Timestamp) -> Exported {
        let mut contents = Contents::default();
        let next = match mark {
            ContentsMark::Claims(after) => {
                let live = self.claims.values().filter(|claim| self.is_live(claim.id, now));
                let behind = live.filter(|claim| Some(claim.id) > after);
                contents.claims = behind.take(limit).copied().collect();
                if self.has(Fault::MoveLosesClaims) {
                    contents.claims.clear();
                }
                contents.claims.last().map(|last| ContentsMark::Claims(Some(last.id)))
            }
            ContentsMark::Messages(after) => {
                let live = self.live(now).filter(|(message, _)| message.position > after);
                let rows = live.map(|(message, state)| MessageRow {
                    claim: state.holder(),
                    ..message.clone()
                });
                contents.messages = rows.take(limit).collect();
                contents.messages.last().map(|last| ContentsMark::Messages(last.position))
            }
            ContentsMark::Subscriptions(after) => {
                let behind = self.subscribed(now).filter(|one| Some(one.id) > after);
                contents.subscriptions = behind.take(limit).cloned().collect();
                let last = contents.subscriptions.last();
                last.map(|last| ContentsMark::Subscriptions(Some(last.id)))
            }
            ContentsMark::Entries(after) => {
                let behind = self.outbox.range(after.next()..).map(|(_, entry)| entry);
                let entries = behind.filter(|entry| !entry.is_ended(now)).take(limit);
                contents.entries = entries.cloned().collect();
                let last = contents.entries.last();
                last.map(|last| ContentsMark::Entries(last.entry.first))
            }
        };
        Exported { contents, next: next.or(mark.next_kind()) }
    }

    fn import(&mut self, part: &Contents) {
        let counts_repeats = self.has(Fault::ImportRepeated);
        self.claims.extend(part.claims.iter().map(|claim| (claim.id, *claim)));
        for mut message in part.messages.iter().cloned() {
            let is_repeat = counts_repeats && self.messages.contains_key(&message.position);
            message.claim_count += u32::from(is_repeat);
            self.messages.insert(message.position, message);
        }
        for subscription in &part.subscriptions {
            self.subscriptions.insert(subscription.id, subscription.clone());
        }
        for row in part.entries.iter().cloned() {
            self.outbox.insert(row.entry.first, row);
        }
    }
}
