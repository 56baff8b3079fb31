//! `zaqar queue top`: the fullest queues, live.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use tokio::time::Instant;
use zaqar_client::{Client, Error, QueueFilter, Stats};

use crate::Failure;
use crate::output::{Output, aligned, cell};

/// Queues that are asked about at once.
const AT_ONCE: usize = 8;
/// Clears a terminal and goes to its first line.
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";
const COLUMNS: [&str; 6] = ["queue", "free", "claimed", "total", "change/s", "oldest"];

/// Which queues, and how often.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A regular expression that the name contains
    #[arg(long)]
    name: Option<String>,
    /// Queues that are shown
    #[arg(long, default_value_t = 20)]
    rows: usize,
    /// Queues that are looked at, at most: each costs a request
    #[arg(long, default_value_t = 200)]
    queues: usize,
    /// Seconds between two looks
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// Ends after so many looks; never otherwise
    #[arg(long)]
    count: Option<u64>,
}

/// What was seen at one look.
struct Look {
    at: Instant,
    stats: Vec<(String, Stats)>,
}

impl Arguments {
    pub(crate) async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        let mut before: Option<Look> = None;
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0 {
            let look = self.look(client).await?;
            let rows = rows(&look, before.as_ref(), self.rows);
            self.show(&rows, look.stats.len(), output)?;
            before = Some(look);
            left -= 1;
            if left > 0 {
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs(self.interval)) => {}
                    _ = tokio::signal::ctrl_c() => return Ok(()),
                }
            }
        }
        Ok(())
    }

    async fn look(&self, client: &Client) -> Result<Look, Error> {
        let filter = QueueFilter { name: self.name.clone(), ..QueueFilter::default() };
        let names = client.queues(&filter).take(self.queues).map_ok(|entry| entry.name);
        let names: Vec<_> = names.try_collect().await?;
        let stats = stream::iter(names).map(|name| async move {
            let stats = client.queue(&name)?.stats().await?;
            Ok::<_, Error>((name, stats))
        });
        let stats = stats.buffered(AT_ONCE).try_collect().await?;
        Ok(Look { at: Instant::now(), stats })
    }

    fn show(&self, rows: &[Value], looked_at: usize, output: &Output) -> Result<(), Failure> {
        if output.is_json() {
            return output.line(&rows);
        }
        let mut table = vec![COLUMNS.map(ToOwned::to_owned).to_vec()];
        table.extend(rows.iter().map(|row| COLUMNS.map(|name| cell(&row[name])).to_vec()));
        let more = if looked_at == self.queues {
            format!("only the first {looked_at} queues by name were looked at\n")
        } else {
            String::new()
        };
        let mut out = io::stdout().lock();
        if out.is_terminal() {
            out.write_all(CLEAR.as_bytes())?;
        }
        out.write_all(aligned(&table).as_bytes())?;
        out.write_all(more.as_bytes())?;
        Ok(out.flush()?)
    }
}

/// The fullest queues first.
fn rows(look: &Look, before: Option<&Look>, count: usize) -> Vec<Value> {
    let mut sorted: Vec<_> = look.stats.iter().collect();
    sorted.sort_by(|one, other| other.1.total.cmp(&one.1.total).then(one.0.cmp(&other.0)));
    let earlier: HashMap<_, _> = before
        .into_iter()
        .flat_map(|look| look.stats.iter().map(|(name, stats)| (name.as_str(), stats.total)))
        .collect();
    let seconds = before.map(|before| (look.at - before.at).as_secs_f64().max(0.001));
    let row = |(name, stats): &(String, Stats)| {
        let change = earlier.get(name.as_str()).zip(seconds).map(|(before, seconds)| {
            let change = stats.total as f64 - *before as f64;
            format!("{:+.1}", change / seconds)
        });
        json!({
            "queue": name,
            "free": stats.free,
            "claimed": stats.claimed,
            "total": stats.total,
            "change/s": change,
            "oldest": stats.oldest.as_ref().map(|oldest| oldest.age),
        })
    };
    sorted.into_iter().take(count).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(total: u64) -> Stats {
        Stats { claimed: 0, free: total, total, oldest: None, newest: None }
    }

    #[test]
    fn the_fullest_come_first_with_their_change() {
        let now = Instant::now();
        let named = |name: &str, total| (name.to_owned(), stats(total));
        let before = Look { at: now, stats: vec![named("a", 10), named("b", 4)] };
        let later = now + Duration::from_secs(2);
        let stats = vec![named("a", 6), named("b", 5), named("c", 9)];
        let rows = rows(&Look { at: later, stats }, Some(&before), 2);
        assert_eq!(rows.len(), 2);
        assert_eq!((&rows[0]["queue"], &rows[0]["change/s"]), (&json!("c"), &Value::Null));
        assert_eq!((&rows[1]["queue"], &rows[1]["change/s"]), (&json!("a"), &json!("-2.0")));
    }
}
