//! All rules together.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use zaqar_api::Attributes;

use super::check::{Check, Credentials, Input, PROJECT_NAMES, Scope, Target};
use super::defaults::{DEFAULTS, Default};
use super::parse::{parse, parse_text};
use super::problems::{Problem, find_problems, find_unknown};

/// The rules in force. They are immutable: a reload makes new ones.
#[derive(Debug, Clone)]
pub struct Rules {
    rules: HashMap<String, Rule, BuildHasherDefault<NameHasher>>,
    /// The rule for a name that no rule has.
    default_rule: String,
    enforce_scope: bool,
    /// No other rules have it, so that decisions of earlier ones are not taken for theirs.
    version: u32,
}

/// The version of the next rules. It does not wrap around: rules are read once a second at most.
static NEXT_VERSION: AtomicU32 = AtomicU32::new(1);

#[derive(Debug, Clone)]
struct Rule {
    check: Check,
    scopes: &'static [Scope],
    /// What its decisions are remembered by, if they depend on nothing of the target but its
    /// project.
    number: Option<usize>,
}

impl Rule {
    /// Whether it allows every caller, whatever the target.
    fn allows_everybody(&self) -> bool {
        self.check == Check::True && self.scopes.is_empty()
    }
}

/// Hashes the names of rules, which only the operator chooses: nobody can make them collide.
#[derive(Debug, Clone, Copy, Default)]
struct NameHasher(u64);

impl Hasher for NameHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Less than a word is left, such as the byte that ends a text.
        let (words, rest) = bytes.as_chunks();
        let rest = rest.iter().fold(0, |rest, byte| rest << 8 | u64::from(*byte));
        for word in words.iter().map(|word| u64::from_le_bytes(*word)).chain([rest]) {
            let mixed = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.0 = mixed ^ (mixed >> 32);
        }
    }
}

/// Builds [`Rules`].
#[derive(Debug)]
pub struct Builder {
    defaults: &'static [Default],
    overrides: BTreeMap<String, Value>,
    default_rule: String,
    enforce_scope: bool,
    enforce_new_defaults: bool,
}

impl Rules {
    /// Zaqar's defaults, which can be overridden.
    pub fn builder() -> Builder {
        Builder::new(DEFAULTS)
    }

    /// Whether a rule allows a caller to act on a target.
    ///
    /// A name without a rule is decided by the default rule (`policy_default_rule`); without one,
    /// it is denied. Cost: a look-up and the checks of the rule; nothing is allocated unless a
    /// check has `%(…)s` in it.
    pub fn allows(&self, rule: &str, target: &Target, caller: &Credentials) -> bool {
        self.find(rule).is_some_and(|rule| self.decide(rule, target, caller))
    }

    /// As [`Rules::allows`], with the target and the caller only where the rule looks at them.
    pub fn allows_with<'a>(
        &self,
        rule: &str,
        about: impl FnOnce() -> (Target<'a>, Credentials),
    ) -> bool {
        let Some(rule) = self.find(rule) else { return false };
        if rule.allows_everybody() {
            return true;
        }
        let (target, caller) = about();
        self.decide(rule, &target, &caller)
    }

    /// As [`Rules::allows`], for the owner of a token. What depends on nothing of the target but
    /// its project is decided once for the token's project, and remembered with the token.
    pub fn allows_token(&self, rule: &str, target: &Target, caller: &Attributes) -> bool {
        let Some(rule) = self.find(rule) else { return false };
        if rule.allows_everybody() {
            return true;
        }
        let number = rule.number.filter(|_| target.is_of(caller.project()));
        let known = number.and_then(|number| caller.decision(self.version, number));
        if let Some(is_allowed) = known {
            return is_allowed;
        }
        let is_allowed = self.decide(rule, target, &Credentials::of(Arc::clone(caller.all())));
        if let Some(number) = number {
            caller.remember(self.version, number, is_allowed);
        }
        is_allowed
    }

