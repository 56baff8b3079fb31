//! Tables in Markdown, and aims.

/// A table with columns of even width.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column names.
    pub(crate) fn new(names: &[&str]) -> Self {
        Self { rows: vec![names.iter().map(|&name| name.to_owned()).collect()] }
    }

    /// Adds a row with a cell for each column.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows[0].len();
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
        };
        let widths: Vec<usize> = (0..columns).filter_map(width).collect();
        for (number, row) in self.rows.iter().enumerate() {
            for (cell, width) in row.iter().zip(&widths) {
                write!(out, "| {cell:width$} ")?;
            }
            writeln!(out, "|")?;
            if number == 0 {
                writeln!(out, "|{}", "---|".repeat(columns))?;
            }
        }
        Ok(())
    }
}

/// What a figure shall be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Aim {
    AtLeast(f64),
    AtMost(f64),
}

impl Aim {
    /// `met`, or by how much the figure misses.
    pub(crate) fn judge(self, figure: f64) -> String {
        let (met, share) = match self {
            Self::AtLeast(aim) => (figure >= aim, 1.0 - figure / aim),
            Self::AtMost(aim) => (figure <= aim, figure / aim - 1.0),
        };
        if met {
            "met".to_owned()
        } else {
            format!("**missed by {:.0} %**", (share * 100.0).ceil())
        }
    }
}

impl std::fmt::Display for Aim {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(aim) => write!(out, "≥ {}", figure(*aim)),
            Self::AtMost(aim) => write!(out, "≤ {}", figure(*aim)),
        }
    }
}

/// Three digits or more, and a space between thousands.
pub(crate) fn figure(value: f64) -> String {
    if value < 1000.0 {
        let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
        let text = format!("{value:.digits$}");
        let short = text.strip_suffix(".00").unwrap_or(&text);
        return short.to_owned();
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        let cases =
            [(0.5, "0.50"), (2.0, "2"), (12.34, "12.3"), (999.6, "1000"), (17_200.4, "17 200")];
        for (value, text) in cases {
            assert_eq!(figure(value), text);
        }
        assert_eq!(figure(1_234_567.0), "1 234 567");
    }

    #[test]
    fn aims_say_by_how_much() {
        assert_eq!(Aim::AtLeast(100.0).judge(100.0), "met");
        assert_eq!(Aim::AtLeast(100.0).judge(80.0), "**missed by 20 %**");
        assert_eq!(Aim::AtMost(2.0).judge(1.9), "met");
        assert_eq!(Aim::AtMost(2.0).judge(3.0), "**missed by 50 %**");
        assert_eq!(Aim::AtMost(2.5).to_string(), "≤ 2.50");
    }

    #[test]
    fn a_table_is_markdown() {
        let mut table = Table::new(&["a", "b"]);
        table.row(vec!["post".to_owned(), "1".to_owned()]);
        assert_eq!(table.to_string(), "| a    | b |\n|---|---|\n| post | 1 |\n");
    }
}
