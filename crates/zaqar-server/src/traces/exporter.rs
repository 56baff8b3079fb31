//! Queues spans of requests and sends them in batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use zaqar_core::StateLog;

use super::span::Span;

/// Spans in the queue, at most; further ones are dropped.
const QUEUE: usize = 4096;
/// Spans per batch, at most.
const BATCH: usize = 512;
/// How long a span waits for others.
const DELAY: Duration = Duration::from_secs(1);
/// Attempts to send a batch.
const TRIES: u32 = 4;
/// The pause after the first failure; it doubles.
const PAUSE: Duration = Duration::from_millis(500);
/// The time for sending the rest at a stop; spans left after that are dropped.
const LAST: Duration = Duration::from_secs(3);

/// The destination of spans.
#[async_trait]
pub(super) trait Sink: Send + Sync {
    /// Sends spans.
    ///
    /// # Behavior
    /// - Returns in bounded time.
    async fn send(&self, spans: &[Arc<Span>]) -> Result<(), Failure>;
}

/// Why spans could not be sent.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub(super) struct Failure {
    is_retryable: bool,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl Failure {
    pub(super) fn retryable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { is_retryable: true, source: source.into() }
    }

    pub(super) fn permanent(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { is_retryable: false, source: source.into() }
    }
}

/// Counts of spans. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts(Arc<[AtomicU64; 2]>);

impl Counts {
    /// Spans that were sent.
    pub(crate) fn sent(&self) -> u64 {
        self.0[0].load(Ordering::Relaxed)
    }

    /// Spans that were dropped, because the queue was full or they could not be sent.
    pub(crate) fn dropped(&self) -> u64 {
        self.0[1].load(Ordering::Relaxed)
    }

    fn add(&self, place: usize, count: usize) {
        self.0[place].fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// The sending half of an exporter's queue.
#[derive(Debug, Clone)]
pub(super) struct SpanSender {
    sender: mpsc::Sender<Arc<Span>>,
    counts: Counts,
}

impl SpanSender {
    /// Queues a span, or drops it if the queue is full. Never blocks.
    pub(super) fn take(&self, span: &Arc<Span>) {
        if self.sender.try_send(Arc::clone(span)).is_err() {
            self.counts.add(1, 1);
        }
    }
}

/// Sends the queued spans.
pub(super) struct Exporter {
    receiver: mpsc::Receiver<Arc<Span>>,
    sink: Box<dyn Sink>,
    counts: Counts,
    log: StateLog,
}

impl Exporter {
    pub(super) fn new(sink: Box<dyn Sink>, counts: Counts) -> (SpanSender, Self) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let sender = SpanSender { sender, counts: counts.clone() };
        (sender, Self { receiver, sink, counts, log: StateLog::new() })
    }

    /// Sends until `stop`, and then the rest, for at most [`LAST`].
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        let over = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST).await;
        };
        tokio::select! {
            () = self.send_all(&mut batch, &stop) => return,
            () = over => {}
        }
        // The batch in progress, and the queue.
        self.receiver.close();
        let waited = std::iter::from_fn(|| self.receiver.try_recv().ok()).count();
        self.counts.add(1, batch.len() + waited);
    }

    async fn send_all(&mut self, batch: &mut Vec<Arc<Span>>, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => break,
                count = self.receiver.recv_many(batch, BATCH) => if count == 0 { return },
            }
            self.fill(batch, stop).await;
            self.deliver(batch, stop).await;
            batch.clear();
        }
        self.receiver.close();
        while self.receiver.recv_many(batch, BATCH).await > 0 {
            match self.sink.send(batch).await {
                Ok(()) => self.counts.add(0, batch.len()),
                Err(error) => self.failed(batch, &error),
            }
            batch.clear();
        }
    }

    /// Waits briefly for more spans.
    async fn fill(&mut self, batch: &mut Vec<Arc<Span>>, stop: &CancellationToken) {
        let until = Instant::now() + DELAY;
        while batch.len() < BATCH {
            let free = BATCH - batch.len();
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(until) => return,
                count = self.receiver.recv_many(batch, free) => if count == 0 { return },
            }
        }
    }

    async fn deliver(&self, batch: &[Arc<Span>], stop: &CancellationToken) {
        let mut pause = PAUSE;
        for attempt in 1..=TRIES {
            match self.sink.send(batch).await {
                Ok(()) => {
                    self.counts.add(0, batch.len());
                    if let Some(failures) = self.log.success() {
                        info!(failures, "spans are sent again");
                    }
                    return;
                }
                Err(error) if !error.is_retryable || attempt == TRIES => {
                    return self.failed(batch, &error);
                }
                Err(error) if stop.is_cancelled() => return self.failed(batch, &error),
                Err(_) => {}
            }
            tokio::select! {
                // One last attempt.
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
            pause *= 2;
        }
    }

    fn failed(&self, batch: &[Arc<Span>], error: &Failure) {
        self.counts.add(1, batch.len());
        if let Some(failures) = self.log.failure() {
            let error = error as &dyn std::error::Error;
            warn!(error, failures, "spans cannot be sent");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::super::span::{Kind, SpanId};
    use super::*;

    /// Never answers.
    struct Silent;

    #[async_trait]
    impl Sink for Silent {
        async fn send(&self, _: &[Arc<Span>]) -> Result<(), Failure> {
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_is_bounded_while_spans_are_being_sent() {
        let counts = Counts::default();
        let (sender, exporter) = Exporter::new(Box::new(Silent), counts.clone());
        let span = Arc::new(Span {
            trace: 1,
            id: SpanId::random(),
            parent: None,
            kind: Kind::Internal,
            name: "push".to_owned(),
            began: UNIX_EPOCH,
            ended: UNIX_EPOCH,
            attributes: Vec::new(),
            error: None,
            profile: None,
        });
        let stop = CancellationToken::new();
        let running = tokio::spawn(exporter.run(stop.clone()));
        for _ in 0..3 {
            sender.take(&span);
        }
        tokio::time::sleep(2 * DELAY).await;
        // The first three are being sent; two more wait.
        for _ in 0..2 {
            sender.take(&span);
        }
        let began = Instant::now();
        stop.cancel();
        running.await.unwrap();
        assert!(began.elapsed() < LAST + Duration::from_millis(100), "{:?}", began.elapsed());
        assert_eq!((counts.sent(), counts.dropped()), (0, 5));
    }
}
