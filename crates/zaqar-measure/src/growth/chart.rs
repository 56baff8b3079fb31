//! The diagram of one dimension: a column for each store, latency above, CPU below, a line for each
//! operation.

use std::fmt::Write;

use super::operation::{Cost, Operation};
use super::report::size;
use super::{Curve, Dimension, Point};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 540.0;
/// Where the frames begin and end.
const LEFT: f64 = 52.0;
const RIGHT: f64 = WIDTH - 36.0;
const TOP: f64 = 84.0;
const BOTTOM: f64 = HEIGHT - 48.0;
/// Between two frames; the numbers below their corners need it.
const GAP: (f64, f64) = (56.0, 44.0);

/// The diagram of all stores, as SVG.
pub(super) fn svg(dimension: Dimension, curves: &[Curve]) -> String {
    let title = format!("Cost by the number of {}", dimension.title());
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>{title}</title>\n\
         <desc>Latency and CPU time of each operation, by the number of {}; a column for each \
         store.</desc>\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{title}</text>\n",
        dimension.title()
    );
    legend(&mut out, dimension);
    let points: Vec<&Point> = curves.iter().flat_map(|curve| &curve.points).collect();
    let x = Axis::sizes(&points);
    let rows: [(Axis, &str, &[Line]); 2] = [
        (Axis::latencies(&points), "ms: median, and p99 dashed", &[Line::P50, Line::P99]),
        (Axis::cpu(&points), "µs of CPU, server and store", &[Line::Cpu]),
    ];
    for (row, (y, what, lines)) in rows.iter().enumerate() {
        for (column, curve) in curves.iter().enumerate() {
            let frame = Frame::new(column, curves.len(), row, rows.len());
            frame.grid(&mut out, &x, y, column == 0);
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\">{}, {what}</text>",
                frame.left,
                frame.top - 8.0,
                curve.store
            );
            for (at, &operation) in dimension.operations().iter().enumerate() {
                for line in *lines {
                    let (points, color) = (line.points(curve, at), color(operation));
                    frame.line(&mut out, &x, y, &points, color, line.dashes());
                }
            }
        }
    }
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        (LEFT + RIGHT) / 2.0,
        HEIGHT - 10.0,
        dimension.title()
    );
    out + "</svg>\n"
}

/// The same in all diagrams, of the colors that zaqar-bench's have.
fn color(operation: Operation) -> &'static str {
    match operation {
        Operation::List => "#1f77b4",
        Operation::ListMiddle => "#ff7f0e",
        Operation::Stats => "#9467bd",
        Operation::Post => "#2ca02c",
        Operation::Claim => "#d62728",
    }
}

fn legend(out: &mut String, dimension: Dimension) {
    /// About the width of a letter.
    const LETTER: f64 = 6.6;
    let mut x = LEFT;
    for &operation in dimension.operations() {
        let (name, color) = (operation.name(), color(operation));
        let _ = writeln!(
            out,
            "<path d=\"M{x:.1} 40h18\" stroke=\"{color}\" stroke-width=\"2\"/>\
             <text x=\"{:.1}\" y=\"44\">{name}</text>",
            x + 23.0
        );
        x += 38.0 + LETTER * name.len() as f64;
    }
}

/// A figure by size.
#[derive(Debug, Clone, Copy)]
enum Line {
    P50,
    P99,
    Cpu,
}

impl Line {
    /// Sizes and figures of an operation.
    fn points(self, curve: &Curve, operation: usize) -> Vec<(f64, f64)> {
        let of = |point: &Point| {
            let cost = point.costs.get(operation)?;
            let figure = match self {
                Self::P50 => cost.p50,
                Self::P99 => cost.p99,
                Self::Cpu => cost.cpu(),
            };
            Some((point.size as f64, figure))
        };
        curve.points.iter().filter_map(of).collect()
    }

    fn dashes(self) -> &'static str {
        match self {
            Self::P50 | Self::Cpu => "",
            Self::P99 => " stroke-dasharray=\"4 3\" stroke-opacity=\"0.7\"",
        }
    }
}

/// Values along one side, and where they are.
#[derive(Debug, PartialEq)]
struct Axis {
    /// With rising values, at least one.
    ticks: Vec<f64>,
    scale: Scale,
}

#[derive(Debug, PartialEq)]
enum Scale {
    /// From the first tick to the last, by their logarithms.
    Log,
    /// From 0 to the last tick.
    Linear,
}

impl Axis {
    fn sizes(points: &[&Point]) -> Self {
        let mut ticks: Vec<f64> = points.iter().map(|point| point.size as f64).collect();
        ticks.sort_unstable_by(f64::total_cmp);
        ticks.dedup();
        Self { ticks, scale: Scale::Log }
    }

    fn latencies(points: &[&Point]) -> Self {
        let costs = points.iter().flat_map(|point| &point.costs);
        Self::log(costs.flat_map(|cost| [cost.p50, cost.p99]))
    }

