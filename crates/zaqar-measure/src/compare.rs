//! A server beside its limits: the same workloads on both in turn, and the aims.

use crate::error::Error;
use crate::load::{self, Options, Outcome, Workload};
use crate::table::{Aim, Table, figure};
use crate::zaqar::Target;

/// A server and its process.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) target: Target,
    pub(crate) pid: u32,
}

/// What is compared, and for how long.
#[derive(Debug)]
pub(crate) struct Comparison {
    pub(crate) server: Server,
    /// Limit (a).
    pub(crate) memory: Server,
    /// Limit (b).
    pub(crate) sync: Server,
    pub(crate) workloads: Vec<Workload>,
    pub(crate) connections: Vec<usize>,
    /// Seconds of each slice of a measurement.
    pub(crate) seconds: f64,
    /// Slices of a measurement; between two, the other server has its turn, so that a machine that
    /// gets slower does so for both.
    pub(crate) slices: usize,
    pub(crate) prefill: usize,
}

/// Prints a table of all workloads and connections. Queues are left behind, as deleting them would
/// cost the next measurement.
pub(crate) async fn run(comparison: &Comparison) -> Result<(), Error> {
    let mut table = Table::new(&[
        "workload",
        "connections",
        "requests/s",
        "messages/s",
        "p50 ms",
        "p99 ms",
        "CPU µs/request",
        "limit",
        "its requests/s",
        "its p99 ms",
        "its CPU µs",
        "share",
        "aims",
    ]);
    let mut failure = None;
    for &workload in &comparison.workloads {
        for &connections in &comparison.connections {
            let (server, limit) = pair(comparison, workload, connections).await?;
            failure = failure.or_else(|| server.failure.clone()).or_else(|| limit.failure.clone());
            eprintln!("{} at {connections}: {:.0} requests/s", workload.name(), server.rate());
            table.row(row(workload, connections, &server, &limit));
        }
    }
    println!("{table}");
    match failure {
        Some(reason) => Err(Error::Answer { reason }),
        None => Ok(()),
    }
}

async fn pair(
    comparison: &Comparison,
    workload: Workload,
    connections: usize,
) -> Result<(Outcome, Outcome), Error> {
    let name = format!("zaqar-measure-{}-{connections}", workload.name());
    let limit = if workload.reads() { &comparison.memory } else { &comparison.sync };
    let slice = async |server: &Server| {
        let options = Options {
            workload,
            connections,
            seconds: comparison.seconds,
            rounds: None,
            // A limit is never empty.
            prefill: if server.pid == limit.pid { 0 } else { comparison.prefill },
            pid: Some(server.pid),
            store: None,
        };
        load::measure(&server.target, &name, &options).await
    };
    let mut server = slice(&comparison.server).await?;
    let mut limits = slice(limit).await?;
    for _ in 1..comparison.slices {
        server.add(slice(&comparison.server).await?);
        limits.add(slice(limit).await?);
    }
    Ok((server, limits))
}

fn row(workload: Workload, connections: usize, server: &Outcome, limit: &Outcome) -> Vec<String> {
    let (latency, least) = (server.latency(), limit.latency());
    let p99 = load::millis(&latency, 0.99);
    let share = server.rate() / limit.rate();
    let cpu = |outcome: &Outcome| outcome.cpu_micros().map(figure).unwrap_or_default();
    vec![
        workload.name().to_owned(),
        connections.to_string(),
        figure(server.rate()),
        figure(server.message_rate()),
        figure(load::millis(&latency, 0.5)),
        figure(p99),
        cpu(server),
        if workload.reads() { "(a)" } else { "(b)" }.to_owned(),
        figure(limit.rate()),
        figure(load::millis(&least, 0.99)),
        cpu(limit),
        figure(share),
        aims(workload, connections, share, server.message_rate(), p99),
    ]
}

fn aims(workload: Workload, connections: usize, share: f64, messages: f64, p99: f64) -> String {
    let half = Aim::AtLeast(0.5);
    let rate = rate_aim(workload, connections);
    let tail = p99_aim(workload, connections);
    let mut aims = Vec::new();
    if !matches!(workload, Workload::Claim | Workload::Round) {
        aims.push(format!("share {half}: {}", half.judge(share)));
    }
    if let Some(rate) = rate {
        aims.push(format!("{rate} messages/s: {}", rate.judge(messages)));
    }
    if let Some(tail) = tail {
        aims.push(format!("p99 {tail} ms: {}", tail.judge(p99)));
    }
    aims.join("; ")
}

/// Messages a second: what the best durable broker does, each answer after its sync.
fn rate_aim(workload: Workload, connections: usize) -> Option<Aim> {
    match (workload, connections) {
        (Workload::Post, 1) => Some(Aim::AtLeast(2_700.0)),
        (Workload::Post, 16) => Some(Aim::AtLeast(10_200.0)),
        (Workload::Post, 64) => Some(Aim::AtLeast(17_200.0)),
        (Workload::Round, 64) => Some(Aim::AtLeast(13_300.0)),
        _ => None,
    }
}

/// Milliseconds: that broker's.
fn p99_aim(workload: Workload, connections: usize) -> Option<Aim> {
    match (workload, connections) {
        (Workload::Post, 16) => Some(Aim::AtMost(2.5)),
        (Workload::Post, 64) => Some(Aim::AtMost(6.0)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aims_name_what_is_missed() {
        let text = aims(Workload::Post, 16, 0.6, 5_100.0, 2.0);
        let expected =
            "share ≥ 0.50: met; ≥ 10 200 messages/s: **missed by 50 %**; p99 ≤ 2.50 ms: met";
        assert_eq!(text, expected);
        assert_eq!(aims(Workload::Claim, 16, 0.1, 1.0, 1.0), "");
    }
}
