//! The table of one store, and what one of what grows takes.

use super::operation::Cost;
use super::site::Held;
use super::{Curve, Dimension, Point};
use crate::table::{Table, figure};

/// A row for each size; then how many times as much the last size costs as the first.
pub(super) fn table(dimension: Dimension, curve: &Curve) -> String {
    let mut names = vec![format!("{}: {}", curve.store, dimension.name())];
    names.extend(dimension.operations().iter().map(|operation| operation.name().to_owned()));
    names.push("server MB".to_owned());
    if dimension.is_stored() {
        names.push(format!("{} MB", store(curve)));
    }
    let mut table = Table::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    for point in &curve.points {
        let mut row = vec![size(point.size)];
        row.extend(point.costs.iter().map(cell));
        row.push(megabytes(point.held.server));
        if dimension.is_stored() {
            row.push(megabytes(point.held.store));
        }
        table.row(row);
    }
    let mut text = String::new();
    if let [first, .., last] = curve.points.as_slice() {
        let mut row = vec!["last / first".to_owned()];
        row.extend(first.costs.iter().zip(&last.costs).map(times));
        row.resize(names.len(), String::new());
        table.row(row);
        text = each(dimension, curve, first, last);
    }
    format!("{table}\n{text}\n")
}

/// A whole number as the table and the diagram show it.
pub(super) fn size(size: usize) -> String {
    if size < 1000 { size.to_string() } else { figure(size as f64) }
}

/// What the last column is about.
fn store(curve: &Curve) -> &'static str {
    if curve.points.iter().flat_map(|point| &point.costs).any(|cost| cost.store.is_some()) {
        "Redis"
    } else {
        "files"
    }
}

/// Median and p99 in ms, CPU of server and store in µs.
fn cell(cost: &Cost) -> String {
    let Cost { p50, p99, server, store } = *cost;
    let store = store.map(|store| format!(" + {}", figure(store))).unwrap_or_default();
    format!("{} / {} / {}{store}", figure(p50), figure(p99), figure(server))
}

/// How many times each figure of a [`cell`] has become.
fn times((first, last): (&Cost, &Cost)) -> String {
    let of = |figure: fn(&Cost) -> f64| crate::table::figure(figure(last) / figure(first));
    format!("{} / {} / {}", of(|cost| cost.p50), of(|cost| cost.p99), of(Cost::cpu))
}

fn megabytes(bytes: u64) -> String {
    figure(bytes as f64 / (1024.0 * 1024.0))
}

/// What one message, queue or connection takes, by the first and the last size.
fn each(dimension: Dimension, curve: &Curve, first: &Point, last: &Point) -> String {
    let more = (last.size - first.size) as f64;
    let bytes = |of: fn(&Held) -> u64| {
        figure(((of(&last.held) as f64 - of(&first.held) as f64) / more).round())
    };
    let stored = match store(curve) {
        "Redis" => "Redis's memory",
        _ => "the store's files",
    };
    let stored = format!(" and {} bytes of {stored}", bytes(|held| held.store));
    format!(
        "From the first size to the last, each {} takes {} bytes of the server's memory{}.",
        dimension.unit(),
        bytes(|held| held.server),
        if dimension.is_stored() { &stored } else { "" },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(size: usize, server: f64, store: Option<f64>, held: Held) -> Point {
        let cost = Cost { p50: server / 100.0, p99: 3.0, server, store };
        Point { size, costs: vec![cost; 4], held }
    }

    #[test]
    fn the_table_says_how_much_the_last_size_costs_more() {
        let held = |server: u64, store: u64| Held { server: server << 20, store: store << 20 };
        let points = vec![
            point(1, 50.0, Some(100.0), held(10, 1)),
            point(10, 60.0, Some(100.0), held(11, 1)),
            point(100, 100.0, Some(200.0), held(109, 10)),
        ];
        let text = table(Dimension::Queues, &Curve { store: "Redis", points });
        let row = |start: &str| -> Vec<String> {
            let line = text.lines().find(|line| line.starts_with(start)).unwrap();
            line.split('|').map(|cell| cell.trim().to_owned()).collect()
        };
        assert_eq!(row("| Redis: queues")[6..8], ["server MB", "Redis MB"]);
        assert_eq!(
            row("| 100 ")[2..8],
            [
                "1 / 3 / 100 + 200",
                "1 / 3 / 100 + 200",
                "1 / 3 / 100 + 200",
                "1 / 3 / 100 + 200",
                "109",
                "10.0"
            ]
        );
        assert_eq!(row("| last / first")[2], "2 / 1 / 2");
        // 99 MiB and 9 MiB for 99 queues.
        assert!(text.contains("each queue takes 1 048 576 bytes of the server's memory"), "{text}");
        assert!(text.contains("and 95 325 bytes of Redis's memory."), "{text}");
    }

    #[test]
    fn connections_are_not_stored() {
        let held = |server: u64| Held { server: server << 20, store: 7 << 20 };
        let points = vec![point(1, 50.0, None, held(10)), point(10, 50.0, None, held(19))];
        let text = table(Dimension::Connections, &Curve { store: "embedded", points });
        assert!(text.contains("server MB |\n") && text.contains("| 10 "), "{text}");
        assert!(text.ends_with("takes 1 048 576 bytes of the server's memory.\n"), "{text}");
    }

    #[test]
    fn one_size_has_no_growth() {
        let points = vec![point(1000, 50.0, None, Held { server: 10 << 20, store: 3 << 20 })];
        let text = table(Dimension::Messages, &Curve { store: "embedded", points });
        assert!(text.contains("files MB") && text.contains("| 0.50 / 3 / 50.0 "), "{text}");
        assert!(!text.contains("last") && !text.contains("NaN"), "{text}");
    }
}
