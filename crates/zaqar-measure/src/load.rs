//! The closed loop: connections that repeat a workload's round, and what they saw.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::task::LocalSet;

use crate::error::Error;
use crate::http::Connection;
use crate::process;
use crate::zaqar::{self, PAGE, Queue, Target};

/// Latencies are kept in nanoseconds, up to this, with three digits.
const LONGEST: Duration = Duration::from_secs(60);
/// Messages in a queue that is read.
const READ_BACKLOG: usize = 1000;
/// Seconds of a claim.
const CLAIM_TTL: u32 = 300;
/// How long a run goes before it counts: connections are open and caches warm by then.
const WARM_UP: Duration = Duration::from_millis(200);

/// What is measured; the crate's documentation has the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Workload {
    /// Post 1 message of 1 KiB
    Post,
    /// Post 10 messages of 1 KiB
    Post10,
    /// List a page of 10 messages
    List,
    /// Get one message
    Get,
    /// Claim 10 messages, delete these 10
    Claim,
    /// Post 10, claim 10, delete these 10
    Round,
}

impl Workload {
    /// All of them.
    pub(crate) const ALL: [Self; 6] =
        [Self::Post, Self::Post10, Self::List, Self::Get, Self::Claim, Self::Round];

    /// The name on the command line and in queue names.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Post => "post",
            Self::Post10 => "post10",
            Self::List => "list",
            Self::Get => "get",
            Self::Claim => "claim",
            Self::Round => "round",
        }
    }

    /// Whether it only reads.
    pub(crate) fn reads(self) -> bool {
        matches!(self, Self::List | Self::Get)
    }

    fn messages(self) -> u64 {
        match self {
            Self::Post | Self::Get => 1,
            Self::Post10 | Self::List | Self::Claim | Self::Round => PAGE as u64,
        }
    }
}

/// One measurement.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) workload: Workload,
    pub(crate) connections: usize,
    pub(crate) seconds: f64,
    /// Rounds at most.
    pub(crate) rounds: Option<u64>,
    /// Messages that a `claim` workload finds for each second, at least.
    pub(crate) prefill: usize,
    /// The server's process, when it runs here.
    pub(crate) pid: Option<u32>,
    /// The process of a store that is a process of its own.
    pub(crate) store: Option<u32>,
}

/// What came out of one measurement, or of several.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The latencies of each request of a round, by its name.
    pub(crate) steps: Vec<(&'static str, Histogram<u64>)>,
    pub(crate) messages: u64,
    pub(crate) seconds: f64,
    /// Seconds of CPU that the server used, and its store.
    pub(crate) cpu: Option<f64>,
    pub(crate) store_cpu: Option<f64>,
    /// Answers that were no success, and the first of them.
    pub(crate) failures: u64,
    pub(crate) failure: Option<String>,
}

impl Outcome {
    fn new(steps: &[Step]) -> Self {
        Self {
            steps: steps.iter().map(|step| (step.name, histogram())).collect(),
            messages: 0,
            seconds: 0.0,
            cpu: None,
            store_cpu: None,
            failures: 0,
            failure: None,
        }
    }

    /// Adds a further run of the same workload.
    pub(crate) fn add(&mut self, other: Self) {
        self.merge(other.steps);
        self.messages += other.messages;
        self.seconds += other.seconds;
        self.cpu = self.cpu.zip(other.cpu).map(|(one, other)| one + other);
        self.store_cpu = self.store_cpu.zip(other.store_cpu).map(|(one, other)| one + other);
        self.failures += other.failures;
        self.failure = self.failure.take().or(other.failure);
    }

