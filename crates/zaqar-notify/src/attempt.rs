//! Serves a row, or the rows of a batch: makes attempts until each row is delivered, ended, or
//! waits for a retry.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tracing::{debug, warn};
use zaqar_core::delivery::{DeliveryAttempt, DeliveryState};
use zaqar_core::storage::Error;
use zaqar_core::{MessageId, StateLog, Timestamp};

use crate::channel::{Outgoing, OutgoingMessage};
use crate::confirmation;
use crate::context::{Context, count};
use crate::deliveries::{EndedRow, HeldRow, Lease, ROW_LEASE};
use crate::destination::Ended;
use crate::events::{self, EventKind};
use crate::log::{self, Entry};
use crate::outcome::{Attempt, Failure, Verdict};
use crate::read_subject;
use crate::retry::{RetryAfter, Schedule};
use crate::row::{Content, Row};
use crate::subject::Subject;

/// Immediate retries in a row; the next one waits for a second.
const IMMEDIATE_ATTEMPTS: u32 = 16;
/// Seconds until a body is retried whose key is not configured.
const UNREADABLE: u64 = 60;
/// Seconds until a message is sent for which there was no memory.
const OVER_BUDGET: u64 = 5;

static UNREADABLE_LOG: StateLog = StateLog::new();
static SECRET_LOG: StateLog = StateLog::new();

/// The result for the rows that were served together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// All have ended.
    Ended,
    /// Some wait for a retry.
    RetryAt(Timestamp),
    /// The receiver is gone (410); all have ended.
    Gone,
    /// Their lease was lost: another worker may hold them.
    Lost,
}

/// The result, and what it says about the destination.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) disposition: Disposition,
    pub(crate) ended: Ended,
    /// The receiver asked for no request before this time.
    pub(crate) asked: Option<Timestamp>,
    /// Rows that have ended; the caller deletes them, together with others.
    pub(crate) rows: Vec<EndedRow>,
}

impl Report {
    /// Why its subscription is to be suspended, if it is.
    pub(crate) fn suspends(&self) -> Option<&'static str> {
        let is_gone = self.disposition == Disposition::Gone;
        is_gone.then_some("the receiver wants nothing more (410)")
    }
}

/// Delivers rows in one request, as far as possible now, and logs the result of each.
pub(crate) async fn deliver(
    context: &Context,
    subject: &Subject,
    lease: &Lease,
    rows: Vec<HeldRow>,
) -> Result<Report, Error> {
    let (ready, over, attempts) = (Vec::new(), Vec::new(), Vec::new());
    let leaves_unreadable = false;
    let mut sending = Sending { context, subject, lease, ready, over, attempts, leaves_unreadable };
    let report = sending.take(rows).await;
    for waiting in &sending.ready {
        sending.note(&waiting.held.row, DeliveryState::Pending, None);
    }
    report
}

/// A row that can be sent.
struct Ready {
    held: HeldRow,
    body: Bytes,
    /// Attempts that failed so far.
    failed: u32,
}

/// Rows that are being sent; one that ends is removed.
struct Sending<'a> {
    context: &'a Context,
    subject: &'a Subject,
    lease: &'a Lease,
    ready: Vec<Ready>,
    /// Rows that have ended and are not deleted yet.
    over: Vec<EndedRow>,
    /// Of this call: the log records them with each row.
    attempts: Vec<DeliveryAttempt>,
    /// The bodies of some rows cannot be read, so these rows wait.
    leaves_unreadable: bool,
}

