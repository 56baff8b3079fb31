//! Takes spans from the path of requests and sends them, in batches, to where they are kept.

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

/// Spans that wait, at most; one more is dropped.
const QUEUE: usize = 4096;
/// Spans that are sent together, at most.
const BATCH: usize = 512;
/// How long a span waits for others.
const DELAY: Duration = Duration::from_secs(1);
/// How often a batch is tried.
const TRIES: u32 = 4;
/// The pause after the first failure; it doubles.
const PAUSE: Duration = Duration::from_millis(500);
/// What a stop may take: spans that were not sent until then are dropped.
const LAST: Duration = Duration::from_secs(3);

/// Where spans are kept.
#[async_trait]
pub(super) trait Sink: Send + Sync {
    /// Sends spans.
    ///
    /// # Behavior
    /// - Ends in bounded time.
    async fn send(&self, spans: &[Arc<Span>]) -> Result<(), Failure>;
}

/// Why spans were not sent.
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

/// What became of spans. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts(Arc<[AtomicU64; 2]>);

impl Counts {
    /// Spans that were sent.
    pub(crate) fn sent(&self) -> u64 {
        self.0[0].load(Ordering::Relaxed)
    }

    /// Spans that were dropped: too many waited, or they could not be sent.
    pub(crate) fn dropped(&self) -> u64 {
        self.0[1].load(Ordering::Relaxed)
    }

    fn add(&self, place: usize, count: usize) {
        self.0[place].fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// The end of an exporter's queue that takes spans.
#[derive(Debug, Clone)]
pub(super) struct Inlet {
    sender: mpsc::Sender<Arc<Span>>,
    counts: Counts,
}

impl Inlet {
    /// Takes a span, or drops it where too many wait. Never blocks.
    pub(super) fn take(&self, span: &Arc<Span>) {
        if self.sender.try_send(Arc::clone(span)).is_err() {
            self.counts.add(1, 1);
        }
    }
}

/// Sends what its inlet takes.
pub(super) struct Exporter {
    receiver: mpsc::Receiver<Arc<Span>>,
    sink: Box<dyn Sink>,
    counts: Counts,
    log: StateLog,
}

impl Exporter {
    pub(super) fn new(sink: Box<dyn Sink>, counts: Counts) -> (Inlet, Self) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let inlet = Inlet { sender, counts: counts.clone() };
        (inlet, Self { receiver, sink, counts, log: StateLog::new() })
    }

    /// Sends until `stop`, and then what still waits, for [`LAST`] at most.
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
        // What was on its way, and what waited.
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

    /// Waits a little for more.
    async fn fill(&mut self, batch: &mut Vec<Arc<Span>>, stop: &CancellationToken) {
        let until = Instant::now() + DELAY;
        while batch.len() < BATCH {
            let room = BATCH - batch.len();
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(until) => return,
                count = self.receiver.recv_many(batch, room) => if count == 0 { return },
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
                // Once more, and no more.
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
    async fn a_stop_is_bounded_whatever_is_on_its_way() {
        let counts = Counts::default();
        let (inlet, exporter) = Exporter::new(Box::new(Silent), counts.clone());
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
            inlet.take(&span);
        }
        tokio::time::sleep(2 * DELAY).await;
        // The first three are on their way; two more wait.
        for _ in 0..2 {
            inlet.take(&span);
        }
        let began = Instant::now();
        stop.cancel();
        running.await.unwrap();
        assert!(began.elapsed() < LAST + Duration::from_millis(100), "{:?}", began.elapsed());
        assert_eq!((counts.sent(), counts.dropped()), (0, 5));
    }
}
