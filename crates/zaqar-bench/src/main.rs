#![doc = include_str!("../README.md")]

mod checks;
mod envelope;
mod link;
mod options;
mod pace;
mod plot;
mod report;
mod stats;
mod workers;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use zaqar_client::cloud::Settings;
use zaqar_client::{Client, Error, Queue, Tls};

use crate::checks::Checks;
use crate::envelope::Payloads;
use crate::link::{Link, Transport};
use crate::options::{Format, Options};
use crate::pace::Pace;
use crate::report::{Report, Unchecked, figure};
use crate::stats::{Kind, Stats, lock};
use crate::workers::{Phase, Run};

/// What stops a run before it measures anything.
#[derive(Debug)]
enum Failure {
    Usage(String),
    Client(Error),
    Io(io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Client(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// 0 when all was well, 1 for faults and errors, 2 for a wrong command line.
fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = runtime.map_err(Failure::Io).and_then(|runtime| {
        options.check().map_err(Failure::Usage)?;
        runtime.block_on(bench(&options))
    });
    let (text, code) = match ended {
        Ok(true) => return ExitCode::SUCCESS,
        Ok(false) => return ExitCode::FAILURE,
        Err(Failure::Usage(text)) => (text, 2),
        Err(Failure::Client(error @ (Error::Config { .. } | Error::Connect { .. }))) => {
            let hint = "--url, OS_ENDPOINT or a cloud (--cloud) says where the server is";
            (format!("{}\n  hint: {hint}", stats::with_causes(&error)), 1)
        }
        Err(Failure::Client(error)) => (stats::with_causes(&error), 1),
        Err(Failure::Io(error)) => (error.to_string(), 1),
    };
    // Where nothing can be written nothing can be said.
    let _ = writeln!(io::stderr(), "zaqar-bench: {text}");
    ExitCode::from(code)
}

fn client(options: &Options) -> Result<Client, Error> {
    let settings = match &options.cloud {
        Some(cloud) => Settings::from_cloud(cloud)?,
        None => Settings::from_env()?,
    };
    let mut builder = settings.builder()?;
    if let Some(url) = &options.url {
        builder = builder.url(url);
    }
    if let Some(project) = &options.project {
        builder = builder.project(project);
    }
    if let Some(path) = &options.ca_file {
        builder = builder.tls(Tls::CaFile(path.clone()));
    }
    // A request that is sent again would hide what the server did.
    builder.retries(zaqar_client::Retries::never()).build()
}

/// Runs it, and says whether all was well.
async fn bench(options: &Options) -> Result<bool, Failure> {
    let payloads = match &options.message_file {
        Some(path) => Payloads::from_file(path).map_err(Failure::Usage)?,
        None => Payloads::of_size(options.size),
    };
    let client = client(options)?;
    client.ping().await?;
    let (set_phase, phase) = watch::channel(Phase::Measure);
    let id: u64 = u64::from(rand::random::<u32>());
    let name = |at: usize| format!("{}-{id:08x}-{at}", options.prefix);
    let queues: Vec<_> = (0..options.queues).map(name).collect();
    for queue in &queues {
        client.queue(queue)?.create(serde_json::json!({})).await?;
    }
    let links = links(options, &client, &queues).await?;
    let run = Arc::new(Run {
        id,
        start: Instant::now(),
        stats: Stats::new(),
        checks: Mutex::new(Checks::new(options.producers)),
        payloads,
        batch: options.batch,
        claim: options.claim,
        ttl: options.ttl,
        left: AtomicU64::new(options.messages),
        phase,
    });
    let queues: Vec<_> = queues.iter().map(|name| client.queue(name)).collect::<Result<_, _>>()?;
    let seconds = measure(options, &run, links, &queues, &set_phase).await;
    let waiting = waiting(&queues).await;
    if !options.keep {
        for queue in &queues {
            queue.delete().await?;
        }
    }
    conclude(options, &run, seconds, waiting)
}

/// Messages in all queues; `None` where the server does not say.
async fn waiting(queues: &[Queue]) -> Option<u64> {
    let mut total = 0;
    for queue in queues {
        total += queue.stats().await.ok()?.total;
    }
    Some(total)
}

/// The connections of all workers: producers, consumers, observers.
async fn links(
    options: &Options,
    client: &Client,
    queues: &[String],
) -> Result<[Vec<Link>; 3], Error> {
    let websocket = match options.transport {
        Transport::Http => None,
        Transport::Websocket => options.websocket_url.as_deref(),
    };
    let mut links = [Vec::new(), Vec::new(), Vec::new()];
    let counts = [options.producers, options.consumers, options.observers];
    for (links, count) in links.iter_mut().zip(counts) {
        for at in 0..count {
            links.push(Link::open(client, websocket, &queues[at % queues.len()]).await?);
        }
    }
    Ok(links)
}

/// Lets everybody work, and returns how long producers posted.
async fn measure(
    options: &Options,
    run: &Arc<Run>,
    [producing, consuming, observing]: [Vec<Link>; 3],
    queues: &[Queue],
    set_phase: &watch::Sender<Phase>,
) -> f64 {
    let start = Instant::now();
    let mut producers = JoinSet::new();
    for (at, link) in producing.into_iter().enumerate() {
        let pace = Pace::new(start, options.rate, at, options.producers);
        let (run, producer) = (Arc::clone(run), u32::try_from(at).unwrap_or(u32::MAX));
        producers.spawn(async move { workers::produce(&run, link, producer, pace).await });
    }
    let mut others = JoinSet::new();
    for (at, link) in consuming.into_iter().enumerate() {
        let run = Arc::clone(run);
        others.spawn(async move { workers::consume(&run, link, at).await });
    }
    for link in observing {
        let run = Arc::clone(run);
        others.spawn(async move { workers::observe(&run, link).await });
    }
    let posted = async {
        if options.producers == 0 {
            std::future::pending::<()>().await;
        }
        while producers.join_next().await.is_some() {}
    };
    let is_live = !options.quiet && io::stderr().is_terminal();
    tokio::select! {
        () = posted => {}
        () = tokio::time::sleep(Duration::from_secs_f64(options.seconds)) => {}
        _ = tokio::signal::ctrl_c() => {}
        () = live(run, is_live) => {}
    }
    let seconds = start.elapsed().as_secs_f64();
    set_phase.send_replace(Phase::Drain);
    // A post that was on its way is answered, or not in time.
    while producers.join_next().await.is_some() {}
    if options.consumers > 0 {
        drain(options, run, queues).await;
    }
    set_phase.send_replace(Phase::Ended);
    while others.join_next().await.is_some() {}
    seconds
}

/// Waits until consumers have got everything, nothing is there any more, or the time is over.
async fn drain(options: &Options, run: &Run, queues: &[Queue]) {
    let deadline = Instant::now() + Duration::from_secs_f64(options.drain);
    while lock(&run.checks).left() > 0 && Instant::now() < deadline {
        if waiting(queues).await == Some(0) {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
            _ = tokio::signal::ctrl_c() => return,
        }
    }
}

/// A line every second.
async fn live(run: &Run, is_on: bool) {
    let mut before = (0, 0);
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if !is_on {
            continue;
        }
        let now = (run.stats.messages(Kind::Post), run.stats.messages(Kind::Delete));
        let p99 = |kind| {
            let micros = run.stats.latencies(kind).value_at_quantile(0.99);
            figure(micros as f64 / 1e3)
        };
        let line = format!(
            "{:4} s  posted {}/s (p99 {} ms)  consumed {}/s (p99 {} ms)  waiting {}  errors {}  \
             faults {}",
            run.start.elapsed().as_secs(),
            now.0 - before.0,
            p99(Kind::Post),
            now.1 - before.1,
            p99(Kind::Claim),
            lock(&run.checks).left(),
            run.stats.all_errors(),
            lock(&run.checks).faults.total(),
        );
        // A terminal that is gone needs no line.
        let _ = write!(io::stderr(), "\r\u{1b}[K{line}");
        before = now;
    }
}

fn conclude(
    options: &Options,
    run: &Run,
    seconds: f64,
    waiting: Option<u64>,
) -> Result<bool, Failure> {
    if !options.quiet && io::stderr().is_terminal() {
        // As above.
        let _ = writeln!(io::stderr());
    }
    let mut checks = lock(&run.checks);
    let remaining = checks.left();
    // What nobody got is lost only if it is not there any more.
    let is_known = waiting == Some(0);
    let has_expiries = run.start.elapsed() >= Duration::from_secs(options.ttl);
    if is_known && options.consumers > 0 && !has_expiries {
        checks.count_lost();
    }
    let unchecked = Unchecked { lost: has_expiries, order: !checks.checks_order() };
    let left = (options.consumers > 0 && !is_known && remaining > 0).then_some(remaining);
    let report = Report { stats: &run.stats, faults: &checks.faults, unchecked, seconds, left };
    if let Some(path) = &options.svg {
        let title = format!(
            "{} producers, {} consumers, {} observers",
            options.producers, options.consumers, options.observers
        );
        std::fs::write(path, plot::svg(&run.stats, &title))?;
    }
    let text = match options.format {
        Format::Table => report.table(),
        Format::Json => format!("{}\n", report.json(options)),
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(checks.faults.total() == 0 && run.stats.all_errors() == 0 && left.is_none())
}
