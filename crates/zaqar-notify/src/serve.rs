//! Serves one subscription: sends its rows, as many at once as its destination accepts.
//!
//! Under load the store's steps are shared: one step takes rows for all requests that may start,
//! and one deletes all rows that have ended meanwhile. At most one of each is under way, and
//! nothing waits for more to join it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};
use zaqar_core::storage::Error;
use zaqar_core::{StateLog, Timestamp};

use crate::attempt::{self, Disposition, Report};
use crate::context::{Context, count};
use crate::deliveries::{EndedRow, HeldRow, Lease, Take, Taken};
use crate::delivery_options::DeliveryOptions;
use crate::destination::{Admission, Ended};
use crate::events::EventKind;
use crate::fairness::{InFlight, Sharer};
use crate::in_service::ServiceNews;
use crate::read_subject;
use crate::recovery;
use crate::row::{Body, Content, Row, SubscriptionKey};
use crate::subject::Subject;
use crate::subjects::Read;

static SUSPENSION_LOG: StateLog = StateLog::new();

/// How long to wait for the end of a request before checking the subscription again.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How long to wait for capacity before checking again.
const WAIT: Duration = Duration::from_millis(200);
/// Seconds until a subscription is served again that got no capacity within [`WAIT`].
const RETRY_WITHOUT_CAPACITY: u64 = 1;
/// Rows without a possible destination that are ended at once, at most.
const MAX_UNSENDABLE: usize = 16;
/// Rows that one step takes, at most, and the first step of a service.
const MAX_TAKEN: usize = 64;
const FIRST_TAKEN: usize = 2;
/// Bytes of the rows that one step takes, as far as the rows before them tell.
const TAKEN_BYTES: usize = 1024 * 1024;
/// Rows that have ended and are not deleted yet, at most: with more, none are taken.
const MAX_ENDED: usize = 256;
/// Times of retries that a service knows, at most.
const MAX_DUES: usize = 1000;
/// Seconds between checks of rows that another worker holds.
const POLL_HELD: u64 = 30;

/// Bytes of a batch's messages, at most, unless a single one is larger.
const BATCH_BYTES: usize = 1024 * 1024;
/// Rows that are read at a time to see how many fit.
const PAGE: usize = 20;

/// When a subscription is served again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// With its next ticket: it has no rows, or is suspended, or will be.
    WithTicket,
    /// At this time.
    At(Timestamp),
    /// Never: it is gone, and its rows are deleted.
    Never,
}

/// Whether more attempts may start.
enum Admitted {
    /// So many, now; without flights if there is no destination to send to.
    Now(usize, Vec<InFlight>),
    /// When one in flight has ended.
    WhenOneEnds,
    /// Later, after this call.
    Later(Next),
}

