//! Events about subscribers whose queues could not be posted to: one internal queue for all.

use zaqar_core::storage::{Deletable, Error, NewMessage};
use zaqar_core::{ClaimId, MessageId, Timestamp};

use super::{Deliveries, ROW_LEASE};
use crate::row::{self, WaitingEvent};

/// Seconds that an event waits for its queue.
const EVENT_TTL: u64 = 86_400;

impl Deliveries {
    /// Has an event wait, for [`EVENT_TTL`] at most.
    pub(crate) async fn add_event(
        &self,
        event: &WaitingEvent,
        now: Timestamp,
    ) -> Result<(), Error> {
        let Some(key) = row::events() else { return Ok(()) };
        let message = NewMessage { payload: event.encode(), ttl: EVENT_TTL, delay: 0 };
        self.post(&key, vec![message], None, now).await.map(|_| ())
    }

    /// Takes the first events that wait, all under one claim. One that is not deleted is taken
    /// again once the claim has expired.
    pub(crate) async fn take_events(
        &self,
        limit: usize,
        now: Timestamp,
    ) -> Result<(ClaimId, Vec<(MessageId, WaitingEvent)>), Error> {
        let Some(key) = row::events() else { return Ok((ClaimId::new(0), Vec::new())) };
        let (claim, messages) = self.claim(&key, ROW_LEASE, limit, now).await?;
        let mut events = Vec::with_capacity(messages.len());
        for message in messages {
            match WaitingEvent::decode(&message.payload) {
                Some(event) => events.push((message.id, event)),
                None => self.discard_unreadable(&key, message.id, claim, now).await,
            }
        }
        Ok((claim, events))
    }

    /// Deletes events that were posted, in one step, as far as this worker still has them.
    pub(crate) async fn delete_events(
        &self,
        ids: &[MessageId],
        claim: ClaimId,
        now: Timestamp,
    ) -> Result<(), Error> {
        let Some(key) = row::events() else { return Ok(()) };
        self.store.delete_many(&key, ids, &Deletable::HeldBy(vec![claim]), now).await
    }
}
