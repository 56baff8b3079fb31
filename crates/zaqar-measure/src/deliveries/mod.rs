//! Deliveries to webhooks: how many a second beside a bare HTTP client, how soon they arrive, and
//! whether a dead endpoint delays the others.

mod bare;
mod receiver;

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use self::receiver::{NUMBER, Receipt, Receiver};
use crate::error::Error;
use crate::http::Connection;
use crate::process;
use crate::table::{Aim, Table, figure};
use crate::zaqar::{BODY, Sender, Target};

/// Endpoints, each a destination of its own.
const ENDPOINTS: usize = 100;
/// Requests on their way to one endpoint, as many as the server sends by default.
const IN_FLIGHT: usize = 16;
/// Messages of one post that fills a queue.
const BATCH: usize = 100;
/// Connections of a paced load.
const CONNECTIONS: usize = 8;
/// Deliveries a second of a paced load.
const RATE: f64 = 500.0;
/// How long deliveries may stop before the measurement is given up.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The share of the bare client's rate.
const SHARE: Aim = Aim::AtLeast(0.5);
/// How many times the p99 without a dead endpoint.
const TIMES: Aim = Aim::AtMost(2.0);

/// What is measured.
#[derive(Debug, clap::Args)]
pub(crate) struct Deliveries {
    /// The server and its process, as URL,PID; it must deliver to the loopback address
    #[arg(long, value_parser = crate::url_and_pid)]
    server: (String, u32),
    /// Messages of each measurement of the rate
    #[arg(long, default_value_t = 20_000)]
    messages: usize,
    /// Seconds of each other measurement
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Sent as X-Auth-Token
    #[arg(long, env = "OS_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

impl Deliveries {
    /// Prints tables. What is left of queues and subscriptions stays on the server.
    pub(crate) async fn run(self) -> Result<(), Error> {
        let (url, pid) = &self.server;
        let sender = Sender { project: "deliveries".to_owned(), token: self.token.clone() };
        let target = Target::new(url, &sender).await?;
        let receiver = Receiver::start(ENDPOINTS)?;
        let scene = Scene { target, receiver, pid: *pid };
        let mut table = Table::new(&[
            "subscribers",
            "deliveries/s",
            "CPU µs/delivery",
            "the bare client's requests/s",
            "share",
            &format!("aim {SHARE}"),
        ]);
        for subscribers in [1, 16] {
            table.row(scene.rate(subscribers, &self).await?);
        }
        println!("{table}");
        let mut table = Table::new(&["post to receipt", "deliveries/s", "p50 ms", "p99 ms", "aim"]);
        let one = scene.paced("one", 1, self.seconds).await?;
        table.row(one.row("1 subscriber", String::new()));
        let without = scene.paced("without", ENDPOINTS - 1, self.seconds).await?;
        table.row(without.row("99 subscribers", String::new()));
        scene.receiver.kill_last();
        let beside = scene.paced("beside", ENDPOINTS, self.seconds).await?;
        let times = beside.p99 / without.p99;
        let aim = format!("{TIMES} times: {}", TIMES.judge(times));
        table.row(beside.row("99 subscribers, and a dead one", aim));
        println!("{table}");
        Ok(())
    }
}

/// A server and the endpoints that it delivers to.
struct Scene {
    target: Target,
    receiver: Receiver,
    pid: u32,
}

/// How soon messages came.
struct Arrivals {
    rate: f64,
    p50: f64,
    p99: f64,
}

impl Arrivals {
    fn row(&self, what: &str, aim: String) -> Vec<String> {
        let Self { rate, p50, p99 } = *self;
        vec![what.to_owned(), figure(rate), figure(p50), figure(p99), aim]
    }
}

impl Scene {
    /// Posts messages as fast as can be and waits until all are delivered; then the bare client
    /// sends as many requests of that size to the same endpoints, as many of them at once.
    async fn rate(&self, subscribers: usize, options: &Deliveries) -> Result<Vec<String>, Error> {
        let queue = format!("rate-{subscribers}");
        self.subscribe(&queue, subscribers).await?;
        let posts = (options.messages / subscribers).div_ceil(BATCH);
        let total = posts * BATCH * subscribers;
        let mut connection = Connection::open(self.target.address).await?;
        let (cpu, started) = (process::cpu(self.pid)?, Instant::now());
        for post in 0..posts {
            let numbers = post * BATCH..(post + 1) * BATCH;
            connection.expect("a post", &self.post(&queue, numbers)).await?;
        }
        let received = self.wait(total).await?;
        let cpu = process::cpu(self.pid)?.saturating_sub(cpu);
        let last = received.iter().map(|one| one.at).max().unwrap_or(started);
        let rate = total as f64 / last.duration_since(started).as_secs_f64();
        let addresses = self.receiver.addresses[..subscribers].to_vec();
        let bare = bare::rate(addresses, IN_FLIGHT * subscribers, total).await?;
        let share = rate / bare;
        Ok(vec![
            subscribers.to_string(),
            figure(rate),
            figure(cpu.as_secs_f64() * 1e6 / total as f64),
            figure(bare),
            figure(share),
            SHARE.judge(share),
        ])
    }