/// The end of a task of a service.
enum Done {
    /// To a subscription as it was then; and why it is to be suspended, if it is.
    Sent(Arc<Subject>, Result<Report, Error>, Option<&'static str>),
    Deleted(Result<(), Error>),
}

/// Delivers a subscription's rows until none is due.
pub(crate) async fn serve(
    context: &Arc<Context>,
    key: &SubscriptionKey,
    news: &ServiceNews,
    shutdown: &CancellationToken,
) -> Result<Next, Error> {
    let mut service = Service {
        context,
        key,
        news,
        sharer: context.fairness.sharer(&key.queue.project),
        tasks: JoinSet::new(),
        sending: 0,
        ended: Vec::new(),
        looks: true,
        takes: FIRST_TAKEN,
        waits_since: None,
        dues: BTreeSet::new(),
        suspends: None,
        lost: false,
    };
    let next = service.run(shutdown).await;
    // Attempts in progress continue, even if the store failed meanwhile. Rows that cannot be
    // deleted are delivered again.
    while !service.is_idle() {
        let _failed = service.finish_one().await;
    }
    match service.suspends.take() {
        Some((subject, why)) if matches!(next, Ok(Next::WithTicket | Next::At(_))) => {
            service.suspend(&subject, why).await
        }
        Some(_) | None => next,
    }
}

struct Service<'a> {
    context: &'a Arc<Context>,
    key: &'a SubscriptionKey,
    news: &'a ServiceNews,
    sharer: Sharer,
    tasks: JoinSet<Done>,
    /// Requests in flight.
    sending: usize,
    /// Rows to delete.
    ended: Vec<EndedRow>,
    /// Whether there may be rows that are due.
    looks: bool,
    /// Rows that the next step takes, at most: more while every step finds all that it may take.
    takes: usize,
    /// Since when it waits for capacity.
    waits_since: Option<Instant>,
    /// When waiting rows are retried.
    dues: BTreeSet<Timestamp>,
    /// The subscription as it was when an attempt said that it is to be suspended, and why.
    suspends: Option<(Arc<Subject>, &'static str)>,
    lost: bool,
}

impl Service<'_> {
    async fn run(&mut self, shutdown: &CancellationToken) -> Result<Next, Error> {
        let clock = &self.context.parts.clock;
        loop {
            while let Some(done) = self.tasks.try_join_next() {
                self.note(done)?;
            }
            self.start_deletion();
            if shutdown.is_cancelled() {
                self.finish_all().await?;
                return Ok(Next::At(clock.now()));
            }
            let now = clock.now();
            let Some(read) = read_subject::current(self.context, self.key).await? else {
                self.finish_all().await?;
                self.context.deliveries.remove(self.key).await?;
                return Ok(Next::Never);
            };
            if self.suspends.is_some() {
                self.finish_all().await?;
                return Ok(Next::WithTicket);
            }
            self.looks |= self.news.take() | self.has_retry(now);
            let free = self.free(&read.subject.delivery);
            if !self.looks || free == 0 {
                if self.is_idle() {
                    return self.nothing_due().await;
                }
                if !self.looks {
                    self.sharer.rest();
                }
                self.wait().await?;
                continue;
            }
            let (most, flights) = match self.admit(&read.subject, free, now).await? {
                Admitted::Now(most, flights) => (most, flights),
                Admitted::WhenOneEnds => {
                    if self.gives_up() {
                        return Ok(Next::At(now.plus_secs(RETRY_WITHOUT_CAPACITY)));
                    }
                    self.wait_for_capacity().await?;
                    continue;
                }
                Admitted::Later(next) => return Ok(next),
            };
            self.waits_since = None;
            if let Some(next) = self.take(read, most, flights, now).await? {
                return Ok(next);
            }
        }
    }

    /// Takes rows and starts to send them. Returns when the subscription is served again, if it
    /// cannot be served now.
    async fn take(
        &mut self,
        read: Read,
        most: usize,
        flights: Vec<InFlight>,
        now: Timestamp,
    ) -> Result<Option<Next>, Error> {
        let (deliveries, ordered) = (&self.context.deliveries, read.subject.delivery.ordered);
        // Only after capacity was found: while it waits, the store is not queried.
        if ordered && !deliveries.is_first_due(self.key, now).await? {
            return self.nothing_due().await.map(Some);
        }
        let take = match read.subject.batch().filter(|most| *most > 1) {
            Some(most) => Take::Together(self.batch(most, now).await?),
            None => Take::Each(most),
        };
        let taken = match deliveries.take(self.key, take, now).await? {
            Taken::Rows(taken) => taken,
            Taken::Suspended => {
                self.give_back(flights);
                self.finish_all().await?;
                return Ok(Some(Next::WithTicket));
            }
            Taken::Nothing => {
                self.looks = false;
                self.give_back(flights);
                return Ok(None);
            }
        };
        for (lease, rows) in &taken {
            let is_out_of_turn = batch_of(rows.iter().map(|held| &held.row)) < rows.len()
                || ordered && !deliveries.is_first(self.key, &rows[0], now).await?;
            if is_out_of_turn {
                // Another server took earlier rows meanwhile.
                self.give_back(flights);
                deliveries.release(lease, now).await?;
                return if ordered { self.nothing_due().await.map(Some) } else { Ok(None) };
            }
        }
        let subject = self.subject_for(read, &taken).await?;
        let Some(subject) = subject else { return Ok(None) };
        self.adapt(take, &taken);
        let mut flights = flights.into_iter();
        for (lease, rows) in taken {
            self.start(Arc::clone(&subject), lease, rows, flights.next());
        }
        self.give_back(flights.collect());
        Ok(None)
    }

