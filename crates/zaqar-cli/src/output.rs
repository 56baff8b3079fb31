//! What commands print: tables for people, JSON for programs.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::Value;

use crate::Failure;

/// The widest cell of a table; the rest of longer ones is left out.
const WIDEST: usize = 80;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns
    Table,
    /// JSON: an array for lists, an object for one thing, a line for each message of a tail
    Json,
}

/// Prints results.
#[derive(Debug)]
pub(crate) struct Output {
    format: Format,
}

impl Output {
    pub(crate) const fn new(format: Format) -> Self {
        Self { format }
    }

    pub(crate) const fn is_json(&self) -> bool {
        matches!(self.format, Format::Json)
    }

    /// A list, of which a table shows some members.
    pub(crate) fn list(&self, columns: &[&str], rows: &[impl Serialize]) -> Result<(), Failure> {
        let rows = values(rows)?;
        if self.is_json() {
            return self.line(&Value::Array(rows));
        }
        let mut table = vec![columns.iter().map(|&name| name.to_owned()).collect()];
        table.extend(rows.iter().map(|row| columns.iter().map(|name| cell(&row[name])).collect()));
        Ok(io::stdout().write_all(aligned(&table).as_bytes())?)
    }

    /// One thing, whose members a table shows below each other.
    pub(crate) fn record(&self, record: &impl Serialize) -> Result<(), Failure> {
        let record = value(record)?;
        if self.is_json() {
            return self.line(&record);
        }
        let members = record.as_object().into_iter().flatten();
        let table: Vec<_> = members.map(|(name, value)| vec![name.clone(), cell(value)]).collect();
        Ok(io::stdout().write_all(aligned(&table).as_bytes())?)
    }

    /// What was done. JSON says it as `{"done": …}`.
    pub(crate) fn done(&self, what: &str) -> Result<(), Failure> {
        if self.is_json() {
            return self.line(&serde_json::json!({ "done": what }));
        }
        Ok(writeln!(io::stdout(), "{what}")?)
    }

    /// A line of JSON.
    pub(crate) fn line(&self, value: &impl Serialize) -> Result<(), Failure> {
        let mut text = serde_json::to_vec(value).map_err(io::Error::from)?;
        text.push(b'\n');
        let mut out = io::stdout().lock();
        out.write_all(&text)?;
        Ok(out.flush()?)
    }
}

/// A bar on standard error, if that is a terminal.
pub(crate) fn progress(total: Option<u64>, what: &'static str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total), "{msg} {wide_bar} {pos}/{len} {per_sec} {eta}"),
        None => (ProgressBar::new_spinner(), "{msg} {pos} {per_sec}"),
    };
    let style = ProgressStyle::with_template(template);
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_message(what)
}

/// A number of things.
pub(crate) fn counted(count: u64, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

pub(crate) fn value(record: &impl Serialize) -> Result<Value, Failure> {
    Ok(serde_json::to_value(record).map_err(io::Error::from)?)
}

fn values(rows: &[impl Serialize]) -> Result<Vec<Value>, Failure> {
    rows.iter().map(value).collect()
}

/// A value as one line without control characters, which could do anything to a terminal.
pub(crate) fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    };
    let mut shown: String = text
        .chars()
        .map(|char| if char.is_control() { ' ' } else { char })
        .take(WIDEST + 1)
        .collect();
    if shown.chars().count() > WIDEST {
        shown.pop();
        shown.pop();
        shown.push('…');
    }
    shown
}

/// Columns of even width, the last one ragged.
pub(crate) fn aligned(table: &[Vec<String>]) -> String {
    let columns = table.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = table.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in table {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let padding = width - cell.chars().count();
            line += &format!("{cell}{}  ", " ".repeat(padding));
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_even_and_cells_are_one_short_line() {
        let rows = vec![
            vec!["name".to_owned(), "body".to_owned()],
            vec!["é".to_owned(), "x y".to_owned()],
        ];
        assert_eq!(aligned(&rows), "name  body\né     x y\n");
        assert_eq!(cell(&Value::Null), "");
        assert_eq!(cell(&serde_json::json!("a\u{1b}[2Jb\n")), "a [2Jb ");
        let long = cell(&serde_json::json!("x".repeat(200)));
        assert_eq!(long.chars().count(), WIDEST);
        assert!(long.ends_with('…'));
    }
}
