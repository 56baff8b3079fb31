//! Producers, consumers and observers.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::checks::{Checks, Order};
use crate::envelope::{Label, Payloads, label};
use crate::link::{CLAIM_TTL, Claimed, Link};
use crate::pace::Pace;
use crate::stats::{Kind, Stats, lock};

/// The pause of a consumer or observer that found nothing.
const IDLE: Duration = Duration::from_millis(5);
/// The pause after an error: a server that rejects everything is not flooded.
const AFTER_ERROR: Duration = Duration::from_millis(50);

/// What all workers of a run share.
pub(crate) struct Run {
    pub(crate) id: u64,
    pub(crate) start: Instant,
    pub(crate) stats: Stats,
    pub(crate) checks: Mutex<Checks>,
    pub(crate) payloads: Payloads,
    pub(crate) batch: usize,
    pub(crate) claim: u32,
    pub(crate) ttl: u64,
    /// Messages that producers may still begin.
    pub(crate) left: AtomicU64,
    pub(crate) phase: watch::Receiver<Phase>,
}

/// Who is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Everybody.
    Measure,
    /// Consumers empty the queues.
    Drain,
    /// Nobody.
    Ended,
}

impl Run {
    fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Waits for a future or a phase, whichever comes first.
    async fn until<T>(&self, phase: Phase, future: impl Future<Output = T>) -> Option<T> {
        let mut changes = self.phase.clone();
        tokio::select! {
            value = future => Some(value),
            _ = changes.wait_for(|now| *now >= phase) => None,
        }
    }

    fn take(&self, most: u64) -> u64 {
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            Some(left.saturating_sub(most))
        });
        taken.unwrap_or(0).min(most)
    }

    fn micros(&self, at: Instant) -> u64 {
        u64::try_from((at - self.start).as_micros()).unwrap_or(u64::MAX)
    }
}

/// Posts until the time or the messages are over.
pub(crate) async fn produce(run: &Run, link: Link, producer: u32, mut pace: Pace) {
    let mut number = 0;
    while run.phase() == Phase::Measure {
        let Some(due) = run.until(Phase::Drain, pace.due()).await else { return };
        let count = run.take(run.batch as u64);
        if count == 0 {
            return;
        }
        let due_us = run.micros(due);
        let labels: Vec<_> = (number..number + count)
            .map(|number| Label { run: run.id, producer, number, due_us })
            .collect();
        number += count;
        let messages = labels
            .iter()
            .map(|&label| run.payloads.message(label).map(|message| message.ttl(run.ttl)));
        // Labels and payloads are JSON.
        let Ok(messages) = messages.collect::<Result<Vec<_>, _>>() else { return };
        match link.post(messages).await {
            Ok(()) => {
                run.stats.record(Kind::Post, due.elapsed(), labels.len());
                let mut checks = lock(&run.checks);
                labels.into_iter().for_each(|label| checks.posted(label));
            }
            Err(error) => {
                run.stats.error(Kind::Post, &error);
                tokio::time::sleep(AFTER_ERROR).await;
            }
        }
    }
}

/// Claims and deletes until nobody posts any more and the queue is empty.
pub(crate) async fn consume(run: &Run, link: Link, consumer: usize) {
    let mut order = Order::default();
    while run.phase() < Phase::Ended {
        let asked = Instant::now();
        match link.claim(run.claim).await {
            Ok(Some(claimed)) => {
                take(run, &link, consumer, &mut order, asked, &claimed).await;
            }
            Ok(None) => {
                run.stats.empty.fetch_add(1, Ordering::Relaxed);
                run.until(Phase::Ended, tokio::time::sleep(IDLE)).await;
            }
            Err(error) => {
                run.stats.error(Kind::Claim, &error);
                if error.may_be_done() {
                    lock(&run.checks).claim_unanswered();
                }
                run.until(Phase::Ended, tokio::time::sleep(AFTER_ERROR)).await;
            }
        }
    }
}

async fn take(
    run: &Run,
    link: &Link,
    consumer: usize,
    order: &mut Order,
    asked: Instant,
    claimed: &Claimed,
) {
    let got = Instant::now();
    run.stats.record(Kind::Claim, got - asked, claimed.messages.len());
    let labels: Vec<_> =
        claimed.messages.iter().filter_map(|message| label(&message.body, run.id)).collect();
    for label in &labels {
        let waited = run.micros(got).saturating_sub(label.due_us);
        run.stats.record(Kind::EndToEnd, Duration::from_micros(waited), 1);
    }
    // The claim lives from when the server made it, which is not before it was asked.
    let until = asked + Duration::from_secs(CLAIM_TTL);
    lock(&run.checks).claimed(consumer, order, &labels, until);
    let asked = Instant::now();
    match link.delete(claimed).await {
        Ok(()) => {
            run.stats.record(Kind::Delete, asked.elapsed(), claimed.messages.len());
            let mut checks = lock(&run.checks);
            labels.into_iter().for_each(|label| checks.deleted(label));
        }
        Err(error) => {
            run.stats.error(Kind::Delete, &error);
            let mut checks = lock(&run.checks);
            for label in labels {
                // The claim is released when it is dropped: before that nobody else gets them.
                checks.released(label);
                if error.may_be_done() {
                    checks.maybe_deleted(label);
                }
            }
        }
    }
}

/// Reads pages behind its last message while others post and delete.
pub(crate) async fn observe(run: &Run, link: Link) {
    let mut order = Order::default();
    let mut marker = None;
    while run.phase() == Phase::Measure {
        let asked = Instant::now();
        match link.list(marker.as_ref()).await {
            Ok(page) => {
                run.stats.record(Kind::List, asked.elapsed(), page.messages.len());
                let is_empty = page.messages.is_empty();
                for message in page.messages {
                    if let Some(label) = label(&message.body, run.id) {
                        lock(&run.checks).seen(&mut order, label);
                    }
                }
                marker = page.marker.or(marker);
                if is_empty {
                    run.until(Phase::Drain, tokio::time::sleep(IDLE)).await;
                }
            }
            Err(error) => {
                run.stats.error(Kind::List, &error);
                run.until(Phase::Drain, tokio::time::sleep(AFTER_ERROR)).await;
            }
        }
    }
}
