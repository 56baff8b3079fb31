//! Heads.

use async_trait::async_trait;
use zaqar_core::storage::{Error, Guarded, Heads, Movable, Moves};
use zaqar_core::{Generation, Incarnation, QueueKey, Timestamp};

use crate::Embedded;
use crate::writer_state::find_head;

#[async_trait]
impl Heads for Embedded {
    async fn open(
        &self,
        key: &QueueKey,
        generation: Generation,
        now: Timestamp,
    ) -> Result<Generation, Error> {
        self.effective_time(now);
        let key = key.clone();
        self.requester(&key.project)
            .write_bytes(0, move |state| match state.head(&key)? {
                Some(head) => Ok(head.generation),
                None => state.open_head(&key, generation).map(|()| generation),
            })
            .await
    }

    async fn generation(&self, key: &QueueKey) -> Result<Option<Generation>, Error> {
        Ok(self.read(|conn| find_head(conn, key))?.map(|head| head.generation))
    }

    async fn advance(&self, key: &QueueKey, generation: Generation) -> Result<Guarded<()>, Error> {
        let key = key.clone();
        self.requester(&key.project)
            .write(move |state| {
                let belongs = |head: Generation| head.incarnation == generation.incarnation;
                state.guarded(&key, belongs, |state, head| {
                    state.change(head.number, |head| {
                        let version = &mut head.generation.version;
                        *version = generation.version.max(*version);
                    });
                    Ok(())
                })
            })
            .await
    }

    async fn close(&self, key: &QueueKey, incarnation: Incarnation) -> Result<Guarded<()>, Error> {
        let key = key.clone();
        self.requester(&key.project)
            .write(move |state| {
                let belongs = |head: Generation| head.incarnation == incarnation;
                state.guarded(&key, belongs, |state, head| state.close_head(&key, &head))
            })
            .await
    }
}

impl Movable for Embedded {
    fn moves(&self) -> Option<&dyn Moves> {
        Some(self)
    }
}
