//! A quiet tenant beside greedy ones: how long its posts take without and with them, and with the
//! same greedy ones at another server of the machine, which shares the processors only.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio::task::LocalSet;

use crate::error::Error;
use crate::http::Connection;
use crate::load::{self, Options, Outcome, Workload, millis};
use crate::table::{Aim, Table, figure};
use crate::zaqar::{Sender, Target};

/// How many times the p99 without greedy tenants.
const TIMES: Aim = Aim::AtMost(10.0);

/// What a greedy tenant does, in a closed loop on each of its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Greedy {
    /// Lists nearly 5 MB.
    LargeLists,
    /// Posts 20 000 tiny messages in one request.
    LargePosts,
    /// Filters 1 200 queues with 60 kB of metadata each by an attribute that none has.
    FilteredQueues,
}

impl Greedy {
    const ALL: [Self; 3] = [Self::LargeLists, Self::LargePosts, Self::FilteredQueues];

    fn describe(self) -> &'static str {
        match self {
            Self::LargeLists => "32 connections list 5 MB",
            Self::LargePosts => "16 connections post 20 000 tiny messages",
            Self::FilteredQueues => "24 connections filter 1 200 queues of 60 kB",
        }
    }

    fn project(self) -> &'static str {
        match self {
            Self::LargeLists => "large-lists",
            Self::LargePosts => "large-posts",
            Self::FilteredQueues => "filtered-queues",
        }
    }

    fn connections(self) -> usize {
        match self {
            Self::LargeLists => 32,
            Self::LargePosts => 16,
            Self::FilteredQueues => 24,
        }
    }

    /// Stores what the requests are about; the request that is repeated.
    async fn prepare(self, target: &Target) -> Result<Bytes, Error> {
        let mut connection = Connection::open(target.address).await?;
        match self {
            Self::LargeLists => {
                let body = "x".repeat(250_000);
                let document = format!("{{\"messages\":[{{\"ttl\":3600,\"body\":\"{body}\"}}]}}");
                let post = target.request("POST", "large/messages", Some(&document));
                for _ in 0..20 {
                    connection.expect("a post", &post).await?;
                }
                Ok(target.request("GET", "large/messages?limit=20&echo=true", None))
            }
            Self::LargePosts => {
                let messages = vec![r#"{"body":0}"#; 20_000].join(",");
                let document = format!("{{\"messages\":[{messages}]}}");
                Ok(target.request("POST", "tiny/messages", Some(&document)))
            }
            Self::FilteredQueues => {
                let metadata = format!("{{\"text\":\"{}\"}}", "x".repeat(60_000));
                for number in 0..1200 {
                    let put = target.request("PUT", &format!("q{number}"), Some(&metadata));
                    connection.expect("a queue", &put).await?;
                }
                Ok(target.request("GET", "?k=nothing", None))
            }
        }
    }
}

/// What is measured, and for how long.
#[derive(Debug)]
pub(crate) struct Fairness {
    pub(crate) url: String,
    /// Another server, which the quiet tenant does not use.
    pub(crate) other_url: Option<String>,
    pub(crate) token: Option<String>,
    /// Seconds of each measurement.
    pub(crate) seconds: f64,
}

impl Fairness {
    async fn target(&self, url: &str, project: &str) -> Result<Target, Error> {
        let sender = Sender { project: project.to_owned(), token: self.token.clone() };
        Target::new(url, &sender).await
    }
}

/// Prints a table. What the greedy tenants stored stays on the servers.
pub(crate) async fn run(fairness: &Fairness) -> Result<(), Error> {
    let mut table = Table::new(&[
        "greedy tenant",
        "its answers/s",
        "its 503s/s",
        "quiet p50 ms, alone",
        "p99 ms, alone",
        "p50 ms, beside it",
        "p99 ms, beside it",
        "p99 ms, it at another server",
        "times its p99",
        &format!("aim {TIMES}"),
    ]);
    for greedy in Greedy::ALL {
        table.row(measure(fairness, greedy).await?);
    }
    println!("{table}");
    Ok(())
}