    fn decide(&self, rule: &Rule, target: &Target, caller: &Credentials) -> bool {
        if self.enforce_scope && !rule.scopes.is_empty() && !rule.scopes.contains(&caller.scope()) {
            return false;
        }
        let rules = |name: &str| self.find(name).map(|rule| &rule.check);
        rule.check.decide(Input { target, caller, rules: &rules }).unwrap_or(false)
    }

    /// The names of all rules, ascending.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.rules.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    fn find(&self, name: &str) -> Option<&Rule> {
        self.rules.get(name).or_else(|| self.rules.get(&self.default_rule))
    }
}

impl Builder {
    /// Rules with these defaults.
    pub fn new(defaults: &'static [Default]) -> Self {
        Self {
            defaults,
            overrides: BTreeMap::new(),
            default_rule: "default".to_owned(),
            enforce_scope: true,
            enforce_new_defaults: true,
        }
    }

    /// Adds a rule, or overrides the default of that name. The last one of a name counts.
    #[must_use]
    pub fn override_with(mut self, name: &str, rule: impl Into<Value>) -> Self {
        self.overrides.insert(name.to_owned(), rule.into());
        self
    }

    /// The rule for names that no rule has (`policy_default_rule`).
    #[must_use]
    pub fn default_rule(mut self, name: &str) -> Self {
        name.clone_into(&mut self.default_rule);
        self
    }

    /// Whether a token must have a scope that the rule accepts (`enforce_scope`).
    #[must_use]
    pub const fn enforce_scope(mut self, is_enforced: bool) -> Self {
        self.enforce_scope = is_enforced;
        self
    }

    /// Whether the deprecated check of a default no longer counts (`enforce_new_defaults`).
    #[must_use]
    pub const fn enforce_new_defaults(mut self, is_enforced: bool) -> Self {
        self.enforce_new_defaults = is_enforced;
        self
    }

    /// Compiles the rules. Returns them with the problems that were found.
    pub fn build(self) -> (Rules, Vec<Problem>) {
        let mut problems = Vec::new();
        let mut checks = HashMap::new();
        for (name, rule) in &self.overrides {
            let check = parse(rule).unwrap_or_else(|_| {
                problems.push(Problem::Unreadable { rule: name.clone() });
                Check::False
            });
            checks.insert(name.clone(), check);
        }
        for default in self.defaults {
            if !self.overrides.contains_key(default.name) {
                let check = self.default_check(default, &checks, &mut problems);
                checks.insert(default.name.to_owned(), check);
            }
        }
        find_problems(&checks, &self.default_rule, &mut problems);
        let overridden = self.overrides.keys();
        find_unknown(overridden, &checks, &self.default_rule, self.defaults, &mut problems);
        for problem in &problems {
            if let Problem::Endless { rule } = problem {
                let endless = Check::Unsupported { check: "endless".to_owned(), value: None };
                checks.insert(rule.clone(), endless);
            }
        }
        let scopes = |name: &str| {
            let default = self.defaults.iter().find(|default| default.name == name);
            default.map_or(&[][..], |default| default.scopes)
        };
        let rule = |(name, check): (&String, &Check)| {
            let (check, scopes) = (check.clone(), scopes(name));
            let number = self.number(name, &checks);
            (name.clone(), Rule { check, scopes, number })
        };
        let rules = checks.iter().map(rule).collect();
        let version = NEXT_VERSION.fetch_add(1, Ordering::Relaxed);
        let Self { default_rule, enforce_scope, .. } = self;
        (Rules { rules, default_rule, enforce_scope, version }, problems)
    }

    /// The number of a rule whose decisions depend on nothing of the target but its project.
    fn number(&self, name: &str, checks: &HashMap<String, Check>) -> Option<usize> {
        let number = self.defaults.iter().position(|default| default.name == name)?;
        let is_remembered = number < Attributes::MAX_RULES
            && depends_on_project_only(&checks[name], checks, &self.default_rule);
        is_remembered.then_some(number)
    }