    fn merge(&mut self, steps: Vec<(&'static str, Histogram<u64>)>) {
        for ((_, all), (_, one)) in self.steps.iter_mut().zip(steps) {
            *all += one;
        }
    }

    /// The latencies of all requests together.
    pub(crate) fn latency(&self) -> Histogram<u64> {
        let mut all = histogram();
        for (_, one) in &self.steps {
            all += one;
        }
        all
    }

    fn requests(&self) -> u64 {
        self.steps.iter().map(|(_, latencies)| latencies.len()).sum()
    }

    /// Requests a second.
    pub(crate) fn rate(&self) -> f64 {
        self.requests() as f64 / self.seconds
    }

    /// Messages a second.
    pub(crate) fn message_rate(&self) -> f64 {
        self.messages as f64 / self.seconds
    }

    /// Microseconds of the server's CPU for one request.
    pub(crate) fn cpu_micros(&self) -> Option<f64> {
        self.cpu.map(|cpu| cpu * 1e6 / self.requests() as f64)
    }

    /// Microseconds of the store's CPU for one request.
    pub(crate) fn store_cpu_micros(&self) -> Option<f64> {
        self.store_cpu.map(|cpu| cpu * 1e6 / self.requests() as f64)
    }
}

/// A quantile in milliseconds.
pub(crate) fn millis(latencies: &Histogram<u64>, quantile: f64) -> f64 {
    latencies.value_at_quantile(quantile) as f64 / 1e6
}

/// An empty histogram of nanoseconds.
pub(crate) fn histogram() -> Histogram<u64> {
    let longest = u64::try_from(LONGEST.as_nanos()).unwrap_or(u64::MAX);
    Histogram::new_with_max(longest, 3).expect("these bounds are good")
}

/// Adds a latency.
pub(crate) fn record(latencies: &mut Histogram<u64>, latency: Duration) {
    latencies.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
}

/// Runs one workload on a queue and measures it. Fills the queue first where the workload needs
/// messages.
pub(crate) async fn measure(
    target: &Target,
    name: &str,
    options: &Options,
) -> Result<Outcome, Error> {
    let queue = target.queue(name);
    let steps: Rc<[Step]> = prepare(target, &queue, options).await?.into();
    // Of a bounded number of rounds, each counts.
    let start = Instant::now() + options.rounds.map_or(WARM_UP, |_| Duration::ZERO);
    let run = Rc::new(Run {
        name: name.to_owned(),
        start,
        end: start + Duration::from_secs_f64(options.seconds),
        left: Cell::new(options.rounds.unwrap_or(u64::MAX)),
        messages: options.workload.messages(),
        last: Cell::new(start),
        outcome: RefCell::new(Outcome::new(&steps)),
    });
    let local = LocalSet::new();
    let mut workers = Vec::with_capacity(options.connections);
    for number in 0..options.connections {
        let connection = Connection::open(target.address).await?;
        let (target, steps, run) = (target.clone(), Rc::clone(&steps), Rc::clone(&run));
        workers.push(local.spawn_local(work(target, steps, run, connection, number)));
    }
    let used = || -> Result<_, Error> {
        let of = |pid: Option<u32>| pid.map(process::cpu).transpose();
        Ok([of(options.pid)?, of(options.store)?])
    };
    let (before, after) = local
        .run_until(async {
            tokio::time::sleep_until(start.into()).await;
            let before = used()?;
            for worker in workers {
                worker.await.map_err(|_| Error::Nothing { reason: "a worker panicked" })??;
            }
            Ok::<_, Error>((before, used()?))
        })
        .await?;
    let spent =
        |of: usize| Some((after[of]?.checked_sub(before[of]?)).unwrap_or_default().as_secs_f64());
    let mut outcome = run.outcome.replace(Outcome::new(&steps));
    outcome.seconds = run.last.get().duration_since(start).as_secs_f64();
    outcome.cpu = spent(0);
    outcome.store_cpu = spent(1);
    if outcome.requests() == 0 {
        return Err(Error::Nothing { reason: "no round ended in time, or no message was left" });
    }
    Ok(outcome)
}

/// One request of a round.
#[derive(Debug)]
struct Step {
    name: &'static str,
    action: Action,
}

#[derive(Debug)]
enum Action {
    /// Sends one of these after the other.
    Send(Vec<Bytes>),
    /// Claims; without a message, the worker stops if so told, else the round.
    Claim { request: Bytes, stop: bool },
    /// Deletes what was claimed.
    Delete,
}

impl Step {
    fn send(name: &'static str, requests: Vec<Bytes>) -> Self {
        Self { name, action: Action::Send(requests) }
    }
}

async fn prepare(
    target: &Target,
    queue: &Queue<'_>,
    options: &Options,
) -> Result<Vec<Step>, Error> {
    let claim = |stop| Step {
        name: "claim",
        action: Action::Claim { request: queue.claim(PAGE, CLAIM_TTL), stop },
    };
    let delete = Step { name: "delete", action: Action::Delete };
    Ok(match options.workload {
        Workload::Post => vec![Step::send("post", vec![queue.post(1)])],
        Workload::Post10 => vec![Step::send("post", vec![queue.post(PAGE)])],
        Workload::List => {
            let ids = read_all(target, queue).await?;
            let ends = ids.chunks(PAGE).filter_map(<[String]>::last);
            let markers = std::iter::once(None).chain(ends.map(|id| Some(id.as_str())));
            let pages = markers.take((ids.len() / PAGE).max(1));
            vec![Step::send("list", pages.map(|marker| queue.list(marker)).collect())]
        }
        Workload::Get => {
            let ids = read_all(target, queue).await?;
            vec![Step::send("get", ids.iter().map(|id| queue.get(id)).collect())]
        }
        Workload::Claim => {
            let seconds = options.seconds + WARM_UP.as_secs_f64();
            let wanted = (options.prefill as f64 * seconds) as u64;
            let most = options.rounds.map_or(u64::MAX, |rounds| rounds.saturating_mul(PAGE as u64));
            queue.fill(usize::try_from(wanted.min(most)).unwrap_or(usize::MAX)).await?;
            vec![claim(true), delete]
        }
        Workload::Round => {
            vec![Step::send("post", vec![queue.post(PAGE)]), claim(false), delete]
        }
    })
}

/// The ids of up to [`READ_BACKLOG`] messages of a queue, filled when it has none.
async fn read_all(target: &Target, queue: &Queue<'_>) -> Result<Vec<String>, Error> {
    let mut connection = Connection::open(target.address).await?;
    if zaqar::message_ids(connection.expect("a list", &queue.list(None)).await?.body).count() == 0 {
        queue.fill(READ_BACKLOG).await?;
    }
    let mut ids: Vec<String> = Vec::new();
    while ids.len() < READ_BACKLOG {
        let request = queue.list(ids.last().map(String::as_str));
        let answer = connection.expect("a list", &request).await?;
        let before = ids.len();
        ids.extend(zaqar::message_ids(answer.body).map(str::to_owned));
        if ids.len() == before {
            break;
        }
    }
    if ids.is_empty() {
        return Err(Error::Nothing { reason: "the list of posted messages is empty" });
    }
    Ok(ids)
}

/// What the workers of one run share.
#[derive(Debug)]
struct Run {
    name: String,
    start: Instant,
    end: Instant,
    left: Cell<u64>,
    messages: u64,
    /// When the last answer came.
    last: Cell<Instant>,
    outcome: RefCell<Outcome>,
}

impl Run {
    /// Whether a round may begin.
    fn take(&self, now: Instant) -> bool {
        let left = self.left.get();
        if left == 0 || now >= self.end {
            return false;
        }
        self.left.set(left - 1);
        true
    }
}

async fn work(
    target: Target,
    steps: Rc<[Step]>,
    run: Rc<Run>,
    mut connection: Connection,
    number: usize,
) -> Result<(), Error> {
    let queue = target.queue(&run.name);
    // Readers begin at different places.
    let mut turn = number * 97;
    let mut now = Instant::now();
    let mut delete = Bytes::new();
    while run.take(now) {
        let counts = now >= run.start;
        let mut done = true;
        for (index, step) in steps.iter().enumerate() {
            let request = match &step.action {
                Action::Send(requests) => &requests[turn % requests.len()],
                Action::Claim { request, .. } => request,
                Action::Delete => &delete,
            };
            let sent = Instant::now();
            let answer = connection.exchange(request).await?;
            now = Instant::now();
            let outcome = &mut *run.outcome.borrow_mut();
            if !answer.is_success() {
                outcome.failures += 1;
                outcome.failure.get_or_insert_with(|| answer.refused(step.name).to_string());
                done = false;
                break;
            }
            if let Action::Claim { stop, .. } = &step.action {
                let ids: Vec<&str> = zaqar::message_ids(answer.body).collect();
                if ids.is_empty() && *stop {
                    return Ok(());
                }
                if ids.is_empty() {
                    done = false;
                    break;
                }
                delete = queue.delete_messages(&ids);
            }
            if counts {
                record(&mut outcome.steps[index].1, now - sent);
                run.last.set(now);
            }
        }
        if counts && done {
            run.outcome.borrow_mut().messages += run.messages;
        }
        turn += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::limit;
    use crate::zaqar::Sender;

    fn options(workload: Workload) -> Options {
        Options {
            workload,
            connections: 3,
            seconds: 30.0,
            rounds: Some(20),
            prefill: 10,
            pid: None,
            store: None,
        }
    }

    /// Runs a workload against a server that `serve` makes of a listener.
    fn run<F>(workload: Workload, serve: impl FnOnce(tokio::net::TcpListener) -> F) -> Outcome
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = limit::listen(0).await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            tokio::spawn(serve(listener));
            let target = Target::new(&url, &Sender::default()).await.unwrap();
            measure(&target, "q", &options(workload)).await.unwrap()
        })
    }

    #[test]
    fn every_round_is_counted_once() {
        for (workload, steps) in [(Workload::List, 1), (Workload::Claim, 2), (Workload::Round, 3)] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().to_owned();
            let outcome = run(workload, async move |listener| {
                limit::serve(limit::Kind::Sync, listener, &path).await.unwrap();
            });
            let counts: Vec<u64> = outcome.steps.iter().map(|(_, step)| step.len()).collect();
            assert_eq!(counts, vec![20; steps]);
            assert_eq!((outcome.messages, outcome.failures), (200, 0));
            assert_eq!(outcome.latency().len(), 20 * steps as u64);
        }
    }

    #[test]
    fn failures_are_no_messages_and_closed_connections_are_opened_again() {
        let outcome = run(Workload::Post, async |listener| {
            const ANSWERS: [&str; 2] = ["201 Created", "503 Service Unavailable"];
            for answer in ANSWERS.iter().cycle() {
                let (mut stream, _) = listener.accept().await.unwrap();
                // The worker opens its connection before its first request, so that others may wait
                // for it.
                tokio::spawn(async move {
                    let mut seen = [0; 4096];
                    if stream.read(&mut seen).await.unwrap() > 0 {
                        let answer = format!("HTTP/1.0 {answer}\r\n\r\nsorry");
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        assert_eq!(outcome.messages + outcome.failures, 20);
        assert!((5..=15).contains(&outcome.failures), "{} failures", outcome.failures);
        assert_eq!(outcome.failure.as_deref(), Some("post was answered 503: sorry"));
    }
}
