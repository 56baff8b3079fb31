//! The dispatcher: takes tickets, serves their subscriptions, posts the next tickets.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// The due times of tickets that this server posted, with their shards.
    timers: BTreeSet<(Timestamp, usize)>,
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

    /// The first due time of the tickets that this server posted.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.state().timers.first().map(|(due, _)| *due)
    }

    /// Takes the due tickets of a shard and starts to serve their subscriptions. Returns whether
    /// all were taken.
    pub(crate) async fn poll(self: &Arc<Self>, shard: usize) -> Result<bool, Error> {
        loop {
            let now = self.context.parts.clock.now();
            // Removed even if there is no capacity: the shard is polled again without a timer once
            // there is.
            self.state().timers.retain(|(due, of)| *of != shard || *due > now);
            let free = self.context.options.subscriptions.saturating_sub(self.served());
            if free == 0 {
                return Ok(false);
            }
            let limit = free.min(TICKETS);
            let tickets = self.context.deliveries.take_tickets(shard, limit, now).await?;
            let is_last = tickets.len() < limit;
            if let Some(first) = tickets.first() {
                self.state().claims.insert((shard, first.claim), tickets.len());
            }
            for ticket in tickets {
                self.begin(ticket).await;
            }
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
        // Stores count delays in whole seconds, and their clock may be some milliseconds later.
        let left = due.as_millis().saturating_sub(now.as_millis()).div_ceil(1000);
        for after in [20, 500] {
            let at = now.plus_secs(left).as_millis().saturating_add(after);
            // Tickets that are due together share one timer.
            let at = Timestamp::from_millis(at.next_multiple_of(50));
            if state.timers.len() < REMEMBERED {
                state.timers.insert((at, key.shard()));
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

    /// Renews the claims of tickets whose subscriptions are in service. Replaces tickets of
    /// services that failed by new ones: their claims may be those of others, and last as long.
    pub(crate) async fn renew(&self) -> Result<(), Error> {
        let mut failed = std::mem::take(&mut self.state().failed);
        while let Some((key, tickets)) = failed.pop() {
            let now = self.context.parts.clock.now();
            if let Err(error) = self.settle(&key, &tickets, Next::At(now)).await {
                failed.push((key, tickets));
                self.state().failed.append(&mut failed);
                return Err(error);
            }
            self.forget(&tickets);
        }
        let claims: Vec<_> = self.state().claims.keys().copied().collect();
        let (mut renewed, mut outcome) = (HashMap::with_capacity(claims.len()), Ok(()));
        for (shard, claim) in claims {
            let now = self.context.parts.clock.now();
            // If a claim is lost, this server and the new holder both serve the subscription: each
            // row has its own claim.
            match self.context.deliveries.renew_tickets(shard, claim, now).await {
                Ok(until) => drop(renewed.insert((shard, claim), until.unwrap_or(now))),
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        self.context.in_service.renewed(&renewed);
        outcome
    }

    /// Waits until no subscription is in service.
    pub(crate) async fn idle(&self) {
        let mut serving = self.serving.lock().await;
        while serving.join_next().await.is_some() {}
    }

    /// Stops what is still in service, and releases its tickets.
    pub(crate) async fn stop(&self) {
        self.serving.lock().await.shutdown().await;
        let claims: Vec<_> = self.state().claims.drain().map(|(of, _)| of).collect();
        for (shard, claim) in claims {
            let now = self.context.parts.clock.now();
            if let Err(error) = self.context.deliveries.release_tickets(shard, claim, now).await {
                self.context.log_failure("releasing tickets at shutdown", &error);
                return;
            }
        }
    }

    /// Shards whose tickets may be due.
    pub(crate) fn due_shards(&self, now: Timestamp) -> Vec<usize> {
        let state = self.state();
        let is_due =
            |shard: &usize| state.timers.iter().any(|(due, of)| of == shard && *due <= now);
        (0..SHARDS).filter(is_due).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No critical section leaves the maps inconsistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
