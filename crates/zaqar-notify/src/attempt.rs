//! One row's turn: attempts until it is delivered, ended, or waits for a retry.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tracing::{debug, warn};
use zaqar_core::delivery::{DeliveryAttempt, DeliveryState};
use zaqar_core::storage::Error;
use zaqar_core::{MessageId, Timestamp};

use crate::channel::Outgoing;
use crate::context::{Context, count};
use crate::deliveries::{HeldRow, ROW_LEASE};
use crate::destination::Ended;
use crate::events::{self, Happened};
use crate::log::{self, Entry};
use crate::outcome::{Attempt, Failure, Verdict};
use crate::retry::Schedule;
use crate::row::Content;
use crate::subject::Subject;

/// Retries without a delay that follow each other; the next waits for a second.
const AT_ONCE: u32 = 16;
/// Seconds until a body whose key is not configured is tried again.
const UNREADABLE: u64 = 60;

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It has ended.
    Over,
    /// It waits for a retry.
    Waits(Timestamp),
    /// The receiver wants nothing more; it has ended.
    Gone,
    /// Another worker may have it.
    Lost,
}

/// A turn, and what it says about the destination.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) turn: Turn,
    pub(crate) ended: Ended,
    /// Before this the receiver wants to be left alone.
    pub(crate) asked: Option<Timestamp>,
    /// How far the delivery is, for the log; `None` for one that nobody was to have.
    state: Option<DeliveryState>,
}

impl Report {
    const fn not_sent(turn: Turn, state: Option<DeliveryState>) -> Self {
        Self { turn, ended: Ended::NotSent, asked: None, state }
    }
}

/// Delivers a row, as far as that can be done now, and notes in the log what came of it.
pub(crate) async fn deliver(
    context: &Context,
    subject: &Subject,
    held: &HeldRow,
) -> Result<Report, Error> {
    let mut turn = Notes::default();
    let delivered = take_turn(context, subject, held, &mut turn).await;
    let state = match &delivered {
        Ok(report) => report.state,
        Err(_) => Some(DeliveryState::Pending),
    };
    let Notes { attempts, kept } = turn;
    let is_told =
        state.is_some_and(|state| state != DeliveryState::Pending || !attempts.is_empty());
    if let (Some(state), true) = (state, is_told && context.options.log > 0)
        && held.row.content != Content::Confirmation
    {
        let (message, posted) = (held.row.message, held.row.created);
        let at = context.parts.clock.now();
        context.log.add(&subject.key, Entry { message, state, posted, at, attempts, kept });
    }
    delivered
}

/// What the log is told of a turn.
#[derive(Debug, Default)]
struct Notes {
    attempts: Vec<DeliveryAttempt>,
    kept: Option<MessageId>,
}

/// Ends a row without success. It is kept for a time, so that it can be delivered once more.
async fn fail(
    context: &Context,
    subject: &Subject,
    held: &HeldRow,
    (body, attempt): (&[u8], &Attempt),
    notes: &mut Notes,
) -> Result<(), Error> {
    count(&context.counters.failed);
    let now = context.parts.clock.now();
    let is_told = events::queue_of(&subject.options).is_some()
        && held.row.content != Content::Confirmation
        && !events::is_event(body);
    if is_told {
        let why = match attempt {
            Attempt::Answered(answer) => format!("the receiver answered {}", answer.status),
            Attempt::Failed(failure) => failure.to_string(),
        };
        subject.tell(context, &Happened::Exhausted(held.row.message, why));
    }
    if context.options.log > 0 && held.row.content != Content::Confirmation {
        notes.kept = context.deliveries.keep(&subject.key, &held.row, now).await?;
    }
    context.deliveries.finish(held, now).await
}

async fn take_turn(
    context: &Context,
    subject: &Subject,
    held: &HeldRow,
    notes: &mut Notes,
) -> Result<Report, Error> {
    let clock = &context.parts.clock;
    if clock.now() >= held.row.expires() {
        count(&context.counters.expired);
        context.deliveries.finish(held, clock.now()).await?;
        return Ok(Report::not_sent(Turn::Over, Some(DeliveryState::Expired)));
    }
    let Some(body) = body(context, subject, held).await? else {
        return wait(context, held, UNREADABLE, Ended::NotSent, None).await;
    };
    let is_wanted = match held.row.content {
        Content::Confirmation | Content::Test => true,
        Content::Message => {
            (subject.subscription.confirmed || !context.options.require_confirmation)
                && subject.filter.as_ref().is_none_or(|filter| filter.passes(&body))
        }
    };
    if !is_wanted {
        context.deliveries.finish(held, clock.now()).await?;
        return Ok(Report::not_sent(Turn::Over, None));
    }
    if subject.delivery.signing && subject.keys.is_none() {
        // Never unsigned: a receiver would reject it for good.
        warn!(subscription = %subject.key.id, "the secret of a subscription cannot be read");
        return wait(context, held, UNREADABLE, Ended::NotSent, None).await;
    }
    let mut failed = failed_before(&subject.schedule, held.count);
    for _ in 0..AT_ONCE {
        let (at, began) = (clock.now(), Instant::now());
        let attempt = send(context, subject, held, &body).await;
        let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        notes.attempts.push(log::attempt(&attempt, at, millis));
        let ended = ended(&attempt);
        let report = |turn, state| Report { turn, ended, asked: None, state: Some(state) };
        match attempt.verdict() {
            Verdict::Delivered => {
                count(&context.counters.delivered);
                context.deliveries.finish(held, clock.now()).await?;
                return Ok(report(Turn::Over, DeliveryState::Delivered));
            }
            Verdict::Suspend => {
                fail(context, subject, held, (&body, &attempt), notes).await?;
                return Ok(report(Turn::Gone, DeliveryState::Failed));
            }
            Verdict::Rejected => {
                log_end(subject, held, &attempt, "the receiver rejected a message");
                fail(context, subject, held, (&body, &attempt), notes).await?;
                return Ok(report(Turn::Over, DeliveryState::Failed));
            }
            Verdict::Retry(after) => {
                failed += 1;
                let delay = subject.schedule.delay(failed, after, rand::random());
                let asked = after.map(|after| later(clock.now(), after.bounded(Duration::ZERO)));
                let report = |turn, state| Report { asked, ..report(turn, state) };
                match delay {
                    None => {
                        log_end(subject, held, &attempt, "the retries of a message are used up");
                        fail(context, subject, held, (&body, &attempt), notes).await?;
                        return Ok(report(Turn::Over, DeliveryState::Failed));
                    }
                    Some(Duration::ZERO) => {
                        count(&context.counters.retried);
                        let now = clock.now();
                        if !context.deliveries.hold(held, ROW_LEASE, now).await? {
                            return Ok(report(Turn::Lost, DeliveryState::Pending));
                        }
                    }
                    Some(delay) => {
                        count(&context.counters.retried);
                        let secs = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
                        return wait(context, held, secs, ended, asked).await;
                    }
                }
            }
        }
    }
    wait(context, held, 1, Ended::Failing, None).await
}