    /// Posts at an even pace, so that there are [`RATE`] deliveries a second.
    async fn paced(
        &self,
        queue: &str,
        subscribers: usize,
        seconds: f64,
    ) -> Result<Arrivals, Error> {
        self.subscribe(queue, subscribers).await?;
        let alive = subscribers.min(ENDPOINTS - 1);
        let pause = Duration::from_secs_f64(alive as f64 / RATE);
        let count = (seconds / pause.as_secs_f64()).ceil() as usize;
        let started = Instant::now() + Duration::from_millis(100);
        let mut posting = JoinSet::new();
        for first in 0..CONNECTIONS {
            let mut connection = Connection::open(self.target.address).await?;
            let requests: Vec<_> = (first..count)
                .step_by(CONNECTIONS)
                .map(|number| (number, self.post(queue, number..number + 1)))
                .collect();
            posting.spawn(async move {
                let mut posted = Vec::with_capacity(requests.len());
                for (number, request) in requests {
                    let due = started + pause.mul_f64(number as f64);
                    tokio::time::sleep_until(due.into()).await;
                    posted.push((number, Instant::now()));
                    connection.expect("a post", &request).await?;
                }
                Ok::<_, Error>(posted)
            });
        }
        let mut posted = vec![started; count];
        while let Some(some) = posting.join_next().await {
            let some = some.map_err(|_| Error::Nothing { reason: "a worker panicked" })??;
            for (number, at) in some {
                posted[number] = at;
            }
        }
        let mut received = self.wait(count * alive).await?;
        // What a measurement before delivered twice.
        received.retain(|one| one.number < count);
        let latency = |one: &Receipt| one.at.duration_since(posted[one.number]);
        let mut latencies: Vec<_> = received.iter().map(latency).collect();
        latencies.sort_unstable();
        let at = |share: usize| latencies[latencies.len() * share / 100].as_secs_f64() * 1e3;
        let last = received.iter().map(|one| one.at).max().unwrap_or(started);
        let seconds = last.duration_since(started).as_secs_f64();
        Ok(Arrivals { rate: received.len() as f64 / seconds, p50: at(50), p99: at(99) })
    }

    /// Subscribes the first endpoints to a queue.
    async fn subscribe(&self, queue: &str, subscribers: usize) -> Result<(), Error> {
        let mut connection = Connection::open(self.target.address).await?;
        for address in &self.receiver.addresses[..subscribers] {
            let document = format!("{{\"subscriber\":\"http://{address}/\",\"ttl\":3600}}");
            let path = format!("{queue}/subscriptions");
            let request = self.target.request("POST", &path, Some(&document));
            connection.expect("a subscription", &request).await?;
        }
        Ok(())
    }

    fn post(&self, queue: &str, numbers: std::ops::Range<usize>) -> bytes::Bytes {
        let messages: Vec<_> =
            numbers.map(|number| format!("{{\"ttl\":3600,\"body\":{}}}", body(number))).collect();
        let document = format!("{{\"messages\":[{}]}}", messages.join(","));
        self.target.request("POST", &format!("{queue}/messages"), Some(&document))
    }

    /// Waits until so many messages came.
    async fn wait(&self, count: usize) -> Result<Vec<Receipt>, Error> {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let received = self.receiver.count();
            if received >= count {
                return Ok(self.receiver.take());
            }
            if received > last {
                (last, since) = (received, Instant::now());
            }
            if since.elapsed() > TIMEOUT {
                return Err(Error::Nothing { reason: "deliveries do not arrive" });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A message's body of 1 KiB.
fn body(number: usize) -> String {
    let start = format!("{{{NUMBER}{number},\"text\":\"");
    let text = "x".repeat(BODY - start.len() - 2);
    format!("{start}{text}\"}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_have_their_size_and_number() {
        for number in [0, 7, 123_456] {
            let body = body(number);
            assert_eq!(body.len(), BODY);
            assert!(body.starts_with(&format!("{{\"n\":{number},")));
        }
    }

    #[test]
    fn a_bare_client_is_answered_by_every_endpoint() {
        let receiver = Receiver::start(2).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let rate = runtime.block_on(bare::rate(receiver.addresses.clone(), 4, 10)).unwrap();
        assert!(rate > 0.0);
        assert_eq!(receiver.count(), 0, "its messages are not counted");
    }
}
