//! The dispatcher: takes tickets, serves their subscriptions, posts the next tickets.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use zaqar_core::storage::Error;
use zaqar_core::{ClaimId, Timestamp};

use crate::context::Context;
use crate::deliveries::{HeldTicket, IDLE_CHECK};
use crate::in_service::{Began, ServiceNews};
use crate::row::{SHARDS, SubscriptionKey, Ticket};
use crate::serve::{Next, serve};

/// Tickets that are taken in one step.
const TICKETS: usize = 32;
/// Due times that are cached for waiting subscriptions; a missing one costs an extra ticket.
const REMEMBERED: usize = 10_000;
/// Claims of a shard that are renewed concurrently.
const RENEWALS: usize = 8;

/// Serves subscriptions, and keeps the tickets that this server holds.
pub(crate) struct Dispatcher {
    context: Arc<Context>,
    shutdown: CancellationToken,
    state: Mutex<State>,
    serving: tokio::sync::Mutex<JoinSet<()>>,
}

#[derive(Default)]
struct State {
    /// The number of tickets of each claim that are not settled.
    claims: HashMap<(usize, ClaimId), usize>,
    /// Tickets of subscriptions whose service failed.
    failed: Vec<(SubscriptionKey, Vec<HeldTicket>)>,
    /// When a waiting subscription is due, by a ticket that this server posted.
    waiting: HashMap<SubscriptionKey, Timestamp>,
    /// The due times of tickets that this server posted, by shard.
    timers: [BTreeSet<Timestamp>; SHARDS],
    /// Tickets that are being taken, at most.
    reserved: usize,
    /// Whether a shard found no capacity since the last reservation ended.
    is_short: bool,
}

/// Room for tickets that are being taken.
pub(crate) struct Reserved<'a> {
    dispatcher: &'a Dispatcher,
    pub(crate) tickets: usize,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let mut state = self.dispatcher.state();
        state.reserved = state.reserved.saturating_sub(self.tickets);
        if std::mem::take(&mut state.is_short) {
            self.dispatcher.context.freed.notify_waiters();
        }
    }
}

impl Dispatcher {
    pub(crate) fn new(context: Arc<Context>, shutdown: CancellationToken) -> Self {
        let (state, serving) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { context, shutdown, state, serving }
    }

    /// The number of subscriptions in service.
    pub(crate) fn served(&self) -> usize {
        self.context.in_service.len()
    }

    /// The first due time of the tickets of a shard that this server posted.
    pub(crate) fn next_due(&self, shard: usize) -> Option<Timestamp> {
        self.state().timers.get(shard).and_then(|timers| timers.first().copied())
    }