async fn measure(fairness: &Fairness, greedy: Greedy) -> Result<Vec<String>, Error> {
    let quiet = fairness.target(&fairness.url, "quiet").await?;
    let alone = succeed(post(&quiet, fairness.seconds).await?)?;
    let (beside, counts) = beside(fairness, greedy, &fairness.url, &quiet).await?;
    let control = match &fairness.other_url {
        Some(url) => Some(self::beside(fairness, greedy, url, &quiet).await?.0),
        None => None,
    };
    let (before, after) = (alone.latency(), beside.latency());
    let [before, after] = [before, after].map(|all| (millis(&all, 0.5), millis(&all, 0.99)));
    let control =
        control.map_or_else(|| "-".to_owned(), |all| figure(millis(&all.latency(), 0.99)));
    eprintln!(
        "{}: p99 {:.2} and {:.2} ms; {control} with it at another server",
        greedy.describe(),
        before.1,
        after.1
    );
    let times = after.1 / before.1;
    Ok(vec![
        greedy.describe().to_owned(),
        figure(counts.answered as f64 / beside.seconds),
        figure(counts.rejected as f64 / beside.seconds),
        figure(before.0),
        figure(before.1),
        figure(after.0),
        figure(after.1),
        control,
        figure(times),
        TIMES.judge(times),
    ])
}

/// The quiet tenant's posts while a greedy one loads the server at `url`.
async fn beside(
    fairness: &Fairness,
    greedy: Greedy,
    url: &str,
    quiet: &Target,
) -> Result<(Outcome, Counts), Error> {
    let target = fairness.target(url, greedy.project()).await?;
    let request = greedy.prepare(&target).await?;
    let load = Load::start(target, request, greedy.connections())?;
    let beside = post(quiet, fairness.seconds).await;
    let counts = load.stop();
    let (beside, counts) = (beside?, counts?);
    Ok((succeed(beside)?, counts))
}

fn succeed(outcome: Outcome) -> Result<Outcome, Error> {
    match &outcome.failure {
        Some(reason) => Err(Error::Answer { reason: reason.clone() }),
        None => Ok(outcome),
    }
}

/// The quiet tenant: one connection that posts messages of 1 KiB one after the other.
async fn post(target: &Target, seconds: f64) -> Result<Outcome, Error> {
    let options = Options {
        workload: Workload::Post,
        connections: 1,
        seconds,
        rounds: None,
        prefill: 0,
        pid: None,
        store: None,
    };
    load::measure(target, "quiet", &options).await
}

/// Greedy connections in a thread of their own, so that reading their answers delays nobody.
struct Load {
    shared: Arc<Shared>,
    thread: JoinHandle<Result<(), Error>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answered: AtomicU64,
    rejected: AtomicU64,
}

/// What became of a load's requests.
struct Counts {
    answered: u64,
    rejected: u64,
}

impl Load {
    fn start(target: Target, request: Bytes, connections: usize) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| Error::Serve { source })?;
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let local = LocalSet::new();
            let workers: Vec<_> = (0..connections)
                .map(|_| {
                    local.spawn_local(repeat(target.clone(), request.clone(), of_thread.clone()))
                })
                .collect();
            local.block_on(&runtime, async {
                for worker in workers {
                    worker.await.map_err(|_| Error::Nothing { reason: "a worker panicked" })??;
                }
                Ok(())
            })
        });
        Ok(Self { shared, thread })
    }

    fn stop(self) -> Result<Counts, Error> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.join();
        ended.map_err(|_| Error::Nothing { reason: "the greedy load panicked" })??;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (answered, rejected) = (count(&self.shared.answered), count(&self.shared.rejected));
        if answered == 0 {
            return Err(Error::Nothing { reason: "no request of the greedy load was served" });
        }
        Ok(Counts { answered, rejected })
    }
}

/// Sends a request again and again. A greedy client does not wait when it is told to retry later.
async fn repeat(target: Target, request: Bytes, shared: Arc<Shared>) -> Result<(), Error> {
    let mut connection = Connection::open(target.address).await?;
    while !shared.stop.load(Ordering::Relaxed) {
        let answer = connection.exchange(&request).await?;
        match answer.status {
            503 => shared.rejected.fetch_add(1, Ordering::Relaxed),
            _ if answer.is_success() => shared.answered.fetch_add(1, Ordering::Relaxed),
            _ => return Err(answer.refused("a request of the greedy load")),
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit;

    #[tokio::test(flavor = "multi_thread")]
    async fn each_greedy_tenant_is_measured() {
        let listener = limit::listen(0).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        tokio::spawn(async move { limit::serve(limit::Kind::Memory, listener, &path).await });
        let other_url = Some(url.clone());
        let mut fairness = Fairness { url, other_url, token: None, seconds: 0.2 };
        for greedy in [Greedy::LargeLists, Greedy::FilteredQueues] {
            let row = measure(&fairness, greedy).await.unwrap();
            assert_eq!(row.len(), 10);
            assert_eq!(row[7] == "-", fairness.other_url.is_none(), "{row:?}");
            fairness.other_url = None;
            assert!(row[1].replace(' ', "").parse::<f64>().unwrap() > 0.0, "{row:?}");
            assert_eq!(row[2], "0");
        }
    }
}
