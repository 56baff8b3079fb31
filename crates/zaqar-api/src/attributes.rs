//! What policies know of a token's owner, and what they decided by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value};
use zaqar_core::ProjectId;

/// Rules in one word of decisions.
const RULES_PER_WORD: usize = 16;
const WORDS: usize = Attributes::MAX_RULES / RULES_PER_WORD;

/// The attributes of a token's owner, which never change, and what a policy decided by nothing else
/// than them: it decides once for each token and rule.
#[derive(Debug)]
pub struct Attributes {
    project: ProjectId,
    all: Arc<Map<String, Value>>,
    /// Of 16 rules each: the version of the rules in the upper half, then a bit for each rule that
    /// was decided, then one for each that allows. One word says all, so that no decision is taken
    /// for one of another version.
    decisions: [AtomicU64; WORDS],
}

impl Attributes {
    /// Rules whose decisions can be remembered: the numbers below this.
    pub const MAX_RULES: usize = 128;

    /// The attributes of the owner of a token for a project, by their names in oslo.policy.
    pub fn new(project: ProjectId, all: Arc<Map<String, Value>>) -> Self {
        Self { project, all, decisions: [const { AtomicU64::new(0) }; WORDS] }
    }

    /// The project that the token is for.
    pub const fn project(&self) -> &ProjectId {
        &self.project
    }

    /// All attributes.
    pub const fn all(&self) -> &Arc<Map<String, Value>> {
        &self.all
    }

    /// What was decided by a rule; `None` if nothing was, or by another version of the rules.
    pub fn decision(&self, version: u32, rule: usize) -> Option<bool> {
        let word = self.decisions.get(rule / RULES_PER_WORD)?.load(Ordering::Relaxed);
        let (decided, allows) = bits(rule);
        let is_known = word >> 32 == u64::from(version) && word & decided != 0;
        is_known.then_some(word & allows != 0)
    }

    /// Remembers a decision that depends on nothing but these attributes, for
    /// [`Attributes::decision`]. Decisions of other versions are forgotten; so may be one that
    /// another thread remembers at the same time.
    pub fn remember(&self, version: u32, rule: usize, is_allowed: bool) {
        let Some(decisions) = self.decisions.get(rule / RULES_PER_WORD) else { return };
        let known = decisions.load(Ordering::Relaxed);
        let version = u64::from(version);
        let known = if known >> 32 == version { known } else { version << 32 };
        let (decided, allows) = bits(rule);
        let known = known | decided | if is_allowed { allows } else { 0 };
        decisions.store(known, Ordering::Relaxed);
    }
}

/// The bits of a rule in its word: that it was decided, and that it allows.
const fn bits(rule: usize) -> (u64, u64) {
    let allows = 1 << (rule % RULES_PER_WORD);
    (allows << RULES_PER_WORD, allows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_is_of_its_rule_and_version() {
        let project = ProjectId::new("p").unwrap();
        let attributes = Attributes::new(project, Arc::default());
        let all = || 0..Attributes::MAX_RULES;
        assert!(all().all(|rule| attributes.decision(0, rule).is_none()));
        for version in [7, u32::MAX] {
            assert!(all().all(|rule| attributes.decision(version, rule).is_none()));
            for rule in all() {
                attributes.remember(version, rule, rule % 3 == 0);
                assert_eq!(attributes.decision(version, rule), Some(rule % 3 == 0), "{rule}");
                assert_eq!(attributes.decision(version, rule + 1), None, "{rule}");
            }
            for rule in all() {
                assert_eq!(attributes.decision(version, rule), Some(rule % 3 == 0), "{rule}");
                assert_eq!(attributes.decision(version - 1, rule), None, "{rule}");
            }
        }
        // A number that is too high is never remembered.
        attributes.remember(7, Attributes::MAX_RULES, true);
        assert_eq!(attributes.decision(7, Attributes::MAX_RULES), None);
    }
}