async fn wait(
    context: &Context,
    held: &HeldRow,
    secs: u64,
    ended: Ended,
    asked: Option<Timestamp>,
) -> Result<Report, Error> {
    let now = context.parts.clock.now();
    let waits = context.deliveries.wait(held, secs, now).await?;
    let turn = waits.map_or(Turn::Lost, |secs| Turn::Waits(now.plus_secs(secs)));
    Ok(Report { turn, ended, asked, state: Some(DeliveryState::Pending) })
}

async fn body(
    context: &Context,
    subject: &Subject,
    held: &HeldRow,
) -> Result<Option<Bytes>, Error> {
    let project = &subject.key.queue.project;
    let now = context.parts.clock.now();
    let payload = context.deliveries.body(project, &held.row, now).await?;
    let opened = payload.and_then(|payload| context.parts.bodies.open(project, payload));
    if opened.is_none() {
        warn!(
            message = %held.row.message,
            "a body cannot be read for its subscribers: is its key configured?"
        );
    }
    Ok(opened)
}

async fn send(context: &Context, subject: &Subject, held: &HeldRow, body: &[u8]) -> Attempt {
    let subscriber = &subject.subscription.subscriber;
    let Some(channel) = context.channel(subscriber) else {
        return Attempt::Failed(Failure::Unusable("no channel for its scheme".to_owned()));
    };
    let outgoing = Outgoing {
        queue: &subject.key.queue,
        subscription: subject.key.id,
        subscriber,
        options: &subject.options,
        signing: subject.keys.as_ref(),
        message: held.row.message,
        ttl: held.row.ttl,
        content: held.row.content,
        body,
        timeout: subject.delivery.timeout,
        now: context.parts.clock.now(),
    };
    let attempt = channel.send(&outgoing).await;
    debug!(subscription = %subject.key.id, message = %held.row.message, ?attempt, "attempt");
    attempt
}

/// What an attempt says about its destination.
fn ended(attempt: &Attempt) -> Ended {
    match attempt.verdict() {
        _ if attempt.is_overload() => Ended::Overloaded,
        Verdict::Delivered | Verdict::Suspend => Ended::Working,
        Verdict::Retry(_) => Ended::Failing,
        Verdict::Rejected => match attempt {
            Attempt::Answered(_) => Ended::Working,
            Attempt::Failed(_) => Ended::NotSent,
        },
    }
}

fn log_end(subject: &Subject, held: &HeldRow, attempt: &Attempt, what: &'static str) {
    let queue = &subject.key.queue;
    let status = match attempt {
        Attempt::Answered(answer) => Some(answer.status),
        Attempt::Failed(_) => None,
    };
    let failure = match attempt {
        Attempt::Answered(_) => None,
        Attempt::Failed(failure) => Some(failure.to_string()),
    };
    warn!(
        project = %queue.project,
        queue = %queue.name,
        subscription = %subject.key.id,
        message = %held.row.message,
        status,
        failure,
        "{what}"
    );
}

fn later(now: Timestamp, delay: Duration) -> Timestamp {
    let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
    Timestamp::from_millis(now.as_millis().saturating_add(millis))
}

/// Attempts that a row's earlier turns made: each its first one, and retries without a delay.
fn failed_before(schedule: &Schedule, turn: u32) -> u32 {
    let mut failed = 0_u32;
    for _ in 1..turn {
        failed = failed.saturating_add(1);
        for _ in 1..AT_ONCE {
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
    fn turns_count_attempts_as_the_policy_does() {
        let schedule = Schedule { policy: RetryPolicy::default(), tail: None };
        // The first turn makes four attempts at once, every other one.
        let found: Vec<_> = (1..=5).map(|turn| failed_before(&schedule, turn)).collect();
        assert_eq!(found, [0, 4, 5, 6, 7]);
        let policy = RetryPolicy { retries_with_no_delay: 0, ..RetryPolicy::default() };
        let schedule = Schedule { policy, tail: None };
        let found: Vec<_> = (1..=4).map(|turn| failed_before(&schedule, turn)).collect();
        assert_eq!(found, [0, 1, 2, 3]);
        let policy = RetryPolicy { retries_with_no_delay: 40, ..RetryPolicy::default() };
        let schedule = Schedule { policy, tail: None };
        let found: Vec<_> = (1..=5).map(|turn| failed_before(&schedule, turn)).collect();
        assert_eq!(found, [0, 16, 32, 41, 42]);
    }
}