    /// Reserves capacity for some tickets of a shard, and removes its timers that are due; `None`
    /// if there is no capacity.
    pub(crate) fn reserve(&self, shard: usize, now: Timestamp) -> Option<Reserved<'_>> {
        let served = self.served();
        let mut state = self.state();
        // Removed even if there is no capacity: the shard is polled again without a timer once
        // there is.
        if let Some(timers) = state.timers.get_mut(shard) {
            timers.retain(|due| *due > now);
        }
        let free = self.context.options.subscriptions.saturating_sub(served + state.reserved);
        let tickets = free.min(TICKETS);
        state.reserved += tickets;
        state.is_short |= tickets == 0;
        drop(state);
        (tickets > 0).then(|| Reserved { dispatcher: self, tickets })
    }

    /// Takes the due tickets of a shard and starts to serve their subscriptions. Returns whether
    /// all were taken.
    pub(crate) async fn poll(self: &Arc<Self>, shard: usize) -> Result<bool, Error> {
        loop {
            let now = self.context.parts.clock.now();
            let Some(reserved) = self.reserve(shard, now) else { return Ok(false) };
            let limit = reserved.tickets;
            let tickets = self.context.deliveries.take_tickets(shard, limit, now).await?;
            let is_last = tickets.len() < limit;
            if let Some(first) = tickets.first() {
                self.state().claims.insert((shard, first.claim), tickets.len());
            }
            for ticket in tickets {
                self.begin(ticket).await;
            }
            drop(reserved);
            if is_last {
                return Ok(true);
            }
        }
    }

    /// Serves the subscription of a ticket. If it is in service already, it looks for rows once
    /// more.
    async fn begin(self: &Arc<Self>, held: HeldTicket) {
        let key = held.ticket.subscription.clone();
        let news = match self.context.in_service.begin(held) {
            Began::Service(news) => news,
            Began::InService(superfluous) => return self.drop_superfluous(&superfluous).await,
        };
        let this = Arc::clone(self);
        let mut serving = self.serving.lock().await;
        while serving.try_join_next().is_some() {}
        serving.spawn(async move { this.serve(&key, &news).await });
    }

    /// Deletes tickets of a service that has later ones.
    async fn drop_superfluous(&self, tickets: &[HeldTicket]) {
        let now = self.context.parts.clock.now();
        if let Err(error) = self.context.deliveries.delete_tickets(tickets, now).await {
            // They are taken once more when their claims have expired.
            self.context.log_failure("tickets", &error);
        }
        self.forget(tickets);
    }

    async fn serve(&self, key: &SubscriptionKey, news: &ServiceNews) {
        loop {
            let served = serve(&self.context, key, news, &self.shutdown).await;
            let looks_again = served.is_ok() && !self.shutdown.is_cancelled();
            let Some(ended) = self.context.in_service.end(key, looks_again) else { continue };
            let settled = match served {
                // Rows came that were not looked for.
                Ok(Next::WithTicket | Next::At(_)) if ended.has_news => {
                    let now = self.context.parts.clock.now();
                    self.settle(key, &ended.tickets, Next::At(now)).await
                }
                Ok(next) => self.settle(key, &ended.tickets, next).await,
                Err(error) => Err(error),
            };
            match settled {
                Ok(()) => {
                    self.context.log_success();
                    self.forget(&ended.tickets);
                }
                Err(error) => {
                    self.context.log_failure("serving a subscription", &error);
                    self.state().failed.push((key.clone(), ended.tickets));
                }
            }
            self.context.freed.notify_waiters();
            return;
        }
    }

    /// Posts the next tickets, then deletes the current ones.
    async fn settle(
        &self,
        key: &SubscriptionKey,
        tickets: &[HeldTicket],
        next: Next,
    ) -> Result<(), Error> {
        let now = self.context.parts.clock.now();
        if let Next::At(due) = next
            && !self.waits_until(key, due, now)
        {
            let ticket = Ticket { subscription: key.clone(), keeps: false };
            // Before the news of the ticket, which lets the shard's next timer be looked at.
            self.add_timers(key, due, now);
            self.context.deliveries.schedule(&[ticket], due, now).await?;
            self.note_waiting(key, due, now);
        }
        if next != Next::Never && tickets.iter().any(|held| held.ticket.keeps) {
            let ticket = Ticket { subscription: key.clone(), keeps: true };
            let due = now.plus_secs(IDLE_CHECK);
            self.context.deliveries.schedule(&[ticket], due, now).await?;
        }
        self.context.deliveries.delete_tickets(tickets, now).await
    }

    /// Whether a ticket that this server posted is due by then, and not before now.
    fn waits_until(&self, key: &SubscriptionKey, due: Timestamp, now: Timestamp) -> bool {
        self.state().waiting.get(key).is_some_and(|until| *until > now && *until <= due)
    }

    fn note_waiting(&self, key: &SubscriptionKey, due: Timestamp, now: Timestamp) {
        let mut state = self.state();
        if state.waiting.len() >= REMEMBERED {
            state.waiting.retain(|_, until| *until > now);
        }
        if state.waiting.len() < REMEMBERED {
            state.waiting.insert(key.clone(), due);
        }
    }

    fn add_timers(&self, key: &SubscriptionKey, due: Timestamp, now: Timestamp) {
        let mut state = self.state();
        let Some(timers) = state.timers.get_mut(key.shard()) else { return };
        // Stores count delays in whole seconds, and their clock may be some milliseconds later.
        let left = due.as_millis().saturating_sub(now.as_millis()).div_ceil(1000);
        for after in [20, 500] {
            let at = now.plus_secs(left).as_millis().saturating_add(after);
            // Tickets that are due together share one timer.
            let at = Timestamp::from_millis(at.next_multiple_of(50));
            if timers.len() < REMEMBERED / SHARDS {
                timers.insert(at);
            }
        }
    }

    /// Forgets tickets: whether they were deleted or not, this server no longer renews them.
    fn forget(&self, tickets: &[HeldTicket]) {
        let mut state = self.state();
        for held in tickets {
            let of = (held.shard, held.claim);
            if let Some(left) = state.claims.get_mut(&of) {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    state.claims.remove(&of);
                }
            }
        }
    }

    /// Renews the claims of a shard's tickets whose subscriptions are in service. Replaces tickets
    /// of services that failed by new ones: their claims may be those of others, and last as long.
    ///
    /// # Errors
    /// The last error of the store. What failed is tried again by the next call; it holds up
    /// nothing else.
    pub(crate) async fn renew(&self, shard: usize) -> Result<(), Error> {
        let (replaced, renewed) =
            tokio::join!(self.replace_failed(shard), self.renew_claims(shard));
        replaced.and(renewed)
    }

    async fn replace_failed(&self, shard: usize) -> Result<(), Error> {
        let failed: Vec<_> =
            self.state().failed.extract_if(.., |(key, _)| key.shard() == shard).collect();
        let mut replacing = stream::iter(failed)
            .map(|(key, tickets)| async move {
                let now = self.context.parts.clock.now();
                let settled = self.settle(&key, &tickets, Next::At(now)).await;
                match settled.is_ok() {
                    true => self.forget(&tickets),
                    false => self.state().failed.push((key, tickets)),
                }
                settled
            })
            .buffer_unordered(RENEWALS);
        let mut outcome = Ok(());
        while let Some(settled) = replacing.next().await {
            outcome = settled.and(outcome);
        }
        outcome
    }

    async fn renew_claims(&self, shard: usize) -> Result<(), Error> {
        let mut renewing = stream::iter(self.claims_of(shard))
            .map(|claim| async move {
                let now = self.context.parts.clock.now();
                // If a claim is lost, this server and the new holder both serve the subscription:
                // each row has its own claim.
                let until = self.context.deliveries.renew_tickets(shard, claim, now).await?;
                Ok(((shard, claim), until.unwrap_or(now)))
            })
            .buffer_unordered(RENEWALS);
        let (mut renewed, mut outcome) = (HashMap::new(), Ok(()));
        while let Some(one) = renewing.next().await {
            match one {
                Ok((claim, until)) => drop(renewed.insert(claim, until)),
                Err(error) => outcome = Err(error),
            }
        }
        self.context.in_service.renewed(&renewed);
        outcome
    }

    fn claims_of(&self, shard: usize) -> Vec<ClaimId> {
        let state = self.state();
        let claims = state.claims.keys().filter(|(of, _)| *of == shard);
        claims.map(|(_, claim)| *claim).collect()
    }

    /// Waits until no subscription is in service.
    pub(crate) async fn idle(&self) {
        let mut serving = self.serving.lock().await;
        while serving.join_next().await.is_some() {}
    }

    /// Stops what is still in service, and releases its tickets.
    pub(crate) async fn stop(&self) {
        self.serving.lock().await.shutdown().await;
        let released = join_all((0..SHARDS).map(|shard| self.release(shard))).await;
        self.state().claims.clear();
        for error in released.into_iter().filter_map(Result::err) {
            self.context.log_failure("releasing tickets at shutdown", &error);
        }
    }

    /// Releases the tickets of a shard, until one fails: those of others are of other queues.
    async fn release(&self, shard: usize) -> Result<(), Error> {
        for claim in self.claims_of(shard) {
            let now = self.context.parts.clock.now();
            self.context.deliveries.release_tickets(shard, claim, now).await?;
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No critical section leaves the maps inconsistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
