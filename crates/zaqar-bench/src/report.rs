//! What a run found: a table for people, JSON for programs.

use std::sync::atomic::Ordering;

use serde_json::{Map, Value, json};

use crate::checks::Faults;
use crate::options::Options;
use crate::stats::{Kind, Stats};

/// The shares of latencies that are shown.
const SHARES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

/// What a run found.
pub(crate) struct Report<'a> {
    pub(crate) stats: &'a Stats,
    pub(crate) faults: &'a Faults,
    pub(crate) unchecked: Unchecked,
    /// How long producers posted.
    pub(crate) seconds: f64,
    /// Messages that were there when the time to empty the queues was over.
    pub(crate) left: Option<u64>,
}

/// What could not be checked.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Unchecked {
    /// Messages may have expired.
    pub(crate) lost: bool,
    /// A claim without an answer may have held messages.
    pub(crate) order: bool,
}

impl Unchecked {
    /// The checks, and why they were left out.
    fn reasons(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        [
            (self.lost, "lost", "the run lasted longer than --ttl"),
            (self.order, "out of order", "a claim got no answer and may have held messages"),
        ]
        .into_iter()
        .filter_map(|(is_unchecked, name, reason)| is_unchecked.then_some((name, reason)))
    }
}

impl Report<'_> {
    /// Kinds of requests that there were.
    fn kinds(&self) -> impl Iterator<Item = Kind> {
        let stats = self.stats;
        Kind::ALL
            .into_iter()
            .filter(move |&kind| !stats.latencies(kind).is_empty() || stats.errors(kind) > 0)
    }

    pub(crate) fn json(&self, options: &Options) -> Value {
        let mut operations = Map::new();
        for kind in self.kinds() {
            let latencies = self.stats.latencies(kind);
            let mut millis: Map<_, _> = SHARES
                .iter()
                .map(|(name, share)| {
                    ((*name).to_owned(), json!(milli(latencies.value_at_quantile(*share))))
                })
                .collect();
            millis.insert("mean".to_owned(), json!(latencies.mean() / 1e3));
            millis.insert("max".to_owned(), json!(milli(latencies.max())));
            let of = json!({
                "requests": latencies.len(),
                "errors": self.stats.errors(kind),
                "messages": self.stats.messages(kind),
                "requests_per_second": latencies.len() as f64 / self.seconds,
                "messages_per_second": self.stats.messages(kind) as f64 / self.seconds,
                "milliseconds": millis,
            });
            operations.insert(kind.name().replace(' ', "_"), of);
        }
        json!({
            "loop": if options.rate.is_some() { "open" } else { "closed" },
            "seconds": self.seconds,
            "producers": options.producers,
            "consumers": options.consumers,
            "observers": options.observers,
            "operations": operations,
            "empty_claims": self.stats.empty.load(Ordering::Relaxed),
            "first_error": self.stats.first_error(),
            "left": self.left,
            "faults": self.faults,
            "unchecked": self.unchecked.reasons().map(|(name, _)| name).collect::<Vec<_>>(),
        })
    }

    pub(crate) fn table(&self) -> String {
        let mut rows = vec![vec!["".to_owned(), "requests/s".to_owned(), "messages/s".to_owned()]];
        rows[0].extend(SHARES.iter().map(|(name, _)| format!("{name} ms")));
        rows[0].extend(["max ms".to_owned(), "errors".to_owned()]);
        for kind in self.kinds() {
            let latencies = self.stats.latencies(kind);
            let mut row = vec![
                kind.name().to_owned(),
                figure(latencies.len() as f64 / self.seconds),
                figure(self.stats.messages(kind) as f64 / self.seconds),
            ];
            row.extend(
                SHARES.iter().map(|(_, share)| figure(milli(latencies.value_at_quantile(*share)))),
            );
            row.push(figure(milli(latencies.max())));
            row.push(self.stats.errors(kind).to_string());
            rows.push(row);
        }
        let mut text = aligned(&rows);
        if let Some(error) = self.stats.first_error() {
            text += &format!("first error: {error}\n");
        }
        text += &self.verdict();
        text
    }

    /// What the checks found, in words.
    pub(crate) fn verdict(&self) -> String {
        let mut text = match self.faults.total() {
            0 => format!("checks: nothing {}\n", self.found_right()),
            faults => format!("checks: {faults} FAULTS: {}\n", counts(self.faults)),
        };
        for example in &self.faults.examples {
            text += &format!("  {example}\n");
        }
        for (name, reason) in self.unchecked.reasons() {
            text += &format!("not checked: {name}, as {reason}\n");
        }
        if let Some(left) = self.left {
            text += &format!(
                "{left} messages were not consumed in the time to empty the queues; whether they \
                 are lost is not known\n"
            );
        }
        text
    }
}

impl Report<'_> {
    /// What a run without faults has shown.
    fn found_right(&self) -> String {
        let mut names = vec!["lost", "claimed twice", "back from deletion", "out of order"];
        names.retain(|name| self.unchecked.reasons().all(|(unchecked, _)| unchecked != *name));
        let last = names.pop().unwrap_or_default();
        format!("{} or {last}", names.join(", "))
    }
}

fn counts(faults: &Faults) -> String {
    [
        ("lost", faults.lost),
        ("claimed twice", faults.claimed_twice),
        ("back from deletion", faults.back_from_deletion),
        ("out of order", faults.out_of_order),
        ("seen twice", faults.seen_twice),
    ]
    .iter()
    .filter(|(_, count)| *count > 0)
    .map(|(name, count)| format!("{count} {name}"))
    .collect::<Vec<_>>()
    .join(", ")
}

fn milli(micros: u64) -> f64 {
    micros as f64 / 1e3
}

/// Three digits are enough.
pub(crate) fn figure(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

fn aligned(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<_> = (0..rows[0].len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(at, (cell, &width))| {
            if at == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        cells.collect::<Vec<_>>().join("  ") + "\n"
    };
    rows.iter().map(line).collect()
}