impl Sending<'_> {
    async fn take(&mut self, rows: Vec<HeldRow>) -> Result<Report, Error> {
        self.sort(rows).await?;
        if self.ready.is_empty() {
            return self.over(Disposition::Ended, Ended::NotSent, None).await;
        }
        if self.subject.delivery.signing.is_some() && self.subject.keys.is_none() {
            // Never unsigned: a receiver would reject it for good.
            if let Some(attempts) = SECRET_LOG.failure() {
                let subscription = self.subject.key.id;
                warn!(%subscription, attempts, "the secret of a subscription cannot be read");
            }
            return self.wait(UNREADABLE, Ended::NotSent, None).await;
        }
        for _ in 0..IMMEDIATE_ATTEMPTS {
            let attempt = self.send().await;
            let ended = ended(&attempt);
            if is_out_of_memory(&attempt) {
                return self.wait(OVER_BUDGET, ended, None).await;
            }
            if self.ends_some(&attempt)
                && read_subject::has_changed(self.context, self.subject).await?
            {
                return self.release(ended).await;
            }
            match attempt.verdict() {
                Verdict::Delivered => {
                    self.delivered();
                    return self.over(Disposition::Ended, ended, None).await;
                }
                Verdict::Suspend => {
                    let all = std::mem::take(&mut self.ready);
                    self.fail(all, &attempt).await?;
                    return self.over(Disposition::Gone, ended, None).await;
                }
                Verdict::Rejected => {
                    let all = std::mem::take(&mut self.ready);
                    self.log_end(&all, &attempt, "the receiver rejected a message");
                    self.fail(all, &attempt).await?;
                    return self.over(Disposition::Ended, ended, None).await;
                }
                Verdict::Retry(after) => {
                    let delay = self.failed(&attempt, after).await?;
                    let now = self.context.parts.clock.now();
                    let asked = after.map(|after| later(now, after.bounded(Duration::ZERO)));
                    match delay {
                        None => return self.over(Disposition::Ended, ended, asked).await,
                        Some(Duration::ZERO) => {
                            if !self.context.deliveries.hold(self.lease, ROW_LEASE, now).await? {
                                return Ok(self.report(Disposition::Lost, ended, asked));
                            }
                        }
                        Some(delay) => {
                            let secs = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
                            return self.wait(secs, ended, asked).await;
                        }
                    }
                }
            }
        }
        self.wait(1, Ended::Failing, None).await
    }

    /// Whether an attempt ends rows without success.
    fn ends_some(&self, attempt: &Attempt) -> bool {
        match attempt.verdict() {
            Verdict::Delivered => false,
            Verdict::Suspend | Verdict::Rejected => true,
            Verdict::Retry(after) => self.ready.iter().any(|one| {
                self.subject.schedule.delay(one.failed + 1, after, rand::random()).is_none()
            }),
        }
    }

    /// Ends rows that expired, that the filter excludes or that are for another subscriber, and
    /// reads the bodies of the rest.
    async fn sort(&mut self, rows: Vec<HeldRow>) -> Result<(), Error> {
        let (context, now) = (self.context, self.context.parts.clock.now());
        for held in rows {
            if now >= held.row.expires() {
                count(&context.counters.expired);
                self.note(&held.row, DeliveryState::Expired, None);
                self.over.push(held.ended(self.lease));
                continue;
            }
            match self.body(&held).await? {
                None => self.leaves_unreadable = true,
                Some(body) if self.is_wanted(&held.row, &body) => {
                    let failed = failed_before(&self.subject.schedule, held.count);
                    self.ready.push(Ready { held, body, failed });
                }
                Some(_) => self.over.push(held.ended(self.lease)),
            }
        }
        if self.ready.is_empty() { Ok(()) } else { self.delete_over().await }
    }

    /// Deletes the rows that have ended, before the others wait: these share their lease.
    async fn delete_over(&mut self) -> Result<(), Error> {
        let rows = std::mem::take(&mut self.over);
        if rows.is_empty() {
            return Ok(());
        }
        let now = self.context.parts.clock.now();
        self.context.deliveries.finish_all(&self.subject.key, &rows, now).await
    }

    fn is_wanted(&self, row: &Row, body: &[u8]) -> bool {
        let subject = self.subject;
        let agreed = subject.subscription.confirmed || !self.context.options.require_confirmation;
        match row.content {
            Content::Test => agreed,
            Content::Recovery => false,
            Content::Confirmation => {
                confirmation::is_for(body, &subject.key, &subject.subscription.subscriber)
            }
            Content::Message => {
                agreed && subject.filter.as_ref().is_none_or(|filter| filter.passes(body))
            }
        }
    }

    async fn body(&self, held: &HeldRow) -> Result<Option<Bytes>, Error> {
        let (context, project) = (self.context, &self.subject.key.queue.project);
        let now = context.parts.clock.now();
        let payload = context.deliveries.body(project, &held.row, now).await?;
        let opened = payload.and_then(|payload| context.parts.bodies.open(project, payload));
        if opened.is_none()
            && let Some(failures) = UNREADABLE_LOG.failure()
        {
            let message = held.row.message;
            warn!(%message, failures, "cannot decrypt a message body: is its key configured?");
        }
        Ok(opened)
    }

    async fn send(&mut self) -> Attempt {
        let (at, began) = (self.context.parts.clock.now(), Instant::now());
        let attempt = self.send_once(at).await;
        let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.attempts.push(log::attempt(&attempt, at, millis));
        let subscription = self.subject.key.id;
        debug!(%subscription, messages = self.ready.len(), ?attempt, "attempt");
        attempt
    }

    async fn send_once(&self, now: Timestamp) -> Attempt {
        let subject = self.subject;
        let subscriber = &subject.subscription.subscriber;
        let Some(channel) = self.context.channel(subscriber) else {
            return Attempt::Failed(Failure::Unusable("no channel for its scheme".to_owned()));
        };
        let message = |one: &Ready| {
            let Row { message: id, ttl, content, .. } = one.held.row;
            (id, ttl, content, one.body.clone())
        };
        let messages: Vec<_> = self.ready.iter().map(message).collect();
        let messages: Vec<_> = messages
            .iter()
            .map(|(id, ttl, content, body)| OutgoingMessage {
                id: *id,
                ttl: *ttl,
                content: *content,
                body,
            })
            .collect();
        let is_confirmation = messages.iter().any(|one| one.content == Content::Confirmation);
        let outgoing = Outgoing {
            queue: &subject.key.queue,
            subscription: subject.key.id,
            subscriber,
            options: &subject.options,
            signing: subject.keys.as_ref(),
            messages: &messages,
            is_batch: subject.batch().is_some() && !is_confirmation,
            timeout: subject.delivery.timeout,
            now,
        };
        channel.send(&outgoing).await
    }

    fn delivered(&mut self) {
        for Ready { held, .. } in std::mem::take(&mut self.ready) {
            count(&self.context.counters.delivered);
            self.note(&held.row, DeliveryState::Delivered, None);
            self.over.push(held.ended(self.lease));
        }
    }

    /// Ends rows whose retries are used up. Returns how long until the first of the others is
    /// retried. Each row counts its own attempts.
    async fn failed(
        &mut self,
        attempt: &Attempt,
        after: Option<RetryAfter>,
    ) -> Result<Option<Duration>, Error> {
        let (mut used_up, mut left, mut first) = (Vec::new(), Vec::new(), None);
        for mut one in self.ready.drain(..) {
            one.failed += 1;
            match self.subject.schedule.delay(one.failed, after, rand::random()) {
                Some(delay) => {
                    count(&self.context.counters.retried);
                    first.get_or_insert(delay);
                    left.push(one);
                }
                None => used_up.push(one),
            }
        }
        self.ready = left;
        self.log_end(&used_up, attempt, "the retries of a message are used up");
        self.fail(used_up, attempt).await?;
        Ok(first)
    }

    /// Ends rows without success: told first, kept for a time so that they can be delivered once
    /// more, then settled.
    async fn fail(&self, rows: Vec<Ready>, attempt: &Attempt) -> Result<(), Error> {
        let context = self.context;
        let tells = events::queue_of(&self.subject.options).is_some();
        for Ready { held, body, .. } in &rows {
            count(&context.counters.failed);
            let is_confirmation = held.row.content == Content::Confirmation;
            if tells && !is_confirmation && !events::is_event(body) {
                let why = match attempt {
                    Attempt::Answered(answer) => format!("the receiver answered {}", answer.status),
                    Attempt::Failed(failure) => failure.to_string(),
                };
                self.subject.tell(context, &EventKind::Exhausted(held.row.message, why)).await?;
            }
            let mut kept = None;
            if context.options.log > 0 && !is_confirmation {
                let now = context.parts.clock.now();
                kept = context.deliveries.keep(&self.subject.key, &held.row, now).await?;
            }
            self.note(&held.row, DeliveryState::Failed, kept);
        }
        let rows: Vec<_> = rows.into_iter().map(|one| one.held).collect();
        if rows.is_empty() {
            return Ok(());
        }
        context.deliveries.finish(self.lease, &rows, context.parts.clock.now()).await
    }

    /// Reports the end of all rows; those that cannot be read wait.
    async fn over(
        &mut self,
        disposition: Disposition,
        ended: Ended,
        asked: Option<Timestamp>,
    ) -> Result<Report, Error> {
        if self.leaves_unreadable && disposition == Disposition::Ended {
            return self.wait(UNREADABLE, ended, asked).await;
        }
        Ok(self.report(disposition, ended, asked))
    }

    fn report(
        &mut self,
        disposition: Disposition,
        ended: Ended,
        asked: Option<Timestamp>,
    ) -> Report {
        Report { disposition, ended, asked, rows: std::mem::take(&mut self.over) }
    }

    async fn wait(
        &mut self,
        secs: u64,
        ended: Ended,
        asked: Option<Timestamp>,
    ) -> Result<Report, Error> {
        self.delete_over().await?;
        let now = self.context.parts.clock.now();
        let waits = self.context.deliveries.wait(self.lease, secs, now).await?;
        let disposition =
            waits.map_or(Disposition::Lost, |secs| Disposition::RetryAt(now.plus_secs(secs)));
        Ok(self.report(disposition, ended, asked))
    }

    /// Lets all rows be taken again at once, by what the subscription says now.
    async fn release(&mut self, ended: Ended) -> Result<Report, Error> {
        self.delete_over().await?;
        let now = self.context.parts.clock.now();
        self.context.deliveries.release(self.lease, now).await?;
        Ok(self.report(Disposition::RetryAt(now), ended, None))
    }

    /// Logs the state of a row. Without an attempt, only its end.
    fn note(&self, row: &Row, state: DeliveryState, kept: Option<MessageId>) {
        let is_logged = state != DeliveryState::Pending || !self.attempts.is_empty();
        if !is_logged || self.context.options.log == 0 || row.content == Content::Confirmation {
            return;
        }
        let (message, posted, at) = (row.message, row.created, self.context.parts.clock.now());
        let attempts = self.attempts.clone();
        let entry = Entry { message, state, posted, at, attempts, kept };
        self.context.log.add(&self.subject.key, entry);
    }

    fn log_end(&self, rows: &[Ready], attempt: &Attempt, what: &'static str) {
        let (queue, id) = (&self.subject.key.queue, self.subject.key.id);
        let (project, name) = (&queue.project, &queue.name);
        let (status, failure) = match attempt {
            Attempt::Answered(answer) => (Some(answer.status), None),
            Attempt::Failed(failure) => (None, Some(failure.to_string())),
        };
        for Ready { held, .. } in rows {
            let message = held.row.message;
            if let Some(failures) = self.context.undelivered_log.failure() {
                warn!(
                    %project, queue = %name, subscription = %id, %message, status, failure, failures,
                    "{what}"
                );
            }
        }
    }
}

