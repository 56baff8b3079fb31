//! Filters the queues of a page.

use regex::bytes::{Regex, RegexBuilder};
use serde_json::Value;
use zaqar_core::storage::QueueRow;
use zaqar_core::{QueueName, storage};

use crate::{Error, ListQueues};

/// How many queues a filtered page examines at most once it matches one; its `next` continues after
/// them.
pub const MAX_ROWS_FILTERED: usize = 1000;

/// How many queues a filtered page examines at most while it matches none: clients take an empty
/// page for the end. Only past this limit can a page be empty and have a `next`.
pub const MAX_ROWS_HIDDEN: usize = 100_000;

/// Queues read at a time: at most 1 MiB of metadata if each queue has 64 KiB. Other tasks run in
/// between.
const SLICE: usize = 16;

/// Maximum size of a compiled name pattern, so that a pattern cannot exhaust the server's memory.
const MAX_PATTERN_BYTES: usize = 64 * 1024;

pub(crate) struct Filter {
    name: Option<Regex>,
    metadata: Vec<(String, String)>,
}

impl Filter {
    pub(crate) fn new(request: &mut ListQueues) -> Result<Self, Error> {
        let name = match &request.name {
            None => None,
            Some(pattern) => Some(
                RegexBuilder::new(pattern)
                    .size_limit(MAX_PATTERN_BYTES)
                    .dfa_size_limit(MAX_PATTERN_BYTES)
                    // Names are ASCII.
                    .unicode(false)
                    .build()
                    .map_err(|e| Error::request(format!("The name pattern is invalid: {e}")))?,
            ),
        };
        Ok(Self { name, metadata: std::mem::take(&mut request.filters) })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.name.is_none() && self.metadata.is_empty()
    }

    pub(crate) fn matches(&self, name: &QueueName, row: &QueueRow) -> bool {
        let metadata = row.metadata.as_object();
        self.name.as_ref().is_none_or(|pattern| pattern.is_match(name.as_str().as_bytes()))
            && self.metadata.iter().all(|(attribute, text)| {
                metadata.get(attribute).is_some_and(|value| matches_value(value, text))
            })
    }
}

/// Whether the text in a query matches a value. As in the original, an integer matches numbers
/// only, never a string of digits.
fn matches_value(value: &Value, text: &str) -> bool {
    let integer = text.parse::<i64>();
    match (value, integer) {
        (Value::String(string), Err(_)) => string == text,
        (Value::Bool(truth), Err(_)) => text.parse() == Ok(*truth),
        (Value::Number(number), Ok(integer)) if number.is_i64() => number.as_i64() == Some(integer),
        (Value::Number(number), _) => text.parse().ok() == number.as_f64(),
        _ => false,
    }
}

/// The rows of a page, and the last name that was examined.
pub(crate) struct Found {
    pub(crate) rows: Vec<(QueueName, QueueRow)>,
    pub(crate) next: Option<QueueName>,
}

/// Examines rows until the page is full, the rows end, or the limit of examined rows is reached.
pub(crate) async fn page(
    store: &dyn storage::ManagementStore,
    request: &ListQueues,
    project: &zaqar_core::ProjectId,
    after: Option<QueueName>,
    limit: usize,
    filter: &Filter,
) -> Result<Found, Error> {
    if filter.is_empty() {
        let rows = store.list(project, request.kind, after.as_ref(), limit).await?;
        let next = rows.last().map(|(name, _)| name.clone());
        return Ok(Found { rows, next });
    }
    let mut found = Found { rows: Vec::new(), next: after };
    let mut seen = 0;
    while seen < MAX_ROWS_FILTERED || (found.rows.is_empty() && seen < MAX_ROWS_HIDDEN) {
        let rows = store.list(project, request.kind, found.next.as_ref(), SLICE).await?;
        let ends = rows.len() < SLICE;
        seen += rows.len();
        for (name, row) in rows {
            found.next = Some(name.clone());
            if filter.matches(&name, &row) {
                found.rows.push((name, row));
                if found.rows.len() == limit {
                    return Ok(found);
                }
            }
        }
        if ends {
            if found.rows.is_empty() {
                found.next = None;
            }
            return Ok(found);
        }
        tokio::task::yield_now().await;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_text_matches_values_of_its_type() {
        for (text, value, expected) in [
            ("7", json!(7), true),
            ("007", json!(7), true),
            ("7", json!(7.0), true),
            ("7.0", json!(7), true),
            ("7", json!("7"), false),
            ("8", json!(7), false),
            ("9007199254740993", json!(9_007_199_254_740_992_i64), false),
            ("1.5", json!(1.5), true),
            ("1.5", json!("1.5"), true),
            ("true", json!(true), true),
            ("true", json!("true"), true),
            ("false", json!(true), false),
            ("1", json!(true), false),
            ("x", json!("x"), true),
            ("x", json!("X"), false),
            ("null", json!(null), false),
            ("NaN", json!(1), false),
            ("1", json!([1]), false),
        ] {
            assert_eq!(matches_value(&value, text), expected, "{text} {value}");
        }
    }
}
