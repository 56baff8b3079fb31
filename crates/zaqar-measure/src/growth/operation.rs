//! What is measured at each size: a bounded number of requests of each kind in a closed loop.

use std::cell::RefCell;
use std::time::Instant;

use bytes::Bytes;
use hdrhistogram::Histogram;
use rand::Rng;

use super::grow::{Queues, drive, post};
use super::site::{Site, Spent};
use crate::error::Error;
use crate::http::Connection;
use crate::load::{histogram, millis, record};
use crate::zaqar::{self, PAGE};

/// Posts before as many claims and deletions, so that the size hardly changes.
const BLOCK: usize = 100;
/// Seconds of a claim.
const CLAIM_TTL: u32 = 300;

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// List 10 from the start.
    List,
    /// List 10 behind a message in the middle.
    ListMiddle,
    /// Get the statistics of a queue.
    Stats,
    /// Post 1.
    Post,
    /// Claim 1, then delete it.
    Claim,
}

impl Operation {
    /// All of them, in the order in which they are measured.
    pub(super) const ALL: [Self; 5] =
        [Self::List, Self::ListMiddle, Self::Stats, Self::Post, Self::Claim];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::List => "list 10",
            Self::ListMiddle => "list 10 from the middle",
            Self::Stats => "get stats",
            Self::Post => "post 1",
            Self::Claim => "claim 1, delete it",
        }
    }
}

/// What one operation costs: milliseconds of latency, microseconds of CPU.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cost {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) server: f64,
    /// Of a store that is a process of its own.
    pub(super) store: Option<f64>,
}

impl Cost {
    /// The CPU of server and store.
    pub(super) fn cpu(&self) -> f64 {
        self.server + self.store.unwrap_or_default()
    }

    /// The median of each figure; of two, the greater.
    pub(super) fn median(turns: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| {
            let mut all: Vec<f64> = turns.iter().map(figure).collect();
            all.sort_unstable_by(f64::total_cmp);
            all.get(all.len() / 2).copied().unwrap_or_default()
        };
        let store = turns.iter().all(|turn| turn.store.is_some());
        Self {
            p50: of(|turn| turn.p50),
            p99: of(|turn| turn.p99),
            server: of(|turn| turn.server),
            store: store.then(|| of(|turn| turn.store.unwrap_or_default())),
        }
    }
}

/// Where the operations are measured.
#[derive(Debug)]
pub(super) struct Bench<'a> {
    pub(super) site: &'a Site,
    pub(super) queues: Queues<'a>,
    /// A message in the middle of the only queue.
    pub(super) middle: Option<String>,
    /// Connections.
    pub(super) together: usize,
}

/// What some requests of one kind took.
struct Tally {
    latencies: Histogram<u64>,
    spent: Spent,
}

impl Tally {
    fn new() -> Self {
        Self { latencies: histogram(), spent: Spent::default() }
    }

    fn cost(&self) -> Cost {
        let count = self.latencies.len() as f64;
        let micros = |time: std::time::Duration| time.as_secs_f64() * 1e6 / count;
        Cost {
            p50: millis(&self.latencies, 0.5),
            p99: millis(&self.latencies, 0.99),
            server: micros(self.spent.server),
            store: self.spent.store.map(micros),
        }
    }
}

impl Bench<'_> {
    /// Makes `rounds` requests of each kind, and says what each took.
    pub(super) async fn turn(
        &self,
        operations: &[Operation],
        rounds: usize,
    ) -> Result<Vec<Cost>, Error> {
        let mut connections = Vec::with_capacity(self.together);
        for _ in 0..self.together {
            connections.push(Connection::open(self.queues.target.address).await?);
        }
        let mut tallies: Vec<Tally> = operations.iter().map(|_| Tally::new()).collect();
        let (reads, changes): (Vec<usize>, Vec<usize>) = (0..operations.len())
            .partition(|&at| !matches!(operations[at], Operation::Post | Operation::Claim));
        for at in reads {
            let places = self.places(rounds);
            self.measure(operations[at], &places, &mut connections, &mut tallies[at]).await?;
        }
        // Each queue loses as many messages as it got.
        for start in (0..rounds).step_by(BLOCK) {
            let places = self.places(BLOCK.min(rounds - start));
            for &at in &changes {
                self.measure(operations[at], &places, &mut connections, &mut tallies[at]).await?;
            }
        }
        Ok(tallies.iter().map(Tally::cost).collect())
    }

    /// Queues for some requests.
    fn places(&self, count: usize) -> Vec<usize> {
        let mut random = rand::rng();
        (0..count).map(|_| random.random_range(0..self.queues.count)).collect()
    }

    /// Makes a request, or two, for each place.
    async fn measure(
        &self,
        operation: Operation,
        places: &[usize],
        connections: &mut [Connection],
        tally: &mut Tally,
    ) -> Result<(), Error> {
        let before = self.site.used()?;
        let latencies = RefCell::new(&mut tally.latencies);
        drive(connections, 0..places.len(), async |connection, number| {
            let request = self.request(operation, places[number])?;
            let started = Instant::now();
            let answer = connection.expect(operation.name(), &request).await?;
            let mut taken = started.elapsed();
            if operation == Operation::Claim {
                let delete = self.delete(places[number], answer.body)?;
                let started = Instant::now();
                connection.expect("a deletion", &delete).await?;
                taken += started.elapsed();
            }
            record(&mut latencies.borrow_mut(), taken);
            Ok(())
        })
        .await?;
        tally.spent.add(self.site.used()?.since(&before));
        Ok(())
    }

    fn request(&self, operation: Operation, place: usize) -> Result<Bytes, Error> {
        let queue = self.queues.name(place);
        let target = self.queues.target;
        let list = |marker: &str| {
            let path = format!("{queue}/messages?limit={PAGE}&echo=true{marker}");
            target.request("GET", &path, None)
        };
        Ok(match operation {
            Operation::List => list(""),
            Operation::ListMiddle => {
                let middle = self.middle.as_ref();
                let middle = middle.ok_or(Error::Nothing { reason: "there is no middle" })?;
                list(&format!("&marker={middle}"))
            }
            Operation::Stats => target.request("GET", &format!("{queue}/stats"), None),
            Operation::Post => post(target, &queue, 1),
            Operation::Claim => {
                let document = format!("{{\"ttl\":{CLAIM_TTL},\"grace\":60}}");
                target.request("POST", &format!("{queue}/claims?limit=1"), Some(&document))
            }
        })
    }

    /// The deletion of the message that a claim was answered with.
    fn delete(&self, place: usize, answer: &[u8]) -> Result<Bytes, Error> {
        let message = zaqar::message_ids(answer).next();
        let (message, claim) = message
            .zip(zaqar::claim_id(answer))
            .ok_or(Error::Nothing { reason: "a claim found no message" })?;
        let path = format!("{}/messages/{message}?claim_id={claim}", self.queues.name(place));
        Ok(self.queues.target.request("DELETE", &path, None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_figure_has_its_own_median() {
        let cost = |p50, p99, server| Cost { p50, p99, server, store: Some(server * 2.0) };
        let turns = [cost(1.0, 9.0, 20.0), cost(2.0, 3.0, 10.0), cost(7.0, 5.0, 30.0)];
        assert_eq!(Cost::median(&turns), cost(2.0, 5.0, 20.0));
        assert_eq!(Cost::median(&turns).cpu(), 60.0);
        assert_eq!(Cost::median(&turns[..1]), turns[0]);
        let alone = Cost { store: None, ..turns[0] };
        assert_eq!(Cost::median(&[alone]).cpu(), 20.0);
    }
}