/// Whether nothing was sent as this server has no memory for it at the moment.
fn is_out_of_memory(attempt: &Attempt) -> bool {
    matches!(attempt, Attempt::Failed(Failure::OverBudget(_)))
        && matches!(attempt.verdict(), Verdict::Retry(_))
}

/// What an attempt says about its destination.
fn ended(attempt: &Attempt) -> Ended {
    match attempt.verdict() {
        _ if attempt.is_overload() => Ended::Overloaded,
        // It says nothing about the destination.
        Verdict::Retry(_) if is_out_of_memory(attempt) => Ended::NotSent,
        Verdict::Delivered | Verdict::Suspend => Ended::Working,
        Verdict::Retry(_) => Ended::Failing,
        Verdict::Rejected => match attempt {
            Attempt::Answered(_) => Ended::Working,
            Attempt::Failed(_) => Ended::NotSent,
        },
    }
}

fn later(now: Timestamp, delay: Duration) -> Timestamp {
    let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
    Timestamp::from_millis(now.as_millis().saturating_add(millis))
}

/// Attempts that were made when the row was served before: each time one, and its immediate
/// retries.
fn failed_before(schedule: &Schedule, count: u32) -> u32 {
    let mut failed = 0_u32;
    for _ in 1..count {
        failed = failed.saturating_add(1);
        for _ in 1..IMMEDIATE_ATTEMPTS {
            if schedule.delay(failed, None, 0.5) != Some(Duration::ZERO) {
                break;
            }
            failed = failed.saturating_add(1);
        }
    }
    failed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry::RetryPolicy;

    #[test]
    fn attempts_are_counted_as_the_policy_does() {
        let schedule = Schedule { policy: RetryPolicy::default(), tail: None };
        // The first time makes four attempts, later times make one each.
        let found: Vec<_> = (1..=5).map(|count| failed_before(&schedule, count)).collect();
        assert_eq!(found, [0, 4, 5, 6, 7]);
        let policy = RetryPolicy { retries_with_no_delay: 0, ..RetryPolicy::default() };
        let schedule = Schedule { policy, tail: None };
        let found: Vec<_> = (1..=4).map(|count| failed_before(&schedule, count)).collect();
        assert_eq!(found, [0, 1, 2, 3]);
        let policy = RetryPolicy { retries_with_no_delay: 40, ..RetryPolicy::default() };
        let schedule = Schedule { policy, tail: None };
        let found: Vec<_> = (1..=5).map(|count| failed_before(&schedule, count)).collect();
        assert_eq!(found, [0, 16, 32, 41, 42]);
    }
}