    /// The subscription for rows that were just taken: read again if it may drop some, as it may
    /// have been changed before they were posted. `None` if it is gone.
    async fn subject_for(
        &self,
        read: Read,
        taken: &[(Lease, Vec<HeldRow>)],
    ) -> Result<Option<Arc<Subject>>, Error> {
        let (subject, context) = (read.subject, self.context);
        let mut rows = taken.iter().flat_map(|(_, rows)| rows);
        let needs_confirmation = context.options.require_confirmation
            && (!subject.subscription.confirmed
                || rows.any(|held| held.row.content == Content::Confirmation));
        if subject.filter.is_none() && !needs_confirmation {
            return Ok(Some(subject));
        }
        let now = context.subjects.moment();
        let read = read_subject::after(context, self.key, now).await?;
        Ok(read.map(|read| read.subject))
    }

    /// Sets how many rows the next step takes.
    fn adapt(&mut self, take: Take, taken: &[(Lease, Vec<HeldRow>)]) {
        let Take::Each(asked) = take else { return };
        self.looks = taken.len() == asked;
        let rows = taken.iter().flat_map(|(_, rows)| rows);
        let bytes: usize = rows.map(|held| held.row.bytes_here()).sum();
        let average = (bytes / taken.len().max(1)).max(1);
        let wanted = if self.looks { self.takes.saturating_mul(2) } else { taken.len() + 1 };
        self.takes = wanted.min(MAX_TAKEN).min(TAKEN_BYTES / average).max(1);
    }

    /// How many requests may start, as far as the subscription's options say.
    fn free(&self, delivery: &DeliveryOptions) -> usize {
        if delivery.ordered {
            // The next one starts when the one before has ended and is deleted, or waits.
            return usize::from(self.is_idle());
        }
        if self.ended.len() >= MAX_ENDED {
            return 0;
        }
        let most = delivery.max_in_flight.unwrap_or(usize::MAX).saturating_sub(self.sending);
        // A rate is checked for each request.
        most.min(if delivery.pause.is_some() { 1 } else { self.takes })
    }

    /// How many of the first due rows go out in one request; at least one. Determined before they
    /// are taken, because taking a row and giving it back counts as an attempt.
    async fn batch(&self, most: usize, now: Timestamp) -> Result<usize, Error> {
        let (mut rows, mut after) = (Vec::new(), None);
        loop {
            let limit = (most - rows.len()).min(PAGE);
            let (page, next) = self.context.deliveries.due(self.key, after, limit, now).await?;
            let is_last = page.len() < limit || next.is_none();
            rows.extend(page);
            let count = batch_of(&rows);
            if is_last || count < rows.len() || rows.len() >= most {
                return Ok(count.max(1));
            }
            after = next;
        }
    }

    /// Whether the subscription's rate and the destination allow more attempts: at most `most`.
    async fn admit(
        &mut self,
        subject: &Subject,
        most: usize,
        now: Timestamp,
    ) -> Result<Admitted, Error> {
        if let Some(pause) = subject.delivery.pause
            && let Some(next) = self.context.rates.not_before(self.key, pause, now)
        {
            self.finish_all().await?;
            return Ok(Admitted::Later(Next::At(next)));
        }
        let Ok(origin) = &subject.origin else {
            // There is no destination: the attempt says why and ends the row.
            let most = most.min(MAX_UNSENDABLE.saturating_sub(self.sending));
            let is_full = most == 0;
            let none = Vec::new();
            return Ok(if is_full { Admitted::WhenOneEnds } else { Admitted::Now(most, none) });
        };
        let most = if subject.batch().is_some() { 1 } else { most };
        let (sharer, sending) = (&mut self.sharer, self.sending);
        match sharer.start(origin, sending, now) {
            Ok(flight) => {
                let start = |at| sharer.start(origin, sending + at, now).ok();
                let more = (1..most).map_while(start);
                let flights: Vec<_> = std::iter::once(flight).chain(more).collect();
                Ok(Admitted::Now(flights.len(), flights))
            }
            Err(Admission::NotBefore(probe)) => {
                self.finish_all().await?;
                Ok(Admitted::Later(Next::At(probe)))
            }
            Err(Admission::Full | Admission::Started) => Ok(Admitted::WhenOneEnds),
        }
    }

