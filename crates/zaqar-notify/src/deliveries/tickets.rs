//! The schedule: tickets, each of which says that a subscription may have rows to deliver.

use futures_util::future::join_all;
use zaqar_core::storage::{Deletable, Error, NewMessage};
use zaqar_core::{ClaimId, MessageId, Timestamp};

use super::{Deliveries, NO_EXPIRY, seconds_until};
use crate::row::{self, SHARDS, Ticket};

/// How long tickets are held, in seconds; renewed while their subscriptions are served.
const TICKET_LEASE: u64 = 20;

/// Tickets of one step, at most.
const POSTED: usize = 500;

/// A ticket that this worker holds.
#[derive(Debug, Clone)]
pub(crate) struct HeldTicket {
    pub(crate) shard: usize,
    pub(crate) claim: ClaimId,
    /// Until when its claim lasts, as far as this worker knows.
    pub(crate) until: Timestamp,
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
        let tickets: Vec<_> = tickets.iter().map(|ticket| (ticket.clone(), due)).collect();
        self.schedule_all(&tickets, now).await
    }

    /// Posts tickets, each with the time from which its subscription is served: in one step for
    /// each shard, unless they are very many. A shard that fails holds up no other.
    pub(crate) async fn schedule_all(
        &self,
        tickets: &[(Ticket, Timestamp)],
        now: Timestamp,
    ) -> Result<(), Error> {
        let shards = (0..SHARDS).map(|shard| async move {
            let of_shard = tickets.iter().filter(|(one, _)| one.subscription.shard() == shard);
            let message = |(ticket, due): &(Ticket, Timestamp)| NewMessage {
                payload: ticket.encode(),
                ttl: NO_EXPIRY,
                delay: seconds_until(*due, now),
            };
            let messages: Vec<_> = of_shard.map(message).collect();
            let Some(key) = row::schedule(shard) else { return Ok(()) };
            for messages in messages.chunks(POSTED) {
                self.post(&key, messages.to_vec(), None, now).await?;
            }
            Ok(())
        });
        join_all(shards).await.into_iter().collect()
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
        let until = now.plus_secs(TICKET_LEASE);
        let mut held = Vec::with_capacity(messages.len());
        for message in messages {
            let id = message.id;
            match Ticket::decode(&message.payload) {
                Some(ticket) => held.push(HeldTicket { shard, claim, until, id, ticket }),
                None => self.discard_unreadable(&key, message.id, claim, now).await,
            }
        }
        Ok(held)
    }

    /// Renews all tickets of a claim. Returns until when it lasts; `None` if they are not held any
    /// more.
    pub(crate) async fn renew_tickets(
        &self,
        shard: usize,
        claim: ClaimId,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, Error> {
        let Some(key) = row::schedule(shard) else { return Ok(None) };
        let is_held = self.store.claim_renew(&key, claim, TICKET_LEASE, 0, now).await?;
        Ok(is_held.then(|| now.plus_secs(TICKET_LEASE)))
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

    /// Deletes tickets of one subscription in one step, as far as this worker still holds them.
    pub(crate) async fn delete_tickets(
        &self,
        held: &[HeldTicket],
        now: Timestamp,
    ) -> Result<(), Error> {
        let Some(key) = held.first().and_then(|held| row::schedule(held.shard)) else {
            return Ok(());
        };
        let ids: Vec<_> = held.iter().map(|held| held.id).collect();
        let claims = held.iter().map(|held| held.claim).collect();
        self.store.delete_many(&key, &ids, &Deletable::HeldBy(claims), now).await
    }
}
