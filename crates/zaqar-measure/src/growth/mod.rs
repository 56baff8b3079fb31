//! How cost grows with the size of the data: latency, CPU, memory and disk at more and more waiting
//! messages, queues or open connections, on the embedded store and on Redis.

mod chart;
mod grow;
mod operation;
mod report;
mod site;

use std::path::PathBuf;

use self::grow::Idle;
use self::operation::{Bench, Cost, Operation};
use self::site::{Held, Site};
use crate::error::Error;
use crate::zaqar::Sender;

/// What grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Dimension {
    /// Waiting messages in one queue
    Messages,
    /// Queues, each with one message; each request goes to a random one
    Queues,
    /// Idle HTTP connections beside the measured ones
    Connections,
}

impl Dimension {
    /// The name of the project, of the queues and of the diagram.
    fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Queues => "queues",
            Self::Connections => "connections",
        }
    }

    /// One of what grows.
    fn unit(self) -> &'static str {
        match self {
            Self::Messages => "message",
            Self::Queues => "queue",
            Self::Connections => "connection",
        }
    }

    /// Whether the store has more of it.
    fn is_stored(self) -> bool {
        self != Self::Connections
    }

    /// What the axis of the diagram says.
    fn title(self) -> &'static str {
        match self {
            Self::Messages => "waiting messages in one queue",
            Self::Queues => "queues",
            Self::Connections => "idle connections",
        }
    }

    /// The smallest size that is measured.
    fn least(self) -> usize {
        match self {
            Self::Messages => 1000,
            Self::Queues | Self::Connections => 1,
        }
    }

    /// The sizes that are measured, each ten times the one before, up to `most`.
    fn sizes(self, most: usize) -> Vec<usize> {
        std::iter::successors(Some(self.least()), |size| size.checked_mul(10))
            .take_while(|&size| size <= most)
            .collect()
    }

    /// What is measured at each size.
    fn operations(self) -> &'static [Operation] {
        match self {
            Self::Messages => &Operation::ALL,
            Self::Queues | Self::Connections => {
                &[Operation::List, Operation::Stats, Operation::Post, Operation::Claim]
            }
        }
    }
}

/// One measurement.
#[derive(Debug, clap::Args)]
pub(crate) struct Growth {
    /// What grows
    #[arg(value_enum)]
    dimension: Dimension,
    /// A server on the embedded store, as URL,PID,DIRECTORY of the store
    #[arg(long, value_parser = site::embedded, required_unless_present = "redis")]
    embedded: Option<Site>,
    /// A server on Redis, as URL,PID,PORT,PID of Redis
    #[arg(long, value_parser = site::redis)]
    redis: Option<Site>,
    /// The largest size
    #[arg(long)]
    most: usize,
    /// Connections that the measured requests use
    #[arg(long, default_value_t = 4)]
    together: usize,
    /// Requests of each kind in a turn
    #[arg(long, default_value_t = 2000)]
    rounds: usize,
    /// Turns at each size, of which each figure is the median
    #[arg(long, default_value_t = 3)]
    turns: usize,
    /// Where the diagram is written
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Sent as X-Auth-Token
    #[arg(long, env = "OS_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

/// What one store was measured to do.
#[derive(Debug)]
struct Curve {
    /// The name of the store.
    store: &'static str,
    /// With rising sizes.
    points: Vec<Point>,
}

/// What was measured at one size.
#[derive(Debug)]
struct Point {
    size: usize,
    /// In the order of the dimension's operations.
    costs: Vec<Cost>,
    held: Held,
}

impl Growth {
    /// Prints a table for each store and writes the diagram. What was posted stays on the servers.
    pub(crate) async fn run(self) -> Result<(), Error> {
        let sizes = self.dimension.sizes(self.most);
        if sizes.is_empty() {
            return Err(Error::Nothing { reason: "the largest size is below the least" });
        }
        let mut curves = Vec::new();
        for site in [&self.embedded, &self.redis].into_iter().flatten() {
            let points = self.measure(site, &sizes).await?;
            curves.push(Curve { store: site.name(), points });
        }
        for curve in &curves {
            println!("{}", report::table(self.dimension, curve));
        }
        if let Some(path) = &self.svg {
            let svg = chart::svg(self.dimension, &curves);
            let failed = |source| Error::File { path: path.clone(), source };
            std::fs::write(path, svg).map_err(failed)?;
        }
        Ok(())
    }

    async fn measure(&self, site: &Site, sizes: &[usize]) -> Result<Vec<Point>, Error> {
        let sender =
            Sender { project: self.dimension.name().to_owned(), token: self.token.clone() };
        let target = site.target(&sender).await?;
        let mut points = Vec::with_capacity(sizes.len());
        let mut grown = grow::Grown::new(self.dimension, &target);
        for &size in sizes {
            let idle = grown.grow(size).await?;
            grow::settle(size).await;
            let bench = Bench {
                site,
                queues: grown.queues(),
                middle: grown.middle(),
                together: self.together,
            };
            let costs = self.turns(&bench).await?;
            points.push(Point { size, costs, held: site.held()? });
            idle.map_or(Ok(()), Idle::check)?;
            eprintln!("{}, {}: {size} measured", site.name(), self.dimension.title());
        }
        Ok(points)
    }

    /// The median turn of each operation.
    async fn turns(&self, bench: &Bench<'_>) -> Result<Vec<Cost>, Error> {
        let operations = self.dimension.operations();
        // What the first requests at a size load is not what later ones cost.
        bench.turn(operations, self.rounds.div_ceil(4)).await?;
        let mut turns = Vec::with_capacity(self.turns);
        for _ in 0..self.turns.max(1) {
            turns.push(bench.turn(operations, self.rounds).await?);
        }
        let of = |at: usize| turns.iter().map(|turn| turn[at]).collect::<Vec<_>>();
        Ok((0..operations.len()).map(|at| Cost::median(&of(at))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_ten_up_to_the_largest() {
        let cases: [(Dimension, usize, &[usize]); 5] = [
            (Dimension::Messages, 10_000, &[1000, 10_000]),
            (Dimension::Messages, 99_999, &[1000, 10_000]),
            (Dimension::Messages, 999, &[]),
            (Dimension::Queues, 100, &[1, 10, 100]),
            (Dimension::Connections, 1, &[1]),
        ];
        for (dimension, most, sizes) in cases {
            assert_eq!(dimension.sizes(most), sizes, "{dimension:?} up to {most}");
        }
        let all = Dimension::Queues.sizes(usize::MAX);
        assert!(all.is_sorted() && all.len() == usize::MAX.ilog10() as usize + 1);
    }
}
