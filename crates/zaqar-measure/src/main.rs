#![doc = include_str!("../README.md")]

mod backlog;
mod beside;
mod brokers;
mod compare;
mod deliveries;
mod error;
mod fairness;
mod growth;
mod http;
mod limit;
mod load;
mod process;
mod redis;
mod table;
mod wait;
mod websocket;
mod zaqar;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::backlog::Backlogs;
use crate::brokers::{Brokers, Kind};
use crate::compare::{Comparison, Server};
use crate::deliveries::Deliveries;
use crate::error::Error;
use crate::fairness::Fairness;
use crate::growth::Growth;
use crate::http::Connection;
use crate::load::{Options, Outcome, Workload, millis};
use crate::redis::Redis;
use crate::table::{Table, figure};
use crate::zaqar::{Sender, Target};

/// Measures a server of Zaqar's v2 HTTP API: requests and messages a second, and latencies, in a
/// closed loop
#[derive(Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    run: Run,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Args)]
struct Run {
    /// The server; what stands behind the host goes before every path
    #[arg(long, default_value = "http://127.0.0.1:8888")]
    url: String,
    #[command(flatten)]
    sender: SenderArguments,
    /// What is measured, one after the other
    #[arg(long, value_enum, value_delimiter = ',', default_value = "post,list,get,claim,round")]
    workload: Vec<Workload>,
    /// Connections at once; several numbers make a measurement each
    #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
    connections: Vec<usize>,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Rounds of each measurement at most
    #[arg(long)]
    rounds: Option<u64>,
    /// Messages that the claim workload posts before, for each second
    #[arg(long, default_value_t = 20_000)]
    prefill: usize,
    /// The queues' names begin with this
    #[arg(long, default_value = "zaqar-measure")]
    queue: String,
    /// Leaves the queues there
    #[arg(long)]
    keep: bool,
    /// The server's process on this machine: shows its CPU time and memory
    #[arg(long)]
    pid: Option<u32>,
}

