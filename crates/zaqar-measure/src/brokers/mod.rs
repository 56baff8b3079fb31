//! The server beside message brokers that keep each message on disk before they confirm it:
//! RabbitMQ's quorum queues, NATS JetStream and beanstalkd.

mod amqp;
mod beanstalkd;
mod client;
mod nats;
mod rabbitmq;
mod wire;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::LocalSet;

use self::client::Client;
pub(crate) use self::client::Kind;
use crate::error::Error;
use crate::load::{self, millis, record};
use crate::process;
use crate::table::{Table, figure};

/// How long a slice goes before it counts.
const WARM_UP: Duration = Duration::from_millis(200);
/// Between two slices, so that what a broker still writes does not slow the next one down.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a slice may take beyond its time.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What is measured.
#[derive(Debug, clap::Args)]
pub(crate) struct Brokers {
    /// A broker on this machine, as KIND,PORT,PID; the rate of the first is divided by those of
    /// the others
    #[arg(long = "broker", value_parser = broker, required = true)]
    brokers: Vec<Broker>,
    /// Clients at once, a connection each
    #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
    clients: Vec<usize>,
    /// Seconds of a slice
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Slices of each measurement, the brokers in turn
    #[arg(long, default_value_t = 5)]
    slices: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Broker {
    kind: Kind,
    port: u16,
    pid: u32,
}

fn broker(text: &str) -> Result<Broker, String> {
    let (kind, rest) = text.split_once(',').ok_or("a comma and the port are missing")?;
    let kind = <Kind as clap::ValueEnum>::from_str(kind, false)?;
    let (port, pid) = crate::port_and_pid(rest)?;
    Ok(Broker { kind, port, pid })
}

/// What a client repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Workload {
    /// Publish a message and wait for its confirmation.
    Publish,
    /// The same, then get a message and acknowledge it.
    Cycle,
}

impl Workload {
    fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Cycle => "publish, consume, acknowledge",
        }
    }

    fn queue(self, clients: usize) -> String {
        let name = match self {
            Self::Publish => "publish",
            Self::Cycle => "cycle",
        };
        format!("{name}-{clients}")
    }
}

/// What came out of the slices of one broker.
#[derive(Debug)]
struct Outcome {
    /// Messages a second, of each slice.
    rates: Vec<f64>,
    latencies: Histogram<u64>,
    cpu: Duration,
}

impl Outcome {
    fn new() -> Self {
        Self { rates: Vec::new(), latencies: load::histogram(), cpu: Duration::ZERO }
    }

    fn rate(&self) -> f64 {
        median(&self.rates)
    }

    fn cpu_micros(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.latencies.len() as f64
    }
}

/// The middle one; of an even number, the mean of both.
fn median(of: &[f64]) -> f64 {
    let mut sorted = of.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
    match (sorted.get(low), sorted.get(high)) {
        (Some(low), Some(high)) => f64::midpoint(*low, *high),
        _ => f64::NAN,
    }
}

impl Brokers {
    /// Prints three tables: rates, the p99 of latencies, and CPU.
    pub(crate) async fn run(self) -> Result<(), Error> {
        let names: Vec<&str> = self.brokers.iter().map(|broker| broker.kind.name()).collect();
        let mut head = vec!["workload", "clients"];
        head.extend(&names);
        let (mut tails, mut cpus) = (Table::new(&head), Table::new(&head));
        let ratios: Vec<String> =
            names.iter().skip(1).map(|name| format!("times {name}")).collect();
        head.extend(ratios.iter().map(String::as_str));
        let mut rates = Table::new(&head);
        for workload in [Workload::Publish, Workload::Cycle] {
            for &clients in &self.clients {
                let outcomes = self.measure(workload, clients).await?;
                let shown: Vec<String> =
                    outcomes.iter().map(|outcome| figure(outcome.rate())).collect();
                eprintln!("{} at {clients}: {} messages/s", workload.name(), shown.join(", "));
                rates.row(row(workload, clients, shown.into_iter().chain(ratios_of(&outcomes))));
                let tail = |one: &Outcome| figure(millis(&one.latencies, 0.99));
                tails.row(row(workload, clients, outcomes.iter().map(tail)));
                let cpu = |one: &Outcome| figure(one.cpu_micros());
                cpus.row(row(workload, clients, outcomes.iter().map(cpu)));
            }
        }
        println!("Messages/s:\n\n{rates}");
        println!("p99 in ms, of a whole round:\n\n{tails}");
        println!("CPU µs of the broker for a message:\n\n{cpus}");
        Ok(())
    }

