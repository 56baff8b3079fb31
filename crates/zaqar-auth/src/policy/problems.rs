//! What is wrong with rules, for the operator.

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::check::Check;
use super::defaults::Default;

/// The longest chain of rules that refer to each other.
const MAX_CHAIN: usize = 64;
/// Unknown rules for which a known name is looked up, at most.
const MAX_SUGGESTIONS: usize = 100;
/// The most checks that one decision makes.
const MAX_CHECKS: usize = 10_000;

/// A problem in the rules, for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// A rule cannot be parsed; it allows nobody.
    Unreadable {
        /// Its name.
        rule: String,
    },
    /// A rule refers to rules that are not defined, which allow nobody.
    Undefined {
        /// Its name.
        rule: String,
        /// The one it refers to.
        refers_to: String,
    },
    /// A rule refers to itself indirectly, through a chain of more than 64 rules, or needs more
    /// than 10 000 checks in all; it allows nobody.
    Endless {
        /// Its name.
        rule: String,
    },
    /// A rule has a check that is not supported, or that queries another server; it allows nobody.
    Remote {
        /// Its name.
        rule: String,
        /// The check.
        check: String,
    },
    /// A rule in a file has a deprecated name.
    Renamed {
        /// The name in the file.
        rule: String,
        /// The present name.
        to: &'static str,
    },
    /// A rule in a file has a name that nothing asks for.
    Unknown {
        /// Its name.
        rule: String,
        /// The known name that is most like it, if one is.
        nearest: Option<&'static str>,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { rule } => {
                write!(f, "rule {rule} cannot be parsed: it allows nobody")
            }
            Self::Undefined { rule, refers_to } => {
                write!(f, "rule {rule} refers to rule {refers_to}, which is not defined")
            }
            Self::Endless { rule } => write!(
                f,
                "rule {rule} refers to itself, through a chain of more than {MAX_CHAIN} rules or to \
                 more than {MAX_CHECKS} checks: it allows nobody"
            ),
            Self::Remote { rule, check } => {
                write!(
                    f,
                    "rule {rule} has a check that is not supported ({check}): it allows nobody"
                )
            }
            Self::Renamed { rule, to } => write!(f, "rule {rule} is now called {to}"),
            Self::Unknown { rule, nearest } => {
                write!(f, "rule {rule} has no effect: nothing is decided by it")?;
                nearest.map_or(Ok(()), |nearest| write!(f, "; did you mean {nearest}?"))
            }
        }
    }
}

/// Finds undefined references, cycles and remote checks.
pub(super) fn find_problems(
    checks: &HashMap<String, Check>,
    default_rule: &str,
    problems: &mut Vec<Problem>,
) {
    let mut names: Vec<_> = checks.keys().collect();
    names.sort_unstable();
    let costs = costs(checks, default_rule);
    for name in names {
        checks[name].walk(&mut |part| match part {
            Check::Rule(refers_to) if !checks.contains_key(refers_to) => {
                let (rule, refers_to) = (name.clone(), refers_to.clone());
                problems.push(Problem::Undefined { rule, refers_to });
            }
            Check::Unsupported { check, .. } => {
                problems.push(Problem::Remote { rule: name.clone(), check: check.clone() });
            }
            Check::True
            | Check::False
            | Check::Not(_)
            | Check::And(_)
            | Check::Or(_)
            | Check::Rule(_)
            | Check::Role(_)
            | Check::Literal { .. }
            | Check::Attribute { .. } => {}
        });
        let is_bounded = costs
            .get(name.as_str())
            .is_some_and(|cost| cost.chain <= MAX_CHAIN && cost.checks <= MAX_CHECKS);
        if !is_bounded {
            problems.push(Problem::Endless { rule: name.clone() });
        }
    }
}

/// Finds rules of files that are neither a default's nor referred to by another rule.
pub(super) fn find_unknown<'a>(
    overridden: impl Iterator<Item = &'a String>,
    checks: &HashMap<String, Check>,
    default_rule: &str,
    defaults: &'static [Default],
    problems: &mut Vec<Problem>,
) {
    let names = || defaults.iter().map(|default| default.name);
    let deprecated = defaults.iter().filter_map(|default| default.deprecated);
    let mut known: HashSet<&str> = names().chain(deprecated.map(|rule| rule.name)).collect();
    known.insert(default_rule);
    for (name, check) in checks {
        // One that refers only to itself is not used by that.
        known.extend(check.references().into_iter().filter(|to| to != name));
    }
    let unknown = overridden.filter(|name| !known.contains(name.as_str()));
    for (at, name) in unknown.enumerate() {
        let looks = at < MAX_SUGGESTIONS;
        let nearest = looks.then(|| zaqar_core::nearest(name, names())).flatten();
        problems.push(Problem::Unknown { rule: name.clone(), nearest });
    }
}

/// The most that a decision costs.
#[derive(Clone, Copy)]
struct Cost {
    /// Length of the longest chain of references from this rule.
    chain: usize,
    /// Checks that are made, counting those of another rule each time it is referred to.
    checks: usize,
}

/// The cost of each rule; rules that lead into a cycle have none. Linear in the size of all rules.
fn costs<'a>(checks: &'a HashMap<String, Check>, default_rule: &'a str) -> HashMap<&'a str, Cost> {
    let mut own = HashMap::new();
    let mut referrers: HashMap<&str, Vec<&str>> = HashMap::new();
    let mut ready = Vec::new();
    let mut waits_for = HashMap::new();
    for (name, check) in checks {
        let mut size = 0;
        check.walk(&mut |_| size += 1);
        let found = |to| if checks.contains_key(to) { to } else { default_rule };
        let mut refers_to: Vec<_> = check.references().into_iter().map(found).collect();
        refers_to.retain(|to| checks.contains_key(*to));
        for to in &refers_to {
            referrers.entry(to).or_default().push(name);
        }
        if refers_to.is_empty() {
            ready.push(name.as_str());
        }
        waits_for.insert(name.as_str(), refers_to.len());
        own.insert(name.as_str(), (size, refers_to));
    }
    let mut costs: HashMap<&str, Cost> = HashMap::new();
    while let Some(name) = ready.pop() {
        let (size, refers_to) = &own[name];
        let mut cost = Cost { chain: 1, checks: *size };
        for to in refers_to {
            let behind = costs[to];
            cost.chain = cost.chain.max(behind.chain + 1);
            cost.checks = cost.checks.saturating_add(behind.checks);
        }
        costs.insert(name, cost);
        for referrer in referrers.get(name).into_iter().flatten() {
            let Some(left) = waits_for.get_mut(referrer) else { continue };
            *left -= 1;
            if *left == 0 {
                ready.push(referrer);
            }
        }
    }
    costs
}
