//! Latency at a backlog: the same operations, one at a time, on a short queue, a long one and one
//! behind claimed messages.

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::http::Connection;
use crate::load::{self, histogram, record};
use crate::table::{Aim, Table, figure};
use crate::zaqar::{self, PAGE, Queue, Target};

/// Messages in the short queue, and free messages behind the claimed ones.
const SHORT: usize = 1000;
/// Messages that one claim of the setting-up takes: a server's default maximum.
const CLAIM: usize = 20;
/// Seconds of these claims: longer than any run.
const LONG: u32 = 6 * 3600;
/// Seconds of a measured claim.
const TTL: u32 = 300;
/// How many times the median of the short queue the others may have.
const AIM: Aim = Aim::AtMost(2.0);

/// What is compared.
#[derive(Debug)]
pub(crate) struct Backlogs {
    /// Has only the short queue.
    pub(crate) small: Target,
    /// Has the long queue and the claimed messages.
    pub(crate) large: Target,
    pub(crate) messages: usize,
    pub(crate) claimed: usize,
    pub(crate) samples: usize,
}

/// Fills, measures in turn, and prints a table of medians.
pub(crate) async fn run(backlogs: &Backlogs) -> Result<(), Error> {
    let mut places = [
        Place::new(&backlogs.small, "zaqar-measure-short"),
        Place::new(&backlogs.large, "zaqar-measure-long"),
        Place::new(&backlogs.large, "zaqar-measure-claimed"),
    ];
    let started = Instant::now();
    places[0].queue.fill(SHORT).await?;
    places[1].queue.fill(backlogs.messages).await?;
    places[2].queue.fill(backlogs.claimed).await?;
    claim_all(&backlogs.large, &places[2].queue, backlogs.claimed).await?;
    places[2].queue.fill(SHORT).await?;
    eprintln!("queues filled in {:.0} s", started.elapsed().as_secs_f64());
    // What the filling left to do, such as a checkpoint, is not the operations' cost.
    tokio::time::sleep(Duration::from_secs(2)).await;
    for _ in 0..backlogs.samples {
        for place in &mut places {
            place.sample().await?;
        }
    }
    print(backlogs, &places);
    Ok(())
}

/// Claims `count` messages.
async fn claim_all(target: &Target, queue: &Queue<'_>, count: usize) -> Result<(), Error> {
    let mut connection = Connection::open(target.address).await?;
    let claim = queue.claim(CLAIM, LONG);
    let mut left = count;
    while left > 0 {
        let answer = connection.expect("a claim", &claim).await?;
        let claimed = zaqar::message_ids(answer.body).count();
        if claimed == 0 {
            return Err(Error::Nothing { reason: "a claim found no message" });
        }
        left = left.saturating_sub(claimed);
    }
    Ok(())
}

/// A queue and the latencies seen there.
struct Place<'a> {
    target: &'a Target,
    queue: Queue<'a>,
    connection: Option<Connection>,
    /// Of claim, list and post.
    latencies: [hdrhistogram::Histogram<u64>; 3],
}

const OPERATIONS: [&str; 3] = ["claim 10", "list 10", "post 1"];

impl<'a> Place<'a> {
    fn new(target: &'a Target, name: &str) -> Self {
        let latencies = [histogram(), histogram(), histogram()];
        Self { target, queue: target.queue(name), connection: None, latencies }
    }

    /// One of each operation; then undoes them, so that the backlog stays.
    async fn sample(&mut self) -> Result<(), Error> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(Connection::open(self.target.address).await?),
        };
        let [claims, lists, posts] = &mut self.latencies;

        let request = self.queue.claim(PAGE, TTL);
        let started = Instant::now();
        let answer = connection.expect("a claim", &request).await?;
        record(claims, started.elapsed());
        let claim = zaqar::claim_id(answer.body)
            .ok_or(Error::Nothing { reason: "a claim found no message" })?;
        let release = self.queue.release(claim);
        connection.expect("a release", &release).await?;

        let request = self.queue.list(None);
        let started = Instant::now();
        let answer = connection.expect("a list", &request).await?;
        record(lists, started.elapsed());
        if zaqar::message_ids(answer.body).count() != PAGE {
            return Err(Error::Nothing { reason: "a page was not full" });
        }

        let request = self.queue.post(1);
        let started = Instant::now();
        let answer = connection.expect("a post", &request).await?;
        record(posts, started.elapsed());
        let posted: Vec<&str> = zaqar::posted_ids(answer.body).collect();
        let delete = self.queue.delete_messages(&posted);
        connection.expect("a deletion", &delete).await?;
        Ok(())
    }
}

fn print(backlogs: &Backlogs, places: &[Place<'_>; 3]) {
    let count = |messages: usize| figure(messages as f64);
    let long = format!("at {}", count(backlogs.messages));
    let behind = format!("behind {} claimed", count(backlogs.claimed));
    let mut table = Table::new(&[
        "p50 in ms, 1 connection",
        &format!("at {}", count(SHORT)),
        &long,
        "ratio",
        &behind,
        "ratio",
        &format!("aim {AIM}"),
    ]);
    for (index, operation) in OPERATIONS.iter().enumerate() {
        let [short, long, behind] =
            places.each_ref().map(|place| load::millis(&place.latencies[index], 0.5));
        table.row(vec![
            (*operation).to_owned(),
            figure(short),
            figure(long),
            figure(long / short),
            figure(behind),
            figure(behind / short),
            AIM.judge((long / short).max(behind / short)),
        ]);
    }
    println!("{table}");
}
