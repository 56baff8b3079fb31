//! Serves one subscription: sends its rows, as many at once as its destination accepts.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;
use zaqar_core::Timestamp;
use zaqar_core::storage::Error;

use crate::attempt::{self, Disposition, Report};
use crate::context::{Context, count};
use crate::deliveries::{HeldRow, Lease, Taken};
use crate::delivery_options::DeliveryOptions;
use crate::destination::{Admission, Ended};
use crate::events::EventKind;
use crate::fairness::InFlight;
use crate::recovery;
use crate::row::{Body, Content, Row, SubscriptionKey};
use crate::subject::Subject;

/// How long a subscription that was read is considered current, in seconds.
const MAX_AGE: u64 = 5;
/// How long to wait for capacity before checking again.
const WAIT: Duration = Duration::from_millis(200);
/// Seconds until a subscription is served again that got no capacity within [`WAIT`].
const RETRY_WITHOUT_CAPACITY: u64 = 1;
/// Rows without a possible destination that are ended at once, at most.
const MAX_UNSENDABLE: usize = 16;
/// Seconds between checks of rows that another worker holds.
const POLL_HELD: u64 = 30;

/// Bytes of a batch's messages, at most, unless a single one is larger.
const BATCH_BYTES: usize = 1024 * 1024;
/// Rows that are read at a time to see how many fit.
const PAGE: usize = 20;

/// When a subscription is served again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// With its next ticket: it has no rows, or is suspended.
    WithTicket,
    /// At this time.
    At(Timestamp),
    /// Never: it is gone, and its rows are deleted.
    Never,
}

/// When one more attempt may start.
enum Admitted {
    /// Now; `None` if there is no destination to send to.
    Now(Option<InFlight>),
    /// When one in flight has ended.
    WhenOneEnds,
    /// Later, after this call.
    Later(Next),
}

/// Delivers a subscription's rows until none is due.
pub(crate) async fn serve(
    context: &Arc<Context>,
    key: &SubscriptionKey,
    shutdown: &CancellationToken,
) -> Result<Next, Error> {
    let mut service = Service {
        context,
        key,
        running: JoinSet::new(),
        waits_since: None,
        first_due: None,
        is_gone: false,
        lost: false,
    };
    let next = service.run(shutdown).await;
    // Attempts in progress continue, even if the store failed meanwhile.
    while service.running.join_next().await.is_some() {}
    next
}

struct Service<'a> {
    context: &'a Arc<Context>,
    key: &'a SubscriptionKey,
    running: JoinSet<Result<Disposition, Error>>,
    /// Since when it waits for capacity.
    waits_since: Option<Instant>,
    /// When the first of its waiting rows is retried.
    first_due: Option<Timestamp>,
    is_gone: bool,
    lost: bool,
}

