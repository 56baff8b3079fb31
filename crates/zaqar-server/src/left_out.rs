//! What an import leaves out, for its last words.

use std::collections::BTreeMap;
use std::fmt;

/// Reasons that are named; all are counted.
const NAMED: usize = 20;

/// How much was left out, by the reason.
#[derive(Debug, Default)]
pub(crate) struct LeftOut(BTreeMap<String, u64>);

impl LeftOut {
    pub(crate) fn add(&mut self, reason: String) {
        let is_named = self.0.contains_key(&reason) || self.0.len() < NAMED;
        let reason = if is_named { reason } else { "others".to_owned() };
        *self.0.entry(reason).or_default() += 1;
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(reason, count)| writeln!(f, "left out: {count} x {reason}"))
    }
}
