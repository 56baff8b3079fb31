//! What an import leaves out, for its last words.

use std::collections::BTreeMap;
use std::fmt;

/// Reasons, and examples of each, that are named; all are counted.
const NAMED: usize = 20;
const EXAMPLES: usize = 3;

/// How much was left out, by the reason.
#[derive(Debug, Default)]
pub(crate) struct LeftOut(BTreeMap<String, Things>);

#[derive(Debug, Default)]
struct Things {
    count: u64,
    examples: Vec<String>,
}

impl LeftOut {
    /// Adds a thing, such as `queue demo/jobs`, and why it was left out.
    pub(crate) fn add(&mut self, thing: String, reason: String) {
        let is_named = self.0.contains_key(&reason) || self.0.len() < NAMED;
        let reason = if is_named { reason } else { "other reasons".to_owned() };
        let things = self.0.entry(reason).or_default();
        things.count += 1;
        if things.examples.len() < EXAMPLES && !things.examples.contains(&thing) {
            things.examples.push(thing);
        }
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(reason, Things { count, examples })| {
            let more = match count.saturating_sub(examples.len() as u64) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            writeln!(f, "left out: {}{more}: {reason}", examples.join(", "))
        })
    }
}

/// A number of things.
pub(crate) fn counted(count: u64, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_reason_is_one_line() {
        let mut left_out = LeftOut::default();
        for queue in 0..5 {
            left_out.add(format!("queue p/{queue}"), "it exists".to_owned());
        }
        left_out.add("pool a".to_owned(), "its URI is in use".to_owned());
        assert_eq!(
            left_out.to_string(),
            "left out: queue p/0, queue p/1, queue p/2 and 2 more: it exists\n\
             left out: pool a: its URI is in use\n"
        );
        for reason in 0..100 {
            left_out.add("x".to_owned(), format!("{reason}"));
        }
        assert_eq!(left_out.to_string().lines().count(), NAMED + 1);
    }
}