impl Service<'_> {
    async fn run(&mut self, shutdown: &CancellationToken) -> Result<Next, Error> {
        let clock = &self.context.parts.clock;
        let deliveries = &self.context.deliveries;
        let mut read: Option<(Arc<Subject>, Timestamp)> = None;
        loop {
            while let Some(ended) = self.running.try_join_next() {
                self.note(ended)?;
            }
            if shutdown.is_cancelled() {
                self.finish_running().await?;
                return Ok(Next::At(clock.now()));
            }
            let now = clock.now();
            let Some(subject) = self.subject(&mut read, now).await? else {
                self.finish_running().await?;
                deliveries.remove(self.key).await?;
                return Ok(Next::Never);
            };
            if self.is_gone {
                self.finish_running().await?;
                return self.suspend(&subject, "the receiver wants nothing more (410)").await;
            }
            if self.running.len() >= at_once(&subject.delivery) {
                if let Some(ended) = self.running.join_next().await {
                    self.note(ended)?;
                }
                continue;
            }
            let flight = match self.admit(&subject, now).await? {
                Admitted::Now(flight) => flight,
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
            // Only after capacity was found: while it waits, the store is not queried.
            if subject.delivery.ordered && !deliveries.is_first_due(self.key, now).await? {
                return self.nothing_due().await;
            }
            let limit = self.batch(&subject, now).await?;
            match deliveries.take(self.key, limit, now).await? {
                Taken::Rows(lease, rows)
                    if subject.delivery.ordered
                        && !deliveries.is_first(self.key, &rows[0], now).await? =>
                {
                    // Another server took the first row meanwhile.
                    drop(flight);
                    deliveries.release(&lease, now).await?;
                    return self.nothing_due().await;
                }
                Taken::Rows(lease, rows) => {
                    if batch_of(rows.iter().map(|held| &held.row)) == rows.len() {
                        self.start(subject, lease, rows, flight);
                    } else {
                        // Another server took earlier rows meanwhile.
                        drop(flight);
                        deliveries.release(&lease, now).await?;
                    }
                }
                Taken::Suspended => {
                    drop(flight);
                    self.finish_running().await?;
                    return Ok(Next::WithTicket);
                }
                Taken::Nothing => {
                    drop(flight);
                    match self.running.join_next().await {
                        Some(ended) => self.note(ended)?,
                        None => return self.nothing_due().await,
                    }
                }
            }
        }
    }

    /// How many of the first due rows go out in one request; at least one. Determined before they
    /// are taken, because taking a row and giving it back counts as an attempt.
    async fn batch(&self, subject: &Subject, now: Timestamp) -> Result<usize, Error> {
        let Some(most) = subject.batch().filter(|most| *most > 1) else { return Ok(1) };
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

    /// The subscription and its subscriber, read again when they are no longer current; `None` if
    /// it is gone.
    async fn subject(
        &self,
        read: &mut Option<(Arc<Subject>, Timestamp)>,
        now: Timestamp,
    ) -> Result<Option<Arc<Subject>>, Error> {
        if let Some((subject, at)) = read
            && now.secs_since(*at) < MAX_AGE
        {
            return Ok(Some(Arc::clone(subject)));
        }
        let found = Subject::read(self.context, self.key).await?;
        Ok(found.map(|subject| Arc::clone(&read.insert((Arc::new(subject), now)).0)))
    }

    /// Whether the subscription's rate and the destination allow one more attempt.
    async fn admit(&mut self, subject: &Subject, now: Timestamp) -> Result<Admitted, Error> {
        if let Some(pause) = subject.delivery.pause
            && let Some(next) = self.context.rates.not_before(self.key, pause, now)
        {
            self.finish_running().await?;
            return Ok(Admitted::Later(Next::At(next)));
        }
        let Ok(origin) = &subject.origin else {
            // There is no destination: the attempt says why and ends the row.
            let is_full = self.running.len() >= MAX_UNSENDABLE;
            return Ok(if is_full { Admitted::WhenOneEnds } else { Admitted::Now(None) });
        };
        match self.context.fairness.start(&self.key.queue.project, origin, now) {
            Ok(flight) => Ok(Admitted::Now(Some(flight))),
            Err(Admission::NotBefore(probe)) => {
                self.finish_running().await?;
                Ok(Admitted::Later(Next::At(probe)))
            }
            Err(Admission::Suspended) => {
                self.finish_running().await?;
                Ok(Admitted::Later(self.suspend(subject, "nothing has succeeded for days").await?))
            }
            Err(Admission::Full | Admission::Started) => Ok(Admitted::WhenOneEnds),
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
        self.running.spawn(async move {
            let recovery = rows.pop_if(|held| held.row.content == Content::Recovery);
            let reported = match recovery {
                Some(held) => recovery::step(&context, &subject.key, &lease, held).await,
                None => attempt::deliver(&context, &subject, &lease, rows).await,
            };
            let now = context.parts.clock.now();
            let disposition = match reported {
                Ok(Report { disposition, ended, asked }) => {
                    if let Some(flight) = flight {
                        flight.end(ended, asked, now);
                    }
                    Ok(disposition)
                }
                Err(error) => {
                    if let Some(flight) = flight {
                        flight.end(Ended::NotSent, None, now);
                    }
                    Err(error)
                }
            };
            context.freed.notify_waiters();
            disposition
        });
    }

    fn note(
        &mut self,
        ended: Result<Result<Disposition, Error>, tokio::task::JoinError>,
    ) -> Result<(), Error> {
        match ended.map_err(Error::failed)?? {
            Disposition::Ended => {}
            Disposition::RetryAt(due) => {
                self.first_due = Some(self.first_due.map_or(due, |first| first.min(due)));
            }
            Disposition::Gone => self.is_gone = true,
            Disposition::Lost => self.lost = true,
        }
        Ok(())
    }

    async fn finish_running(&mut self) -> Result<(), Error> {
        while let Some(ended) = self.running.join_next().await {
            self.note(ended)?;
        }
        Ok(())
    }

    /// Whether to let other subscriptions be served: nothing of it is in flight, and it has waited.
    fn gives_up(&mut self) -> bool {
        let since = *self.waits_since.get_or_insert_with(Instant::now);
        self.running.is_empty() && since.elapsed() >= WAIT
    }

    async fn wait_for_capacity(&mut self) -> Result<(), Error> {
        let ended = tokio::select! {
            ended = self.running.join_next(), if !self.running.is_empty() => ended,
            () = self.context.freed.notified() => None,
            () = tokio::time::sleep(WAIT) => None,
        };
        ended.map_or(Ok(()), |ended| self.note(ended))
    }

    async fn suspend(&self, subject: &Subject, why: &'static str) -> Result<Next, Error> {
        let (queue, id) = (&self.key.queue, self.key.id);
        if self.context.deliveries.is_suspended(self.key).await? {
            return Ok(Next::WithTicket);
        }
        subject.tell(self.context, &EventKind::Suspended(why)).await?;
        if !self.context.deliveries.set_suspended(self.key, true).await? {
            return Ok(Next::WithTicket);
        }
        count(&self.context.counters.suspended);
        let (project, name) = (&queue.project, &queue.name);
        info!(%project, queue = %name, subscription = %id, why, "subscription suspended");
        Ok(Next::WithTicket)
    }

    /// Rows may be left that wait for a retry, or that another worker holds.
    async fn nothing_due(&self) -> Result<Next, Error> {
        let now = self.context.parts.clock.now();
        if self.context.deliveries.is_empty(self.key, now).await? {
            return Ok(Next::WithTicket);
        }
        let check = now.plus_secs(POLL_HELD);
        let known = match self.first_due.filter(|_| !self.lost) {
            Some(due) => Some(due),
            None => self.context.deliveries.first_due(self.key, now).await?,
        };
        Ok(Next::At(known.map_or(check, |due| due.min(check))))
    }
}

/// The number of requests that a subscription may have in flight.
fn at_once(delivery: &DeliveryOptions) -> usize {
    if delivery.ordered { 1 } else { delivery.max_in_flight.unwrap_or(usize::MAX) }
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