    /// Ends flights for which there are no rows, so that others may start.
    fn give_back(&self, flights: Vec<InFlight>) {
        if !flights.is_empty() {
            drop(flights);
            self.context.freed.notify_waiters();
        }
    }

    fn start(
        &mut self,
        subject: Arc<Subject>,
        lease: Lease,
        mut rows: Vec<HeldRow>,
        flight: Option<InFlight>,
    ) {
        let context = Arc::clone(self.context);
        if let Some(pause) = subject.delivery.pause {
            context.rates.note(self.key, pause, context.parts.clock.now());
        }
        self.sending += 1;
        self.tasks.spawn(async move {
            let recovery = rows.pop_if(|held| held.row.content == Content::Recovery);
            let reported = match recovery {
                Some(held) => recovery::step(&context, &subject.key, &lease, held).await,
                None => attempt::deliver(&context, &subject, &lease, rows).await,
            };
            let (mut suspends, (ended, asked)) = match &reported {
                Ok(report) => (report.suspends(), (report.ended, report.asked)),
                Err(_) => (None, (Ended::NotSent, None)),
            };
            if flight.is_some_and(|flight| flight.end(ended, asked, context.parts.clock.now())) {
                suspends = Some("nothing has succeeded for days");
            }
            context.freed.notify_waiters();
            Done::Sent(subject, reported, suspends)
        });
    }

    /// Deletes all rows that have ended, unless a deletion is under way: then the next one does.
    fn start_deletion(&mut self) {
        // Every other task is a request.
        let is_deleting = self.tasks.len() > self.sending;
        if is_deleting || self.ended.is_empty() {
            return;
        }
        let (context, key) = (Arc::clone(self.context), self.key.clone());
        let rows = std::mem::take(&mut self.ended);
        self.tasks.spawn(async move {
            let now = context.parts.clock.now();
            Done::Deleted(context.deliveries.finish_all(&key, &rows, now).await)
        });
    }

    fn note(&mut self, done: Result<Done, JoinError>) -> Result<(), Error> {
        let report = match done.map_err(Error::failed)? {
            Done::Deleted(deleted) => return deleted,
            Done::Sent(subject, report, suspends) => {
                self.sending -= 1;
                if let Some(why) = suspends {
                    self.suspends = Some((subject, why));
                }
                report?
            }
        };
        self.ended.extend(report.rows);
        match report.disposition {
            Disposition::Ended | Disposition::Gone => {}
            Disposition::RetryAt(due) => {
                self.dues.insert(due);
                if self.dues.len() > MAX_DUES {
                    self.dues.pop_last();
                }
            }
            Disposition::Lost => self.lost = true,
        }
        Ok(())
    }

    /// Whether a retry has become due.
    fn has_retry(&mut self, now: Timestamp) -> bool {
        let before = self.dues.len();
        self.dues.retain(|due| *due > now);
        self.dues.len() < before
    }

    fn is_idle(&self) -> bool {
        self.tasks.is_empty() && self.ended.is_empty()
    }

    /// Waits until all rows in flight have ended and are deleted.
    async fn finish_all(&mut self) -> Result<(), Error> {
        while !self.is_idle() {
            self.finish_one().await?;
        }
        Ok(())
    }

    async fn finish_one(&mut self) -> Result<(), Error> {
        self.start_deletion();
        match self.tasks.join_next().await {
            Some(done) => self.note(done),
            None => Ok(()),
        }
    }