    /// The check of a rule that no file names, considering its deprecated name.
    fn default_check(
        &self,
        default: &Default,
        overrides: &HashMap<String, Check>,
        problems: &mut Vec<Problem>,
    ) -> Check {
        let check = parse_text(default.check).unwrap_or(Check::False);
        let Some(deprecated) = default.deprecated else { return check };
        let before = parse_text(deprecated.check).unwrap_or(Check::False);
        if deprecated.name != default.name
            && let Some(kept) = overrides.get(deprecated.name)
        {
            problems.push(Problem::Renamed { rule: deprecated.name.to_owned(), to: default.name });
            if *kept != before && *kept != Check::Rule(default.name.to_owned()) {
                return kept.clone();
            }
        }
        if !self.enforce_new_defaults && deprecated.check != default.check {
            return Check::Or(vec![check, before]);
        }
        check
    }
}

/// Whether a check, with the rules that it refers to, looks at nothing of the target but its
/// project. The rules must not form a cycle.
fn depends_on_project_only(
    check: &Check,
    checks: &HashMap<String, Check>,
    default_rule: &str,
) -> bool {
    let mut does = true;
    check.walk(&mut |part| {
        does = does && part.target_attributes().all(|name| PROJECT_NAMES.contains(&name));
    });
    does && check.references().into_iter().all(|name| {
        let other = checks.get(name).or_else(|| checks.get(default_rule));
        other.is_none_or(|other| depends_on_project_only(other, checks, default_rule))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn build(rules: &[(&str, &str)]) -> (Rules, Vec<Problem>) {
        let add =
            |builder: Builder, (name, rule): &(&str, &str)| builder.override_with(name, *rule);
        rules.iter().fold(Rules::builder(), add).build()
    }

    fn allows(rules: &Rules, rule: &str, caller: Value) -> bool {
        let target = Target::new(json!({"project_id": "p"}));
        rules.allows(rule, &target, &Credentials::new(caller))
    }

    #[test]
    fn defaults_are_zaqars() {
        let (rules, problems) = build(&[]);
        assert_eq!(problems, []);
        assert!(allows(&rules, "messages:create", json!({})));
        assert!(!allows(&rules, "health:get", json!({"roles": ["member"]})));
        assert!(allows(&rules, "health:get", json!({"roles": ["Admin"]})));
        assert!(allows(&rules, "admin_or_owner", json!({"project_id": "p"})));
        assert!(!allows(&rules, "admin_or_owner", json!({"project_id": "q"})));
        assert!(!allows(&rules, "no:such", json!({"roles": ["admin"]})));
    }

    #[test]
    fn a_name_that_no_rule_has_is_decided_by_the_default_rule() {
        let (rules, _) = build(&[("default", "role:a"), ("x", "rule:missing")]);
        assert!(allows(&rules, "no:such", json!({"roles": ["a"]})));
        assert!(allows(&rules, "x", json!({"roles": ["a"]})));
        assert!(!allows(&rules, "x", json!({"roles": ["b"]})));
    }

    #[test]
    fn what_cannot_be_decided_denies() {
        let (rules, problems) = build(&[
            ("loop:a", "rule:loop:b or @"),
            ("loop:b", "not rule:loop:a"),
            ("to:loop", "@ and rule:loop:a"),
            ("remote", "not http://host/x"),
            ("unreadable", "role:a role:b"),
            ("template", "not role:%"),
            ("no:object", "not roles.name:x"),
        ]);
        for rule in ["loop:a", "loop:b", "to:loop", "remote", "unreadable", "template", "no:object"]
        {
            assert!(!allows(&rules, rule, json!({"roles": ["a"]})), "{rule}");
        }
        let endless = |rule: &str| Problem::Endless { rule: rule.into() };
        for problem in [
            endless("loop:a"),
            endless("loop:b"),
            endless("to:loop"),
            Problem::Remote { rule: "remote".into(), check: "http://host/x".into() },
            Problem::Remote { rule: "template".into(), check: "role:%".into() },
            Problem::Unreadable { rule: "unreadable".into() },
        ] {
            assert!(problems.contains(&problem), "{problem} is not in {problems:?}");
        }
    }

    #[test]
    fn a_chain_of_any_length_ends() {
        let names: Vec<_> =
            (0..10_000).map(|i| (format!("r{i}"), format!("rule:r{}", i + 1))).collect();
        let add = |builder: Builder, (name, rule): &(String, String)| {
            builder.override_with(name, rule.as_str())
        };
        let (rules, _) =
            names.iter().fold(Rules::builder(), add).override_with("r10000", "@").build();
        assert!(!allows(&rules, "r0", json!({})));
        assert!(allows(&rules, "r9999", json!({})));
    }

    #[test]
    fn rules_that_refer_to_each_other_twice_cost_no_more_than_the_bound() {
        let add = |builder: Builder, i: usize| {
            let next = format!("rule:r{} and rule:r{}", i + 1, i + 1);
            builder.override_with(&format!("r{i}"), next)
        };
        let (rules, problems) =
            (0..60).fold(Rules::builder(), add).override_with("r60", "@").build();
        assert!(problems.contains(&Problem::Endless { rule: "r0".into() }));
        assert!(!allows(&rules, "r0", json!({})));
        assert!(allows(&rules, "r55", json!({})));
    }

    #[test]
    fn a_rule_that_decides_nothing_is_a_problem() {
        let (_, problems) = build(&[
            ("queues:gett", "rule:helper"),
            ("helper", "role:a"),
            ("default", "role:b"),
            ("queues:get", "role:c"),
            ("mine", "rule:mine or role:d"),
        ]);
        let unknown = |rule: &str, nearest| Problem::Unknown { rule: rule.to_owned(), nearest };
        for problem in [unknown("queues:gett", Some("queues:get")), unknown("mine", None)] {
            assert!(problems.contains(&problem), "{problem} is not in {problems:?}");
        }
        let found = problems.iter().filter(|one| matches!(one, Problem::Unknown { .. }));
        assert_eq!(found.count(), 2, "{problems:?}");
        assert_eq!(
            problems
                .iter()
                .find(|one| matches!(one, Problem::Unknown { nearest: Some(_), .. }))
                .unwrap()
                .to_string(),
            "rule queues:gett has no effect: nothing is decided by it; did you mean queues:get?"
        );
    }

    static RENAMED: [Default; 2] = [
        Default {
            name: "new",
            check: "role:new",
            description: "",
            requests: &[],
            scopes: &[],
            deprecated: Some(super::super::defaults::Deprecated { name: "old", check: "role:old" }),
        },
        Default {
            name: "system",
            check: "@",
            description: "",
            requests: &[],
            scopes: &[Scope::System],
            deprecated: None,
        },
    ];

    #[test]
    fn an_old_name_and_an_old_default_still_count() {
        let new = || Builder::new(&RENAMED);
        let (rules, problems) = new().override_with("old", "role:kept").build();
        assert_eq!(problems, [Problem::Renamed { rule: "old".into(), to: "new" }]);
        assert!(allows(&rules, "new", json!({"roles": ["kept"]})));
        assert!(!allows(&rules, "new", json!({"roles": ["new"]})));
        let (rules, _) = new().override_with("old", "rule:new").build();
        assert!(allows(&rules, "new", json!({"roles": ["new"]})));
        let (rules, _) = new().build();
        assert!(!allows(&rules, "new", json!({"roles": ["old"]})));
        let (rules, _) = new().enforce_new_defaults(false).build();
        assert!(allows(&rules, "new", json!({"roles": ["old"]})));
    }

    #[test]
    fn a_token_must_be_for_what_the_rule_is_for() {
        let (rules, _) = Builder::new(&RENAMED).build();
        assert!(allows(&rules, "system", json!({"system_scope": "all"})));
        assert!(!allows(&rules, "system", json!({"domain_id": "d"})));
        assert!(!allows(&rules, "system", json!({"project_id": "p"})));
        let (rules, _) = Builder::new(&RENAMED).enforce_scope(false).build();
        assert!(allows(&rules, "system", json!({"project_id": "p"})));
    }
}