    /// Measures all brokers in turn; each slice begins with another one.
    async fn measure(&self, workload: Workload, clients: usize) -> Result<Vec<Outcome>, Error> {
        let queue = workload.queue(clients);
        for broker in &self.brokers {
            broker.kind.create(broker.port, &queue).await?;
        }
        let mut outcomes: Vec<Outcome> = self.brokers.iter().map(|_| Outcome::new()).collect();
        for turn in 0..self.slices {
            for at in 0..self.brokers.len() {
                let at = (turn + at) % self.brokers.len();
                let broker = self.brokers[at];
                tokio::time::sleep(PAUSE).await;
                let limit = Duration::from_secs_f64(self.seconds) + WARM_UP + TIMEOUT;
                let slice = slice(broker, workload, clients, self.seconds, &mut outcomes[at]);
                let late = Error::Nothing { reason: "a broker does not answer" };
                tokio::time::timeout(limit, slice).await.map_err(|_| late)??;
            }
        }
        for broker in &self.brokers {
            broker.kind.delete(broker.port, &queue).await?;
        }
        Ok(outcomes)
    }
}

fn row(workload: Workload, clients: usize, cells: impl Iterator<Item = String>) -> Vec<String> {
    [workload.name().to_owned(), clients.to_string()].into_iter().chain(cells).collect()
}

/// The first rate over each other one.
fn ratios_of(outcomes: &[Outcome]) -> Vec<String> {
    let Some((first, others)) = outcomes.split_first() else { return Vec::new() };
    others.iter().map(|other| figure(first.rate() / other.rate())).collect()
}

/// What the clients of one slice share.
#[derive(Debug)]
struct Run {
    workload: Workload,
    start: Instant,
    end: Instant,
    /// When the last round ended.
    last: Cell<Instant>,
    latencies: RefCell<Histogram<u64>>,
}

/// Runs one slice and adds it to an outcome.
async fn slice(
    broker: Broker,
    workload: Workload,
    clients: usize,
    seconds: f64,
    outcome: &mut Outcome,
) -> Result<(), Error> {
    let queue = workload.queue(clients);
    let mut open = Vec::with_capacity(clients);
    for _ in 0..clients {
        let mut client = Client::connect(broker.kind, broker.port, &queue).await?;
        if workload == Workload::Cycle {
            client.subscribe(&queue).await?;
        }
        open.push(client);
    }
    let start = Instant::now() + WARM_UP;
    let run = Rc::new(Run {
        workload,
        start,
        end: start + Duration::from_secs_f64(seconds),
        last: Cell::new(start),
        latencies: RefCell::new(load::histogram()),
    });
    let local = LocalSet::new();
    let workers: Vec<_> =
        open.into_iter().map(|client| local.spawn_local(work(client, Rc::clone(&run)))).collect();
    let used = local
        .run_until(async {
            tokio::time::sleep_until(start.into()).await;
            let before = process::cpu(broker.pid)?;
            for worker in workers {
                worker.await.map_err(|_| Error::Nothing { reason: "a worker panicked" })??;
            }
            Ok::<_, Error>(process::cpu(broker.pid)?.saturating_sub(before))
        })
        .await?;
    let latencies = run.latencies.borrow();
    let took = run.last.get().duration_since(start).as_secs_f64();
    outcome.rates.push(latencies.len() as f64 / took);
    outcome.latencies += &*latencies;
    outcome.cpu += used;
    Ok(())
}

/// Repeats rounds until the end, and ends with one that counts.
async fn work(mut client: Client, run: Rc<Run>) -> Result<(), Error> {
    let mut sent = Instant::now();
    loop {
        client.publish().await?;
        if run.workload == Workload::Cycle {
            client.consume().await?;
        }
        let now = Instant::now();
        let counts = sent >= run.start;
        if counts {
            record(&mut run.latencies.borrow_mut(), now - sent);
            run.last.set(now);
        }
        if counts && now >= run.end {
            return Ok(());
        }
        sent = now;
    }
}

#[cfg(test)]
mod tests;