    /// Waits until a task has ended, there is news, or a retry is due.
    async fn wait(&mut self) -> Result<(), Error> {
        let now = self.context.parts.clock.now();
        let retry = self.dues.first().map_or(LONGEST_WAIT, |due| until(*due, now));
        let done = tokio::select! {
            done = self.tasks.join_next(), if !self.tasks.is_empty() => done,
            () = self.news.arrived() => None,
            () = tokio::time::sleep(retry) => None,
        };
        done.map_or(Ok(()), |done| self.note(done))
    }

    /// Whether to let other subscriptions be served: nothing of it is in flight, and it has waited.
    fn gives_up(&mut self) -> bool {
        let since = *self.waits_since.get_or_insert_with(Instant::now);
        self.is_idle() && since.elapsed() >= WAIT
    }

    async fn wait_for_capacity(&mut self) -> Result<(), Error> {
        let done = tokio::select! {
            done = self.tasks.join_next(), if !self.tasks.is_empty() => done,
            () = self.context.freed.notified() => None,
            () = tokio::time::sleep(WAIT) => None,
        };
        done.map_or(Ok(()), |done| self.note(done))
    }

    /// Suspends the subscription, unless it has changed since it was as `subject`.
    async fn suspend(&self, subject: &Subject, why: &'static str) -> Result<Next, Error> {
        let (context, deliveries) = (self.context, &self.context.deliveries);
        let at_once = Next::At(context.parts.clock.now());
        if deliveries.is_suspended(self.key).await? {
            return Ok(Next::WithTicket);
        }
        if read_subject::has_changed(context, subject).await? {
            return Ok(at_once);
        }
        subject.tell(context, &EventKind::Suspended(why)).await?;
        if !deliveries.set_suspended(self.key, true).await? {
            return Ok(Next::WithTicket);
        }
        // A change that comes later still ends the suspension.
        if read_subject::has_changed(context, subject).await? {
            if deliveries.set_suspended(self.key, false).await? {
                subject.tell(context, &EventKind::Resumed).await?;
            }
            return Ok(at_once);
        }
        count(&context.counters.suspended);
        let (queue, id) = (&self.key.queue, self.key.id);
        // A subscriber may be resumed and suspended without end.
        let (project, name) = (&queue.project, &queue.name);
        match SUSPENSION_LOG.failure() {
            Some(times) => {
                info!(%project, queue = %name, subscription = %id, why, times, "subscription suspended");
            }
            None => {
                debug!(%project, queue = %name, subscription = %id, why, "subscription suspended")
            }
        }
        Ok(Next::WithTicket)
    }

    /// Rows may be left that wait for a retry, or that another worker holds.
    async fn nothing_due(&mut self) -> Result<Next, Error> {
        self.finish_all().await?;
        let now = self.context.parts.clock.now();
        if self.context.deliveries.is_empty(self.key, now).await? {
            return Ok(Next::WithTicket);
        }
        let check = now.plus_secs(POLL_HELD);
        let known = match self.dues.first().filter(|_| !self.lost) {
            Some(due) => Some(*due),
            None => self.context.deliveries.first_due(self.key, now).await?,
        };
        Ok(Next::At(known.map_or(check, |due| due.min(check))))
    }
}

fn until(due: Timestamp, now: Timestamp) -> Duration {
    Duration::from_millis(due.as_millis().saturating_sub(now.as_millis()).max(1))
}

/// How many of the first rows go out in one request. Confirmations and recoveries are handled one
/// by one.
fn batch_of<'a>(rows: impl IntoIterator<Item = &'a Row>) -> usize {
    let (mut count, mut bytes) = (0, 0_usize);
    for row in rows {
        let is_alone = matches!(row.content, Content::Confirmation | Content::Recovery);
        bytes = bytes.saturating_add(match &row.body {
            Body::Here(payload) => payload.bytes.len(),
            // Rows of older versions do not say their size, so they may have any.
            Body::Shared(_, size) => size.unwrap_or(BATCH_BYTES),
        });
        if count > 0 && (is_alone || bytes > BATCH_BYTES) {
            break;
        }
        count += 1;
        if is_alone {
            break;
        }
    }
    count
}
