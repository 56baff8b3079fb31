//! A server on Redis beside another on the same Redis.

use crate::compare::Server;
use crate::error::Error;
use crate::load::{self, Options, Outcome, Workload};
use crate::redis::Redis;
use crate::table::{Aim, Table, figure};

/// How many times the other's rate.
const RATE: Aim = Aim::AtLeast(30.0);
/// Which part of the other's p99.
const TAIL: Aim = Aim::AtMost(0.1);
/// Which part of the other's memory.
const MEMORY: Aim = Aim::AtMost(1.0);
/// Messages that wait while their memory is measured.
const WAITING: usize = 10_000;
const WORKLOADS: [Workload; 4] = [Workload::Post, Workload::Claim, Workload::List, Workload::Get];

/// What is compared, and for how long.
#[derive(Debug)]
pub(crate) struct Beside {
    pub(crate) server: Server,
    pub(crate) other: Server,
    pub(crate) redis: Redis,
    pub(crate) connections: Vec<usize>,
    /// Seconds of each slice of a measurement.
    pub(crate) seconds: f64,
    /// Slices of a measurement, the servers in turn.
    pub(crate) slices: usize,
    /// Messages that a claim workload finds for each second, on either.
    pub(crate) prefill: usize,
    pub(crate) other_prefill: usize,
}

/// Prints two tables. The Redis is empty afterwards, and between measurements.
pub(crate) async fn run(beside: &Beside) -> Result<(), Error> {
    let mut table = table();
    for workload in WORKLOADS {
        for &connections in &beside.connections {
            let measured = measure(beside, workload, connections).await?;
            let (server, other) = &measured;
            let (rate, their) = (server.rate(), other.rate());
            eprintln!("{} at {connections}: {rate:.0} and {their:.0} requests/s", workload.name());
            table.row(row(workload, connections, server, other));
            if let Some(reason) = &server.failure {
                return Err(Error::Answer { reason: reason.clone() });
            }
        }
    }
    println!("{table}");
    println!("{}", memory(beside).await?);
    Ok(())
}

/// Measures both servers in turn.
async fn measure(
    beside: &Beside,
    workload: Workload,
    connections: usize,
) -> Result<(Outcome, Outcome), Error> {
    let Beside { server, other, redis, seconds, .. } = beside;
    let name = format!("zaqar-measure-{}-{connections}", workload.name());
    let slice = async |of: &Server, prefill: usize| {
        let options = Options {
            workload,
            connections,
            seconds: *seconds,
            rounds: None,
            prefill,
            pid: Some(of.pid),
            store: Some(redis.pid),
        };
        load::measure(&of.target, &name, &options).await
    };
    let mut total: Option<(Outcome, Outcome)> = None;
    for _ in 0..beside.slices {
        let one = slice(server, beside.prefill).await?;
        let their = slice(other, beside.other_prefill).await?;
        match &mut total {
            Some((server, other)) => {
                server.add(one);
                other.add(their);
            }
            none => *none = Some((one, their)),
        }
    }
    redis.flush()?;
    total.ok_or(Error::Nothing { reason: "there is no slice" })
}

fn table() -> Table {
    Table::new(&[
        "workload",
        "connections",
        "requests/s",
        "p99 ms",
        "CPU µs/request",
        "Redis µs/request",
        "the original's requests/s",
        "its p99 ms",
        "its CPU µs",
        "its Redis µs",
        "its failures",
        "times its rate",
        "of its p99",
        "aims",
    ])
}

fn row(workload: Workload, connections: usize, server: &Outcome, other: &Outcome) -> Vec<String> {
    let cpu = |used: Option<f64>| used.map(figure).unwrap_or_default();
    let p99 = |outcome: &Outcome| load::millis(&outcome.latency(), 0.99);
    let times = server.rate() / other.rate();
    let part = p99(server) / p99(other);
    vec![
        workload.name().to_owned(),
        connections.to_string(),
        figure(server.rate()),
        figure(p99(server)),
        cpu(server.cpu_micros()),
        cpu(server.store_cpu_micros()),
        figure(other.rate()),
        figure(p99(other)),
        cpu(other.cpu_micros()),
        cpu(other.store_cpu_micros()),
        other.failures.to_string(),
        figure(times),
        format!("{part:.3}"),
        format!("{RATE} times: {}; {TAIL} of p99: {}", RATE.judge(times), TAIL.judge(part)),
    ]
}

/// The memory of a waiting message of 1 KiB, with either server.
async fn memory(beside: &Beside) -> Result<Table, Error> {
    let mut each = Vec::new();
    for server in [&beside.server, &beside.other] {
        let queue = server.target.queue("zaqar-measure-memory");
        // What is there but once is there before.
        queue.fill(1).await?;
        let before = beside.redis.used_memory()?;
        queue.fill(WAITING).await?;
        let used = beside.redis.used_memory()?.saturating_sub(before);
        each.push(used as f64 / WAITING as f64);
        beside.redis.flush()?;
    }
    let part = each[0] / each[1];
    let mut table = Table::new(&[
        "bytes of Redis's memory for a waiting message of 1 KiB",
        "the original's",
        "part",
        &format!("aim {MEMORY}"),
    ]);
    table.row(vec![figure(each[0]), figure(each[1]), figure(part), MEMORY.judge(part)]);
    Ok(table)
}
