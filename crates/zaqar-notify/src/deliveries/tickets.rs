//! The schedule: tickets, each of which says that a subscription may have rows to deliver.

use zaqar_core::storage::{Error, NewMessage};
use zaqar_core::{ClaimId, MessageId, Timestamp};

use super::{Deliveries, NO_EXPIRY, seconds_until};
use crate::row::{self, SHARDS, Ticket};

/// How long tickets are held, in seconds; renewed while their subscriptions are served.
const TICKET_LEASE: u64 = 20;

/// A ticket that this worker holds.
#[derive(Debug, Clone)]
pub(crate) struct HeldTicket {
    pub(crate) shard: usize,
    pub(crate) claim: ClaimId,
    id: MessageId,
    pub(crate) ticket: Ticket,
}

impl Deliveries {
    /// Posts tickets: each subscription is served once `due` has come.
    pub(crate) async fn schedule(
        &self,
        tickets: &[Ticket],
        due: Timestamp,
        now: Timestamp,
    ) -> Result<(), Error> {
        for shard in 0..SHARDS {
            let of_shard = tickets.iter().filter(|ticket| ticket.subscription.shard() == shard);
            let delay = seconds_until(due, now);
            let message =
                |ticket: &Ticket| NewMessage { payload: ticket.encode(), ttl: NO_EXPIRY, delay };
            let messages: Vec<_> = of_shard.map(message).collect();
            if let (false, Some(key)) = (messages.is_empty(), row::schedule(shard)) {
                self.post(&key, messages, None, now).await?;
            }
        }
        Ok(())
    }

    /// Takes due tickets of a shard, all under one claim.
    pub(crate) async fn take_tickets(
        &self,
        shard: usize,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<HeldTicket>, Error> {
        let Some(key) = row::schedule(shard) else { return Ok(Vec::new()) };
        let (claim, messages) = self.claim(&key, TICKET_LEASE, limit, now).await?;
        let mut held = Vec::with_capacity(messages.len());
        for message in messages {
            match Ticket::decode(&message.payload) {
                Some(ticket) => held.push(HeldTicket { shard, claim, id: message.id, ticket }),
                None => self.discard(&key, message.id, claim, now).await?,
            }
        }
        Ok(held)
    }

    /// Renews all tickets of a claim. Returns whether they were still held.
    pub(crate) async fn renew_tickets(
        &self,
        shard: usize,
        claim: ClaimId,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let Some(key) = row::schedule(shard) else { return Ok(false) };
        self.store.claim_renew(&key, claim, TICKET_LEASE, 0, now).await
    }

    /// Releases the tickets of a claim that were not deleted.
    pub(crate) async fn release_tickets(
        &self,
        shard: usize,
        claim: ClaimId,
        now: Timestamp,
    ) -> Result<(), Error> {
        let Some(key) = row::schedule(shard) else { return Ok(()) };
        self.store.claim_release(&key, claim, now).await.map(drop)
    }

    /// Deletes a ticket, if this worker still holds it.
    pub(crate) async fn delete_ticket(
        &self,
        held: &HeldTicket,
        now: Timestamp,
    ) -> Result<(), Error> {
        let Some(key) = row::schedule(held.shard) else { return Ok(()) };
        self.discard(&key, held.id, held.claim, now).await
    }
}
