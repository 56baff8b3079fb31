//! Latencies by share as an SVG: how slow the slowest of a hundred, of a thousand were.

use std::fmt::Write;

use hdrhistogram::Histogram;

use crate::stats::{Kind, Stats};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
/// Left, right, top, bottom.
const MARGIN: (f64, f64, f64, f64) = (64.0, 130.0, 34.0, 48.0);
/// The shares below the plot: each digit takes the same width.
const SHARES: [(f64, &str); 6] = [
    (0.0, "0 %"),
    (0.9, "90 %"),
    (0.99, "99 %"),
    (0.999, "99.9 %"),
    (0.9999, "99.99 %"),
    (0.99999, "99.999 %"),
];
const COLORS: [&str; 5] = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e"];

/// The plot of all kinds that were measured.
pub(crate) fn svg(stats: &Stats, title: &str) -> String {
    let measured: Vec<_> = Kind::ALL
        .into_iter()
        .map(|kind| (kind, stats.latencies(kind)))
        .filter(|(_, latencies)| !latencies.is_empty())
        .collect();
    let least = measured.iter().map(|(_, one)| one.min().max(1)).min().unwrap_or(1);
    let most = measured.iter().map(|(_, one)| one.max()).max().unwrap_or(1);
    let (low, high) = (decade(least as f64 / 1e3).0, decade(most as f64 / 1e3).1);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{}\" y=\"20\" font-size=\"14\">{}</text>\n",
        MARGIN.0,
        escaped(title)
    );
    grid(&mut out, low, high);
    for (at, (kind, latencies)) in measured.iter().enumerate() {
        let color = COLORS[at % COLORS.len()];
        line(&mut out, latencies, color, (low, high));
        let (x, y) = (WIDTH - MARGIN.1 + 14.0, MARGIN.2 + 14.0 + 18.0 * at as f64);
        let _ = writeln!(out, "<text x=\"{x}\" y=\"{y}\" fill=\"{color}\">{}</text>", kind.name());
    }
    out + "</svg>\n"
}

/// The powers of ten around a value.
fn decade(value: f64) -> (f64, f64) {
    let exponent = value.max(1e-3).log10();
    (10_f64.powf(exponent.floor()), 10_f64.powf(exponent.floor() + 1.0))
}

fn x(share: f64) -> f64 {
    let digits = -(1.0 - share).max(1e-5).log10();
    MARGIN.0 + (WIDTH - MARGIN.0 - MARGIN.1) * digits / 5.0
}

fn y(millis: f64, (low, high): (f64, f64)) -> f64 {
    let share = (millis.max(low).log10() - low.log10()) / (high.log10() - low.log10());
    HEIGHT - MARGIN.3 - (HEIGHT - MARGIN.2 - MARGIN.3) * share
}

fn grid(out: &mut String, low: f64, high: f64) {
    let (left, right) = (MARGIN.0, WIDTH - MARGIN.1);
    let (top, bottom) = (MARGIN.2, HEIGHT - MARGIN.3);
    for (share, text) in SHARES {
        let x = x(share);
        let _ = writeln!(
            out,
            "<path d=\"M{x:.1} {top}V{bottom}\" stroke=\"#ddd\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{text}</text>",
            bottom + 18.0
        );
    }
    let mut millis = low;
    while millis <= high * 1.001 {
        let y = y(millis, (low, high));
        let _ = writeln!(
            out,
            "<path d=\"M{left} {y:.1}H{right}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{millis} ms</text>",
            left - 6.0,
            y + 4.0
        );
        millis = (millis * 10.0 * 1e6).round() / 1e6;
    }
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">share of requests that were faster</text>",
        (left + right) / 2.0,
        HEIGHT - 10.0
    );
}

fn line(out: &mut String, latencies: &Histogram<u64>, color: &str, bounds: (f64, f64)) {
    /// Points of a line.
    const POINTS: u32 = 200;
    // A share that no single request stands for says nothing.
    let last = (1.0 - 1.0 / latencies.len() as f64).clamp(0.0, 1.0 - 1e-5);
    let digits = -(1.0 - last).log10();
    let at = |point: u32| 1.0 - 10_f64.powf(-digits * f64::from(point) / f64::from(POINTS));
    let point = |share: f64| {
        let millis = latencies.value_at_quantile(share) as f64 / 1e3;
        (x(share), y(millis, bounds))
    };
    let points: Vec<_> = (0..=POINTS).map(|step| point(at(step))).collect();
    let path: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
    let _ = writeln!(
        out,
        "<path d=\"M{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>",
        path.join("L")
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn lines_rise_within_the_frame() {
        let stats = Stats::new();
        for micros in 1..=10_000 {
            stats.record(Kind::Post, Duration::from_micros(micros), 1);
        }
        stats.record(Kind::List, Duration::from_secs(2), 10);
        let svg = svg(&stats, "a < b");
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("a &lt; b") && svg.contains(">post<") && svg.contains(">list<"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        let path = svg.split("<path d=\"M").find(|path| path.contains("stroke-width")).unwrap();
        let points: Vec<Vec<f64>> = path
            .split('"')
            .next()
            .unwrap()
            .split('L')
            .map(|point| point.split(' ').map(|text| text.parse().unwrap()).collect())
            .collect();
        assert!(points.windows(2).all(|pair| pair[0][0] <= pair[1][0] && pair[0][1] >= pair[1][1]));
        assert!(points.iter().flatten().all(|&at| (0.0..=WIDTH).contains(&at)));
    }

    #[test]
    fn nothing_measured_is_an_empty_plot() {
        assert!(svg(&Stats::new(), "nothing").ends_with("</svg>\n"));
    }
}