    fn cpu(points: &[&Point]) -> Self {
        let costs = points.iter().flat_map(|point| &point.costs);
        Self::linear(costs.map(Cost::cpu).fold(0.0, f64::max))
    }

    /// Ticks of 1, 2 and 5 times powers of ten around positive values.
    fn log(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values
            .filter(|value| *value > 0.0)
            .fold((f64::INFINITY, 0.0), |(low, high), one| (one.min(low), one.max(high)));
        if high == 0.0 {
            return Self { ticks: vec![1.0], scale: Scale::Log };
        }
        let (first, last) = (low.log10().floor() as i32, high.log10().floor() as i32);
        let all: Vec<f64> = (first..=last + 1).flat_map(steps).collect();
        let from = all.iter().rposition(|&tick| tick <= low).unwrap_or(0);
        let to = all.iter().position(|&tick| tick >= high).unwrap_or(all.len() - 1);
        Self { ticks: all[from..=to.max(from)].to_vec(), scale: Scale::Log }
    }

    /// Up to six ticks from 0, at multiples of 1, 2 or 5 times a power of ten.
    fn linear(high: f64) -> Self {
        let least = high.max(1e-3) / 5.0;
        let exponent = least.log10().floor() as i32;
        let all = (exponent..=exponent + 1).flat_map(steps).find(|&step| step >= least);
        let step = all.unwrap_or(least);
        let count = (high / step).ceil().max(1.0) as u32;
        let ticks = (0..=count).map(|number| f64::from(number) * step).collect();
        Self { ticks, scale: Scale::Linear }
    }

    /// Where a value is: 0 at the first tick, 1 at the last.
    fn share(&self, value: f64) -> f64 {
        let (first, last) = (self.ticks[0], self.ticks[self.ticks.len() - 1]);
        let share = match self.scale {
            Scale::Log => (value / first).log10() / (last / first).log10(),
            Scale::Linear => value / last,
        };
        // One tick alone is in the middle.
        if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.5 }
    }
}

/// 1, 2 and 5 times a power of ten.
fn steps(exponent: i32) -> [f64; 3] {
    // Dividing gives the nearest value, which is written short; multiplying by 0.001 does not.
    let power = 10_f64.powi(exponent.abs());
    [1.0, 2.0, 5.0].map(|step| if exponent < 0 { step / power } else { step * power })
}