#[derive(Debug, Args)]
struct SenderArguments {
    /// Sent as X-Project-ID
    #[arg(long, default_value = "bench")]
    project: String,
    /// Sent as X-Auth-Token
    #[arg(long, env = "OS_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

impl From<SenderArguments> for Sender {
    fn from(SenderArguments { project, token }: SenderArguments) -> Self {
        Self { project, token }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves a limit on a loopback port until it is killed
    ServeLimit {
        /// What it does before it answers
        #[arg(value_enum)]
        kind: limit::Kind,
        /// The port
        #[arg(long)]
        port: u16,
        /// Where `sync` writes its file
        #[arg(long, default_value = ".")]
        directory: PathBuf,
    },
    /// Measures a server and its limits in turn, and says which aims are met
    Compare(Compare),
    /// Measures a server on Redis beside another one on the same Redis, which is emptied
    Beside(Beside),
    /// Compares latencies at a small and a large backlog
    Backlog {
        /// A server that gets only a short queue
        #[arg(long)]
        small: String,
        /// A server that gets the long queues
        #[arg(long)]
        large: String,
        /// Messages in the long queue
        #[arg(long, default_value_t = 1_000_000)]
        messages: usize,
        /// Claimed messages in front of free ones
        #[arg(long, default_value_t = 100_000)]
        claimed: usize,
        /// Operations of each kind
        #[arg(long, default_value_t = 500)]
        samples: usize,
        #[command(flatten)]
        sender: SenderArguments,
    },
    /// Measures a quiet tenant's posts without and with greedy tenants, who leave their data there
    Fairness {
        /// The server
        #[arg(long)]
        url: String,
        /// Another server of the machine: the same greedy tenants load it while the quiet one posts
        /// to the first
        #[arg(long)]
        other_url: Option<String>,
        /// Seconds of each measurement
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
        /// Sent as X-Auth-Token
        #[arg(long, env = "OS_TOKEN", hide_env_values = true)]
        token: Option<String>,
    },
    /// Measures deliveries to webhooks of its own, beside a bare HTTP client
    Deliveries(Deliveries),
    /// Measures how cost grows with the number of messages, queues or connections
    Growth(Growth),
    /// Waits until a server lists messages, and prints the milliseconds since its start
    Wait {
        /// The server
        #[arg(long)]
        url: String,
        /// When it was started, in seconds since 1970: bash's $EPOCHREALTIME
        #[arg(long)]
        since: f64,
        /// Seconds to wait at most
        #[arg(long, default_value_t = 60)]
        timeout: u64,
        #[command(flatten)]
        sender: SenderArguments,
    },
    /// Measures the server beside message brokers that keep messages on disk
    Brokers(Brokers),
    /// Waits until a broker makes a queue, and prints the milliseconds since its start
    WaitBroker {
        /// The broker
        #[arg(value_enum)]
        kind: Kind,
        /// Its port on this machine
        #[arg(long)]
        port: u16,
        /// When it was started, in seconds since 1970: bash's $EPOCHREALTIME
        #[arg(long)]
        since: f64,
        /// Seconds to wait at most
        #[arg(long, default_value_t = 60)]
        timeout: u64,
    },
    /// Measures the WebSocket transport in a closed loop
    Websocket(websocket::Loops),
    /// Measures what connections that subscribe and wait cost, and how soon a post reaches them
    Subscribers(websocket::Subscribers),
    /// Times the append and fdatasync of 1 KiB
    Disk {
        /// Where
        #[arg(long, default_value = ".")]
        directory: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Compare {
    /// The server and its process, as URL,PID
    #[arg(long, value_parser = url_and_pid)]
    server: (String, u32),
    /// `serve-limit memory` and its process
    #[arg(long, value_parser = url_and_pid)]
    memory: (String, u32),
    /// `serve-limit sync` and its process
    #[arg(long, value_parser = url_and_pid)]
    sync: (String, u32),
    /// What is measured
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Workload::ALL)]
    workload: Vec<Workload>,
    /// Connections at once
    #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
    connections: Vec<usize>,
    /// Seconds of a slice
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Slices of each measurement, the servers in turn
    #[arg(long, default_value_t = 5)]
    slices: usize,
    /// Messages that the claim workload posts before, for each second
    #[arg(long, default_value_t = 20_000)]
    prefill: usize,
    #[command(flatten)]
    sender: SenderArguments,
}

#[derive(Debug, Args)]
struct Beside {
    /// The server and its process, as URL,PID
    #[arg(long, value_parser = url_and_pid)]
    server: (String, u32),
    /// The other one, the original, and its process, as URL,PID
    #[arg(long, value_parser = url_and_pid)]
    other: (String, u32),
    /// Their Redis on this machine, as PORT,PID. Everything in it is thrown away
    #[arg(long, value_parser = port_and_pid)]
    redis: (u16, u32),
    /// Connections at once
    #[arg(long, value_delimiter = ',', default_value = "1,8,64")]
    connections: Vec<usize>,
    /// Seconds of a slice
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Slices of each measurement, the servers in turn
    #[arg(long, default_value_t = 3)]
    slices: usize,
    /// Messages that the claim workload posts before, for each second
    #[arg(long, default_value_t = 60_000)]
    prefill: usize,
    /// The same for the other one
    #[arg(long, default_value_t = 3_000)]
    other_prefill: usize,
    #[command(flatten)]
    sender: SenderArguments,
}

/// `PORT,PID`.
pub(crate) fn port_and_pid(text: &str) -> Result<(u16, u32), String> {
    let (port, pid) = url_and_pid(text)?;
    Ok((port.parse().map_err(|error| format!("{port}: {error}"))?, pid))
}

/// `URL,PID`.
pub(crate) fn url_and_pid(text: &str) -> Result<(String, u32), String> {
    let (url, pid) = text.rsplit_once(',').ok_or("a comma and the process id are missing")?;
    let pid = pid.parse().map_err(|error| format!("{pid}: {error}"))?;
    Ok((url.to_owned(), pid))
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("zaqar-measure: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Error> {
    let serves = matches!(arguments.command, Some(Command::ServeLimit { .. }));
    // The load takes one thread; a limit takes as many as zaqar-server.
    let mut builder = if serves {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = builder.enable_all().build().map_err(|source| Error::Serve { source })?;
    runtime.block_on(async {
        match arguments.command {
            None => measure(arguments.run).await,
            Some(command) => command.run().await,
        }
    })
}

impl Command {
    async fn run(self) -> Result<(), Error> {
        match self {
            Self::ServeLimit { kind, port, directory } => {
                limit::serve(kind, limit::listen(port).await?, &directory).await
            }
            Self::Compare(arguments) => arguments.run().await,
            Self::Beside(arguments) => arguments.run().await,
            Self::Backlog { small, large, messages, claimed, samples, sender } => {
                let sender = sender.into();
                let small = Target::new(&small, &sender).await?;
                let large = Target::new(&large, &sender).await?;
                backlog::run(&Backlogs { small, large, messages, claimed, samples }).await
            }
            Self::Fairness { url, other_url, seconds, token } => {
                fairness::run(&Fairness { url, other_url, token, seconds }).await
            }
            Self::Deliveries(deliveries) => deliveries.run().await,
            Self::Growth(growth) => growth.run().await,
            Self::Wait { url, since, timeout, sender } => {
                let target = Target::new(&url, &sender.into()).await?;
                let list = async || wait::list(&target).await;
                let millis = wait::first_answer(&target.url, since, timeout, list).await?;
                println!("{millis:.1}");
                Ok(())
            }
            Self::Brokers(brokers) => brokers.run().await,
            Self::WaitBroker { kind, port, since, timeout } => {
                let create = async || kind.create(port, "zaqar-measure-wait").await;
                let millis = wait::first_answer(kind.name(), since, timeout, create).await?;
                println!("{millis:.1}");
                Ok(())
            }
            Self::Websocket(loops) => loops.run().await,
            Self::Subscribers(subscribers) => subscribers.run().await,
            Self::Disk { directory } => {
                let times = limit::time_syncs(&directory, 500)?;
                let at =
                    |share: usize| figure(times[times.len() * share / 100].as_secs_f64() * 1e3);
                println!("p50 {} ms, p99 {} ms", at(50), at(99));
                Ok(())
            }
        }
    }
}

impl Compare {
    async fn run(self) -> Result<(), Error> {
        let sender = self.sender.into();
        let server = async |(url, pid): (String, u32)| {
            Ok::<_, Error>(Server { target: Target::new(&url, &sender).await?, pid })
        };
        compare::run(&Comparison {
            server: server(self.server).await?,
            memory: server(self.memory).await?,
            sync: server(self.sync).await?,
            workloads: self.workload,
            connections: self.connections,
            seconds: self.seconds,
            slices: self.slices,
            prefill: self.prefill,
        })
        .await
    }
}

impl Beside {
    async fn run(self) -> Result<(), Error> {
        let sender = self.sender.into();
        let server = async |(url, pid): (String, u32)| {
            Ok::<_, Error>(Server { target: Target::new(&url, &sender).await?, pid })
        };
        let (port, pid) = self.redis;
        beside::run(&beside::Beside {
            server: server(self.server).await?,
            other: server(self.other).await?,
            redis: Redis { port, pid },
            connections: self.connections,
            seconds: self.seconds,
            slices: self.slices,
            prefill: self.prefill,
            other_prefill: self.other_prefill,
        })
        .await
    }
}

/// Runs the workloads one after the other and prints a line for each kind of request.
async fn measure(arguments: Run) -> Result<(), Error> {
    let target = Target::new(&arguments.url, &arguments.sender.into()).await?;
    let mut table = Table::new(&[
        "workload",
        "connections",
        "requests/s",
        "messages/s",
        "request",
        "p50 ms",
        "p99 ms",
        "max ms",
        "CPU µs/request",
        "memory MB",
        "failures",
    ]);
    let mut failure = None;
    for &workload in &arguments.workload {
        for &connections in &arguments.connections {
            let name = format!("{}-{}-{connections}", arguments.queue, workload.name());
            let options = Options {
                workload,
                connections,
                seconds: arguments.seconds,
                rounds: arguments.rounds,
                prefill: arguments.prefill,
                pid: arguments.pid,
                store: None,
            };
            let outcome = load::measure(&target, &name, &options).await?;
            let memory = arguments.pid.map(process::resident).transpose()?;
            add_rows(&mut table, workload, connections, &outcome, memory);
            failure = failure.or(outcome.failure);
            if !arguments.keep {
                let mut connection = Connection::open(target.address).await?;
                connection
                    .expect("the deletion of the queue", &target.queue(name).delete())
                    .await?;
            }
        }
    }
    println!("{table}");
    match failure {
        Some(reason) => Err(Error::Answer { reason }),
        None => Ok(()),
    }
}

/// A row for each request of a round; what holds for the whole stands in the first.
fn add_rows(
    table: &mut Table,
    workload: Workload,
    connections: usize,
    outcome: &Outcome,
    memory: Option<u64>,
) {
    for (number, (step, latencies)) in outcome.steps.iter().enumerate() {
        let once = |text: String| if number == 0 { text } else { String::new() };
        table.row(vec![
            once(workload.name().to_owned()),
            once(connections.to_string()),
            once(figure(outcome.rate())),
            once(figure(outcome.message_rate())),
            (*step).to_owned(),
            figure(millis(latencies, 0.5)),
            figure(millis(latencies, 0.99)),
            figure(millis(latencies, 1.0)),
            once(outcome.cpu_micros().map(figure).unwrap_or_default()),
            once(memory.map(|kib| figure(kib as f64 / 1024.0)).unwrap_or_default()),
            once(outcome.failures.to_string()),
        ]);
    }
}

/// An error with everything below it, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(below) = cause {
        text = format!("{text}: {below}");
        cause = below.source();
    }
    text
}
