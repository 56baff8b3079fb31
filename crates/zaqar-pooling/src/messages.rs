//! Messages: each call goes to the store that has the queue.

use std::sync::Arc;

use async_trait::async_trait;
use zaqar_core::storage::{
    Batch, Deletable, Deleted, Error, Guarded, ListQuery, Message, MessagePage, MessageStore,
    Messages, PopPage, PopQuery, Stats, Volume,
};
use zaqar_core::{ClaimId, Generation, MessageId, QueueKey, Timestamp};

use crate::Pooled;

#[warn(clippy::missing_trait_methods, reason = "a default would bypass the store behind it")]
#[async_trait]
impl Messages for Pooled {
    async fn post(
        &self,
        key: &QueueKey,
        assumed: Generation,
        batch: Batch,
        now: Timestamp,
    ) -> Result<Guarded<Vec<MessageId>>, Error> {
        Ok(self
            .ask(key, |store| {
                let batch = batch.clone();
                async move { store.post(key, assumed, batch, now).await }
            })
            .await?
            .unwrap_or(Guarded::Absent))
    }

    async fn list(
        &self,
        key: &QueueKey,
        query: &ListQuery,
        now: Timestamp,
    ) -> Result<MessagePage, Error> {
        Ok(self
            .ask(key, |store| async move { store.list(key, query, now).await })
            .await?
            .unwrap_or_default())
    }

    async fn get(
        &self,
        key: &QueueKey,
        ids: &[MessageId],
        now: Timestamp,
    ) -> Result<Vec<Message>, Error> {
        Ok(self
            .ask(key, |store| async move { store.get(key, ids, now).await })
            .await?
            .unwrap_or_default())
    }

    async fn delete(
        &self,
        key: &QueueKey,
        id: MessageId,
        claim: Option<ClaimId>,
        now: Timestamp,
    ) -> Result<Deleted, Error> {
        Ok(self
            .ask(key, |store| async move { store.delete(key, id, claim, now).await })
            .await?
            .unwrap_or(Deleted::Gone))
    }

    async fn delete_many(
        &self,
        key: &QueueKey,
        ids: &[MessageId],
        which: &Deletable,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.ask(key, |store| async move { store.delete_many(key, ids, which, now).await }).await?;
        Ok(())
    }

    async fn pop(
        &self,
        key: &QueueKey,
        query: &PopQuery,
        now: Timestamp,
    ) -> Result<PopPage, Error> {
        Ok(self
            .ask(key, |store| async move { store.pop(key, query, now).await })
            .await?
            .unwrap_or_default())
    }

    async fn purge(&self, key: &QueueKey, now: Timestamp) -> Result<(), Error> {
        self.ask(key, |store| async move { store.purge(key, now).await }).await?;
        Ok(())
    }

    async fn stats(&self, key: &QueueKey, now: Timestamp) -> Result<Option<Stats>, Error> {
        Ok(self.ask(key, |store| async move { store.stats(key, now).await }).await?.flatten())
    }

    async fn volume(&self) -> Result<Option<Volume>, Error> {
        let ask = |store: Arc<dyn MessageStore>| async move { store.volume().await };
        let volumes = self.members.ask_briefly(ask).await?;
        let known = volumes.into_iter().filter_map(|(_, volume)| volume);
        Ok(known.reduce(|all, one| Volume {
            claimed: all.claimed + one.claimed,
            free: all.free + one.free,
        }))
    }
}