/// The place of one plot.
#[derive(Debug)]
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Frame {
    fn new(column: usize, columns: usize, row: usize, rows: usize) -> Self {
        let side = |at: usize, count: usize, (from, to): (f64, f64), gap: f64| {
            let length = (to - from - gap * (count - 1) as f64) / count as f64;
            let start = from + (length + gap) * at as f64;
            (start, start + length)
        };
        let (left, right) = side(column, columns, (LEFT, RIGHT), GAP.0);
        let (top, bottom) = side(row, rows, (TOP, BOTTOM), GAP.1);
        Self { left, right, top, bottom }
    }

    fn x(&self, axis: &Axis, value: f64) -> f64 {
        self.left + (self.right - self.left) * axis.share(value)
    }

    fn y(&self, axis: &Axis, value: f64) -> f64 {
        self.bottom - (self.bottom - self.top) * axis.share(value)
    }

    fn grid(&self, out: &mut String, x: &Axis, y: &Axis, labelled: bool) {
        let Self { left, right, top, bottom } = *self;
        for &tick in &x.ticks {
            let at = self.x(x, tick);
            let _ = writeln!(
                out,
                "<path d=\"M{at:.1} {top:.1}V{bottom:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"11\">{}</text>",
                bottom + 15.0,
                size(tick as usize)
            );
        }
        for &tick in &y.ticks {
            let at = self.y(y, tick);
            let _ = writeln!(out, "<path d=\"M{left:.1} {at:.1}H{right:.1}\" stroke=\"#ddd\"/>");
            if labelled {
                let _ = writeln!(
                    out,
                    "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" font-size=\"11\">{tick}</text>",
                    left - 6.0,
                    at + 4.0
                );
            }
        }
    }

    fn line(
        &self,
        out: &mut String,
        x: &Axis,
        y: &Axis,
        points: &[(f64, f64)],
        color: &str,
        dashes: &str,
    ) {
        let points: Vec<_> = points
            .iter()
            .map(|&(size, figure)| format!("{:.1} {:.1}", self.x(x, size), self.y(y, figure)))
            .collect();
        let _ = writeln!(
            out,
            "<path d=\"M{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"{dashes}/>",
            points.join("L")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::site::Held;
    use super::*;

    #[test]
    fn ticks_enclose_the_values() {
        let cases: [(&[f64], &[f64]); 6] = [
            (&[0.11, 0.3], &[0.1, 0.2, 0.5]),
            (&[0.2, 1.0], &[0.2, 0.5, 1.0]),
            (&[0.9, 60.0], &[0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]),
            (&[0.0, 0.003], &[0.002, 0.005]),
            (&[2.0], &[2.0]),
            (&[], &[1.0]),
        ];
        for (values, ticks) in cases {
            assert_eq!(Axis::log(values.iter().copied()).ticks, ticks, "{values:?}");
        }
        let cases: [(f64, &[f64]); 4] = [
            (430.0, &[0.0, 100.0, 200.0, 300.0, 400.0, 500.0]),
            (500.0, &[0.0, 100.0, 200.0, 300.0, 400.0, 500.0]),
            (52.0, &[0.0, 20.0, 40.0, 60.0]),
            (1.0, &[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ];
        for (high, ticks) in cases {
            let axis = Axis::linear(high);
            let near = |(one, other): (&f64, &f64)| (one - other).abs() < 1e-9;
            assert!(axis.ticks.len() == ticks.len(), "{high}: {:?}", axis.ticks);
            assert!(axis.ticks.iter().zip(ticks).all(near), "{high}: {:?}", axis.ticks);
        }
    }

    #[test]
    fn values_are_at_their_share_of_the_axis() {
        let log = Axis { ticks: vec![1.0, 10.0, 100.0], scale: Scale::Log };
        for (value, share) in [(0.5, 0.0), (1.0, 0.0), (10.0, 0.5), (100.0, 1.0), (1e9, 1.0)] {
            assert!((log.share(value) - share).abs() < 1e-9, "{value}");
        }
        let linear = Axis::linear(400.0);
        assert_eq!((linear.share(0.0), linear.share(100.0)), (0.0, 0.25));
        let one = Axis { ticks: vec![1000.0], scale: Scale::Log };
        assert_eq!(one.share(1000.0), 0.5);
    }

    fn curve(store: &'static str, sizes: &[usize], operations: usize) -> Curve {
        let point = |&size: &usize| {
            let cost = |at| Cost { p50: 0.1, p99: 2.0, server: 10.0 * at as f64, store: None };
            Point { size, costs: (0..operations).map(cost).collect(), held: Held::default() }
        };
        Curve { store, points: sizes.iter().map(point).collect() }
    }

    #[test]
    fn each_operation_of_each_store_has_its_lines_within_the_frame() {
        for sizes in [&[1000, 10_000, 100_000][..], &[1000]] {
            let curves = [curve("embedded", sizes, 5), curve("Redis", sizes, 5)];
            let svg = svg(Dimension::Messages, &curves);
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
            assert!(!svg.contains("NaN") && !svg.contains("inf"));
            let lines: Vec<&str> = svg
                .split("<path d=\"M")
                .skip(1)
                .filter(|path| path.contains("fill=\"none\""))
                .map(|path| path.split('"').next().unwrap())
                .collect();
            // The median, p99 and the CPU time.
            assert_eq!(lines.len(), 2 * 5 * 3);
            for line in lines {
                let points: Vec<(f64, f64)> = line
                    .split('L')
                    .map(|point| point.split_once(' ').unwrap())
                    .map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap()))
                    .collect();
                assert_eq!(points.len(), sizes.len());
                assert!(points.is_sorted_by(|one, other| one.0 < other.0), "{line}");
                let within = |&(x, y): &(f64, f64)| {
                    (LEFT..=RIGHT).contains(&x) && (TOP..=BOTTOM).contains(&y)
                };
                assert!(points.iter().all(within), "{line}");
            }
            for text in ["embedded", "Redis", "claim 1, delete it", ">1 000<"] {
                assert!(svg.contains(text), "{text}");
            }
        }
    }

    #[test]
    fn sizes_below_the_frames_do_not_touch() {
        /// More than a digit is wide.
        const DIGIT: f64 = 6.2;
        let sizes = Dimension::Messages.sizes(10_000_000);
        let curves = [curve("embedded", &sizes, 5), curve("Redis", &sizes, 5)];
        let svg = svg(Dimension::Messages, &curves);
        let end = format!("y=\"{:.1}\" text-anchor=\"middle\"", BOTTOM + 15.0);
        let mut sides: Vec<(f64, f64)> = svg
            .split("<text ")
            .filter(|text| text.contains(&end))
            .map(|text| {
                let x: f64 = text.split('"').nth(1).unwrap().parse().unwrap();
                let label = text.split(['>', '<']).nth(1).unwrap();
                let half = label.len() as f64 * DIGIT / 2.0;
                (x - half, x + half)
            })
            .collect();
        sides.sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
        assert_eq!(sides.len(), 2 * sizes.len());
        assert!(sides.windows(2).all(|pair| pair[0].1 < pair[1].0), "{sides:?}");
        assert!(sides[sides.len() - 1].1 < WIDTH);
    }

    #[test]
    fn one_store_has_the_whole_width() {
        let frame = Frame::new(0, 1, 1, 2);
        assert_eq!((frame.left, frame.right, frame.bottom), (LEFT, RIGHT, BOTTOM));
        let (left, right) = (Frame::new(0, 2, 0, 2), Frame::new(1, 2, 0, 2));
        assert_eq!(right.left - left.right, GAP.0);
        assert_eq!((left.left, right.right, left.top), (LEFT, RIGHT, TOP));
    }
}
