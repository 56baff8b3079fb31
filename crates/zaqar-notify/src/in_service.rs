//! Subscriptions that this server serves at the moment, and news for them.
//!
//! A subscription in service has a ticket that this server holds, so rows that are added meanwhile
//! need none of their own: it is enough that the service looks for rows once more before that
//! ticket is deleted. If the server dies first, the ticket's claim expires and another takes it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use zaqar_core::{ClaimId, Timestamp};

use crate::deliveries::HeldTicket;
use crate::row::SubscriptionKey;

/// Tickets of one service, at most, besides those that keep its subscription: while it lasts, other
/// servers may post any number of them.
pub(crate) const MAX_TICKETS: usize = 32;

/// Seconds that a ticket's claim must last for it to be relied on: other servers' clocks may be
/// ahead. Each renewal leaves more.
const SURELY_HELD: u64 = 8;

/// Tells a service that there may be more rows.
#[derive(Debug, Default)]
pub(crate) struct ServiceNews {
    is_new: AtomicBool,
    wake: Notify,
}

impl ServiceNews {
    fn set(&self) {
        self.is_new.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Whether there is news since the last call. Whoever gets `true` looks for rows.
    pub(crate) fn take(&self) -> bool {
        self.is_new.swap(false, Ordering::AcqRel)
    }

    /// Returns after news came; it may have been taken already.
    pub(crate) async fn arrived(&self) {
        self.wake.notified().await;
    }
}

#[derive(Debug, Default)]
struct Served {
    tickets: Vec<HeldTicket>,
    news: Arc<ServiceNews>,
}

/// The subscriptions in service; the options of the workers bound their number.
#[derive(Debug, Default)]
pub(crate) struct InService {
    served: Mutex<HashMap<SubscriptionKey, Served>>,
}

/// What a ticket leads to.
#[derive(Debug)]
pub(crate) enum Began {
    /// A service must begin now, with this news.
    Service(Arc<ServiceNews>),
    /// The subscription is in service, and has got the news. These of its tickets are superfluous,
    /// because it has later ones.
    InService(Vec<HeldTicket>),
}

/// The tickets of a subscription whose service has ended.
#[derive(Debug)]
pub(crate) struct EndedService {
    pub(crate) tickets: Vec<HeldTicket>,
    /// Whether news came that the service did not see.
    pub(crate) has_news: bool,
}

impl InService {
    /// The number of subscriptions in service.
    pub(crate) fn len(&self) -> usize {
        self.served().len()
    }

    /// Adds a ticket.
    pub(crate) fn begin(&self, held: HeldTicket) -> Began {
        let mut served = self.served();
        let key = held.ticket.subscription.clone();
        if let Some(found) = served.get_mut(&key) {
            found.news.set();
            let superfluous = match found.tickets.len() > MAX_TICKETS {
                true => found.tickets.extract_if(.., |one| !one.ticket.keeps).collect(),
                false => Vec::new(),
            };
            found.tickets.push(held);
            return Began::InService(superfluous);
        }
        let news = Arc::<ServiceNews>::default();
        served.insert(key, Served { tickets: vec![held], news: Arc::clone(&news) });
        Began::Service(news)
    }

    /// Tells a subscription's service of rows that were added; `false` if it needs a ticket: it is
    /// not in service, or this server was stopped for so long that another one may have deleted the
    /// service's own.
    pub(crate) fn notify(&self, key: &SubscriptionKey, now: Timestamp) -> bool {
        let served = self.served();
        let Some(found) = served.get(key) else { return false };
        found.news.set();
        let surely = now.plus_secs(SURELY_HELD);
        found.tickets.iter().any(|held| held.until >= surely)
    }

    /// Notes until when the claims of tickets last.
    pub(crate) fn renewed(&self, claims: &HashMap<(usize, ClaimId), Timestamp>) {
        for held in self.served().values_mut().flat_map(|found| &mut found.tickets) {
            if let Some(until) = claims.get(&(held.shard, held.claim)) {
                held.until = *until;
            }
        }
    }

    /// Ends a service; `None` if news came and `looks_again`: then it must look once more.
    pub(crate) fn end(&self, key: &SubscriptionKey, looks_again: bool) -> Option<EndedService> {
        let mut served = self.served();
        let has_news = served.get(key).is_some_and(|found| found.news.take());
        if has_news && looks_again {
            return None;
        }
        let tickets = served.remove(key).map(|found| found.tickets).unwrap_or_default();
        Some(EndedService { tickets, has_news })
    }

    fn served(&self) -> MutexGuard<'_, HashMap<SubscriptionKey, Served>> {
        // No critical section leaves the map inconsistent.
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
