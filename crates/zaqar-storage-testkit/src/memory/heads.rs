//! Heads.

use async_trait::async_trait;
use zaqar_core::storage::{Error, Guarded, Heads, Movable, Moves};
use zaqar_core::{Generation, Incarnation, QueueKey, Timestamp};

use super::head::{Head, guarded};
use super::{Fault, Memory};

#[async_trait]
impl Heads for Memory {
    async fn open(
        &self,
        key: &QueueKey,
        generation: Generation,
        now: Timestamp,
    ) -> Result<Generation, Error> {
        let mut state = self.state_of(key)?;
        let key = self.stored_key(key);
        let generation = self.stored_generation(generation);
        if self.has(Fault::OpenOverwrites) {
            state.heads.remove(&key);
        }
        if let Some(mut head) = state.forgotten.remove(&key) {
            head.generation = generation;
            state.heads.insert(key, head);
            return Ok(generation);
        }
        let head = state.heads.entry(key).or_insert_with(|| Head::new(generation, now, self.fault));
        Ok(head.generation)
    }

    async fn generation(&self, key: &QueueKey) -> Result<Option<Generation>, Error> {
        if self.has(Fault::GenerationLost) {
            return self.state().map(|_| None);
        }
        let (mut state, stored_key) = (self.state_of(key)?, self.stored_key(key));
        self.open_if_faulty(&mut state, &stored_key, Timestamp::from_millis(0));
        Ok(state.heads.get(&stored_key).map(|head| head.generation))
    }

    async fn advance(&self, key: &QueueKey, generation: Generation) -> Result<Guarded<()>, Error> {
        let mut state = self.state_of(key)?;
        Ok(guarded(
            state.heads.get_mut(&self.stored_key(key)),
            |own| own.incarnation == generation.incarnation,
            |head| {
                let own = head.generation.version;
                let lowers = head.has(Fault::AdvanceLowers);
                head.generation.version =
                    if lowers { generation.version } else { own.max(generation.version) };
            },
        ))
    }

    async fn close(&self, key: &QueueKey, incarnation: Incarnation) -> Result<Guarded<()>, Error> {
        let mut state = self.state_of(key)?;
        let key = self.stored_key(key);
        let head = state.heads.get_mut(&key);
        let first_only = self.has(Fault::CloseChecksVersion);
        let closed = guarded(
            head,
            |own| own.incarnation == incarnation && !(first_only && own.version.get() > 1),
            |_| (),
        );
        if closed == Guarded::Done(())
            && let Some(head) = state.heads.remove(&key)
        {
            state.latest.remove(&key);
            if self.has(Fault::CloseKeepsContents) {
                state.forgotten.insert(key, head);
            }
        }
        Ok(closed)
    }
}

impl Movable for Memory {
    fn moves(&self) -> Option<&dyn Moves> {
        (!self.is_immovable).then_some(self as _)
    }
}
